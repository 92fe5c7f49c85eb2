//! System call filters: from the specification's rules to a BPF program.
//!
//! One section for each architecture; in it the numbers are found by binary search over ranges
//! of equal outcome, so that a profile of hundreds of calls costs a handful of comparisons.

mod table;

use std::collections::BTreeMap;

use knarr_sys::seccomp::{Insn, flag};

use crate::config::{Seccomp, SeccompArg};
use crate::error::Error;

/// A compiled filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The program.
    pub program: Vec<Insn>,
    /// Flags for loading it.
    pub flags: u64,
    /// The socket of the notification agent, and what it is told.
    pub listener: Option<(String, String)>,
}

const LD_W_ABS: u16 = 0x20;
const JA: u16 = 0x05;
const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const AND: u16 = 0x54;
const RET: u16 = 0x06;

const KILL_THREAD: u32 = 0;
const ALLOW: u32 = 0x7fff_0000;
const LOG: u32 = 0x7ffc_0000;
const NOTIFY: u32 = 0x7fc0_0000;
const TRACE: u32 = 0x7ff0_0000;
const ERRNO: u32 = 0x0005_0000;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// The names of actions, as `features` lists them.
pub const ACTIONS: &[&str] = &[
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];

/// The names of comparisons.
pub const OPERATORS: &[&str] = &[
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];

/// The names of architectures that are compiled for.
pub const ARCHES: &[&str] = &[
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];

/// The specification's other architectures.
const FOREIGN: &[&str] = &[
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Arch {
    X86_64,
    X86,
    X32,
    Aarch64,
}

impl Arch {
    fn native() -> Self {
        if cfg!(target_arch = "aarch64") {
            Arch::Aarch64
        } else {
            Arch::X86_64
        }
    }

    /// The value in `seccomp_data.arch`.
    fn audit(self) -> u32 {
        match self {
            Arch::X86_64 | Arch::X32 => 0xc000_003e,
            Arch::X86 => 0x4000_0003,
            Arch::Aarch64 => 0xc000_00b7,
        }
    }

    fn number(self, name: &str) -> Option<u32> {
        let at = table::TABLE
            .binary_search_by(|(n, ..)| (*n).cmp(name))
            .ok()?;
        let (_, x64, x86, a64) = table::TABLE.get(at)?;
        let n = match self {
            Arch::X86_64 | Arch::X32 => *x64,
            Arch::X86 => *x86,
            Arch::Aarch64 => *a64,
        };
        u32::try_from(n).ok()
    }
}

/// What happens to one call: conditional outcomes in order, then the last.
#[derive(Debug, Clone, PartialEq)]
struct Outcome {
    conditional: Vec<(Vec<SeccompArg>, u32)>,
    last: u32,
}

/// Compiles a filter; `None` when it would allow everything.
///
/// # Errors
/// [`Error::Config`].
pub fn compile(s: &Seccomp) -> Result<Option<Filter>, Error> {
    let default = action(
        &s.default_action,
        s.default_errno,
        "linux.seccomp.defaultAction",
    )?;
    if default == NOTIFY {
        return Err(Error::config(
            "linux.seccomp.defaultAction",
            "SCMP_ACT_NOTIFY cannot be the default",
        ));
    }
    let (arches, bit32) = arches(s)?;
    let mut flags = 0;
    for f in &s.flags {
        flags |= match f.as_str() {
            // All threads: there is one.
            "SECCOMP_FILTER_FLAG_TSYNC" => 0,
            "SECCOMP_FILTER_FLAG_LOG" => flag::LOG,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => flag::SPEC_ALLOW,
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => flag::WAIT_KILLABLE_RECV,
            other => {
                return Err(Error::config(
                    "linux.seccomp.flags",
                    format!("unknown {other:?}"),
                ));
            }
        };
    }
    let mut notifies = false;
    let mut rules = Vec::new();
    for (i, rule) in s.syscalls.iter().enumerate() {
        let field = format!("linux.seccomp.syscalls[{i}]");
        if rule.names.is_empty() {
            return Err(Error::config(format!("{field}.names"), "must not be empty"));
        }
        let act = action(&rule.action, rule.errno, &format!("{field}.action"))?;
        notifies |= act == NOTIFY;
        if act == NOTIFY && rule.names.iter().any(|n| n == "write") {
            return Err(Error::config(
                field,
                "SCMP_ACT_NOTIFY cannot be used for write",
            ));
        }
        for a in &rule.args {
            check_arg(a, &field)?;
        }
        if act != default {
            rules.push((rule, act));
        }
    }
    if rules.is_empty() && default == ALLOW {
        return Ok(None);
    }
    if notifies {
        flags |= flag::NEW_LISTENER;
        if s.listener_path.is_empty() {
            return Err(Error::config(
                "linux.seccomp.listenerPath",
                "must be set with SCMP_ACT_NOTIFY",
            ));
        }
    } else {
        flags &= !flag::WAIT_KILLABLE_RECV;
    }
    let sections = arches.iter().map(|arch| {
        let outcomes = outcomes(*arch, &rules, default);
        let largest = outcomes.keys().next_back().copied().unwrap_or(0);
        // A call newer than the profile knows: programs fall back after ENOSYS, but not after
        // EPERM.
        let denies = !matches!(default, ALLOW | LOG) && default & 0xffff_0000 != TRACE;
        let beyond = if denies && s.default_errno.is_none() {
            ERRNO | ENOSYS
        } else {
            default
        };
        (
            *arch,
            section(*arch, &outcomes, default, largest, beyond, bit32),
        )
    });
    let program = assemble(sections.collect());
    if program.len() > 4096 {
        return Err(Error::config(
            "linux.seccomp",
            format!(
                "{} instructions are more than the kernel takes",
                program.len()
            ),
        ));
    }
    Ok(Some(Filter {
        program,
        flags,
        listener: (!s.listener_path.is_empty())
            .then(|| (s.listener_path.clone(), s.listener_metadata.clone())),
    }))
}

/// The architectures, the native one always among them; and whether x32 is.
fn arches(s: &Seccomp) -> Result<(Vec<Arch>, bool), Error> {
    let mut out = vec![Arch::native()];
    let mut x32 = false;
    for name in &s.architectures {
        let arch = match name.as_str() {
            "SCMP_ARCH_NATIVE" => Arch::native(),
            "SCMP_ARCH_X86_64" => Arch::X86_64,
            "SCMP_ARCH_X86" => Arch::X86,
            "SCMP_ARCH_X32" => Arch::X32,
            "SCMP_ARCH_AARCH64" => Arch::Aarch64,
            // Known to the specification, but no program of theirs can run here.
            other if FOREIGN.contains(&other) => continue,
            other => {
                return Err(Error::config(
                    "linux.seccomp.architectures",
                    format!("unknown {other:?}"),
                ));
            }
        };
        x32 |= arch == Arch::X32;
        if arch != Arch::X32 && !out.contains(&arch) {
            out.push(arch);
        }
    }
    Ok((out, x32))
}

fn action(name: &str, errno: Option<u32>, field: &str) -> Result<u32, Error> {
    if errno.is_some_and(|e| e > 4095) {
        return Err(Error::config(field, "errnoRet is above 4095"));
    }
    let data = errno.unwrap_or(EPERM);
    Ok(match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => 0x8000_0000,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_ERRNO" => ERRNO | data,
        "SCMP_ACT_TRACE" => TRACE | data,
        "SCMP_ACT_LOG" => LOG,
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_NOTIFY" => NOTIFY,
        other => return Err(Error::config(field, format!("unknown {other:?}"))),
    })
}

fn check_arg(a: &SeccompArg, field: &str) -> Result<(), Error> {
    if a.index > 5 {
        return Err(Error::config(
            format!("{field}.args"),
            format!("index {} is above 5", a.index),
        ));
    }
    if !OPERATORS.contains(&a.op.as_str()) {
        return Err(Error::config(
            format!("{field}.args"),
            format!("unknown operator {:?}", a.op),
        ));
    }
    Ok(())
}

/// The outcome of each call that a rule names, by its number on the architecture.
fn outcomes(
    arch: Arch,
    rules: &[(&crate::config::SeccompRule, u32)],
    default: u32,
) -> BTreeMap<u32, Outcome> {
    let mut out: BTreeMap<u32, Outcome> = BTreeMap::new();
    for (rule, act) in rules {
        for number in rule.names.iter().filter_map(|n| arch.number(n)) {
            let outcome = out.entry(number).or_insert_with(|| Outcome {
                conditional: Vec::new(),
                last: default,
            });
            if rule.args.is_empty() {
                outcome.last = *act;
                continue;
            }
            // Several conditions hold together; but an argument that is named twice stands for
            // alternatives.
            let twice = rule
                .args
                .iter()
                .enumerate()
                .any(|(i, a)| rule.args.iter().skip(i + 1).any(|b| b.index == a.index));
            if twice {
                for a in &rule.args {
                    outcome.conditional.push((vec![a.clone()], *act));
                }
            } else {
                outcome.conditional.push((rule.args.clone(), *act));
            }
        }
    }
    out
}

fn insn(code: u16, jt: u8, jf: u8, k: u32) -> Insn {
    Insn { code, jt, jf, k }
}

fn ret(k: u32) -> Insn {
    insn(RET, 0, 0, k)
}

fn section(
    arch: Arch,
    outcomes: &BTreeMap<u32, Outcome>,
    default: u32,
    largest: u32,
    beyond: u32,
    x32: bool,
) -> Vec<Insn> {
    const X32_BIT: u32 = 0x4000_0000;
    let plain = |last: u32| Outcome {
        conditional: Vec::new(),
        last,
    };
    // Ranges of equal outcome, each by its first number.
    let mut ranges: Vec<(u32, Outcome)> = vec![(0, plain(default))];
    let mut push = |first: u32, outcome: Outcome| match ranges.last_mut() {
        Some((start, last)) if *start == first => *last = outcome,
        Some((_, last)) if *last == outcome => {}
        _ => ranges.push((first, outcome)),
    };
    let mut fill = |base: u32| {
        push(base, plain(default));
        for (number, outcome) in outcomes {
            push(base + number, outcome.clone());
            push(base + number + 1, plain(default));
        }
        push(base + largest + 1, plain(beyond));
    };
    fill(0);
    if arch == Arch::X86_64 {
        if x32 {
            fill(X32_BIT);
        } else {
            push(X32_BIT, plain(KILL_THREAD));
        }
    }
    let mut out = vec![insn(LD_W_ABS, 0, 0, 0)];
    out.extend(search(&ranges));
    out
}

/// A binary search over ranges; every path ends in a return.
fn search(ranges: &[(u32, Outcome)]) -> Vec<Insn> {
    match ranges {
        [] => vec![ret(KILL_THREAD)],
        [(_, outcome)] => leaf(outcome),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let first = high.first().map_or(0, |(n, _)| *n);
            let (low, high) = (search(low), search(high));
            let mut out = Vec::with_capacity(low.len() + high.len() + 2);
            match u8::try_from(low.len()) {
                Ok(skip) => out.push(insn(JGE, skip, 0, first)),
                Err(_) => {
                    out.push(insn(JGE, 0, 1, first));
                    out.push(insn(JA, 0, 0, low.len() as u32));
                }
            }
            out.extend(low);
            out.extend(high);
            out
        }
    }
}

fn leaf(outcome: &Outcome) -> Vec<Insn> {
    let mut out = Vec::new();
    for (args, act) in &outcome.conditional {
        out.extend(conditions(args, *act));
    }
    out.push(ret(outcome.last));
    out
}

/// Where a comparison goes.
#[derive(Clone, Copy)]
enum To {
    Next,
    Pass,
    Fail,
}

/// All conditions hold: return `act`; else go on behind this code.
fn conditions(args: &[SeccompArg], act: u32) -> Vec<Insn> {
    // Each comparison with its two targets, and where its condition ends.
    let mut code: Vec<(u16, u32, To, To, usize)> = Vec::new();
    for a in args {
        let start = code.len();
        let (low, high) = (16 + 8 * a.index, 20 + 8 * a.index);
        let (vl, vh) = (a.value as u32, (a.value >> 32) as u32);
        let mut add = |op, k, t, f| code.push((op, k, t, f, 0));
        let ordered = |add: &mut dyn FnMut(u16, u32, To, To), op, t, f| {
            add(LD_W_ABS, high, To::Next, To::Next);
            add(JGT, vh, t, To::Next);
            add(JEQ, vh, To::Next, f);
            add(LD_W_ABS, low, To::Next, To::Next);
            add(op, vl, t, f);
        };
        match a.op.as_str() {
            "SCMP_CMP_EQ" => {
                add(LD_W_ABS, high, To::Next, To::Next);
                add(JEQ, vh, To::Next, To::Fail);
                add(LD_W_ABS, low, To::Next, To::Next);
                add(JEQ, vl, To::Pass, To::Fail);
            }
            "SCMP_CMP_NE" => {
                add(LD_W_ABS, high, To::Next, To::Next);
                add(JEQ, vh, To::Next, To::Pass);
                add(LD_W_ABS, low, To::Next, To::Next);
                add(JEQ, vl, To::Fail, To::Pass);
            }
            "SCMP_CMP_MASKED_EQ" => {
                let (wl, wh) = (a.value_two as u32, (a.value_two >> 32) as u32);
                add(LD_W_ABS, high, To::Next, To::Next);
                add(AND, vh, To::Next, To::Next);
                add(JEQ, wh, To::Next, To::Fail);
                add(LD_W_ABS, low, To::Next, To::Next);
                add(AND, vl, To::Next, To::Next);
                add(JEQ, wl, To::Pass, To::Fail);
            }
            "SCMP_CMP_GE" => ordered(&mut add, JGE, To::Pass, To::Fail),
            "SCMP_CMP_GT" => ordered(&mut add, JGT, To::Pass, To::Fail),
            "SCMP_CMP_LT" => ordered(&mut add, JGE, To::Fail, To::Pass),
            _ => ordered(&mut add, JGT, To::Fail, To::Pass),
        }
        let end = code.len();
        code[start..].iter_mut().for_each(|c| c.4 = end);
    }
    let total = code.len();
    let mut out: Vec<Insn> = code
        .iter()
        .enumerate()
        .map(|(i, (op, k, t, f, end))| {
            let to = |t: &To| match t {
                To::Next => 0,
                To::Pass => (end - i - 1) as u8,
                // Behind the return.
                To::Fail => (total - i) as u8,
            };
            match *op {
                JEQ | JGT | JGE => insn(*op, to(t), to(f), *k),
                _ => insn(*op, 0, 0, *k),
            }
        })
        .collect();
    out.push(ret(act));
    out
}

/// Dispatch by architecture; a foreign one is killed.
fn assemble(sections: Vec<(Arch, Vec<Insn>)>) -> Vec<Insn> {
    let mut out = vec![insn(LD_W_ABS, 0, 0, 4)];
    for (arch, code) in sections {
        out.push(insn(JEQ, 1, 0, arch.audit()));
        out.push(insn(JA, 0, 0, code.len() as u32));
        out.extend(code);
    }
    out.push(ret(KILL_THREAD));
    out
}

#[cfg(test)]
mod tests;
