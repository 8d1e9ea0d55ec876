//! What a pod says about nodes (selector and node affinity) and about other pods (pod affinity), in a
//! form that can be matched.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1 as wire;
use podium_api::selector::LabelSelector;

/// Labels of a node, pod or namespace.
pub type Labels = BTreeMap<String, String>;

/// Which nodes a pod may and would like to be on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeAffinity {
    /// The pod's nodeSelector: all of these labels.
    pub selector: Labels,
    /// Required terms, of which one must match; `None` when nothing is required.
    pub required: Option<Vec<NodeTerm>>,
    /// Preferred terms and their weights.
    pub preferred: Vec<(i64, NodeTerm)>,
}

/// Requirements that must all hold. A term without any holds nowhere.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeTerm {
    labels: Vec<NodeRequirement>,
    /// On the node's name, the only field there is.
    names: Vec<NodeRequirement>,
}

#[derive(Clone, Debug, PartialEq)]
struct NodeRequirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq)]
enum Test {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    DoesNotExist,
    GreaterThan(i64),
    LessThan(i64),
    /// Does not parse: holds nowhere.
    Never,
}

impl NodeAffinity {
    /// Reads a pod's spec; `None` when it says nothing about nodes.
    pub fn from_spec(spec: &wire::PodSpec) -> Option<Self> {
        let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let selector = spec.node_selector.clone().unwrap_or_default();
        if affinity.is_none() && selector.is_empty() {
            return None;
        }
        let required = affinity
            .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref())
            .map(|required| required.node_selector_terms.iter().map(NodeTerm::from_wire).collect());
        let preferred = affinity
            .and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref())
            .into_iter()
            .flatten()
            .filter(|preferred| preferred.weight != 0)
            .map(|preferred| (i64::from(preferred.weight), NodeTerm::from_wire(&preferred.preference)))
            .collect();
        Some(Self { selector, required, preferred })
    }

    /// Whether the pod may be on that node.
    pub fn admits(&self, name: &str, labels: &Labels) -> bool {
        self.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.required.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(name, labels)))
    }

    /// The weight of the preferences that the node meets.
    pub fn preference(&self, name: &str, labels: &Labels) -> i64 {
        let met = self.preferred.iter().filter(|(_, term)| term.matches(name, labels));
        met.map(|(weight, _)| weight).sum()
    }

    /// The only nodes the required terms can mean, if every term names some; an empty set is a
    /// contradiction. Pods of daemon sets are placed by this.
    pub fn named_nodes(&self) -> Option<BTreeSet<&str>> {
        let terms = self.required.as_ref().filter(|terms| !terms.is_empty())?;
        let mut names = BTreeSet::new();
        for term in terms {
            let mut in_term: Option<BTreeSet<&str>> = None;
            for requirement in &term.names {
                if let Test::In(values) = &requirement.test {
                    let values: BTreeSet<&str> = values.iter().map(String::as_str).collect();
                    in_term = Some(match in_term {
                        Some(before) => before.intersection(&values).copied().collect(),
                        None => values,
                    });
                }
            }
            names.extend(in_term?);
        }
        Some(names)
    }
}

impl NodeTerm {
    /// Reads a term.
    pub fn from_wire(term: &wire::NodeSelectorTerm) -> Self {
        let read = |requirements: &Option<Vec<wire::NodeSelectorRequirement>>| {
            requirements.iter().flatten().map(NodeRequirement::from_wire).collect()
        };
        Self { labels: read(&term.match_expressions), names: read(&term.match_fields) }
    }

    /// Whether a node of that name and those labels meets the term.
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        if self.labels.is_empty() && self.names.is_empty() {
            return false;
        }
        self.labels
            .iter()
            .all(|requirement| requirement.test.holds(labels.get(&requirement.key).map(String::as_str)))
            && self
                .names
                .iter()
                .all(|requirement| requirement.key == "metadata.name" && requirement.test.holds(Some(name)))
    }
}

impl NodeRequirement {
    fn from_wire(requirement: &wire::NodeSelectorRequirement) -> Self {
        let values = || requirement.values.iter().flatten().cloned().collect::<BTreeSet<_>>();
        let number = || match requirement.values.as_deref() {
            Some([value]) => value.parse::<i64>().ok(),
            _ => None,
        };
        let test = match requirement.operator.as_str() {
            "In" => Test::In(values()),
            "NotIn" => Test::NotIn(values()),
            "Exists" => Test::Exists,
            "DoesNotExist" => Test::DoesNotExist,
            "Gt" => number().map_or(Test::Never, Test::GreaterThan),
            "Lt" => number().map_or(Test::Never, Test::LessThan),
            _ => Test::Never,
        };
        Self { key: requirement.key.clone(), test }
    }
}

impl Test {
    fn holds(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match self {
            Self::In(values) => value.is_some_and(|value| values.contains(value)),
            Self::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Self::Exists => value.is_some(),
            Self::DoesNotExist => value.is_none(),
            Self::GreaterThan(bound) => number().is_some_and(|number| number > *bound),
            Self::LessThan(bound) => number().is_some_and(|number| number < *bound),
            Self::Never => false,
        }
    }
}

/// Which pods a pod wants to share a topology domain with, and which not.
#[derive(Clone, Debug, Default)]
pub struct PodAffinity {
    /// All must be met.
    pub required: Vec<PodTerm>,
    /// None may be met.
    pub required_anti: Vec<PodTerm>,
    /// Preferred, with weights.
    pub preferred: Vec<(i64, PodTerm)>,
    /// Preferred to be away from, with weights.
    pub preferred_anti: Vec<(i64, PodTerm)>,
}

/// A set of pods, and the node label whose equal values make one domain.
#[derive(Clone, Debug)]
pub struct PodTerm {
    /// The pods meant.
    pub selector: LabelSelector,
    /// Namespaces named.
    pub namespaces: BTreeSet<String>,
    /// More namespaces, by their labels.
    pub namespace_selector: LabelSelector,
    /// The node label.
    pub topology_key: String,
}

/// Labels of namespaces by name.
pub(crate) type NamespaceLabels<'a> = &'a dyn Fn(&str) -> Option<Labels>;

impl PodAffinity {
    /// Reads the spec of a pod in `namespace`; `None` when it says nothing about other pods.
    pub fn from_spec(spec: &wire::PodSpec, namespace: &str) -> Option<Self> {
        let affinity = spec.affinity.as_ref()?;
        let mut read = Self::default();
        let terms = |terms: &Option<Vec<wire::PodAffinityTerm>>| -> Vec<PodTerm> {
            terms.iter().flatten().map(|term| PodTerm::from_wire(term, namespace)).collect()
        };
        let weighted = |terms: &Option<Vec<wire::WeightedPodAffinityTerm>>| -> Vec<(i64, PodTerm)> {
            let terms = terms.iter().flatten();
            terms
                .map(|term| (i64::from(term.weight), PodTerm::from_wire(&term.pod_affinity_term, namespace)))
                .collect()
        };
        if let Some(affinity) = &affinity.pod_affinity {
            read.required = terms(&affinity.required_during_scheduling_ignored_during_execution);
            read.preferred = weighted(&affinity.preferred_during_scheduling_ignored_during_execution);
        }
        if let Some(affinity) = &affinity.pod_anti_affinity {
            read.required_anti = terms(&affinity.required_during_scheduling_ignored_during_execution);
            read.preferred_anti = weighted(&affinity.preferred_during_scheduling_ignored_during_execution);
        }
        let empty = read.required.is_empty()
            && read.required_anti.is_empty()
            && read.preferred.is_empty()
            && read.preferred_anti.is_empty();
        (!empty).then_some(read)
    }
}

impl PodTerm {
    fn from_wire(term: &wire::PodAffinityTerm, own_namespace: &str) -> Self {
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.insert(own_namespace.to_owned());
        }
        let selector = |wire: &Option<_>| {
            // Validation keeps bad selectors out; one that came through means no pods.
            wire.as_ref().map_or(LabelSelector::nothing(), |wire| {
                LabelSelector::from_object(wire).unwrap_or(LabelSelector::nothing())
            })
        };
        Self {
            selector: selector(&term.label_selector),
            namespaces,
            namespace_selector: selector(&term.namespace_selector),
            topology_key: term.topology_key.clone(),
        }
    }

    /// Whether a pod of that namespace with those labels is meant.
    pub(crate) fn matches(&self, namespace: &str, labels: &Labels, namespaces: NamespaceLabels<'_>) -> bool {
        self.selector.matches(labels) && self.covers(namespace, namespaces)
    }

    fn covers(&self, namespace: &str, namespaces: NamespaceLabels<'_>) -> bool {
        self.namespaces.contains(namespace)
            || self.namespace_selector.is_everything()
            || (!self.namespace_selector.is_nothing()
                && namespaces(namespace).is_some_and(|labels| self.namespace_selector.matches(&labels)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn affinity(spec: &Value) -> NodeAffinity {
        let mut whole = json!({"containers": []});
        whole.as_object_mut().unwrap().append(&mut spec.as_object().unwrap().clone());
        NodeAffinity::from_spec(&serde_json::from_value(whole).unwrap()).unwrap()
    }

    fn required(terms: &Value) -> NodeAffinity {
        affinity(
            &json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}}),
        )
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn expressions_hold_as_upstream_says() {
        let node = labels(&[("zone", "a"), ("cores", "8"), ("odd", "x8")]);
        let cases = [
            ("In", "zone", json!(["a", "b"]), true),
            ("In", "zone", json!(["b"]), false),
            ("In", "none", json!(["a"]), false),
            ("NotIn", "zone", json!(["b"]), true),
            ("NotIn", "zone", json!(["a"]), false),
            ("NotIn", "none", json!(["a"]), true),
            ("Exists", "zone", json!([]), true),
            ("Exists", "none", json!([]), false),
            ("DoesNotExist", "zone", json!([]), false),
            ("DoesNotExist", "none", json!([]), true),
            ("Gt", "cores", json!(["7"]), true),
            ("Gt", "cores", json!(["8"]), false),
            ("Gt", "odd", json!(["1"]), false),
            ("Gt", "cores", json!(["x"]), false),
            ("Lt", "cores", json!(["9"]), true),
            ("Lt", "cores", json!(["8"]), false),
            ("Like", "zone", json!(["a"]), false),
        ];
        for (operator, key, values, expected) in cases {
            let affinity = required(
                &json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]),
            );
            assert_eq!(affinity.admits("n", &node), expected, "{key} {operator} {values}");
        }
    }

    #[test]
    fn terms_are_alternatives_and_requirements_add_up() {
        let node = labels(&[("zone", "a"), ("disk", "ssd")]);
        let is = |key: &str, value: &str| json!({"key": key, "operator": "In", "values": [value]});
        assert!(
            required(
                &json!([{"matchExpressions": [is("zone", "b")]}, {"matchExpressions": [is("zone", "a")]}])
            )
            .admits("n", &node)
        );
        assert!(
            !required(&json!([{"matchExpressions": [is("zone", "a"), is("disk", "hdd")]}]))
                .admits("n", &node)
        );
        assert!(!required(&json!([])).admits("n", &node), "no terms match nothing");
        assert!(!required(&json!([{}])).admits("n", &node), "an empty term matches nothing");
    }

    #[test]
    fn the_node_selector_adds_to_the_affinity() {
        let both = affinity(&json!({"nodeSelector": {"disk": "ssd"}, "affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}]}}}}));
        assert!(both.admits("n", &labels(&[("disk", "ssd"), ("zone", "a")])));
        assert!(!both.admits("n", &labels(&[("disk", "ssd")])));
        assert!(!both.admits("n", &labels(&[("zone", "a")])));
    }

    #[test]
    fn daemon_pods_name_their_node() {
        let name = |names: Value| json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": names}]});
        let daemon = required(&json!([name(json!(["n1"]))]));
        assert!(daemon.admits("n1", &Labels::new()) && !daemon.admits("n2", &Labels::new()));
        assert_eq!(daemon.named_nodes(), Some(BTreeSet::from(["n1"])));
        assert_eq!(
            required(&json!([name(json!(["n1"])), name(json!(["n2"]))])).named_nodes(),
            Some(BTreeSet::from(["n1", "n2"]))
        );
        let free = json!({"matchExpressions": [{"key": "zone", "operator": "Exists"}]});
        assert_eq!(required(&json!([name(json!(["n1"])), free])).named_nodes(), None);
        let contradiction = json!({"matchFields": [
            {"key": "metadata.name", "operator": "In", "values": ["n1"]}, {"key": "metadata.name", "operator": "In", "values": ["n2"]}]});
        assert_eq!(required(&json!([contradiction])).named_nodes(), Some(BTreeSet::new()));
    }

    #[test]
    fn preferences_add_their_weights() {
        let prefers = affinity(
            &json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 10, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}},
                {"weight": 5, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}},
            ]}}}),
        );
        assert!(prefers.admits("n", &Labels::new()));
        assert_eq!(prefers.preference("n", &labels(&[("zone", "a"), ("disk", "x")])), 15);
        assert_eq!(prefers.preference("n", &labels(&[("disk", "x")])), 5);
    }

    #[test]
    fn pod_terms_cover_own_named_and_selected_namespaces() {
        let term = |extra: Value| {
            let mut term = json!({"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "x"}}});
            term.as_object_mut().unwrap().append(&mut extra.as_object().unwrap().clone());
            PodTerm::from_wire(&serde_json::from_value(term).unwrap(), "own")
        };
        let namespaces = |name: &str| (name == "team").then(|| labels(&[("team", "t")]));
        let app = labels(&[("app", "x")]);
        let cases = [
            ("own by default", term(json!({})), "own", true),
            ("not others by default", term(json!({})), "team", false),
            ("named", term(json!({"namespaces": ["team"]})), "team", true),
            ("named leaves out own", term(json!({"namespaces": ["team"]})), "own", false),
            ("all", term(json!({"namespaceSelector": {}})), "anything", true),
            ("selected", term(json!({"namespaceSelector": {"matchLabels": {"team": "t"}}})), "team", true),
            (
                "not selected",
                term(json!({"namespaceSelector": {"matchLabels": {"team": "t"}}})),
                "own",
                false,
            ),
        ];
        for (case, term, namespace, expected) in cases {
            assert_eq!(term.matches(namespace, &app, &namespaces), expected, "{case}");
            assert!(!term.matches(namespace, &Labels::new(), &namespaces), "{case}");
        }
    }
}
