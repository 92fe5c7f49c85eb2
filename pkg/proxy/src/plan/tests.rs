use super::*;

fn port() -> ServicePort {
    ServicePort {
        service: "ns/web".into(),
        port_name: "http".into(),
        family: IpFamily::V4,
        protocol: Protocol::Tcp,
        port: 80,
        cluster_ip: "10.96.0.7".parse().unwrap(),
        external_ips: vec![],
        load_balancer_ips: vec![],
        source_ranges: vec![],
        node_port: None,
        internal_local: false,
        external_local: false,
        affinity: None,
        all: ["10.244.0.2:80", "10.244.1.2:80"].iter().map(|a| a.parse().unwrap()).collect(),
        local: BTreeSet::from(["10.244.0.2:80".parse().unwrap()]),
        here: BTreeSet::from(["10.244.0.2".parse().unwrap()]),
    }
}

fn element(p: &Plan, map: Map) -> Option<Verdict> {
    let mut all = p.elements.iter().filter(|((m, ..), _)| *m == map).map(|(_, v)| v.clone());
    let first = all.next().flatten();
    assert!(all.next().is_none());
    first
}

fn goes_to(v: Option<Verdict>, kind: &str) -> bool {
    matches!(v, Some(Verdict::Goto(c)) if c.starts_with(kind))
}

#[test]
fn a_cluster_service_is_one_chain_and_one_element() {
    let p = plan(&[port()], &[]);
    assert_eq!(p.chains.len(), 1);
    assert!(goes_to(element(&p, Map::Services), "svc-"));
    assert!(element(&p, Map::Dead).is_none());
    let key = ip_ip([10, 244, 0, 2].into(), [10, 244, 0, 2].into());
    assert!(p.elements.contains_key(&(Map::Hairpin, IpFamily::V4, key)));
}

#[test]
fn without_endpoints_it_rejects() {
    let mut sp = port();
    sp.all.clear();
    sp.local.clear();
    sp.node_port = Some(30080);
    let p = plan(&[sp], &[]);
    assert!(p.chains.is_empty());
    assert_eq!(element(&p, Map::Dead), Some(Verdict::Goto("reject".into())));
    assert_eq!(element(&p, Map::DeadNodePorts), Some(Verdict::Goto("reject".into())));
}

#[test]
fn a_local_policy_drops_where_only_others_have_endpoints() {
    let mut sp = port();
    sp.internal_local = true;
    assert!(goes_to(element(&plan(&[sp.clone()], &[]), Map::Services), "loc-"));
    sp.local.clear();
    let p = plan(&[sp.clone()], &[]);
    assert_eq!(element(&p, Map::Dead), Some(Verdict::Drop));
    assert!(p.chains.is_empty());

    sp.internal_local = false;
    sp.external_local = true;
    sp.node_port = Some(30080);
    let p = plan(&[sp], &[("10.244.0.0".parse().unwrap(), 16)]);
    assert_eq!(element(&p, Map::DeadNodePorts), Some(Verdict::Drop), "behind the rewriting");
    assert!(goes_to(element(&p, Map::NodePorts), "ext-"), "pods and the node see all");
}

#[test]
fn ranges_guard_the_load_balancer_only() {
    let mut sp = port();
    sp.load_balancer_ips = vec!["192.0.2.9".parse().unwrap()];
    sp.external_ips = vec!["192.0.2.8".parse().unwrap()];
    sp.source_ranges = vec![("198.51.100.0".parse().unwrap(), 24)];
    let p = plan(&[sp], &[]);
    let at = |ip: [u8; 4]| {
        let key = ip_proto_port(ip.into(), Protocol::Tcp, 80);
        p.elements[&(Map::Services, IpFamily::V4, key)].clone()
    };
    assert!(goes_to(at([192, 0, 2, 9]), "fw-"));
    assert!(goes_to(at([192, 0, 2, 8]), "ext-"));
}

#[test]
fn affinity_has_a_set_per_endpoint() {
    let mut sp = port();
    sp.affinity = Some(60);
    let p = plan(&[sp], &[]);
    assert_eq!(p.sets.len(), 2);
    assert_eq!(p.chains.len(), 3);
    assert!(p.sets.values().all(|s| s.timeout == Some(60)));
}

#[test]
fn long_names_stay_legal_and_apart() {
    let mut sp = port();
    sp.service = format!("{}/{}", "n".repeat(63), "s".repeat(63));
    let one = plan(&[sp.clone()], &[]);
    sp.port_name = "other".into();
    let two = plan(&[sp], &[]);
    let (a, b) = (one.chains.keys().next().unwrap(), two.chains.keys().next().unwrap());
    assert!(a.len() <= 100 && a != b);
}
