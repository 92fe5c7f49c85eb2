//! JSON patch (RFC 6902), JSON merge patch (RFC 7396) and strategic merge patch.

mod strategic;

use serde_json::Value;

pub use strategic::strategic;

/// Why a patch could not be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The patch is not of the form; answered with 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object; answered with 422.
    #[error("{0}")]
    Unprocessable(String),
}

/// Applies a merge patch.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    if let Value::Object(object) = target {
        for (key, value) in patch {
            if value.is_null() {
                object.remove(key);
            } else {
                merge(object.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
    }
}

/// Applies a JSON patch; on error the target may be half patched.
///
/// # Errors
/// [`Error::Malformed`] for a bad document, [`Error::Unprocessable`] for an operation that does not fit.
pub fn json(target: &mut Value, patch: &Value) -> Result<(), Error> {
    let operations = patch.as_array().ok_or_else(|| {
        Error::Malformed(
            "json: cannot unmarshal object into Go value of type jsonpatch.Patch".into(),
        )
    })?;
    if operations.len() > 10_000 {
        return Err(Error::Malformed(format!(
            "The allowed maximum operations in a JSON patch is 10000, got {}",
            operations.len()
        )));
    }
    let mut copied = 0;
    for operation in operations {
        let text = |key: &str| operation.get(key).and_then(Value::as_str);
        let op = text("op").unwrap_or_default();
        let path =
            text("path").ok_or_else(|| Error::Unprocessable("missing operation 'path'".into()))?;
        let value = || operation.get("value").cloned().unwrap_or(Value::Null);
        match op {
            "add" => add(target, path, value())?,
            "remove" => {
                remove(target, path, "remove")?;
            }
            "replace" => {
                if path.is_empty() {
                    *target = value();
                } else {
                    *find(target, path).ok_or_else(|| missing("replace", path))? = value();
                }
            }
            "move" | "copy" => {
                let from = text("from").ok_or_else(|| {
                    Error::Unprocessable(format!(
                        "jsonpatch {op} operation does not apply: missing 'from'"
                    ))
                })?;
                let value = if op == "move" {
                    remove(target, from, "move")?
                } else {
                    let value = find(target, from).ok_or_else(|| missing("copy", from))?;
                    copied += size(value);
                    if copied > MAX_COPIED {
                        return Err(Error::Unprocessable(format!(
                            "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPIED}"
                        )));
                    }
                    value.clone()
                };
                add(target, path, value)?;
            }
            "test" => {
                let want = value();
                let same = match find(target, path) {
                    Some(found) => *found == want,
                    None => want.is_null(),
                };
                if !same {
                    return Err(Error::Unprocessable(format!("testing value {path} failed")));
                }
            }
            other => return Err(Error::Malformed(format!("Unexpected kind: {other}"))),
        }
    }
    Ok(())
}

/// How many bytes all copies of one patch may add: as many as a request may have.
const MAX_COPIED: usize = 3 << 20;

/// The length of a value as JSON.
fn size(value: &Value) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // Counting does not fail.
    let _ = serde_json::to_writer(&mut count, value);
    count.0
}

fn missing(op: &str, path: &str) -> Error {
    Error::Unprocessable(match op {
        "add" => format!(
            "add operation does not apply: doc is missing path: {}: missing value",
            crate::json::quote(path)
        ),
        "remove" => format!(
            "remove operation does not apply: doc is missing path: {}: missing value",
            crate::json::quote(path)
        ),
        "replace" => {
            format!("replace operation does not apply: doc is missing path: {path}: missing value")
        }
        other => format!(
            "{other} operation does not apply: doc is missing from path: {path}: missing value"
        ),
    })
}

fn segment(text: &str) -> String {
    text.replace("~1", "/").replace("~0", "~")
}

fn split(path: &str) -> Option<(&str, String)> {
    let (parent, last) = path.rsplit_once('/')?;
    Some((parent, segment(last)))
}

fn index(text: &str, length: usize, op: &str) -> Result<usize, Error> {
    let number: i64 = text.parse().map_err(|_| {
        Error::Unprocessable(format!(
            "{op} operation does not apply: strconv.Atoi: parsing {}: invalid syntax",
            crate::json::quote(text)
        ))
    })?;
    let at = if number < 0 {
        number + length as i64
    } else {
        number
    };
    usize::try_from(at).ok().filter(|i| *i <= length).ok_or_else(|| Error::Unprocessable(format!("{op} operation does not apply: Unable to access invalid index: {number}: invalid index referenced")))
}

fn find<'v>(target: &'v mut Value, path: &str) -> Option<&'v mut Value> {
    let mut at = target;
    for part in path.split('/').skip(1) {
        at = match at {
            Value::Object(object) => object.get_mut(&segment(part))?,
            Value::Array(items) => {
                let i = index(part, items.len(), "find").ok()?;
                items.get_mut(i)?
            }
            _ => return None,
        };
    }
    Some(at)
}

fn add(target: &mut Value, path: &str, value: Value) -> Result<(), Error> {
    let Some((parent, last)) = split(path) else {
        *target = value;
        return Ok(());
    };
    match find(target, parent).ok_or_else(|| missing("add", path))? {
        Value::Object(object) => {
            object.insert(last, value);
        }
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) => {
            let i = index(&last, items.len(), "add")?;
            items.insert(i, value);
        }
        _ => return Err(missing("add", path)),
    }
    Ok(())
}

fn remove(target: &mut Value, path: &str, op: &str) -> Result<Value, Error> {
    let Some((parent, last)) = split(path) else {
        return Ok(std::mem::take(target));
    };
    match find(target, parent).ok_or_else(|| missing(op, path))? {
        Value::Object(object) => object.remove(&last).ok_or_else(|| missing(op, path)),
        Value::Array(items) => {
            let i = index(&last, items.len(), op)?;
            if i >= items.len() {
                return Err(Error::Unprocessable(format!(
                    "{op} operation does not apply: Unable to access invalid index: {last}: invalid index referenced"
                )));
            }
            Ok(items.remove(i))
        }
        _ => Err(missing(op, path)),
    }
}
