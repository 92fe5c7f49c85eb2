package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	_ "k8s.io/apiextensions-apiserver/pkg/features"
	_ "k8s.io/kubernetes/pkg/features"

	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/featuregate"
	logsapi "k8s.io/component-base/logs/api/v1"
)

// name, stage, default, locked or -, features it depends on
func renderFeatures() []byte {
	gate := utilfeature.DefaultMutableFeatureGate
	check(logsapi.AddFeatureGates(gate))
	dependencies := gate.Dependencies()
	all := gate.GetAll()
	names := []string{}
	for name := range all {
		names = append(names, string(name))
	}
	slices.Sort(names)
	var out bytes.Buffer
	for _, name := range names {
		feature := featuregate.Feature(name)
		spec := all[feature]
		stage, locked := string(spec.PreRelease), ""
		if stage == "" {
			stage = "GA"
		}
		if spec.LockToDefault {
			locked = "locked"
		}
		needs := []string{}
		for _, d := range dependencies[feature] {
			needs = append(needs, string(d))
		}
		slices.Sort(needs)
		fmt.Fprintf(&out, "%s\t%s\t%t\t%s\t%s\n", name, stage, spec.Default, dash(locked), dash(strings.Join(needs, ",")))
	}
	return out.Bytes()
}
