//! A place in an object: its value, and the path to it, which is put into words only when
//! something is wrong there.

use std::fmt;

use serde_json::Value;

use super::fields::Check;
use crate::error::{FieldError, FieldErrorKind};

static NOTHING: Value = Value::Null;

#[derive(Clone, Copy)]
enum Step<'a> {
    /// Where it begins; may be empty.
    Top(&'a str),
    /// A member, or several with dots between.
    Member(&'a str),
    Index(usize),
    Key(&'a str),
}

/// A value with its path. An absent value is null.
#[derive(Clone, Copy)]
pub(super) struct At<'v, 'p> {
    pub value: &'v Value,
    up: Option<&'p At<'v, 'p>>,
    step: Step<'p>,
}

impl fmt::Display for At<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let above = |f: &mut fmt::Formatter<'_>| match self.up {
            Some(up) => up.fmt(f).map(|()| !up.is_unnamed()),
            None => Ok(false),
        };
        match self.step {
            Step::Top(text) => f.write_str(text),
            Step::Member(name) if above(f)? => write!(f, ".{name}"),
            Step::Member(name) => f.write_str(name),
            Step::Index(i) => above(f).and_then(|_| write!(f, "[{i}]")),
            Step::Key(key) => above(f).and_then(|_| write!(f, "[{key}]")),
        }
    }
}

impl<'v, 'p> At<'v, 'p> {
    /// The beginning, at a path that may be empty.
    pub fn top(value: &'v Value, path: &'p str) -> Self {
        Self { value, up: None, step: Step::Top(path) }
    }
    /// Whether this is the beginning of an object of its own.
    pub fn is_unnamed(&self) -> bool {
        matches!(self.step, Step::Top(""))
    }
    /// A member; `a.b` is a member's member.
    pub fn get<'s>(&'s self, name: &'s str) -> At<'v, 's> {
        let value = name.split('.').try_fold(self.value, |v, k| v.get(k)).unwrap_or(&NOTHING);
        At { value, up: Some(self), step: Step::Member(name) }
    }
    /// The value of a map's key.
    pub fn key<'s>(&'s self, key: &'s str) -> At<'v, 's> {
        At { value: self.value.get(key).unwrap_or(&NOTHING), up: Some(self), step: Step::Key(key) }
    }
    /// The same place with another value.
    pub fn with(self, value: &'v Value) -> Self {
        Self { value, ..self }
    }
    /// The item of a list.
    pub fn item(&self, i: usize) -> At<'v, '_> {
        At { value: self.list().get(i).unwrap_or(&NOTHING), up: Some(self), step: Step::Index(i) }
    }
    /// Every item of a list.
    pub fn items<'s>(&'s self) -> impl DoubleEndedIterator<Item = At<'v, 's>> {
        self.list().iter().enumerate().map(move |(i, value)| At { value, up: Some(self), step: Step::Index(i) })
    }
    /// Every member of a map.
    pub fn entries<'s>(&'s self) -> impl Iterator<Item = (&'v str, At<'v, 's>)> {
        self.value.as_object().into_iter().flatten().map(move |(k, value)| (k.as_str(), At { value, up: Some(self), step: Step::Key(k) }))
    }
    /// The list here, or an empty one.
    pub fn list(&self) -> &'v [Value] {
        self.value.as_array().map_or(&[], Vec::as_slice)
    }
    /// The text here, or an empty one.
    pub fn text(&self) -> &'v str {
        self.value.as_str().unwrap_or("")
    }
    /// The whole number here.
    pub fn int(&self) -> Option<i64> {
        self.value.as_i64()
    }
    /// Whether there is something.
    pub fn there(&self) -> bool {
        !self.value.is_null()
    }
    /// Whether that is yes.
    pub fn yes(&self) -> bool {
        self.value.as_bool() == Some(true)
    }
    /// Whether that is an explicit no.
    pub fn no(&self) -> bool {
        self.value.as_bool() == Some(false)
    }

    /// Applies checks.
    pub fn check(&self, checks: &[Check], out: &mut Vec<FieldError>) {
        let there = Some(self.value).filter(|v| !v.is_null());
        for c in checks {
            if !c.apply(there, self, out) {
                return;
            }
        }
    }
    /// The value here breaks a rule.
    pub fn wrong(&self, why: impl Into<String>, out: &mut Vec<FieldError>) {
        out.push(FieldError::invalid(self.to_string(), self.value.clone(), why));
    }
    /// The value here breaks rules.
    pub fn wrongs(&self, whys: Vec<String>, out: &mut Vec<FieldError>) {
        whys.into_iter().for_each(|why| self.wrong(why, out));
    }
    /// The text here must satisfy a rule that gives its complaints.
    pub fn wrongs_of(&self, rule: fn(&str) -> Vec<String>, out: &mut Vec<FieldError>) {
        rule(self.text()).into_iter().for_each(|why| self.invalid(self.text(), why, out));
    }
    /// Another value, shown here, breaks a rule.
    pub fn invalid(&self, value: impl Into<Value>, why: impl Into<String>, out: &mut Vec<FieldError>) {
        out.push(FieldError::invalid(self.to_string(), value, why));
    }
    /// Something has to be here.
    pub fn required(&self, why: impl Into<String>, out: &mut Vec<FieldError>) {
        out.push(FieldError::required(self.to_string(), why));
    }
    /// Nothing may be here.
    pub fn forbidden(&self, why: impl Into<String>, out: &mut Vec<FieldError>) {
        out.push(FieldError::forbidden(self.to_string(), why));
    }
    /// Something else may not be like this twice.
    pub fn duplicate(&self, value: impl Into<Value>, out: &mut Vec<FieldError>) {
        out.push(FieldError::duplicate(self.to_string(), value));
    }
    /// What the value here names is absent.
    pub fn not_found(&self, value: impl Into<Value>, out: &mut Vec<FieldError>) {
        out.push(FieldError::not_found(self.to_string(), value));
    }
    /// The value here is none of these, which are shown sorted.
    pub fn unsupported(&self, all: &[&str], out: &mut Vec<FieldError>) {
        out.push(FieldError::not_supported(self.to_string(), self.value_or_empty(), all));
    }
    /// The value here is none of these, which are shown as they are.
    pub fn unsupported_as_is(&self, all: &[&str], out: &mut Vec<FieldError>) {
        let e = super::fields::not_supported(&self.to_string(), "", all);
        out.push(FieldError { value: Some(self.value_or_empty()), ..e });
    }
    /// The text here must be one of these.
    pub fn one_of(&self, all: &[&str], out: &mut Vec<FieldError>) {
        if !all.contains(&self.text()) {
            self.unsupported(all, out);
        }
    }
    /// There are more than so many.
    pub fn too_many(&self, most: usize, out: &mut Vec<FieldError>) {
        let count = self.list().len();
        if count > most {
            out.push(FieldError {
                kind: FieldErrorKind::TooMany,
                field: self.to_string(),
                value: Some(count.into()),
                detail: format!("must have at most {most} item{}", if most == 1 { "" } else { "s" }),
            });
        }
    }
    fn value_or_empty(&self) -> Value {
        if self.value.is_null() { "".into() } else { self.value.clone() }
    }
}

/// What is said of numbers outside of a range.
pub(super) fn range(least: i64, most: i64) -> String {
    format!("must be between {least} and {most}, inclusive")
}
