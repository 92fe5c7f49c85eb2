//! Deployments and the other owners of pods.

mod cron;
mod job;

use serde_json::{Value, json};

use super::{
    Strategy,
    at::At,
    fields::Check::{Label, Required, Selector},
    generic::Generic,
    pod,
};
use crate::{error::FieldError, names::{self, NameRule}, object::Object};

/// How often the template of a DaemonSet has changed, as clients of before read it.
const TEMPLATE_GENERATION: &[&str] = &["metadata", "annotations", "deprecated.daemonset.template.generation"];
const NEGATIVE: &str = "must be greater than or equal to 0";
const IMMUTABLE: &str = "field is immutable";
const UNMATCHED: &str = "`selector` does not match template `labels`";

/// Kinds with a pod template.
pub struct Workloads {
    pub(super) resource: String,
    pub(super) inner: Generic,
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

fn not_negative(at: &At, fields: &[&str], out: &mut Vec<FieldError>) {
    for f in fields {
        if at.get(f).int().is_some_and(|n| n < 0) {
            at.get(f).wrong(NEGATIVE, out);
        }
    }
}

/// What cannot change, by its path.
fn fixed(obj: &Value, old: &Value, fields: &[&str], out: &mut Vec<FieldError>) {
    for f in fields {
        let (n, o) = (obj.at(&["spec", f]), old.at(&["spec", f]));
        if n != o {
            out.push(FieldError::invalid(format!("spec.{f}"), n.cloned().unwrap_or_default(), IMMUTABLE));
        }
    }
}

/// A selector that is there, valid, and not of everything; gives whether it can select.
fn selector(spec: &At, kind: &str, out: &mut Vec<FieldError>) -> bool {
    let at = spec.get("selector");
    if !at.there() {
        at.required("", out);
        return true;
    }
    let before = out.len();
    at.check(&[Selector], out);
    let good = out.len() == before;
    if empty(at.value) {
        at.wrong(format!("empty selector is invalid for {kind}"), out);
    }
    good
}

fn empty(selector: &Value) -> bool {
    selector.at(&["matchLabels"]).and_then(Value::as_object).is_none_or(serde_json::Map::is_empty) && selector.list_at(&["matchExpressions"]).is_empty()
}

/// That a template's pods are those that the selector selects.
fn selected(spec: &At, out: &mut Vec<FieldError>) {
    let (selector, labels) = (spec.get("selector"), spec.get("template.metadata.labels"));
    // Nothing selects nothing.
    if !selector.there() || !matches_labels(selector.value, Some(labels.value)) {
        labels.wrong(UNMATCHED, out);
    }
}

/// A template whose pods run for ever.
fn lasting(template: &At, old: Option<&Value>, kind: &str, out: &mut Vec<FieldError>) {
    pod::template(template, old, out);
    forever(template, kind, out);
}

fn forever(template: &At, kind: &str, out: &mut Vec<FieldError>) {
    let policy = template.get("spec.restartPolicy");
    if policy.text() != "Always" {
        out.push(FieldError::not_supported(policy.to_string(), policy.text(), &["Always"]));
    }
    if template.get("spec.activeDeadlineSeconds").there() {
        template.get("spec.activeDeadlineSeconds").forbidden(format!("activeDeadlineSeconds in {kind} is not Supported"), out);
    }
}

/// A part as a percentage, if the text is one.
fn percent(v: &Value) -> Option<i64> {
    v.as_str()?.strip_suffix('%').filter(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
}

fn share(v: &Value) -> i64 {
    percent(v).or(v.as_i64()).or_else(|| v.as_str()?.parse().ok()).unwrap_or(0)
}

/// A number, or a part in percent.
fn number_or_percent(at: &At, out: &mut Vec<FieldError>) {
    match at.value {
        Value::String(_) if percent(at.value).is_none() => at.wrong("a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')", out),
        v if v.as_i64().is_some_and(|n| n < 0) => at.invalid(v.clone(), NEGATIVE, out),
        _ => {}
    }
}

fn at_most_all(at: &At, out: &mut Vec<FieldError>) {
    if percent(at.value).is_some_and(|p| p > 100) {
        at.wrong("must not be greater than 100%", out);
    }
}

fn deployment(spec: &At, old: Option<&Value>, out: &mut Vec<FieldError>) {
    not_negative(spec, &["replicas"], out);
    replicated(spec, old, out);
    let strategy = spec.get("strategy");
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").text() {
        "Recreate" if rolling.there() => rolling.forbidden("may not be specified when strategy `type` is 'Recreate'", out),
        "Recreate" => {}
        "RollingUpdate" if rolling.there() => {
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            number_or_percent(&unavailable, out);
            number_or_percent(&surge, out);
            if share(unavailable.value) == 0 && share(surge.value) == 0 {
                unavailable.wrong("may not be 0 when `maxSurge` is 0", out);
            }
            at_most_all(&unavailable, out);
        }
        "RollingUpdate" => rolling.required("this should be defaulted and never be nil", out),
        _ => strategy.unsupported(&["Recreate", "RollingUpdate"], out),
    }
    not_negative(spec, &["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"], out);
    let deadline = spec.get("progressDeadlineSeconds");
    if deadline.int().is_some_and(|n| n <= spec.get("minReadySeconds").int().unwrap_or(0)) {
        deadline.wrong("must be greater than minReadySeconds", out);
    }
}

/// The selector and template of what keeps a number of pods.
fn replicated(spec: &At, old: Option<&Value>, out: &mut Vec<FieldError>) {
    if !selector(spec, "deployment", out) {
        spec.get("selector").wrong("invalid label selector", out);
        return;
    }
    if !spec.get("selector").there() || !empty(spec.get("selector").value) {
        selected(spec, out);
    }
    lasting(&spec.get("template"), old.and_then(|o| o.at(&["spec", "template"])), "ReplicaSet", out);
}

fn replica_set(spec: &At, old: Option<&Value>, out: &mut Vec<FieldError>) {
    not_negative(spec, &["replicas", "minReadySeconds"], out);
    replicated(spec, old, out);
}

fn controller(spec: &At, old: Option<&Value>, out: &mut Vec<FieldError>) {
    not_negative(spec, &["minReadySeconds"], out);
    let own = spec.get("selector");
    own.check(&[Required("")], out);
    not_negative(spec, &["replicas"], out);
    let template = spec.get("template");
    if !template.there() {
        return template.required("", out);
    }
    let labels = template.get("metadata.labels");
    if !own.entries().all(|(k, v)| labels.value.get(k) == Some(v.value)) {
        labels.wrong(UNMATCHED, out);
    }
    lasting(&template, old.and_then(|o| o.at(&["spec", "template"])), "ReplicationController", out);
}

fn daemon_set(spec: &At, old: Option<&Value>, out: &mut Vec<FieldError>) {
    let own = spec.get("selector");
    let before = out.len();
    own.check(&[Selector], out);
    if out.len() == before && (!own.there() || !matches_labels(own.value, Some(spec.get("template.metadata.labels").value))) {
        spec.get("template.metadata.labels").wrong(UNMATCHED, out);
    }
    if own.there() && empty(own.value) {
        own.wrong("empty selector is invalid for daemonset", out);
    }
    lasting(&spec.get("template"), old.and_then(|o| o.at(&["spec", "template"])), "DaemonSet", out);
    not_negative(spec, &["minReadySeconds"], out);
    let strategy = spec.get("updateStrategy");
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").text() {
        "OnDelete" => {}
        "RollingUpdate" if !rolling.there() => rolling.required("", out),
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            number_or_percent(&unavailable, out);
            number_or_percent(&surge, out);
            at_most_all(&unavailable, out);
            at_most_all(&surge, out);
            match (share(unavailable.value) != 0, share(surge.value) != 0) {
                (true, true) => surge.wrong("may not be set when maxUnavailable is non-zero", out),
                (false, false) => unavailable.required("cannot be 0 when maxSurge is 0", out),
                _ => {}
            }
        }
        _ => strategy.unsupported_as_is(&["RollingUpdate", "OnDelete"], out),
    }
    not_negative(spec, &["revisionHistoryLimit"], out);
}

fn stateful_set(spec: &At, old: Option<&Value>, lax: bool, out: &mut Vec<FieldError>) {
    let management = spec.get("podManagementPolicy");
    match management.text() {
        "" => management.required("", out),
        "OrderedReady" | "Parallel" => {}
        _ => management.wrong("must be 'OrderedReady' or 'Parallel'", out),
    }
    let strategy = spec.get("updateStrategy");
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").text() {
        "" => strategy.required("", out),
        "OnDelete" if rolling.there() => rolling.wrong("only allowed for updateStrategy 'RollingUpdate'", out),
        "OnDelete" => {}
        "RollingUpdate" => {
            not_negative(&rolling, &["partition"], out);
            let unavailable = rolling.get("maxUnavailable");
            if unavailable.there() {
                number_or_percent(&unavailable, out);
                if share(unavailable.value) == 0 {
                    unavailable.wrong("cannot be 0", out);
                }
                at_most_all(&unavailable, out);
            }
        }
        _ => strategy.wrong("must be 'RollingUpdate' or 'OnDelete'", out),
    }
    let retention = spec.get("persistentVolumeClaimRetentionPolicy");
    if retention.there() {
        for f in ["whenDeleted", "whenScaled"] {
            if !matches!(retention.get(f).text(), "Delete" | "Retain") {
                retention.get(f).unsupported_as_is(&["Retain", "Delete"], out);
            }
        }
    }
    if old.is_none() {
        for t in spec.get("volumeClaimTemplates").items() {
            super::claims::spec(&t.get("spec"), out);
        }
    }
    not_negative(spec, &["replicas", "minReadySeconds", "ordinals.start"], out);
    let service = spec.get("serviceName");
    if !service.text().is_empty() && old.is_none_or(|o| names::label(o.str_at(&["spec", "serviceName"])).is_empty() || o.str_at(&["spec", "serviceName"]).is_empty()) {
        service.check(&[Label], out);
    }
    if !selector(spec, "statefulset", out) {
        return spec.get("selector").wrong("", out);
    }
    if !empty(spec.get("selector").value) || !spec.get("selector").there() {
        selected(spec, out);
    }
    let template = spec.get("template");
    if !lax {
        // The claims of its templates are volumes of its pods; the names of these are its own.
        let mut whole = template.value.clone();
        let claimed: Vec<&str> = spec.value.list_at(&["volumeClaimTemplates"]).iter().map(|t| t.str_at(&["metadata", "name"])).collect();
        let mut volumes: Vec<Value> = claimed.iter().map(|n| json!({"name": n, "persistentVolumeClaim": {"claimName": n}})).collect();
        volumes.extend(template.value.list_at(&["spec", "volumes"]).iter().filter(|v| !claimed.contains(&v.str_at(&["name"]))).cloned());
        if whole.get("spec").is_some_and(Value::is_object) {
            whole.set_at(&["spec", "volumes"], Value::Array(volumes));
            whole.take_at(&["spec", "subdomain"]);
            whole.take_at(&["spec", "hostname"]);
        }
        let text = template.to_string();
        pod::template(&At::top(&whole, &text), old.and_then(|o| o.at(&["spec", "template"])), out);
    }
    forever(&template, "StatefulSet", out);
}

impl Workloads {
    fn check(&self, obj: &Value, old: Option<&Value>, out: &mut Vec<FieldError>) {
        let root = At::top(obj, "");
        let spec = root.get("spec");
        match self.resource.as_str() {
            "deployments" => deployment(&spec, old, out),
            "replicasets" => replica_set(&spec, old, out),
            "replicationcontrollers" => controller(&spec, old, out),
            "daemonsets" => daemon_set(&spec, old, out),
            "statefulsets" => {
                let lax = old.is_some_and(|o| {
                    let mut wrong = Vec::new();
                    stateful_set(&At::top(o, "").get("spec"), None, false, &mut wrong);
                    !wrong.is_empty()
                });
                stateful_set(&spec, old, lax, out);
            }
            "jobs" => job::check(obj, old, out),
            "cronjobs" => cron::check(&root, old, out),
            _ => pod::template(&root.get("template"), old.and_then(|o| o.get("template")), out),
        }
    }
}

impl Strategy for Workloads {
    fn names(&self) -> NameRule {
        match self.resource.as_str() {
            "statefulsets" => NameRule::Label,
            "replicationcontrollers" => NameRule::LongName,
            _ => NameRule::Subdomain,
        }
    }
    fn prepare_create(&self, obj: &mut Value) {
        self.inner.prepare_create(obj);
        match self.resource.as_str() {
            "daemonsets" => obj.set_at(TEMPLATE_GENERATION, json!("1")),
            "jobs" => job::select(obj),
            _ => {}
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
    fn returns_deleted(&self) -> bool {
        self.inner.returns_deleted()
    }
    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        self.check(obj, None, &mut out);
        out
    }
    fn validate_update(&self, obj: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        self.check(obj, Some(old), &mut out);
        match self.resource.as_str() {
            "deployments" | "replicasets" | "daemonsets" => fixed(obj, old, &["selector"], &mut out),
            "statefulsets" => {
                fixed(obj, old, &["selector", "volumeClaimTemplates", "serviceName", "podManagementPolicy"], &mut out);
            }
            "jobs" => job::update(obj, old, &mut out),
            _ => {}
        }
        out
    }
    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        // What changed nothing but a label is not looked at again.
        if old.is_some_and(|o| o.generation() == obj.generation()) {
            return out;
        }
        let root = At::top(obj, "");
        let spec = root.get("spec");
        match self.resource.as_str() {
            "jobs" => job::warnings(&root, old.is_none(), &mut out),
            "cronjobs" => cron::warnings(&root, old.is_none(), &mut out),
            "podtemplates" => pod::template_warnings(&root.get("template"), &mut out),
            other => {
                if matches!(other, "deployments" | "replicationcontrollers" | "replicasets") {
                    let wrong = names::label(obj.name());
                    if old.is_none() && !wrong.is_empty() {
                        out.push(format!("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]", wrong.join(" ")));
                    }
                }
                pod::template_warnings(&spec.get("template"), &mut out);
                if other == "statefulsets" {
                    for t in spec.get("volumeClaimTemplates").items() {
                        super::claims::warnings(&t.get("spec"), &mut out);
                    }
                    if spec.get("revisionHistoryLimit").int().is_some_and(|n| n < 0) {
                        out.push("spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended".to_owned());
                    }
                }
            }
        }
        out
    }
}
