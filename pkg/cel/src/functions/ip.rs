//! IP addresses and blocks of them.

use std::{fmt, net::IpAddr};

use super::{no_overload, text};
use crate::{
    error::EvalError,
    eval::Outcome,
    value::{Opaque, Value},
};

/// A block of addresses; the address may have bits beyond the prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The address.
    pub ip: IpAddr,
    /// Bits of the prefix.
    pub bits: u8,
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.bits)
    }
}

fn mask(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(a) => IpAddr::V4((u32::from(a) & u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0)).into()),
        IpAddr::V6(a) => IpAddr::V6((u128::from(a) & u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0)).into()),
    }
}

fn parse_ip(s: &str) -> Result<IpAddr, EvalError> {
    if s.contains('%') {
        return Err(EvalError::new(format!("IP address {s:?} with zone value is not allowed")));
    }
    let ip: IpAddr = s.parse().map_err(|_| EvalError::new(format!("IP Address {s:?} parse error during conversion from string: ParseAddr({s:?}): unable to parse IP")))?;
    if matches!(ip, IpAddr::V6(a) if a.to_ipv4_mapped().is_some()) {
        return Err(EvalError::new(format!("IPv4-mapped IPv6 address {s:?} is not allowed")));
    }
    Ok(ip)
}

fn parse_cidr(s: &str) -> Result<Cidr, EvalError> {
    let bad = |why: &str| EvalError::new(format!("network address parse error during conversion from string: netip.ParsePrefix({s:?}): {why}"));
    let (a, n) = s.split_once('/').ok_or_else(|| bad("no '/'"))?;
    let ip: IpAddr = a.parse().map_err(|_| bad("unable to parse IP"))?;
    if matches!(ip, IpAddr::V6(a) if a.to_ipv4_mapped().is_some()) {
        return Err(bad("IPv4-mapped IPv6 address is not allowed"));
    }
    let most = if ip.is_ipv4() { 32 } else { 128 };
    if n.is_empty() || (n.len() > 1 && n.starts_with('0')) || !n.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad(&format!("bad bits after slash: {n:?}")));
    }
    let bits: u8 = n.parse().ok().filter(|b| *b <= most).ok_or_else(|| bad("prefix length out of range"))?;
    Ok(Cidr { ip, bits })
}

fn opaque<'v>(v: &'v Value<'_>) -> Option<&'v Opaque> {
    match v {
        Value::Opaque(o) => Some(o),
        _ => None,
    }
}

fn contains(c: &Cidr, ip: IpAddr) -> bool {
    c.ip.is_ipv4() == ip.is_ipv4() && mask(c.ip, c.bits) == mask(ip, c.bits)
}

pub(super) fn call<'a>(name: &str, args: &[Value<'a>]) -> Outcome<'a> {
    let truth = |b: bool| Ok(Value::Bool(b));
    match (name, args) {
        ("isIP", [v]) => return truth(parse_ip(text(v)?).is_ok()),
        ("isCIDR", [v]) => return truth(parse_cidr(text(v)?).is_ok()),
        ("ip.isCanonical", [v]) => return truth(parse_ip(text(v)?)?.to_string() == text(v)?),
        ("ip", [Value::String(s)]) => return Ok(Value::opaque(Opaque::Ip(parse_ip(s.as_str())?))),
        ("cidr", [v]) => return Ok(Value::opaque(Opaque::Cidr(parse_cidr(text(v)?)?))),
        _ => {}
    }
    match (name, args.first().and_then(opaque), args.get(1)) {
        ("ip", Some(Opaque::Cidr(c)), None) => Ok(Value::opaque(Opaque::Ip(c.ip))),
        ("masked", Some(Opaque::Cidr(c)), None) => Ok(Value::opaque(Opaque::Cidr(Cidr { ip: mask(c.ip, c.bits), bits: c.bits }))),
        ("prefixLength", Some(Opaque::Cidr(c)), None) => Ok(Value::Int(i64::from(c.bits))),
        ("containsIP", Some(Opaque::Cidr(c)), Some(v)) => match (v, opaque(v)) {
            (Value::String(s), _) => truth(contains(c, parse_ip(s.as_str())?)),
            (_, Some(Opaque::Ip(ip))) => truth(contains(c, *ip)),
            _ => no_overload(),
        },
        ("containsCIDR", Some(Opaque::Cidr(c)), Some(v)) => {
            let other = match (v, opaque(v)) {
                (Value::String(s), _) => parse_cidr(s.as_str())?,
                (_, Some(Opaque::Cidr(o))) => o.clone(),
                _ => return no_overload(),
            };
            truth(c.bits <= other.bits && contains(c, other.ip))
        }
        ("family", Some(Opaque::Ip(ip)), None) => Ok(Value::Int(if ip.is_ipv4() { 4 } else { 6 })),
        ("isUnspecified", Some(Opaque::Ip(ip)), None) => truth(ip.is_unspecified()),
        ("isLoopback", Some(Opaque::Ip(ip)), None) => truth(ip.is_loopback()),
        ("isLinkLocalMulticast", Some(Opaque::Ip(ip)), None) => truth(link_local_multicast(ip)),
        ("isLinkLocalUnicast", Some(Opaque::Ip(ip)), None) => truth(link_local(ip)),
        ("isGlobalUnicast", Some(Opaque::Ip(ip)), None) => {
            let broadcast = matches!(ip, IpAddr::V4(a) if a.is_broadcast());
            truth(!broadcast && !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && !link_local(ip))
        }
        _ => no_overload(),
    }
}

fn link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}

fn link_local_multicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(a) => a.octets()[..3] == [224, 0, 0],
        IpAddr::V6(a) => a.segments()[0] & 0xff0f == 0xff02,
    }
}
