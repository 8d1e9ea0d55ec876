//! The union and its messages.

use serde_json::json;

use super::*;
use crate::objects::memory::Memory;

#[test]
fn members_of_masters_may_do_everything() {
    let authorizer = Authorizer::new(&Memory::new().objects());
    let admin = User::new("kubernetes-admin", &[MASTERS]);
    assert!(authorizer.authorize(&Attributes::resource(&admin, "delete", "", "nodes")).allowed());
    assert!(authorizer.authorize(&Attributes::path(&admin, "post", "/anything")).allowed());
    let jane = User::new("jane", &["system:master"]);
    assert!(!authorizer.authorize(&Attributes::resource(&jane, "get", "", "pods")).allowed());
}

#[test]
fn refusals_are_worded_as_upstream() {
    let authorizer = Authorizer::new(&Memory::new().objects());
    let jane = User::new("jane", &[]);
    let list = Attributes::resource(&jane, "list", "", "pods");
    let node = User::new("system:node:a", &["system:nodes"]);
    let cases = [
        (
            Attributes { namespace: "default", ..list },
            "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \
             \"default\"",
        ),
        (
            list,
            "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" at the cluster scope",
        ),
        (
            Attributes { verb: "create", subresource: "exec", name: "p", namespace: "ns", ..list },
            "pods \"p\" is forbidden: User \"jane\" cannot create resource \"pods/exec\" in API group \"\" in the \
             namespace \"ns\"",
        ),
        (
            Attributes { name: "d", ..Attributes::resource(&jane, "get", "apps", "deployments") },
            "deployments.apps \"d\" is forbidden: User \"jane\" cannot get resource \"deployments\" in API group \
             \"apps\" at the cluster scope",
        ),
        (Attributes::path(&jane, "get", "/metrics"), "forbidden: User \"jane\" cannot get path \"/metrics\""),
        (
            Attributes { namespace: "ns", name: "s", ..Attributes::resource(&node, "get", "", "secrets") },
            "secrets \"s\" is forbidden: User \"system:node:a\" cannot get resource \"secrets\" in API group \"\" in \
             the namespace \"ns\": no relationship found between node 'a' and this object",
        ),
    ];
    for (attributes, expected) in cases {
        let error = authorizer.check(&attributes).unwrap_err();
        assert_eq!(error.message, expected);
        assert_eq!((error.code, error.reason), (403, "Forbidden"));
    }
}

#[test]
fn names_in_refusals_cannot_be_markup() {
    let user = User::new("<b>\"x\"</b>", &[]);
    let error = Authorizer::forbidden(&Attributes::path(&user, "get", "/a&b"), "");
    assert_eq!(
        error.message,
        "forbidden: User \"&lt;b&gt;\\\"x\\\"&lt;/b&gt;\" cannot get path \"/a&amp;b\""
    );
}

#[test]
fn a_list_of_one_name_counts_as_that_name() {
    let memory = Memory::new();
    let group = "rbac.authorization.k8s.io";
    memory.put(
        group,
        "clusterroles",
        json!({"metadata": {"name": "one"}, "rules": [
            {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list", "watch"], "resourceNames": ["a"]}]}),
    );
    memory.put(
        group,
        "clusterrolebindings",
        json!({"metadata": {"name": "one"}, "roleRef": {"kind": "ClusterRole", "name": "one"},
               "subjects": [{"kind": "User", "name": "jane"}]}),
    );
    let authorizer = Authorizer::new(&memory.objects());
    let jane = User::new("jane", &[]);
    let watch = Attributes { namespace: "ns", ..Attributes::resource(&jane, "watch", "", "configmaps") };
    let allowed =
        |selector: &str| authorizer.authorize(&Attributes { field_selector: selector, ..watch }).allowed();
    assert!(allowed("metadata.name=a"));
    assert!(!allowed("metadata.name=b"));
    assert!(!allowed("metadata.name!=a"));
    assert!(!allowed(""));
}
