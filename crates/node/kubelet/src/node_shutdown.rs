//! Graceful node shutdown: when the machine is to go down, its pods end first, those of low priority before those of high,
//! each group within the time the configuration gives it.
//!
//! What is known of a shutdown comes from [`logind`]: it asks those who hold a delay lock to let go of it, and waits for them.
//! Source: `shutdownGracePeriod`, `shutdownGracePeriodCriticalPods` and `shutdownGracePeriodByPodPriority` of
//! KubeletConfiguration, KEP-2000 and KEP-2712. Reasons and messages are upstream's.

pub(crate) mod logind;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use podium_client::{EventType, error_chain};

use crate::{
    Configuration, admission::Refused, context::Shared, manager::Pods, metrics, node, status::Verdict,
};
use logind::{Logind, LogindError};

/// Pause before logind is tried again: it may come up later than the kubelet, and the bus may be started anew.
const RETRY: Duration = Duration::from_secs(5);
/// The priority of `system-cluster-critical`, from which on a pod is critical.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// Pods that end together: those of this priority and more, up to the next group's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) priority: i32,
    /// The time that the group has.
    pub(crate) period: Duration,
}

/// The groups in the order that they end in, lowest priority first; empty if the feature is off.
pub(crate) fn groups(settings: &Configuration) -> Vec<Group> {
    let mut groups: Vec<Group> = settings
        .shutdown_grace_period_by_pod_priority
        .iter()
        .map(|one| {
            let period = Duration::from_secs(u64::try_from(one.shutdown_grace_period_seconds).unwrap_or(0));
            Group { priority: one.priority, period }
        })
        .collect();
    groups.sort_by_key(|group| group.priority);
    let (all, critical) = (settings.shutdown_grace_period.0, settings.shutdown_grace_period_critical_pods.0);
    if groups.is_empty() && !all.is_zero() {
        groups = vec![
            Group { priority: 0, period: all.saturating_sub(critical) },
            Group { priority: CRITICAL_PRIORITY, period: critical },
        ];
    }
    groups
}

/// The groups that have pods, with them, in the same order. A pod below the lowest priority is in the first group.
pub(crate) fn by_group(groups: &[Group], pods: &[Arc<Pod>]) -> Vec<(Group, Vec<Arc<Pod>>)> {
    let mut found: BTreeMap<usize, Vec<Arc<Pod>>> = BTreeMap::new();
    for pod in pods {
        let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
        let at = groups.iter().rposition(|group| group.priority <= priority).unwrap_or(0);
        found.entry(at).or_default().push(pod.clone());
    }
    found.into_iter().filter_map(|(at, pods)| Some((*groups.get(at)?, pods))).collect()
}

/// The grace period in seconds of a pod of a group: its own, or the group's if that is shorter.
pub(crate) fn grace_seconds(group: Group, pod: &Pod) -> i64 {
    let most = i64::try_from(group.period.as_secs()).unwrap_or(i64::MAX);
    let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    own.map_or(most, |own| own.min(most))
}

/// What a pod that ends for the shutdown is told.
pub(crate) fn verdict() -> Verdict {
    let message = "Pod was terminated in response to imminent node shutdown.";
    Verdict::disrupting("Terminated", message.to_owned())
}

/// Why a pod that comes now does not start.
pub(crate) fn refusal() -> Refused {
    Refused {
        reason: "NodeShutdown".to_owned(),
        message: "Pod was rejected as the node is shutting down.".to_owned(),
    }
}

/// Holds the machine's shutdown up until the pods have ended. Runs until the kubelet's own end; does nothing where the
/// feature is off. Without logind the kubelet does its work and says so.
pub(crate) async fn run(shared: &Shared, pods: &Pods) {
    let groups = groups(&shared.config.settings);
    if groups.is_empty() {
        return;
    }
    let follow = async {
        let mut told = false;
        loop {
            let Err(error) = follow(shared, pods, &groups).await;
            let error = error_chain(&error);
            if told {
                tracing::debug!(error, "logind is still not followed");
            } else if *shared.leaving.borrow() {
                // It goes down like everything else: the pods have ended, which is what it was followed for.
                tracing::info!(error, "logind has gone, as the machine goes down");
            } else {
                tracing::error!(error, "shutdownGracePeriod has no effect while logind cannot be followed");
            }
            told = true;
            tokio::time::sleep(RETRY).await;
        }
    };
    tokio::select! {
        () = follow => {}
        () = shared.shutdown.cancelled() => {}
    }
}

/// Follows logind until it cannot be.
async fn follow(
    shared: &Shared,
    pods: &Pods,
    groups: &[Group],
) -> Result<std::convert::Infallible, LogindError> {
    let logind = Logind::connect(&shared.config.logind).await?;
    let mut signals = logind.shutdowns().await?;
    let wanted = groups.iter().map(|group| group.period).sum();
    logind.allow(wanted, &shared.config.root_dir).await?;
    let mut begins = logind.is_preparing().await?;
    // Held, not read: the shutdown goes on when it is dropped, and if this kubelet dies.
    let mut lock = None;
    loop {
        if begins {
            tracing::info!("the machine is shutting down: ending its pods");
            let about = node::reference(&shared.config.node_name);
            let text = "Shutdown manager detected shutdown event";
            shared.recorder.event(&about, EventType::Normal, "Shutdown", text.to_owned());
            shared.leaving.send_replace(true);
            shared.metrics.moment(&metrics::SHUTDOWN_BEGAN, Timestamp::now());
            shared.metrics.set(&metrics::SHUTDOWN_ENDED, &[], 0.0);
            pods.end_all(groups).await;
            shared.metrics.moment(&metrics::SHUTDOWN_ENDED, Timestamp::now());
            drop(lock.take());
        } else {
            // At first, and after a shutdown that was called off.
            shared.leaving.send_replace(false);
            lock = Some(logind.inhibit().await?);
        }
        begins = signals.next().await?;
    }
}
