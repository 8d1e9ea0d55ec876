//! The node's health: is the runtime up, is memory, disk or the number of processes short?

use podium_cri::v1;

use super::conditions::Health;
use crate::{context::Shared, eviction::state::Pressure};

/// Looks at the runtime; what the node is short of has been found by who reclaims it.
pub(crate) async fn health(shared: &Shared) -> Health {
    let not_ready = runtime_trouble(shared).await;
    let pressures = shared.pressures.lock();
    Health {
        not_ready,
        memory_pressure: pressures.contains(&Pressure::Memory),
        disk_pressure: pressures.contains(&Pressure::Disk),
        pid_pressure: pressures.contains(&Pressure::Pid),
    }
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
}
