//! What is wrong with an expression, in cel-go's words.

use std::fmt;

/// One thing that is wrong with an expression, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// Offset in characters.
    pub at: usize,
    /// The sentence.
    pub message: String,
}

impl Issue {
    /// Something wrong with meaning.
    pub(crate) fn new(at: u32, message: impl Into<String>) -> Self {
        Self { at: at as usize, message: message.into() }
    }
    /// Something wrong with form.
    pub(crate) fn syntax(at: usize, message: String) -> Self {
        Self { at, message: format!("Syntax error: {message}") }
    }
}

/// Everything that is wrong with an expression; shown with the lines it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issues {
    /// The findings in the order of their places.
    pub all: Vec<Issue>,
    source: String,
}

impl Issues {
    pub(crate) fn new(source: &str, mut all: Vec<Issue>) -> Self {
        all.sort_by_key(|i| i.at);
        Self { all, source: source.to_owned() }
    }
}

impl std::error::Error for Issues {}

impl fmt::Display for Issues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, issue) in self.all.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            let before: Vec<char> = self.source.chars().take(issue.at).collect();
            let line = before.iter().filter(|c| **c == '\n').count();
            let column = before.iter().rev().take_while(|c| **c != '\n').count();
            write!(f, "ERROR: <input>:{}:{}: {}", line + 1, column + 1, issue.message)?;
            if let Some(text) = self.source.split('\n').nth(line) {
                let text = text.replace('\t', " ");
                let dots: String = text.chars().take(column).map(|c| if c.is_ascii() { '.' } else { '．' }).collect();
                let mark = if text.chars().nth(column).is_some_and(|c| !c.is_ascii()) { '＾' } else { '^' };
                write!(f, "\n | {text}\n | {dots}{mark}")?;
            }
        }
        Ok(())
    }
}

/// Why an evaluation has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EvalError {
    /// The expression failed: `no such key: x`, `divided by zero`.
    Failed(String),
    /// It used more than it may.
    CostExceeded,
}

impl EvalError {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self::Failed(why.into())
    }
}

impl fmt::Display for EvalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(why) => f.write_str(why),
            Self::CostExceeded => f.write_str("operation cancelled: actual cost limit exceeded"),
        }
    }
}

impl std::error::Error for EvalError {}
