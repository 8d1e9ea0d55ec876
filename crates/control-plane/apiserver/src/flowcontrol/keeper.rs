//! Keeps priority and fairness up to date: its configuration from stored objects, the default objects as they should be,
//! conditions of FlowSchemas, how much is stored of each kind, and who borrows whose seats.

use std::sync::Arc;

use podium_api::kinds::Part;
use podium_api::status::ApiError;
use podium_store::{KeyRange, RangeOptions, WatchError, WatchOptions, WatchStart, Watcher};
use serde_json::{Value, json};

use super::estimate::Stored;
use super::{ADJUST_EVERY, defaults};
use crate::catalogue::Served;
use crate::core::Core;
use crate::registry::Change;
use crate::{clock, storage, system};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";

/// What is stored is counted again after this many adjustments: a minute, as upstream does.
const COUNT_EVERY: u32 = 6;

/// Objects of a kind whose sizes are averaged.
const SAMPLE: usize = 200;

/// Writes the default objects that are missing or must be put back.
pub(crate) async fn ensure(core: &Arc<Core>) -> Result<(), ApiError> {
    for wanted in defaults::levels().iter().chain(&defaults::schemas()) {
        let Some((call, key)) = system::call_for(core, wanted)? else { continue };
        let stored = core.store.get(&key).map(|record| storage::parse(&record)).transpose()?;
        match &stored {
            None => system::create(&call, wanted.clone()).await?,
            Some(stored) if defaults::kept(stored, wanted).is_some() => {
                let write = system::internal();
                let change =
                    Change { part: Part::Main, write: &write, body: None, internal: false, tracked: false };
                call.change(&change, |old| Ok(defaults::kept(old, wanted).unwrap_or_else(|| old.clone())))
                    .await?;
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Follows the objects until the store closes.
pub(crate) async fn run(core: Arc<Core>) {
    let mut adjustments = 0;
    let mut tick = tokio::time::interval(ADJUST_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut watchers = None;
    loop {
        if watchers.is_none() {
            match follow(&core) {
                Ok(both) => watchers = Some(both),
                Err(WatchError::Closed) => return,
                Err(error) => tracing::warn!(%error, "flow control objects cannot be watched"),
            }
            reconcile(&core).await;
        }
        let changed = async {
            match &mut watchers {
                Some((schemas, levels)) => tokio::select! {
                    batch = schemas.next() => batch.map(|_| ()),
                    batch = levels.next() => batch.map(|_| ()),
                },
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = changed => match changed {
                Ok(()) => reconcile(&core).await,
                Err(WatchError::Closed) => return,
                Err(_) => watchers = None,
            },
            _ = tick.tick() => {
                core.flow_control.adjust();
                if adjustments % COUNT_EVERY == 0 {
                    count(&core);
                }
                adjustments = adjustments.wrapping_add(1);
            }
            () = core.shutdown.cancelled() => return,
        }
    }
}

fn follow(core: &Core) -> Result<(Watcher, Watcher), WatchError> {
    let watch = |plural: &str| {
        let prefix = crate::catalogue::prefix(GROUP, plural);
        core.store.watch(KeyRange::prefix(prefix), WatchStart::Now, WatchOptions::default())
    };
    Ok((watch("flowschemas")?, watch("prioritylevelconfigurations")?))
}

/// Takes in what is stored now, puts default objects back, and says in each schema's status whether its level exists.
async fn reconcile(core: &Arc<Core>) {
    let (schemas, levels) = (stored(core, "flowschemas"), stored(core, "prioritylevelconfigurations"));
    core.flow_control.configure(&schemas, &levels);
    if !core.booted.load(std::sync::atomic::Ordering::Acquire) {
        // The first objects are written by the bootstrap.
        return;
    }
    if let Err(error) = ensure(core).await {
        tracing::warn!(%error, "default flow control objects could not be put back");
    }
    for schema in &schemas {
        let level = schema["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap_or_default();
        let exists = levels.iter().any(|object| object["metadata"]["name"] == level);
        if let Some(condition) = dangling(schema, level, exists, &clock::now())
            && let Err(error) = say(core, schema, condition).await
        {
            tracing::warn!(%error, schema = %schema["metadata"]["name"], "condition not written");
        }
    }
}

fn stored(core: &Core, plural: &str) -> Vec<Value> {
    let prefix = crate::catalogue::prefix(GROUP, plural);
    match core.store.range(&KeyRange::prefix(prefix), RangeOptions::default()) {
        Ok(found) => found.records.iter().filter_map(|record| storage::parse(record).ok()).collect(),
        Err(error) => {
            tracing::error!(%error, plural, "the newest state could not be read");
            Vec::new()
        }
    }
}

/// The condition a schema must get; `None` if it says so already. Source: upstream's `presyncFlowSchemaStatus`.
fn dangling(schema: &Value, level: &str, exists: bool, now: &str) -> Option<Value> {
    let (status, reason, and) = if exists {
        ("False", "Found", "it exists")
    } else {
        ("True", "NotFound", "there is no such object")
    };
    let but = if exists { "and" } else { "but" };
    let message = format!(
        "This FlowSchema references the PriorityLevelConfiguration object named {level:?} {but} {and}"
    );
    let conditions = schema["status"]["conditions"].as_array();
    let known = conditions.and_then(|all| all.iter().find(|condition| condition["type"] == "Dangling"));
    if known
        .is_some_and(|c| c["status"] == status && c["reason"] == reason && c["message"] == message.as_str())
    {
        return None;
    }
    Some(json!({
        "type": "Dangling", "status": status, "reason": reason, "message": message, "lastTransitionTime": now,
    }))
}

async fn say(core: &Arc<Core>, schema: &Value, condition: Value) -> Result<(), ApiError> {
    let Some((call, _)) = system::call_for(core, schema)? else { return Ok(()) };
    let write = system::internal();
    let change = Change { part: Part::Status, write: &write, body: None, internal: true, tracked: false };
    let changed = call.change(&change, |old| {
        let mut new = old.clone();
        let mut conditions = old["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.retain(|known| known["type"] != "Dangling");
        conditions.push(condition.clone());
        new["status"]["conditions"] = Value::Array(conditions);
        Ok(new)
    });
    match changed.await {
        Ok(_) => Ok(()),
        // It went meanwhile, and its condition with it.
        Err(error) if error.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

/// Counts what is stored of each kind, for the width of lists.
fn count(core: &Core) {
    for served in core.catalogue.all_stored() {
        let stored = stored_of(core, &served);
        core.flow_control.note_stored(&served.prefix, stored);
    }
}

fn stored_of(core: &Core, served: &Served) -> Stored {
    let sample = RangeOptions { revision: None, limit: SAMPLE };
    match core.store.range(&KeyRange::prefix(&served.prefix), sample) {
        Ok(found) => {
            let sampled = found.records.len() as u64;
            let bytes: u64 = found.records.iter().map(|record| record.value.len() as u64).sum();
            Stored { objects: sampled + found.remaining, bytes_each: bytes / sampled.max(1) }
        }
        Err(error) => {
            tracing::error!(%error, prefix = ?served.prefix, "the newest state could not be read");
            Stored::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_say_whether_the_level_exists() {
        let schema = json!({"metadata": {"name": "a"}});
        let missing = dangling(&schema, "b", false, "now").unwrap();
        assert_eq!(missing["status"], "True");
        assert_eq!(
            missing["message"],
            "This FlowSchema references the PriorityLevelConfiguration object named \"b\" but there is no such object"
        );
        let said = json!({"status": {"conditions": [missing]}});
        assert_eq!(dangling(&said, "b", false, "later"), None);
        let found = dangling(&said, "b", true, "later").unwrap();
        assert_eq!((found["reason"].as_str(), found["status"].as_str()), (Some("Found"), Some("False")));
        assert!(found["message"].as_str().unwrap().ends_with("named \"b\" and it exists"));
    }
}
