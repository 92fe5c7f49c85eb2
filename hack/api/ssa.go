package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"math/rand"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/managedfields/managedfieldstest"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// One write and what upstream's field manager made of it.
type applyStep struct {
	Operation string          `json:"operation"`
	Manager   string          `json:"manager"`
	Force     bool            `json:"force,omitempty"`
	Object    json.RawMessage `json:"object"`
	Live      json.RawMessage `json:"live,omitempty"`
	Error     string          `json:"error,omitempty"`
}

type applyRow struct {
	Group, Version, Kind string
	Steps                []applyStep
}

func schemaConverter(t *resourceTable) managedfields.TypeConverter {
	defs := map[string]*spec.Schema{}
	ref := func(path string) spec.Ref { return spec.MustCreateRef("#/components/schemas/" + path) }
	for _, get := range openapiSources {
		for k, v := range get(ref) {
			s := v.Schema
			defs[k] = &s
		}
	}
	for gvk, typ := range rootTypes(t) {
		d := defs[modelName(typ)]
		if d == nil {
			continue
		}
		if d.Extensions == nil {
			d.Extensions = spec.Extensions{}
		}
		known, _ := d.Extensions["x-kubernetes-group-version-kind"].([]interface{})
		d.Extensions["x-kubernetes-group-version-kind"] = append(known, map[string]interface{}{"group": gvk.Group, "version": gvk.Version, "kind": gvk.Kind})
	}
	c, err := managedfields.NewTypeConverter(defs, false)
	check(err)
	return c
}

func writeApplyGolden(dir string, seed int64, n int) {
	t := readResources()
	converter := schemaConverter(t)
	kinds := []schema.GroupVersionKind{
		{Group: "apps", Version: "v1", Kind: "Deployment"}, {Group: "apps", Version: "v1", Kind: "StatefulSet"}, {Version: "v1", Kind: "Pod"},
		{Version: "v1", Kind: "Service"}, {Version: "v1", Kind: "ConfigMap"}, {Version: "v1", Kind: "Node"}, {Version: "v1", Kind: "ServiceAccount"},
		{Group: "networking.k8s.io", Version: "v1", Kind: "Ingress"}, {Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRole"},
		{Group: "batch", Version: "v1", Kind: "CronJob"}, {Group: "policy", Version: "v1", Kind: "PodDisruptionBudget"},
		{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "ValidatingWebhookConfiguration"},
	}
	var out bytes.Buffer
	for _, gvk := range kinds {
		for i := 0; i < n; i++ {
			r := rand.New(rand.NewSource(seed + int64(i)))
			m := managedfieldstest.NewTestFieldManager(converter, gvk)
			row := applyRow{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind}
			for step := 0; step < 6; step++ {
				u := randomConfig(gvk, seed+int64(i)*100+int64(r.Intn(3)), []float64{0.2, 0.5}[r.Intn(2)], r)
				s := applyStep{Operation: "Apply", Manager: []string{"a", "b"}[r.Intn(2)], Force: r.Intn(2) == 0}
				if r.Intn(3) == 0 {
					s.Operation = "Update"
				}
				data, err := json.Marshal(u.Object)
				check(err)
				s.Object = data
				if e := try(func() {
					if s.Operation == "Apply" {
						err = m.Apply(u, s.Manager, s.Force)
					} else {
						err = m.Update(u, s.Manager)
					}
				}); e != "" {
					break
				}
				if err != nil {
					s.Error = err.Error()
				} else {
					live := m.Live().DeepCopyObject().(*unstructured.Unstructured)
					data, err := json.Marshal(live.Object)
					check(err)
					s.Live = data
				}
				row.Steps = append(row.Steps, s)
			}
			line, err := json.Marshal(row)
			check(err)
			out.Write(line)
			out.WriteByte('\n')
		}
	}
	check(os.MkdirAll(dir, 0o755))
	f, err := os.Create(filepath.Join(dir, "apply.jsonl.gz"))
	check(err)
	z, err := gzip.NewWriterLevel(f, 9)
	check(err)
	_, err = z.Write(out.Bytes())
	check(err)
	check(z.Close())
	check(f.Close())
}

func randomConfig(gvk schema.GroupVersionKind, seed int64, fill float64, r *rand.Rand) *unstructured.Unstructured {
	obj := newObject(gvk, seed, fill)
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	u := &unstructured.Unstructured{}
	check(u.UnmarshalJSON(encodeJSON(obj)))
	meta := map[string]interface{}{"name": "n"}
	if r.Intn(2) == 0 {
		meta["labels"] = map[string]interface{}{"a": "1"}
	}
	if r.Intn(2) == 0 {
		meta["finalizers"] = []interface{}{[]string{"x/a", "x/b", "x/c"}[r.Intn(3)]}
	}
	u.Object["metadata"] = meta
	dropEmpty(u.Object)
	return u
}

func dropEmpty(m map[string]interface{}) {
	for k, v := range m {
		switch v := v.(type) {
		case nil:
			delete(m, k)
		case map[string]interface{}:
			dropEmpty(v)
		case []interface{}:
			// One item, so that no key comes twice.
			if len(v) > 1 {
				v = v[:1]
				m[k] = v
			}
			for _, e := range v {
				if e, ok := e.(map[string]interface{}); ok {
					dropEmpty(e)
				}
			}
		}
	}
}
