// Package envtest is controller-runtime's envtest as it is: an environment with definitions, a
// manager with a controller, a cached client, and webhooks that default, validate and convert.
package envtest

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"go.uber.org/zap/zapcore"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

var ctx = context.Background()

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Fatal(what)
}

// A boat gets a name, has at most ten sailors, and is ready when its papers are there.
type harbour struct{ client.Client }

func (harbour) Default(_ context.Context, b *BoatV2) error {
	if b.Spec.Name == "" {
		b.Spec.Name = "nameless"
	}
	return nil
}

func valid(b *BoatV2) (admission.Warnings, error) {
	if b.Spec.Sailors > 10 {
		return nil, fmt.Errorf("%d sailors are too many", b.Spec.Sailors)
	}
	return nil, nil
}

func (harbour) ValidateCreate(_ context.Context, b *BoatV2) (admission.Warnings, error) { return valid(b) }
func (harbour) ValidateUpdate(_ context.Context, _, b *BoatV2) (admission.Warnings, error) {
	return valid(b)
}
func (harbour) ValidateDelete(context.Context, *BoatV2) (admission.Warnings, error) { return nil, nil }

const anchor = "sea.example/anchor"

func (h harbour) Reconcile(ctx context.Context, r ctrl.Request) (ctrl.Result, error) {
	var b BoatV2
	if err := h.Get(ctx, r.NamespacedName, &b); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !b.DeletionTimestamp.IsZero() {
		controllerutil.RemoveFinalizer(&b, anchor)
		return ctrl.Result{}, h.Update(ctx, &b)
	}
	if controllerutil.AddFinalizer(&b, anchor) {
		return ctrl.Result{}, h.Update(ctx, &b)
	}
	papers := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: b.Name, Namespace: b.Namespace}}
	_, err := controllerutil.CreateOrUpdate(ctx, h.Client, papers, func() error {
		papers.Data = map[string]string{"sailors": fmt.Sprint(b.Spec.Sailors)}
		return controllerutil.SetControllerReference(&b, papers, h.Scheme())
	})
	if err != nil || b.Status.Ready {
		return ctrl.Result{}, err
	}
	b.Status.Ready = true
	return ctrl.Result{}, h.Status().Update(ctx, &b)
}

func webhooks() envtest.WebhookInstallOptions {
	none, path, fail := admissionv1.SideEffectClassNone, func(p string) *string { return &p }, admissionv1.Fail
	rules := []admissionv1.RuleWithOperations{{Operations: []admissionv1.OperationType{"CREATE", "UPDATE"}, Rule: admissionv1.Rule{APIGroups: []string{"sea.example"}, APIVersions: []string{"v2"}, Resources: []string{"boats"}}}}
	at := func(p string) admissionv1.WebhookClientConfig {
		return admissionv1.WebhookClientConfig{Service: &admissionv1.ServiceReference{Name: "hooks", Namespace: "default", Path: path(p)}}
	}
	return envtest.WebhookInstallOptions{
		MutatingWebhooks: []*admissionv1.MutatingWebhookConfiguration{{ObjectMeta: metav1.ObjectMeta{Name: "m"}, Webhooks: []admissionv1.MutatingWebhook{{
			Name: "m.sea.example", ClientConfig: at("/mutate-sea-example-v2-boat"), Rules: rules, SideEffects: &none, FailurePolicy: &fail, AdmissionReviewVersions: []string{"v1"}}}}},
		ValidatingWebhooks: []*admissionv1.ValidatingWebhookConfiguration{{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Webhooks: []admissionv1.ValidatingWebhook{{
			Name: "v.sea.example", ClientConfig: at("/validate-sea-example-v2-boat"), Rules: rules, SideEffects: &none, FailurePolicy: &fail, AdmissionReviewVersions: []string{"v1"}}}}},
	}
}

func TestEnvironment(t *testing.T) {
	log.SetLogger(zap.New(zap.WriteTo(os.Stderr), zap.Level(zapcore.ErrorLevel)))
	s := runtime.NewScheme()
	must(t, clientgoscheme.AddToScheme(s))
	must(t, apiextensionsv1.AddToScheme(s))
	register(s)
	begin := time.Now()
	env := &envtest.Environment{Scheme: s, CRDs: []*apiextensionsv1.CustomResourceDefinition{definition()}, WebhookInstallOptions: webhooks()}
	config, err := env.Start()
	must(t, err)
	t.Cleanup(func() { must(t, env.Stop()) })
	t.Logf("ready after %v", time.Since(begin))

	mgr, err := ctrl.NewManager(config, ctrl.Options{Scheme: s, Metrics: server.Options{BindAddress: "0"}, LeaderElection: true, LeaderElectionID: "harbour", LeaderElectionNamespace: "default",
		WebhookServer: webhook.NewServer(webhook.Options{Host: env.WebhookInstallOptions.LocalServingHost, Port: env.WebhookInstallOptions.LocalServingPort, CertDir: env.WebhookInstallOptions.LocalServingCertDir})})
	must(t, err)
	h := harbour{mgr.GetClient()}
	must(t, ctrl.NewControllerManagedBy(mgr).For(&BoatV2{}).Owns(&corev1.ConfigMap{}).Complete(h))
	must(t, ctrl.NewWebhookManagedBy(mgr, &BoatV2{}).WithDefaulter(h).WithValidator(h).Complete())
	stop, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(stop) }()
	t.Cleanup(func() { cancel(); must(t, <-ended) })
	eventually(t, "the webhooks serve", func() bool { return mgr.GetWebhookServer().StartedChecker()(nil) == nil })

	c, err := client.New(config, client.Options{Scheme: s})
	must(t, err)
	key := client.ObjectKey{Namespace: "default", Name: "b"}
	old := &BoatV1{ObjectMeta: metav1.ObjectMeta{Name: "b", Namespace: "default"}}
	old.Spec.Crew = 3
	must(t, c.Create(ctx, old))
	var b BoatV2
	eventually(t, "the controller made it ready", func() bool { return c.Get(ctx, key, &b) == nil && b.Status.Ready })
	if b.Spec.Sailors != 3 || b.Spec.Name != "nameless" {
		t.Fatalf("not converted or not defaulted: %+v", b.Spec)
	}
	var papers corev1.ConfigMap
	must(t, c.Get(ctx, key, &papers))
	if papers.Data["sailors"] != "3" || !metav1.IsControlledBy(&papers, &b) {
		t.Fatalf("%+v", papers)
	}
	b.Spec.Sailors = 11
	err = c.Update(ctx, &b)
	if !apierrors.IsForbidden(err) {
		t.Fatalf("too many sailors: %v", err)
	}
	// The papers are made again, and follow.
	must(t, c.Delete(ctx, &papers))
	eventually(t, "the papers are there again", func() bool { return c.Get(ctx, key, &papers) == nil })
	must(t, c.Get(ctx, key, &b))
	changed := b.DeepCopyObject().(*BoatV2)
	changed.Spec.Sailors = 5
	must(t, c.Patch(ctx, changed, client.MergeFrom(&b)))
	eventually(t, "the papers follow", func() bool { return c.Get(ctx, key, &papers) == nil && papers.Data["sailors"] == "5" })
	must(t, c.Get(ctx, key, old))
	if old.Spec.Crew != 5 {
		t.Fatalf("%+v", old.Spec)
	}
	// The manager's client reads from its cache.
	var all BoatV2List
	eventually(t, "the cache has it", func() bool { return mgr.GetClient().List(ctx, &all) == nil && len(all.Items) == 1 && all.Items[0].Spec.Sailors == 5 })
	must(t, c.Delete(ctx, &b))
	eventually(t, "the boat is gone", func() bool { return apierrors.IsNotFound(c.Get(ctx, key, &b)) })

	// Another user, by the environment's own authority.
	user, err := env.AddUser(envtest.User{Name: "jane", Groups: []string{"people"}}, nil)
	must(t, err)
	jane, err := client.New(user.Config(), client.Options{Scheme: s})
	must(t, err)
	if err := jane.List(ctx, &all); !apierrors.IsForbidden(err) {
		t.Fatalf("jane may list boats: %v", err)
	}
}
