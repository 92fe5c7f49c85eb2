//! Named formats.

use base64::{Engine, engine::general_purpose::STANDARD};
use knarr_schema::names;

use super::{no_overload, owned, pattern, text, time, url};
use crate::{
    decls::FORMATS,
    eval::Outcome,
    value::{Opaque, Value},
};

/// A format by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format(&'static str);

pub(super) fn named(name: &str) -> Option<Format> {
    FORMATS.iter().find(|f| **f == name).map(|f| Format(f))
}

/// What is wrong with a text; empty is right.
fn check(f: Format, s: &str) -> Vec<String> {
    // A prefix may end with a dash because letters follow.
    let prefix = || match s.strip_suffix('-') {
        Some(head) => format!("{head}a"),
        None => s.to_owned(),
    };
    let unless = |ok: bool, why: &str| if ok { Vec::new() } else { vec![why.to_owned()] };
    match f.0 {
        "dns1123Label" => names::dns1123_label(s),
        "dns1123Subdomain" => names::dns1123_subdomain(s),
        "dns1035Label" => names::dns1035_label(s),
        "qualifiedName" => names::qualified_name(s),
        "dns1123LabelPrefix" => names::dns1123_label(&prefix()),
        "dns1123SubdomainPrefix" => names::dns1123_subdomain(&prefix()),
        "dns1035LabelPrefix" => names::dns1035_label(&prefix()),
        "labelValue" => names::label_value(s),
        "uri" => url::parse(s).err().into_iter().collect(),
        "uuid" => {
            let ok = pattern("(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$").is_ok_and(|p| p.is_match(s));
            unless(ok, "does not match the UUID format")
        }
        "byte" => unless(STANDARD.decode(s).is_ok(), "invalid base64"),
        "date" => unless(s.len() == 10 && time::parse_timestamp(s).is_some(), "invalid date"),
        _ => unless(s.len() > 10 && time::parse_timestamp(s).is_some(), "invalid datetime"),
    }
}

pub(super) fn call<'a>(name: &str, args: &[Value<'a>]) -> Outcome<'a> {
    match (name, args) {
        ("format.named", [v]) => Ok(named(text(v)?).map_or(Value::Optional(None), |f| Value::some(Value::opaque(Opaque::Format(f))))),
        ("validate", [Value::Opaque(o), v]) => {
            let Opaque::Format(f) = o.as_ref() else { return no_overload() };
            let wrong = check(*f, text(v)?);
            Ok(if wrong.is_empty() { Value::Optional(None) } else { Value::some(Value::list(wrong.iter().map(|w| owned(w)).collect())) })
        }
        _ => no_overload(),
    }
}
