//! Making a container: the parent's side.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use knarr_cgroups::{Cgroup, JoinFds, Mode, Resources, systemd};
use knarr_sys::process::{self, CloneArgs, Cloned, ns};
use knarr_sys::{fs as sysfs, socket};

use crate::api::{CreateRequest, Created, Runtime, Status, Stdio};
use crate::config::{IdMapping, Linux, Spec};
use crate::error::Error;
use crate::init::{self, Context, Streams};
use crate::plan::{self, Options, Plan};
use crate::protocol::{self, Message};
use crate::state::{self, Record};
use crate::{hooks, netdev, rdt, seccomp_agent};

/// A container that has its name and its cgroup, and no process yet.
pub(crate) struct Begun {
    pub plan: Plan,
    pub record: Record,
    pub cgroup: Cgroup,
    pub folder: PathBuf,
    pub rollback: Rollback,
}

/// Undoes a half-made container when dropped.
pub(crate) struct Rollback {
    folder: Option<PathBuf>,
    cgroup: Option<Cgroup>,
    pub pids: Vec<i32>,
    pub pid_file: Option<PathBuf>,
    rdt: Vec<PathBuf>,
    unit: Option<String>,
}

impl Rollback {
    pub fn disarm(mut self) {
        self.folder = None;
        self.cgroup = None;
        self.pids.clear();
        self.pid_file = None;
        self.rdt.clear();
        self.unit = None;
    }
}

impl Drop for Rollback {
    fn drop(&mut self) {
        for pid in self.pids.drain(..) {
            let _ = process::kill(pid, 9);
            let _ = process::wait(pid);
        }
        if let Some(cgroup) = self.cgroup.take() {
            if cgroup.is_populated() {
                let _ = cgroup.signal_all(9);
            }
            let _ = cgroup.remove();
        }
        if let Some(unit) = self.unit.take() {
            systemd::stop(&unit);
        }
        rdt::remove(&self.rdt);
        if let Some(file) = self.pid_file.take() {
            let _ = fs::remove_file(file);
        }
        if let Some(folder) = self.folder.take() {
            let _ = state::remove_folder(&folder);
        }
    }
}

/// Reads and parses a bundle's configuration.
pub(crate) fn read_spec(bundle: &Path) -> Result<Spec, Error> {
    let path = bundle.join("config.json");
    let text = fs::read(&path).map_err(|e| Error::os(format!("read {path:?}"), e))?;
    serde_json::from_slice(&text).map_err(|e| Error::config("config.json", e.to_string()))
}

/// The folder of the notification socket, in the container's own.
const NOTIFY: &str = "notify";

/// Lets the container see the folder of its notification socket, and tells it where that is.
fn notify_socket(spec: &mut Spec, folder: &Path) -> Result<(), Error> {
    let own = std::path::absolute(folder.join(NOTIFY))
        .map_err(|e| Error::os(format!("path {folder:?}"), e))?;
    spec.mounts.push(crate::config::Mount {
        destination: "/run/notify".into(),
        kind: "bind".into(),
        source: own.to_string_lossy().into_owned(),
        options: ["bind", "nosuid", "noexec", "nodev", "ro"]
            .map(String::from)
            .to_vec(),
        ..crate::config::Mount::default()
    });
    if let Some(process) = &mut spec.process {
        let socket = "NOTIFY_SOCKET=/run/notify/notify.sock";
        process.env.push(socket.into());
    }
    Ok(())
}

/// The caller goes on in the child, so there must be nothing else in it.
pub(crate) fn one_thread() -> Result<(), Error> {
    match process::thread_count() {
        Ok(1) => Ok(()),
        Ok(threads) => Err(Error::Threads { threads }),
        Err(e) => Err(Error::os("count threads", e)),
    }
}

/// The streams as the child wants them.
pub(crate) fn streams(stdio: Stdio) -> Result<Streams, Error> {
    Ok(match stdio {
        Stdio::Inherit => Streams::Inherit,
        Stdio::Terminal => Streams::Terminal,
        Stdio::Fds {
            stdin,
            stdout,
            stderr,
        } => {
            let null = |fd: Option<OwnedFd>, flags| match fd {
                Some(fd) => Ok(fd),
                None => sysfs::open("/dev/null", flags).map_err(|e| Error::os("open /dev/null", e)),
            };
            // Out of the way of each other's numbers.
            let high = |fd: OwnedFd| {
                if fd.as_raw_fd() > 2 {
                    return Ok(fd);
                }
                sysfs::dup_at_least(fd.as_fd(), 3).map_err(|e| Error::os("copy descriptor", e))
            };
            Streams::Fds([
                high(null(stdin, sysfs::O_RDONLY)?)?,
                high(null(stdout, sysfs::O_WRONLY)?)?,
                high(null(stderr, sysfs::O_WRONLY)?)?,
            ])
        }
    })
}

/// Pipes that the caller gives become those of the user namespace's root: only so can the init
/// give them to the program's user, who may want to open `/dev/stdout` anew.
pub(crate) fn hand_to_user_namespace(streams: &Streams, linux: &Linux) {
    const FIFO: u32 = 0o010_000;
    let Streams::Fds(fds) = streams else { return };
    let host = |maps: &[IdMapping]| maps.iter().find(|m| m.container == 0).map(|m| m.host);
    let (Some(uid), Some(gid)) = (host(&linux.uid_mappings), host(&linux.gid_mappings)) else {
        return;
    };
    for fd in fds {
        if sysfs::fstat(fd.as_fd()).is_ok_and(|st| st.mode & 0o170_000 == FIFO) {
            // Without it the program has its streams all the same.
            let _ = sysfs::chownat(fd.as_fd(), "", uid, gid);
        }
    }
}

impl Runtime {
    /// Makes a container from its bundle; its init waits for [`Runtime::start`]. The init is a
    /// direct child of the calling process.
    ///
    /// # Errors
    /// [`Error::Config`] before anything was touched; [`Error::Exists`]; [`Error::Threads`];
    /// others after all that was made has been removed again.
    pub fn create(&self, mut req: CreateRequest) -> Result<Created, Error> {
        let mut begun = self.begin(&mut req)?;
        let created = self.spawn(req, &mut begun)?;
        begun.rollback.disarm();
        Ok(created)
    }

    /// Checks what a container is made from, claims its name and makes its cgroup.
    pub(crate) fn begin(&self, req: &mut CreateRequest) -> Result<Begun, Error> {
        state::check_id(&req.id)?;
        let bundle = fs::canonicalize(&req.bundle)
            .map_err(|e| Error::os(format!("bundle {:?}", req.bundle), e))?;
        let mut spec = match req.spec.take() {
            Some(spec) => *spec,
            None => read_spec(&bundle)?,
        };
        if req.notify {
            notify_socket(&mut spec, &self.folder(&req.id))?;
        }
        let options = Options {
            id: &req.id,
            bundle: &bundle,
            systemd_cgroup: req.systemd_cgroup,
            terminal: matches!(req.stdio, Stdio::Terminal),
        };
        let mut plan = plan::build(&spec, options)?;
        plan.rootfs = fs::canonicalize(&plan.rootfs)
            .map_err(|e| Error::os(format!("rootfs {:?}", plan.rootfs), e))?;
        one_thread()?;
        let folder = self.claim(&req.id)?;
        let mut rollback = Rollback {
            folder: Some(folder.clone()),
            cgroup: None,
            pids: Vec::new(),
            pid_file: None,
            rdt: Vec::new(),
            unit: None,
        };
        if req.notify {
            let path = folder.join(NOTIFY);
            fs::create_dir(&path).map_err(|e| Error::os(format!("make {path:?}"), e))?;
        }
        if plan.unit.is_some() {
            plan.cgroup.insert_str(0, &systemd::base()?);
        }
        let mut cgroup = Cgroup::open(&plan.cgroup)?;
        let mut record = Record {
            id: req.id.clone(),
            pid: 0,
            start_ticks: 0,
            bundle: bundle.clone(),
            rootfs: plan.rootfs.clone(),
            created: state::now(),
            uid: process::geteuid(),
            cgroup: cgroup.clone(),
            namespaces: plan.namespaces.all(),
            own_pids: plan.namespaces.new & ns::PID != 0,
            descriptors: descriptors(&req.stdio),
            rdt: Vec::new(),
            unit: plan.unit.as_ref().map(|u| u.name.clone()),
            config: spec,
        };
        // What a killed creator leaves can then be found and removed.
        self.save(&record)?;
        rollback.cgroup = Some(cgroup.clone());
        let existed = if plan.unit.is_some() {
            // systemd makes it, around the first process.
            cgroup.exists()
        } else if req.rootless.unwrap_or_else(process::is_rootless) {
            let existed = cgroup.make_where_allowed()?;
            record.cgroup = cgroup.clone();
            rollback.cgroup = Some(cgroup.clone());
            existed
        } else {
            cgroup.make()?
        };
        if existed && cgroup.is_populated() {
            // Somebody else's.
            rollback.cgroup = None;
            return Err(Error::config(
                "linux.cgroupsPath",
                format!("cgroup {:?} has processes in it already", plan.cgroup),
            ));
        }
        if plan.unit.is_none() {
            cgroup.update(&plan.resources)?;
        }
        if let Some(class) = &plan.rdt {
            record.rdt = class.make()?;
            rollback.rdt.clone_from(&record.rdt);
        }
        Ok(Begun {
            plan,
            record,
            cgroup,
            folder,
            rollback,
        })
    }

    fn spawn(&self, req: CreateRequest, begun: &mut Begun) -> Result<Created, Error> {
        let Begun {
            plan,
            record,
            cgroup,
            folder,
            rollback,
        } = begun;
        let os = |what: &'static str| move |e: knarr_sys::Errno| Error::os(what, e);
        let folder_fd = sysfs::open(folder, sysfs::O_PATH).map_err(os("open state folder"))?;
        let address = format!("/proc/self/fd/{}/start.sock", folder_fd.as_raw_fd());
        let listener = socket::listen_seqpacket(address).map_err(os("make start socket"))?;
        drop(folder_fd);
        let (channel, theirs) = socket::seqpacket_pair().map_err(os("make channel"))?;
        let mut join = match plan.unit {
            None => cgroup.join_fds()?,
            Some(_) => JoinFds::default(),
        };
        let unified = join.unified.take();
        let new = plan.namespaces.new & !(ns::CGROUP | ns::TIME);
        let args = CloneArgs {
            namespaces: if plan.namespaces.needs_usher() {
                0
            } else {
                new
            },
            sibling: false,
            cgroup: unified.as_ref().map(AsFd::as_fd),
        };
        let streams = streams(req.stdio)?;
        hand_to_user_namespace(&streams, &record.config.linux);
        let devices = netdev::look_up(&plan.net_devices)
            .map_err(|(name, e)| Error::os(format!("network device {name:?}"), e))?;
        let premade = init::attach::id_mapped_sources(plan, &record.bundle)
            .map_err(|(target, e)| Error::os(format!("id-mapped mount at {target:?}"), e))?;
        let (mut pid, mut pidfd) = match process::clone_process(&args).map_err(os("clone"))? {
            Cloned::Child => {
                drop(channel);
                drop(unified);
                init::run(Context {
                    plan,
                    channel: theirs,
                    listener,
                    cgroup,
                    join,
                    streams,
                    premade,
                    devices,
                    preserve: req.preserve_fds,
                    no_pivot: req.no_pivot,
                    no_new_keyring: req.no_new_keyring,
                    id: &record.id,
                    bundle: &record.bundle,
                    hook_state: record.hook_state(Status::Creating),
                })
            }
            Cloned::Parent { pid, pidfd } => (pid, pidfd),
        };
        rollback.pids.push(pid);
        drop((theirs, listener, join, unified, streams, premade));
        if plan.namespaces.needs_usher() {
            let real = match next(&channel)? {
                (Message::Usher(real), _) => real,
                (other, _) => return Err(unexpected(&other)),
            };
            rollback.pids.push(real);
            let _ = process::wait(pid);
            rollback.pids.retain(|p| *p != pid);
            pid = real;
            pidfd = process::pidfd_open(pid).map_err(os("open pidfd"))?;
        }
        if plan.unit.is_some() {
            enter_cgroup(plan, pid, cgroup, rollback)?;
        }
        prepare(pid, plan)?;
        if let Some(class) = &plan.rdt {
            class.add(pid)?;
        }
        if !devices.is_empty() {
            let namespace = sysfs::open(format!("/proc/{pid}/ns/net"), sysfs::O_RDONLY)
                .map_err(os("open network namespace"))?;
            for d in &devices {
                netdev::send_away(d, &namespace)
                    .map_err(|e| Error::os(format!("move network device {:?}", d.host), e))?;
            }
        }
        record.pid = pid;
        record.start_ticks = state::proc_stat(pid).map_or(0, |s| s.start_ticks);
        protocol::send(channel.as_fd(), &Message::Proceed, None).map_err(os("tell init"))?;
        let mut console = None;
        loop {
            match next(&channel)? {
                (Message::Ready, _) => break,
                (Message::Console, fd) => console = fd,
                (Message::Hooks, _) => {
                    let state = record.hook_state(Status::Creating);
                    hooks::run_all("prestart", &plan.hooks.prestart, &state)?;
                    hooks::run_all("createRuntime", &plan.hooks.create_runtime, &state)?;
                    protocol::send(channel.as_fd(), &Message::Proceed, None)
                        .map_err(os("tell init"))?;
                }
                (Message::SeccompListener, Some(fd)) => {
                    let state = record.hook_state(Status::Creating);
                    seccomp_agent::hand_over(&plan.process, &state, pid, &fd)?;
                }
                (other, _) => return Err(unexpected(&other)),
            }
        }
        self.save(record)?;
        if let Some(file) = &req.pid_file {
            rollback.pid_file = Some(file.clone());
            state::write_pid(file, pid)?;
        }
        Ok(Created {
            pid,
            pidfd,
            console,
        })
    }
}

/// Moves a process into the container's cgroup, which systemd makes around it where it is a
/// scope's.
pub(crate) fn enter_cgroup(
    plan: &Plan,
    pid: i32,
    cgroup: &Cgroup,
    rollback: &mut Rollback,
) -> Result<(), Error> {
    let Some(unit) = &plan.unit else {
        return Ok(cgroup.add(pid)?);
    };
    rollback.unit = Some(unit.name.clone());
    enter_scope(unit, pid, cgroup, &plan.resources)
}

/// What the standard streams lead to, as `/proc` names it.
fn descriptors(stdio: &Stdio) -> Vec<String> {
    let name = |fd: i32| {
        fs::read_link(format!("/proc/self/fd/{fd}"))
            .map_or(String::new(), |p| p.to_string_lossy().into_owned())
    };
    match stdio {
        Stdio::Inherit => (0..3).map(name).collect(),
        Stdio::Terminal => Vec::new(),
        Stdio::Fds {
            stdin,
            stdout,
            stderr,
        } => [stdin, stdout, stderr]
            .map(|fd| fd.as_ref().map_or(String::new(), |fd| name(fd.as_raw_fd())))
            .to_vec(),
    }
}

/// Has systemd make the cgroup around a process, and completes it.
fn enter_scope(
    unit: &systemd::Unit,
    pid: i32,
    cgroup: &Cgroup,
    limits: &Resources,
) -> Result<(), Error> {
    let v2 = cgroup.mode() == Mode::V2;
    unit.start(pid, limits, v2)?;
    if !v2 {
        // Hierarchies that systemd does not use for it.
        cgroup.make()?;
        cgroup.add(pid)?;
    }
    Ok(cgroup.update(limits)?)
}

/// What only the parent may set: id maps and the OOM score.
fn prepare(pid: i32, plan: &Plan) -> Result<(), Error> {
    if let Some(maps) = &plan.id_maps {
        write_maps(pid, &maps.uid, &maps.gid)?;
    }
    if let Some(score) = plan.process.oom_score_adj {
        set_oom_score(pid, score)?;
    }
    Ok(())
}

fn write_maps(pid: i32, uid: &str, gid: &str) -> Result<(), Error> {
    let write = |file: &str, text: &str| {
        fs::write(format!("/proc/{pid}/{file}"), text)
            .map_err(|e| Error::os(format!("write {file}"), e))
    };
    if process::geteuid() == 0 {
        write("uid_map", uid)?;
        return write("gid_map", gid);
    }
    // The kernel lets an ordinary user map one id, its own; helpers with more power map what
    // /etc/subuid and /etc/subgid allow.
    let own = |map: &str, id: u32| {
        let words: Vec<&str> = map.split_whitespace().collect();
        matches!(words.as_slice(), [_, host, "1"] if *host == id.to_string())
    };
    if own(uid, process::geteuid()) {
        write("uid_map", uid)?;
    } else {
        run_mapper("newuidmap", pid, uid)?;
    }
    if own(gid, process::getegid()) {
        // Without privilege the kernel takes a group map only where setgroups is off.
        write("setgroups", "deny")?;
        write("gid_map", gid)
    } else {
        run_mapper("newgidmap", pid, gid)
    }
}

/// Has a helper write a map.
fn run_mapper(program: &'static str, pid: i32, map: &str) -> Result<(), Error> {
    let output = std::process::Command::new(program)
        .arg(pid.to_string())
        .args(map.split_whitespace())
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|e| Error::os(program, e))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::os(
        program,
        std::io::Error::other(said.trim().replace('\n', "; ")),
    ))
}

/// Sets the score; a value below the present one that we may not set becomes the present one.
pub(crate) fn set_oom_score(pid: i32, score: i32) -> Result<(), Error> {
    let file = format!("/proc/{pid}/oom_score_adj");
    match fs::write(&file, score.to_string()) {
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
        other => other.map_err(|e| Error::os(format!("set oom_score_adj to {score}"), e)),
    }
}

/// The child's next message; its failure or its death is an error.
pub(crate) fn next(channel: &OwnedFd) -> Result<(Message, Option<OwnedFd>), Error> {
    let got = protocol::receive(channel.as_fd()).map_err(|e| Error::os("hear from init", e))?;
    match got {
        Some((Message::Failed { step, cause, errno }, _)) => {
            Err(Error::Init { step, cause, errno })
        }
        Some(other) => Ok(other),
        None => Err(Error::Init {
            step: "container init".into(),
            cause: "it was killed before it was ready (maybe its memory limit is too low)".into(),
            errno: 0,
        }),
    }
}

pub(crate) fn unexpected(message: &Message) -> Error {
    Error::Init {
        step: "container init".into(),
        cause: format!("unexpected message {message:?}"),
        errno: 0,
    }
}
