//! How roles add up.

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{AggregationRule, ClusterRole, PolicyRule};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::decide::decide;
use crate::testing::api::{FakeApi, Running};
use crate::testing::{labels, meta, selector};

fn rule(resource: &str) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![String::new()]),
        resources: Some(vec![resource.to_owned()]),
        verbs: vec!["get".to_owned()],
        ..PolicyRule::default()
    }
}

fn role(name: &str, to: &str, resources: &[&str]) -> ClusterRole {
    ClusterRole {
        metadata: ObjectMeta { namespace: None, labels: Some(labels(&[("to", to)])), ..meta(name) },
        rules: Some(resources.iter().map(|resource| rule(resource)).collect()),
        aggregation_rule: None,
    }
}

fn aggregate(name: &str, of: &str, to: &str) -> ClusterRole {
    let aggregation_rule =
        Some(AggregationRule { cluster_role_selectors: Some(vec![selector(&[("to", of)])]) });
    ClusterRole { aggregation_rule, rules: None, ..role(name, to, &[]) }
}

#[test]
fn rules_are_collected_once_and_in_order() {
    let all: Vec<_> = [
        role("a", "view", &["pods", "services"]),
        role("b", "view", &["services", "nodes"]),
        role("c", "other", &["secrets"]),
        aggregate("view", "view", "view"),
    ]
    .map(Arc::new)
    .to_vec();
    let rules = decide(&all[3], &all).unwrap().expect("none yet");
    assert_eq!(rules, ["pods", "services", "nodes"].map(rule));
    let filled = ClusterRole { rules: Some(rules), ..ClusterRole::clone(&all[3]) };
    assert_eq!(decide(&filled, &all).unwrap(), None);
    assert_eq!(decide(&all[0], &all).unwrap(), None, "an ordinary role");
    let lonely = aggregate("none", "nobody", "x");
    assert_eq!(decide(&lonely, &all).unwrap(), None, "nothing is as good as none");
}

#[tokio::test(start_paused = true)]
async fn aggregates_of_aggregates_follow() {
    let api = FakeApi::default();
    let resource = "rbac.authorization.k8s.io/clusterroles";
    api.create(resource, &aggregate("admin", "admin", ""));
    api.create(resource, &aggregate("edit", "edit", "admin"));
    let running = Running::start(&api, &["clusterrole-aggregation-controller"]);
    api.create(resource, &role("pods", "edit", &["pods"]));
    api.until(
        "admin has what edit has",
        |_| {},
        |api| {
            let admin: ClusterRole = api.get(resource, "", "admin").unwrap();
            admin.rules == Some(vec![rule("pods")])
        },
    )
    .await;
    running.stop().await;
}
