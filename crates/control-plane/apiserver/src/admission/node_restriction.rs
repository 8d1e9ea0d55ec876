//! NodeRestriction: what a kubelet may write. RBAC and the node authoriser let it write nodes, pods, leases and so on;
//! this looks at the contents: its own node, pods on it, its lease, tokens for its pods, and none of the labels, taints or owner
//! references by which it could draw other work to itself or have itself removed.
//!
//! Stricter than upstream in one place: a node may not be created with owner references either.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use podium_api::status::ApiError;
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use super::{Operation, Request, containers};
use crate::authorization::node::node_of;
use crate::authorization::{Attributes, Authorizer, go_quote};
use crate::objects::{Objects, items, text};

const MIRROR: &str = "kubernetes.io/config.mirror";

/// Refuses what a node may not write; everybody else's writes pass.
pub(crate) fn check(
    request: &Request<'_>,
    objects: &Objects,
    authorizer: &Authorizer,
) -> Result<(), ApiError> {
    let Some(node) = node_of(request.user) else { return Ok(()) };
    if node.is_empty() {
        let user = go_quote(&request.user.name);
        return Err(request.forbidden(&format!("could not determine node from user {user}")));
    }
    match (request.group, request.resource) {
        ("", "pods") => match request.subresource {
            "" => pod(node, request, objects),
            "status" => pod_status(node, request),
            "eviction" => pod_eviction(node, request, objects),
            other => Err(request.forbidden(&format!(
                "unexpected pod subresource {}, only 'status' and 'eviction' are allowed",
                go_quote(other)
            ))),
        },
        ("", "nodes") => own_node(node, request),
        ("", "persistentvolumeclaims") => claim_status(node, request),
        ("", "serviceaccounts") => token(node, request, objects, authorizer),
        ("certificates.k8s.io", "podcertificaterequests") => {
            Err(request.forbidden("PodCertificateRequest feature gate is disabled"))
        }
        ("certificates.k8s.io", "certificatesigningrequests") => signing_request(node, request),
        ("coordination.k8s.io", "leases") => lease(node, request),
        ("storage.k8s.io", "csinodes") => {
            if named(request) == node {
                return Ok(());
            }
            Err(request.forbidden("can only access CSINode with the same name as the requesting node"))
        }
        ("resource.k8s.io", "resourceslices") => resource_slice(node, request),
        _ => Ok(()),
    }
}

/// The object's name: on create its own, since the URL has none.
fn named<'a>(request: &'a Request<'_>) -> &'a str {
    if request.operation == Operation::Create { text(request.object, "/metadata/name") } else { request.name }
}

fn pod(node: &str, request: &Request<'_>, objects: &Objects) -> Result<(), ApiError> {
    let quoted = go_quote(node);
    match request.operation {
        Operation::Create => mirror_pod(node, request, objects),
        Operation::Delete => {
            let stored = stored_pod(request, objects, request.name)?;
            if text(&stored, "/spec/nodeName") == node {
                return Ok(());
            }
            Err(request
                .forbidden(&format!("node {quoted} can only delete pods with spec.nodeName set to itself")))
        }
        other => Err(request.forbidden(&format!(
            "unexpected operation {}, node {quoted} can only create and delete mirror pods",
            go_quote(other.name())
        ))),
    }
}

fn stored_pod(
    request: &Request<'_>,
    objects: &Objects,
    name: &str,
) -> Result<std::sync::Arc<Value>, ApiError> {
    objects.get("", "pods", request.namespace, name).ok_or_else(|| ApiError::not_found("", "pods", name))
}

/// A kubelet tells the API of pods it runs from files: bound to it, owned by its node, needing nothing of the API.
fn mirror_pod(node: &str, request: &Request<'_>, objects: &Objects) -> Result<(), ApiError> {
    let pod = &*request.object;
    let quoted = go_quote(node);
    let refuse = |why: String| Err(request.forbidden(&why));
    if pod["metadata"]["annotations"].get(MIRROR).is_none() {
        return refuse(format!(
            "pod does not have \"{MIRROR}\" annotation, node {quoted} can only create mirror pods"
        ));
    }
    if text(pod, "/spec/nodeName") != node {
        return refuse(format!("node {quoted} can only create pods with spec.nodeName set to itself"));
    }
    let owner = match items(pod, "/metadata/ownerReferences") {
        [owner] => owner,
        [] => {
            return refuse(format!(
                "node {quoted} can only create pods with an owner reference set to itself"
            ));
        }
        _ => {
            return refuse(format!(
                "node {quoted} can only create pods with a single owner reference set to itself"
            ));
        }
    };
    let own =
        text(owner, "/apiVersion") == "v1" && text(owner, "/kind") == "Node" && text(owner, "/name") == node;
    if !own {
        return refuse(format!("node {quoted} can only create pods with an owner reference set to itself"));
    }
    if owner["controller"] != true {
        return refuse(format!(
            "node {quoted} can only create pods with a controller owner reference set to itself"
        ));
    }
    if owner["blockOwnerDeletion"] == true {
        return refuse(format!("node {quoted} must not set blockOwnerDeletion on an owner reference"));
    }
    let stored = objects.get("", "nodes", "", node).ok_or_else(|| ApiError::not_found("", "nodes", node))?;
    let (given, actual) = (text(owner, "/uid"), text(&stored, "/metadata/uid"));
    if given != actual {
        return refuse(format!("node {node} UID mismatch: expected {given} got {actual}"));
    }
    match api_reference(pod) {
        Some(what) => refuse(format!("node {quoted} can not create pods that reference {what}")),
        None => Ok(()),
    }
}

/// Volumes that need nothing of the API.
const SELF_CONTAINED: [&str; 22] = [
    "awsElasticBlockStore",
    "azureDisk",
    "cephfs",
    "cinder",
    "downwardAPI",
    "emptyDir",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "hostPath",
    "image",
    "iscsi",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];

const OF_THE_API: [(&str, &str); 7] = [
    ("configMap", "configmaps (via configmap volumes)"),
    ("secret", "secrets (via secret volumes)"),
    ("csi", "csidrivers (via CSI volumes)"),
    ("glusterfs", "endpoints (via glusterFS volumes)"),
    ("persistentVolumeClaim", "persistentvolumeclaims"),
    ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
    ("azureFile", "secrets (via azureFile volumes)"),
];

const PROJECTED: [(&str, &str); 5] = [
    ("configMap", "configmaps (via projected volumes)"),
    ("secret", "secrets (via projected volumes)"),
    ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
    ("clusterTrustBundle", "clustertrustbundles"),
    ("podCertificate", "podcertificates"),
];

/// What of the API a pod refers to. A volume of a kind not known here counts: it might.
fn api_reference(pod: &Value) -> Option<&'static str> {
    let set = |value: &Value, field: &str| value.get(field).is_some_and(|v| !v.is_null());
    if !text(pod, "/spec/serviceAccountName").is_empty() {
        return Some("serviceaccounts");
    }
    let volumes = items(pod, "/spec/volumes");
    let from = |container: &Value, list: &str, pointer: &str| {
        items(container, list).iter().any(|item| item.pointer(pointer).is_some_and(|v| !v.is_null()))
    };
    let in_volumes = |pointer: &str| volumes.iter().any(|v| v.pointer(pointer).is_some_and(|r| !r.is_null()));
    let volume_secrets = ["cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"]
        .iter()
        .any(|kind| in_volumes(&format!("/{kind}/secretRef")));
    let secrets = volume_secrets
        || !items(pod, "/spec/imagePullSecrets").is_empty()
        || containers(pod)
            .any(|(_, c)| from(c, "/env", "/valueFrom/secretKeyRef") || from(c, "/envFrom", "/secretRef"));
    if secrets {
        return Some("secrets");
    }
    if containers(pod)
        .any(|(_, c)| from(c, "/env", "/valueFrom/configMapKeyRef") || from(c, "/envFrom", "/configMapRef"))
    {
        return Some("configmaps");
    }
    if !items(pod, "/spec/resourceClaims").is_empty() {
        return Some("resourceclaims");
    }
    for volume in volumes {
        if let Some((_, what)) = OF_THE_API.iter().find(|(kind, _)| set(volume, kind)) {
            return Some(what);
        }
        if set(volume, "projected") {
            for source in items(volume, "/projected/sources") {
                if let Some((_, what)) = PROJECTED.iter().find(|(kind, _)| set(source, kind)) {
                    return Some(what);
                }
                if !set(source, "downwardAPI") {
                    return Some("an unknown source of a projected volume");
                }
            }
        } else if !SELF_CONTAINED.iter().any(|kind| set(volume, kind)) {
            return Some("an unknown kind of volume");
        }
    }
    None
}

fn pod_status(node: &str, request: &Request<'_>) -> Result<(), ApiError> {
    let (Operation::Update, Some(old)) = (request.operation, request.old) else {
        return Err(
            request.forbidden(&format!("unexpected operation {}", go_quote(request.operation.name())))
        );
    };
    let quoted = go_quote(node);
    if text(old, "/spec/nodeName") != node {
        return Err(request.forbidden(&format!(
            "node {quoted} can only update pod status for pods with spec.nodeName set to itself"
        )));
    }
    let same = |pointer: &str| present(old, pointer) == present(request.object, pointer);
    if !same("/metadata/labels") {
        return Err(request.forbidden(&format!("node {quoted} cannot update labels through pod status")));
    }
    if !same("/metadata/ownerReferences") {
        return Err(
            request.forbidden(&format!("node {quoted} cannot update owner references through pod status"))
        );
    }
    if !same("/status/resourceClaimStatuses") {
        return Err(request.forbidden(&format!("node {quoted} cannot update resource claim statues")));
    }
    if !same("/status/extendedResourceClaimStatus") {
        return Err(request.forbidden(&format!("node {quoted} cannot update extended resource claim status")));
    }
    Ok(())
}

/// What is there; absent, null and empty are the same.
fn present<'a>(object: &'a Value, pointer: &str) -> Option<&'a Value> {
    object.pointer(pointer).filter(|value| match value {
        Value::Null => false,
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => true,
    })
}

fn pod_eviction(node: &str, request: &Request<'_>, objects: &Objects) -> Result<(), ApiError> {
    if request.operation != Operation::Create {
        return Err(request.forbidden(&format!("unexpected operation {}", request.operation.name())));
    }
    let name = if request.name.is_empty() { text(request.object, "/metadata/name") } else { request.name };
    if name.is_empty() {
        return Err(request.forbidden("could not determine pod from request data"));
    }
    let stored = stored_pod(request, objects, name)?;
    if text(&stored, "/spec/nodeName") == node {
        return Ok(());
    }
    Err(request.forbidden(&format!("node {node} can only evict pods with spec.nodeName set to itself")))
}

fn claim_status(node: &str, request: &Request<'_>) -> Result<(), ApiError> {
    if request.subresource != "status" {
        return Err(request.forbidden("may only update PVC status"));
    }
    let (Operation::Update, Some(old)) = (request.operation, request.old) else {
        return Err(
            request.forbidden(&format!("unexpected operation {}", go_quote(request.operation.name())))
        );
    };
    let strip = |claim: &Value| {
        let mut copy = claim.clone();
        if let Some(metadata) = copy["metadata"].as_object_mut() {
            metadata.remove("resourceVersion");
            metadata.remove("managedFields");
        }
        if let Some(status) = copy["status"].as_object_mut() {
            for field in ["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"] {
                status.remove(field);
            }
        }
        copy
    };
    if strip(old) == strip(request.object) {
        return Ok(());
    }
    Err(request.forbidden(&format!(
        "node {} is not allowed to update fields other than status.quantity and status.conditions",
        go_quote(node)
    )))
}

fn own_node(node: &str, request: &Request<'_>) -> Result<(), ApiError> {
    let quoted = go_quote(node);
    let refuse = |why: String| Err(request.forbidden(&why));
    let name = named(request);
    if name != node {
        return refuse(format!("node {quoted} is not allowed to modify node {}", go_quote(name)));
    }
    let new = &*request.object;
    let config_source = present(new, "/spec/configSource");
    match (request.operation, request.old) {
        (Operation::Create, _) => {
            if config_source.is_some() {
                return refuse(format!(
                    "node {quoted} is not allowed to create pods with a non-nil configSource"
                ));
            }
            if present(new, "/metadata/ownerReferences").is_some() {
                return refuse(format!("node {quoted} is not allowed to set ownerReferences"));
            }
            let labels = forbidden_labels(new, &Value::Null);
            if !labels.is_empty() {
                return refuse(format!(
                    "node {quoted} is not allowed to set the following labels: {}",
                    join(labels)
                ));
            }
        }
        (Operation::Update, Some(old)) => {
            if config_source.is_some() && config_source != present(old, "/spec/configSource") {
                return refuse(format!(
                    "node {quoted} is not allowed to update configSource to a new non-nil configSource"
                ));
            }
            if present(new, "/spec/taints") != present(old, "/spec/taints") {
                return refuse(format!("node {quoted} is not allowed to modify taints"));
            }
            if present(new, "/metadata/ownerReferences") != present(old, "/metadata/ownerReferences") {
                return refuse(format!("node {quoted} is not allowed to modify ownerReferences"));
            }
            let labels = forbidden_labels(new, old);
            if !labels.is_empty() {
                return refuse(format!("is not allowed to modify labels: {}", join(labels)));
            }
        }
        _ => {}
    }
    Ok(())
}

fn join(labels: BTreeSet<String>) -> String {
    labels.into_iter().collect::<Vec<_>>().join(", ")
}

/// Labels in Kubernetes' own domains that a kubelet may set on its node.
const KUBELET_LABELS: [&str; 13] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "node.kubernetes.io/windows-build",
    "node.kubernetes.io/exclude-from-external-load-balancers",
];

/// Changed labels that a kubelet may not touch.
fn forbidden_labels(new: &Value, old: &Value) -> BTreeSet<String> {
    let empty = serde_json::Map::new();
    let labels =
        |object: &Value| object["metadata"]["labels"].as_object().cloned().unwrap_or_else(|| empty.clone());
    let (new, old) = (labels(new), labels(old));
    new.keys()
        .chain(old.keys())
        .filter(|key| new.get(*key) != old.get(*key) && label_is_forbidden(key))
        .cloned()
        .collect()
}

fn label_is_forbidden(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return false };
    let within =
        |top: &str| domain == top || domain.strip_suffix(top).is_some_and(|rest| rest.ends_with('.'));
    if within("node-restriction.kubernetes.io") {
        return true;
    }
    let reserved = within("kubernetes.io") || within("k8s.io");
    let kubelets =
        within("kubelet.kubernetes.io") || within("node.kubernetes.io") || KUBELET_LABELS.contains(&key);
    reserved && !kubelets
}

/// A node gets tokens for pods that run on it, for audiences that these pods ask for.
fn token(
    node: &str,
    request: &Request<'_>,
    objects: &Objects,
    authorizer: &Authorizer,
) -> Result<(), ApiError> {
    if request.operation != Operation::Create || request.subresource != "token" {
        return Ok(());
    }
    let body = &*request.object;
    let bound = |field: &str| text(body, &format!("/spec/boundObjectRef/{field}"));
    if bound("apiVersion") != "v1" || bound("kind") != "Pod" || bound("name").is_empty() {
        return Err(request.forbidden("node requested token not bound to a pod"));
    }
    if bound("uid").is_empty() {
        return Err(request.forbidden("node requested token with a pod binding without a uid"));
    }
    let pod = stored_pod(request, objects, bound("name"))?;
    if bound("uid") != text(&pod, "/metadata/uid") {
        return Err(request.forbidden(&format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been \
             deleted and then recreated",
            bound("uid")
        )));
    }
    if text(&pod, "/spec/nodeName") != node {
        return Err(request.forbidden("node requested token bound to a pod scheduled on a different node"));
    }
    let audience = match items(body, "/spec/audiences") {
        [] => "",
        [one] => one.as_str().unwrap_or_default(),
        _ => return Err(request.forbidden("node may only request 0 or 1 audiences")),
    };
    if pod_asks_for(&pod, audience, objects) {
        return Ok(());
    }
    let attributes = Attributes {
        version: "v1",
        namespace: request.namespace,
        name: request.name,
        ..Attributes::resource(request.user, "request-serviceaccounts-token-audience", "", audience)
    };
    if authorizer.authorize(&attributes).allowed() {
        return Ok(());
    }
    Err(request.forbidden(&format!(
        "audience {} not found in pod spec volume, {} is not authorized to request tokens for this audience",
        go_quote(audience),
        request.user.name
    )))
}

/// Whether a pod's volumes need tokens for this audience: projected ones, or through a CSI driver.
fn pod_asks_for(pod: &Value, audience: &str, objects: &Objects) -> bool {
    let namespace = text(pod, "/metadata/namespace");
    let driver_of_claim = |claim: &str| -> Option<String> {
        let claim = objects.get("", "persistentvolumeclaims", namespace, claim)?;
        let volume = objects.get("", "persistentvolumes", "", text(&claim, "/spec/volumeName"))?;
        Some(text(&volume, "/spec/csi/driver").to_owned())
    };
    let driver_asks = |driver: &str| {
        !driver.is_empty()
            && objects.get("storage.k8s.io", "csidrivers", "", driver).is_some_and(|driver| {
                items(&driver, "/spec/tokenRequests").iter().any(|asked| text(asked, "/audience") == audience)
            })
    };
    items(pod, "/spec/volumes").iter().any(|volume| {
        let projected = items(volume, "/projected/sources").iter().any(|source| {
            source
                .get("serviceAccountToken")
                .is_some_and(|token| !token.is_null() && text(token, "/audience") == audience)
        });
        let driver = if volume.get("ephemeral").is_some_and(|e| !e.is_null()) {
            driver_of_claim(&format!("{}-{}", text(pod, "/metadata/name"), text(volume, "/name")))
        } else if !text(volume, "/persistentVolumeClaim/claimName").is_empty() {
            driver_of_claim(text(volume, "/persistentVolumeClaim/claimName"))
        } else {
            Some(text(volume, "/csi/driver").to_owned())
        };
        projected || driver.is_some_and(|driver| driver_asks(&driver))
    })
}

fn lease(node: &str, request: &Request<'_>) -> Result<(), ApiError> {
    if request.namespace != "kube-node-lease" {
        return Err(request.forbidden("can only access leases in the \"kube-node-lease\" system namespace"));
    }
    if named(request) != node {
        return Err(request.forbidden("can only access node lease with the same name as the requesting node"));
    }
    Ok(())
}

fn resource_slice(node: &str, request: &Request<'_>) -> Result<(), ApiError> {
    let (slice, what) = match request.operation {
        Operation::Create => (Some(&*request.object), "create"),
        Operation::Delete => (request.old, "delete"),
        _ => return Ok(()),
    };
    if slice.is_some_and(|slice| text(slice, "/spec/nodeName") == node) {
        return Ok(());
    }
    Err(request
        .forbidden(&format!("can only {what} ResourceSlice with the same NodeName as the requesting node")))
}

/// A kubelet asks for certificates in its own name only.
fn signing_request(node: &str, request: &Request<'_>) -> Result<(), ApiError> {
    let signer = text(request.object, "/spec/signerName");
    let kubelets = ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];
    if request.operation != Operation::Create || !kubelets.contains(&signer) {
        return Ok(());
    }
    let name = common_name(text(request.object, "/spec/request"))
        .map_err(|why| request.forbidden(&format!("unable to parse csr: {why}")))?;
    if name == format!("system:node:{node}") {
        return Ok(());
    }
    Err(request.forbidden(&format!("can only create a node CSR with CN=system:node:{node}")))
}

fn common_name(encoded: &str) -> Result<String, String> {
    let pem = STANDARD.decode(encoded).map_err(|e| e.to_string())?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem)
        .map_err(|_| "PEM block type must be CERTIFICATE REQUEST".to_owned())?;
    let (_, parsed) = X509CertificationRequest::from_der(&pem.contents).map_err(|e| e.to_string())?;
    let names = parsed.certification_request_info.subject.iter_common_name().last();
    names.map_or(Ok(String::new()), |name| name.as_str().map(str::to_owned).map_err(|e| e.to_string()))
}
