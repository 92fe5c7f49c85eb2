package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"sort"
	"strings"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdopenapi "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/version"
	aggopenapi "k8s.io/kube-aggregator/pkg/generated/openapi"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	kubeopenapi "k8s.io/kubernetes/pkg/generated/openapi"
)

// Types that are one value on the wire, each with rules of its own.
var special = map[reflect.Type]string{
	reflect.TypeOf(resource.Quantity{}):                          "Quantity",
	reflect.TypeOf(metav1.Time{}):                                "Time",
	reflect.TypeOf(metav1.MicroTime{}):                           "MicroTime",
	reflect.TypeOf(metav1.Duration{}):                            "Duration",
	reflect.TypeOf(intstr.IntOrString{}):                         "IntOrString",
	reflect.TypeOf(runtime.RawExtension{}):                       "RawExtension",
	reflect.TypeOf(metav1.FieldsV1{}):                            "FieldsV1",
	reflect.TypeOf(apiextensions.JSON{}):                         "JSON",
	reflect.TypeOf(apiextensions.JSONSchemaPropsOrBool{}):        "SchemaOrBool",
	reflect.TypeOf(apiextensions.JSONSchemaPropsOrArray{}):       "SchemaOrArray",
	reflect.TypeOf(apiextensions.JSONSchemaPropsOrStringArray{}): "SchemaOrStrings",
}

var openapiSources = []common.GetOpenAPIDefinitions{crdopenapi.GetOpenAPIDefinitions, aggopenapi.GetOpenAPIDefinitions, kubeopenapi.GetOpenAPIDefinitions}

var definitions = mergedDefinitions()

func mergedDefinitions() map[string]common.OpenAPIDefinition {
	ref := func(path string) spec.Ref { return spec.MustCreateRef("#/definitions/" + path) }
	out := map[string]common.OpenAPIDefinition{}
	for _, get := range openapiSources {
		for k, v := range get(ref) {
			out[k] = v
		}
	}
	return out
}

func modelName(t reflect.Type) string {
	if n, ok := reflect.New(t).Interface().(interface{ OpenAPIModelName() string }); ok {
		return n.OpenAPIModelName()
	}
	p := strings.Split(t.PkgPath(), "/")
	host := strings.Split(p[0], ".")
	for i, j := 0, len(host)-1; i < j; i, j = i+1, j-1 {
		host[i], host[j] = host[j], host[i]
	}
	return strings.Join(append(host, p[1:]...), ".") + "." + t.Name()
}

type typeWriter struct {
	seen  map[reflect.Type]bool
	queue []reflect.Type
}

func (w *typeWriter) expr(t reflect.Type) string {
	if s, ok := special[t]; ok {
		if strings.HasPrefix(s, "Schema") {
			w.visit(reflect.TypeOf(apiextensions.JSONSchemaProps{}))
		}
		return s
	}
	switch t.Kind() {
	case reflect.Pointer:
		return w.expr(t.Elem())
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "bool"
	case reflect.Int32, reflect.Int64, reflect.Int, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Float64, reflect.Float32:
		return t.Kind().String()
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return "bytes"
		}
		if _, ok := reflect.New(t).Interface().(interface{ Marshal() ([]byte, error) }); ok {
			return "Strings"
		}
		return "[]" + w.expr(t.Elem())
	case reflect.Map:
		return "{}" + w.expr(t.Elem())
	case reflect.Struct:
		w.visit(t)
		return modelName(t)
	}
	if t.Kind() == reflect.Interface {
		return "JSON"
	}
	panic("no expression for " + t.String())
}

func (w *typeWriter) visit(t reflect.Type) {
	if !w.seen[t] {
		w.seen[t] = true
		w.queue = append(w.queue, t)
	}
}

func ext(s spec.Schema, key string) string {
	switch v := s.Extensions["x-kubernetes-"+key].(type) {
	case string:
		return v
	case []interface{}:
		parts := []string{}
		for _, p := range v {
			parts = append(parts, fmt.Sprint(p))
		}
		return strings.Join(parts, "|")
	}
	return ""
}

// Field flags: o omitempty, z omitzero, p pointer, r required, i inline, v the schema's default is the empty string;
// values: ps= patchStrategy, pk= patchMergeKey, lt= list type, lk= list map keys, mt= map type,
// e= enum values, ee= those of an element, s= the default that the schema states beyond what the
// other flags tell (JSON); d= the default that the server sets (JSON, last).
func (w *typeWriter) field(b *bytes.Buffer, owner reflect.Type, f reflect.StructField, def spec.Schema, stats defaultStats) {
	name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
	if name == "-" {
		return
	}
	flags := []string{}
	inline := (f.Anonymous && name == "") || strings.Contains(opts, "inline")
	number := "0"
	if pb := strings.Split(f.Tag.Get("protobuf"), ","); len(pb) > 1 {
		number = pb[1]
	}
	ft := f.Type
	if inline {
		if ft == reflect.TypeOf(metav1.TypeMeta{}) {
			number = "0"
		}
		flags = append(flags, "i")
		name = "-"
	}
	if strings.Contains(opts, "omitempty") {
		flags = append(flags, "o")
	}
	if strings.Contains(opts, "omitzero") {
		flags = append(flags, "z")
	}
	if ft.Kind() == reflect.Pointer {
		flags = append(flags, "p")
	}
	prop := def.Properties[name]
	for _, r := range def.Required {
		if r == name {
			flags = append(flags, "r")
		}
	}
	if v := f.Tag.Get("patchStrategy"); v != "" {
		flags = append(flags, "ps="+v)
	}
	if v := f.Tag.Get("patchMergeKey"); v != "" {
		flags = append(flags, "pk="+v)
	}
	for _, e := range [][2]string{{"lt", "list-type"}, {"lk", "list-map-keys"}, {"mt", "map-type"}} {
		if v := ext(prop, e[1]); v != "" {
			flags = append(flags, e[0]+"="+v)
		}
	}
	if prop.Default == "" {
		flags = append(flags, "v")
	}
	if v := enum(prop.Enum); v != "" {
		flags = append(flags, "e="+v)
	}
	if s := element(prop); s != nil {
		if v := enum(s.Enum); v != "" {
			flags = append(flags, "ee="+strings.ReplaceAll(v, " ", "%20"))
		}
	}
	if s := stated(prop.Default, !strings.Contains(opts, "omitempty") && ft.Kind() != reflect.Pointer); s != "" {
		flags = append(flags, "s="+s)
	}
	stripped := ft
	for stripped.Kind() == reflect.Pointer {
		stripped = stripped.Elem()
	}
	if g := stripped.String(); g != goName(stripped) {
		flags = append(flags, "g="+strings.ReplaceAll(g, " ", ""))
	}
	if d, ok := stats.unconditional(owner, f.Name); ok {
		flags = append(flags, "d="+d)
	}
	fmt.Fprintf(b, "%s\t%s\t%s\t%s\n", name, number, w.expr(ft), dash(strings.Join(flags, " ")))
}

func enum(all []interface{}) string {
	values := []string{}
	for _, e := range all {
		values = append(values, fmt.Sprint(e))
	}
	return strings.Join(values, "|")
}

// The schema of what a list or a map holds.
func element(s spec.Schema) *spec.Schema {
	switch {
	case s.Items != nil:
		return s.Items.Schema
	case s.AdditionalProperties != nil:
		return s.AdditionalProperties.Schema
	}
	return nil
}

// A default that is not the zero value of a field that is always there.
func stated(d interface{}, always bool) string {
	if d == nil || d == "" || (reflect.ValueOf(d).Kind() == reflect.Map && reflect.ValueOf(d).Len() == 0) || (always && reflect.ValueOf(d).IsZero()) {
		return ""
	}
	data, err := json.Marshal(d)
	check(err)
	return string(data)
}

// Every kind that can be a request's or an answer's body.
func rootTypes(t *resourceTable) map[schema.GroupVersionKind]reflect.Type {
	roots := map[schema.GroupVersionKind]reflect.Type{}
	want := map[schema.GroupVersion]bool{
		{Group: "policy", Version: "v1"}: true, {Group: "admission.k8s.io", Version: "v1"}: true,
		{Group: "apidiscovery.k8s.io", Version: "v2"}: true, {Group: "meta.k8s.io", Version: "v1"}: true,
	}
	for _, r := range t.resources {
		want[r.gv] = true
	}
	for gvk, typ := range legacyscheme.Scheme.AllKnownTypes() {
		if strings.HasPrefix(typ.PkgPath(), "k8s.io/apimachinery/pkg/apis/meta") {
			if gvk.GroupVersion() == (schema.GroupVersion{Version: "v1"}) && gvk.Kind != "WatchEvent" {
				roots[gvk] = typ
			}
			continue
		}
		if want[gvk.GroupVersion()] {
			roots[gvk] = typ
		}
	}
	meta := schema.GroupVersion{Group: "meta.k8s.io", Version: "v1"}
	for _, v := range []any{metav1.PartialObjectMetadata{}, metav1.PartialObjectMetadataList{}, metav1.Table{}, metav1.TableOptions{}} {
		roots[meta.WithKind(reflect.TypeOf(v).Name())] = reflect.TypeOf(v)
	}
	v1 := schema.GroupVersion{Version: "v1"}
	for _, v := range []any{metav1.Status{}, metav1.WatchEvent{}, metav1.APIVersions{}, metav1.APIGroupList{}, metav1.APIGroup{}, metav1.APIResourceList{}, metav1.DeleteOptions{}, metav1.ListOptions{}, metav1.CreateOptions{}, metav1.UpdateOptions{}, metav1.PatchOptions{}, metav1.GetOptions{}} {
		roots[v1.WithKind(reflect.TypeOf(v).Name())] = reflect.TypeOf(v)
	}
	return roots
}

// type: model name, flags (st= struct type); then one line per field; kind lines bind a
// group, version and kind to a type.
func renderTypes(t *resourceTable, stats defaultStats) []byte {
	w := &typeWriter{seen: map[reflect.Type]bool{}}
	roots := rootTypes(t)
	keys := []schema.GroupVersionKind{}
	for k := range roots {
		keys = append(keys, k)
	}
	sort.Slice(keys, func(i, j int) bool { return keys[i].String() < keys[j].String() })
	var b bytes.Buffer
	for _, k := range keys {
		fmt.Fprintf(&b, "=kind\t%s\t%s\t%s\t%s\n", dash(k.Group), k.Version, k.Kind, modelName(roots[k]))
		w.visit(roots[k])
	}
	// What every group and version has a kind of.
	known := []schema.GroupVersion{}
	for gvk := range legacyscheme.Scheme.AllKnownTypes() {
		if gvk.Kind == "WatchEvent" && gvk.Version != runtime.APIVersionInternal && gvk.Group != "apidiscovery.k8s.io" {
			known = append(known, gvk.GroupVersion())
		}
	}
	sort.Slice(known, func(i, j int) bool { return known[i].String() < known[j].String() })
	for _, gv := range known {
		fmt.Fprintf(&b, "=gv\t%s\t%s\n", dash(gv.Group), gv.Version)
	}
	w.visit(reflect.TypeOf(version.Info{}))
	for len(w.queue) > 0 {
		sort.Slice(w.queue, func(i, j int) bool { return modelName(w.queue[i]) < modelName(w.queue[j]) })
		typ := w.queue[0]
		w.queue = w.queue[1:]
		def := definitions[modelName(typ)].Schema
		flags := []string{}
		if v := ext(def, "map-type"); v != "" {
			flags = append(flags, "mt="+v)
		}
		if u := unions(def); u != "" {
			flags = append(flags, "u="+u)
		}
		fmt.Fprintf(&b, "=type\t%s\t%s\n", modelName(typ), dash(strings.Join(flags, " ")))
		for i := 0; i < typ.NumField(); i++ {
			if f := typ.Field(i); f.IsExported() {
				w.field(&b, typ, f, def, stats)
			}
		}
	}
	return b.Bytes()
}

func unions(s spec.Schema) string {
	v, ok := s.Extensions["x-kubernetes-unions"]
	if !ok {
		return ""
	}
	data, err := json.Marshal(v)
	check(err)
	return string(data)
}

// The name that the shape alone gives.
func goName(t reflect.Type) string {
	if special[t] != "" || t.Kind() == reflect.Struct || t.Kind() == reflect.Interface {
		return t.String()
	}
	switch t.Kind() {
	case reflect.Slice:
		return "[]" + goName(t.Elem())
	case reflect.Map:
		return "map[string]" + goName(t.Elem())
	}
	if t.Kind() == reflect.Pointer {
		return goName(t.Elem())
	}
	return t.Kind().String()
}
