//! Paths: what can be asked of each resource.

use serde_json::{Map, Value, json};

use super::{Dialect, schemas::Writer};
use crate::{
    catalog::{GroupVersion, Resource, Subresource},
    types::types,
};

/// The paths of these resources; the schemas they use go to `writer`.
pub(super) fn of(rows: &[&Resource], writer: &mut Writer) -> Value {
    let mut paths = Map::new();
    for row in rows {
        if row.kind.is_empty() {
            continue;
        }
        let base = match row.group.as_ref() {
            "" => format!("/api/{}", row.version),
            group => format!("/apis/{group}/{}", row.version),
        };
        let scope = if row.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("{base}{scope}/{}", row.plural);
        let mut page = Page { row, writer, items: Map::new() };
        page.collection();
        paths.insert(collection.clone(), page.finish(row.namespaced, false));
        if row.namespaced && row.allows("list") {
            let mut page = Page { row, writer, items: Map::new() };
            page.everywhere();
            paths.insert(format!("{base}/{}", row.plural), page.finish(false, false));
        }
        let mut page = Page { row, writer, items: Map::new() };
        page.item();
        if !page.items.is_empty() {
            paths.insert(format!("{collection}/{{name}}"), page.finish(row.namespaced, true));
        }
        for sub in &row.subresources {
            let mut page = Page { row, writer, items: Map::new() };
            page.subresource(sub);
            let path = format!("{collection}/{{name}}/{}", sub.name);
            paths.insert(path, page.finish(row.namespaced, true));
        }
    }
    paths.retain(|_, page| page.as_object().is_some_and(|p| p.keys().any(|k| k != "parameters")));
    Value::Object(paths)
}

/// One path while it is written.
struct Page<'a> {
    row: &'a Resource,
    writer: &'a mut Writer,
    items: Map<String, Value>,
}

/// One method of a path.
struct Operation<'a> {
    method: &'a str,
    action: &'a str,
    id: String,
    kind: (GroupVersion, String),
    query: Vec<Value>,
    body: Option<Value>,
    answer: Value,
    created: bool,
}

impl Page<'_> {
    fn own(&self) -> (GroupVersion, String) {
        (self.row.group_version(), self.row.kind.to_string())
    }

    /// `<verb><Group><Version><Namespaced><Kind>`
    fn id(&self, verb: &str, tail: &str) -> String {
        let group = match self.row.group.as_ref() {
            "" => "Core".to_owned(),
            group => group
                .trim_end_matches(".k8s.io")
                .split('.')
                .map(title)
                .collect(),
        };
        let scope = if self.row.namespaced { "Namespaced" } else { "" };
        format!("{verb}{group}{}{scope}{}{tail}", title(&self.row.version), self.row.kind)
    }

    fn collection(&mut self) {
        let row = self.row;
        if row.allows("list") {
            let answer = self.writer.list(row);
            let (id, kind) = (self.id("list", ""), self.own());
            let query = self.parameters(LIST);
            self.add(Operation { method: "get", action: "list", id, kind, query, body: None, answer, created: false });
        }
        if row.allows("create") {
            let object = self.writer.object(row);
            let (id, kind) = (self.id("create", ""), self.own());
            let query = self.parameters(WRITE);
            self.add(Operation { method: "post", action: "post", id, kind, query, body: Some(object.clone()), answer: object, created: true });
        }
        if row.allows("deletecollection") {
            let body = self.writer.meta("DeleteOptions");
            let answer = self.writer.meta("Status");
            let (id, kind) = (self.id("deleteCollection", ""), self.own());
            let mut query = self.parameters(LIST);
            query.extend(self.parameters(DELETE));
            self.add(Operation { method: "delete", action: "deletecollection", id, kind, query, body: Some(body), answer, created: false });
        }
    }

    fn everywhere(&mut self) {
        let answer = self.writer.list(self.row);
        let kind = self.own();
        let id = self.id("list", "ForAllNamespaces").replacen("Namespaced", "", 1);
        let query = self.parameters(LIST);
        self.add(Operation { method: "get", action: "list", id, kind, query, body: None, answer, created: false });
    }

    fn item(&mut self) {
        let row = self.row;
        let methods = [
            ("get", "get", "get", "read"),
            ("update", "put", "put", "replace"),
            ("patch", "patch", "patch", "patch"),
            ("delete", "delete", "delete", "delete"),
        ];
        for (verb, method, action, word) in methods {
            if !row.allows(verb) {
                continue;
            }
            let object = self.writer.object(row);
            let (body, answer, query) = match verb {
                "get" => (None, object, Vec::new()),
                "update" => (Some(object.clone()), object, self.parameters(WRITE)),
                "patch" => {
                    let body = self.writer.meta("Patch");
                    (Some(body), object, self.parameters(PATCH))
                }
                _ => {
                    let body = self.writer.meta("DeleteOptions");
                    (Some(body), self.writer.meta("Status"), self.parameters(DELETE))
                }
            };
            let (id, kind) = (self.id(word, ""), self.own());
            self.add(Operation { method, action, id, kind, query, body, answer, created: verb == "update" || verb == "patch" });
        }
    }

    fn subresource(&mut self, sub: &Subresource) {
        let gv = sub.group_version.clone().unwrap_or_else(|| self.row.group_version());
        let connect = matches!(sub.name.as_ref(), "attach" | "exec" | "portforward" | "proxy");
        let object = match types().kind(&gv.group, &gv.version, &sub.kind) {
            Some(ty) if !connect && sub.name != "log" => self.writer.reference(ty.name),
            _ if connect || sub.name == "log" => json!({ "type": "string" }),
            _ => self.writer.object(self.row),
        };
        let tail: String = sub.name.split('/').map(title).collect();
        for verb in &sub.verbs {
            let (method, word) = match verb.as_ref() {
                "get" => ("get", "read"),
                "create" => ("post", "create"),
                "update" => ("put", "replace"),
                "patch" => ("patch", "patch"),
                "delete" => ("delete", "delete"),
                _ => continue,
            };
            let action = if connect { "connect" } else { method };
            let (body, query) = match method {
                "patch" if !connect => {
                    (Some(self.writer.meta("Patch")), self.parameters(PATCH))
                }
                "post" | "put" if !connect => (Some(object.clone()), self.parameters(WRITE)),
                _ => (None, Vec::new()),
            };
            let id = if connect {
                self.id(&format!("connect{}", title(method)), &tail)
            } else {
                self.id(word, &tail)
            };
            let kind = (gv.clone(), sub.kind.to_string());
            let answer = object.clone();
            self.add(Operation { method, action, id, kind, query, body, answer, created: method == "post" && !connect });
        }
    }

    fn add(&mut self, op: Operation<'_>) {
        let mut out = json!({
            "operationId": op.id,
            "tags": [tag(self.row)],
            "x-kubernetes-action": op.action,
            "x-kubernetes-group-version-kind":
                { "group": op.kind.0.group, "version": op.kind.0.version, "kind": op.kind.1 },
        });
        let mut query = op.query;
        let patch = op.method == "patch";
        let kinds = if patch { PATCHES } else { BODIES };
        match self.writer.dialect {
            Dialect::V2 => {
                if let Some(body) = op.body {
                    let required = op.method != "delete";
                    query.insert(0, json!({ "name": "body", "in": "body", "required": required, "schema": body }));
                }
                out["consumes"] = if patch { json!(PATCHES) } else { json!(["*/*"]) };
                out["produces"] = json!(BODIES);
                out["schemes"] = json!(["https"]);
                let good = json!({ "description": "OK", "schema": op.answer });
                out["responses"] = json!({ "200": good, "401": { "description": "Unauthorized" } });
                if op.created {
                    out["responses"]["201"] = json!({ "description": "Created", "schema": op.answer });
                }
            }
            Dialect::V3 => {
                let content = |schema: &Value, kinds: &[&str]| {
                    let each = |k: &&str| ((*k).to_owned(), json!({ "schema": schema }));
                    Value::Object(kinds.iter().map(each).collect())
                };
                if let Some(body) = op.body {
                    let mut request = json!({
                        "content": content(&body, if patch { kinds } else { &["*/*"] }),
                    });
                    if op.method != "delete" {
                        request["required"] = true.into();
                    }
                    out["requestBody"] = request;
                }
                let good = json!({ "description": "OK", "content": content(&op.answer, BODIES) });
                out["responses"] = json!({ "200": good, "401": { "description": "Unauthorized" } });
                if op.created {
                    out["responses"]["201"] =
                        json!({ "description": "Created", "content": content(&op.answer, BODIES) });
                }
            }
        }
        if !query.is_empty() {
            out["parameters"] = Value::Array(query);
        }
        self.items.insert(op.method.to_owned(), out);
    }

    fn parameters(&self, list: &[(&str, &str)]) -> Vec<Value> {
        list.iter().map(|(name, kind)| parameter(self.writer.dialect, "query", name, kind)).collect()
    }

    fn finish(mut self, namespaced: bool, named: bool) -> Value {
        let dialect = self.writer.dialect;
        let mut shared = Vec::new();
        if named {
            shared.push(parameter(dialect, "path", "name", "string"));
        }
        if namespaced {
            shared.push(parameter(dialect, "path", "namespace", "string"));
        }
        shared.push(parameter(dialect, "query", "pretty", "string"));
        self.items.insert("parameters".into(), Value::Array(shared));
        Value::Object(self.items)
    }
}

const LIST: &[(&str, &str)] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const WRITE: &[(&str, &str)] =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const PATCH: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("fieldManager", "string"),
    ("fieldValidation", "string"),
    ("force", "boolean"),
];
const DELETE: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const BODIES: &[&str] =
    &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

fn parameter(dialect: Dialect, place: &str, name: &str, kind: &str) -> Value {
    let mut out = json!({ "name": name, "in": place });
    if place == "path" {
        out["required"] = true.into();
    }
    match dialect {
        Dialect::V2 => out["type"] = kind.into(),
        Dialect::V3 => out["schema"] = json!({ "type": kind }),
    }
    if dialect == Dialect::V2 || place == "query" {
        out["uniqueItems"] = true.into();
    }
    out
}

/// `apps_v1`
fn tag(row: &Resource) -> String {
    let group = match row.group.as_ref() {
        "" => "core".to_owned(),
        group => group.trim_end_matches(".k8s.io").replace('.', "_"),
    };
    format!("{group}_{}", row.version)
}

fn title(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|c| c.to_ascii_uppercase()).into_iter().chain(chars).collect()
}
