//! Who may do what: every controller is held to the role that a cluster gives it, so that a call that would be refused there is
//! found here.
//!
//! The roles are the API server's own, and so is the decision. What was refused is remembered, because a controller that is refused
//! tries again and says nothing.

use std::sync::{Arc, LazyLock};

use http::Method;
use podium_api::kinds::features::Features;
use podium_apiserver::User;
use podium_apiserver::authorization::{Attributes, Authorizer};
use podium_apiserver::bootstrap;
use podium_apiserver::objects::{ObjectSource, Objects, Observer};
use serde_json::{Value, json};

use super::{Answer, FakeApi, Refusal, Target, failure, respond};
use crate::manager::OWN_IDENTITY;

static AUTHORIZER: LazyLock<Authorizer> = LazyLock::new(|| {
    let policy =
        bootstrap::policy(Features::default()).into_iter().chain(storage_versions()).map(Arc::new).collect();
    Authorizer::new(&Objects::new(Arc::new(Policy(policy))))
});

/// The role that servers have which keep storage versions. Ours does not; the role is upstream's.
fn storage_versions() -> [Value; 2] {
    let name = "system:controller:storage-version-garbage-collector";
    let rule = |group, resource, verbs: &[&str]| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
    let group = super::discovery::STORAGE_VERSIONS;
    let every: &[&str] = &["get", "list", "watch", "patch", "update", "delete"];
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": [
        rule("coordination.k8s.io", "leases", &["get", "list", "watch"]),
        rule(group, "storageversions", every),
        rule(group, "storageversions/status", &["get", "patch", "update"]),
    ]});
    let subject = json!({"kind": "ServiceAccount", "namespace": "kube-system", "name": "storage-version-garbage-collector"});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}, "subjects": [subject]});
    [role, binding]
}

/// Roles and bindings, which never change.
struct Policy(Vec<Arc<Value>>);

impl ObjectSource for Policy {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let namespace = (!namespace.is_empty()).then_some(namespace);
        self.list(group, resource, namespace).into_iter().find(|object| object["metadata"]["name"] == name)
    }

    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
        let is_asked_for = |object: &Value| {
            let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
            object["apiVersion"] == format!("{group}/v1")
                && resource == format!("{kind}s")
                && namespace.is_none_or(|namespace| object["metadata"]["namespace"] == namespace)
        };
        self.0.iter().filter(|object| is_asked_for(object)).cloned().collect()
    }

    fn subscribe(&self, _group: &str, _resource: &str, _observer: Observer) {}
}

/// The user that a controller's client is. Source: how the API server makes clients for the parts of its own process.
fn user(account: &str) -> User {
    match account {
        OWN_IDENTITY => User::new("system:kube-controller-manager", &[]),
        account => User::service_account("kube-system", account, ""),
    }
}

/// Whether the account may make this request, and what it would be in words. What is no request for a resource is discovery, which
/// everybody may read.
fn decide(account: &str, method: &Method, uri: &http::Uri) -> Result<(), String> {
    let Some(target) = Target::parse(uri.path()) else { return Ok(()) };
    let query = uri.query().unwrap_or_default();
    let watches = query.split('&').any(|pair| pair == "watch=true" || pair == "watch=1");
    let verb = match (method.as_str(), target.name.is_empty()) {
        ("GET", true) if watches => "watch",
        ("GET", true) => "list",
        ("GET", false) => "get",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", true) => "deletecollection",
        ("DELETE", false) => "delete",
        (other, _) => other,
    };
    let (group, resource) = target.resource.split_once('/').unwrap_or_default();
    let selector =
        super::name_selector(query).map(|name| format!("metadata.name={name}")).unwrap_or_default();
    let user = user(account);
    let attributes = Attributes {
        version: "v1",
        subresource: &target.subresource,
        namespace: &target.namespace,
        name: &target.name,
        field_selector: &selector,
        ..Attributes::resource(&user, verb, group, resource)
    };
    if AUTHORIZER.authorize(&attributes).allowed() {
        return Ok(());
    }
    Err(format!("{account} may not {verb} {} {}", target.resource, target.subresource).trim_end().to_owned())
}

impl FakeApi {
    /// The refusal of a request that the account may not make.
    pub(crate) fn refused(&self, account: &str, method: &Method, uri: &http::Uri) -> Option<Answer> {
        let why = decide(account, method, uri).err()?;
        let answer = respond(403, &failure(&Refusal(403, "Forbidden", why.clone())));
        self.state.lock().forbidden.insert(why);
        Some(answer)
    }

    /// What controllers asked for and may not do.
    pub(crate) fn forbidden(&self) -> Vec<String> {
        self.state.lock().forbidden.iter().cloned().collect()
    }
}

#[test]
fn accounts_have_their_roles_and_no_more() {
    let volume = "/api/v1/persistentvolumes/v";
    let claim = "/api/v1/namespaces/ns/persistentvolumeclaims/c";
    let class = "/apis/storage.k8s.io/v1/volumeattributesclasses/c";
    let map = "/api/v1/namespaces/kube-public/configmaps/cluster-info";
    let pods = "/api/v1/pods?watch=true";
    for (account, method, uri, allowed) in [
        ("pv-protection-controller", Method::PUT, volume, true),
        ("pv-protection-controller", Method::PATCH, volume, false),
        ("volumeattributesclass-protection-controller", Method::PUT, class, true),
        ("volumeattributesclass-protection-controller", Method::PATCH, class, false),
        ("statefulset-controller", Method::PUT, claim, true),
        ("statefulset-controller", Method::PATCH, claim, false),
        ("bootstrap-signer", Method::PUT, map, true),
        ("token-cleaner", Method::PUT, map, false),
        (OWN_IDENTITY, Method::GET, pods, true),
        ("ttl-controller", Method::GET, pods, false),
        ("nobody", Method::GET, volume, false),
    ] {
        let may = decide(account, &method, &uri.parse().unwrap()).is_ok();
        assert_eq!(may, allowed, "{account} {method} {uri}");
    }
}
