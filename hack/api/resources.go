package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// One served resource and what hangs on it.
type resourceRow struct {
	metav1.APIResource
	gv   schema.GroupVersion
	subs []metav1.APIResource
}

type resourceTable struct {
	groups    []metav1.APIGroup
	resources []*resourceRow
}

// Where the stored version is not the served one.
var storedAs = map[string]string{
	"certificates.k8s.io clustertrustbundles":          "certificates.k8s.io/v1beta1",
	"certificates.k8s.io podcertificaterequests":       "certificates.k8s.io/v1beta1",
	"resource.k8s.io devicetaintrules":                 "resource.k8s.io/v1beta2",
	"storagemigration.k8s.io storageversionmigrations": "storagemigration.k8s.io/v1beta1",
	"events.k8s.io events":                             "v1",
	"autoscaling horizontalpodautoscalers":             "autoscaling/v2",
	"autoscaling/v1 horizontalpodautoscalers":          "autoscaling/v2",
}

// Key prefixes that are not the plural name.
var keyPrefix = map[string]string{
	"replicationcontrollers": "controllers", "nodes": "minions", "services": "services/specs",
	"endpoints": "services/endpoints", "ingresses": "ingress",
	"customresourcedefinitions": "apiextensions.k8s.io/customresourcedefinitions",
	"apiservices":               "apiregistration.k8s.io/apiservices",
}

// Field labels besides metadata.name and metadata.namespace.
var selectable = map[string]string{
	" pods":                   "spec.nodeName spec.restartPolicy spec.schedulerName spec.serviceAccountName spec.hostNetwork status.phase status.podIP status.podIPs status.nominatedNodeName",
	" nodes":                  "spec.unschedulable",
	" namespaces":             "status.phase",
	" secrets":                "type",
	" services":               "spec.clusterIP spec.type",
	" replicationcontrollers": "status.replicas",
	" events":                 "involvedObject.kind involvedObject.namespace involvedObject.name involvedObject.uid involvedObject.apiVersion involvedObject.resourceVersion involvedObject.fieldPath reason reportingComponent source type",
	"events.k8s.io events":    "regarding.kind regarding.namespace regarding.name regarding.uid regarding.apiVersion regarding.resourceVersion regarding.fieldPath reason reportingController type",
	"apps replicasets":        "status.replicas",
	"batch jobs":              "status.successful",
	"certificates.k8s.io certificatesigningrequests": "spec.signerName",
	"certificates.k8s.io clustertrustbundles":        "spec.signerName",
	"certificates.k8s.io podcertificaterequests":     "spec.signerName spec.podName spec.nodeName",
	"resource.k8s.io resourceslices":                 "spec.nodeName spec.driver spec.pool.name",
}

func moduleDir(module string) string {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	check(err)
	return strings.TrimSpace(string(out))
}

func readResources() *resourceTable {
	dir := filepath.Join(moduleDir("k8s.io/kubernetes"), "api", "discovery")
	read := func(name string, into any) {
		data, err := os.ReadFile(filepath.Join(dir, name))
		check(err)
		check(json.Unmarshal(data, into))
	}
	table := &resourceTable{}
	var groups metav1.APIGroupList
	read("apis.json", &groups)
	all := append([]metav1.APIGroup{{Versions: []metav1.GroupVersionForDiscovery{{GroupVersion: "v1", Version: "v1"}}}}, groups.Groups...)
	for _, g := range all {
		served := []metav1.GroupVersionForDiscovery{}
		for _, v := range g.Versions {
			if strings.Contains(v.Version, "alpha") || strings.Contains(v.Version, "beta") {
				continue
			}
			served = append(served, v)
			gv := schema.GroupVersion{Group: g.Name, Version: v.Version}
			file := "api__v1.json"
			if g.Name != "" {
				file = "apis__" + g.Name + "__" + v.Version + ".json"
			}
			var list metav1.APIResourceList
			read(file, &list)
			table.add(gv, list)
		}
		if len(served) > 0 {
			g.Versions = served
			table.groups = append(table.groups, g)
		}
	}
	return table
}

func (t *resourceTable) add(gv schema.GroupVersion, list metav1.APIResourceList) {
	byName := map[string]*resourceRow{}
	for _, r := range list.APIResources {
		if !strings.Contains(r.Name, "/") {
			res := &resourceRow{APIResource: r, gv: gv}
			byName[r.Name] = res
			t.resources = append(t.resources, res)
		}
	}
	for _, r := range list.APIResources {
		if parent, sub, ok := strings.Cut(r.Name, "/"); ok {
			if byName[parent] == nil {
				byName[parent] = &resourceRow{APIResource: metav1.APIResource{Name: parent, Namespaced: r.Namespaced}, gv: gv}
				t.resources = append(t.resources, byName[parent])
			}
			r.Name = sub
			byName[parent].subs = append(byName[parent].subs, r)
		}
	}
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// group: group, versions (preferred first)
// resource: group, version, plural, singular, kind, list kind, n|c, verbs, short, categories, hash, key prefix, stored as, field labels
// sub (of the resource above): name, group, version, kind, verbs
func (t *resourceTable) render() []byte {
	var b bytes.Buffer
	for _, g := range t.groups {
		versions := []string{}
		for _, v := range g.Versions {
			versions = append(versions, v.Version)
		}
		fmt.Fprintf(&b, "group\t%s\t%s\n", dash(g.Name), strings.Join(versions, ","))
	}
	for _, r := range t.resources {
		verbs := append([]string{}, r.Verbs...)
		sort.Strings(verbs)
		scope := "c"
		if r.Namespaced {
			scope = "n"
		}
		listKind := "-"
		for _, v := range verbs {
			if v == "list" {
				listKind = r.Kind + "List"
			}
		}
		prefix, stored := "-", "-"
		if r.StorageVersionHash != "" {
			prefix, stored = r.Name, r.gv.String()
			if p := keyPrefix[r.Name]; p != "" {
				prefix = p
			}
			if s := storedAs[r.gv.Group+" "+r.Name]; s != "" {
				stored = s
			}
		}
		fmt.Fprintf(&b, "resource\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			dash(r.gv.Group), r.gv.Version, r.Name, dash(r.SingularName), dash(r.Kind), listKind, scope,
			dash(strings.Join(verbs, ",")), dash(strings.Join(r.ShortNames, ",")), dash(strings.Join(r.Categories, ",")),
			dash(r.StorageVersionHash), prefix, stored,
			dash(strings.ReplaceAll(selectable[r.gv.Group+" "+r.Name], " ", ",")))
		for _, s := range r.subs {
			verbs := append([]string{}, s.Verbs...)
			sort.Strings(verbs)
			group, version := s.Group, s.Version
			if group == "" && version == "" {
				group, version = "=", "="
			}
			fmt.Fprintf(&b, "sub\t%s\t%s\t%s\t%s\t%s\n", s.Name, dash(group), version, s.Kind, strings.Join(verbs, ","))
		}
	}
	return b.Bytes()
}
