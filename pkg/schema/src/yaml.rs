//! YAML in and out; one document.

use serde::de::DeserializeSeed;
use serde_json::Value;

use crate::{
    json::{Decoded, Error, FieldValidation},
    types::Type,
};

/// Decodes one YAML document into the normal form of `ty` (see [`crate::json::decode`]).
///
/// # Errors
/// As [`crate::json::decode`].
pub fn decode(bytes: &[u8], ty: Option<&'static Type>, validation: FieldValidation) -> Result<Decoded, Error> {
    crate::json::with_node(ty, validation, |node| node.deserialize(serde_yaml_ng::Deserializer::from_slice(bytes)).map_err(fault))
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
    serde_yaml_ng::to_string(value).unwrap_or_default().into_bytes()
}

fn fault(error: serde_yaml_ng::Error) -> Error {
    Error::Syntax(format!("error converting YAML to JSON: yaml: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed() {
        let ty = crate::types::types().kind("", "v1", "ConfigMap");
        let got = decode(b"kind: ConfigMap\ndata:\n  a: x\n  a: y\nz: 1\n", ty, FieldValidation::Warn).unwrap();
        assert_eq!(got.object["data"]["a"], "y");
        assert_eq!(got.warnings, ["duplicate field \"data.a\"", "unknown field \"z\""]);
        assert!(decode(b"a: [", None, FieldValidation::Warn).is_err());
        assert_eq!(parse(&encode(&serde_json::json!({"a": [1, "1", null]}))).unwrap(), serde_json::json!({"a": [1, "1", null]}));
    }
}
