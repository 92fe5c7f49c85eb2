//! The macros: `has`, `all`, `exists`, `exists_one`, `map`, `filter`, `sortBy`, those with two
//! variables, `cel.bind` and those of optional values.

use crate::{
    ast::{Expr, Fold, Kind, Literal},
    error::Issue,
    parse::Parser,
};

/// The accumulator of the loops that macros make.
pub(crate) const ACCU: &str = "@result";
/// The variable of a loop that never turns.
pub(crate) const UNUSED: &str = "#unused";

type Made = Result<Expr, Issue>;

/// A call without a receiver, or a macro.
pub(crate) fn global(p: &mut Parser, at: u32, name: String, mut args: Vec<Expr>) -> Made {
    if name == "has" && args.len() == 1 {
        let Some(arg) = args.pop() else { return Err(Issue::new(at, "invalid argument to has() macro")) };
        return match arg.kind {
            Kind::Select { operand, field, test: false } => Ok(p.make(at, Kind::Select { operand, field, test: true })),
            _ => Err(Issue::new(arg.at, "invalid argument to has() macro")),
        };
    }
    Ok(p.call(at, &name, args))
}

fn variable(e: &Expr, what: &str) -> Result<String, Issue> {
    match &e.kind {
        Kind::Ident(n) if n == ACCU || n == "__result__" => Err(Issue::new(e.at, "iteration variable overwrites accumulator variable")),
        Kind::Ident(n) => Ok(n.clone()),
        _ => Err(Issue::new(e.at, what)),
    }
}

struct Loop {
    range: Expr,
    var: String,
    var2: Option<String>,
    init: Kind,
}

fn truth(b: bool) -> Kind {
    Kind::Literal(Literal::Bool(b))
}

fn accu(p: &mut Parser, at: u32) -> Expr {
    p.make(at, Kind::Ident(ACCU.into()))
}

fn fold(p: &mut Parser, at: u32, l: Loop, condition: Expr, step: Expr, result: Expr) -> Expr {
    let init = p.make(at, l.init);
    p.make(at, Kind::Fold(Box::new(Fold { range: l.range, var: l.var, var2: l.var2, accu: ACCU.into(), init, condition, step, result })))
}

/// A call on a receiver, or a macro.
pub(crate) fn member(p: &mut Parser, at: u32, target: Expr, name: String, mut args: Vec<Expr>) -> Made {
    let receiver = match &target.kind {
        Kind::Ident(n) => n.clone(),
        _ => String::new(),
    };
    match (name.as_str(), args.len()) {
        ("bind", 3) if receiver == "cel" => {
            let result = args.remove(2);
            let init = args.remove(1);
            let accu = variable(&args[0], "cel.bind() variable names must be simple identifiers")?;
            let range = p.make(at, Kind::List(Vec::new()));
            let condition = p.make(at, truth(false));
            let step = p.make(at, Kind::Ident(accu.clone()));
            Ok(p.make(at, Kind::Fold(Box::new(Fold { range, var: UNUSED.into(), var2: None, accu, init, condition, step, result }))))
        }
        ("all" | "exists" | "exists_one" | "existsOne", 2 | 3) if !(name == "existsOne" && args.len() == 2) || args.len() == 3 => quantifier(p, at, target, &name, args),
        ("map", 2 | 3) | ("filter", 2) => {
            let body = args.remove(args.len() - 1);
            let cond = if name == "filter" { Some(body.clone()) } else if args.len() == 2 { Some(args.remove(1)) } else { None };
            let var = variable(&args[0], "argument is not an identifier")?;
            let element = if name == "filter" { args.remove(0) } else { body };
            let acc = accu(p, at);
            let one = p.make(at, Kind::List(vec![(element, false)]));
            let mut step = p.call(at, "_+_", vec![acc, one]);
            if let Some(cond) = cond {
                let same = accu(p, at);
                step = p.call(at, "_?_:_", vec![cond, step, same]);
            }
            let condition = p.make(at, truth(true));
            let result = accu(p, at);
            Ok(fold(p, at, Loop { range: target, var, var2: None, init: Kind::List(Vec::new()) }, condition, step, result))
        }
        ("transformList", 3 | 4) | ("transformMap", 3 | 4) | ("transformMapEntry", 3 | 4) => transform(p, at, target, &name, args),
        ("optMap" | "optFlatMap", 2) => {
            let body = args.remove(1);
            let var = variable(&args[0], &format!("{name}() variable name must be a simple identifier"))?;
            let has = p.make(at, Kind::Call { target: Some(Box::new(target.clone())), function: "hasValue".into(), args: Vec::new() });
            let value = p.make(at, Kind::Call { target: Some(Box::new(target)), function: "value".into(), args: Vec::new() });
            let range = p.make(at, Kind::List(Vec::new()));
            let condition = p.make(at, truth(false));
            let step = p.make(at, Kind::Ident(var.clone()));
            let bound = p.make(at, Kind::Fold(Box::new(Fold { range, var: UNUSED.into(), var2: None, accu: var, init: value, condition, step, result: body })));
            let yes = if name == "optMap" { p.call(at, "optional.of", vec![bound]) } else { bound };
            let no = p.call(at, "optional.none", Vec::new());
            Ok(p.call(at, "_?_:_", vec![has, yes, no]))
        }
        ("sortBy", 2) => sort_by(p, at, target, args),
        _ => Ok(p.make(at, Kind::Call { target: Some(Box::new(target)), function: name, args })),
    }
}

fn quantifier(p: &mut Parser, at: u32, range: Expr, name: &str, mut args: Vec<Expr>) -> Made {
    let predicate = args.remove(args.len() - 1);
    let what = if args.len() == 1 { "argument must be a simple name" } else { "argument must be a simple name" };
    let var = variable(&args[0], what)?;
    let var2 = match args.get(1) {
        Some(a) => Some(variable(a, what)?),
        None => None,
    };
    if var2.as_ref() == Some(&var) {
        return Err(Issue::new(args[1].at, format!("duplicate variable name: {var}")));
    }
    let (init, condition, step, result) = match name {
        "all" => {
            let a = accu(p, at);
            let c = p.call(at, "@not_strictly_false", vec![a]);
            let a = accu(p, at);
            let s = p.call(at, "_&&_", vec![a, predicate]);
            (truth(true), c, s, accu(p, at))
        }
        "exists" => {
            let a = accu(p, at);
            let n = p.call(at, "!_", vec![a]);
            let c = p.call(at, "@not_strictly_false", vec![n]);
            let a = accu(p, at);
            let s = p.call(at, "_||_", vec![a, predicate]);
            (truth(false), c, s, accu(p, at))
        }
        _ => {
            let c = p.make(at, truth(true));
            let a = accu(p, at);
            let one = p.make(at, Kind::Literal(Literal::Int(1)));
            let plus = p.call(at, "_+_", vec![a, one]);
            let a = accu(p, at);
            let s = p.call(at, "_?_:_", vec![predicate, plus, a]);
            let a = accu(p, at);
            let one = p.make(at, Kind::Literal(Literal::Int(1)));
            (Kind::Literal(Literal::Int(0)), c, s, p.call(at, "_==_", vec![a, one]))
        }
    };
    Ok(fold(p, at, Loop { range, var, var2, init }, condition, step, result))
}

fn transform(p: &mut Parser, at: u32, range: Expr, name: &str, mut args: Vec<Expr>) -> Made {
    let body = args.remove(args.len() - 1);
    let filter = (args.len() == 3).then(|| args.remove(2));
    let var = variable(&args[0], "argument must be a simple name")?;
    let var2 = variable(&args[1], "argument must be a simple name")?;
    if var == var2 {
        return Err(Issue::new(args[1].at, format!("duplicate variable name: {var}")));
    }
    let a = accu(p, at);
    let (init, mut step) = match name {
        "transformList" => {
            let one = p.make(at, Kind::List(vec![(body, false)]));
            (Kind::List(Vec::new()), p.call(at, "_+_", vec![a, one]))
        }
        "transformMap" => {
            let key = p.make(at, Kind::Ident(var.clone()));
            (Kind::Map(Vec::new()), p.call(at, "cel.@mapInsert", vec![a, key, body]))
        }
        _ => (Kind::Map(Vec::new()), p.call(at, "cel.@mapInsert", vec![a, body])),
    };
    if let Some(f) = filter {
        let same = accu(p, at);
        step = p.call(at, "_?_:_", vec![f, step, same]);
    }
    let condition = p.make(at, truth(true));
    let result = accu(p, at);
    Ok(fold(p, at, Loop { range, var, var2: Some(var2), init }, condition, step, result))
}

/// `list.sortBy(e, key)`: the list, sorted by a list of keys.
fn sort_by(p: &mut Parser, at: u32, target: Expr, mut args: Vec<Expr>) -> Made {
    let key = args.remove(1);
    let var = variable(&args[0], "sortBy() variable name must be a simple identifier")?;
    let bound = "@__sortBy_input__";
    let range = p.make(at, Kind::Ident(bound.into()));
    let a = accu(p, at);
    let one = p.make(at, Kind::List(vec![(key, false)]));
    let step = p.call(at, "_+_", vec![a, one]);
    let condition = p.make(at, truth(true));
    let result = accu(p, at);
    let keys = fold(p, at, Loop { range, var, var2: None, init: Kind::List(Vec::new()) }, condition, step, result);
    let input = p.make(at, Kind::Ident(bound.into()));
    let sorted = p.make(at, Kind::Call { target: Some(Box::new(input)), function: "@sortByAssociatedKeys".into(), args: vec![keys] });
    let range = p.make(at, Kind::List(Vec::new()));
    let condition = p.make(at, truth(false));
    let step = p.make(at, Kind::Ident(bound.into()));
    Ok(p.make(at, Kind::Fold(Box::new(Fold { range, var: UNUSED.into(), var2: None, accu: bound.into(), init: target, condition, step, result: sorted }))))
}
