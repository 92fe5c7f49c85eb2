//! Running one more process in a container.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use knarr_cgroups::{Cgroup, JoinFds};
use knarr_sys::process::{self, CloneArgs, Cloned, ns};
use knarr_sys::{fs, sched, socket};

use crate::api::{Runtime, Started, Status, Stdio};
use crate::config::Process;
use crate::create::{hand_to_user_namespace, next, one_thread, set_oom_score, streams, unexpected};
use crate::error::Error;
use crate::init::root::Root;
use crate::init::{During, Failure, Never, Streams, finish, terminal};
use crate::plan::ProcessPlan;
use crate::protocol::{self, Message};
use crate::state::{self, Record};
use crate::{seccomp, seccomp_agent};

struct Context<'a> {
    process: &'a ProcessPlan,
    record: &'a Record,
    target: OwnedFd,
    channel: OwnedFd,
    join: JoinFds,
    streams: Streams,
    preserve: Vec<OwnedFd>,
}

impl Runtime {
    /// Runs one more process in a container. It is a direct child of the caller. Returns once
    /// `execve` has succeeded or failed.
    ///
    /// # Errors
    /// [`Error::State`] unless the container is created or running; [`Error::Config`] for a bad
    /// process; [`Error::Init`] when it cannot be run; [`Error::Threads`].
    pub fn exec(&self, id: &str, process: Process, options: ExecOptions) -> Result<Started, Error> {
        let record = self.load(id)?;
        match self.status(&record) {
            Status::Running | Status::Created => {}
            Status::Paused if options.ignore_paused => {}
            status => {
                return Err(Error::State {
                    action: "exec in",
                    status,
                });
            }
        }
        if process.terminal != matches!(options.stdio, Stdio::Terminal) {
            return Err(Error::config(
                "process.terminal",
                "must agree with the console that is given",
            ));
        }
        let linux = &record.config.linux;
        let filter = match &linux.seccomp {
            Some(s) => seccomp::compile(s)?,
            None => None,
        };
        let in_userns = record.namespaces & ns::USER != 0;
        let plan = ProcessPlan::build(&process, linux, filter, in_userns)?;
        one_thread()?;
        let os = |what: &'static str| move |e: knarr_sys::Errno| Error::os(what, e);
        let target = process::pidfd_open(record.pid).map_err(os("open init"))?;
        // The pid could have been reused between reading the state and here.
        if !record.alive() {
            return Err(Error::State {
                action: "exec in",
                status: Status::Stopped,
            });
        }
        let wanted = options.cgroup.as_deref().unwrap_or_default();
        let (controllers, below) = wanted.split_once(':').unwrap_or(("", wanted));
        let cgroup = match below.trim_matches('/') {
            "" => record.cgroup.clone(),
            below if below.split('/').any(|p| p == "..") => {
                return Err(Error::config("cgroup", "must not contain \"..\""));
            }
            below => record.cgroup.child_in(controllers, below),
        };
        spawn(&record, &plan, target, &cgroup, options)
    }
}

/// How [`Runtime::exec`] runs the process.
#[derive(Debug, Default)]
pub struct ExecOptions {
    /// The standard streams.
    pub stdio: Stdio,
    /// A file to write the pid to.
    pub pid_file: Option<PathBuf>,
    /// Extra descriptors the process inherits, numbered from 3 on in this order.
    pub preserve_fds: Vec<OwnedFd>,
    /// A cgroup below the container's own to run in: `[controller[,controller]:]path`.
    pub cgroup: Option<String>,
    /// Run in a paused container (the process freezes with it).
    pub ignore_paused: bool,
}

fn spawn(
    record: &Record,
    plan: &ProcessPlan,
    target: OwnedFd,
    cgroup: &Cgroup,
    mut options: ExecOptions,
) -> Result<Started, Error> {
    let os = |what: &'static str| move |e: knarr_sys::Errno| Error::os(what, e);
    let (channel, theirs) = socket::seqpacket_pair().map_err(os("make channel"))?;
    let mut join = cgroup.join_fds()?;
    let unified = join.unified.take();
    let streams = streams(std::mem::take(&mut options.stdio))?;
    hand_to_user_namespace(&streams, &record.config.linux);
    let preserve = std::mem::take(&mut options.preserve_fds);
    let args = CloneArgs {
        cgroup: unified.as_ref().map(AsFd::as_fd),
        ..CloneArgs::default()
    };
    let usher = match process::clone_process(&args).map_err(os("clone"))? {
        Cloned::Child => {
            drop((channel, unified));
            child(Context {
                process: plan,
                record,
                target,
                channel: theirs,
                join,
                streams,
                preserve,
            })
        }
        Cloned::Parent { pid, .. } => pid,
    };
    drop((theirs, join, unified, streams, target, preserve));
    let heard = hear(&channel, cgroup, options.ignore_paused).and_then(|()| next(&channel));
    // It has done its part, or never will.
    give_up(usher);
    let pid = match heard? {
        (Message::Usher(pid), _) => pid,
        (other, _) => return Err(unexpected(&other)),
    };
    let finished = follow(record, plan, pid, &channel, cgroup, &options);
    if finished.is_err() {
        give_up(pid);
    }
    finished
}

/// How long a process on its way into the container may be silent before the freezer is asked.
const PATIENCE_MS: i32 = 250;

/// Waits until the process has something to say. One that was frozen on its way in, by a pause
/// since the state was looked at, says nothing: nobody may be held up by that.
fn hear(channel: &OwnedFd, cgroup: &Cgroup, ignore_paused: bool) -> Result<(), Error> {
    let wait = || fs::poll_readable(channel.as_fd(), PATIENCE_MS);
    while !wait().map_err(|e| Error::os("hear from process", e))? {
        if !ignore_paused && cgroup.is_frozen() {
            return Err(Error::State {
                action: "exec in",
                status: Status::Paused,
            });
        }
    }
    Ok(())
}

/// Ends a process that shall not be. A frozen one dies when it is thawed, and then is reaped by
/// whoever reaps the caller's children.
fn give_up(pid: i32) {
    let _ = process::kill(pid, 9);
    let pidfd = process::pidfd_open(pid);
    let ended = pidfd.is_ok_and(|fd| fs::poll_readable(fd.as_fd(), PATIENCE_MS).unwrap_or(true));
    if ended {
        let _ = process::wait(pid);
    }
}

fn follow(
    record: &Record,
    plan: &ProcessPlan,
    pid: i32,
    channel: &OwnedFd,
    cgroup: &Cgroup,
    options: &ExecOptions,
) -> Result<Started, Error> {
    let os = |what: &'static str| move |e: knarr_sys::Errno| Error::os(what, e);
    let pidfd = process::pidfd_open(pid).map_err(os("open pidfd"))?;
    if let Some(score) = plan.oom_score_adj {
        set_oom_score(pid, score)?;
    }
    protocol::send(channel.as_fd(), &Message::Proceed, None).map_err(os("tell process"))?;
    let mut console = None;
    let mut ready = false;
    // After "ready" the end of file means that execve has succeeded.
    loop {
        hear(channel, cgroup, options.ignore_paused)?;
        match protocol::receive(channel.as_fd()).map_err(os("hear from process"))? {
            None if ready => break,
            None => {
                return Err(Error::Init {
                    step: "exec".into(),
                    cause: "the process was killed before it was ready".into(),
                    errno: 0,
                });
            }
            Some((Message::Ready, _)) => ready = true,
            Some((Message::Console, fd)) => console = fd,
            Some((Message::SeccompListener, Some(fd))) => {
                let state = record.hook_state(Status::Running);
                seccomp_agent::hand_over(plan, &state, pid, &fd)?;
            }
            Some((Message::Failed { step, cause, errno }, _)) => {
                return Err(Error::Init { step, cause, errno });
            }
            Some((other, _)) => return Err(unexpected(&other)),
        }
    }
    if let Some(file) = &options.pid_file {
        state::write_pid(file, pid)?;
    }
    Ok(Started {
        pid,
        pidfd,
        console,
    })
}

/// The caller's child: enters the container, makes the real process as its sibling, leaves.
fn child(c: Context<'_>) -> ! {
    let channel = match fs::dup_at_least(c.channel.as_fd(), 3 + c.preserve.len() as i32) {
        Ok(fd) => fd,
        Err(_) => process::exit_now(1),
    };
    crate::init::leave_with(&channel, || enter(c, &channel))
}

fn enter(mut c: Context<'_>, channel: &OwnedFd) -> Result<Never, Failure> {
    // Before anything of the container can see us.
    let _ = process::set_dumpable(false);
    knarr_sys::signal::reset_all();
    if !c.process.affinity.0.is_empty() {
        sched::set_affinity(&c.process.affinity.0).during("set initial CPU affinity")?;
    }
    c.join.join_v1().during("join cgroup")?;
    // One call enters all namespaces of the init, or none.
    let mut spaces = c.record.namespaces;
    if spaces & ns::USER != 0 && same_user_namespace(c.record.pid) {
        spaces &= !ns::USER;
    }
    if spaces != 0 {
        process::setns(c.target.as_fd(), spaces).during("join namespaces of init")?;
    }
    let args = CloneArgs {
        sibling: true,
        ..CloneArgs::default()
    };
    match process::clone_process(&args).during("clone")? {
        Cloned::Parent { pid, .. } => {
            let _ = protocol::send(channel.as_fd(), &Message::Usher(pid), None);
            process::exit_now(0)
        }
        Cloned::Child => run(&mut c, channel),
    }
}

fn same_user_namespace(pid: i32) -> bool {
    let of = |p: &str| std::fs::read_link(format!("/proc/{p}/ns/user")).ok();
    of("self") == of(&pid.to_string())
}

fn run(c: &mut Context<'_>, channel: &OwnedFd) -> Result<Never, Failure> {
    match protocol::receive(channel.as_fd()).during("wait for the runtime")? {
        Some((Message::Proceed, _)) => {}
        _ => process::exit_now(1),
    }
    process::setsid().during("start session")?;
    if c.record.namespaces & ns::USER != 0 {
        let _ = process::setgroups(&[]);
        process::setresgid(0).during("become group root of the user namespace")?;
        process::setresuid(0).during("become root of the user namespace")?;
        let _ = process::set_dumpable(false);
    }
    if let Streams::Terminal = c.streams {
        let root = fs::open("/", fs::O_PATH | fs::O_DIRECTORY).during("open /")?;
        let master = terminal::attach(&Root(root), c.process.console_size, false)?;
        protocol::send(channel.as_fd(), &Message::Console, Some(master.as_fd()))
            .during("hand over the terminal")?;
    }
    finish::streams(&c.streams, c.process.uid)?;
    let needs_labels = !c.process.apparmor.is_empty() || !c.process.selinux.is_empty();
    let proc = if needs_labels {
        // The container's own procfs: make sure that it is one.
        let fd = fs::open("/proc", fs::O_PATH | fs::O_DIRECTORY).during("open /proc")?;
        if fs::fs_magic(fd.as_fd()).during("look at /proc")? != fs::magic::PROC {
            return Err(Failure::new("look at /proc", "it is not a procfs"));
        }
        fd
    } else {
        fs::open("/", fs::O_PATH).during("open /")?
    };
    finish::attributes(c.process, proc.as_fd())?;
    drop(proc);
    if !c.process.affinity.1.is_empty() {
        sched::set_affinity(&c.process.affinity.1).during("set CPU affinity")?;
    }
    let late = finish::privileges(c.process, channel.as_fd())?;
    finish::cwd(&c.process.cwd)?;
    let path = finish::find_program(c.process)?;
    protocol::send(channel.as_fd(), &Message::Ready, None).during("report ready")?;
    let preserve = std::mem::take(&mut c.preserve);
    Err(finish::execute(c.process, late, &path, preserve))
}
