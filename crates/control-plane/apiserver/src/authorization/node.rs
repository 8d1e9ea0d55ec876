//! The node authoriser: a kubelet may read what the pods on its node need, and write what is its own.
//!
//! A graph, kept from the watch cache, knows which node each pod is bound to and which secrets, config maps, claims and
//! service accounts that pod names; volumes lead from claims on to volumes and their secrets. Who is no node gets no opinion.
//! What the content of a write may be is for the NodeRestriction admission plugin.

use std::sync::Arc;

use parking_lot::RwLock;
use podium_api::kinds::features::Features;
use podium_api::selector::FieldSelector;

use super::rbac::Rule;
use super::{Attributes, Decision};
use crate::authentication::User;
use crate::bootstrap;
use crate::objects::{Objects, Pending, Work, text};

pub mod graph;

use graph::{Graph, Target};

/// The name of a node identity is this and the node's name.
const USER_PREFIX: &str = "system:node:";
/// The group of every node identity.
const NODES: &str = "system:nodes";
const LEASE_NAMESPACE: &str = "kube-node-lease";

const FOLLOWED: [(&str, &str); 4] = [
    ("", "pods"),
    ("", "persistentvolumes"),
    ("storage.k8s.io", "volumeattachments"),
    ("resource.k8s.io", "resourceslices"),
];

/// The node whose identity this is: `None` for others, empty for one in the group but without a node's name.
pub fn node_of(user: &User) -> Option<&str> {
    if !user.name.starts_with(USER_PREFIX) || !user.in_group(NODES) {
        return None;
    }
    Some(&user.name[USER_PREFIX.len()..])
}

/// The node authoriser.
pub struct NodeAuthorizer {
    objects: Objects,
    pending: Arc<Pending>,
    graph: RwLock<Graph>,
    /// What every node may do besides: the rules of the ClusterRole `system:node`.
    rules: Vec<Rule>,
}

impl std::fmt::Debug for NodeAuthorizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeAuthorizer").finish_non_exhaustive()
    }
}

impl NodeAuthorizer {
    /// Follows pods, volumes, attachments and resource slices.
    pub fn new(objects: Objects, features: Features) -> Self {
        let pending = Pending::follow(&objects, &FOLLOWED);
        NodeAuthorizer { objects, pending, graph: RwLock::default(), rules: bootstrap::node_rules(features) }
    }

    /// Decides one request.
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let Some(node) = node_of(attributes.user) else { return none("") };
        if node.is_empty() {
            return none(&format!("unknown node for user {}", super::go_quote(&attributes.user.name)));
        }
        match decide(node, attributes) {
            Verdict::Allow => allow(),
            Verdict::Refuse(reason) => none(&reason),
            Verdict::IfRelated(target) => {
                if attributes.name.is_empty() {
                    return none("No Object name found");
                }
                self.refresh();
                if self.graph.read().related(node, target, attributes.namespace, attributes.name) {
                    allow()
                } else {
                    none(&format!("no relationship found between node '{node}' and this object"))
                }
            }
            Verdict::ByRules => {
                if self.rules.iter().any(|rule| rule.allows(attributes)) {
                    allow()
                } else {
                    none("")
                }
            }
        }
    }

    fn refresh(&self) {
        if !self.pending.any() {
            return;
        }
        let mut graph = self.graph.write();
        match self.pending.take() {
            Work::Reload => {
                *graph = Graph::default();
                for (which, (group, resource)) in FOLLOWED.into_iter().enumerate() {
                    for object in self.objects.source().list(group, resource, None) {
                        let (namespace, name) =
                            (text(&object, "/metadata/namespace"), text(&object, "/metadata/name"));
                        graph.set(which, namespace, name, Some(&object));
                    }
                }
            }
            Work::Keys(keys) => {
                for (which, namespace, name) in keys {
                    let (group, resource) = FOLLOWED[which];
                    let object = self.objects.source().get(group, resource, &namespace, &name);
                    graph.set(which, &namespace, &name, object.as_deref());
                }
            }
        }
    }
}

fn allow() -> Decision {
    Decision::Allow { reason: Arc::from("") }
}

fn none(reason: &str) -> Decision {
    Decision::NoOpinion { reason: Arc::from(reason) }
}

/// What the request's form alone decides.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Allow,
    Refuse(String),
    /// If the graph leads from the object to the node.
    IfRelated(Target),
    /// If the rules for all nodes allow it.
    ByRules,
}

fn refuse(reason: &str) -> Verdict {
    Verdict::Refuse(reason.to_owned())
}

/// Pure: upstream's table of resources, verbs and subresources.
fn decide(node: &str, attributes: &Attributes<'_>) -> Verdict {
    if !attributes.resource_request {
        return Verdict::ByRules;
    }
    match (attributes.group, attributes.resource) {
        ("", "secrets") => read_namespaced(attributes, Target::Secret),
        ("", "configmaps") => read_namespaced(attributes, Target::ConfigMap),
        ("", "persistentvolumeclaims") if attributes.subresource == "status" => match attributes.verb {
            "update" | "patch" => Verdict::IfRelated(Target::Claim),
            _ => refuse("can only get/update/patch this type"),
        },
        ("", "persistentvolumeclaims") => get(attributes, Target::Claim),
        ("", "persistentvolumes") => get(attributes, Target::Volume),
        ("resource.k8s.io", "resourceclaims") => get(attributes, Target::ResourceClaim),
        ("storage.k8s.io", "volumeattachments") => get(attributes, Target::Attachment),
        ("", "serviceaccounts") => service_account(attributes),
        ("coordination.k8s.io", "leases") => lease(node, attributes),
        ("storage.k8s.io", "csinodes") => csi_node(node, attributes),
        ("resource.k8s.io", "resourceslices") => resource_slice(node, attributes),
        ("", "nodes") => own_node(node, attributes),
        ("", "pods") => pod(node, attributes),
        // Pod certificates are off by default upstream, and then nodes get no opinion.
        ("certificates.k8s.io", "podcertificaterequests") => refuse(""),
        _ => Verdict::ByRules,
    }
}

fn get(attributes: &Attributes<'_>, target: Target) -> Verdict {
    if attributes.verb != "get" {
        return refuse("can only get individual resources of this type");
    }
    if !attributes.subresource.is_empty() {
        return refuse("cannot get subresource");
    }
    Verdict::IfRelated(target)
}

fn read_namespaced(attributes: &Attributes<'_>, target: Target) -> Verdict {
    if !matches!(attributes.verb, "get" | "list" | "watch") {
        return refuse("can only read resources of this type");
    }
    if !attributes.subresource.is_empty() {
        return refuse("cannot read subresource");
    }
    if attributes.namespace.is_empty() {
        return refuse("can only read namespaced object of this type");
    }
    Verdict::IfRelated(target)
}

fn service_account(attributes: &Attributes<'_>) -> Verdict {
    if attributes.verb == "get" && attributes.subresource.is_empty() {
        return read_namespaced(attributes, Target::ServiceAccount);
    }
    if attributes.verb != "create" || attributes.name.is_empty() {
        return refuse("can only create tokens for individual service accounts");
    }
    if attributes.subresource != "token" {
        return refuse("can only create token subresource of serviceaccount");
    }
    Verdict::IfRelated(Target::ServiceAccount)
}

fn lease(node: &str, attributes: &Attributes<'_>) -> Verdict {
    if !matches!(attributes.verb, "get" | "create" | "update" | "patch" | "delete") {
        return refuse("can only get, create, update, patch, or delete a node lease");
    }
    if attributes.namespace != LEASE_NAMESPACE {
        return Verdict::Refuse(format!(
            "can only access leases in the \"{LEASE_NAMESPACE}\" system namespace"
        ));
    }
    // A create does not name its object here; NodeRestriction looks at it.
    if attributes.verb != "create" && attributes.name != node {
        return refuse("can only access node lease with the same name as the requesting node");
    }
    Verdict::Allow
}

fn csi_node(node: &str, attributes: &Attributes<'_>) -> Verdict {
    if !matches!(attributes.verb, "get" | "create" | "update" | "patch" | "delete") {
        return refuse("can only get, create, update, patch, or delete a CSINode");
    }
    if !attributes.subresource.is_empty() {
        return refuse("cannot authorize CSINode subresources");
    }
    if attributes.verb != "create" && attributes.name != node {
        return refuse("can only access CSINode with the same name as the requesting node");
    }
    Verdict::Allow
}

fn resource_slice(node: &str, attributes: &Attributes<'_>) -> Verdict {
    if !attributes.subresource.is_empty() {
        return refuse("cannot authorize ResourceSlice subresources");
    }
    match attributes.verb {
        "create" => Verdict::Allow,
        "get" | "update" | "patch" | "delete" => Verdict::IfRelated(Target::Slice),
        "watch" | "list" | "deletecollection" => {
            if selects_node(attributes, "spec.nodeName", node) {
                Verdict::Allow
            } else {
                refuse("can only list/watch/deletecollection resourceslices with nodeName field selector")
            }
        }
        _ => refuse(
            "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, \
             delete, deletecollection",
        ),
    }
}

fn own_node(node: &str, attributes: &Attributes<'_>) -> Verdict {
    match (attributes.subresource, attributes.verb) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Verdict::Allow,
        ("", "get" | "list" | "watch") => {
            // By name and not by the graph: a kubelet looks for its node before there is one.
            if attributes.name == node {
                Verdict::Allow
            } else if attributes.name.is_empty() {
                Verdict::Refuse(format!("node '{node}' cannot read all nodes, only its own Node object"))
            } else {
                Verdict::Refuse(format!(
                    "node '{node}' cannot read '{}', only its own Node object",
                    attributes.name
                ))
            }
        }
        _ => refuse(""),
    }
}

fn pod(node: &str, attributes: &Attributes<'_>) -> Verdict {
    match (attributes.subresource, attributes.verb) {
        ("", "get") => Verdict::IfRelated(Target::Pod),
        ("", "list" | "watch") => {
            if selects_node(attributes, "spec.nodeName", node) {
                Verdict::Allow
            } else if attributes.name.is_empty() {
                refuse("can only list/watch pods with spec.nodeName field selector")
            } else {
                Verdict::IfRelated(Target::Pod)
            }
        }
        // Mirror pods; NodeRestriction looks at them.
        ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Verdict::Allow,
        _ => refuse(""),
    }
}

fn selects_node(attributes: &Attributes<'_>, field: &str, node: &str) -> bool {
    FieldSelector::parse(attributes.field_selector)
        .is_ok_and(|selector| selector.exact_requirement(field) == Some(node))
}

#[cfg(test)]
mod tests;
