//! The FlowSchemas and PriorityLevelConfigurations that a cluster has from the start, and how they are kept.
//!
//! Source: upstream's `apiserver/pkg/apis/flowcontrol/bootstrap`: the mandatory ones are put back whenever they differ in
//! spec, the suggested ones as long as their annotation says that they may be.

use serde_json::{Value, json};

use super::rules::{CATCH_ALL, EXEMPT};

const API_VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";

/// Whether the server keeps an object's spec up to date.
const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

const NODES: &[(&str, &str)] = &[("Group", "system:nodes")];
const EVERYBODY: &[(&str, &str)] = &[("Group", "system:unauthenticated"), ("Group", "system:authenticated")];

/// Everything, in every namespace and in none.
fn everything() -> Value {
    resource(&["*"], &["*"], &["*"], true)
}

fn resource(verbs: &[&str], groups: &[&str], resources: &[&str], cluster_scope: bool) -> Value {
    let mut rule = json!({"verbs": verbs, "apiGroups": groups, "resources": resources, "namespaces": ["*"]});
    if cluster_scope {
        rule["clusterScope"] = json!(true);
    }
    rule
}

fn schema(
    name: &str,
    level: &str,
    precedence: u32,
    distinguisher: &str,
    subjects: &[(&str, &str)],
    resources: &[Value],
    urls: &[Value],
) -> Value {
    let subjects: Vec<Value> = subjects
        .iter()
        .map(|(kind, name)| match *kind {
            "ServiceAccount" => {
                json!({"kind": kind, "serviceAccount": {"name": name, "namespace": "kube-system"}})
            }
            "User" => json!({"kind": kind, "user": {"name": name}}),
            _ => json!({"kind": kind, "group": {"name": name}}),
        })
        .collect();
    let mut rule = json!({"subjects": subjects});
    for (field, rules) in [("resourceRules", resources), ("nonResourceRules", urls)] {
        if !rules.is_empty() {
            rule[field] = json!(rules);
        }
    }
    let mut object = json!({
        "apiVersion": API_VERSION, "kind": "FlowSchema",
        "metadata": {"name": name, "annotations": {AUTO_UPDATE: "true"}},
        "spec": {
            "priorityLevelConfiguration": {"name": level},
            "matchingPrecedence": precedence,
            "rules": [rule],
        },
    });
    if !distinguisher.is_empty() {
        object["spec"]["distinguisherMethod"] = json!({"type": distinguisher});
    }
    object
}

/// The FlowSchemas, in matching order.
pub(crate) fn schemas() -> Vec<Value> {
    let all = [everything()];
    let urls = [json!({"verbs": ["*"], "nonResourceURLs": ["*"]})];
    let probes = [json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]})];
    let leases = |verbs: &[&str]| resource(verbs, &["coordination.k8s.io"], &["leases"], false);
    let managers = [
        ("User", "system:kube-controller-manager"),
        ("User", "system:kube-scheduler"),
        ("ServiceAccount", "*"),
    ];
    let election = [leases(&["get", "create", "update"])];
    let heartbeat = [resource(&["*"], &[""], &["nodes", "nodes/status"], true), leases(&["*"])];
    let masters = [("Group", "system:masters")];
    let accounts = [("Group", "system:serviceaccounts")];
    vec![
        schema(EXEMPT, EXEMPT, 1, "", &masters, &all, &urls),
        schema("probes", EXEMPT, 2, "", EVERYBODY, &[], &probes),
        schema("system-leader-election", "leader-election", 100, "ByUser", &managers, &election, &[]),
        schema("system-node-high", "node-high", 400, "ByUser", NODES, &heartbeat, &[]),
        schema("system-nodes", "system", 500, "ByUser", NODES, &all, &urls),
        schema("kube-controller-manager", "workload-high", 800, "ByNamespace", &managers[..1], &all, &urls),
        schema("kube-scheduler", "workload-high", 800, "ByNamespace", &managers[1..2], &all, &urls),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            "ByNamespace",
            &managers[2..],
            &all,
            &urls,
        ),
        schema("service-accounts", "workload-low", 9000, "ByUser", &accounts, &all, &urls),
        schema("global-default", "global-default", 9900, "ByUser", EVERYBODY, &all, &urls),
        schema(CATCH_ALL, CATCH_ALL, 10_000, "ByUser", EVERYBODY, &all, &urls),
    ]
}

fn level(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": API_VERSION, "kind": "PriorityLevelConfiguration",
        "metadata": {"name": name, "annotations": {AUTO_UPDATE: "true"}}, "spec": spec,
    })
}

fn queuing(name: &str, shares: u32, lendable: u32, queues: u32, hand: u32) -> Value {
    let queuing = json!({"queues": queues, "handSize": hand, "queueLengthLimit": 50});
    level(
        name,
        &json!({"type": "Limited", "limited": {
            "nominalConcurrencyShares": shares, "lendablePercent": lendable,
            "limitResponse": {"type": "Queue", "queuing": queuing},
        }}),
    )
}

/// The PriorityLevelConfigurations.
pub(crate) fn levels() -> Vec<Value> {
    vec![
        level(
            EXEMPT,
            &json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}}),
        ),
        level(
            CATCH_ALL,
            &json!({"type": "Limited", "limited": {
                "nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"},
            }}),
        ),
        queuing("system", 30, 33, 64, 6),
        queuing("node-high", 40, 25, 64, 6),
        queuing("leader-election", 10, 0, 16, 4),
        queuing("workload-high", 40, 50, 128, 6),
        queuing("workload-low", 100, 90, 128, 6),
        queuing("global-default", 20, 50, 128, 6),
    ]
}

fn is_mandatory(object: &Value) -> bool {
    [EXEMPT, CATCH_ALL].iter().any(|name| object["metadata"]["name"] == *name)
}

/// What a stored default object must become; `None` if it is as it should be, or the administrator's own.
///
/// A suggested object whose annotation is neither true nor false is the server's as long as nobody changed its spec, which
/// shows in its generation.
pub(crate) fn kept(stored: &Value, wanted: &Value) -> Option<Value> {
    let mandatory = is_mandatory(wanted);
    let annotation = stored["metadata"]["annotations"][AUTO_UPDATE].as_str();
    let ours = mandatory
        || match annotation {
            Some("true") => true,
            Some("false") => false,
            _ => stored["metadata"]["generation"].as_i64() == Some(1),
        };
    let mut new = stored.clone();
    if ours {
        new["spec"] = wanted["spec"].clone();
    }
    let says = if ours { "true" } else { "false" };
    if annotation != Some(says) {
        new["metadata"]["annotations"][AUTO_UPDATE] = json!(says);
    }
    (new != *stored).then_some(new)
}

#[cfg(test)]
mod tests {
    use podium_api::codec::{self, FieldValidation};
    use podium_api::kinds;

    use super::*;

    #[test]
    fn defaults_are_valid_and_complete() {
        for object in schemas().iter().chain(&levels()) {
            let kind = object["kind"].as_str().unwrap();
            let group = "flowcontrol.apiserver.k8s.io";
            let decoded = codec::decode_value(object, group, "v1", kind, FieldValidation::Strict).unwrap();
            let mut with_defaults = decoded.object.clone();
            kinds::rules(group, kind).default(&mut with_defaults);
            assert_eq!(with_defaults["spec"], object["spec"], "defaulting changes nothing");
        }
        let names: Vec<Value> = levels().iter().map(|level| level["metadata"]["name"].clone()).collect();
        for schema in schemas() {
            assert!(names.contains(&schema["spec"]["priorityLevelConfiguration"]["name"]), "{schema}");
        }
    }

    #[test]
    fn keeping() {
        let wanted = queuing("system", 30, 33, 64, 6);
        assert_eq!(kept(&wanted, &wanted), None);
        let mut changed = wanted.clone();
        changed["spec"]["limited"]["nominalConcurrencyShares"] = json!(7);
        assert_eq!(kept(&changed, &wanted).unwrap()["spec"], wanted["spec"]);
        // The administrator's from now on.
        changed["metadata"]["annotations"][AUTO_UPDATE] = json!("false");
        assert_eq!(kept(&changed, &wanted), None);
        // Without the annotation, who changed it last counts.
        changed["metadata"]["annotations"] = json!({});
        changed["metadata"]["generation"] = json!(2);
        let marked = kept(&changed, &wanted).unwrap();
        assert_eq!(marked["metadata"]["annotations"][AUTO_UPDATE], "false");
        assert_eq!(marked["spec"], changed["spec"]);
        let mandatory = &levels()[1];
        let mut changed = mandatory.clone();
        changed["spec"]["limited"]["nominalConcurrencyShares"] = json!(500);
        changed["metadata"]["annotations"][AUTO_UPDATE] = json!("false");
        assert_eq!(kept(&changed, mandatory).unwrap()["spec"], mandatory["spec"]);
    }
}
