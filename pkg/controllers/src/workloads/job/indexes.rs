//! Sets of completion indexes in their short notation: `0,2-5,7`.

use std::collections::BTreeSet;

/// A set of indexes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Indexes(BTreeSet<i32>);

impl Indexes {
    /// Reads the notation; malformed parts are left out.
    pub fn parse(s: &str) -> Self {
        let mut out = BTreeSet::new();
        for part in s.split(',').filter(|p| !p.is_empty()) {
            match part.split_once('-') {
                Some((a, b)) => {
                    if let (Ok(a), Ok(b)) = (a.parse::<i32>(), b.parse::<i32>()) {
                        out.extend(a..=b.min(a.saturating_add(1_000_000)));
                    }
                }
                None => out.extend(part.parse::<i32>()),
            }
        }
        Self(out)
    }
    /// Adds one.
    pub fn insert(&mut self, i: i32) {
        self.0.insert(i);
    }
    /// Whether it holds one.
    pub fn contains(&self, i: i32) -> bool {
        self.0.contains(&i)
    }
    /// How many.
    pub fn len(&self) -> i32 {
        i32::try_from(self.0.len()).unwrap_or(i32::MAX)
    }
    /// How many of `other` it holds.
    pub fn common(&self, other: &Self) -> i32 {
        i32::try_from(self.0.intersection(&other.0).count()).unwrap_or(i32::MAX)
    }
    /// Writes the notation; runs of two are written as two numbers.
    pub fn text(&self) -> String {
        let mut runs: Vec<(i32, i32)> = Vec::new();
        for i in &self.0 {
            match runs.last_mut() {
                Some((_, b)) if *b + 1 == *i => *b = *i,
                _ => runs.push((*i, *i)),
            }
        }
        let parts: Vec<String> = runs
            .into_iter()
            .map(|(a, b)| match b - a {
                0 => a.to_string(),
                1 => format!("{a},{b}"),
                _ => format!("{a}-{b}"),
            })
            .collect();
        parts.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notation() {
        let i = Indexes::parse("0,2-5,7");
        assert_eq!(i.len(), 6);
        assert!(i.contains(4) && !i.contains(1));
        assert_eq!(i.text(), "0,2-5,7");
        assert_eq!(Indexes::parse("1,2").text(), "1,2");
        assert_eq!(Indexes::parse("x,3").text(), "3");
    }
}
