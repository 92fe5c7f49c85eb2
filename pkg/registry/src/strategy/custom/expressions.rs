//! The rules of a version's schema: what they may cost, and whether they can be used where they stand.

use knarr_cel::estimate::{EXPRESSION_LIMIT, TOTAL_LIMIT};
use serde_json::Value;

use crate::{error::FieldError, object::Object, strategy::rules};

/// What the rules of a whole schema may cost by estimate.
#[derive(Default)]
pub(super) struct Total {
    sum: u64,
    /// The dearest, the dearest first.
    most: Vec<(String, u64)>,
}

impl Total {
    fn add(&mut self, at: String, cost: u64) {
        self.sum = self.sum.saturating_add(cost);
        if cost >= TOTAL_LIMIT / 100 {
            self.most.push((at, cost));
            self.most.sort_by_key(|m| std::cmp::Reverse(m.1));
            self.most.truncate(4);
        }
    }

    /// Whether all together are too dear; `at` is the schema's path.
    pub(super) fn judge(self, at: &str, out: &mut Vec<FieldError>) {
        if self.sum > TOTAL_LIMIT {
            let why = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            out.extend(self.most.into_iter().map(|(at, _)| FieldError::forbidden(at, why)));
            out.push(FieldError::forbidden(at, exceeds("x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema", self.sum, TOTAL_LIMIT)));
        }
    }
}

fn exceeds(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!("{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)")
}

/// Where the rules of a schema stand.
pub(super) struct Place<'a> {
    pub(super) at: &'a str,
    /// The schema is that of whole objects.
    pub(super) root: bool,
    /// How often its values may be in an object; without a bound, what fits into a request counts.
    pub(super) often: Option<u64>,
    /// The nearest schema above whose values cannot be told from those before.
    pub(super) unlike: Option<&'a str>,
}

/// Compiles a schema's own rules.
pub(super) fn check(s: &Value, place: &Place<'_>, total: &mut Total, out: &mut Vec<FieldError>) {
    let all = s.list_at(&["x-kubernetes-validations"]);
    let Some(found) = rules::judge(s, place.root) else { return };
    let often = place.often.unwrap_or(found.often);
    for (i, (r, j)) in all.iter().zip(found.rules).enumerate() {
        let at = |member: &str| format!("{}.x-kubernetes-validations[{i}].{member}", place.at);
        let cost = j.cost.saturating_mul(often);
        if cost > EXPRESSION_LIMIT {
            out.push(FieldError::forbidden(at("rule"), exceeds("estimated rule cost", cost, EXPRESSION_LIMIT)));
        }
        total.add(at("rule"), cost);
        if let Some(why) = j.wrong {
            out.push(FieldError::invalid(at("rule"), r.clone(), why));
        }
        match j.message {
            Some(Err(why)) => out.push(FieldError::invalid(at("messageExpression"), r.clone(), why)),
            Some(Ok(cost)) => {
                if cost > EXPRESSION_LIMIT {
                    out.push(FieldError::forbidden(at("messageExpression"), exceeds("estimated messageExpression cost", cost, EXPRESSION_LIMIT)));
                }
                total.add(at("messageExpression"), cost);
            }
            None => {}
        }
        if j.uses_old {
            if let Some(above) = place.unlike {
                let why = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {above}");
                out.push(FieldError::invalid(at("rule"), r.str_at(&["rule"]), why));
            }
        } else if let Some(optional) = r.at(&["optionalOldSelf"]) {
            out.push(FieldError::invalid(at("optionalOldSelf"), optional.clone(), "may not be set if oldSelf is not used in rule"));
        }
    }
}

/// What is wrong with the texts of a schema's rules.
pub(super) fn texts(s: &Value, at: &str, out: &mut Vec<FieldError>) {
    const REASONS: [&str; 4] = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
    let lines = |t: &str| t.contains(['\n', '\r']);
    for (i, r) in s.list_at(&["x-kubernetes-validations"]).iter().enumerate() {
        let at = |member: &str| format!("{at}.x-kubernetes-validations[{i}].{member}");
        let text = |member: &str| r.str_at(&[member]);
        let (rule, message) = (text("rule").trim(), text("message").trim());
        if rule.is_empty() {
            out.push(FieldError::required(at("rule"), "rule is not specified"));
        } else if !text("message").is_empty() && message.is_empty() {
            out.push(FieldError::invalid(at("message"), text("message"), "must be non-empty if specified"));
        } else if lines(message) {
            out.push(FieldError::invalid(at("message"), text("message"), "must not contain line breaks"));
        } else if lines(rule) && message.is_empty() {
            out.push(FieldError::required(at("message"), "message must be specified if rule contains line breaks"));
        }
        let expression = text("messageExpression");
        if !expression.is_empty() && expression.trim().is_empty() {
            out.push(FieldError::required(at("messageExpression"), "messageExpression must be non-empty if specified"));
        }
        if let Some(reason) = r.get("reason").and_then(Value::as_str).filter(|r| !REASONS.contains(r)) {
            out.push(FieldError::not_supported(at("reason"), reason, &REASONS));
        }
        let path = text("fieldPath");
        if !path.is_empty() {
            if path.trim().is_empty() {
                out.push(FieldError::invalid(at("fieldPath"), path, "must be non-empty if specified"));
            }
            if lines(path) {
                out.push(FieldError::invalid(at("fieldPath"), path, "must not contain line breaks"));
            }
            if find(s, path, true).is_err() {
                out.push(FieldError::invalid(at("fieldPath"), path, "must be a valid path"));
            }
        }
    }
}

/// The schema that a path leads to, and the path's names joined: `.a.b`, `['a'].b`. Brackets are for
/// members and keys, where they are allowed.
///
/// # Errors
/// Why the path leads nowhere.
pub(super) fn find<'v>(mut s: &'v Value, path: &str, brackets: bool) -> Result<(Vec<String>, &'v Value), String> {
    const NOWHERE: &str = "does not refer to a valid field";
    let mut names = Vec::new();
    let mut rest = path;
    while let Some(open) = rest.chars().next() {
        let name;
        match open {
            '.' => {
                let end = rest[1..].find(['.', '[', ']']).map_or(rest.len(), |e| e + 1);
                if end == rest.len() && end == 1 {
                    return Err("unexpected end of JSON path".into());
                }
                name = rest[1..end].to_owned();
                rest = &rest[end..];
            }
            '[' if !brackets => return Err("array notation is not allowed".into()),
            '[' => {
                let quoted = rest[1..].strip_prefix('\'').ok_or_else(|| format!("expected single quoted string but got {}", rest[1..].split([']', '.']).next().unwrap_or_default()))?;
                let (text, after) = unquote(quoted).ok_or("unexpected end of JSON path")?;
                rest = after.strip_prefix(']').ok_or("expected ] but got another token")?;
                name = text;
            }
            _ => return Err(format!("expected [ or . but got: {}", rest.split(['.', '[', ']']).next().unwrap_or_default())),
        }
        s = match s.get("properties") {
            Some(p) => p.get(&name),
            None => s.get("additionalProperties").filter(|a| a.is_object()),
        }
        .ok_or(NOWHERE)?;
        names.push(name);
    }
    if names.is_empty() { Err(NOWHERE.into()) } else { Ok((names, s)) }
}

/// A text up to its closing quote, and what follows.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '\'' => return Some((out, &text[i + 1..])),
            '\\' => out.push(chars.next()?.1),
            c => out.push(c),
        }
    }
    None
}
