//! `AdmissionReview`: what is asked, and what answers mean.

use base64::{Engine, engine::general_purpose::STANDARD};
use knarr_registry::{ApiError, Object, error::{Cause, Details}};
use knarr_schema::Resource;
use serde_json::{Value, json};

use super::{Failure, operation};
use crate::admission::{Attrs, Operation};

/// The review of a request as one of a row's.
pub(super) fn question(a: &Attrs<'_>, row: &Resource, obj: &Value, old: Option<&Value>, uid: &str, version: &str) -> Value {
    let connects = a.operation == Operation::Connect;
    let object = if connects { connect(a) } else { obj.clone() };
    let kind_of = |r: &Resource| {
        if connects {
            return json!({"group": "", "version": "v1", "kind": object.str_at(&["kind"])});
        }
        json!({"group": r.group, "version": r.version, "kind": r.kind})
    };
    let resource_of = |r: &Resource| json!({"group": r.group, "version": r.version, "resource": r.plural});
    let verb = match a.operation {
        Operation::Create => "CreateOptions",
        Operation::Update if a.ctx.info.verb == "patch" => "PatchOptions",
        Operation::Update => "UpdateOptions",
        Operation::Delete => "DeleteOptions",
        Operation::Connect => "",
    };
    let mut q = json!({
        "uid": uid,
        "kind": kind_of(row),
        "resource": resource_of(row),
        "requestKind": kind_of(a.resource),
        "requestResource": resource_of(a.resource),
        "operation": operation(a.operation),
        "userInfo": a.user.value(),
        "object": object,
        "oldObject": old.cloned().unwrap_or(Value::Null),
        "dryRun": a.dry_run,
        "options": null,
    });
    if !a.subresource.is_empty() {
        q["subResource"] = json!(a.subresource);
        q["requestSubResource"] = json!(a.subresource);
    }
    if !a.name.is_empty() {
        q["name"] = json!(a.name);
    }
    let namespace = if a.is("", "namespaces") { &a.name } else { &a.namespace };
    if !namespace.is_empty() && (a.resource.namespaced || a.is("", "namespaces")) {
        q["namespace"] = json!(namespace);
    }
    if !verb.is_empty() {
        let mut o = json!({"kind": verb, "apiVersion": "meta.k8s.io/v1"});
        if verb != "DeleteOptions" {
            o["fieldManager"] = json!(a.ctx.manager());
        }
        if a.dry_run {
            o["dryRun"] = json!(["All"]);
        }
        q["options"] = o;
    }
    json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "request": q})
}

/// The options of a connection, as objects.
fn connect(a: &Attrs<'_>) -> Value {
    let q = &a.ctx.query;
    let kind = match (a.resource.plural.as_ref(), a.subresource) {
        ("pods", "exec") => "PodExecOptions",
        ("pods", "attach") => "PodAttachOptions",
        ("pods", "portforward") => "PodPortForwardOptions",
        ("pods", _) => "PodProxyOptions",
        ("services", _) => "ServiceProxyOptions",
        _ => "NodeProxyOptions",
    };
    let mut v = json!({"kind": kind, "apiVersion": "v1"});
    match a.subresource {
        "exec" | "attach" => {
            for f in ["stdin", "stdout", "stderr", "tty"] {
                if q.flag(f) {
                    v[f] = json!(true);
                }
            }
            if q.has("container") {
                v["container"] = json!(q.get("container"));
            }
            let command = q.all("command");
            if !command.is_empty() {
                v["command"] = json!(command);
            }
        }
        "portforward" => {
            let ports: Vec<i64> = q.all("ports").iter().filter_map(|p| p.parse().ok()).collect();
            if !ports.is_empty() {
                v["ports"] = json!(ports);
            }
        }
        _ => {
            v["path"] = json!(format!("/{}", a.ctx.info.rest));
        }
    }
    v
}

/// Reads an answer: the patch, if any, and the warnings.
pub(super) fn answer(v: &Value, uid: &str, version: &str, mutating: bool, name: &str) -> Result<(Option<Value>, Vec<String>), Failure> {
    let bad = |why: String| Failure::Call(format!("received invalid webhook response: {why}"));
    let Some(r) = v.at(&["response"]) else { return Err(bad("webhook response was absent".into())) };
    let patch = r.str_at(&["patch"]);
    let kind = r.get("patchType").filter(|t| !t.is_null()).map(|t| t.as_str().unwrap_or_default());
    if version == "v1" {
        if r.str_at(&["uid"]) != uid {
            return Err(bad(format!("expected response.uid={uid:?}, got {:?}", r.str_at(&["uid"]))));
        }
        let (api, k) = (v.str_at(&["apiVersion"]), v.str_at(&["kind"]));
        if api != "admission.k8s.io/v1" || k != "AdmissionReview" {
            let slash = if api.contains('/') { "" } else { "/" };
            return Err(bad(format!("expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {slash}{api}, Kind={k}")));
        }
        match (mutating, patch.is_empty(), kind) {
            (true, false, None) => return Err(bad("webhook returned response.patch but not response.patchType".into())),
            (true, true, Some(_)) => return Err(bad("webhook returned response.patchType but not response.patch".into())),
            (true, _, Some("")) => return Err(bad("webhook returned invalid response.patchType of \"\"".into())),
            (false, false, _) => return Err(bad("validating webhook may not return response.patch".into())),
            (false, _, Some(_)) => return Err(bad("validating webhook may not return response.patchType".into())),
            _ => {}
        }
    }
    let warnings = r.list_at(&["warnings"]).iter().filter_map(|w| w.as_str().map(str::to_owned)).collect();
    if r.get("allowed") != Some(&Value::Bool(true)) {
        return Err(Failure::Refused(refusal(name, r.get("status").unwrap_or(&Value::Null))));
    }
    if !mutating || patch.is_empty() {
        return Ok((None, warnings));
    }
    let undecodable = |why: String| Failure::Call(format!("received undecodable patch in webhook response: {why}"));
    if let Some(other) = kind.filter(|k| *k != "JSONPatch") {
        return Err(Failure::Call(format!("unsupported patch type {other:?}")));
    }
    let bytes = STANDARD.decode(patch).map_err(|e| undecodable(e.to_string()))?;
    let ops: Value = serde_json::from_slice(&bytes).map_err(|e| undecodable(e.to_string()))?;
    if !ops.is_array() {
        return Err(undecodable("it is no list".into()));
    }
    Ok((ops.as_array().is_some_and(|o| !o.is_empty()).then_some(ops), warnings))
}

/// The reasons that statuses may have.
const REASONS: [&str; 18] = [
    "AlreadyExists", "BadRequest", "Conflict", "Expired", "Forbidden", "Gone", "InternalError", "Invalid", "MethodNotAllowed", "NotAcceptable", "NotFound",
    "RequestEntityTooLarge", "ServerTimeout", "ServiceUnavailable", "Timeout", "TooManyRequests", "Unauthorized", "UnsupportedMediaType",
];

fn refusal(name: &str, result: &Value) -> ApiError {
    let denied = format!("admission webhook {name:?} denied the request");
    let (message, reason) = (result.str_at(&["message"]), result.str_at(&["reason"]));
    let text = match (message, reason) {
        ("", "") => format!("{denied} without explanation"),
        ("", r) => format!("{denied}: {r}"),
        (m, _) => format!("{denied}: {m}"),
    };
    let code = result.at(&["code"]).and_then(Value::as_u64).and_then(|c| u16::try_from(c).ok()).filter(|c| (400..600).contains(c)).unwrap_or(400);
    let mut e = ApiError::new(code, REASONS.iter().find(|r| **r == reason).copied().unwrap_or(""), text);
    if let Some(d) = result.at(&["details"]) {
        let s = |v: &Value, k: &str| v.str_at(&[k]).to_owned();
        e.details = Some(Box::new(Details {
            name: s(d, "name"),
            group: s(d, "group"),
            kind: s(d, "kind"),
            uid: s(d, "uid"),
            causes: d.list_at(&["causes"]).iter().map(|c| Cause { reason: s(c, "reason"), message: s(c, "message"), field: s(c, "field") }).collect(),
            retry_after: d.at(&["retryAfterSeconds"]).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        }));
    }
    e
}
