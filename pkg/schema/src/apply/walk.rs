//! Walking values by their kind: field sets, comparison, merge and pruning.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{Set, sets::Node};
use crate::types::{Field, Merge, Shape, Type, types};

/// How a value merges.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind<'s> {
    /// One value.
    Leaf,
    /// A struct of the table.
    Struct(&'static Type),
    /// A granular map.
    Map(&'static Shape),
    /// A list of distinct scalars.
    SetOf,
    /// A list keyed by fields of its structs.
    Keyed(&'static Type, &'static [&'static str]),
    /// No schema: objects are granular, lists are atomic.
    Open,
    /// An object of a custom resource's schema.
    Object(&'s Value),
    /// A custom resource itself: its metadata is known.
    Root(&'s Value),
    /// A list of a custom resource, keyed by fields of its items.
    Items(&'s Value),
}

impl<'s> Kind<'s> {
    pub fn root(ty: Option<&'static Type>, schema: Option<&'s Value>) -> Self {
        match (ty, schema) {
            (Some(ty), _) => Self::Struct(ty),
            (None, Some(schema)) if !open(schema) => Self::Root(schema),
            _ => Self::Open,
        }
    }

    /// The kind of a value of a custom resource's schema.
    fn of_schema(schema: &'s Value) -> Self {
        let text = |key: &str| schema.get(key).and_then(Value::as_str).unwrap_or_default();
        match text("type") {
            "object" if text("x-kubernetes-map-type") == "atomic" => Self::Leaf,
            "object" if open(schema) => Self::Open,
            "object" => Self::Object(schema),
            "array" => match text("x-kubernetes-list-type") {
                "set" => Self::SetOf,
                "map" if schema.get("x-kubernetes-list-map-keys").is_some_and(|k| k.as_array().is_some_and(|k| !k.is_empty())) => Self::Items(schema),
                _ => Self::Leaf,
            },
            "" if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) => Self::Open,
            _ => Self::Leaf,
        }
    }

    fn of_field(field: &'static Field) -> Self {
        match field.shape {
            Shape::Struct(id) if field.map_type != Merge::Atomic && !id.get().atomic => Self::Struct(id.get()),
            Shape::Map(element) if field.map_type != Merge::Atomic => Self::Map(element),
            Shape::List(_) if field.list_type == Merge::Set => Self::SetOf,
            Shape::List(Shape::Struct(id)) if field.list_type == Merge::Map && !field.list_keys.is_empty() => Self::Keyed(id.get(), &field.list_keys),
            _ => Self::Leaf,
        }
    }

    fn of_shape(shape: &'static Shape) -> Self {
        match shape {
            Shape::Struct(id) if !id.get().atomic => Self::Struct(id.get()),
            Shape::Map(element) => Self::Map(element),
            _ => Self::Leaf,
        }
    }

    /// The kind of a member; `None` when the schema does not know it.
    fn member(self, key: &str) -> Option<Self> {
        match self {
            Self::Struct(ty) => ty.field(key).map(Self::of_field),
            Self::Map(element) => Some(Self::of_shape(element)),
            Self::Root(_) if matches!(key, "apiVersion" | "kind") => Some(Self::Leaf),
            Self::Root(_) if key == "metadata" => {
                let meta = types().named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
                Some(meta.map_or(Self::Open, Self::Struct))
            }
            Self::Root(schema) | Self::Object(schema) => {
                if let Some(inner) = schema.get("properties").and_then(|p| p.get(key)) {
                    return Some(Self::of_schema(inner));
                }
                match schema.get("additionalProperties") {
                    Some(inner @ Value::Object(_)) => Some(Self::of_schema(inner)),
                    Some(Value::Bool(true)) => Some(Self::Open),
                    _ if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) => Some(Self::Open),
                    _ => None,
                }
            }
            _ => Some(Self::Open),
        }
    }

    /// The kind that a value really has: without a schema its form decides.
    fn of(self, value: &Value) -> Self {
        match (self, value) {
            (Self::Open, Value::Object(_)) => Self::Open,
            (Self::Open, _) => Self::Leaf,
            (kind, _) => kind,
        }
    }
}

/// Whether a schema says nothing about an object's members.
fn open(schema: &Value) -> bool {
    schema.get("properties").is_none_or(|p| p.as_object().is_none_or(Map::is_empty)) && !schema.get("additionalProperties").is_some_and(Value::is_object)
}

/// The path element of a list's item.
fn item_key(kind: Kind<'_>, item: &Value) -> Option<String> {
    match kind {
        Kind::SetOf => Some(format!("v:{}", escaped(item))),
        Kind::Keyed(ty, keys) => {
            let mut found = Map::new();
            for key in keys {
                match item.get(*key).filter(|v| !v.is_null()) {
                    Some(value) => found.insert((*key).to_owned(), value.clone()),
                    None => match ty.field(key).and_then(|f| f.default).and_then(|d| serde_json::from_str(d).ok()) {
                        Some(value) => found.insert((*key).to_owned(), value),
                        // A key that may be left out is the empty string.
                        None if ty.field(key).is_some_and(|f| f.blank_default) => found.insert((*key).to_owned(), "".into()),
                        None => None,
                    },
                };
            }
            if found.is_empty() {
                return None;
            }
            Some(format!("k:{}", escaped(&Value::Object(found))))
        }
        Kind::Items(schema) => {
            let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array)?;
            let mut found = Map::new();
            for key in keys.iter().filter_map(Value::as_str) {
                let given = || schema.get("items")?.get("properties")?.get(key)?.get("default");
                if let Some(value) = item.get(key).filter(|v| !v.is_null()).or_else(given) {
                    found.insert(key.to_owned(), value.clone());
                }
            }
            (!found.is_empty()).then(|| format!("k:{}", escaped(&Value::Object(found))))
        }
        _ => None,
    }
}

/// JSON as Go writes it: safe inside HTML.
fn escaped(value: &Value) -> String {
    let text = value.to_string();
    if !text.contains(['<', '>', '&']) {
        return text;
    }
    text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

fn element_kind(kind: Kind<'_>) -> Kind<'_> {
    match kind {
        Kind::Items(schema) => schema.get("items").map_or(Kind::Open, Kind::of_schema),
        Kind::Keyed(ty, _) if !ty.atomic => Kind::Struct(ty),
        _ => Kind::Leaf,
    }
}

/// The paths of what can only be replaced as a whole: atomic lists, maps and structs.
pub(super) fn atomics(value: &Value, kind: Kind<'_>, path: &str, out: &mut Vec<String>) {
    match (kind.of(value), value) {
        (Kind::Leaf, Value::Object(_) | Value::Array(_)) => out.push(path.to_owned()),
        (Kind::Struct(_) | Kind::Map(_) | Kind::Open | Kind::Object(_) | Kind::Root(_), Value::Object(map)) => {
            for (key, member) in map {
                if let Some(inner) = kind.member(key) {
                    atomics(member, inner, &format!("{path}.{key}"), out);
                }
            }
        }
        (Kind::Keyed(..) | Kind::Items(_), Value::Array(items)) => {
            for (i, item) in items.iter().enumerate() {
                atomics(item, element_kind(kind), &format!("{path}[{i}]"), out);
            }
        }
        _ => {}
    }
}

/// The paths of a configuration.
pub(super) fn fields(value: &Value, kind: Kind<'_>) -> Result<Set, String> {
    let mut root = Node::default();
    collect(value, kind, &mut Vec::new(), &mut root)?;
    Ok(root.children)
}

/// Whether the member is one that a custom resource's schema names.
fn declared(kind: Kind<'_>, key: &str) -> bool {
    matches!(kind, Kind::Object(schema) if schema.get("properties").is_some_and(|p| p.get(key).is_some()))
}

fn shown(path: &[String]) -> String {
    let mut set = Set::default();
    set.insert(path);
    set.paths().pop().unwrap_or_default()
}

/// Finds the paths of a value, below the one that is `node`'s; `path` is for messages.
fn collect(value: &Value, kind: Kind<'_>, path: &mut Vec<String>, node: &mut Node) -> Result<(), String> {
    match (kind.of(value), value) {
        (Kind::Struct(_) | Kind::Map(_) | Kind::Open | Kind::Object(_) | Kind::Root(_), Value::Object(map)) => {
            for (key, member) in map {
                path.push(format!("f:{key}"));
                let Some(inner) = kind.member(key) else {
                    return Err(format!("{}: field not declared in schema", shown(path)));
                };
                let element = path.last().map_or("", String::as_str).to_owned();
                let child = node.children.node(&element);
                collect(member, inner, path, child)?;
                let empty = member.is_null() || member.as_object().is_some_and(Map::is_empty);
                if empty || !matches!(kind, Kind::Struct(_) | Kind::Root(_)) && !declared(kind, key) {
                    child.member = true;
                }
                node.children.settle(&element);
                path.pop();
            }
            Ok(())
        }
        (Kind::SetOf | Kind::Keyed(..) | Kind::Items(_), Value::Array(items)) => {
            let mut times: HashMap<String, usize> = HashMap::new();
            for key in items.iter().filter_map(|item| item_key(kind, item)) {
                *times.entry(key).or_default() += 1;
            }
            for (i, item) in items.iter().enumerate() {
                let Some(key) = item_key(kind, item) else {
                    return Err(format!("{}: element {i}: associative list with keys has an element that omits all key fields {} (and doesn't have default values for any key fields)", shown(path), missing(kind)));
                };
                // What occurs more than once is owned as a whole.
                let once = times.get(&key) == Some(&1);
                let child = node.children.node(&key);
                path.push(key);
                if once {
                    collect(item, element_kind(kind), path, child)?;
                }
                child.member = true;
                path.pop();
            }
            Ok(())
        }
        (Kind::Leaf, _) => {
            node.member = true;
            Ok(())
        }
        (_, Value::Null) => Ok(()),
        (Kind::Struct(_) | Kind::Map(_) | Kind::Open | Kind::Object(_) | Kind::Root(_), other) => Err(format!("{}: expected map, got &{{{other}}}", shown(path))),
        (_, other) => Err(format!("{}: expected list, got &{{{other}}}", shown(path))),
    }
}

fn missing(kind: Kind<'_>) -> String {
    match kind {
        Kind::Keyed(_, keys) => format!("{keys:?}"),
        Kind::Items(schema) => schema.get("x-kubernetes-list-map-keys").map(ToString::to_string).unwrap_or_default(),
        _ => String::new(),
    }
}

/// What differs between two objects.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub added: Set,
    pub modified: Set,
    pub removed: Set,
}

pub(super) fn compare(old: &Value, new: &Value, kind: Kind<'_>) -> Changes {
    let mut c = Change::default();
    differ(Some(old), Some(new), kind, 0, &mut c);
    Changes { added: c.added.children, modified: c.modified.children, removed: c.removed.children }
}

/// What differs at one path and below it.
#[derive(Default)]
struct Change {
    added: Node,
    modified: Node,
    removed: Node,
}

impl Change {
    fn is_empty(&self) -> bool {
        let none = |n: &Node| !n.member && n.children.is_empty();
        none(&self.added) && none(&self.modified) && none(&self.removed)
    }
    fn put(&mut self, key: &str, below: Self) {
        self.added.children.put(key, below.added);
        self.modified.children.put(key, below.modified);
        self.removed.children.put(key, below.removed);
    }
}

fn leaf(old: Option<&Value>, new: Option<&Value>, c: &mut Change) {
    match (old, new) {
        (None, Some(_)) => c.added.member = true,
        (Some(_), None) => c.removed.member = true,
        (a, b) if a != b => c.modified.member = true,
        _ => {}
    }
}

fn blank(value: Option<&Value>) -> bool {
    value.is_none_or(|v| v.is_null() || v.as_object().is_some_and(Map::is_empty) || v.as_array().is_some_and(Vec::is_empty))
}

/// So many levels are compared as a whole before they are walked: most of an object stays as it is.
const WHOLE: usize = 6;

fn differ(old: Option<&Value>, new: Option<&Value>, kind: Kind<'_>, level: usize, c: &mut Change) {
    if old.is_none() && new.is_none() || level < WHOLE && old == new {
        return;
    }
    let form = kind.of(new.or(old).unwrap_or(&Value::Null));
    if matches!(form, Kind::Leaf) || (blank(old) && blank(new)) {
        return leaf(old, new, c);
    }
    match form {
        Kind::Struct(_) | Kind::Map(_) | Kind::Open | Kind::Object(_) | Kind::Root(_) => {
            if kind_differs(old, new, Value::is_object) {
                return leaf(old, new, c);
            }
            let none = Map::new();
            let (a, b) = (old.and_then(Value::as_object).unwrap_or(&none), new.and_then(Value::as_object).unwrap_or(&none));
            for key in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
                let mut below = Change::default();
                differ(a.get(key), b.get(key), form.member(key).unwrap_or(Kind::Leaf), level + 1, &mut below);
                if !below.is_empty() {
                    c.put(&format!("f:{key}"), below);
                }
            }
        }
        Kind::SetOf | Kind::Keyed(..) | Kind::Items(_) => {
            fn list<'v>(form: Kind<'_>, v: Option<&'v Value>) -> Vec<(String, &'v Value)> {
                let items = v.and_then(Value::as_array).into_iter().flatten();
                let mut out: Vec<(String, &Value)> = Vec::new();
                for item in items {
                    if let Some(key) = item_key(form, item)
                        && !out.iter().any(|(k, _)| *k == key)
                    {
                        out.push((key, item));
                    }
                }
                out
            }
            fn find<'v>(l: &[(String, &'v Value)], key: &str) -> Option<&'v Value> {
                l.iter().find(|(k, _)| k == key).map(|(_, v)| *v)
            }
            let (a, b) = (list(form, old), list(form, new));
            for (key, _) in a.iter().chain(b.iter().filter(|(k, _)| !a.iter().any(|(o, _)| o == k))) {
                let mut below = Change::default();
                differ(find(&a, key), find(&b, key), element_kind(form), level + 1, &mut below);
                c.put(key, below);
            }
        }
        Kind::Leaf => {}
    }
    match (old, new) {
        (None, Some(_)) => c.added.member = true,
        (Some(_), None) => c.removed.member = true,
        _ => {}
    }
}

fn kind_differs(old: Option<&Value>, new: Option<&Value>, is: fn(&Value) -> bool) -> bool {
    let odd = |v: Option<&Value>| v.is_some_and(|v| !v.is_null() && !is(v));
    odd(old) || odd(new)
}

/// Lays a configuration over an object.
pub(super) fn merge(live: &Value, config: &Value, kind: Kind<'_>) -> Value {
    match (kind.of(config), live, config) {
        (form @ (Kind::Struct(_) | Kind::Map(_) | Kind::Open | Kind::Object(_) | Kind::Root(_)), Value::Object(a), Value::Object(b)) => {
            // What both have is not copied before it is merged: of deep objects that would be much.
            let mut out = Map::new();
            for (key, current) in a {
                let merged = match b.get(key) {
                    Some(value) => merge(current, value, form.member(key).unwrap_or(Kind::Leaf)),
                    None => current.clone(),
                };
                out.insert(key.clone(), merged);
            }
            for (key, value) in b.iter().filter(|(k, _)| !a.contains_key(*k)) {
                out.insert(key.clone(), value.clone());
            }
            Value::Object(out)
        }
        (form @ (Kind::SetOf | Kind::Keyed(..) | Kind::Items(_)), Value::Array(a), Value::Array(b)) => {
            let keys = |l: &[Value]| l.iter().map(|i| item_key(form, i)).collect::<Vec<_>>();
            let (left, right) = (keys(a), keys(b));
            let mut out = Vec::with_capacity(a.len() + b.len());
            let mut next = 0;
            let take = |out: &mut Vec<Value>, r: usize| {
                let current = left.iter().position(|k| *k == right[r] && k.is_some()).map(|l| &a[l]);
                out.push(current.map_or_else(|| b[r].clone(), |c| merge(c, &b[r], element_kind(form))));
            };
            for (l, key) in left.iter().enumerate() {
                match right.iter().position(|r| r == key && key.is_some()) {
                    None => out.push(a[l].clone()),
                    // The configuration's order holds among its own items.
                    Some(r) => {
                        while next <= r {
                            take(&mut out, next);
                            next += 1;
                        }
                    }
                }
            }
            for r in next..b.len() {
                take(&mut out, r);
            }
            Value::Array(out)
        }
        _ => config.clone(),
    }
}

/// Removes what the applier owned before (`last`) and nobody owns now. What is emptied by it
/// becomes null.
pub(super) fn prune(value: &mut Value, last: &Set, owned: &Set, kind: Kind<'_>) {
    let before = blank(Some(value));
    prune_members(value, last, owned, kind);
    if !before && blank(Some(value)) {
        *value = Value::Null;
    }
}

fn prune_members(value: &mut Value, last: &Set, owned: &Set, kind: Kind<'_>) {
    let none = Set::default();
    match (kind.of(value), value) {
        (form @ (Kind::Struct(_) | Kind::Map(_) | Kind::Open | Kind::Object(_) | Kind::Root(_)), Value::Object(map)) => {
            for key in last.keys() {
                let Some(name) = key.strip_prefix("f:") else { continue };
                if !owned.has(key) {
                    map.remove(name);
                } else if let Some(inner) = map.get_mut(name) {
                    prune(inner, last.child(key).unwrap_or(&none), owned.child(key).unwrap_or(&none), form.member(name).unwrap_or(Kind::Leaf));
                }
            }
        }
        (form @ (Kind::SetOf | Kind::Keyed(..) | Kind::Items(_)), Value::Array(items)) => {
            items.retain_mut(|item| {
                let Some(key) = item_key(form, item).filter(|k| last.has(k)) else { return true };
                if !owned.has(&key) && last.is_member(&key) {
                    return false;
                }
                prune(item, last.child(&key).unwrap_or(&none), owned.child(&key).unwrap_or(&none), element_kind(form));
                true
            });
        }
        _ => {}
    }
}
