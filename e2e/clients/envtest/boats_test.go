package envtest

import (
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/conversion"
)

// BoatV2 is the stored form of a boat.
type BoatV2 struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              struct {
		Sailors int    `json:"sailors,omitempty"`
		Name    string `json:"name,omitempty"`
	} `json:"spec,omitempty"`
	Status struct {
		Ready bool `json:"ready,omitempty"`
	} `json:"status,omitempty"`
}

// BoatV1 is its older form.
type BoatV1 struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              struct {
		Crew int    `json:"crew,omitempty"`
		Name string `json:"name,omitempty"`
	} `json:"spec,omitempty"`
	Status struct {
		Ready bool `json:"ready,omitempty"`
	} `json:"status,omitempty"`
}

// BoatV2List are boats.
type BoatV2List struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BoatV2 `json:"items"`
}

func (b *BoatV2) DeepCopyObject() runtime.Object {
	c := *b
	b.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	return &c
}

func (b *BoatV1) DeepCopyObject() runtime.Object {
	c := *b
	b.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	return &c
}

func (l *BoatV2List) DeepCopyObject() runtime.Object {
	c := &BoatV2List{TypeMeta: l.TypeMeta, ListMeta: *l.ListMeta.DeepCopy()}
	for i := range l.Items {
		c.Items = append(c.Items, *l.Items[i].DeepCopyObject().(*BoatV2))
	}
	return c
}

// Hub says that others are converted by way of this one.
func (b *BoatV2) Hub() {}

// ConvertTo makes a boat of the stored form.
func (b *BoatV1) ConvertTo(hub conversion.Hub) error {
	to := hub.(*BoatV2)
	to.ObjectMeta, to.Status = b.ObjectMeta, b.Status
	to.Spec.Sailors, to.Spec.Name = b.Spec.Crew, b.Spec.Name
	return nil
}

// ConvertFrom makes a boat of the older form.
func (b *BoatV1) ConvertFrom(hub conversion.Hub) error {
	from := hub.(*BoatV2)
	b.ObjectMeta, b.Status = from.ObjectMeta, from.Status
	b.Spec.Crew, b.Spec.Name = from.Spec.Sailors, from.Spec.Name
	return nil
}

var (
	v1 = schema.GroupVersion{Group: "sea.example", Version: "v1"}
	v2 = schema.GroupVersion{Group: "sea.example", Version: "v2"}
)

func register(s *runtime.Scheme) {
	s.AddKnownTypeWithName(v1.WithKind("Boat"), &BoatV1{})
	s.AddKnownTypeWithName(v2.WithKind("Boat"), &BoatV2{})
	s.AddKnownTypeWithName(v2.WithKind("BoatList"), &BoatV2List{})
	metav1.AddToGroupVersion(s, v1)
	metav1.AddToGroupVersion(s, v2)
}

func definition() *apiextensionsv1.CustomResourceDefinition {
	number := apiextensionsv1.JSONSchemaProps{Type: "integer"}
	version := func(name, field string, stored bool) apiextensionsv1.CustomResourceDefinitionVersion {
		return apiextensionsv1.CustomResourceDefinitionVersion{
			Name: name, Served: true, Storage: stored, Subresources: &apiextensionsv1.CustomResourceSubresources{Status: &apiextensionsv1.CustomResourceSubresourceStatus{}},
			Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{
				"spec":   {Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{field: number, "name": {Type: "string"}}},
				"status": {Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"ready": {Type: "boolean"}}},
			}}},
		}
	}
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "boats.sea.example"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "sea.example", Scope: apiextensionsv1.NamespaceScoped,
			Names:    apiextensionsv1.CustomResourceDefinitionNames{Plural: "boats", Singular: "boat", Kind: "Boat", ListKind: "BoatList"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{version("v1", "crew", false), version("v2", "sailors", true)},
		},
	}
}
