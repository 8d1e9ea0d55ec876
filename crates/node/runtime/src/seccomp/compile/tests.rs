//! Programs run on a machine of the tests' own.

use super::*;
use crate::seccomp::default;

/// What the kernel would do with a call.
fn run(program: &[Instruction], architecture: u32, number: u32, args: [u64; 6]) -> u32 {
    let load = |offset: u32| match offset {
        NUMBER => number,
        ARCHITECTURE => architecture,
        offset => {
            let arg = args[usize::try_from((offset - ARGUMENTS) / 8).unwrap()];
            u32::try_from(if offset % 8 == 4 { arg >> 32 } else { arg & 0xffff_ffff }).unwrap()
        }
    };
    let (mut at, mut register) = (0usize, 0u32);
    loop {
        let (operation, yes, no, operand) = program[at];
        at += 1;
        let mut jump = |taken: bool| at += usize::from(if taken { yes } else { no });
        match operation {
            LOAD => register = load(operand),
            AND => register &= operand,
            JUMP => at += usize::try_from(operand).unwrap(),
            JUMP_EQUAL => jump(register == operand),
            JUMP_GREATER => jump(register > operand),
            JUMP_GREATER_EQUAL => jump(register >= operand),
            RETURN => return operand,
            other => panic!("{other:#x}"),
        }
    }
}

fn number(name: &str) -> u32 {
    super::super::table().find(|(known, _)| *known == name).unwrap().1
}

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const NOSYS: u32 = 0x0005_0000 | ENOSYS;

#[track_caller]
fn check(program: &[Instruction], name: &str, first: u64, expected: u32) {
    let found = run(program, OURS, number(name), [first, 0, 0, 0, 0, 0]);
    assert_eq!(found, expected, "{name}({first:#x})");
}

#[test]
fn the_default_profile() {
    let plain = compile(&default::profile(0)).unwrap();
    for name in ["read", "openat", "execve", "futex", "ptrace", "rt_sigreturn", "clock_nanosleep", "seccomp"]
    {
        check(&plain, name, 0, ALLOW);
    }
    for name in [
        "mount",
        "umount2",
        "unshare",
        "setns",
        "bpf",
        "keyctl",
        "reboot",
        "init_module",
        "io_uring_setup",
        "userfaultfd",
        "pivot_root",
        "kexec_load",
        "open_by_handle_at",
        "perf_event_open",
        "move_mount",
        "statmount",
        "settimeofday",
    ] {
        check(&plain, name, 0, EPERM);
    }
    check(&plain, "clone3", 0, NOSYS);
    check(&plain, "clone", 0x11, ALLOW);
    check(&plain, "clone", 0x1000_0000, EPERM);
    check(&plain, "clone", 0x11 | 0x4000_0000, EPERM);
    check(&plain, "personality", 0, ALLOW);
    check(&plain, "personality", 0xffff_ffff, ALLOW);
    check(&plain, "personality", 0x0004_0000, EPERM);
    check(&plain, "socket", 2, ALLOW);
    check(&plain, "socket", 40, EPERM);
    let admin = compile(&default::profile(1 << 21)).unwrap();
    for name in ["mount", "unshare", "clone3", "bpf", "setns"] {
        check(&admin, name, 0, ALLOW);
    }
    check(&admin, "clone", 0x1000_0000, ALLOW);
    check(&admin, "reboot", 0, EPERM);
    // Other architectures, x32 and calls of a later kernel do not exist.
    assert_eq!(run(&plain, 0x4000_0003, 4, [0; 6]), NOSYS);
    assert_eq!(run(&plain, OURS, X32 | 1, [0; 6]), NOSYS);
    assert_eq!(run(&plain, OURS, 2000, [0; 6]), NOSYS);
    assert!(plain.len() < 1000, "{}", plain.len());
}

#[test]
fn comparisons_of_whole_arguments() {
    let large = 0x1_0000_0005u64;
    for (op, below, equal, above) in [
        ("SCMP_CMP_EQ", false, true, false),
        ("SCMP_CMP_NE", true, false, true),
        ("SCMP_CMP_LT", true, false, false),
        ("SCMP_CMP_LE", true, true, false),
        ("SCMP_CMP_GE", false, true, true),
        ("SCMP_CMP_GT", false, false, true),
    ] {
        let text = format!(
            r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{"names":["read"],"action":"SCMP_ACT_ALLOW",
                "args":[{{"index":2,"value":{large},"op":"{op}"}}]}}]}}"#
        );
        let program = compile(&serde_json::from_str(&text).unwrap()).unwrap();
        for (value, expected) in
            [(5, below), (large - 1, below), (large, equal), (large + 1, above), (0x2_0000_0000, above)]
        {
            let found = run(&program, OURS, number("read"), [0, 0, value, 0, 0, 0]);
            assert_eq!(found == ALLOW, expected, "{op} {value:#x}");
        }
    }
}

#[test]
fn profiles_as_people_write_them() {
    let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],"syscalls":[
        {"names":["mkdir","mkdirat","no_such_call"],"action":"SCMP_ACT_ERRNO","errnoRet":13},
        {"names":["chmod"],"action":"SCMP_ACT_KILL_PROCESS"}]}"#;
    let program = compile(&serde_json::from_str(text).unwrap()).unwrap();
    check(&program, "mkdirat", 0, 0x0005_000d);
    check(&program, "read", 0, ALLOW);
    assert_eq!(run(&program, OURS, 5000, [0; 6]), ALLOW);
    for wrong in [
        r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#,
        r#"{"syscalls":[]}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"]}]}"#,
    ] {
        assert!(serde_json::from_str::<Profile>(wrong).is_err(), "{wrong}");
    }
    let listener = r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x"}"#;
    assert!(compile(&serde_json::from_str(listener).unwrap()).is_err());
    let sixth = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO",
        "args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#;
    assert!(compile(&serde_json::from_str(sixth).unwrap()).is_err());
}
