//! The program: who it runs as and what it may do.

use std::path::PathBuf;

use knarr_sys::sched::{Scheduler, rlimit_number};

use crate::capability::Sets;
use crate::config::{Linux, Process};
use crate::error::Error;
use crate::seccomp::Filter;

/// A checked program.
#[derive(Debug, Clone)]
pub struct ProcessPlan {
    /// Program and arguments; not empty.
    pub args: Vec<String>,
    /// `NAME=value`, each name once.
    pub env: Vec<String>,
    /// Working folder, absolute.
    pub cwd: PathBuf,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// File mode mask.
    pub umask: u32,
    /// Capabilities; `None` keeps what there is (a root process keeps all).
    pub caps: Option<Sets>,
    /// `RLIMIT_*` number, soft, hard.
    pub rlimits: Vec<(u32, u64, u64)>,
    /// No new privileges.
    pub no_new_privs: bool,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Rows and columns of the terminal.
    pub console_size: Option<(u16, u16)>,
    /// OOM score adjustment.
    pub oom_score_adj: Option<i32>,
    /// System call filter.
    pub seccomp: Option<Filter>,
    /// Scheduling.
    pub scheduler: Option<Scheduler>,
    /// I/O priority: class and level.
    pub io_priority: Option<(u32, u32)>,
    /// Execution domain.
    pub personality: Option<u64>,
    /// NUMA memory policy: mode with its flags, and nodes.
    pub memory_policy: Option<(u32, Vec<usize>)>,
    /// CPUs of exec: at first and finally.
    pub affinity: (Vec<usize>, Vec<usize>),
    /// AppArmor profile.
    pub apparmor: String,
    /// SELinux label.
    pub selinux: String,
}

impl ProcessPlan {
    /// Checks a program. `linux` gives what the container decides for all its programs.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn build(
        p: &Process,
        linux: &Linux,
        seccomp: Option<Filter>,
        in_userns: bool,
    ) -> Result<Self, Error> {
        if p.args.first().is_none_or(String::is_empty) {
            return Err(Error::config("process.args", "must not be empty"));
        }
        if p.cwd.is_empty() {
            return Err(Error::config("process.cwd", "must not be empty"));
        }
        if !p.cwd.starts_with('/') {
            return Err(Error::config(
                "process.cwd",
                format!("{:?} is not absolute", p.cwd),
            ));
        }
        let nul = |texts: &[String]| texts.iter().any(|t| t.contains('\0'));
        if nul(&p.args) || nul(&p.env) || p.cwd.contains('\0') {
            return Err(Error::config("process", "a text holds a NUL byte"));
        }
        let mut rlimits = Vec::new();
        for (i, r) in p.rlimits.iter().enumerate() {
            let field = format!("process.rlimits[{i}]");
            let number = rlimit_number(&r.kind).ok_or_else(|| {
                Error::config(format!("{field}.type"), format!("unknown {:?}", r.kind))
            })?;
            if r.soft > r.hard {
                return Err(Error::config(field, "soft is above hard"));
            }
            rlimits.push((number, r.soft, r.hard));
        }
        if let Some(score) = p.oom_score_adj
            && !(-1000..=1000).contains(&score)
        {
            return Err(Error::config(
                "process.oomScoreAdj",
                format!("{score} is not between -1000 and 1000"),
            ));
        }
        let profile = p.apparmor_profile.as_str();
        if !matches!(profile, "" | "unconfined") && !apparmor_is_on() {
            return Err(Error::Unsupported(format!(
                "process.apparmorProfile: AppArmor is not on in this kernel: {profile:?}"
            )));
        }
        let affinity = p.exec_cpu_affinity.clone().unwrap_or_default();
        Ok(Self {
            args: p.args.clone(),
            env: dedup_env(&p.env),
            cwd: PathBuf::from(&p.cwd),
            uid: p.user.uid,
            gid: p.user.gid,
            groups: p.user.additional_gids.clone(),
            umask: p.user.umask.unwrap_or(0o022),
            caps: match &p.capabilities {
                Some(c) => Some(Sets::from_config(c)),
                // Root of the host without a list gets none; as in runc the sets are empty then.
                None if !in_userns => Some(Sets::default()),
                None => None,
            },
            rlimits,
            no_new_privs: p.no_new_privileges,
            terminal: p.terminal,
            console_size: p.console_size.as_ref().map(|s| (s.height, s.width)),
            oom_score_adj: p.oom_score_adj,
            seccomp,
            scheduler: scheduler(p)?,
            io_priority: io_priority(p)?,
            personality: personality(linux)?,
            memory_policy: memory_policy(linux)?,
            affinity: (
                number_list("process.execCPUAffinity.initial", &affinity.initial)?,
                number_list("process.execCPUAffinity.final", &affinity.r#final)?,
            ),
            apparmor: p.apparmor_profile.clone(),
            selinux: p.selinux_label.clone(),
        })
    }
}

fn apparmor_is_on() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|t| t.starts_with(b"Y"))
}

/// Of several values for a name the last counts.
fn dedup_env(env: &[String]) -> Vec<String> {
    let name = |e: &str| e.split('=').next().unwrap_or_default().to_string();
    let mut seen = std::collections::HashSet::new();
    let mut out: Vec<String> = env
        .iter()
        .rev()
        .filter(|e| seen.insert(name(e)))
        .cloned()
        .collect();
    out.reverse();
    out
}

fn scheduler(p: &Process) -> Result<Option<Scheduler>, Error> {
    let Some(s) = &p.scheduler else {
        return Ok(None);
    };
    let unknown = |field: &str, name: &str| {
        Error::config(
            format!("process.scheduler.{field}"),
            format!("unknown {name:?}"),
        )
    };
    let policy = match s.policy.as_str() {
        "SCHED_OTHER" => 0,
        "SCHED_FIFO" => 1,
        "SCHED_RR" => 2,
        "SCHED_BATCH" => 3,
        "SCHED_ISO" => 4,
        "SCHED_IDLE" => 5,
        "SCHED_DEADLINE" => 6,
        other => return Err(unknown("policy", other)),
    };
    let mut flags = 0;
    for f in &s.flags {
        flags |= match f.as_str() {
            "SCHED_FLAG_RESET_ON_FORK" => 0x01,
            "SCHED_FLAG_RECLAIM" => 0x02,
            "SCHED_FLAG_DL_OVERRUN" => 0x04,
            "SCHED_FLAG_KEEP_POLICY" => 0x08,
            "SCHED_FLAG_KEEP_PARAMS" => 0x10,
            "SCHED_FLAG_UTIL_CLAMP_MIN" => 0x20,
            "SCHED_FLAG_UTIL_CLAMP_MAX" => 0x40,
            other => return Err(unknown("flags", other)),
        };
    }
    Ok(Some(Scheduler {
        policy,
        flags,
        nice: s.nice,
        priority: u32::try_from(s.priority)
            .map_err(|_| Error::config("process.scheduler.priority", "is negative"))?,
        runtime: s.runtime,
        deadline: s.deadline,
        period: s.period,
    }))
}

fn io_priority(p: &Process) -> Result<Option<(u32, u32)>, Error> {
    let Some(io) = &p.io_priority else {
        return Ok(None);
    };
    let class = match io.class.as_str() {
        "IOPRIO_CLASS_RT" => 1,
        "IOPRIO_CLASS_BE" => 2,
        "IOPRIO_CLASS_IDLE" => 3,
        other => {
            return Err(Error::config(
                "process.ioPriority.class",
                format!("unknown {other:?}"),
            ));
        }
    };
    match u32::try_from(io.priority) {
        Ok(level) if level <= 7 => Ok(Some((class, level))),
        _ => Err(Error::config(
            "process.ioPriority.priority",
            format!("{} is not between 0 and 7", io.priority),
        )),
    }
}

fn personality(linux: &Linux) -> Result<Option<u64>, Error> {
    match linux.personality.as_ref().map(|p| p.domain.as_str()) {
        None => Ok(None),
        Some("LINUX") => Ok(Some(0)),
        Some("LINUX32") => Ok(Some(8)),
        Some(other) => Err(Error::config(
            "linux.personality.domain",
            format!("unknown {other:?}"),
        )),
    }
}

fn memory_policy(linux: &Linux) -> Result<Option<(u32, Vec<usize>)>, Error> {
    const MODES: &[&str] = &[
        "MPOL_DEFAULT",
        "MPOL_PREFERRED",
        "MPOL_BIND",
        "MPOL_INTERLEAVE",
        "MPOL_LOCAL",
        "MPOL_PREFERRED_MANY",
        "MPOL_WEIGHTED_INTERLEAVE",
    ];
    let Some(policy) = &linux.memory_policy else {
        return Ok(None);
    };
    let unknown = |field: &str, name: &str| {
        Error::config(
            format!("linux.memoryPolicy.{field}"),
            format!("unknown {name:?}"),
        )
    };
    let mut mode = MODES
        .iter()
        .position(|m| *m == policy.mode)
        .ok_or_else(|| unknown("mode", &policy.mode))? as u32;
    for flag in &policy.flags {
        mode |= match flag.as_str() {
            "MPOL_F_STATIC_NODES" => 1 << 15,
            "MPOL_F_RELATIVE_NODES" => 1 << 14,
            "MPOL_F_NUMA_BALANCING" => 1 << 13,
            other => return Err(unknown("flags", other)),
        };
    }
    let nodes = number_list("linux.memoryPolicy.nodes", &policy.nodes)?;
    Ok(Some((mode, nodes)))
}

/// `0-3,7` as numbers.
fn number_list(field: &str, list: &str) -> Result<Vec<usize>, Error> {
    let bad = || Error::config(field, format!("{list:?} is not a list of numbers"));
    let mut out = Vec::new();
    for part in list.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.parse().map_err(|_| bad())?;
        let last: usize = last.parse().map_err(|_| bad())?;
        if last < first || last > 1 << 16 {
            return Err(bad());
        }
        out.extend(first..=last);
    }
    Ok(out)
}
