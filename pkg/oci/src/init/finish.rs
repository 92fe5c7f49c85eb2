//! From a ready root to the user's program: streams, attributes, privileges, `execve`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use knarr_sys::caps::{self, Caps};
use knarr_sys::process::{self, ArgList};
use knarr_sys::{Errno, fs, sched, seccomp};

use crate::init::{During, Failure, Streams};
use crate::plan::ProcessPlan;
use crate::protocol::{self, Message};
use crate::seccomp::Filter;

/// Puts the standard streams in place and gives them to the program's user.
pub fn streams(streams: &Streams, uid: u32) -> Result<(), Failure> {
    if let Streams::Fds(fds) = streams {
        for (n, fd) in fds.iter().enumerate() {
            fs::dup_onto(fd.as_fd(), n as i32).during("set standard streams")?;
        }
    }
    own_null();
    if uid == 0 {
        return Ok(());
    }
    for n in 0..3 {
        let Ok(fd) = fs::borrow_open(n) else {
            continue;
        };
        let Ok(st) = fs::fstat(fd) else {
            continue;
        };
        // Shared by everyone, or the program's already.
        if st.is_char_device(1, 3) || st.uid == uid {
            continue;
        }
        // So that the program may open /dev/stdout. Where it cannot be, it does without.
        let _ = fs::chownat(fd, "", uid, u32::MAX);
    }
    Ok(())
}

/// Streams that lead to the host's `/dev/null` lead to the container's own: a descriptor of a mount
/// that the container does not have could not be checkpointed. Where it has none, they stay.
fn own_null() {
    let is_null = |fd: BorrowedFd<'_>| fs::fstat(fd).is_ok_and(|s| s.is_char_device(1, 3));
    let mut own = None;
    for n in 0..3 {
        if !fs::borrow_open(n).is_ok_and(is_null) {
            continue;
        }
        if own.is_none() {
            let at = fs::fstatat(fs::CWD, "/dev/null");
            if !at.is_ok_and(|s| s.is_char_device(1, 3)) {
                return;
            }
            own = fs::open("/dev/null", fs::O_RDWR | fs::O_NOFOLLOW)
                .ok()
                .filter(|fd| is_null(fd.as_fd()));
        }
        if let Some(own) = &own {
            let _ = fs::dup_onto(own.as_fd(), n);
        }
    }
}

/// Limits and settings that need no further privilege later.
pub fn attributes(p: &ProcessPlan, proc: BorrowedFd<'_>) -> Result<(), Failure> {
    process::umask(p.umask);
    for (number, soft, hard) in &p.rlimits {
        sched::set_rlimit(*number, *soft, *hard).during(format!("set rlimit {number}"))?;
    }
    if let Some(s) = &p.scheduler {
        sched::set_scheduler(s).during("set scheduler")?;
    }
    if let Some((class, level)) = p.io_priority {
        sched::set_io_priority(class, level).during("set I/O priority")?;
    }
    if let Some((mode, nodes)) = &p.memory_policy {
        sched::set_memory_policy(*mode, nodes).during("set memory policy")?;
    }
    if let Some(persona) = p.personality {
        sched::set_personality(persona).during("set personality")?;
    }
    if !p.apparmor.is_empty() && p.apparmor != "unconfined" {
        let label = format!("exec {}", p.apparmor);
        fs::write_at(proc, "self/attr/apparmor/exec", label.as_bytes())
            .or_else(|_| fs::write_at(proc, "self/attr/exec", label.as_bytes()))
            .during(format!("apply AppArmor profile {:?}", p.apparmor))?;
    }
    if !p.selinux.is_empty() && Path::new("/sys/fs/selinux/enforce").exists() {
        fs::write_at(proc, "self/attr/exec", p.selinux.as_bytes())
            .during(format!("apply SELinux label {:?}", p.selinux))?;
    }
    Ok(())
}

/// A filter that is loaded as the very last thing.
pub struct LateFilter<'a>(Option<&'a Filter>);

/// Becomes the program's user with its capabilities. With no-new-privileges the system call
/// filter is left for last, so that it need not allow what happens here; without, it must be
/// loaded while there is still the privilege to.
pub fn privileges<'a>(
    p: &'a ProcessPlan,
    channel: BorrowedFd<'_>,
) -> Result<LateFilter<'a>, Failure> {
    let filter = p.seccomp.as_ref();
    let notifies = filter.is_some_and(|f| f.flags & seccomp::flag::NEW_LISTENER != 0);
    if p.no_new_privs {
        process::set_no_new_privs().during("set no_new_privs")?;
    }
    let early = !p.no_new_privs || notifies;
    if let (true, Some(f)) = (early, filter)
        && let Some(fd) = seccomp::load(&f.program, f.flags).during("load seccomp filter")?
    {
        protocol::send(channel, &Message::SeccompListener, Some(fd.as_fd()))
            .during("hand over seccomp listener")?;
    }
    let _ = fs::chdir(&p.cwd);
    if let Some(sets) = &p.caps {
        match caps::limit_bounding(sets.bounding) {
            Err(Errno::PERM) => {}
            other => other.during("limit bounding capabilities")?,
        }
        process::set_keep_caps(true).during("keep capabilities")?;
    }
    match process::setgroups(&p.groups) {
        // A user namespace made by an ordinary user denies it.
        Err(Errno::PERM) if p.groups.is_empty() => {}
        other => other.during("set additional groups")?,
    }
    process::setresgid(p.gid).during(format!("setgid {}", p.gid))?;
    process::setresuid(p.uid).during(format!("setuid {}", p.uid))?;
    // Changing ids may have made us traceable again.
    let _ = process::set_dumpable(false);
    if let Some(sets) = &p.caps {
        process::set_keep_caps(false).during("keep capabilities")?;
        let have = caps::get().during("read capabilities")?.permitted;
        let permitted = sets.permitted & have;
        caps::set(Caps {
            effective: sets.effective & permitted,
            permitted,
            inheritable: sets.inheritable & (have | permitted),
        })
        .during("set capabilities")?;
        if let Err(e) = caps::set_ambient(sets.ambient)
            && e != Errno::INVAL
        {
            return Err(e).during("set ambient capabilities");
        }
    }
    Ok(LateFilter(filter.filter(|_| !early)))
}

/// Enters the working folder as the program's user, and makes sure that it lies inside the root:
/// a working folder of the form `/proc/self/fd/7` must not lead out.
pub fn cwd(cwd: &Path) -> Result<(), Failure> {
    fs::chdir(cwd).during(format!("chdir to cwd ({cwd:?}) set in config.json failed"))?;
    fs::getcwd_inside_root().map(|_| ()).during(format!(
        "current working directory {cwd:?} is outside of container mount namespace root"
    ))
}

/// Where the program is: as given, or by `PATH`.
pub fn find_program(p: &ProcessPlan) -> Result<PathBuf, Failure> {
    const X_OK: i32 = 1;
    let name = p.args.first().map_or("", String::as_str);
    let step = format!("exec: {name:?}");
    let runnable = |path: &Path| -> Result<(), Errno> {
        let st = fs::fstat(fs::open(path, fs::O_PATH)?.as_fd())?;
        if st.is_dir() {
            return Err(Errno(21));
        }
        fs::access(path, X_OK)
    };
    if name.contains('/') {
        let path = PathBuf::from(name);
        return match runnable(&path) {
            Ok(()) => Ok(path),
            Err(Errno::NOENT) => Err(Failure {
                step,
                cause: format!("stat {name}: no such file or directory"),
                errno: Errno::NOENT.0,
            }),
            Err(e) => Err(e).during(step),
        };
    }
    let search = p
        .env
        .iter()
        .find_map(|e| e.strip_prefix("PATH="))
        .unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let mut denied = None;
    for folder in search.split(':') {
        let path = Path::new(if folder.is_empty() { "." } else { folder }).join(name);
        match runnable(&path) {
            Ok(()) => return Ok(path),
            Err(Errno::ACCES) => denied = Some(Errno::ACCES),
            Err(_) => {}
        }
    }
    match denied {
        Some(e) => Err(e).during(step),
        None => Err(Failure {
            step,
            cause: "executable file not found in $PATH".into(),
            errno: Errno::NOENT.0,
        }),
    }
}

/// `HOME` from the container's own user list, when the configuration has none.
fn with_home(p: &ProcessPlan) -> Vec<String> {
    let mut env = p.env.clone();
    if env
        .iter()
        .any(|e| e.starts_with("HOME=") && e.len() > "HOME=".len())
    {
        return env;
    }
    env.retain(|e| !e.starts_with("HOME="));
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let home = passwd.lines().find_map(|l| {
        let mut parts = l.split(':').skip(2);
        (parts.next()?.parse::<u32>() == Ok(p.uid)).then(|| parts.nth(2))?
    });
    env.push(format!(
        "HOME={}",
        home.filter(|h| !h.is_empty()).unwrap_or("/")
    ));
    env
}

/// Runs the program; returns only the failure.
pub fn execute(
    p: &ProcessPlan,
    late: LateFilter<'_>,
    path: &Path,
    preserve: Vec<OwnedFd>,
) -> Failure {
    match try_execute(p, late, path, preserve) {
        Ok(never) => match never {},
        Err(f) => f,
    }
}

fn try_execute(
    p: &ProcessPlan,
    late: LateFilter<'_>,
    path: &Path,
    preserve: Vec<OwnedFd>,
) -> Result<super::Never, Failure> {
    let name = p.args.first().map_or("", String::as_str);
    let step = format!("exec {name}");
    let argv = ArgList::new(&p.args).during(&*step)?;
    let envp = ArgList::new(&with_home(p)).during(&*step)?;
    let program = std::ffi::CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Failure::new(&*step, "a NUL byte in the path"))?;
    hand_on(preserve).during("hand on descriptors")?;
    if let LateFilter(Some(f)) = late {
        seccomp::load(&f.program, f.flags).during("load seccomp filter")?;
    }
    Err(process::execve(&program, &argv, &envp)).during(step)
}

/// Gives the preserved descriptors the numbers from 3 on; everything else closes on `execve`.
/// What else the child still uses must have a higher number.
fn hand_on(preserve: Vec<OwnedFd>) -> Result<(), Errno> {
    let count = preserve.len() as i32;
    // First out of the way of each other, then to their places.
    let moved = preserve
        .iter()
        .map(|fd| fs::dup_at_least(fd.as_fd(), 3 + count))
        .collect::<Result<Vec<_>, _>>()?;
    for (i, fd) in moved.iter().enumerate() {
        fs::dup_onto(fd.as_fd(), 3 + i as i32)?;
    }
    // Their old numbers may be taken by now: do not close them.
    for fd in preserve.into_iter().chain(moved) {
        fs::leak(fd);
    }
    process::close_range((3 + count) as u32, true)
}
