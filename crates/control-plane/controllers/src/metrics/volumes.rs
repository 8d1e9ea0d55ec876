//! What is counted of volumes: how long it takes to make, remove, attach and detach them.

use std::collections::HashMap;

use parking_lot::Mutex;
use podium_client::metrics::{Collect, Counter, Family, Histogram};
use tokio::time::{Duration, Instant};

/// From a tenth of a second to ten minutes.
const BOUNDS: [f64; 13] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 25.0, 50.0, 120.0, 300.0, 600.0];

static OPERATION_SECONDS: Family<Histogram, 4> = Family::new(
    "storage_operation_duration_seconds",
    "[ALPHA] Storage operation duration",
    ["migrated", "operation_name", "status", "volume_plugin"],
    || Histogram::new(&BOUNDS),
);
static WHOLE_SECONDS: Family<Histogram, 2> = Family::new(
    "volume_operation_total_seconds",
    "[ALPHA] Storage operation end to end duration in seconds",
    ["operation_name", "plugin_name"],
    || Histogram::new(&BOUNDS),
);
static ERRORS: Family<Counter, 2> = Family::new(
    "volume_operation_errors_total",
    "[ALPHA] Total volume operation errors",
    ["operation_name", "plugin_name"],
    Counter::default,
);
/// The name that it had before.
static OLD_ERRORS: Family<Counter, 2> = Family::new(
    "volume_operation_total_errors",
    "[ALPHA] Total volume operation errors (Deprecated since 1.36.0)",
    ["operation_name", "plugin_name"],
    Counter::default,
);
static CLASSED: Family<Counter, 0> = Family::new(
    "retroactive_storageclass_total",
    "[ALPHA] Total number of retroactive StorageClass assignments to persistent volume claim",
    [],
    Counter::default,
);
static CLASSED_ERRORS: Family<Counter, 0> = Family::new(
    "retroactive_storageclass_errors_total",
    "[ALPHA] Total number of failed retroactive StorageClass assignments to persistent volume claim",
    [],
    Counter::default,
);
/// Upstream's name has the subsystem twice.
pub(crate) static FORCED_DETACHES: Family<Counter, 1> = Family::new(
    "attach_detach_controller_attachdetach_controller_forced_detaches",
    "[ALPHA] Number of times the A/D Controller performed a forced detach",
    ["reason"],
    Counter::default,
);

pub(super) static ALL: [&dyn Collect; 7] =
    [&OPERATION_SECONDS, &WHOLE_SECONDS, &ERRORS, &OLD_ERRORS, &CLASSED, &CLASSED_ERRORS, &FORCED_DETACHES];

/// What a plugin was asked for came to an end.
pub(crate) fn operation_ended(plugin: &str, operation: &str, ok: bool, took: Duration) {
    let status = if ok { "success" } else { "fail-unknown" };
    OPERATION_SECONDS.with(["false", operation, status, plugin]).observe(took.as_secs_f64());
}

/// A claim that said nothing about its class was given one.
pub(crate) fn classed_later(ok: bool) {
    CLASSED.with([]).increment();
    if !ok {
        CLASSED_ERRORS.with([]).increment();
    }
}

/// Something that has begun and not ended.
#[derive(Debug)]
struct Operation {
    plugin: String,
    name: &'static str,
    since: Instant,
}

/// Operations under way, by what they are about.
#[derive(Debug, Default)]
pub(crate) struct Operations(Mutex<HashMap<String, Operation>>);

impl Operations {
    /// It has begun, unless it had before.
    pub(crate) fn begin(&self, about: impl Into<String>, plugin: &str, name: &'static str) {
        let begun = || Operation { plugin: plugin.to_owned(), name, since: Instant::now() };
        self.0.lock().entry(about.into()).or_insert_with(begun);
    }

    /// It is not going on any more, and how it ended does not matter.
    pub(crate) fn forget(&self, about: &str) {
        self.0.lock().remove(about);
    }

    /// A step towards its end failed; it goes on.
    pub(crate) fn failed(&self, about: &str) {
        if let Some(it) = self.0.lock().get(about) {
            ERRORS.with([it.name, &it.plugin]).increment();
            OLD_ERRORS.with([it.name, &it.plugin]).increment();
        }
    }

    /// All of it is done.
    pub(crate) fn done(&self, about: &str) {
        if let Some(it) = self.0.lock().remove(about) {
            WHOLE_SECONDS.with([it.name, &it.plugin]).observe(it.since.elapsed().as_secs_f64());
        }
    }

    /// A try of `name` ended. After one that failed the next begins.
    pub(crate) fn tried(&self, about: &str, name: &str, ok: bool) {
        let mut all = self.0.lock();
        let Some(it) = all.get_mut(about).filter(|it| it.name == name) else { return };
        operation_ended(&it.plugin, it.name, ok, it.since.elapsed());
        it.since = Instant::now();
        if ok {
            all.remove(about);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pass;

    #[tokio::test(start_paused = true)]
    async fn an_operation_lasts_from_its_beginning_to_its_end() {
        let operations = Operations::default();
        let counted =
            || (ERRORS.with(["delete", "a.test"]).value(), WHOLE_SECONDS.with(["delete", "a.test"]).count());
        operations.failed("v");
        operations.done("v");
        operations.begin("v", "a.test", "delete");
        pass(7).await;
        operations.begin("v", "b.test", "delete");
        operations.failed("v");
        operations.failed("v");
        assert_eq!(counted(), (2, 0));
        operations.done("v");
        operations.done("v");
        assert_eq!(counted(), (2, 1));
        operations.begin("v", "a.test", "delete");
        operations.forget("v");
        operations.done("v");
        assert_eq!(counted(), (2, 1));
        let mut text = String::new();
        WHOLE_SECONDS.collect(&mut text);
        let labels = "operation_name=\"delete\",plugin_name=\"a.test\"";
        for row in [format!("_bucket{{{labels},le=\"5\"}} 0"), format!("_sum{{{labels}}} 7")] {
            assert!(text.contains(&format!("volume_operation_total_seconds{row}")), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_try_is_measured_by_itself() {
        let operations = Operations::default();
        operations.begin("a", "c.test", "volume_attach");
        pass(1).await;
        operations.tried("a", "volume_attach", false);
        pass(2).await;
        operations.tried("a", "volume_detach", true);
        operations.tried("a", "volume_attach", true);
        operations.tried("a", "volume_attach", true);
        let mut text = String::new();
        OPERATION_SECONDS.collect(&mut text);
        for (status, seconds) in [("fail-unknown", 1), ("success", 2)] {
            let row = format!(
                "storage_operation_duration_seconds_sum{{migrated=\"false\",operation_name=\"volume_attach\",status=\"{status}\",volume_plugin=\"c.test\"}} {seconds}\n"
            );
            assert!(text.contains(&row), "{text}");
        }
        assert!(!text.contains("volume_detach\",status=\"success\",volume_plugin=\"c.test\""), "{text}");
    }
}
