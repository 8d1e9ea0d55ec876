//! The variables that tell a container where Services are.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::api::core::v1::Service;

/// `NAME_SERVICE_HOST` and the like, for the API's own Service always and for those of the pod's
/// namespace if it wants them.
pub(crate) fn variables(services: &[Arc<Service>], namespace: &str, links: bool) -> BTreeMap<String, String> {
    let mut chosen: HashMap<&str, &Service> = HashMap::new();
    for service in services {
        let meta = &service.metadata;
        let name = meta.name.as_deref().unwrap_or_default();
        let own = meta.namespace.as_deref() == Some(namespace);
        let api = name == "kubernetes" && meta.namespace.as_deref() == Some("default");
        // A Service of the namespace shadows the API's of the same name.
        if (own && (links || api)) || (api && !chosen.contains_key(name)) {
            chosen.insert(name, service);
        }
    }
    let mut set = BTreeMap::new();
    for (name, service) in chosen {
        of_service(name, service, &mut set);
    }
    set
}

fn of_service(name: &str, service: &Service, set: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let Some(address) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else {
        return;
    };
    let Some(ports) = spec.ports.as_deref().filter(|ports| !ports.is_empty()) else { return };
    let prefix = variable(name);
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    set.insert(format!("{prefix}_SERVICE_HOST"), address.to_owned());
    set.insert(format!("{prefix}_SERVICE_PORT"), ports[0].port.to_string());
    for (index, port) in ports.iter().enumerate() {
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            set.insert(format!("{prefix}_SERVICE_PORT_{}", variable(port_name)), port.port.to_string());
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let lower = protocol.to_ascii_lowercase();
        let url = format!("{lower}://{host}:{}", port.port);
        if index == 0 {
            set.insert(format!("{prefix}_PORT"), url.clone());
        }
        let port_prefix = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_ascii_uppercase());
        set.insert(port_prefix.clone(), url);
        set.insert(format!("{port_prefix}_PROTO"), lower);
        set.insert(format!("{port_prefix}_PORT"), port.port.to_string());
        set.insert(format!("{port_prefix}_ADDR"), address.to_owned());
    }
}

fn variable(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}
