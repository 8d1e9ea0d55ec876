//! Which devices a container may use: lines for version 1 of cgroups, a program for version 2.

use std::fmt;

use crate::protocol::DeviceFile;

/// One thing that is allowed; `None` stands for any number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// `a` for all, `c`, `b`.
    kind: char,
    major: Option<u32>,
    minor: Option<u32>,
    /// Of `r`, `w`, `m`.
    access: String,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        write!(f, "{} {}:{} {}", self.kind, number(self.major), number(self.minor), self.access)
    }
}

/// What every container may use: the pseudo devices, its terminals, and making nodes (which then cannot be opened).
const ALWAYS: [(char, Option<u32>, Option<u32>, &str); 11] = [
    ('c', None, None, "m"),
    ('b', None, None, "m"),
    ('c', Some(1), Some(3), "rwm"),
    ('c', Some(1), Some(5), "rwm"),
    ('c', Some(1), Some(7), "rwm"),
    ('c', Some(1), Some(8), "rwm"),
    ('c', Some(1), Some(9), "rwm"),
    ('c', Some(5), Some(0), "rwm"),
    ('c', Some(5), Some(1), "rwm"),
    ('c', Some(5), Some(2), "rwm"),
    ('c', Some(136), None, "rwm"),
];

/// The rules for a container with these devices.
pub(crate) fn rules(devices: &[DeviceFile], all: bool) -> Vec<Rule> {
    if all {
        return vec![Rule { kind: 'a', major: None, minor: None, access: "rwm".to_owned() }];
    }
    let always = ALWAYS.iter().map(|(kind, major, minor, access)| Rule {
        kind: *kind,
        major: *major,
        minor: *minor,
        access: (*access).to_owned(),
    });
    let own = devices.iter().map(|device| Rule {
        kind: device.kind,
        major: Some(device.major),
        minor: Some(device.minor),
        access: device.access.clone(),
    });
    always.chain(own).collect()
}

/// The same by the names that systemd has for devices, with what is allowed of each.
pub fn named(devices: &[DeviceFile]) -> Vec<(String, String)> {
    let name = |rule: Rule| {
        let kind = if rule.kind == 'b' { "block" } else { "char" };
        let name = match (rule.major, rule.minor) {
            (Some(major), Some(minor)) => format!("/dev/{kind}/{major}:{minor}"),
            // The one whole driver that is allowed is that of terminals.
            (Some(_), None) => "char-pts".to_owned(),
            (None, _) => format!("{kind}-*"),
        };
        (name, rule.access)
    };
    rules(devices, false).into_iter().map(name).collect()
}

/// One instruction of the kernel's machine: operation, registers, jump, operand.
fn instruction(operation: u8, destination: u8, source: u8, offset: i16, operand: i32) -> u64 {
    u64::from(operation)
        | u64::from(destination & 15) << 8
        | u64::from(source & 15) << 12
        | u64::from(offset.cast_unsigned()) << 16
        | u64::from(operand.cast_unsigned()) << 32
}

/// The program that answers 1 for what the rules allow, else 0. It is given the access (upper half) and kind (lower half)
/// in one word, then the two numbers.
pub(crate) fn program(rules: &[Rule]) -> Vec<u64> {
    const LOAD_WORD: u8 = 0x61;
    const LOAD_HALF: u8 = 0x69;
    const SHIFT_RIGHT: u8 = 0x74;
    const MOVE: u8 = 0xbc;
    const SET: u8 = 0xb4;
    const AND: u8 = 0x54;
    const UNLESS_VALUE: u8 = 0x55;
    const UNLESS_REGISTER: u8 = 0x5d;
    const EXIT: u8 = 0x95;
    let mut program = vec![
        instruction(LOAD_HALF, 2, 1, 0, 0),
        instruction(LOAD_WORD, 3, 1, 0, 0),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    let value = |number: u32| number.cast_signed();
    for rule in rules {
        // Tests as (operation, register, other register, operand); each jumps behind the rule if it fails.
        let mut steps: Vec<(u8, u8, u8, i32)> = Vec::new();
        match rule.kind {
            'b' => steps.push((UNLESS_VALUE, 2, 0, 1)),
            'c' => steps.push((UNLESS_VALUE, 2, 0, 2)),
            _ => {}
        }
        let bit = |letter: char, bit: i32| if rule.access.contains(letter) { bit } else { 0 };
        let mask = bit('m', 1) | bit('r', 2) | bit('w', 4);
        if mask != 7 {
            steps.extend([(MOVE, 1, 3, 0), (AND, 1, 0, mask), (UNLESS_REGISTER, 1, 3, 0)]);
        }
        if let Some(major) = rule.major {
            steps.push((UNLESS_VALUE, 4, 0, value(major)));
        }
        if let Some(minor) = rule.minor {
            steps.push((UNLESS_VALUE, 5, 0, value(minor)));
        }
        let length = steps.len();
        for (index, (operation, destination, source, operand)) in steps.into_iter().enumerate() {
            let jumps = matches!(operation, UNLESS_VALUE | UNLESS_REGISTER);
            // Over the tests that are left and the two instructions of the answer.
            let offset = if jumps { i16::try_from(length - index + 1).unwrap_or(i16::MAX) } else { 0 };
            program.push(instruction(operation, destination, source, offset, operand));
        }
        program.extend([instruction(SET, 0, 0, 0, 1), instruction(EXIT, 0, 0, 0, 0)]);
        if length == 0 {
            // Nothing behind a rule without a test is ever reached, and the kernel refuses a program with such a part.
            return program;
        }
    }
    program.extend([instruction(SET, 0, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine for the few operations above: whether an access is allowed.
    fn run(program: &[u64], access: u32, kind: u32, major: u32, minor: u32) -> u64 {
        let mut registers = [0u64; 6];
        let mut at = 0usize;
        loop {
            let word = program[at];
            let (operation, destination, source) =
                ((word & 0xff) as u8, (word >> 8 & 15) as usize, (word >> 12 & 15) as usize);
            let offset = usize::from((word >> 16 & 0xffff) as u16);
            let operand = word >> 32;
            at += 1;
            match operation {
                0x69 => registers[2] = u64::from(kind),
                0x61 => {
                    registers[destination] = match offset {
                        0 => u64::from(access << 16 | kind),
                        4 => u64::from(major),
                        _ => u64::from(minor),
                    }
                }
                0x74 => registers[destination] >>= operand,
                0xbc => registers[destination] = registers[source],
                0xb4 => registers[destination] = operand,
                0x54 => registers[destination] &= operand,
                0x55 => at += if registers[destination] == operand { 0 } else { offset },
                0x5d => at += if registers[destination] == registers[source] { 0 } else { offset },
                0x95 => return registers[0],
                other => panic!("operation {other:#x}"),
            }
        }
    }

    #[test]
    fn the_program_allows_what_the_rules_say() {
        let fuse = DeviceFile {
            path: "/dev/fuse".into(),
            kind: 'c',
            major: 10,
            minor: 229,
            mode: 0o666,
            uid: 0,
            gid: 0,
            access: "rw".into(),
        };
        let some = program(&rules(&[fuse], false));
        let (make, read, write, block, character) = (1, 2, 4, 1, 2);
        for (access, kind, major, minor, allowed) in [
            (read | write, character, 1, 3, 1),
            (read, character, 136, 7, 1),
            (make, block, 8, 0, 1),
            (read, block, 8, 0, 0),
            (read, character, 1, 1, 0),
            (read | write, character, 10, 229, 1),
            (read | make, character, 10, 229, 0),
            (read, character, 10, 200, 0),
        ] {
            assert_eq!(run(&some, access, kind, major, minor), allowed, "{access} {kind} {major}:{minor}");
        }
        assert_eq!(run(&program(&rules(&[], true)), read | write, block, 8, 0), 1);
    }

    /// The instructions that some access reaches.
    fn reached(program: &[u64]) -> std::collections::BTreeSet<usize> {
        let (mut found, mut open) = (std::collections::BTreeSet::new(), vec![0]);
        while let Some(at) = open.pop() {
            if !found.insert(at) {
                continue;
            }
            let word = program[at];
            let operation = word & 0xff;
            if operation != 0x95 {
                open.push(at + 1);
            }
            if matches!(operation, 0x55 | 0x5d) {
                open.push(at + 1 + (word >> 16 & 0xffff) as usize);
            }
        }
        found
    }

    /// The kernel answers EINVAL otherwise, and no privileged container starts.
    #[test]
    fn every_instruction_is_reached() {
        for all in [false, true] {
            let program = program(&rules(&[], all));
            assert_eq!(reached(&program).len(), program.len(), "all devices: {all}");
        }
    }

    #[test]
    fn lines_for_version_1() {
        let lines: Vec<String> = rules(&[], false).iter().map(ToString::to_string).collect();
        assert_eq!(lines[0], "c *:* m");
        assert_eq!(lines[2], "c 1:3 rwm");
        assert_eq!(rules(&[], true)[0].to_string(), "a *:* rwm");
    }
}
