//! Measures the machine: is the runtime up, is memory, disk or the number of processes short?

use std::fs;

use nix::sys::statvfs::statvfs;
use podium_cri::v1;

use super::{conditions::Health, machine::memory};
use crate::context::Shared;

/// Upstream's hard thresholds: memory below 100 MiB, disk below a tenth, inodes below a twentieth.
const MEMORY_LOW_BYTES: i64 = 100 << 20;
const DISK_LOW_PERCENT: u64 = 10;
const INODES_LOW_PERCENT: u64 = 5;
/// Fewer free process ids than this are too few to start anything.
const PIDS_LOW: i64 = 1000;

/// Looks at everything.
pub(crate) async fn health(shared: &Shared) -> Health {
    let root = shared.config.root_dir.clone();
    let measured = tokio::task::spawn_blocking(move || Health {
        not_ready: None,
        memory_pressure: memory_low(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
        disk_pressure: disk_low(&root),
        pid_pressure: pids_low(),
    });
    let mut health = measured.await.unwrap_or_default();
    health.not_ready = runtime_trouble(shared).await;
    health
}

/// What the node is short of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shortage {
    pub(crate) resource: &'static str,
    /// As upstream writes the threshold.
    pub(crate) threshold: &'static str,
    pub(crate) available: String,
}

/// What the node is short of now, memory first: it is what kills.
pub(crate) fn shortage(root: &std::path::Path) -> Option<Shortage> {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    if memory_low(&meminfo) {
        let available = format!("{}Ki", memory(&meminfo, "MemAvailable") / 1024);
        return Some(Shortage { resource: "memory", threshold: "100Mi", available });
    }
    if disk_low(root) {
        let free =
            statvfs(root).map_or(0, |stats| stats.blocks_available().saturating_mul(stats.fragment_size()));
        let available = format!("{}Ki", free / 1024);
        return Some(Shortage { resource: "ephemeral-storage", threshold: "10%", available });
    }
    None
}

fn memory_low(meminfo: &str) -> bool {
    let available = memory(meminfo, "MemAvailable");
    available > 0 && available < MEMORY_LOW_BYTES
}

fn disk_low(root: &std::path::Path) -> bool {
    let Ok(stats) = statvfs(root) else { return false };
    let low =
        |free: u64, all: u64, percent: u64| all > 0 && free.saturating_mul(100) < all.saturating_mul(percent);
    low(stats.blocks_available(), stats.blocks(), DISK_LOW_PERCENT)
        || low(stats.files_available(), stats.files(), INODES_LOW_PERCENT)
}

fn pids_low() -> bool {
    let number = |path: &str| fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<i64>().ok());
    let running = fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| text.split_whitespace().nth(3)?.split_once('/')?.1.parse::<i64>().ok());
    let limit =
        number("/proc/sys/kernel/pid_max").into_iter().chain(number("/proc/sys/kernel/threads-max")).min();
    matches!((limit, running), (Some(limit), Some(running)) if limit - running < PIDS_LOW)
}

/// What keeps containers from running, None if nothing does.
async fn runtime_trouble(shared: &Shared) -> Option<String> {
    let status = match shared.cri.status(v1::StatusRequest { verbose: false }).await {
        Ok(answer) => answer.status.unwrap_or_default(),
        Err(error) => {
            return Some(format!(
                "[container runtime is down, container runtime status check failed: {}]",
                error.grpc_text()
            ));
        }
    };
    judge(&status)
}

/// Upstream's words for what the runtime says.
fn judge(status: &v1::RuntimeStatus) -> Option<String> {
    let condition = |wanted: &str| status.conditions.iter().find(|condition| condition.r#type == wanted);
    let shown = |one: &v1::RuntimeCondition| {
        format!("{}={} reason:{} message:{}", one.r#type, one.status, one.reason, one.message)
    };
    let mut troubles = Vec::new();
    match condition("NetworkReady") {
        None => troubles.push("container runtime network not ready: <nil>".to_owned()),
        Some(one) if !one.status => {
            troubles.push(format!("container runtime network not ready: {}", shown(one)));
        }
        Some(_) => {}
    }
    match condition("RuntimeReady") {
        None => troubles.push("container runtime not ready: <nil>".to_owned()),
        Some(one) if !one.status => troubles.push(format!("container runtime not ready: {}", shown(one))),
        Some(_) => {}
    }
    match troubles.len() {
        0 => None,
        1 => troubles.pop(),
        _ => Some(format!("[{}]", troubles.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtimes_word_counts() {
        let condition = |type_: &str, status: bool| v1::RuntimeCondition {
            r#type: type_.into(),
            status,
            reason: "R".into(),
            message: "m".into(),
        };
        let judged = |network: bool, runtime: bool| {
            judge(&v1::RuntimeStatus {
                conditions: vec![condition("NetworkReady", network), condition("RuntimeReady", runtime)],
            })
        };
        assert_eq!(judged(true, true), None);
        assert_eq!(
            judged(false, true).as_deref(),
            Some("container runtime network not ready: NetworkReady=false reason:R message:m")
        );
        assert!(judged(false, false).unwrap().starts_with("[container runtime network"));
        assert!(judge(&v1::RuntimeStatus::default()).is_some());
    }

    #[test]
    fn memory_is_short_below_the_threshold() {
        assert!(memory_low("MemAvailable: 50000 kB\n"));
        assert!(!memory_low("MemAvailable: 500000 kB\n") && !memory_low(""));
    }
}
