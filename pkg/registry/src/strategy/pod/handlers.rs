//! Probes and lifecycle hooks.

use super::spec::Whole;
use crate::{
    error::FieldError,
    object::Object,
    strategy::at::At,
};

/// The signals that stop a container.
const SIGNALS: &[&str] = &[
    "SIGABRT", "SIGALRM", "SIGBUS", "SIGCHLD", "SIGCLD", "SIGCONT", "SIGFPE", "SIGHUP", "SIGILL", "SIGINT", "SIGIO", "SIGIOT", "SIGKILL", "SIGPIPE", "SIGPOLL", "SIGPROF", "SIGPWR",
    "SIGQUIT", "SIGRTMAX", "SIGRTMAX-1", "SIGRTMAX-10", "SIGRTMAX-11", "SIGRTMAX-12", "SIGRTMAX-13", "SIGRTMAX-14", "SIGRTMAX-2", "SIGRTMAX-3", "SIGRTMAX-4", "SIGRTMAX-5",
    "SIGRTMAX-6", "SIGRTMAX-7", "SIGRTMAX-8", "SIGRTMAX-9", "SIGRTMIN", "SIGRTMIN+1", "SIGRTMIN+10", "SIGRTMIN+11", "SIGRTMIN+12", "SIGRTMIN+13", "SIGRTMIN+14", "SIGRTMIN+15",
    "SIGRTMIN+2", "SIGRTMIN+3", "SIGRTMIN+4", "SIGRTMIN+5", "SIGRTMIN+6", "SIGRTMIN+7", "SIGRTMIN+8", "SIGRTMIN+9", "SIGSEGV", "SIGSTKFLT", "SIGSTOP", "SIGSYS", "SIGTERM",
    "SIGTRAP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGUSR1", "SIGUSR2", "SIGVTALRM", "SIGWINCH", "SIGXCPU", "SIGXFSZ",
];
const HEADER: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
pub(super) const NEGATIVE: &str = "must be greater than or equal to 0";

/// `lifecycle`.
pub(super) fn lifecycle(at: &At, whole: &Whole<'_>, out: &mut Vec<FieldError>) {
    for hook in ["postStart", "preStop"] {
        if at.get(hook).there() {
            handler(&at.get(hook), &["exec", "httpGet", "tcpSocket", "sleep"], whole, out);
        }
    }
    let signal = at.get("stopSignal");
    if !signal.there() {
        return;
    }
    match whole.os.str_at(&["name"]) {
        _ if whole.os.is_null() => signal.forbidden("may not be set for containers with empty `spec.os.name`", out),
        "windows" => signal.one_of(&["SIGKILL", "SIGTERM"], out),
        "linux" => signal.one_of(SIGNALS, out),
        _ => {}
    }
}

/// The three probes of a container.
pub(super) fn probes(c: &At, whole: &Whole<'_>, out: &mut Vec<FieldError>) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let at = c.get(name);
        if !at.there() {
            continue;
        }
        handler(&at, &["exec", "httpGet", "tcpSocket", "grpc"], whole, out);
        for f in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
            if at.get(f).int().is_some_and(|n| n < 0) {
                at.get(f).wrong(NEGATIVE, out);
            }
        }
        let grace = at.get("terminationGracePeriodSeconds");
        if grace.int().is_some_and(|n| n <= 0) {
            grace.wrong("must be greater than 0", out);
        }
        if name == "readinessProbe" {
            if grace.there() {
                grace.wrong("must not be set for readinessProbes", out);
            }
        } else {
            let successes = at.get("successThreshold").int().unwrap_or(0);
            if successes != 1 {
                at.get("successThreshold").invalid(successes, "must be 1", out);
            }
        }
    }
}

/// What a probe or a hook does: one of these.
fn handler(at: &At, kinds: &[&str], whole: &Whole<'_>, out: &mut Vec<FieldError>) {
    let mut any = false;
    for kind in kinds {
        let action = at.get(kind);
        if !action.there() {
            continue;
        }
        if any {
            action.forbidden("may not specify more than 1 handler type", out);
            continue;
        }
        any = true;
        match *kind {
            "exec" => {
                if action.get("command").list().is_empty() {
                    action.get("command").required("", out);
                }
            }
            "httpGet" => http(&action, out),
            "tcpSocket" => port(&action.get("port"), out),
            "grpc" => {
                port(&action.get("port"), out);
                if action.get("mode").there() {
                    action.get("mode").one_of(&["Plaintext", "TLS"], out);
                }
            }
            _ => {
                let seconds = action.get("seconds").int().unwrap_or(0);
                if let Some(most) = whole.grace.filter(|g| !(0..=*g).contains(&seconds)) {
                    action.invalid(seconds, format!("must be non-negative and less than terminationGracePeriodSeconds ({most})"), out);
                }
            }
        }
    }
    if !any {
        at.required("must specify a handler type", out);
    }
}

fn http(get: &At, out: &mut Vec<FieldError>) {
    if get.get("path").text().is_empty() {
        get.get("path").required("", out);
    }
    port(&get.get("port"), out);
    let scheme = get.get("scheme");
    scheme.one_of(&["HTTP", "HTTPS"], out);
    for header in get.get("httpHeaders").items() {
        let name = header.get("name").text();
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            get.get("httpHeaders").invalid(name, HEADER, out);
        }
    }
    let protocol = get.get("protocol");
    match protocol.text() {
        _ if !protocol.there() => {}
        "HTTP2" if scheme.text() != "HTTP" => protocol.wrong("is only supported with HTTP (H2C)", out),
        "HTTP2" if !get.get("host").text().is_empty() => get.get("host").wrong("must be empty when `protocol` is \"HTTP2\"", out),
        _ => protocol.one_of(&["HTTP1", "HTTP2"], out),
    }
}

/// A port's number or name.
pub(in crate::strategy) fn port(at: &At, out: &mut Vec<FieldError>) {
    match at.value.as_str() {
        Some(name) => at.wrongs(knarr_schema::names::port_name(name), out),
        None => {
            let n = at.int().unwrap_or(0);
            knarr_schema::names::port_number(n).into_iter().for_each(|m| at.invalid(n, m, out));
        }
    }
}
