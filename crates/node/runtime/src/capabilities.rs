//! Capabilities by name, and which a container has.

use podium_cri::v1;
use podium_shim::protocol::Capabilities;

/// Names without `CAP_`, in the order of their numbers. Source: `linux/capability.h`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container has that asks for nothing: the set of all runtimes.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// A capability's number, by its name with or without `CAP_`, in any case.
pub(crate) fn bit(name: &str) -> Option<u32> {
    let upper = name.to_ascii_uppercase();
    let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|known| *known == plain).and_then(|at| u32::try_from(at).ok())
}

/// Whole names of the capabilities in a set.
pub(crate) fn names(set: u64) -> Vec<String> {
    let all = NAMES.iter().enumerate().filter(|(number, _)| set & 1 << number != 0);
    all.map(|(_, name)| format!("CAP_{name}")).collect()
}

fn set(names: &[&str]) -> u64 {
    names.iter().filter_map(|name| bit(name)).fold(0, |set, bit| set | 1 << bit)
}

/// What a container gets: the defaults (or everything, if privileged), with some added and some dropped, out of what this
/// process may give at all.
pub(crate) fn of(
    wanted: Option<&v1::Capability>,
    privileged: bool,
    available: u64,
) -> Result<Capabilities, String> {
    let all = set(&NAMES);
    if privileged {
        let everything = all & available;
        return Ok(Capabilities { bounding: everything, effective: everything, ambient: 0 });
    }
    let names = |list: &[String]| -> Result<u64, String> {
        list.iter().try_fold(0, |set, name| match name.to_ascii_uppercase().as_str() {
            "ALL" | "CAP_ALL" => Ok(set | all),
            _ => bit(name).map(|bit| set | 1 << bit).ok_or_else(|| format!("unknown capability {name:?}")),
        })
    };
    let empty = v1::Capability::default();
    let wanted = wanted.unwrap_or(&empty);
    let (add, drop) = (names(&wanted.add_capabilities)?, names(&wanted.drop_capabilities)?);
    let ambient = names(&wanted.add_ambient_capabilities)?;
    // One named by itself wins over ALL on the other side.
    let base = if drop & all == all { 0 } else { set(&DEFAULT) };
    let bounding =
        if add & all == all { all & !drop } else { (base & !drop) | add & !(drop & !all_of(drop, all)) };
    let bounding = (bounding | ambient) & available;
    Ok(Capabilities { bounding, effective: bounding, ambient: ambient & bounding })
}

/// The whole set if it is in `set`, else nothing.
fn all_of(set: u64, all: u64) -> u64 {
    if set & all == all { all } else { 0 }
}

/// What this process may give: its bounding set.
pub(crate) fn available() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(add: &[&str], drop: &[&str], expected: u64) {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let wanted = v1::Capability {
            add_capabilities: list(add),
            drop_capabilities: list(drop),
            ..Default::default()
        };
        let found = of(Some(&wanted), false, u64::MAX).unwrap();
        assert_eq!(found.bounding, expected, "add {add:?} drop {drop:?}");
        assert_eq!(found.effective, expected);
    }

    #[test]
    fn sets() {
        let default = set(&DEFAULT);
        check(&[], &[], default);
        check(&["NET_ADMIN"], &[], default | set(&["NET_ADMIN"]));
        check(&["cap_net_admin"], &["CAP_NET_RAW"], default & !set(&["NET_RAW"]) | set(&["NET_ADMIN"]));
        check(&[], &["ALL"], 0);
        check(&["NET_BIND_SERVICE"], &["ALL"], set(&["NET_BIND_SERVICE"]));
        check(&["ALL"], &[], set(&NAMES));
        check(&["ALL"], &["SYS_ADMIN"], set(&NAMES) & !set(&["SYS_ADMIN"]));
        check(&["NET_ADMIN"], &["NET_ADMIN"], default);
        assert_eq!(default, 0xa804_25fb);
        let all = of(None, true, 0xff).unwrap();
        assert_eq!((all.bounding, all.effective), (0xff, 0xff));
        let unknown = v1::Capability { add_capabilities: vec!["FLY".into()], ..Default::default() };
        assert!(of(Some(&unknown), false, u64::MAX).is_err());
    }
}
