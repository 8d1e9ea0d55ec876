//! Warnings for what is allowed but probably not meant, as upstream words them.

use std::collections::HashMap;

use serde_json::Value;

use crate::field::Path;
use crate::kinds::tree::{entries, has, int, list, opt_int, text, value};
use crate::kinds::validate;
use crate::quantity::Quantity;

/// Warnings for a new pod.
pub(super) fn on_create(pod: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    let faults = validate::label(text(value(pod, "metadata"), "name"));
    if !faults.is_empty() {
        warnings.push(format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{}]",
            faults.join(" ")
        ));
    }
    let spec = Path::new("spec");
    of_spec(value(pod, "spec"), &spec, &mut warnings);
    // A pod's own grace is made one before anybody could be warned of it; a template's is not.
    let grace = spec.child("terminationGracePeriodSeconds").to_string();
    warnings.retain(|warning| !warning.starts_with(&grace));
    warnings
}

/// Warnings for a pod spec at `path`.
pub(crate) fn of_spec(spec: &Value, path: &Path<'_>, warnings: &mut Vec<String>) {
    for (key, _) in entries(spec, "nodeSelector") {
        if let Some(message) = deprecated_label(key) {
            warnings.push(format!("{}: {message}", path.child("nodeSelector").key(key)));
        }
    }
    for (index, constraint) in list(spec, "topologySpreadConstraints").iter().enumerate() {
        let at = path.child("topologySpreadConstraints");
        let at = at.index(index);
        let key = text(constraint, "topologyKey");
        if let Some(message) = deprecated_label(key) {
            warnings.push(format!("{}: {key} is {message}", at.child("topologyKey")));
        }
        if !has(constraint, "labelSelector") {
            warnings.push(format!(
                "{}: a null labelSelector results in matching no pod",
                at.child("labelSelector")
            ));
        }
    }
    const VOLUMES: &[(&str, &str)] = &[
        ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
        ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
        ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
        ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
        ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
        ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
        ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ];
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        for (kind, message) in VOLUMES.iter().filter(|(kind, _)| has(volume, kind)) {
            warnings.push(format!("{}: {message}", path.child("volumes").index(index).child(kind)));
        }
    }
    // Those whose field a feature takes away that is off are among them.
    for volume in list(spec, "volumes") {
        let sources = list(value(volume, "projected"), "sources");
        for _ in sources.iter().filter(|source| source.as_object().is_some_and(serde_json::Map::is_empty)) {
            let name = text(volume, "name");
            warnings.push(format!("volume {name:?} (Projected) has no sources provided"));
        }
    }
    repeated(spec, "hostAliases", "ip", path, warnings);
    repeated(spec, "imagePullSecrets", "name", path, warnings);
    for (index, secret) in list(spec, "imagePullSecrets").iter().enumerate() {
        if text(secret, "name").is_empty() {
            let at = path.child("imagePullSecrets");
            warnings.push(format!("{}: invalid empty name \"\"", at.index(index).child("name")));
        }
    }
    let mut ports = Ports::default();
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        for (index, container) in list(spec, field).iter().enumerate() {
            let at = path.child(field);
            let at = at.index(index);
            fractional(container, &at, warnings);
            hidden_variables(container, &at, warnings);
            ports.look_at(container, &at, warnings);
        }
    }
    if opt_int(spec, "terminationGracePeriodSeconds").is_some_and(|s| s < 0) {
        warnings.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            path.child("terminationGracePeriodSeconds")
        ));
    }
}

/// What became of a label of old.
pub(crate) fn deprecated_label(key: &str) -> Option<&'static str> {
    Some(match key {
        "beta.kubernetes.io/arch" => "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
        "beta.kubernetes.io/os" => "deprecated since v1.14; use \"kubernetes.io/os\" instead",
        "failure-domain.beta.kubernetes.io/region" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead"
        }
        "failure-domain.beta.kubernetes.io/zone" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"
        }
        "beta.kubernetes.io/instance-type" => {
            "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"
        }
        _ => return None,
    })
}

fn repeated(spec: &Value, field: &str, key: &str, path: &Path<'_>, warnings: &mut Vec<String>) {
    let mut seen = ahash::AHashSet::new();
    for (index, item) in list(spec, field).iter().enumerate() {
        let name = text(item, key);
        if !seen.insert(name) {
            let at = path.child(field);
            warnings.push(format!("{}: duplicate {key} {name:?}", at.index(index).child(key)));
        }
    }
}

fn fractional(container: &Value, path: &Path<'_>, warnings: &mut Vec<String>) {
    for kind in ["limits", "requests"] {
        for name in ["memory", "ephemeral-storage"] {
            let amount = value(value(value(container, "resources"), kind), name);
            let Ok(amount) = Quantity::from_value(amount) else { continue };
            if amount.milli_value() % 1000 != 0 {
                let at = path.child("resources");
                warnings.push(format!(
                    "{}: fractional byte value {:?} is invalid, must be an integer",
                    at.child(kind).key(name),
                    amount.to_string()
                ));
            }
        }
    }
}

/// A variable defined twice hides the first, unless it extends it.
fn hidden_variables(container: &Value, path: &Path<'_>, warnings: &mut Vec<String>) {
    let mut seen = ahash::AHashSet::new();
    for (index, variable) in list(container, "env").iter().enumerate() {
        let name = text(variable, "name");
        if seen.insert(name) {
            continue;
        }
        let reference = format!("$({name})");
        let content = text(variable, "value");
        if has(variable, "valueFrom") || content == reference || !content.contains(&reference) {
            warnings.push(format!(
                "{}: hides previous definition of {name:?}, which may be dropped when using apply",
                path.child("env").index(index)
            ));
        }
    }
}

/// The ports seen so far, by number and protocol, and by name; the texts are their paths.
#[derive(Default)]
struct Ports<'a> {
    numbers: HashMap<(i64, &'a str), Vec<(String, &'a str, i64)>>,
    names: HashMap<&'a str, String>,
}

impl<'a> Ports<'a> {
    fn look_at(&mut self, container: &'a Value, path: &Path<'_>, warnings: &mut Vec<String>) {
        for (index, port) in list(container, "ports").iter().enumerate() {
            let at = path.child("ports").index(index).to_string();
            let (host_ip, host) = (text(port, "hostIP"), int(port, "hostPort"));
            let others =
                self.numbers.entry((int(port, "containerPort"), text(port, "protocol"))).or_default();
            for (other, other_ip, other_host) in others.iter() {
                if host_ip == *other_ip && host == *other_host {
                    warnings.push(format!("{at}: duplicate port definition with {other}"));
                } else if host == 0 || *other_host == 0 {
                    warnings.push(format!("{at}: overlapping port definition with {other}"));
                } else if host == *other_host && host_ip.is_empty() != other_ip.is_empty() {
                    warnings.push(format!("{at}: dangerously ambiguous port definition with {other}"));
                }
            }
            // Thousands of equal ports would make thousands of warnings each; the first few suffice.
            if others.len() < 8 {
                others.push((at.clone(), host_ip, host));
            }
            let name = text(port, "name");
            if name.is_empty() {
                continue;
            }
            match self.names.get(name) {
                Some(other) => warnings.push(format!(
                    "{at}: duplicate port name {name:?} with {other}, services and probes that select ports by name will use {other}"
                )),
                None => {
                    self.names.insert(name, at);
                }
            }
        }
    }
}
