package client

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// Counts requests by what they are.
type counting struct {
	next        http.RoundTripper
	lists, ends atomic.Int64
}

func (c *counting) RoundTrip(r *http.Request) (*http.Response, error) {
	q := r.URL.Query()
	switch {
	case q.Get("sendInitialEvents") == "true":
		c.ends.Add(1)
	case r.Method == "GET" && q.Get("watch") == "" && strings.HasSuffix(r.URL.Path, "configmaps"):
		c.lists.Add(1)
	}
	return c.next.RoundTrip(r)
}

func TestInformers(t *testing.T) {
	for _, media := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		t.Run(media, func(t *testing.T) {
			c := config(t)
			c.ContentType, c.AcceptContentTypes = media, media
			seen := &counting{}
			c.Wrap(func(next http.RoundTripper) http.RoundTripper { seen.next = next; return seen })
			k, err := kubernetes.NewForConfig(c)
			must(t, err)
			maps := k.CoreV1().ConfigMaps(ns)
			const many = 50
			name := func(i int) string { return fmt.Sprintf("informed-%02d", i) }
			for i := range many {
				_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name(i), Labels: map[string]string{"informed": "1"}}}, metav1.CreateOptions{})
				must(t, err)
			}
			stop, cancel := context.WithCancel(ctx)
			defer cancel()
			f := informers.NewSharedInformerFactoryWithOptions(k, 0, informers.WithNamespace(ns), informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = "informed" }))
			var added, updated, deleted atomic.Int64
			_, err = f.Core().V1().ConfigMaps().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
				AddFunc:    func(any) { added.Add(1) },
				UpdateFunc: func(any, any) { updated.Add(1) },
				DeleteFunc: func(any) { deleted.Add(1) },
			})
			must(t, err)
			f.Start(stop.Done())
			for kind, ok := range f.WaitForCacheSync(stop.Done()) {
				check(t, ok, "%v is not in sync", kind)
			}
			eventually(t, "all are known", func() bool { return added.Load() == many })
			// By one watch, which begins with what is there.
			check(t, seen.ends.Load() == 1 && seen.lists.Load() == 0, "%d watches with initial events, %d lists", seen.ends.Load(), seen.lists.Load())
			for i := range many {
				m, err := f.Core().V1().ConfigMaps().Lister().ConfigMaps(ns).Get(name(i))
				must(t, err)
				m = m.DeepCopy()
				m.Data = map[string]string{"a": "b"}
				_, err = maps.Update(ctx, m, metav1.UpdateOptions{})
				must(t, err)
			}
			eventually(t, "all changes are known", func() bool { return updated.Load() == many })
			must(t, maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "informed"}))
			eventually(t, "all deletions are known", func() bool { return deleted.Load() == many })
			all, err := f.Core().V1().ConfigMaps().Lister().List(labels.Everything())
			must(t, err)
			check(t, len(all) == 0, "%d left", len(all))
		})
	}
}

func TestDynamicInformer(t *testing.T) {
	dyn, err := dynamic.NewForConfig(config(t))
	must(t, err)
	stop, cancel := context.WithCancel(ctx)
	defer cancel()
	f := dynamicinformer.NewFilteredDynamicSharedInformerFactory(dyn, 0, ns, nil)
	i := f.ForResource(schema.GroupVersionResource{Version: "v1", Resource: "secrets"})
	f.Start(stop.Done())
	f.WaitForCacheSync(stop.Done())
	k := typed(t, "application/json")
	_, err = k.CoreV1().Secrets(ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "seen"}}, metav1.CreateOptions{})
	must(t, err)
	eventually(t, "the secret is known", func() bool { _, err := i.Lister().ByNamespace(ns).Get("seen"); return err == nil })
}

func TestLeaderElection(t *testing.T) {
	k := typed(t, "application/json")
	var mu sync.Mutex
	var leaders []string
	elect := func(id string) context.CancelFunc {
		stop, cancel := context.WithCancel(ctx)
		lock := &resourcelock.LeaseLock{LeaseMeta: metav1.ObjectMeta{Name: "lead", Namespace: ns}, Client: k.CoordinationV1(), LockConfig: resourcelock.ResourceLockConfig{Identity: id}}
		go leaderelection.RunOrDie(stop, leaderelection.LeaderElectionConfig{Lock: lock, LeaseDuration: 4 * time.Second, RenewDeadline: 2 * time.Second, RetryPeriod: 200 * time.Millisecond,
			ReleaseOnCancel: true, Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) { mu.Lock(); leaders = append(leaders, id); mu.Unlock() },
				OnStoppedLeading: func() {},
			}})
		return cancel
	}
	many := func(n int) func() bool { return func() bool { mu.Lock(); defer mu.Unlock(); return len(leaders) == n } }
	first := elect("first")
	eventually(t, "the first leads", many(1))
	second := elect("second")
	defer second()
	time.Sleep(500 * time.Millisecond)
	check(t, many(1)(), "two lead at once: %v", leaders)
	first()
	eventually(t, "the second leads", many(2))
	mu.Lock()
	defer mu.Unlock()
	check(t, leaders[1] == "second", "%v", leaders)
}
