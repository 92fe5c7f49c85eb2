use super::compile;
use crate::DeviceRule;

fn rule(
    allow: bool,
    kind: &str,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> DeviceRule {
    DeviceRule {
        allow,
        kind: kind.into(),
        major,
        minor,
        access: access.into(),
    }
}

/// A small eBPF machine for the instructions that are used here.
fn run(rules: &[DeviceRule], kind: u32, access: u32, major: u32, minor: u32) -> bool {
    let program = compile(rules);
    let context = [kind | access << 16, major, minor];
    let mut r = [0u32; 10];
    let mut pc = 0usize;
    loop {
        let i = program[pc];
        let (dst, src) = ((i.regs & 15) as usize, (i.regs >> 4) as usize);
        pc += 1;
        match i.code {
            0x61 => r[dst] = context[i.off as usize / 4],
            0x54 => r[dst] &= i.imm as u32,
            0x74 => r[dst] >>= i.imm,
            0xbc => r[dst] = r[src],
            0xb7 => r[dst] = i.imm as u32,
            0x55 if r[dst] != i.imm as u32 => pc += i.off as usize,
            0x15 if r[dst] == i.imm as u32 => pc += i.off as usize,
            0x55 | 0x15 => {}
            0x95 => return r[0] == 1,
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}

const BLOCK: u32 = 1;
const CHAR: u32 = 2;
const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;

fn usual() -> Vec<DeviceRule> {
    vec![
        rule(false, "a", None, None, "rwm"),
        rule(true, "c", None, None, "m"),
        rule(true, "c", Some(1), Some(3), "rwm"),
        rule(true, "b", Some(8), None, "r"),
        rule(false, "b", Some(8), Some(2), "r"),
    ]
}

#[test]
fn the_last_rule_that_matches_wins() {
    let go = |kind, access, major, minor| run(&usual(), kind, access, major, minor);
    assert!(go(CHAR, READ | WRITE, 1, 3));
    assert!(!go(CHAR, READ, 1, 4));
    assert!(go(CHAR, MKNOD, 9, 9));
    assert!(!go(BLOCK, MKNOD, 9, 9));
    assert!(go(BLOCK, READ, 8, 1));
    assert!(!go(BLOCK, READ | WRITE, 8, 1));
    assert!(!go(BLOCK, READ, 8, 2));
}

#[test]
fn an_allow_for_all_ends_the_program() {
    assert!(run(&[rule(true, "a", None, None, "rwm")], BLOCK, 7, 1, 1));
}

#[test]
fn the_kernel_accepts_the_program() {
    if knarr_sys::process::geteuid() != 0 {
        eprintln!("skipped: loading a program needs root");
        return;
    }
    for rules in [
        usual(),
        vec![rule(true, "a", None, None, "rwm")],
        Vec::new(),
    ] {
        knarr_sys::bpf::load_device_program(&compile(&rules)).unwrap();
    }
}
