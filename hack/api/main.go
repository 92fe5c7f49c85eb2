// Writes Kubernetes v1.37 as data: facts found by reflection over the published Go modules
// (names, protobuf numbers, list kinds, defaults), never prose.
//
//	go run . tables DIR          the tables embedded by pkg/schema
//	go run . golden DIR SEED N   test data: N objects per kind in every encoding
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	_ "k8s.io/kubernetes/pkg/apis/admission/install"
	_ "k8s.io/kubernetes/pkg/apis/admissionregistration/install"
	_ "k8s.io/kubernetes/pkg/apis/apiserverinternal/install"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	_ "k8s.io/kubernetes/pkg/apis/authentication/install"
	_ "k8s.io/kubernetes/pkg/apis/authorization/install"
	_ "k8s.io/kubernetes/pkg/apis/autoscaling/install"
	_ "k8s.io/kubernetes/pkg/apis/batch/install"
	_ "k8s.io/kubernetes/pkg/apis/certificates/install"
	_ "k8s.io/kubernetes/pkg/apis/coordination/install"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	_ "k8s.io/kubernetes/pkg/apis/discovery/install"
	_ "k8s.io/kubernetes/pkg/apis/events/install"
	_ "k8s.io/kubernetes/pkg/apis/extensions/install"
	_ "k8s.io/kubernetes/pkg/apis/flowcontrol/install"
	_ "k8s.io/kubernetes/pkg/apis/imagepolicy/install"
	_ "k8s.io/kubernetes/pkg/apis/lifecycle/install"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	_ "k8s.io/kubernetes/pkg/apis/node/install"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	_ "k8s.io/kubernetes/pkg/apis/rbac/install"
	_ "k8s.io/kubernetes/pkg/apis/resource/install"
	_ "k8s.io/kubernetes/pkg/apis/scheduling/install"
	_ "k8s.io/kubernetes/pkg/apis/storage/install"
	_ "k8s.io/kubernetes/pkg/apis/storagemigration/install"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	crdinstall "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/install"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
)

func main() {
	crdinstall.Install(legacyscheme.Scheme)
	apiregistration.Install(legacyscheme.Scheme)
	check(apidiscoveryv2.AddToScheme(legacyscheme.Scheme))
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: api tables|golden DIR ...")
		os.Exit(2)
	}
	dir := os.Args[2]
	switch os.Args[1] {
	case "tables":
		resources := readResources()
		write(dir, "resources.tsv", resources.render())
		stats := probeDefaults(resources)
		write(dir, "types.tsv", renderTypes(resources, stats))
		write(dir, "columns.tsv", renderColumns())
		write(dir, "features.tsv", renderFeatures())
		writeBootstrap(dir)
	case "golden":
		seed, err := strconv.ParseInt(os.Args[3], 10, 64)
		check(err)
		n, err := strconv.Atoi(os.Args[4])
		check(err)
		writeGolden(dir, seed, n)
		writeApplyGolden(dir, seed, n)
	}
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func write(dir, name string, data []byte) {
	path := filepath.Join(dir, name)
	check(os.MkdirAll(filepath.Dir(path), 0o755))
	check(os.WriteFile(path, data, 0o644))
}
