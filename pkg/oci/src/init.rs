//! The child: what happens between `clone3` and `execve`.
//!
//! Everything here runs in a process of its own that ends in `execve` or `_exit`. A failure is a
//! [`Failure`], told to the parent over the protocol.

pub mod attach;
pub mod cgroupfs;
pub mod finish;
pub mod root;
pub mod rootfs;
pub mod terminal;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use knarr_cgroups::{Cgroup, JoinFds};
use knarr_sys::process::{self, CloneArgs, Cloned, ns};
use knarr_sys::{Errno, fs, net};

use crate::hooks;
use crate::netdev::{self, NetDevice};
use crate::plan::{Plan, Step};
use crate::protocol::{self, Message};

/// A step that failed.
#[derive(Debug)]
pub struct Failure {
    /// The step.
    pub step: String,
    /// Why.
    pub cause: String,
    /// The operating system's error number, or 0.
    pub errno: i32,
}

impl Failure {
    /// A failure that is no system call's.
    pub fn new(step: impl Into<String>, cause: impl Into<String>) -> Self {
        Self {
            step: step.into(),
            cause: cause.into(),
            errno: 0,
        }
    }

    /// The message to the parent.
    pub fn message(self) -> Message {
        Message::Failed {
            step: self.step,
            cause: self.cause,
            errno: self.errno,
        }
    }
}

/// Names the step of a failed system call.
pub trait During<T> {
    /// Turns the error into a [`Failure`] of this step.
    fn during(self, step: impl Into<String>) -> Result<T, Failure>;
}

impl<T> During<T> for Result<T, Errno> {
    fn during(self, step: impl Into<String>) -> Result<T, Failure> {
        self.map_err(|e| Failure {
            step: step.into(),
            cause: e.to_string(),
            errno: e.0,
        })
    }
}

impl<T> During<T> for std::io::Result<T> {
    fn during(self, step: impl Into<String>) -> Result<T, Failure> {
        self.map_err(|e| {
            let errno = e.raw_os_error().unwrap_or(0);
            Failure {
                step: step.into(),
                cause: if errno != 0 {
                    Errno(errno).to_string()
                } else {
                    e.to_string()
                },
                errno,
            }
        })
    }
}

/// The standard streams as the child will have them.
#[derive(Debug)]
pub enum Streams {
    /// Those of the caller.
    Inherit,
    /// These.
    Fds([OwnedFd; 3]),
    /// A terminal is made.
    Terminal,
}

/// What the child needs besides the plan.
pub struct Context<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The channel to the parent.
    pub channel: OwnedFd,
    /// Where `start` connects.
    pub listener: OwnedFd,
    /// The container's cgroup, as the parent sees it.
    pub cgroup: &'a Cgroup,
    /// How to get into the cgroup.
    pub join: JoinFds,
    /// The standard streams.
    pub streams: Streams,
    /// Descriptors to hand on, from 3.
    pub preserve: Vec<OwnedFd>,
    /// Mount sources that the parent has opened.
    pub premade: Vec<Option<OwnedFd>>,
    /// Network devices that the parent moves in.
    pub devices: Vec<NetDevice>,
    /// Do not use `pivot_root`.
    pub no_pivot: bool,
    /// Keep the session keyring.
    pub no_new_keyring: bool,
    /// The container's name.
    pub id: &'a str,
    /// The bundle folder.
    pub bundle: &'a std::path::Path,
    /// The state that hooks get, but for the pid.
    pub hook_state: hooks::HookState,
}

/// The init of a new container, right after the clone. Does not return.
pub fn run(context: Context<'_>) -> ! {
    let channel = match context.channel.try_clone() {
        Ok(c) => c,
        Err(_) => process::exit_now(1),
    };
    leave_with(&channel, || enter(context))
}

/// Does the child's work and leaves with its failure. Nothing, not even a panic, may get back
/// into the caller's code, which would go on as if it were the parent.
pub fn leave_with(channel: &OwnedFd, work: impl FnOnce() -> Result<Never, Failure>) -> ! {
    let failure = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(Ok(never)) => match never {},
        Ok(Err(f)) => f,
        Err(_) => Failure::new("container process", "panicked"),
    };
    let _ = protocol::send(channel.as_fd(), &failure.message(), None);
    process::exit_now(1)
}

/// Why nothing comes back: a type without values.
pub enum Never {}

fn enter(mut c: Context<'_>) -> Result<Never, Failure> {
    let plan = c.plan;
    // A parent without privilege must still be able to write our maps: nobody of the container is
    // there yet, and `become_root` makes up for it.
    if plan.id_maps.is_none() || process::geteuid() == 0 {
        let _ = process::set_dumpable(false);
    }
    // A caller's signal settings are not the container's.
    knarr_sys::signal::reset_all();
    let _ = process::set_name(c"knarr:[init]");
    c.join.join_v1().during("join cgroup")?;
    let spaces = &plan.namespaces;
    if spaces.needs_usher() {
        return usher(c);
    }
    for (kind, path) in &spaces.join {
        let fd = fs::open(path, fs::O_RDONLY).during(format!("open namespace {path:?}"))?;
        process::setns(fd.as_fd(), *kind).during(format!("join namespace {path:?}"))?;
    }
    set_up(&mut c)
}

/// Enters the namespaces that must come first, makes the real init and leaves.
fn usher(mut c: Context<'_>) -> Result<Never, Failure> {
    let spaces = &c.plan.namespaces;
    let mut open = Vec::new();
    for (kind, path) in &spaces.join {
        let fd = fs::open(path, fs::O_RDONLY).during(format!("open namespace {path:?}"))?;
        open.push((*kind, path, fd));
    }
    // With the caller's privileges first; what they do not reach, from inside the user namespace.
    open.retain(|(kind, _, fd)| *kind == ns::USER || process::setns(fd.as_fd(), *kind).is_err());
    open.sort_by_key(|(kind, _, _)| *kind != ns::USER);
    for (kind, path, fd) in &open {
        process::setns(fd.as_fd(), *kind).during(format!("join namespace {path:?}"))?;
    }
    drop(open);
    let args = CloneArgs {
        namespaces: spaces.new & !(ns::CGROUP | ns::TIME),
        sibling: true,
        cgroup: None,
    };
    match process::clone_process(&args).during("clone")? {
        Cloned::Child => set_up(&mut c),
        Cloned::Parent { pid, .. } => {
            let _ = protocol::send(c.channel.as_fd(), &Message::Usher(pid), None);
            process::exit_now(0)
        }
    }
}

/// Root of a user namespace that was joined or just mapped.
fn become_root() -> Result<(), Failure> {
    let _ = process::setgroups(&[]);
    process::setresgid(0).during("become group root of the user namespace")?;
    process::setresuid(0).during("become root of the user namespace")?;
    let _ = process::set_dumpable(false);
    Ok(())
}

fn expect_proceed(channel: BorrowedFd<'_>) -> Result<(), Failure> {
    match protocol::receive(channel).during("wait for the runtime")? {
        Some((Message::Proceed, _)) => Ok(()),
        Some((other, _)) => Err(Failure::new("wait for the runtime", format!("{other:?}"))),
        // The runtime is gone: nobody is left to tell.
        None => process::exit_now(1),
    }
}

fn set_up(c: &mut Context<'_>) -> Result<Never, Failure> {
    let plan = c.plan;
    let spaces = &plan.namespaces;
    expect_proceed(c.channel.as_fd())?;
    if spaces.new & ns::CGROUP != 0 {
        process::unshare(ns::CGROUP).during("unshare cgroup namespace")?;
    }
    if !c.no_new_keyring {
        // A kernel without keys, or a used-up quota, is no reason to fail.
        let _ = process::join_session_keyring(&format!("_ses.{}", c.id));
    }
    process::setsid().during("start session")?;
    let other_user = spaces.has(ns::USER);
    let own_mounts = spaces.new & ns::MOUNT != 0;
    // The host's procfs, which no container can have tampered with.
    let proc = fs::open("/proc", fs::O_PATH | fs::O_DIRECTORY).during("open /proc")?;
    let mut tree = rootfs::Rootfs::new(
        plan,
        c.bundle,
        c.cgroup,
        proc,
        std::mem::take(&mut c.premade),
    );
    if own_mounts {
        // Sources are opened while we still have the caller's user id.
        tree.prepare()?;
    }
    if other_user {
        become_root()?;
    }
    for step in &plan.outside {
        match step {
            Step::Loopback => net::loopback_up().during(step.name())?,
            Step::TimeOffsets(lines) => {
                process::unshare(ns::TIME).during("unshare time namespace")?;
                fs::write_at(tree.proc.as_fd(), "self/timens_offsets", lines.as_bytes())
                    .during(step.name())?;
            }
            other => tree.run(other)?,
        }
    }
    if spaces.new & ns::TIME != 0
        && !plan
            .outside
            .iter()
            .any(|s| matches!(s, Step::TimeOffsets(_)))
    {
        process::unshare(ns::TIME).during("unshare time namespace")?;
    }
    for device in &c.devices {
        netdev::settle(device).during(format!("set up network device {:?}", device.name))?;
    }
    if own_mounts {
        tree.make_cwd(&plan.process.cwd)?;
    }
    c.hook_state.pid = process::getpid();
    if !plan.hooks.prestart.is_empty() || !plan.hooks.create_runtime.is_empty() {
        protocol::send(c.channel.as_fd(), &Message::Hooks, None).during("ask for hooks")?;
        expect_proceed(c.channel.as_fd())?;
    }
    c.hook_state.status = "creating";
    hooks::run_all(
        "createContainer",
        &plan.hooks.create_container,
        &c.hook_state,
    )
    .map_err(|e| Failure::new("createContainer hooks", e.to_string()))?;
    if own_mounts {
        tree.switch(c.no_pivot)?;
    }
    if let Streams::Terminal = c.streams {
        let master = terminal::attach(&tree.root()?, plan.process.console_size, own_mounts)?;
        protocol::send(c.channel.as_fd(), &Message::Console, Some(master.as_fd()))
            .during("hand over the terminal")?;
    }
    for step in &plan.inside {
        tree.run(step)?;
    }
    // What else it holds must not be open any more when the program's working folder is entered.
    let proc = tree.into_proc();
    finish::streams(&c.streams, plan.process.uid)?;
    finish::attributes(&plan.process, proc.as_fd())?;
    let program = finish::privileges(&plan.process, c.channel.as_fd())?;
    finish::cwd(&plan.process.cwd)?;
    drop(proc);
    let path = finish::find_program(&plan.process)?;
    protocol::send(c.channel.as_fd(), &Message::Ready, None).during("report ready")?;
    wait_for_start(c, program, &path)
}

/// Waits until someone starts the container, then runs the program.
fn wait_for_start(
    c: &mut Context<'_>,
    late: finish::LateFilter<'_>,
    path: &std::path::Path,
) -> Result<Never, Failure> {
    // The creator may leave now.
    c.channel = fs::open("/", fs::O_PATH).during("open /")?;
    let connection = loop {
        let Ok(connection) = knarr_sys::socket::accept(c.listener.as_fd()) else {
            process::exit_now(1);
        };
        // A connection that says nothing only asks whether we still wait.
        if let Ok(Some((Message::Start, _))) = protocol::receive(connection.as_fd()) {
            break connection;
        }
    };
    // Above the numbers that are handed on.
    let least = 3 + c.preserve.len() as i32;
    let connection = fs::dup_at_least(connection.as_fd(), least).during("copy descriptor")?;
    c.hook_state.status = "created";
    let hooks = &c.plan.hooks.start_container;
    let failure = match hooks::run_all("startContainer", hooks, &c.hook_state) {
        Err(e) => Failure::new("startContainer hooks", e.to_string()),
        Ok(()) => {
            let preserve = std::mem::take(&mut c.preserve);
            finish::execute(&c.plan.process, late, path, preserve)
        }
    };
    let code = if failure.errno == Errno::NOENT.0 {
        127
    } else {
        126
    };
    let _ = protocol::send(connection.as_fd(), &failure.message(), None);
    process::exit_now(code)
}
