//! Watches Endpoints, Services and slices, decides, and carries it out.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use podium_client::{Change, Informer, ObjectKey, WorkQueue, reference_of};

use super::MANAGER;
use super::decide::{Mirror, decide};
use crate::context::{Context, Error, LAG_CHECK};
use crate::endpointslice::{MANAGED_BY, apply, service_of};
use crate::expect::Expectations;
use crate::labels;
use crate::metrics::slices::{MIRROR_SECONDS, Sizes, mirrors_changed};

/// Index of mirrored slices by the key of their Service.
const BY_SERVICE: &str = "controllers/mirrored";

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let informers = &context.informers;
    let slices = informers.of::<EndpointSlice>();
    slices.add_index(BY_SERVICE, |slice| {
        service_of(slice).filter(|_| is_ours(slice)).map(|key| key.to_string()).into_iter().collect()
    });
    let controller = Arc::new(Controller {
        endpoints: informers.of::<Endpoints>(),
        services: informers.of::<Service>(),
        slices,
        queue: WorkQueue::new("endpoint_slice_mirroring"),
        expectations: Expectations::default(),
        sizes: Sizes::default(),
        context: context.clone(),
    });
    controller.watch();
    let caches = [
        controller.endpoints.synced().boxed(),
        controller.services.synced().boxed(),
        controller.slices.synced().boxed(),
    ];
    context.ready(caches).await;
    let queue = controller.queue.clone();
    context.work(queue, move |key| reconcile(Arc::clone(&controller), key)).await;
}

fn is_ours(slice: &EndpointSlice) -> bool {
    labels::value(slice.metadata.labels.as_ref(), MANAGED_BY) == Some(MANAGER)
}

struct Controller {
    context: Context,
    endpoints: Informer<Endpoints>,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    queue: WorkQueue<ObjectKey>,
    expectations: Expectations,
    sizes: Sizes,
}

impl Controller {
    fn watch(&self) {
        let queue = self.queue.clone();
        self.endpoints.on_event(move |change| queue.add(ObjectKey::of(change.object().as_ref())));
        let queue = self.queue.clone();
        self.services.on_event(move |change| queue.add(ObjectKey::of(change.object().as_ref())));
        let queue = self.queue.clone();
        self.slices.on_event(move |change| {
            let was_ours = matches!(change, Change::Modified { old, .. } if is_ours(old));
            if was_ours || is_ours(change.object()) {
                service_of(change.object()).into_iter().for_each(|key| queue.add(key));
            }
        });
    }
}

async fn reconcile(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let started = std::time::Instant::now();
    let outcome = sync(&controller, key).await;
    MIRROR_SECONDS.with([]).observe(started.elapsed().as_secs_f64());
    outcome
}

async fn sync(controller: &Controller, key: ObjectKey) -> Result<(), Error> {
    let context = &controller.context;
    if !controller.expectations.satisfied(&key, &controller.slices, context.now()) {
        controller.queue.add_after(key, LAG_CHECK);
        return Ok(());
    }
    let mut slices = controller.slices.by_index(BY_SERVICE, &key.to_string());
    slices.retain(|slice| slice.metadata.deletion_timestamp.is_none());
    let (endpoints, service) = (controller.endpoints.get(&key), controller.services.get(&key));
    let most = context.settings.mirrored_per_subset;
    let Mirror { decision, skipped } =
        decide(endpoints.as_deref(), service.as_deref(), &slices, most, context.names.as_ref());
    match skipped {
        Some(skipped) => controller.sizes.mirrored(&key, &decision.counts, skipped),
        None => controller.sizes.not_mirrored(&key),
    }
    if let Some(endpoints) = &endpoints {
        for (type_, reason, message) in &decision.events {
            context.event_about(&reference_of(endpoints.as_ref()), *type_, reason, message.as_str());
        }
    }
    let writes = decision.writes();
    apply(context, &key, &controller.expectations, decision).await?;
    mirrors_changed(writes);
    Ok(())
}
