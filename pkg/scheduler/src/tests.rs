//! The plugins one by one, over small clusters, and the texts of those that fit nowhere.

use crate::affinity::Affinity;
use crate::filters::{Candidate, Rejection, filter, unfit_message};
use crate::model::{Cluster, NodeInfo, PodInfo};
use crate::preempt;
use crate::queue::{Hint, Queue};
use crate::scores::score;
use crate::spread::Spread;
use crate::volumes::Claims;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use knarr_runner::Cache;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A node in a zone with 4 CPUs, 4 GiB and room for 10 pods.
fn node(name: &str, zone: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name, "labels": {"zone": zone, "kubernetes.io/hostname": name}},
        "spec": spec,
        "status": {"allocatable": {"cpu": "4", "memory": "4Gi", "pods": "10"}}})
}

fn pod(name: &str, spec: Value) -> Arc<PodInfo> {
    let mut s = json!({"containers": [{"name": "c", "image": "i"}]});
    for (k, v) in spec.as_object().unwrap() {
        s[k] = v.clone();
    }
    let p = json!({"metadata": {"name": name, "namespace": "d", "uid": name,
        "labels": {"app": name.split('-').next()}}, "spec": s});
    Arc::new(PodInfo::new(Arc::new(serde_json::from_value(p).unwrap())))
}

fn asking(name: &str, cpu: &str, priority: i32) -> Arc<PodInfo> {
    pod(
        name,
        json!({"priority": priority, "containers": [
        {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}),
    )
}

fn cluster(nodes: &[Value], placed: &[(&Arc<PodInfo>, &str)]) -> Cluster {
    let mut c = Cluster::default();
    for n in nodes {
        c.set_node(Arc::new(serde_json::from_value(n.clone()).unwrap()));
    }
    for (p, n) in placed {
        c.place((*p).clone(), n);
    }
    c
}

fn namespaces() -> Cache<Namespace> {
    let n = json!({"metadata": {"name": "d", "labels": {"team": "x"}}});
    Cache::of([serde_json::from_value(n).unwrap()])
}

fn candidate<'a>(p: &'a PodInfo, c: &Cluster) -> Candidate<'a> {
    Candidate {
        info: p,
        affinity: Affinity::new(p, c, &namespaces()),
        spread: Spread::new(p, c),
        claims: Claims::default(),
    }
}

fn rejections(p: &PodInfo, c: &Cluster) -> Vec<(String, Rejection)> {
    let q = candidate(p, c);
    let check = |n: &NodeInfo| filter(&q, n, &[]).err().map(|r| (n.name().to_owned(), r));
    c.known().filter_map(check).collect()
}

/// The nodes that a pod fits on.
fn fitting(p: &PodInfo, c: &Cluster) -> Vec<String> {
    let no: HashSet<String> = rejections(p, c).into_iter().map(|(n, _)| n).collect();
    c.known()
        .map(|n| n.name().to_owned())
        .filter(|n| !no.contains(n))
        .collect()
}

fn text(p: &PodInfo, c: &Cluster) -> String {
    unfit_message(c.known().count(), &rejections(p, c), None, "")
}

fn two() -> [Value; 2] {
    [node("a", "east", json!({})), node("b", "west", json!({}))]
}

#[test]
fn unschedulable_and_tainted_nodes() {
    let nodes = [
        node("a", "east", json!({"unschedulable": true})),
        node(
            "b",
            "west",
            json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}),
        ),
    ];
    let c = cluster(&nodes, &[]);
    let plain = pod("p", json!({}));
    assert_eq!(
        text(&plain, &c),
        "0/2 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable."
    );
    let tolerant = pod(
        "p",
        json!({"tolerations": [{"key": "k", "operator": "Exists"}]}),
    );
    assert_eq!(fitting(&tolerant, &c), ["b"]);
    let all = pod("p", json!({"tolerations": [{"operator": "Exists"}]}));
    assert_eq!(fitting(&all, &c), ["a", "b"]);
}

#[test]
fn node_selectors_and_affinity() {
    let c = cluster(&two(), &[]);
    assert_eq!(
        fitting(&pod("p", json!({"nodeSelector": {"zone": "west"}})), &c),
        ["b"]
    );
    let affine = |op: &str, v: &[&str]| {
        pod(
            "p",
            json!({"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "zone", "operator": op, "values": v}]}]}}}}),
        )
    };
    assert_eq!(fitting(&affine("NotIn", &["west"]), &c), ["a"]);
    let nowhere = affine("In", &["north"]);
    assert_eq!(
        text(&nowhere, &c),
        "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
    );
}

#[test]
fn resources_and_counts() {
    let big = asking("big", "3", 0);
    let c = cluster(&two(), &[(&big, "a")]);
    assert_eq!(fitting(&asking("p", "1", 0), &c), ["a", "b"]);
    assert_eq!(fitting(&asking("p", "2", 0), &c), ["b"]);
    assert_eq!(
        text(&asking("p", "5", 0), &c),
        "0/2 nodes are available: 2 Insufficient cpu."
    );
    let seat = pod(
        "p",
        json!({"containers": [
        {"name": "c", "resources": {"requests": {"example.org/seat": "1"}}}]}),
    );
    assert_eq!(
        text(&seat, &c),
        "0/2 nodes are available: 2 Insufficient example.org/seat."
    );
    let many: Vec<_> = (0..10).map(|i| pod(&format!("x-{i}"), json!({}))).collect();
    let placed: Vec<_> = many.iter().map(|p| (p, "a")).collect();
    let c = cluster(&two()[..1], &placed);
    assert_eq!(
        text(&pod("p", json!({})), &c),
        "0/1 nodes are available: 1 Too many pods."
    );
}

#[test]
fn init_containers_count_by_their_greatest() {
    let p = pod(
        "p",
        json!({
        "initContainers": [
            {"name": "once", "resources": {"requests": {"cpu": "3"}}},
            {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}}],
        "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}),
    );
    assert_eq!(p.requests.cpu, 3000);
}

#[test]
fn host_ports() {
    let port = |name: &str, ip: &str| {
        pod(
            name,
            json!({"containers": [{"name": "c", "ports": [
            {"containerPort": 80, "hostPort": 80, "hostIP": ip, "protocol": "TCP"}]}]}),
        )
    };
    let have = port("have", "127.0.0.1");
    let c = cluster(&two(), &[(&have, "a")]);
    assert_eq!(fitting(&port("p", "127.0.0.1"), &c), ["b"]);
    assert_eq!(fitting(&port("p", ""), &c), ["b"]);
    assert_eq!(fitting(&port("p", "127.0.0.2"), &c), ["a", "b"]);
    let r = rejections(&port("p", ""), &c);
    assert_eq!(
        r[0].1.reasons,
        ["node(s) didn't have free ports for the requested pod ports"]
    );
    assert!(r[0].1.preemptible);
}

fn affinity(kind: &str, key: &str, app: &str) -> Value {
    json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}}]}}})
}

#[test]
fn affinity_and_anti_affinity() {
    let db = pod("db", json!({}));
    let c = cluster(&two(), &[(&db, "a")]);
    let near = pod("web", affinity("podAffinity", "zone", "db"));
    assert_eq!(fitting(&near, &c), ["a"]);
    assert_eq!(
        rejections(&near, &c)[0].1.reasons,
        ["node(s) didn't match pod affinity rules"]
    );
    let far = pod("web", affinity("podAntiAffinity", "zone", "db"));
    assert_eq!(fitting(&far, &c), ["b"]);
    assert_eq!(
        rejections(&far, &c)[0].1.reasons,
        ["node(s) didn't match pod anti-affinity rules"]
    );
    // The first of a group that wants to be together may be anywhere; others may not.
    let c = cluster(&two(), &[]);
    assert_eq!(
        fitting(&pod("web", affinity("podAffinity", "zone", "web")), &c),
        ["a", "b"]
    );
    assert!(fitting(&near, &c).is_empty());
}

#[test]
fn a_placed_pod_repels() {
    let lonely = pod("lonely", affinity("podAntiAffinity", "zone", "web"));
    let c = cluster(&two(), &[(&lonely, "a")]);
    let web = pod("web", json!({}));
    assert_eq!(fitting(&web, &c), ["b"]);
    assert_eq!(
        rejections(&web, &c)[0].1.reasons,
        ["node(s) didn't satisfy existing pods anti-affinity rules"]
    );
    assert_eq!(fitting(&pod("other", json!({})), &c), ["a", "b"]);
}

fn spread(max_skew: i32, when: &str, more: Value) -> Value {
    let mut t = json!({"maxSkew": max_skew, "topologyKey": "zone", "whenUnsatisfiable": when,
        "labelSelector": {"matchLabels": {"app": "web"}}});
    for (k, v) in more.as_object().unwrap() {
        t[k] = v.clone();
    }
    json!({"topologySpreadConstraints": [t]})
}

#[test]
fn topology_spread() {
    let (one, two_) = (pod("web-1", json!({})), pod("web-2", json!({})));
    let c = cluster(&two(), &[(&one, "a")]);
    let hard = |n, more| pod("web-3", spread(n, "DoNotSchedule", more));
    assert_eq!(fitting(&hard(1, json!({})), &c), ["b"]);
    assert_eq!(fitting(&hard(2, json!({})), &c), ["a", "b"]);
    assert_eq!(
        rejections(&hard(1, json!({})), &c)[0].1.reasons,
        ["node(s) didn't match pod topology spread constraints"]
    );
    // Fewer domains than wanted count as an empty one.
    let c = cluster(&two(), &[(&one, "a"), (&two_, "b")]);
    assert!(fitting(&hard(1, json!({"minDomains": 3})), &c).is_empty());
    let mut bare = node("bare", "", json!({}));
    bare["metadata"]["labels"] = json!({});
    let c = cluster(&[bare], &[]);
    assert_eq!(
        rejections(&hard(1, json!({})), &c)[0].1.reasons,
        ["node(s) didn't match pod topology spread constraints (missing required label)"]
    );
}

fn best(p: &PodInfo, c: &Cluster) -> String {
    let nodes: Vec<&NodeInfo> = c.known().collect();
    let scored = score(&candidate(p, c), &nodes);
    let at = (0..nodes.len()).max_by_key(|i| scored[*i].1).unwrap();
    nodes[at].name().to_owned()
}

#[test]
fn scores() {
    let busy = asking("busy", "3", 0);
    let c = cluster(&two(), &[(&busy, "a")]);
    assert_eq!(best(&asking("p", "500m", 0), &c), "b", "the emptier node");
    let prefer = pod(
        "p",
        json!({"affinity": {"nodeAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference":
            {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["west"]}]}}]}}}),
    );
    let c = cluster(&two(), &[]);
    assert_eq!(best(&prefer, &c), "b");
    let soft = json!({"taints": [{"key": "k", "effect": "PreferNoSchedule"}]});
    let c = cluster(
        &[node("a", "east", soft), node("b", "west", json!({}))],
        &[],
    );
    assert_eq!(best(&pod("p", json!({})), &c), "b");
    let web = pod("web-1", json!({}));
    let c = cluster(&two(), &[(&web, "a")]);
    assert_eq!(
        best(&pod("web-2", spread(1, "ScheduleAnyway", json!({}))), &c),
        "b"
    );
}

#[test]
fn preemption_takes_the_least() {
    let (low, lower, high) = (
        asking("low", "3", 10),
        asking("lower", "3", 5),
        asking("vip", "2", 100),
    );
    let c = cluster(&two(), &[(&low, "a"), (&lower, "b")]);
    let budgets: Cache<PodDisruptionBudget> = Cache::of([]);
    let q = candidate(&high, &c);
    let v = preempt::find(&q, &c, &rejections(&high, &c), &budgets, &namespaces()).unwrap();
    assert_eq!(v.node, "b", "the less important victim");
    assert_eq!(v.pods.len(), 1);
    // A budget without room makes its pods the last choice.
    let b = json!({"metadata": {"name": "b", "namespace": "d", "uid": "b"},
        "spec": {"selector": {"matchLabels": {"app": "lower"}}},
        "status": {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1,
            "expectedPods": 1}});
    let budgets = Cache::of([serde_json::from_value(b).unwrap()]);
    let v = preempt::find(&q, &c, &rejections(&high, &c), &budgets, &namespaces()).unwrap();
    assert_eq!(v.node, "a");
    let equal = asking("p", "2", 5);
    let q = candidate(&equal, &cluster(&two(), &[]));
    let only = cluster(&two()[1..], &[(&lower, "b")]);
    assert!(
        preempt::find(
            &q,
            &only,
            &rejections(&equal, &only),
            &budgets,
            &namespaces()
        )
        .is_none()
    );
    let never = pod("p", json!({"priority": 100, "preemptionPolicy": "Never"}));
    assert_eq!(
        preempt::eligible(&never, &c),
        Err("not eligible due to preemptionPolicy=Never.")
    );
}

#[test]
fn only_what_can_help_wakes_a_pod() {
    let mut q = Queue::default();
    let t0 = Instant::now();
    let p = pod("p", json!({}));
    q.put(p.clone(), t0, false);
    let reject = |q: &mut Queue, at: Instant, by: &'static str| {
        assert!(q.pop(at).is_some());
        let cycle = q.cycle;
        q.reject("p", [by].into(), cycle, at);
    };
    reject(&mut q, t0, "NodeAffinity");
    q.hint(Hint::PodGone, t0);
    q.hint(Hint::PodPlaced, t0);
    q.hint(Hint::Volume, t0);
    let later = t0 + Duration::from_secs(60);
    assert!(
        q.pop(later).is_none(),
        "none of that concerns a node's labels"
    );
    q.hint(Hint::Node, later);
    reject(&mut q, later, "VolumeBinding");
    // Backoff: the second attempt waits two seconds.
    q.hint(Hint::Volume, later);
    assert!(q.pop(later + Duration::from_millis(1900)).is_none());
    assert!(q.pop(later + Duration::from_millis(2100)).is_some());
}

#[test]
fn gates_hold_and_importance_leads() {
    let mut q = Queue::default();
    let now = Instant::now();
    q.put(
        pod("gated", json!({"schedulingGates": [{"name": "g"}]})),
        now,
        false,
    );
    q.hint(Hint::Node, now);
    assert!(q.pop(now).is_none());
    q.put(pod("low", json!({"priority": 1})), now, false);
    q.put(pod("high", json!({"priority": 2})), now, false);
    assert_eq!(q.pop(now).unwrap().info.uid(), "high");
    q.put(pod("gated", json!({"priority": 9})), now, true);
    assert_eq!(q.pop(now).unwrap().info.uid(), "gated");
    assert_eq!(q.pop(now).unwrap().info.uid(), "low");
    assert_eq!(q.next_timer(), None, "nothing to wait for");
}
