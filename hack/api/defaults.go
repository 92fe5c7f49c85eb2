package main

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"reflect"
	"sort"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
)

type runtimeObject = runtime.Object

// How often a field was zero, and what the defaulting functions made of it.
type fieldStat struct {
	zero, set int
	values    map[string]int
}

type defaultStats map[string]*fieldStat

func statKey(t reflect.Type, field string) string { return modelName(t) + " " + field }

func (s defaultStats) unconditional(t reflect.Type, field string) (string, bool) {
	st := s[statKey(t, field)]
	if st == nil || st.set == 0 || st.set != st.zero || len(st.values) != 1 {
		return "", false
	}
	for v := range st.values {
		return v, true
	}
	return "", false
}

// filler makes random objects of a type: values that every codec accepts.
type filler struct {
	*rand.Rand
	fill float64
}

func (f *filler) value(v reflect.Value, depth int, field string, owner reflect.Type) {
	t := v.Type()
	switch v.Addr().Interface().(type) {
	case *resource.Quantity:
		v.Set(reflect.ValueOf(resource.MustParse([]string{"100m", "1Gi", "2", "1500m", "0", "128Mi", "1e3", "0.5"}[f.Intn(8)])))
		return
	case *metav1.Time:
		v.Set(reflect.ValueOf(metav1.Time{Time: time.Unix(1700000000+int64(f.Intn(1e6)), 0).UTC()}))
		return
	case *metav1.MicroTime:
		v.Set(reflect.ValueOf(metav1.MicroTime{Time: time.Unix(1700000000, int64(f.Intn(1e6))*1000).UTC()}))
		return
	case *intstr.IntOrString:
		if f.Intn(2) == 0 {
			v.Set(reflect.ValueOf(intstr.FromInt32(int32(f.Intn(9000)))))
		} else {
			v.Set(reflect.ValueOf(intstr.FromString("25%")))
		}
		return
	case *runtime.RawExtension:
		v.Set(reflect.ValueOf(runtime.RawExtension{Raw: []byte(`{"a":[1,"b"],"apiVersion":"x/v1","kind":"Y"}`)}))
		return
	case *metav1.FieldsV1:
		v.Set(reflect.ValueOf(metav1.FieldsV1{Raw: []byte(`{"f:metadata":{"f:labels":{}}}`)}))
		return
	}
	switch special[t] {
	case "JSON":
		v.Set(reflect.ValueOf(mustJSON(t, `{"a":1}`)))
		return
	case "SchemaOrBool":
		v.Set(reflect.ValueOf(mustJSON(t, `true`)))
		return
	case "SchemaOrArray":
		v.Set(reflect.ValueOf(mustJSON(t, `{"type":"string"}`)))
		return
	case "SchemaOrStrings":
		v.Set(reflect.ValueOf(mustJSON(t, `["a"]`)))
		return
	}
	switch t.Kind() {
	case reflect.Pointer:
		if depth < 14 && f.Float64() < f.fill {
			v.Set(reflect.New(t.Elem()))
			f.value(v.Elem(), depth+1, field, owner)
		}
	case reflect.Struct:
		for i := 0; i < t.NumField(); i++ {
			if t.Field(i).IsExported() && t.Field(i).Name != "TypeMeta" {
				name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
				if name != "-" {
					f.value(v.Field(i), depth+1, name, t)
				}
			}
		}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			if f.Float64() < f.fill {
				v.SetBytes([]byte("bytes!?")[:1+f.Intn(6)])
			}
			return
		}
		if depth < 14 && f.Float64() < f.fill {
			n := 1 + f.Intn(2)
			v.Set(reflect.MakeSlice(t, n, n))
			for i := 0; i < n; i++ {
				f.value(v.Index(i), depth+1, field, owner)
			}
		}
	case reflect.Map:
		if depth < 14 && f.Float64() < f.fill {
			v.Set(reflect.MakeMap(t))
			for i := 0; i <= f.Intn(2); i++ {
				k := reflect.New(t.Key()).Elem()
				k.SetString([]string{"cpu", "memory", "b"}[f.Intn(3)])
				e := reflect.New(t.Elem()).Elem()
				f.value(e, depth+1, field, owner)
				v.SetMapIndex(k, e)
			}
		}
	case reflect.String:
		if f.Float64() < f.fill {
			v.SetString(f.text(field, owner))
		}
	case reflect.Bool:
		v.SetBool(f.Intn(2) == 0)
	case reflect.Int, reflect.Int32, reflect.Int64:
		if f.Float64() < f.fill {
			v.SetInt(int64(f.Intn(300)) - 2)
		}
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(f.Intn(100)))
	case reflect.Float64:
		v.SetFloat(float64(f.Intn(100)) / 4)
	}
}

func (f *filler) text(field string, owner reflect.Type) string {
	if owner != nil {
		if e := definitions[modelName(owner)].Schema.Properties[field].Enum; len(e) > 0 && f.Intn(10) > 0 {
			return fmt.Sprint(e[f.Intn(len(e))])
		}
	}
	if field == "image" {
		return []string{"a", "a:latest", "a:1", "r.io/a@sha256:4bc453b53cb3d914b45f4b250294236adba2c0e09ff6f03793949e7e39fd4cc1"}[f.Intn(4)]
	}
	return []string{"a", "bc", "d-e", "0", "é<&>"}[f.Intn(5)]
}

func mustJSON(t reflect.Type, text string) any {
	p := reflect.New(t)
	check(json.Unmarshal([]byte(text), p.Interface()))
	return p.Elem().Interface()
}

func newObject(gvk schema.GroupVersionKind, seed int64, fill float64) runtime.Object {
	obj, err := legacyscheme.Scheme.New(gvk)
	check(err)
	f := &filler{rand.New(rand.NewSource(seed)), fill}
	f.value(reflect.ValueOf(obj).Elem(), 0, "", nil)
	return obj
}

func probeDefaults(t *resourceTable) defaultStats {
	stats := defaultStats{}
	for gvk := range rootTypes(t) {
		if _, err := legacyscheme.Scheme.New(gvk); err != nil || strings.HasSuffix(gvk.Kind, "List") || strings.HasSuffix(gvk.Kind, "Options") || gvk.Group == "apidiscovery.k8s.io" {
			continue
		}
		for seed := int64(0); seed < 300; seed++ {
			fill := []float64{0.5, 0.8, 0.95}[seed%3]
			if gvk.Kind == "CustomResourceDefinition" {
				fill = 0.4
			}
			before := newObject(gvk, seed, fill)
			after := before.DeepCopyObject()
			ok := func() (ok bool) {
				defer func() { ok = recover() == nil }()
				legacyscheme.Scheme.Default(after)
				return
			}()
			if ok {
				stats.diff(reflect.ValueOf(before).Elem(), reflect.ValueOf(after).Elem())
			}
		}
	}
	keys := []string{}
	for k := range stats {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		if st := stats[k]; st.set > 0 && (st.set != st.zero || len(st.values) != 1) {
			sample := []string{}
			for v := range st.values {
				if len(sample) < 4 {
					sample = append(sample, v)
				}
			}
			fmt.Fprintf(os.Stderr, "conditional default: %s %d/%d %v\n", k, st.set, st.zero, sample)
		}
	}
	return stats
}

func (s defaultStats) diff(before, after reflect.Value) {
	t := before.Type()
	if _, ok := special[t]; ok {
		return
	}
	switch t.Kind() {
	case reflect.Pointer:
		if !before.IsNil() && !after.IsNil() {
			s.diff(before.Elem(), after.Elem())
		}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return
		}
		for i := 0; i < before.Len() && i < after.Len(); i++ {
			s.diff(before.Index(i), after.Index(i))
		}
	case reflect.Map:
		for _, k := range before.MapKeys() {
			if e := after.MapIndex(k); e.IsValid() {
				s.diff(before.MapIndex(k), e)
			}
		}
	case reflect.Struct:
		for i := 0; i < t.NumField(); i++ {
			f := t.Field(i)
			if !f.IsExported() {
				continue
			}
			b, a := before.Field(i), after.Field(i)
			if b.IsZero() || (b.Kind() == reflect.Slice && b.Len() == 0) {
				key := statKey(t, f.Name)
				st := s[key]
				if st == nil {
					st = &fieldStat{values: map[string]int{}}
					s[key] = st
				}
				st.zero++
				if !a.IsZero() && !reflect.DeepEqual(a.Interface(), b.Interface()) {
					st.set++
					data, err := json.Marshal(a.Interface())
					check(err)
					st.values[string(data)]++
				}
			}
			s.diff(b, a)
		}
	}
}
