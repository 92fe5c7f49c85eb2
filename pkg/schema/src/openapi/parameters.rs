//! Parameters of requests: their names, where they stand, and under what name version 2 shares them.

use serde_json::{Map, Value, json};

use super::Dialect;

/// Where a parameter stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Place {
    Path,
    Query,
}

/// One parameter. `key` ends the name that version 2 shares it under; without one it is written out
/// wherever it is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    place: Place,
    kind: &'static str,
    key: &'static str,
}

const fn query(name: &'static str, kind: &'static str, key: &'static str) -> Parameter {
    Parameter { name, place: Place::Query, kind, key }
}
const fn path(name: &'static str, key: &'static str) -> Parameter {
    Parameter { name, place: Place::Path, kind: "string", key }
}

pub(super) const NAME: Parameter = path("name", "");
pub(super) const NAMESPACE: Parameter = path("namespace", "vgWSWtn3");
pub(super) const REST: Parameter = path("path", "z6Ciiujn");
pub(super) const PRETTY: Parameter = query("pretty", "string", "tJGM1-ng");
pub(super) const RESOURCE_VERSION: Parameter = query("resourceVersion", "string", "5WAnf1kx");

pub(super) const LIST: &[Parameter] = &[
    query("allowWatchBookmarks", "boolean", "HC2hJt-J"),
    query("continue", "string", "QfD61s0i"),
    query("fieldSelector", "string", "xIcQKXFG"),
    query("labelSelector", "string", "5Zw57w4C"),
    query("limit", "integer", "1NfNmdNH"),
    RESOURCE_VERSION,
    query("resourceVersionMatch", "string", "t8XhRHeC"),
    query("sendInitialEvents", "boolean", "rLXlEK_k"),
    query("shardSelector", "string", "Kgyki_3_"),
    query("timeoutSeconds", "integer", "yvYezaOC"),
    query("watch", "boolean", "XNNPZGbK"),
];
pub(super) const WRITE: &[Parameter] = &[
    query("dryRun", "string", ""),
    query("fieldManager", "string", "Qy4HdaTW"),
    query("fieldValidation", "string", ""),
];
pub(super) const PATCH: &[Parameter] = &[
    query("dryRun", "string", ""),
    query("fieldManager", "string", "7c6nTn1T"),
    query("fieldValidation", "string", ""),
    query("force", "boolean", "tOGGb0Yi"),
];
pub(super) const DELETE: &[Parameter] = &[
    query("dryRun", "string", ""),
    query("gracePeriodSeconds", "integer", "-K5HaBOS"),
    query("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean", "QbNkfIqj"),
    query("orphanDependents", "boolean", "uRB25kX5"),
    query("propagationPolicy", "string", "6jk3prlO"),
];
const LOG: &[Parameter] = &[
    query("container", "string", "1GeXxFDC"),
    query("follow", "boolean", "9OIXh_2R"),
    query("insecureSkipTLSVerifyBackend", "boolean", "gM00jVbe"),
    query("limitBytes", "integer", "zwd1RXuc"),
    query("previous", "boolean", "1jxDPu3y"),
    query("sinceSeconds", "integer", "vE2NLdnP"),
    query("stream", "string", "l-48cgXv"),
    query("tailLines", "integer", "9xQLWHMV"),
    query("timestamps", "boolean", "c17fW1w_"),
];
const ATTACH: &[Parameter] = &[
    query("container", "string", "_Q-EJ3nR"),
    query("stderr", "boolean", "26jJhFUR"),
    query("stdin", "boolean", "sEFnN3IS"),
    query("stdout", "boolean", "005YMKE6"),
    query("tty", "boolean", "g7MlET_l"),
];
const EXEC: &[Parameter] = &[
    query("command", "string", "Py3eQybp"),
    query("container", "string", "i5dOmRiM"),
    query("stderr", "boolean", "W_1TNlWc"),
    query("stdin", "boolean", "PSzNhyUC"),
    query("stdout", "boolean", "-EZLRwV1"),
    query("tty", "boolean", "s0flW37O"),
];
const PORT_FORWARD: &[Parameter] = &[query("ports", "integer", "91KROJmm")];
const POD_PROXY: &[Parameter] = &[query("path", "string", "oPbzgLUj")];
const SERVICE_PROXY: &[Parameter] = &[query("path", "string", "QCf0eosM")];
const NODE_PROXY: &[Parameter] = &[query("path", "string", "rFDtV0x9")];

/// The parameters of a subresource that a connection is made to, and of logs.
pub(super) fn of_connection(kind: &str, subresource: &str) -> &'static [Parameter] {
    match (kind, subresource) {
        (_, "log") => LOG,
        (_, "attach") => ATTACH,
        (_, "exec") => EXEC,
        (_, "portforward") => PORT_FORWARD,
        ("Pod", "proxy") => POD_PROXY,
        ("Service", "proxy") => SERVICE_PROXY,
        ("Node", "proxy") => NODE_PROXY,
        _ => &[],
    }
}

/// The names that version 2 shares bodies under that are of no kind of their own.
const BODIES: &[(&str, &str)] = &[("DeleteOptions", "2Y1dVQaQ"), ("Patch", "78PwaGsr")];

impl Parameter {
    /// The parameter where it is used.
    pub(super) fn written(&self, dialect: Dialect) -> Value {
        if dialect == Dialect::V2 && !self.key.is_empty() {
            return json!({ "$ref": format!("#/parameters/{}-{}", self.name, self.key) });
        }
        self.whole(dialect)
    }

    /// What it is sorted by among others.
    pub(super) fn order(&self) -> (&'static str, Place) {
        (self.name, self.place)
    }

    fn whole(&self, dialect: Dialect) -> Value {
        let place = if self.place == Place::Path { "path" } else { "query" };
        let mut out = json!({ "name": self.name, "in": place });
        if self.place == Place::Path {
            out["required"] = true.into();
        }
        match dialect {
            Dialect::V2 => {
                out["type"] = self.kind.into();
                out["uniqueItems"] = true.into();
            }
            Dialect::V3 => out["schema"] = json!({ "type": self.kind, "uniqueItems": true }),
        }
        out
    }
}

/// The body of a request as version 2 has it among the parameters. `schema` refers to its type.
pub(super) fn body(schema: &Value, required: bool) -> Value {
    let name = schema["$ref"].as_str().and_then(|r| r.rsplit('.').next()).unwrap_or_default();
    match BODIES.iter().find(|b| b.0 == name) {
        Some((_, key)) => json!({ "$ref": format!("#/parameters/body-{key}") }),
        None => whole_body(schema, required),
    }
}

fn whole_body(schema: &Value, required: bool) -> Value {
    let mut out = json!({ "name": "body", "in": "body", "schema": schema });
    if required {
        out["required"] = true.into();
    }
    out
}

/// What version 2 shares; `schema` refers to a type of apimachinery's `meta/v1`.
pub(super) fn shared(mut schema: impl FnMut(&str) -> Value) -> Value {
    let mut out = Map::new();
    let all = [LIST, WRITE, PATCH, DELETE, LOG, ATTACH, EXEC, PORT_FORWARD, POD_PROXY, SERVICE_PROXY, NODE_PROXY, &[NAMESPACE, REST, PRETTY]];
    for p in all.into_iter().flatten().filter(|p| !p.key.is_empty()) {
        out.insert(format!("{}-{}", p.name, p.key), p.whole(Dialect::V2));
    }
    for (name, key) in BODIES {
        out.insert(format!("body-{key}"), whole_body(&schema(name), *name == "Patch"));
    }
    Value::Object(out)
}
