package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"reflect"
	"sort"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	jsonserializer "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/printers"
	internalprinters "k8s.io/kubernetes/pkg/printers/internalversion"
)

// One object in every form: as JSON, as protobuf, after defaulting, as table rows, and what a
// strategic merge patch makes of it.
type goldenRow struct {
	Group     string          `json:"group"`
	Version   string          `json:"version"`
	Kind      string          `json:"kind"`
	Object    json.RawMessage `json:"object"`
	Proto     []byte          `json:"proto,omitempty"`
	Defaulted json.RawMessage `json:"defaulted,omitempty"`
	Cells     [][]any         `json:"cells,omitempty"`
	Patch     json.RawMessage `json:"patch,omitempty"`
	Patched   json.RawMessage `json:"patched,omitempty"`
	PatchErr  string          `json:"patchError,omitempty"`
}

func encodeJSON(obj runtime.Object) []byte {
	s := jsonserializer.NewSerializerWithOptions(jsonserializer.DefaultMetaFactory, legacyscheme.Scheme, legacyscheme.Scheme, jsonserializer.SerializerOptions{})
	var b bytes.Buffer
	check(s.Encode(obj, &b))
	return bytes.TrimSpace(b.Bytes())
}

func try(f func()) (err string) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Sprint(r)
		}
	}()
	f()
	return ""
}

func writeGolden(dir string, seed int64, n int) {
	t := readResources()
	roots := rootTypes(t)
	keys := []schema.GroupVersionKind{}
	for k := range roots {
		if _, err := legacyscheme.Scheme.New(k); err == nil && !strings.HasSuffix(k.Kind, "Options") && k.Group != "apidiscovery.k8s.io" {
			keys = append(keys, k)
		}
	}
	sort.Slice(keys, func(i, j int) bool { return keys[i].String() < keys[j].String() })
	generator := printers.NewTableGenerator().With(internalprinters.AddHandlers)
	var out bytes.Buffer
	for _, gvk := range keys {
		for i := 0; i < n; i++ {
			fill := []float64{0.25, 0.6, 0.9}[i%3]
			if gvk.Kind == "CustomResourceDefinition" || gvk.Kind == "CustomResourceDefinitionList" {
				fill = 0.3
			}
			s := seed + int64(i)
			obj := newObject(gvk, s, fill)
			obj.GetObjectKind().SetGroupVersionKind(gvk)
			row := goldenRow{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind, Object: encodeJSON(obj)}
			if len(row.Object) > 60000 {
				continue
			}
			var pb bytes.Buffer
			if e := try(func() { check(protobuf.NewSerializer(legacyscheme.Scheme, legacyscheme.Scheme).Encode(obj, &pb)) }); e == "" {
				row.Proto = pb.Bytes()
			}
			if !strings.HasSuffix(gvk.Kind, "List") {
				defaulted := obj.DeepCopyObject()
				if e := try(func() { legacyscheme.Scheme.Default(defaulted) }); e == "" {
					row.Defaulted = encodeJSON(defaulted)
				}
				try(func() {
					internal, err := legacyscheme.Scheme.ConvertToVersion(defaulted, runtime.InternalGroupVersioner)
					check(err)
					table, err := generator.GenerateTable(internal, printers.GenerateOptions{Wide: true})
					check(err)
					for _, r := range table.Rows {
						row.Cells = append(row.Cells, r.Cells)
					}
				})
				other := encodeJSON(newObject(gvk, s+1000, fill))
				patch := patchFrom(rand.New(rand.NewSource(s)), roots[gvk], row.Object, other)
				if patch != nil {
					row.Patch = patch
					result, err := strategicpatch.StrategicMergePatch(row.Object, patch, obj)
					if err != nil {
						row.PatchErr = err.Error()
					} else {
						row.Patched = result
					}
				}
			}
			line, err := json.Marshal(row)
			check(err)
			out.Write(line)
			out.WriteByte('\n')
		}
	}
	check(os.MkdirAll(dir, 0o755))
	f, err := os.Create(filepath.Join(dir, "golden.jsonl.gz"))
	check(err)
	z, err := gzip.NewWriterLevel(f, 9)
	check(err)
	_, err = z.Write(out.Bytes())
	check(err)
	check(z.Close())
	check(f.Close())
}

// A two-way patch between the objects, or a random document with directives in it.
func patchFrom(r *rand.Rand, t reflect.Type, a, b []byte) []byte {
	obj := reflect.New(t).Interface()
	if r.Intn(3) > 0 {
		patch, err := strategicpatch.CreateTwoWayMergePatch(a, b, obj)
		if err == nil {
			return patch
		}
		return nil
	}
	var doc map[string]any
	check(json.Unmarshal(b, &doc))
	sprinkle(r, doc)
	patch, err := json.Marshal(doc)
	check(err)
	return patch
}

func sprinkle(r *rand.Rand, v any) {
	switch v := v.(type) {
	case map[string]any:
		keys := []string{}
		for k := range v {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		for _, k := range keys {
			if r.Intn(8) == 0 {
				v[k] = nil
				continue
			}
			sprinkle(r, v[k])
		}
		if r.Intn(20) == 0 {
			v["$patch"] = []string{"replace", "delete", "merge"}[r.Intn(3)]
		}
	case []any:
		for _, e := range v {
			sprinkle(r, e)
		}
	}
}
