//! When volumes are attached and detached.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, Pod};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use serde_json::{Value, json};

use super::decide::{Attached, Needs, attachment, decide, multi_attach};
use crate::testing::api::{FakeApi, Running};
use crate::testing::{PodExt, at, pod};

const CONTROLLER: &str = "persistentvolume-attach-detach-controller";
const ATTACHMENTS: &str = "storage.k8s.io/volumeattachments";
const UNIQUE: &str = "kubernetes.io/csi/d.io^h";

fn volume(mode: &str) -> PersistentVolume {
    serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": {"accessModes": [mode],
        "csi": {"driver": "d.io", "volumeHandle": "h"}}}))
    .unwrap()
}

fn node(name: &str, ready: bool, holds: bool, taint: Option<&str>) -> Node {
    let used: Vec<&str> = holds.then_some(UNIQUE).into_iter().collect();
    let taints: Vec<Value> = taint.iter().map(|key| json!({"key": key, "effect": "NoExecute"})).collect();
    serde_json::from_value(json!({
        "metadata": {"name": name, "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
        "spec": {"taints": taints},
        "status": {"volumesInUse": used, "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}}))
    .unwrap()
}

#[test]
fn a_volume_is_where_pods_need_it_and_nowhere_else() {
    let on = |name: &str| attachment(&volume("ReadWriteOnce"), name).unwrap();
    let short = |needs: &Needs| {
        let detach: Vec<_> = needs.detach.iter().map(|(_, node)| node.clone()).collect();
        let refused = needs.refused.join(" ");
        format!(
            "+{} -{}{} held {} refused {refused}",
            needs.attach.join(" "),
            detach.join(" "),
            needs.forced.iter().map(|why| format!(" by force: {why}")).collect::<String>(),
            needs.held.len()
        )
    };
    let healthy = node("a", true, false, None);
    let holding = node("a", true, true, None);
    let sick = node("a", false, true, None);
    let fenced = node("a", false, true, Some("node.kubernetes.io/out-of-service"));
    for (case, mode, wanted, attached, since, expected) in [
        ("needed", "ReadWriteOnce", vec!["a"], None, None, "+a - held 0 refused "),
        ("there", "ReadWriteOnce", vec!["a"], Some(Some(&holding)), None, "+ - held 0 refused "),
        ("on one node at a time", "ReadWriteOnce", vec!["a", "b"], None, None, "+a - held 0 refused b"),
        ("on many", "ReadWriteMany", vec!["a", "b"], None, None, "+a b - held 0 refused "),
        ("not needed", "ReadWriteOnce", vec![], Some(Some(&healthy)), None, "+ -a held 0 refused "),
        ("still mounted", "ReadWriteOnce", vec!["b"], Some(Some(&holding)), Some(0), "+ - held 1 refused b"),
        ("long mounted", "ReadWriteOnce", vec![], Some(Some(&holding)), Some(0), "+ - held 1 refused "),
        ("by a sick node", "ReadWriteOnce", vec![], Some(Some(&sick)), Some(900), "+ - held 1 refused "),
        (
            "for too long",
            "ReadWriteOnce",
            vec![],
            Some(Some(&sick)),
            Some(600),
            "+ -a by force: timeout held 0 refused ",
        ),
        (
            "by one that is fenced",
            "ReadWriteOnce",
            vec![],
            Some(Some(&fenced)),
            None,
            "+ -a by force: out-of-service held 0 refused ",
        ),
        ("by one that is gone", "ReadWriteOnce", vec![], Some(None), None, "+ -a held 0 refused "),
    ] {
        let wanted: BTreeSet<String> = wanted.into_iter().map(str::to_owned).collect();
        let object = on("a");
        let attached: Vec<_> = attached
            .map(|node| Attached { object: &object, node, unwanted_since: since.map(at) })
            .into_iter()
            .collect();
        assert_eq!(short(&decide(&volume(mode), &wanted, &attached, at(1_000))), expected, "{case}");
    }
}

#[test]
fn names_and_messages_are_upstreams() {
    let name = attachment(&volume("ReadWriteOnce"), "n").unwrap().metadata.name.unwrap();
    // sha256 of "hd.ion".
    assert_eq!(name, "csi-f9c0a2e55a623bb2869fea8487e4badd0af73938bd4b9b164f308d27ed06b4cc");
    let far = pod("far").edit(|pod| pod.metadata.namespace = Some("other".to_owned()));
    let near = pod("near");
    let told = |others: &[&Pod]| multi_attach("v", &pod("p"), others);
    assert_eq!(
        told(&[]),
        "Multi-Attach error for volume \"v\" Volume is already exclusively attached to one node and can't be attached to another"
    );
    assert_eq!(
        told(&[&near, &far]),
        "Multi-Attach error for volume \"v\" Volume is already used by pod(s) near and 1 pod(s) in different namespaces"
    );
    assert_eq!(
        told(&[&far]),
        "Multi-Attach error for volume \"v\" Volume is already used by 1 pod(s) in different namespaces"
    );
}

fn user(name: &str, node: &str) -> Value {
    let claim = json!([{"name": "x", "persistentVolumeClaim": {"claimName": "c"}}]);
    let mut pod = serde_json::to_value(pod(name).on(node)).unwrap();
    pod["spec"]["volumes"] = claim;
    pod
}

/// Two nodes, and a claim that is bound to the volume.
fn furnish(api: &FakeApi) {
    for name in ["a", "b"] {
        api.create("/nodes", &node(name, true, false, None));
    }
    let claim = json!({"metadata": {"name": "c", "namespace": "ns"}, "spec": {"volumeName": "v"}, "status": {"phase": "Bound"}});
    let uid = api.create("/persistentvolumeclaims", &claim)["metadata"]["uid"].clone();
    let mut bound = serde_json::to_value(volume("ReadWriteOnce")).unwrap();
    bound["spec"]["claimRef"] = json!({"namespace": "ns", "name": "c", "uid": uid});
    api.create("/persistentvolumes", &bound);
}

/// The nodes that there are attachments for.
fn on(api: &FakeApi) -> Vec<String> {
    let attachments: Vec<VolumeAttachment> = api.list(ATTACHMENTS);
    attachments.iter().map(|it| it.spec.node_name.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_volume_is_not_attached_twice_while_the_cache_lags() {
    let api = FakeApi::default();
    furnish(&api);
    let running = Running::start(&api, &[CONTROLLER]);
    api.settle().await;
    api.hold(ATTACHMENTS);
    api.create("/pods", &user("first", "a"));
    api.until("it is attached", |_| {}, |api| on(api) == ["a"]).await;
    // Its pod goes, and another one comes elsewhere, before the cache shows the attachment.
    api.end_pod("ns", "first");
    api.create("/pods", &user("second", "b"));
    api.settle().await;
    assert_eq!(on(&api), ["a"], "one node at a time");
    api.release(ATTACHMENTS);
    api.until("it moves", |_| {}, |api| on(api) == ["b"]).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_volume_follows_its_pod_from_node_to_node() {
    let api = FakeApi::default();
    let running = Running::start(&api, &[CONTROLLER]);
    furnish(&api);
    api.create("/pods", &user("first", "a"));
    let attached = |api: &FakeApi| {
        let attachments: Vec<VolumeAttachment> = api.list(ATTACHMENTS);
        for it in attachments.iter().filter(|it| !it.status.as_ref().is_some_and(|status| status.attached)) {
            api.edit(ATTACHMENTS, "", it.metadata.name.as_deref().unwrap(), |it| {
                it["status"] = json!({"attached": true});
            });
        }
    };
    let told = |api: &FakeApi, name: &str| {
        let node: Node = api.get("/nodes", "", name).unwrap();
        let list = node.status.and_then(|status| status.volumes_attached).unwrap_or_default();
        list.into_iter().map(|it| it.name).collect::<Vec<_>>()
    };
    api.until("it is attached", |_| {}, |api| on(api) == ["a"]).await;
    assert_eq!(told(&api, "a"), [""; 0], "not before its driver says so");
    api.until("its node knows", attached, |api| told(api, "a") == [UNIQUE]).await;
    api.until("its pod, too", |_| {}, |api| api.events("SuccessfulAttachVolume").len() == 1).await;
    let mut text = String::new();
    crate::collect_metrics(&mut text);
    for row in [
        r#"storage_count_attachable_volumes_in_use{node="a",volume_plugin="kubernetes.io/csi:d.io"} 1"#,
        r#"attachdetach_controller_total_volumes{plugin_name="kubernetes.io/csi:d.io",state="desired_state_of_world"} 1"#,
        r#"attachdetach_controller_total_volumes{plugin_name="kubernetes.io/csi:d.io",state="actual_state_of_world"} 1"#,
    ] {
        assert!(text.contains(row), "{row} {text}");
    }
    api.edit("/nodes", "", "a", |node| node["status"]["volumesInUse"] = json!([UNIQUE]));
    // Another pod wants it elsewhere.
    api.create("/pods", &user("second", "b"));
    let why = "Multi-Attach error for volume \"v\" Volume is already used by pod(s) first";
    api.until("that is told", |_| {}, |api| api.events("FailedAttachVolume") == [why]).await;
    api.end_pod("ns", "first");
    api.settle().await;
    assert_eq!(on(&api), ["a"], "the node still has it mounted");
    api.edit("/nodes", "", "a", |node| node["status"]["volumesInUse"] = json!([]));
    api.until("it moves", attached, |api| on(api) == ["b"] && told(api, "b") == [UNIQUE]).await;
    assert_eq!(told(&api, "a"), [""; 0]);
    // A driver fails.
    api.edit(
        ATTACHMENTS,
        "",
        attachment(&volume(""), "b").unwrap().metadata.name.as_deref().unwrap(),
        |it| {
            it["status"] = json!({"attached": false, "attachError": {"message": "no cable"}});
        },
    );
    let why = "AttachVolume.Attach failed for volume \"v\" : no cable";
    api.until("that is told", |_| {}, |api| api.events("FailedAttachVolume").iter().any(|it| it == why))
        .await;
    running.stop().await;
    text.clear();
    crate::collect_metrics(&mut text);
    for (operation, status) in [("volume_attach", "success"), ("volume_detach", "success")] {
        let row = format!(
            "{{migrated=\"false\",operation_name=\"{operation}\",status=\"{status}\",volume_plugin=\"kubernetes.io/csi:d.io\"}}"
        );
        assert!(text.contains(&format!("storage_operation_duration_seconds_count{row}")), "{row} {text}");
    }
}
