//! Label and field selectors: parsing with upstream's errors, and matching.

use serde_json::{Map, Value};

use crate::names;

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// The value is among the given ones.
    In,
    /// The value is absent or not among the given ones.
    NotIn,
    /// The key is there.
    Exists,
    /// The key is not there.
    NotExists,
    /// The value is a greater integer.
    Greater,
    /// The value is a smaller integer.
    Less,
}

/// One term of a label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// The comparison.
    pub op: Op,
    /// What it is compared with; sorted.
    pub values: Vec<String>,
}

/// A label selector: all terms must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    /// The terms.
    pub requirements: Vec<Requirement>,
    /// Matches nothing at all.
    pub nothing: bool,
}

/// Looks labels up.
pub trait Labels {
    /// The value of the key.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for Map<String, Value> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

impl Labels for Value {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

impl LabelSelector {
    /// Parses the query parameter's form, e.g. `app=web,tier in (a,b),!old`.
    ///
    /// # Errors
    /// The message, as upstream words it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { text, tokens: tokens(text), at: 0 };
        parser.selector()
    }

    /// From the object form (`matchLabels`, `matchExpressions`); null matches nothing, an empty one all.
    ///
    /// # Errors
    /// The message for an unknown operator or bad labels.
    pub fn from_value(selector: &Value) -> Result<Self, String> {
        if selector.is_null() {
            return Ok(Self { requirements: Vec::new(), nothing: true });
        }
        let mut requirements = Vec::new();
        if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
            for (key, value) in labels {
                requirements.push(requirement(key, Op::In, vec![value.as_str().unwrap_or_default().to_owned()])?);
            }
        }
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let key = expression.get("key").and_then(Value::as_str).unwrap_or_default();
            let op = match expression.get("operator").and_then(Value::as_str).unwrap_or_default() {
                "In" => Op::In,
                "NotIn" => Op::NotIn,
                "Exists" => Op::Exists,
                "DoesNotExist" => Op::NotExists,
                other => return Err(format!("{} is not a valid label selector operator", names::quote(other))),
            };
            let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
            requirements.push(requirement(key, op, values.filter_map(Value::as_str).map(str::to_owned).collect())?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// Whether everything matches.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// Whether the labels match.
    pub fn matches(&self, labels: &impl Labels) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels.label(&r.key)))
    }

    /// Whether the object's `metadata.labels` match.
    pub fn matches_object(&self, object: &Value) -> bool {
        self.is_empty() || self.matches(object.pointer("/metadata/labels").unwrap_or(&Value::Null))
    }

    /// The canonical text.
    pub fn text(&self) -> String {
        let terms: Vec<String> = self
            .requirements
            .iter()
            .map(|r| match r.op {
                Op::Exists => r.key.clone(),
                Op::NotExists => format!("!{}", r.key),
                Op::In if r.values.len() == 1 => format!("{}={}", r.key, r.values[0]),
                Op::NotIn if r.values.len() == 1 => format!("{}!={}", r.key, r.values[0]),
                Op::In => format!("{} in ({})", r.key, r.values.join(",")),
                Op::NotIn => format!("{} notin ({})", r.key, r.values.join(",")),
                Op::Greater => format!("{}>{}", r.key, r.values[0]),
                Op::Less => format!("{}<{}", r.key, r.values[0]),
            })
            .collect();
        terms.join(",")
    }
}

impl Requirement {
    /// Whether a label's value (or its absence) fulfils the term.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let among = |v: &str| self.values.iter().any(|known| known == v);
        match self.op {
            Op::In => value.is_some_and(among),
            Op::NotIn => !value.is_some_and(among),
            Op::Exists => value.is_some(),
            Op::NotExists => value.is_none(),
            Op::Greater | Op::Less => {
                let (Some(Ok(left)), Some(Ok(right))) = (value.map(str::parse::<i64>), self.values.first().map(|v| v.parse::<i64>())) else {
                    return false;
                };
                if self.op == Op::Greater { left > right } else { left < right }
            }
        }
    }
}

fn requirement(key: &str, op: Op, mut values: Vec<String>) -> Result<Requirement, String> {
    let mut errors = Vec::new();
    if let Some(message) = names::qualified_name(key).first() {
        errors.push(format!("key: Invalid value: {}: {message}", names::quote(key)));
    }
    match op {
        Op::In | Op::NotIn if values.is_empty() => errors.push("values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty".into()),
        Op::Exists | Op::NotExists if !values.is_empty() => errors.push(format!("values: Invalid value: {values:?}: values set must be empty for exists and does not exist")),
        Op::Greater | Op::Less if values.len() != 1 => errors.push("values: Invalid value: []: for 'Gt', 'Lt' operators, exactly one value is required".into()),
        Op::Greater | Op::Less if values[0].parse::<i64>().is_err() => {
            errors.push(format!("values[0]: Invalid value: {}: for 'Gt', 'Lt' operators, the value must be an integer", names::quote(&values[0])));
        }
        _ => {}
    }
    for (i, value) in values.iter().enumerate() {
        if let Some(message) = names::label_value(value).first() {
            errors.push(format!("values[{i}][{key}]: Invalid value: {}: {message}", names::quote(value)));
        }
    }
    match errors.len() {
        0 => {}
        1 => return Err(errors.remove(0)),
        _ => return Err(format!("[{}]", errors.join(", "))),
    }
    values.sort();
    values.dedup();
    Ok(Requirement { key: key.to_owned(), op, values })
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Open,
    Close,
    Comma,
    Not,
    Equals,
    DoubleEquals,
    NotEquals,
    Greater,
    Less,
    End,
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Token::Word(word) => word,
            Token::Open => "(",
            Token::Close => ")",
            Token::Comma => ",",
            Token::Not => "!",
            Token::Equals => "=",
            Token::DoubleEquals => "==",
            Token::NotEquals => "!=",
            Token::Greater => ">",
            Token::Less => "<",
            Token::End => "",
        }
    }
}

fn tokens(text: &str) -> Vec<Token> {
    let mut out = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let token = match c {
            ' ' | '\t' | '\r' | '\n' => continue,
            '(' => Token::Open,
            ')' => Token::Close,
            ',' => Token::Comma,
            '>' => Token::Greater,
            '<' => Token::Less,
            '!' if chars.peek() == Some(&'=') => {
                chars.next();
                Token::NotEquals
            }
            '!' => Token::Not,
            '=' if chars.peek() == Some(&'=') => {
                chars.next();
                Token::DoubleEquals
            }
            '=' => Token::Equals,
            first => {
                let mut word = String::from(first);
                while let Some(c) = chars.next_if(|c| !" \t\r\n=!(),><".contains(*c)) {
                    word.push(c);
                }
                Token::Word(word)
            }
        };
        out.push(token);
    }
    out.push(Token::End);
    out
}

struct Parser<'t> {
    text: &'t str,
    tokens: Vec<Token>,
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).unwrap_or(&Token::End)
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn fail(&self, why: String) -> String {
        let _ = self.text;
        format!("unable to parse requirement: {why}")
    }

    fn selector(&mut self) -> Result<LabelSelector, String> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                Token::Word(_) | Token::Not => {
                    requirements.push(self.term().map_err(|why| self.fail(why))?);
                    match self.next() {
                        Token::End => break,
                        Token::Comma => match self.peek() {
                            Token::Word(_) | Token::Not => {}
                            other => return Err(format!("found '{}', expected: identifier after ','", other.text())),
                        },
                        other => return Err(format!("found '{}', expected: ',' or 'end of string'", other.text())),
                    }
                }
                Token::End => break,
                other => return Err(format!("found '{}', expected: !, identifier, or 'end of string'", other.text())),
            }
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(LabelSelector { requirements, nothing: false })
    }

    fn term(&mut self) -> Result<Requirement, String> {
        let negated = *self.peek() == Token::Not;
        if negated {
            self.at += 1;
        }
        let key = match self.next() {
            Token::Word(word) => word,
            other => return Err(format!("found '{}', expected: identifier", other.text())),
        };
        if let Some(message) = names::qualified_name(&key).first() {
            return Err(format!("key: Invalid value: {}: {message}", names::quote(&key)));
        }
        if negated {
            return requirement(&key, Op::NotExists, Vec::new());
        }
        if matches!(self.peek(), Token::End | Token::Comma) {
            return requirement(&key, Op::Exists, Vec::new());
        }
        let op = match self.next() {
            Token::Equals | Token::DoubleEquals => (Op::In, false),
            Token::NotEquals => (Op::NotIn, false),
            Token::Greater => (Op::Greater, false),
            Token::Less => (Op::Less, false),
            Token::Word(word) if word == "in" => (Op::In, true),
            Token::Word(word) if word == "notin" => (Op::NotIn, true),
            other => return Err(format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", other.text())),
        };
        let values = if op.1 { self.set()? } else { vec![self.value()?] };
        requirement(&key, op.0, values)
    }

    fn value(&mut self) -> Result<String, String> {
        match self.peek().clone() {
            Token::End | Token::Comma => Ok(String::new()),
            Token::Word(word) => {
                self.at += 1;
                Ok(word)
            }
            other => Err(format!("found '{}', expected: identifier", other.text())),
        }
    }

    fn set(&mut self) -> Result<Vec<String>, String> {
        if self.next() != Token::Open {
            self.at -= 1;
            return Err(format!("found '{}' expected: '('", self.peek().text()));
        }
        let mut values = Vec::new();
        loop {
            match self.next() {
                Token::Word(word) => {
                    values.push(word);
                    match self.next() {
                        Token::Comma => {
                            if *self.peek() == Token::Close {
                                values.push(String::new());
                            }
                        }
                        Token::Close => return Ok(values),
                        other => return Err(format!("found '{}', expected: ',' or ')'", other.text())),
                    }
                }
                Token::Comma => values.push(String::new()),
                Token::Close => {
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    return Ok(values);
                }
                other => return Err(format!("found '{}', expected: ',', ')' or identifier", other.text())),
            }
        }
    }
}

/// One term of a field selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    /// The path, e.g. `spec.nodeName`.
    pub field: String,
    /// What it is compared with.
    pub value: String,
    /// Whether they must be equal (or must not).
    pub equal: bool,
}

/// A field selector: all terms must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// The terms.
    pub terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// Parses e.g. `metadata.name=web,status.phase!=Running`; backslash escapes `,`, `=` and itself.
    ///
    /// # Errors
    /// The message, as upstream words it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut terms = Vec::new();
        for part in split_terms(text) {
            if part.is_empty() {
                continue;
            }
            let bad = || format!("invalid selector: '{text}'; can't understand '{part}'");
            let mut found = None;
            let mut escaped = false;
            for (i, c) in part.char_indices() {
                if escaped {
                    escaped = false;
                    continue;
                }
                match c {
                    '\\' => escaped = true,
                    '!' if part[i..].starts_with("!=") => found = Some((i, 2, false)),
                    '=' if part[i..].starts_with("==") => found = Some((i, 2, true)),
                    '=' => found = Some((i, 1, true)),
                    _ => {}
                }
                if found.is_some() {
                    break;
                }
            }
            let (at, width, equal) = found.ok_or_else(bad)?;
            terms.push(FieldTerm { field: part[..at].to_owned(), value: unescape(&part[at + width..])?, equal });
        }
        terms.sort_by(|a, b| a.field.cmp(&b.field));
        Ok(Self { terms })
    }

    /// Whether everything matches.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value that the field must have, where a term asks for one.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.equal && t.field == field).map(|t| t.value.as_str())
    }

    /// Checks that the resource knows every field.
    ///
    /// # Errors
    /// `field label not supported: …` for one that it does not know.
    pub fn check(&self, resource: &crate::Resource) -> Result<(), String> {
        for term in &self.terms {
            let common = term.field == "metadata.name" || (term.field == "metadata.namespace" && (resource.namespaced || !resource.is_custom()));
            if !common && !resource.selectable_fields.iter().any(|f| *f == term.field) {
                return Err(if resource.is_custom() || matches!(&*resource.kind, "Pod" | "Node" | "Secret" | "Event" | "Namespace" | "ReplicationController" | "ReplicaSet" | "Job" | "CertificateSigningRequest" | "Service") {
                    format!("field label not supported: {}", term.field)
                } else {
                    format!("{} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"", names::quote(&term.field))
                });
            }
        }
        Ok(())
    }

    /// Whether the object matches.
    pub fn matches(&self, resource: &crate::Resource, object: &Value) -> bool {
        self.terms.iter().all(|term| (field_value(resource, object, &term.field) == term.value) == term.equal)
    }

    /// The canonical text.
    pub fn text(&self) -> String {
        let terms: Vec<String> = self.terms.iter().map(|t| format!("{}{}{}", t.field, if t.equal { "=" } else { "!=" }, escape(&t.value))).collect();
        terms.join(",")
    }
}

/// What a field label stands for in an object; absent is empty.
pub fn field_value(resource: &crate::Resource, object: &Value, field: &str) -> String {
    match (&*resource.group, &*resource.plural, field) {
        ("", "nodes", "spec.unschedulable") => return object.pointer("/spec/unschedulable").and_then(Value::as_bool).unwrap_or(false).to_string(),
        ("", "pods", "spec.hostNetwork") => return object.pointer("/spec/hostNetwork").and_then(Value::as_bool).unwrap_or(false).to_string(),
        ("", "pods", "status.podIP") => return object.pointer("/status/podIP").or_else(|| object.pointer("/status/podIPs/0/ip")).and_then(Value::as_str).unwrap_or_default().to_owned(),
        ("", "events", "source") => {
            let component = object.pointer("/source/component").and_then(Value::as_str).unwrap_or_default();
            return if component.is_empty() { object.pointer("/reportingComponent").and_then(Value::as_str).unwrap_or_default().to_owned() } else { component.to_owned() };
        }
        ("", "events", "reportingComponent") => return object.get("reportingComponent").and_then(Value::as_str).unwrap_or_default().to_owned(),
        (_, "replicationcontrollers" | "replicasets", "status.replicas") => return object.pointer("/status/replicas").and_then(Value::as_i64).unwrap_or(0).to_string(),
        ("batch", "jobs", "status.successful") => return object.pointer("/status/succeeded").and_then(Value::as_i64).unwrap_or(0).to_string(),
        _ => {}
    }
    let mut at = object;
    for part in field.split('.') {
        match at.get(part) {
            Some(next) => at = next,
            None => return String::new(),
        }
    }
    match at {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Array(items) => items.iter().filter_map(|i| i.get("ip").and_then(Value::as_str)).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

fn unescape(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut escaped = false;
    for c in value.chars() {
        match (escaped, c) {
            (true, '\\' | ',' | '=') => {
                out.push(c);
                escaped = false;
            }
            (true, _) => return Err(format!("invalid field selector: invalid escape sequence: \\{c}")),
            (false, '\\') => escaped = true,
            (false, ',' | '=') => return Err(format!("invalid field selector: unescaped character in value: {c}")),
            (false, _) => out.push(c),
        }
    }
    if escaped {
        return Err("invalid field selector: invalid escape sequence: \\".into());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels() {
        let labels = json!({"app": "web", "tier": "a", "n": "5"});
        for (text, want) in [
            ("app=web", true), ("app==web,tier in (a,b)", true), ("!old", true), ("old", false), ("app!=web", false), ("tier notin (a)", false),
            ("n>4", true), ("n<4", false), ("", true), ("missing!=x", true), ("app in (web, x),n", true),
        ] {
            assert_eq!(LabelSelector::parse(text).unwrap().matches(&labels), want, "{text}");
        }
        for text in ["=", "a in b", "a,", "a in (", "a b", "-a=b", "a=b c", "a>x"] {
            assert!(LabelSelector::parse(text).is_err(), "{text}");
        }
        assert_eq!(LabelSelector::parse("b in (y,x),a").unwrap().text(), "a,b in (x,y)");
    }

    #[test]
    fn fields() {
        let pods = crate::Catalog::builtin().lookup("", "v1", "pods").unwrap();
        let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n"}});
        let selector = FieldSelector::parse("spec.nodeName=n,status.phase!=Failed,metadata.name==p").unwrap();
        selector.check(pods).unwrap();
        assert!(selector.matches(pods, &pod));
        assert!(FieldSelector::parse("spec.foo=x").unwrap().check(pods).is_err());
        assert!(FieldSelector::parse("x").is_err());
    }
}
