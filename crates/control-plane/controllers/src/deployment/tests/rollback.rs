//! The annotation that asks for an earlier revision.

use super::*;

const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";

fn asking(mut deployment: Deployment, revision: &str) -> Deployment {
    let annotations = deployment.metadata.annotations.get_or_insert_default();
    annotations.insert(ROLLBACK_TO.to_owned(), revision.to_owned());
    annotations.insert("kubernetes.io/change-cause".to_owned(), "edit".to_owned());
    deployment
}

/// Of three revisions the third is the current one.
fn sets(deployment: &Deployment) -> Vec<ReplicaSet> {
    let mut sets =
        [("v1", 0), ("v2", 0), ("v3", 3)].map(|(image, size)| sized(deployment, image, size, size));
    for (set, cause) in sets.iter_mut().zip(["create", "second", "edit"]) {
        let annotations = set.metadata.annotations.as_mut().unwrap();
        annotations.insert("kubernetes.io/change-cause".to_owned(), cause.to_owned());
    }
    sets.to_vec()
}

/// Image afterwards, and what is told.
#[track_caller]
fn check(asked: &str, image: &str, reason: &str, message: &str) {
    let deployment = asking(with_template(careful(3), "v3"), asked);
    let decision = decided(&deployment, sets(&deployment));
    let rollback = decision.rollback.expect("it is asked for");
    assert_eq!((rollback.reason, &*rollback.message), (reason, message));
    assert_eq!(rollback.warning, reason != "DeploymentRollback");
    assert_eq!(rollback.deployment.spec.as_ref().unwrap().template, template(LABELS, image), "no hash in it");
    let annotations = rollback.deployment.metadata.annotations.unwrap();
    assert!(!annotations.contains_key(ROLLBACK_TO));
    let cause = match image {
        "v1" => "create",
        "v2" => "second",
        _ => "edit",
    };
    assert_eq!(annotations["kubernetes.io/change-cause"], cause);
    assert!(!annotations.contains_key(DESIRED_REPLICAS), "what is a set's own stays there");
    assert_eq!(decision.status, None, "the next look has the status");
}

#[test]
fn a_deployment_goes_back_to_the_revision_it_is_asked_for() {
    check("1", "v1", "DeploymentRollback", "Rolled back deployment \"web\" to revision 1");
    check("0", "v2", "DeploymentRollback", "Rolled back deployment \"web\" to revision 2");
    let not_found = "DeploymentRollbackRevisionNotFound";
    check("7", "v3", not_found, "Unable to find the revision to rollback to.");
    let same = "The rollback revision contains the same template as current deployment \"web\"";
    check("3", "v3", "DeploymentRollbackTemplateUnchanged", same);
    let deployment = asking(with_template(careful(3), "v3"), "0");
    let rollback = decided(&deployment, vec![sized(&deployment, "v3", 3, 3)]).rollback.unwrap();
    assert_eq!((rollback.reason, &*rollback.message), (not_found, "Unable to find last revision."));
}

#[test]
fn what_is_no_wish_or_comes_at_the_wrong_time_is_left_alone() {
    for asked in ["", "one", "1.5"] {
        let deployment = asking(with_template(careful(3), "v3"), asked);
        assert_eq!(decided(&deployment, sets(&deployment)).rollback, None, "{asked:?}");
    }
    let mut paused = asking(with_template(careful(3), "v3"), "1");
    paused.spec.as_mut().unwrap().paused = Some(true);
    assert_eq!(decided(&paused, sets(&paused)).rollback, None);
    let mut deleted = asking(with_template(careful(3), "v3"), "1");
    deleted.metadata.deletion_timestamp = Some(time(1));
    assert_eq!(decided(&deleted, sets(&deleted)).rollback, None);
    // The current template must have its revision first, or there would be no way back from the way back.
    let edited = asking(with_template(careful(3), "v4"), "1");
    let decision = decided(&edited, sets(&edited));
    assert_eq!(decision.rollback, None);
    assert!(matches!(&decision.writes[..], [Write::Create(_)]), "{decision:?}");
    let edited = asking(with_template(recreated(3), "v4"), "1");
    assert_eq!(changes(&decided(&edited, sets(&edited))), BTreeMap::from([("v4".to_owned(), (-1, 0))]));
}

#[tokio::test(start_paused = true)]
async fn the_wish_is_granted_once() {
    let api = FakeApi::default();
    api.create("apps/deployments", &careful(2));
    let running = Running::start(&api, CONTROLLERS);
    api.until("v1 is out", FakeApi::run_pods, |api| is_rolled_out(api, "v1")).await;
    set_image(&api, "v2");
    api.until("v2 is out", FakeApi::run_pods, |api| is_rolled_out(api, "v2")).await;
    api.edit("apps/deployments", "ns", "web", |web| web["metadata"]["annotations"][ROLLBACK_TO] = "0".into());
    api.until("v1 is out again", FakeApi::run_pods, |api| is_rolled_out(api, "v1")).await;
    api.settle().await;
    assert_eq!(api.events("DeploymentRollback"), ["Rolled back deployment \"web\" to revision 1"]);
    let annotations = stored(&api).metadata.annotations.unwrap();
    assert!(!annotations.contains_key(ROLLBACK_TO));
    assert_eq!(annotations[REVISION], "3");
    assert_eq!(api.list::<ReplicaSet>("apps/replicasets").len(), 2);
    running.stop().await;
}
