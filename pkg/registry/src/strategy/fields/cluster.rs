//! Priorities, leases, runtime classes, quotas, events.

use knarr_schema::quantity::Quantity as Amount;
use serde_json::Value;

use super::{
    Check::{Custom, Label, Labels, Least, OneOfAsIs, Quantity, Required, Short},
    Fixed::{Also, Always, Forbidden, New},
    Table,
};
use crate::{error::FieldError, names, object::Object};

pub(super) fn of(group: &str, resource: &str) -> Option<&'static Table> {
    Some(match (group, resource) {
        ("scheduling.k8s.io", "priorityclasses") => &PRIORITIES,
        ("coordination.k8s.io", "leases") => &LEASES,
        ("node.k8s.io", "runtimeclasses") => &RUNTIMES,
        ("", "resourcequotas") => &QUOTAS,
        ("", "limitranges") => &RANGES,
        ("", "events") => &EVENTS,
        _ => return None,
    })
}

static PRIORITIES: Table = Table {
    rules: &[(
        "preemptionPolicy",
        &[Required(""), OneOfAsIs(&["PreemptLowerPriority", "Never"])],
    )],
    more: Some(|obj, out| {
        let (name, value) = (
            obj.name(),
            obj.get("value").and_then(Value::as_i64).unwrap_or(0),
        );
        let system = matches!(
            (name, value),
            ("system-cluster-critical", 2_000_000_000) | ("system-node-critical", 2_000_001_000)
        );
        if name.starts_with("system-") && !system {
            out.push(FieldError::forbidden("metadata.name", format!("priority class names with 'system-' prefix are reserved for system use only. error: {name} is not a known system priority class")));
        }
        if value > 1_000_000_000 && !name.starts_with("system-") {
            out.push(FieldError::forbidden(
                "value",
                "maximum allowed value of a user defined priority is 1000000000",
            ));
        }
    }),
    fixed: &[
        Forbidden("value", "may not be changed in an update."),
        Always("preemptionPolicy"),
    ],
    warn_unset: &[],
};

static LEASES: Table = Table {
    rules: &[
        (
            "spec.leaseDurationSeconds",
            &[Least(1, "must be greater than 0")],
        ),
        (
            "spec.leaseTransitions",
            &[Least(0, "must be greater than or equal to 0")],
        ),
    ],
    more: None,
    fixed: &[],
    warn_unset: &[],
};

static RUNTIMES: Table = Table {
    rules: &[
        ("handler", &[Required(""), Label]),
        ("scheduling.nodeSelector", &[Labels]),
        ("scheduling.tolerations", &[super::Check::Unique]),
        ("scheduling.tolerations[]", &[Custom(toleration)]),
    ],
    more: Some(|obj, out| {
        for (k, v) in obj
            .at(&["overhead", "podFixed"])
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            if v.as_str()
                .and_then(|q| Amount::parse(q).ok())
                .is_some_and(|q| q.sign() < 0)
            {
                out.push(FieldError::invalid(
                    format!("overhead.limits[{k}]"),
                    v.clone(),
                    "must be greater than or equal to 0",
                ));
            }
        }
    }),
    fixed: &[Always("handler")],
    warn_unset: &[],
};

fn toleration(t: &Value, at: &str, out: &mut Vec<FieldError>) {
    let (key, operator, effect) = (
        t.str_at(&["key"]),
        t.str_at(&["operator"]),
        t.str_at(&["effect"]),
    );
    if !key.is_empty() {
        out.extend(
            names::qualified(key)
                .into_iter()
                .map(|m| FieldError::invalid(format!("{at}.key"), key, m)),
        );
    }
    if key.is_empty() && operator != "Exists" {
        out.push(FieldError::invalid(format!("{at}.operator"), operator, "operator must be Exists when `key` is empty, which means \"match all values and all keys\""));
    }
    if t.get("tolerationSeconds").is_some_and(|v| !v.is_null()) && effect != "NoExecute" {
        out.push(FieldError::invalid(
            format!("{at}.effect"),
            effect,
            "effect must be 'NoExecute' when `tolerationSeconds` is set",
        ));
    }
    let value = t.str_at(&["value"]);
    match operator {
        "Equal" | "" => out.extend(
            knarr_schema::names::label_value(value)
                .into_iter()
                .map(|m| FieldError::invalid(format!("{at}.operator"), value, m)),
        ),
        "Exists" if !value.is_empty() => out.push(FieldError::invalid(
            format!("{at}.operator"),
            t.clone(),
            "value must be empty when `operator` is 'Exists'",
        )),
        "Exists" => {}
        other => out.push(FieldError::not_supported(
            format!("{at}.operator"),
            other,
            &["Equal", "Exists"],
        )),
    }
    if !matches!(effect, "" | "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        out.push(super::not_supported(
            &format!("{at}.effect"),
            effect,
            &["NoSchedule", "PreferNoSchedule", "NoExecute"],
        ));
    }
}

const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];

static QUOTAS: Table = Table {
    rules: &[("spec.hard{}", &[Quantity])],
    more: Some(|obj, out| {
        let scopes = obj.list_at(&["spec", "scopes"]);
        for s in scopes {
            if !s.as_str().is_some_and(|s| SCOPES.contains(&s)) {
                out.push(FieldError::invalid(
                    "spec.scopes",
                    scopes.to_vec(),
                    "unsupported scope",
                ));
            }
        }
    }),
    fixed: &[Also("spec.scopes", true)],
    warn_unset: &[],
};

static RANGES: Table = Table {
    rules: &[("spec.limits[]", &[Custom(limit)])],
    more: Some(|obj, out| {
        let mut seen: Vec<&str> = Vec::new();
        for (i, l) in obj.list_at(&["spec", "limits"]).iter().enumerate() {
            let kind = l.str_at(&["type"]);
            if seen.contains(&kind) {
                out.push(FieldError::duplicate(
                    format!("spec.limits[{i}].type"),
                    kind,
                ));
            }
            seen.push(kind);
        }
    }),
    fixed: &[],
    warn_unset: &[],
};

fn limit(l: &Value, at: &str, out: &mut Vec<FieldError>) {
    let kind = l.str_at(&["type"]);
    let field = format!("{at}.type");
    let wrong = names::qualified(kind);
    let named = wrong.is_empty();
    out.extend(
        wrong
            .into_iter()
            .map(|m| FieldError::invalid(&field, kind, m)),
    );
    if named
        && !kind.contains('/')
        && !matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim")
    {
        out.push(FieldError::invalid(
            &field,
            kind,
            "must be a standard limit type or fully qualified",
        ));
    }
    let get = |list: &str, k: &str| {
        l.at(&[list, k])
            .and_then(Value::as_str)
            .and_then(|t| Amount::parse(t).ok().map(|q| (t.to_owned(), q)))
    };
    let mut keys: Vec<&String> = ["max", "min", "default", "defaultRequest"]
        .iter()
        .filter_map(|m| l.get(*m).and_then(Value::as_object))
        .flat_map(|m| m.keys())
        .collect();
    keys.sort();
    keys.dedup();
    for k in keys {
        let (least, request, default, most) = (
            get("min", k),
            get("defaultRequest", k),
            get("default", k),
            get("max", k),
        );
        // Each must not be greater than what comes after it.
        let all = [
            ("min", "min value", &least, "max value", &most),
            (
                "defaultRequest",
                "min value",
                &least,
                "default request value",
                &request,
            ),
            (
                "defaultRequest",
                "default request value",
                &request,
                "max value",
                &most,
            ),
            (
                "defaultRequest",
                "default request value",
                &request,
                "default limit value",
                &default,
            ),
            ("default", "min value", &least, "default value", &default),
            ("default", "default value", &default, "max value", &most),
        ];
        for (member, low_name, low, high_name, high) in all {
            if let (Some((a, low)), Some((b, high))) = (low, high)
                && low.as_f64() > high.as_f64()
            {
                let shown = match (member, low_name) {
                    ("defaultRequest", "min value") | ("default", "min value") => b,
                    _ => a,
                };
                out.push(FieldError::invalid(
                    format!("{at}.{member}[{k}]"),
                    shown.as_str(),
                    format!("{low_name} {a} is greater than {high_name} {b}"),
                ));
            }
        }
    }
    for (k, v) in l
        .get("maxLimitRequestRatio")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        if let Some(q) = v.as_str().and_then(|t| Amount::parse(t).ok())
            && q.as_f64() < 1.0
        {
            out.push(FieldError::invalid(
                format!("{at}.maxLimitRequestRatio[{k}]"),
                v.clone(),
                format!("ratio {} is less than 1", v.as_str().unwrap_or("")),
            ));
        }
    }
}

/// Events of the new kind say who reports what; those of before need only fit their namespace.
static EVENTS: Table = Table {
    rules: &[],
    more: Some(|obj, out| {
        let (own, about) = (
            obj.namespace(),
            obj.str_at(&["involvedObject", "namespace"]),
        );
        let old = obj.str_at(&["eventTime"]).is_empty();
        let fits = match (old, about) {
            (true, "") => own.is_empty() || own == "default",
            (true, about) => about == own,
            (false, "") => own == "default" || own == "kube-system",
            (false, _) => true,
        };
        if !fits {
            out.push(FieldError::invalid(
                "involvedObject.namespace",
                about,
                "does not match event.namespace",
            ));
        }
        if old {
            return;
        }
        super::check(
            obj,
            &[
                ("reportingComponent", &[Required("")]),
                (
                    "reportingInstance",
                    &[Required(""), Short(128, "can have at most 128 characters")],
                ),
                (
                    "action",
                    &[Required(""), Short(128, "can have at most 128 characters")],
                ),
                (
                    "reason",
                    &[Required(""), Short(128, "can have at most 128 characters")],
                ),
                (
                    "message",
                    &[Short(1024, "can have at most 1024 characters")],
                ),
            ],
            out,
        );
        for e in out.iter_mut().filter(|e| e.field == "reportingComponent") {
            e.field = "reportingController".into();
        }
        let controller = obj.str_at(&["reportingComponent"]);
        out.extend(
            names::qualified(controller)
                .into_iter()
                .map(|m| FieldError::invalid("reportingController", controller, m)),
        );
        out.extend(
            names::subdomain(obj.name())
                .into_iter()
                .map(|m| FieldError::invalid("metadata.name", obj.name(), m)),
        );
        let kind = obj.str_at(&["type"]);
        if !matches!(kind, "Normal" | "Warning") {
            out.push(FieldError::invalid(
                "type",
                "",
                format!("has invalid value: {kind}"),
            ));
        }
    }),
    fixed: &[
        New("involvedObject", "involvedObject"),
        New("eventTime", "eventTime"),
        New("reportingComponent", "reportingController"),
        New("reportingInstance", "reportingInstance"),
        New("action", "action"),
        New("reason", "reason"),
        New("message", "message"),
        New("type", "type"),
    ],
    warn_unset: &[],
};
