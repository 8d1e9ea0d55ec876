//! Whom a request is passed on to: resolved once, from the API's own objects.

use std::net::{IpAddr, SocketAddr};

use podium_api::status::ApiError;
use podium_store::RangeOptions;
use serde_json::Value;

use super::is_forbidden;
use crate::registry::Call;
use crate::{response, storage};

/// The port of kubelets that do not say.
const KUBELET_PORT: u16 = 10250;

/// How the target is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// TLS with our kubelet client certificate; the target's is checked against the kubelets' authority.
    Kubelet,
    /// Plain HTTP.
    Http,
    /// TLS to something whose certificate is its own business, as upstream's proxy does.
    Https,
}

/// A checked address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) scheme: Scheme,
}

impl Target {
    /// The kubelet of a pod's node.
    pub(super) fn kubelet_of(call: &Call, pod: &Value) -> Result<Target, ApiError> {
        let name = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        kubelet(call, name).map(|(target, _)| target)
    }

    /// What a proxy subresource addresses: `[scheme:]name[:port]`.
    pub(super) fn of_proxy(call: &Call) -> Result<Target, ApiError> {
        let (scheme, name, port) = split(&call.info.name)?;
        match call.info.resource.as_str() {
            "nodes" => node(call, scheme, name, port),
            "pods" => {
                let pod = storage::parse(&*object(call, "pods", name)?)?;
                let ip = pod["status"]["podIP"].as_str().and_then(|ip| ip.parse::<IpAddr>().ok());
                let ip = ip.ok_or_else(|| ApiError::bad_request(format!("pod {name} has no address yet")))?;
                let port = match port {
                    "" => first_port(&pod),
                    text => text.parse().ok(),
                };
                let port =
                    port.ok_or_else(|| ApiError::bad_request(format!("invalid port of pod {name}")))?;
                checked(ip, port, scheme)
            }
            _ => service(call, scheme, name, port),
        }
    }
}

fn object(call: &Call, plural: &str, name: &str) -> Result<storage::Shared, ApiError> {
    let served = call.core.catalogue.stored("", plural).ok_or_else(response::unknown_path)?;
    let key = storage::key(&served, &call.info.namespace, name)?;
    call.core.store.get(&key).ok_or_else(|| ApiError::not_found("", plural, name))
}

/// A node's kubelet and its port. The node's registered address is trusted: only the node itself and those who may
/// change nodes can write it.
fn kubelet(call: &Call, name: &str) -> Result<(Target, IpAddr), ApiError> {
    let node = storage::parse(&*object(call, "nodes", name)?)?;
    let addresses = node["status"]["addresses"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of_kind = |kind: &str| {
        addresses
            .iter()
            .filter(|address| address["type"] == kind)
            .find_map(|address| address["address"].as_str()?.parse::<IpAddr>().ok())
    };
    let ip = of_kind("InternalIP")
        .or_else(|| of_kind("ExternalIP"))
        .ok_or_else(|| response::unavailable(format!("no preferred addresses found for node {name:?}")))?;
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    let port =
        port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0).unwrap_or(KUBELET_PORT);
    Ok((Target { address: SocketAddr::new(ip, port), scheme: Scheme::Kubelet }, ip))
}

fn node(call: &Call, scheme: Scheme, name: &str, port: &str) -> Result<Target, ApiError> {
    let (target, ip) = kubelet(call, name)?;
    let port: u16 = match port {
        "" => return Ok(target),
        text => text.parse().map_err(|_| ApiError::bad_request(format!("invalid port {text:?}")))?,
    };
    if port == target.address.port() {
        return Ok(target);
    }
    checked(ip, port, scheme)
}

fn service(call: &Call, scheme: Scheme, name: &str, port: &str) -> Result<Target, ApiError> {
    let service = storage::parse(&*object(call, "services", name)?)?;
    let ports = service["spec"]["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let chosen = match port {
        "" if ports.len() == 1 => ports.first(),
        "" => None,
        text => {
            let number = text.parse::<u64>().ok();
            ports.iter().find(|p| p["name"] == text || (number.is_some() && p["port"].as_u64() == number))
        }
    };
    let none = || response::unavailable(format!("no endpoints available for service {name:?}"));
    let port_name = match chosen {
        Some(port) => port["name"].as_str().unwrap_or_default(),
        None => {
            return Err(response::unavailable(format!(
                "no service port {port:?} found for service {name:?}"
            )));
        }
    };
    let slices = call.core.catalogue.stored("discovery.k8s.io", "endpointslices").ok_or_else(none)?;
    let range = storage::range(&slices, &call.info.namespace)?;
    let found = call.core.store.range(&range, RangeOptions::default()).map_err(|_| none())?;
    let mut candidates: Vec<(IpAddr, u16)> = Vec::new();
    for slice in found.records.iter().filter_map(|record| storage::parse(record).ok()) {
        if slice["metadata"]["labels"]["kubernetes.io/service-name"] != name {
            continue;
        }
        let port = slice["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|port| port["name"].as_str().unwrap_or_default() == port_name)
            .and_then(|port| u16::try_from(port["port"].as_u64()?).ok());
        let Some(port) = port else { continue };
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            if endpoint["conditions"]["ready"] == false {
                continue;
            }
            let ip = endpoint["addresses"][0].as_str().and_then(|ip| ip.parse().ok());
            candidates.extend(ip.map(|ip: IpAddr| (ip, port)));
        }
    }
    if candidates.is_empty() {
        return Err(none());
    }
    let (ip, port) = candidates[fastrand::usize(..candidates.len())];
    checked(ip, port, scheme)
}

fn checked(ip: IpAddr, port: u16, scheme: Scheme) -> Result<Target, ApiError> {
    if is_forbidden(ip) {
        return Err(ApiError::bad_request("address not allowed"));
    }
    Ok(Target { address: SocketAddr::new(ip, port), scheme })
}

fn first_port(pod: &Value) -> Option<u16> {
    let containers = pod["spec"]["containers"].as_array()?;
    let declared = containers.iter().find_map(|container| container["ports"][0]["containerPort"].as_u64());
    // Upstream's default where a pod declares no port.
    Some(declared.and_then(|port| u16::try_from(port).ok()).unwrap_or(80))
}

/// `[scheme:]name[:port]`.
fn split(text: &str) -> Result<(Scheme, &str, &str), ApiError> {
    let parts: Vec<&str> = text.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return Err(ApiError::bad_request(format!("invalid proxy request {text:?}"))),
    };
    let scheme = match scheme {
        "" | "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => return Err(ApiError::bad_request(format!("invalid scheme {other:?}"))),
    };
    Ok((scheme, name, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_names() {
        assert_eq!(split("web").unwrap(), (Scheme::Http, "web", ""));
        assert_eq!(split("web:80").unwrap(), (Scheme::Http, "web", "80"));
        assert_eq!(split("https:web:").unwrap(), (Scheme::Https, "web", ""));
        assert!(split("ftp:web:80").is_err());
        assert!(split("a:b:c:d").is_err());
    }
}
