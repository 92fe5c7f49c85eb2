//! Deployments and the other owners of pods; roles and bindings.

use serde_json::{Value, json};

use super::{Strategy, generic::Generic, pod_validation};
use crate::{error::FieldError, names::NameRule, object::Object};

/// How often the template of a DaemonSet has changed, as clients of before read it.
const TEMPLATE_GENERATION: &[&str] = &["metadata", "annotations", "deprecated.daemonset.template.generation"];

/// Kinds with a pod template.
pub struct Workloads {
    pub(super) resource: String,
    pub(super) inner: Generic,
}

impl Workloads {
    fn template(&self) -> &'static [&'static str] {
        if self.resource == "cronjobs" {
            &["spec", "jobTemplate", "spec", "template"]
        } else {
            &["spec", "template"]
        }
    }

    fn selector(&self, obj: &Value, out: &mut Vec<FieldError>) {
        let labels = obj.at(&["spec", "template", "metadata", "labels"]);
        if self.resource == "replicationcontrollers" {
            let Some(s) = obj.at(&["spec", "selector"]).and_then(Value::as_object).filter(|m| !m.is_empty()) else {
                out.push(FieldError::required("spec.selector", ""));
                return;
            };
            if !s.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v)) {
                out.push(FieldError::invalid("spec.template.metadata.labels", labels.cloned().unwrap_or_default(), "`selector` does not match template `labels`"));
            }
            return;
        }
        let Some(s) = obj.at(&["spec", "selector"]) else {
            out.push(FieldError::required("spec.selector", ""));
            return;
        };
        super::fields::selector(s, "spec.selector", out);
        let empty = s.at(&["matchLabels"]).and_then(Value::as_object).is_none_or(serde_json::Map::is_empty)
            && s.list_at(&["matchExpressions"]).is_empty();
        if empty {
            out.push(FieldError::invalid("spec.selector", s.clone(), format!("empty selector is invalid for {}", match self.resource.as_str() {
                "daemonsets" => "daemonset",
                "statefulsets" => "statefulset",
                _ => "deployment",
            })));
            return;
        }
        if !matches_labels(s, labels) {
            out.push(FieldError::invalid("spec.template.metadata.labels", labels.cloned().unwrap_or_default(), "`selector` does not match template `labels`"));
        }
    }
}

/// Whether a label selector (as an object) matches labels.
fn matches_labels(s: &Value, labels: Option<&Value>) -> bool {
    let get = |k: &str| labels.and_then(|l| l.get(k)).and_then(Value::as_str);
    s.at(&["matchLabels"]).and_then(Value::as_object).into_iter().flatten().all(|(k, v)| get(k) == v.as_str())
        && s.list_at(&["matchExpressions"]).iter().all(|e| {
            let v = get(e.str_at(&["key"]));
            let within = v.is_some_and(|v| e.list_at(&["values"]).iter().any(|x| x == v));
            match e.str_at(&["operator"]) {
                "In" => within,
                "NotIn" => !within,
                "Exists" => v.is_some(),
                "DoesNotExist" => v.is_none(),
                _ => false,
            }
        })
}

fn not_negative(obj: &Value, path: &[&str], out: &mut Vec<FieldError>) {
    if let Some(n) = obj.at(path).and_then(Value::as_i64)
        && n < 0
    {
        out.push(FieldError::invalid(path.join("."), n, "must be greater than or equal to 0"));
    }
}

impl Strategy for Workloads {
    fn names(&self) -> NameRule {
        NameRule::Subdomain
    }
    fn prepare_create(&self, obj: &mut Value) {
        self.inner.prepare_create(obj);
        if self.resource == "daemonsets" {
            obj.set_at(TEMPLATE_GENERATION, json!("1"));
        }
        if self.resource == "jobs"
            && obj.at(&["spec", "manualSelector"]) != Some(&Value::Bool(true))
        {
            let uid = obj.uid().to_owned();
            let name = obj.name().to_owned();
            for (k, v) in [
                ("controller-uid", uid.as_str()),
                ("job-name", name.as_str()),
                ("batch.kubernetes.io/controller-uid", uid.as_str()),
                ("batch.kubernetes.io/job-name", name.as_str()),
            ] {
                obj.set_at(&["spec", "template", "metadata", "labels", k], json!(v));
            }
            obj.set_at(&["spec", "selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}));
        }
    }
    fn prepare_update(&self, obj: &mut Value, old: &Value) {
        self.inner.prepare_update(obj, old);
        if self.resource == "daemonsets" {
            let before: i64 = old.str_at(TEMPLATE_GENERATION).parse().unwrap_or(1);
            let next = before + i64::from(obj.at(&["spec", "template"]) != old.at(&["spec", "template"]));
            obj.set_at(TEMPLATE_GENERATION, json!(next.to_string()));
        }
    }
    fn prepare_subresource(&self, _: &str, obj: &mut Value, old: &Value) {
        self.inner.prepare_subresource("status", obj, old);
    }
    fn orphans_by_default(&self) -> bool {
        matches!(self.resource.as_str(), "replicationcontrollers" | "jobs")
    }
    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        match self.resource.as_str() {
            "jobs" => super::fields::check(obj, super::fields::pod::JOB, &mut out),
            "cronjobs" => super::fields::check(obj, super::fields::pod::CRON_JOB, &mut out),
            _ => {}
        }
        for f in ["replicas", "minReadySeconds", "revisionHistoryLimit", "parallelism", "completions", "backoffLimit", "ttlSecondsAfterFinished"] {
            not_negative(obj, &["spec", f], &mut out);
        }
        if !matches!(self.resource.as_str(), "jobs" | "cronjobs") {
            self.selector(obj, &mut out);
        }
        let t = self.template();
        match obj.at(t) {
            None => out.push(FieldError::required(t.join("."), "")),
            Some(tpl) => {
                let path = t.join(".");
                out.extend(crate::names::labels(tpl.at(&["metadata", "labels"]), &format!("{path}.labels")));
                // A StatefulSet's template mounts volumes that its claim templates make: as
                // upstream, its pods are checked when they are created.
                if self.resource != "statefulsets" {
                    out.extend(pod_validation::spec(tpl.get("spec").unwrap_or(&Value::Null), &format!("{path}.spec"), true));
                }
                let policy = tpl.str_at(&["spec", "restartPolicy"]);
                match self.resource.as_str() {
                    "jobs" | "cronjobs" => {
                        if !matches!(policy, "OnFailure" | "Never") {
                            if policy == "Always" || policy.is_empty() {
                                out.push(FieldError::required(format!("{path}.spec.restartPolicy"), "valid values: \"OnFailure\", \"Never\""));
                            } else {
                                out.push(FieldError::not_supported(format!("{path}.spec.restartPolicy"), policy, &["OnFailure", "Never"]));
                            }
                        }
                    }
                    _ => {
                        if !policy.is_empty() && policy != "Always" {
                            out.push(FieldError::not_supported(format!("{path}.spec.restartPolicy"), policy, &["Always"]));
                        }
                    }
                }
            }
        }
        if self.resource == "cronjobs" {
            let s = obj.str_at(&["spec", "schedule"]);
            if s.is_empty() {
                out.push(FieldError::required("spec.schedule", ""));
            } else if !s.starts_with('@') && s.split_whitespace().count() != 5 {
                out.push(FieldError::invalid("spec.schedule", s, format!("expected exactly 5 fields, found {}: [{s}]", s.split_whitespace().count())));
            }
        }
        out
    }
    fn validate_update(&self, obj: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = self.validate(obj);
        let fixed: &[&str] = match self.resource.as_str() {
            "deployments" | "replicasets" | "daemonsets" => &["selector"],
            "jobs" => &["selector", "completionMode", "template"],
            _ => &[],
        };
        for f in fixed {
            let (n, o) = (obj.at(&["spec", f]), old.at(&["spec", f]));
            if n != o {
                // A suspended job's template may still be scheduled otherwise.
                if *f == "template" && old.at(&["spec", "suspend"]) == Some(&Value::Bool(true)) && old.at(&["status", "startTime"]).is_none() {
                    continue;
                }
                out.push(FieldError::invalid(format!("spec.{f}"), n.cloned().unwrap_or_default(), "field is immutable"));
            }
        }
        if self.resource == "statefulsets" {
            const MAY: [&str; 8] = ["replicas", "ordinals", "template", "updateStrategy", "persistentVolumeClaimRetentionPolicy", "minReadySeconds", "revisionHistoryLimit", "volumeClaimTemplates"];
            let strip = |v: &Value| {
                let mut m = v.get("spec").and_then(Value::as_object).cloned().unwrap_or_default();
                for f in &MAY[..7] {
                    m.remove(*f);
                }
                m
            };
            if strip(obj) != strip(old) {
                out.push(FieldError::forbidden("spec", "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"));
            }
        }
        out
    }
}

/// Roles and bindings.
pub struct Rbac {
    pub(super) binding: bool,
    pub(super) inner: Generic,
}

impl Strategy for Rbac {
    fn names(&self) -> NameRule {
        NameRule::PathSegment
    }
    fn create_on_update(&self) -> bool {
        self.inner.create_on_update()
    }
    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        if self.binding {
            let group = obj.str_at(&["roleRef", "apiGroup"]);
            if group != "rbac.authorization.k8s.io" {
                out.push(FieldError::not_supported("roleRef.apiGroup", group, &["rbac.authorization.k8s.io"]));
            }
            let kind = obj.str_at(&["roleRef", "kind"]);
            if !matches!(kind, "Role" | "ClusterRole") {
                out.push(super::fields::not_supported("roleRef.kind", kind, &["Role", "ClusterRole"]));
            }
            let name = obj.str_at(&["roleRef", "name"]);
            if name.is_empty() {
                out.push(FieldError::required("roleRef.name", ""));
            }
            out.extend(NameRule::PathSegment.check(name, false).into_iter().map(|m| FieldError::invalid("roleRef.name", name, m)));
            for (i, s) in obj.list_at(&["subjects"]).iter().enumerate() {
                if s.str_at(&["name"]).is_empty() {
                    out.push(FieldError::required(format!("subjects[{i}].name"), ""));
                }
                let kind = s.str_at(&["kind"]);
                if !matches!(kind, "ServiceAccount" | "User" | "Group") {
                    out.push(super::fields::not_supported(&format!("subjects[{i}].kind"), kind, &["ServiceAccount", "User", "Group"]));
                }
                let group = s.str_at(&["apiGroup"]);
                let wanted = if kind == "ServiceAccount" { "" } else { "rbac.authorization.k8s.io" };
                if matches!(kind, "ServiceAccount" | "User" | "Group") && group != wanted {
                    out.push(FieldError::not_supported(format!("subjects[{i}].apiGroup"), group, &[wanted]));
                }
                if kind == "ServiceAccount" {
                    let name = s.str_at(&["name"]);
                    out.extend(crate::names::subdomain(name).into_iter().filter(|_| !name.is_empty()).map(|m| FieldError::invalid(format!("subjects[{i}].name"), name, m)));
                }
                if kind == "ServiceAccount" && s.str_at(&["namespace"]).is_empty() && obj.namespace().is_empty() {
                    out.push(FieldError::required(format!("subjects[{i}].namespace"), ""));
                }
            }
        } else {
            for (i, r) in obj.list_at(&["rules"]).iter().enumerate() {
                let p = format!("rules[{i}]");
                if r.list_at(&["verbs"]).is_empty() {
                    out.push(FieldError::required(format!("{p}.verbs"), ""));
                }
                if r.list_at(&["nonResourceURLs"]).is_empty() {
                    if r.list_at(&["apiGroups"]).is_empty() {
                        out.push(FieldError::required(format!("{p}.apiGroups"), "resource rules must supply at least one api group"));
                    }
                    if r.list_at(&["resources"]).is_empty() {
                        out.push(FieldError::required(format!("{p}.resources"), "resource rules must supply at least one resource"));
                    }
                }
            }
        }
        out
    }
    fn validate_update(&self, obj: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = self.validate(obj);
        if self.binding && obj.get("roleRef") != old.get("roleRef") {
            out.push(FieldError::invalid("roleRef", obj.get("roleRef").cloned().unwrap_or_default(), "field is immutable"));
        }
        out
    }
}
