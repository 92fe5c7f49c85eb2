//! The bridge in namespaces of its own, with real sockets.
#![allow(clippy::unwrap_used, missing_docs)]

use knarr_network::netlink::Socket;
use knarr_network::testing::Netns;
use knarr_network::{AddRequest, Attachment, Bandwidth, Bridge, Config, HostPort, Protocol};
use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn config(dir: &Path) -> Config {
    Config {
        mtu: 1500,
        ..Config::new(dir)
    }
}

/// Answers every TCP connection with the peer's address, from inside the namespace.
fn serve_tcp(ns: &Netns, port: u16) {
    ns.run(move || {
        let l = TcpListener::bind(("0.0.0.0", port)).unwrap();
        std::thread::spawn(move || {
            for c in l.incoming() {
                let mut c = c.unwrap();
                let peer = c.peer_addr().unwrap().ip().to_string();
                c.write_all(peer.as_bytes()).unwrap();
            }
        });
    });
}

fn serve_udp(ns: &Netns, port: u16, name: &'static str) {
    ns.run(move || {
        let s = UdpSocket::bind(("0.0.0.0", port)).unwrap();
        std::thread::spawn(move || {
            let mut b = [0; 64];
            while let Ok((_, from)) = s.recv_from(&mut b) {
                s.send_to(name.as_bytes(), from).unwrap();
            }
        });
    });
}

fn dial(ip: IpAddr, port: u16) -> std::io::Result<String> {
    let mut c = TcpStream::connect_timeout(&SocketAddr::new(ip, port), Duration::from_secs(2))?;
    c.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut s = String::new();
    c.read_to_string(&mut s)?;
    Ok(s)
}

fn ask_udp(s: &UdpSocket, to: SocketAddr) -> std::io::Result<String> {
    s.set_read_timeout(Some(Duration::from_secs(2)))?;
    s.send_to(b"?", to)?;
    let mut b = [0; 64];
    let (n, _) = s.recv_from(&mut b)?;
    Ok(String::from_utf8_lossy(&b[..n]).into_owned())
}

fn add(
    host: &Netns,
    bridge: &Arc<Bridge>,
    id: &str,
    pod: &Netns,
    ports: Vec<HostPort>,
) -> Attachment {
    let (bridge, id, path) = (bridge.clone(), id.to_owned(), pod.path().to_owned());
    host.run(move || {
        bridge
            .add(AddRequest {
                sandbox_id: &id,
                netns: &path,
                namespace: "default",
                name: "p",
                host_ports: ports,
                bandwidth: Bandwidth::default(),
            })
            .unwrap()
    })
}

fn port(host_ip: Option<&str>, host: u16, container: u16, protocol: Protocol) -> HostPort {
    HostPort {
        host_ip: host_ip.map(|s| s.parse().unwrap()),
        host_port: host,
        container_port: container,
        protocol,
    }
}

fn links(ns: &Netns) -> Vec<String> {
    ns.run(|| {
        Socket::route()
            .unwrap()
            .links()
            .unwrap()
            .into_iter()
            .map(|l| l.name)
            .collect()
    })
}

/// What the host has: links, routes, settings.
fn picture(host: &Netns) -> String {
    host.run(|| {
        let mut s = Socket::route().unwrap();
        let mut out = format!("{:?}\n{:?}\n", s.links().unwrap(), s.routes().unwrap());
        let mut files = vec!["/proc/sys/net/ipv4/ip_forward".into()];
        for which in ["all", "default", "lo"] {
            let dir = format!("/proc/sys/net/ipv4/conf/{which}");
            files.extend(std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()));
        }
        files.sort();
        for f in files {
            out += &format!(
                "{} {}",
                f.display(),
                std::fs::read_to_string(&f).unwrap_or_default()
            );
        }
        out
    })
}

#[test]
fn a_check_finds_what_has_changed() {
    let (Some(host), Some(a)) = (Netns::new(), Netns::new()) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let cfg = config(dir.path());
    let bridge = Arc::new(host.run(move || Bridge::open(cfg).unwrap()));
    let check = |bridge: &Arc<Bridge>| {
        let bridge = bridge.clone();
        host.run(move || bridge.check("a").map_err(|e| e.to_string()))
    };
    assert_eq!(
        check(&bridge).unwrap_err(),
        "sandbox \"a\": it is not attached"
    );
    let made = add(&host, &bridge, "a", &a, Vec::new());
    check(&bridge).unwrap();
    let name = made.host_interface.clone();
    host.run(move || Socket::route().unwrap().delete_link(&name).unwrap());
    let gone = format!(
        "sandbox \"a\": its interface {} is gone",
        made.host_interface
    );
    assert_eq!(check(&bridge).unwrap_err(), gone);
    // Attaching again repairs it.
    add(&host, &bridge, "a", &a, Vec::new());
    check(&bridge).unwrap();
}

#[test]
fn nothing_stays_behind() {
    let (Some(host), Some(a)) = (Netns::new(), Netns::new()) else {
        return;
    };
    let world = host.neighbour().unwrap();
    host.run(|| std::fs::write("/proc/sys/net/ipv4/conf/all/accept_redirects", "0").unwrap());
    let before = picture(&host);
    let dir = tempfile::tempdir().unwrap();
    let cfg = config(dir.path());
    for _ in 0..2 {
        let c = cfg.clone();
        let bridge = Arc::new(host.run(move || Bridge::open(c).unwrap()));
        add(
            &host,
            &bridge,
            "a",
            &a,
            vec![port(None, 80, 80, Protocol::Tcp)],
        );
        host.run(move || {
            let peer = |c: &str, ip: [u8; 4]| knarr_network::Peer {
                pod_cidr: c.into(),
                node_ip: ip.into(),
            };
            let gateways = || {
                let all = Socket::route().unwrap().routes().unwrap();
                all.into_iter()
                    .filter_map(|(r, _)| Some((r.dst, r.gateway?)))
                    .collect::<Vec<_>>()
            };
            let there = [192, 168, 9, 2];
            bridge
                .set_peers(&[
                    peer("10.244.0.0/24", [192, 168, 9, 1]),
                    peer("10.244.7.0/24", there),
                ])
                .unwrap();
            assert_eq!(gateways(), [([10, 244, 7, 0].into(), there.into())]);
            bridge.set_peers(&[peer("10.244.8.0/24", there)]).unwrap();
            assert_eq!(gateways(), [([10, 244, 8, 0].into(), there.into())]);
        });
        assert_ne!(before, picture(&host));
    }
    host.run(move || Bridge::remove_all(&cfg).unwrap());
    assert_eq!(before, picture(&host));
    assert!(!dir.path().exists());
    drop(world);
}

#[test]
fn many_at_once_are_quick_and_apart() {
    const PODS: usize = 30;
    let Some(host) = Netns::new() else { return };
    let dir = tempfile::tempdir().unwrap();
    let c = config(dir.path());
    let bridge = Arc::new(host.run(move || Bridge::open(c).unwrap()));
    let pods: Vec<Netns> = (0..PODS).map(|_| Netns::new().unwrap()).collect();
    let paths: Vec<_> = pods.iter().map(|p| p.path().to_owned()).collect();
    let br = bridge.clone();
    let (ips, adding, deleting) = host.run(move || {
        let start = Instant::now();
        let ips: HashSet<IpAddr> = std::thread::scope(|s| {
            let one = |(i, netns): (usize, &std::path::PathBuf)| {
                let (br, netns) = (br.clone(), netns.clone());
                s.spawn(move || {
                    let id = format!("s{i}");
                    let (sandbox_id, namespace, name) = (id.as_str(), "d", "n");
                    let (host_ports, bandwidth) = (vec![], Bandwidth::default());
                    let netns = netns.as_path();
                    br.add(AddRequest {
                        sandbox_id,
                        netns,
                        namespace,
                        name,
                        host_ports,
                        bandwidth,
                    })
                    .unwrap()
                    .ips[0]
                })
            };
            let all: Vec<_> = paths.iter().enumerate().map(one).collect();
            all.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let adding = start.elapsed();
        let start = Instant::now();
        std::thread::scope(|s| {
            for i in 0..PODS {
                let br = &br;
                s.spawn(move || br.del(&format!("s{i}")).unwrap());
            }
        });
        let deleting = start.elapsed();
        let links = Socket::route().unwrap().links().unwrap();
        assert!(links.iter().all(|l| l.kind != "veth"));
        (ips, adding, deleting)
    });
    eprintln!("{PODS} added in {adding:?}, deleted in {deleting:?}");
    assert_eq!(ips.len(), PODS);
    let status = {
        let b = bridge.clone();
        host.run(move || b.status())
    };
    assert!(status.leases.is_empty());
}

#[test]
fn pods_reach_each_other_the_host_and_the_world() {
    let (Some(host), Some(a), Some(b)) = (Netns::new(), Netns::new(), Netns::new()) else {
        return;
    };
    let world = host.neighbour().unwrap();
    // A new namespace has what the machine's first one has.
    host.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap());
    let dir = tempfile::tempdir().unwrap();
    let cfg = config(dir.path());
    let c = cfg.clone();
    let bridge = Arc::new(host.run(move || Bridge::open(c).unwrap()));
    let t = Instant::now();
    let at_a = add(&host, &bridge, "a", &a, vec![]);
    let took = t.elapsed();
    eprintln!("add took {took:?}");
    let at_b = add(&host, &bridge, "b", &b, vec![]);
    assert_ne!(at_a.ips, at_b.ips);
    assert_eq!(at_a, add(&host, &bridge, "a", &a, vec![]), "idempotent");
    let (ip_a, ip_b) = (at_a.ips[0], at_b.ips[0]);
    for ns in [&a, &b, &host, &world] {
        serve_tcp(ns, 80);
    }
    assert_eq!(a.run(move || dial(ip_b, 80).unwrap()), ip_a.to_string());
    assert_eq!(b.run(move || dial(ip_b, 80).unwrap()), ip_b.to_string());
    assert_eq!(
        b.run(move || dial([127, 0, 0, 1].into(), 80).unwrap()),
        "127.0.0.1"
    );
    assert_eq!(host.run(move || dial(ip_a, 80).unwrap()), "10.244.0.1");
    assert_eq!(
        a.run(|| dial([10, 244, 0, 1].into(), 80).unwrap()),
        ip_a.to_string()
    );
    // The host's other address is seen as itself, the world sees the host.
    assert_eq!(
        a.run(|| dial([192, 168, 9, 1].into(), 80).unwrap()),
        ip_a.to_string()
    );
    assert_eq!(
        a.run(|| dial([192, 168, 9, 2].into(), 80).unwrap()),
        "192.168.9.1"
    );

    // A new life takes over; nothing a pod has is touched.
    let open = b.run(move || TcpStream::connect((ip_a, 80)).unwrap());
    drop(bridge);
    let c = cfg.clone();
    let bridge = Arc::new(host.run(move || Bridge::open(c).unwrap()));
    assert_eq!(bridge.get("b").unwrap(), at_b);
    assert_eq!(add(&host, &bridge, "a", &a, vec![]), at_a);
    let mut text = String::new();
    (&open).read_to_string(&mut text).unwrap();
    assert_eq!(text, ip_b.to_string());
    let status = {
        let b = bridge.clone();
        host.run(move || b.status())
    };
    assert!(status.ready, "{}", status.message);
    assert_eq!(status.leases.len(), 2);

    // Collection, deletion with and without the namespace.
    let br = bridge.clone();
    let t = host.run(move || {
        let t = Instant::now();
        br.gc(&HashSet::from(["a".to_owned()])).unwrap();
        t.elapsed()
    });
    eprintln!("collecting one took {t:?}");
    assert!(bridge.get("b").is_none());
    assert!(
        b.run(|| Socket::route().unwrap().link("eth0").unwrap())
            .is_none()
    );
    drop(a);
    let br = bridge.clone();
    host.run(move || {
        br.del("a").unwrap();
        br.del("a").unwrap();
        br.del("never").unwrap();
    });
    assert_eq!(
        links(&host)
            .iter()
            .filter(|l| l.starts_with("knarr"))
            .count(),
        1
    );
    drop(bridge);
    host.run(move || Bridge::remove_all(&cfg).unwrap());
    assert_eq!(
        links(&host)
            .iter()
            .filter(|l| l.starts_with("knarr"))
            .count(),
        0
    );
    assert!(!dir.path().exists());
    let forwarding = host.run(|| std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap());
    assert_eq!(forwarding.trim(), "0", "as it was");
    assert!(host.run(|| {
        let mut s = Socket::netfilter().unwrap();
        let mut b = knarr_network::nft::Batch::new("knarr-net");
        b.delete_table();
        b.commit(&mut s, "delete").is_err()
    }));
}

#[test]
fn host_ports_lead_to_pods() {
    let (Some(host), Some(a), Some(b)) = (Netns::new(), Netns::new(), Netns::new()) else {
        return;
    };
    let world = host.neighbour().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let c = config(dir.path());
    let bridge = Arc::new(host.run(move || Bridge::open(c).unwrap()));
    let ports = vec![
        port(None, 8080, 80, Protocol::Tcp),
        port(Some("192.168.9.1"), 8081, 80, Protocol::Tcp),
        port(Some("0.0.0.0"), 8080, 53, Protocol::Udp),
    ];
    let at = add(&host, &bridge, "a", &a, ports.clone());
    // The same ports by another protocol or address are no conflict; the same are.
    let other = vec![
        port(Some("127.0.0.1"), 8081, 80, Protocol::Tcp),
        port(None, 8081, 53, Protocol::Udp),
    ];
    add(&host, &bridge, "b", &b, other);
    let (br, path) = (bridge.clone(), b.path().to_owned());
    let e = host.run(move || {
        let host_ports = vec![port(None, 8080, 1, Protocol::Tcp)];
        let bandwidth = Bandwidth::default();
        let (namespace, name) = ("d", "n");
        br.add(AddRequest {
            sandbox_id: "c",
            netns: &path,
            namespace,
            name,
            host_ports,
            bandwidth,
        })
        .unwrap_err()
    });
    assert_eq!(
        e.to_string(),
        "host port 8080/TCP on 0.0.0.0 is in use by sandbox a"
    );

    serve_tcp(&a, 80);
    serve_udp(&a, 53, "a");
    serve_udp(&b, 53, "b");
    serve_tcp(&b, 80);
    let lo = IpAddr::from([127, 0, 0, 1]);
    let ext = IpAddr::from([192, 168, 9, 1]);
    let gateway = IpAddr::from([10, 244, 0, 1]);
    assert_eq!(host.run(move || dial(lo, 8080).unwrap()), "10.244.0.1");
    assert_eq!(host.run(move || dial(ext, 8080).unwrap()), "192.168.9.1");
    assert_eq!(
        host.run(move || dial(lo, 8081).unwrap()),
        "10.244.0.1",
        "b's by address"
    );
    assert_eq!(world.run(move || dial(ext, 8080).unwrap()), "192.168.9.2");
    assert_eq!(world.run(move || dial(ext, 8081).unwrap()), "192.168.9.2");
    assert!(
        a.run(move || dial(gateway, 8081).is_err()),
        "only on the address asked for"
    );
    // From another pod, and from the pod itself (its own address would confuse it).
    assert_eq!(b.run(move || dial(ext, 8080).unwrap()), "10.244.0.3");
    assert_eq!(a.run(move || dial(ext, 8080).unwrap()), "10.244.0.1");

    let client = world.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    let to = SocketAddr::new(ext, 8080);
    assert_eq!(ask_udp(&client, to).unwrap(), "a");
    let from_lo = host.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    assert_eq!(ask_udp(&from_lo, SocketAddr::new(lo, 8080)).unwrap(), "a");
    // The port moves to another pod: the same client, the same socket.
    let (Some(n), br) = (Netns::new(), bridge.clone()) else {
        return;
    };
    host.run(move || br.del("a").unwrap());
    assert!(host.run(move || dial(lo, 8080).is_err()));
    serve_udp(&n, 53, "n");
    let moved = add(&host, &bridge, "n", &n, ports);
    assert_ne!(moved.ips, at.ips, "not used again at once");
    assert_eq!(ask_udp(&client, to).unwrap(), "n");
    drop(bridge);
    let c = config(dir.path());
    let bridge = Arc::new(host.run(move || Bridge::open(c).unwrap()));
    assert_eq!(ask_udp(&client, to).unwrap(), "n", "kept by the next life");
    drop(bridge);
}

#[test]
fn bandwidth_is_limited() {
    let (Some(host), Some(a)) = (Netns::new(), Netns::new()) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let c = config(dir.path());
    let (path, bridge) = (
        a.path().to_owned(),
        host.run(move || Bridge::open(c).unwrap()),
    );
    let at = host.run(move || {
        let bandwidth = Bandwidth {
            ingress: Some(8_000_000),
            egress: Some(8_000_000),
        };
        let (sandbox_id, netns, namespace, name) = ("a", path.as_path(), "d", "n");
        let host_ports = vec![];
        bridge
            .add(AddRequest {
                sandbox_id,
                netns,
                namespace,
                name,
                host_ports,
                bandwidth,
            })
            .unwrap()
    });
    let l = a.run(|| TcpListener::bind("0.0.0.0:80").unwrap());
    let t = std::thread::spawn(move || {
        let (mut c, _) = l.accept().unwrap();
        c.write_all(&[0; 500_000]).unwrap();
    });
    let ip = at.ips[0];
    let start = Instant::now();
    let mut c = host.run(move || TcpStream::connect((ip, 80)).unwrap());
    let mut all = Vec::new();
    c.read_to_end(&mut all).unwrap();
    t.join().unwrap();
    assert_eq!(all.len(), 500_000);
    // A megabyte a second, less the burst.
    assert!(
        start.elapsed() > Duration::from_millis(300),
        "{:?}",
        start.elapsed()
    );
}
