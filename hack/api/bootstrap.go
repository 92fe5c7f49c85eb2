package main

import (
	"encoding/json"

	flowcontrolbootstrap "k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	schedulingv1 "k8s.io/kubernetes/pkg/apis/scheduling/v1"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"
)

func writeJSON(dir, name string, v any) {
	data, err := json.MarshalIndent(v, "", " ")
	check(err)
	write(dir, name, append(data, '\n'))
}

func writeBootstrap(dir string) {
	writeJSON(dir, "rbac/bootstrap.json", map[string]any{
		"clusterRoles":        append(bootstrappolicy.ClusterRoles(), bootstrappolicy.ControllerRoles()...),
		"clusterRoleBindings": append(bootstrappolicy.ClusterRoleBindings(), bootstrappolicy.ControllerRoleBindings()...),
		"roles":               bootstrappolicy.NamespaceRoles(),
		"roleBindings":        bootstrappolicy.NamespaceRoleBindings(),
	})
	writeJSON(dir, "bootstrap/flowcontrol.json", map[string]any{
		"flowSchemas":    map[string]any{"mandatory": flowcontrolbootstrap.MandatoryFlowSchemas, "suggested": flowcontrolbootstrap.SuggestedFlowSchemas},
		"priorityLevels": map[string]any{"mandatory": flowcontrolbootstrap.MandatoryPriorityLevelConfigurations, "suggested": flowcontrolbootstrap.SuggestedPriorityLevelConfigurations},
	})
	writeJSON(dir, "bootstrap/priorityclasses.json", schedulingv1.SystemPriorityClasses())
}
