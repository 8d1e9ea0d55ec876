//! Looks at all addresses and ports of Services when the server starts and every few minutes, and at once when somebody
//! touches an address that a Service has.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use podium_api::status::ApiError;
use podium_client::{EventRecorder, EventType};
use podium_store::{
    Change, CommitError, Event, Expect, Key, KeyRange, Operation, RangeOptions, ReadError, Record,
    WatchError, WatchOptions, WatchStart, Watcher,
};
use serde_json::Value;

use super::super::addresses::blocks_of;
use super::super::{address_key, address_object, name_of, port_key, ports_prefix};
use super::{Act, Finding, Seen, addresses, parent, ports};
use crate::catalogue::prefix;
use crate::core::Core;
use crate::in_process::InProcess;
use crate::options::DeleteOptions;
use crate::registry::{Call, commit_failed};
use crate::{User, storage};

/// Source: upstream's `repairLoopInterval`.
const INTERVAL: Duration = Duration::from_secs(3 * 60);

/// Keeps addresses and ports in order until shutdown.
pub(crate) async fn run(core: Arc<Core>) {
    let user = User::new("system:apiserver", &["system:masters"]);
    let client = podium_client::in_process(InProcess::new(Arc::clone(&core), user), "default");
    let recorder = |component| {
        let (recorder, sink) = EventRecorder::new(client.clone(), component, "");
        core.tracker.spawn(sink.run(core.shutdown.clone()));
        recorder
    };
    let (of_addresses, of_ports) =
        (recorder("ipallocator-repair-controller"), recorder("portallocator-repair-controller"));
    let mut leaks = BTreeMap::new();
    loop {
        // The watch begins before the look, so that nothing falls between them.
        let watcher = watch(&core);
        match look(&core) {
            Ok(seen) => {
                let found = addresses(&seen, Timestamp::now());
                act(&core, &of_addresses, found).await;
                let found = ports(&seen, core.services.ports(), &mut leaks);
                act(&core, &of_ports, found).await;
            }
            Err(error) => tracing::error!(%error, "addresses of Services could not be compared"),
        }
        let touched = async {
            match watcher {
                Ok(watcher) => until_touched(&core, watcher).await,
                // A closed store ends with the shutdown.
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            () = touched => {}
            () = tokio::time::sleep(INTERVAL) => {}
            () = core.shutdown.cancelled() => return,
        }
    }
}

fn addresses_prefix() -> String {
    prefix("networking.k8s.io", "ipaddresses")
}

fn watch(core: &Core) -> Result<Watcher, WatchError> {
    core.store.watch(KeyRange::prefix(addresses_prefix()), WatchStart::Now, WatchOptions::default())
}

/// Waits until an address is changed or removed whose Service goes on.
async fn until_touched(core: &Core, mut watcher: Watcher) {
    loop {
        match watcher.next().await {
            Ok(batch) if batch.events.iter().any(|event| is_touched(core, event)) => return,
            Ok(_) => {}
            Err(WatchError::Closed) => std::future::pending().await,
            // Events were missed: look at everything.
            Err(_) => return,
        }
    }
}

fn is_touched(core: &Core, event: &Event) -> bool {
    // An address that is made is made with its Service.
    let Some(before) = &event.previous else { return false };
    let Some(name) = storage::parse(before).ok().as_ref().and_then(parent) else { return true };
    core.store.get(&Key::from(format!("{}{name}", prefix("", "services")))).is_some()
}

/// Everything as of one revision.
fn look(core: &Core) -> Result<Seen, ReadError> {
    let mut revision = None;
    let mut all = |prefix: String| -> Result<Vec<Arc<Record>>, ReadError> {
        let options = RangeOptions { revision, ..RangeOptions::default() };
        let found = core.store.range(&KeyRange::prefix(prefix), options)?;
        revision = Some(found.revision);
        Ok(found.records)
    };
    let parsed = |records: Vec<Arc<Record>>| -> Vec<Value> {
        records.iter().filter_map(|record| storage::parse(record).ok()).collect()
    };
    let services = parsed(all(prefix("", "services"))?);
    let addresses = parsed(all(addresses_prefix())?);
    let cidrs = parsed(all(prefix("networking.k8s.io", "servicecidrs"))?);
    let ports = all(ports_prefix())?;
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let mut blocks = vec![core.services.cidr()];
    blocks.extend(cidrs.iter().flat_map(blocks_of));
    let port = |record: &Arc<Record>| {
        let (_, number) = storage::names_in(&ports_prefix(), &record.key)?;
        Some((number.parse().ok()?, String::from_utf8_lossy(&record.value).into_owned()))
    };
    Ok(Seen {
        services,
        addresses: addresses.into_iter().map(|address| (name(&address), address)).collect(),
        ports: ports.iter().filter_map(port).collect(),
        blocks,
    })
}

async fn act(core: &Arc<Core>, recorder: &EventRecorder, found: Vec<Finding>) {
    for finding in found {
        match &finding.event {
            Some((about, reason, message)) => {
                tracing::warn!(reason, message, "addresses of Services");
                recorder.event(&reference(about), EventType::Warning, reason, message.clone());
            }
            None => tracing::warn!(act = ?kind_of(&finding.act), "addresses of Services"),
        }
        let done = match &finding.act {
            Act::Tell => Ok(()),
            Act::Remove(address) => remove(core, address).await,
            act => write(core, act).await,
        };
        if let Err(error) = done {
            tracing::error!(%error, "an address of a Service could not be put right");
        }
    }
}

/// What changed since the look is left as it is: the next look sees it.
async fn write(core: &Core, act: &Act) -> Result<(), ApiError> {
    match core.store.transaction(operations(core, act)).await {
        Ok(_) | Err(CommitError::Conflict { .. }) => Ok(()),
        Err(error) => Err(commit_failed(&error)),
    }
}

/// Removes an address as a client would: what holds it is asked first.
async fn remove(core: &Arc<Core>, address: &Value) -> Result<(), ApiError> {
    let Some(served) = core.catalogue.stored("networking.k8s.io", "ipaddresses") else { return Ok(()) };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let meta = &address["metadata"];
    let call = Call::internal(core, served, "", meta["name"].as_str().unwrap_or_default());
    let options = DeleteOptions {
        uid: text(&meta["uid"]),
        resource_version: text(&meta["resourceVersion"]),
        ..DeleteOptions::default()
    };
    match call.delete_object(&options).await {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.code, 404 | 409) => Ok(()),
        Err(error) => Err(error),
    }
}

/// An act in a word, for the log.
fn kind_of(act: &Act) -> String {
    match act {
        Act::Tell => "nothing".to_owned(),
        Act::Give(address, _) => format!("{address} made anew"),
        Act::Remove(address) => format!("{} removed", address["metadata"]["name"]),
        Act::Take(port, _) => format!("port {port} taken"),
        Act::Free(port) => format!("port {port} appears to have leaked: cleaning up"),
    }
}

/// The writes of an act, each bound to what was there, so that nothing is undone that happened since.
fn operations(core: &Core, act: &Act) -> Vec<Operation> {
    let as_now = |key: &Key| {
        core.store.get(key).map_or(Expect::Absent, |record| Expect::ModRevision(record.mod_revision))
    };
    // The Service must still be as it was seen.
    let unchanged = |service: &Value| -> Option<Operation> {
        let revision = storage::revision_of(service).ok()?;
        let key = Key::from(format!("{}{}", prefix("", "services"), name_of(service)));
        Some((key, Expect::ModRevision(revision), Change::Check))
    };
    match act {
        Act::Tell | Act::Remove(_) => Vec::new(),
        Act::Give(address, service) => {
            let key = address_key(*address);
            let value = storage::encode(&address_object(*address, service));
            let put = (key.clone(), as_now(&key), Change::Put { value, lease: None });
            [Some(put), unchanged(service)].into_iter().collect::<Option<_>>().unwrap_or_default()
        }
        Act::Take(port, service) => {
            let put = (port_key(*port), Expect::Absent, Change::put(name_of(service).as_str()));
            [Some(put), unchanged(service)].into_iter().collect::<Option<_>>().unwrap_or_default()
        }
        Act::Free(port) => vec![(port_key(*port), as_now(&port_key(*port)), Change::Delete)],
    }
}

fn reference(object: &Value) -> ObjectReference {
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let meta = &object["metadata"];
    ObjectReference {
        api_version: text(&object["apiVersion"]),
        kind: text(&object["kind"]),
        namespace: text(&meta["namespace"]),
        name: text(&meta["name"]),
        uid: text(&meta["uid"]),
        resource_version: text(&meta["resourceVersion"]),
        field_path: None,
    }
}
