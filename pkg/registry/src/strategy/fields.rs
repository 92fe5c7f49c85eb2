//! Rules of fields as tables: one mechanism for all kinds.
//!
//! A path names a field: `spec.rules[].host` each element's, `spec.hard{}` each member of a map.
//! What is above a field and absent has no such field; only [`Check::Required`] minds an absent one.

pub(super) mod admission;
mod autoscaling;
mod cluster;
mod devices;
mod flow;
mod network;
mod storage;

pub(super) use network::outside;

use std::net::IpAddr;

use knarr_schema::quantity::Quantity;
use serde_json::Value;

use super::{Strategy, generic::Generic};
use crate::{
    error::{FieldError, FieldErrorKind},
    names::{self, NameRule},
    object::Object,
};

/// What a field must be. A text that is empty counts as absent in rules that begin with `?`.
#[derive(Clone, Copy)]
pub(super) enum Check {
    /// It must be there and not empty; with the sentence that says so.
    Required(&'static str),
    /// A DNS label (RFC 1123).
    Label,
    /// A DNS label that begins with a letter (RFC 1035).
    Label1035,
    /// A DNS subdomain (RFC 1123).
    Subdomain,
    /// A segment of a path.
    Segment,
    /// A name with or without a domain before it.
    Qualified,
    /// The same, in lower case.
    QualifiedLower,
    /// The value of a label.
    LabelValue,
    /// One of these; errors list them sorted.
    OneOf(&'static [&'static str]),
    /// One of these; errors list them as they are here.
    OneOfAsIs(&'static [&'static str]),
    /// Not less than that.
    Least(i64, &'static str),
    /// Not more than that.
    Most(i64, &'static str),
    /// A quantity of at least zero.
    Quantity,
    /// Not longer than that many bytes.
    Bytes(usize),
    /// Not longer than that, with a sentence of its own.
    Short(usize, &'static str),
    /// A port's number.
    Port,
    /// A port's name.
    PortName,
    /// An IP address.
    Ip,
    /// A network.
    Cidr,
    /// A label selector.
    Selector,
    /// A map of labels.
    Labels,
    /// A list without the same text twice.
    Unique,
    /// Objects of a list differ in this member.
    UniqueBy(&'static str),
    /// What nothing else says.
    Custom(fn(&Value, &str, &mut Vec<FieldError>)),
}

/// A field and what it must be; the first [`Check::Required`] that fails ends it.
pub(super) type Rule = (&'static str, &'static [Check]);

/// What of a field may not change.
#[derive(Clone, Copy)]
pub(super) enum Fixed {
    /// Never.
    Always(&'static str),
    /// Never; the value is not shown, and what else is wrong with it is said too.
    Unshown(&'static str),
    /// Never; what else is wrong with it is said too, and whether it is shown as null without a value.
    Also(&'static str, bool),
    /// Never; nothing else is said, and the value is not shown.
    Sole(&'static str),
    /// Never, and the answer is that.
    Forbidden(&'static str, &'static str),
    /// Never in an event of the new kind; with the name that errors give the field.
    New(&'static str, &'static str),
    /// Never; with the name that errors give the field.
    Named(&'static str, &'static str),
    /// Never in an item of a list by its key, one member apart.
    Each(&'static str, &'static str, &'static str),
}

/// The rules of one kind.
#[derive(Clone, Copy)]
pub(super) struct Table {
    pub rules: &'static [Rule],
    /// What concerns several fields.
    pub more: Option<fn(&Value, &mut Vec<FieldError>)>,
    pub fixed: &'static [Fixed],
    /// Fields that should be there, those with which they should, and what is said if not.
    pub warn_unset: &'static [(&'static str, &'static str, &'static str)],
}

pub(crate) use admission::mutable;

/// The table of a kind.
pub(super) fn of(group: &str, resource: &str) -> Option<Table> {
    let table = match group {
        "networking.k8s.io" | "discovery.k8s.io" => network::of(resource),
        "storage.k8s.io" => storage::of(resource),
        "autoscaling" | "policy" => autoscaling::of(resource),
        "admissionregistration.k8s.io" => admission::of(resource),
        "flowcontrol.apiserver.k8s.io" => flow::of(resource),
        "resource.k8s.io" => devices::of(resource),
        "" if resource == "endpoints" => network::of(resource),
        _ => cluster::of(group, resource),
    };
    table.copied()
}

/// Whether a value says nothing.
fn blank(v: &Value) -> bool {
    match v {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => false,
    }
}

/// Everything that rules find wrong with an object.
pub(super) fn check(obj: &Value, rules: &[Rule], out: &mut Vec<FieldError>) {
    for (path, checks) in rules {
        let (soft, path) = path.strip_prefix('?').map_or((false, *path), |p| (true, p));
        walk(obj, path, String::new(), &mut |v, at| {
            let v = v.filter(|v| !v.is_null());
            if soft && v.is_none_or(blank) {
                return;
            }
            for c in *checks {
                if !c.apply(v, &at, out) {
                    return;
                }
            }
        });
    }
}

/// Visits what a path names.
fn walk(v: &Value, path: &str, at: String, visit: &mut dyn FnMut(Option<&Value>, &str)) {
    let (step, rest) = path.split_once('.').unwrap_or((path, ""));
    let (name, each) = match (step.strip_suffix("[]"), step.strip_suffix("{}")) {
        (Some(n), _) => (n, '['),
        (_, Some(n)) => (n, '{'),
        _ => (step, ' '),
    };
    let at = if at.is_empty() {
        name.to_owned()
    } else {
        format!("{at}.{name}")
    };
    let inner = v.get(name);
    let mut on = |v: Option<&Value>, at: String| match (v, rest) {
        (v, "") => visit(v, &at),
        (Some(v), rest) if !v.is_null() => walk(v, rest, at, visit),
        _ => {}
    };
    match each {
        '[' => inner
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .enumerate()
            .for_each(|(i, v)| on(Some(v), format!("{at}[{i}]"))),
        '{' => inner
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .for_each(|(k, v)| on(Some(v), format!("{at}[{k}]"))),
        _ => on(inner, at),
    }
}

/// A refusal that lists what would do, in the order given.
pub(super) fn not_supported(at: &str, v: &str, all: &[&str]) -> FieldError {
    let list: Vec<String> = all.iter().map(|s| format!("{s:?}")).collect();
    let mut e = FieldError::invalid(at, v, format!("supported values: {}", list.join(", ")));
    e.kind = FieldErrorKind::NotSupported;
    e
}

impl Check {
    /// Whether the next check has anything to look at.
    pub(super) fn apply(self, v: Option<&Value>, at: &dyn std::fmt::Display, out: &mut Vec<FieldError>) -> bool {
        let Some(v) = v.filter(|v| !matches!(self, Self::Required(_)) || !blank(v)) else {
            if let Self::Required(why) = self {
                out.push(FieldError::required(at.to_string(), why));
            }
            return false;
        };
        let mut all = |messages: Vec<String>| {
            out.extend(
                messages
                    .into_iter()
                    .map(|m| FieldError::invalid(at.to_string(), v.clone(), m)),
            )
        };
        let text = v.as_str().unwrap_or("");
        let number = v.as_i64();
        match self {
            Self::Required(_) => {}
            Self::Label => all(names::label(text)),
            Self::Label1035 => all(NameRule::Label1035.check(text, false)),
            Self::Subdomain => all(names::subdomain(text)),
            Self::Segment => all(NameRule::PathSegment.check(text, false)),
            Self::Qualified => all(names::qualified(text)),
            Self::QualifiedLower => out.extend(
                names::qualified(&text.to_lowercase())
                    .into_iter()
                    .map(|m| FieldError::invalid(at.to_string(), text.to_lowercase(), m)),
            ),
            Self::LabelValue => all(knarr_schema::names::label_value(text)),
            Self::OneOf(list) if !list.contains(&text) => {
                out.push(FieldError::not_supported(at.to_string(), text, list))
            }
            Self::OneOfAsIs(list) if !list.contains(&text) => {
                out.push(not_supported(&at.to_string(), text, list))
            }
            Self::Least(least, why) if number.is_some_and(|n| n < least) => {
                all(vec![why.to_owned()])
            }
            Self::Most(most, why) if number.is_some_and(|n| n > most) => all(vec![why.to_owned()]),
            Self::Quantity if Quantity::parse(text).is_ok_and(|q| q.sign() < 0) => {
                all(vec!["must be greater than or equal to 0".into()])
            }
            Self::Bytes(most) if text.len() > most => out.push(FieldError::too_long(at.to_string(), most)),
            Self::Short(most, why) if text.len() > most => all(vec![why.to_owned()]),
            Self::Port => all(number
                .map(knarr_schema::names::port_number)
                .unwrap_or_default()),
            Self::PortName => all(knarr_schema::names::port_name(text)),
            Self::Ip => all(address(text)),
            Self::Cidr => all(network(text)),
            Self::Selector => selector(v, &at.to_string(), out),
            Self::Labels => out.extend(names::labels(Some(v), &at.to_string())),
            Self::Unique => {
                let list = v.as_array().map_or(&[][..], Vec::as_slice);
                for (i, item) in list.iter().enumerate() {
                    if list.get(..i).is_some_and(|before| before.contains(item)) {
                        out.push(FieldError::duplicate(format!("{at}[{i}]"), item.clone()));
                    }
                }
            }
            Self::UniqueBy(member) => {
                let mut seen: Vec<&str> = Vec::new();
                for (i, item) in v.as_array().into_iter().flatten().enumerate() {
                    let key = item.str_at(&[member]);
                    if seen.contains(&key) {
                        out.push(FieldError::duplicate(format!("{at}[{i}].{member}"), key));
                    }
                    seen.push(key);
                }
            }
            Self::Custom(f) => f(v, &at.to_string(), out),
            _ => {}
        }
        true
    }
}

/// What is wrong with an address, as fields of old have it: not in the form it should have, but
/// without octal numbers and without IPv4 in IPv6.
pub(super) fn address(text: &str) -> Vec<String> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(a)) if a.to_ipv4_mapped().is_some() => vec!["must not be an IPv4-mapped IPv6 address".into()],
        Ok(_) => Vec::new(),
        Err(_) => {
            let stripped: Vec<&str> = text.split('.').map(|p| if p.len() > 1 { p.trim_start_matches('0') } else { p }).map(|p| if p.is_empty() { "0" } else { p }).collect();
            let octal = stripped.len() == 4 && text.split('.').all(|p| !p.is_empty()) && stripped.join(".").parse::<IpAddr>().is_ok();
            vec![if octal { "must not have leading 0s".into() } else { IP.into() }]
        }
    }
}

pub(super) const IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
pub(super) const CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// What is wrong with a network, as fields of old have it.
pub(super) fn network(text: &str) -> Vec<String> {
    let Some((ip, bits)) = text.split_once('/') else { return vec![CIDR.into()] };
    let mut wrong = Vec::new();
    let plain: Option<IpAddr> = match address(ip).as_slice() {
        [] => ip.parse().ok(),
        [why] if why == IP => None,
        [why, ..] => {
            wrong.push(if why.contains("leading") { format!("{why} in IP or prefix length") } else { why.replace("not be", "not have") });
            return wrong;
        }
    };
    let Some(ip) = plain.filter(|_| cidr(text)) else { return vec![CIDR.into()] };
    let bits: u32 = bits.parse().unwrap_or(0);
    let low = match ip {
        IpAddr::V4(a) => u32::from(a).checked_shl(bits).unwrap_or(0) != 0,
        IpAddr::V6(a) => u128::from(a).checked_shl(bits).unwrap_or(0) != 0,
    };
    if low {
        wrong.push("must not have bits set beyond the prefix length".into());
    }
    wrong
}

/// Whether a text is a network.
pub(super) fn cidr(text: &str) -> bool {
    let Some((ip, bits)) = text.split_once('/') else {
        return false;
    };
    let most = match ip.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.parse::<u8>().is_ok_and(|b| b <= most) && (bits == "0" || !bits.starts_with('0'))
}

/// `example.com/path`.
pub(super) fn domain_prefixed(v: &Value, at: &str, out: &mut Vec<FieldError>) {
    let text = v.as_str().unwrap_or("");
    if text.is_empty() {
        return out.push(FieldError::required(at, ""));
    }
    let Some((host, path)) = text.split_once('/').filter(|(h, p)| !h.is_empty() && !p.is_empty()) else {
        return out.push(FieldError::invalid(at, text, "must be a domain-prefixed path (such as \"acme.io/foo\")"));
    };
    out.extend(names::subdomain(host).into_iter().map(|m| FieldError::invalid(at, host, m)));
    if !path.bytes().all(|c| c.is_ascii_alphanumeric() || b"/-_.~!$&'()*+,;=:@%".contains(&c)) {
        out.push(FieldError::invalid(at, path, "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')"));
    }
}

/// A label selector.
pub(super) fn selector(s: &Value, at: &str, out: &mut Vec<FieldError>) {
    for (i, e) in s.list_at(&["matchExpressions"]).iter().enumerate() {
        let at = format!("{at}.matchExpressions[{i}]");
        let values = e.list_at(&["values"]);
        match e.str_at(&["operator"]) {
            "In" | "NotIn" if values.is_empty() => out.push(FieldError::required(
                format!("{at}.values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                out.push(FieldError::forbidden(
                    format!("{at}.values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                ));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => out.push(FieldError::invalid(
                format!("{at}.operator"),
                other,
                "not a valid selector operator",
            )),
        }
        let key = e.str_at(&["key"]);
        out.extend(
            names::qualified(key)
                .into_iter()
                .map(|m| FieldError::invalid(format!("{at}.key"), key, m)),
        );
        for (i, v) in values.iter().filter_map(Value::as_str).enumerate() {
            out.extend(
                knarr_schema::names::label_value(v)
                    .into_iter()
                    .map(|m| FieldError::invalid(format!("{at}.values[{i}]"), v, m)),
            );
        }
    }
    out.extend(names::labels(
        s.at(&["matchLabels"]),
        &format!("{at}.matchLabels"),
    ));
}

/// A kind whose fields a table describes.
pub(super) struct Checked {
    pub inner: Generic,
    pub table: Table,
}

impl Checked {
    /// `None` if no table is of that kind.
    pub fn of(group: &str, resource: &str) -> Option<Self> {
        Some(Self {
            inner: Generic::of(group, resource),
            table: of(group, resource)?,
        })
    }
}

/// Everything wrong with an object by a table.
pub(super) fn validate(obj: &Value, table: &Table) -> Vec<FieldError> {
    let mut out = Vec::new();
    check(obj, table.rules, &mut out);
    if let Some(more) = table.more {
        more(obj, &mut out);
    }
    out
}

/// What a change may not change, by a table.
pub(super) fn fixed(obj: &Value, old: &Value, table: &Table, out: &mut Vec<FieldError>) {
    for f in table.fixed {
        let (Fixed::Always(path)
        | Fixed::Unshown(path)
        | Fixed::Sole(path)
        | Fixed::Also(path, _)
        | Fixed::Forbidden(path, _)
        | Fixed::New(path, _)
        | Fixed::Named(path, _)
        | Fixed::Each(path, _, _)) = *f;
        if matches!(f, Fixed::New(..)) && old.str_at(&["eventTime"]).is_empty() {
            continue;
        }
        let parts: Vec<&str> = path.split('.').collect();
        if let Fixed::Each(_, key, free) = *f {
            let without = |v: &Value| {
                let mut v = v.clone();
                v.take_at(&[free]);
                v
            };
            for before in old.list_at(&parts) {
                for new in obj.list_at(&parts).iter().filter(|n| n[key] == before[key]).map(without) {
                    if new != without(before) {
                        out.push(FieldError::invalid(path, new, "field is immutable"));
                    }
                }
            }
            continue;
        }
        let (new, before) = (obj.at(&parts), old.at(&parts));
        let same = new == before || (new.is_none_or(blank) && before.is_none_or(blank));
        if same {
            continue;
        }
        out.push(match f {
            Fixed::Always(_) => FieldError::invalid(
                path,
                new.filter(|v| !blank(v)).cloned().unwrap_or_default(),
                "field is immutable",
            ),
            Fixed::Unshown(_) | Fixed::Sole(_) => FieldError::invalid(path, Value::Null, "field is immutable"),
            Fixed::Also(_, null) => {
                let none = if *null { Value::Null } else { "".into() };
                FieldError::invalid(path, new.filter(|v| !blank(v)).cloned().unwrap_or(none), "field is immutable")
            }
            Fixed::New(_, shown) | Fixed::Named(_, shown) => FieldError::invalid(
                *shown,
                new.cloned().unwrap_or_default(),
                "field is immutable",
            ),
            Fixed::Forbidden(_, why) => FieldError::forbidden(path, *why),
            Fixed::Each(..) => continue,
        });
    }
}

impl Strategy for Checked {
    fn names(&self) -> NameRule {
        self.inner.names()
    }
    fn prepare_create(&self, obj: &mut Value) {
        self.inner.prepare_create(obj);
    }
    fn prepare_update(&self, obj: &mut Value, old: &Value) {
        self.inner.prepare_update(obj, old);
    }
    fn prepare_subresource(&self, sub: &str, obj: &mut Value, old: &Value) {
        self.inner.prepare_subresource(sub, obj, old);
    }
    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        validate(obj, &self.table)
    }
    fn validate_update(&self, obj: &Value, old: &Value) -> Vec<FieldError> {
        let mut all = validate(obj, &self.table);
        let mut out = Vec::new();
        fixed(obj, old, &self.table, &mut out);
        let sole = |f: &FieldError| self.table.fixed.iter().any(|x| matches!(x, Fixed::Sole(p) if *p == f.field));
        if out.iter().any(sole) {
            return out;
        }
        let also = |f: &FieldError| self.table.fixed.iter().any(|x| matches!(x, Fixed::Also(p, _) if *p == f.field));
        // What may not change at all is not looked at further.
        all.retain(|e| {
            !out.iter().any(|f| {
                f.kind == FieldErrorKind::Invalid
                    && f.value != Some(Value::Null)
                    && f.field == e.field
                    && !also(f)
            })
        });
        out.extend(all);
        out
    }
    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let at = |v: &Value, path: &str| v.at(&path.split('.').collect::<Vec<_>>()).filter(|v| !blank(v)).cloned();
        let unset = self.table.warn_unset.iter().filter(|(path, with, _)| {
            let new = at(obj, with);
            new.is_some() && obj.at(&path.split('.').collect::<Vec<_>>()).is_none() && old.is_none_or(|o| at(o, with) != new)
        });
        unset.map(|(_, _, text)| (*text).to_owned()).collect()
    }
    fn unconditional_update(&self) -> bool {
        self.inner.unconditional_update()
    }
    fn create_on_update(&self) -> bool {
        self.inner.create_on_update()
    }
    fn returns_deleted(&self) -> bool {
        self.inner.returns_deleted()
    }
}
