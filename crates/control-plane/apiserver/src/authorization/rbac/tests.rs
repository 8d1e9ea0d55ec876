//! Rules, the index over time, aggregation, and what a decision costs.

#![allow(clippy::needless_pass_by_value, reason = "literals read better passed as they are")]

use podium_api::kinds::features::Features;
use serde_json::json;

use super::*;
use crate::authorization::escalation::{compact, uncovered};
use crate::objects::memory::Memory;

fn rule(value: Value) -> Rule {
    Rule::of(&value)
}

/// `verb group resource[/sub] [name]` or `verb url path`.
#[track_caller]
fn check(rule: &Rule, request: &str, expected: bool) {
    let user = User::new("u", &[]);
    let parts: Vec<&str> = request.split(' ').collect();
    let attributes = if parts[1] == "url" {
        Attributes::path(&user, parts[0], parts[2])
    } else {
        let (resource, subresource) = parts[2].split_once('/').unwrap_or((parts[2], ""));
        let group = if parts[1] == "core" { "" } else { parts[1] };
        Attributes {
            subresource,
            name: parts.get(3).copied().unwrap_or_default(),
            ..Attributes::resource(&user, parts[0], group, resource)
        }
    };
    assert_eq!(rule.allows(&attributes), expected, "{rule:?} and {request}");
}

#[test]
fn rules_match_as_upstream() {
    let pods = rule(json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}));
    check(&pods, "get core pods", true);
    check(&pods, "get core pods a", true);
    check(&pods, "watch core pods", false);
    check(&pods, "get apps pods", false);
    check(&pods, "get core pods/log", false);
    check(&pods, "get url /api", false);

    let named = rule(
        json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": ["a", "b"]}),
    );
    check(&named, "get core secrets a", true);
    check(&named, "get core secrets c", false);
    check(&named, "get core secrets", false);

    let everything = rule(json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}));
    check(&everything, "eat x y/z", true);
    check(&everything, "get url /x", false);

    let scales = rule(
        json!({"apiGroups": ["apps"], "resources": ["*/scale", "deployments/status"], "verbs": ["get"]}),
    );
    check(&scales, "get apps deployments/scale", true);
    check(&scales, "get apps x/scale", true);
    check(&scales, "get apps deployments", false);
    check(&scales, "get apps deployments/status", true);
    check(&scales, "get apps deployments/xscale", false);

    let urls = rule(json!({"nonResourceURLs": ["/healthz", "/logs/*"], "verbs": ["get"]}));
    check(&urls, "get url /healthz", true);
    check(&urls, "get url /healthz/etcd", false);
    check(&urls, "get url /logs/x/y", true);
    check(&urls, "post url /healthz", false);
    check(&urls, "get core healthz", false);
}

#[test]
fn what_is_not_covered_is_told_compactly() {
    let owned = [
        rule(json!({"apiGroups": [""], "resources": ["pods", "*/log"], "verbs": ["get"]})),
        rule(json!({"nonResourceURLs": ["/logs*"], "verbs": ["*"]})),
    ];
    let wanted = [
        rule(json!({"apiGroups": ["", "apps"], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]})),
        rule(json!({"nonResourceURLs": ["/logs/a", "/x"], "verbs": ["get"]})),
    ];
    let missing: Vec<String> = compact(uncovered(&owned, &wanted)).iter().map(Rule::compact).collect();
    assert_eq!(
        missing,
        [
            "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\"]}",
            "{APIGroups:[\"\"], Resources:[\"pods/log\"], Verbs:[\"list\"]}",
            "{APIGroups:[\"apps\"], Resources:[\"pods\"], Verbs:[\"get\" \"list\"]}",
            "{APIGroups:[\"apps\"], Resources:[\"pods/log\"], Verbs:[\"get\" \"list\"]}",
            "{NonResourceURLs:[\"/x\"], Verbs:[\"get\"]}",
        ]
    );
    let everything = rule(json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}));
    assert!(uncovered(std::slice::from_ref(&everything), &wanted[..1]).is_empty());
    assert!(!uncovered(&owned, std::slice::from_ref(&everything)).is_empty());
    // A rule for some names does not cover the rule for all names.
    let some =
        rule(json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"], "resourceNames": ["a"]}));
    let all = rule(json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}));
    assert!(!uncovered(std::slice::from_ref(&some), std::slice::from_ref(&all)).is_empty());
    assert!(uncovered(std::slice::from_ref(&all), std::slice::from_ref(&some)).is_empty());
}

struct World {
    memory: Arc<Memory>,
    rbac: Rbac,
}

impl World {
    fn new() -> Self {
        let memory = Memory::new();
        let rbac = Rbac::new(memory.objects());
        World { memory, rbac }
    }

    fn role(&self, namespace: &str, name: &str, rules: Value) {
        let resource = if namespace.is_empty() { "clusterroles" } else { "roles" };
        self.memory.put(
            GROUP,
            resource,
            json!({"metadata": {"namespace": namespace, "name": name}, "rules": rules}),
        );
    }

    fn bind(&self, namespace: &str, name: &str, role: (&str, &str), subjects: Value) {
        let resource = if namespace.is_empty() { "clusterrolebindings" } else { "rolebindings" };
        self.memory.put(
            GROUP,
            resource,
            json!({"metadata": {"namespace": namespace, "name": name},
                   "roleRef": {"kind": role.0, "name": role.1}, "subjects": subjects}),
        );
    }

    fn may(&self, user: &User, verb: &str, namespace: &str) -> Decision {
        self.rbac.authorize(&Attributes { namespace, ..Attributes::resource(user, verb, "", "pods") })
    }
}

fn read_pods() -> Value {
    json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}])
}

#[test]
fn bindings_reach_their_subjects_in_their_scope() {
    let world = World::new();
    let jane = User::new("jane", &["devs"]);
    let account = User::service_account("ns", "bot", "1");
    world.role("", "reader", read_pods());
    assert!(!world.may(&jane, "get", "ns").allowed());

    world.bind("ns", "devs", ("ClusterRole", "reader"), json!([{"kind": "Group", "name": "devs"}]));
    let decision = world.may(&jane, "get", "ns");
    assert!(decision.allowed());
    assert_eq!(
        decision.reason(),
        "RBAC: allowed by RoleBinding \"devs/ns\" of ClusterRole \"reader\" to Group \"devs\""
    );
    assert!(!world.may(&jane, "get", "other").allowed());
    assert!(!world.may(&jane, "get", "").allowed(), "all namespaces");
    assert!(!world.may(&jane, "delete", "ns").allowed());

    world.bind("ns", "bots", ("ClusterRole", "reader"), json!([{"kind": "ServiceAccount", "name": "bot"}]));
    let decision = world.may(&account, "get", "ns");
    assert_eq!(
        decision.reason(),
        "RBAC: allowed by RoleBinding \"bots/ns\" of ClusterRole \"reader\" to ServiceAccount \"bot/ns\""
    );
    let subjects = json!([{"kind": "ServiceAccount", "name": "bot", "namespace": "ns"}]);
    world.bind("", "bots", ("ClusterRole", "reader"), subjects);
    assert!(world.may(&account, "list", "").allowed());

    world.memory.delete(GROUP, "rolebindings", "ns", "devs");
    assert!(!world.may(&jane, "get", "ns").allowed(), "a removed binding ends at once");
    world.role("", "reader", json!([]));
    assert!(!world.may(&account, "list", "").allowed(), "a changed role ends at once");
}

#[test]
fn a_role_of_one_namespace_is_not_anothers() {
    let world = World::new();
    let jane = User::new("jane", &[]);
    let subjects = json!([{"kind": "User", "name": "jane"}]);
    world.role("a", "reader", read_pods());
    world.bind("b", "x", ("Role", "reader"), subjects.clone());
    let decision = world.may(&jane, "get", "b");
    assert!(!decision.allowed());
    assert_eq!(decision.reason(), "RBAC: role.rbac.authorization.k8s.io \"reader\" not found");
    world.bind("a", "x", ("Role", "reader"), subjects.clone());
    assert!(world.may(&jane, "get", "a").allowed());
    world.bind("b", "y", ("ClusterRole", "gone"), subjects);
    assert_eq!(
        world.may(&jane, "get", "b").reason(),
        "RBAC: [role.rbac.authorization.k8s.io \"reader\" not found, \
         clusterrole.rbac.authorization.k8s.io \"gone\" not found]"
    );
}

#[test]
fn aggregated_roles_are_the_union_of_what_they_select() {
    let world = World::new();
    let jane = User::new("jane", &[]);
    let aggregate = |name: &str, label: &str, own: Value| {
        world.memory.put(
            GROUP,
            "clusterroles",
            json!({"metadata": {"name": name, "labels": own},
                   "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]}, "rules": null}),
        );
    };
    aggregate("admin", "to-admin", json!({}));
    aggregate("edit", "to-edit", json!({"to-admin": "true"}));
    world.bind("ns", "x", ("ClusterRole", "admin"), json!([{"kind": "User", "name": "jane"}]));
    assert!(!world.may(&jane, "get", "ns").allowed());
    let part = json!({"metadata": {"name": "part", "labels": {"to-edit": "true"}}, "rules": read_pods()});
    world.memory.put(GROUP, "clusterroles", part);
    assert!(world.may(&jane, "get", "ns").allowed(), "through edit");
    world.memory.delete(GROUP, "clusterroles", "", "part");
    assert!(!world.may(&jane, "get", "ns").allowed());
}

#[test]
fn the_default_policy_does_what_clusters_rely_on() {
    let memory = Memory::new();
    for object in crate::bootstrap::policy(Features::default()) {
        let resource = format!("{}s", object["kind"].as_str().unwrap().to_lowercase());
        memory.put(GROUP, &resource, object);
    }
    let rbac = Rbac::new(memory.objects());
    let scheduler = User::new("system:kube-scheduler", &[]);
    let deployer = User::service_account("kube-system", "deployment-controller", "1");
    let anyone = User::new("jane", &[]);
    let nobody = User::anonymous();
    let yes = |attributes: Attributes<'_>| assert!(rbac.authorize(&attributes).allowed(), "{attributes:?}");
    let no = |attributes: Attributes<'_>| assert!(!rbac.authorize(&attributes).allowed(), "{attributes:?}");
    yes(Attributes {
        subresource: "binding",
        namespace: "ns",
        ..Attributes::resource(&scheduler, "create", "", "pods")
    });
    no(Attributes { namespace: "ns", ..Attributes::resource(&scheduler, "create", "", "pods") });
    yes(Attributes { namespace: "ns", ..Attributes::resource(&deployer, "create", "apps", "replicasets") });
    no(Attributes { namespace: "ns", ..Attributes::resource(&deployer, "get", "", "secrets") });
    yes(Attributes::path(&anyone, "get", "/apis/apps"));
    yes(Attributes::resource(&anyone, "create", "authorization.k8s.io", "selfsubjectaccessreviews"));
    no(Attributes::resource(&anyone, "list", "", "pods"));
    yes(Attributes::path(&nobody, "get", "/readyz"));
    no(Attributes::path(&nobody, "get", "/apis"));
}

/// The hot path's budget is 2 us; a debug build on a busy machine gets forty times as much before this fails.
#[test]
fn a_decision_is_cheap() {
    let memory = Memory::new();
    for object in crate::bootstrap::policy(Features::default()) {
        let resource = format!("{}s", object["kind"].as_str().unwrap().to_lowercase());
        memory.put(GROUP, &resource, object);
    }
    let rbac = Rbac::new(memory.objects());
    let user = User::service_account("kube-system", "deployment-controller", "1");
    let attributes = Attributes {
        namespace: "ns",
        name: "x",
        ..Attributes::resource(&user, "update", "apps", "deployments")
    };
    assert!(rbac.authorize(&attributes).allowed());
    let rounds = 20_000;
    let start = std::time::Instant::now();
    for _ in 0..rounds {
        assert!(rbac.authorize(&attributes).allowed());
    }
    let each = start.elapsed() / rounds;
    println!("one decision: {each:?}");
    assert!(each < std::time::Duration::from_micros(80), "{each:?}");
}
