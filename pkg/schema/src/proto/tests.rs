use std::io::Read;

use serde::Deserialize;

use super::*;

/// One object in every form, written by upstream's own code.
#[derive(Deserialize)]
pub(crate) struct Golden {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub object: Value,
    pub proto: Option<String>,
    pub defaulted: Option<Value>,
    pub cells: Option<Vec<Vec<Value>>>,
    pub patch: Option<Value>,
    pub patched: Option<Value>,
    #[serde(rename = "patchError")]
    pub patch_error: Option<String>,
}

/// The rows committed beside the tests, or those of `KNARR_SCHEMA_GOLDEN`.
pub(crate) fn golden() -> Vec<Golden> {
    let path = std::env::var("KNARR_SCHEMA_GOLDEN").unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/golden.jsonl.gz").into());
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Where two values differ first.
pub(crate) fn difference(path: &str, got: &Value, want: &Value) -> Option<String> {
    match (got, want) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
            keys.into_iter().find_map(|k| match (a.get(k), b.get(k)) {
                (Some(x), Some(y)) => difference(&format!("{path}.{k}"), x, y),
                (x, y) => Some(format!("{path}.{k}: got {x:?}, want {y:?}")),
            })
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a.iter().zip(b).enumerate().find_map(|(i, (x, y))| difference(&format!("{path}[{i}]"), x, y)),
        (a, b) if a == b => None,
        (a, b) => Some(format!("{path}: got {a}, want {b}")),
    }
}

pub(crate) fn report(what: &str, checked: usize, failures: &std::collections::BTreeMap<String, String>) {
    println!("{what}: {checked} checked");
    assert!(failures.is_empty(), "{what}: {} of {checked} kinds or more differ:\n{}", failures.len(), failures.iter().map(|(k, v)| format!("{k}: {v}")).collect::<Vec<_>>().join("\n"));
}

#[test]
fn json_normal_form_is_upstreams() {
    let mut failures = std::collections::BTreeMap::new();
    let rows = golden();
    for row in &rows {
        let ty = types().kind(&row.group, &row.version, &row.kind).unwrap();
        let got = crate::json::normalize(&row.object, Some(ty), crate::json::FieldValidation::Strict).unwrap().object;
        if let Some(d) = difference("", &got, &row.object) {
            failures.insert(row.kind.clone(), d);
        }
    }
    report("normal form", rows.len(), &failures);
}

#[test]
fn bytes_are_upstreams() {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let mut failures = std::collections::BTreeMap::new();
    let mut checked = 0;
    for row in golden() {
        let Some(proto) = row.proto.as_ref().filter(|_| row.object.get("apiVersion").is_some()) else { continue };
        let want = STANDARD.decode(proto).unwrap();
        checked += 1;
        match decode_object(&want) {
            Ok(got) => {
                // A nil []byte in a map comes back empty.
                if let Some(d) = difference("", &got, &row.object).filter(|d| !d.contains("got \"\", want null")) {
                    failures.insert(format!("{} decode", row.kind), d);
                }
            }
            Err(e) => {
                failures.insert(format!("{} decode", row.kind), e.to_string());
            }
        }
        let got = encode_object(&row.object).unwrap();
        if got != want {
            let again = decode_object(&got).unwrap();
            let d = difference("", &again, &row.object);
            let at = got.iter().zip(&want).position(|(a, b)| a != b);
            failures.insert(format!("{} encode", row.kind), format!("{} bytes, want {}, first at {at:?}; {d:?}", got.len(), want.len()));
        }
    }
    report("protobuf", checked, &failures);
}

/// Calls `visit` with the object changed in one place, for some of its places.
fn each_change(object: &Value, step: usize, visit: &mut dyn FnMut(&Value)) {
    fn paths(at: &Value, path: &str, out: &mut Vec<String>) {
        let below = |key: &str| format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"));
        match at {
            Value::Object(map) => map.iter().for_each(|(k, v)| {
                out.push(below(k));
                paths(v, &below(k), out);
            }),
            Value::Array(items) => items.iter().enumerate().for_each(|(i, v)| {
                out.push(below(&i.to_string()));
                paths(v, &below(&i.to_string()), out);
            }),
            _ => {}
        }
    }
    let mut all = Vec::new();
    paths(object, "", &mut all);
    let odd = ["null", "\"\"", "0", "[]", "{}", "[null]", "\"1500m\"", "\"2020-01-01T00:00:00+01:00\"", "{\"unknown\": 1}", "4294967296", "1.5", "true"];
    for (n, path) in all.iter().enumerate().skip(step / 2).step_by(step) {
        let mut changed = object.clone();
        if let Some(place) = changed.pointer_mut(path) {
            *place = serde_json::from_str(odd[n % odd.len()]).unwrap();
            visit(&changed);
        }
        let (parent, key) = path.rsplit_once('/').unwrap();
        let mut without = object.clone();
        if let Some(Value::Object(map)) = without.pointer_mut(parent) {
            map.remove(key);
            visit(&without);
        }
    }
}

#[test]
fn what_is_called_steady_comes_back_as_it_is() {
    let (mut steady, mut checked) = (0, 0);
    for row in golden() {
        let ty = types().kind(&row.group, &row.version, &row.kind).unwrap();
        let mut see = |object: &Value| {
            checked += 1;
            let map = object.as_object().unwrap();
            if is_steady(map, ty) && type_of(map["apiVersion"].as_str().unwrap_or_default(), map["kind"].as_str().unwrap_or_default()).is_some() {
                steady += 1;
                let back = decode_object(&encode_object(object).unwrap()).unwrap();
                assert_eq!(difference("", &back, object), None, "{object}");
            }
        };
        if row.object.get("kind").is_some() && row.object.get("apiVersion").is_some() {
            see(&row.object);
            each_change(&row.object, 37, &mut |changed| {
                if changed.get("kind").is_some() && changed.get("apiVersion").is_some() {
                    see(changed);
                }
            });
        }
    }
    println!("{steady} of {checked} are steady");
    assert!(steady > checked / 20, "{steady} of {checked}");
}

#[test]
fn no_bytes_make_it_panic() {
    let row = golden().into_iter().find(|r| r.kind == "Pod").unwrap();
    let bytes = encode_object(&row.object).unwrap();
    for cut in 0..bytes.len() {
        let _ = decode_object(&bytes[..cut]);
        let mut broken = bytes.clone();
        broken[cut] ^= 0xff;
        let _ = decode_object(&broken);
    }
}

#[test]
fn a_watch_frame_is_a_bare_event_around_an_enveloped_object() {
    let object = b"k8s\0\x12\x00";
    let want = b"\x00\x00\x00\x11\x0a\x05ADDED\x12\x08\x0a\x06k8s\0\x12\x00";
    assert_eq!(&super::watch_frame("ADDED", object)[..], want);
}
