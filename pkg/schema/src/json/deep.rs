//! JSON that nests deeper than its usual reader goes: read without recursion, as deep as upstream's
//! decoders go.

use serde::de::Error as _;
use serde_json::{Error, Map, Value};

/// How deep JSON may be nested.
pub const MAX_DEPTH: usize = 10_000;

/// Bytes of stack that a thread needs which handles values so deep: they are compared, copied, written
/// and dropped level by level.
pub const STACK_BYTES: usize = if cfg!(debug_assertions) { 256 << 20 } else { 64 << 20 };

/// Reads a document, however deep it is within [`MAX_DEPTH`].
///
/// # Errors
/// It is no JSON, or too deep.
pub fn value(bytes: &[u8]) -> Result<Value, Error> {
    match serde_json::from_slice(bytes) {
        Err(e) if is_depth(&e) => Reader { bytes, at: 0 }.document(),
        done => done,
    }
}

/// Whether the usual reader has given up for the depth.
pub(super) fn is_depth(e: &Error) -> bool {
    e.is_syntax() && e.to_string().starts_with("recursion limit exceeded")
}

fn exceeded(bracket: u8) -> String {
    format!("invalid character '{}' exceeded max depth", char::from(bracket))
}

/// What is said of a document that is too deep, also where nobody has to go so deep.
pub(super) fn too_deep(bytes: &[u8]) -> Option<String> {
    let open = |b: &u8| matches!(b, b'{' | b'[');
    if bytes.len() <= MAX_DEPTH || bytes.iter().filter(|b| open(b)).count() <= MAX_DEPTH {
        return None;
    }
    let (mut depth, mut text, mut escaped) = (0_usize, false, false);
    for b in bytes {
        if text {
            match b {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => text = false,
                _ => {}
            }
            continue;
        }
        match b {
            b'"' => text = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Some(exceeded(*b));
        }
    }
    None
}

/// A list or a map that is not complete.
enum Open {
    List(Vec<Value>),
    Map(Map<String, Value>, String),
}

struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl Reader<'_> {
    /// The next byte that is no space.
    fn next(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.bytes.get(self.at) {
            self.at += 1;
        }
        self.bytes.get(self.at).copied()
    }

    fn wrong<T>(&self, looking_for: &str) -> Result<T, Error> {
        Err(match self.bytes.get(self.at) {
            Some(b) => Error::custom(format!("invalid character {:?} {looking_for}", char::from(*b))),
            None => Error::custom("unexpected end of JSON input"),
        })
    }

    /// A text or another value without parts.
    fn scalar(&mut self) -> Result<Value, Error> {
        let begin = self.at;
        if self.bytes.get(begin) == Some(&b'"') {
            self.at += 1;
            while let Some(b) = self.bytes.get(self.at) {
                self.at += if *b == b'\\' { 2 } else { 1 };
                if *b == b'"' {
                    break;
                }
            }
        } else {
            while self.bytes.get(self.at).is_some_and(|b| !matches!(b, b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r')) {
                self.at += 1;
            }
        }
        serde_json::from_slice(self.bytes.get(begin..self.at).unwrap_or_default())
    }

    /// The key of a map's member, and the colon.
    fn key(&mut self) -> Result<String, Error> {
        if self.next() != Some(b'"') {
            return self.wrong("looking for beginning of object key string");
        }
        let Value::String(key) = self.scalar()? else { return self.wrong("looking for beginning of object key string") };
        if self.next() != Some(b':') {
            return self.wrong("after object key");
        }
        self.at += 1;
        Ok(key)
    }

    fn document(&mut self) -> Result<Value, Error> {
        let mut open: Vec<Open> = Vec::new();
        loop {
            let begin = self.next();
            let mut v = match begin {
                Some(b @ (b'{' | b'[')) => {
                    if open.len() == MAX_DEPTH {
                        return Err(Error::custom(exceeded(b)));
                    }
                    self.at += 1;
                    match (b, self.next()) {
                        (b'{', Some(b'}')) => {
                            self.at += 1;
                            Value::Object(Map::new())
                        }
                        (b'[', Some(b']')) => {
                            self.at += 1;
                            Value::Array(Vec::new())
                        }
                        (b'{', _) => {
                            open.push(Open::Map(Map::new(), self.key()?));
                            continue;
                        }
                        _ => {
                            open.push(Open::List(Vec::new()));
                            continue;
                        }
                    }
                }
                Some(_) => self.scalar()?,
                None => return self.wrong(""),
            };
            // A value is complete: so may be what it is in.
            loop {
                let after = self.next();
                match (open.pop(), after) {
                    (None, None) => return Ok(v),
                    (None, Some(_)) => return self.wrong("after top-level value"),
                    (Some(Open::List(mut items)), Some(b @ (b',' | b']'))) => {
                        self.at += 1;
                        items.push(v);
                        if b == b',' {
                            open.push(Open::List(items));
                            break;
                        }
                        v = Value::Array(items);
                    }
                    (Some(Open::Map(mut map, key)), Some(b @ (b',' | b'}'))) => {
                        self.at += 1;
                        map.insert(key, v);
                        if b == b',' {
                            open.push(Open::Map(map, self.key()?));
                            break;
                        }
                        v = Value::Object(map);
                    }
                    (Some(Open::List(_)), _) => return self.wrong("after array element"),
                    (Some(Open::Map(..)), _) => return self.wrong("after object key:value pair"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a thread with the stack that such values need.
    fn deeply(work: impl FnOnce() + Send + 'static) {
        std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work).expect("a thread").join().expect("no panic");
    }

    #[test]
    fn both_readers_read_the_same() {
        for text in [r#"{"a":[1,-2.5e3,{"b":null}],"c":"\"x\\","d":{},"e":[],"f":[true , false]}"#, "[ ]", " 7 ", r#"{"a":{"a":1},"a":2}"#, r#""\u00e9""#] {
            assert_eq!(Reader { bytes: text.as_bytes(), at: 0 }.document().ok(), serde_json::from_str(text).ok(), "{text}");
        }
        for text in ["", "{", "[1,", "[1 2]", r#"{"a" 1}"#, r#"{a:1}"#, r#"{"a":1,}"#, "[1]]", r#"{"a":"#, "nul", r#"["x]"#, "[1}", r#""\"#] {
            assert!(Reader { bytes: text.as_bytes(), at: 0 }.document().is_err(), "{text}");
        }
    }

    #[test]
    fn as_deep_as_may_be() {
        deeply(|| {
            let lists = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n)).into_bytes();
            let maps = |n: usize| format!("{}1{}", r#"{"a":"#.repeat(n), "}".repeat(n)).into_bytes();
            for n in [127, 128, 129, MAX_DEPTH] {
                assert_eq!(serde_json::to_vec(&value(&lists(n)).expect("lists")).expect("JSON"), lists(n));
                assert_eq!(serde_json::to_vec(&value(&maps(n)).expect("maps")).expect("JSON"), maps(n));
                assert_eq!(too_deep(&maps(n)), None);
            }
            for n in [MAX_DEPTH + 1, 1_000_000] {
                assert_eq!(value(&lists(n)).expect_err("too deep").to_string(), "invalid character '[' exceeded max depth");
                assert_eq!(value(&maps(n)).expect_err("too deep").to_string(), "invalid character '{' exceeded max depth");
                assert_eq!(too_deep(&maps(n)).as_deref(), Some("invalid character '{' exceeded max depth"));
            }
            // Brackets in texts are no depth.
            assert_eq!(too_deep(format!("[\"\\\"{}\"]", "[".repeat(20_000)).as_bytes()), None);
        });
    }

    #[test]
    fn kinds_are_decoded_however_deep() {
        deeply(|| {
            use crate::json::{Error, FieldValidation, decode};
            let map = crate::Catalog::builtin().lookup("", "v1", "configmaps").and_then(|r| r.ty);
            let deep = |n: usize| format!(r#"{{"data":{{"k":"v"}},"odd":{}1{}}}"#, r#"{"a":"#.repeat(n), "}".repeat(n)).into_bytes();
            let d = decode(&deep(5000), map, FieldValidation::Warn).expect("unknown fields go");
            assert_eq!((&d.object["data"]["k"], d.warnings.as_slice()), (&"v".into(), &[r#"unknown field "odd""#.to_owned()][..]));
            let d = decode(&deep(5000), None, FieldValidation::Warn).expect("everything stays");
            assert!(d.object["odd"]["a"]["a"].is_object());
            let why = "invalid character '{' exceeded max depth".to_owned();
            assert_eq!(decode(&deep(10_000), map, FieldValidation::Ignore).expect_err("too deep"), Error::Syntax(why.clone()));
            assert_eq!(decode(&deep(10_000), None, FieldValidation::Ignore).expect_err("too deep"), Error::Syntax(why));
            let text = crate::yaml::parse(&deep(5000)).expect("JSON is YAML");
            assert_eq!(text, d.object);
        });
    }
}
