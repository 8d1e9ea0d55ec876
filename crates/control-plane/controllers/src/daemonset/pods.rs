//! The pod that a DaemonSet wants on a node, and whether it wants one there at all.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, PodTemplateSpec, Toleration,
};

use super::HASH_LABEL;
use crate::labels;
use crate::node_affinity::{admits, required_terms};
use crate::nodes::{self, NO_EXECUTE, NO_SCHEDULE};
use crate::owner;
use crate::tainteviction::tolerates;

/// Old label that counts template changes.
const GENERATION_LABEL: &str = "pod-template-generation";
/// Where the API server keeps that count.
const GENERATION: &str = "deprecated.daemonset.template.generation";
const NODE_NAME: &str = "metadata.name";

/// Taints that daemons live with: they are what is to make nodes well again.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", NO_EXECUTE),
    ("node.kubernetes.io/unreachable", NO_EXECUTE),
    ("node.kubernetes.io/disk-pressure", NO_SCHEDULE),
    ("node.kubernetes.io/memory-pressure", NO_SCHEDULE),
    ("node.kubernetes.io/pid-pressure", NO_SCHEDULE),
    ("node.kubernetes.io/unschedulable", NO_SCHEDULE),
];
const NETWORK_UNAVAILABLE: &str = "node.kubernetes.io/network-unavailable";

/// The template with the tolerations and labels of a daemon.
pub(crate) fn daemon_template(set: &DaemonSet, hash: &str) -> PodTemplateSpec {
    let mut template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let spec = template.spec.get_or_insert_default();
    let network = (spec.host_network == Some(true)).then_some((NETWORK_UNAVAILABLE, NO_SCHEDULE));
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in TOLERATED.into_iter().chain(network) {
        let toleration = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    if let Some(generation) = generation(set) {
        labels.insert(GENERATION_LABEL.to_owned(), generation.to_owned());
    }
    labels.insert(HASH_LABEL.to_owned(), hash.to_owned());
    template
}

fn generation(set: &DaemonSet) -> Option<&str> {
    labels::value(set.metadata.annotations.as_ref(), GENERATION).filter(|text| text.parse::<i64>().is_ok())
}

/// Whether the pod runs today's template.
pub(crate) fn is_updated(pod: &Pod, hash: &str) -> bool {
    labels::value(pod.metadata.labels.as_ref(), HASH_LABEL) == Some(hash)
}

/// Binds a pod's spec to one node, by the affinity that the scheduler honours.
pub(crate) fn pin(spec: &mut PodSpec, node: &str) {
    let requirement = NodeSelectorRequirement {
        key: NODE_NAME.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    // Whatever the template required has been judged when the node was chosen, so it is replaced as upstream does.
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_expressions: None,
            match_fields: Some(vec![requirement]),
        }],
    });
}

/// The node a pod is on or meant for.
pub(crate) fn target_node(pod: &Pod) -> Option<&str> {
    if let Some(node) = crate::pods::node_name(pod) {
        return Some(node);
    }
    let terms = required_terms(pod.spec.as_ref()?)?;
    let fields = terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let named = fields.filter(|field| field.key == NODE_NAME && field.operator == "In");
    named.filter_map(|field| field.values.as_ref()?.first()).map(String::as_str).next()
}

/// What a node is to a DaemonSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suitability {
    /// There is to be a pod.
    Run,
    /// A pod that is there may stay.
    Stay,
    /// There must be none.
    Leave,
}

/// Judges a node. `template` has the daemon's tolerations.
pub(crate) fn suitability(template: &PodTemplateSpec, node: &Node) -> Suitability {
    let Some(spec) = &template.spec else { return Suitability::Leave };
    let elsewhere =
        spec.node_name.as_deref().is_some_and(|name| !name.is_empty() && name != owner::name(&node.metadata));
    if elsewhere || !admits(spec, node) {
        return Suitability::Leave;
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let untolerated = |effect: &str| {
        let mut taints = nodes::taints(node).iter().filter(|taint| taint.effect == effect);
        taints.any(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
    };
    match (untolerated(NO_EXECUTE), untolerated(NO_SCHEDULE)) {
        (true, _) => Suitability::Leave,
        (false, true) => Suitability::Stay,
        (false, false) => Suitability::Run,
    }
}
