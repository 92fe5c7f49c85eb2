//! Text.

use super::{no_overload, owned, pattern, quantity, text, time};
use crate::{
    error::EvalError,
    eval::Outcome,
    value::{Opaque, Value},
};

/// The largest text that an expression may make.
const LARGEST: usize = 10 * 1024 * 1024;

/// A value as `string()`, messages and `%s` write it.
pub(crate) fn shown(v: &Value<'_>) -> String {
    match v {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Uint(u) => u.to_string(),
        Value::Double(d) => double(*d),
        Value::String(t) => t.as_str().to_owned(),
        Value::Bytes(b) => String::from_utf8_lossy(b).into_owned(),
        Value::Duration(d) => time::seconds(d),
        Value::Timestamp(t) => time::rfc3339(t),
        Value::Type(t) => t.to_string(),
        Value::List(_) | Value::JsonList(..) => {
            let all: Vec<String> = v.elements().unwrap_or_default().iter().map(shown).collect();
            format!("[{}]", all.join(", "))
        }
        Value::Map(_) | Value::JsonMap(..) => {
            let all: Vec<String> = v.keys().unwrap_or_default().iter().map(|k| format!("{}: {}", shown(&crate::eval::key_value(k)), v.entry(k).map_or_else(String::new, |e| shown(&e)))).collect();
            format!("{{{}}}", all.join(", "))
        }
        Value::Opaque(o) => match o.as_ref() {
            Opaque::Ip(ip) => ip.to_string(),
            Opaque::Cidr(c) => c.to_string(),
            Opaque::Url(u) => u.text.clone(),
            Opaque::Quantity(q) => quantity::Quantity::to_string(q),
            Opaque::Semver(s) => s.to_string(),
            _ => v.type_name(),
        },
        _ => v.type_name(),
    }
}

fn double(d: f64) -> String {
    if d.is_nan() {
        return "NaN".into();
    }
    if d.is_infinite() {
        return if d > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    if d != 0.0 && (d.abs() < 1e-4 || d.abs() >= 1e21) {
        let s = format!("{d:e}");
        let (m, e) = s.split_once('e').unwrap_or((&s, "0"));
        let n: i32 = e.parse().unwrap_or(0);
        return format!("{m}e{}{:02}", if n < 0 { '-' } else { '+' }, n.abs());
    }
    d.to_string()
}

fn place(n: i64, length: usize) -> Result<usize, EvalError> {
    usize::try_from(n).ok().filter(|i| *i <= length).ok_or_else(|| EvalError::new(format!("index out of range: {n}")))
}

/// Where a text stands in another, in characters.
fn find(s: &[char], needle: &[char], from: usize, backwards: bool) -> i64 {
    if needle.len() > s.len() {
        return -1;
    }
    let fits = |i: &usize| s[*i..].starts_with(needle);
    let last = s.len() - needle.len();
    let found = if backwards { (0..=from.min(last)).rev().find(fits) } else { (from..=last).find(fits) };
    found.map_or(-1, |i| i as i64)
}

pub(super) fn call<'a>(name: &str, args: &[Value<'a>]) -> Outcome<'a> {
    if name == "join" {
        return join(args);
    }
    let Some(first) = args.first() else { return no_overload() };
    let s = text(first)?;
    let rest = &args[1..];
    let chars = || s.chars().collect::<Vec<char>>();
    match (name, rest) {
        ("contains", [n]) => Ok(Value::Bool(s.contains(text(n)?))),
        ("startsWith", [n]) => Ok(Value::Bool(s.starts_with(text(n)?))),
        ("endsWith", [n]) => Ok(Value::Bool(s.ends_with(text(n)?))),
        ("matches", [p]) => Ok(Value::Bool(pattern(text(p)?)?.is_match(s))),
        ("find", [p]) => Ok(owned(pattern(text(p)?).map_err(illegal)?.find(s).map_or("", |m| m.as_str()))),
        ("findAll", [p]) => Ok(Value::list(pattern(text(p)?).map_err(illegal)?.find_iter(s).map(|m| owned(m.as_str())).collect())),
        ("findAll", [p, Value::Int(n)]) => {
            let most = usize::try_from(*n).unwrap_or(usize::MAX);
            Ok(Value::list(pattern(text(p)?).map_err(illegal)?.find_iter(s).take(most).map(|m| owned(m.as_str())).collect()))
        }
        ("charAt", [Value::Int(i)]) => {
            let c = chars();
            let i = place(*i, c.len())?;
            Ok(owned(&c.get(i).map_or_else(String::new, char::to_string)))
        }
        ("indexOf", [n]) => Ok(Value::Int(find(&chars(), &text(n)?.chars().collect::<Vec<_>>(), 0, false))),
        ("indexOf", [n, Value::Int(i)]) => {
            let c = chars();
            let i = place(*i, c.len())?;
            Ok(Value::Int(find(&c, &text(n)?.chars().collect::<Vec<_>>(), i, false)))
        }
        ("lastIndexOf", [n]) => Ok(Value::Int(find(&chars(), &text(n)?.chars().collect::<Vec<_>>(), usize::MAX, true))),
        ("lastIndexOf", [n, Value::Int(i)]) => {
            let c = chars();
            let i = place(*i, c.len())?;
            Ok(Value::Int(find(&c, &text(n)?.chars().collect::<Vec<_>>(), i, true)))
        }
        ("lowerAscii", []) => Ok(owned(&s.to_ascii_lowercase())),
        ("upperAscii", []) => Ok(owned(&s.to_ascii_uppercase())),
        ("trim", []) => Ok(owned(s.trim())),
        ("substring", [Value::Int(a)]) => {
            let c = chars();
            let a = place(*a, c.len())?;
            Ok(owned(&c[a..].iter().collect::<String>()))
        }
        ("substring", [Value::Int(a), Value::Int(b)]) => {
            let c = chars();
            if a > b {
                return Err(EvalError::new(format!("invalid substring range. start: {a}, end: {b}")));
            }
            let (a, b) = (place(*a, c.len())?, place(*b, c.len())?);
            Ok(owned(&c[a..b].iter().collect::<String>()))
        }
        ("replace", [from, to]) => replace(s, text(from)?, text(to)?, -1),
        ("replace", [from, to, Value::Int(n)]) => replace(s, text(from)?, text(to)?, *n),
        ("split", [by]) => Ok(split(s, text(by)?, -1)),
        ("split", [by, Value::Int(n)]) => Ok(split(s, text(by)?, *n)),
        ("strings.quote", []) => Ok(owned(&quote(s))),
        ("jsonpatch.escapeKey", []) => Ok(owned(&s.replace('~', "~0").replace('/', "~1"))),
        ("format", [list]) => format(s, &list.elements().ok_or_else(|| EvalError::new("no such overload"))?),
        _ => no_overload(),
    }
}

fn illegal(e: EvalError) -> EvalError {
    EvalError::new(format!("Illegal regex: {e}"))
}

fn replace<'a>(s: &str, from: &str, to: &str, n: i64) -> Outcome<'a> {
    let count = s.matches(from).count().min(usize::try_from(n).unwrap_or(usize::MAX));
    if s.len() + count * to.len() > LARGEST {
        return Err(EvalError::new("the text is too long"));
    }
    Ok(owned(&s.replacen(from, to, usize::try_from(n).unwrap_or(usize::MAX))))
}

fn split<'a>(s: &str, by: &str, n: i64) -> Value<'a> {
    if n == 0 {
        return Value::list(Vec::new());
    }
    let most = usize::try_from(n).unwrap_or(usize::MAX);
    if by.is_empty() {
        let mut all: Vec<Value<'a>> = Vec::new();
        let mut rest = s.chars();
        while let Some(c) = rest.clone().next() {
            if all.len() + 1 == most {
                all.push(owned(rest.as_str()));
                break;
            }
            rest.next();
            all.push(owned(c.encode_utf8(&mut [0; 4])));
        }
        return Value::list(all);
    }
    Value::list(s.splitn(most, by).map(owned).collect())
}

fn join<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let by = match args {
        [_] => "",
        [_, s] => text(s)?,
        _ => return no_overload(),
    };
    let Some(all) = args[0].elements() else { return no_overload() };
    let mut out = String::new();
    for (i, v) in all.iter().enumerate() {
        if i > 0 {
            out.push_str(by);
        }
        out.push_str(text(v)?);
        if out.len() > LARGEST {
            return Err(EvalError::new("the text is too long"));
        }
    }
    Ok(owned(&out))
}

fn quote(s: &str) -> String {
    let mut out = String::from("\"");
    for c in s.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// `"%s %d %.2f %e %b %o %x %X".format([…])`.
fn format<'a>(s: &str, args: &[Value<'a>]) -> Outcome<'a> {
    let mut out = String::new();
    let mut next = args.iter();
    let mut chars = s.chars().peekable();
    let bad = |why: String| EvalError::new(why);
    while let Some(c) = chars.next() {
        if out.len() > LARGEST {
            return Err(bad("the text is too long".into()));
        }
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.peek() == Some(&'%') {
            chars.next();
            out.push('%');
            continue;
        }
        let mut precision = 6_usize;
        if chars.peek() == Some(&'.') {
            chars.next();
            let mut digits = String::new();
            while let Some(d) = chars.peek().filter(|c| c.is_ascii_digit()) {
                digits.push(*d);
                chars.next();
            }
            precision = digits.parse::<usize>().ok().filter(|p| *p <= 100).ok_or_else(|| bad("could not parse precision".into()))?;
        }
        let verb = chars.next().ok_or_else(|| bad("unexpected end of format string".into()))?;
        let i = args.len() - next.len();
        let v = next.next().ok_or_else(|| bad(format!("index {i} out of range")))?;
        let wrong = |what: &str| bad(format!("error during formatting: {what} clause can only be used on {}, was given {}", match what {
            "decimal" => "integers",
            "binary" => "integers and bools",
            "octal" => "integers",
            "hexadecimal" => "integers, byte buffers, and strings",
            _ => "doubles",
        }, v.type_name()));
        match (verb, v) {
            ('s', v) => out.push_str(&shown(v)),
            ('d', Value::Int(_) | Value::Uint(_)) => out.push_str(&shown(v)),
            ('d', Value::Double(d)) if d.is_nan() || d.is_infinite() => out.push_str(&shown(v)),
            ('d', _) => return Err(wrong("decimal")),
            ('f', Value::Double(d)) => out.push_str(&format!("{d:.precision$}")),
            ('e', Value::Double(d)) => {
                let t = format!("{d:.precision$e}");
                let (m, e) = t.split_once('e').unwrap_or((&t, "0"));
                let n: i32 = e.parse().unwrap_or(0);
                out.push_str(&format!("{m}e{}{:02}", if n < 0 { '-' } else { '+' }, n.abs()));
            }
            ('f', _) => return Err(wrong("fixed-point")),
            ('e', _) => return Err(wrong("scientific")),
            ('b', Value::Bool(b)) => out.push(if *b { '1' } else { '0' }),
            ('b', Value::Int(i)) => out.push_str(&signed(*i, |n| format!("{n:b}"))),
            ('b', Value::Uint(u)) => out.push_str(&format!("{u:b}")),
            ('b', _) => return Err(wrong("binary")),
            ('o', Value::Int(i)) => out.push_str(&signed(*i, |n| format!("{n:o}"))),
            ('o', Value::Uint(u)) => out.push_str(&format!("{u:o}")),
            ('o', _) => return Err(wrong("octal")),
            ('x' | 'X', v) => {
                let t = match v {
                    Value::Int(i) => signed(*i, |n| format!("{n:x}")),
                    Value::Uint(u) => format!("{u:x}"),
                    Value::String(t) => t.as_str().bytes().map(|b| format!("{b:02x}")).collect(),
                    Value::Bytes(b) => b.iter().map(|b| format!("{b:02x}")).collect(),
                    _ => return Err(wrong("hexadecimal")),
                };
                out.push_str(&if verb == 'X' { t.to_uppercase() } else { t });
            }
            (other, _) => return Err(bad(format!("could not parse formatting clause: unrecognized formatting clause \"{other}\""))),
        }
    }
    if next.len() > 0 {
        return Err(bad(format!("too many arguments supplied to string.format (expected {}, got {})", args.len() - next.len(), args.len())));
    }
    Ok(owned(&out))
}

fn signed(i: i64, f: impl Fn(u64) -> String) -> String {
    format!("{}{}", if i < 0 { "-" } else { "" }, f(i.unsigned_abs()))
}
