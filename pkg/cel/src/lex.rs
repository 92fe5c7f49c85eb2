//! Tokens.

use crate::error::Issue;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    Ident(String),
    Int(i64),
    /// A whole number that fits only when negative: 9223372036854775808.
    BigInt,
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
    Op(&'static str),
    End,
}

impl Token {
    /// The text in messages.
    pub(crate) fn text(&self, source: &[char], from: usize, to: usize) -> String {
        match self {
            Token::End => "<EOF>".into(),
            _ => source.get(from..to).unwrap_or_default().iter().collect(),
        }
    }
}

pub(crate) struct Spanned {
    pub token: Token,
    pub from: usize,
    pub to: usize,
}

/// Operators, the longest first.
const OPERATORS: [&str; 26] = [
    "==", "!=", "<=", ">=", "&&", "||", "(", ")", "[", "]", "{", "}", ".", ",", ":", "?", "+", "-", "*", "/", "%", "!", "<", ">", "=", ";",
];

pub(crate) fn lex(source: &[char]) -> Result<Vec<Spanned>, Issue> {
    let mut out = Vec::new();
    let mut i = 0;
    while let Some(&c) = source.get(i) {
        if c.is_ascii_whitespace() || c == '\u{c}' {
            i += 1;
            continue;
        }
        let two = |s: &str| s.chars().enumerate().all(|(n, x)| source.get(i + n) == Some(&x));
        if two("//") {
            while source.get(i).is_some_and(|c| *c != '\n') {
                i += 1;
            }
            continue;
        }
        let from = i;
        let token = if let Some(start) = quoted(source, i) {
            string(source, &mut i, start)?
        } else if c.is_ascii_digit() || (c == '.' && source.get(i + 1).is_some_and(char::is_ascii_digit)) {
            number(source, &mut i)?
        } else if c.is_ascii_alphabetic() || c == '_' {
            while source.get(i).is_some_and(|c| c.is_ascii_alphanumeric() || *c == '_') {
                i += 1;
            }
            Token::Ident(source[from..i].iter().collect())
        } else if let Some(op) = OPERATORS.iter().find(|o| two(o)) {
            if matches!(*op, "=" | ";") {
                return Err(Issue::syntax(from, format!("token recognition error at: '{op}'")));
            }
            i += op.len();
            Token::Op(op)
        } else {
            return Err(Issue::syntax(from, format!("token recognition error at: '{c}'")));
        };
        out.push(Spanned { token, from, to: i });
    }
    out.push(Spanned { token: Token::End, from: source.len(), to: source.len() });
    Ok(out)
}

struct Start {
    raw: bool,
    bytes: bool,
    /// Where the quotes begin.
    quote: usize,
}

fn quoted(s: &[char], i: usize) -> Option<Start> {
    let (mut raw, mut bytes, mut q) = (false, false, i);
    while let Some(c) = s.get(q) {
        match c.to_ascii_lowercase() {
            'r' if !raw => raw = true,
            'b' if !bytes => bytes = true,
            '"' | '\'' => return Some(Start { raw, bytes, quote: q }),
            _ => return None,
        }
        q += 1;
    }
    None
}

fn string(s: &[char], i: &mut usize, start: Start) -> Result<Token, Issue> {
    let from = *i;
    let bad = |why: &str| Issue::syntax(from, why.to_owned());
    let cut = || {
        let rest: String = s.get(from..).unwrap_or_default().iter().collect();
        Issue::syntax(from, format!("token recognition error at: '{rest}'"))
    };
    let q = s[start.quote];
    let triple = s.get(start.quote + 1) == Some(&q) && s.get(start.quote + 2) == Some(&q);
    *i = start.quote + if triple { 3 } else { 1 };
    let mut bytes: Vec<u8> = Vec::new();
    let mut text = String::new();
    loop {
        let Some(&c) = s.get(*i) else { return Err(cut()) };
        if c == q && (!triple || (s.get(*i + 1) == Some(&q) && s.get(*i + 2) == Some(&q))) {
            *i += if triple { 3 } else { 1 };
            break;
        }
        if !triple && (c == '\n' || c == '\r') {
            return Err(cut());
        }
        *i += 1;
        if c != '\\' || start.raw {
            if start.bytes {
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                text.push(c);
            }
            continue;
        }
        let e = *s.get(*i).ok_or_else(cut)?;
        *i += 1;
        let mut digits = |n: usize, radix: u32, first: Option<char>| -> Result<u32, Issue> {
            let mut v: u32 = first.and_then(|c| c.to_digit(radix)).unwrap_or(0);
            for _ in 0..n {
                let d = s.get(*i).and_then(|c| c.to_digit(radix)).ok_or_else(|| bad("invalid escape sequence"))?;
                *i += 1;
                v = v.wrapping_mul(radix).wrapping_add(d);
            }
            Ok(v)
        };
        let (value, point) = match e {
            'a' => (7, true),
            'b' => (8, true),
            'f' => (12, true),
            'n' => (10, true),
            'r' => (13, true),
            't' => (9, true),
            'v' => (11, true),
            '\\' | '\'' | '"' | '`' | '?' => (e as u32, true),
            'x' | 'X' => (digits(2, 16, None)?, !start.bytes),
            'u' if !start.bytes => (digits(4, 16, None)?, true),
            'U' if !start.bytes => (digits(8, 16, None)?, true),
            '0'..='3' => (digits(2, 8, Some(e))?, !start.bytes),
            _ => return Err(bad("invalid escape sequence")),
        };
        if start.bytes {
            if point {
                bytes.extend_from_slice(char::from_u32(value).unwrap_or('\u{fffd}').encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                bytes.push((value & 0xff) as u8);
            }
        } else {
            text.push(char::from_u32(value).ok_or_else(|| bad("invalid unicode code point"))?);
        }
    }
    Ok(if start.bytes { Token::Bytes(bytes) } else { Token::String(text) })
}

fn number(s: &[char], i: &mut usize) -> Result<Token, Issue> {
    let from = *i;
    let unsigned = |i: &mut usize| {
        let u = matches!(s.get(*i), Some('u' | 'U'));
        *i += usize::from(u);
        u
    };
    if s[from] == '0' && matches!(s.get(from + 1), Some('x' | 'X')) && s.get(from + 2).is_some_and(char::is_ascii_hexdigit) {
        *i += 2;
        while s.get(*i).is_some_and(char::is_ascii_hexdigit) {
            *i += 1;
        }
        let t: String = s[from + 2..*i].iter().collect();
        if unsigned(i) {
            return u64::from_str_radix(&t, 16).map(Token::Uint).map_err(|_| Issue::syntax(from, "invalid uint literal".into()));
        }
        return i64::from_str_radix(&t, 16).map(Token::Int).map_err(|_| Issue::syntax(from, "invalid int literal".into()));
    }
    let run = |i: &mut usize| {
        while s.get(*i).is_some_and(char::is_ascii_digit) {
            *i += 1;
        }
    };
    run(i);
    let mut double = false;
    if s.get(*i) == Some(&'.') && s.get(*i + 1).is_some_and(char::is_ascii_digit) {
        double = true;
        *i += 1;
        run(i);
    }
    if matches!(s.get(*i), Some('e' | 'E')) {
        let sign = usize::from(matches!(s.get(*i + 1), Some('+' | '-')));
        if s.get(*i + 1 + sign).is_some_and(char::is_ascii_digit) {
            double = true;
            *i += 1 + sign;
            run(i);
        }
    }
    let t: String = s[from..*i].iter().collect();
    if double {
        return t.parse().map(Token::Double).map_err(|_| Issue::syntax(from, "invalid double literal".into()));
    }
    if unsigned(i) {
        return t.parse().map(Token::Uint).map_err(|_| Issue::syntax(from, "invalid uint literal".into()));
    }
    if t == "9223372036854775808" {
        return Ok(Token::BigInt);
    }
    t.parse().map(Token::Int).map_err(|_| Issue::syntax(from, "invalid int literal".into()))
}
