use super::*;
use crate::config::{Mount, Namespace, Process, Root};

fn spec() -> Spec {
    Spec {
        version: "1.0.2".into(),
        process: Some(Process {
            args: vec!["true".into()],
            cwd: "/".into(),
            ..Process::default()
        }),
        root: Some(Root {
            path: "rootfs".into(),
            readonly: false,
        }),
        linux: Linux {
            namespaces: ["pid", "mount", "ipc", "uts", "network"]
                .map(|k| Namespace {
                    kind: k.into(),
                    path: String::new(),
                })
                .to_vec(),
            ..Linux::default()
        },
        ..Spec::default()
    }
}

fn plan(spec: &Spec) -> Result<Plan, Error> {
    build(
        spec,
        Options {
            id: "c1",
            bundle: Path::new("/b"),
            systemd_cgroup: false,
            terminal: false,
        },
    )
}

fn refused(change: impl FnOnce(&mut Spec)) -> String {
    let mut s = spec();
    change(&mut s);
    match plan(&s) {
        Err(Error::Config { field, .. }) => field,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn a_plain_configuration_is_accepted() {
    let p = plan(&spec()).unwrap();
    assert_eq!(p.rootfs, Path::new("/b/rootfs"));
    assert_eq!(p.cgroup, "c1");
    assert!(matches!(p.outside.first(), Some(Step::Loopback)));
}

#[test]
fn a_refusal_names_the_field() {
    assert_eq!(refused(|s| s.version = "2.0".into()), "ociVersion");
    assert_eq!(refused(|s| s.root = None), "root");
    assert_eq!(refused(|s| s.process = None), "process");
    assert_eq!(
        refused(|s| s.process.as_mut().unwrap().cwd = "x".into()),
        "process.cwd"
    );
    assert_eq!(
        refused(|s| s.linux.namespaces.push(Namespace {
            kind: "pid".into(),
            path: String::new()
        })),
        "linux.namespaces[5]"
    );
    assert_eq!(
        refused(|s| s.linux.cgroups_path = "/a/../b".into()),
        "linux.cgroupsPath"
    );
    assert_eq!(
        refused(|s| {
            s.linux.sysctl.insert("vm.swappiness".into(), "1".into());
        }),
        "linux.sysctl[\"vm.swappiness\"]"
    );
}

#[test]
fn nothing_is_mounted_inside_proc() {
    for target in [
        "/proc/self/attr",
        "/proc/1",
        "/proc//sys/../self",
        "/x/../proc/a",
    ] {
        assert_eq!(
            refused(|s| s.mounts.push(Mount {
                destination: target.into(),
                kind: "tmpfs".into(),
                source: "tmpfs".into(),
                ..Mount::default()
            })),
            "mounts[0].destination"
        );
    }
}

#[test]
fn mount_options_become_flags_and_data() {
    let m = MountPlan::build(
        &Mount {
            destination: "/tmp/".into(),
            kind: "tmpfs".into(),
            source: "tmpfs".into(),
            options: ["nosuid", "ro", "rw", "size=64k", "rslave", "mode=755"]
                .map(String::from)
                .to_vec(),
            ..Mount::default()
        },
        0,
        &Namespaces::default(),
    )
    .unwrap();
    assert_eq!(m.target, Path::new("/tmp"));
    assert_eq!(m.attrs(), knarr_sys::mount::attr::NOSUID);
    assert_eq!(m.cleared_attrs(), knarr_sys::mount::attr::RDONLY);
    assert_eq!(
        m.source,
        MountSource::Filesystem {
            fstype: "tmpfs".into(),
            source: "tmpfs".into(),
            data: "size=64k,mode=755".into()
        }
    );
    assert_eq!(m.propagations.len(), 1);
}

#[test]
fn labels_become_options_where_the_kind_takes_them() {
    let data = |kind: &str| {
        let mount = Mount {
            destination: "/x".into(),
            kind: kind.into(),
            options: vec!["size=1k".into()],
            ..Mount::default()
        };
        let mut plan = MountPlan::build(&mount, 0, &Namespaces::default()).unwrap();
        plan.label("u:r:t:s0:c1,c2");
        match plan.source {
            MountSource::Filesystem { data, .. } => data,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(data("tmpfs"), "size=1k,context=\"u:r:t:s0:c1,c2\"");
    assert_eq!(data("mqueue"), "size=1k");
}

#[test]
fn systemd_names_become_nested_slices() {
    let path = |s: &str| cgroup::systemd_path(s, "c1").ok();
    assert_eq!(
        path("kube-pods.slice:cri:abc").as_deref(),
        Some("/kube.slice/kube-pods.slice/cri-abc.scope")
    );
    assert_eq!(path("").as_deref(), Some("/system.slice/knarr-c1.scope"));
    assert_eq!(path("-.slice:x:y").as_deref(), Some("/x-y.scope"));
    assert_eq!(path("kube--pods.slice:x:y"), None);
    assert_eq!(path("nonsense"), None);
}

#[test]
fn sysctl_names_with_either_separator() {
    let all = Namespaces {
        new: ns::NET | ns::IPC,
        join: Vec::new(),
    };
    let path = |k: &str| match sysctl::step(k, "1", &all) {
        Ok(Step::Sysctl { path, .. }) => Some(path),
        _ => None,
    };
    assert_eq!(
        path("net.ipv4.conf.eth0/1.forwarding").as_deref(),
        Some("net/ipv4/conf/eth0.1/forwarding")
    );
    assert_eq!(
        path("net/ipv4/conf/eth0.1/forwarding").as_deref(),
        Some("net/ipv4/conf/eth0.1/forwarding")
    );
    assert_eq!(path("net.ipv4....x"), None);
    assert_eq!(path("net/../vm/x"), None);
}
