//! What a cluster has from the start and the server itself keeps up: namespaces, policy, priority classes, the
//! `kubernetes` Service with its endpoints.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use podium_api::codec::FieldValidation;
use podium_api::kinds::Part;
use podium_api::resources::split_api_version;
use podium_api::status::ApiError;
use podium_store::{KeyRange, WatchOptions, WatchStart};
use serde_json::{Value, json};

use crate::bootstrap;
use crate::catalogue::Served;
use crate::core::Core;
use crate::flowcontrol::keeper;
use crate::options::WriteOptions;
use crate::registry::{Call, Change};
use crate::services::repair;
use crate::{clock, storage};

/// Objects written at once at start: they share the store's syncs.
const CONCURRENT: usize = 64;

/// Before trying again when something could not be written.
const RETRY: Duration = Duration::from_millis(250);

/// How often encoded forms that nobody asks for are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// Writes what is missing, says that the server is ready, then keeps up the `kubernetes` Service.
pub(crate) async fn run(core: Arc<Core>) {
    let work = async {
        while let Err(error) = boot(&core).await {
            tracing::error!(%error, "bootstrap objects could not be written; trying again");
            tokio::time::sleep(RETRY).await;
        }
        core.booted.store(true, Ordering::Release);
        core.boot_done.notify_waiters();
        // The defaults' conditions are written once the defaults are there.
        core.tracker.spawn(keeper::run(Arc::clone(&core)));
        core.tracker.spawn(repair::keeper::run(Arc::clone(&core)));
        tokio::join!(keep_service(&core), forget_the_cold(&core));
    };
    tokio::select! { () = work => {}, () = core.shutdown.cancelled() => {} }
}

async fn boot(core: &Arc<Core>) -> Result<(), ApiError> {
    // Namespaces first: everything else may be in one.
    ensure_all(core, bootstrap::namespaces()).await?;
    let mut objects = bootstrap::policy(core.config.features);
    objects.extend(bootstrap::priority_classes());
    objects.push(service_cidr(core));
    objects.push(extension_authentication(core));
    ensure_all(core, objects).await?;
    service_cidr_ready(core).await?;
    keeper::ensure(core).await?;
    ensure_service(core).await
}

async fn ensure_all(core: &Arc<Core>, objects: Vec<Value>) -> Result<(), ApiError> {
    let writes: Vec<BoxFuture<'_, _>> =
        objects.iter().map(|object| -> BoxFuture<'_, _> { Box::pin(ensure(core, object)) }).collect();
    let results: Vec<Result<(), ApiError>> =
        futures::stream::iter(writes).buffer_unordered(CONCURRENT).collect().await;
    results.into_iter().collect()
}

/// Creates an object, or adds to the stored one what it lacks.
async fn ensure(core: &Arc<Core>, wanted: &Value) -> Result<(), ApiError> {
    let Some((call, key)) = call_for(core, wanted)? else { return Ok(()) };
    let stored = core.store.get(&key).map(|record| storage::parse(&record)).transpose()?;
    match (&stored, bootstrap::reconcile(stored.as_ref(), wanted)) {
        (None, wanted_now) => create(&call, wanted_now.unwrap_or_else(|| wanted.clone())).await,
        (Some(_), None) => Ok(()),
        (Some(_), Some(_)) => {
            let write = internal();
            let change =
                Change { part: Part::Main, write: &write, body: None, internal: true, tracked: true };
            let change = call.change(&change, |old| {
                Ok(bootstrap::reconcile(Some(old), wanted).unwrap_or_else(|| old.clone()))
            });
            change.await.map(|_| ())
        }
    }
}

/// Creates an object, or makes the stored one say exactly what is wanted in these members.
async fn put(core: &Arc<Core>, wanted: Value, members: &[&str]) -> Result<(), ApiError> {
    let Some((call, key)) = call_for(core, &wanted)? else { return Ok(()) };
    if core.store.get(&key).is_none() {
        return create(&call, wanted).await;
    }
    let write = internal();
    let change = Change { part: Part::Main, write: &write, body: None, internal: true, tracked: true };
    let change = call.change(&change, |old| {
        let mut new = old.clone();
        for member in members {
            new[*member] = wanted[*member].clone();
        }
        Ok(new)
    });
    change.await.map(|_| ())
}

pub(crate) async fn create(call: &Call, object: Value) -> Result<(), ApiError> {
    match call.create_object(object, &internal(), false).await {
        Ok(_) => Ok(()),
        // Another server on the same store was faster.
        Err(error) if error.reason == "AlreadyExists" => Ok(()),
        Err(error) => Err(error),
    }
}

pub(crate) fn internal() -> WriteOptions {
    WriteOptions { dry_run: false, validation: FieldValidation::Ignore, force: false, object: Value::Null }
}

/// The call that addresses an object, and its key.
pub(crate) fn call_for(
    core: &Arc<Core>,
    object: &Value,
) -> Result<Option<(Call, podium_store::Key)>, ApiError> {
    let kind = object["kind"].as_str().unwrap_or_default();
    let (group, version) = split_api_version(object["apiVersion"].as_str().unwrap_or_default());
    let Some(served) = served_for(core, group, version, kind) else {
        tracing::warn!(kind, group, version, "a bootstrap object of a kind that is not served");
        return Ok(None);
    };
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let key = storage::key(&served, namespace, name)?;
    Ok(Some((Call::internal(core, served, namespace, name), key)))
}

fn served_for(core: &Core, group: &str, version: &str, kind: &str) -> Option<Arc<Served>> {
    let resource = podium_api::resources::by_kind(group, version, kind)?;
    core.catalogue.find(group, version, resource.plural)
}

fn service_cidr(core: &Core) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": [core.services.cidr().to_string()]},
    })
}

/// The block is in use from the start: nothing else has to make it ready.
async fn service_cidr_ready(core: &Arc<Core>) -> Result<(), ApiError> {
    let Some((call, _)) = call_for(core, &service_cidr(core))? else { return Ok(()) };
    let write = internal();
    let change = Change { part: Part::Status, write: &write, body: None, internal: true, tracked: true };
    let now = clock::now();
    let change = call.change(&change, |old| {
        let mut new = old.clone();
        if new["status"]["conditions"].as_array().is_none_or(Vec::is_empty) {
            new["status"]["conditions"] = json!([{
                "type": "Ready", "status": "True", "reason": "", "lastTransitionTime": now,
                "message": "Kubernetes default Service CIDR is ready",
            }]);
        }
        Ok(new)
    });
    change.await.map(|_| ())
}

/// What extension servers need to know to trust requests that came through this one.
fn extension_authentication(core: &Core) -> Value {
    let mut data = json!({"client-ca-file": core.config.client_authority});
    if let Some(authority) = &core.config.proxy_authority {
        // Lists are JSON in a string.
        let list = |items: &[String]| json!(items).to_string();
        let one = |item: &str| list(&[item.to_owned()]);
        data["requestheader-client-ca-file"] = json!(authority);
        data["requestheader-allowed-names"] = json!(list(&core.config.authentication.proxy_names));
        data["requestheader-username-headers"] = json!(one("X-Remote-User"));
        data["requestheader-uid-headers"] = json!(one("X-Remote-Uid"));
        data["requestheader-group-headers"] = json!(one("X-Remote-Group"));
        data["requestheader-extra-headers-prefix"] = json!(one("X-Remote-Extra-"));
    }
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": data,
    })
}

/// The Service that every pod finds the API server by, and where it leads.
async fn ensure_service(core: &Arc<Core>) -> Result<(), ApiError> {
    let port = core.advertised_port();
    let address = core.config.advertise_address;
    let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP", "sessionAffinity": "None",
            "clusterIP": core.services.first_address().to_string(),
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
        },
    });
    ensure_kubernetes_service(core, service).await?;
    if address.is_loopback() {
        // Endpoints may not be loopback addresses: pods could not reach them, only the host can.
        tracing::debug!(%address, "no endpoints of the kubernetes service: the advertised address is a loopback address");
        return Ok(());
    }
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{"addresses": [{"ip": address.to_string()}], "ports": ports}],
    });
    put(core, endpoints, &["subsets"]).await?;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}],
        "ports": ports,
    });
    put(core, slice, &["addressType", "endpoints", "ports"]).await
}

/// The Service's port must lead to where this server listens now.
async fn ensure_kubernetes_service(core: &Arc<Core>, wanted: Value) -> Result<(), ApiError> {
    let Some((call, key)) = call_for(core, &wanted)? else { return Ok(()) };
    if core.store.get(&key).is_none() {
        return create(&call, wanted).await;
    }
    let write = internal();
    let change = Change { part: Part::Main, write: &write, body: None, internal: true, tracked: true };
    let change = call.change(&change, |old| {
        let mut new = old.clone();
        new["spec"]["ports"] = wanted["spec"]["ports"].clone();
        Ok(new)
    });
    change.await.map(|_| ())
}

/// Lets go of encoded forms that nobody asks for any more.
async fn forget_the_cold(core: &Core) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        core.hot.sweep();
    }
}

/// Puts the Service and its endpoints back whenever somebody changes or deletes them.
async fn keep_service(core: &Arc<Core>) {
    loop {
        if let Err(error) = ensure_service(core).await {
            tracing::warn!(%error, "the kubernetes service could not be put right");
            tokio::time::sleep(RETRY).await;
            continue;
        }
        if !changed(core).await {
            return;
        }
    }
}

/// Waits until one of the three objects is no longer as it is now; `false` when the store closes.
async fn changed(core: &Core) -> bool {
    let kinds = [("", "services"), ("", "endpoints"), ("discovery.k8s.io", "endpointslices")];
    let revision = core.store.revision();
    let mut watchers = Vec::new();
    for (group, plural) in kinds {
        let Some(served) = core.catalogue.stored(group, plural) else { continue };
        let Ok(key) = storage::key(&served, "default", "kubernetes") else { continue };
        let start = WatchStart::After(revision);
        match core.store.watch(KeyRange::single(&key), start, WatchOptions::default()) {
            Ok(watcher) => watchers.push(watcher),
            Err(podium_store::WatchError::Closed) => return false,
            Err(_) => return true,
        }
    }
    if watchers.is_empty() {
        return false;
    }
    let nexts = watchers.iter_mut().map(|watcher| Box::pin(watcher.next()));
    let (first, _, _) = futures::future::select_all(nexts).await;
    !matches!(first, Err(podium_store::WatchError::Closed))
}
