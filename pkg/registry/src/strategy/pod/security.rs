//! Security contexts, operating systems, and what of the host a pod may touch.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering},
};

use serde_json::Value;

use super::{
    spec::{Around, LISTS, Whole, each},
    volumes::descending,
};
use crate::{
    error::FieldError,
    object::Object,
    strategy::{
        at::{At, range},
        fields::Check::Subdomain,
    },
};

const SYSCTL: &str = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

/// Whether containers may be privileged, in this process.
static PRIVILEGED: AtomicBool = AtomicBool::new(true);

/// Says whether containers may be privileged; they may before it is said.
pub fn allow_privileged(allowed: bool) {
    PRIVILEGED.store(allowed, Ordering::Relaxed);
}

/// The number of a user or a group.
pub(super) fn id(at: &At, out: &mut Vec<FieldError>) {
    if at.int().is_some_and(|n| !(0..=i64::from(i32::MAX)).contains(&n)) {
        at.wrong(range(0, i32::MAX.into()), out);
    }
}

fn sysctl_name(name: &str) -> bool {
    name.len() <= 253
        && name.split(['.', '/']).all(|p| {
            let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            edge(p.bytes().next()) && edge(p.bytes().last()) && p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
        })
}

/// Why a sysctl is the host's where the pod shares its namespace with it.
fn of_host(name: &str, spec: &Value) -> Option<&'static str> {
    let name = name.replace('/', ".");
    let on = |f: &str| spec.at(&[f]) == Some(&Value::Bool(true));
    let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|p| name.starts_with(p)) || name == "kernel.sem";
    match () {
        () if on("hostNetwork") && name.starts_with("net.") => Some("may not be specified when 'hostNetwork' is true"),
        () if on("hostIPC") && ipc => Some("may not be specified when 'hostIPC' is true"),
        () => None,
    }
}

fn sysctls(all: &At, spec: &Value, around: Around<'_>, out: &mut Vec<FieldError>) {
    let lax = around.old.is_some_and(|o| o.list_at(&["securityContext", "sysctls"]).iter().any(|s| of_host(s.str_at(&["name"]), o).is_some()));
    let mut seen = HashSet::new();
    for s in all.items() {
        let name = s.get("name");
        if name.text().is_empty() {
            name.required("", out);
        } else if !sysctl_name(name.text()) {
            name.wrong(SYSCTL, out);
        } else if seen.contains(name.text()) {
            name.duplicate(name.text(), out);
        }
        if let Some(why) = of_host(name.text(), spec).filter(|_| !lax) {
            name.wrong(why, out);
        }
        seen.insert(name.text());
    }
}

/// The security context of a spec.
pub(super) fn of_pod(spec: &At, around: Around<'_>, out: &mut Vec<FieldError>) {
    let at = spec.get("securityContext");
    for f in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(&at.get(f), out);
    }
    for g in at.get("supplementalGroups").items() {
        id(&g, out);
    }
    sysctls(&at.get("sysctls"), spec.value, around, out);
    let one_of = |field: &str, all: &[&str], out: &mut Vec<FieldError>| {
        if at.get(field).there() {
            at.get(field).one_of(all, out);
        }
    };
    one_of("fsGroupChangePolicy", &["Always", "OnRootMismatch"], out);
    seccomp(&at.get("seccompProfile"), out);
    windows_options(&at.get("windowsOptions"), out);
    app_armor(&at.get("appArmorProfile"), out);
    one_of("supplementalGroupsPolicy", &["Merge", "Strict"], out);
    one_of("seLinuxChangePolicy", &["MountOption", "Recursive"], out);
}

/// Whether some container may not gain privileges and is given all of them: it may stay so.
pub(super) fn contradicts(spec: &Value) -> bool {
    LISTS.iter().flat_map(|l| spec.list_at(&[l])).filter_map(|c| c.at(&["securityContext"])).any(|s| {
        s.at(&["allowPrivilegeEscalation"]) == Some(&Value::Bool(false)) && s.list_at(&["capabilities", "add"]).iter().any(|c| c == "CAP_SYS_ADMIN")
    })
}

/// The security context of a container.
pub(super) fn of_container(at: &At, whole: &Whole<'_>, out: &mut Vec<FieldError>) {
    if !at.there() {
        return;
    }
    if at.get("privileged").yes() && !PRIVILEGED.load(Ordering::Relaxed) {
        at.get("privileged").forbidden("disallowed by cluster policy", out);
    }
    id(&at.get("runAsUser"), out);
    id(&at.get("runAsGroup"), out);
    let mount = at.get("procMount");
    if mount.there() {
        if !matches!(mount.text(), "Default" | "Unmasked") {
            mount.unsupported_as_is(&["Default", "Unmasked"], out);
        }
        if whole.host_users && mount.text() == "Unmasked" {
            mount.wrong("`hostUsers` must be false to use `Unmasked`", out);
        }
    }
    seccomp(&at.get("seccompProfile"), out);
    if at.get("allowPrivilegeEscalation").no() {
        if at.get("privileged").yes() {
            at.wrong("cannot set `allowPrivilegeEscalation` to false and `privileged` to true", out);
        }
        for c in at.get("capabilities.add").list() {
            if !whole.sys_admin && c == "CAP_SYS_ADMIN" {
                at.wrong("cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN", out);
            }
        }
    }
    windows_options(&at.get("windowsOptions"), out);
    app_armor(&at.get("appArmorProfile"), out);
}

const PROFILES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];

fn seccomp(at: &At, out: &mut Vec<FieldError>) {
    if !at.there() {
        return;
    }
    let (kind, local) = (at.get("type"), at.get("localhostProfile"));
    match kind.text() {
        "" => kind.required("type is required when seccompProfile is set", out),
        text if !PROFILES.contains(&text) => kind.unsupported_as_is(&PROFILES, out),
        _ => {}
    }
    match (kind.text() == "Localhost", local.there()) {
        (true, false) => local.required("must be set when seccomp type is Localhost", out),
        (true, true) => descending(&local, out),
        (false, true) => local.invalid(at.value.clone(), "can only be set when seccomp type is Localhost", out),
        (false, false) => {}
    }
}

fn app_armor(at: &At, out: &mut Vec<FieldError>) {
    if !at.there() {
        return;
    }
    const SET: &str = "must be set when AppArmor type is Localhost";
    let (kind, local) = (at.get("type"), at.get("localhostProfile"));
    match kind.text() {
        "" => kind.required("type is required when appArmorProfile is set", out),
        "Localhost" if !local.there() => local.required(SET, out),
        "Localhost" => {
            if local.text().trim() != local.text() {
                local.wrong("must not be padded with whitespace", out);
            } else if local.text().is_empty() {
                local.required(SET, out);
            }
            if local.text().len() > 4095 {
                out.push(FieldError::too_long(local.to_string(), 4095));
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if local.there() {
                local.wrong("can only be set when AppArmor type is Localhost", out);
            }
        }
        _ => kind.unsupported_as_is(&PROFILES, out),
    }
}

fn windows_options(at: &At, out: &mut Vec<FieldError>) {
    at.get("gmsaCredentialSpecName").check(&[Subdomain], out);
    let spec = at.get("gmsaCredentialSpec");
    if spec.there() {
        match spec.text().len() {
            0 => spec.wrong("gmsaCredentialSpec cannot be an empty string", out),
            n if n > 64 * 1024 => spec.wrong("gmsaCredentialSpec size must be under 64 KiB", out),
            _ => {}
        }
    }
    let name = at.get("runAsUserName");
    if name.there() {
        user_name(&name, out);
    }
}

/// `DOMAIN\user`, as Windows has it.
fn user_name(at: &At, out: &mut Vec<FieldError>) {
    let text = at.text();
    if text.is_empty() {
        return at.wrong("runAsUserName cannot be an empty string", out);
    }
    if text.chars().any(|c| c.is_ascii_control()) {
        return at.wrong("runAsUserName cannot contain control characters", out);
    }
    let (domain, user) = match text.split('\\').collect::<Vec<_>>()[..] {
        [user] => (None, user),
        [domain, user] => (Some(domain), user),
        _ => return at.wrong("runAsUserName cannot contain more than one backslash", out),
    };
    let dns = |d: &str| d.split('.').all(|l| !l.is_empty() && l.len() <= 63 && !l.starts_with('-') && !l.ends_with('-') && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
    let net_bios = |d: &str| !d.is_empty() && !d.starts_with('.') && d.chars().count() <= 15 && !d.contains(['\\', '/', ':', '*', '?', '"', '<', '>', '|']);
    if domain.is_some_and(|d| d.len() >= 256) {
        at.wrong("runAsUserName's Domain length must be under 256 characters", out);
    }
    if domain.is_some_and(|d| !net_bios(d) && !dns(d)) {
        at.wrong("runAsUserName's Domain doesn't match the NetBios nor the DNS format", out);
    }
    match user.len() {
        0 => at.wrong("runAsUserName's User cannot be empty", out),
        n if n > 104 => at.wrong("runAsUserName's User length must not be longer than 104 characters", out),
        _ => {}
    }
    if !user.is_empty() && user.bytes().all(|b| b == b'.' || b == b' ') {
        at.wrong("runAsUserName's User cannot contain only periods or spaces", out);
    }
    if user.contains(['"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']) {
        at.wrong("runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]", out);
    }
}

/// Containers of Windows that are processes of the host.
pub(super) fn host_process(spec: &At, out: &mut Vec<FieldError>) {
    let of = |v: &Value| v.at(&["securityContext", "windowsOptions", "hostProcess"]).and_then(Value::as_bool);
    let pod = of(spec.value);
    let (mut all, mut host) = (0, 0);
    each(spec, &mut |c| {
        all += 1;
        let own = of(c.value);
        if let (Some(pod), Some(own)) = (pod, own)
            && pod != own
        {
            let why = format!("pod hostProcess value must be identical if both are specified, was {pod}");
            c.get("securityContext.windowsOptions.hostProcess").wrong(why, out);
        }
        host += usize::from(own.or(pod) == Some(true));
    });
    if host == 0 {
        return;
    }
    if host != all {
        spec.invalid("", "If pod contains any hostProcess containers then all containers must be HostProcess containers", out);
    }
    if !spec.get("hostNetwork").yes() {
        spec.get("hostNetwork").invalid(false, "hostNetwork must be true if pod contains any hostProcess containers", out);
    }
    if !PRIVILEGED.load(Ordering::Relaxed) {
        spec.forbidden("hostProcess containers are disallowed by cluster policy", out);
    }
}

const NOT_WINDOWS: &str = "cannot be set for a windows pod";
const POD_NOT_WINDOWS: [&str; 11] = [
    "appArmorProfile", "seLinuxOptions", "seccompProfile", "fsGroup", "fsGroupChangePolicy", "sysctls", "runAsUser", "runAsGroup", "supplementalGroups", "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];
const NOT_WINDOWS_FIELDS: [&str; 10] = [
    "appArmorProfile", "seLinuxOptions", "seccompProfile", "capabilities", "readOnlyRootFilesystem", "privileged", "allowPrivilegeEscalation", "procMount", "runAsUser", "runAsGroup",
];

/// What the pod's operating system has no use for.
pub(super) fn os(spec: &At, out: &mut Vec<FieldError>) {
    let at = spec.get("os");
    if !at.there() {
        return;
    }
    let set = |at: &At, fields: &[&str], why: &str, out: &mut Vec<FieldError>| {
        for f in fields {
            let v = at.get(f);
            if v.there() && !v.value.as_array().is_some_and(Vec::is_empty) {
                v.forbidden(why, out);
            }
        }
    };
    match at.get("name").text() {
        "" => at.get("name").required("", out),
        "linux" => {
            const WHY: &str = "windows options cannot be set for a linux pod";
            set(&spec.get("securityContext"), &["windowsOptions"], WHY, out);
            each(spec, &mut |c| set(&c.get("securityContext"), &["windowsOptions"], WHY, out));
        }
        "windows" => {
            set(&spec.get("securityContext"), &POD_NOT_WINDOWS, NOT_WINDOWS, out);
            set(spec, &["hostUsers"], NOT_WINDOWS, out);
            for f in ["hostPID", "hostIPC"] {
                if spec.get(f).yes() {
                    spec.get(f).forbidden(NOT_WINDOWS, out);
                }
            }
            set(spec, &["shareProcessNamespace"], NOT_WINDOWS, out);
            each(spec, &mut |c| set(&c.get("securityContext"), &NOT_WINDOWS_FIELDS, NOT_WINDOWS, out));
        }
        name => out.push(FieldError::not_supported(at.to_string(), name, &["linux", "windows"])),
    }
}
