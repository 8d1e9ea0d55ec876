//! What the machine must be like before the kubelet starts, as its configuration asks: swap, kernel settings, cgroup
//! version. Messages are upstream's. Nothing of the machine is changed here: without `protectKernelDefaults` upstream's
//! kubelet writes its settings into the kernel, this one lets them be.

use std::fs;

use crate::Configuration;

/// Settings of the kernel that `protectKernelDefaults` insists on, below `/proc/sys`.
const KERNEL: [(&str, i64); 6] = [
    ("vm/overcommit_memory", 1),
    ("vm/panic_on_oom", 0),
    ("kernel/panic", 10),
    ("kernel/panic_on_oops", 1),
    ("kernel/keys/root_maxkeys", 1_000_000),
    ("kernel/keys/root_maxbytes", 25_000_000),
];

/// What keeps the kubelet from running here. Reads `/proc`.
pub(crate) fn trouble(settings: &Configuration, cgroup_v2: bool) -> Option<String> {
    judge(settings, cgroup_v2, |path| fs::read_to_string(path).ok())
}

fn judge(settings: &Configuration, cgroup_v2: bool, read: impl Fn(&str) -> Option<String>) -> Option<String> {
    let text = |path: &str| read(path).unwrap_or_default();
    if settings.fail_cgroup_v1 && !cgroup_v2 {
        return Some("kubelet is configured to not run on a host using cgroup v1. cgroup v1 support is unsupported and will be removed in a future release".to_owned());
    }
    if settings.memory_swap.swap_behavior == "LimitedSwap" && !cgroup_v2 {
        return Some("memorySwap.swapBehavior LimitedSwap needs cgroup v2".to_owned());
    }
    let swaps = text("/proc/swaps");
    // The first line names the columns.
    if settings.fail_swap_on && swaps.trim_end().lines().count() > 1 {
        return Some(format!(
            "running with swap on is not supported, please disable swap or set --fail-swap-on flag to false. /proc/swaps contained: {swaps:?}"
        ));
    }
    if settings.protect_kernel_defaults {
        let wrong: Vec<String> = KERNEL
            .iter()
            .filter_map(|(path, wanted)| {
                let found: Option<i64> = text(&format!("/proc/sys/{path}")).trim().parse().ok();
                let found = found.filter(|found| found != wanted)?;
                Some(format!("invalid kernel flag: {path}, expected value: {wanted}, actual value: {found}"))
            })
            .collect();
        if !wrong.is_empty() {
            return Some(format!("[{}]", wrong.join(", ")));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: impl Fn(&mut Configuration), v2: bool, files: &[(&str, &str)], expected: Option<&str>) {
        let mut settings = Configuration::default();
        change(&mut settings);
        let read =
            |path: &str| files.iter().find(|(have, _)| *have == path).map(|(_, text)| (*text).to_owned());
        let found = judge(&settings, v2, read);
        match expected {
            None => assert_eq!(found, None),
            Some(part) => assert!(found.as_ref().is_some_and(|found| found.contains(part)), "{found:?}"),
        }
    }

    #[test]
    fn machines() {
        let header = "Filename Type Size Used Priority\n";
        let swapping = format!("{header}/dev/sda2 partition 1000 0 -2\n");
        check(|_| {}, false, &[("/proc/swaps", header)], None);
        check(|_| {}, false, &[("/proc/swaps", &swapping)], Some("running with swap on is not supported"));
        check(|settings| settings.fail_swap_on = false, false, &[("/proc/swaps", &swapping)], None);
        check(|settings| settings.fail_cgroup_v1 = true, false, &[], Some("cgroup v1"));
        check(|settings| settings.fail_cgroup_v1 = true, true, &[], None);
        let limited =
            |settings: &mut Configuration| settings.memory_swap.swap_behavior = "LimitedSwap".to_owned();
        check(limited, false, &[], Some("needs cgroup v2"));
        check(limited, true, &[], None);
        let protect = |settings: &mut Configuration| settings.protect_kernel_defaults = true;
        check(protect, true, &[("/proc/sys/vm/overcommit_memory", "1\n")], None);
        check(
            protect,
            true,
            &[("/proc/sys/vm/overcommit_memory", "0\n"), ("/proc/sys/kernel/panic", "10\n")],
            Some("[invalid kernel flag: vm/overcommit_memory, expected value: 1, actual value: 0]"),
        );
    }
}
