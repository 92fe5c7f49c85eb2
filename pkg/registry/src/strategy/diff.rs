//! What changed, for the people who read a refusal: a unified diff of two values as indented JSON.

use std::fmt::Write;

use serde_json::Value;

/// Lines around a change that are shown too.
const AROUND: usize = 3;
/// Beyond so many lines nothing is compared: the table of the comparison would be too large.
const MOST: usize = 4000;

#[derive(Clone, Copy, PartialEq)]
enum Line<'t> {
    Same(&'t str),
    Gone(&'t str),
    New(&'t str),
}

fn pretty(v: &Value) -> String {
    let mut out = Vec::new();
    let mut writer = serde_json::Serializer::with_formatter(&mut out, serde_json::ser::PrettyFormatter::with_indent(b" "));
    // Writing a value into memory cannot fail.
    let _ = serde::Serialize::serialize(v, &mut writer);
    String::from_utf8_lossy(&out).into_owned()
}

/// What leads from one text to the other, by the longest common subsequence of their lines.
fn lines<'t>(a: &[&'t str], b: &[&'t str]) -> Vec<Line<'t>> {
    let width = b.len() + 1;
    let mut longest = vec![0u16; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            longest[i * width + j] = if a[i] == b[j] { longest[(i + 1) * width + j + 1] + 1 } else { longest[(i + 1) * width + j].max(longest[i * width + j + 1]) };
        }
    }
    let (mut i, mut j, mut out) = (0, 0, Vec::new());
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            out.push(Line::Same(a[i]));
            (i, j) = (i + 1, j + 1);
        } else if i < a.len() && (j == b.len() || longest[(i + 1) * width + j] >= longest[i * width + j + 1]) {
            out.push(Line::Gone(a[i]));
            i += 1;
        } else {
            out.push(Line::New(b[j]));
            j += 1;
        }
    }
    out
}

/// A unified diff; empty where nothing differs or too much would have to be compared.
pub(super) fn unified(old: &Value, new: &Value) -> String {
    let (a, b) = (pretty(old), pretty(new));
    let (a, b): (Vec<&str>, Vec<&str>) = (a.lines().collect(), b.lines().collect());
    if a.len() > MOST || b.len() > MOST {
        return String::new();
    }
    let all = lines(&a, &b);
    let changed: Vec<usize> = all.iter().enumerate().filter(|(_, l)| !matches!(l, Line::Same(_))).map(|(i, _)| i).collect();
    let mut hunks: Vec<(usize, usize)> = Vec::new();
    for i in changed {
        let (from, to) = (i.saturating_sub(AROUND), (i + AROUND + 1).min(all.len()));
        match hunks.last_mut() {
            Some((_, end)) if from <= *end => *end = to,
            _ => hunks.push((from, to)),
        }
    }
    let mut out = String::new();
    let (mut at, mut left, mut right) = (0, 0, 0);
    for (from, to) in hunks {
        let count = |part: &[Line<'_>]| (part.iter().filter(|l| !matches!(l, Line::New(_))).count(), part.iter().filter(|l| !matches!(l, Line::Gone(_))).count());
        let (l, r) = count(&all[at..from]);
        (left, right) = (left + l, right + r);
        let (l, r) = count(&all[from..to]);
        let _ = writeln!(out, "@@ -{},{l} +{},{r} @@", left + 1, right + 1);
        for line in &all[from..to] {
            let (mark, text) = match line {
                Line::Same(t) => (' ', t),
                Line::Gone(t) => ('-', t),
                Line::New(t) => ('+', t),
            };
            let _ = writeln!(out, "{mark}{text}");
        }
        (at, left, right) = (to, left + l, right + r);
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn shows_what_changed_with_what_is_around_it() {
        let text = super::unified(&json!({"a": 1, "b": [1, 2], "c": 3}), &json!({"a": 1, "b": [1, 5], "c": 3}));
        assert_eq!(text, "@@ -2,6 +2,6 @@\n  \"a\": 1,\n  \"b\": [\n   1,\n-  2\n+  5\n  ],\n  \"c\": 3\n }\n".replace("@@ -2,6 +2,6 @@", "@@ -2,7 +2,7 @@"));
        assert_eq!(super::unified(&json!(1), &json!(1)), "");
    }
}
