// Package client is client-go as it is, against the server that KUBECONFIG names.
package client

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	appsapply "k8s.io/client-go/applyconfigurations/apps/v1"
	coreapply "k8s.io/client-go/applyconfigurations/core/v1"
	metaapply "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/pager"
	"k8s.io/client-go/util/retry"
)

const ns = "default"

var ctx = context.Background()

func config(t *testing.T) *rest.Config {
	t.Helper()
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	c, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	must(t, err)
	c.QPS, c.Burst = 1000, 1000
	return c
}

// The typed client, in JSON or in protobuf.
func typed(t *testing.T, media string) kubernetes.Interface {
	t.Helper()
	c := config(t)
	c.ContentType, c.AcceptContentTypes = media, media
	k, err := kubernetes.NewForConfig(c)
	must(t, err)
	return k
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func check(t *testing.T, ok bool, what string, values ...any) {
	t.Helper()
	if !ok {
		t.Fatalf(what, values...)
	}
}

func deployment(name string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	replicas := int32(2)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "registry.invalid/a:1"}}},
		}},
	}
}

func TestTyped(t *testing.T) {
	for _, media := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		t.Run(media, func(t *testing.T) {
			k := typed(t, media)
			d := k.AppsV1().Deployments(ns)
			made, err := d.Create(ctx, deployment("typed"), metav1.CreateOptions{})
			must(t, err)
			check(t, made.Spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType, "no defaults: %v", made.Spec)
			_, err = d.Create(ctx, deployment("typed"), metav1.CreateOptions{})
			check(t, apierrors.IsAlreadyExists(err), "%v", err)
			_, err = d.Get(ctx, "none", metav1.GetOptions{})
			check(t, apierrors.IsNotFound(err), "%v", err)
			stale := made.DeepCopy()
			made.Annotations = map[string]string{"a": "b"}
			_, err = d.Update(ctx, made, metav1.UpdateOptions{})
			must(t, err)
			stale.Annotations = map[string]string{"a": "c"}
			_, err = d.Update(ctx, stale, metav1.UpdateOptions{})
			check(t, apierrors.IsConflict(err), "%v", err)
			// What another one changes in between is tried again.
			tries := 0
			must(t, retry.RetryOnConflict(retry.DefaultRetry, func() error {
				now, err := d.Get(ctx, "typed", metav1.GetOptions{})
				if err != nil {
					return err
				}
				if tries++; tries == 1 {
					_, err = d.Patch(ctx, "typed", types.MergePatchType, []byte(`{"metadata":{"labels":{"x":"y"}}}`), metav1.PatchOptions{})
					must(t, err)
				}
				now.Annotations["tried"] = "again"
				_, err = d.Update(ctx, now, metav1.UpdateOptions{})
				return err
			}))
			check(t, tries == 2, "%d tries", tries)
			made, err = d.Get(ctx, "typed", metav1.GetOptions{})
			must(t, err)
			made.Status.Replicas = 7
			made, err = d.UpdateStatus(ctx, made, metav1.UpdateOptions{})
			must(t, err)
			check(t, made.Status.Replicas == 7, "%v", made.Status)
			s, err := d.GetScale(ctx, "typed", metav1.GetOptions{})
			must(t, err)
			s.Spec.Replicas = 9
			s, err = d.UpdateScale(ctx, "typed", s, metav1.UpdateOptions{})
			must(t, err)
			check(t, s.Spec.Replicas == 9, "%v", s)
			_, err = d.Patch(ctx, "typed", types.StrategicMergePatchType, []byte(`{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"x"}]}}}}`), metav1.PatchOptions{})
			must(t, err)
			_, err = d.Patch(ctx, "typed", types.JSONPatchType, []byte(`[{"op":"test","path":"/spec/replicas","value":1}]`), metav1.PatchOptions{})
			check(t, err != nil, "a test that fails is passed")
			bad := deployment("bad")
			bad.Spec.Selector.MatchLabels = map[string]string{"x": "y"}
			_, err = d.Create(ctx, bad, metav1.CreateOptions{})
			check(t, apierrors.IsInvalid(err), "%v", err)
			w, err := d.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=typed"})
			must(t, err)
			defer w.Stop()
			uid := made.UID
			must(t, d.Delete(ctx, "typed", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}))
			for e := range w.ResultChan() {
				if e.Type == watch.Deleted {
					check(t, e.Object.(*appsv1.Deployment).UID == uid, "another one")
					break
				}
			}
		})
	}
}

func TestPages(t *testing.T) {
	k := typed(t, "application/vnd.kubernetes.protobuf")
	maps := k.CoreV1().ConfigMaps(ns)
	for i := range 23 {
		_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("page-%02d", i), Labels: map[string]string{"p": "1"}}}, metav1.CreateOptions{})
		must(t, err)
	}
	p := pager.New(pager.SimplePageFunc(func(o metav1.ListOptions) (runtime.Object, error) { return maps.List(ctx, o) }))
	p.PageSize = 5
	n := 0
	must(t, p.EachListItem(ctx, metav1.ListOptions{LabelSelector: "p"}, func(runtime.Object) error { n++; return nil }))
	check(t, n == 23, "%d of 23", n)
	must(t, maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "p"}))
	left, err := maps.List(ctx, metav1.ListOptions{LabelSelector: "p"})
	must(t, err)
	check(t, len(left.Items) == 0, "%d left", len(left.Items))
}

func TestApply(t *testing.T) {
	k := typed(t, "application/json")
	labels := map[string]string{"app": "applied"}
	want := appsapply.Deployment("applied", ns).WithLabels(labels).WithSpec(appsapply.DeploymentSpec().WithReplicas(2).
		WithSelector(metaapply.LabelSelector().WithMatchLabels(labels)).
		WithTemplate(coreapply.PodTemplateSpec().WithLabels(labels).WithSpec(coreapply.PodSpec().
			WithContainers(coreapply.Container().WithName("c").WithImage("a").WithPorts(coreapply.ContainerPort().WithContainerPort(80))))))
	d := k.AppsV1().Deployments(ns)
	_, err := d.Apply(ctx, want, metav1.ApplyOptions{FieldManager: "one"})
	must(t, err)
	_, err = d.Apply(ctx, appsapply.Deployment("applied", ns).WithSpec(appsapply.DeploymentSpec().WithReplicas(3)), metav1.ApplyOptions{FieldManager: "two"})
	check(t, apierrors.IsConflict(err), "%v", err)
	_, err = d.Apply(ctx, appsapply.Deployment("applied", ns).WithSpec(appsapply.DeploymentSpec().WithReplicas(3)), metav1.ApplyOptions{FieldManager: "two", Force: true})
	must(t, err)
	now, err := d.Get(ctx, "applied", metav1.GetOptions{})
	must(t, err)
	mine, err := appsapply.ExtractDeployment(now, "one")
	must(t, err)
	check(t, mine.Spec.Replicas == nil && *mine.Spec.Template.Spec.Containers[0].Image == "a", "%v", mine)
	// What is no longer applied goes.
	want.Spec.Replicas = nil
	want.Spec.Template.Spec.Containers[0].Ports = nil
	now, err = d.Apply(ctx, want, metav1.ApplyOptions{FieldManager: "one"})
	must(t, err)
	check(t, *now.Spec.Replicas == 3 && len(now.Spec.Template.Spec.Containers[0].Ports) == 0, "%v", now.Spec)
	status, err := d.ApplyStatus(ctx, appsapply.Deployment("applied", ns).WithStatus(appsapply.DeploymentStatus().WithReplicas(1)), metav1.ApplyOptions{FieldManager: "one"})
	must(t, err)
	check(t, status.Status.Replicas == 1, "%v", status.Status)
}

func TestDynamic(t *testing.T) {
	c := config(t)
	dc, err := discovery.NewDiscoveryClientForConfig(c)
	must(t, err)
	groups, resources, err := dc.ServerGroupsAndResources()
	must(t, err)
	check(t, len(groups) > 15 && len(resources) > 20, "%d groups, %d versions", len(groups), len(resources))
	preferred, err := dc.ServerPreferredNamespacedResources()
	must(t, err)
	check(t, len(preferred) > 10, "%d", len(preferred))
	_, err = dc.OpenAPISchema()
	must(t, err)
	paths, err := dc.OpenAPIV3().Paths()
	must(t, err)
	_, err = paths["apis/apps/v1"].Schema("application/json")
	must(t, err)
	mapper := restmapper.NewShortcutExpander(restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(dc)), memory.NewMemCacheClient(dc), nil)
	gvr, err := mapper.ResourceFor(schema.GroupVersionResource{Resource: "deploy"})
	must(t, err)
	check(t, gvr == schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, "%v", gvr)
	m, err := mapper.RESTMapping(schema.GroupKind{Kind: "ConfigMap"}, "v1")
	must(t, err)
	check(t, m.Scope.Name() == meta.RESTScopeNameNamespace, "%v", m)
	_, err = mapper.RESTMapping(schema.GroupKind{Group: "apps", Kind: "Nonsense"})
	check(t, meta.IsNoMatchError(err), "%v", err)

	dyn, err := dynamic.NewForConfig(c)
	must(t, err)
	maps := dyn.Resource(m.Resource).Namespace(ns)
	object := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "dyn"}, "data": map[string]any{"a": "1"}}}
	_, err = maps.Create(ctx, object, metav1.CreateOptions{})
	must(t, err)
	_, err = maps.Apply(ctx, "dyn", object, metav1.ApplyOptions{FieldManager: "dyn", Force: true})
	must(t, err)
	md, err := metadata.NewForConfig(c)
	must(t, err)
	part, err := md.Resource(m.Resource).Namespace(ns).Get(ctx, "dyn", metav1.GetOptions{})
	must(t, err)
	check(t, part.Name == "dyn" && part.UID != "", "%v", part)
	list, err := md.Resource(m.Resource).Namespace(ns).List(ctx, metav1.ListOptions{})
	must(t, err)
	check(t, len(list.Items) > 0, "no metadata")
	must(t, maps.Delete(ctx, "dyn", metav1.DeleteOptions{}))

	d := typed(t, "application/json").AppsV1().Deployments(ns)
	_, err = d.Create(ctx, deployment("scaled"), metav1.CreateOptions{})
	must(t, err)
	scales, err := scale.NewForConfig(c, mapper, dynamic.LegacyAPIPathResolverFunc, scale.NewDiscoveryScaleKindResolver(dc))
	must(t, err)
	s, err := scales.Scales(ns).Get(ctx, gvr.GroupResource(), "scaled", metav1.GetOptions{})
	must(t, err)
	check(t, s.Spec.Replicas == 2, "%v", s)
}

func TestTokens(t *testing.T) {
	k := typed(t, "application/json")
	_, err := k.CoreV1().ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "go"}}, metav1.CreateOptions{})
	must(t, err)
	seconds := int64(600)
	r, err := k.CoreV1().ServiceAccounts(ns).CreateToken(ctx, "go", &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
	must(t, err)
	c := rest.AnonymousClientConfig(config(t))
	c.BearerToken = r.Status.Token
	own, err := kubernetes.NewForConfig(c)
	must(t, err)
	who, err := own.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authv1.SelfSubjectReview{}, metav1.CreateOptions{})
	must(t, err)
	check(t, who.Status.UserInfo.Username == "system:serviceaccount:default:go", "%v", who.Status)
	_, err = own.CoreV1().Secrets(ns).List(ctx, metav1.ListOptions{})
	check(t, apierrors.IsForbidden(err), "%v", err)
	other := config(t)
	other.Impersonate = rest.ImpersonationConfig{UserName: "jane", Groups: []string{"devs"}, Extra: map[string][]string{"scope": {"x"}}}
	jane, err := kubernetes.NewForConfig(other)
	must(t, err)
	who, err = jane.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authv1.SelfSubjectReview{}, metav1.CreateOptions{})
	must(t, err)
	check(t, who.Status.UserInfo.Username == "jane" && who.Status.UserInfo.Extra["scope"][0] == "x", "%v", who.Status)
	warned := &warnings{}
	w := config(t)
	w.WarningHandler = warned
	careful, err := kubernetes.NewForConfig(w)
	must(t, err)
	body, _ := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "warned"}, "nonsense": 1})
	must(t, careful.CoreV1().RESTClient().Post().Namespace(ns).Resource("configmaps").Param("fieldValidation", "Warn").Body(body).SetHeader("Content-Type", "application/json").Do(ctx).Error())
	check(t, len(warned.texts) == 1 && warned.texts[0] == `unknown field "nonsense"`, "%v", warned.texts)
}

type warnings struct{ texts []string }

func (w *warnings) HandleWarningHeader(_ int, _ string, text string) { w.texts = append(w.texts, text) }

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Fatal(what)
}
