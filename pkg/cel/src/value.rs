//! Values. JSON is not copied: a value over JSON borrows it and looks at members when asked.

use std::{cmp::Ordering, collections::BTreeMap, rc::Rc};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map as JsonMap, Value as Json, json};

use crate::{
    authorizer::{Check, Decision},
    error::EvalError,
    functions::{format::Format, ip::Cidr, semver::Semver, url::Url},
    schema,
    types::{Decl, ListKind, Type},
};

/// Text that is borrowed or shared.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    /// From the input.
    Borrowed(&'a str),
    /// Made by the expression.
    Owned(Rc<str>),
}

impl Text<'_> {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Text::Borrowed(s) => s,
            Text::Owned(s) => s,
        }
    }
}

/// A map's key.
#[derive(Clone, Debug)]
pub enum Key<'a> {
    /// A boolean.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// An unsigned integer.
    Uint(u64),
    /// Text.
    String(Text<'a>),
}

impl Key<'_> {
    fn rank(&self) -> u8 {
        match self {
            Key::Bool(_) => 0,
            Key::Int(_) | Key::Uint(_) => 1,
            Key::String(_) => 2,
        }
    }
}

impl Ord for Key<'_> {
    fn cmp(&self, o: &Self) -> Ordering {
        match (self, o) {
            (Key::Bool(a), Key::Bool(b)) => a.cmp(b),
            (Key::Int(a), Key::Int(b)) => a.cmp(b),
            (Key::Uint(a), Key::Uint(b)) => a.cmp(b),
            (Key::Int(a), Key::Uint(b)) => i128::from(*a).cmp(&i128::from(*b)),
            (Key::Uint(a), Key::Int(b)) => i128::from(*a).cmp(&i128::from(*b)),
            (Key::String(a), Key::String(b)) => a.as_str().cmp(b.as_str()),
            (a, b) => a.rank().cmp(&b.rank()),
        }
    }
}
impl PartialOrd for Key<'_> {
    fn partial_cmp(&self, o: &Self) -> Option<Ordering> {
        Some(self.cmp(o))
    }
}
impl PartialEq for Key<'_> {
    fn eq(&self, o: &Self) -> bool {
        self.cmp(o) == Ordering::Equal
    }
}
impl Eq for Key<'_> {}

/// Values of the Kubernetes libraries.
#[derive(Clone, Debug)]
pub enum Opaque {
    /// A URL.
    Url(Url),
    /// An IP address.
    Ip(std::net::IpAddr),
    /// A block of addresses.
    Cidr(Cidr),
    /// A quantity.
    Quantity(crate::functions::quantity::Quantity),
    /// A semantic version.
    Semver(Semver),
    /// A named format.
    Format(Format),
    /// The authorizer, for the user of the request or a service account.
    Authorizer(Check),
    /// A check that is being put together.
    PathCheck(Check),
    /// The same, of a group.
    GroupCheck(Check),
    /// The same, of a resource.
    ResourceCheck(Check),
    /// What the authorizer says.
    Decision(Decision),
}

/// A struct that an expression has made.
#[derive(Debug)]
pub struct Struct<'a> {
    /// The type's name.
    pub name: String,
    /// Its fields.
    pub fields: BTreeMap<String, Value<'a>>,
}

/// A value; `'a` is the input's life.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// `null`.
    Null,
    /// A boolean.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// An unsigned integer.
    Uint(u64),
    /// A number.
    Double(f64),
    /// Text.
    String(Text<'a>),
    /// Bytes.
    Bytes(Rc<[u8]>),
    /// A duration.
    Duration(TimeDelta),
    /// A point in time.
    Timestamp(DateTime<Utc>),
    /// A list that was made.
    List(Rc<Vec<Value<'a>>>),
    /// A map that was made.
    Map(Rc<BTreeMap<Key<'a>, Value<'a>>>),
    /// A list of the input.
    JsonList(&'a [Json], &'a Decl),
    /// A map or struct of the input.
    JsonMap(&'a JsonMap<String, Json>, &'a Decl),
    /// A struct that was made.
    Struct(Rc<Struct<'a>>),
    /// An optional value.
    Optional(Option<Rc<Value<'a>>>),
    /// A type.
    Type(Rc<str>),
    /// A library's value.
    Opaque(Rc<Opaque>),
}

static ANY: Decl = Decl::ANY;

impl<'a> Value<'a> {
    /// A value over JSON of a declared type.
    #[must_use]
    pub fn json(v: &'a Json, decl: &'a Decl) -> Self {
        schema::wrap(v, decl)
    }
    /// A value over JSON of any type.
    #[must_use]
    pub fn any(v: &'a Json) -> Self {
        schema::wrap(v, &ANY)
    }
    /// Text of one's own.
    #[must_use]
    pub fn text(s: impl Into<Rc<str>>) -> Self {
        Value::String(Text::Owned(s.into()))
    }
    /// A list of one's own.
    #[must_use]
    pub fn list(all: Vec<Value<'a>>) -> Self {
        Value::List(Rc::new(all))
    }
    /// The authorizer, as the request's user.
    #[must_use]
    pub fn authorizer() -> Self {
        Self::opaque(Opaque::Authorizer(Check::default()))
    }
    /// A check of a resource that wants its verb.
    #[must_use]
    pub fn resource_check(c: Check) -> Self {
        Self::opaque(Opaque::ResourceCheck(c))
    }
    pub(crate) fn opaque(o: Opaque) -> Self {
        Value::Opaque(Rc::new(o))
    }
    pub(crate) fn some(v: Value<'a>) -> Self {
        Value::Optional(Some(Rc::new(v)))
    }
    /// The text, if it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(t) => Some(t.as_str()),
            _ => None,
        }
    }
    /// The boolean, if it is one.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// The type's name, as `type()` and messages have it.
    #[must_use]
    pub fn type_name(&self) -> String {
        match self {
            Value::Null => "null_type",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::String(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::Duration(_) => "google.protobuf.Duration",
            Value::Timestamp(_) => "google.protobuf.Timestamp",
            Value::List(_) | Value::JsonList(..) => "list",
            Value::JsonMap(_, Decl { ty: Type::Object(o), .. }) => return o.name.clone(),
            Value::Map(_) | Value::JsonMap(..) => "map",
            Value::Struct(s) => return s.name.clone(),
            Value::Optional(_) => "optional_type",
            Value::Type(_) => "type",
            Value::Opaque(o) => match o.as_ref() {
                Opaque::Url(_) => "kubernetes.URL",
                Opaque::Ip(_) => "net.IP",
                Opaque::Cidr(_) => "net.CIDR",
                Opaque::Quantity(_) => "kubernetes.Quantity",
                Opaque::Semver(_) => "kubernetes.Semver",
                Opaque::Format(_) => "kubernetes.NamedFormat",
                Opaque::Authorizer(_) => "kubernetes.authorization.Authorizer",
                Opaque::PathCheck(_) => "kubernetes.authorization.PathCheck",
                Opaque::GroupCheck(_) => "kubernetes.authorization.GroupCheck",
                Opaque::ResourceCheck(_) => "kubernetes.authorization.ResourceCheck",
                Opaque::Decision(_) => "kubernetes.authorization.Decision",
            },
        }
        .to_owned()
    }

    /// Elements, characters, bytes or entries; 1 for what has no size.
    #[must_use]
    pub fn size(&self) -> u64 {
        let n = match self {
            Value::String(t) => t.as_str().chars().count(),
            Value::Bytes(b) => b.len(),
            Value::List(l) => l.len(),
            Value::JsonList(l, _) => l.len(),
            Value::Map(m) => m.len(),
            Value::JsonMap(m, _) => m.len(),
            Value::Optional(Some(v)) => return v.size(),
            _ => 1,
        };
        n as u64
    }

    /// The elements of a list.
    pub(crate) fn elements(&self) -> Option<Vec<Value<'a>>> {
        match self {
            Value::List(l) => Some(l.as_ref().clone()),
            Value::JsonList(l, d) => {
                let inner = element(d);
                Some(l.iter().map(|v| schema::wrap(v, inner)).collect())
            }
            _ => None,
        }
    }

    /// The element at a place of a list.
    pub(crate) fn element(&self, i: usize) -> Option<Value<'a>> {
        match self {
            Value::List(l) => l.get(i).cloned(),
            Value::JsonList(l, d) => l.get(i).map(|v| schema::wrap(v, element(d))),
            _ => None,
        }
    }

    /// The keys of a map.
    pub(crate) fn keys(&self) -> Option<Vec<Key<'a>>> {
        match self {
            Value::Map(m) => Some(m.keys().cloned().collect()),
            Value::JsonMap(m, Decl { ty: Type::Object(o), .. }) => {
                Some(o.fields.iter().filter(|(_, f)| m.contains_key(&f.name)).map(|(k, _)| Key::String(Text::Owned(k.as_str().into()))).collect())
            }
            Value::JsonMap(m, _) => Some(m.keys().map(|k| Key::String(Text::Borrowed(k))).collect()),
            _ => None,
        }
    }

    /// The member of a map or struct; `None` if absent.
    pub(crate) fn member(&self, key: &str) -> Option<Value<'a>> {
        match self {
            Value::Map(m) => m.get(&Key::String(Text::Borrowed(key))).cloned(),
            Value::JsonMap(m, d) => {
                let inner = inner(d, key)?;
                let v = match &d.ty {
                    Type::Object(o) => m.get(&o.fields.get(key)?.name)?,
                    _ => m.get(key)?,
                };
                // A null that the schema does not know is as good as absent.
                if v.is_null() && !inner.ty.is_dyn() {
                    return None;
                }
                Some(schema::wrap(v, inner))
            }
            Value::Struct(s) => s.fields.get(key).cloned(),
            _ => None,
        }
    }

    /// The entry of a map by any key.
    pub(crate) fn entry(&self, key: &Key<'_>) -> Option<Value<'a>> {
        match (self, key) {
            (Value::Map(m), k) => m.get(k).cloned(),
            (_, Key::String(s)) => self.member(s.as_str()),
            _ => None,
        }
    }

    /// The value as a map's key.
    pub(crate) fn key(&self) -> Option<Key<'a>> {
        Some(match self {
            Value::Bool(b) => Key::Bool(*b),
            Value::Int(i) => Key::Int(*i),
            Value::Uint(u) => Key::Uint(*u),
            Value::Double(d) if d.fract() == 0.0 && d.abs() < 9e15 => Key::Int(*d as i64),
            Value::String(t) => Key::String(t.clone()),
            _ => return None,
        })
    }

    /// Whether two values are equal; numbers of different types are compared by value.
    #[must_use]
    pub fn equals(&self, o: &Value<'_>) -> bool {
        self.equal(o, 0)
    }

    fn equal(&self, o: &Value<'_>, depth: usize) -> bool {
        if depth > 200 {
            return false;
        }
        match (self, o) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::String(a), Value::String(b)) => a.as_str() == b.as_str(),
            (Value::Bytes(a), Value::Bytes(b)) => a == b,
            (Value::Duration(a), Value::Duration(b)) => a == b,
            (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
            (Value::Type(a), Value::Type(b)) => a == b,
            (Value::Optional(a), Value::Optional(b)) => match (a, b) {
                (None, None) => true,
                (Some(a), Some(b)) => a.equal(b, depth + 1),
                _ => false,
            },
            (Value::Opaque(a), Value::Opaque(b)) => same_opaque(a, b),
            (Value::List(_) | Value::JsonList(..), Value::List(_) | Value::JsonList(..)) => self.equal_lists(o, depth),
            (Value::Struct(a), Value::Struct(b)) => {
                a.name == b.name && a.fields.len() == b.fields.len() && a.fields.iter().all(|(k, v)| b.fields.get(k).is_some_and(|w| v.equal(w, depth + 1)))
            }
            (Value::Map(_) | Value::JsonMap(..), Value::Map(_) | Value::JsonMap(..)) => {
                let (Some(a), Some(b)) = (self.keys(), o.keys()) else { return false };
                a.len() == b.len() && a.iter().all(|k| matches!((self.entry(k), o.entry(k)), (Some(x), Some(y)) if x.equal(&y, depth + 1)))
            }
            _ => self.compare(o) == Some(Ordering::Equal) && self.is_number() && o.is_number(),
        }
    }

    fn equal_lists(&self, o: &Value<'_>, depth: usize) -> bool {
        let (Some(a), Some(b)) = (self.elements(), o.elements()) else { return false };
        if a.len() != b.len() {
            return false;
        }
        match self.list_kind().or_else(|| o.list_kind()) {
            None | Some(ListKind::Atomic) => a.iter().zip(&b).all(|(x, y)| x.equal(y, depth + 1)),
            Some(ListKind::Set) => a.iter().all(|x| b.iter().any(|y| x.equal(y, depth + 1))),
            Some(ListKind::Map(keys)) => a.iter().all(|x| b.iter().any(|y| same_keys(x, y, keys) && x.equal(y, depth + 1))),
        }
    }

    /// How a list of the input is compared.
    pub(crate) fn list_kind(&self) -> Option<&'a ListKind> {
        match self {
            Value::JsonList(_, d) if d.list != ListKind::Atomic => Some(&d.list),
            _ => None,
        }
    }

    pub(crate) fn is_number(&self) -> bool {
        matches!(self, Value::Int(_) | Value::Uint(_) | Value::Double(_))
    }

    /// The order of two values of comparable types.
    #[must_use]
    pub fn compare(&self, o: &Value<'_>) -> Option<Ordering> {
        use Value::{Bool, Bytes, Double, Duration, Int, String, Timestamp, Uint};
        let float = |d: &f64, i: i128| -> Option<Ordering> {
            if d.is_nan() {
                return None;
            }
            if *d >= 1e30 {
                return Some(Ordering::Greater);
            }
            if *d <= -1e30 {
                return Some(Ordering::Less);
            }
            let whole = d.trunc() as i128;
            Some(whole.cmp(&i).then_with(|| d.fract().partial_cmp(&0.0).unwrap_or(Ordering::Equal)))
        };
        Some(match (self, o) {
            (Bool(a), Bool(b)) => a.cmp(b),
            (Int(a), Int(b)) => a.cmp(b),
            (Uint(a), Uint(b)) => a.cmp(b),
            (Int(a), Uint(b)) => i128::from(*a).cmp(&i128::from(*b)),
            (Uint(a), Int(b)) => i128::from(*a).cmp(&i128::from(*b)),
            (Double(a), Double(b)) => return a.partial_cmp(b),
            (Double(a), Int(b)) => return float(a, i128::from(*b)),
            (Double(a), Uint(b)) => return float(a, i128::from(*b)),
            (Int(a), Double(b)) => return float(b, i128::from(*a)).map(Ordering::reverse),
            (Uint(a), Double(b)) => return float(b, i128::from(*a)).map(Ordering::reverse),
            (String(a), String(b)) => a.as_str().cmp(b.as_str()),
            (Bytes(a), Bytes(b)) => a.cmp(b),
            (Duration(a), Duration(b)) => a.cmp(b),
            (Timestamp(a), Timestamp(b)) => a.cmp(b),
            _ => return None,
        })
    }

    /// The value as JSON, for messages of policies and for patches.
    ///
    /// # Errors
    /// A value has no form in JSON.
    pub fn to_json(&self) -> Result<Json, EvalError> {
        self.jsoned(0)
    }

    fn jsoned(&self, depth: usize) -> Result<Json, EvalError> {
        if depth > 200 {
            return Err(EvalError::new("the value is nested too deeply"));
        }
        Ok(match self {
            Value::Null => Json::Null,
            Value::Bool(b) => json!(b),
            Value::Int(i) => json!(i),
            Value::Uint(u) => json!(u),
            Value::Double(d) if d.fract() == 0.0 && d.abs() < 9e15 => json!(*d as i64),
            Value::Double(d) => json!(d),
            Value::String(t) => json!(t.as_str()),
            Value::Bytes(b) => {
                use base64::Engine;
                json!(base64::engine::general_purpose::STANDARD.encode(b))
            }
            Value::Duration(d) => json!(crate::functions::time::seconds(d)),
            Value::Timestamp(t) => json!(crate::functions::time::rfc3339(t)),
            Value::JsonList(l, _) => Json::Array(l.to_vec()),
            Value::JsonMap(m, _) => Json::Object((*m).clone()),
            Value::List(l) => Json::Array(l.iter().map(|v| v.jsoned(depth + 1)).collect::<Result<_, _>>()?),
            Value::Map(m) => {
                let mut out = JsonMap::new();
                for (k, v) in m.iter() {
                    let k = match k {
                        Key::String(t) => t.as_str().to_owned(),
                        Key::Int(i) => i.to_string(),
                        Key::Uint(u) => u.to_string(),
                        Key::Bool(b) => b.to_string(),
                    };
                    out.insert(k, v.jsoned(depth + 1)?);
                }
                Json::Object(out)
            }
            Value::Struct(s) => {
                let mut out = JsonMap::new();
                for (k, v) in &s.fields {
                    out.insert(crate::unescape(k), v.jsoned(depth + 1)?);
                }
                Json::Object(out)
            }
            Value::Optional(Some(v)) => v.jsoned(depth + 1)?,
            Value::Optional(None) => Json::Null,
            Value::Opaque(o) => match o.as_ref() {
                Opaque::Quantity(q) => json!(q.to_string()),
                Opaque::Ip(ip) => json!(ip.to_string()),
                _ => return Err(EvalError::new(format!("unsupported type for JSON: {}", self.type_name()))),
            },
            Value::Type(_) => return Err(EvalError::new("unsupported type for JSON: type")),
        })
    }
}

/// Whether two list elements have the same keys.
pub(crate) fn same_keys(a: &Value<'_>, b: &Value<'_>, keys: &[String]) -> bool {
    keys.iter().all(|k| match (a.member(&crate::escape(k)), b.member(&crate::escape(k))) {
        (Some(x), Some(y)) => x.equals(&y),
        (None, None) => true,
        _ => false,
    })
}

fn same_opaque(a: &Opaque, b: &Opaque) -> bool {
    match (a, b) {
        (Opaque::Url(a), Opaque::Url(b)) => a.text == b.text,
        (Opaque::Ip(a), Opaque::Ip(b)) => a == b,
        (Opaque::Cidr(a), Opaque::Cidr(b)) => a == b,
        (Opaque::Quantity(a), Opaque::Quantity(b)) => a.compare(b) == Ordering::Equal,
        (Opaque::Semver(a), Opaque::Semver(b)) => a.compare(b) == Ordering::Equal,
        (Opaque::Format(a), Opaque::Format(b)) => a == b,
        (Opaque::Decision(a), Opaque::Decision(b)) => a == b,
        (Opaque::Authorizer(a), Opaque::Authorizer(b)) | (Opaque::PathCheck(a), Opaque::PathCheck(b)) | (Opaque::GroupCheck(a), Opaque::GroupCheck(b)) | (Opaque::ResourceCheck(a), Opaque::ResourceCheck(b)) => a == b,
        _ => false,
    }
}

/// The declaration of a list's elements.
pub(crate) fn element(d: &Decl) -> &Decl {
    match &d.ty {
        Type::List(e) => e,
        _ => &ANY,
    }
}

/// The declaration of a member; `None` if a struct has no such field.
fn inner<'d>(d: &'d Decl, key: &str) -> Option<&'d Decl> {
    match &d.ty {
        Type::Object(o) => o.fields.get(key).map(|f| &f.decl),
        Type::Map(_, v) => Some(v),
        _ => Some(&ANY),
    }
}
