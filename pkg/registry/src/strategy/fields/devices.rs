//! Claims of devices, their classes, and what drivers say there is.

use std::collections::HashSet;

use serde_json::Value;

use super::{
    Check::{Custom, Label, Least, OneOf, Required, Subdomain},
    Fixed::{Also, Always, Sole},
    Table,
};
use crate::{error::FieldError, names, object::Object};

pub(super) fn of(resource: &str) -> Option<&'static Table> {
    Some(match resource {
        "resourceclaims" => &CLAIMS,
        "resourceclaimtemplates" => &TEMPLATES,
        "resourceslices" => &SLICES,
        "deviceclasses" => &CLASSES,
        _ => return None,
    })
}

static CLAIMS: Table = Table {
    rules: &[],
    more: Some(|obj, out| claim(&obj["spec"], "spec", out)),
    fixed: &[Sole("spec")],
    warn_unset: &[],
};
static TEMPLATES: Table = Table {
    rules: &[],
    more: Some(|obj, out| {
        let metadata = obj.at(&["spec", "metadata"]).unwrap_or(&Value::Null);
        out.extend(names::labels(metadata.get("labels"), "spec.metadata.labels"));
        names::annotations(metadata.get("annotations"), "spec.metadata.annotations", out);
        claim(&obj["spec"]["spec"], "spec.spec", out);
    }),
    fixed: &[Always("spec")],
    warn_unset: &[],
};
static CLASSES: Table = Table {
    rules: &[
        ("spec.selectors[].cel", &[Required("")]),
        ("spec.selectors[].cel", &[Custom(selector)]),
        ("spec.config[].opaque", &[Custom(opaque)]),
        ("spec.config[]", &[Custom(configured)]),
    ],
    more: None,
    fixed: &[],
    warn_unset: &[],
};
static SLICES: Table = Table {
    rules: &[
        ("spec.driver", &[Required(""), Subdomain]),
        ("spec.pool.name", &[Custom(pool)]),
        ("spec.pool.generation", &[Least(0, "must be greater than or equal to zero")]),
        ("spec.nodeName", &[Subdomain]),
        ("spec.devices[].name", &[Label]),
        ("spec.devices[]", &[Custom(device)]),
    ],
    more: Some(|obj, out| {
        let spec = &obj["spec"];
        if spec.str_at(&["pool", "name"]).is_empty() {
            out.push(FieldError::required("spec.pool.name", ""));
        }
        let count = spec.at(&["pool", "resourceSliceCount"]).and_then(Value::as_i64).unwrap_or(0);
        if count <= 0 {
            out.push(FieldError::invalid("spec.pool.resourceSliceCount", count, "must be greater than zero"));
        }
        let somewhere = spec.at(&["nodeName"]).is_some()
            || spec.at(&["nodeSelector"]).is_some()
            || spec["allNodes"] == true
            || spec["perDeviceNodeSelection"] == true;
        if !somewhere {
            out.push(FieldError::required("spec", "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"));
        }
        let mut seen = HashSet::new();
        for (i, d) in spec.list_at(&["devices"]).iter().enumerate() {
            let name = d.str_at(&["name"]);
            if !seen.insert(name) {
                out.push(FieldError::duplicate(format!("spec.devices[{i}]"), name));
            }
        }
    }),
    fixed: &[Also("spec.driver", false), Also("spec.pool.name", false), Also("spec.nodeName", true)],
    warn_unset: &[],
};

fn pool(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    let text = v.as_str().unwrap_or("");
    for part in text.split('/').filter(|_| !text.is_empty()) {
        out.extend(names::subdomain(part).into_iter().map(|why| FieldError::invalid(at, part, why)));
    }
}

fn device(d: &Value, at: &str, out: &mut Vec<FieldError>) {
    if d.str_at(&["name"]).is_empty() {
        out.extend(names::label("").into_iter().map(|why| FieldError::invalid(format!("{at}.name"), "", why)));
    }
}

/// Everything wrong with a claim's `spec`.
fn claim(spec: &Value, at: &str, out: &mut Vec<FieldError>) {
    let devices = spec.at(&["devices"]).unwrap_or(&Value::Null);
    let at = format!("{at}.devices");
    let requests = devices.list_at(&["requests"]);
    let mut known = HashSet::new();
    for (i, r) in requests.iter().enumerate() {
        let at = format!("{at}.requests[{i}]");
        let name = r.str_at(&["name"]);
        out.extend(names::label(name).into_iter().map(|why| FieldError::invalid(format!("{at}.name"), name, why)));
        if !known.insert(name.to_owned()) {
            out.push(FieldError::duplicate(&at, r.clone()));
        }
        let alternatives = r.list_at(&["firstAvailable"]);
        known.extend(alternatives.iter().map(|a| format!("{name}/{}", a.str_at(&["name"]))));
        match r.at(&["exactly"]) {
            Some(e) => request(e, &format!("{at}.exactly"), out),
            None if alternatives.is_empty() => {
                out.push(FieldError::required(&at, "exactly one of `exactly` or `firstAvailable` is required"));
            }
            None => {}
        }
        for (j, a) in alternatives.iter().enumerate() {
            let at = format!("{at}.firstAvailable[{j}]");
            let name = a.str_at(&["name"]);
            out.extend(names::label(name).into_iter().map(|why| FieldError::invalid(format!("{at}.name"), name, why)));
            request(a, &at, out);
        }
    }
    let named = |of: &Value, at: &str, out: &mut Vec<FieldError>| {
        for (j, name) in of.list_at(&["requests"]).iter().filter_map(Value::as_str).enumerate() {
            let at = format!("{at}.requests[{j}]");
            for part in name.split('/') {
                out.extend(names::label(part).into_iter().map(|why| FieldError::invalid(&at, part, why)));
            }
            if !known.contains(name) {
                out.push(FieldError::invalid(&at, name, "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"));
            }
        }
    };
    for (i, c) in devices.list_at(&["constraints"]).iter().enumerate() {
        let at = format!("{at}.constraints[{i}]");
        named(c, &at, out);
        let attributes = ["matchAttribute", "distinctAttribute"];
        if attributes.iter().all(|a| c.at(&[a]).is_none()) {
            let why = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
            out.push(FieldError::required(&at, why));
        }
        for a in attributes {
            if let Some(text) = c.at(&[a]).and_then(Value::as_str) {
                attribute(text, &format!("{at}.{a}"), out);
            }
        }
    }
    for (i, c) in devices.list_at(&["config"]).iter().enumerate() {
        let at = format!("{at}.config[{i}]");
        named(c, &at, out);
        configured(c, &at, out);
        if let Some(o) = c.at(&["opaque"]) {
            opaque(o, &format!("{at}.opaque"), out);
        }
    }
}

fn request(r: &Value, at: &str, out: &mut Vec<FieldError>) {
    let mut inner = Vec::new();
    super::check(
        r,
        &[
            ("deviceClassName", &[Required(""), Subdomain]),
            ("selectors[].cel", &[Required("")]),
            ("selectors[].cel", &[Custom(selector)]),
            ("allocationMode", &[OneOf(&["All", "ExactCount"])]),
        ],
        &mut inner,
    );
    out.extend(inner.into_iter().map(|e| FieldError { field: format!("{at}.{}", e.field), ..e }));
    if let Some(n) = r.at(&["count"]).and_then(Value::as_i64)
        && n <= 0
        && r.str_at(&["allocationMode"]) == "ExactCount"
    {
        out.push(FieldError::invalid(format!("{at}.count"), n, "must be greater than zero"));
    }
}

/// A name with the domain of who gives it a meaning.
fn attribute(text: &str, at: &str, out: &mut Vec<FieldError>) {
    const IDENTIFIER: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";
    if text.is_empty() {
        out.push(FieldError::required(at, "name required"));
    }
    let (domain, name) = text.split_once('/').map_or((None, text), |(d, n)| (Some(d), n));
    let starts = name.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic());
    let fits = starts && name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric());
    if !name.is_empty() && !fits {
        out.push(FieldError::invalid(at, name, IDENTIFIER));
    }
    match domain {
        None => out.push(FieldError::invalid(at, text, "a fully qualified name must be a domain and a name separated by a slash")),
        Some("") => out.push(FieldError::invalid(at, "", "the domain must not be empty")),
        Some(d) => driver(d, at, out),
    }
    if domain.is_some() && name.is_empty() {
        out.push(FieldError::invalid(at, "", "the name must not be empty"));
    }
}

/// A driver's name; letters may be capital.
fn driver(text: &str, at: &str, out: &mut Vec<FieldError>) {
    const DRIVER: &str = "an RFC 1123 subdomain must consist of alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'Example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
    if text.len() > 63 {
        out.push(FieldError::too_long(at, 63));
    }
    if !names::subdomain(&text.to_lowercase()).is_empty() && text.len() <= 253 {
        out.push(FieldError::invalid(at, text, DRIVER));
    }
}

/// A configuration has to be of some kind.
fn configured(c: &Value, at: &str, out: &mut Vec<FieldError>) {
    if c.at(&["opaque"]).is_none() {
        out.push(FieldError::required(format!("{at}.opaque"), ""));
    }
}

fn opaque(o: &Value, at: &str, out: &mut Vec<FieldError>) {
    let name = o.str_at(&["driver"]);
    if name.is_empty() {
        out.push(FieldError::required(format!("{at}.driver"), ""));
    } else {
        driver(name, &format!("{at}.driver"), out);
    }
    if o.at(&["parameters"]).is_none() {
        out.push(FieldError::required(format!("{at}.parameters"), ""));
    }
}

/// The expression by which devices are chosen.
fn selector(cel: &Value, at: &str, out: &mut Vec<FieldError>) {
    if cel.is_null() {
        return;
    }
    let expression = cel.str_at(&["expression"]);
    if let Err(why) = crate::expressions::validate_device(expression) {
        out.push(FieldError::invalid(format!("{at}.expression"), expression, why));
    }
}
