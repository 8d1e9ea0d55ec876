//! The node's conditions, from what was measured. Pure; reasons and messages are upstream's.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeCondition;

use crate::status::time;

/// What conditions are decided from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Health {
    /// None if all is well, else why not: the runtime's and the network's words.
    pub(crate) not_ready: Option<String>,
    pub(crate) memory_pressure: bool,
    pub(crate) disk_pressure: bool,
    pub(crate) pid_pressure: bool,
}

/// A condition's change, as its event names it.
pub(crate) type Transition = &'static str;

/// All four conditions, and the transitions from `old`, in the order to report them.
pub(crate) fn conditions(
    health: &Health,
    old: &[NodeCondition],
    now: Timestamp,
) -> (Vec<NodeCondition>, Vec<Transition>) {
    let mut transitions = Vec::new();
    let mut judge = |type_: &str, met: bool, reason: &str, message: &str, event: Transition| {
        let status = if met { "True" } else { "False" };
        let before = old.iter().find(|old| old.type_ == type_);
        let kept = before.filter(|before| before.status == status);
        if kept.is_none() {
            transitions.push(event);
        }
        NodeCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: time(now),
            last_transition_time: kept
                .and_then(|kept| kept.last_transition_time.clone())
                .or_else(|| time(now)),
        }
    };
    let memory = if health.memory_pressure {
        judge(
            "MemoryPressure",
            true,
            "KubeletHasInsufficientMemory",
            "kubelet has insufficient memory available",
            "NodeHasInsufficientMemory",
        )
    } else {
        judge(
            "MemoryPressure",
            false,
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
            "NodeHasSufficientMemory",
        )
    };
    let disk = if health.disk_pressure {
        judge(
            "DiskPressure",
            true,
            "KubeletHasDiskPressure",
            "kubelet has disk pressure",
            "NodeHasDiskPressure",
        )
    } else {
        judge(
            "DiskPressure",
            false,
            "KubeletHasNoDiskPressure",
            "kubelet has no disk pressure",
            "NodeHasNoDiskPressure",
        )
    };
    let pids = if health.pid_pressure {
        judge(
            "PIDPressure",
            true,
            "KubeletHasInsufficientPID",
            "kubelet has insufficient PID available",
            "NodeHasInsufficientPID",
        )
    } else {
        judge(
            "PIDPressure",
            false,
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available",
            "NodeHasSufficientPID",
        )
    };
    let ready = match &health.not_ready {
        None => judge("Ready", true, "KubeletReady", "kubelet is posting ready status", "NodeReady"),
        Some(why) => judge("Ready", false, "KubeletNotReady", why, "NodeNotReady"),
    };
    (vec![memory, disk, pids, ready], transitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions_are_reported_once() {
        let at = |seconds: i64| Timestamp::from_second(seconds).unwrap();
        let (first, events) = conditions(&Health::default(), &[], at(1));
        assert_eq!(
            events,
            ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID", "NodeReady"]
        );
        let (second, events) = conditions(&Health::default(), &first, at(9));
        assert!(events.is_empty());
        assert_eq!(second[3].last_transition_time, first[3].last_transition_time);
        assert_ne!(second[3].last_heartbeat_time, first[3].last_heartbeat_time);
        let down = Health { not_ready: Some("container runtime is down".into()), ..Default::default() };
        let (third, events) = conditions(&down, &second, at(10));
        assert_eq!(events, ["NodeNotReady"]);
        assert_eq!(third[3].status, "False");
        assert_eq!(third[3].message.as_deref(), Some("container runtime is down"));
    }
}
