//! Taints of nodes and the tolerations of pods.

use k8s_openapi::api::core::v1 as wire;

/// The taint of nodes that take no new pods.
pub(crate) const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

/// What a taint does to pods that do not tolerate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// New pods stay away.
    NoSchedule,
    /// New pods stay away where they can.
    PreferNoSchedule,
    /// New pods stay away and those on the node are evicted.
    NoExecute,
}

impl Effect {
    fn from_wire(name: &str) -> Option<Self> {
        match name {
            "NoSchedule" => Some(Self::NoSchedule),
            "PreferNoSchedule" => Some(Self::PreferNoSchedule),
            "NoExecute" => Some(Self::NoExecute),
            _ => None,
        }
    }
}

/// One taint of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value; may be empty.
    pub value: String,
    /// What it does.
    pub effect: Effect,
}

impl Taint {
    /// Reads a taint; an unknown effect has no effect.
    pub fn from_wire(taint: &wire::Taint) -> Option<Self> {
        Some(Self {
            key: taint.key.clone(),
            value: taint.value.clone().unwrap_or_default(),
            effect: Effect::from_wire(&taint.effect)?,
        })
    }

    /// Whether the taint keeps pods from being placed.
    pub fn repels(&self) -> bool {
        matches!(self.effect, Effect::NoSchedule | Effect::NoExecute)
    }
}

/// One toleration of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toleration {
    /// Empty: any key (with [`Toleration::any_value`]).
    pub key: String,
    /// The value that is tolerated.
    pub value: String,
    /// Operator `Exists`: the value does not matter.
    pub any_value: bool,
    /// `None`: any effect.
    pub effect: Option<Effect>,
    /// An operator or effect that is not known: it tolerates nothing.
    pub void: bool,
}

impl Toleration {
    /// Reads a toleration.
    pub fn from_wire(toleration: &wire::Toleration) -> Self {
        let effect = toleration.effect.as_deref().filter(|effect| !effect.is_empty());
        let operator = toleration.operator.as_deref().unwrap_or_default();
        Self {
            key: toleration.key.clone().unwrap_or_default(),
            value: toleration.value.clone().unwrap_or_default(),
            any_value: operator == "Exists",
            effect: effect.and_then(Effect::from_wire),
            void: !matches!(operator, "" | "Equal" | "Exists")
                || effect.is_some_and(|effect| Effect::from_wire(effect).is_none()),
        }
    }

    /// Whether it tolerates the taint.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        !self.void
            && self.effect.is_none_or(|effect| effect == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && (self.any_value || self.value == taint.value)
    }
}

/// Whether one of the tolerations tolerates the taint.
pub(crate) fn tolerated(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| toleration.tolerates(taint))
}

/// Whether a pod with these tolerations may be placed on a node with these taints.
pub(crate) fn admits(taints: &[Taint], tolerations: &[Toleration]) -> bool {
    taints.iter().all(|taint| !taint.repels() || tolerated(tolerations, taint))
}

/// Whether a pod with these tolerations may be placed on a node that takes no new pods.
pub(crate) fn tolerates_unschedulable(tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| {
        // Checked before a taint is made: this runs for every cordoned node.
        toleration.tolerates(&Taint {
            key: UNSCHEDULABLE_TAINT.to_owned(),
            value: String::new(),
            effect: Effect::NoSchedule,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toleration(key: &str, operator: &str, value: &str, effect: &str) -> Toleration {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Toleration::from_wire(&wire::Toleration {
            key: some(key),
            operator: some(operator),
            value: some(value),
            effect: some(effect),
            toleration_seconds: None,
        })
    }

    #[test]
    fn tolerations_match_by_key_value_and_effect() {
        let taint = Taint { key: "k".into(), value: "v".into(), effect: Effect::NoSchedule };
        let cases = [
            ("equal", toleration("k", "Equal", "v", "NoSchedule"), true),
            ("operator left out", toleration("k", "", "v", "NoSchedule"), true),
            ("other value", toleration("k", "Equal", "w", "NoSchedule"), false),
            ("exists", toleration("k", "Exists", "", "NoSchedule"), true),
            ("other key", toleration("x", "Exists", "", "NoSchedule"), false),
            ("any effect", toleration("k", "Exists", "", ""), true),
            ("other effect", toleration("k", "Exists", "", "NoExecute"), false),
            ("everything", toleration("", "Exists", "", ""), true),
            ("unknown operator", toleration("k", "Like", "v", ""), false),
            ("unknown effect", toleration("k", "Exists", "", "Sometimes"), false),
        ];
        for (case, toleration, expected) in cases {
            assert_eq!(toleration.tolerates(&taint), expected, "{case}");
        }
    }

    #[test]
    fn preferences_do_not_repel() {
        let taint = |effect| Taint { key: "k".into(), value: String::new(), effect };
        assert!(admits(&[taint(Effect::PreferNoSchedule)], &[]));
        assert!(!admits(&[taint(Effect::NoExecute)], &[]));
        assert!(!tolerates_unschedulable(&[]));
        assert!(tolerates_unschedulable(&[toleration(UNSCHEDULABLE_TAINT, "Exists", "", "NoSchedule")]));
    }
}
