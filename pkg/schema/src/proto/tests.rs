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
