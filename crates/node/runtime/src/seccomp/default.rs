//! The default profile. Which calls are harmless is Docker's and containerd's published list, which people's software is
//! tested under; it is kept here as what the list leaves out, and what capabilities give back.

use super::profile::{Action, Arg, Op, Profile, Rule};
use crate::capabilities::bit;

/// Calls that a capability gives back; without it they are refused.
const GATED: [(&str, &[&str]); 13] = [
    ("DAC_READ_SEARCH", &["open_by_handle_at"]),
    (
        "SYS_ADMIN",
        &[
            "bpf",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "lsm_set_self_attr",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "open_tree_attr",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "syslog",
            "umount2",
            "unshare",
            "clone3",
            "listmount",
            "statmount",
        ],
    ),
    ("SYS_BOOT", &["reboot"]),
    ("SYS_CHROOT", &["chroot"]),
    ("SYS_MODULE", &["delete_module", "init_module", "finit_module"]),
    ("SYS_PACCT", &["acct"]),
    ("SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise"]),
    ("SYS_RAWIO", &["iopl", "ioperm"]),
    ("SYS_TIME", &["settimeofday", "clock_settime"]),
    ("SYS_TTY_CONFIG", &["vhangup"]),
    ("SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    ("SYSLOG", &["syslog"]),
    ("BPF", &["bpf"]),
];

/// Calls that are refused whoever asks: other people's keys, kernels and memory, and what the kernel no longer has.
const NEVER: [&str; 38] = [
    "add_key",
    "keyctl",
    "request_key",
    "kexec_load",
    "kexec_file_load",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "nfsservctl",
    "personality",
    "pivot_root",
    "swapon",
    "swapoff",
    "sysfs",
    "_sysctl",
    "uselib",
    "userfaultfd",
    "ustat",
    "create_module",
    "get_kernel_syms",
    "query_module",
    "migrate_pages",
    "move_pages",
    "vserver",
    "tuxcall",
    "afs_syscall",
    "security",
    "getpmsg",
    "putpmsg",
    "epoll_ctl_old",
    "epoll_wait_old",
    "lookup_dcookie",
    "modify_ldt_old",
    "map_shadow_stack",
    "memfd_secret_old",
    "clone",
    "socket",
    "stime",
];

/// `CLONE_NEWNS`, `NEWCGROUP`, `NEWUTS`, `NEWIPC`, `NEWUSER`, `NEWPID`, `NEWNET`.
const NAMESPACES: u64 = 0x7e02_0000;
/// Domain of sockets to the host of a virtual machine.
const VSOCK: u64 = 40;
const ENOSYS: u32 = 38;
const EPERM: u32 = 1;

fn allow(names: Vec<String>, args: Option<Vec<Arg>>) -> Rule {
    Rule { names, action: Action::Allow, errno_ret: None, args }
}

/// The profile for a process with these capabilities.
pub(crate) fn profile(capabilities: u64) -> Profile {
    let has = |name: &str| bit(name).is_some_and(|bit| capabilities & 1 << bit != 0);
    let given: Vec<&str> =
        GATED.iter().filter(|(name, _)| has(name)).flat_map(|(_, calls)| calls.iter().copied()).collect();
    let gated: Vec<&str> = GATED.iter().flat_map(|(_, calls)| calls.iter().copied()).collect();
    let plain = super::table()
        .map(|(name, _)| name)
        .filter(|name| !NEVER.contains(name) && (!gated.contains(name) || given.contains(name)))
        .map(str::to_owned)
        .collect();
    let one = |name: &str| vec![name.to_owned()];
    let mut syscalls = vec![allow(plain, None)];
    let eq = |value| Arg { index: 0, value, value_two: 0, op: Op::Eq };
    for value in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        syscalls.push(allow(one("personality"), Some(vec![eq(value)])));
    }
    let not_vsock = Arg { index: 0, value: VSOCK, value_two: 0, op: Op::Ne };
    syscalls.push(allow(one("socket"), Some(vec![not_vsock])));
    if has("SYS_ADMIN") {
        syscalls.push(allow(one("clone"), None));
    } else {
        // clone3 hides its flags in memory: programs fall back to clone when it is not there.
        let rule = Rule { names: one("clone3"), action: Action::Errno, errno_ret: Some(ENOSYS), args: None };
        syscalls.push(rule);
        let none = Arg { index: 0, value: NAMESPACES, value_two: 0, op: Op::MaskedEq };
        syscalls.push(allow(one("clone"), Some(vec![none])));
    }
    Profile {
        default_action: Action::Errno,
        default_errno_ret: Some(EPERM),
        syscalls,
        listener_path: String::new(),
    }
}
