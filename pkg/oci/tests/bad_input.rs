//! Input of any kind: the checker refuses or accepts, and what it accepts keeps its promises.
//!
//! Everything is made from a fixed seed, so a failure is found again; `KNARR_FUZZ_ROUNDS` makes
//! more of it.
#![allow(clippy::unwrap_used)]

use std::path::{Component, Path};

use knarr_oci::config::Spec;
use knarr_oci::plan::{self, Options, Plan, Step};
use knarr_oci::{Error, Runtime};
use serde_json::{Value, json};

/// A small generator of numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
    fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

fn rounds(usual: usize) -> usize {
    std::env::var("KNARR_FUZZ_ROUNDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(usual)
}

/// A configuration in which every part of the specification is there.
fn whole() -> Value {
    let caps = json!(["CAP_KILL", "CAP_NET_RAW"]);
    let map = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
    let hook = json!([{"path": "/bin/true", "args": ["true"], "env": ["A=b"], "timeout": 3}]);
    json!({
        "ociVersion": "1.3.0",
        "process": {
            "terminal": false, "consoleSize": {"height": 20, "width": 80},
            "user": {"uid": 1, "gid": 2, "umask": 18, "additionalGids": [3]},
            "args": ["sh", "-c", "true"], "env": ["PATH=/bin", "A=b"], "cwd": "/tmp",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps, "inheritable": caps, "ambient": caps},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}],
            "noNewPrivileges": true, "oomScoreAdj": 100,
            "scheduler": {"policy": "SCHED_BATCH", "nice": 3, "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
            "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
            "execCPUAffinity": {"initial": "0-3", "final": "1"},
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "h", "domainname": "d",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/b", "type": "bind", "source": "/x", "options": ["rbind", "ro", "rslave", "rnosuid"], "uidMappings": map, "gidMappings": map},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]},
        ],
        "hooks": {"prestart": hook, "createRuntime": hook, "createContainer": hook, "startContainer": hook, "poststart": hook, "poststop": hook},
        "annotations": {"a": "b"},
        "linux": {
            "uidMappings": map, "gidMappings": map,
            "sysctl": {"net.ipv4.ip_forward": "1"},
            "resources": {
                "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "r"}],
                "memory": {"limit": 1000000, "swap": 2000000, "reservation": 500000}, "cpu": {"shares": 100, "quota": 1000, "period": 10000, "cpus": "0"},
                "pids": {"limit": 10}, "blockIO": {"weight": 100}, "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
                "network": {"classID": 1, "priorities": [{"name": "lo", "priority": 1}]}, "rdma": {"x": {"hcaHandles": 1}}, "unified": {"memory.high": "1"},
            },
            "cgroupsPath": "/a/b",
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "user"}, {"type": "cgroup"}, {"type": "time"}],
            "devices": [{"type": "c", "path": "/dev/x", "major": 1, "minor": 3, "fileMode": 438, "uid": 0, "gid": 0}],
            "netDevices": {"eth0": {"name": "eth1"}},
            "seccomp": {
                "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
                "flags": ["SECCOMP_FILTER_FLAG_LOG"],
                "syscalls": [{"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
                    {"names": ["kill"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 1, "value": 15, "valueTwo": 3, "op": "SCMP_CMP_MASKED_EQ"}]}],
            },
            "rootfsPropagation": "rslave", "maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"], "mountLabel": "",
            "personality": {"domain": "LINUX"}, "timeOffsets": {"boottime": {"secs": 1, "nanosecs": 2}},
            "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0-1", "flags": ["MPOL_F_STATIC_NODES"]},
        },
    })
}

fn check(spec: &Spec) -> Result<Plan, Error> {
    plan::build(
        spec,
        Options {
            id: "c1",
            bundle: Path::new("/bundle"),
            systemd_cgroup: false,
            terminal: false,
        },
    )
}

/// What holds of every accepted configuration.
fn keeps_its_promises(spec: &Spec, plan: &Plan) {
    let clean = |p: &Path| {
        p.is_absolute()
            && p.components()
                .all(|c| matches!(c, Component::RootDir | Component::Normal(_)))
    };
    for step in plan.outside.iter().chain(&plan.inside) {
        assert!(!step.name().is_empty());
        match step {
            Step::Mount(m) => {
                assert!(clean(&m.target), "mount at {:?}", m.target);
                if let Ok(below) = m.target.strip_prefix("/proc") {
                    let first = below.components().next();
                    let process = |c: Component<'_>| {
                        let name = c.as_os_str().to_string_lossy().into_owned();
                        name == "self" || name == "thread-self" || name.parse::<u32>().is_ok()
                    };
                    assert!(!first.is_some_and(process), "mount at {:?}", m.target);
                }
            }
            Step::Sysctl { path, .. } => {
                assert!(
                    !path.split('/').any(|p| p == ".." || p.is_empty()),
                    "{path}"
                );
                assert!(
                    ["net/", "kernel/", "fs/mqueue/", "user/"]
                        .iter()
                        .any(|p| path.starts_with(p)),
                    "{path} is the whole machine's"
                );
            }
            Step::Device(d) => assert!(d.path.starts_with('/')),
            _ => {}
        }
    }
    assert!(
        !plan.cgroup.split('/').any(|p| p == ".."),
        "{}",
        plan.cgroup
    );
    assert!(plan.process.args.first().is_some_and(|a| !a.is_empty()));
    assert!(plan.process.cwd.is_absolute());
    if let Some(filter) = &plan.process.seccomp {
        sound_filter(&filter.program);
    }
    let first = plan.resources.devices.first();
    assert!(
        first.is_some() || spec.linux.resources.devices.is_empty(),
        "no rule of devices"
    );
    // Written down and read again it is the same, as the state file must be.
    let text = serde_json::to_vec(spec).unwrap();
    let again: Spec = serde_json::from_slice(&text).unwrap();
    assert_eq!(&again, spec);
}

/// Every jump lands inside, and the last instruction returns: the kernel takes it.
fn sound_filter(program: &[knarr_sys::seccomp::Insn]) {
    assert!(!program.is_empty() && program.len() <= 4096);
    for (at, insn) in program.iter().enumerate() {
        let reach = match insn.code & 0x07 {
            0x05 if insn.code == 0x05 => insn.k as usize,
            0x05 => usize::from(insn.jt.max(insn.jf)),
            _ => 0,
        };
        assert!(
            at + 1 + reach < program.len() || insn.code & 0x07 == 0x06,
            "a jump out at {at}"
        );
    }
    assert_eq!(program.last().map(|i| i.code & 0x07), Some(0x06));
}

/// All places of a JSON value, by their pointers.
fn places(value: &Value, at: &str, out: &mut Vec<String>) {
    out.push(at.to_string());
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| {
            let k = k.replace('~', "~0").replace('/', "~1");
            places(v, &format!("{at}/{k}"), out);
        }),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .for_each(|(i, v)| places(v, &format!("{at}/{i}"), out)),
        _ => {}
    }
}

fn odd(random: &mut Random) -> Value {
    let texts = [
        "",
        "/",
        "..",
        "/proc/self/attr",
        "/proc/../etc",
        "a/../../b",
        "\0",
        "ä/ö",
        "net.ipv4....x",
        "fs/mqueue/../x",
        "-1",
        "SCMP_ACT_NOTIFY",
        "SCHED_DEADLINE",
        "0-99999999999",
        "7-3",
        "kernel.domainname",
        "rshared",
        "remount",
        "idmap",
        "time",
        "LINUX32",
        "/dev/ptmx",
        "p",
        "slice:a:b",
        "-.slice:a:b",
        "a--b.slice:c:d",
        "/dev",
        "x\ny",
        "read",
        "MPOL_LOCAL",
    ];
    let numbers = [
        0,
        1,
        -1,
        7,
        4096,
        65_536,
        i64::from(u32::MAX),
        i64::MAX,
        i64::MIN,
    ];
    match random.below(8) {
        0 => Value::Null,
        1 => json!(random.below(2) == 1),
        2 | 3 => json!(random.pick(&numbers)),
        4 => json!([]),
        5 => json!({}),
        _ => json!(random.pick(&texts)),
    }
}

/// Changes a few places of a value.
fn shake(value: &mut Value, random: &mut Random) {
    for _ in 0..=random.below(3) {
        let mut all = Vec::new();
        places(value, "", &mut all);
        let place = random.pick(&all).clone();
        let other = random.pick(&all).clone();
        let replacement = match random.below(4) {
            // Something of another place.
            0 => value.pointer(&other).cloned().unwrap_or(Value::Null),
            _ => odd(random),
        };
        let Some(target) = value.pointer_mut(&place) else {
            continue;
        };
        match (random.below(4), target) {
            (0, Value::Array(list)) if !list.is_empty() => {
                let again = list[random.below(list.len())].clone();
                list.push(again);
            }
            (1, Value::Object(map)) if !map.is_empty() => {
                let key = map.keys().nth(random.below(map.len())).cloned();
                key.and_then(|k| map.remove(&k));
            }
            (_, target) if !place.is_empty() => *target = replacement,
            _ => {}
        }
    }
}

#[test]
fn the_whole_configuration_is_accepted() {
    let spec: Spec = serde_json::from_value(whole()).unwrap();
    let plan = check(&spec).unwrap();
    keeps_its_promises(&spec, &plan);
}

#[test]
fn changed_configurations_are_refused_by_field_or_keep_the_promises() {
    let mut random = Random(0x006b_6e61_7272);
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..rounds(6000) {
        let mut value = whole();
        shake(&mut value, &mut random);
        let Ok(spec) = serde_json::from_value::<Spec>(value.clone()) else {
            continue;
        };
        match check(&spec) {
            Ok(plan) => {
                accepted += 1;
                keeps_its_promises(&spec, &plan);
            }
            Err(Error::Config { field, cause }) => {
                refused += 1;
                assert!(!field.is_empty() && !cause.is_empty(), "round {round}");
                let line = Error::config(field, cause).to_string();
                assert!(line.starts_with("invalid configuration: "), "{line}");
            }
            Err(Error::Unsupported(what)) => assert!(!what.is_empty()),
            Err(other) => panic!("round {round}: {other} for {value}"),
        }
    }
    assert!(
        accepted > 300 && refused > 300,
        "{accepted} accepted, {refused} refused"
    );
}

/// Bytes of a text changed, taken out, doubled.
fn scramble(text: &[u8], random: &mut Random) -> Vec<u8> {
    let mut out = text.to_vec();
    for _ in 0..=random.below(6) {
        let at = random.below(out.len());
        let to = (at + random.below(40)).min(out.len());
        match random.below(5) {
            0 => out[at] = random.next() as u8,
            1 => out[at] = *random.pick(b"{}[]\",:0-9eE.\\ntf"),
            2 => drop(out.drain(at..to)),
            3 => {
                let piece = out[at..to].to_vec();
                let place = random.below(out.len());
                out.splice(place..place, piece);
            }
            _ => out.truncate(at.max(1)),
        }
        if out.is_empty() {
            out.push(b'{');
        }
    }
    out
}

#[test]
fn scrambled_bytes_of_a_configuration_are_no_harm() {
    let text = serde_json::to_vec(&whole()).unwrap();
    let mut random = Random(0x6f63_6931);
    for _ in 0..rounds(20_000) {
        if let Ok(spec) = serde_json::from_slice::<Spec>(&scramble(&text, &mut random))
            && let Ok(plan) = check(&spec)
        {
            keeps_its_promises(&spec, &plan);
        }
    }
    // Deep nesting must not use up the stack.
    let deep = format!(
        "{{\"linux\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert!(serde_json::from_str::<Spec>(&deep).is_err());
}

#[test]
fn scrambled_state_files_are_told_and_removable() {
    let root = std::env::temp_dir().join(format!("knarr-states-{}", std::process::id()));
    let folder = root.join("c1");
    std::fs::create_dir_all(&folder).unwrap();
    let runtime = Runtime::new(&root);
    let record = json!({
        "id": "c1", "pid": 0, "start_ticks": 5, "bundle": "/b", "rootfs": "/b/rootfs", "created": "2026-01-01T00:00:00Z", "uid": 0,
        "cgroup": {"dirs": [{"controllers": "memory", "mount": "/nowhere", "path": "/nowhere/c1"}]},
        "namespaces": 0, "own_pids": true, "config": whole(),
    });
    let text = serde_json::to_vec(&record).unwrap();
    let path = folder.join("state.json");
    std::fs::write(&path, &text).unwrap();
    assert_eq!(runtime.state("c1").unwrap().bundle, Path::new("/b"));
    let mut random = Random(0x7374_6174);
    for _ in 0..rounds(3000) {
        std::fs::write(&path, scramble(&text, &mut random)).unwrap();
        // Only what changes nothing: a scrambled record may name any process.
        match runtime.state("c1") {
            Ok(_) => assert!(runtime.config("c1").is_ok()),
            Err(Error::BadState { path: named, cause }) => {
                assert!(named == path && !cause.is_empty());
            }
            Err(other) => panic!("{other}"),
        }
        assert!(runtime.list().is_ok());
    }
    std::fs::write(&path, b"{").unwrap();
    assert!(matches!(
        runtime.delete("c1", false),
        Err(Error::BadState { .. })
    ));
    runtime.delete("c1", true).unwrap();
    assert!(!folder.exists());
    std::fs::remove_dir_all(&root).unwrap();
}
