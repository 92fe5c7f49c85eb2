//! Webhooks and bindings of policies.

use serde_json::Value;

use super::{
    Check::{Custom, Label1035, OneOf, Required, Segment, Selector, Subdomain, Unique, UniqueBy},
    Table,
};
use crate::{
    error::FieldError,
    names::{self, NameRule},
    object::Object,
};

pub(super) fn of(resource: &str) -> Option<&'static Table> {
    Some(match resource {
        "validatingwebhookconfigurations" | "mutatingwebhookconfigurations" => &WEBHOOKS,
        "validatingadmissionpolicybindings" => &BINDINGS,
        "mutatingadmissionpolicybindings" => &MUTATING_BINDINGS,
        "validatingadmissionpolicies" | "mutatingadmissionpolicies" => &POLICIES,
        _ => return None,
    })
}

const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const MATCH_POLICIES: &[&str] = &["Equivalent", "Exact"];
const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];

static WEBHOOKS: Table = Table {
    rules: &[
        ("webhooks", &[UniqueBy("name")]),
        ("webhooks[].name", &[Required(""), Custom(full_name)]),
        ("webhooks[].rules[]", &[Custom(rule)]),
        ("webhooks[].failurePolicy", &[OneOf(&["Fail", "Ignore"])]),
        ("webhooks[].matchPolicy", &[OneOf(MATCH_POLICIES)]),
        ("webhooks[].reinvocationPolicy", &[OneOf(&["IfNeeded", "Never"])]),
        ("webhooks[]", &[Custom(side_effects)]),
        ("webhooks[].timeoutSeconds", &[Custom(timeout)]),
        ("webhooks[].namespaceSelector", &[Selector]),
        ("webhooks[].objectSelector", &[Selector]),
        ("webhooks[].clientConfig", &[Custom(client)]),
        ("webhooks[].admissionReviewVersions", &[Required("must specify one of v1, v1beta1"), Custom(versions)]),
        ("webhooks[].admissionReviewVersions[]", &[Label1035]),
    ],
    more: None,
    fixed: &[],
    warn_unset: &[],
};

/// A domain with at least three parts.
fn full_name(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    let text = v.as_str().unwrap_or("");
    let wrong = names::subdomain(text);
    if wrong.is_empty() {
        if text.split('.').count() < 3 {
            out.push(FieldError::invalid(at, text, "should be a domain with at least three segments separated by dots"));
        }
    } else {
        out.extend(wrong.into_iter().map(|m| FieldError::invalid(at, text, m)));
    }
}

fn side_effects(w: &Value, at: &str, out: &mut Vec<FieldError>) {
    let field = format!("{at}.sideEffects");
    match w.get("sideEffects").and_then(Value::as_str) {
        None => out.push(FieldError::required(field, "must specify one of None, NoneOnDryRun")),
        Some("None" | "NoneOnDryRun") => {}
        Some(other) => out.push(FieldError::not_supported(field, other, &["None", "NoneOnDryRun"])),
    }
}

fn timeout(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    if v.as_i64().is_some_and(|n| !(1..=30).contains(&n)) {
        out.push(FieldError::invalid(at, v.clone(), "the timeout value must be between 1 and 30 seconds"));
    }
}

fn versions(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    let all: Vec<&str> = v.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (i, version) in all.iter().enumerate() {
        if all.get(..i).is_some_and(|b| b.contains(version)) {
            out.push(FieldError::invalid(format!("{at}[{i}]"), *version, "duplicate version"));
        }
    }
    if !all.iter().any(|v| matches!(*v, "v1" | "v1beta1")) {
        out.push(FieldError::invalid(at, v.clone(), "must include at least one of v1, v1beta1"));
    }
}

/// How a webhook is reached.
pub(in crate::strategy) fn client(c: &Value, at: &str, out: &mut Vec<FieldError>) {
    let (url, service) = (c.get("url").and_then(Value::as_str), c.get("service").filter(|v| !v.is_null()));
    match (url, service) {
        (Some(_), Some(_)) | (None, None) => out.push(FieldError::required(at, "exactly one of url or service is required")),
        (Some(url), None) => {
            let field = format!("{at}.url");
            let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
            if scheme != "https" {
                out.push(FieldError::invalid(&field, scheme, "'https' is the only allowed URL scheme; desired format: https://host[/path]"));
            }
            if scheme.is_empty() || rest.starts_with('/') || rest.is_empty() {
                out.push(FieldError::invalid(&field, "", "host must be specified; desired format: https://host[/path]"));
            }
            if let Some((_, query)) = rest.split_once('?') {
                out.push(FieldError::invalid(&field, query, "query parameters are not permitted in the URL"));
            }
        }
        (None, Some(s)) => {
            let mut inner = Vec::new();
            super::check(s, &[("name", &[Required("")]), ("namespace", &[Required("")])], &mut inner);
            // Upstream names the other field.
            for e in inner.iter_mut().filter(|e| e.field == "namespace") {
                e.field = "name".into();
            }
            if let Some(n) = s.get("port").and_then(Value::as_i64) {
                inner.extend(knarr_schema::names::port_number(n).into_iter().map(|m| FieldError::invalid("port", n, format!("port is not valid: {m}"))));
            }
            if let Some(p) = s.get("path").and_then(Value::as_str) {
                url_path(p, &mut inner);
            }
            out.extend(inner.into_iter().map(|e| FieldError { field: format!("{at}.service.{}", e.field), ..e }));
        }
    }
}

fn url_path(path: &str, out: &mut Vec<FieldError>) {
    if path == "/" || path.is_empty() {
        return;
    }
    if path == "//" {
        out.push(FieldError::invalid("path", path, "segment[0] may not be empty"));
        return;
    }
    let inner = match path.strip_prefix('/') {
        Some(p) => p,
        None => {
            out.push(FieldError::invalid("path", path, "must start with a '/'"));
            path.get(1..).unwrap_or("")
        }
    };
    let steps: Vec<&str> = inner.strip_suffix('/').unwrap_or(inner).split('/').collect();
    for (i, step) in steps.iter().enumerate() {
        if step.is_empty() {
            out.push(FieldError::invalid("path", path, format!("segment[{i}] may not be empty")));
            continue;
        }
        out.extend(names::subdomain(step).into_iter().map(|m| FieldError::invalid("path", path, format!("segment[{i}]: {m}"))));
    }
}

/// Which requests a webhook or a policy is about.
pub(super) fn rule(r: &Value, at: &str, out: &mut Vec<FieldError>) {
    let mut inner = Vec::new();
    super::check(r, &[
        ("operations", &[Required(""), Custom(|v, at, out| star(v, at, "if '*' is present, must not specify other operations", out))]),
        ("operations[]", &[OneOf(OPERATIONS)]),
        ("apiGroups", &[Required(""), Custom(|v, at, out| star(v, at, "if '*' is present, must not specify other API groups", out))]),
        ("apiVersions", &[Required(""), Custom(|v, at, out| star(v, at, "if '*' is present, must not specify other API versions", out))]),
        ("apiVersions[]", &[Required("")]),
        ("resources", &[Required("")]),
        ("resources[]", &[Required("")]),
        ("scope", &[OneOf(SCOPES)]),
    ], &mut inner);
    out.extend(inner.into_iter().map(|e| FieldError { field: format!("{at}.{}", e.field), ..e }));
}

fn star(v: &Value, at: &str, why: &str, out: &mut Vec<FieldError>) {
    let all = v.as_array().map_or(&[][..], Vec::as_slice);
    if all.len() > 1 && all.iter().any(|v| v == "*") {
        out.push(FieldError::invalid(at, v.clone(), why));
    }
}

static POLICIES: Table = Table {
    rules: &[
        (
            "spec.failurePolicy",
            &[Required(""), OneOf(&["Fail", "Ignore"])],
        ),
        ("spec.paramKind", &[Custom(param_kind)]),
        ("spec.matchConstraints", &[Required("")]),
        (
            "spec.matchConstraints.matchPolicy",
            &[Required(""), OneOf(MATCH_POLICIES)],
        ),
        ("spec.matchConstraints.namespaceSelector", &[Selector]),
        ("spec.matchConstraints.objectSelector", &[Selector]),
        (
            "spec.matchConstraints.resourceRules[]",
            &[Custom(named_rule)],
        ),
        (
            "spec.matchConstraints.excludeResourceRules[]",
            &[Custom(named_rule)],
        ),
        ("spec.matchConstraints.resourceRules", &[Required("")]),
        ("spec.variables[].name", &[Custom(identifier)]),
        ("spec.validations[]", &[Custom(validation)]),
        ("spec.auditAnnotations", &[UniqueBy("key")]),
    ],
    more: Some(|obj, out| {
        let policy = obj.name();
        for (i, a) in obj
            .list_at(&["spec", "auditAnnotations"])
            .iter()
            .enumerate()
        {
            let key = format!("{policy}/{}", a.str_at(&["key"]));
            out.extend(names::qualified(&key).into_iter().map(|m| {
                FieldError::invalid(format!("spec.auditAnnotations[{i}].key"), key.as_str(), m)
            }));
        }
    }),
    fixed: &[],
    warn_unset: &[],
};

/// The kind of a policy's parameters.
fn param_kind(k: &Value, at: &str, out: &mut Vec<FieldError>) {
    let (version, kind) = (k.str_at(&["apiVersion"]), k.str_at(&["kind"]));
    let field = format!("{at}.apiVersion");
    let label = |text: &str| NameRule::Label1035.check(text, false).join(",");
    if version.is_empty() {
        out.push(FieldError::required(field, ""));
    } else if version.matches('/').count() > 1 {
        out.push(FieldError::invalid(
            field,
            version,
            format!("unexpected GroupVersion string: {version}"),
        ));
    } else {
        let (group, name) = version.split_once('/').unwrap_or(("", version));
        let wrong = names::subdomain(group).join(",");
        if !group.is_empty() && !wrong.is_empty() {
            out.push(FieldError::invalid(&field, group, wrong));
        }
        let wrong = label(name);
        if name.is_empty() {
            out.push(FieldError::invalid(
                field,
                version,
                "version must be specified",
            ));
        } else if !wrong.is_empty() {
            out.push(FieldError::invalid(field, name, wrong));
        }
    }
    let field = format!("{at}.kind");
    let wrong = label(&kind.to_lowercase());
    if kind.is_empty() {
        out.push(FieldError::required(field, ""));
    } else if !wrong.is_empty() {
        out.push(FieldError::invalid(
            field,
            kind,
            format!("may have mixed case, but should otherwise match: {wrong}"),
        ));
    }
}

fn named_rule(r: &Value, at: &str, out: &mut Vec<FieldError>) {
    let mut inner = Vec::new();
    super::check(
        r,
        &[
            ("resourceNames[]", &[Segment]),
            ("resourceNames", &[Unique]),
        ],
        &mut inner,
    );
    out.extend(inner.into_iter().map(|e| FieldError {
        field: format!("{at}.{}", e.field),
        ..e
    }));
    rule(r, at, out);
}

fn identifier(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    let text = v.as_str().unwrap_or("");
    if text.trim().is_empty() {
        out.push(FieldError::required(at, "name is not specified"));
    } else if !knarr_cel::is_identifier(text) {
        out.push(FieldError::invalid(
            at,
            text,
            "must be a valid CEL identifier",
        ));
    }
}

fn validation(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    const EMPTY: &str = "must be non-empty if specified";
    for f in ["messageExpression", "message"] {
        let text = v.str_at(&[f]);
        let field = format!("{at}.{f}");
        if !text.is_empty() && text.trim().is_empty() {
            out.push(FieldError::invalid(field, text, EMPTY));
        } else if f == "message" && text.trim().contains(['\n', '\r']) {
            out.push(FieldError::invalid(
                field,
                text,
                "must not contain line breaks",
            ));
        }
    }
    if let Some(reason) = v.get("reason").and_then(Value::as_str) {
        OneOf(&["Forbidden", "Invalid", "RequestEntityTooLarge"]).apply(Some(&Value::from(reason)), &format!("{at}.reason"), out);
    }
}

static BINDINGS: Table = Table {
    rules: &[
        ("spec.policyName", &[Required(""), Subdomain]),
        ("spec.paramRef", &[Custom(param)]),
        ("spec.matchResources.namespaceSelector", &[Selector]),
        ("spec.matchResources.objectSelector", &[Selector]),
        ("spec.matchResources.matchPolicy", &[OneOf(MATCH_POLICIES)]),
        ("spec.matchResources.resourceRules[]", &[Custom(named_rule)]),
        ("spec.matchResources.excludeResourceRules[]", &[Custom(named_rule)]),
        ("spec.validationActions", &[Required(""), Unique]),
        ("spec.validationActions[]", &[OneOf(&["Audit", "Deny", "Warn"])]),
    ],
    more: Some(|obj, out| {
        let has = |a: &str| obj.list_at(&["spec", "validationActions"]).iter().any(|x| x == a);
        if has("Deny") && has("Warn") {
            out.push(FieldError::invalid("spec.validationActions", obj["spec"]["validationActions"].clone(), "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"));
        }
    }),
    fixed: &[],
    warn_unset: &[],
};

/// What is deleted cannot be changed by policies.
pub(crate) fn mutable(resources: &Value, at: &str, out: &mut Vec<FieldError>) {
    const OPERATIONS: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];
    for op in resources.list_at(&["resourceRules"]).iter().flat_map(|r| r.list_at(&["operations"])) {
        let op = op.as_str().unwrap_or_default();
        if !OPERATIONS.contains(&op) {
            out.push(FieldError::not_supported(format!("{at}.resourceRules.operations"), op, &OPERATIONS));
        }
    }
}

static MUTATING_BINDINGS: Table = Table {
    rules: &[
        ("spec.policyName", &[Required(""), Subdomain]),
        ("spec.paramRef", &[Custom(param)]),
        ("spec.matchResources.namespaceSelector", &[Selector]),
        ("spec.matchResources.objectSelector", &[Selector]),
        ("spec.matchResources.matchPolicy", &[OneOf(MATCH_POLICIES)]),
        ("spec.matchResources.resourceRules[]", &[Custom(named_rule)]),
        ("spec.matchResources.excludeResourceRules[]", &[Custom(named_rule)]),
    ],
    more: Some(|obj, out| mutable(&obj["spec"]["matchResources"], "spec.matchResources", out)),
    fixed: &[],
    warn_unset: &[],
};

fn param(p: &Value, at: &str, out: &mut Vec<FieldError>) {
    let (name, selector) = (p.str_at(&["name"]), p.get("selector").filter(|v| !v.is_null()));
    match (name, selector) {
        ("", None) => out.push(FieldError::required(at, "one of name or selector must be specified")),
        (n, Some(_)) if !n.is_empty() => out.push(FieldError::forbidden(format!("{at}.name"), "name and selector are mutually exclusive")),
        (n, None) => {
            Segment.apply(Some(&Value::from(n)), &format!("{at}.name"), out);
        }
        (_, Some(s)) => super::selector(s, &format!("{at}.selector"), out),
    }
    let field = format!("{at}.parameterNotFoundAction");
    match p.get("parameterNotFoundAction").and_then(Value::as_str) {
        None | Some("") => out.push(FieldError::required(field, "")),
        Some("Deny" | "Allow") => {}
        Some(other) => out.push(super::not_supported(&field, other, &["Deny", "Allow"])),
    }
}
