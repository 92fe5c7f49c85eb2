//! Device rules: files of version 1, an eBPF program on version 2.

use std::os::fd::AsFd;

use knarr_sys::bpf::{self, EbpfInsn};
use knarr_sys::fs as sysfs;

use crate::cgroup::Dir;
use crate::hierarchy::Mode;
use crate::{Cgroup, DeviceRule, Error};

pub(crate) fn apply(cgroup: &Cgroup, rules: &[DeviceRule]) -> Result<(), Error> {
    if rules.is_empty() {
        return Ok(());
    }
    rules.iter().try_for_each(check)?;
    match (cgroup.v1("devices"), cgroup.v2()) {
        (Some(dir), _) => {
            let (allow, deny) = (dir.open("devices.allow")?, dir.open("devices.deny")?);
            rules.iter().try_for_each(|r| {
                let file = if r.allow { &allow } else { &deny };
                file.write(&line(r))
            })
        }
        (None, Some(dir)) if cgroup.mode() == Mode::V2 => match attach(dir, rules) {
            // Who is not root of the machine may load no program, but may make no devices either.
            Err(_) if knarr_sys::process::is_rootless() => Ok(()),
            other => other,
        },
        _ => Ok(()),
    }
}

fn check(rule: &DeviceRule) -> Result<(), Error> {
    let bad = |cause: String| {
        Err(Error::Invalid {
            field: "devices".into(),
            cause,
        })
    };
    if !matches!(rule.kind.as_str(), "" | "a" | "b" | "c") {
        return bad(format!("type {:?} is not a, b or c", rule.kind));
    }
    if rule.access.chars().any(|c| !"rwm".contains(c)) {
        return bad(format!("access {:?} has letters outside rwm", rule.access));
    }
    Ok(())
}

fn any(n: Option<i64>) -> Option<i64> {
    n.filter(|n| *n >= 0)
}

fn line(rule: &DeviceRule) -> String {
    let number = |n| any(n).map_or_else(|| "*".to_string(), |n| n.to_string());
    let kind = if rule.kind.is_empty() {
        "a"
    } else {
        &rule.kind
    };
    let access = if rule.access.is_empty() {
        "rwm"
    } else {
        &rule.access
    };
    if kind == "a" && any(rule.major).is_none() && any(rule.minor).is_none() {
        return format!("a *:* {access}");
    }
    format!(
        "{kind} {}:{} {access}",
        number(rule.major),
        number(rule.minor)
    )
}

fn attach(dir: &Dir, rules: &[DeviceRule]) -> Result<(), Error> {
    let io = |action: &'static str| {
        move |e: knarr_sys::Errno| Error::Io {
            action,
            path: dir.path.clone(),
            source: e.into(),
        }
    };
    let fd = sysfs::open(&dir.path, sysfs::O_RDONLY | sysfs::O_DIRECTORY).map_err(io("open"))?;
    let old = bpf::device_programs(fd.as_fd()).unwrap_or_default();
    let program =
        bpf::load_device_program(&compile(rules)).map_err(io("load device program for"))?;
    bpf::attach_device_program(fd.as_fd(), program.as_fd())
        .map_err(io("attach device program to"))?;
    for former in old {
        bpf::detach_device_program(fd.as_fd(), former.as_fd())
            .map_err(io("detach device program from"))?;
    }
    Ok(())
}

/// A program that returns 1 to allow. The last rule that matches wins, so rules are tried from
/// the last to the first. An access mask must be covered wholly by an allow rule, and a deny
/// rule matches when it shares any bit.
pub(crate) fn compile(rules: &[DeviceRule]) -> Vec<EbpfInsn> {
    const R0: u8 = 0;
    const R1: u8 = 1;
    const TYPE: u8 = 2;
    const ACCESS: u8 = 3;
    const MAJOR: u8 = 4;
    const MINOR: u8 = 5;
    let insn = |code: u8, dst: u8, src: u8, off: i16, imm: i32| EbpfInsn {
        code,
        regs: dst | src << 4,
        off,
        imm,
    };
    let load = |dst: u8, off: i16| insn(0x61, dst, R1, off, 0);
    let mut out = vec![
        load(TYPE, 0),
        insn(0x54, TYPE, 0, 0, 0xffff),
        load(ACCESS, 0),
        insn(0x74, ACCESS, 0, 0, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in rules.iter().rev() {
        let mut tests = Vec::new();
        // Jump over the rest of this rule when not equal; offsets are filled in below.
        match rule.kind.as_str() {
            "b" => tests.push(insn(0x55, TYPE, 0, 0, 1)),
            "c" => tests.push(insn(0x55, TYPE, 0, 0, 2)),
            _ => {}
        }
        let mask = rule.access.chars().fold(0, |m, c| {
            m | match c {
                'm' => 1,
                'r' => 2,
                'w' => 4,
                _ => 0,
            }
        });
        if mask != 0 && mask != 7 {
            // r1 is free once the context has been read.
            tests.push(insn(0xbc, R1, ACCESS, 0, 0));
            if rule.allow {
                tests.push(insn(0x54, R1, 0, 0, !mask & 7));
                tests.push(insn(0x55, R1, 0, 0, 0));
            } else {
                tests.push(insn(0x54, R1, 0, 0, mask));
                tests.push(insn(0x15, R1, 0, 0, 0));
            }
        }
        if let Some(major) = any(rule.major) {
            tests.push(insn(0x55, MAJOR, 0, 0, major as i32));
        }
        if let Some(minor) = any(rule.minor) {
            tests.push(insn(0x55, MINOR, 0, 0, minor as i32));
        }
        let unconditional = tests.is_empty();
        let length = tests.len();
        for (i, test) in tests.iter_mut().enumerate() {
            if matches!(test.code, 0x55 | 0x15) {
                // Past the remaining tests, the move and the exit.
                test.off = (length - i - 1 + 2) as i16;
            }
        }
        out.append(&mut tests);
        out.push(insn(0xb7, R0, 0, 0, i32::from(rule.allow)));
        out.push(insn(0x95, 0, 0, 0, 0));
        if unconditional {
            // What stands before it can never be reached; the verifier refuses dead code.
            return out;
        }
    }
    out.push(insn(0xb7, R0, 0, 0, 0));
    out.push(insn(0x95, 0, 0, 0, 0));
    out
}

#[cfg(test)]
mod tests;
