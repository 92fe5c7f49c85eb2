//! Reading a pod's specification: its containers by role, restart rules, QoS, hashes.
use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, EphemeralContainer, Pod, PodSpec, Probe},
    apimachinery::pkg::api::resource::Quantity,
};
use sha2::{Digest, Sha256};

use crate::quantity;

/// Annotation of a pod that came from a manifest: where from.
pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// Annotation: hash of the manifest, also the uid of the static pod.
pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// Annotation of a mirror pod: hash of the static pod it stands for.
pub const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";

/// What a container is for in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub enum Role {
    /// Runs to completion before the containers start.
    Init,
    /// An init container with restartPolicy Always: starts in order, runs beside the containers.
    Sidecar,
    /// An ordinary container.
    Main,
    /// Added to a running pod; never restarted.
    Ephemeral,
}

/// When an exited container is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Whatever its exit code.
    Always,
    /// Unless it left with 0.
    OnFailure,
    /// Not.
    Never,
}

impl Restart {
    fn parse(s: Option<&str>) -> Option<Restart> {
        match s {
            Some("Always") => Some(Restart::Always),
            Some("OnFailure") => Some(Restart::OnFailure),
            Some("Never") => Some(Restart::Never),
            _ => None,
        }
    }
}

/// The pod's uid; empty when it has none (which the API server never allows).
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// The pod's name.
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// The pod's namespace.
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

/// `name_namespace(uid)`, the form upstream's messages use.
pub fn format_pod(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// An annotation's value.
pub fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata
        .annotations
        .as_ref()?
        .get(key)
        .map(String::as_str)
}

/// Whether the pod came from a manifest file.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, CONFIG_SOURCE).is_some_and(|s| s != "api")
}

/// Whether the annotations of a sandbox tell of a pod from a manifest file.
pub fn from_manifest(annotations: &std::collections::HashMap<String, String>) -> bool {
    annotations.get(CONFIG_SOURCE).is_some_and(|s| s != "api")
}

/// Whether the pod is the API server's picture of a static pod.
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, CONFIG_MIRROR).is_some()
}

/// The specification; an empty one when missing.
pub fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::OnceLock<PodSpec> = std::sync::OnceLock::new();
    match &pod.spec {
        Some(s) => s,
        None => EMPTY.get_or_init(PodSpec::default),
    }
}

/// Whether the pod's users are the host's.
pub fn host_users(pod: &Pod) -> bool {
    spec(pod).host_users.unwrap_or(true)
}

/// Whether the pod uses the node's network.
pub fn host_network(pod: &Pod) -> bool {
    spec(pod).host_network.unwrap_or(false)
}

/// Init containers, in order.
pub fn inits(pod: &Pod) -> &[Container] {
    spec(pod).init_containers.as_deref().unwrap_or_default()
}

/// Ordinary containers, in order.
pub fn mains(pod: &Pod) -> &[Container] {
    &spec(pod).containers
}

/// Ephemeral containers, in order.
pub fn ephemerals(pod: &Pod) -> &[EphemeralContainer] {
    spec(pod)
        .ephemeral_containers
        .as_deref()
        .unwrap_or_default()
}

/// Whether an init container is a sidecar.
pub fn is_sidecar(c: &Container) -> bool {
    c.restart_policy.as_deref() == Some("Always")
}

/// An ephemeral container in the form of an ordinary one.
pub fn ephemeral_as_container(e: &EphemeralContainer) -> Container {
    Container {
        args: e.args.clone(),
        command: e.command.clone(),
        env: e.env.clone(),
        env_from: e.env_from.clone(),
        image: e.image.clone(),
        image_pull_policy: e.image_pull_policy.clone(),
        name: e.name.clone(),
        resources: e.resources.clone(),
        security_context: e.security_context.clone(),
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        termination_message_path: e.termination_message_path.clone(),
        termination_message_policy: e.termination_message_policy.clone(),
        tty: e.tty,
        volume_devices: e.volume_devices.clone(),
        volume_mounts: e.volume_mounts.clone(),
        working_dir: e.working_dir.clone(),
        ..Container::default()
    }
}

/// The container of that name and its role.
pub fn find(pod: &Pod, name: &str) -> Option<(Role, Container)> {
    if let Some(c) = mains(pod).iter().find(|c| c.name == name) {
        return Some((Role::Main, c.clone()));
    }
    if let Some(c) = inits(pod).iter().find(|c| c.name == name) {
        let role = if is_sidecar(c) {
            Role::Sidecar
        } else {
            Role::Init
        };
        return Some((role, c.clone()));
    }
    ephemerals(pod)
        .iter()
        .find(|c| c.name == name)
        .map(|c| (Role::Ephemeral, ephemeral_as_container(c)))
}

/// `spec.containers{name}` and the like: the field path of events.
pub fn field_path(pod: &Pod, name: &str) -> String {
    match find(pod, name) {
        Some((Role::Main, _)) | None => format!("spec.containers{{{name}}}"),
        Some((Role::Ephemeral, _)) => format!("spec.ephemeralContainers{{{name}}}"),
        Some(_) => format!("spec.initContainers{{{name}}}"),
    }
}

/// The pod's restart policy.
pub fn pod_restart(pod: &Pod) -> Restart {
    Restart::parse(spec(pod).restart_policy.as_deref()).unwrap_or(Restart::Always)
}

/// Whether a container that left with `exit_code` is to be started again.
pub fn should_restart(pod: &Pod, container: &Container, role: Role, exit_code: i32) -> bool {
    if role == Role::Ephemeral {
        return false;
    }
    for rule in container.restart_policy_rules.iter().flatten() {
        let Some(on) = &rule.exit_codes else { continue };
        let listed = on.values.iter().flatten().any(|v| *v == exit_code);
        let hit = match on.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        };
        if hit {
            return rule.action.starts_with("Restart");
        }
    }
    let policy = Restart::parse(container.restart_policy.as_deref()).unwrap_or_else(|| {
        match (role, pod_restart(pod)) {
            // an init container that is done stays done
            (Role::Init, Restart::Always) => Restart::OnFailure,
            (_, policy) => policy,
        }
    });
    match policy {
        Restart::Always => true,
        Restart::OnFailure => exit_code != 0,
        Restart::Never => false,
    }
}

/// Whether the container has probes that decide when it is `started` or `ready`.
pub fn probes(c: &Container) -> (Option<&Probe>, Option<&Probe>, Option<&Probe>) {
    (
        c.startup_probe.as_ref(),
        c.readiness_probe.as_ref(),
        c.liveness_probe.as_ref(),
    )
}

/// Grace period in seconds of the whole pod, when it is being deleted or otherwise.
pub fn grace_period(pod: &Pod) -> i64 {
    pod.metadata
        .deletion_grace_period_seconds
        .or(spec(pod).termination_grace_period_seconds)
        .unwrap_or(30)
        .max(0)
}

/// Hash of what makes a running container outdated when it changes (name and image).
pub fn container_hash(c: &Container) -> String {
    let mut h = Sha256::new();
    h.update(c.name.as_bytes());
    h.update([0]);
    h.update(c.image.as_deref().unwrap_or_default().as_bytes());
    h.finalize()
        .iter()
        .take(4)
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// Quality-of-service class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Limits equal requests for CPU and memory in every container.
    Guaranteed,
    /// Some request or limit.
    Burstable,
    /// None.
    BestEffort,
}

impl Qos {
    /// The API's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Qos::Guaranteed => "Guaranteed",
            Qos::Burstable => "Burstable",
            Qos::BestEffort => "BestEffort",
        }
    }
}

/// The pod's class: the one in its status, which is fixed at creation, or computed.
pub fn qos(pod: &Pod) -> Qos {
    match pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        Some("Guaranteed") => return Qos::Guaranteed,
        Some("Burstable") => return Qos::Burstable,
        Some("BestEffort") => return Qos::BestEffort,
        _ => {}
    }
    type List = BTreeMap<String, Quantity>;
    let positive = |l: Option<&List>, r: &str| {
        l.and_then(|l| l.get(r))
            .filter(|q| quantity::milli(q).is_some_and(|m| m > 0))
            .cloned()
    };
    let mut any = false;
    let mut guaranteed = true;
    let pod_level = spec(pod).resources.as_ref();
    let all = inits(pod).iter().chain(mains(pod));
    let sets: Vec<_> = match pod_level {
        Some(r) if r.limits.is_some() || r.requests.is_some() => vec![Some(r)],
        _ => all.map(|c| c.resources.as_ref()).collect(),
    };
    for set in sets {
        for resource in ["cpu", "memory"] {
            let limit = positive(set.and_then(|r| r.limits.as_ref()), resource);
            let request = positive(set.and_then(|r| r.requests.as_ref()), resource);
            any |= limit.is_some() || request.is_some();
            guaranteed &= match (&limit, &request) {
                (Some(l), Some(r)) => quantity::same(l, r),
                (Some(_), None) => true,
                _ => false,
            };
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}
