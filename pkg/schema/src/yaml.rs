//! YAML in and out; one document.

use serde::de::DeserializeSeed;
use serde_json::Value;

use crate::{
    json::{Decoded, Error, FieldValidation, MAX_DEPTH},
    types::Type,
};

/// Decodes one YAML document into the normal form of `ty` (see [`crate::json::decode`]).
///
/// # Errors
/// As [`crate::json::decode`].
pub fn decode(
    bytes: &[u8],
    ty: Option<&'static Type>,
    validation: FieldValidation,
) -> Result<Decoded, Error> {
    if nests(bytes, MAX_DEPTH) {
        return Err(Error::Syntax(format!(
            "error converting YAML to JSON: yaml: exceeded max depth of {MAX_DEPTH}"
        )));
    }
    // JSON is YAML, is what most clients send, and may be deeper than the parser goes.
    if bytes.trim_ascii_start().first() == Some(&b'{') {
        let read = crate::json::decode(bytes, ty, validation);
        if read.is_ok() {
            return read;
        }
    }
    crate::json::with_node(ty, validation, |node| {
        node.deserialize(serde_yaml_ng::Deserializer::from_slice(bytes))
            .map_err(fault)
    })
}

/// Whether more brackets than `most` are open somewhere: the parser takes time by the square of them,
/// before it finds that it cannot nest so deep.
fn nests(bytes: &[u8], most: usize) -> bool {
    let mut depth = 0_usize;
    bytes.iter().any(|b| {
        match b {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > most
    })
}

/// Parses one YAML document as it is.
///
/// # Errors
/// [`Error::Syntax`].
pub fn parse(bytes: &[u8]) -> Result<Value, Error> {
    decode(bytes, None, FieldValidation::Ignore).map(|d| d.object)
}

/// Writes one document.
pub fn encode(value: &Value) -> Vec<u8> {
    serde_yaml_ng::to_string(value)
        .unwrap_or_default()
        .into_bytes()
}

/// Keys that a block mapping of the text has twice, each with the line (from 1) where it comes
/// again.
///
/// Mappings in flow style, which JSON is, are not looked into.
pub fn repeated_keys(text: &str) -> Vec<(usize, String)> {
    let mut out = Vec::new();
    // The mappings that are open, outermost first: the column of their keys, and the keys.
    let mut open: Vec<(usize, Vec<&str>)> = Vec::new();
    let mut scalar = None;
    for (number, line) in text.lines().enumerate() {
        let mut rest = line.trim_start_matches(' ');
        let mut column = line.len() - rest.len();
        if rest.is_empty() || scalar.is_some_and(|s| column > s) {
            continue;
        }
        scalar = None;
        if rest.starts_with('#') {
            continue;
        }
        if column == 0 && (rest.starts_with("---") || rest == "...") {
            open.clear();
            continue;
        }
        let mut outer = column;
        while let Some(item) = rest.strip_prefix("- ") {
            // An item of a list is a new mapping.
            open.retain(|(c, _)| *c <= column);
            let inner = item.trim_start_matches(' ');
            outer = column;
            column += rest.len() - inner.len();
            rest = inner;
        }
        open.retain(|(c, _)| *c <= column);
        let Some((key, value)) = key_of(rest) else {
            continue;
        };
        match open.last_mut() {
            Some((c, keys)) if *c == column => {
                if keys.contains(&key) {
                    out.push((number + 1, key.to_owned()));
                } else {
                    keys.push(key);
                }
            }
            _ => open.push((column, vec![key])),
        }
        if value.trim_start().starts_with(['|', '>']) {
            scalar = Some(outer.max(column));
        }
    }
    out
}

/// The key at the start of a line, and what stands behind its colon.
fn key_of(text: &str) -> Option<(&str, &str)> {
    if let Some(quote) = text.chars().next().filter(|c| matches!(c, '"' | '\'')) {
        let (key, rest) = text[1..].split_once(quote)?;
        return rest
            .trim_start()
            .strip_prefix(':')
            .map(|value| (key, value));
    }
    if text.starts_with(['{', '[', '&', '*', '!', '|', '>', '%', '?']) {
        return None;
    }
    if let Some((key, value)) = text.split_once(": ") {
        return Some((key.trim_end(), value));
    }
    text.trim_end().strip_suffix(':').map(|key| (key, ""))
}

fn fault(error: serde_yaml_ng::Error) -> Error {
    Error::Syntax(format!("error converting YAML to JSON: yaml: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_comes_again_is_found_with_its_line() {
        let text = "\na: 1\nspec:\n  foo: x\n  'foo': y\n  list:\n  - n: 1\n    m: 1\n  - n: 2\n    m: 2\n    n: 3\n  text: |\n    foo: 1\n    foo: 2\nother:\n  foo: z\n---\na: 2\n";
        assert_eq!(
            repeated_keys(text),
            [(5, "foo".to_owned()), (11, "n".to_owned())]
        );
    }

    #[test]
    fn typed() {
        let ty = crate::types::types().kind("", "v1", "ConfigMap");
        let got = decode(
            b"kind: ConfigMap\ndata:\n  a: x\n  a: y\nz: 1\n",
            ty,
            FieldValidation::Warn,
        )
        .unwrap();
        assert_eq!(got.object["data"]["a"], "y");
        assert_eq!(
            got.warnings,
            ["duplicate field \"data.a\"", "unknown field \"z\""]
        );
        assert!(decode(b"a: [", None, FieldValidation::Warn).is_err());
        assert_eq!(
            parse(&encode(&serde_json::json!({"a": [1, "1", null]}))).unwrap(),
            serde_json::json!({"a": [1, "1", null]})
        );
    }
}
