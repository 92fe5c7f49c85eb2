//! Paths: what can be asked of each resource.

use serde_json::{Map, Value, json};

use super::{
    Dialect,
    parameters::{self, DELETE, LIST, NAME, NAMESPACE, PATCH, PRETTY, Parameter, REST, RESOURCE_VERSION, WRITE},
    schemas::Writer,
};
use crate::{
    catalog::{GroupVersion, Resource, Subresource},
    types::types,
};

const JSON: &[&str] = &["application/json"];
const CUSTOM: &[&str] = &["application/json", "application/yaml"];
const BODIES: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const STREAMS: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];
const LOGS: &[&str] = &["text/plain", "application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const PATCHES: &[&str] =
    &["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"];
const CUSTOM_PATCHES: &[&str] = &["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];
const ANY: &[&str] = &["*/*"];

/// Answers that are no failures.
#[derive(Clone, Copy)]
enum Good {
    Ok,
    Created,
    Accepted,
    CreatedOrAccepted,
}

/// The paths of these resources; the schemas they use go to `writer`.
pub(super) fn of(rows: &[&Resource], writer: &mut Writer) -> Map<String, Value> {
    let mut paths = Map::new();
    for row in rows.iter().filter(|r| !r.kind.is_empty()) {
        let base = match row.group.as_ref() {
            "" => format!("/api/{}", row.version),
            group => format!("/apis/{group}/{}", row.version),
        };
        let scope = if row.namespaced { "/namespaces/{namespace}" } else { "" };
        let mut add = |path: String, page: Page<'_>| {
            if !page.all.is_empty() {
                paths.insert(path, page.finish());
            }
        };
        let (collection, plural) = (format!("{base}{scope}/{}", row.plural), &row.plural);
        add(collection.clone(), Page::new(row, writer).collection());
        if row.namespaced && row.allows("list") {
            add(format!("{base}/{plural}"), Page::new(row, writer).everywhere());
        }
        add(format!("{collection}/{{name}}"), Page::new(row, writer).item());
        for sub in &row.subresources {
            let path = format!("{collection}/{{name}}/{}", sub.name);
            if sub.name == "proxy" {
                add(format!("{path}/{{path}}"), Page::new(row, writer).subresource(sub, true));
            }
            add(path, Page::new(row, writer).subresource(sub, false));
        }
        if row.allows("watch") && !row.is_custom() {
            add(format!("{base}/watch{scope}/{plural}"), Page::new(row, writer).watch("List", row.namespaced, false));
            if row.namespaced {
                add(format!("{base}/watch/{plural}"), Page::new(row, writer).watch("ListForAllNamespaces", false, false));
            }
            if row.allows("get") {
                add(format!("{base}/watch{scope}/{plural}/{{name}}"), Page::new(row, writer).watch("", row.namespaced, true));
            }
        }
    }
    paths
}

/// A path that only says what there is.
pub(super) struct Plain {
    pub(super) path: String,
    pub(super) tag: String,
    pub(super) id: String,
    /// A type of the answer; text without one.
    pub(super) answer: Option<&'static str>,
    pub(super) kind: PlainKind,
}

/// What a plain path takes and gives.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum PlainKind {
    /// Every encoding.
    Discovery,
    /// JSON.
    Json,
    /// One media type that is asked for with nothing.
    Only(&'static str),
}

/// A plain path's page.
pub(super) fn plain(p: &Plain, writer: &mut Writer) -> Value {
    let (consumes, produces) = match p.kind {
        PlainKind::Discovery => (Some(BODIES), BODIES.to_vec()),
        PlainKind::Json => (Some(JSON), JSON.to_vec()),
        PlainKind::Only(kind) => (None, vec![kind]),
    };
    let answer = p.answer.map_or_else(|| json!({ "type": "string" }), |name| writer.reference(name));
    let mut out = json!({ "operationId": p.id, "tags": [p.tag], "responses": responses(writer.dialect, &answer, &produces, Good::Ok) });
    if writer.dialect == Dialect::V2 {
        media(&mut out, consumes, &produces);
    }
    json!({ "get": out })
}

fn media(out: &mut Value, consumes: Option<&[&str]>, produces: &[&str]) {
    if let Some(consumes) = consumes {
        out["consumes"] = json!(consumes);
    }
    out["produces"] = json!(produces);
    out["schemes"] = json!(["https"]);
}

fn content(schema: &Value, kinds: &[&str]) -> Value {
    Value::Object(kinds.iter().map(|k| ((*k).to_owned(), json!({ "schema": schema }))).collect())
}

fn responses(dialect: Dialect, answer: &Value, produces: &[&str], good: Good) -> Value {
    let codes: &[(&str, &str)] = match good {
        Good::Ok => &[("200", "OK")],
        Good::Created => &[("200", "OK"), ("201", "Created")],
        Good::Accepted => &[("200", "OK"), ("202", "Accepted")],
        Good::CreatedOrAccepted => &[("200", "OK"), ("201", "Created"), ("202", "Accepted")],
    };
    let mut out = json!({ "401": { "description": "Unauthorized" } });
    for (code, word) in codes {
        out[*code] = match dialect {
            Dialect::V2 => json!({ "description": word, "schema": answer }),
            Dialect::V3 => json!({ "description": word, "content": content(answer, produces) }),
        };
    }
    out
}

/// One path while it is written.
struct Page<'a> {
    row: &'a Resource,
    writer: &'a mut Writer,
    all: Vec<Operation>,
}

/// One method of a path.
struct Operation {
    method: &'static str,
    action: &'static str,
    id: String,
    kind: (GroupVersion, String),
    parameters: Vec<Parameter>,
    body: Option<Value>,
    answer: Value,
    good: Good,
    produces: &'static [&'static str],
}

impl<'a> Page<'a> {
    fn new(row: &'a Resource, writer: &'a mut Writer) -> Self {
        Page { row, writer, all: Vec::new() }
    }

    fn own(&self) -> (GroupVersion, String) {
        (self.row.group_version(), self.row.kind.to_string())
    }

    /// `<verb><Group><Version><middle>[Namespaced]<Kind><tail>`
    fn id(&self, verb: &str, middle: &str, namespaced: bool, tail: &str) -> String {
        let row = self.row;
        let scope = if namespaced { "Namespaced" } else { "" };
        format!("{verb}{}{}{middle}{scope}{}{tail}", group_words(&row.group), title(&row.version), row.kind)
    }

    /// The parameters that stand in the path, `pretty`, and others.
    fn with(&self, named: bool, more: &[&[Parameter]]) -> Vec<Parameter> {
        let mut all: Vec<Parameter> = more.iter().flat_map(|p| p.iter().copied()).collect();
        all.push(PRETTY);
        all.extend(named.then_some(NAME));
        all.extend(self.row.namespaced.then_some(NAMESPACE));
        all
    }

    fn bodies(&self) -> &'static [&'static str] {
        if self.row.is_custom() { CUSTOM } else { BODIES }
    }

    fn streams(&self) -> &'static [&'static str] {
        if self.row.is_custom() { CUSTOM } else { STREAMS }
    }

    fn collection(mut self) -> Self {
        let (row, ns) = (self.row, self.row.namespaced);
        if row.allows("list") {
            let answer = self.writer.list(row);
            let (id, kind, parameters) = (self.id("list", "", ns, ""), self.own(), self.with(false, &[LIST]));
            let produces = self.streams();
            self.all.push(Operation { method: "get", action: "list", id, kind, parameters, body: None, answer, good: Good::Ok, produces });
        }
        if row.allows("create") {
            let answer = self.writer.object(row);
            let (id, kind, parameters) = (self.id("create", "", ns, ""), self.own(), self.with(false, &[WRITE]));
            let (body, produces) = (Some(answer.clone()), self.bodies());
            self.all.push(Operation { method: "post", action: "post", id, kind, parameters, body, answer, good: Good::CreatedOrAccepted, produces });
        }
        if row.allows("deletecollection") {
            let answer = self.writer.meta("Status");
            // Definitions' servers describe it as a list.
            let (body, parameters) = if row.is_custom() {
                (None, self.with(false, &[LIST]))
            } else {
                let mut all = self.with(false, &[LIST, DELETE]);
                all.retain(|p| p.name != "watch" && p.name != "allowWatchBookmarks");
                (Some(self.writer.meta("DeleteOptions")), all)
            };
            let (id, kind, produces) = (self.id("delete", "Collection", ns, ""), self.own(), self.bodies());
            self.all.push(Operation { method: "delete", action: "deletecollection", id, kind, parameters, body, answer, good: Good::Ok, produces });
        }
        self
    }

    fn everywhere(mut self) -> Self {
        let answer = self.writer.list(self.row);
        let (id, kind, produces) = (self.id("list", "", false, "ForAllNamespaces"), self.own(), self.streams());
        let mut parameters = self.with(false, &[LIST]);
        parameters.retain(|p| *p != NAMESPACE);
        self.all.push(Operation { method: "get", action: "list", id, kind, parameters, body: None, answer, good: Good::Ok, produces });
        self
    }

    fn watch(mut self, tail: &str, namespaced: bool, named: bool) -> Self {
        let answer = self.writer.meta("WatchEvent");
        let (id, kind) = (self.id("watch", "", namespaced, tail), self.own());
        let mut parameters = self.with(named, &[LIST]);
        parameters.retain(|p| namespaced || *p != NAMESPACE);
        let action = if named { "watch" } else { "watchlist" };
        self.all.push(Operation { method: "get", action, id, kind, parameters, body: None, answer, good: Good::Ok, produces: STREAMS });
        self
    }

    fn item(mut self) -> Self {
        let row = self.row;
        for (verb, method) in [("get", "get"), ("update", "put"), ("patch", "patch"), ("delete", "delete")] {
            if row.allows(verb) {
                let object = self.writer.object(row);
                let kind = self.own();
                self.act(method, object, kind, "");
            }
        }
        self
    }

    /// Reading, creating, replacing, patching or deleting one object or a part of it.
    fn act(&mut self, method: &'static str, object: Value, kind: (GroupVersion, String), tail: &str) {
        let custom = self.row.is_custom();
        let (word, body, own, good): (_, _, &[Parameter], _) = match method {
            "put" => ("replace", Some(object.clone()), WRITE, Good::Created),
            "post" => ("create", Some(object.clone()), WRITE, Good::CreatedOrAccepted),
            "patch" => ("patch", Some(self.writer.meta("Patch")), PATCH, if custom { Good::Ok } else { Good::Created }),
            "delete" => ("delete", Some(self.writer.meta("DeleteOptions")), DELETE, Good::Accepted),
            _ => ("read", None, if custom { &[RESOURCE_VERSION] } else { &[] }, Good::Ok),
        };
        let answer = if method == "delete" && !self.row.returns_deleted() { self.writer.meta("Status") } else { object };
        let (id, parameters, produces) = (self.id(word, "", self.row.namespaced, tail), self.with(true, &[own]), self.bodies());
        self.all.push(Operation { method, action: method, id, kind, parameters, body, answer, good, produces });
    }

    fn subresource(mut self, sub: &Subresource, rest: bool) -> Self {
        let gv = sub.group_version.clone().unwrap_or_else(|| self.row.group_version());
        let tail = title(&sub.name);
        let kind = if self.row.is_custom() { self.own() } else { (gv.clone(), sub.kind.to_string()) };
        let connect = matches!(sub.name.as_ref(), "attach" | "exec" | "portforward" | "proxy");
        if connect {
            let methods: &[&str] = if sub.name == "proxy" { &["get", "put", "post", "delete", "options", "head", "patch"] } else { &["get", "post"] };
            let tail = if rest { format!("{tail}WithPath") } else { tail };
            for method in methods {
                let id = self.id("connect", &title(method), self.row.namespaced, &tail);
                let mut parameters = self.with(true, &[parameters::of_connection(&self.row.kind, &sub.name)]);
                parameters.retain(|p| *p != PRETTY);
                parameters.extend(rest.then_some(REST));
                let answer = json!({ "type": "string" });
                self.all.push(Operation { method, action: "connect", id, kind: kind.clone(), parameters, body: None, answer, good: Good::Ok, produces: ANY });
            }
            return self;
        }
        if sub.name == "log" {
            let parameters = self.with(true, &[parameters::of_connection(&self.row.kind, "log")]);
            let id = self.id("read", "", self.row.namespaced, &tail);
            let answer = json!({ "type": "string" });
            self.all.push(Operation { method: "get", action: "get", id, kind, parameters, body: None, answer, good: Good::Ok, produces: LOGS });
            return self;
        }
        let object = match types().kind(&gv.group, &gv.version, &sub.kind) {
            Some(ty) => self.writer.reference(ty.name),
            None => self.writer.object(self.row),
        };
        for (verb, method) in [("get", "get"), ("create", "post"), ("update", "put"), ("patch", "patch"), ("delete", "delete")] {
            if sub.verbs.iter().any(|v| v == verb) {
                self.act(method, object.clone(), kind.clone(), &tail);
            }
        }
        self
    }

    /// The page: what all its methods have in common stands beside them.
    fn finish(self) -> Value {
        let dialect = self.writer.dialect;
        let written = |mut list: Vec<Parameter>| {
            list.sort_by_key(Parameter::order);
            list.iter().map(|p| p.written(dialect)).collect::<Vec<_>>()
        };
        let common = |p: &Parameter| self.all.iter().all(|o| o.parameters.iter().any(|q| q.order() == p.order()));
        let shared: Vec<Parameter> = self.all.last().into_iter().flat_map(|o| &o.parameters).filter(|p| common(p)).copied().collect();
        let mut page = Map::new();
        for op in &self.all {
            let mut list = written(op.parameters.iter().filter(|p| !common(p)).copied().collect());
            let patches = if self.row.is_custom() { CUSTOM_PATCHES } else { PATCHES };
            let takes = match op.method {
                "patch" if op.body.is_some() => patches,
                _ if self.row.is_custom() => CUSTOM,
                _ => ANY,
            };
            let mut out = json!({
                "operationId": op.id,
                "tags": [tag(self.row)],
                "x-kubernetes-action": op.action,
                "x-kubernetes-group-version-kind": { "group": op.kind.0.group, "version": op.kind.0.version, "kind": op.kind.1 },
                "responses": responses(dialect, &op.answer, op.produces, op.good),
            });
            let required = op.method != "delete";
            match (dialect, &op.body) {
                (Dialect::V2, Some(body)) => list.insert(0, parameters::body(body, required)),
                (Dialect::V3, Some(body)) => {
                    out["requestBody"] = json!({ "content": content(body, takes) });
                    if required {
                        out["requestBody"]["required"] = true.into();
                    }
                }
                (_, None) => {}
            }
            if dialect == Dialect::V2 {
                media(&mut out, Some(takes), op.produces);
            }
            if !list.is_empty() {
                out["parameters"] = Value::Array(list);
            }
            page.insert(op.method.to_owned(), out);
        }
        if !shared.is_empty() {
            page.insert("parameters".into(), Value::Array(written(shared)));
        }
        Value::Object(page)
    }
}

/// `apps_v1`
fn tag(row: &Resource) -> String {
    format!("{}_{}", group_tag(&row.group), row.version)
}

/// `apps`, `rbacAuthorization`
pub(super) fn group_tag(group: &str) -> String {
    let words = group_words(group);
    let mut chars = words.chars();
    chars.next().map(|c| c.to_ascii_lowercase()).into_iter().chain(chars).collect()
}

/// `Apps`, `RbacAuthorization`; `Core` is the legacy group.
pub(super) fn group_words(group: &str) -> String {
    match group {
        "" => "Core".to_owned(),
        group => group.trim_end_matches(".k8s.io").split('.').map(title).collect(),
    }
}

/// The word with a great letter.
pub(super) fn title(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|c| c.to_ascii_uppercase()).into_iter().chain(chars).collect()
}
