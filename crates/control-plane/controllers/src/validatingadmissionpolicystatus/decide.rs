//! What a policy's status is to say.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::admissionregistration::v1::{
    ExpressionWarning, NamedRuleWithOperations, TypeChecking, ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicySpec, ValidatingAdmissionPolicyStatus,
};
use podium_api::resources;
use podium_api::schema::{self, TypeId};

use super::check::{Scope, Type, told};

/// How many kinds each expression is checked for.
const MOST_KINDS: usize = 10;

/// The status to write; `None` when the policy as it is was looked at before.
pub(crate) fn decide(policy: &ValidatingAdmissionPolicy) -> Option<ValidatingAdmissionPolicyStatus> {
    let old = policy.status.clone().unwrap_or_default();
    let generation = policy.metadata.generation.unwrap_or(0);
    if generation <= old.observed_generation.unwrap_or(0) {
        return None;
    }
    let warnings = policy.spec.as_ref().map(warnings).unwrap_or_default();
    let expression_warnings = Some(warnings).filter(|warnings| !warnings.is_empty());
    Some(ValidatingAdmissionPolicyStatus {
        observed_generation: Some(generation),
        type_checking: Some(TypeChecking { expression_warnings }),
        ..old
    })
}

fn warnings(spec: &ValidatingAdmissionPolicySpec) -> Vec<ExpressionWarning> {
    let kinds = kinds(spec);
    let params = spec.param_kind.as_ref().map(|kind| {
        let (group, version) = resources::split_api_version(kind.api_version.as_deref().unwrap_or_default());
        let type_ = schema::type_of(group, version, kind.kind.as_deref().unwrap_or_default());
        type_.map_or(Type::Dyn, Type::Object)
    });
    let mut warnings = Vec::new();
    for (index, validation) in spec.validations.iter().flatten().enumerate() {
        let message = validation.message_expression.as_deref().filter(|text| !text.is_empty());
        for (field, text) in
            [("expression", Some(validation.expression.as_str())), ("messageExpression", message)]
        {
            let Some(text) = text else { continue };
            let results: Vec<String> =
                kinds.iter().filter_map(|kind| for_kind(kind, spec, params.as_ref(), text)).collect();
            if !results.is_empty() {
                let field_ref = format!("spec.validations[{index}].{field}");
                warnings.push(ExpressionWarning { field_ref, warning: results.join("\n") });
            }
        }
    }
    warnings
}

/// What is wrong with an expression for objects of one kind.
fn for_kind(
    (name, type_): &(String, TypeId),
    spec: &ValidatingAdmissionPolicySpec,
    params: Option<&Type>,
    text: &str,
) -> Option<String> {
    let object = Type::Object(*type_);
    let namespace = schema::type_of("", "v1", "Namespace").map_or(Type::Dyn, Type::Object);
    let mut known = BTreeMap::new();
    let scope = |known: &BTreeMap<String, Type>| {
        let names = [
            ("object", object.clone()),
            ("oldObject", object.clone()),
            ("namespaceObject", namespace.clone()),
            ("request", Type::Dyn),
            ("authorizer", Type::Dyn),
            ("variables", Type::Variables(known.clone())),
        ];
        Scope::new(names.into_iter().chain(params.cloned().map(|params| ("params", params))))
    };
    // Each may use those before it. What is wrong in one is told where it is used by a type that is not known.
    for variable in spec.variables.iter().flatten() {
        let (type_, _) = scope(&known).check(&variable.expression);
        known.insert(variable.name.clone(), type_);
    }
    let (_, issues) = scope(&known).check(text);
    (!issues.is_empty()).then(|| format!("{name}: {}\n", told(text, &issues)))
}

/// The built-in kinds that the policy's rules name without wildcards, in the order of their names.
fn kinds(spec: &ValidatingAdmissionPolicySpec) -> BTreeSet<(String, TypeId)> {
    let mut found = BTreeSet::new();
    let rules = spec.match_constraints.as_ref().and_then(|constraints| constraints.resource_rules.as_deref());
    for rule in rules.unwrap_or_default() {
        for kind in named(rule).take(MOST_KINDS) {
            if found.len() < MOST_KINDS {
                found.insert(kind);
            }
        }
    }
    found
}

fn named(rule: &NamedRuleWithOperations) -> impl Iterator<Item = (String, TypeId)> {
    let plain = |list: Option<&Vec<String>>| -> BTreeSet<String> {
        let list = list.map(Vec::as_slice).unwrap_or_default();
        if list.iter().any(|name| name.contains('*')) {
            BTreeSet::new()
        } else {
            list.iter().cloned().collect()
        }
    };
    let (groups, versions) = (plain(rule.api_groups.as_ref()), plain(rule.api_versions.as_ref()));
    // Subresources and wildcards are left out one by one.
    let wanted = rule.resources.iter().flatten().filter(|name| !name.contains(['*', '/']));
    let wanted: BTreeSet<String> = wanted.cloned().collect();
    resources::served().filter_map(move |resource| {
        let is_named = groups.contains(resource.group)
            && versions.contains(resource.version)
            && wanted.contains(resource.plural);
        let type_ = schema::type_of(resource.group, resource.version, resource.kind).filter(|_| is_named)?;
        Some((format!("{}/{}, Kind={}", resource.group, resource.version, resource.kind), type_))
    })
}
