//! Watches Services, pods and Endpoints, decides, and carries it out.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use kube::api::{Api, DeleteParams, PostParams};
use podium_client::{Informer, ObjectKey, WorkQueue, is_conflict, is_not_found};

use super::decide::decide;
use crate::context::{self, Context, Error, LAG_CHECK};
use crate::expect::Expectations;
use crate::services;
use crate::services::trigger::TriggerTimes;

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let controller = Arc::new(Controller::new(context));
    controller.watch();
    controller
        .context
        .ready([
            controller.services.synced().boxed(),
            controller.pods.synced().boxed(),
            controller.endpoints.synced().boxed(),
        ])
        .await;
    // Endpoints whose Service went away while nobody watched.
    for key in controller.endpoints.keys() {
        controller.queue.add(key);
    }
    let (context, queue) = (controller.context.clone(), controller.queue.clone());
    context.work(queue, move |key| reconcile(Arc::clone(&controller), key)).await;
}

#[derive(Debug)]
struct Controller {
    context: Context,
    services: Informer<Service>,
    pods: Informer<Pod>,
    endpoints: Informer<Endpoints>,
    queue: WorkQueue<ObjectKey>,
    expectations: Expectations,
    times: TriggerTimes,
}

impl Controller {
    fn new(context: Context) -> Self {
        let (services, pods) = (context.informers.of::<Service>(), context.informers.of::<Pod>());
        services::index(&services, &pods);
        Self {
            services,
            pods,
            endpoints: context.informers.of::<Endpoints>(),
            queue: WorkQueue::new("endpoint"),
            expectations: Expectations::default(),
            times: TriggerTimes::default(),
            context,
        }
    }

    fn watch(&self) {
        let queue = self.queue.clone();
        self.services.on_event(move |change| queue.add(ObjectKey::of(change.object().as_ref())));
        let (queue, services) = (self.queue.clone(), self.services.clone());
        self.endpoints.on_event(move |change| {
            let key = ObjectKey::of(change.object().as_ref());
            // People create Endpoints before their Service: those without one are left alone until one has come and gone.
            if services.contains(&key) {
                queue.add(key);
            }
        });
        let (queue, services) = (self.queue.clone(), self.services.clone());
        self.pods.on_event(move |change| {
            for key in services::selecting_services(change, &services) {
                queue.add(key);
            }
        });
    }

    fn api(&self, key: &ObjectKey) -> Api<Endpoints> {
        Api::namespaced(self.context.client.clone(), &key.namespace)
    }
}

async fn reconcile(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let Some(service) = controller.services.get(&key) else {
        controller.expectations.forget(&key);
        controller.times.forget(&key);
        return remove(&controller, &key).await;
    };
    if services::is_external_name(&service) || services::selector(&service).is_none() {
        return Ok(());
    }
    if !controller.expectations.satisfied(&key, &controller.endpoints, controller.context.now()) {
        controller.queue.add_after(key, LAG_CHECK);
        return Ok(());
    }
    let pods = services::selected_pods(&service, &controller.pods);
    let current = controller.endpoints.get(&key);
    let news = controller.times.news(&key, &service, &pods);
    let Some(wanted) = decide(&service, &pods, current.as_deref(), news) else { return Ok(()) };
    let api = controller.api(&key);
    let written = match &current {
        Some(_) => api.replace(&key.name, &PostParams::default(), &wanted).await,
        None if service.metadata.deletion_timestamp.is_some() => return Ok(()),
        None => api.create(&PostParams::default(), &wanted).await,
    };
    let error = match written {
        Ok(written) => {
            controller.expectations.wrote(&key, &written, controller.context.now());
            return Ok(());
        }
        Err(error) => error,
    };
    if context::namespace_is_terminating(&error) {
        return Ok(());
    }
    if !is_conflict(&error) {
        let why = context::words(&error);
        let (reason, message) = match &current {
            Some(_) => ("FailedToUpdateEndpoint", format!("Failed to update endpoint {key}: {why}")),
            None => ("FailedToCreateEndpoint", format!("Failed to create endpoint for service {key}: {why}")),
        };
        controller.context.warning(&wanted, reason, message);
    }
    Err(Error::call("write endpoints", key.to_string())(error))
}

/// The Service is gone. Its Endpoints have no owner reference, so they are removed by name, as upstream does even with those
/// that a user made.
async fn remove(controller: &Controller, key: &ObjectKey) -> Result<(), Error> {
    let Some(endpoints) = controller.endpoints.get(key) else { return Ok(()) };
    if endpoints.metadata.annotations.as_ref().is_some_and(|it| it.contains_key(LEADER)) {
        return Ok(());
    }
    // This cache of Services may lag behind that of Endpoints.
    let services: Api<Service> = Api::namespaced(controller.context.client.clone(), &key.namespace);
    if services.get_opt(&key.name).await.map_err(Error::call("get service", key.to_string()))?.is_some() {
        return Ok(());
    }
    match controller.api(key).delete(&key.name, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(Error::call("delete endpoints", key.to_string())(error)),
    }
}

/// Marks Endpoints that serve as a lock and never had a Service.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
