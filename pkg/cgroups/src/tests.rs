use crate::{Cgroup, Cpu, Memory, Pids, Resources, weight_of_shares};

#[test]
fn shares_become_weights() {
    for (shares, weight) in [
        (2, 1),
        (1024, 100),
        (262_144, 10_000),
        (1, 1),
        (500_000, 10_000),
    ] {
        assert_eq!(weight_of_shares(shares), weight, "{shares}");
    }
}

#[test]
fn a_path_may_not_climb_out() {
    assert!(Cgroup::open("/a/../../b").is_err());
    assert!(Cgroup::open("").is_err());
}

#[test]
fn limits_of_the_specification_are_read() {
    let text = r#"{"devices": null, "memory": {"limit": 5, "disableOOMKiller": true},
        "blockIO": {"throttleReadIOPSDevice": [{"major": 1, "minor": 2, "rate": 3}]}}"#;
    let r: Resources = serde_json::from_str(text).unwrap();
    assert_eq!(r.memory.unwrap().limit, Some(5));
    assert_eq!(r.block_io.unwrap().throttle_read_iops_device[0].rate, 3);
}

/// Removes the cgroup also when the test fails.
struct Guard(Cgroup);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.signal_all(9);
        let _ = self.0.remove();
    }
}

#[test]
fn a_pod_cgroup_lives_and_dies() {
    if knarr_sys::process::geteuid() != 0 {
        eprintln!("skipped: making cgroups needs root");
        return;
    }
    let path = format!("/knarr-cgroups-test-{}", std::process::id());
    let limits = |bytes: i64, quota: i64| Resources {
        memory: Some(Memory {
            limit: Some(bytes),
            ..Memory::default()
        }),
        cpu: Some(Cpu {
            shares: Some(512),
            quota: Some(quota),
            period: Some(100_000),
            ..Cpu::default()
        }),
        pids: Some(Pids { limit: Some(50) }),
        ..Resources::default()
    };
    let top = Guard(Cgroup::create(&path, &limits(64 << 20, 50_000)).unwrap());
    let below = Cgroup::create(&format!("{path}/c1"), &Resources::default()).unwrap();
    let stats = top.0.stats();
    assert_eq!(stats.memory.limit, Some(64 << 20));
    assert_eq!(stats.cpu.quota_us, Some(50_000));
    assert_eq!(stats.cpu.period_us, Some(100_000));
    assert_eq!(stats.pids.limit, Some(50));
    top.0.update(&limits(32 << 20, -1)).unwrap();
    let stats = top.0.stats();
    assert_eq!(stats.memory.limit, Some(32 << 20));
    assert_eq!(stats.cpu.quota_us, None);
    let mut child = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .unwrap();
    let pid = child.id() as i32;
    below.add(pid).unwrap();
    assert_eq!(top.0.pids(true), [pid]);
    assert!(top.0.pids(false).is_empty());
    assert!(top.0.is_populated());
    top.0.freeze(true).unwrap();
    assert!(top.0.is_frozen());
    top.0.freeze(false).unwrap();
    top.0.signal_all(9).unwrap();
    assert!(!child.wait().unwrap().success());
    top.0.remove().unwrap();
    assert!(!top.0.exists());
}
