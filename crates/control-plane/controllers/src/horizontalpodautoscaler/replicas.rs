//! How many replicas one metric asks for.

use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricStatus, MetricIdentifier, MetricSpec, MetricStatus,
    MetricTarget, MetricValueStatus, ObjectMetricStatus, PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use podium_api::quantity;
use podium_api::selector::LabelSelector;

use super::figures::{Figures, Samples};
use super::usage::{Around, Tolerances, by_usage, by_utilization, millis, up};
use crate::owner;
use crate::pods;

/// What one metric asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Proposal {
    pub(crate) replicas: i32,
    /// For events and conditions.
    pub(crate) name: String,
    pub(crate) status: MetricStatus,
}

/// The reason of failures of a metric that is of no known type.
pub(crate) const INVALID_TYPE: &str = "InvalidMetricSourceType";

/// Why a metric could not be worked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Of the condition and the event.
    pub(crate) reason: &'static str,
    pub(crate) why: String,
    /// The same as part of the whole.
    pub(crate) summary: String,
}

/// Works out what a metric asks for, from its figures or from why there are none.
pub(crate) fn propose(
    spec: &MetricSpec,
    figures: Result<Figures, String>,
    around: &Around<'_>,
) -> Result<Proposal, Failure> {
    let (reason, summary) = words(spec);
    calculate(spec, figures, around).map_err(|why| Failure {
        reason,
        summary: format!("{summary}{why}"),
        why,
    })
}

/// The reason of failures of such a metric, and how their summary begins.
fn words(spec: &MetricSpec) -> (&'static str, String) {
    match spec.type_.as_str() {
        "Resource" => {
            let name = spec.resource.as_ref().map(|source| source.name.as_str()).unwrap_or_default();
            ("FailedGetResourceMetric", format!("failed to get {name} resource metric value: "))
        }
        "ContainerResource" => {
            let name =
                spec.container_resource.as_ref().map(|source| source.container.as_str()).unwrap_or_default();
            ("FailedGetContainerResourceMetric", format!("failed to get {name} container metric value: "))
        }
        "Pods" => ("FailedGetPodsMetric", "failed to get pods metric value: ".to_owned()),
        "Object" => ("FailedGetObjectMetric", "failed to get object metric value: ".to_owned()),
        "External" => {
            let name = spec.external.as_ref().map(|source| source.metric.name.as_str()).unwrap_or_default();
            ("FailedGetExternalMetric", format!("failed to get {name} external metric value: "))
        }
        _ => (INVALID_TYPE, String::new()),
    }
}

fn calculate(
    spec: &MetricSpec,
    figures: Result<Figures, String>,
    around: &Around<'_>,
) -> Result<Proposal, String> {
    let status = |type_: &str| MetricStatus { type_: type_.to_owned(), ..MetricStatus::default() };
    match (&spec.resource, &spec.container_resource, &spec.pods, &spec.object, &spec.external) {
        (Some(source), ..) if spec.type_ == "Resource" => {
            let (replicas, current, name) = of_resource(&source.name, None, &source.target, figures, around)?;
            let resource = Some(ResourceMetricStatus { name: source.name.clone(), current });
            Ok(Proposal { replicas, name, status: MetricStatus { resource, ..status("Resource") } })
        }
        (_, Some(source), ..) if spec.type_ == "ContainerResource" => {
            let container = source.container.clone();
            let (replicas, current, name) =
                of_resource(&source.name, Some(&container), &source.target, figures, around)?;
            let container_resource =
                Some(ContainerResourceMetricStatus { name: source.name.clone(), container, current });
            let status = MetricStatus { container_resource, ..status("ContainerResource") };
            Ok(Proposal { replicas, name, status })
        }
        (_, _, Some(source), ..) if spec.type_ == "Pods" => {
            let metric = source.metric.clone();
            let figures = figures.map_err(|why| format!("unable to get metric {}: {why}", metric.name));
            let target = millis(source.target.average_value.as_ref()).unwrap_or_default();
            let (replicas, usage) = by_usage(&per_pod(figures?), "", target, around)?;
            let name = format!("pods metric {}", metric.name);
            let pods = Some(PodsMetricStatus { metric, current: average(usage, false) });
            Ok(Proposal { replicas, name, status: MetricStatus { pods, ..status("Pods") } })
        }
        (_, _, _, Some(source), _) if spec.type_ == "Object" => {
            let (object, metric) = (source.described_object.clone(), source.metric.clone());
            let namespace = owner::namespace(&around.autoscaler.metadata);
            let total = figures.map(total).map_err(|why| {
                format!(
                    "unable to get metric {}: {why} on {} {namespace}/{}",
                    metric.name, object.kind, object.name
                )
            });
            let (replicas, current) = match in_all(&source.target, total, around)? {
                Some(found) => found,
                None => {
                    let why = "invalid object metric source: neither a value target nor an average value target was set";
                    return Err(why.to_owned());
                }
            };
            let name = match current.value {
                Some(_) => format!("{} metric {}", object.kind, metric.name),
                None => named_outside(&metric),
            };
            let object = Some(ObjectMetricStatus { described_object: object, metric, current });
            Ok(Proposal { replicas, name, status: MetricStatus { object, ..status("Object") } })
        }
        (_, _, _, _, Some(source)) if spec.type_ == "External" => {
            let metric = source.metric.clone();
            let namespace = owner::namespace(&around.autoscaler.metadata);
            let total = figures.map(total).map_err(|why| {
                format!(
                    "unable to get external metric {namespace}/{}/{}: {why}",
                    metric.name,
                    selected(&metric)
                )
            });
            let (replicas, current) = match in_all(&source.target, total, around)? {
                Some(found) => found,
                None => {
                    let why = "invalid external metric source: neither a value target nor an average value target was set";
                    return Err(why.to_owned());
                }
            };
            let name = named_outside(&metric);
            let external = Some(ExternalMetricStatus { metric, current });
            Ok(Proposal { replicas, name, status: MetricStatus { external, ..status("External") } })
        }
        _ => Err(format!("unknown metric source type {:?}", spec.type_)),
    }
}

fn named_outside(metric: &MetricIdentifier) -> String {
    format!("external metric {}({})", metric.name, selected(metric))
}

/// A metric's own selector, as Go prints one that is absent.
fn selected(metric: &MetricIdentifier) -> String {
    let selector = metric.selector.as_ref().and_then(|it| LabelSelector::from_object(it).ok());
    selector.map_or("nil".to_owned(), |selector| selector.to_string())
}

/// Thousandths as an amount; memory in the powers of two that people know it by.
fn amount(millis: i64, binary: bool) -> Quantity {
    let exact = match binary && millis % 1000 == 0 {
        true => quantity::Quantity::from_int(millis / 1000, quantity::Format::BinarySi),
        false => quantity::Quantity::from_milli(millis),
    };
    Quantity(exact.to_string())
}

fn average(millis: i64, binary: bool) -> MetricValueStatus {
    MetricValueStatus { average_value: Some(amount(millis, binary)), ..MetricValueStatus::default() }
}

fn per_pod(figures: Figures) -> Samples {
    match figures {
        Figures::PerPod(samples) => samples,
        Figures::Total(_) => Samples::new(),
    }
}

fn total(figures: Figures) -> i64 {
    match figures {
        Figures::Total(total) => total,
        Figures::PerPod(samples) => samples.values().map(|sample| sample.millis).sum(),
    }
}

fn of_resource(
    resource: &str,
    container: Option<&str>,
    target: &MetricTarget,
    figures: Result<Figures, String>,
    around: &Around<'_>,
) -> Result<(i32, MetricValueStatus, String), String> {
    let binary = resource == "memory";
    let figures = figures.map_err(|why| format!("unable to get metrics for resource {resource}: {why}"));
    if let Some(wanted) = millis(target.average_value.as_ref()) {
        let found = figures.and_then(|figures| by_usage(&per_pod(figures), resource, wanted, around));
        let (replicas, usage) = found.map_err(|why| format!("failed to get {resource} usage: {why}"))?;
        return Ok((replicas, average(usage, binary), format!("{resource} resource")));
    }
    let Some(wanted) = target.average_utilization else {
        let why = "invalid resource metric source: neither an average utilization target nor an average value (usage) target was set";
        return Err(why.to_owned());
    };
    let found = figures.and_then(|figures| {
        by_utilization(&per_pod(figures), resource, container, i64::from(wanted), around)
    });
    let (replicas, utilization, usage) =
        found.map_err(|why| format!("failed to get {resource} utilization: {why}"))?;
    let current = MetricValueStatus { average_utilization: Some(utilization), ..average(usage, binary) };
    let of = if container.is_some() { "container resource" } else { "resource" };
    Ok((replicas, current, format!("{resource} {of} utilization (percentage of request)")))
}

/// By one figure for all pods: `None` when the target says neither how much in all nor how much for each.
fn in_all(
    target: &MetricTarget,
    total: Result<i64, String>,
    around: &Around<'_>,
) -> Result<Option<(i32, MetricValueStatus)>, String> {
    let tolerances = Tolerances::of(around);
    if let Some(wanted) = millis(target.average_value.as_ref()) {
        let usage = total?;
        let ratio = usage as f64 / (wanted as f64 * f64::from(around.there));
        let replicas = if tolerances.admit(ratio) { around.there } else { up(usage as f64 / wanted as f64) };
        let each = (usage as f64 / f64::from(around.there)).ceil();
        return Ok(Some((replicas, average(if each.is_finite() { each as i64 } else { 0 }, false))));
    }
    let Some(wanted) = millis(target.value.as_ref()) else { return Ok(None) };
    let usage = total?;
    let ratio = usage as f64 / wanted as f64;
    let replicas = if tolerances.admit(ratio) {
        around.wanted
    } else {
        if around.pods.is_empty() {
            let why = "unable to calculate ready pods: no pods returned by selector while calculating replica count";
            return Err(why.to_owned());
        }
        let ready = around.pods.iter().filter(|pod| pods::phase(pod) == "Running" && pods::is_ready(pod));
        up(ratio * ready.count() as f64)
    };
    Ok(Some((
        replicas,
        MetricValueStatus { value: Some(amount(usage, false)), ..MetricValueStatus::default() },
    )))
}
