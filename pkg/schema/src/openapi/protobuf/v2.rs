//! Version 2.

use serde_json::Value;

use super::{
    Form::{Any, Anys, Flag, Many, Named, NamedOwn, Number, One, Own, Owns, Text, Texts, Whole},
    Message, entries, extensions, list, message, pair,
};
use crate::proto::encode::{bytes, nested, tag};

static DOCUMENT: Message = Message {
    members: &[
        ("swagger", 1, Text), ("info", 2, One(&INFO)), ("host", 3, Text), ("basePath", 4, Text), ("schemes", 5, Texts), ("consumes", 6, Texts), ("produces", 7, Texts),
        ("paths", 8, Own(paths)), ("definitions", 9, Named(&SCHEMA)), ("parameters", 10, NamedOwn(plain_parameter)), ("security", 12, Owns(requirement)), ("securityDefinitions", 13, NamedOwn(security)),
    ],
    extensions: 16,
};
static INFO: Message = Message { members: &[("title", 1, Text), ("version", 2, Text), ("description", 3, Text), ("termsOfService", 4, Text)], extensions: 7 };
static PATH: Message = Message {
    members: &[
        ("$ref", 1, Text), ("get", 2, One(&OPERATION)), ("put", 3, One(&OPERATION)), ("post", 4, One(&OPERATION)), ("delete", 5, One(&OPERATION)), ("options", 6, One(&OPERATION)),
        ("head", 7, One(&OPERATION)), ("patch", 8, One(&OPERATION)), ("parameters", 9, Owns(parameter)),
    ],
    extensions: 10,
};
static OPERATION: Message = Message {
    members: &[
        ("tags", 1, Texts), ("summary", 2, Text), ("description", 3, Text), ("externalDocs", 4, One(&DOCS)), ("operationId", 5, Text), ("produces", 6, Texts), ("consumes", 7, Texts),
        ("parameters", 8, Owns(parameter)), ("responses", 9, Own(responses)), ("schemes", 10, Texts), ("deprecated", 11, Flag), ("security", 12, Owns(requirement)),
    ],
    extensions: 13,
};
static DOCS: Message = Message { members: &[("description", 1, Text), ("url", 2, Text)], extensions: 3 };
static REFERENCE: Message = Message { members: &[("$ref", 1, Text), ("description", 2, Text)], extensions: 0 };
static RESPONSE: Message = Message { members: &[("description", 1, Text), ("schema", 2, Own(schema_item))], extensions: 5 };
static BODY: Message = Message { members: &[("description", 1, Text), ("name", 2, Text), ("in", 3, Text), ("required", 4, Flag), ("schema", 5, One(&SCHEMA))], extensions: 6 };
/// Parameters in headers and paths.
static PLAIN: Message = Message {
    members: &[
        ("required", 1, Flag), ("in", 2, Text), ("description", 3, Text), ("name", 4, Text), ("type", 5, Text), ("format", 6, Text), ("items", 7, One(&PRIMITIVE)),
        ("collectionFormat", 8, Text), ("default", 9, Any), ("maximum", 10, Number), ("exclusiveMaximum", 11, Flag), ("minimum", 12, Number), ("exclusiveMinimum", 13, Flag),
        ("maxLength", 14, Whole), ("minLength", 15, Whole), ("pattern", 16, Text), ("maxItems", 17, Whole), ("minItems", 18, Whole), ("uniqueItems", 19, Flag), ("enum", 20, Anys),
        ("multipleOf", 21, Number),
    ],
    extensions: 22,
};
/// Parameters in queries and forms.
static QUERY: Message = Message {
    members: &[
        ("required", 1, Flag), ("in", 2, Text), ("description", 3, Text), ("name", 4, Text), ("allowEmptyValue", 5, Flag), ("type", 6, Text), ("format", 7, Text),
        ("items", 8, One(&PRIMITIVE)), ("collectionFormat", 9, Text), ("default", 10, Any), ("maximum", 11, Number), ("exclusiveMaximum", 12, Flag), ("minimum", 13, Number),
        ("exclusiveMinimum", 14, Flag), ("maxLength", 15, Whole), ("minLength", 16, Whole), ("pattern", 17, Text), ("maxItems", 18, Whole), ("minItems", 19, Whole),
        ("uniqueItems", 20, Flag), ("enum", 21, Anys), ("multipleOf", 22, Number),
    ],
    extensions: 23,
};
static PRIMITIVE: Message = Message {
    members: &[
        ("type", 1, Text), ("format", 2, Text), ("items", 3, One(&PRIMITIVE)), ("collectionFormat", 4, Text), ("default", 5, Any), ("maximum", 6, Number), ("exclusiveMaximum", 7, Flag),
        ("minimum", 8, Number), ("exclusiveMinimum", 9, Flag), ("maxLength", 10, Whole), ("minLength", 11, Whole), ("pattern", 12, Text), ("maxItems", 13, Whole),
        ("minItems", 14, Whole), ("uniqueItems", 15, Flag), ("enum", 16, Anys), ("multipleOf", 17, Number),
    ],
    extensions: 18,
};
static SCHEMA: Message = Message {
    members: &[
        ("$ref", 1, Text), ("format", 2, Text), ("title", 3, Text), ("description", 4, Text), ("default", 5, Any), ("multipleOf", 6, Number), ("maximum", 7, Number),
        ("exclusiveMaximum", 8, Flag), ("minimum", 9, Number), ("exclusiveMinimum", 10, Flag), ("maxLength", 11, Whole), ("minLength", 12, Whole), ("pattern", 13, Text),
        ("maxItems", 14, Whole), ("minItems", 15, Whole), ("uniqueItems", 16, Flag), ("maxProperties", 17, Whole), ("minProperties", 18, Whole), ("required", 19, Texts),
        ("enum", 20, Anys), ("additionalProperties", 21, Own(additional)), ("type", 22, Own(type_item)), ("items", 23, Own(items)), ("allOf", 24, Many(&SCHEMA)),
        ("properties", 25, Named(&SCHEMA)), ("discriminator", 26, Text), ("readOnly", 27, Flag), ("externalDocs", 29, One(&DOCS)), ("example", 30, Any),
    ],
    extensions: 31,
};
static API_KEY: Message = Message { members: &[("type", 1, Text), ("name", 2, Text), ("in", 3, Text), ("description", 4, Text)], extensions: 5 };

fn paths(v: &Value, out: &mut Vec<u8>) {
    extensions(v, 1, out);
    for (k, v) in entries(v).filter(|(k, _)| k.starts_with('/')) {
        pair(out, 2, k, |out| message(v, &PATH, out));
    }
}

fn responses(v: &Value, out: &mut Vec<u8>) {
    for (k, v) in entries(v).filter(|(k, _)| !k.starts_with("x-")) {
        let (number, form) = if v.get("$ref").is_some() { (2, &REFERENCE) } else { (1, &RESPONSE) };
        pair(out, 1, k, |out| nested(out, number, |out| message(v, form, out)));
    }
    extensions(v, 2, out);
}

fn parameter(v: &Value, out: &mut Vec<u8>) {
    if v.get("$ref").is_some() {
        return nested(out, 2, |out| message(v, &REFERENCE, out));
    }
    nested(out, 1, |out| plain_parameter(v, out));
}

/// A parameter that is no reference to one.
fn plain_parameter(v: &Value, out: &mut Vec<u8>) {
    let (kind, form) = match v.get("in").and_then(Value::as_str) {
        Some("body") => return nested(out, 1, |out| message(v, &BODY, out)),
        Some("header") => (1, &PLAIN),
        Some("formData") => (2, &QUERY),
        Some("path") => (4, &PLAIN),
        _ => (3, &QUERY),
    };
    nested(out, 2, |out| nested(out, kind, |out| message(v, form, out)));
}

fn schema_item(v: &Value, out: &mut Vec<u8>) {
    nested(out, 1, |out| message(v, &SCHEMA, out));
}

fn additional(v: &Value, out: &mut Vec<u8>) {
    match v {
        Value::Bool(b) => {
            tag(out, 2, 0);
            out.push(u8::from(*b));
        }
        v => nested(out, 1, |out| message(v, &SCHEMA, out)),
    }
}

fn type_item(v: &Value, out: &mut Vec<u8>) {
    match v {
        Value::String(s) => bytes(out, 1, s.as_bytes()),
        v => list(v).iter().filter_map(Value::as_str).for_each(|s| bytes(out, 1, s.as_bytes())),
    }
}

fn items(v: &Value, out: &mut Vec<u8>) {
    match v {
        Value::Array(all) => all.iter().for_each(|v| nested(out, 1, |out| message(v, &SCHEMA, out))),
        v => nested(out, 1, |out| message(v, &SCHEMA, out)),
    }
}

fn requirement(v: &Value, out: &mut Vec<u8>) {
    for (k, v) in entries(v) {
        pair(out, 1, k, |out| list(v).iter().filter_map(Value::as_str).for_each(|s| bytes(out, 1, s.as_bytes())));
    }
}

/// Only keys are used: other ways of authentication have no part in the document.
fn security(v: &Value, out: &mut Vec<u8>) {
    nested(out, 2, |out| message(v, &API_KEY, out));
}

/// A document of `/openapi/v2` in protobuf.
pub fn encode(document: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 << 20);
    message(document, &DOCUMENT, &mut out);
    out
}
