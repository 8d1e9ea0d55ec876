//! A profile as a program: a binary search over the numbers of calls, then the conditions of the one that was found.

use std::collections::BTreeMap;

use podium_shim::protocol::Instruction;

use super::SeccompError;
use super::profile::{Action, Arg, Op, Profile, Rule};

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;

/// Offsets in what the kernel shows of a call.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

#[cfg(target_arch = "aarch64")]
const OURS: u32 = 0xc000_00b7;
#[cfg(not(target_arch = "aarch64"))]
const OURS: u32 = 0xc000_003e;
/// x32 calls carry this bit; nothing here allows them.
const X32: u32 = 0x4000_0000;

const ENOSYS: u32 = 38;

fn value(action: Action, errno: Option<u32>) -> u32 {
    match action {
        Action::Allow => 0x7fff_0000,
        Action::Errno => 0x0005_0000 | errno.unwrap_or(1) & 0xffff,
        Action::Kill => 0,
        Action::KillProcess => 0x8000_0000,
        Action::Trap => 0x0003_0000 | errno.unwrap_or(0) & 0xffff,
        Action::Log => 0x7ffc_0000,
    }
}

/// What is done with one call: conditions in order, then the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Verdict {
    conditions: Vec<(Vec<Arg>, u32)>,
    otherwise: u32,
}

/// Compiles a profile for this machine. Calls of other architectures do not exist to the container, and neither do calls
/// newer than the table, if the profile refuses what it does not name.
pub(crate) fn compile(profile: &Profile) -> Result<Vec<Instruction>, SeccompError> {
    if !profile.listener_path.is_empty() {
        return Err(SeccompError::Unsupported("listeners are not supported".to_owned()));
    }
    let default = value(profile.default_action, profile.default_errno_ret);
    let numbers: BTreeMap<&str, u32> = super::table().collect();
    let last = numbers.values().max().copied().unwrap_or(0);
    let mut verdicts: BTreeMap<u32, Verdict> = BTreeMap::new();
    for rule in &profile.syscalls {
        // Names that this kernel's table lacks are those of other architectures.
        for number in rule.names.iter().filter_map(|name| numbers.get(name.as_str())) {
            let verdict = verdicts
                .entry(*number)
                .or_insert_with(|| Verdict { conditions: Vec::new(), otherwise: default });
            add(verdict, rule)?;
        }
    }
    let unknown =
        if profile.default_action == Action::Errno { value(Action::Errno, Some(ENOSYS)) } else { default };
    let ranges = ranges(&verdicts, default, last, unknown);
    let search = search(&ranges);
    let mut program = vec![
        (LOAD, 0, 0, ARCHITECTURE),
        (JUMP_EQUAL, 1, 0, OURS),
        (RETURN, 0, 0, value(Action::Errno, Some(ENOSYS))),
        (LOAD, 0, 0, NUMBER),
    ];
    program.extend(search);
    if program.len() > 4096 {
        return Err(SeccompError::Unsupported(format!("{} instructions are too many", program.len())));
    }
    Ok(program)
}

fn add(verdict: &mut Verdict, rule: &Rule) -> Result<(), SeccompError> {
    let action = value(rule.action, rule.errno_ret);
    let args = rule.args.clone().unwrap_or_default();
    if let Some(wrong) = args.iter().find(|arg| arg.index > 5) {
        return Err(SeccompError::Unsupported(format!("argument {} of a system call", wrong.index)));
    }
    if args.is_empty() {
        verdict.otherwise = action;
    } else {
        verdict.conditions.push((args, action));
    }
    Ok(())
}

/// Every number in order, neighbours with the same verdict together: where each range begins.
fn ranges(verdicts: &BTreeMap<u32, Verdict>, default: u32, last: u32, unknown: u32) -> Vec<(u32, Verdict)> {
    let plain = |otherwise| Verdict { conditions: Vec::new(), otherwise };
    let mut ranges: Vec<(u32, Verdict)> = Vec::new();
    for number in 0..=last {
        let verdict = verdicts.get(&number).cloned().unwrap_or_else(|| plain(default));
        if ranges.last().is_none_or(|(_, current)| *current != verdict) {
            ranges.push((number, verdict));
        }
    }
    ranges.push((last + 1, plain(unknown)));
    ranges.push((X32, plain(value(Action::Errno, Some(ENOSYS)))));
    ranges
}

fn search(ranges: &[(u32, Verdict)]) -> Vec<Instruction> {
    let [_, .., _] = ranges else {
        return ranges.first().map(|(_, verdict)| leaf(verdict)).unwrap_or_default();
    };
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let (below, above) = (search(low), search(high));
    let mut program = Vec::with_capacity(below.len() + above.len() + 2);
    match u8::try_from(below.len()) {
        Ok(length) => program.push((JUMP_GREATER_EQUAL, length, 0, high[0].0)),
        Err(_) => {
            let length = u32::try_from(below.len()).unwrap_or(u32::MAX);
            program.extend([(JUMP_GREATER_EQUAL, 0, 1, high[0].0), (JUMP, 0, 0, length)]);
        }
    }
    program.extend(below);
    program.extend(above);
    program
}

fn leaf(verdict: &Verdict) -> Vec<Instruction> {
    let mut program = Vec::new();
    for (args, action) in &verdict.conditions {
        let tests: Vec<Vec<Test>> = args.iter().map(test).collect();
        let length: usize = tests.iter().map(Vec::len).sum::<usize>() + 1;
        let mut at = 0;
        for one in tests {
            let end = at + one.len();
            for (operation, yes, no, operand) in one {
                let offset = |to: To| match to {
                    To::Next => 0,
                    To::Pass => u8::try_from(end - at - 1).unwrap_or(u8::MAX),
                    To::Fail => u8::try_from(length - at - 1).unwrap_or(u8::MAX),
                };
                program.push((operation, offset(yes), offset(no), operand));
                at += 1;
            }
        }
        program.push((RETURN, 0, 0, *action));
    }
    program.push((RETURN, 0, 0, verdict.otherwise));
    program
}

/// Where a test goes on.
#[derive(Clone, Copy)]
enum To {
    Next,
    Pass,
    Fail,
}

type Test = (u16, To, To, u32);

/// Steps that compare one argument's two halves.
fn test(arg: &Arg) -> Vec<Test> {
    use To::{Fail, Next, Pass};
    let offset = ARGUMENTS + 8 * arg.index;
    let half = |value: u64| {
        (u32::try_from(value >> 32).unwrap_or(0), u32::try_from(value & 0xffff_ffff).unwrap_or(0))
    };
    let (high, low) = half(arg.value);
    let (high_load, low_load) = ((LOAD, Next, Next, offset + 4), (LOAD, Next, Next, offset));
    match arg.op {
        Op::Eq => {
            vec![high_load, (JUMP_EQUAL, Next, Fail, high), low_load, (JUMP_EQUAL, Pass, Fail, low)]
        }
        Op::Ne => vec![high_load, (JUMP_EQUAL, Next, Pass, high), low_load, (JUMP_EQUAL, Fail, Pass, low)],
        Op::Ge => vec![
            high_load,
            (JUMP_GREATER, Pass, Next, high),
            (JUMP_EQUAL, Next, Fail, high),
            low_load,
            (JUMP_GREATER_EQUAL, Pass, Fail, low),
        ],
        Op::Gt => vec![
            high_load,
            (JUMP_GREATER, Pass, Next, high),
            (JUMP_EQUAL, Next, Fail, high),
            low_load,
            (JUMP_GREATER, Pass, Fail, low),
        ],
        Op::Lt => vec![
            high_load,
            (JUMP_GREATER, Fail, Next, high),
            (JUMP_EQUAL, Next, Pass, high),
            low_load,
            (JUMP_GREATER_EQUAL, Fail, Pass, low),
        ],
        Op::Le => vec![
            high_load,
            (JUMP_GREATER, Fail, Next, high),
            (JUMP_EQUAL, Next, Pass, high),
            low_load,
            (JUMP_GREATER, Fail, Pass, low),
        ],
        Op::MaskedEq => {
            let (high_datum, low_datum) = half(arg.value_two);
            vec![
                high_load,
                (AND, Next, Next, high),
                (JUMP_EQUAL, Next, Fail, high_datum),
                low_load,
                (AND, Next, Next, low),
                (JUMP_EQUAL, Pass, Fail, low_datum),
            ]
        }
    }
}

#[cfg(test)]
mod tests;
