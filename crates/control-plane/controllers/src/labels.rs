//! Label selectors of API objects, compiled once per reconcile.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use podium_api::selector::LabelSelector;

/// Labels as objects carry them.
pub(crate) type Labels = BTreeMap<String, String>;

/// A selector that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("label selector is invalid: {0}")]
pub(crate) struct InvalidSelector(String);

/// A compiled selector.
#[derive(Clone, Debug)]
pub(crate) struct Selector {
    inner: LabelSelector,
    empty: bool,
}

impl Selector {
    /// Compiles the selector of an object's spec.
    pub(crate) fn new(selector: &meta::LabelSelector) -> Result<Self, InvalidSelector> {
        let empty = is_empty(selector);
        let inner =
            LabelSelector::from_object(selector).map_err(|error| InvalidSelector(error.to_string()))?;
        Ok(Self { inner, empty })
    }

    /// Whether it selects everything.
    pub(crate) fn is_empty(&self) -> bool {
        self.empty
    }

    /// Whether it selects an object with these labels.
    pub(crate) fn matches(&self, labels: Option<&Labels>) -> bool {
        static NONE: Labels = Labels::new();
        self.inner.matches(labels.unwrap_or(&NONE))
    }
}

/// Whether an object's selector has no requirement at all.
pub(crate) fn is_empty(selector: &meta::LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// Whether every label of `wanted` is present with the same value.
pub(crate) fn contains_all(labels: Option<&Labels>, wanted: Option<&Labels>) -> bool {
    wanted.is_none_or(|wanted| {
        wanted.iter().all(|(key, value)| labels.is_some_and(|labels| labels.get(key) == Some(value)))
    })
}

/// The value of one label or annotation.
pub(crate) fn value<'a>(map: Option<&'a Labels>, key: &str) -> Option<&'a str> {
    map.and_then(|map| map.get(key)).map(String::as_str)
}
