//! The checks of the Pod Security Standards, each with the minor versions it holds from.

use std::collections::BTreeSet;

use knarr_registry::Object;
use serde_json::Value;

use super::Level;

/// What a check has against a pod: the short reason, and the details.
pub struct Finding {
    /// For lists of pods.
    pub reason: String,
    /// For one pod.
    pub detail: String,
}

/// A pod, or the template of one.
pub struct Pod<'a> {
    meta: &'a Value,
    spec: &'a Value,
    containers: Vec<&'a Value>,
    minor: u32,
}

type Rule = fn(&Pod<'_>) -> Option<Finding>;

/// One check. Baseline checks are left out of `restricted` from the version on where a stricter
/// one takes their place.
struct Check {
    level: Level,
    since: u32,
    replaced: u32,
    rule: Rule,
}

const fn baseline(rule: Rule) -> Check {
    Check { level: Level::Baseline, since: 0, replaced: u32::MAX, rule }
}

const fn restricted(since: u32, rule: Rule) -> Check {
    Check { level: Level::Restricted, since, replaced: u32::MAX, rule }
}

/// In the order in which messages name them.
static CHECKS: [Check; 19] = [
    baseline(app_armor),
    Check { replaced: 22, ..baseline(added_capabilities) },
    baseline(host_namespaces),
    Check { replaced: 0, ..baseline(host_paths) },
    baseline(host_ports),
    Check { since: 34, ..baseline(probe_hosts) },
    baseline(privileged),
    Check { replaced: 35, ..baseline(proc_mount_baseline) },
    baseline(se_linux),
    Check { replaced: 19, ..baseline(seccomp_baseline) },
    baseline(sysctls),
    baseline(host_process),
    restricted(8, privilege_escalation),
    restricted(22, dropped_capabilities),
    restricted(35, proc_mount),
    restricted(0, volume_types),
    restricted(0, run_as_non_root),
    restricted(23, run_as_user),
    restricted(19, seccomp_restricted),
];

/// The newest version whose rules differ from those before.
const NEWEST: u32 = 37;

/// Checks a pod by a level and the rules of a minor version (`None`: the newest).
pub fn evaluate(level: Level, minor: Option<u32>, meta: &Value, spec: &Value) -> Vec<Finding> {
    if level == Level::Privileged {
        return Vec::new();
    }
    let minor = minor.unwrap_or(NEWEST).min(NEWEST);
    let containers = ["initContainers", "containers", "ephemeralContainers"].iter().flat_map(|l| spec.list_at(&[l])).collect();
    let pod = Pod { meta, spec, containers, minor };
    let holds = |c: &&Check| c.since <= minor && c.level <= level && !(level == Level::Restricted && c.replaced <= minor);
    CHECKS.iter().filter(holds).filter_map(|c| (c.rule)(&pod)).collect()
}

fn found(reason: impl Into<String>, detail: String) -> Option<Finding> {
    Some(Finding { reason: reason.into(), detail })
}

fn quoted<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    let all: Vec<String> = names.into_iter().map(|n| format!("\"{}\"", n.as_ref())).collect();
    all.join(", ")
}

fn plural(one: &str, n: usize) -> String {
    if n == 1 { one.to_owned() } else { format!("{one}s") }
}

fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", names.len()), quoted(names))
}

/// `pod`, `containers …`, or both; `None` if neither is to blame.
fn blamed(pod: bool, names: &[&str]) -> Option<String> {
    match (pod, names.is_empty()) {
        (false, true) => None,
        (true, true) => Some("pod".into()),
        (false, false) => Some(containers(names)),
        (true, false) => Some(format!("pod and {}", containers(names))),
    }
}

const CONTEXT: &str = "securityContext";

impl<'a> Pod<'a> {
    /// The names of the containers for which something holds.
    fn which(&self, f: impl Fn(&'a Value) -> bool) -> Vec<&'a str> {
        self.containers.iter().filter(|c| f(c)).map(|c| c.str_at(&["name"])).collect()
    }
    fn flag(&self, field: &str) -> Option<bool> {
        self.spec.at(&[field]).and_then(Value::as_bool)
    }
    fn windows(&self) -> bool {
        self.minor >= 25 && self.spec.str_at(&["os", "name"]) == "windows"
    }
    /// Whether its user namespace makes root of it nobody.
    fn own_users(&self) -> bool {
        self.minor >= 35 && self.flag("hostUsers") == Some(false)
    }
    /// The values of a field of the security contexts that are not allowed, and who set them.
    fn bad_values(&self, field: &[&str], allowed: impl Fn(&str) -> bool) -> (bool, Vec<&'a str>, BTreeSet<String>) {
        let path: Vec<&str> = [CONTEXT].iter().chain(field).copied().collect();
        let (parent, _) = path.split_at(path.len() - 1);
        let bad = |v: &Value| v.at(parent).is_some() && !allowed(v.str_at(&path));
        let of_pod = bad(self.spec);
        let names = self.which(bad);
        let mut values: BTreeSet<String> = self.containers.iter().filter(|c| bad(c)).map(|c| c.str_at(&path).to_owned()).collect();
        if of_pod {
            values.insert(self.spec.str_at(&path).to_owned());
        }
        (of_pod, names, values)
    }
}

fn app_armor(p: &Pod<'_>) -> Option<Finding> {
    let (pod, names, values) = p.bad_values(&["appArmorProfile", "type"], |t| matches!(t, "RuntimeDefault" | "Localhost"));
    let mut who: Vec<String> = blamed(pod, &names).into_iter().collect();
    let mut what: Vec<String> = values.into_iter().collect();
    let annotations = p.meta.at(&["annotations"]).and_then(Value::as_object);
    let mut bad: Vec<String> = annotations
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| v.as_str().map(|v| (k, v)))
        .filter(|(k, v)| k.starts_with("container.apparmor.security.beta.kubernetes.io/") && !(v.is_empty() || *v == "runtime/default" || v.starts_with("localhost/")))
        .map(|(k, v)| format!("{k}={v:?}"))
        .collect();
    bad.sort();
    if !bad.is_empty() {
        who.push(plural("annotation", bad.len()));
        what.extend(bad);
    }
    if who.is_empty() {
        return None;
    }
    found(plural("forbidden AppArmor profile", what.len()), format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(&what)))
}

const USUAL_CAPABILITIES: [&str; 13] =
    ["AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"];

/// Containers that add other capabilities than the allowed ones, and those capabilities.
fn adding<'a>(p: &Pod<'a>, allowed: &[&str]) -> Option<String> {
    let extra = |c: &'a Value| c.list_at(&[CONTEXT, "capabilities", "add"]).iter().filter_map(Value::as_str).filter(|x| !allowed.contains(x));
    let names = p.which(|c| extra(c).next().is_some());
    let all: BTreeSet<&str> = p.containers.iter().flat_map(|c| extra(c)).collect();
    (!names.is_empty()).then(|| format!("{} must not include {} in securityContext.capabilities.add", containers(&names), quoted(all)))
}

fn added_capabilities(p: &Pod<'_>) -> Option<Finding> {
    found("non-default capabilities", adding(p, &USUAL_CAPABILITIES)?)
}

fn host_namespaces(p: &Pod<'_>) -> Option<Finding> {
    let shared: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"].iter().filter(|f| p.flag(f) == Some(true)).map(|f| format!("{f}=true")).collect();
    if shared.is_empty() { None } else { found("host namespaces", shared.join(", ")) }
}

fn host_paths(p: &Pod<'_>) -> Option<Finding> {
    let volumes: Vec<&str> = p.spec.list_at(&["volumes"]).iter().filter(|v| v.at(&["hostPath"]).is_some()).map(|v| v.str_at(&["name"])).collect();
    if volumes.is_empty() { None } else { found("hostPath volumes", format!("{} {}", plural("volume", volumes.len()), quoted(&volumes))) }
}

fn host_ports(p: &Pod<'_>) -> Option<Finding> {
    fn ports(c: &Value) -> impl Iterator<Item = i64> {
        c.list_at(&["ports"]).iter().filter_map(|p| p.at(&["hostPort"]).and_then(Value::as_i64)).filter(|n| *n != 0)
    }
    let names = p.which(|c| ports(c).next().is_some());
    let all: BTreeSet<String> = p.containers.iter().flat_map(|c| ports(c)).map(|n| n.to_string()).collect();
    if names.is_empty() {
        return None;
    }
    let verb = if names.len() == 1 { "uses" } else { "use" };
    let list: Vec<String> = all.iter().cloned().collect();
    found("hostPort", format!("{} {verb} {} {}", containers(&names), plural("hostPort", all.len()), list.join(", ")))
}

fn probe_hosts(p: &Pod<'_>) -> Option<Finding> {
    const HANDLERS: [&[&str]; 5] = [&["livenessProbe"], &["readinessProbe"], &["startupProbe"], &["lifecycle", "postStart"], &["lifecycle", "preStop"]];
    fn hosts(c: &Value) -> impl Iterator<Item = &str> {
        let all = HANDLERS.iter().filter_map(|h| c.at(h)).flat_map(|h| [h.str_at(&["httpGet", "host"]), h.str_at(&["tcpSocket", "host"])]);
        all.filter(|h| !h.is_empty())
    }
    let mut names = p.which(|c| hosts(c).next().is_some());
    names.sort_unstable();
    let all: BTreeSet<&str> = p.containers.iter().flat_map(|c| hosts(c)).collect();
    if names.is_empty() {
        return None;
    }
    let verb = if names.len() == 1 { "uses" } else { "use" };
    found("probe or lifecycle host", format!("{} {verb} {} {}", containers(&names), plural("probe or lifecycle host", all.len()), quoted(all)))
}

fn privileged(p: &Pod<'_>) -> Option<Finding> {
    let names = p.which(|c| c.at(&[CONTEXT, "privileged"]) == Some(&Value::Bool(true)));
    if names.is_empty() { None } else { found("privileged", format!("{} must not set securityContext.privileged=true", containers(&names))) }
}

fn proc_mount(p: &Pod<'_>) -> Option<Finding> {
    let other = |c: &Value| c.at(&[CONTEXT, "procMount"]).and_then(Value::as_str).is_some_and(|m| m != "Default");
    let names = p.which(other);
    let all: BTreeSet<&str> = p.containers.iter().filter(|c| other(c)).map(|c| c.str_at(&[CONTEXT, "procMount"])).collect();
    if names.is_empty() { None } else { found("procMount", format!("{} must not set securityContext.procMount to {}", containers(&names), quoted(all))) }
}

fn proc_mount_baseline(p: &Pod<'_>) -> Option<Finding> {
    if p.own_users() { None } else { proc_mount(p) }
}

fn se_linux(p: &Pod<'_>) -> Option<Finding> {
    let newer = p.minor >= 31;
    let type_ok = |t: &str| matches!(t, "" | "container_t" | "container_init_t" | "container_kvm_t") || newer && t == "container_engine_t";
    let options = |v: &'_ Value| v.at(&[CONTEXT, "seLinuxOptions"]).cloned();
    let set = |o: &Value, f: &str| !o.str_at(&[f]).is_empty();
    let bad = |v: &Value| options(v).is_some_and(|o| !type_ok(o.str_at(&["type"])) || set(&o, "user") || set(&o, "role"));
    let who = blamed(bad(p.spec), &p.which(bad))?;
    let all: Vec<Value> = std::iter::once(p.spec).chain(p.containers.iter().copied()).filter_map(options).collect();
    let types: BTreeSet<&str> = all.iter().map(|o| o.str_at(&["type"])).filter(|t| !type_ok(t)).collect();
    let mut what = Vec::new();
    if !types.is_empty() {
        what.push(format!("{} {}", plural("type", types.len()), quoted(types)));
    }
    for f in ["user", "role"] {
        if all.iter().any(|o| set(o, f)) {
            what.push(format!("{f} may not be set"));
        }
    }
    found("seLinuxOptions", format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; ")))
}

fn seccomp_known(t: &str) -> bool {
    matches!(t, "RuntimeDefault" | "Localhost")
}

/// Explicit profiles that are not allowed.
fn seccomp_explicit(p: &Pod<'_>) -> Option<Finding> {
    let (pod, names, values) = p.bad_values(&["seccompProfile", "type"], seccomp_known);
    found("seccompProfile", format!("{} must not set securityContext.seccompProfile.type to {}", blamed(pod, &names)?, quoted(&values)))
}

fn seccomp_baseline(p: &Pod<'_>) -> Option<Finding> {
    if p.minor >= 19 {
        return seccomp_explicit(p);
    }
    let bad = |key: String| {
        let v = p.meta.at(&["annotations", &key]).and_then(Value::as_str)?;
        let fine = matches!(v, "runtime/default" | "docker/default") || v.starts_with("localhost/");
        (!fine).then(|| format!("{key}={v:?}"))
    };
    let own = p.containers.iter().map(|c| format!("container.seccomp.security.alpha.kubernetes.io/{}", c.str_at(&["name"])));
    let all: BTreeSet<String> = std::iter::once("seccomp.security.alpha.kubernetes.io/pod".to_owned()).chain(own).filter_map(bad).collect();
    if all.is_empty() {
        return None;
    }
    let list: Vec<String> = all.iter().cloned().collect();
    found("seccompProfile", format!("forbidden {} {}", plural("annotation", all.len()), list.join(", ")))
}

fn seccomp_restricted(p: &Pod<'_>) -> Option<Finding> {
    if p.windows() {
        return None;
    }
    if let Some(f) = seccomp_explicit(p) {
        return Some(f);
    }
    if p.spec.at(&[CONTEXT, "seccompProfile"]).is_some() {
        return None;
    }
    let names = p.which(|c| c.at(&[CONTEXT, "seccompProfile"]).is_none());
    if names.is_empty() {
        return None;
    }
    found("seccompProfile", format!("pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"", containers(&names)))
}

/// Harmless parameters of a pod's own kernel namespaces, and since when they count as such.
const SYSCTLS: [(&str, u32); 14] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
    ("net.ipv4.tcp_slow_start_after_idle", 37),
    ("net.ipv4.tcp_notsent_lowat", 37),
];

fn sysctls(p: &Pod<'_>) -> Option<Finding> {
    let names = p.spec.list_at(&[CONTEXT, "sysctls"]).iter().map(|s| s.str_at(&["name"]));
    let bad: Vec<&str> = names.filter(|n| !SYSCTLS.iter().any(|(k, since)| k == n && *since <= p.minor)).collect();
    if bad.is_empty() { None } else { found("forbidden sysctls", bad.join(", ")) }
}

fn host_process(p: &Pod<'_>) -> Option<Finding> {
    let set = |v: &Value| v.at(&[CONTEXT, "windowsOptions", "hostProcess"]) == Some(&Value::Bool(true));
    found("hostProcess", format!("{} must not set securityContext.windowsOptions.hostProcess=true", blamed(set(p.spec), &p.which(set))?))
}

fn privilege_escalation(p: &Pod<'_>) -> Option<Finding> {
    let names = p.which(|c| c.at(&[CONTEXT, "allowPrivilegeEscalation"]) != Some(&Value::Bool(false)));
    if p.windows() || names.is_empty() {
        return None;
    }
    found("allowPrivilegeEscalation != false", format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&names)))
}

fn dropped_capabilities(p: &Pod<'_>) -> Option<Finding> {
    if p.windows() {
        return None;
    }
    let kept = p.which(|c| !c.list_at(&[CONTEXT, "capabilities", "drop"]).iter().any(|d| d == "ALL"));
    let mut details = Vec::new();
    if !kept.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&kept)));
    }
    details.extend(adding(p, &["NET_BIND_SERVICE"]));
    if details.is_empty() { None } else { found("unrestricted capabilities", details.join("; ")) }
}

fn volume_types(p: &Pod<'_>) -> Option<Finding> {
    const FINE: [&str; 9] = ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret"];
    const KNOWN: [&str; 21] = [
        "awsElasticBlockStore", "azureDisk", "azureFile", "cephfs", "cinder", "fc", "flexVolume", "flocker", "gcePersistentDisk", "gitRepo", "glusterfs", "hostPath", "iscsi",
        "nfs", "photonPersistentDisk", "portworxVolume", "quobyte", "rbd", "scaleIO", "storageos", "vsphereVolume",
    ];
    let volumes = p.spec.list_at(&["volumes"]);
    let bad: Vec<&Value> = volumes.iter().filter(|v| !FINE.iter().any(|t| v.at(&[t]).is_some())).collect();
    if bad.is_empty() {
        return None;
    }
    let kind = |v: &&Value| KNOWN.iter().find(|t| v.at(&[t]).is_some()).copied().unwrap_or("unknown");
    let kinds: BTreeSet<&str> = bad.iter().map(kind).collect();
    let names: Vec<&str> = bad.iter().map(|v| v.str_at(&["name"])).collect();
    let verb = if names.len() == 1 { "uses" } else { "use" };
    let detail = format!("{} {} {verb} {} {}", plural("volume", names.len()), quoted(&names), plural("restricted volume type", kinds.len()), quoted(kinds));
    found("restricted volume types", detail)
}

fn run_as_non_root(p: &Pod<'_>) -> Option<Finding> {
    if p.own_users() {
        return None;
    }
    let said = |v: &Value| v.at(&[CONTEXT, "runAsNonRoot"]).and_then(Value::as_bool);
    let reason = "runAsNonRoot != true";
    if let Some(who) = blamed(said(p.spec) == Some(false), &p.which(|c| said(c) == Some(false))) {
        return found(reason, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    let silent = p.which(|c| said(c).is_none());
    if said(p.spec) == Some(true) || silent.is_empty() {
        return None;
    }
    found(reason, format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&silent)))
}

fn run_as_user(p: &Pod<'_>) -> Option<Finding> {
    let root = |v: &Value| v.at(&[CONTEXT, "runAsUser"]).and_then(Value::as_i64) == Some(0);
    if p.own_users() {
        return None;
    }
    found("runAsUser=0", format!("{} must not set runAsUser=0", blamed(root(p.spec), &p.which(root))?))
}
