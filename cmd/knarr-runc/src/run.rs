//! create, run, start, delete, kill.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use knarr_oci::config::Spec;
use knarr_oci::{CreateRequest, Created, Stdio};
use knarr_sys::process::{self, Exit};
use knarr_sys::{fs, signal};

use crate::args::Problem;
use crate::{Call, Done, notify};

mod console;
pub use console::{Relay, send_console};

/// Descriptors to hand on: those of socket activation, then `--preserve-fds`.
pub fn preserved(call: &Call) -> Result<(Vec<OwnedFd>, usize), Problem> {
    let listen: usize = std::env::var("LISTEN_FDS")
        .ok()
        .filter(|_| {
            std::env::var("LISTEN_PID").map_or(true, |p| p == std::process::id().to_string())
        })
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    let more: usize = call.parsed.number("preserve-fds")?.unwrap_or(0);
    let fds = (3..3 + listen + more)
        .map(|n| {
            fs::take_inherited(n as i32)
                .map_err(|e| Problem::new(format!("unable to preserve descriptor {n}: {e}")))
        })
        .collect::<Result<_, _>>()?;
    Ok((fds, listen))
}

fn bundle(call: &Call) -> PathBuf {
    PathBuf::from(call.parsed.value("bundle").unwrap_or("."))
}

fn read_spec(bundle: &std::path::Path) -> Result<Box<Spec>, Problem> {
    let path = bundle.join("config.json");
    let text = std::fs::read(&path).map_err(|e| {
        if e.kind() == std::io::ErrorKind::NotFound {
            Problem::new(format!("JSON specification file {path:?} not found"))
        } else {
            Problem::new(format!("read {path:?}: {e}"))
        }
    })?;
    serde_json::from_slice(&text).map_err(|e| Problem::new(format!("config.json: {e}")))
}

fn wants_terminal(spec: &Spec) -> bool {
    spec.process.as_ref().is_some_and(|p| p.terminal)
}

fn request(call: &Call, mut spec: Box<Spec>) -> Result<CreateRequest, Problem> {
    let p = &call.parsed;
    let (preserve_fds, listen) = preserved(call)?;
    if let (1.., Some(process)) = (listen, &mut spec.process) {
        // The program is number 1 of its container.
        process.env.push(format!("LISTEN_FDS={listen}"));
        process.env.push("LISTEN_PID=1".into());
    }
    Ok(CreateRequest {
        id: call.id()?.to_string(),
        bundle: bundle(call),
        stdio: if wants_terminal(&spec) {
            Stdio::Terminal
        } else {
            Stdio::Inherit
        },
        spec: Some(spec),
        pid_file: p.value("pid-file").map(PathBuf::from),
        preserve_fds,
        rootless: call.rootless,
        notify: notify::wanted().is_some(),
        no_pivot: p.has("no-pivot"),
        no_new_keyring: p.has("no-new-keyring"),
        systemd_cgroup: call.systemd_cgroup,
    })
}

fn check_console(terminal: bool, socket: Option<&str>, detached: bool) -> Result<(), Problem> {
    match (terminal, socket, detached) {
        (true, None, true) => Err(Problem::new(
            "cannot allocate tty if runc will detach without setting console socket",
        )),
        (_, Some(_), false) => Err(Problem::new(
            "cannot use console socket if runc will not detach or allocate tty",
        )),
        (false, Some(_), true) => Err(Problem::new(
            "cannot use console socket if runc will not detach or allocate tty",
        )),
        _ => Ok(()),
    }
}

/// `create`.
pub fn create(call: &Call) -> Done {
    let spec = read_spec(&bundle(call))?;
    let socket = call.parsed.value("console-socket");
    check_console(wants_terminal(&spec), socket, true)?;
    let made = call.runtime.create(request(call, spec)?)?;
    let handed = match (socket, &made.console) {
        (Some(socket), Some(console)) => send_console(socket, console),
        _ => Ok(()),
    };
    if let Err(e) = handed.and_then(|()| send_pidfd(call, &made.pidfd)) {
        let _ = call.runtime.delete(call.id()?, true);
        return Err(e);
    }
    Ok(0)
}

/// Hands the process over to whoever asked for it.
pub fn send_pidfd(call: &Call, pidfd: &OwnedFd) -> Result<(), Problem> {
    match call.parsed.value("pidfd-socket") {
        Some(socket) => send_console(socket, pidfd),
        None => Ok(()),
    }
}

/// `run`: create, start, and unless detached: pass signals and the exit code on, and delete.
pub fn run(call: &Call) -> Done {
    bring_up(call, true, |request| call.runtime.create(request))
}

/// Has a container made, starts it where it waits for that, and unless detached passes signals and
/// the exit code on, and deletes it.
pub fn bring_up(
    call: &Call,
    waits: bool,
    make: impl FnOnce(CreateRequest) -> Result<Created, knarr_oci::Error>,
) -> Done {
    let id = call.id()?.to_string();
    let detach = call.parsed.has("detach");
    let keep = call.parsed.has("keep");
    let spec = read_spec(&bundle(call))?;
    let socket = call.parsed.value("console-socket");
    check_console(wants_terminal(&spec), socket, detach)?;
    // Before the child is made, so that none is missed; the child resets them.
    let signals = if detach {
        None
    } else {
        if !call.parsed.has("no-subreaper") {
            process::set_child_subreaper(true)?;
        }
        Some(signal::signalfd(FORWARDED)?)
    };
    let made = make(request(call, spec)?)?;
    let gone = |problem: Problem| {
        let _ = call.runtime.delete(&id, true);
        problem
    };
    if let (Some(socket), Some(console)) = (socket, &made.console) {
        send_console(socket, console).map_err(gone)?;
    }
    send_pidfd(call, &made.pidfd).map_err(gone)?;
    let relay = match (&signals, made.console) {
        (Some(_), Some(master)) => Some(Relay::new(master).map_err(gone)?),
        _ => None,
    };
    let notify = notify::Relay::bind(&call.root, &id).map_err(gone)?;
    if waits {
        let started = call.runtime.start(&id);
        started.map_err(|e| gone(Problem::from(e)))?;
    }
    let Some(signals) = signals else {
        if let Some(notify) = notify {
            notify.pass_on(made.pid, made.pid);
        }
        return Ok(0);
    };
    if let Some(notify) = notify {
        let (container, own) = (made.pid, process::getpid());
        std::thread::spawn(move || notify.pass_on(container, own));
    }
    let exit = supervise(made.pid, &signals, relay)?;
    if !keep {
        call.runtime.delete(&id, true)?;
    }
    Ok(exit.shell_code())
}

/// Every signal that a container's init should get from whoever signals us.
pub const FORWARDED: &[i32] = &[
    1, 2, 3, 6, 10, 12, 13, 14, 15, 17, 18, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30,
];

const SIGCHLD: i32 = 17;
const SIGWINCH: i32 = 28;
const SIGURG: i32 = 23;

/// Waits for a child, passing on signals and terminal data.
pub fn supervise(pid: i32, signals: &OwnedFd, mut relay: Option<Relay>) -> Result<Exit, Problem> {
    loop {
        match &mut relay {
            Some(relay) => relay.pump(signals.as_fd())?,
            None => {
                fs::poll_readable(signals.as_fd(), -1)?;
            }
        }
        while let Some(number) = signal::read_signal(signals.as_fd())? {
            match number {
                SIGCHLD => loop {
                    match process::try_wait(-1) {
                        Ok(Some((ended, exit))) if ended == pid => {
                            if let Some(relay) = &mut relay {
                                relay.drain();
                            }
                            return Ok(exit);
                        }
                        Ok(Some(_)) => {}
                        Ok(None) | Err(_) => break,
                    }
                },
                SIGWINCH => {
                    if let Some(relay) = &relay {
                        relay.resize();
                    }
                }
                SIGURG => {}
                other => {
                    let _ = process::kill(pid, other);
                }
            }
        }
    }
}

/// `start`.
pub fn start(call: &Call) -> Done {
    let id = call.id()?;
    let notify = notify::Relay::bind(&call.root, id)?;
    call.runtime.start(id)?;
    if let Some(notify) = notify {
        let pid = call.runtime.state(id)?.pid;
        notify.pass_on(pid, pid);
    }
    Ok(0)
}

/// `delete`.
pub fn delete(call: &Call) -> Done {
    let id = call.id()?;
    let force = call.parsed.has("force");
    match call.runtime.delete(id, force) {
        Err(knarr_oci::Error::State { status, .. }) => Err(Problem::new(format!(
            "cannot delete container {id} that is not stopped: {}",
            status.as_str()
        ))),
        other => Ok(other.map(|()| 0)?),
    }
}

/// `kill`.
pub fn kill(call: &Call) -> Done {
    let (id, name) = match call.parsed.rest.as_slice() {
        [id] => (id, "TERM"),
        [id, name] => (id, name.as_str()),
        [] => return Err(Problem::new("container id cannot be empty")),
        _ => {
            return Err(Problem::new("\"kill\" takes a container id and a signal"));
        }
    };
    let number =
        signal::number(name).ok_or_else(|| Problem::new(format!("unknown signal {name:?}")))?;
    call.runtime.kill(id, number, call.parsed.has("all"))?;
    Ok(0)
}
