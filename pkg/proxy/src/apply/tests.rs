//! Real transactions and real sockets in namespaces of our own.

use super::*;
use knarr_network::testing::Netns;
use knarr_network::{AddRequest, Bandwidth, Bridge};
use serde_json::json;
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

struct Node2 {
    host: Netns,
    pods: Vec<(Netns, IpAddr)>,
    applier: Arc<Mutex<Applier>>,
    dir: PathBuf,
}

impl Drop for Node2 {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A node with pods; each answers TCP 80 with its number and a blank and the peer's address, and
/// UDP 53 with its number.
fn node(test: &str, pods: usize) -> Option<Node2> {
    let host = Netns::new()?;
    let dir = std::env::temp_dir().join(format!("knarr-proxy-{test}-{}", std::process::id()));
    let cfg = knarr_network::Config { mtu: 1500, ..knarr_network::Config::new(&dir) };
    let bridge = Arc::new(host.run(move || Bridge::open(cfg).unwrap()));
    let mut list = Vec::new();
    for i in 0..pods {
        let pod = Netns::new()?;
        let (b, path) = (bridge.clone(), pod.path().to_owned());
        let id = format!("p{i}");
        let at = host.run(move || {
            let (sandbox_id, netns, namespace, name) = (id.as_str(), path.as_path(), "d", "n");
            let (host_ports, bandwidth) = (vec![], Bandwidth::default());
            b.add(AddRequest { sandbox_id, netns, namespace, name, host_ports, bandwidth }).unwrap()
        });
        pod.run(move || serve(i));
        list.push((pod, at.ips[0]));
    }
    let applier = host.run(|| {
        let mut cfg = Config::new("me", vec![[10, 244, 0, 1].into()], "10.244.0.0/16");
        cfg.table = "knarr".into();
        Applier::new(&cfg).unwrap()
    });
    Some(Node2 { host, pods: list, applier: Arc::new(Mutex::new(applier)), dir })
}

fn serve(i: usize) {
    let l = TcpListener::bind("0.0.0.0:80").unwrap();
    std::thread::spawn(move || {
        for c in l.incoming() {
            let mut c = c.unwrap();
            let peer = c.peer_addr().unwrap().ip();
            c.write_all(format!("{i} {peer}").as_bytes()).unwrap();
        }
    });
    let u = UdpSocket::bind("0.0.0.0:53").unwrap();
    std::thread::spawn(move || {
        let mut b = [0; 8];
        while let Ok((_, from)) = u.recv_from(&mut b) {
            u.send_to(i.to_string().as_bytes(), from).unwrap();
        }
    });
}

fn dial(to: &str) -> std::io::Result<String> {
    let to: SocketAddr = to.parse().unwrap();
    let mut c = TcpStream::connect_timeout(&to, Duration::from_millis(700))?;
    c.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut s = String::new();
    c.read_to_string(&mut s)?;
    Ok(s)
}

fn service(spec: serde_json::Value) -> Option<Arc<Service>> {
    let o = json!({"metadata": {"namespace": "ns", "name": "web"}, "spec": spec});
    Some(Arc::new(serde_json::from_value(o).unwrap()))
}

fn web(more: serde_json::Value) -> Option<Arc<Service>> {
    let mut spec = json!({"clusterIP": "10.96.0.7", "ports": [
        {"name": "http", "port": 8080, "nodePort": 30080},
        {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053}]});
    for (k, v) in more.as_object().unwrap() {
        spec[k] = v.clone();
    }
    service(spec)
}

/// A slice of these addresses, each with the node's name and extra conditions.
fn slice(endpoints: &[(IpAddr, &str, serde_json::Value)]) -> Vec<Arc<EndpointSlice>> {
    let list: Vec<_> = endpoints
        .iter()
        .map(|(ip, node, c)| json!({"addresses": [ip], "nodeName": node, "conditions": c}))
        .collect();
    let o = json!({"metadata": {"namespace": "ns", "name": "web-1"}, "addressType": "IPv4",
        "endpoints": list, "ports": [
            {"name": "http", "port": 80, "protocol": "TCP"},
            {"name": "dns", "port": 53, "protocol": "UDP"}]});
    vec![Arc::new(serde_json::from_value(o).unwrap())]
}

impl Node2 {
    fn set(&self, service: Option<Arc<Service>>, slices: Vec<Arc<EndpointSlice>>) -> Duration {
        self.set_many(vec![Change { key: "ns/web".into(), service, slices }])
    }

    fn set_many(&self, changes: Vec<Change>) -> Duration {
        let a = self.applier.clone();
        self.host.run(move || {
            let t = Instant::now();
            let mut a = a.lock().unwrap();
            a.apply(&changes).unwrap();
            let took = t.elapsed();
            assert_eq!(a.rebuilds, 1, "only the first change makes the table anew");
            a.settle();
            took
        })
    }

    fn on(&self, pods: &[usize]) -> Vec<Arc<EndpointSlice>> {
        let list: Vec<_> = pods.iter().map(|i| (self.pods[*i].1, "me", json!({}))).collect();
        slice(&list)
    }

    fn from_host(&self, to: &'static str) -> std::io::Result<String> {
        self.host.run(move || dial(to))
    }

    fn from_pod(&self, i: usize, to: &'static str) -> std::io::Result<String> {
        self.pods[i].0.run(move || dial(to))
    }
}

const VIP: &str = "10.96.0.7:8080";

fn kind(r: std::io::Result<String>) -> Result<String, ErrorKind> {
    r.map_err(|e| e.kind())
}

#[test]
fn a_service_answers_everywhere_and_follows_its_endpoints() {
    let Some(n) = node("cluster", 3) else { return };
    n.set(web(json!({"type": "NodePort"})), vec![]);
    // Nothing behind it: refused at once, also on a port it does not have.
    let t = Instant::now();
    assert_eq!(kind(n.from_host(VIP)), Err(ErrorKind::ConnectionRefused));
    assert_eq!(kind(n.from_pod(0, VIP)), Err(ErrorKind::ConnectionRefused));
    assert_eq!(kind(n.from_pod(0, "10.244.0.1:30080")), Err(ErrorKind::ConnectionRefused));
    let took = n.set(web(json!({"type": "NodePort"})), n.on(&[0, 1]));
    assert_eq!(kind(n.from_pod(0, "10.96.0.7:9")), Err(ErrorKind::ConnectionRefused));
    assert!(t.elapsed() < Duration::from_millis(600), "{:?}", t.elapsed());
    eprintln!("programmed in {took:?}");

    let seen: BTreeSet<String> = (0..40)
        .map(|_| n.from_pod(2, VIP).unwrap().split(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(seen, BTreeSet::from(["0".into(), "1".into()]), "both, and nobody else");
    let ip2 = n.pods[2].1.to_string();
    assert!(n.from_pod(2, VIP).unwrap().ends_with(&ip2), "the client's address is kept");
    assert!(n.from_host(VIP).unwrap().ends_with("10.244.0.1"));
    for to in ["10.244.0.1:30080", "127.0.0.1:30080"] {
        assert!(n.from_host(to).is_ok(), "{to}");
    }
    assert!(n.from_pod(2, "10.244.0.1:30080").is_ok());

    // To itself.
    n.set(web(json!({"type": "NodePort"})), n.on(&[0]));
    assert_eq!(n.from_pod(0, VIP).unwrap(), "0 10.244.0.1");
    assert!(n.from_pod(0, "10.244.0.1:30080").unwrap().starts_with("0 "));

    // No longer a node port; then nothing at all.
    n.set(web(json!({})), n.on(&[1]));
    assert!(n.from_host("10.244.0.1:30080").is_err());
    assert!(n.from_host(VIP).unwrap().starts_with("1 "));
    n.set(None, vec![]);
    assert!(n.from_host(VIP).is_err());
    assert_eq!(n.applier.lock().unwrap().table.len(), 0);
}

#[test]
fn ending_endpoints_serve_when_no_other_does() {
    let Some(n) = node("ending", 2) else { return };
    let (a, b) = (n.pods[0].1, n.pods[1].1);
    let ending = json!({"ready": false, "serving": true, "terminating": true});
    n.set(web(json!({})), slice(&[(a, "me", ending.clone()), (b, "me", json!({}))]));
    assert!((0..10).all(|_| n.from_host(VIP).unwrap().starts_with("1 ")));
    let not_ready = json!({"ready": false});
    n.set(web(json!({})), slice(&[(a, "me", ending), (b, "me", not_ready)]));
    assert!((0..10).all(|_| n.from_host(VIP).unwrap().starts_with("0 ")));
}

#[test]
fn clients_stay_with_their_endpoint() {
    let Some(n) = node("affinity", 3) else { return };
    let sticky = json!({"type": "NodePort", "sessionAffinity": "ClientIP"});
    n.set(web(sticky.clone()), n.on(&[0, 1]));
    let first = n.from_pod(2, VIP).unwrap();
    assert!((0..20).all(|_| n.from_pod(2, VIP).unwrap() == first));
    // Another endpoint comes: no move. Its own goes: a move, and then again none.
    n.set(web(sticky.clone()), n.on(&[0, 1, 2]));
    assert!((0..20).all(|_| n.from_pod(2, VIP).unwrap() == first));
    let other = if first.starts_with('0') { 1 } else { 0 };
    n.set(web(sticky), n.on(&[other]));
    let second = n.from_pod(2, VIP).unwrap();
    assert!(second.starts_with(&other.to_string()));
    // And off again.
    n.set(web(json!({})), n.on(&[0, 1]));
    let seen: BTreeSet<String> = (0..40).map(|_| n.from_pod(2, VIP).unwrap()).collect();
    assert_eq!(seen.len(), 2);
}

#[test]
fn policies_keep_to_the_node() {
    let Some(n) = node("policy", 3) else { return };
    let (a, b) = (n.pods[0].1, n.pods[1].1);
    let mixed = || slice(&[(a, "me", json!({})), (b, "other", json!({}))]);
    let elsewhere = || slice(&[(b, "other", json!({}))]);
    let local = web(json!({"internalTrafficPolicy": "Local"}));
    n.set(local.clone(), mixed());
    assert!((0..20).all(|_| n.from_pod(2, VIP).unwrap().starts_with("0 ")));
    n.set(local, elsewhere());
    assert_eq!(kind(n.from_pod(2, VIP)), Err(ErrorKind::TimedOut), "dropped");
    // Outside traffic with Local: the node itself and pods see every endpoint.
    let external = web(json!({"type": "NodePort", "externalTrafficPolicy": "Local"}));
    n.set(external.clone(), elsewhere());
    assert!(n.from_host("10.244.0.1:30080").unwrap().starts_with("1 "));
    assert!(n.from_pod(2, "10.244.0.1:30080").unwrap().starts_with("1 "));
    n.set(external, mixed());
    assert!(n.from_host(VIP).is_ok());
}

#[test]
fn node_ports_answer_the_world() {
    let Some(n) = node("world", 2) else { return };
    let world = n.host.neighbour().unwrap();
    let dial_in = || world.run(|| dial("192.168.9.1:30080"));
    n.set(web(json!({"type": "NodePort"})), n.on(&[0]));
    assert_eq!(dial_in().unwrap(), "0 10.244.0.1", "by way of this node and back");
    let local = json!({"type": "NodePort", "externalTrafficPolicy": "Local"});
    n.set(web(local.clone()), n.on(&[0]));
    assert_eq!(dial_in().unwrap(), "0 192.168.9.2", "the client's address is kept");
    n.set(web(local), slice(&[(n.pods[0].1, "other", json!({}))]));
    assert_eq!(kind(dial_in()), Err(ErrorKind::TimedOut), "not by way of us");
    n.set(web(json!({"type": "NodePort"})), vec![]);
    assert_eq!(kind(dial_in()), Err(ErrorKind::ConnectionRefused));
    // A pod's own port is no service of the world's.
    n.set(None, vec![]);
    assert_eq!(kind(dial_in()), Err(ErrorKind::ConnectionRefused));
}

#[test]
fn the_kernel_takes_rules_of_both_families() {
    let Some(n) = node("dual", 1) else { return };
    let spec = json!({"type": "LoadBalancer", "clusterIP": "10.96.0.7",
        "clusterIPs": ["10.96.0.7", "fd00:96::7"], "sessionAffinity": "ClientIP",
        "externalTrafficPolicy": "Local", "externalIPs": ["fd00:9::1", "192.0.2.50"],
        "loadBalancerSourceRanges": ["fd00::/8", "10.0.0.0/8"]});
    let Some(svc) = web(spec) else { return };
    let mut svc = Service::clone(&svc);
    let ingress = json!({"loadBalancer": {"ingress": [{"ip": "fd00:9::2"}, {"ip": "192.0.2.51"}]}});
    svc.status = serde_json::from_value(ingress).unwrap();
    let six = json!({"metadata": {"namespace": "ns", "name": "web-6"}, "addressType": "IPv6",
        "endpoints": [{"addresses": ["fd00:244::2"], "nodeName": "me"},
            {"addresses": ["fd00:244::3"], "nodeName": "other"}],
        "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]});
    let mut slices = n.on(&[0]);
    slices.push(Arc::new(serde_json::from_value(six).unwrap()));
    n.set(None, vec![]);
    n.set(Some(Arc::new(svc.clone())), slices.clone());
    slices.pop();
    n.set(Some(Arc::new(svc)), slices);
    assert!(n.from_pod(0, "192.0.2.51:8080").is_ok());
    n.set(None, vec![]);
}

#[test]
fn external_addresses_answer() {
    let Some(n) = node("external", 2) else { return };
    let spec = json!({"externalIPs": ["192.0.2.50"]});
    n.set(web(spec), n.on(&[0]));
    assert!(n.from_pod(1, "192.0.2.50:8080").unwrap().starts_with("0 10.244.0.1"));
}

#[test]
fn udp_clients_move_when_their_backend_goes() {
    let Some(n) = node("udp", 3) else { return };
    let ask = |s: &UdpSocket, to: (Ipv4Addr, u16)| {
        s.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
        s.send_to(b"?", to)?;
        let mut b = [0; 8];
        let (len, _) = s.recv_from(&mut b)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&b[..len]).into_owned())
    };
    let vip = (Ipv4Addr::new(10, 96, 0, 7), 53);
    let node_port = (Ipv4Addr::new(10, 244, 0, 1), 30053);
    let spec = json!({"type": "NodePort"});
    let new = |n: &Node2| n.pods[2].0.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    // Sent before there is anything behind it: the flow is forgotten with the first endpoint.
    let (early, s, t) = (new(&n), new(&n), new(&n));
    n.set(web(spec.clone()), vec![]);
    assert!(ask(&early, vip).is_err());
    n.set(web(spec.clone()), n.on(&[0]));
    assert_eq!(ask(&early, vip).unwrap(), "0");
    assert_eq!(ask(&s, vip).unwrap(), "0");
    assert_eq!(ask(&t, node_port).unwrap(), "0");
    n.set(web(spec), n.on(&[1]));
    assert_eq!(ask(&s, vip).unwrap(), "1");
    assert_eq!(ask(&t, node_port).unwrap(), "1");
}

#[test]
fn the_next_life_takes_over_and_a_lost_table_comes_back() {
    let Some(n) = node("takeover", 2) else { return };
    n.set(web(json!({})), n.on(&[0]));
    let next = n.host.run(|| {
        let cfg = Config::new("me", vec![], "10.244.0.0/16");
        Arc::new(Mutex::new(Applier::new(&cfg).unwrap()))
    });
    assert!(n.from_host(VIP).is_ok(), "until it knows");
    let changes =
        vec![Change { key: "ns/web".into(), service: web(json!({})), slices: n.on(&[1]) }];
    let a = next.clone();
    n.host.run(move || a.lock().unwrap().apply(&changes).unwrap());
    assert!((0..10).all(|_| n.from_host(VIP).unwrap().starts_with("1 ")));
    // Someone flushes it all.
    n.host.run(|| remove("knarr").unwrap());
    let changes =
        vec![Change { key: "ns/web".into(), service: web(json!({})), slices: n.on(&[0]) }];
    n.host.run(move || next.lock().unwrap().apply(&changes).unwrap());
    assert!(n.from_host(VIP).unwrap().starts_with("0 "));
    n.host.run(|| remove("knarr").unwrap());
}

#[test]
fn many_services_are_one_transaction() {
    let Some(n) = node("many", 2) else { return };
    let change = |i: u32, pods: &[usize]| {
        let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 97, 0, 0)) + i);
        let spec = json!({"clusterIP": ip, "ports": [{"name": "http", "port": 8080}]});
        Change { key: format!("ns/s{i}"), service: service(spec), slices: n.on(pods) }
    };
    let took = n.set_many((1..2001).map(|i| change(i, &[0, 1])).collect());
    eprintln!("2000 services made in {took:?}");
    let took = n.set_many(vec![change(77, &[1])]);
    eprintln!("one of 2000 changed in {took:?}");
    assert!(n.from_pod(0, "10.97.0.77:8080").unwrap().starts_with("1 "));
    assert!(took < Duration::from_millis(200), "{took:?}");
}
