//! The rules that an aggregated role should have.

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};

use crate::canonical::canonical;
use crate::labels::{InvalidSelector, Selector};
use crate::owner;

/// Whether the role is made up of others.
pub(crate) fn is_aggregated(role: &ClusterRole) -> bool {
    role.aggregation_rule.is_some()
}

/// The role's new rules, or `None` when it has them. `all` is ordered by name.
pub(crate) fn decide(
    role: &ClusterRole,
    all: &[Arc<ClusterRole>],
) -> Result<Option<Vec<PolicyRule>>, InvalidSelector> {
    let Some(aggregation) = &role.aggregation_rule else { return Ok(None) };
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in aggregation.cluster_role_selectors.iter().flatten() {
        let selector = Selector::new(selector)?;
        let selected = all.iter().filter(|other| {
            selector.matches(other.metadata.labels.as_ref())
                && owner::name(&other.metadata) != owner::name(&role.metadata)
        });
        for rule in selected.flat_map(|other| other.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    let same = canonical(&rules) == canonical(&role.rules.clone().unwrap_or_default());
    Ok((!same).then_some(rules))
}
