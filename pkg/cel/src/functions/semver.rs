//! Semantic versions.

use std::{cmp::Ordering, fmt};

use super::{no_overload, text};
use crate::{
    error::EvalError,
    eval::Outcome,
    value::{Opaque, Value},
};

/// A version by semver.org 2.0.0.
#[derive(Clone, Debug)]
pub struct Semver {
    major: u64,
    minor: u64,
    patch: u64,
    pre: Vec<String>,
    build: String,
}

impl fmt::Display for Semver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)?;
        if !self.pre.is_empty() {
            write!(f, "-{}", self.pre.join("."))?;
        }
        if !self.build.is_empty() {
            write!(f, "+{}", self.build)?;
        }
        Ok(())
    }
}

impl Semver {
    fn parse(s: &str) -> Result<Self, String> {
        if s.is_empty() {
            return Err("Version string empty".into());
        }
        let (s, build) = s.split_once('+').map_or((s, ""), |(a, b)| (a, b));
        let (core, pre) = s.split_once('-').map_or((s, None), |(a, b)| (a, Some(b)));
        let parts: Vec<&str> = core.split('.').collect();
        let [major, minor, patch] = parts.as_slice() else { return Err("No Major.Minor.Patch elements found".into()) };
        let number = |t: &str, what: &str| -> Result<u64, String> {
            if t.is_empty() || !t.bytes().all(|b| b.is_ascii_digit()) {
                return Err(format!("Invalid character(s) found in {what} number {t:?}"));
            }
            if t.len() > 1 && t.starts_with('0') {
                return Err(format!("{} number must not contain leading zeroes {t:?}", what[..1].to_uppercase() + &what[1..]));
            }
            t.parse().map_err(|_| format!("{what} number {t:?} is too large"))
        };
        let ids = |t: &str| t.split('.').all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
        if pre.is_some_and(|p| !ids(p) || p.split('.').any(|p| p.len() > 1 && p.starts_with('0') && p.bytes().all(|b| b.is_ascii_digit()))) {
            return Err("Invalid character(s) found in prerelease".into());
        }
        if !build.is_empty() && !ids(build) {
            return Err("Invalid character(s) found in build meta data".into());
        }
        Ok(Self {
            major: number(major, "major")?,
            minor: number(minor, "minor")?,
            patch: number(patch, "patch")?,
            pre: pre.map(|p| p.split('.').map(str::to_owned).collect()).unwrap_or_default(),
            build: build.to_owned(),
        })
    }

    /// As [`Self::parse`], after a leading `v`, leading zeros and missing parts are forgiven.
    fn normalized(s: &str) -> Result<Self, String> {
        let s = s.strip_prefix('v').unwrap_or(s);
        let end = s.find(['-', '+']).unwrap_or(s.len());
        let mut parts: Vec<String> = s[..end].split('.').map(|p| if p.len() > 1 { let t = p.trim_start_matches('0'); if t.is_empty() { "0".to_owned() } else { t.to_owned() } } else { p.to_owned() }).collect();
        while parts.len() < 3 {
            parts.push("0".into());
        }
        Self::parse(&format!("{}{}", parts.join("."), &s[end..]))
    }

    /// The order of two versions; build data does not count.
    #[must_use]
    pub fn compare(&self, o: &Self) -> Ordering {
        (self.major, self.minor, self.patch).cmp(&(o.major, o.minor, o.patch)).then_with(|| match (self.pre.is_empty(), o.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            _ => {
                for (a, b) in self.pre.iter().zip(&o.pre) {
                    let c = match (a.parse::<u64>(), b.parse::<u64>()) {
                        (Ok(a), Ok(b)) => a.cmp(&b),
                        (Ok(_), Err(_)) => Ordering::Less,
                        (Err(_), Ok(_)) => Ordering::Greater,
                        _ => a.cmp(b),
                    };
                    if c != Ordering::Equal {
                        return c;
                    }
                }
                self.pre.len().cmp(&o.pre.len())
            }
        })
    }
}

fn of<'v>(v: &'v Value<'_>) -> Result<&'v Semver, EvalError> {
    match v {
        Value::Opaque(o) => match o.as_ref() {
            Opaque::Semver(s) => Ok(s),
            _ => Err(EvalError::new("no such overload")),
        },
        _ => Err(EvalError::new("no such overload")),
    }
}

pub(super) fn call<'a>(name: &str, args: &[Value<'a>]) -> Outcome<'a> {
    let parse = |args: &[Value<'a>]| -> Result<Result<Semver, String>, EvalError> {
        match args {
            [v] | [v, Value::Bool(false)] => Ok(Semver::parse(text(v)?)),
            [v, Value::Bool(true)] => Ok(Semver::normalized(text(v)?)),
            _ => Err(EvalError::new("no such overload")),
        }
    };
    match (name, args) {
        ("semver", _) => parse(args)?.map(|s| Value::opaque(Opaque::Semver(s))).map_err(EvalError::new),
        ("isSemver", _) => Ok(Value::Bool(parse(args)?.is_ok())),
        ("major", [v]) => Ok(Value::Int(of(v)?.major as i64)),
        ("minor", [v]) => Ok(Value::Int(of(v)?.minor as i64)),
        ("patch", [v]) => Ok(Value::Int(of(v)?.patch as i64)),
        ("isGreaterThan", [a, b]) => Ok(Value::Bool(of(a)?.compare(of(b)?) == Ordering::Greater)),
        ("isLessThan", [a, b]) => Ok(Value::Bool(of(a)?.compare(of(b)?) == Ordering::Less)),
        ("compareTo", [a, b]) => Ok(Value::Int(of(a)?.compare(of(b)?) as i64)),
        _ => no_overload(),
    }
}
