//! What pods use, against what they are meant to use: with pods that tell nothing, or nothing that counts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use podium_api::quantity;

use super::Autoscaling;
use super::figures::Samples;
use crate::owner;
use crate::pods;

/// Everything a calculation looks at besides the figures.
pub(crate) struct Around<'a> {
    pub(crate) autoscaler: &'a HorizontalPodAutoscaler,
    pub(crate) settings: &'a Autoscaling,
    /// The pods of the scale's selector.
    pub(crate) pods: &'a [&'a Pod],
    /// How many replicas the scale asks for, and how many there are.
    pub(crate) wanted: i32,
    pub(crate) there: i32,
    pub(crate) now: Timestamp,
}

/// The tolerances downwards and upwards.
#[derive(Clone, Copy)]
pub(super) struct Tolerances(f64, f64);

impl Tolerances {
    pub(super) fn of(around: &Around<'_>) -> Self {
        let behavior = around.autoscaler.spec.behavior.as_ref();
        let read = |tolerance: Option<&Quantity>| {
            let exact = tolerance.and_then(|text| text.0.parse::<quantity::Quantity>().ok());
            exact.map_or(around.settings.tolerance, |exact| exact.as_f64())
        };
        let down = behavior.and_then(|it| it.scale_down.as_ref()).and_then(|rules| rules.tolerance.as_ref());
        let up = behavior.and_then(|it| it.scale_up.as_ref()).and_then(|rules| rules.tolerance.as_ref());
        Self(read(down), read(up))
    }

    pub(super) fn admit(self, ratio: f64) -> bool {
        (1.0 - self.0..=1.0 + self.1).contains(&ratio)
    }
}

/// An amount in thousandths.
pub(super) fn millis(amount: Option<&Quantity>) -> Option<i64> {
    amount.and_then(|text| text.0.parse::<quantity::Quantity>().ok()).map(|exact| exact.milli_value())
}

/// Rounded up to a number of replicas; beyond their range the end of it.
pub(super) fn up(count: f64) -> i32 {
    count.ceil() as i32
}

/// Pods by what their figures are worth.
struct Groups<'a> {
    ready: usize,
    unready: BTreeSet<&'a str>,
    missing: BTreeSet<&'a str>,
    ignored: BTreeSet<&'a str>,
}

fn group<'a>(samples: &Samples, resource: &str, around: &Around<'a>) -> Groups<'a> {
    let mut groups =
        Groups { ready: 0, unready: BTreeSet::new(), missing: BTreeSet::new(), ignored: BTreeSet::new() };
    for pod in around.pods {
        let name = owner::name(&pod.metadata);
        let Some(sample) = samples.get(name) else {
            let of = match pods::phase(pod) {
                "Failed" => &mut groups.ignored,
                _ if pods::is_terminating(pod) => &mut groups.ignored,
                "Pending" => &mut groups.unready,
                _ => &mut groups.missing,
            };
            of.insert(name);
            continue;
        };
        if pods::is_terminating(pod) || pods::phase(pod) == "Failed" {
            groups.ignored.insert(name);
        } else if pods::phase(pod) == "Pending"
            || (resource == "cpu" && is_starting(pod, sample.at, sample.window, around))
        {
            groups.unready.insert(name);
        } else {
            groups.ready += 1;
        }
    }
    groups
}

/// Whether a pod's use of CPU tells of its start rather than of its work.
fn is_starting(pod: &Pod, at: Timestamp, window: SignedDuration, around: &Around<'_>) -> bool {
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    let Some((ready, started)) = pods::condition(pod, "Ready").zip(started) else { return true };
    let changed = ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let later = |moment: Timestamp, by: SignedDuration| moment.saturating_add(by).unwrap_or(Timestamp::MAX);
    let signed = |span: Duration| SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX);
    if later(started.0, signed(around.settings.cpu_initialization)) > around.now {
        ready.status == "False" || at < later(changed, window)
    } else {
        ready.status == "False" && later(started.0, signed(around.settings.initial_readiness_delay)) > changed
    }
}

/// What the figures amount to: the ratio to the target decides.
trait Measure {
    fn ratio(&self, usage: &BTreeMap<&str, i64>) -> Result<f64, String>;
    /// What a pod without a figure is taken to use when there seem to be too many.
    fn assumed(&self, pod: &str) -> i64;
}

/// Cautiously: what is not known of pods is assumed to speak against the change.
fn settle(
    samples: &Samples,
    resource: &str,
    measure: &dyn Measure,
    around: &Around<'_>,
) -> Result<i32, String> {
    if around.pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    let tolerances = Tolerances::of(around);
    let groups = group(samples, resource, around);
    let mut usage = counted(samples, &groups);
    if usage.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    let ratio = measure.ratio(&usage)?;
    let unready_count = !groups.unready.is_empty() && ratio > 1.0;
    if !unready_count && groups.missing.is_empty() {
        return Ok(if tolerances.admit(ratio) { around.wanted } else { up(ratio * groups.ready as f64) });
    }
    for pod in &groups.missing {
        if ratio < 1.0 {
            usage.insert(pod, measure.assumed(pod));
        } else if ratio > 1.0 {
            usage.insert(pod, 0);
        }
    }
    if unready_count {
        usage.extend(groups.unready.iter().map(|pod| (*pod, 0)));
    }
    let careful = measure.ratio(&usage)?;
    let turned = (ratio < 1.0 && careful > 1.0) || (ratio > 1.0 && careful < 1.0);
    let replicas = up(careful * usage.len() as f64);
    let wrong = (careful < 1.0 && replicas > around.wanted) || (careful > 1.0 && replicas < around.wanted);
    Ok(if tolerances.admit(careful) || turned || wrong { around.wanted } else { replicas })
}

fn counted<'a>(samples: &'a Samples, groups: &Groups<'_>) -> BTreeMap<&'a str, i64> {
    let counts = |name: &str| !groups.ignored.contains(name) && !groups.unready.contains(name);
    samples.iter().filter(|(name, _)| counts(name)).map(|(name, it)| (name.as_str(), it.millis)).collect()
}

/// Against an amount for each pod.
struct Usage(i64);

impl Usage {
    fn average(usage: &BTreeMap<&str, i64>) -> i64 {
        usage.values().sum::<i64>() / i64::try_from(usage.len().max(1)).unwrap_or(i64::MAX)
    }
}

impl Measure for Usage {
    fn ratio(&self, usage: &BTreeMap<&str, i64>) -> Result<f64, String> {
        Ok(Self::average(usage) as f64 / self.0 as f64)
    }

    fn assumed(&self, _pod: &str) -> i64 {
        self.0
    }
}

/// How many replicas an amount for each pod asks for, and what pods use on average.
pub(super) fn by_usage(
    samples: &Samples,
    resource: &str,
    target: i64,
    around: &Around<'_>,
) -> Result<(i32, i64), String> {
    let replicas = settle(samples, resource, &Usage(target), around)?;
    let usage = counted(samples, &group(samples, resource, around));
    Ok((replicas, Usage::average(&usage)))
}

/// Against a percentage of what pods request.
struct Utilization<'a> {
    target: i64,
    requests: &'a BTreeMap<String, i64>,
}

impl Utilization<'_> {
    /// In percent, and the average use.
    fn current(&self, usage: &BTreeMap<&str, i64>) -> Result<(i32, i64), String> {
        let known = || usage.iter().filter_map(|(pod, used)| Some((*used, *self.requests.get(*pod)?)));
        let (used, requested) = known().fold((0, 0), |(used, of), (one, its)| (used + one, of + its));
        if requested == 0 {
            return Err("no metrics returned matched known pods".to_owned());
        }
        let count = i64::try_from(known().count()).unwrap_or(i64::MAX);
        Ok((i32::try_from(used * 100 / requested).unwrap_or(i32::MAX), used / count))
    }
}

impl Measure for Utilization<'_> {
    fn ratio(&self, usage: &BTreeMap<&str, i64>) -> Result<f64, String> {
        Ok(f64::from(self.current(usage)?.0) / self.target as f64)
    }

    fn assumed(&self, pod: &str) -> i64 {
        self.requests.get(pod).copied().unwrap_or_default() * self.target.max(100) / 100
    }
}

/// How many replicas a percentage of what pods request asks for, the percentage now, and what pods use on average.
pub(super) fn by_utilization(
    samples: &Samples,
    resource: &str,
    container: Option<&str>,
    target: i64,
    around: &Around<'_>,
) -> Result<(i32, i32, i64), String> {
    // The order of complaints is upstream's: pods first, then figures, then requests.
    let usage = counted(samples, &group(samples, resource, around));
    let mut requests = BTreeMap::new();
    if !around.pods.is_empty() && !usage.is_empty() {
        for pod in around.pods {
            requests.insert(owner::name(&pod.metadata).to_owned(), request(pod, resource, container)?);
        }
    }
    let measure = Utilization { target, requests: &requests };
    let replicas = settle(samples, resource, &measure, around)?;
    let (utilization, average) = measure.current(&usage)?;
    Ok((replicas, utilization, average))
}

/// What a pod requests, or one of its containers.
fn request(pod: &Pod, resource: &str, container: Option<&str>) -> Result<i64, String> {
    let name = owner::name(&pod.metadata);
    let spec = pod.spec.clone().unwrap_or_default();
    let of_pod = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    if let Some(of_pod) = of_pod.filter(|list| container.is_none() && !list.is_empty()) {
        let request = millis(of_pod.get(resource));
        return request.ok_or_else(|| format!("missing pod-level request for {resource} in Pod {name}"));
    }
    let lasting =
        spec.init_containers.iter().flatten().filter(|it| it.restart_policy.as_deref() == Some("Always"));
    let wanted = |it: &&Container| container.is_none_or(|container| container == it.name);
    let mut found = spec.containers.iter().chain(lasting).filter(wanted).peekable();
    if let Some(container) = container.filter(|_| found.peek().is_none()) {
        return Err(format!("container {container} not found in Pod {name}"));
    }
    found
        .map(|it| {
            let requests = it.resources.as_ref().and_then(|resources| resources.requests.as_ref());
            millis(requests.and_then(|list| list.get(resource))).ok_or_else(|| {
                format!("missing request for {resource} in container {} of Pod {name}", it.name)
            })
        })
        .sum()
}
