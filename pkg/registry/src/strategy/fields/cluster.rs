//! Priorities, leases, runtime classes, quotas, flow control, events.

use knarr_schema::quantity::Quantity as Amount;
use serde_json::Value;

use super::{
    Check::{
        Custom, Label, Labels, Least, Most, OneOf, OneOfAsIs, Quantity, Required, Short, Subdomain,
    },
    Fixed::{Always, Forbidden, New},
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
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => &FLOWS,
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations") => &LEVELS,
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
    fixed: &[Always("spec.scopes")],
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
        if (about.is_empty() && own != "default" && own != "kube-system")
            || (!about.is_empty() && about != own)
        {
            out.push(FieldError::invalid(
                "involvedObject.namespace",
                about,
                "does not match event.namespace",
            ));
        }
        if obj.str_at(&["eventTime"]).is_empty() {
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

const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "proxy",
    "update",
    "watch",
];

static FLOWS: Table = Table {
    rules: &[
        (
            "spec.priorityLevelConfiguration.name",
            &[Required("must reference a priority level"), Subdomain],
        ),
        (
            "spec.matchingPrecedence",
            &[
                Least(1, "must be a positive value"),
                Most(10000, "must not be greater than 10000"),
            ],
        ),
        (
            "spec.distinguisherMethod.type",
            &[OneOf(&["ByNamespace", "ByUser"])],
        ),
        (
            "spec.rules[].subjects",
            &[Required("subjects must contain at least one value")],
        ),
        ("spec.rules[].subjects[]", &[Custom(subject)]),
        (
            "spec.rules[].resourceRules[].verbs",
            &[
                Required("verbs must contain at least one value"),
                Custom(verbs),
            ],
        ),
        (
            "spec.rules[].resourceRules[].apiGroups",
            &[Required(
                "resource rules must supply at least one api group",
            )],
        ),
        (
            "spec.rules[].resourceRules[].resources",
            &[Required("resource rules must supply at least one resource")],
        ),
        ("spec.rules[].resourceRules[]", &[Custom(namespaces)]),
        (
            "spec.rules[].nonResourceRules[].verbs",
            &[
                Required("verbs must contain at least one value"),
                Custom(verbs),
            ],
        ),
        (
            "spec.rules[].nonResourceRules[].nonResourceURLs",
            &[Required("nonResourceURLs must contain at least one value")],
        ),
        (
            "spec.rules[].nonResourceRules[].nonResourceURLs[]",
            &[Custom(url)],
        ),
        ("spec.rules[]", &[Custom(some_rule)]),
    ],
    more: Some(|obj, out| {
        if obj
            .at(&["spec", "matchingPrecedence"])
            .and_then(Value::as_i64)
            == Some(1)
            && obj.name() != "exempt"
        {
            out.push(FieldError::invalid(
                "spec.matchingPrecedence",
                1,
                "only the schema named 'exempt' may have matchingPrecedence 1",
            ));
        }
    }),
    fixed: &[],
    warn_unset: &[],
};

fn some_rule(r: &Value, at: &str, out: &mut Vec<FieldError>) {
    if r.list_at(&["resourceRules"]).is_empty() && r.list_at(&["nonResourceRules"]).is_empty() {
        out.push(FieldError::required(
            at,
            "at least one of resourceRules and nonResourceRules has to be non-empty",
        ));
    }
}

fn verbs(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    let all: Vec<&str> = v
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if all.contains(&"*") {
        if all.len() > 1 {
            out.push(FieldError::invalid(
                at,
                v.clone(),
                "if '*' is present, must not specify other verbs",
            ));
        }
    } else if all.iter().any(|v| !VERBS.contains(v)) {
        // The list in an error is of the whole field.
        let mut e = FieldError::not_supported(at, "", VERBS);
        e.value = Some(v.clone());
        out.push(e);
    }
}

fn namespaces(r: &Value, at: &str, out: &mut Vec<FieldError>) {
    let all: Vec<&str> = r
        .list_at(&["namespaces"])
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let field = format!("{at}.namespaces");
    if all.is_empty() && r.get("clusterScope") != Some(&Value::Bool(true)) {
        out.push(FieldError::required(
            &field,
            "resource rules that are not cluster scoped must supply at least one namespace",
        ));
    } else if all.contains(&"*") {
        if all.len() > 1 {
            out.push(FieldError::invalid(
                &field,
                r["namespaces"].clone(),
                "if '*' is present, must not specify other namespaces",
            ));
        }
    } else {
        for (i, n) in all.iter().enumerate() {
            out.extend(names::label(n).into_iter().map(|m| {
                FieldError::invalid(
                    format!("{field}[{i}]"),
                    *n,
                    format!("each member of this list must be '*' or a DNS-1123 label; {m}"),
                )
            }));
        }
    }
}

fn url(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    let text = v.as_str().unwrap_or("");
    let mut bad = |why: &str| out.push(FieldError::invalid(at, text, why));
    if text.is_empty() {
        bad("must not be empty");
    } else if text == "/" || text == "*" {
    } else if !text.starts_with('/') {
        bad("must start with slash");
    } else if text.contains(' ') {
        bad("must not contain white-space");
    } else if text.contains("//") {
        bad("must not contain double slash");
    } else if text.strip_suffix("/*").unwrap_or(text).contains('*') {
        bad("wildcard can only do suffix matching");
    }
}

fn subject(s: &Value, at: &str, out: &mut Vec<FieldError>) {
    let kind = s.str_at(&["kind"]);
    let members = [
        ("ServiceAccount", "serviceAccount"),
        ("User", "user"),
        ("Group", "group"),
    ];
    let Some((_, member)) = members.iter().find(|(k, _)| *k == kind) else {
        out.push(FieldError::not_supported(
            format!("{at}.kind"),
            kind,
            &["Group", "ServiceAccount", "User"],
        ));
        return;
    };
    for (_, other) in members.iter().filter(|(_, m)| m != member) {
        if s.get(*other).is_some_and(|v| !v.is_null()) {
            out.push(FieldError::forbidden(
                format!("{at}.{other}"),
                format!(
                    "{other} is forbidden when subject kind is not '{}'",
                    members
                        .iter()
                        .find(|(_, m)| m == other)
                        .map_or("", |(k, _)| k)
                ),
            ));
        }
    }
    let Some(v) = s.get(*member).filter(|v| !v.is_null()) else {
        out.push(FieldError::required(
            format!("{at}.{member}"),
            format!("{member} is required when subject kind is '{kind}'"),
        ));
        return;
    };
    let mut inner = Vec::new();
    let name = v.str_at(&["name"]);
    if name.is_empty() {
        inner.push(FieldError::required("name", ""));
    } else if *member == "serviceAccount" && name != "*" {
        inner.extend(
            names::subdomain(name)
                .into_iter()
                .map(|m| FieldError::invalid("name", name, m)),
        );
    }
    if *member == "serviceAccount" {
        super::check(
            v,
            &[(
                "namespace",
                &[
                    Required("must specify namespace for service account"),
                    Label,
                ],
            )],
            &mut inner,
        );
    }
    out.extend(inner.into_iter().map(|e| FieldError {
        field: format!("{at}.{member}.{}", e.field),
        ..e
    }));
}

static LEVELS: Table = Table {
    rules: &[("spec.type", &[Required(""), OneOf(&["Exempt", "Limited"])])],
    more: Some(|obj, out| {
        let kind = obj.str_at(&["spec", "type"]);
        let limited = obj.at(&["spec", "limited"]).filter(|v| !v.is_null());
        match (kind, limited) {
            ("Limited", None) => out.push(FieldError::required("spec.limited", "")),
            ("Limited", Some(l)) => level(l, out),
            (_, Some(_)) => out.push(FieldError::forbidden("spec.limited", "")),
            _ => {}
        }
    }),
    fixed: &[],
    warn_unset: &[],
};

fn level(l: &Value, out: &mut Vec<FieldError>) {
    let mut inner = Vec::new();
    super::check(
        l,
        &[
            (
                "nominalConcurrencyShares",
                &[Least(0, "must be a non-negative integer")],
            ),
            (
                "lendablePercent",
                &[
                    Least(0, "must be between 0 and 100, inclusive"),
                    Most(100, "must be between 0 and 100, inclusive"),
                ],
            ),
            (
                "borrowingLimitPercent",
                &[Least(0, "if specified, must be a non-negative integer")],
            ),
            (
                "limitResponse.type",
                &[Required(""), OneOf(&["Queue", "Reject"])],
            ),
        ],
        &mut inner,
    );
    let kind = l.str_at(&["limitResponse", "type"]);
    let queuing = l.at(&["limitResponse", "queuing"]).filter(|v| !v.is_null());
    let field = "limitResponse.queuing";
    match (kind, queuing) {
        ("Queue", None) => inner.push(FieldError::required(field, "")),
        ("Queue", Some(q)) => {
            let n = |f: &str| q.get(f).and_then(Value::as_i64).unwrap_or(0);
            for f in ["queueLengthLimit", "queues", "handSize"] {
                if n(f) <= 0 {
                    inner.push(FieldError::invalid(
                        format!("{field}.{f}"),
                        n(f),
                        "must be positive",
                    ));
                }
            }
            let (queues, hand) = (n("queues"), n("handSize"));
            if hand > queues {
                inner.push(FieldError::invalid(
                    format!("{field}.handSize"),
                    hand,
                    format!("should not be greater than queues ({queues})"),
                ));
            } else if hand > 0 && entropy(queues, hand) > 60 {
                inner.push(FieldError::invalid(format!("{field}.handSize"), hand, format!("required entropy bits of deckSize {queues} and handSize {hand} should not be greater than 60")));
            }
        }
        (_, Some(_)) => inner.push(FieldError::forbidden(field, "")),
        _ => {}
    }
    out.extend(inner.into_iter().map(|e| FieldError {
        field: format!("spec.limited.{}", e.field),
        ..e
    }));
}

/// Bits that dealing a hand takes.
fn entropy(deck: i64, hand: i64) -> i64 {
    let mut bits = 0.0;
    for i in 0..hand.min(64) {
        bits += (deck.saturating_sub(i).max(1) as f64).log2();
    }
    bits.ceil() as i64
}
