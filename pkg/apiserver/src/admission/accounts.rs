//! ServiceAccount's second half: accounts that let their pods use only the secrets they name, and
//! mirror pods, which may use none.

use knarr_registry::Object;
use serde_json::Value;

const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";

fn names(v: &Value, list: &str) -> Vec<String> {
    v.list_at(&[list]).iter().map(|r| r.str_at(&["name"]).to_owned()).collect()
}

/// The first secret of a container's environment that is not allowed, in upstream's words.
fn environment(c: &Value, what: &str, account: &str, allowed: &[String]) -> Option<String> {
    let name = c.str_at(&["name"]);
    let not = |s: &str| !s.is_empty() && !allowed.iter().any(|a| a == s);
    let end = format!("is not allowed because service account {account} does not reference that secret");
    for e in c.list_at(&["env"]) {
        let secret = e.str_at(&["valueFrom", "secretKeyRef", "name"]);
        if not(secret) {
            return Some(format!("{what} {name} with envVar {} referencing secret.secretName=\"{secret}\" {end}", e.str_at(&["name"])));
        }
    }
    let secret = c.list_at(&["envFrom"]).iter().map(|e| e.str_at(&["secretRef", "name"])).find(|s| not(s))?;
    Some(format!("{what} {name} with envFrom referencing secret.secretName=\"{secret}\" {end}"))
}

/// Why a pod may not use the secrets it names, if its account minds.
pub(super) fn secrets(account: &Value, pod: &Value) -> Option<String> {
    if account.str_at(&["metadata", "annotations", ENFORCE]) != "true" {
        return None;
    }
    let (name, allowed) = (account.name(), names(account, "secrets"));
    for v in pod.list_at(&["spec", "volumes"]) {
        let secret = v.str_at(&["secret", "secretName"]);
        if v.at(&["secret"]).is_some() && !allowed.iter().any(|a| a == secret) {
            return Some(format!("volume with secret.secretName=\"{secret}\" is not allowed because service account {name} does not reference that secret"));
        }
    }
    for (list, what) in [("initContainers", "init container"), ("containers", "container"), ("ephemeralContainers", "ephemeral container")] {
        if let Some(why) = pod.list_at(&["spec", list]).iter().find_map(|c| environment(c, what, name, &allowed)) {
            return Some(why);
        }
    }
    let pulls = names(account, "imagePullSecrets");
    let mut asked = pod.list_at(&["spec", "imagePullSecrets"]).iter().map(|r| r.str_at(&["name"])).enumerate();
    let (i, other) = asked.find(|(_, s)| !pulls.iter().any(|p| p == s))?;
    Some(format!("imagePullSecrets[{i}].name=\"{other}\" is not allowed because service account {name} does not reference that imagePullSecret"))
}

/// Why a mirror pod may not be made.
pub(super) fn mirror(pod: &Value) -> Option<&'static str> {
    if !pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
        return Some("a mirror pod may not reference service accounts");
    }
    let used = |c: &Value| {
        c.list_at(&["env"]).iter().any(|e| e.at(&["valueFrom", "secretKeyRef"]).is_some()) || c.list_at(&["envFrom"]).iter().any(|e| e.at(&["secretRef"]).is_some())
    };
    let containers = ["initContainers", "containers"].iter().flat_map(|l| pod.list_at(&["spec", l])).any(used);
    let volumes = pod.list_at(&["spec", "volumes"]);
    let sources = || volumes.iter().flat_map(|v| v.list_at(&["projected", "sources"]));
    if containers || !pod.list_at(&["spec", "imagePullSecrets"]).is_empty() || volumes.iter().any(|v| v.at(&["secret"]).is_some()) || sources().any(|s| s.at(&["secret"]).is_some()) {
        return Some("a mirror pod may not reference secrets");
    }
    sources().any(|s| s.at(&["serviceAccountToken"]).is_some()).then_some("a mirror pod may not use ServiceAccountToken volume projections")
}
