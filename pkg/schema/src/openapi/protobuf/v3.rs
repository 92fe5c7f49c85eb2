//! Version 3.

use serde_json::Value;

use super::{
    Form::{Any, Anys, Either, Eithers, Flag, Named, NamedEither, Number, One, Own, Owns, Text, Texts, Whole},
    Message, either, entries, extensions, list, message, pair,
};
use crate::proto::encode::{bytes, nested, tag};

static DOCUMENT: Message = Message {
    members: &[("openapi", 1, Text), ("info", 2, One(&INFO)), ("paths", 4, Own(paths)), ("components", 5, One(&COMPONENTS)), ("security", 6, Owns(requirement)), ("externalDocs", 8, One(&DOCS))],
    extensions: 9,
};
static INFO: Message =
    Message { members: &[("title", 1, Text), ("description", 2, Text), ("termsOfService", 3, Text), ("version", 6, Text), ("summary", 8, Text)], extensions: 7 };
static COMPONENTS: Message = Message {
    members: &[
        ("schemas", 1, NamedEither(&SCHEMA)), ("responses", 2, NamedEither(&RESPONSE)), ("parameters", 3, NamedEither(&PARAMETER)), ("requestBodies", 5, NamedEither(&BODY)),
        ("securitySchemes", 7, NamedEither(&SECURITY)),
    ],
    extensions: 10,
};
static SECURITY: Message = Message {
    members: &[("type", 1, Text), ("description", 2, Text), ("name", 3, Text), ("in", 4, Text), ("scheme", 5, Text), ("bearerFormat", 6, Text), ("openIdConnectUrl", 8, Text)],
    extensions: 9,
};
static PATH: Message = Message {
    members: &[
        ("$ref", 1, Text), ("summary", 2, Text), ("description", 3, Text), ("get", 4, One(&OPERATION)), ("put", 5, One(&OPERATION)), ("post", 6, One(&OPERATION)),
        ("delete", 7, One(&OPERATION)), ("options", 8, One(&OPERATION)), ("head", 9, One(&OPERATION)), ("patch", 10, One(&OPERATION)), ("trace", 11, One(&OPERATION)),
        ("parameters", 13, Eithers(&PARAMETER)),
    ],
    extensions: 14,
};
static OPERATION: Message = Message {
    members: &[
        ("tags", 1, Texts), ("summary", 2, Text), ("description", 3, Text), ("externalDocs", 4, One(&DOCS)), ("operationId", 5, Text), ("parameters", 6, Eithers(&PARAMETER)),
        ("requestBody", 7, Either(&BODY)), ("responses", 8, Own(responses)), ("deprecated", 10, Flag), ("security", 11, Owns(requirement)),
    ],
    extensions: 13,
};
static DOCS: Message = Message { members: &[("description", 1, Text), ("url", 2, Text)], extensions: 3 };
static PARAMETER: Message = Message {
    members: &[
        ("name", 1, Text), ("in", 2, Text), ("description", 3, Text), ("required", 4, Flag), ("deprecated", 5, Flag), ("allowEmptyValue", 6, Flag), ("style", 7, Text), ("explode", 8, Flag),
        ("allowReserved", 9, Flag), ("schema", 10, Either(&SCHEMA)), ("example", 11, Any), ("content", 13, Named(&MEDIA)),
    ],
    extensions: 14,
};
static BODY: Message = Message { members: &[("description", 1, Text), ("content", 2, Named(&MEDIA)), ("required", 3, Flag)], extensions: 4 };
static RESPONSE: Message = Message { members: &[("description", 1, Text), ("content", 3, Named(&MEDIA))], extensions: 5 };
static MEDIA: Message = Message { members: &[("schema", 1, Either(&SCHEMA)), ("example", 2, Any)], extensions: 5 };
static SCHEMA: Message = Message {
    members: &[
        ("nullable", 1, Flag), ("readOnly", 3, Flag), ("writeOnly", 4, Flag), ("externalDocs", 6, One(&DOCS)), ("example", 7, Any), ("deprecated", 8, Flag), ("title", 9, Text),
        ("multipleOf", 10, Number), ("maximum", 11, Number), ("exclusiveMaximum", 12, Flag), ("minimum", 13, Number), ("exclusiveMinimum", 14, Flag), ("maxLength", 15, Whole),
        ("minLength", 16, Whole), ("pattern", 17, Text), ("maxItems", 18, Whole), ("minItems", 19, Whole), ("uniqueItems", 20, Flag), ("maxProperties", 21, Whole),
        ("minProperties", 22, Whole), ("required", 23, Texts), ("enum", 24, Anys), ("type", 25, Text), ("allOf", 26, Eithers(&SCHEMA)), ("oneOf", 27, Eithers(&SCHEMA)),
        ("anyOf", 28, Eithers(&SCHEMA)), ("not", 29, One(&SCHEMA)), ("items", 30, Own(items)), ("properties", 31, NamedEither(&SCHEMA)), ("additionalProperties", 32, Own(additional)),
        ("default", 33, Own(default)), ("description", 34, Text), ("format", 35, Text),
    ],
    extensions: 36,
};

fn paths(v: &Value, out: &mut Vec<u8>) {
    for (k, v) in entries(v).filter(|(k, _)| k.starts_with('/')) {
        pair(out, 1, k, |out| message(v, &PATH, out));
    }
    extensions(v, 2, out);
}

fn responses(v: &Value, out: &mut Vec<u8>) {
    if let Some(v) = v.get("default") {
        nested(out, 1, |out| either(v, &RESPONSE, out));
    }
    for (k, v) in entries(v).filter(|(k, _)| *k != "default" && !k.starts_with("x-")) {
        pair(out, 2, k, |out| either(v, &RESPONSE, out));
    }
    extensions(v, 3, out);
}

fn items(v: &Value, out: &mut Vec<u8>) {
    let one = std::slice::from_ref(v);
    for v in v.as_array().map_or(one, Vec::as_slice) {
        nested(out, 1, |out| either(v, &SCHEMA, out));
    }
}

fn additional(v: &Value, out: &mut Vec<u8>) {
    match v {
        Value::Bool(b) => {
            tag(out, 2, 0);
            out.push(u8::from(*b));
        }
        v => nested(out, 1, |out| either(v, &SCHEMA, out)),
    }
}

/// Only values of one part have a form; of others it is only told that there is one.
fn default(v: &Value, out: &mut Vec<u8>) {
    match v {
        Value::Number(n) => {
            tag(out, 1, 1);
            out.extend_from_slice(&n.as_f64().unwrap_or_default().to_le_bytes());
        }
        Value::Bool(b) => {
            tag(out, 2, 0);
            out.push(u8::from(*b));
        }
        Value::String(s) => bytes(out, 3, s.as_bytes()),
        _ => {}
    }
}

fn requirement(v: &Value, out: &mut Vec<u8>) {
    for (k, v) in entries(v) {
        pair(out, 1, k, |out| list(v).iter().filter_map(Value::as_str).for_each(|s| bytes(out, 1, s.as_bytes())));
    }
}

/// A document of `/openapi/v3` in protobuf.
pub fn encode(document: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 << 18);
    message(document, &DOCUMENT, &mut out);
    out
}
