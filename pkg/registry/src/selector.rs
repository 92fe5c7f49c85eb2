//! Label and field selectors as list, watch and deletecollection take them.

use knarr_schema::selector::Op;

use crate::cache::{Entry, Interest};

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
        let parsed = knarr_schema::selector::LabelSelector::parse(text)?;
        let all = parsed.requirements.into_iter().map(|r| {
            let number = || r.values.first().and_then(|v| v.parse().ok()).unwrap_or(0);
            match r.op {
                Op::In => Requirement::In(r.key, r.values),
                Op::NotIn => Requirement::NotIn(r.key, r.values),
                Op::Exists => Requirement::Exists(r.key),
                Op::NotExists => Requirement::Absent(r.key),
                Op::Greater => Requirement::Greater(r.key.clone(), number()),
                Op::Less => Requirement::Less(r.key.clone(), number()),
            }
        });
        Ok(Self { all: all.collect() })
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
    /// What every object that passes has in common, with the namespace asked for, if any.
    #[must_use]
    pub fn interest(&self, namespace: &str) -> Option<Interest> {
        // One name is less than what another field selects, and that less than a namespace.
        let mut pinned: Vec<&str> = self.fields.all.iter().map(Requirement::key).filter(|k| self.fields.pinned(k).is_some()).collect();
        pinned.sort_by_key(|k| (*k != "metadata.name", *k == "metadata.namespace"));
        let field = pinned.first().copied();
        match field.and_then(|f| Some((f, self.fields.pinned(f)?))) {
            Some((field, value)) => Some(Interest { field: field.into(), value: value.into() }),
            None if namespace.is_empty() => None,
            None => Some(Interest { field: "metadata.namespace".into(), value: namespace.into() }),
        }
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
