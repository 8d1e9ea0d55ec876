//! What Services and pods have to do with each other: shared by the EndpointSlice, Endpoints and mirroring controllers.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use podium_client::{Change, Informer, ObjectKey};

use crate::labels::{self, Labels};
use crate::owner;
use crate::pods;

pub(crate) mod trigger;

/// Marks slices and Endpoints of Services without an address of their own.
pub(crate) const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// Index of Services by the first pair of their selector.
const BY_SELECTOR: &str = "controllers/selector";
/// Index of pods by each of their labels.
const BY_LABEL: &str = "controllers/label";

/// Prepares the informers for [`selected_pods`] and [`selecting_services`].
pub(crate) fn index(services: &Informer<Service>, pods: &Informer<Pod>) {
    services.add_index(BY_SELECTOR, |service| {
        first_pair(service)
            .map(|(key, value)| pair(owner::namespace(&service.metadata), key, value))
            .into_iter()
            .collect()
    });
    pods.add_index(BY_LABEL, |pod| {
        let namespace = owner::namespace(&pod.metadata);
        pod.metadata.labels.iter().flatten().map(|(key, value)| pair(namespace, key, value)).collect()
    });
}

fn pair(namespace: &str, key: &str, value: &str) -> String {
    format!("{namespace}/{key}={value}")
}

fn first_pair(service: &Service) -> Option<(&String, &String)> {
    selector(service)?.first_key_value()
}

/// The Service's selector; `None` when it has none and its endpoints are somebody else's business.
pub(crate) fn selector(service: &Service) -> Option<&Labels> {
    service.spec.as_ref()?.selector.as_ref().filter(|selector| !selector.is_empty())
}

/// The pods a Service selects, ordered by name.
pub(crate) fn selected_pods(service: &Service, pods: &Informer<Pod>) -> Vec<Arc<Pod>> {
    let Some((key, value)) = first_pair(service) else { return Vec::new() };
    let mut selected = pods.by_index(BY_LABEL, &pair(owner::namespace(&service.metadata), key, value));
    selected.retain(|pod| labels::contains_all(pod.metadata.labels.as_ref(), selector(service)));
    selected
}

/// The Services that select a pod with these labels.
fn selecting(namespace: &str, labels: Option<&Labels>, services: &Informer<Service>) -> BTreeSet<ObjectKey> {
    labels
        .into_iter()
        .flatten()
        .flat_map(|(key, value)| services.by_index(BY_SELECTOR, &pair(namespace, key, value)))
        .filter(|service| labels::contains_all(labels, selector(service)))
        .map(|service| ObjectKey::of(service.as_ref()))
        .collect()
}

/// The Services whose endpoints a change of a pod may alter.
pub(crate) fn selecting_services(change: &Change<Pod>, services: &Informer<Service>) -> BTreeSet<ObjectKey> {
    let new = change.object();
    let namespace = owner::namespace(&new.metadata);
    let mut keys = BTreeSet::new();
    if let Change::Modified { old, .. } = change {
        let relabelled = old.metadata.labels != new.metadata.labels;
        if !relabelled && !has_moved(old, new) {
            return keys;
        }
        if relabelled {
            keys.extend(selecting(namespace, old.metadata.labels.as_ref(), services));
        }
    }
    keys.extend(selecting(namespace, new.metadata.labels.as_ref(), services));
    keys
}

/// Whether anything changed that an endpoint shows.
fn has_moved(old: &Pod, new: &Pod) -> bool {
    let names = |pod: &Pod| {
        pod.spec.as_ref().map(|spec| (spec.hostname.clone(), spec.subdomain.clone(), spec.node_name.clone()))
    };
    pods::is_terminating(old) != pods::is_terminating(new)
        || pods::is_finished(old) != pods::is_finished(new)
        || pods::is_ready(old) != pods::is_ready(new)
        || addresses(old).ne(addresses(new))
        || names(old) != names(new)
}

/// The pod's addresses; IPs that do not parse are left out.
pub(crate) fn addresses(pod: &Pod) -> impl Iterator<Item = IpAddr> {
    let status = pod.status.as_ref();
    let listed = status.and_then(|status| status.pod_ips.as_ref()).into_iter().flatten();
    let mut found: Vec<IpAddr> = listed.filter_map(|ip| ip.ip.parse().ok()).collect();
    if found.is_empty() {
        found.extend(status.and_then(|status| status.pod_ip.as_ref()?.parse::<IpAddr>().ok()));
    }
    found.into_iter()
}

/// Whether the pod can be an endpoint at all.
pub(crate) fn is_candidate(pod: &Pod, include_terminating: bool) -> bool {
    !pods::is_finished(pod)
        && (include_terminating || !pods::is_terminating(pod))
        && addresses(pod).next().is_some()
}

/// Whether the Service has an address of its own.
pub(crate) fn has_address(service: &Service) -> bool {
    cluster_ip(service).is_some_and(|ip| ip != "None")
}

/// The Service's `clusterIP` as written, unless empty.
pub(crate) fn cluster_ip(service: &Service) -> Option<&str> {
    service.spec.as_ref()?.cluster_ip.as_deref().filter(|ip| !ip.is_empty())
}

/// Whether the Service is an alias for a name elsewhere.
pub(crate) fn is_external_name(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName")
}

/// Whether pods count as ready whatever they say.
pub(crate) fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true)
}

/// The Service's ports.
pub(crate) fn ports(service: &Service) -> &[ServicePort] {
    service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default()
}

/// The name by which the pod is known under the Service's own name.
pub(crate) fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.as_ref().filter(|name| !name.is_empty())?;
    (spec.subdomain.as_deref() == Some(owner::name(&service.metadata))).then(|| hostname.clone())
}

/// A protocol as written, or the default.
pub(crate) fn protocol(written: Option<&str>) -> &str {
    written.filter(|protocol| !protocol.is_empty()).unwrap_or("TCP")
}

/// The number of a Service port's target on this pod: named ports are looked up among its containers and sidecars.
pub(crate) fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match &port.target_port {
        None => return Some(port.port),
        // An absent target arrives as 0 from objects written before defaulting.
        Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let sidecars =
        spec.init_containers.iter().flatten().filter(|it| it.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .find(|candidate| {
            candidate.name.as_ref() == Some(name)
                && protocol(candidate.protocol.as_deref()) == protocol(port.protocol.as_deref())
        })
        .map(|candidate| candidate.container_port)
}
