//! Limits as properties of a unit.

use podium_shim::protocol::Resources;
use zbus::zvariant::Value;

/// A property of a unit.
pub type Property = (&'static str, Value<'static>);

/// The period that a quota is of where nothing is said. Source: the kernel's default.
const PERIOD_MICROS: u64 = 100_000;

/// Files of version 2 that systemd has properties for. Whenever it reads its configuration anew it writes them all, and what it was
/// not told is without a bound then. Of `memory.oom.group` it takes no word for a scope before version 253.
const NAMED: [(&str, &str); 6] = [
    ("memory.min", "MemoryMin"),
    ("memory.low", "MemoryLow"),
    ("memory.high", "MemoryHigh"),
    ("memory.max", "MemoryMax"),
    ("memory.swap.max", "MemorySwapMax"),
    ("pids.max", "TasksMax"),
];

/// Limits, as systemd keeps them for a unit; `weight`: what shares of CPU are where cgroups are of version 2, else `None`. What is
/// not said is left as it is.
///
/// systemd knows nothing of huge pages and of most files by their own names, and in version 1 nothing of CPUs, nodes and swap: these
/// are written to the group's files alone.
pub fn of(resources: &Resources, weight: Option<fn(u64) -> u64>) -> Vec<Property> {
    let v2 = weight.is_some();
    // No bound is the largest number.
    let bound = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    let mut properties: Vec<Property> = Vec::new();
    if let Some(shares) = resources.cpu_shares.filter(|shares| *shares > 0) {
        properties.push(match weight {
            Some(weight) => ("CPUWeight", weight(shares).into()),
            None => ("CPUShares", shares.into()),
        });
    }
    let period = resources.cpu_period.filter(|period| *period > 0);
    let quota = resources.cpu_quota.filter(|quota| *quota != 0);
    if let Some(period) = period {
        properties.push(("CPUQuotaPeriodUSec", period.into()));
    }
    if let Some(quota) = quota {
        // Whole percents of a second, rounded up: systemd keeps no smaller parts.
        let micros = u64::try_from(quota).map_or(u64::MAX, |quota| {
            quota.saturating_mul(1_000_000).div_ceil(period.unwrap_or(PERIOD_MICROS)).next_multiple_of(10_000)
        });
        properties.push(("CPUQuotaPerSecUSec", micros.into()));
    }
    let memory = resources.memory_limit.filter(|limit| *limit != 0);
    if let Some(limit) = memory {
        properties.push((if v2 { "MemoryMax" } else { "MemoryLimit" }, bound(limit).into()));
    }
    if let Some(both) = resources.memory_swap_limit.filter(|limit| *limit != 0 && v2) {
        // Version 2 counts swap by itself.
        let own = if both < 0 { -1 } else { (both - memory.unwrap_or(0)).max(0) };
        properties.push(("MemorySwapMax", bound(own).into()));
    }
    if let Some(limit) = resources.pids_limit.filter(|limit| *limit != 0) {
        properties.push(("TasksMax", bound(limit).into()));
    }
    if v2 {
        for (file, value) in &resources.unified {
            let known = NAMED.iter().find(|(have, _)| have == file);
            let value = known.and_then(|(_, name)| Some((*name, amount(value)?.into())));
            properties.extend(value);
        }
        for (name, list) in
            [("AllowedCPUs", &resources.cpuset_cpus), ("AllowedMemoryNodes", &resources.cpuset_mems)]
        {
            if let Some(bits) = list.as_deref().and_then(bits) {
                properties.push((name, bits.into()));
            }
        }
    }
    properties
}

/// An amount as version 2's files have it; `None` for what is none.
fn amount(text: &str) -> Option<u64> {
    if text == "max" { Some(u64::MAX) } else { text.parse().ok() }
}

/// A list as `0-2,5` as bits, those of the first eight in the first byte; `None` for an empty one and what is none.
fn bits(list: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        for number in first..=last {
            let at = usize::from(number / 8);
            if bytes.len() <= at {
                bytes.resize(at + 1, 0u8);
            }
            bytes[at] |= 1 << (number % 8);
        }
    }
    (!bytes.is_empty()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use podium_shim::cgroup::weight;

    use super::*;

    #[test]
    fn limits() {
        let all = Resources {
            cpu_shares: Some(1024),
            cpu_quota: Some(12_345),
            cpu_period: Some(100_000),
            memory_limit: Some(1 << 30),
            memory_swap_limit: Some(1 << 31),
            pids_limit: Some(100),
            ..Resources::default()
        };
        let shown = |resources: &Resources, v2: bool| {
            let of = |(name, value): Property| format!("{name}={}", u64::try_from(value).unwrap());
            super::of(resources, v2.then_some(weight)).into_iter().map(of).collect::<Vec<_>>().join(" ")
        };
        let cpu = "CPUQuotaPeriodUSec=100000 CPUQuotaPerSecUSec=130000";
        assert_eq!(
            shown(&all, true),
            format!("CPUWeight=100 {cpu} MemoryMax=1073741824 MemorySwapMax=1073741824 TasksMax=100")
        );
        assert_eq!(shown(&all, false), format!("CPUShares=1024 {cpu} MemoryLimit=1073741824 TasksMax=100"));
        let open = Resources {
            cpu_quota: Some(-1),
            memory_limit: Some(-1),
            memory_swap_limit: Some(-1),
            pids_limit: Some(-1),
            ..Resources::default()
        };
        let most = u64::MAX;
        assert_eq!(
            shown(&open, true),
            format!("CPUQuotaPerSecUSec={most} MemoryMax={most} MemorySwapMax={most} TasksMax={most}")
        );
        assert_eq!(shown(&Resources::default(), true), "");
        let files = [("memory.swap.max", "0"), ("memory.oom.group", "1"), ("memory.high", "max")];
        let unified = files.map(|(file, value)| (file.to_owned(), value.to_owned())).into();
        let named = Resources { unified, ..Resources::default() };
        assert_eq!(shown(&named, true), format!("MemorySwapMax=0 MemoryHigh={most}"));
        assert_eq!(shown(&named, false), "");
    }

    #[test]
    fn lists_as_bits() {
        for (list, expected) in [
            ("0", Some(vec![1])),
            ("0-2,5", Some(vec![0b10_0111])),
            ("8,15-16", Some(vec![0, 0b1000_0001, 1])),
            ("", None),
            ("x", None),
            ("3-", None),
        ] {
            assert_eq!(bits(list), expected, "{list}");
        }
    }
}
