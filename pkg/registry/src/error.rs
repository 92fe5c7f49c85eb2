//! What goes wrong, as Kubernetes tells it: `Status` objects with reason, details and causes.

use serde_json::{Map, Value, json};

/// Which kind of wrong a field's value is; it decides text and cause reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// A value must be given.
    Required,
    /// The value does not follow the rules.
    Invalid,
    /// The value is none of an enumeration.
    NotSupported,
    /// The value occurs twice.
    Duplicate,
    /// The value may not be given here.
    Forbidden,
    /// The text is too long.
    TooLong,
    /// The list has too many items.
    TooMany,
    /// What the value names is absent.
    NotFound,
    /// The value is of the wrong type.
    TypeInvalid,
    /// The check itself failed.
    Internal,
}

impl FieldErrorKind {
    fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::NotFound => "FieldValueNotFound",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::NotFound => "Not found",
            Self::Internal => "Internal error",
        }
    }
}

/// One wrong field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// What is wrong.
    pub kind: FieldErrorKind,
    /// Path of the field, e.g. `spec.containers[0].image`.
    pub field: String,
    /// The value found, where the text shows it.
    pub value: Option<Value>,
    /// The sentence after the value.
    pub detail: String,
}

impl FieldError {
    /// A required field is missing.
    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { kind: FieldErrorKind::Required, field: field.into(), value: None, detail: detail.into() }
    }
    /// A value breaks a rule.
    pub fn invalid(
        field: impl Into<String>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            kind: FieldErrorKind::Invalid,
            field: field.into(),
            value: Some(value.into()),
            detail: detail.into(),
        }
    }
    /// A value is none of `supported`.
    pub fn not_supported(
        field: impl Into<String>,
        value: impl Into<Value>,
        supported: &[&str],
    ) -> Self {
        let mut names = supported.to_vec();
        names.sort_unstable();
        let list: Vec<String> = names.iter().map(|s| format!("{s:?}")).collect();
        Self {
            kind: FieldErrorKind::NotSupported,
            field: field.into(),
            value: Some(value.into()),
            detail: if list.is_empty() {
                String::new()
            } else {
                format!("supported values: {}", list.join(", "))
            },
        }
    }
    /// A value occurs twice.
    pub fn duplicate(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self {
            kind: FieldErrorKind::Duplicate,
            field: field.into(),
            value: Some(value.into()),
            detail: String::new(),
        }
    }
    /// A field may not be set (or changed) here.
    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { kind: FieldErrorKind::Forbidden, field: field.into(), value: None, detail: detail.into() }
    }
    /// A text has more than `max` bytes.
    pub fn too_long(field: impl Into<String>, max: usize) -> Self {
        Self {
            kind: FieldErrorKind::TooLong,
            field: field.into(),
            value: None,
            detail: format!("may not be more than {max} bytes"),
        }
    }
    /// What the value names is absent.
    pub fn not_found(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self {
            kind: FieldErrorKind::NotFound,
            field: field.into(),
            value: Some(value.into()),
            detail: String::new(),
        }
    }

    /// The text without the field's path.
    #[must_use]
    pub fn body(&self) -> String {
        let mut s = self.kind.text().to_owned();
        if let Some(v) = &self.value {
            s.push_str(": ");
            match v {
                Value::String(t) => s.push_str(&format!("{t:?}")),
                other => show(other, &mut s),
            }
        }
        if !self.detail.is_empty() {
            s.push_str(": ");
            s.push_str(&self.detail);
        }
        s
    }
}

/// Types whose members have an order of their own where they are shown.
const ORDERS: [&[&str]; 2] = [&["matchLabels", "matchExpressions"], &["apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion"]];

/// A value as JSON, the members of well-known types in their order.
fn show(v: &Value, out: &mut String) {
    let list = |out: &mut String, open: char, close: char, n: usize, each: &mut dyn FnMut(usize, &mut String)| {
        out.push(open);
        for i in 0..n {
            if i > 0 {
                out.push(',');
            }
            each(i, out);
        }
        out.push(close);
    };
    match v {
        Value::Object(m) => {
            let mut keys: Vec<&String> = m.keys().collect();
            if let Some(order) = ORDERS.iter().find(|o| keys.iter().all(|k| o.contains(&k.as_str()))) {
                keys.sort_by_key(|k| order.iter().position(|o| *o == k.as_str()));
            }
            list(out, '{', '}', keys.len(), &mut |i, out| {
                out.push_str(&Value::from(keys[i].as_str()).to_string());
                out.push(':');
                show(&m[keys[i]], out);
            });
        }
        Value::Array(a) => list(out, '[', ']', a.len(), &mut |i, out| show(&a[i], out)),
        other => out.push_str(&other.to_string()),
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// One entry of a status' `details.causes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable reason.
    pub reason: String,
    /// Text for people.
    pub message: String,
    /// The field's path; may be empty.
    pub field: String,
}

/// A status' `details`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// The object's name.
    pub name: String,
    /// Its group.
    pub group: String,
    /// Its kind or resource.
    pub kind: String,
    /// Its uid.
    pub uid: String,
    /// What exactly is wrong.
    pub causes: Vec<Cause>,
    /// Seconds after which to try again; `0` is unset.
    pub retry_after: u32,
}

/// A failed request, with everything its `Status` answer holds.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status.
    pub code: u16,
    /// Machine-readable reason; may be empty.
    pub reason: &'static str,
    /// Text for people.
    pub message: String,
    /// Details, if any.
    pub details: Option<Box<Details>>,
    /// The token with which an expired list may go on.
    pub continue_token: Option<String>,
}

fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

impl ApiError {
    /// An error with a code, a reason and a text.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None, continue_token: None }
    }
    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        let d = self.details.get_or_insert_with(Box::default);
        group.clone_into(&mut d.group);
        kind.clone_into(&mut d.kind);
        name.clone_into(&mut d.name);
        self
    }
    /// Adds a cause.
    #[must_use]
    pub fn with_cause(mut self, reason: &str, message: &str, field: &str) -> Self {
        self.details.get_or_insert_with(Box::default).causes.push(Cause {
            reason: reason.into(),
            message: message.into(),
            field: field.into(),
        });
        self
    }
    /// Asks the client to come again after `seconds`.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.details.get_or_insert_with(Box::default).retry_after = seconds;
        self
    }
    /// 404 for an object.
    #[must_use]
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {name:?} not found", qualified(group, resource)))
            .about(group, resource, name)
    }
    /// 404 for a path.
    #[must_use]
    pub fn no_resource() -> Self {
        let mut e =
            Self::new(404, "NotFound", "the server could not find the requested resource");
        e.details = Some(Box::default());
        e
    }
    /// 409 because the name is taken.
    #[must_use]
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        Self::new(
            409,
            "AlreadyExists",
            format!("{} {name:?} already exists", qualified(group, resource)),
        )
        .about(group, resource, name)
    }
    /// 409 with a text of one's own.
    #[must_use]
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        Self::new(
            409,
            "Conflict",
            format!("Operation cannot be fulfilled on {} {name:?}: {why}", qualified(group, resource)),
        )
        .about(group, resource, name)
    }
    /// 409 because somebody else wrote first.
    #[must_use]
    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        Self::conflict(
            group,
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }
    /// 403 about an object.
    #[must_use]
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let what = qualified(group, resource);
        let message = if name.is_empty() {
            format!("{what} is forbidden: {why}")
        } else {
            format!("{what} {name:?} is forbidden: {why}")
        };
        Self::new(403, "Forbidden", message).about(group, resource, name)
    }
    /// 422 with its field errors.
    #[must_use]
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let mut texts: Vec<String> = Vec::new();
        for e in errors {
            let t = e.to_string();
            if !texts.contains(&t) {
                texts.push(t);
            }
        }
        let joined = match texts.len() {
            1 => texts.swap_remove(0),
            _ => format!("[{}]", texts.join(", ")),
        };
        let mut e = Self::new(
            422,
            "Invalid",
            format!("{} {name:?} is invalid: {joined}", qualified(group, kind)),
        )
        .about(group, kind, name);
        if let Some(d) = &mut e.details {
            d.causes = errors.iter().map(|f| Cause { reason: f.kind.reason().into(), message: f.body(), field: f.field.clone() }).collect();
        }
        e
    }
    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }
    /// 401.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }
    /// 405.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        let mut e = Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        );
        e.details = Some(Box::default());
        e
    }
    /// 410: the version asked for is gone.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }
    /// 500.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        let text = message.to_string();
        Self::new(500, "InternalError", format!("Internal error occurred: {text}"))
            .with_cause("", &text, "")
    }
    /// 504: the version asked for has not come yet.
    #[must_use]
    pub fn future_version(asked: u64, now: u64) -> Self {
        Self::new(504, "Timeout", format!("Too large resource version: {asked}, current: {now}"))
            .with_cause("ResourceVersionTooLarge", "Too large resource version", "")
            .retry_after(1)
    }
    /// Whether this is a 404.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code == 404
    }

    /// The `Status` object.
    #[must_use]
    pub fn status(&self) -> Value {
        let mut meta = Map::new();
        if let Some(t) = &self.continue_token {
            meta.insert("continue".into(), json!(t));
        }
        let mut s = Map::new();
        s.insert("kind".into(), json!("Status"));
        s.insert("apiVersion".into(), json!("v1"));
        s.insert("metadata".into(), Value::Object(meta));
        s.insert("status".into(), json!("Failure"));
        s.insert("message".into(), json!(self.message));
        if !self.reason.is_empty() {
            s.insert("reason".into(), json!(self.reason));
        }
        if let Some(d) = &self.details {
            let mut m = Map::new();
            for (k, v) in [("name", &d.name), ("group", &d.group), ("kind", &d.kind), ("uid", &d.uid)] {
                if !v.is_empty() {
                    m.insert(k.into(), json!(v));
                }
            }
            if !d.causes.is_empty() {
                let causes: Vec<Value> = d
                    .causes
                    .iter()
                    .map(|c| {
                        let mut m = Map::new();
                        for (k, v) in
                            [("reason", &c.reason), ("message", &c.message), ("field", &c.field)]
                        {
                            if !v.is_empty() {
                                m.insert(k.into(), json!(v));
                            }
                        }
                        Value::Object(m)
                    })
                    .collect();
                m.insert("causes".into(), Value::Array(causes));
            }
            if d.retry_after > 0 {
                m.insert("retryAfterSeconds".into(), json!(d.retry_after));
            }
            s.insert("details".into(), Value::Object(m));
        }
        s.insert("code".into(), json!(self.code));
        Value::Object(s)
    }
}

impl From<knarr_storage::Error> for ApiError {
    fn from(e: knarr_storage::Error) -> Self {
        match e {
            knarr_storage::Error::Compacted { .. } => Self::expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.",
            ),
            knarr_storage::Error::Future { requested, current } => {
                Self::future_version(requested, current)
            }
            other => Self::internal(other),
        }
    }
}
