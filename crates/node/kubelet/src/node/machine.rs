//! What the machine is: processors, memory, disk, names. Read once; the kernel is the authority.

use std::{collections::BTreeMap, fs, path::Path};

use k8s_openapi::{
    api::core::v1::NodeSystemInfo, apimachinery::pkg::api::resource::Quantity as WireQuantity,
};
use nix::{
    sys::statvfs::statvfs,
    unistd::{SysconfVar, sysconf},
};

use podium_api::quantity::Quantity;

use crate::{
    Configuration,
    cgroups::Limits,
    eviction::thresholds::{Signal, kept_free},
    huge_pages::{self, PageSize},
    resources,
};

/// The machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Machine {
    pub(crate) cpus: i64,
    pub(crate) memory_bytes: i64,
    pub(crate) swap_bytes: i64,
    /// The most processes and threads.
    pub(crate) max_pids: i64,
    /// Size of the file system that holds the kubelet's root.
    pub(crate) disk_bytes: i64,
    pub(crate) machine_id: String,
    pub(crate) system_uuid: String,
    pub(crate) boot_id: String,
    pub(crate) kernel: String,
    pub(crate) os_image: String,
    pub(crate) architecture: &'static str,
    /// Bytes set aside as huge pages, by the size of a page.
    pub(crate) huge_pages: BTreeMap<PageSize, u64>,
}

impl Machine {
    /// Reads it all. `root` is the kubelet's directory.
    pub(crate) fn read(root: &Path) -> Self {
        let text =
            |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let disk_bytes = statvfs(root)
            .ok()
            .and_then(|stats| i64::try_from(stats.blocks().saturating_mul(stats.fragment_size())).ok())
            .unwrap_or(0);
        let kernel = nix::sys::utsname::uname()
            .map(|name| name.release().to_string_lossy().into_owned())
            .unwrap_or_default();
        let machine_id = [text("/etc/machine-id"), text("/var/lib/dbus/machine-id")]
            .into_iter()
            .find(|id| !id.is_empty())
            .unwrap_or_default();
        let uuid = text("/sys/class/dmi/id/product_uuid");
        Self {
            cpus: sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten().unwrap_or(1),
            memory_bytes: memory(&text("/proc/meminfo"), "MemTotal"),
            swap_bytes: memory(&text("/proc/meminfo"), "SwapTotal"),
            max_pids: ["pid_max", "threads-max"]
                .into_iter()
                .filter_map(|file| text(&format!("/proc/sys/kernel/{file}")).parse().ok())
                .min()
                .unwrap_or(0),
            disk_bytes,
            system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
            machine_id,
            boot_id: text("/proc/sys/kernel/random/boot_id"),
            kernel,
            os_image: os_image(&text("/etc/os-release")),
            architecture: architecture(),
            huge_pages: huge_pages::read(Path::new(huge_pages::KERNEL)),
        }
    }

    /// `status.capacity`.
    pub(crate) fn capacity(&self, settings: &Configuration) -> BTreeMap<String, WireQuantity> {
        let kib = |bytes: i64| format!("{}Ki", bytes / 1024);
        let mut list = BTreeMap::from([
            ("cpu".to_owned(), self.cpus.to_string()),
            ("pods".to_owned(), settings.pod_limit(self.cpus).to_string()),
            ("memory".to_owned(), kib(self.memory_bytes)),
            ("ephemeral-storage".to_owned(), kib(self.disk_bytes)),
        ]);
        list.extend(self.huge_pages.iter().map(|(size, all)| (size.resource(), huge_pages::binary(*all))));
        list.into_iter().map(|(name, amount)| (name, WireQuantity(amount))).collect()
    }

    /// `status.allocatable`: what is left of the capacity for pods, without what is reserved and what is kept free by evicting.
    pub(crate) fn allocatable(&self, settings: &Configuration) -> BTreeMap<String, WireQuantity> {
        let mut list = self.capacity(settings);
        let in_pages = i64::try_from(self.huge_pages.values().sum::<u64>()).unwrap_or(i64::MAX);
        for (name, amount) in &mut list {
            let kept = settings.reserved(name);
            let left = match name.as_str() {
                "memory" => {
                    format!(
                        "{}Ki",
                        (self.memory_bytes
                            - kept_free(settings, Signal::Memory, self.memory_bytes)
                            - kept.value()
                            - in_pages)
                            .max(0)
                            / 1024
                    )
                }
                "ephemeral-storage" => {
                    (self.disk_bytes - kept_free(settings, Signal::NodeFs, self.disk_bytes) - kept.value())
                        .max(0)
                        .to_string()
                }
                _ if kept.is_zero() => continue,
                _ => {
                    let all: Quantity = amount.0.parse().unwrap_or(Quantity::ZERO);
                    (all - kept).max(Quantity::ZERO).to_string()
                }
            };
            *amount = WireQuantity(left);
        }
        list
    }

    /// Whether the machine has what is reserved of it.
    pub(crate) fn holds(&self, settings: &Configuration) -> Result<(), String> {
        for (name, capacity) in self.capacity(settings) {
            let (kept, all) = (settings.reserved(&name), capacity.0.parse().unwrap_or(Quantity::ZERO));
            if kept > all {
                return Err(format!(
                    "invalid Node Allocatable configuration. Resource {name:?} has a reservation of {kept} but capacity of {all}. Expected capacity >= reservation."
                ));
            }
        }
        Ok(())
    }

    /// What bounds all pods together: everything but what is reserved.
    pub(crate) fn limits_of_pods(&self, settings: &Configuration) -> Limits {
        let pids = settings.reserved("pid").value();
        Limits {
            cpu_shares: resources::shares(self.cpus * 1000 - settings.reserved("cpu").milli_value()),
            cpu_quota: None,
            memory_bytes: Some(self.memory_bytes - settings.reserved("memory").value()),
            pids: (self.max_pids > 0).then(|| (self.max_pids - pids).max(1)),
        }
    }

    /// `status.nodeInfo`.
    pub(crate) fn node_info(&self, version: &str, runtime: &str) -> NodeSystemInfo {
        NodeSystemInfo {
            machine_id: self.machine_id.clone(),
            system_uuid: self.system_uuid.clone(),
            boot_id: self.boot_id.clone(),
            kernel_version: self.kernel.clone(),
            os_image: self.os_image.clone(),
            container_runtime_version: runtime.to_owned(),
            kubelet_version: version.to_owned(),
            kube_proxy_version: String::new(),
            operating_system: "linux".to_owned(),
            architecture: self.architecture.to_owned(),
            ..Default::default()
        }
    }
}

/// One line of `/proc/meminfo` in bytes.
pub(crate) fn memory(meminfo: &str, key: &str) -> i64 {
    meminfo
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<i64>().ok())
        .map_or(0, |kib| kib * 1024)
}

fn os_image(release: &str) -> String {
    release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .unwrap_or_else(|| "Linux".to_owned())
}

/// The architecture in Go's words, which image names and labels use.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_not_for_pods() {
        let machine = Machine {
            cpus: 4,
            memory_bytes: 8 << 30,
            disk_bytes: 100 << 30,
            max_pids: 4096,
            ..Machine::default()
        };
        let amounts = |list: &[(&str, &str)]| {
            list.iter().map(|(name, amount)| ((*name).to_owned(), (*amount).to_owned())).collect()
        };
        let mut settings = Configuration {
            kube_reserved: amounts(&[("cpu", "500m"), ("memory", "1Gi"), ("pid", "96")]),
            system_reserved: amounts(&[("cpu", "1"), ("ephemeral-storage", "10Gi")]),
            ..Configuration::default()
        };
        let left = machine.allocatable(&settings);
        let of = |name: &str| left[name].0.as_str();
        assert_eq!((of("cpu"), of("memory"), of("pods")), ("2500m", "7237632Ki", "110"));
        assert_eq!(of("ephemeral-storage"), (80_i64 << 30).to_string());
        assert_eq!(machine.capacity(&settings)["cpu"].0, "4");
        assert_eq!(
            machine.limits_of_pods(&settings),
            Limits { cpu_shares: 2560, cpu_quota: None, memory_bytes: Some(7 << 30), pids: Some(4000) }
        );
        assert_eq!(machine.limits_of_pods(&Configuration::default()).pids, Some(4096));
        assert_eq!(machine.holds(&settings), Ok(()));
        settings.kube_reserved = amounts(&[("memory", "9Gi")]);
        assert!(
            machine
                .holds(&settings)
                .unwrap_err()
                .contains("\"memory\" has a reservation of 9Gi but capacity of 8Gi")
        );
    }

    #[test]
    fn memory_in_huge_pages_is_not_for_all() {
        let pages = |name: &str| PageSize::of_resource(name).unwrap();
        let machine = Machine {
            memory_bytes: 8 << 30,
            huge_pages: [(pages("hugepages-2Mi"), 512 << 20), (pages("hugepages-1Gi"), 0)].into(),
            ..Machine::default()
        };
        let settings = Configuration::default();
        let (all, left) = (machine.capacity(&settings), machine.allocatable(&settings));
        let of = |list: &BTreeMap<String, WireQuantity>, name: &str| list[name].0.clone();
        assert_eq!(of(&all, "hugepages-2Mi"), "512Mi");
        assert_eq!((of(&left, "hugepages-2Mi"), of(&left, "hugepages-1Gi")), ("512Mi".into(), "0".into()));
        let without = Machine { huge_pages: BTreeMap::new(), ..machine }.allocatable(&settings);
        let kib = |list: &BTreeMap<String, WireQuantity>| {
            of(list, "memory").trim_end_matches("Ki").parse::<i64>().unwrap()
        };
        assert_eq!(kib(&without) - kib(&left), 512 << 10);
    }

    #[test]
    fn files_are_read() {
        assert_eq!(memory("MemTotal:  16 kB\nMemFree: 4 kB\n", "MemTotal"), 16384);
        assert_eq!(memory("", "MemTotal"), 0);
        assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
    }
}
