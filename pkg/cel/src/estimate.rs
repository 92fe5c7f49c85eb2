//! What a checked expression may cost at most, by the sizes that declarations allow.

use std::collections::HashMap;

use crate::{
    Env, Program,
    ast::{Expr, Fold, Kind, Literal},
    cost::{self, ACCESS, LIST, MAP, REGEX, STRUCT, TRAVERSAL},
    types::{Decl, ListKind, Type},
};

/// What one expression may cost by estimate.
pub const EXPRESSION_LIMIT: u64 = 10_000_000;
/// What all expressions of a definition may cost by estimate.
pub const TOTAL_LIMIT: u64 = 100_000_000;

/// The least and the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The least.
    pub min: u64,
    /// The most.
    pub max: u64,
}

const ZERO: Range = Range { min: 0, max: 0 };
const ONE: Range = Range { min: 1, max: 1 };
const UNKNOWN: Range = Range { min: 0, max: u64::MAX };

fn scale(x: u64, by: f64) -> u64 {
    let y = (x as f64 * by).ceil();
    if y >= 1.844_674_407_370_955e19 { u64::MAX } else { y as u64 }
}

impl Range {
    fn exactly(n: u64) -> Self {
        Self { min: n, max: n }
    }
    fn plus(self, o: Self) -> Self {
        Self { min: self.min.saturating_add(o.min), max: self.max.saturating_add(o.max) }
    }
    fn times(self, o: Self) -> Self {
        Self { min: self.min.saturating_mul(o.min), max: self.max.saturating_mul(o.max) }
    }
    fn by(self, f: f64) -> Self {
        Self { min: scale(self.min, f), max: scale(self.max, f) }
    }
    fn union(self, o: Self) -> Self {
        Self { min: self.min.min(o.min), max: self.max.max(o.max) }
    }
}

/// What is known of a value's size.
#[derive(Clone, Debug, Default)]
struct Node<'e> {
    /// Where in the declarations it is from.
    decl: Option<&'e Decl>,
    size: Option<Range>,
    key: Option<Range>,
    entry: Option<Range>,
}

struct Estimator<'e> {
    env: &'e Env,
    types: &'e HashMap<u32, Type>,
    scopes: Vec<(&'e str, Node<'e>)>,
}

/// A map's keys, which no schema bounds.
static KEY: Decl = Decl { ty: Type::String, max: Some(0), list: ListKind::Atomic };

impl Program {
    /// What an evaluation may cost.
    #[must_use]
    pub fn estimate(&self, env: &Env) -> Range {
        let mut e = Estimator { env, types: &self.types, scopes: Vec::new() };
        e.expr(&self.expr).0
    }
}

impl<'e> Estimator<'e> {
    fn ty(&self, e: &Expr) -> &'e Type {
        static DYN: Type = Type::Dyn;
        self.types.get(&e.id).unwrap_or(&DYN)
    }

    fn size(&self, e: &Expr, n: &Node<'e>) -> Option<Range> {
        if n.size.is_some() {
            return n.size;
        }
        match &e.kind {
            Kind::Literal(Literal::String(s)) => return Some(Range::exactly(s.chars().count() as u64)),
            Kind::Literal(Literal::Bytes(b)) => return Some(Range::exactly(b.len() as u64)),
            Kind::Literal(_) => return Some(ONE),
            Kind::List(l) => return Some(Range::exactly(l.len() as u64)),
            Kind::Map(m) => return Some(Range::exactly(m.len() as u64)),
            _ => {}
        }
        if let Some(max) = n.decl.and_then(|d| d.max) {
            return Some(Range { min: 0, max });
        }
        matches!(self.ty(e), Type::Bool | Type::Int | Type::Uint | Type::Double | Type::Null | Type::Type(_) | Type::Duration | Type::Timestamp).then_some(ONE)
    }

    fn sized(&self, e: &Expr, n: &Node<'e>) -> Range {
        self.size(e, n).unwrap_or(UNKNOWN)
    }

    /// The element of a list, the value of a map.
    fn inner(&self, n: &Node<'e>) -> Node<'e> {
        let decl = match n.decl.map(|d| &d.ty) {
            Some(Type::List(d) | Type::Map(_, d)) => Some(d.as_ref()),
            _ => None,
        };
        Node { decl, size: n.entry, key: None, entry: None }
    }

    fn expr(&mut self, e: &'e Expr) -> (Range, Node<'e>) {
        match &e.kind {
            Kind::Literal(_) => (ZERO, Node::default()),
            Kind::Ident(name) => {
                let node = match self.scopes.iter().rev().find(|(n, _)| n == name) {
                    Some((_, n)) => n.clone(),
                    None => Node { decl: self.env.variables.get(name), ..Node::default() },
                };
                (Range::exactly(ACCESS), node)
            }
            Kind::Select { operand, field, test } => {
                let (cost, node) = self.expr(operand);
                if *test {
                    return (cost, Node { size: Some(ONE), ..Node::default() });
                }
                let cost = match self.ty(operand) {
                    Type::Map(..) | Type::Object(_) | Type::Opaque(_) => cost.plus(Range::exactly(ACCESS)),
                    _ => cost,
                };
                let decl = match node.decl.map(|d| &d.ty) {
                    Some(Type::Object(o)) => o.fields.get(field.as_str()).map(|f| &f.decl),
                    Some(Type::Map(_, v)) => Some(v.as_ref()),
                    _ => None,
                };
                (cost, Node { decl, ..Node::default() })
            }
            Kind::Call { target, function, args } => self.call(e, target.as_deref(), function, args),
            Kind::List(all) => {
                let mut cost = Range::exactly(LIST);
                let mut entry: Option<Range> = None;
                for (x, _) in all {
                    let (c, n) = self.expr(x);
                    cost = cost.plus(c);
                    let s = self.sized(x, &n);
                    entry = Some(entry.map_or(s, |e| e.union(s)));
                }
                (cost, Node { entry: entry.or(Some(ZERO)), key: Some(ONE), size: Some(Range::exactly(all.len() as u64)), decl: None })
            }
            Kind::Map(all) => {
                let mut cost = Range::exactly(MAP);
                let (mut key, mut entry): (Option<Range>, Option<Range>) = (None, None);
                for (k, v, _) in all {
                    let ((kc, kn), (vc, vn)) = (self.expr(k), self.expr(v));
                    cost = cost.plus(kc).plus(vc);
                    let (ks, vs) = (self.sized(k, &kn), self.sized(v, &vn));
                    key = Some(key.map_or(ks, |x| x.union(ks)));
                    entry = Some(entry.map_or(vs, |x| x.union(vs)));
                }
                (cost, Node { entry: entry.or(Some(ZERO)), key: key.or(Some(ZERO)), size: Some(Range::exactly(all.len() as u64)), decl: None })
            }
            Kind::Struct { fields, .. } => {
                let mut cost = Range::exactly(STRUCT);
                for (_, v, _) in fields {
                    cost = cost.plus(self.expr(v).0);
                }
                (cost, Node::default())
            }
            Kind::Fold(f) => self.fold(f),
        }
    }

    fn fold(&mut self, f: &'e Fold) -> (Range, Node<'e>) {
        let (range_cost, range) = self.expr(&f.range);
        let (init_cost, mut init) = self.expr(&f.init);
        if init.size.is_none() {
            init.size = self.size(&f.init, &init);
        }
        let depth = self.scopes.len();
        if f.var == crate::macros::UNUSED {
            self.scopes.push((&f.accu, init));
            let (cost, node) = self.expr(&f.result);
            self.scopes.truncate(depth);
            return (range_cost.plus(init_cost).plus(cost), node);
        }
        // Loops that add to a list know its elements, not what it has grown to.
        let growing = matches!(f.init.kind, Kind::List(_) | Kind::Map(_));
        self.scopes.push((&f.accu, Node { decl: None, ..init.clone() }));
        let is_list = matches!(self.ty(&f.range), Type::List(_));
        let item = self.inner(&range);
        let key = Node { decl: (!is_list && range.decl.is_some()).then_some(&KEY), size: range.key, ..Node::default() };
        match &f.var2 {
            Some(second) => {
                self.scopes.push((&f.var, if is_list { Node { size: Some(ONE), ..Node::default() } } else { key }));
                self.scopes.push((second, item));
            }
            None => self.scopes.push((&f.var, if is_list { item } else { key })),
        }
        let condition = self.expr(&f.condition).0;
        let (step, step_node) = self.expr(&f.step);
        self.scopes.truncate(depth + 1);
        let result = self.expr(&f.result).0;
        self.scopes.truncate(depth);
        let turns = self.sized(&f.range, &range);
        let cost = range_cost.plus(init_cost).plus(result).plus(turns.times(step.plus(condition)));
        let node = if growing { Node { decl: None, size: Some(turns), key: step_node.key, entry: step_node.entry } } else { Node { decl: None, ..init } };
        (cost, node)
    }

    fn call(&mut self, e: &'e Expr, target: Option<&'e Expr>, function: &str, args: &'e [Expr]) -> (Range, Node<'e>) {
        let mut all: Vec<(&'e Expr, Range, Node<'e>)> = Vec::new();
        for a in target.into_iter().chain(args) {
            let (c, n) = self.expr(a);
            all.push((a, c, n));
        }
        let sum = all.iter().fold(ZERO, |s, (_, c, _)| s.plus(*c));
        let size = |i: usize| all.get(i).map_or(UNKNOWN, |(e, _, n)| self.sized(e, n));
        let is_text = |i: usize| all.get(i).is_some_and(|(e, ..)| matches!(self.ty(e), Type::String | Type::Bytes));
        let text_or_dyn = |i: usize| is_text(i) || all.get(i).is_some_and(|(e, ..)| self.ty(e).is_dyn());
        let of = |size: Range| Node { size: Some(size), ..Node::default() };
        let plain = Node { size: None, ..Node::default() };
        match function {
            "_&&_" | "_||_" => {
                let cost = Range { min: all.first().map_or(0, |a| a.1.min), max: sum.max };
                return (cost, plain);
            }
            "_?_:_" if all.len() == 3 => {
                let cost = all[0].1.plus(all[1].1.union(all[2].1));
                let size = size(1).union(size(2));
                let join = |a: Option<Range>, b: Option<Range>| a.zip(b).map(|(a, b)| a.union(b));
                let node = Node { decl: None, size: Some(size), key: join(all[1].2.key, all[2].2.key), entry: join(all[1].2.entry, all[2].2.entry) };
                return (cost, node);
            }
            "_[_]" if all.len() == 2 => {
                let node = self.inner(&all[0].2);
                return (sum.plus(ONE), node);
            }
            "dyn" if all.len() == 1 => {
                let node = all[0].2.clone();
                return (sum.plus(ONE), node);
            }
            _ => {}
        }
        let per_element = |i: usize| {
            let mut cost = ONE;
            if let Some((e, _, n)) = all.get(i)
                && let Type::List(d) = self.ty(e)
                && matches!(d.ty, Type::String | Type::Bytes)
            {
                let inner = self.inner(n);
                let size = inner.size.or_else(|| inner.decl.and_then(|d| d.max).map(|max| Range { min: 0, max })).unwrap_or(UNKNOWN);
                cost = cost.plus(size.by(TRAVERSAL));
            }
            cost
        };
        let (cost, node) = match function {
            "check" => (Range::exactly(350_000), plain),
            "fieldSelector" | "labelSelector" => (Range { min: cost::selector(size(1).min), max: cost::selector(size(1).max.min(1 << 40)) }, plain),
            "isSorted" | "sum" | "max" | "min" | "includes" => (size(0).times(per_element(0)), plain),
            "indexOf" | "lastIndexOf" if is_text(0) => (size(0).by(TRAVERSAL), plain),
            "indexOf" | "lastIndexOf" => (size(0).times(per_element(0)), plain),
            "url" | "lowerAscii" | "upperAscii" | "substring" | "trim" | "jsonpatch.escapeKey" => (size(0).by(TRAVERSAL), of(size(0))),
            "replace" => (size(0).by(2.0 * TRAVERSAL), of(replaced(size(0), size(1), size(2)))),
            "split" => (size(0).by(2.0 * TRAVERSAL), of(Range { min: 0, max: size(0).max })),
            "join" => {
                let inner = all.first().map(|(_, _, n)| self.inner(n)).unwrap_or_default();
                let element = inner.size.or_else(|| inner.decl.and_then(|d| d.max).map(|max| Range { min: 0, max })).unwrap_or(UNKNOWN);
                let list = size(0);
                let mut total = list.times(element);
                if all.len() > 1 {
                    total = total.plus(size(1).times(Range { min: list.min.saturating_sub(1), max: list.max.saturating_sub(1) }));
                }
                (total.by(TRAVERSAL), of(total))
            }
            "find" | "findAll" => (size(0).plus(ONE).by(TRAVERSAL).times(size(1).by(REGEX)), of(Range { min: 0, max: size(0).max })),
            "cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "semver" | "isSemver" => (size(0).by(TRAVERSAL), plain),
            "ip" if is_text(0) => (size(0).by(TRAVERSAL), plain),
            "ip.isCanonical" => (size(0).by(2.0 * TRAVERSAL), plain),
            "containsIP" | "containsCIDR" => {
                let bytes = Range { min: 4, max: 16 };
                let mut cost = bytes.plus(bytes).by(TRAVERSAL);
                if function == "containsCIDR" {
                    cost = cost.plus(bytes.by(TRAVERSAL)).plus(ONE);
                }
                if is_text(1) {
                    cost = cost.plus(size(1).by(TRAVERSAL));
                }
                (cost, plain)
            }
            "validate" => (size(1).by(TRAVERSAL).by(128.0 * REGEX), plain),
            "format" => (size(0).by(TRAVERSAL), plain),
            "bytes" if is_text(0) => (size(0).by(TRAVERSAL), of(Range { min: size(0).min, max: size(0).max.saturating_mul(4) })),
            "string" if is_text(0) => (size(0).by(TRAVERSAL), of(Range { min: size(0).min / 4, max: size(0).max })),
            "strings.quote" => (size(0).by(TRAVERSAL), of(Range { min: size(0).min.saturating_add(2), max: size(0).max.saturating_mul(2).saturating_add(2) })),
            "startsWith" | "endsWith" => (size(1).by(TRAVERSAL), plain),
            "@in" if !matches!(all.get(1).map(|a| self.ty(a.0)), Some(Type::Map(..))) => (size(1), plain),
            "matches" => (size(0).plus(ONE).by(TRAVERSAL).times(size(1).by(REGEX)), plain),
            "contains" => (size(0).by(TRAVERSAL).times(size(1).by(TRAVERSAL)), plain),
            "_+_" if matches!(self.ty(e), Type::List(_)) => {
                let join = |a: Option<Range>, b: Option<Range>| a.zip(b).map(|(a, b)| a.union(b));
                let node = Node { decl: None, size: Some(size(0).plus(size(1))), key: join(all[0].2.key, all[1].2.key), entry: all[1].2.entry.or(all[0].2.entry) };
                (ONE, node)
            }
            "_+_" if text_or_dyn(0) && text_or_dyn(1) => (size(0).plus(size(1)).by(TRAVERSAL), of(size(0).plus(size(1)))),
            "_==_" if matches!(all.first().map(|a| self.ty(a.0)), Some(Type::Opaque(_))) => (ONE, plain),
            "_==_" | "_!=_" => (least(size(0), size(1)), plain),
            "_<_" | "_<=_" | "_>_" | "_>=_" if text_or_dyn(0) && text_or_dyn(1) => (least(size(0), size(1)), plain),
            "sets.contains" | "sets.intersects" => (size(0).times(size(1)).plus(ONE), plain),
            "sets.equivalent" => (size(0).times(size(1)).by(2.0).plus(ONE), plain),
            "distinct" | "sort" | "@sortByAssociatedKeys" => (size(0).times(size(0)).plus(Range::exactly(LIST)), of(size(0))),
            "flatten" | "reverse" | "slice" => (size(0).plus(Range::exactly(LIST)), of(Range { min: 0, max: size(0).max })),
            _ => (ONE, plain),
        };
        (sum.plus(cost), node)
    }
}

/// Two values that are compared up to the end of the smaller one.
fn least(a: Range, b: Range) -> Range {
    let max = a.max.min(b.max);
    Range { min: u64::from(max > 0), max }.by(TRAVERSAL)
}

/// What replacing may make of a text.
fn replaced(s: Range, from: Range, to: Range) -> Range {
    let (count_max, kept_max) = if from.min == 0 {
        (s.max.saturating_add(1), s.max)
    } else if to.max <= from.min {
        (0, s.max)
    } else {
        (s.max.div_ceil(from.min), 0)
    };
    let (count_min, kept_min) = if from.max == 0 {
        (s.min.saturating_add(1), s.min)
    } else if from.max <= to.min {
        (0, s.min)
    } else {
        (s.min.div_ceil(from.max), 0)
    };
    Range { min: count_min, max: count_max }.times(to).plus(Range { min: kept_min, max: kept_max })
}
