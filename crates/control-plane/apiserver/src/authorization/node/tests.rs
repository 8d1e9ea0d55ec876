//! What a node may do, as a table, and the graph over time.

use serde_json::{Value, json};

use super::*;
use crate::objects::memory::Memory;

fn world() -> (Arc<Memory>, NodeAuthorizer, User) {
    let memory = Memory::new();
    let authorizer = NodeAuthorizer::new(memory.objects(), Features::default());
    (memory, authorizer, User::new("system:node:a", &[NODES]))
}

fn pod(name: &str, node: &str) -> Value {
    json!({
        "metadata": {"namespace": "ns", "name": name, "uid": name},
        "spec": {
            "nodeName": node,
            "serviceAccountName": "bot",
            "imagePullSecrets": [{"name": "pull"}],
            "initContainers": [{"name": "i", "envFrom": [{"configMapRef": {"name": "init-config"}}]}],
            "containers": [{"name": "c", "env": [
                {"name": "X", "valueFrom": {"secretKeyRef": {"name": "env-secret", "key": "k"}}},
                {"name": "Y", "valueFrom": {"configMapKeyRef": {"name": "env-config", "key": "k"}}}]}],
            "volumes": [
                {"name": "s", "secret": {"secretName": "volume-secret"}},
                {"name": "p", "projected": {"sources": [
                    {"secret": {"name": "projected-secret"}}, {"configMap": {"name": "projected-config"}}]}},
                {"name": "d", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {}}}],
            "resourceClaims": [{"name": "g", "resourceClaimName": "gpu"}],
        },
    })
}

#[test]
fn a_node_may_do_what_kubelets_do_and_no_more() {
    let (memory, authorizer, user) = world();
    memory.put("", "pods", pod("p", "a"));
    memory.put(
        "",
        "persistentvolumes",
        json!({"metadata": {"name": "pv"}, "spec": {
            "claimRef": {"namespace": "ns", "name": "data"},
            "csi": {"nodePublishSecretRef": {"namespace": "csi", "name": "node"},
                    "controllerPublishSecretRef": {"namespace": "csi", "name": "controller"}}}}),
    );
    memory.put(
        "storage.k8s.io",
        "volumeattachments",
        json!({"metadata": {"name": "va"}, "spec": {"nodeName": "a"}}),
    );
    memory.put(
        "resource.k8s.io",
        "resourceslices",
        json!({"metadata": {"name": "slice"}, "spec": {"nodeName": "b"}}),
    );

    // verb, group, resource/sub, namespace, name, field selector, allowed
    let cases = [
        ("get", "", "secrets", "ns", "volume-secret", "", true),
        ("list", "", "secrets", "ns", "env-secret", "", true),
        ("watch", "", "secrets", "ns", "pull", "", true),
        ("get", "", "secrets", "ns", "projected-secret", "", true),
        ("get", "", "secrets", "ns", "other", "", false),
        ("get", "", "secrets", "other", "volume-secret", "", false),
        ("list", "", "secrets", "ns", "", "", false),
        ("list", "", "secrets", "", "", "", false),
        ("update", "", "secrets", "ns", "volume-secret", "", false),
        ("get", "", "secrets", "csi", "node", "", true),
        ("get", "", "secrets", "csi", "controller", "", false),
        ("get", "", "configmaps", "ns", "env-config", "", true),
        ("get", "", "configmaps", "ns", "init-config", "", true),
        ("get", "", "configmaps", "ns", "projected-config", "", true),
        ("get", "", "configmaps", "ns", "x", "", false),
        ("get", "", "persistentvolumeclaims", "ns", "data", "", true),
        ("get", "", "persistentvolumeclaims", "ns", "p-scratch", "", true),
        ("update", "", "persistentvolumeclaims/status", "ns", "data", "", true),
        ("update", "", "persistentvolumeclaims", "ns", "data", "", false),
        ("get", "", "persistentvolumes", "", "pv", "", true),
        ("list", "", "persistentvolumes", "", "", "", false),
        ("get", "resource.k8s.io", "resourceclaims", "ns", "gpu", "", true),
        ("get", "resource.k8s.io", "resourceclaims", "ns", "tpu", "", false),
        ("get", "resource.k8s.io", "resourceslices", "", "slice", "", false),
        ("list", "resource.k8s.io", "resourceslices", "", "", "spec.nodeName=a", true),
        ("list", "resource.k8s.io", "resourceslices", "", "", "", false),
        ("get", "storage.k8s.io", "volumeattachments", "", "va", "", true),
        ("create", "", "serviceaccounts/token", "ns", "bot", "", true),
        ("create", "", "serviceaccounts/token", "ns", "root", "", false),
        ("get", "", "serviceaccounts", "ns", "bot", "", true),
        ("delete", "", "serviceaccounts", "ns", "bot", "", false),
        ("get", "coordination.k8s.io", "leases", "kube-node-lease", "a", "", true),
        ("create", "coordination.k8s.io", "leases", "kube-node-lease", "", "", true),
        ("update", "coordination.k8s.io", "leases", "kube-node-lease", "b", "", false),
        ("update", "coordination.k8s.io", "leases", "kube-system", "a", "", false),
        ("patch", "storage.k8s.io", "csinodes", "", "a", "", true),
        ("patch", "storage.k8s.io", "csinodes", "", "b", "", false),
        ("get", "", "nodes", "", "a", "", true),
        ("get", "", "nodes", "", "b", "", false),
        ("list", "", "nodes", "", "", "", false),
        ("patch", "", "nodes/status", "", "a", "", true),
        ("delete", "", "nodes", "", "a", "", false),
        ("watch", "", "pods", "", "", "spec.nodeName=a", true),
        ("watch", "", "pods", "", "", "spec.nodeName=b", false),
        ("watch", "", "pods", "", "", "spec.nodeName!=b", false),
        ("list", "", "pods", "", "", "", false),
        ("get", "", "pods", "ns", "p", "", true),
        ("get", "", "pods", "ns", "q", "", false),
        ("create", "", "pods", "ns", "", "", true),
        ("patch", "", "pods/status", "ns", "p", "", true),
        ("create", "", "pods/eviction", "ns", "p", "", true),
        ("create", "", "pods/exec", "ns", "p", "", false),
        ("update", "", "pods", "ns", "p", "", false),
        ("list", "", "services", "", "", "", true),
        ("watch", "node.k8s.io", "runtimeclasses", "", "", "", true),
        ("create", "authentication.k8s.io", "tokenreviews", "", "", "", true),
        ("create", "", "events", "ns", "", "", true),
        ("get", "apps", "deployments", "ns", "x", "", false),
        ("create", "certificates.k8s.io", "podcertificaterequests", "ns", "", "", false),
    ];
    for (verb, group, resource, namespace, name, field_selector, expected) in cases {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let attributes = Attributes {
            subresource,
            namespace,
            name,
            field_selector,
            ..Attributes::resource(&user, verb, group, resource)
        };
        let decision = authorizer.authorize(&attributes);
        assert_eq!(
            decision.allowed(),
            expected,
            "{verb} {group} {resource}/{subresource} {namespace}/{name}: {decision:?}"
        );
    }
}

/// SECURITY.md, "Node escalation": another node's identity, or none, opens nothing.
#[test]
fn node_escalation_other_identities_get_nothing() {
    let (memory, authorizer, _) = world();
    memory.put("", "pods", pod("p", "a"));
    let users = [
        User::new("system:node:b", &[NODES]),
        User::new("system:node:a", &[]),
        User::new("jane", &[NODES]),
        User::new("system:node:", &[NODES]),
    ];
    for user in users {
        let attributes = Attributes {
            namespace: "ns",
            name: "env-secret",
            ..Attributes::resource(&user, "get", "", "secrets")
        };
        assert!(!authorizer.authorize(&attributes).allowed(), "{}", user.name);
    }
}

#[test]
fn relations_follow_the_pods() {
    let (memory, authorizer, user) = world();
    let may = || {
        let attributes = Attributes {
            namespace: "ns",
            name: "env-secret",
            ..Attributes::resource(&user, "get", "", "secrets")
        };
        authorizer.authorize(&attributes).allowed()
    };
    assert!(!may());
    memory.put("", "pods", pod("p", "a"));
    assert!(may());
    memory.put("", "pods", pod("q", "a"));
    memory.delete("", "pods", "ns", "p");
    assert!(may(), "another pod names it");
    memory.put("", "pods", pod("q", "b"));
    assert!(!may(), "a pod of the same name elsewhere");
    let mut mirror = pod("m", "a");
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    memory.put("", "pods", mirror);
    assert!(!may(), "a mirror pod opens nothing");
}

#[test]
fn nodes_read_trust_bundles_where_there_are_any() {
    let user = User::new("system:node:a", &[NODES]);
    let allowed = |on: bool, verb: &str| {
        let features = Features { cluster_trust_bundle: on, ..Features::default() };
        let authorizer = NodeAuthorizer::new(Memory::new().objects(), features);
        let attributes = Attributes::resource(&user, verb, "certificates.k8s.io", "clustertrustbundles");
        authorizer.authorize(&attributes).allowed()
    };
    for (verb, may) in [("get", true), ("list", true), ("watch", true), ("create", false), ("update", false)]
    {
        assert_eq!((allowed(true, verb), allowed(false, verb)), (may, false), "{verb}");
    }
}
