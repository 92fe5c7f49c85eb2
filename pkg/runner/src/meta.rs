//! Small facts about objects' metadata that every controller needs.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector, LabelSelectorRequirement, ObjectMeta, OwnerReference, Time,
};
use kube::Resource;
use std::collections::BTreeMap;
use std::fmt;

/// Labels or annotations.
pub type Labels = BTreeMap<String, String>;

/// Namespace and name of an object; the namespace is empty for cluster-wide kinds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Namespace, or the empty string.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// A key from its parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
    /// The key of an object.
    pub fn of(m: &ObjectMeta) -> Self {
        Self {
            namespace: m.namespace.clone().unwrap_or_default(),
            name: m.name.clone().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// The resource version as a number; 0 where it is missing or no number.
pub fn rv(m: &ObjectMeta) -> u64 {
    m.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// The UID, or the empty string.
pub fn uid(m: &ObjectMeta) -> &str {
    m.uid.as_deref().unwrap_or("")
}

/// The name, or the empty string.
pub fn name(m: &ObjectMeta) -> &str {
    m.name.as_deref().unwrap_or("")
}

/// The namespace, or the empty string.
pub fn ns(m: &ObjectMeta) -> &str {
    m.namespace.as_deref().unwrap_or("")
}

/// Whether deletion has been asked for.
pub fn deleting(m: &ObjectMeta) -> bool {
    m.deletion_timestamp.is_some()
}

/// A label's value.
pub fn label<'a>(m: &'a ObjectMeta, k: &str) -> Option<&'a str> {
    m.labels.as_ref().and_then(|l| l.get(k)).map(String::as_str)
}

/// An annotation's value.
pub fn annotation<'a>(m: &'a ObjectMeta, k: &str) -> Option<&'a str> {
    m.annotations.as_ref().and_then(|l| l.get(k)).map(String::as_str)
}

/// The owner reference marked as controller.
pub fn controller_of(m: &ObjectMeta) -> Option<&OwnerReference> {
    m.owner_references.as_ref()?.iter().find(|o| o.controller == Some(true))
}

/// Whether this object is controlled by the owner with that UID.
pub fn controlled_by(m: &ObjectMeta, owner_uid: &str) -> bool {
    controller_of(m).is_some_and(|o| o.uid == owner_uid)
}

/// A controller reference to `owner` that blocks its foreground deletion.
pub fn owner_ref<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The present moment.
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// A moment in whole seconds, as the API keeps it.
pub fn time(t: Timestamp) -> Time {
    Time(Timestamp::from_second(t.as_second()).unwrap_or(t))
}

/// Seconds from `a` to `b` (negative where `b` is earlier).
pub fn seconds_between(a: Timestamp, b: Timestamp) -> f64 {
    (b.as_millisecond() - a.as_millisecond()) as f64 / 1000.0
}

/// Whether every pair of `sel` is among `labels`. An empty map matches everything.
pub fn map_matches(sel: &Labels, labels: Option<&Labels>) -> bool {
    sel.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v))
}

fn requirement_matches(r: &LabelSelectorRequirement, labels: Option<&Labels>) -> bool {
    let value = labels.and_then(|l| l.get(&r.key));
    let listed = |v: &String| r.values.as_ref().is_some_and(|vs| vs.contains(v));
    match r.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

/// Whether a label selector matches; an empty selector matches everything.
pub fn selects(sel: &LabelSelector, labels: Option<&Labels>) -> bool {
    sel.match_labels.as_ref().is_none_or(|m| map_matches(m, labels))
        && sel
            .match_expressions
            .as_ref()
            .is_none_or(|rs| rs.iter().all(|r| requirement_matches(r, labels)))
}

/// Whether a selector says nothing (and so matches everything).
pub fn selector_is_empty(sel: &LabelSelector) -> bool {
    sel.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && sel.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// FNV-1a over bytes: the stable short hash behind template hashes.
pub fn fnv32a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193))
}

/// A number in the alphabet Kubernetes uses for generated names: no vowels, no look-alikes.
pub fn safe_encode(text: &str) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    text.bytes().map(|b| char::from(ALPHABET[usize::from(b) % ALPHABET.len()])).collect()
}

/// The hash of a template (its JSON) and a collision count, as used in object names.
pub fn template_hash<T: serde::Serialize>(template: &T, collisions: Option<i32>) -> String {
    let mut bytes = serde_json::to_vec(template).unwrap_or_default();
    if let Some(c) = collisions {
        bytes.extend_from_slice(&c.to_le_bytes());
    }
    safe_encode(&fnv32a(&bytes).to_string())
}

/// Resolves an int-or-percent against a total.
pub fn scaled(
    v: &k8s_openapi::apimachinery::pkg::util::intstr::IntOrString,
    total: i32,
    round_up: bool,
) -> Option<i32> {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    match v {
        IntOrString::Int(i) => Some(*i),
        IntOrString::String(s) => {
            let p: i64 = s.strip_suffix('%')?.parse().ok()?;
            let x = p * i64::from(total);
            let r = if round_up { (x + 99).div_euclid(100) } else { x.div_euclid(100) };
            i32::try_from(r).ok()
        }
    }
}
