//! The parser: recursive descent, bounded in depth, with macros expanded on the way.

use crate::{
    ast::{Expr, Kind, Literal},
    error::{Issue, Issues},
    lex::{Spanned, Token, lex},
    macros,
};

/// The longest expression in characters.
const LONGEST: usize = 100_000;
/// The deepest nesting.
const DEEPEST: usize = 150;
/// Words that may not name anything.
const RESERVED: [&str; 17] =
    ["as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop", "package", "namespace", "return", "var", "void", "while"];
/// Words of the language that are no identifiers either.
const KEYWORDS: [&str; 4] = ["true", "false", "null", "in"];
const PRIMARY: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

/// Whether a variable may be named so.
#[must_use]
pub fn is_identifier(name: &str) -> bool {
    let first = name
        .chars()
        .next()
        .is_some_and(|c| c == '_' || c.is_ascii_alphabetic());
    first
        && name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric())
        && !RESERVED.contains(&name)
        && !KEYWORDS.contains(&name)
}

pub(crate) struct Parser {
    source: Vec<char>,
    tokens: Vec<Spanned>,
    next: usize,
    depth: usize,
    ids: u32,
}

/// Parses an expression.
///
/// # Errors
/// What is wrong with its form.
pub fn parse(source: &str) -> Result<Expr, Issues> {
    let failed = |i: Issue| Issues::new(source, vec![i]);
    let chars: Vec<char> = source.chars().collect();
    if chars.len() > LONGEST {
        return Err(Issues::new("", vec![Issue::new(0, format!("expression code point size exceeds limit: size: {}, limit {LONGEST}", chars.len()))]));
    }
    let tokens = lex(&chars).map_err(failed)?;
    let mut p = Parser { source: chars, tokens, next: 0, depth: 0, ids: 0 };
    let e = p.expr().map_err(failed)?;
    if *p.peek() != Token::End {
        return Err(failed(p.unexpected("<EOF>", true)));
    }
    Ok(e)
}

type Parsed = Result<Expr, Issue>;

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.next).map_or(&Token::End, |t| &t.token)
    }
    fn at(&self) -> u32 {
        self.tokens.get(self.next).or_else(|| self.tokens.last()).map_or(0, |t| t.from as u32)
    }
    fn advance(&mut self) {
        if self.next + 1 < self.tokens.len() {
            self.next += 1;
        }
    }
    fn is(&self, op: &str) -> bool {
        matches!(self.peek(), Token::Op(o) if *o == op)
    }
    fn take(&mut self, op: &str) -> bool {
        let yes = self.is(op);
        if yes {
            self.advance();
        }
        yes
    }
    fn expect(&mut self, op: &str) -> Result<(), Issue> {
        if self.take(op) { Ok(()) } else { Err(self.unexpected(&format!("'{op}'"), false)) }
    }
    fn unexpected(&self, wanted: &str, extra: bool) -> Issue {
        let at = self.at() as usize;
        let text = self.tokens.get(self.next).map_or_else(|| "<EOF>".into(), |t| t.token.text(&self.source, t.from, t.to));
        let what = if extra { "extraneous" } else { "mismatched" };
        Issue::syntax(at, format!("{what} input '{text}' expecting {wanted}"))
    }
    /// A new expression.
    pub(crate) fn make(&mut self, at: u32, kind: Kind) -> Expr {
        self.ids += 1;
        Expr { id: self.ids, at, kind }
    }
    /// A call without a receiver.
    pub(crate) fn call(&mut self, at: u32, function: &str, args: Vec<Expr>) -> Expr {
        self.make(at, Kind::Call { target: None, function: function.into(), args })
    }

    pub(crate) fn expr(&mut self) -> Parsed {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(Issue::new(0, format!("expression recursion limit exceeded: {DEEPEST}")));
        }
        let r = self.conditional();
        self.depth -= 1;
        r
    }

    fn conditional(&mut self) -> Parsed {
        let condition = self.binary(0)?;
        let at = self.at();
        if !self.take("?") {
            return Ok(condition);
        }
        let yes = self.binary(0)?;
        self.expect(":")?;
        let no = self.expr()?;
        Ok(self.call(at, "_?_:_", vec![condition, yes, no]))
    }

    /// A balanced tree of logical operators, so that long chains stay flat.
    fn balanced(&mut self, function: &str, mut all: Vec<(Expr, u32)>) -> Expr {
        while all.len() > 1 {
            let mut next = Vec::with_capacity(all.len().div_ceil(2));
            let mut it = all.into_iter();
            while let Some((left, at)) = it.next() {
                match it.next() {
                    Some((right, op)) => next.push((self.call(op, function, vec![left, right]), at)),
                    None => next.push((left, at)),
                }
            }
            all = next;
        }
        all.pop().map_or_else(|| self.make(0, Kind::Literal(Literal::Null)), |(e, _)| e)
    }

    /// The operator at hand, if it binds at least as tightly as asked: how tightly, and its function.
    fn operator(&self, least: u8) -> Option<(u8, &'static str)> {
        let (power, name) = match self.peek() {
            Token::Op(o) => match *o {
                "||" => (0, "_||_"),
                "&&" => (1, "_&&_"),
                "==" => (2, "_==_"),
                "!=" => (2, "_!=_"),
                "<" => (2, "_<_"),
                "<=" => (2, "_<=_"),
                ">" => (2, "_>_"),
                ">=" => (2, "_>=_"),
                "+" => (3, "_+_"),
                "-" => (3, "_-_"),
                "*" => (4, "_*_"),
                "/" => (4, "_/_"),
                "%" => (4, "_%_"),
                _ => return None,
            },
            Token::Ident(i) if i == "in" => (2, "@in"),
            _ => return None,
        };
        (power >= least).then_some((power, name))
    }

    /// Operators that bind at least as tightly as asked, from the left.
    fn binary(&mut self, least: u8) -> Parsed {
        let mut left = self.unary()?;
        let mut chain = 0;
        while let Some((power, name)) = self.operator(least) {
            if power < 2 {
                let mut all = vec![(left, 0)];
                while self.operator(power).is_some_and(|o| o.0 == power) {
                    let at = self.at();
                    self.advance();
                    all.push((self.binary(power + 1)?, at));
                }
                left = self.balanced(name, all);
                continue;
            }
            chain += 1;
            if chain > DEEPEST {
                return Err(Issue::new(0, format!("expression recursion limit exceeded: {DEEPEST}")));
            }
            let at = self.at();
            self.advance();
            let right = self.binary(power + 1)?;
            left = self.call(at, name, vec![left, right]);
        }
        Ok(left)
    }

    fn unary(&mut self) -> Parsed {
        let at = self.at();
        let mut count = 0_usize;
        for (op, name) in [("!", "!_"), ("-", "-_")] {
            while self.take(op) {
                count += 1;
            }
            if count == 0 {
                continue;
            }
            if op == "-" && count % 2 == 1 {
                let number = match self.peek() {
                    Token::Int(i) => Some(Literal::Int(-*i)),
                    Token::BigInt => Some(Literal::Int(i64::MIN)),
                    Token::Double(d) => Some(Literal::Double(-*d)),
                    _ => None,
                };
                if let Some(n) = number {
                    self.advance();
                    let e = self.make(at, Kind::Literal(n));
                    return self.members(e);
                }
            }
            let inner = self.unary_operand()?;
            return Ok(if count % 2 == 1 { self.call(at, name, vec![inner]) } else { inner });
        }
        self.unary_operand()
    }

    fn unary_operand(&mut self) -> Parsed {
        let e = self.primary()?;
        self.members(e)
    }

    /// `.field`, `.method(…)`, `[index]` behind an expression.
    fn members(&mut self, mut e: Expr) -> Parsed {
        let mut chain = 0;
        loop {
            chain += 1;
            if chain > DEEPEST {
                return Err(Issue::new(0, format!("expression recursion limit exceeded: {DEEPEST}")));
            }
            let at = self.at();
            if self.take(".") {
                let optional = self.take("?");
                let Token::Ident(name) = self.peek().clone() else {
                    return Err(self.unexpected("IDENTIFIER", false));
                };
                if name == "in" {
                    return Err(self.unexpected("IDENTIFIER", false));
                }
                self.advance();
                if optional {
                    let field = self.make(at, Kind::Literal(Literal::String(name)));
                    e = self.call(at, "_?._", vec![e, field]);
                    continue;
                }
                let open = self.at();
                if self.take("(") {
                    let args = self.arguments(")")?;
                    e = macros::member(self, open, e, name, args)?;
                } else {
                    e = self.make(at, Kind::Select { operand: Box::new(e), field: name, test: false });
                }
            } else if self.take("[") {
                let optional = self.take("?");
                let index = self.expr()?;
                self.expect("]")?;
                e = self.call(at, if optional { "_[?_]" } else { "_[_]" }, vec![e, index]);
            } else if self.is("{") && let Some(name) = e.qualified().filter(|_| struct_name(&e)) {
                self.advance();
                let fields = self.fields()?;
                e = self.make(at, Kind::Struct { name, fields });
            } else {
                return Ok(e);
            }
        }
    }

    fn arguments(&mut self, end: &str) -> Result<Vec<Expr>, Issue> {
        let mut out = Vec::new();
        if self.take(end) {
            return Ok(out);
        }
        loop {
            out.push(self.expr()?);
            if !self.take(",") {
                break;
            }
        }
        self.expect(end)?;
        Ok(out)
    }

    fn fields(&mut self) -> Result<Vec<(String, Expr, bool)>, Issue> {
        let mut out = Vec::new();
        while !self.take("}") {
            let optional = self.take("?");
            let Token::Ident(name) = self.peek().clone() else {
                return Err(self.unexpected("IDENTIFIER", false));
            };
            self.advance();
            self.expect(":")?;
            out.push((name, self.expr()?, optional));
            if !self.take(",") {
                self.expect("}")?;
                break;
            }
        }
        Ok(out)
    }

    fn primary(&mut self) -> Parsed {
        let at = self.at();
        let literal = match self.peek().clone() {
            Token::Int(i) => Literal::Int(i),
            Token::Uint(u) => Literal::Uint(u),
            Token::Double(d) => Literal::Double(d),
            Token::String(s) => Literal::String(s),
            Token::Bytes(b) => Literal::Bytes(b),
            Token::BigInt => return Err(Issue::syntax(at as usize, "invalid int literal".into())),
            Token::Ident(n) if n == "true" => Literal::Bool(true),
            Token::Ident(n) if n == "false" => Literal::Bool(false),
            Token::Ident(n) if n == "null" => Literal::Null,
            Token::Ident(n) if n != "in" => return self.named(n, at, false),
            Token::Op(".") => {
                self.advance();
                let Token::Ident(n) = self.peek().clone() else {
                    return Err(self.unexpected("IDENTIFIER", false));
                };
                return self.named(n, at, true);
            }
            Token::Op("(") => {
                self.advance();
                let e = self.expr()?;
                self.expect(")")?;
                return Ok(e);
            }
            Token::Op("[") => {
                self.advance();
                let mut all = Vec::new();
                while !self.take("]") {
                    let optional = self.take("?");
                    all.push((self.expr()?, optional));
                    if !self.take(",") {
                        self.expect("]")?;
                        break;
                    }
                }
                return Ok(self.make(at, Kind::List(all)));
            }
            Token::Op("{") => {
                self.advance();
                let mut all = Vec::new();
                while !self.take("}") {
                    let optional = self.take("?");
                    let key = self.expr()?;
                    self.expect(":")?;
                    all.push((key, self.expr()?, optional));
                    if !self.take(",") {
                        self.expect("}")?;
                        break;
                    }
                }
                return Ok(self.make(at, Kind::Map(all)));
            }
            _ => return Err(self.unexpected(PRIMARY, false)),
        };
        self.advance();
        Ok(self.make(at, Kind::Literal(literal)))
    }

    fn named(&mut self, name: String, at: u32, rooted: bool) -> Parsed {
        self.advance();
        if RESERVED.contains(&name.as_str()) {
            return Err(Issue::syntax(at as usize, "reserved identifier: ".to_owned() + &name));
        }
        let open = self.at();
        if self.take("(") {
            let args = self.arguments(")")?;
            return if rooted { Ok(self.call(open, &name, args)) } else { macros::global(self, open, name, args) };
        }
        Ok(self.make(at, Kind::Ident(name)))
    }
}

/// Whether an expression before `{` can be a type's name: it spells one, and braces can follow.
fn struct_name(e: &Expr) -> bool {
    matches!(e.kind, Kind::Ident(_) | Kind::Select { .. })
}
