use super::*;

fn lease(id: &str, ip: Ipv4Addr, sequence: u64) -> Lease {
    Lease {
        sandbox_id: id.into(),
        ip,
        host_interface: "x".into(),
        namespace: String::new(),
        name: String::new(),
        host_ports: vec![],
        bandwidth: Bandwidth::default(),
        sequence,
    }
}

fn open(dir: &Path) -> Leases {
    Leases::open(dir.to_owned(), Cidr::parse("c", "10.1.0.0/29").unwrap()).unwrap()
}

#[test]
fn addresses_go_round_and_survive() {
    let dir = tempfile::tempdir().unwrap();
    let mut l = open(dir.path());
    for (i, last) in (2..7).enumerate() {
        let (ip, seq) = l.pick().unwrap();
        assert_eq!(ip.octets()[3], last);
        l.put(lease(&format!("s{i}"), ip, seq)).unwrap();
    }
    assert!(matches!(l.pick(), Err(Error::Exhausted { used: 5, .. })));
    l.remove("s1").unwrap();
    l.remove("s3").unwrap();
    l.remove("s3").unwrap();
    // A new life goes on behind the newest lease: round the corner to the first free one.
    let mut l = open(dir.path());
    assert_eq!(l.len(), 3);
    let (ip, seq) = l.pick().unwrap();
    assert_eq!(ip.octets()[3], 3);
    l.put(lease("n", ip, seq)).unwrap();
    let mut l = open(dir.path());
    assert_eq!(l.pick().unwrap().0.octets()[3], 5);
}

#[test]
fn broken_files_are_dropped() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.json"), b"{").unwrap();
    std::fs::write(dir.path().join("b.tmp"), b"").unwrap();
    assert_eq!(open(dir.path()).len(), 0);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn an_id_cannot_leave_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let mut l = open(dir.path());
    for id in ["", "../x", ".x", "a/b"] {
        assert!(l.put(lease(id, Ipv4Addr::new(10, 1, 0, 2), 1)).is_err(), "{id}");
    }
}
