//! Volumes: which nodes they leave, which ones are chosen, and what is written before a pod is bound.

use std::collections::BTreeSet;

use podium_client::ObjectKey;

use super::shell::Rig;
use super::*;

/// A node in a zone.
fn zoned(name: &str, zone: &str) -> Value {
    with(node(name, "4", "8Gi"), json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}}))
}

fn user(name: &str) -> Value {
    with(
        pod(name, "", ""),
        json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}}),
    )
}

struct Needs(VolumeNeeds);

impl Surroundings for Needs {
    fn default_selector(&self, _: &PodInfo) -> Option<podium_api::selector::LabelSelector> {
        None
    }
    fn namespace_labels(&self, _: &str) -> Option<Labels> {
        None
    }
    fn volumes(&self, _: &PodInfo) -> Volumes {
        Volumes::Ready(self.0.clone())
    }
}

/// The node and the choices there, or the reasons.
fn decided(snapshot: &Snapshot, needs: &VolumeNeeds) -> String {
    let (mut cursor, mut random) = (Cursor::default(), fastrand::Rng::with_seed(1));
    let needs = Needs(needs.clone());
    match decide(snapshot, &info(&user("p")), &needs, 0, &mut cursor, &mut random) {
        Decision::Place { node, volumes, .. } => {
            let choices: Vec<String> = volumes
                .iter()
                .map(|choice| match choice {
                    Choice::Volume { claim, volume } => format!("{}={volume}", claim.name),
                    Choice::Make { claim } => format!("{}=new", claim.name),
                })
                .collect();
            format!("{node} {}", choices.join(" ")).trim_end().to_owned()
        }
        Decision::Wait(wait) => {
            let reasons = wait.message.split(" nodes are available: ").nth(1).unwrap();
            reasons.split(". ").next().unwrap().to_owned()
        }
    }
}

fn only_on(name: &str) -> Option<Vec<NodeTerm>> {
    let term: k8s_openapi::api::core::v1::NodeSelectorTerm = serde_json::from_value(
        json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [name]}]}),
    )
    .unwrap();
    Some(vec![NodeTerm::from_wire(&term)])
}

fn open(name: &str, volumes: &[(&str, Option<&str>)]) -> OpenClaim {
    let volumes = volumes
        .iter()
        .map(|(name, node)| Candidate { name: (*name).into(), nodes: node.and_then(only_on) })
        .collect();
    OpenClaim { key: ObjectKey::new("ns", name), volumes, ..OpenClaim::default() }
}

#[test]
fn open_claims_get_what_can_be_had_on_the_node() {
    let nodes = [zoned("a", "x"), zoned("b", "y")];
    let snapshot = snapshot(&nodes, &[]);
    let needs = |open: &[OpenClaim]| VolumeNeeds { open: open.to_vec(), ..VolumeNeeds::default() };
    let zone = |name: &str| {
        vec![vec![("topology.kubernetes.io/zone".to_owned(), BTreeSet::from([name.to_owned()]))]]
    };
    let made = |open: OpenClaim, made: Vec<Topology>| OpenClaim { made: Some(made), ..open };
    let selected = |open: OpenClaim, node: &str| OpenClaim { selected_node: Some(node.to_owned()), ..open };
    let none = "2 node(s) didn't find available persistent volumes to bind";
    for (case, claims, expected) in [
        ("nothing there", vec![open("c", &[])], none),
        ("a local volume", vec![open("c", &[("v", Some("b"))])], "b c=v"),
        (
            "the best of those that can be reached",
            vec![
                open("c", &[("v", Some("a")), ("w", Some("b")), ("x", Some("b"))]),
                open("d", &[("w", Some("b"))]),
            ],
            none,
        ),
        (
            "each volume once",
            vec![open("c", &[("v", Some("b"))]), open("d", &[("v", Some("b")), ("w", Some("b"))])],
            "b c=v d=w",
        ),
        ("one volume for two", vec![open("c", &[("v", None)]), open("d", &[("v", None)])], none),
        ("made in a zone", vec![made(open("c", &[]), zone("y"))], "b c=new"),
        ("made nowhere near", vec![made(open("c", &[]), zone("z"))], none),
        ("rather one that is there", vec![made(open("c", &[("v", Some("a"))]), zone("x"))], "a c=v"),
        ("being made", vec![selected(made(open("c", &[]), Vec::new()), "b")], "b c=new"),
        ("being made elsewhere", vec![selected(made(open("c", &[]), Vec::new()), "gone")], none),
    ] {
        assert_eq!(decided(&snapshot, &needs(&claims)), expected, "{case}");
    }
}

#[test]
fn bound_volumes_keep_pods_near_and_say_why() {
    let nodes = [zoned("a", "x"), zoned("b", "y")];
    let there = snapshot(&nodes, &[on(user("other"), "a")]);
    let zone = |key: &str, zones: &[&str]| {
        let values = zones.iter().map(|zone| (*zone).to_owned()).collect();
        VolumeNeeds { zones: vec![(key.to_owned(), values)], ..VolumeNeeds::default() }
    };
    for (case, needs, expected) in [
        ("in the zone", zone("topology.kubernetes.io/zone", &["y", "z"]), "b"),
        ("its older name", zone("failure-domain.beta.kubernetes.io/zone", &["y"]), "b"),
        ("elsewhere", zone("topology.kubernetes.io/zone", &["z"]), "2 node(s) had no available volume zone"),
        (
            "gone",
            VolumeNeeds { missing: true, ..VolumeNeeds::default() },
            "2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
        ),
        (
            "both",
            VolumeNeeds { bound: vec![Vec::new()], open: vec![open("d", &[])], ..VolumeNeeds::default() },
            "2 node(s) didn't find available persistent volumes to bind, 2 node(s) didn't match PersistentVolume's node affinity",
        ),
        (
            "for one pod only",
            VolumeNeeds { exclusive: vec!["c".to_owned()], ..VolumeNeeds::default() },
            "2 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod",
        ),
    ] {
        assert_eq!(decided(&there, &needs), expected, "{case}");
    }
    let speechless = snapshot(&[node("n", "4", "8Gi")], &[]);
    assert_eq!(decided(&speechless, &zone("topology.kubernetes.io/zone", &["z"])), "n");
}

fn claim(version: u32, change: Value) -> Value {
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "c", "namespace": "ns", "uid": "uid-c", "resourceVersion": version.to_string()},
        "spec": {"storageClassName": "late", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Pending"}});
    with(claim, change)
}

fn class(provisioner: &str) -> Value {
    json!({"metadata": {"name": "late", "resourceVersion": "1"}, "provisioner": provisioner,
        "volumeBindingMode": "WaitForFirstConsumer"})
}

const CLAIMS: &str = "/api/v1/persistentvolumeclaims";
const CLASSES: &str = "/apis/storage.k8s.io/v1/storageclasses";

#[tokio::test]
async fn a_volume_is_bound_before_the_pod() {
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v", "resourceVersion": "3"},
        "spec": {"storageClassName": "late", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}},
        "status": {"phase": "Available"}});
    let mut rig = Rig::start_among(&[
        ("/api/v1/nodes", &[node("n", "4", "8Gi")]),
        ("/api/v1/persistentvolumes", &[volume]),
        (CLAIMS, &[claim(4, json!({}))]),
        (CLASSES, &[class("kubernetes.io/no-provisioner")]),
    ])
    .await;
    rig.send_pod("ADDED", &with(user("p"), json!({"metadata": {"resourceVersion": "10"}})));
    let call = rig.call().await;
    assert_eq!((call.method.as_str(), call.uri.path()), ("PUT", "/api/v1/persistentvolumes/v"));
    assert_eq!(call.body["spec"]["claimRef"]["uid"], "uid-c");
    assert_eq!(call.body["metadata"]["annotations"]["pv.kubernetes.io/bound-by-controller"], "yes");
    let written = call.body.clone();
    call.json(&written);
    let bound = json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "v"}});
    rig.send(CLAIMS, "MODIFIED", &claim(12, bound));
    let call = rig.call().await;
    assert_eq!((call.method.as_str(), call.uri.path()), ("POST", "/api/v1/namespaces/ns/pods/p/binding"));
    call.json(&json!({"kind": "Status", "status": "Success"}));
    let call = rig.call().await;
    assert_eq!(call.body["reason"], "Scheduled");
    let event = call.body.clone();
    call.json(&event);
    rig.stop().await;
}

#[tokio::test]
async fn a_provisioner_is_told_the_node_and_may_give_up() {
    let mut rig = Rig::start_among(&[
        ("/api/v1/nodes", &[node("n", "4", "8Gi")]),
        (CLAIMS, &[claim(4, json!({}))]),
        (CLASSES, &[class("e.io/p")]),
    ])
    .await;
    rig.send_pod("ADDED", &with(user("p"), json!({"metadata": {"resourceVersion": "10"}})));
    let call = rig.call().await;
    assert_eq!(
        (call.method.as_str(), call.uri.path()),
        ("PUT", "/api/v1/namespaces/ns/persistentvolumeclaims/c")
    );
    assert_eq!(call.body["metadata"]["annotations"]["volume.kubernetes.io/selected-node"], "n");
    let written = with(call.body.clone(), json!({"metadata": {"resourceVersion": "11"}}));
    call.json(&written);
    rig.send(CLAIMS, "MODIFIED", &written);
    rig.send(CLAIMS, "MODIFIED", &claim(12, json!({})));
    let call = rig.call().await;
    let why = "running PreBind plugin \"VolumeBinding\": binding volumes: provisioning failed for PVC \"c\"";
    assert_eq!((&call.body["reason"], &call.body["message"]), (&json!("FailedScheduling"), &json!(why)));
    let event = call.body.clone();
    call.json(&event);
    // And it is tried again after its back-off.
    let call = rig.call().await;
    assert_eq!(call.body["metadata"]["annotations"]["volume.kubernetes.io/selected-node"], "n");
    call.fail(500, "InternalError", "enough");
    rig.stop().await;
}
