//! Autoscalers and disruption budgets.

use knarr_schema::quantity::Quantity;
use serde_json::Value;

use super::{
    Check::{Custom, Least, Most, OneOf, Required, Segment, Selector},
    Table,
};
use crate::{error::FieldError, names, object::Object};

pub(super) fn of(resource: &str) -> Option<&'static Table> {
    Some(match resource {
        "horizontalpodautoscalers" => &AUTOSCALERS,
        "poddisruptionbudgets" => &BUDGETS,
        _ => return None,
    })
}

const WINDOW: &[super::Check] = &[Least(0, "must be greater than or equal to zero"), Most(3600, "must be less than or equal to 3600")];
const PERIOD: &[super::Check] = &[Least(1, "must be greater than zero"), Most(1800, "must be less than or equal to 1800")];
const VALUE: &[super::Check] = &[Least(1, "must be greater than zero")];
const POLICIES: &[super::Check] = &[Required("must specify at least one Policy")];
const POLICY_KINDS: &[super::Check] = &[OneOf(&["Percent", "Pods"])];
const SELECT: &[super::Check] = &[OneOf(&["Disabled", "Max", "Min"])];

static AUTOSCALERS: Table = Table {
    rules: &[
        ("spec.minReplicas", &[Least(0, "must be greater than or equal to 0")]),
        ("spec.scaleTargetRef.kind", &[Required(""), Segment]),
        ("spec.scaleTargetRef.name", &[Required(""), Segment]),
        ("spec.scaleTargetRef", &[Custom(target)]),
        ("spec.metrics[]", &[Custom(metric)]),
        ("spec.behavior.scaleUp.stabilizationWindowSeconds", WINDOW),
        ("spec.behavior.scaleUp.selectPolicy", SELECT),
        ("spec.behavior.scaleUp.policies", POLICIES),
        ("spec.behavior.scaleUp.policies[].type", POLICY_KINDS),
        ("spec.behavior.scaleUp.policies[].value", VALUE),
        ("spec.behavior.scaleUp.policies[].periodSeconds", PERIOD),
        ("spec.behavior.scaleDown.stabilizationWindowSeconds", WINDOW),
        ("spec.behavior.scaleDown.selectPolicy", SELECT),
        ("spec.behavior.scaleDown.policies", POLICIES),
        ("spec.behavior.scaleDown.policies[].type", POLICY_KINDS),
        ("spec.behavior.scaleDown.policies[].value", VALUE),
        ("spec.behavior.scaleDown.policies[].periodSeconds", PERIOD),
    ],
    more: Some(|obj, out| {
        let most = obj.at(&["spec", "maxReplicas"]).and_then(Value::as_i64).unwrap_or(0);
        match most {
            0 => out.push(FieldError::required("spec.maxReplicas", "")),
            n if n < 1 => out.push(FieldError::invalid("spec.maxReplicas", n, "must be greater than or equal to 1")),
            _ => {}
        }
        if let Some(least) = obj.at(&["spec", "minReplicas"]).and_then(Value::as_i64)
            && most < least
        {
            out.push(FieldError::invalid("spec.maxReplicas", most, "must be greater than or equal to `minReplicas`"));
        }
        let outer = |m: &Value| matches!(m.str_at(&["type"]), "Object" | "External");
        if obj.at(&["spec", "minReplicas"]).and_then(Value::as_i64) == Some(0) && !obj.list_at(&["spec", "metrics"]).iter().any(outer) {
            out.push(FieldError::forbidden("spec.metrics", "must specify at least one Object or External metric to support scaling to zero replicas"));
        }
    }),
    fixed: &[],
    warn_unset: &[],
};

fn group_version(v: &Value, at: &str, out: &mut Vec<FieldError>) -> bool {
    let text = v.as_str().unwrap_or("");
    if text.matches('/').count() > 1 {
        out.push(FieldError::invalid(at, text, format!("unexpected GroupVersion string: {text}")));
        return false;
    }
    true
}

fn target(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    let (at, text) = (format!("{at}.apiVersion"), v.str_at(&["apiVersion"]));
    if group_version(&Value::from(text), &at, out) && text != "v1" && !text.contains('/') {
        out.push(FieldError::invalid(at, text, "apiVersion must specify API group"));
    }
}

const KINDS: &[(&str, &str)] = &[("ContainerResource", "containerResource"), ("External", "external"), ("Object", "object"), ("Pods", "pods"), ("Resource", "resource")];

fn metric(m: &Value, at: &str, out: &mut Vec<FieldError>) {
    let kind = m.str_at(&["type"]);
    if kind.is_empty() {
        out.push(FieldError::required(format!("{at}.type"), "must specify a metric source type"));
    }
    let Some((_, member)) = KINDS.iter().find(|(k, _)| *k == kind) else {
        let all: Vec<&str> = KINDS.iter().map(|(k, _)| *k).collect();
        out.push(FieldError::not_supported(format!("{at}.type"), kind, &all));
        return;
    };
    for (_, other) in KINDS.iter().filter(|(_, o)| o != member) {
        if m.get(*other).is_some_and(|v| !v.is_null()) {
            out.push(FieldError::forbidden(format!("{at}.{other}"), "must populate the given metric source only"));
        }
    }
    let Some(s) = m.get(*member).filter(|v| !v.is_null()) else {
        out.push(FieldError::required(format!("{at}.{member}"), "must populate information for the given metric source"));
        return;
    };
    let at = format!("{at}.{member}");
    let mut inner = Vec::new();
    match kind {
        "Object" => {
            super::check(s, &[("describedObject.kind", &[Required(""), Segment]), ("describedObject.name", &[Required(""), Segment])], &mut inner);
            if let Some(v) = s.at(&["describedObject", "apiVersion"]) {
                group_version(v, "describedObject.apiVersion", &mut inner);
            }
        }
        "Resource" | "ContainerResource" if s.str_at(&["name"]).is_empty() => inner.push(FieldError::required("name", "must specify a resource name")),
        "ContainerResource" => container_resource(s.str_at(&["name"]), &mut inner),
        _ => {}
    }
    if kind == "ContainerResource" {
        super::check(s, &[("container", &[Required("must specify a container"), super::Check::Label])], &mut inner);
    }
    if matches!(kind, "Object" | "Pods" | "External") {
        super::check(s, &[("metric.name", &[Required("must specify a metric name"), Segment])], &mut inner);
    }
    aim(kind, s, &mut inner);
    out.extend(inner.into_iter().map(|e| FieldError { field: format!("{at}.{}", e.field), ..e }));
}

fn container_resource(name: &str, out: &mut Vec<FieldError>) {
    let wrong = names::qualified(name);
    let qualified = wrong.is_empty();
    out.extend(wrong.into_iter().map(|m| FieldError::invalid("name", name, m)));
    if !qualified {
        if name.contains('/') {
            out.push(FieldError::invalid("name", name, "doesn't follow extended resource name standard"));
        } else {
            out.push(FieldError::invalid("name", name, "must be a standard resource for containers"));
        }
        return;
    }
    if !name.contains('/') && !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !name.starts_with("hugepages-") {
        out.push(FieldError::invalid("name", name, "must be a standard resource type or fully qualified"));
        out.push(FieldError::invalid("name", name, "must be a standard resource for containers"));
    }
}

fn aim(kind: &str, s: &Value, out: &mut Vec<FieldError>) {
    let t = |f: &str| s.at(&["target", f]).filter(|v| !v.is_null());
    let ty = s.str_at(&["target", "type"]);
    if ty.is_empty() {
        out.push(FieldError::required("target.type", "must specify a metric target type"));
    }
    if !matches!(ty, "Utilization" | "Value" | "AverageValue") {
        out.push(FieldError::invalid("target.type", ty, "must be either Utilization, Value, or AverageValue"));
    }
    for f in ["value", "averageValue"] {
        if let Some(v) = t(f)
            && v.as_str().and_then(|q| Quantity::parse(q).ok()).is_some_and(|q| q.sign() != 1)
        {
            out.push(FieldError::invalid(format!("target.{f}"), v.clone(), "must be positive"));
        }
    }
    if let Some(n) = t("averageUtilization").and_then(Value::as_i64)
        && n < 1
    {
        out.push(FieldError::invalid("target.averageUtilization", n, "must be greater than 0"));
    }
    let none = |a: &str, b: &str| t(a).is_none() && t(b).is_none();
    match kind {
        "Object" if none("value", "averageValue") => out.push(FieldError::required("target.averageValue", "must set either a target value or averageValue")),
        "External" if none("value", "averageValue") => out.push(FieldError::required("target.averageValue", "must set either a target value for metric or a per-pod target")),
        "External" if t("value").is_some() && t("averageValue").is_some() => out.push(FieldError::forbidden("target.value", "may not set both a target value for metric and a per-pod target")),
        "Pods" if t("averageValue").is_none() => out.push(FieldError::required("target.averageValue", "must specify a positive target averageValue")),
        "Resource" | "ContainerResource" if none("averageUtilization", "averageValue") => {
            out.push(FieldError::required("target.averageUtilization", "must set either a target raw value or a target utilization"));
        }
        "Resource" | "ContainerResource" if t("averageUtilization").is_some() && t("averageValue").is_some() => {
            out.push(FieldError::forbidden("target.averageValue", "may not set both a target raw value and a target utilization"));
        }
        _ => {}
    }
}

static BUDGETS: Table = Table {
    rules: &[
        ("spec.minAvailable", &[Custom(amount)]),
        ("spec.maxUnavailable", &[Custom(amount)]),
        ("spec.selector", &[Selector]),
        ("spec.unhealthyPodEvictionPolicy", &[OneOf(&["AlwaysAllow", "IfHealthyBudget"])]),
    ],
    more: Some(|obj, out| {
        if obj.at(&["spec", "minAvailable"]).is_some() && obj.at(&["spec", "maxUnavailable"]).is_some() {
            out.push(FieldError::invalid("spec", obj["spec"].clone(), "minAvailable and maxUnavailable cannot be both set"));
        }
    }),
    fixed: &[],
    warn_unset: &[],
};

/// A number or a percentage.
fn amount(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    if let Some(n) = v.as_i64() {
        if n < 0 {
            out.push(FieldError::invalid(at, n, "must be greater than or equal to 0"));
        }
        return;
    }
    let text = v.as_str().unwrap_or("");
    let percent = text.strip_suffix('%').filter(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    match percent.map(|p| p.parse::<i64>().unwrap_or(i64::MAX)) {
        None => out.push(FieldError::invalid(at, text, "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')")),
        Some(p) if p > 100 => out.push(FieldError::invalid(at, text, "must not be greater than 100%")),
        Some(_) => {}
    }
}
