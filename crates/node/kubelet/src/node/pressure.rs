//! The node's health: is the runtime up, is memory, disk or the number of processes short?

use k8s_openapi::api::core::v1::{NodeFeatures, NodeRuntimeHandler, NodeRuntimeHandlerFeatures};
use podium_cri::v1;

use super::conditions::Health;
use crate::{context::Shared, eviction::state::Pressure};

/// What a look at the runtime says, for the node's conditions and for its status.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) health: Health,
    pub(crate) runtime_handlers: Option<Vec<NodeRuntimeHandler>>,
    pub(crate) features: Option<NodeFeatures>,
}

/// Looks at the runtime; what the node is short of has been found by who reclaims it.
pub(crate) async fn report(shared: &Shared) -> Report {
    let answer = shared.cri.status(v1::StatusRequest { verbose: false }).await;
    let leaving = *shared.leaving.borrow();
    let runtime = match &answer {
        Ok(answer) => judge(&answer.status.clone().unwrap_or_default()),
        Err(error) => vec![
            "container runtime is down".to_owned(),
            format!("container runtime status check failed: {}", error.grpc_text()),
        ],
    };
    let answer = answer.unwrap_or_default();
    let pressures = shared.pressures.lock();
    let health = Health {
        not_ready: aggregate(runtime, leaving),
        memory_pressure: pressures.contains(&Pressure::Memory),
        disk_pressure: pressures.contains(&Pressure::Disk),
        pid_pressure: pressures.contains(&Pressure::Pid),
    };
    Report { health, runtime_handlers: handlers(&answer), features: features(&answer) }
}

/// What the runtime's handlers can do; None if it does not say.
fn handlers(answer: &v1::StatusResponse) -> Option<Vec<NodeRuntimeHandler>> {
    let handler = |one: &v1::RuntimeHandler| NodeRuntimeHandler {
        name: Some(one.name.clone()),
        features: one.features.as_ref().map(|features| NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(features.recursive_read_only_mounts),
            user_namespaces: Some(features.user_namespaces),
        }),
    };
    (!answer.runtime_handlers.is_empty()).then(|| answer.runtime_handlers.iter().map(handler).collect())
}

fn features(answer: &v1::StatusResponse) -> Option<NodeFeatures> {
    let told = answer.features.as_ref()?;
    Some(NodeFeatures { supplemental_groups_policy: Some(told.supplemental_groups_policy) })
}

/// Upstream's words for what the runtime says.
fn judge(status: &v1::RuntimeStatus) -> Vec<String> {
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
    troubles
}

/// Everything that keeps the node from being ready, as upstream joins it.
fn aggregate(mut troubles: Vec<String>, leaving: bool) -> Option<String> {
    if leaving {
        troubles.push("node is shutting down".to_owned());
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
    fn handlers_and_features_are_handed_on() {
        let told = v1::RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: false };
        let answer = v1::StatusResponse {
            runtime_handlers: vec![v1::RuntimeHandler { name: "runc".into(), features: Some(told) }],
            features: Some(v1::RuntimeFeatures { supplemental_groups_policy: true, ..Default::default() }),
            ..Default::default()
        };
        let found = handlers(&answer).unwrap();
        let can = found[0].features.as_ref().unwrap();
        assert_eq!(found[0].name.as_deref(), Some("runc"));
        assert_eq!((can.recursive_read_only_mounts, can.user_namespaces), (Some(true), Some(false)));
        assert_eq!(features(&answer).unwrap().supplemental_groups_policy, Some(true));
        let silent = v1::StatusResponse::default();
        assert!(handlers(&silent).is_none() && features(&silent).is_none());
    }

    #[test]
    fn the_runtimes_word_counts() {
        let condition = |type_: &str, status: bool| v1::RuntimeCondition {
            r#type: type_.into(),
            status,
            reason: "R".into(),
            message: "m".into(),
        };
        let judged = |network: bool, runtime: bool| {
            let conditions = vec![condition("NetworkReady", network), condition("RuntimeReady", runtime)];
            aggregate(judge(&v1::RuntimeStatus { conditions }), false)
        };
        assert_eq!(judged(true, true), None);
        assert_eq!(
            judged(false, true).as_deref(),
            Some("container runtime network not ready: NetworkReady=false reason:R message:m")
        );
        assert!(judged(false, false).unwrap().starts_with("[container runtime network"));
        assert_eq!(judge(&v1::RuntimeStatus::default()).len(), 2);
        assert_eq!(aggregate(Vec::new(), true).as_deref(), Some("node is shutting down"));
        let both = aggregate(vec!["a".to_owned()], true);
        assert_eq!(both.as_deref(), Some("[a, node is shutting down]"));
    }
}
