//! How fast a pod may send and receive, by its annotations, as CNI's capability `bandwidth`. Pure.
//! Source: upstream's `pkg/util/bandwidth`, CNI's conventions.

use std::collections::HashMap;

use podium_api::quantity::Quantity;
use serde_json::{Value, json};

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";

/// Upstream's bounds, in bits per second.
const LEAST: i64 = 1_000;
const MOST: i64 = 1_000_000_000_000_000;
/// What may pass at once is a tenth of a second's worth, and never less than a packet that the kernel has not cut up yet, in
/// bits. Source: none; upstream's runtimes let half a gigabyte pass first, which leaves short connections as they are.
const BURSTS_PER_SECOND: i64 = 10;
const LEAST_BURST: i64 = 8 * (64 << 10);

/// Bits per second from the pod's point of view; None is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bandwidth {
    pub(crate) ingress: Option<i64>,
    pub(crate) egress: Option<i64>,
}

impl Bandwidth {
    /// What a pod's annotations ask for.
    ///
    /// # Errors
    /// One of them is not an amount, or not a reasonable one.
    pub(crate) fn of(annotations: &HashMap<String, String>) -> Result<Self, String> {
        let read = |key: &str| annotations.get(key).map(|text| rate(key, text)).transpose();
        Ok(Self { ingress: read(INGRESS)?, egress: read(EGRESS)? })
    }

    /// As plugins are told it; None if there is nothing to tell.
    pub(super) fn to_cni(self) -> Option<Value> {
        let mut told = serde_json::Map::new();
        for (direction, rate) in [("ingress", self.ingress), ("egress", self.egress)] {
            let Some(rate) = rate else { continue };
            told.insert(format!("{direction}Rate"), json!(rate));
            told.insert(format!("{direction}Burst"), json!((rate / BURSTS_PER_SECOND).max(LEAST_BURST)));
        }
        (!told.is_empty()).then(|| told.into())
    }
}

fn rate(key: &str, text: &str) -> Result<i64, String> {
    let quantity: Quantity =
        text.parse().map_err(|_| format!("annotation {key}: {text:?} is not a quantity"))?;
    match quantity.value() {
        rate if rate < LEAST => Err(format!("annotation {key}: resource is unreasonably small (< 1kbit)")),
        rate if rate > MOST => Err(format!("annotation {key}: resource is unreasonably large (> 1Pbit)")),
        rate => Ok(rate),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(annotations: &[(&str, &str)]) -> Result<Option<Value>, String> {
        let annotations = annotations.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        Bandwidth::of(&annotations).map(Bandwidth::to_cni)
    }

    #[test]
    fn what_annotations_ask_for() {
        assert_eq!(read(&[("example.com/ingress-bandwidth", "1M")]), Ok(None));
        assert_eq!(
            read(&[(INGRESS, "80M"), (EGRESS, "1k")]).unwrap().unwrap(),
            json!({"ingressRate": 80_000_000, "ingressBurst": 8_000_000, "egressRate": 1000, "egressBurst": 524_288})
        );
        let only = read(&[(EGRESS, "1Gi")]).unwrap().unwrap();
        assert!(only.get("ingressRate").is_none() && only["egressRate"] == 1 << 30, "{only}");
        for (text, why) in
            [("999", "unreasonably small"), ("2P", "unreasonably large"), ("fast", "not a quantity")]
        {
            let error = read(&[(INGRESS, text)]).unwrap_err();
            assert!(error.contains(why) && error.contains(INGRESS), "{error}");
        }
    }
}
