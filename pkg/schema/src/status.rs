//! `metav1.Status`: the answer when something is wrong, with upstream's codes, reasons and words.

use serde_json::{Value, json};

/// One reason among several, usually about one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// A machine's word, e.g. `FieldValueInvalid`.
    pub reason: String,
    /// For people.
    pub message: String,
    /// The path of the field, e.g. `spec.containers[0].name`.
    pub field: String,
}

impl Cause {
    /// `Required value`.
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        Self { reason: "FieldValueRequired".into(), message: join("Required value", detail), field: field.into() }
    }

    /// `Invalid value: <value>: detail`; strings are quoted, other values are as JSON.
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self { reason: "FieldValueInvalid".into(), message: join(&format!("Invalid value: {}", shown(value)), detail), field: field.into() }
    }

    /// `Unsupported value: <value>: supported values: "a", "b"`.
    pub fn not_supported(field: impl Into<String>, value: &Value, supported: &[&str]) -> Self {
        let mut sorted: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        sorted.sort();
        let detail = if sorted.is_empty() { String::new() } else { format!("supported values: {}", sorted.join(", ")) };
        Self { reason: "FieldValueNotSupported".into(), message: join(&format!("Unsupported value: {}", shown(value)), &detail), field: field.into() }
    }

    /// `Duplicate value: <value>`.
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self { reason: "FieldValueDuplicate".into(), message: format!("Duplicate value: {}", shown(value)), field: field.into() }
    }

    /// `Not found: <value>`.
    pub fn not_found(field: impl Into<String>, value: &Value) -> Self {
        Self { reason: "FieldValueNotFound".into(), message: format!("Not found: {}", shown(value)), field: field.into() }
    }

    /// `Forbidden: detail`.
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self { reason: "FieldValueForbidden".into(), message: join("Forbidden", detail), field: field.into() }
    }

    /// `Too long: may not be more than N bytes`.
    pub fn too_long(field: impl Into<String>, max: usize) -> Self {
        Self { reason: "FieldValueTooLong".into(), message: format!("Too long: may not be more than {max} bytes"), field: field.into() }
    }

    /// `Too many: <n>: must have at most N items`.
    pub fn too_many(field: impl Into<String>, actual: usize, max: usize) -> Self {
        Self { reason: "FieldValueTooMany".into(), message: format!("Too many: {actual}: must have at most {max} items"), field: field.into() }
    }

    /// `Internal error: detail`.
    pub fn internal(field: impl Into<String>, detail: &str) -> Self {
        Self { reason: "InternalError".into(), message: join("Internal error", detail), field: field.into() }
    }
}

fn join(head: &str, detail: &str) -> String {
    if detail.is_empty() { head.to_owned() } else { format!("{head}: {detail}") }
}

/// A value as field errors show it.
pub fn shown(value: &Value) -> String {
    match value {
        Value::String(s) => crate::json::quote(s),
        Value::Null => "null".into(),
        other => other.to_string(),
    }
}

/// A failure that a request is answered with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// The HTTP code.
    pub code: u16,
    /// The machine's word, e.g. `NotFound`; empty is unknown.
    pub reason: String,
    /// For people.
    pub message: String,
    /// `details.name`.
    pub name: String,
    /// `details.group`.
    pub group: String,
    /// `details.kind` (upstream puts the plural resource here, or the kind for invalid objects).
    pub kind: String,
    /// `details.uid`.
    pub uid: String,
    /// `details.causes`.
    pub causes: Vec<Cause>,
    /// `details.retryAfterSeconds`.
    pub retry_after: u32,
    /// Whether `details` is present even when every member is empty.
    pub with_details: bool,
}

/// What an error is about: a resource as group and plural.
pub trait Qualified {
    /// The group; empty for the legacy one.
    fn group(&self) -> &str;
    /// The plural name.
    fn plural(&self) -> &str;
    /// `pods`, `deployments.apps`.
    fn display(&self) -> String {
        if self.group().is_empty() { self.plural().to_owned() } else { format!("{}.{}", self.plural(), self.group()) }
    }
}

impl Qualified for crate::Resource {
    fn group(&self) -> &str {
        &self.group
    }
    fn plural(&self) -> &str {
        &self.plural
    }
}

impl Qualified for (&str, &str) {
    fn group(&self) -> &str {
        self.0
    }
    fn plural(&self) -> &str {
        self.1
    }
}

impl Status {
    fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.into(),
            message: message.into(),
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after: 0,
            with_details: false,
        }
    }

    fn about(mut self, resource: &(impl Qualified + ?Sized), name: &str) -> Self {
        self.group = resource.group().into();
        self.kind = resource.plural().into();
        self.name = name.into();
        self.with_details = true;
        self
    }

    /// 404, an object that is not there.
    pub fn not_found(resource: &(impl Qualified + ?Sized), name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {} not found", resource.display(), quoted(name))).about(resource, name)
    }

    /// 404, a path that nothing answers.
    pub fn no_such_path() -> Self {
        Self { with_details: true, ..Self::new(404, "NotFound", "the server could not find the requested resource") }
    }

    /// 409, the name is taken.
    pub fn already_exists(resource: &(impl Qualified + ?Sized), name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} {} already exists", resource.display(), quoted(name))).about(resource, name)
    }

    /// 409 after generateName found no free name.
    pub fn generate_name_conflict(resource: &(impl Qualified + ?Sized), name: &str) -> Self {
        Self {
            retry_after: 1,
            ..Self::new(409, "AlreadyExists", format!("{} {} already exists, the server was not able to generate a unique name for the object", resource.display(), quoted(name))).about(resource, name)
        }
    }

    /// 409, with the reason why.
    pub fn conflict(resource: &(impl Qualified + ?Sized), name: &str, why: &str) -> Self {
        Self::new(409, "Conflict", format!("Operation cannot be fulfilled on {} {}: {why}", resource.display(), quoted(name))).about(resource, name)
    }

    /// 409, the stored object is newer than the one sent.
    pub fn modified(resource: &(impl Qualified + ?Sized), name: &str) -> Self {
        Self::conflict(resource, name, "the object has been modified; please apply your changes to the latest version and try again")
    }

    /// 409, server-side apply found other owners.
    pub fn apply_conflict(causes: Vec<Cause>, message: String) -> Self {
        Self { causes, with_details: true, ..Self::new(409, "Conflict", message) }
    }

    /// 422, an object that does not pass validation.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let mut seen = Vec::new();
        for cause in &causes {
            let line = format!("{}: {}", cause.field, cause.message);
            if !seen.contains(&line) {
                seen.push(line);
            }
        }
        let errors = match seen.len() {
            0 => String::new(),
            1 => format!(": {}", seen[0]),
            _ => format!(": [{}]", seen.join(", ")),
        };
        Self {
            group: group.into(),
            kind: kind.into(),
            name: name.into(),
            causes,
            with_details: true,
            ..Self::new(422, "Invalid", format!("{qualified} {} is invalid{errors}", quoted(name)))
        }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403 of an object's request by an admission plugin or the registry.
    pub fn forbidden(resource: &(impl Qualified + ?Sized), name: &str, why: &str) -> Self {
        let message = if resource.plural().is_empty() {
            format!("forbidden: {why}")
        } else if name.is_empty() {
            format!("{} is forbidden: {why}", resource.display())
        } else {
            format!("{} {} is forbidden: {why}", resource.display(), quoted(name))
        };
        Self::new(403, "Forbidden", message).about(resource, name)
    }

    /// 405.
    pub fn method_not_allowed(resource: &(impl Qualified + ?Sized), action: &str) -> Self {
        Self::new(405, "MethodNotAllowed", format!("{action} is not supported on resources of kind {}", quoted(&resource.display()))).about(resource, "")
    }

    /// 406.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        Self::new(406, "NotAcceptable", format!("only the following media types are accepted: {}", accepted.join(", ")))
    }

    /// 410, a resourceVersion or continue token that is too old.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 410 for a kind that is gone for good.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, "Gone", message)
    }

    /// 413.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity is too large: {}", message.into()))
    }

    /// 415.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        Self::new(415, "UnsupportedMediaType", format!("the body of the request was in an unknown format - accepted media types include: {}", accepted.join(", ")))
    }

    /// 429; `retry_after` in seconds.
    pub fn too_many_requests(message: impl Into<String>, retry_after: u32) -> Self {
        Self { retry_after, with_details: true, ..Self::new(429, "TooManyRequests", message) }
    }

    /// 500.
    pub fn internal(why: impl std::fmt::Display) -> Self {
        let message = format!("Internal error occurred: {why}");
        let cause = Cause { reason: String::new(), message: why.to_string(), field: String::new() };
        Self { causes: vec![cause], with_details: true, ..Self::new(500, "InternalError", message) }
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// 504; `retry_after` in seconds.
    pub fn timeout(message: impl Into<String>, retry_after: u32) -> Self {
        Self { retry_after, with_details: true, ..Self::new(504, "Timeout", format!("Timeout: {}", message.into())) }
    }

    /// Any other code with upstream's generic reason for it.
    pub fn generic(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self::new(code, reason, message)
    }

    /// The `Status` object.
    pub fn to_value(&self) -> Value {
        let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": self.message, "code": self.code});
        if !self.reason.is_empty() {
            status["reason"] = self.reason.clone().into();
        }
        if self.with_details || !self.causes.is_empty() || self.retry_after > 0 {
            let mut details = serde_json::Map::new();
            for (key, value) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)] {
                if !value.is_empty() {
                    details.insert(key.into(), value.clone().into());
                }
            }
            if !self.causes.is_empty() {
                details.insert("causes".into(), self.causes.iter().map(cause_value).collect());
            }
            if self.retry_after > 0 {
                details.insert("retryAfterSeconds".into(), self.retry_after.into());
            }
            status["details"] = Value::Object(details);
        }
        status
    }

    /// A `Status` object that says that all went well (deletions).
    pub fn success(resource: &(impl Qualified + ?Sized), name: &str, uid: &str) -> Value {
        let mut details = serde_json::Map::new();
        for (key, value) in [("name", name), ("group", resource.group()), ("kind", resource.plural()), ("uid", uid)] {
            if !value.is_empty() {
                details.insert(key.into(), value.into());
            }
        }
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
    }
}

fn quoted(name: &str) -> String {
    crate::json::quote(name)
}

fn cause_value(cause: &Cause) -> Value {
    let mut value = serde_json::Map::new();
    for (key, text) in [("reason", &cause.reason), ("message", &cause.message), ("field", &cause.field)] {
        if !text.is_empty() {
            value.insert(key.into(), text.clone().into());
        }
    }
    Value::Object(value)
}
