//! Flow schemas and priority levels.

use std::sync::OnceLock;

use serde_json::Value;

use super::{
    Check::{Custom, Label, Least, Most, OneOf, Required, Subdomain},
    Table,
};
use crate::{error::FieldError, names, object::Object};

pub(super) fn of(resource: &str) -> Option<&'static Table> {
    Some(match resource {
        "flowschemas" => &FLOWS,
        "prioritylevelconfigurations" => &LEVELS,
        _ => return None,
    })
}

const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

static FLOWS: Table = Table {
    rules: &[
        ("spec.priorityLevelConfiguration.name", &[Required("must reference a priority level"), Subdomain]),
        ("spec.matchingPrecedence", &[Least(1, "must be a positive value"), Most(10000, "must not be greater than 10000")]),
        ("spec.distinguisherMethod", &[Custom(distinguisher)]),
        ("spec.rules[].subjects", &[Required("subjects must contain at least one value")]),
        ("spec.rules[].subjects[]", &[Custom(subject)]),
        ("spec.rules[].resourceRules[].verbs", &[Required("verbs must contain at least one value"), Custom(verbs)]),
        ("spec.rules[].resourceRules[].apiGroups", &[Required("resource rules must supply at least one api group")]),
        ("spec.rules[].resourceRules[].resources", &[Required("resource rules must supply at least one resource")]),
        ("spec.rules[].resourceRules[]", &[Custom(namespaces)]),
        ("spec.rules[].nonResourceRules[].verbs", &[Required("verbs must contain at least one value"), Custom(verbs)]),
        ("spec.rules[].nonResourceRules[].nonResourceURLs", &[Required("nonResourceURLs must contain at least one value")]),
        ("spec.rules[].nonResourceRules[].nonResourceURLs[]", &[Custom(url)]),
        ("spec.rules[]", &[Custom(some_rule)]),
    ],
    more: Some(|obj, out| {
        mandatory(obj, "flowSchemas", out);
        if obj.at(&["spec", "matchingPrecedence"]).and_then(Value::as_i64) == Some(1) && obj.name() != "exempt" {
            out.push(FieldError::invalid("spec.matchingPrecedence", 1, "only the schema named 'exempt' may have matchingPrecedence 1"));
        }
    }),
    fixed: &[],
    warn_unset: &[],
};

fn some_rule(r: &Value, at: &str, out: &mut Vec<FieldError>) {
    if r.list_at(&["resourceRules"]).is_empty() && r.list_at(&["nonResourceRules"]).is_empty() {
        out.push(FieldError::required(at, "at least one of resourceRules and nonResourceRules has to be non-empty"));
    }
}

fn verbs(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    let all: Vec<&str> = v.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if all.contains(&"*") {
        if all.len() > 1 {
            out.push(FieldError::invalid(at, v.clone(), "if '*' is present, must not specify other verbs"));
        }
    } else if all.iter().any(|v| !VERBS.contains(v)) {
        // The list in an error is of the whole field.
        let mut e = FieldError::not_supported(at, "", VERBS);
        e.value = Some(v.clone());
        out.push(e);
    }
}

fn namespaces(r: &Value, at: &str, out: &mut Vec<FieldError>) {
    let all: Vec<&str> = r.list_at(&["namespaces"]).iter().filter_map(Value::as_str).collect();
    let field = format!("{at}.namespaces");
    if all.is_empty() && r.get("clusterScope") != Some(&Value::Bool(true)) {
        out.push(FieldError::required(&field, "resource rules that are not cluster scoped must supply at least one namespace"));
    } else if all.contains(&"*") {
        if all.len() > 1 {
            out.push(FieldError::invalid(&field, r["namespaces"].clone(), "if '*' is present, must not specify other namespaces"));
        }
    } else {
        for (i, n) in all.iter().enumerate() {
            out.extend(names::label(n).into_iter().map(|m| FieldError::invalid(format!("{field}[{i}]"), *n, format!("each member of this list must be '*' or a DNS-1123 label; {m}"))));
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
    let members = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let Some((_, member)) = members.iter().find(|(k, _)| *k == kind) else {
        out.push(FieldError::not_supported(format!("{at}.kind"), kind, &["Group", "ServiceAccount", "User"]));
        return;
    };
    for (_, other) in members.iter().filter(|(_, m)| m != member) {
        if s.get(*other).is_some_and(|v| !v.is_null()) {
            out.push(FieldError::forbidden(format!("{at}.{other}"), format!("{other} is forbidden when subject kind is not '{}'", members.iter().find(|(_, m)| m == other).map_or("", |(k, _)| k))));
        }
    }
    let Some(v) = s.get(*member).filter(|v| !v.is_null()) else {
        out.push(FieldError::required(format!("{at}.{member}"), format!("{member} is required when subject kind is '{kind}'")));
        return;
    };
    let mut inner = Vec::new();
    let name = v.str_at(&["name"]);
    if name.is_empty() {
        inner.push(FieldError::required("name", ""));
    } else if *member == "serviceAccount" && name != "*" {
        inner.extend(names::subdomain(name).into_iter().map(|m| FieldError::invalid("name", name, m)));
    }
    if *member == "serviceAccount" {
        super::check(v, &[("namespace", &[Required("must specify namespace for service account"), Label])], &mut inner);
    }
    out.extend(inner.into_iter().map(|e| FieldError { field: format!("{at}.{member}.{}", e.field), ..e }));
}

static LEVELS: Table = Table {
    rules: &[("spec.type", &[Required(""), OneOf(&["Exempt", "Limited"])])],
    more: Some(|obj, out| {
        let kind = obj.str_at(&["spec", "type"]);
        if matches!(kind, "Exempt" | "Limited") && (kind == "Exempt") != (obj.name() == "exempt") {
            out.push(FieldError::invalid("spec.type", kind, "must be 'Exempt' if and only if `name` is 'exempt'"));
        }
        let limited = obj.at(&["spec", "limited"]).filter(|v| !v.is_null());
        match (kind, limited) {
            ("Limited", None) => out.push(FieldError::required("spec.limited", "")),
            ("Limited", Some(l)) => level(l, out),
            (_, Some(_)) => out.push(FieldError::forbidden("spec.limited", "")),
            _ => {}
        }
        match (kind, obj.at(&["spec", "exempt"]).filter(|v| !v.is_null())) {
            ("Limited", Some(_)) => out.push(FieldError::forbidden("spec.exempt", "")),
            ("Exempt", Some(e)) => {
                let mut inner = Vec::new();
                super::check(e, SHARES, &mut inner);
                out.extend(inner.into_iter().map(|e| FieldError { field: format!("spec.exempt.{}", e.field), ..e }));
            }
            _ => {}
        }
        mandatory(obj, "priorityLevels", out);
    }),
    fixed: &[],
    warn_unset: &[],
};

/// What both kinds of levels have.
const SHARES: &[super::Rule] = &[
    ("nominalConcurrencyShares", &[Least(0, "must be a non-negative integer")]),
    ("lendablePercent", &[Least(0, "must be between 0 and 100, inclusive"), Most(100, "must be between 0 and 100, inclusive")]),
];

/// The objects that are in every cluster say what they must: of the exempt level all but its shares.
fn mandatory(obj: &Value, kind: &str, out: &mut Vec<FieldError>) {
    static ALL: OnceLock<Value> = OnceLock::new();
    let name = obj.name();
    if !matches!(name, "exempt" | "catch-all") {
        return;
    }
    let all = ALL.get_or_init(|| serde_json::from_str(include_str!("../../../../../api/bootstrap/flowcontrol.json")).unwrap_or_default());
    let Some(want) = all.list_at(&[kind, "mandatory"]).iter().find(|m| m.name() == name) else { return };
    let (mut want, mut have) = (want["spec"].clone(), obj["spec"].clone());
    let mut but = "";
    if name == "exempt" && kind == "priorityLevels" {
        but = " except the 'spec.exempt' field";
        want.take_at(&["exempt"]);
        have.take_at(&["exempt"]);
    }
    if want != have {
        out.push(FieldError::invalid("spec", obj["spec"].clone(), format!("spec of '{name}'{but} must equal the fixed value")));
    }
}

fn level(l: &Value, out: &mut Vec<FieldError>) {
    let mut inner = Vec::new();
    super::check(l, SHARES, &mut inner);
    super::check(l, &[
        ("borrowingLimitPercent", &[Least(0, "if specified, must be a non-negative integer")]),
        ("limitResponse.type", &[Required(""), OneOf(&["Queue", "Reject"])]),
    ], &mut inner);
    let kind = l.str_at(&["limitResponse", "type"]);
    let queuing = l.at(&["limitResponse", "queuing"]).filter(|v| !v.is_null());
    let field = "limitResponse.queuing";
    match (kind, queuing) {
        ("Queue", None) => inner.push(FieldError::required(field, "")),
        ("Queue", Some(q)) => {
            let n = |f: &str| q.get(f).and_then(Value::as_i64).unwrap_or(0);
            for f in ["queueLengthLimit", "queues", "handSize"] {
                if n(f) <= 0 {
                    inner.push(FieldError::invalid(format!("{field}.{f}"), n(f), "must be positive"));
                }
            }
            let (queues, hand) = (n("queues"), n("handSize"));
            if hand > queues {
                inner.push(FieldError::invalid(format!("{field}.handSize"), hand, format!("should not be greater than queues ({queues})")));
            } else if hand > 0 && entropy(queues, hand) > 60 {
                inner.push(FieldError::invalid(format!("{field}.handSize"), hand, format!("required entropy bits of deckSize {queues} and handSize {hand} should not be greater than 60")));
            }
        }
        (_, Some(_)) => inner.push(FieldError::forbidden(field, "")),
        _ => {}
    }
    out.extend(inner.into_iter().map(|e| FieldError { field: format!("spec.limited.{}", e.field), ..e }));
}

/// Bits that dealing a hand takes.
fn entropy(deck: i64, hand: i64) -> i64 {
    let mut bits = 0.0;
    for i in 0..hand.min(64) {
        bits += (deck.saturating_sub(i).max(1) as f64).log2();
    }
    bits.ceil() as i64
}

fn distinguisher(d: &Value, at: &str, out: &mut Vec<FieldError>) {
    let all = ["ByNamespace", "ByUser"];
    if !all.contains(&d.str_at(&["type"])) {
        out.push(FieldError::not_supported(format!("{at}.type"), d.clone(), &all));
    }
}
