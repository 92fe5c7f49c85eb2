//! Label and field selectors as list, watch and deletecollection take them.

use crate::cache::Entry;

/// One requirement on one label or field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// `key = value` / `key in (a, b)`.
    In(String, Vec<String>),
    /// `key != value` / `key notin (a, b)`; absent keys match.
    NotIn(String, Vec<String>),
    /// `key`.
    Exists(String),
    /// `!key`.
    Absent(String),
    /// `key > n`.
    Greater(String, i64),
    /// `key < n`.
    Less(String, i64),
}

/// A conjunction of requirements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// All must hold.
    pub all: Vec<Requirement>,
}

impl Requirement {
    /// Whether the requirement holds over a lookup of values.
    pub fn holds<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        match self {
            Self::In(k, v) => get(k).is_some_and(|x| v.iter().any(|y| y == x)),
            Self::NotIn(k, v) => get(k).is_none_or(|x| v.iter().all(|y| y != x)),
            Self::Exists(k) => get(k).is_some(),
            Self::Absent(k) => get(k).is_none(),
            Self::Greater(k, n) => get(k).and_then(|x| x.parse::<i64>().ok()).is_some_and(|x| x > *n),
            Self::Less(k, n) => get(k).and_then(|x| x.parse::<i64>().ok()).is_some_and(|x| x < *n),
        }
    }
    /// The key the requirement is about.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::In(k, _) | Self::NotIn(k, _) | Self::Exists(k) | Self::Absent(k) => k,
            Self::Greater(k, _) | Self::Less(k, _) => k,
        }
    }

    /// Gives the key another name.
    pub fn rename(&mut self, key: &str) {
        let (Self::In(k, _) | Self::NotIn(k, _) | Self::Exists(k) | Self::Absent(k) | Self::Greater(k, _) | Self::Less(k, _)) = self;
        key.clone_into(k);
    }
}

impl Selector {
    /// Whether everything matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
    /// Whether all requirements hold.
    pub fn holds<'a>(&self, get: impl Fn(&str) -> Option<&'a str> + Copy) -> bool {
        self.all.iter().all(|r| r.holds(get))
    }
    /// The value a key must equal, if the selector pins it.
    #[must_use]
    pub fn pinned(&self, key: &str) -> Option<&str> {
        self.all.iter().find_map(|r| match r {
            Requirement::In(k, v) if k == key && v.len() == 1 => v.first().map(String::as_str),
            _ => None,
        })
    }

    /// Parses a label selector, e.g. `app=web,tier in (a,b),!old`.
    ///
    /// # Errors
    /// The text of what cannot be read.
    pub fn labels(text: &str) -> Result<Self, String> {
        let mut all = Vec::new();
        let mut rest = text.trim();
        while !rest.is_empty() {
            let end = split_top(rest);
            let (part, tail) = rest.split_at(end);
            rest = tail.strip_prefix(',').unwrap_or(tail).trim_start();
            all.push(label_requirement(part.trim())?);
        }
        Ok(Self { all })
    }

    /// Parses a field selector, e.g. `metadata.name=web,status.phase!=Running`.
    ///
    /// # Errors
    /// The text of what cannot be read.
    pub fn fields(text: &str) -> Result<Self, String> {
        let mut all = Vec::new();
        for part in split_fields(text) {
            if part.is_empty() {
                continue;
            }
            let unescape = |v: &str| v.replace("\\,", ",").replace("\\=", "=").replace("\\\\", "\\");
            let r = if let Some((k, v)) = part.split_once("!=") {
                Requirement::NotIn(k.trim().into(), vec![unescape(v)])
            } else if let Some((k, v)) = part.split_once("==") {
                Requirement::In(k.trim().into(), vec![unescape(v)])
            } else if let Some((k, v)) = part.split_once('=') {
                Requirement::In(k.trim().into(), vec![unescape(v)])
            } else {
                return Err(format!("invalid selector: '{text}'; can't understand '{part}'"));
            };
            all.push(r);
        }
        Ok(Self { all })
    }
}

fn split_fields(text: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        if c == ',' && !escaped {
            out.push(String::new());
            continue;
        }
        escaped = c == '\\' && !escaped;
        if let Some(last) = out.last_mut() {
            last.push(c);
        }
    }
    out
}

fn split_top(s: &str) -> usize {
    let mut depth = 0usize;
    for (i, c) in s.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => return i,
            _ => {}
        }
    }
    s.len()
}

fn label_requirement(part: &str) -> Result<Requirement, String> {
    let bad = |why: &str| format!("unable to parse requirement: {why}");
    if let Some(k) = part.strip_prefix('!') {
        return Ok(Requirement::Absent(key(k.trim())?));
    }
    if let Some(open) = part.find('(') {
        let (head, list) = part.split_at(open);
        let list = list.trim_start_matches('(');
        let list = list.strip_suffix(')').ok_or_else(|| bad("found '', expected: ')'"))?;
        let values: Vec<String> = list.split(',').map(|v| v.trim().to_owned()).collect();
        for v in &values {
            value(v)?;
        }
        let mut words = head.split_whitespace();
        let k = key(words.next().unwrap_or(""))?;
        return match words.next() {
            Some("in") => Ok(Requirement::In(k, values)),
            Some("notin") => Ok(Requirement::NotIn(k, values)),
            other => Err(bad(&format!("found '{}', expected: in, notin", other.unwrap_or("")))),
        };
    }
    let simple = |k: &str, v: &str| -> Result<(String, String), String> {
        Ok((key(k.trim())?, value(v.trim())?))
    };
    if let Some((k, v)) = part.split_once("!=") {
        let (k, v) = simple(k, v)?;
        return Ok(Requirement::NotIn(k, vec![v]));
    }
    if let Some((k, v)) = part.split_once("==").or_else(|| part.split_once('=')) {
        let (k, v) = simple(k, v)?;
        return Ok(Requirement::In(k, vec![v]));
    }
    for (sign, greater) in [('>', true), ('<', false)] {
        if let Some((k, v)) = part.split_once(sign) {
            let (k, v) = simple(k, v)?;
            let n: i64 = v.parse().map_err(|_| {
                bad(&format!("values[0][{k}]: Invalid value: \"{v}\": for 'Gt', 'Lt' operators, the value must be an integer"))
            })?;
            return Ok(if greater { Requirement::Greater(k, n) } else { Requirement::Less(k, n) });
        }
    }
    Ok(Requirement::Exists(key(part)?))
}

fn key(k: &str) -> Result<String, String> {
    let (prefix, name) = k.rsplit_once('/').map_or((None, k), |(p, n)| (Some(p), n));
    let ok = |s: &str, extra: &[u8]| {
        !s.is_empty()
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || extra.contains(&b))
            && s.starts_with(|c: char| c.is_ascii_alphanumeric())
            && s.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    if prefix.is_none_or(|p| p.len() <= 253 && ok(p, b"-.")) && name.len() <= 63 && ok(name, b"-_.") {
        Ok(k.to_owned())
    } else {
        Err(format!(
            "unable to parse requirement: <nil>: Invalid value: {k:?}: name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
        ))
    }
}

fn value(v: &str) -> Result<String, String> {
    let ok = v.is_empty()
        || (v.len() <= 63
            && v.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            && v.starts_with(|c: char| c.is_ascii_alphanumeric())
            && v.ends_with(|c: char| c.is_ascii_alphanumeric()));
    if ok {
        Ok(v.to_owned())
    } else {
        Err(format!(
            "unable to parse requirement: values[0]: Invalid value: {v:?}: a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
        ))
    }
}

/// What a list or watch asks for: a namespace, labels and fields.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Label requirements.
    pub labels: Selector,
    /// Field requirements.
    pub fields: Selector,
}

impl Filter {
    /// Whether everything passes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }
    /// Whether an entry passes.
    #[must_use]
    pub fn passes(&self, e: &Entry) -> bool {
        (self.labels.is_empty() || self.labels.holds(|k| e.label(k)))
            && (self.fields.is_empty()
                || self.fields.all.iter().all(|r| r.holds(|k| Some(e.field(k).unwrap_or("")))))
    }
    /// Takes out what is about fields other than name and namespace, which every version of a kind
    /// has as they are.
    pub fn take_own_fields(&mut self) -> Selector {
        let (common, own) = std::mem::take(&mut self.fields.all)
            .into_iter()
            .partition(|r| r.key().starts_with("metadata."));
        self.fields.all = common;
        Selector { all: own }
    }
}
