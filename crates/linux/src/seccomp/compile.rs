//! A profile to classic BPF. First the conditional rules, one block per system call; then the unconditional ones as
//! ranges of numbers with the same action, since most calls are allowed and lie side by side.

use std::collections::BTreeMap;

use super::{Action, Comparison, Condition, Profile, Rule};

/// A classic BPF instruction (`struct sock_filter`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    pub jump_true: u8,
    pub jump_false: u8,
    pub value: u32,
}

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// From here on x86-64 numbers are those of the x32 ABI.
const X32_BIT: u32 = 0x4000_0000;

const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCHITECTURE: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;

fn step(code: u16, value: u32) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: 0, value }
}

fn jump(code: u16, value: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code, jump_true, jump_false, value }
}

fn returns(action: Action) -> Instruction {
    let value = match action {
        Action::Allow => 0x7fff_0000,
        Action::Errno(errno) => 0x0005_0000 | errno as u32,
        Action::KillThread => 0,
        Action::KillProcess => 0x8000_0000,
        Action::Trap => 0x0003_0000,
        Action::Log => 0x7ffc_0000,
        Action::Trace(data) => 0x7ff0_0000 | data as u32,
    };
    step(RETURN, value)
}

/// Compiles a profile. Calls of another ABI than the machine's own, and calls newer than any the profile can name, fail
/// with `ENOSYS`, so that programs fall back to what they know.
pub fn compile(profile: &Profile) -> Vec<Instruction> {
    let mut by_number: BTreeMap<u32, Vec<&Rule>> = BTreeMap::new();
    for rule in &profile.rules {
        by_number.entry(rule.syscall).or_default().push(rule);
    }
    let unsupported = Action::Errno(libc::ENOSYS as u16);
    let mut out = vec![
        step(LOAD, OFFSET_ARCHITECTURE),
        jump(JUMP_EQUAL, ARCHITECTURE, 1, 0),
        returns(unsupported),
        step(LOAD, OFFSET_NUMBER),
        jump(JUMP_GREATER_OR_EQUAL, X32_BIT, 0, 1),
        returns(unsupported),
    ];
    if profile.default != Action::Allow {
        out.push(jump(JUMP_GREATER, super::syscalls::HIGHEST, 0, 1));
        out.push(returns(unsupported));
    }
    let mut ranges: Vec<(u32, u32, Action)> = Vec::new();
    for (number, rules) in &by_number {
        if let Some(rule) = rules.iter().find(|r| r.conditions.is_empty())
            && rules[0].conditions.is_empty()
        {
            match ranges.last_mut() {
                Some((_, high, action)) if *high + 1 == *number && *action == rule.action => *high = *number,
                _ => ranges.push((*number, *number, rule.action)),
            }
        } else {
            conditional(&mut out, *number, rules, profile.default);
        }
    }
    for (low, high, action) in ranges {
        // Ascending: a number below this range is in none.
        out.push(jump(JUMP_GREATER_OR_EQUAL, low, 0, 2));
        out.push(jump(JUMP_GREATER, high, 2, 0));
        out.push(returns(action));
        out.push(returns(profile.default));
    }
    out.push(returns(profile.default));
    out
}

/// The block for one call: skipped for other numbers, otherwise it always decides.
fn conditional(out: &mut Vec<Instruction>, number: u32, rules: &[&Rule], default: Action) {
    let mut body = Vec::new();
    for rule in rules {
        let mut tests: Vec<Test> = rule.conditions.iter().flat_map(condition).collect();
        tests.push(Test::plain(returns(rule.action)));
        let count = tests.len();
        for (i, test) in tests.iter_mut().enumerate() {
            let to_end = (count - i - 1) as u8;
            if test.true_fails {
                test.instruction.jump_true = to_end;
            }
            if test.false_fails {
                test.instruction.jump_false = to_end;
            }
        }
        body.extend(tests.into_iter().map(|t| t.instruction));
    }
    body.push(returns(default));
    // The body may be longer than a conditional jump reaches, so an unconditional one skips it.
    out.push(jump(JUMP_EQUAL, number, 1, 0));
    out.push(step(0x05, body.len() as u32));
    out.extend(body);
}

/// An instruction of a condition; a marked jump leads to the end of its rule.
struct Test {
    instruction: Instruction,
    true_fails: bool,
    false_fails: bool,
}

impl Test {
    fn plain(instruction: Instruction) -> Test {
        Test { instruction, true_fails: false, false_fails: false }
    }
}

/// Arguments are 64 bits wide and loaded in halves, of which the low one comes first in memory.
fn condition(condition: &Condition) -> Vec<Test> {
    let low_at = OFFSET_ARGUMENTS + 8 * condition.argument as u32;
    let load = |offset| Test::plain(step(LOAD, offset));
    let (high, low) = ((condition.value >> 32) as u32, condition.value as u32);
    let must = |code, value| Test { instruction: step(code, value), true_fails: false, false_fails: true };
    let must_not = |code, value| Test { instruction: step(code, value), true_fails: true, false_fails: false };
    // Decides on the high half: `greater` holds at once, less fails, equal leaves it to the low half.
    let ordered = |code: u16, negate: bool| {
        let last = if negate { must_not(code, low) } else { must(code, low) };
        let (first, second) = if negate {
            // Holds at once when the high half is less; fails when greater.
            (must_not(JUMP_GREATER, high), Test::plain(jump(JUMP_EQUAL, high, 0, 2)))
        } else {
            (Test::plain(jump(JUMP_GREATER, high, 3, 0)), must(JUMP_EQUAL, high))
        };
        vec![load(low_at + 4), first, second, load(low_at), last]
    };
    match condition.comparison {
        Comparison::Equal => vec![load(low_at + 4), must(JUMP_EQUAL, high), load(low_at), must(JUMP_EQUAL, low)],
        Comparison::NotEqual => {
            vec![load(low_at + 4), Test::plain(jump(JUMP_EQUAL, high, 0, 2)), load(low_at), must_not(JUMP_EQUAL, low)]
        }
        Comparison::MaskedEqual(mask) => vec![
            load(low_at + 4),
            Test::plain(step(AND, (mask >> 32) as u32)),
            must(JUMP_EQUAL, high),
            load(low_at),
            Test::plain(step(AND, mask as u32)),
            must(JUMP_EQUAL, low),
        ],
        Comparison::Greater => ordered(JUMP_GREATER, false),
        Comparison::GreaterOrEqual => ordered(JUMP_GREATER_OR_EQUAL, false),
        Comparison::Less => ordered(JUMP_GREATER_OR_EQUAL, true),
        Comparison::LessOrEqual => ordered(JUMP_GREATER, true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would.
    fn run(program: &[Instruction], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let word = |offset: u32| match offset {
            0 => number,
            4 => architecture,
            _ => {
                let argument = arguments[((offset - 16) / 8) as usize];
                if offset.is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 }
            }
        };
        let (mut a, mut at) = (0u32, 0usize);
        loop {
            let i = program[at];
            at += 1;
            let mut branch = |yes: bool| at += if yes { i.jump_true } else { i.jump_false } as usize;
            match i.code {
                LOAD => a = word(i.value),
                AND => a &= i.value,
                JUMP_EQUAL => branch(a == i.value),
                JUMP_GREATER => branch(a > i.value),
                JUMP_GREATER_OR_EQUAL => branch(a >= i.value),
                0x05 => at += i.value as usize,
                RETURN => return i.value,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    const ALLOWED: u32 = 0x7fff_0000;
    const DENIED: u32 = 0x0005_0001;

    #[test]
    fn comparisons_are_64_bits_wide() {
        let big = 5u64 << 32 | 7;
        let cases = [
            (Comparison::Equal, vec![big], vec![7, big + 1, big + (1 << 32)]),
            (Comparison::NotEqual, vec![7, big + 1, big + (1 << 32)], vec![big]),
            (Comparison::Greater, vec![big + 1, 6 << 32], vec![big, big - 1, 9]),
            (Comparison::GreaterOrEqual, vec![big, big + 1, 6 << 32], vec![big - 1, 9]),
            (Comparison::Less, vec![big - 1, 9, 4 << 32 | 99], vec![big, big + 1, 6 << 32]),
            (Comparison::LessOrEqual, vec![big, big - 1, 9, 4 << 32 | 99], vec![big + 1, 6 << 32]),
            (Comparison::MaskedEqual(0xffff_ffff_0000_00ff), vec![big, big | 0x100], vec![big | 0x10, 7]),
        ];
        for (comparison, hold, fail) in cases {
            let rule = Rule {
                syscall: 3,
                action: Action::Allow,
                conditions: vec![Condition { argument: 1, comparison, value: big }],
            };
            let program = compile(&Profile { default: Action::Errno(1), rules: vec![rule] });
            for (values, expect) in [(hold, ALLOWED), (fail, DENIED)] {
                for value in values {
                    assert_eq!(
                        run(&program, ARCHITECTURE, 3, [0, value, 0, 0, 0, 0]),
                        expect,
                        "{comparison:?} {value:#x}"
                    );
                }
            }
        }
    }

    #[test]
    fn ranges_and_first_match() {
        let plain = |syscall, action| Rule { syscall, action, conditions: vec![] };
        let when = |syscall, value, action| Rule {
            syscall,
            action,
            conditions: vec![Condition { argument: 0, comparison: Comparison::Equal, value }],
        };
        let mut rules: Vec<Rule> = [1, 2, 3, 7, 9].map(|n| plain(n, Action::Allow)).into();
        rules.push(plain(8, Action::Errno(38)));
        rules.extend([when(20, 1, Action::Allow), when(20, 2, Action::Errno(5)), when(20, 3, Action::Allow)]);
        let program = compile(&Profile { default: Action::Errno(1), rules });
        for (number, expect) in
            [(0, DENIED), (1, ALLOWED), (3, ALLOWED), (4, DENIED), (8, 0x0005_0026), (9, ALLOWED), (10, DENIED)]
        {
            assert_eq!(run(&program, ARCHITECTURE, number, [0; 6]), expect, "{number}");
        }
        for (argument, expect) in [(1, ALLOWED), (2, 0x0005_0005), (3, ALLOWED), (4, DENIED)] {
            assert_eq!(run(&program, ARCHITECTURE, 20, [argument, 0, 0, 0, 0, 0]), expect, "argument {argument}");
        }
        assert_eq!(run(&program, 0x4000_0003, 1, [0; 6]), 0x0005_0026, "i386");
        assert_eq!(run(&program, ARCHITECTURE, X32_BIT | 1, [0; 6]), 0x0005_0026, "x32");
        assert_eq!(run(&program, ARCHITECTURE, 9999, [0; 6]), 0x0005_0026, "newer than the table");
    }

    #[test]
    fn the_default_profile_decides_as_containerds() {
        let check = |capabilities: u64, name: &str, arguments: [u64; 6], expect: u32| {
            let program = compile(&crate::seccomp::runtime_default(capabilities));
            assert!(program.len() < 4096);
            let number = crate::seccomp::number(name).unwrap_or_else(|| panic!("{name} is in the table"));
            assert_eq!(run(&program, ARCHITECTURE, number, arguments), expect, "{name}");
        };
        let none = [0; 6];
        let admin = crate::capability::bit("SYS_ADMIN").unwrap();
        for name in ["read", "openat", "execve", "setuid", "futex"] {
            check(0, name, none, ALLOWED);
        }
        for name in ["mount", "bpf", "keyctl", "reboot", "unshare", "io_uring_setup", "init_module", "userfaultfd"] {
            check(0, name, none, DENIED);
        }
        check(admin, "mount", none, ALLOWED);
        check(0, "clone3", none, 0x0005_0026);
        check(admin, "clone3", none, ALLOWED);
        check(0, "clone", [0x0010_0000 | 17, 0, 0, 0, 0, 0], ALLOWED);
        check(0, "clone", [libc::CLONE_NEWUSER as u64 | 17, 0, 0, 0, 0, 0], DENIED);
        check(0, "personality", none, ALLOWED);
        check(0, "personality", [0x0040_0000, 0, 0, 0, 0, 0], DENIED);
        check(0, "socket", [libc::AF_INET as u64, 0, 0, 0, 0, 0], ALLOWED);
        check(0, "socket", [libc::AF_VSOCK as u64, 0, 0, 0, 0, 0], DENIED);
        check(0, "socket", [libc::AF_ALG as u64, 0, 0, 0, 0, 0], DENIED);
    }
}
