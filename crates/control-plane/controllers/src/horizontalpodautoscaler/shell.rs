//! Looks at every autoscaler again and again: asks for scale and figures, and sets the scale.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use futures::FutureExt;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, MetricIdentifier, MetricSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use parking_lot::Mutex;
use podium_api::selector::LabelSelector;
use podium_client::{Change, Informer, ObjectKey, WorkQueue, is_not_found, run_workers, status_of};
use serde_json::Value;

use super::behavior::History;
use super::decide::{self, Aim, aim, judge};
use super::figures::{self, Figures};
use super::replicas::{Failure, INVALID_TYPE, Proposal, propose};
use super::status::{ABLE_TO_SCALE, Condition, Report, SCALING_ACTIVE, status};
use super::usage::Around;
use crate::context::{Context, Error, words};
use crate::discovery::Served;
use crate::metrics;
use crate::scale::Scales;

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let autoscalers = context.informers.of::<HorizontalPodAutoscaler>();
    let pods = context.informers.of::<Pod>();
    let queue = WorkQueue::new("horizontalpodautoscaler");
    let (to, period) = (queue.clone(), context.settings.autoscaling.sync_period);
    let known = AtomicU32::new(0);
    autoscalers.on_event(move |change| {
        let count = match change {
            Change::Added(_) => known.fetch_add(1, Ordering::Relaxed) + 1,
            Change::Deleted(_) => known.fetch_sub(1, Ordering::Relaxed) - 1,
            Change::Modified { .. } => known.load(Ordering::Relaxed),
        };
        metrics::SCALERS.with([]).set(f64::from(count));
        let key = ObjectKey::of(change.object().as_ref());
        match change {
            Change::Added(_) => to.add_after(key, period),
            // What it remembers goes with it.
            Change::Deleted(_) => to.add(key),
            // It is looked at soon anyway.
            Change::Modified { .. } => {}
        }
    });
    context.ready([autoscalers.synced().boxed(), pods.synced().boxed()]).await;
    let controller = Arc::new(Controller {
        scales: Scales::new(context.client.clone()),
        context: context.clone(),
        autoscalers,
        pods,
        queue: queue.clone(),
        memory: Mutex::default(),
    });
    run_workers(queue, context.workers, context.shutdown.clone(), move |key| {
        reconcile(Arc::clone(&controller), key)
    })
    .await;
}

/// What is remembered of one autoscaler.
#[derive(Default)]
struct Memory {
    history: History,
    /// The selector of its target's scale.
    selector: Option<LabelSelector>,
}

struct Controller {
    context: Context,
    scales: Scales,
    autoscalers: Informer<HorizontalPodAutoscaler>,
    pods: Informer<Pod>,
    queue: WorkQueue<ObjectKey>,
    memory: Mutex<HashMap<ObjectKey, Memory>>,
}

/// Never fails for the queue: whatever was wrong is looked at again when its turn comes, and not sooner.
async fn reconcile(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let Some(autoscaler) = controller.autoscalers.get(&key) else {
        controller.memory.lock().remove(&key);
        return Ok(());
    };
    let started = Instant::now();
    let mut report = Report::default();
    let mut error = "none";
    if let Err(why) = controller.look(&autoscaler, &key, &mut report).await {
        tracing::debug!(autoscaler = %key, why, "not scaled");
        error = if report.blames_spec { "spec" } else { "internal" };
    }
    if let Some(desired) = report.desired {
        metrics::SCALER_DESIRES.with([&key.namespace, &key.name]).set(f64::from(desired));
    }
    if let Some(status) = status(&autoscaler, &report, controller.context.now()) {
        let updated =
            HorizontalPodAutoscaler { status: Some(status), ..HorizontalPodAutoscaler::clone(&autoscaler) };
        let api: Api<HorizontalPodAutoscaler> =
            Api::namespaced(controller.context.client.clone(), &key.namespace);
        match api.replace_status(&key.name, &PostParams::default(), &updated).await {
            Err(error) if !is_not_found(&error) => {
                controller.context.warning(autoscaler.as_ref(), "FailedUpdateStatus", words(&error));
            }
            _ => {}
        }
    }
    let change = report.current.zip(report.desired).filter(|_| report.rescaled);
    let action = change.map_or("none", |(current, desired)| metrics::scaling(current, desired));
    metrics::scaler_reconciled(action, error, started.elapsed());
    controller.queue.add_after(key, controller.context.settings.autoscaling.sync_period);
    Ok(())
}

impl Controller {
    /// Does what is to be done and writes down what the status is to say, also about failures.
    async fn look(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        key: &ObjectKey,
        report: &mut Report,
    ) -> Result<(), String> {
        let target = autoscaler.spec.scale_target_ref.clone();
        let able = |holds: bool, reason: &str, message: String| {
            Condition::new(ABLE_TO_SCALE, holds, reason, message)
        };
        let found = self.find(&target.api_version.unwrap_or_default(), &target.kind, key, &target.name).await;
        let (resource, scale) = found.inspect_err(|why| {
            report.blames_spec = !is_version(autoscaler.spec.scale_target_ref.api_version.as_deref());
            self.context.warning(autoscaler, "FailedGetScale", why.as_str());
            let message = format!("the HPA controller was unable to get the target's current scale: {why}");
            report.conditions.push(able(false, "FailedGetScale", message));
        })?;
        let message = "the HPA controller was able to get the target's current scale".to_owned();
        report.conditions.push(able(true, "SucceededGetScale", message));
        let current = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        report.current = Some(current);
        self.memory.lock().entry(key.clone()).or_default().history.begin(current, self.context.now());
        let mut trouble = None;
        let (desired, why) = match aim(autoscaler, current) {
            Aim::Off => {
                let message = "scaling is disabled since the replica count of the target is zero";
                report.conditions.push(Condition::new(SCALING_ACTIVE, false, "ScalingDisabled", message));
                (current, String::new())
            }
            Aim::Correct { replicas, why } => (replicas, why.to_owned()),
            Aim::Measure => {
                let proposals = self.measure(autoscaler, key, &scale, report).await.inspect_err(|why| {
                    self.context.warning(autoscaler, "FailedComputeMetricsReplicas", why.as_str());
                })?;
                let verdict = {
                    let mut memory = self.memory.lock();
                    let history = &mut memory.entry(key.clone()).or_default().history;
                    let settings = &self.context.settings.autoscaling;
                    judge(autoscaler, current, &proposals, history, settings, self.context.now())
                };
                report.conditions.extend(verdict.conditions);
                report.metrics = verdict.metrics;
                let first = proposals.iter().find_map(|proposal| proposal.as_ref().err());
                report.blames_spec = first.is_some_and(|failure| failure.reason == INVALID_TYPE);
                match (verdict.replicas, verdict.error) {
                    (Some(replicas), error) => {
                        trouble = error;
                        replicas
                    }
                    (None, error) => {
                        let why = error.unwrap_or_default();
                        self.context.warning(autoscaler, "FailedComputeMetricsReplicas", why.as_str());
                        return Err(why);
                    }
                }
            }
        };
        if desired != current {
            let set = self.scales.set(&resource, &key.namespace, &target.name, &scale, desired).await;
            if let Err(error) = set {
                let error = words(&error);
                let message = format!("New size: {desired}; reason: {why}; error: {error}");
                self.context.warning(autoscaler, "FailedRescale", message);
                let message = format!("the HPA controller was unable to update the target scale: {error}");
                report.conditions.push(able(false, "FailedUpdateScale", message));
                return Err(error);
            }
            let message = format!("the HPA controller was able to update the target scale to {desired}");
            report.conditions.push(able(true, "SucceededRescale", message));
            self.context.normal(
                autoscaler,
                "SuccessfulRescale",
                format!("New size: {desired}; reason: {why}"),
            );
            report.rescaled = true;
            let mut memory = self.memory.lock();
            let history = &mut memory.entry(key.clone()).or_default().history;
            history.scaled(autoscaler, current, desired, self.context.now());
        }
        report.desired = Some(desired);
        trouble.map_or(Ok(()), Err)
    }

    async fn find(
        &self,
        version: &str,
        kind: &str,
        key: &ObjectKey,
        name: &str,
    ) -> Result<(Served, Scale), String> {
        let resource = self.scales.find(version, kind).await?;
        let scale = self.scales.get(&resource, &key.namespace, name).await.map_err(|error| words(&error))?;
        Ok((resource, scale))
    }

    /// What each metric asks for.
    async fn measure(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        key: &ObjectKey,
        scale: &Scale,
        report: &mut Report,
    ) -> Result<Vec<Result<Proposal, Failure>>, String> {
        let status = scale.status.clone().unwrap_or_default();
        let selector = self.selector(autoscaler, status.selector.as_deref().unwrap_or_default(), report)?;
        let pods = self.pods.list_namespace(&key.namespace);
        let pods: Vec<&Pod> = pods
            .iter()
            .map(AsRef::as_ref)
            .filter(|pod| selector.matches_option(pod.metadata.labels.as_ref()))
            .collect();
        self.alone(autoscaler, key, &selector, &pods, report)?;
        let mut proposals = Vec::new();
        let shown = autoscaler.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0);
        for spec in decide::metrics(autoscaler) {
            let started = Instant::now();
            let figures = self.figures(spec, &key.namespace, &selector).await;
            let around = Around {
                autoscaler,
                settings: &self.context.settings.autoscaling,
                pods: &pods,
                wanted: scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0),
                there: status.replicas,
                now: self.context.now(),
            };
            let proposal = propose(spec, figures, &around);
            let (action, error) = match &proposal {
                Ok(proposal) => (metrics::scaling(shown, proposal.replicas), "none"),
                Err(failure) if failure.reason == INVALID_TYPE => ("none", "spec"),
                Err(_) => ("none", "internal"),
            };
            metrics::scaler_computed(action, error, &spec.type_, started.elapsed());
            if let Err(failure) = &proposal {
                self.context.warning(autoscaler, failure.reason, failure.why.as_str());
            }
            proposals.push(proposal);
        }
        Ok(proposals)
    }

    fn selector(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        text: &str,
        report: &mut Report,
    ) -> Result<LabelSelector, String> {
        let mut inactive = |event: &str, why: &str, message: &str| {
            self.context.warning(autoscaler, event, why);
            report.conditions.push(Condition::new(SCALING_ACTIVE, false, "InvalidSelector", message));
            why.to_owned()
        };
        if text.is_empty() {
            let message = "the HPA target's scale is missing a selector";
            return Err(inactive("SelectorRequired", "selector is required", message));
        }
        LabelSelector::parse(text).map_err(|error| {
            let why = format!(
                "couldn't convert selector into a corresponding internal selector object: {}",
                error.0
            );
            inactive("InvalidSelector", &why, &why)
        })
    }

    /// Pods that two autoscalers count would be scaled by both.
    fn alone(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        key: &ObjectKey,
        selector: &LabelSelector,
        pods: &[&Pod],
        report: &mut Report,
    ) -> Result<(), String> {
        let mut memory = self.memory.lock();
        memory.entry(key.clone()).or_default().selector = Some(selector.clone());
        let counts =
            |other: &LabelSelector| pods.iter().any(|pod| other.matches_option(pod.metadata.labels.as_ref()));
        let of_namespace = memory.iter().filter(|(other, _)| other.namespace == key.namespace);
        let counting = of_namespace.filter(|(_, memory)| memory.selector.as_ref().is_some_and(counts));
        let counting: BTreeSet<&ObjectKey> = counting.map(|(other, _)| other).collect();
        if counting.len() < 2 {
            return Ok(());
        }
        let names: Vec<_> =
            counting.iter().map(|key| format!("{{{} {}}}", key.name, key.namespace)).collect();
        let why =
            format!("pods by selector {selector} are controlled by multiple HPAs: [{}]", names.join(" "));
        self.context.warning(autoscaler, "AmbiguousSelector", why.as_str());
        report.conditions.push(Condition::new(SCALING_ACTIVE, false, "AmbiguousSelector", why.as_str()));
        Err(why)
    }

    /// Asks for the figures of one metric.
    async fn figures(
        &self,
        spec: &MetricSpec,
        namespace: &str,
        pods: &LabelSelector,
    ) -> Result<Figures, String> {
        let selected = ("labelSelector", pods.to_string());
        if let Some(source) = spec.resource.as_ref().filter(|_| spec.type_ == "Resource") {
            let list = self.resource_list(namespace, selected).await?;
            return figures::of_resource(&list, &source.name, None);
        }
        if let Some(source) = spec.container_resource.as_ref().filter(|_| spec.type_ == "ContainerResource") {
            let list = self.resource_list(namespace, selected).await?;
            return figures::of_resource(&list, &source.name, Some(&source.container));
        }
        if let Some(source) = spec.pods.as_ref().filter(|_| spec.type_ == "Pods") {
            let path = format!("pods/*/{}", source.metric.name);
            let list = self.custom_list(namespace, &path, &[selected], &source.metric).await?;
            return figures::of_pods(&list);
        }
        if let Some(source) = spec.object.as_ref().filter(|_| spec.type_ == "Object") {
            let object = &source.described_object;
            let resource =
                self.scales.find(object.api_version.as_deref().unwrap_or("v1"), &object.kind).await?;
            let path = match (resource.group_resource().as_str(), resource.namespaced) {
                // Metrics of a namespace are beside its objects'.
                ("namespaces", _) => format!("metrics/{}", source.metric.name),
                (dotted, _) => format!("{dotted}/{}/{}", object.name, source.metric.name),
            };
            let list = self.custom_list(namespace, &path, &[], &source.metric).await?;
            return figures::of_object(&list);
        }
        if let Some(source) = spec.external.as_ref().filter(|_| spec.type_ == "External") {
            let path =
                format!("external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{}", source.metric.name);
            let labels = labels(&source.metric)?;
            let query: Vec<_> = labels.map(|labels| ("labelSelector", labels)).into_iter().collect();
            let what = format!("{}.external.metrics.k8s.io", source.metric.name);
            let list = self.ask(&path, &query, &what).await;
            let list =
                list.map_err(|why| format!("unable to fetch metrics from external metrics API: {why}"));
            return figures::of_outside(&list?);
        }
        // What it is instead is said where figures are worked with.
        Ok(Figures::Total(0))
    }

    async fn resource_list(&self, namespace: &str, selected: (&str, String)) -> Result<Value, String> {
        let path = format!("metrics.k8s.io/v1beta1/namespaces/{namespace}/pods");
        let list = self.ask(&path, &[selected], "pods.metrics.k8s.io").await;
        list.map_err(|why| format!("unable to fetch metrics from resource metrics API: {why}"))
    }

    async fn custom_list(
        &self,
        namespace: &str,
        path: &str,
        query: &[(&str, String)],
        metric: &MetricIdentifier,
    ) -> Result<Value, String> {
        let mut query = query.to_vec();
        query.extend(labels(metric)?.map(|labels| ("metricLabelSelector", labels)));
        let path = format!("custom.metrics.k8s.io/v1beta2/namespaces/{namespace}/{path}");
        let list = self.ask(&path, &query, &format!("{}.custom.metrics.k8s.io", metric.name)).await;
        list.map_err(|why| format!("unable to fetch metrics from custom metrics API: {why}"))
    }

    async fn ask(&self, path: &str, query: &[(&str, String)], what: &str) -> Result<Value, String> {
        let query: Vec<_> = query.iter().map(|(key, value)| format!("{key}={}", encoded(value))).collect();
        let uri = format!("/apis/{path}?{}", query.join("&"));
        let request = http::Request::get(uri).body(Vec::new()).map_err(|error| error.to_string())?;
        self.context.client.request(request).await.map_err(|error| match status_of(&error) {
            // As client-go says it when nobody serves the path.
            Some(status) if status.code == 404 => {
                format!("the server could not find the requested resource (get {what})")
            }
            _ => words(&error),
        })
    }
}

/// Whether it is a version with a group or without.
fn is_version(text: Option<&str>) -> bool {
    text.unwrap_or_default().split('/').count() <= 2
}

/// A metric's own selector as text.
fn labels(metric: &MetricIdentifier) -> Result<Option<String>, String> {
    let selector = metric.selector.as_ref().map(LabelSelector::from_object).transpose();
    Ok(selector.map_err(|error| error.0)?.map(|selector| selector.to_string()))
}

/// A value in a query.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
