//! Whether a pod's own rules let it onto a node: node selector and required node affinity.

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

use crate::labels;
use crate::owner;

/// Whether the node satisfies the pod's selector and required affinity.
pub(crate) fn admits(spec: &PodSpec, node: &Node) -> bool {
    labels::contains_all(node.metadata.labels.as_ref(), spec.node_selector.as_ref())
        && required_terms(spec).is_none_or(|terms| terms.iter().any(|term| matches_term(term, node)))
}

/// The terms of the required node affinity, one of which must hold.
pub(crate) fn required_terms(spec: &PodSpec) -> Option<&[NodeSelectorTerm]> {
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    Some(&required.node_selector_terms)
}

fn matches_term(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    // A term without any requirement matches nothing.
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let label = |key: &str| labels::value(node.metadata.labels.as_ref(), key);
    let field = |key: &str| (key == "metadata.name").then(|| owner::name(&node.metadata));
    expressions.iter().all(|it| holds(it, label(&it.key)))
        && fields.iter().all(|it| holds(it, field(&it.key)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|it| it == value));
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
    let pair = || Some((number(value)?, number(values.first().map(String::as_str))?));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => pair().is_some_and(|(value, bound)| value > bound),
        "Lt" => pair().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Affinity, NodeAffinity, NodeSelector};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;
    use crate::testing::{labels, meta};

    #[test]
    fn requirements_hold_as_upstream_has_them() {
        let node = Node {
            metadata: ObjectMeta { labels: Some(labels(&[("disk", "ssd"), ("cores", "8")])), ..meta("n1") },
            ..Node::default()
        };
        let requirement = |key: &str, operator: &str, values: &[&str]| NodeSelectorRequirement {
            key: key.to_owned(),
            operator: operator.to_owned(),
            values: Some(values.iter().map(|it| (*it).to_owned()).collect()),
        };
        let spec = |expressions: Vec<NodeSelectorRequirement>, fields: Vec<NodeSelectorRequirement>| {
            let term = NodeSelectorTerm { match_expressions: Some(expressions), match_fields: Some(fields) };
            let required = NodeSelector { node_selector_terms: vec![term] };
            let affinity = NodeAffinity {
                required_during_scheduling_ignored_during_execution: Some(required),
                ..NodeAffinity::default()
            };
            let affinity = Affinity { node_affinity: Some(affinity), ..Affinity::default() };
            PodSpec { affinity: Some(affinity), ..PodSpec::default() }
        };
        for (operator, key, values, expected) in [
            ("In", "disk", &["ssd", "hdd"][..], true),
            ("NotIn", "disk", &["ssd"], false),
            ("NotIn", "absent", &["x"], true),
            ("Exists", "disk", &[], true),
            ("DoesNotExist", "disk", &[], false),
            ("Gt", "cores", &["4"], true),
            ("Lt", "cores", &["4"], false),
            ("Gt", "disk", &["4"], false),
        ] {
            assert_eq!(
                admits(&spec(vec![requirement(key, operator, values)], vec![]), &node),
                expected,
                "{operator} {key}"
            );
        }
        assert!(admits(&spec(vec![], vec![requirement("metadata.name", "In", &["n1"])]), &node));
        assert!(!admits(&spec(vec![], vec![requirement("metadata.name", "In", &["n2"])]), &node));
        assert!(!admits(&spec(vec![], vec![]), &node), "an empty term matches nothing");
        let selecting = PodSpec { node_selector: Some(labels(&[("disk", "hdd")])), ..PodSpec::default() };
        assert!(!admits(&selecting, &node));
    }
}
