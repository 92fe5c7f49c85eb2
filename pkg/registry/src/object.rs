//! Reading and writing the common parts of an object held as a JSON value.

use serde_json::{Map, Value, json};

/// Short ways to an object's metadata. Absent and empty are the same.
pub trait Object {
    /// The string at a path of keys, or `""`.
    fn str_at(&self, path: &[&str]) -> &str;
    /// The value at a path of keys.
    fn at(&self, path: &[&str]) -> Option<&Value>;
    /// The array at a path of keys, or an empty slice.
    fn list_at(&self, path: &[&str]) -> &[Value];
    /// Sets the value at a path, making maps on the way.
    fn set_at(&mut self, path: &[&str], value: Value);
    /// Takes the value at a path out.
    fn take_at(&mut self, path: &[&str]) -> Option<Value>;
    /// The metadata map, made if absent.
    fn meta_mut(&mut self) -> &mut Map<String, Value>;
    /// `metadata.name`.
    fn name(&self) -> &str {
        self.str_at(&["metadata", "name"])
    }
    /// `metadata.namespace`.
    fn namespace(&self) -> &str {
        self.str_at(&["metadata", "namespace"])
    }
    /// `metadata.uid`.
    fn uid(&self) -> &str {
        self.str_at(&["metadata", "uid"])
    }
    /// `metadata.resourceVersion`.
    fn resource_version(&self) -> &str {
        self.str_at(&["metadata", "resourceVersion"])
    }
    /// Whether `metadata.deletionTimestamp` is set.
    fn deleting(&self) -> bool {
        !self.str_at(&["metadata", "deletionTimestamp"]).is_empty()
    }
    /// `metadata.finalizers`.
    fn finalizers(&self) -> Vec<String> {
        self.list_at(&["metadata", "finalizers"])
            .iter()
            .filter_map(|v| v.as_str().map(str::to_owned))
            .collect()
    }
    /// `metadata.generation`, 0 if absent.
    fn generation(&self) -> i64 {
        self.at(&["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(0)
    }
}

impl Object for Value {
    fn at(&self, path: &[&str]) -> Option<&Value> {
        path.iter().try_fold(self, |v, k| v.get(*k)).filter(|v| !v.is_null())
    }
    fn str_at(&self, path: &[&str]) -> &str {
        self.at(path).and_then(Value::as_str).unwrap_or("")
    }
    fn list_at(&self, path: &[&str]) -> &[Value] {
        self.at(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }
    fn set_at(&mut self, path: &[&str], value: Value) {
        let Some((last, dirs)) = path.split_last() else { return };
        let mut v = self;
        for k in dirs {
            if !v.is_object() {
                *v = json!({});
            }
            let Value::Object(m) = v else { return };
            v = m.entry((*k).to_owned()).or_insert_with(|| json!({}));
        }
        if !v.is_object() {
            *v = json!({});
        }
        if let Value::Object(m) = v {
            m.insert((*last).to_owned(), value);
        }
    }
    fn take_at(&mut self, path: &[&str]) -> Option<Value> {
        let (last, dirs) = path.split_last()?;
        let mut v = self;
        for k in dirs {
            v = v.get_mut(*k)?;
        }
        v.as_object_mut()?.remove(*last)
    }
    fn meta_mut(&mut self) -> &mut Map<String, Value> {
        if !self.get("metadata").is_some_and(Value::is_object) {
            self.set_at(&["metadata"], json!({}));
        }
        match self.get_mut("metadata") {
            Some(Value::Object(m)) => m,
            // `set_at` has just made it an object, whatever it was.
            _ => unreachable!("metadata was made an object"),
        }
    }
}

/// Now, as Kubernetes writes times: RFC 3339, UTC, whole seconds.
#[must_use]
pub fn now() -> String {
    chrono::Utc::now().format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Now with microseconds (`MicroTime`).
#[must_use]
pub fn now_micro() -> String {
    chrono::Utc::now().format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// `seconds` from now, as [`now`] writes it.
#[must_use]
pub fn after(seconds: i64) -> String {
    (chrono::Utc::now() + chrono::Duration::seconds(seconds))
        .format("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}

/// Five letters that make a generated name unique, from an alphabet that spells no words.
#[must_use]
pub fn suffix() -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let bytes = uuid::Uuid::new_v4().into_bytes();
    bytes[..5].iter().map(|b| char::from(ALPHABET[usize::from(*b) % ALPHABET.len()])).collect()
}

/// Writes an object with its `kind` and `apiVersion` first and its version set; returns the bytes
/// and the length of the head up to where the other members begin.
#[must_use]
pub fn encode(obj: &Value, revision: u64) -> (Vec<u8>, usize) {
    let mut out = Vec::with_capacity(1024);
    let kind = obj.str_at(&["kind"]);
    let version = obj.str_at(&["apiVersion"]);
    out.extend_from_slice(b"{\"kind\":");
    push(&mut out, &kind);
    out.extend_from_slice(b",\"apiVersion\":");
    push(&mut out, &version);
    out.extend_from_slice(b",");
    let head = out.len();
    let Some(map) = obj.as_object() else {
        out.extend_from_slice(b"\"metadata\":{}}");
        return (out, head);
    };
    out.extend_from_slice(b"\"metadata\":{");
    let mut first = true;
    let mut written = revision == 0;
    let rv = revision.to_string();
    let empty = Map::new();
    let meta = map.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    for (k, v) in meta {
        if k == "resourceVersion" && revision != 0 {
            continue;
        }
        if v.is_null() && k != "creationTimestamp" {
            continue;
        }
        if !first {
            out.push(b',');
        }
        first = false;
        push(&mut out, k);
        out.push(b':');
        push(&mut out, v);
        if k == "uid" && !written {
            out.extend_from_slice(b",\"resourceVersion\":");
            push(&mut out, &rv);
            written = true;
        }
    }
    if !written {
        if !first {
            out.push(b',');
        }
        out.extend_from_slice(b"\"resourceVersion\":");
        push(&mut out, &rv);
    }
    out.push(b'}');
    for (k, v) in map {
        if matches!(k.as_str(), "kind" | "apiVersion" | "metadata") {
            continue;
        }
        out.push(b',');
        push(&mut out, k);
        out.push(b':');
        push(&mut out, v);
    }
    out.push(b'}');
    (out, head)
}

fn push<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, v: &T) {
    // Writing JSON values into memory cannot fail.
    let _ = serde_json::to_writer(out, v);
}
