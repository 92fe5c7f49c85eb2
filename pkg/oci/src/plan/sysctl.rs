//! Kernel settings.

use knarr_sys::process::ns;

use crate::error::Error;
use crate::plan::{Namespaces, Step};

/// A kernel setting, when it belongs to a namespace the container has for itself.
pub(super) fn step(key: &str, value: &str, namespaces: &Namespaces) -> Result<Step, Error> {
    let field = format!("linux.sysctl[{key:?}]");
    // Both net.ipv4.x and net/ipv4/x are written; the first separator tells which is meant, and
    // the other may then be part of a name (an interface such as eth0.1).
    let slashed = match key.find(['.', '/']).and_then(|at| key.get(at..=at)) {
        Some(".") => key
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
        _ => key.to_string(),
    };
    if slashed
        .split('/')
        .any(|p| p.is_empty() || p == "." || p == "..")
    {
        return Err(Error::config(field, "is not a sysctl name"));
    }
    let needs = match slashed.as_str() {
        "kernel/msgmax"
        | "kernel/msgmnb"
        | "kernel/msgmni"
        | "kernel/sem"
        | "kernel/shmall"
        | "kernel/shmmax"
        | "kernel/shmmni"
        | "kernel/shm_rmid_forced" => (ns::IPC, "ipc"),
        k if k.starts_with("fs/mqueue/") => (ns::IPC, "ipc"),
        k if k.starts_with("net/") => (ns::NET, "network"),
        k if k.starts_with("user/") => (ns::USER, "user"),
        "kernel/domainname" => (ns::UTS, "uts"),
        "kernel/hostname" => {
            return Err(Error::config(
                field,
                "use the hostname field of the configuration",
            ));
        }
        _ => {
            return Err(Error::config(
                field,
                "is not in a separate kernel namespace",
            ));
        }
    };
    if !namespaces.has(needs.0) {
        return Err(Error::config(
            field,
            format!("needs a {} namespace of the container's own", needs.1),
        ));
    }
    Ok(Step::Sysctl {
        path: slashed,
        value: value.to_string(),
    })
}
