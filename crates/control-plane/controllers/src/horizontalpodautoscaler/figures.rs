//! Figures as the three metrics APIs give them.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use podium_api::quantity::Quantity;
use serde_json::Value;

/// What one pod uses of something.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    /// When it was taken.
    pub(crate) at: Timestamp,
    /// Over which time before that.
    pub(crate) window: SignedDuration,
    /// In thousandths.
    pub(crate) millis: i64,
}

/// Samples by pod.
pub(crate) type Samples = BTreeMap<String, Sample>;

/// What was asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Figures {
    /// One figure for each pod.
    PerPod(Samples),
    /// One figure in all, in thousandths.
    Total(i64),
}

/// Upstream's window for custom figures that do not tell theirs.
const DEFAULT_WINDOW: SignedDuration = SignedDuration::from_secs(60);

fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn millis(value: &Value) -> Option<i64> {
    Quantity::from_value(value).ok().map(|amount| amount.milli_value())
}

fn taken_at(item: &Value) -> Timestamp {
    item["timestamp"].as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Reads a list of `metrics.k8s.io`: a pod's containers together, or one of them. Pods without the figure are left out.
pub(crate) fn of_resource(list: &Value, resource: &str, container: Option<&str>) -> Result<Figures, String> {
    if items(list).is_empty() {
        return Err("no metrics returned from resource metrics API".to_owned());
    }
    let read = |item: &Value| {
        let containers = item["containers"].as_array()?;
        let wanted = containers.iter().filter(|it| container.is_none_or(|name| it["name"] == name));
        let used: Option<Vec<i64>> = wanted.map(|it| millis(&it["usage"][resource])).collect();
        let used = used.filter(|used| !used.is_empty())?;
        let window = item["window"].as_str().and_then(|text| text.parse().ok()).unwrap_or_default();
        let sample = Sample { at: taken_at(item), window, millis: used.iter().sum() };
        Some((item["metadata"]["name"].as_str()?.to_owned(), sample))
    };
    Ok(Figures::PerPod(items(list).iter().filter_map(read).collect()))
}

/// Reads a list of `custom.metrics.k8s.io` about pods.
pub(crate) fn of_pods(list: &Value) -> Result<Figures, String> {
    if items(list).is_empty() {
        return Err("no metrics returned from custom metrics API".to_owned());
    }
    let read = |item: &Value| {
        let window = item["windowSeconds"].as_i64().map_or(DEFAULT_WINDOW, SignedDuration::from_secs);
        let sample = Sample { at: taken_at(item), window, millis: millis(&item["value"])? };
        Some((item["describedObject"]["name"].as_str()?.to_owned(), sample))
    };
    Ok(Figures::PerPod(items(list).iter().filter_map(read).collect()))
}

/// Reads a list of `custom.metrics.k8s.io` about one object.
pub(crate) fn of_object(list: &Value) -> Result<Figures, String> {
    let only = items(list).first().and_then(|item| millis(&item["value"]));
    only.map(Figures::Total).ok_or_else(|| "the custom metrics API server returned no results".to_owned())
}

/// Reads a list of `external.metrics.k8s.io`.
pub(crate) fn of_outside(list: &Value) -> Result<Figures, String> {
    if items(list).is_empty() {
        return Err("no metrics returned from external metrics API".to_owned());
    }
    let values = items(list).iter().filter_map(|item| millis(&item["value"]));
    Ok(Figures::Total(values.fold(0, i64::saturating_add)))
}
