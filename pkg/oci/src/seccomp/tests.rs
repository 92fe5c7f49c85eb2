use super::*;
use crate::config::SeccompRule;

/// A small BPF machine: the program's answer for one call.
fn run(program: &[Insn], arch: u32, nr: u32, args: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(nr.to_le_bytes());
    data.extend(arch.to_le_bytes());
    data.extend(0u64.to_le_bytes());
    args.iter().for_each(|a| data.extend(a.to_le_bytes()));
    let (mut pc, mut a) = (0usize, 0u32);
    loop {
        let i = program[pc];
        pc += 1;
        let jump = |yes: bool| usize::from(if yes { i.jt } else { i.jf });
        match i.code {
            LD_W_ABS => {
                let at = i.k as usize;
                a = u32::from_le_bytes(data[at..at + 4].try_into().unwrap());
            }
            AND => a &= i.k,
            JA => pc += i.k as usize,
            JEQ => pc += jump(a == i.k),
            JGT => pc += jump(a > i.k),
            JGE => pc += jump(a >= i.k),
            RET => return i.k,
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}

fn rule(names: &[&str], action: &str, args: &[(u32, u64, u64, &str)]) -> SeccompRule {
    SeccompRule {
        names: names.iter().map(|n| n.to_string()).collect(),
        action: action.into(),
        errno: None,
        args: args
            .iter()
            .map(|(index, value, value_two, op)| SeccompArg {
                index: *index,
                value: *value,
                value_two: *value_two,
                op: format!("SCMP_CMP_{op}"),
            })
            .collect(),
    }
}

fn filter(default: &str, rules: Vec<SeccompRule>) -> Filter {
    compile(&Seccomp {
        default_action: format!("SCMP_ACT_{default}"),
        architectures: vec!["SCMP_ARCH_X86_64".into(), "SCMP_ARCH_X86".into()],
        syscalls: rules,
        ..Seccomp::default()
    })
    .unwrap()
    .unwrap()
}

const X64: u32 = 0xc000_003e;
const X86: u32 = 0x4000_0003;
const NO: [u64; 6] = [0; 6];

#[test]
fn the_table_is_sorted() {
    assert!(table::TABLE.windows(2).all(|w| w[0].0 < w[1].0));
}

#[test]
fn named_calls_get_their_action_on_each_architecture() {
    let f = filter(
        "ERRNO",
        vec![rule(&["read", "write", "getpid"], "SCMP_ACT_ALLOW", &[])],
    );
    let go = |arch, nr| run(&f.program, arch, nr, NO);
    assert_eq!(go(X64, 0), ALLOW);
    assert_eq!(go(X64, 1), ALLOW);
    assert_eq!(go(X64, 2), ERRNO | EPERM);
    assert_eq!(go(X64, 39), ALLOW);
    assert_eq!(go(X64, 40), ERRNO | ENOSYS);
    assert_eq!(go(X86, 3), ALLOW);
    assert_eq!(go(X86, 20), ALLOW);
    assert_eq!(go(X86, 5), ERRNO | EPERM);
    assert_eq!(go(X64, 0x4000_0000), KILL_THREAD);
    assert_eq!(go(0xc000_00b7, 0), KILL_THREAD);
}

#[test]
fn a_large_profile_answers_for_every_number() {
    let even: Vec<&str> = table::TABLE
        .iter()
        .filter(|(_, n, ..)| *n >= 0 && n % 2 == 0)
        .map(|(n, ..)| *n)
        .collect();
    let f = filter("ERRNO", vec![rule(&even, "SCMP_ACT_ALLOW", &[])]);
    for (_, n, ..) in table::TABLE.iter().filter(|t| t.1 >= 0) {
        let want = match n % 2 {
            0 => ALLOW,
            _ if *n > 468 => ERRNO | ENOSYS,
            _ => ERRNO | EPERM,
        };
        assert_eq!(run(&f.program, X64, *n as u32, NO), want, "{n}");
    }
}

#[test]
fn arguments_are_compared_as_64_bits() {
    let big = 0x1_0000_0005u64;
    for (op, value, two, yes, no) in [
        ("EQ", big, 0, vec![big], vec![5, big + 1, 0x2_0000_0005]),
        ("NE", big, 0, vec![5, big + 1], vec![big]),
        (
            "GT",
            big,
            0,
            vec![big + 1, 0x2_0000_0000],
            vec![big, 6, 0xffff_ffff],
        ),
        ("GE", big, 0, vec![big, 0x2_0000_0000], vec![big - 1, 6]),
        ("LT", big, 0, vec![big - 1, 6], vec![big, 0x2_0000_0000]),
        ("LE", big, 0, vec![big, 6], vec![big + 1, 0x2_0000_0000]),
        (
            "MASKED_EQ",
            0xf0,
            0x20,
            vec![0x20, 0x1_0000_002f],
            vec![0x30, 0],
        ),
    ] {
        let args = [(2, value, two, op)];
        let f = filter("ERRNO", vec![rule(&["clone"], "SCMP_ACT_ALLOW", &args)]);
        let go = |v| run(&f.program, X64, 56, [0, 0, v, 0, 0, 0]);
        yes.iter()
            .for_each(|v| assert_eq!(go(*v), ALLOW, "{op} {v:#x}"));
        no.iter()
            .for_each(|v| assert_eq!(go(*v), ERRNO | EPERM, "{op} {v:#x}"));
    }
}

#[test]
fn conditions_hold_together_and_rules_are_alternatives() {
    let f = filter(
        "ERRNO",
        vec![
            rule(
                &["personality"],
                "SCMP_ACT_ALLOW",
                &[(0, 1, 0, "EQ"), (1, 2, 0, "EQ")],
            ),
            rule(
                &["personality"],
                "SCMP_ACT_LOG",
                &[(0, 7, 0, "EQ"), (0, 8, 0, "EQ")],
            ),
        ],
    );
    let go = |a, b| run(&f.program, X64, 135, [a, b, 0, 0, 0, 0]);
    assert_eq!(go(1, 2), ALLOW);
    assert_eq!(go(1, 3), ERRNO | EPERM);
    assert_eq!(go(7, 0), LOG);
    assert_eq!(go(8, 0), LOG);
    assert_eq!(go(9, 0), ERRNO | EPERM);
}

#[test]
fn a_filter_that_allows_all_is_none() {
    let s = Seccomp {
        default_action: "SCMP_ACT_ALLOW".into(),
        ..Seccomp::default()
    };
    assert_eq!(compile(&s).unwrap(), None);
}
