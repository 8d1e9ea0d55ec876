//! Which objects lead to which node. Pure: fed with objects, asked for relations.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;

use crate::objects::{items, text};

type Map<K, V> = HashMap<K, V, ahash::RandomState>;

/// What a node may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A pod bound to the node.
    Pod,
    /// Named by a pod, or by a volume whose claim a pod names.
    Secret,
    /// Named by a pod.
    ConfigMap,
    /// Named by a pod.
    Claim,
    /// Bound to a claim that a pod names.
    Volume,
    /// The account of a pod.
    ServiceAccount,
    /// Named by a pod, or made for it.
    ResourceClaim,
    /// For the node.
    Attachment,
    /// Of the node.
    Slice,
}

/// Namespace and name.
type Key = (String, String);

#[derive(Debug, Default)]
struct PodEntry {
    uid: String,
    node: String,
    names: Vec<(Target, String)>,
}

#[derive(Debug, Default)]
struct VolumeEntry {
    claim: Key,
    secrets: Vec<Key>,
}

/// The graph, stored as what each query needs.
#[derive(Debug, Default)]
pub struct Graph {
    pods: Map<Key, PodEntry>,
    /// How many pods on each node name the object.
    named: Map<(Target, Key), BTreeMap<String, usize>>,
    volumes: Map<String, VolumeEntry>,
    volumes_of_secret: Map<Key, HashSet<String>>,
    /// Attachments and slices, by kind and name: their node.
    bound: Map<(Target, String), String>,
}

impl Graph {
    /// Takes in the newest state of an object: `which` is 0 for a pod, 1 for a volume, 2 for an attachment, 3 for a slice.
    pub fn set(&mut self, which: usize, namespace: &str, name: &str, object: Option<&Value>) {
        match which {
            0 => self.set_pod(namespace, name, object),
            1 => self.set_volume(name, object),
            2 => self.set_bound(Target::Attachment, name, object),
            _ => self.set_bound(Target::Slice, name, object),
        }
    }

    /// Whether the object leads to the node.
    pub fn related(&self, node: &str, target: Target, namespace: &str, name: &str) -> bool {
        let key = || (namespace.to_owned(), name.to_owned());
        match target {
            Target::Pod => self.pods.get(&key()).is_some_and(|pod| pod.node == node),
            Target::Attachment | Target::Slice => {
                self.bound.get(&(target, name.to_owned())).is_some_and(|bound| bound == node)
            }
            Target::Volume => self.volume_related(node, name),
            Target::Secret => {
                self.names(node, Target::Secret, key())
                    || self
                        .volumes_of_secret
                        .get(&key())
                        .is_some_and(|volumes| volumes.iter().any(|volume| self.volume_related(node, volume)))
            }
            _ => self.names(node, target, key()),
        }
    }

    fn names(&self, node: &str, target: Target, key: Key) -> bool {
        self.named.get(&(target, key)).is_some_and(|nodes| nodes.contains_key(node))
    }

    fn volume_related(&self, node: &str, volume: &str) -> bool {
        self.volumes.get(volume).is_some_and(|volume| self.names(node, Target::Claim, volume.claim.clone()))
    }

    fn set_pod(&mut self, namespace: &str, name: &str, object: Option<&Value>) {
        let key = (namespace.to_owned(), name.to_owned());
        let new = object.and_then(pod_entry);
        let known = self.pods.get(&key);
        if let (Some(known), Some(new)) = (known, &new)
            && known.uid == new.uid
            && known.node == new.node
            && known.names == new.names
        {
            return;
        }
        if let Some(old) = self.pods.remove(&key) {
            for (target, name) in old.names {
                let named = (target, (namespace.to_owned(), name));
                if let Some(nodes) = self.named.get_mut(&named) {
                    if let Some(count) = nodes.get_mut(&old.node) {
                        *count -= 1;
                        if *count == 0 {
                            nodes.remove(&old.node);
                        }
                    }
                    if nodes.is_empty() {
                        self.named.remove(&named);
                    }
                }
            }
        }
        if let Some(new) = new {
            for (target, name) in &new.names {
                let nodes = self.named.entry((*target, (namespace.to_owned(), name.clone()))).or_default();
                *nodes.entry(new.node.clone()).or_default() += 1;
            }
            self.pods.insert(key, new);
        }
    }

    fn set_volume(&mut self, name: &str, object: Option<&Value>) {
        if let Some(old) = self.volumes.remove(name) {
            for secret in old.secrets {
                if let Some(volumes) = self.volumes_of_secret.get_mut(&secret) {
                    volumes.remove(name);
                    if volumes.is_empty() {
                        self.volumes_of_secret.remove(&secret);
                    }
                }
            }
        }
        let Some(new) = object.and_then(volume_entry) else { return };
        for secret in &new.secrets {
            self.volumes_of_secret.entry(secret.clone()).or_default().insert(name.to_owned());
        }
        self.volumes.insert(name.to_owned(), new);
    }

    fn set_bound(&mut self, target: Target, name: &str, object: Option<&Value>) {
        let key = (target, name.to_owned());
        match object.map(|object| text(object, "/spec/nodeName")) {
            Some(node) if !node.is_empty() => {
                self.bound.insert(key, node.to_owned());
            }
            _ => {
                self.bound.remove(&key);
            }
        }
    }
}

/// A pod that is bound to a node, and what it names, sorted and without duplicates.
fn pod_entry(pod: &Value) -> Option<PodEntry> {
    let node = text(pod, "/spec/nodeName");
    if node.is_empty() {
        return None;
    }
    let mut entry =
        PodEntry { uid: text(pod, "/metadata/uid").to_owned(), node: node.to_owned(), names: Vec::new() };
    // A node makes its own mirror pods: they must never open anything to it.
    if pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some() {
        return Some(entry);
    }
    let names = &mut entry.names;
    let mut add = |target: Target, name: &str| {
        if !name.is_empty() && !names.iter().any(|(t, n)| *t == target && n == name) {
            names.push((target, name.to_owned()));
        }
    };
    add(Target::ServiceAccount, text(pod, "/spec/serviceAccountName"));
    for secret in items(pod, "/spec/imagePullSecrets") {
        add(Target::Secret, text(secret, "/name"));
    }
    for list in ["/spec/initContainers", "/spec/containers", "/spec/ephemeralContainers"] {
        for container in items(pod, list) {
            for from in items(container, "/envFrom") {
                add(Target::ConfigMap, text(from, "/configMapRef/name"));
                add(Target::Secret, text(from, "/secretRef/name"));
            }
            for env in items(container, "/env") {
                add(Target::ConfigMap, text(env, "/valueFrom/configMapKeyRef/name"));
                add(Target::Secret, text(env, "/valueFrom/secretKeyRef/name"));
            }
        }
    }
    for volume in items(pod, "/spec/volumes") {
        for pointer in SECRETS_OF_POD_VOLUMES {
            add(Target::Secret, text(volume, pointer));
        }
        add(Target::ConfigMap, text(volume, "/configMap/name"));
        for source in items(volume, "/projected/sources") {
            add(Target::ConfigMap, text(source, "/configMap/name"));
            add(Target::Secret, text(source, "/secret/name"));
        }
        add(Target::Claim, text(volume, "/persistentVolumeClaim/claimName"));
        if volume.get("ephemeral").is_some_and(|e| !e.is_null()) {
            add(Target::Claim, &format!("{}-{}", text(pod, "/metadata/name"), text(volume, "/name")));
        }
    }
    for claim in items(pod, "/spec/resourceClaims") {
        add(Target::ResourceClaim, text(claim, "/resourceClaimName"));
    }
    for status in items(pod, "/status/resourceClaimStatuses") {
        add(Target::ResourceClaim, text(status, "/resourceClaimName"));
    }
    add(Target::ResourceClaim, text(pod, "/status/extendedResourceClaimStatus/resourceClaimName"));
    Some(entry)
}

const SECRETS_OF_POD_VOLUMES: [&str; 10] = [
    "/secret/secretName",
    "/azureFile/secretName",
    "/cephfs/secretRef/name",
    "/cinder/secretRef/name",
    "/flexVolume/secretRef/name",
    "/rbd/secretRef/name",
    "/scaleIO/secretRef/name",
    "/iscsi/secretRef/name",
    "/storageos/secretRef/name",
    "/csi/nodePublishSecretRef/name",
];

/// Secrets of a persistent volume that a kubelet uses; those for controllers are not among them.
const SECRETS_OF_VOLUMES: [&str; 10] = [
    "cephfs/secretRef",
    "cinder/secretRef",
    "flexVolume/secretRef",
    "rbd/secretRef",
    "scaleIO/secretRef",
    "iscsi/secretRef",
    "storageos/secretRef",
    "csi/nodePublishSecretRef",
    "csi/nodeStageSecretRef",
    "csi/nodeExpandSecretRef",
];

/// A volume that is claimed.
fn volume_entry(volume: &Value) -> Option<VolumeEntry> {
    let claim_name = text(volume, "/spec/claimRef/name");
    if claim_name.is_empty() {
        return None;
    }
    let claim_namespace = text(volume, "/spec/claimRef/namespace");
    let mut secrets = Vec::new();
    let mut add = |namespace: &str, name: &str| {
        let namespace = if namespace.is_empty() { claim_namespace } else { namespace };
        if !name.is_empty() {
            secrets.push((namespace.to_owned(), name.to_owned()));
        }
    };
    for path in SECRETS_OF_VOLUMES {
        let at = |field: &str| text(volume, &format!("/spec/{path}/{field}"));
        add(at("namespace"), at("name"));
    }
    add(text(volume, "/spec/azureFile/secretNamespace"), text(volume, "/spec/azureFile/secretName"));
    Some(VolumeEntry { claim: (claim_namespace.to_owned(), claim_name.to_owned()), secrets })
}
