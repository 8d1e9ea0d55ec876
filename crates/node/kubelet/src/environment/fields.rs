//! The downward API: fields of the pod and resources of its containers as text.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, Pod},
    apimachinery::pkg::api::resource::Quantity as WireQuantity,
};
use podium_api::quantity::Quantity;

use crate::{pod, resources};

/// A field by its path, with upstream's error text.
pub(crate) fn field_value(
    pod: &Pod,
    path: &str,
    pod_ips: &[String],
    host_ips: &[String],
) -> Result<String, String> {
    let spec = pod.spec.as_ref();
    let map = |map: Option<&BTreeMap<String, String>>, key: &str| {
        map.and_then(|map| map.get(key)).cloned().unwrap_or_default()
    };
    if let Some((base, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        return match base {
            "metadata.labels" => Ok(map(pod.metadata.labels.as_ref(), key)),
            "metadata.annotations" => Ok(map(pod.metadata.annotations.as_ref(), key)),
            _ => Err(format!("fieldPath {path:?} does not support subscript")),
        };
    }
    match path {
        "metadata.name" => Ok(pod::name(pod).to_owned()),
        "metadata.namespace" => Ok(pod::namespace(pod).to_owned()),
        "metadata.uid" => Ok(pod::uid(pod).to_owned()),
        "metadata.labels" => Ok(formatted(pod.metadata.labels.as_ref())),
        "metadata.annotations" => Ok(formatted(pod.metadata.annotations.as_ref())),
        "spec.nodeName" => Ok(spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default()),
        "spec.serviceAccountName" => {
            Ok(spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default())
        }
        "status.hostIP" => Ok(host_ips.first().cloned().unwrap_or_default()),
        "status.hostIPs" => Ok(host_ips.join(",")),
        "status.podIP" => Ok(pod_ips.first().cloned().unwrap_or_default()),
        "status.podIPs" => Ok(pod_ips.join(",")),
        _ => Err(format!("unsupported fieldPath: {path}")),
    }
}

/// A map as `key="value"` lines, keys in order, values quoted as Go quotes.
fn formatted(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> =
        map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}

/// A resource of a container divided by `divisor`, rounded up. Limits that are not set are what the
/// node offers.
pub(crate) fn resource_value(
    container: &Container,
    resource: &str,
    divisor: Option<&WireQuantity>,
    allocatable: &BTreeMap<String, WireQuantity>,
) -> Result<String, String> {
    let Some((side, name)) = resource.split_once('.') else {
        return Err(format!("unsupported container resource : {resource}"));
    };
    if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !name.starts_with("hugepages-") {
        return Err(format!("unsupported container resource : {resource}"));
    }
    let list = container.resources.as_ref();
    let value = match side {
        "limits" => resources::limit(list, name)
            .filter(|limit| !limit.is_zero())
            .or_else(|| resources::amount(Some(allocatable), name)),
        "requests" => resources::request(list, name),
        _ => return Err(format!("unsupported container resource : {resource}")),
    }
    .unwrap_or(Quantity::ZERO);
    let divisor = divisor
        .and_then(|divisor| divisor.0.parse::<Quantity>().ok())
        .filter(|divisor| !divisor.is_zero())
        .map_or(1_000_000_000, |divisor| divisor.nanos());
    let nanos = value.nanos();
    Ok((nanos / divisor + i128::from(nanos % divisor > 0)).to_string())
}
