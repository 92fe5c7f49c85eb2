//! Sets of field paths, in the form of `fieldsV1`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// One path, and what is below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    /// Whether the path itself is in the set.
    pub member: bool,
    /// What is below it.
    pub children: Set,
}

/// How long the paths of one message may be together: those of deep objects are long and many.
const SHOWN_BYTES: usize = 4 << 20;

/// A set of paths. Each element is written as in `fieldsV1`: `f:name`, `k:{…}`, `v:…`, `i:n`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    nodes: BTreeMap<String, Node>,
}

impl Set {
    /// Whether it has no path.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Reads `fieldsV1`.
    pub fn parse(fields: &Value) -> Self {
        let mut set = Self::default();
        for (key, value) in fields.as_object().into_iter().flatten() {
            if key == "." {
                continue;
            }
            let children = Self::parse(value);
            let object = value.as_object();
            let member = object.is_none_or(|o| o.is_empty() || o.contains_key("."));
            set.nodes.insert(key.clone(), Node { member, children });
        }
        set
    }

    /// Writes `fieldsV1`.
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (key, node) in &self.nodes {
            let mut value = node.children.to_value();
            if let Value::Object(object) = &mut value
                && node.member
                && !object.is_empty()
            {
                object.insert(".".into(), Value::Object(Map::new()));
            }
            map.insert(key.clone(), value);
        }
        Value::Object(map)
    }

    /// The path of one element, made if it is missing; [`Set::settle`] removes it again if it stays empty.
    pub(super) fn node(&mut self, key: &str) -> &mut Node {
        self.nodes.entry(key.to_owned()).or_default()
    }

    /// Puts what was found below an element there, if it is something.
    pub(super) fn put(&mut self, key: &str, node: Node) {
        if node.member || !node.children.is_empty() {
            let mine = self.node(key);
            mine.member |= node.member;
            mine.children.add(node.children);
        }
    }

    /// Removes an element of which nothing is in the set.
    pub(super) fn settle(&mut self, key: &str) {
        if self.nodes.get(key).is_some_and(|n| !n.member && n.children.is_empty()) {
            self.nodes.remove(key);
        }
    }

    /// Takes the paths of another out.
    pub(super) fn subtract(&mut self, other: &Self) {
        for (key, theirs) in &other.nodes {
            let Some(mine) = self.nodes.get_mut(key) else { continue };
            mine.member &= !theirs.member;
            mine.children.subtract(&theirs.children);
            if !mine.member && mine.children.is_empty() {
                self.nodes.remove(key);
            }
        }
    }

    /// Adds the paths of another.
    pub(super) fn add(&mut self, other: Self) {
        if self.is_empty() {
            *self = other;
            return;
        }
        for (key, node) in other.nodes {
            match self.nodes.get_mut(&key) {
                Some(mine) => {
                    mine.member |= node.member;
                    mine.children.add(node.children);
                }
                None => {
                    self.nodes.insert(key, node);
                }
            }
        }
    }

    pub(super) fn insert(&mut self, path: &[String]) {
        match path {
            [] => {}
            [last] => self.nodes.entry(last.clone()).or_default().member = true,
            [first, rest @ ..] => self.nodes.entry(first.clone()).or_default().children.insert(rest),
        }
    }

    pub(super) fn child(&self, key: &str) -> Option<&Set> {
        self.nodes.get(key).map(|n| &n.children)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.nodes.contains_key(key)
    }

    pub(super) fn is_member(&self, key: &str) -> bool {
        self.nodes.get(key).is_some_and(|n| n.member)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &String> {
        self.nodes.keys()
    }

    /// Takes one path out, not those below it.
    pub(super) fn remove(&mut self, path: &[&str]) {
        self.take(path, false);
    }

    /// Takes a path and all below it out.
    pub(super) fn remove_tree(&mut self, path: &[&str]) {
        self.take(path, true);
    }

    fn take(&mut self, path: &[&str], tree: bool) {
        let Some((first, rest)) = path.split_first() else { return };
        let Some(node) = self.nodes.get_mut(*first) else { return };
        if rest.is_empty() {
            node.member = false;
            if tree {
                node.children = Self::default();
            }
        } else {
            node.children.take(rest, tree);
        }
        if !node.member && node.children.is_empty() {
            self.nodes.remove(*first);
        }
    }

    /// Paths in either.
    pub fn union(&self, other: &Self) -> Self {
        let mut out = self.clone();
        out.add(other.clone());
        out
    }

    /// Paths in this one and not in the other.
    pub fn difference(&self, other: &Self) -> Self {
        self.combine(other, |mine, theirs| mine && !theirs, true)
    }

    /// Paths in both.
    pub fn intersection(&self, other: &Self) -> Self {
        self.combine(other, |mine, theirs| mine && theirs, false)
    }

    fn combine(&self, other: &Self, keep: fn(bool, bool) -> bool, alone: bool) -> Self {
        let mut out = Self::default();
        for (key, node) in &self.nodes {
            let node = match other.nodes.get(key) {
                Some(theirs) => Node { member: keep(node.member, theirs.member), children: node.children.combine(&theirs.children, keep, alone) },
                None if alone => node.clone(),
                None => continue,
            };
            if node.member || !node.children.is_empty() {
                out.nodes.insert(key.clone(), node);
            }
        }
        out
    }

    /// Every path as error messages show it, e.g. `.spec.containers[name="c"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect(&mut String::new(), &mut out, &mut { SHOWN_BYTES });
        out
    }

    fn collect(&self, prefix: &mut String, out: &mut Vec<String>, left: &mut usize) {
        for (key, _) in self.nodes.iter().filter(|(_, n)| n.member) {
            let path = format!("{prefix}{}", element(key));
            let Some(rest) = left.checked_sub(path.len()) else { return };
            *left = rest;
            out.push(path);
        }
        for (key, node) in &self.nodes {
            let long = prefix.len();
            prefix.push_str(&element(key));
            node.children.collect(prefix, out, left);
            prefix.truncate(long);
        }
    }
}

fn element(key: &str) -> String {
    let (kind, rest) = key.split_once(':').unwrap_or(("f", key));
    match kind {
        "k" => match serde_json::from_str::<Map<String, Value>>(rest) {
            Ok(keys) => format!("[{}]", keys.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")),
            Err(_) => format!("[{rest}]"),
        },
        "v" => format!("[={rest}]"),
        "i" => format!("[{rest}]"),
        _ => format!(".{rest}"),
    }
}
