//! The numbers of a Deployment's strategy.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// A Deployment's spec with defaults applied and percentages resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Strategy {
    /// Pods wanted.
    pub(crate) replicas: i32,
    /// Whether pods are replaced a few at a time.
    pub(crate) rolling: bool,
    /// Pods allowed beyond `replicas`.
    pub(crate) max_surge: i32,
    /// Pods allowed to be missing.
    pub(crate) max_unavailable: i32,
}

impl Strategy {
    /// Reads a Deployment. Percentages that cannot be read count as 0, as validation admits none.
    pub(crate) fn of(deployment: &Deployment) -> Self {
        let spec = deployment.spec.as_ref();
        let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1);
        let strategy = spec.and_then(|spec| spec.strategy.as_ref());
        let rolling = strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("Recreate");
        if !rolling {
            return Self { replicas, rolling, max_surge: 0, max_unavailable: 0 };
        }
        let update = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let default = IntOrString::String("25%".to_owned());
        let surge = update.and_then(|update| update.max_surge.as_ref()).unwrap_or(&default);
        let unavailable = update.and_then(|update| update.max_unavailable.as_ref()).unwrap_or(&default);
        let (max_surge, max_unavailable) = fence_posts(surge, unavailable, replicas);
        // With no pods wanted there is none to miss.
        Self { replicas, rolling, max_surge, max_unavailable: max_unavailable.min(replicas) }
    }

    /// The most pods there may be.
    pub(crate) fn most(&self) -> i32 {
        self.replicas.saturating_add(self.max_surge)
    }

    /// The fewest pods that must be available.
    pub(crate) fn fewest(&self) -> i32 {
        self.replicas - self.max_unavailable
    }
}

/// Surge rounds up and unavailability down; if both come to 0 one pod may be missing, or nothing could ever move.
fn fence_posts(surge: &IntOrString, unavailable: &IntOrString, replicas: i32) -> (i32, i32) {
    let (surge, unavailable) = (scaled(surge, replicas, true), scaled(unavailable, replicas, false));
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// A count, or a percentage of `total`.
pub(crate) fn scaled(value: &IntOrString, total: i32, round_up: bool) -> i32 {
    match value {
        IntOrString::Int(count) => *count,
        IntOrString::String(text) => {
            let percent: i64 = text.strip_suffix('%').and_then(|text| text.parse().ok()).unwrap_or_default();
            let product = percent * i64::from(total);
            let scaled = if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
            i32::try_from(scaled).unwrap_or(i32::MAX)
        }
    }
}
