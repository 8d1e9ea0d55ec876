//! Watches Services, pods, nodes and slices, decides, and carries it out.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use parking_lot::Mutex;
use podium_client::{Change, Informer, ObjectKey, WorkQueue, is_conflict, is_not_found, reference_of};

use super::decide::{Decision, Observed, decide};
use super::topology::{self, Capacity, zone};
use super::{MANAGED_BY, MANAGER, SERVICE_NAME};
use crate::context::{self, Context, Error, LAG_CHECK};
use crate::expect::{Expectations, Expected};
use crate::labels;
use crate::metrics::slices::{SLICE_SYNCS, Sizes, service_synced, slices_changed};
use crate::owner;
use crate::pods;
use crate::services;
use crate::services::trigger::TriggerTimes;

/// Index of Services that want hints by what zones have.
const BY_MODE: &str = "controllers/topologyMode";
const ASKED: &str = "Auto";
/// Index of slices by the key of their Service.
const BY_SERVICE: &str = "controllers/service";

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let controller = Arc::new(Controller::new(context));
    controller.watch();
    controller
        .context
        .ready([
            controller.services.synced().boxed(),
            controller.pods.synced().boxed(),
            controller.nodes.synced().boxed(),
            controller.slices.synced().boxed(),
        ])
        .await;
    let (context, queue) = (controller.context.clone(), controller.queue.clone());
    context.work(queue, move |key| reconcile(Arc::clone(&controller), key)).await;
}

#[derive(Debug)]
struct Controller {
    context: Context,
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
    queue: WorkQueue<ObjectKey>,
    expectations: Expectations,
    /// What the zones have, for Services that want hints by it.
    capacity: Arc<Mutex<Capacity>>,
    times: TriggerTimes,
    sizes: Sizes,
}

/// The Service a slice belongs to.
pub(crate) fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = labels::value(slice.metadata.labels.as_ref(), SERVICE_NAME).filter(|name| !name.is_empty())?;
    Some(ObjectKey::new(owner::namespace(&slice.metadata), name))
}

fn is_ours(slice: &EndpointSlice) -> bool {
    labels::value(slice.metadata.labels.as_ref(), MANAGED_BY) == Some(MANAGER)
}

impl Controller {
    fn new(context: Context) -> Self {
        let informers = &context.informers;
        let (services, pods) = (informers.of::<Service>(), informers.of::<Pod>());
        services::index(&services, &pods);
        services.add_index(BY_MODE, |service| {
            topology::is_asked(service).then(|| ASKED.to_owned()).into_iter().collect()
        });
        pods::index_by_node(&pods);
        let slices = informers.of::<EndpointSlice>();
        slices.add_index(BY_SERVICE, |slice| {
            service_of(slice).map(|key| key.to_string()).into_iter().collect()
        });
        Self {
            services,
            pods,
            nodes: informers.of::<Node>(),
            slices,
            queue: WorkQueue::new("endpoint_slice"),
            expectations: Expectations::default(),
            capacity: Arc::default(),
            times: TriggerTimes::default(),
            sizes: Sizes::default(),
            context,
        }
    }

    fn watch(&self) {
        let queue = self.queue.clone();
        self.services.on_event(move |change| queue.add(ObjectKey::of(change.object().as_ref())));
        let (queue, services) = (self.queue.clone(), self.services.clone());
        self.pods.on_event(move |change| {
            for key in services::selecting_services(change, &services) {
                queue.add(key);
            }
        });
        let queue = self.queue.clone();
        self.slices.on_event(move |change| {
            let was_ours = matches!(change, Change::Modified { old, .. } if is_ours(old));
            if was_ours || is_ours(change.object()) {
                service_of(change.object()).into_iter().for_each(|key| queue.add(key));
            }
        });
        let (queue, services, pods) = (self.queue.clone(), self.services.clone(), self.pods.clone());
        let capacity = self.capacity.clone();
        self.nodes.on_event(move |change| {
            let node = change.object();
            let is_news = match change {
                Change::Deleted(_) => capacity.lock().remove(owner::name(&node.metadata)),
                Change::Added(_) | Change::Modified { .. } => capacity.lock().put(node),
            };
            if is_news {
                services.keys_by_index(BY_MODE, ASKED).into_iter().for_each(|key| queue.add(key));
            }
            if matches!(change, Change::Modified { old, new } if zone(old) == zone(new)) {
                return;
            }
            for pod in pods.by_index(pods::BY_NODE, owner::name(&change.object().metadata)) {
                for key in services::selecting_services(&Change::Added(pod), &services) {
                    queue.add(key);
                }
            }
        });
    }

    fn observe(&self, service: &Service, key: &ObjectKey) -> Decision {
        let selected = services::selected_pods(service, &self.pods);
        let mut slices = self.slices.by_index(BY_SERVICE, &key.to_string());
        slices.retain(|slice| is_ours(slice) && slice.metadata.deletion_timestamp.is_none());
        let mut nodes = BTreeMap::new();
        for name in selected.iter().filter_map(|pod| pods::node_name(pod)) {
            if !nodes.contains_key(name)
                && let Some(node) = self.nodes.get(&ObjectKey::cluster(name))
            {
                nodes.insert(name.to_owned(), zone(&node).map(str::to_owned));
            }
        }
        let shares = if topology::is_asked(service) { self.capacity.lock().shares() } else { None };
        let shares = shares.as_ref();
        let news = self.times.news(key, service, &selected);
        let most = self.context.settings.endpoints_per_slice;
        let seen = Observed { service, pods: &selected, slices: &slices, nodes: &nodes, shares, most, news };
        decide(&seen, self.context.names.as_ref())
    }
}

async fn reconcile(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let Some(service) = controller.services.get(&key) else {
        // The slices are the garbage collector's: they name the Service as their owner.
        controller.expectations.forget(&key);
        controller.times.forget(&key);
        controller.sizes.no_service(&key);
        return Ok(());
    };
    if services::is_external_name(&service) || services::selector(&service).is_none() {
        controller.sizes.no_service(&key);
        return Ok(());
    }
    if !controller.expectations.satisfied(&key, &controller.slices, controller.context.now()) {
        SLICE_SYNCS.with(["stale"]).increment();
        controller.queue.add_after(key, LAG_CHECK);
        return Ok(());
    }
    let decision = controller.observe(&service, &key);
    let homeless = decision.homeless.join(", ");
    for (type_, reason, message) in &decision.events {
        controller.context.event_about(&reference_of(service.as_ref()), *type_, reason, message.as_str());
    }
    let distribution = service.spec.as_ref().and_then(|spec| spec.traffic_distribution.as_deref());
    let hints = topology::is_asked(&service);
    controller.sizes.service(&key, &decision.counts, hints, distribution);
    let writes = decision.writes();
    slices_changed(writes);
    let outcome = apply(&controller.context, &key, &controller.expectations, decision).await;
    SLICE_SYNCS.with([if outcome.is_ok() { "success" } else { "error" }]).increment();
    if outcome.is_ok() {
        service_synced(hints, distribution, writes.iter().sum());
    }
    if let Err(error @ Error::Call { source, .. }) = &outcome
        && !error.is_conflict()
    {
        let message =
            format!("Error updating Endpoint Slices for Service {key}: {error}: {}", context::words(source));
        controller.context.warning(service.as_ref(), "FailedToUpdateEndpointSlices", message);
    }
    if !homeless.is_empty() {
        // The node's arrival is an event and brings us back here.
        tracing::debug!(service = %key, pods = homeless, "nodes of these pods are not known yet");
    }
    outcome
}

/// Carries out a decision about the slices of one Service, and notes every write in `expectations`.
pub(crate) async fn apply(
    context: &Context,
    key: &ObjectKey,
    expectations: &Expectations,
    decision: Decision,
) -> Result<(), Error> {
    Sync { context, key, expectations }.apply(decision).await
}

/// One reconcile's calls.
struct Sync<'a> {
    context: &'a Context,
    key: &'a ObjectKey,
    expectations: &'a Expectations,
}

impl Sync<'_> {
    async fn apply(&self, decision: Decision) -> Result<(), Error> {
        for slice in &decision.create {
            self.create(slice).await?;
        }
        for slice in &decision.update {
            let name = owner::name(&slice.metadata);
            let updated = self
                .api()
                .replace(name, &PostParams::default(), slice)
                .await
                .map_err(Error::call("update endpoint slice", name))?;
            self.expectations.wrote(self.key, &updated, self.context.now());
        }
        for slice in &decision.delete {
            self.delete(slice).await?;
        }
        Ok(())
    }

    fn api(&self) -> Api<EndpointSlice> {
        Api::namespaced(self.context.client.clone(), &self.key.namespace)
    }

    async fn create(&self, slice: &EndpointSlice) -> Result<(), Error> {
        let now = self.context.now();
        match self.api().create(&PostParams::default(), slice).await {
            Ok(created) => {
                self.expectations.wrote(self.key, &created, now);
                Ok(())
            }
            Err(error) if context::namespace_is_terminating(&error) => Ok(()),
            Err(error) => {
                let may = || Expected::MaybeCreated { key: ObjectKey::of(slice) };
                self.expectations.unanswered(self.key, &error, may, now);
                Err(Error::call("create endpoint slice for", self.key.to_string())(error))
            }
        }
    }

    async fn delete(&self, slice: &EndpointSlice) -> Result<(), Error> {
        let name = owner::name(&slice.metadata);
        let uid = owner::uid(&slice.metadata).to_owned();
        let precondition = Preconditions { uid: Some(uid.clone()), resource_version: None };
        match self.api().delete(name, &DeleteParams::default().preconditions(precondition)).await {
            Ok(_) => {
                let expected = Expected::Deleted { key: ObjectKey::of(slice), uid };
                self.expectations.note(self.key, expected, self.context.now());
                Ok(())
            }
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
            Err(error) => Err(Error::call("delete endpoint slice", name)(error)),
        }
    }
}
