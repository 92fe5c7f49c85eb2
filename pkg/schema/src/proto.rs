//! Protobuf by the table: the wire form that upstream's generated code writes and reads,
//! byte for byte, and the `k8s\0` envelope around it.

mod decode;
pub(crate) mod encode;
mod steady;

use bytes::{BufMut, BytesMut};
use serde_json::{Map, Value};

use crate::{
    json::Error,
    types::{Type, types},
};

/// What stands in front of every enveloped object.
pub const MAGIC: [u8; 4] = *b"k8s\0";

/// How deep messages may nest.
const MAX_DEPTH: u32 = 256;

pub(super) fn fault(message: impl Into<String>) -> Error {
    Error::Syntax(format!("proto: {}", message.into()))
}

/// Encodes an object's message, without envelope.
pub fn encode(object: &Map<String, Value>, ty: &'static Type) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    encode::message(&mut out, object, ty);
    out
}

/// Decodes a message into the normal form of its type; `apiVersion` and `kind` are not in it.
///
/// # Errors
/// [`Error::Syntax`] for bytes that are no such message.
pub fn decode(bytes: &[u8], ty: &'static Type) -> Result<Map<String, Value>, Error> {
    decode::message(bytes, ty, 0)
}

/// Encodes an object with its envelope, by its own `apiVersion` and `kind`.
///
/// # Errors
/// [`Error::Type`] for a kind that is not in the table.
pub fn encode_object(object: &Value) -> Result<Vec<u8>, Error> {
    let map = object.as_object().ok_or_else(|| Error::Type("not an object".into()))?;
    let text = |key: &str| map.get(key).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let ty = type_of(api_version, kind).ok_or_else(|| Error::Type(format!("no protobuf form of {api_version} {kind}")))?;
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(&MAGIC);
    let mut meta = Vec::with_capacity(32);
    encode::text(&mut meta, 1, api_version);
    encode::text(&mut meta, 2, kind);
    encode::bytes(&mut out, 1, &meta);
    encode::nested(&mut out, 2, |out| encode::message(out, map, ty));
    encode::text(&mut out, 3, "");
    encode::text(&mut out, 4, "");
    Ok(out)
}

/// Whether [`decode`] gives back the object as it is, `apiVersion` and `kind` apart, from what
/// [`encode_object`] makes of it. `false` says nothing.
pub fn is_steady(object: &Map<String, Value>, ty: &'static Type) -> bool {
    steady::message(object, ty, &["apiVersion", "kind"])
}

/// The built-in type of an `apiVersion` and kind; meta kinds are found in every group.
pub fn type_of(api_version: &str, kind: &str) -> Option<&'static Type> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    types().kind(group, version, kind).or_else(|| types().kind("", "v1", kind).filter(|t| t.name.starts_with("io.k8s.apimachinery.")))
}

/// What an envelope holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope<'b> {
    /// The object's `apiVersion`.
    pub api_version: String,
    /// The object's kind.
    pub kind: String,
    /// The message.
    pub raw: &'b [u8],
    /// The message's media type; empty is protobuf.
    pub content_type: String,
}

/// Opens an envelope.
///
/// # Errors
/// [`Error::Syntax`] for bytes without one.
pub fn envelope(bytes: &[u8]) -> Result<Envelope<'_>, Error> {
    let body = bytes.strip_prefix(&MAGIC).ok_or_else(|| Error::Syntax("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]".into()))?;
    let mut envelope = Envelope::default();
    decode::each(body, |number, value| {
        match (number, value) {
            (1, decode::Wire::Bytes(meta)) => decode::each(meta, |number, value| {
                match (number, value) {
                    (1, decode::Wire::Bytes(text)) => envelope.api_version = decode::utf8(text)?,
                    (2, decode::Wire::Bytes(text)) => envelope.kind = decode::utf8(text)?,
                    _ => {}
                }
                Ok(())
            })?,
            (2, decode::Wire::Bytes(raw)) => envelope.raw = raw,
            (4, decode::Wire::Bytes(text)) => envelope.content_type = decode::utf8(text)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(envelope)
}

/// Decodes an enveloped object; `apiVersion` and `kind` come from the envelope.
///
/// # Errors
/// [`Error::Syntax`] for bytes that are no such object, [`Error::Type`] for an unknown kind.
pub fn decode_object(bytes: &[u8]) -> Result<Value, Error> {
    let envelope = envelope(bytes)?;
    let ty = type_of(&envelope.api_version, &envelope.kind)
        .ok_or_else(|| Error::Type(format!("no kind {} is registered for version {}", crate::json::quote(&envelope.kind), crate::json::quote(&envelope.api_version))))?;
    let mut object = decode(envelope.raw, ty)?;
    for (key, text) in [("apiVersion", envelope.api_version), ("kind", envelope.kind)] {
        if !text.is_empty() {
            object.insert(key.into(), text.into());
        }
    }
    Ok(Value::Object(object))
}

/// One watch event as a length-delimited frame; `object` is an already enveloped object. The event
/// itself has no envelope: a stream's frames are bare messages, as client-go reads them.
pub fn watch_frame(event: &str, object: &[u8]) -> BytesMut {
    let mut message = Vec::with_capacity(object.len() + 32);
    encode::text(&mut message, 1, event);
    encode::nested(&mut message, 2, |out| encode::bytes(out, 1, object));
    let mut frame = BytesMut::with_capacity(message.len() + 4);
    frame.put_u32(message.len() as u32);
    frame.put_slice(&message);
    frame
}

#[cfg(test)]
pub(crate) mod tests;
