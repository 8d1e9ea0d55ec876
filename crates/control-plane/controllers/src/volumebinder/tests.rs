//! Which claims find which volumes, and what becomes of volumes.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use serde_json::{Value, json};

use super::claims::{self, Act, Around};
use super::counts;
use super::decide::{self, Needs};
use super::plugins::{self, Maker, Remover};
use super::recycle::{self, Step};
use super::status;
use crate::testing::api::{FakeApi, Running};

const BINDER: &str = "persistentvolume-binder-controller";
const VOLUMES: &str = "/persistentvolumes";
const CLAIMS: &str = "/persistentvolumeclaims";
const CLASSES: &str = "storage.k8s.io/storageclasses";

fn claim(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "ns"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "slow",
            "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Pending"}})
}

fn volume(name: &str, policy: &str) -> Value {
    json!({"metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "slow", "capacity": {"storage": "2Gi"},
            "persistentVolumeReclaimPolicy": policy, "local": {"path": "/mnt/v"}}})
}

fn class(name: &str, provisioner: &str, mode: &str) -> Value {
    json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode})
}

fn with(mut object: Value, pointer: &[&str], value: &Value) -> Value {
    let mut place = &mut object;
    for part in pointer {
        place = &mut place[*part];
    }
    *place = value.clone();
    object
}

fn read<K: serde::de::DeserializeOwned>(object: &Value) -> K {
    serde_json::from_value(object.clone()).unwrap()
}

fn get_claim(api: &FakeApi, name: &str) -> PersistentVolumeClaim {
    api.get(CLAIMS, "ns", name).unwrap()
}

fn get_volume(api: &FakeApi, name: &str) -> PersistentVolume {
    api.get(VOLUMES, "", name).unwrap()
}

fn phases(api: &FakeApi, claim: &str, volume: &str) -> (String, String) {
    let of_volume = get_volume(api, volume);
    (status::phase(&get_claim(api, claim)).to_owned(), podium_api::volumes::phase(&of_volume).to_owned())
}

fn are(api: &FakeApi, claim: &str, volume: &str, wanted: (&str, &str)) -> bool {
    let is = phases(api, claim, volume);
    (is.0.as_str(), is.1.as_str()) == wanted
}

/// What is decided about a claim, in a word, and the event's message.
fn outcome(claim: &Value, around: &Around) -> (String, String) {
    let needs = claims::decide(&read(claim), around);
    let act = match needs.act {
        Act::Write(written) => match written.spec.unwrap().storage_class_name {
            Some(class) if Some(class.as_str()) != claim["spec"]["storageClassName"].as_str() => {
                format!("class {class}")
            }
            _ => format!(
                "mark {}",
                written.metadata.annotations.unwrap()["volume.kubernetes.io/storage-provisioner"]
            ),
        },
        Act::Bind(volume) => format!("bind {}", volume.metadata.name.as_deref().unwrap()),
        Act::Phase(phase) => phase.to_owned(),
        Act::Wait => "wait".to_owned(),
        Act::Stuck(_) => "stuck".to_owned(),
    };
    (act, needs.event.map(|event| format!("{}: {}", event.reason, event.message)).unwrap_or_default())
}

#[test]
fn a_claim_without_a_volume_says_what_it_waits_for() {
    let slow = |provisioner: &str, mode: &str| Some(Arc::new(read(&class("slow", provisioner, mode))));
    let free: Arc<PersistentVolume> =
        Arc::new(read(&with(volume("v", "Retain"), &["status"], &json!({"phase": "Available"}))));
    let pods = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let plain = claim("c");
    let unclassed = with(claim("c"), &["spec", "storageClassName"], &Value::Null);
    let none = with(claim("c"), &["spec", "storageClassName"], &json!(""));
    let chosen =
        with(claim("c"), &["metadata", "annotations"], &json!({"volume.kubernetes.io/selected-node": "n"}));
    let external = "ExternalProvisioning: Waiting for a volume to be created either by the external provisioner 'e.io/p' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.";
    let nothing = "FailedBinding: no persistent volumes available for this claim and no storage class is set";
    let first = "WaitForFirstConsumer: waiting for first consumer to be created before binding";
    for (case, claim, around, act, event) in [
        ("a volume", &plain, Around { volumes: vec![free.clone()], ..Around::default() }, "bind v", ""),
        (
            "later",
            &plain,
            Around {
                volumes: vec![free],
                class: slow("e.io/p", "WaitForFirstConsumer"),
                ..Around::default()
            },
            "Pending",
            first,
        ),
        (
            "a pod",
            &plain,
            Around {
                class: slow("e.io/p", "WaitForFirstConsumer"),
                waiting_pods: pods(&["a"]),
                ..Around::default()
            },
            "Pending",
            "WaitForPodScheduled: waiting for pod a to be scheduled",
        ),
        (
            "pods",
            &plain,
            Around {
                class: slow("e.io/p", "WaitForFirstConsumer"),
                waiting_pods: pods(&["a", "b"]),
                ..Around::default()
            },
            "Pending",
            "WaitForPodScheduled: waiting for pods a,b to be scheduled",
        ),
        (
            "a node is chosen",
            &chosen,
            Around { class: slow("e.io/p", "WaitForFirstConsumer"), ..Around::default() },
            "mark e.io/p",
            external,
        ),
        (
            "made outside",
            &plain,
            Around { class: slow("e.io/p", "Immediate"), ..Around::default() },
            "mark e.io/p",
            external,
        ),
        (
            "made by hand",
            &plain,
            Around { class: slow("kubernetes.io/no-provisioner", "Immediate"), ..Around::default() },
            "wait",
            "ProvisioningFailed: no volume plugin matched name: kubernetes.io/no-provisioner",
        ),
        (
            "no such class",
            &plain,
            Around::default(),
            "wait",
            "ProvisioningFailed: storageclass.storage.k8s.io \"slow\" not found",
        ),
        (
            "no class",
            &none,
            Around { default_class: slow("e.io/p", "Immediate"), ..Around::default() },
            "Pending",
            nothing,
        ),
        ("nothing said", &unclassed, Around::default(), "Pending", nothing),
        (
            "the default",
            &unclassed,
            Around { default_class: slow("e.io/p", "Immediate"), ..Around::default() },
            "class slow",
            "",
        ),
    ] {
        assert_eq!(outcome(claim, &around), (act.to_owned(), event.to_owned()), "{case}");
    }
}

#[test]
fn a_claim_that_names_a_volume_gets_that_one_or_says_why_not() {
    let naming = with(claim("c"), &["spec", "volumeName"], &json!("v"));
    let naming = with(naming, &["metadata", "uid"], &json!("u"));
    let completed = with(
        naming.clone(),
        &["metadata", "annotations"],
        &json!({"pv.kubernetes.io/bind-completed": "yes"}),
    );
    let by_us = with(
        naming.clone(),
        &["metadata", "annotations"],
        &json!({"pv.kubernetes.io/bound-by-controller": "yes"}),
    );
    let nameless = with(completed.clone(), &["spec", "volumeName"], &Value::Null);
    let lost = with(completed.clone(), &["status", "phase"], &json!("Lost"));
    let referring = |reference: Value| Some(with(volume("v", "Retain"), &["spec", "claimRef"], &reference));
    let small = Some(with(volume("v", "Retain"), &["spec", "capacity", "storage"], &json!("1Mi")));
    let mine = json!({"namespace": "ns", "name": "c", "uid": "u"});
    let other = json!({"namespace": "ns", "name": "d", "uid": "x"});
    let taken = "FailedBinding: volume \"v\" already bound to a different claim.";
    for (case, claim, named, act, event) in [
        ("it is not there yet", &naming, None, "Pending", ""),
        ("it is free", &naming, Some(volume("v", "Retain")), "bind v", ""),
        ("it is kept for us", &naming, referring(json!({"namespace": "ns", "name": "c"})), "bind v", ""),
        (
            "too small",
            &naming,
            small,
            "Pending",
            "VolumeMismatch: Cannot bind to requested volume \"v\": requested PV is too small",
        ),
        ("taken", &naming, referring(other.clone()), "Pending", taken),
        ("taken after all", &by_us, referring(other.clone()), "stuck", taken),
        ("bound", &completed, referring(mine), "bind v", ""),
        (
            "misbound",
            &completed,
            referring(other),
            "Lost",
            "ClaimMisbound: Two claims are bound to the same volume, this one is bound incorrectly",
        ),
        (
            "it is gone",
            &completed,
            None,
            "Lost",
            "ClaimLost: Bound claim has lost its PersistentVolume. Data on the volume is lost!",
        ),
        (
            "its name is gone",
            &nameless,
            None,
            "Lost",
            "ClaimLost: Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        ),
        ("that was said before", &lost, None, "wait", ""),
    ] {
        let around = Around { named: named.map(|it| Arc::new(read(&it))), ..Around::default() };
        assert_eq!(outcome(claim, &around), (act.to_owned(), event.to_owned()), "{case}");
    }
}

#[test]
fn the_reclaim_policy_decides_about_a_volume_whose_claim_is_gone() {
    let released = |policy: &str| {
        let volume = with(
            volume("v", policy),
            &["spec", "claimRef"],
            &json!({"namespace": "ns", "name": "c", "uid": "u"}),
        );
        with(volume, &["status"], &json!({"phase": "Released"}))
    };
    let host = |policy: &str| with(released(policy), &["spec", "hostPath"], &json!({"path": "/tmp/x"}));
    let phase = |needs: &Needs| match needs {
        Needs::Phase(phase, event) => {
            format!("{phase} {}", event.as_ref().map_or("", |event| event.message.as_str()))
        }
        other => format!("{other:?}"),
    };
    let plugin =
        "Failed error getting deleter volume plugin for volume \"v\": no deletable volume plugin matched";
    let made = json!({"pv.kubernetes.io/provisioned-by": "e.io/p"});
    for (case, volume, expected) in [
        ("not yet said", with(released("Retain"), &["status", "phase"], &json!("Bound")), "Released "),
        ("retain", released("Retain"), "Nothing"),
        ("no plugin", released("Delete"), plugin),
        ("ours", host("Delete"), "Remove(\"/tmp/x\")"),
        ("another's", with(host("Delete"), &["metadata", "annotations"], &made), "Nothing"),
        ("cannot be scrubbed", released("Recycle"), "Failed No recycler plugin found for the volume!"),
        ("scrub", host("Recycle"), "Recycle"),
        ("nonsense", released("Burn"), "Failed Volume has unrecognized PersistentVolumeReclaimPolicy"),
    ] {
        assert_eq!(phase(&decide::decide(&read(&volume), None)), expected, "{case}");
    }
}

#[test]
fn plugins_are_known_as_upstream_knows_them() {
    assert_eq!(plugins::maker("kubernetes.io/aws-ebs"), Maker::External("ebs.csi.aws.com".to_owned()));
    let marked = plugins::migrated_claim(&read(&json!({"annotations":
        {"volume.beta.kubernetes.io/storage-provisioner": "kubernetes.io/gce-pd"}})));
    assert_eq!(marked.unwrap().annotations.unwrap()["pv.kubernetes.io/migrated-to"], "pd.csi.storage.gke.io");
    let made = |maker: &str, finalizer: &str, policy: &str| {
        let volume = with(
            volume("v", policy),
            &["metadata", "annotations"],
            &json!({"pv.kubernetes.io/provisioned-by": maker}),
        );
        let volume: PersistentVolume = read(&with(volume, &["metadata", "finalizers"], &json!([finalizer])));
        plugins::migrated_volume(&volume).map(|meta| meta.finalizers.unwrap_or_default())
    };
    let (held, ours) = ("kubernetes.io/pv-protection", "kubernetes.io/pv-controller");
    assert_eq!(made("kubernetes.io/host-path", held, "Delete").unwrap(), [held, ours]);
    assert_eq!(made("kubernetes.io/host-path", ours, "Retain").unwrap(), [""; 0]);
    assert_eq!(made("kubernetes.io/host-path", ours, "Delete"), None);
    assert_eq!(made("e.io/p", held, "Delete"), None);
    let csi = with(volume("v", "Delete"), &["spec", "csi"], &json!({"driver": "d", "volumeHandle": "h"}));
    assert_eq!(plugins::remover(&read(&csi)), Remover::External);
}

#[test]
fn only_a_pod_of_ours_proves_that_a_volume_is_clean() {
    let volume: PersistentVolume =
        read(&with(volume("v", "Recycle"), &["spec", "hostPath"], &json!({"path": "/tmp/x"})));
    let Step::Start(pod) = recycle::decide(&volume, None, false) else { panic!("no pod") };
    assert_eq!(recycle::volume_of(&pod).unwrap().name, "v");
    let ended = |phase: &str| Pod {
        status: Some(read(&json!({"phase": phase, "message": "out of soap"}))),
        ..pod.as_ref().clone()
    };
    assert_eq!(recycle::decide(&volume, Some(&ended("Succeeded")), false), Step::Clear);
    assert_eq!(recycle::decide(&volume, Some(&ended("Succeeded")), true), Step::Finish);
    assert_eq!(recycle::decide(&volume, Some(&ended("Running")), true), Step::Wait);
    let why = "Recycle failed: failed to recycle volume: out of soap".to_owned();
    assert_eq!(recycle::decide(&volume, Some(&ended("Failed")), true), Step::Fail(why));
}

#[tokio::test(start_paused = true)]
async fn the_two_find_each_other_whoever_comes_first() {
    for volume_first in [true, false] {
        let api = FakeApi::default();
        let running = Running::start(&api, &[BINDER]);
        if volume_first {
            api.create(VOLUMES, &volume("v", "Retain"));
            api.settle().await;
            assert_eq!(get_volume(&api, "v").status.unwrap().phase.as_deref(), Some("Available"));
            api.create(CLAIMS, &claim("c"));
        } else {
            api.create(CLAIMS, &claim("c"));
            api.settle().await;
            api.create(VOLUMES, &volume("v", "Retain"));
        }
        api.until("they are bound", |_| {}, |api| are(api, "c", "v", ("Bound", "Bound"))).await;
        let (claim, volume) = (get_claim(&api, "c"), get_volume(&api, "v"));
        let annotations = claim.metadata.annotations.unwrap();
        assert_eq!(annotations["pv.kubernetes.io/bind-completed"], "yes");
        assert_eq!(annotations["pv.kubernetes.io/bound-by-controller"], "yes");
        assert_eq!(volume.metadata.annotations.unwrap()["pv.kubernetes.io/bound-by-controller"], "yes");
        assert_eq!(volume.spec.unwrap().claim_ref.unwrap().uid, claim.metadata.uid);
        let status = claim.status.unwrap();
        assert_eq!(status.capacity.unwrap()["storage"].0, "2Gi");
        assert_eq!(status.access_modes.unwrap(), ["ReadWriteOnce"]);
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn many_claims_get_a_volume_each_on_stale_caches() {
    let api = FakeApi::default();
    let running = Running::start(&api, &[BINDER]);
    (0..20).for_each(|n| drop(api.create(VOLUMES, &volume(&format!("v{n}"), "Retain"))));
    api.settle().await;
    api.hold(VOLUMES);
    (0..20).for_each(|n| drop(api.create(CLAIMS, &claim(&format!("c{n}")))));
    let bound = |api: &FakeApi| {
        let claims: Vec<PersistentVolumeClaim> = api.list(CLAIMS);
        claims.iter().filter(|claim| status::phase(claim) == "Bound").count()
    };
    api.until("all are bound", |_| {}, |api| bound(api) == 20).await;
    api.release(VOLUMES);
    api.settle().await;
    let claims: Vec<PersistentVolumeClaim> = api.list(CLAIMS);
    let used: std::collections::BTreeSet<_> =
        claims.iter().map(|claim| podium_api::volumes::volume_name(claim)).collect();
    assert_eq!((used.len(), bound(&api)), (20, 20));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_gets_the_default_class_and_the_scheduler_chooses_its_node() {
    let api = FakeApi::default();
    let running = Running::start(&api, &[BINDER]);
    api.create(CLAIMS, &with(claim("c"), &["spec", "storageClassName"], &Value::Null));
    api.settle().await;
    let class = class("late", "e.io/p", "WaitForFirstConsumer");
    let marked = json!({"storageclass.kubernetes.io/is-default-class": "true"});
    api.create(CLASSES, &with(class, &["metadata", "annotations"], &marked));
    let of_class = |api: &FakeApi| get_claim(api, "c").spec.unwrap().storage_class_name;
    api.until("it has a class", |_| {}, |api| of_class(api).as_deref() == Some("late")).await;
    api.settle().await;
    assert_eq!(api.events("WaitForFirstConsumer").len(), 1);
    api.edit(CLAIMS, "ns", "c", |claim| {
        claim["metadata"]["annotations"]["volume.kubernetes.io/selected-node"] = json!("n");
    });
    let provisioner = |api: &FakeApi| {
        let annotations = get_claim(api, "c").metadata.annotations.unwrap_or_default();
        annotations.get("volume.kubernetes.io/storage-provisioner").cloned()
    };
    api.until("it is handed out", |_| {}, |api| provisioner(api).as_deref() == Some("e.io/p")).await;
    // What the provisioner makes is made for this claim.
    let made = with(volume("pvc-1", "Delete"), &["spec", "storageClassName"], &json!("late"));
    let made =
        with(made, &["metadata", "annotations"], &json!({"pv.kubernetes.io/provisioned-by": "e.io/p"}));
    let reference = json!({"namespace": "ns", "name": "c", "uid": get_claim(&api, "c").metadata.uid});
    api.create(VOLUMES, &with(made, &["spec", "claimRef"], &reference));
    api.until("they are bound", |_| {}, |api| are(api, "c", "pvc-1", ("Bound", "Bound"))).await;
    api.settle().await;
    let mut text = String::new();
    crate::collect_metrics(&mut text);
    for row in [
        "volume_operation_total_seconds_count{operation_name=\"provision\",plugin_name=\"e.io/p\"} 1\n",
        "retroactive_storageclass_total 1\n",
        "pv_collector_total_pv_count{plugin_name=\"N/A\",volume_mode=\"Filesystem\"} ",
    ] {
        assert!(text.contains(row), "{row} {text}");
    }
    running.stop().await;
}

#[test]
fn volumes_and_claims_are_counted() {
    fn read_all<K: serde::de::DeserializeOwned>(list: &[Value]) -> Vec<Arc<K>> {
        list.iter().map(|it| Arc::new(read(it))).collect()
    }
    let path = with(volume("a", "Retain"), &["spec", "hostPath"], &json!({"path": "/tmp/a"}));
    let driver =
        with(volume("b", "Retain"), &["spec", "csi"], &json!({"driver": "d.io", "volumeHandle": "h"}));
    let driver = with(driver, &["spec", "volumeMode"], &json!("Block"));
    let bound = with(path.clone(), &["status", "phase"], &json!("Bound"));
    let claimed = with(claim("c"), &["status", "phase"], &json!("Bound"));
    let classed = with(claim("d"), &["spec", "volumeAttributesClassName"], &json!("gold"));
    let mut out = String::new();
    let claims = read_all(&[claimed, classed.clone(), classed]);
    counts::tell(&mut out, &read_all(&[path, driver, bound]), &claims);
    let rows: Vec<_> = out.lines().filter_map(|row| row.strip_prefix("pv_collector_")).collect();
    assert_eq!(
        rows,
        [
            r#"total_pv_count{plugin_name="kubernetes.io/csi:d.io",volume_mode="Block"} 1"#,
            r#"total_pv_count{plugin_name="kubernetes.io/host-path",volume_mode="Filesystem"} 2"#,
            r#"bound_pv_count{storage_class="slow"} 1"#,
            r#"unbound_pv_count{storage_class="slow"} 2"#,
            r#"bound_pvc_count{namespace="ns",storage_class="slow",volume_attributes_class=""} 1"#,
            r#"unbound_pvc_count{namespace="ns",storage_class="slow",volume_attributes_class="gold"} 2"#,
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_lost_volume_and_a_lost_claim_are_told_of() {
    let api = FakeApi::default();
    let running = Running::start(&api, &[BINDER]);
    for name in ["a", "b"] {
        let reserved = json!({"namespace": "ns", "name": name});
        api.create(VOLUMES, &with(volume(name, "Retain"), &["spec", "claimRef"], &reserved));
        api.create(CLAIMS, &claim(name));
        api.until("they are bound", |_| {}, |api| are(api, name, name, ("Bound", "Bound"))).await;
    }
    api.delete(VOLUMES, "", "a", "Background");
    api.until("it is lost", |_| {}, |api| status::phase(&get_claim(api, "a")) == "Lost").await;
    assert_eq!(get_claim(&api, "a").status.unwrap().capacity, None);
    api.delete(CLAIMS, "ns", "b", "Background");
    api.until(
        "it is released",
        |_| {},
        |api| podium_api::volumes::phase(&get_volume(api, "b")) == "Released",
    )
    .await;
    // A person takes the reference away: it is free for the next.
    api.edit(VOLUMES, "", "b", |volume| volume["spec"]["claimRef"] = Value::Null);
    api.create(CLAIMS, &claim("c"));
    api.until("it is used again", |_| {}, |api| are(api, "c", "b", ("Bound", "Bound"))).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_deleted_volume_stood_for_is_removed_below_tmp_only() {
    let directory = std::path::PathBuf::from(format!("/tmp/podium-volumebinder-{}", std::process::id()));
    let elsewhere = std::env::current_dir().unwrap();
    std::fs::create_dir_all(directory.join("inside")).unwrap();
    let link = format!("{}-link", directory.display());
    std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
    let api = FakeApi::default();
    let running = Running::start(&api, &[BINDER]);
    let path = directory.display().to_string();
    for (name, path) in [("ours", path.as_str()), ("linked", &link), ("dots", "/tmp/../etc/x")] {
        let reserved = json!({"namespace": "ns", "name": name});
        let volume = with(volume(name, "Delete"), &["spec", "claimRef"], &reserved);
        api.create(VOLUMES, &with(volume, &["spec", "hostPath"], &json!({"path": path})));
        api.create(CLAIMS, &claim(name));
        api.until("they are bound", |_| {}, |api| are(api, name, name, ("Bound", "Bound"))).await;
        api.delete(CLAIMS, "ns", name, "Background");
    }
    let gone = |api: &FakeApi| api.get::<PersistentVolume>(VOLUMES, "", "ours").is_none();
    api.until("it is removed", |_| {}, gone).await;
    assert!(!directory.exists());
    let failed = |api: &FakeApi| {
        ["linked", "dots"].iter().all(|name| podium_api::volumes::phase(&get_volume(api, name)) == "Failed")
    };
    api.until("the others are refused", |_| {}, failed).await;
    assert!(elsewhere.join("Cargo.toml").exists());
    std::fs::remove_file(&link).unwrap();
    api.until("that is told", |_| {}, |api| api.events("VolumeFailedDelete").len() == 2).await;
    let told = api.events("VolumeFailedDelete");
    assert!(
        told.contains(&format!("host_path deleter only supports /tmp/.+ but received provided {link}")),
        "{told:?}"
    );
    let mut text = String::new();
    crate::collect_metrics(&mut text);
    for row in [
        "volume_operation_total_seconds_count{operation_name=\"delete\",plugin_name=\"kubernetes.io/host-path\"} 1\n",
        "volume_operation_errors_total{operation_name=\"delete\",plugin_name=\"kubernetes.io/host-path\"} ",
        "storage_operation_duration_seconds_count{migrated=\"false\",operation_name=\"volume_delete\",status=\"success\",volume_plugin=\"kubernetes.io/host-path\"} 1\n",
        "operation_name=\"volume_delete\",status=\"fail-unknown\",volume_plugin=\"kubernetes.io/host-path\"} ",
    ] {
        assert!(text.contains(row), "{row} {text}");
    }
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_recycled_volume_is_free_again() {
    let api = FakeApi::default();
    let running = Running::start(&api, &[BINDER]);
    api.create(VOLUMES, &with(volume("v", "Recycle"), &["spec", "hostPath"], &json!({"path": "/tmp/none"})));
    // In the way, and no proof of anything.
    api.create(
        "/pods",
        &json!({"metadata": {"name": "recycler-for-v", "namespace": "default"}, "spec": {"containers": []}}),
    );
    api.edit("/pods", "default", "recycler-for-v", |pod| pod["status"]["phase"] = json!("Succeeded"));
    api.create(CLAIMS, &claim("c"));
    api.until("they are bound", |_| {}, |api| are(api, "c", "v", ("Bound", "Bound"))).await;
    api.delete(CLAIMS, "ns", "c", "Background");
    let ours = |api: &FakeApi| {
        let pod: Option<Pod> = api.get("/pods", "default", "recycler-for-v");
        pod.is_some_and(|pod| !pod.spec.unwrap().containers.is_empty())
    };
    api.until("it is scrubbed", |_| {}, ours).await;
    assert_eq!(api.events("VolumeRecycled"), [""; 0]);
    api.edit("/pods", "default", "recycler-for-v", |pod| pod["status"]["phase"] = json!("Succeeded"));
    let free = |api: &FakeApi| {
        let volume = get_volume(api, "v");
        podium_api::volumes::phase(&volume) == "Available"
            && podium_api::volumes::claim_ref(&volume).is_none()
    };
    api.until("it is free", |_| {}, free).await;
    api.until("that is told", |_| {}, |api| api.events("VolumeRecycled") == ["Volume recycled"]).await;
    assert!(api.list::<Pod>("/pods").is_empty());
    running.stop().await;
}
