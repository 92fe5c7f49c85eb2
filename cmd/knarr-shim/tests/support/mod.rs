//! Containers over the host's own programs, one temporary folder each.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use knarr_shim::{Created, Launch, Shim};
use serde_json::{Value, json};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// How a test's container differs from a plain one.
#[derive(Default, Clone)]
pub struct Options {
    pub terminal: bool,
    pub stdin: bool,
    pub stdin_once: bool,
    pub memory: Option<i64>,
    pub user: u32,
    pub host_pid: bool,
}

/// A container whose traces are removed when it goes out of scope.
pub struct Bench {
    _folder: tempfile::TempDir,
    pub launch: Launch,
    cgroup: String,
}

/// The built-in runtime and those that are installed and can work here.
pub fn runtimes() -> Vec<Option<PathBuf>> {
    let mut all = vec![None];
    for path in ["/usr/sbin/runc", "/usr/bin/crun"] {
        if !Path::new(path).exists() {
            eprintln!("skipped: no {path}");
        } else if path.ends_with("crun") && Path::new("/sys/fs/cgroup/unified").exists() {
            eprintln!("skipped: crun refuses machines with both versions of cgroups");
        } else {
            all.push(Some(PathBuf::from(path)));
        }
    }
    if let Ok(only) = std::env::var("KNARR_TEST_RUNTIME") {
        all.retain(|r| match r {
            None => only == "builtin",
            Some(path) => path.ends_with(&only),
        });
    }
    all
}

/// The shim under test: `KNARR_TEST_SHIM`, to measure another build, or this one.
fn shim() -> PathBuf {
    let this = || env!("CARGO_BIN_EXE_knarr-shim").into();
    std::env::var_os("KNARR_TEST_SHIM")
        .unwrap_or_else(this)
        .into()
}

pub fn is_root() -> bool {
    let root =
        std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    if !root {
        eprintln!("skipped: making containers needs root");
    }
    root
}

fn config(rootfs: &Path, cgroup: &str, script: &str, options: &Options) -> Value {
    let mut namespaces = vec![
        json!({"type": "mount"}),
        json!({"type": "ipc"}),
        json!({"type": "uts"}),
        json!({"type": "network"}),
    ];
    if !options.host_pid {
        namespaces.push(json!({"type": "pid"}));
    }
    let bind = |path: &str| json!({"destination": path, "source": path, "type": "bind", "options": ["rbind", "ro"]});
    let mut mounts = vec![
        json!({"destination": "/proc", "source": "proc", "type": "proc"}),
        json!({"destination": "/dev", "source": "tmpfs", "type": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "source": "devpts", "type": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}),
        bind("/usr"),
    ];
    if Path::new("/etc/alternatives").exists() {
        mounts.push(bind("/etc/alternatives"));
    }
    let mut resources = json!({});
    if let Some(limit) = options.memory {
        resources["memory"] = json!({"limit": limit, "swap": limit});
    }
    json!({
        "ociVersion": "1.1.0",
        "process": {
            "terminal": options.terminal,
            "user": {"uid": options.user, "gid": options.user},
            "args": ["/bin/sh", "-c", script],
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
        },
        "root": {"path": rootfs, "readonly": false},
        "hostname": "bench",
        "mounts": mounts,
        "linux": {"namespaces": namespaces, "cgroupsPath": cgroup, "resources": resources},
    })
}

pub fn process(script: &str) -> Value {
    json!({
        "args": ["/bin/sh", "-c", script],
        "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
        "cwd": "/",
        "user": {"uid": 0, "gid": 0},
        "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
    })
}

impl Bench {
    pub fn new(runtime: Option<PathBuf>, script: &str, options: Options) -> Bench {
        let folder = tempfile::Builder::new()
            .prefix("knarr-shim-")
            .tempdir()
            .unwrap();
        let path = folder.path();
        let id = format!(
            "t{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        for name in ["run", "runtime", "bundle", "logs", "bundle/rootfs"] {
            std::fs::create_dir(path.join(name)).unwrap();
        }
        let rootfs = path.join("bundle/rootfs");
        for name in ["proc", "dev", "usr", "etc"] {
            std::fs::create_dir(rootfs.join(name)).unwrap();
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{name}"), rootfs.join(name)).unwrap();
        }
        let cgroup = format!("/knarr-shim-test-{id}");
        let config = config(&rootfs, &cgroup, script, &options);
        std::fs::write(path.join("bundle/config.json"), config.to_string()).unwrap();
        let launch = Launch {
            shim: shim(),
            id,
            bundle: path.join("bundle"),
            dir: path.join("run"),
            runtime_root: path.join("runtime"),
            runtime,
            log_path: Some(path.join("logs/0.log")),
            terminal: options.terminal,
            stdin: options.stdin,
            stdin_once: options.stdin_once,
        };
        Bench {
            _folder: folder,
            launch,
            cgroup,
        }
    }

    pub fn dir(&self) -> &Path {
        &self.launch.dir
    }

    pub async fn created(&self) -> (Shim, Created) {
        Shim::launch(self.launch.clone()).await.unwrap()
    }

    pub async fn started(&self) -> (Shim, Created) {
        let (shim, created) = self.created().await;
        shim.start().await.unwrap();
        (shim, created)
    }

    /// The log as (stream, tag, text).
    pub fn log(&self) -> Vec<(String, String, String)> {
        let text = std::fs::read_to_string(self.launch.log_path.as_ref().unwrap()).unwrap();
        text.lines()
            .map(|line| {
                let mut f = line.splitn(4, ' ').skip(1).map(str::to_owned);
                (
                    f.next().unwrap(),
                    f.next().unwrap(),
                    f.next().unwrap_or_default(),
                )
            })
            .collect()
    }

    /// The log's stdout, joined as the kubelet would.
    pub fn output(&self) -> String {
        let mut out = String::new();
        for (stream, tag, text) in self.log() {
            if stream == "stdout" {
                out += &text;
                if tag == "F" {
                    out.push('\n');
                }
            }
        }
        out
    }

    /// Nothing may be left once a container was deleted.
    pub fn assert_clean(&self) {
        assert!(
            !self.launch.runtime_root.join(&self.launch.id).exists(),
            "runtime state is left"
        );
        assert!(!self.dir().join("shim.sock").exists(), "the socket is left");
        for hierarchy in ["memory", "cpu", "pids", "devices", "freezer", "unified", ""] {
            let path = Path::new("/sys/fs/cgroup")
                .join(hierarchy)
                .join(&self.cgroup[1..]);
            assert!(!path.exists(), "{} is left", path.display());
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // After a failed test: kill what its shim looks after, then the shim.
        let state = std::fs::read(self.dir().join("state.json")).unwrap_or_default();
        if let Ok(state) = serde_json::from_slice::<Value>(&state)
            && !self.dir().join("exit.json").exists()
            && let Some(pid) = state["pid"].as_i64()
        {
            let _ = std::process::Command::new("kill")
                .arg("-9")
                .arg(pid.to_string())
                .status();
            std::thread::sleep(Duration::from_millis(300));
        }
        // Where shims go; refused as long as one is there.
        for entry in std::fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
        {
            let _ = std::fs::remove_dir(entry.path().join("knarr/shims"));
        }
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir().join("shim.log")).unwrap_or_default();
            eprintln!("--- shim.log ({:?})\n{log}", self.launch.runtime);
        }
    }
}

/// Waits until something is so.
pub async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "never so: {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| {
        !s.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('Z'))
    })
}
