//! The authorizer.

use super::{no_overload, owned, text};
use crate::{
    authorizer::{Authorizer, Check},
    error::EvalError,
    eval::Outcome,
    value::{Opaque, Value},
};

pub(super) fn call<'a>(authorizer: Option<&dyn Authorizer>, name: &str, args: &[Value<'a>]) -> Outcome<'a> {
    let Some(Value::Opaque(o)) = args.first() else { return no_overload() };
    let arg = |i: usize| args.get(i).map_or(Ok(""), text);
    let with = |c: &Check, change: &dyn Fn(&mut Check)| {
        let mut c = c.clone();
        change(&mut c);
        c
    };
    let must = |v: &str, why: &str| if v.is_empty() { Err(EvalError::new(why)) } else { Ok(v.to_owned()) };
    Ok(Value::opaque(match (name, o.as_ref()) {
        ("path", Opaque::Authorizer(c)) => {
            let p = must(arg(1)?, "path must not be empty")?;
            Opaque::PathCheck(with(c, &|c| c.path.clone_from(&p)))
        }
        ("group", Opaque::Authorizer(c)) => {
            let g = arg(1)?.to_owned();
            Opaque::GroupCheck(with(c, &|c| c.group.clone_from(&g)))
        }
        ("serviceAccount", Opaque::Authorizer(c)) => {
            let (ns, n) = (arg(1)?.to_owned(), arg(2)?.to_owned());
            if !knarr_schema::names::dns1123_subdomain(&n).is_empty() {
                return Err(EvalError::new("Invalid service account name"));
            }
            if !knarr_schema::names::dns1123_label(&ns).is_empty() {
                return Err(EvalError::new("Invalid service account namespace"));
            }
            Opaque::Authorizer(with(c, &|c| c.service_account = Some((ns.clone(), n.clone()))))
        }
        ("resource", Opaque::GroupCheck(c)) => {
            let r = must(arg(1)?, "resource must not be empty")?;
            Opaque::ResourceCheck(with(c, &|c| c.resource.clone_from(&r)))
        }
        ("subresource" | "namespace" | "name" | "fieldSelector" | "labelSelector", Opaque::ResourceCheck(c)) => {
            let v = arg(1)?.to_owned();
            Opaque::ResourceCheck(with(c, &|c| {
                let place = match name {
                    "subresource" => &mut c.subresource,
                    "namespace" => &mut c.namespace,
                    "name" => &mut c.name,
                    "fieldSelector" => &mut c.field_selector,
                    _ => &mut c.label_selector,
                };
                place.clone_from(&v);
            }))
        }
        ("check", Opaque::PathCheck(c) | Opaque::ResourceCheck(c)) => {
            let Some(a) = authorizer else { return Err(EvalError::new("no authorizer")) };
            let verb = arg(1)?.to_owned();
            Opaque::Decision(a.check(&with(c, &|c| c.verb.clone_from(&verb))))
        }
        ("allowed", Opaque::Decision(d)) => return Ok(Value::Bool(d.allowed)),
        ("reason", Opaque::Decision(d)) => return Ok(owned(&d.reason)),
        ("errored", Opaque::Decision(d)) => return Ok(Value::Bool(d.error.is_some())),
        ("error", Opaque::Decision(d)) => return Ok(owned(d.error.as_deref().unwrap_or(""))),
        _ => return no_overload(),
    }))
}
