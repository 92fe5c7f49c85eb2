//! Expressions as they are parsed; macros are expanded already.

/// A constant.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// `null`.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// An unsigned integer (`1u`).
    Uint(u64),
    /// A floating point number.
    Double(f64),
    /// Text.
    String(String),
    /// Bytes (`b"…"`).
    Bytes(Vec<u8>),
}

/// An expression and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// Which one it is, unique in its program.
    pub id: u32,
    /// Offset in characters.
    pub at: u32,
    /// What it is.
    pub kind: Kind,
}

/// The kinds of expressions.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A constant.
    Literal(Literal),
    /// A variable, or the first part of a qualified name.
    Ident(String),
    /// `operand.field`, or `has(operand.field)` if `test`; `operand.?field` if `optional`.
    Select {
        /// What has the field.
        operand: Box<Expr>,
        /// The field.
        field: String,
        /// Whether only its presence is asked for.
        test: bool,
    },
    /// `function(args)` or `target.function(args)`; operators have names such as `_+_`.
    Call {
        /// The receiver.
        target: Option<Box<Expr>>,
        /// The function.
        function: String,
        /// The arguments.
        args: Vec<Expr>,
    },
    /// `[a, ?b]`: elements, and whether each is optional.
    List(Vec<(Expr, bool)>),
    /// `{k: v, ?k: v}`.
    Map(Vec<(Expr, Expr, bool)>),
    /// `Name{field: value, ?field: value}`.
    Struct {
        /// The type's name.
        name: String,
        /// Field, value, whether the value is optional.
        fields: Vec<(String, Expr, bool)>,
    },
    /// A loop, from a macro.
    Fold(Box<Fold>),
}

/// A loop over a list or map.
#[derive(Clone, Debug, PartialEq)]
pub struct Fold {
    /// What is looped over.
    pub range: Expr,
    /// The variable: element or key; index or key if there are two.
    pub var: String,
    /// The second variable: element or value.
    pub var2: Option<String>,
    /// The accumulator's name.
    pub accu: String,
    /// Its first value.
    pub init: Expr,
    /// Whether the loop goes on.
    pub condition: Expr,
    /// The accumulator's next value.
    pub step: Expr,
    /// The loop's value.
    pub result: Expr,
}

impl Expr {
    /// The qualified name that a chain of selects spells (`a.b.c`).
    #[must_use]
    pub fn qualified(&self) -> Option<String> {
        match &self.kind {
            Kind::Ident(n) => Some(n.clone()),
            Kind::Select { operand, field, test: false } => operand.qualified().map(|o| format!("{o}.{field}")),
            _ => None,
        }
    }
}
