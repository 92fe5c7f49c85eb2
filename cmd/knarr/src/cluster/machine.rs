//! A node as a container: its bundle, and its life by our own OCI runtime's command line.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    os::unix::fs::{DirBuilderExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// By which a node reaches the host.
const HOST_NAME: &str = "host.knarr.internal";
/// Where the program is inside.
const PROGRAM: &str = "/knarr";
/// Where the helper that is pid 1 is inside.
const INIT: &str = "/knarr-init";
/// Folders of the host that a node sees, read-only: programs and their libraries.
const SHARED: [&str; 6] = ["usr", "bin", "sbin", "lib", "lib64", "lib32"];
/// What of the host's settings a node begins with.
const SETTINGS: [&str; 7] =
    ["passwd", "group", "nsswitch.conf", "os-release", "resolv.conf", "localtime", "protocols"];
const CAPABILITIES: &str = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID \
    SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER \
    SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE \
    SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN \
    SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE";

/// One node.
pub struct Machine {
    /// Its name.
    pub name: String,
    /// `knarr-runc`.
    pub runc: PathBuf,
    /// The runtime's state folder.
    pub state: PathBuf,
    /// The node's folder: bundle, data, log.
    pub folder: PathBuf,
    /// Its cgroup, below the root of every hierarchy.
    pub cgroup: String,
}

/// What a node runs.
pub struct Job<'a> {
    /// The program on the host.
    pub program: &'a Path,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Environment, `NAME=value`.
    pub environment: Vec<String>,
    /// The helper that becomes pid 1.
    pub init: &'a Path,
    /// The host's address in the nodes' network.
    pub host: Ipv4Addr,
}

impl Machine {
    /// The node's data on the host.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// What the node's program has written.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn runc(&self) -> Command {
        let mut command = Command::new(&self.runc);
        command.arg("--root").arg(&self.state).stdin(Stdio::null());
        command
    }

    fn call(&self, words: &[&str]) -> Result<String> {
        let output = self.runc().args(words).arg(&self.name).output()?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            bail!("node {}: cannot {}: {}", self.name, words.join(" "), text.trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Its state in the runtime's words, and its pid; `None` if it was not made or was stopped.
    #[must_use]
    pub fn state(&self) -> Option<(String, i64)> {
        let state: Value = serde_json::from_str(&self.call(&["state"]).ok()?).ok()?;
        Some((state["status"].as_str()?.to_owned(), state["pid"].as_i64()?))
    }

    /// Makes the container; gives its pid. Its program waits for [`Machine::start`].
    ///
    /// # Errors
    /// If a file cannot be written, or the runtime refuses.
    pub fn create(&self, job: &Job<'_>) -> Result<i32> {
        let mut shared = self.root(job)?;
        shared.extend(self.own_mounts(job));
        let config = self.config(job, &shared);
        fs::write(self.folder.join("config.json"), config.to_string())?;
        let log = File::options().create(true).append(true).open(self.log())?;
        let pid_file = self.folder.join("pid");
        let problem = self.folder.join("problem");
        let status = self
            .runc()
            .args(["create", "--bundle"])
            .arg(&self.folder)
            .arg("--pid-file")
            .arg(&pid_file)
            .arg(&self.name)
            .stdout(log.try_clone()?)
            .stderr(File::create(&problem)?)
            .status()?;
        if !status.success() {
            bail!("node {}: {}", self.name, fs::read_to_string(&problem)?.trim());
        }
        Ok(fs::read_to_string(pid_file)?.trim().parse()?)
    }

    /// Lets the program run.
    ///
    /// # Errors
    /// If the runtime refuses.
    pub fn start(&self) -> Result<()> {
        self.call(&["start"]).map(drop)
    }

    /// Freezes all of the node, or lets it go on.
    ///
    /// # Errors
    /// If it does not run.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        self.call(&[if frozen { "pause" } else { "resume" }]).map(drop)
    }

    /// Ends the node and removes the container; its data stays. One that is not there is fine.
    ///
    /// # Errors
    /// If the runtime refuses.
    pub fn remove(&self) -> Result<()> {
        let output = self.runc().args(["delete", "--force"]).arg(&self.name).output()?;
        if !output.status.success() {
            bail!("node {}: {}", self.name, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// A command inside the node.
    #[must_use]
    pub fn command(&self, words: &[String]) -> Command {
        let mut command = self.runc();
        command.arg("exec").arg(&self.name);
        command.args(words);
        command
    }

    /// Makes the root folder; gives the mounts of what it shares with the host.
    fn root(&self, job: &Job<'_>) -> Result<Vec<Value>> {
        let root = self.folder.join("rootfs");
        let make = |path: PathBuf, mode| {
            let made = fs::DirBuilder::new().recursive(true).mode(mode).create(&path);
            made.with_context(|| format!("cannot make {}", path.display()))
        };
        for dir in ["dev", "proc", "sys", "run", "etc", "root", "var/lib/knarr", "var/log", "opt", "mnt", "home"] {
            make(root.join(dir), 0o755)?;
        }
        make(self.data(), 0o755)?;
        for dir in ["tmp", "var/tmp"] {
            make(root.join(dir), 0o755)?;
            let all = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
            fs::set_permissions(root.join(dir), all)?;
        }
        let mut mounts = Vec::new();
        for name in SHARED {
            let host = Path::new("/").join(name);
            let Ok(kind) = fs::symlink_metadata(&host) else { continue };
            let inside = root.join(name);
            if kind.is_symlink() {
                if fs::symlink_metadata(&inside).is_err() {
                    symlink(fs::read_link(&host)?, &inside)?;
                }
            } else {
                make(inside, 0o755)?;
                mounts.push(bind(&host, &format!("/{name}"), true));
            }
        }
        if fs::symlink_metadata(root.join("var/run")).is_err() {
            symlink("/run", root.join("var/run"))?;
        }
        let etc = root.join("etc");
        for name in SETTINGS {
            // What the host does not have, the node does without.
            let _ = fs::copy(Path::new("/etc").join(name), etc.join(name));
        }
        for tree in ["ssl", "ca-certificates", "alternatives"] {
            let host = Path::new("/etc").join(tree);
            if host.is_dir() {
                make(etc.join(tree), 0o755)?;
                mounts.push(bind(&host, &format!("/etc/{tree}"), true));
            }
        }
        fs::write(etc.join("hostname"), format!("{}\n", self.name))?;
        let hosts =
            format!("127.0.0.1 localhost\n127.0.1.1 {}\n{} {HOST_NAME}\n", self.name, job.host);
        fs::write(etc.join("hosts"), hosts)?;
        if !etc.join("machine-id").exists() {
            let id = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
            fs::write(etc.join("machine-id"), id.replace('-', ""))?;
        }
        fs::copy(job.init, root.join(INIT.trim_start_matches('/')))?;
        File::create(root.join(PROGRAM.trim_start_matches('/')))?;
        Ok(mounts)
    }

    fn own_mounts(&self, job: &Job<'_>) -> Vec<Value> {
        let mount = |kind: &str, at: &str, options: &[&str]| {
            json!({"destination": at, "type": kind, "source": kind, "options": options})
        };
        vec![
            mount("proc", "/proc", &[]),
            mount("sysfs", "/sys", &["nosuid", "noexec", "nodev"]),
            mount("cgroup", "/sys/fs/cgroup", &["nosuid", "noexec", "nodev"]),
            mount("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("devpts", "/dev/pts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("tmpfs", "/dev/shm", &["nosuid", "nodev", "mode=1777"]),
            mount("mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]),
            mount("tmpfs", "/run", &["nosuid", "nodev", "mode=755"]),
            bind(&self.data(), "/var/lib/knarr", false),
            bind(job.program, PROGRAM, true),
        ]
    }

    fn config(&self, job: &Job<'_>, mounts: &[Value]) -> Value {
        let capabilities: Vec<String> =
            CAPABILITIES.split_whitespace().map(|c| format!("CAP_{c}")).filter(|c| known(c)).collect();
        let mut arguments = vec![INIT.to_owned(), "init".into(), PROGRAM.into()];
        arguments.extend(job.arguments.iter().cloned());
        let mut environment = vec![
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            "HOME=/root".into(),
        ];
        environment.extend(job.environment.iter().cloned());
        let namespaces: Vec<Value> = ["pid", "network", "ipc", "uts", "mount", "cgroup"]
            .into_iter()
            .map(|kind| json!({"type": kind}))
            .collect();
        json!({
            "ociVersion": "1.2.0",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": arguments,
                "env": environment,
                "cwd": "/",
                "capabilities": {
                    "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                },
            },
            "root": {"path": "rootfs"},
            "hostname": self.name,
            "mounts": mounts,
            "linux": {
                "namespaces": namespaces,
                "cgroupsPath": self.cgroup,
                "rootfsPropagation": "shared",
                "resources": {"devices": [{"allow": true, "access": "rwm"}]},
            },
        })
    }
}

/// Whether this process may have a capability, and so give it to a node.
fn known(capability: &str) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("CapBnd:")).unwrap_or_default();
    let bounding = u64::from_str_radix(line.trim(), 16).unwrap_or(0);
    let number = CAPABILITIES.split_whitespace().position(|c| capability.strip_prefix("CAP_") == Some(c));
    number.is_some_and(|n| bounding >> n & 1 == 1)
}

fn bind(source: &Path, at: &str, readonly: bool) -> Value {
    let access = if readonly { "ro" } else { "rw" };
    json!({"destination": at, "type": "bind", "source": source, "options": ["rbind", access]})
}
