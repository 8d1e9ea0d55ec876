//! Decisions about one Deployment; rollouts simulated step by step in any order; the controller against a server.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStatus, DeploymentStrategy, ReplicaSet, ReplicaSetStatus,
    RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::prelude::*;

use super::decide::{Decision, Observed, after_collision, after_failed_create, decide, is_same_set, new_set};
use super::plan::Write;
use super::revision::{self, DESIRED_REPLICAS, HASH_LABEL, MAX_REPLICAS, REVISION, REVISION_HISTORY};
use super::status::{self, PROGRESSING};
use super::strategy::Strategy as Numbers;
use crate::testing::api::{FakeApi, Running};
use crate::testing::{PodExt, at, labels, meta, pod, selector, template, time};

mod rollback;

const LABELS: &[(&str, &str)] = &[("app", "web")];

fn deployment(replicas: i32, surge: IntOrString, unavailable: IntOrString) -> Deployment {
    Deployment {
        metadata: meta("web"),
        spec: Some(DeploymentSpec {
            replicas: Some(replicas),
            selector: selector(LABELS),
            template: template(LABELS, "v1"),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(surge),
                    max_unavailable: Some(unavailable),
                }),
            }),
            revision_history_limit: Some(2),
            progress_deadline_seconds: Some(600),
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

fn careful(replicas: i32) -> Deployment {
    deployment(replicas, IntOrString::Int(1), IntOrString::Int(0))
}

fn recreated(replicas: i32) -> Deployment {
    let mut deployment = careful(replicas);
    let strategy = DeploymentStrategy { type_: Some("Recreate".to_owned()), rolling_update: None };
    deployment.spec.as_mut().unwrap().strategy = Some(strategy);
    deployment
}

fn percent(text: &str) -> IntOrString {
    IntOrString::String(text.to_owned())
}

#[test]
fn numbers_resolve_as_upstream_does() {
    let int = IntOrString::Int;
    for (replicas, surge, unavailable, expected) in [
        (4, percent("25%"), percent("25%"), (1, 1)),
        (10, percent("25%"), percent("25%"), (3, 2)),
        (1, percent("25%"), percent("25%"), (1, 0)),
        (3, int(1), int(0), (1, 0)),
        (3, int(0), int(0), (0, 1)),
        (3, percent("0%"), percent("10%"), (0, 1)),
        (2, int(0), int(5), (0, 2)),
        (0, int(1), int(1), (1, 0)),
    ] {
        let numbers = Numbers::of(&deployment(replicas, surge, unavailable));
        assert_eq!((numbers.max_surge, numbers.max_unavailable), expected, "{replicas}");
    }
    let numbers = Numbers::of(&recreated(3));
    assert_eq!((numbers.rolling, numbers.most(), numbers.fewest()), (false, 3, 3));
}

/// A ReplicaSet of `image`, of that size, with that many pods available, all observed.
fn sized(deployment: &Deployment, image: &str, size: i32, available: i32) -> ReplicaSet {
    let mut of = deployment.clone();
    of.spec.as_mut().unwrap().template = template(LABELS, image);
    let mut set = new_set(&of, None, size);
    let numbers = Numbers::of(deployment);
    revision::annotate_replicas(&mut set, numbers.replicas, numbers.most());
    let version: i64 = image[1..].parse().unwrap();
    set.metadata.annotations.as_mut().unwrap().insert(REVISION.to_owned(), version.to_string());
    set.metadata.creation_timestamp = Some(time(version));
    set.metadata.uid = Some(format!("{image}-uid"));
    set.metadata.generation = Some(1);
    set.status = Some(ReplicaSetStatus {
        replicas: size,
        ready_replicas: Some(available),
        available_replicas: Some(available),
        observed_generation: Some(1),
        terminating_replicas: Some(0),
        ..ReplicaSetStatus::default()
    });
    set
}

fn with_template(mut deployment: Deployment, image: &str) -> Deployment {
    deployment.spec.as_mut().unwrap().template = template(LABELS, image);
    deployment
}

fn decided(deployment: &Deployment, sets: Vec<ReplicaSet>) -> Decision {
    decide(Observed { deployment, sets, sets_with_pods: Vec::new() }, at(1000))
}

/// Sizes as planned, by image: `(before, after)`; `(-1, n)` for a new set, `(n, -1)` for a deleted one.
fn changes(decision: &Decision) -> BTreeMap<String, (i32, i32)> {
    let image = |set: &ReplicaSet| {
        let template = set.spec.as_ref().unwrap().template.as_ref().unwrap();
        template.spec.as_ref().unwrap().containers[0].image.clone().unwrap()
    };
    let mut changes = BTreeMap::new();
    for write in &decision.writes {
        match write {
            Write::Create(set) => {
                changes.insert(image(set), (-1, set.spec.as_ref().unwrap().replicas.unwrap()))
            }
            Write::Update { set, scaled } => scaled.and_then(|scaled| changes.insert(image(set), scaled)),
            Write::Delete(set) => {
                changes.insert(image(set), (set.spec.as_ref().unwrap().replicas.unwrap(), -1))
            }
        };
    }
    changes
}

#[track_caller]
fn check(deployment: &Deployment, sets: Vec<ReplicaSet>, expected: &[(&str, (i32, i32))]) {
    let expected: BTreeMap<String, (i32, i32)> =
        expected.iter().map(|(it, sizes)| ((*it).to_owned(), *sizes)).collect();
    assert_eq!(changes(&decided(deployment, sets)), expected);
}

#[test]
fn a_new_deployment_gets_a_set_and_a_revision() {
    let mut deployment = careful(3);
    deployment.metadata.annotations = Some(labels(&[
        ("kubernetes.io/change-cause", "first"),
        ("kubectl.kubernetes.io/last-applied-configuration", "{}"),
    ]));
    let decision = decided(&deployment, vec![]);
    let [Write::Create(set)] = &decision.writes[..] else { panic!("one creation: {decision:?}") };
    let hash = &set.metadata.labels.as_ref().unwrap()[HASH_LABEL];
    assert_eq!(set.metadata.name.as_ref().unwrap(), &format!("web-{hash}"));
    assert_eq!(set.spec.as_ref().unwrap().replicas, Some(3));
    assert_eq!(set.spec.as_ref().unwrap().selector.match_labels.as_ref().unwrap()[HASH_LABEL], *hash);
    let annotations = set.metadata.annotations.as_ref().unwrap();
    let expected = [
        ("kubernetes.io/change-cause", "first"),
        (REVISION, "1"),
        (DESIRED_REPLICAS, "3"),
        (MAX_REPLICAS, "4"),
    ];
    assert_eq!(*annotations, labels(&expected));
    assert_eq!(decision.revision.as_deref(), Some("1"));
    let new = decision.status.unwrap();
    let progress = status::find(&new, PROGRESSING).unwrap();
    assert_eq!(progress.reason.as_deref(), Some("NewReplicaSetCreated"));
    assert_eq!(progress.message.as_deref(), Some(format!("Created new replica set \"web-{hash}\"").as_str()));
    assert_eq!(status::reason_of(&new, "Available"), "MinimumReplicasUnavailable");
    assert_eq!(decision.next_check, Some(at(1601)));
}

#[test]
fn the_hash_is_stable_and_shaped_like_upstreams() {
    let hash = crate::hash::of(&template(LABELS, "v1"), None);
    assert_eq!(hash, crate::hash::of(&template(LABELS, "v1"), None));
    assert!(hash.len() <= 10 && hash.bytes().all(|byte| crate::names::ALPHABET.contains(&byte)), "{hash}");
    assert_ne!(hash, crate::hash::of(&template(LABELS, "v2"), None));
    assert_ne!(hash, crate::hash::of(&template(LABELS, "v1"), Some(1)));
}

#[test]
fn a_rolling_update_moves_one_step_at_a_time() {
    let old = careful(3);
    let new = with_template(careful(3), "v2");
    let set = |image: &str, size, available| sized(&old, image, size, available);
    check(&new, vec![set("v1", 3, 3)], &[("v2", (-1, 1))]);
    check(&new, vec![set("v1", 3, 3), set("v2", 1, 0)], &[]);
    check(&new, vec![set("v1", 3, 3), set("v2", 1, 1)], &[("v1", (3, 2))]);
    check(&new, vec![set("v1", 2, 2), set("v2", 1, 1)], &[("v2", (1, 2))]);
    check(&new, vec![set("v1", 1, 1), set("v2", 3, 3)], &[("v1", (1, 0))]);
    check(&new, vec![set("v1", 0, 0), set("v2", 3, 3)], &[]);
    let fast = with_template(deployment(4, IntOrString::Int(2), IntOrString::Int(1)), "v2");
    check(&fast, vec![sized(&fast, "v1", 4, 4)], &[("v2", (-1, 2))]);
    check(&fast, vec![sized(&fast, "v1", 4, 4), sized(&fast, "v2", 2, 0)], &[("v1", (4, 3))]);
    let in_place = with_template(deployment(4, IntOrString::Int(0), IntOrString::Int(1)), "v2");
    check(&in_place, vec![sized(&in_place, "v1", 4, 4)], &[("v2", (-1, 0))]);
    check(&in_place, vec![sized(&in_place, "v1", 4, 4), sized(&in_place, "v2", 0, 0)], &[("v1", (4, 3))]);
}

#[test]
fn pods_that_serve_nobody_make_way_first() {
    let new = with_template(careful(3), "v3");
    let set = |image: &str, size, available| sized(&new, image, size, available);
    // v2 never worked: its pods go although nothing of v3 serves yet.
    check(&new, vec![set("v1", 3, 3), set("v2", 1, 0), set("v3", 0, 0)], &[("v2", (1, 0))]);
    check(&new, vec![set("v1", 3, 3), set("v2", 0, 0), set("v3", 0, 0)], &[("v3", (0, 1))]);
}

#[test]
fn nothing_moves_while_a_set_has_not_acted_on_its_size() {
    let new = with_template(careful(3), "v2");
    let mut lagging = sized(&new, "v1", 2, 3);
    lagging.metadata.generation = Some(2);
    check(&new, vec![lagging.clone(), sized(&new, "v2", 1, 1)], &[]);
    lagging.metadata.generation = Some(1);
    lagging.status.as_mut().unwrap().replicas = 3;
    check(&new, vec![lagging, sized(&new, "v2", 1, 1)], &[]);
}

#[test]
fn scaling_alone_does_not_roll_on() {
    let set = |of: &Deployment, image: &str, size, available| sized(of, image, size, available);
    check(&careful(5), vec![set(&careful(3), "v1", 3, 3)], &[("v1", (3, 5))]);
    check(&careful(0), vec![set(&careful(3), "v1", 3, 3)], &[("v1", (3, 0))]);
    // Upstream's e2e test of proportional scaling: 10 to 30 with maxSurge 3 and maxUnavailable 2.
    let wide = |replicas| deployment(replicas, IntOrString::Int(3), IntOrString::Int(2));
    check(
        &with_template(wide(30), "v2"),
        vec![set(&wide(10), "v1", 8, 8), set(&wide(10), "v2", 5, 0)],
        &[("v1", (8, 20)), ("v2", (5, 13))],
    );
    // Shrinking takes from what does not serve when too little would be left.
    check(
        &with_template(careful(4), "v2"),
        vec![set(&careful(10), "v1", 6, 6), set(&careful(10), "v2", 5, 0)],
        &[("v1", (6, 4)), ("v2", (5, 1))],
    );
}

/// Found by seeds 3819 and 4328 of the simulation.
#[test]
fn scaling_makes_no_more_pods_than_there_may_be_while_others_are_not_gone() {
    let left = |mut set: ReplicaSet, pods, settled: bool| {
        set.status.as_mut().unwrap().replicas = pods;
        set.metadata.generation = Some(if settled { 1 } else { 2 });
        set
    };
    let tight = |replicas| deployment(replicas, IntOrString::Int(0), IntOrString::Int(2));
    for (pods, settled, expected) in
        [(2, true, vec![]), (0, false, vec![]), (1, true, vec![]), (0, true, vec![("v1", (2, 3))])]
    {
        let old = left(sized(&tight(4), "v2", 0, 0), pods, settled);
        check(&tight(3), vec![sized(&tight(4), "v1", 2, 2), old], &expected);
    }
    let wide = |replicas| deployment(replicas, IntOrString::Int(2), IntOrString::Int(0));
    for (pods, settled, expected) in [(2, true, vec![]), (1, false, vec![]), (1, true, vec![("v2", (3, 4))])]
    {
        let mut paused = with_template(wide(3), "v2");
        paused.spec.as_mut().unwrap().paused = Some(true);
        let old = left(sized(&wide(3), "v1", 1, 1), pods, settled);
        check(&paused, vec![old, sized(&wide(3), "v2", 3, 2)], &expected);
    }
    // One that grows while another shrinks does not take the place of pods that are still there: seed 98203.
    let both = vec![sized(&wide(7), "v1", 2, 2), sized(&wide(7), "v2", 2, 2)];
    check(&with_template(wide(3), "v2"), both, &[("v2", (2, 3)), ("v1", (2, 1))]);
    // To shrink nobody has to wait.
    let old = left(sized(&wide(4), "v1", 1, 1), 3, false);
    check(&wide(0), vec![old], &[("v1", (1, 0))]);
}

#[test]
fn a_paused_deployment_that_recreates_waits_for_the_pods_of_others() {
    let mut paused = with_template(recreated(3), "v1");
    paused.spec.as_mut().unwrap().paused = Some(true);
    let of = recreated(3);
    for (left, with_pods, expected) in [
        (2, vec!["v2"], None),
        // The set's status says that nothing is left, but a pod is.
        (0, vec!["v2"], None),
        (0, vec![], Some((0, 3))),
        // Its own pods are in nobody's way.
        (0, vec!["v1"], Some((0, 3))),
    ] {
        let (new, mut old) = (sized(&of, "v1", 0, 0), sized(&of, "v2", 0, 0));
        old.status.as_mut().unwrap().replicas = left;
        let name_of = |image: &&str| {
            let set = if *image == "v1" { &new } else { &old };
            set.metadata.name.clone().unwrap()
        };
        let sets_with_pods = with_pods.iter().map(name_of).collect();
        let seen = Observed { deployment: &paused, sets: vec![new.clone(), old.clone()], sets_with_pods };
        assert_eq!(changes(&decide(seen, at(1000))).get("v1").copied(), expected, "{left} {with_pods:?}");
    }
}

#[test]
fn a_paused_deployment_scales_and_says_so_but_does_not_roll() {
    let mut paused = with_template(careful(5), "v2");
    paused.spec.as_mut().unwrap().paused = Some(true);
    let decision = decided(&paused, vec![sized(&careful(3), "v1", 3, 3)]);
    assert_eq!(changes(&decision), BTreeMap::from([("v1".to_owned(), (3, 5))]));
    let new = decision.status.unwrap();
    let progress = status::find(&new, PROGRESSING).unwrap();
    assert_eq!(
        (progress.status.as_str(), progress.message.as_deref()),
        ("Unknown", Some("Deployment is paused"))
    );
    let mut resumed = with_template(careful(5), "v2");
    resumed.status = Some(new);
    let decision = decided(&resumed, vec![sized(&resumed, "v1", 5, 5)]);
    assert_eq!(changes(&decision), BTreeMap::from([("v2".to_owned(), (-1, 1))]));
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let new = with_template(recreated(3), "v2");
    let set = |image: &str, size, available| sized(&new, image, size, available);
    check(&new, vec![set("v1", 3, 3)], &[("v1", (3, 0))]);
    let mut going = set("v1", 0, 0);
    going.status.as_mut().unwrap().replicas = 1;
    check(&new, vec![going], &[]);
    let gone = set("v1", 0, 0);
    let name = gone.metadata.name.clone().unwrap();
    let terminating = Observed { deployment: &new, sets: vec![gone.clone()], sets_with_pods: vec![name] };
    assert!(decide(terminating, at(1)).writes.is_empty(), "a pod is still terminating");
    let mut behind = gone.clone();
    behind.metadata.generation = Some(7);
    check(&new, vec![behind], &[]);
    check(&new, vec![gone], &[("v2", (-1, 3))]);
}

#[test]
fn a_rollback_takes_the_old_set_and_the_next_revision() {
    let back = with_template(careful(3), "v1");
    let decision = decided(&back, vec![sized(&back, "v1", 0, 0), sized(&back, "v2", 3, 3)]);
    assert_eq!(changes(&decision), BTreeMap::from([("v1".to_owned(), (0, 1))]));
    assert_eq!(decision.writes.len(), 1, "annotations and size in one write");
    let Write::Update { set, .. } = &decision.writes[0] else { panic!("an update") };
    let annotations = set.metadata.annotations.as_ref().unwrap();
    assert_eq!((annotations[REVISION].as_str(), annotations[REVISION_HISTORY].as_str()), ("3", "1"));
    assert_eq!(decision.revision.as_deref(), Some("3"));
}

#[test]
fn history_is_cut_to_its_length() {
    let deployment = careful(1);
    let mut set = sized(&deployment, "v1", 0, 0);
    for revision in 2..1000 {
        revision::annotate(&deployment, &mut set, revision);
    }
    let history = &set.metadata.annotations.as_ref().unwrap()[REVISION_HISTORY];
    assert!(history.len() <= 2000 && history.ends_with(",997,998"), "{history}");
}

#[test]
fn old_sets_beyond_the_limit_are_deleted_once_complete() {
    let mut current = with_template(careful(1), "v5");
    let sets = || -> Vec<ReplicaSet> {
        let old = (1..5).map(|version| sized(&current, &format!("v{version}"), 0, 0));
        old.chain([sized(&current, "v5", 1, 1)]).collect()
    };
    let sets = sets();
    check(&current, sets.clone(), &[]);
    current.status = decided(&current, sets.clone()).status;
    check(&current, sets.clone(), &[("v1", (0, -1)), ("v2", (0, -1))]);
    let mut busy = sets;
    busy[0].status.as_mut().unwrap().replicas = 1;
    check(&current, busy, &[("v2", (0, -1))]);
}

#[test]
fn templates_are_equal_whatever_their_emptiness_looks_like() {
    let deployment = careful(1);
    let mut set = new_set(&deployment, None, 1);
    let inner = set.spec.as_mut().unwrap().template.as_mut().unwrap();
    inner.metadata.as_mut().unwrap().annotations = Some(BTreeMap::new());
    inner.spec.as_mut().unwrap().containers[0].env = Some(Vec::new());
    assert!(revision::runs(&set, &template(LABELS, "v1")));
    assert!(!revision::runs(&set, &template(LABELS, "v2")));
    let mut volume = template(LABELS, "v1");
    let source = k8s_openapi::api::core::v1::Volume {
        name: "v".to_owned(),
        empty_dir: Some(Default::default()),
        ..Default::default()
    };
    volume.spec.as_mut().unwrap().volumes = Some(vec![source]);
    let of_volume = {
        let mut deployment = careful(1);
        deployment.spec.as_mut().unwrap().template = volume.clone();
        new_set(&deployment, None, 1)
    };
    assert!(revision::runs(&of_volume, &volume));
    volume.spec.as_mut().unwrap().volumes.as_mut().unwrap()[0].empty_dir = None;
    assert!(!revision::runs(&of_volume, &volume), "an empty directory is not nothing");
}

#[test]
fn progress_completes_stalls_and_times_out() {
    let mut current = careful(2);
    current.metadata.annotations = Some(labels(&[(REVISION, "1")]));
    let sets = |available| vec![sized(&current, "v1", 2, available)];
    let (none, all) = (sets(0), sets(2));
    let found = decide(Observed { deployment: &current, sets: none.clone(), sets_with_pods: vec![] }, at(0));
    current.status = found.status;
    let name = none[0].metadata.name.clone().unwrap();
    let progress = |decision: &Decision| {
        let status = decision.status.as_ref().expect("a new status");
        let progress = status::find(status, PROGRESSING).unwrap().clone();
        (progress.status, progress.reason.unwrap(), progress.message.unwrap())
    };
    let at_time = |current: &Deployment, sets: &[ReplicaSet], seconds| {
        decide(Observed { deployment: current, sets: sets.to_vec(), sets_with_pods: vec![] }, at(seconds))
    };
    assert!(at_time(&current, &none, 600).status.is_none(), "still within the deadline");
    let late = at_time(&current, &none, 601);
    let expected = format!("ReplicaSet \"{name}\" has timed out progressing.");
    assert_eq!(progress(&late), ("False".to_owned(), "ProgressDeadlineExceeded".to_owned(), expected));
    assert_eq!(late.next_check, None);
    current.status = late.status;
    let done = at_time(&current, &all, 700);
    let expected = format!("ReplicaSet \"{name}\" has successfully progressed.");
    assert_eq!(progress(&done), ("True".to_owned(), "NewReplicaSetAvailable".to_owned(), expected));
    current.status = done.status;
    assert!(at_time(&current, &all, 800).status.is_none(), "nothing more to say");
    current.spec.as_mut().unwrap().progress_deadline_seconds = None;
    let without = at_time(&current, &all, 900).status.unwrap();
    assert!(status::find(&without, PROGRESSING).is_none());
}

#[test]
fn a_sets_failure_is_the_deployments() {
    let current = careful(2);
    let mut set = sized(&current, "v1", 2, 0);
    let failure = k8s_openapi::api::apps::v1::ReplicaSetCondition {
        type_: "ReplicaFailure".to_owned(),
        status: "True".to_owned(),
        reason: Some("FailedCreate".to_owned()),
        message: Some("no quota".to_owned()),
        last_transition_time: Some(time(5)),
    };
    set.status.as_mut().unwrap().conditions = Some(vec![failure]);
    let new = decided(&current, vec![set]).status.unwrap();
    let told = status::find(&new, "ReplicaFailure").unwrap();
    assert_eq!((told.reason.as_deref(), told.message.as_deref()), (Some("FailedCreate"), Some("no quota")));
}

#[test]
fn a_selector_of_everything_is_refused_and_deletion_only_counts() {
    let mut all = careful(1);
    all.spec.as_mut().unwrap().selector = Default::default();
    let decision = decided(&all, vec![]);
    assert!(decision.selects_all && decision.writes.is_empty());
    assert_eq!(decision.status.unwrap().observed_generation, Some(1));
    let mut deleting = with_template(careful(3), "v2");
    deleting.metadata.deletion_timestamp = Some(time(1));
    let decision = decided(&deleting, vec![sized(&deleting, "v1", 3, 3)]);
    assert!(decision.writes.is_empty());
    assert_eq!(decision.status.unwrap().available_replicas, Some(3));
}

#[test]
fn collisions_and_failed_creations_are_told() {
    let current = careful(1);
    assert_eq!(after_collision(&current).collision_count, Some(1));
    let own = new_set(&current, None, 1);
    assert!(is_same_set(&current, &own));
    let mut other = own;
    other.metadata.owner_references = None;
    assert!(!is_same_set(&current, &other));
    let (new, message) = after_failed_create(&current, "web-x", "no room", at(1));
    assert_eq!(message, "Failed to create new replica set \"web-x\": no room");
    assert_eq!(status::reason_of(&new.unwrap(), PROGRESSING), "ReplicaSetCreateError");
}

/// A cluster in which every part acts only when told to, on what it has been told.
struct Cluster {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    /// By ReplicaSet: pods that serve and pods that do not.
    pods: BTreeMap<String, (i32, i32)>,
    clock: i64,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The controller looks and acts.
    Decide,
    /// A ReplicaSet looks at its pods and its size, acts, and writes its status.
    Sync(usize),
    /// A pod starts to serve.
    Ready(usize),
    /// The user asks for another image.
    Image(u8),
}

impl Cluster {
    fn new(deployment: Deployment) -> Self {
        let mut cluster = Self { deployment, sets: Vec::new(), pods: BTreeMap::new(), clock: 0 };
        cluster.finish();
        cluster
    }

    fn step(&mut self, step: Step) {
        self.clock += 1;
        match step {
            Step::Decide => self.decide(),
            Step::Sync(index) if !self.sets.is_empty() => self.sync(index % self.sets.len()),
            Step::Ready(index) if !self.sets.is_empty() => {
                let name = self.sets[index % self.sets.len()].metadata.name.clone().unwrap();
                let (ready, waiting) = self.pods.entry(name).or_default();
                if *waiting > 0 {
                    *ready += 1;
                    *waiting -= 1;
                }
            }
            Step::Image(version) => {
                let spec = self.deployment.spec.as_mut().unwrap();
                spec.template = template(LABELS, &format!("v{version}"));
                *self.deployment.metadata.generation.as_mut().unwrap() += 1;
            }
            Step::Sync(_) | Step::Ready(_) => {}
        }
    }

    fn decide(&mut self) {
        let has_pods = |set: &&ReplicaSet| {
            self.pods
                .get(set.metadata.name.as_ref().unwrap())
                .is_some_and(|(ready, waiting)| ready + waiting > 0)
        };
        let sets_with_pods =
            self.sets.iter().filter(has_pods).map(|set| set.metadata.name.clone().unwrap()).collect();
        let seen = Observed { deployment: &self.deployment, sets: self.sets.clone(), sets_with_pods };
        let decision = decide(seen, at(self.clock));
        for write in decision.writes {
            self.write(write);
        }
        if let Some(status) = decision.status {
            self.deployment.status = Some(status);
        }
    }

    fn write(&mut self, write: Write) {
        match write {
            Write::Create(mut set) => {
                let taken = self.sets.iter().any(|other| other.metadata.name == set.metadata.name);
                assert!(!taken, "created twice");
                set.metadata.generation = Some(1);
                set.metadata.creation_timestamp = Some(time(self.clock));
                set.metadata.uid = set.metadata.name.clone();
                self.sets.push(*set);
            }
            Write::Update { mut set, .. } => {
                let old = self.sets.iter_mut().find(|old| old.metadata.name == set.metadata.name).unwrap();
                if old.spec != set.spec {
                    *set.metadata.generation.as_mut().unwrap() += 1;
                }
                *old = *set;
            }
            Write::Delete(set) => {
                assert_eq!(
                    self.pods.get(set.metadata.name.as_ref().unwrap()).copied().unwrap_or_default(),
                    (0, 0)
                );
                self.sets.retain(|old| old.metadata.name != set.metadata.name);
            }
        }
    }

    fn sync(&mut self, index: usize) {
        let set = &mut self.sets[index];
        let size = set.spec.as_ref().unwrap().replicas.unwrap();
        let (ready, waiting) = self.pods.entry(set.metadata.name.clone().unwrap()).or_default();
        let excess = (*ready + *waiting - size).max(0);
        let from_waiting = excess.min(*waiting);
        *waiting -= from_waiting;
        *ready -= excess - from_waiting;
        let counted = (*ready, *ready + *waiting);
        *waiting += size - counted.1;
        set.status = Some(ReplicaSetStatus {
            // As upstream: pods created by this very sync are not counted yet.
            replicas: counted.1,
            ready_replicas: Some(counted.0),
            available_replicas: Some(counted.0),
            observed_generation: set.metadata.generation,
            terminating_replicas: Some(0),
            ..ReplicaSetStatus::default()
        });
    }

    /// Everything runs until nothing changes.
    fn finish(&mut self) {
        for _ in 0..60 {
            self.step(Step::Decide);
            for index in 0..self.sets.len() {
                self.step(Step::Sync(index));
                for _ in 0..12 {
                    self.step(Step::Ready(index));
                }
                self.step(Step::Sync(index));
            }
        }
    }

    fn serving(&self) -> i32 {
        self.pods.values().map(|(ready, _)| ready).sum()
    }

    fn total(&self) -> i32 {
        self.pods.values().map(|(ready, waiting)| ready + waiting).sum()
    }

    fn sets_with_pods(&self) -> usize {
        self.pods.values().filter(|(ready, waiting)| ready + waiting > 0).count()
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Decide),
        6 => (0..6usize).prop_map(Step::Sync),
        4 => (0..6usize).prop_map(Step::Ready),
        1 => (1..4u8).prop_map(Step::Image),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// Whatever order things happen in, with rollouts and rollbacks in the middle of each other: never more pods than replicas
    /// and surge, never fewer serving than may be, and in the end exactly what was asked for.
    #[test]
    fn a_rolling_update_keeps_its_promises(
        replicas in 1..7i32,
        surge in 0..4i32,
        unavailable in 0..4i32,
        steps in proptest::collection::vec(any_step(), 0..120),
    ) {
        let deployment = deployment(replicas, IntOrString::Int(surge), IntOrString::Int(unavailable));
        let numbers = Numbers::of(&deployment);
        let mut cluster = Cluster::new(deployment);
        prop_assert_eq!(cluster.serving(), replicas);
        for step in steps {
            cluster.step(step);
            prop_assert!(cluster.total() <= numbers.most(), "{} pods after {:?}", cluster.total(), step);
            prop_assert!(cluster.serving() >= numbers.fewest(), "{} serve after {:?}", cluster.serving(), step);
        }
        cluster.finish();
        prop_assert_eq!((cluster.serving(), cluster.total(), cluster.sets_with_pods()), (replicas, replicas, 1));
        let complete = status::reason_of(cluster.deployment.status.as_ref().unwrap(), PROGRESSING);
        prop_assert_eq!(complete, "NewReplicaSetAvailable");
        prop_assert!(cluster.sets.len() <= 3, "the new one and two of history");
    }

    /// Two versions never run at once.
    #[test]
    fn recreate_keeps_versions_apart(
        replicas in 1..5i32,
        steps in proptest::collection::vec(any_step(), 0..120),
    ) {
        let mut cluster = Cluster::new(recreated(replicas));
        for step in steps {
            cluster.step(step);
            prop_assert!(cluster.sets_with_pods() <= 1, "after {:?}", step);
        }
        cluster.finish();
        prop_assert_eq!((cluster.serving(), cluster.total(), cluster.sets_with_pods()), (replicas, replicas, 1));
    }

    /// Scaling at any moment ends at the number asked for.
    #[test]
    fn scaling_in_the_middle_ends_right(
        sizes in proptest::collection::vec(0..12i32, 1..4),
        steps in proptest::collection::vec(any_step(), 0..40),
    ) {
        let mut cluster = Cluster::new(deployment(4, percent("25%"), percent("25%")));
        for size in &sizes {
            for step in &steps {
                cluster.step(*step);
            }
            cluster.deployment.spec.as_mut().unwrap().replicas = Some(*size);
            *cluster.deployment.metadata.generation.as_mut().unwrap() += 1;
        }
        cluster.finish();
        let size = *sizes.last().unwrap();
        prop_assert_eq!((cluster.serving(), cluster.total()), (size, size));
    }
}

const CONTROLLERS: &[&str] = &["deployment-controller", "replicaset-controller"];

fn stored(api: &FakeApi) -> Deployment {
    api.get("apps/deployments", "ns", "web").unwrap()
}

fn status_of(api: &FakeApi) -> DeploymentStatus {
    stored(api).status.unwrap_or_default()
}

fn is_rolled_out(api: &FakeApi, image: &str) -> bool {
    let deployment = stored(api);
    let replicas = deployment.spec.as_ref().unwrap().replicas;
    let status = deployment.status.clone().unwrap_or_default();
    let pods: Vec<Pod> = api.list("/pods");
    let of_image = |pod: &&Pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some(image);
    status.observed_generation == deployment.metadata.generation
        && status.updated_replicas == replicas
        && status.available_replicas == replicas
        && pods.len() == usize::try_from(replicas.unwrap()).unwrap()
        && pods.iter().filter(of_image).count() == pods.len()
}

fn set_image(api: &FakeApi, image: &str) {
    api.edit("apps/deployments", "ns", "web", |web| {
        web["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
    });
}

#[tokio::test(start_paused = true)]
async fn a_rollout_and_back_again() {
    let api = FakeApi::default();
    api.create("apps/deployments", &careful(3));
    let running = Running::start(&api, CONTROLLERS);
    api.until("v1 is out", FakeApi::run_pods, |api| is_rolled_out(api, "v1")).await;
    set_image(&api, "v2");
    let at_least_three = |api: &FakeApi| {
        FakeApi::run_pods(api);
        let pods: Vec<Pod> = api.list("/pods");
        let serving = pods.iter().filter(|pod| crate::pods::is_ready(pod)).count();
        assert!((3..=4).contains(&pods.len()) && serving >= 3, "{} pods, {serving} serving", pods.len());
    };
    api.until("v2 is out", at_least_three, |api| is_rolled_out(api, "v2")).await;
    assert_eq!(stored(&api).metadata.annotations.unwrap()[REVISION], "2");
    set_image(&api, "v1");
    api.until("v1 is back", at_least_three, |api| is_rolled_out(api, "v1")).await;
    api.settle().await;
    let sets: Vec<ReplicaSet> = api.list("apps/replicasets");
    assert_eq!(sets.len(), 2);
    assert_eq!(stored(&api).metadata.annotations.unwrap()[REVISION], "3");
    let name = sets.iter().find(|set| revision::of(set) == 3).unwrap().metadata.name.clone().unwrap();
    let events = api.events("ScalingReplicaSet");
    assert!(events.contains(&format!("Scaled up replica set {name} from 0 to 3")), "{events:?}");
    assert!(events.contains(&format!("Scaled down replica set {name} from 3 to 2")), "{events:?}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_version_that_never_works_stalls_with_the_old_one_serving() {
    let api = FakeApi::default();
    api.create("apps/deployments", &careful(3));
    let running = Running::start(&api, CONTROLLERS);
    api.until("v1 is out", FakeApi::run_pods, |api| is_rolled_out(api, "v1")).await;
    set_image(&api, "bad");
    let stalled =
        |api: &FakeApi| status::reason_of(&status_of(api), PROGRESSING) == "ProgressDeadlineExceeded";
    api.until("the deadline", |_| {}, stalled).await;
    let status = status_of(&api);
    assert_eq!((status.available_replicas, status.updated_replicas), (Some(3), Some(1)));
    set_image(&api, "v1");
    api.until("undone", FakeApi::run_pods, |api| is_rolled_out(api, "v1")).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_name_taken_by_another_leads_to_another_hash() {
    let api = FakeApi::default();
    let web = careful(1);
    let mut squatter = new_set(&web, None, 0);
    squatter.metadata.owner_references = None;
    squatter.metadata.labels = None;
    squatter.spec.as_mut().unwrap().template = Some(template(LABELS, "other"));
    api.create("apps/replicasets", &squatter);
    api.create("apps/deployments", &web);
    let running = Running::start(&api, CONTROLLERS);
    api.until("rolled out all the same", FakeApi::run_pods, |api| is_rolled_out(api, "v1")).await;
    assert_eq!(status_of(&api).collision_count, Some(1));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn recreate_starts_when_the_last_pod_has_ended() {
    let api = FakeApi::default();
    api.create("apps/deployments", &recreated(2));
    let running = Running::start(&api, CONTROLLERS);
    api.until("v1 is out", FakeApi::run_pods, |api| is_rolled_out(api, "v1")).await;
    set_image(&api, "v2");
    let terminating = |api: &FakeApi| {
        let pods: Vec<Pod> = api.list("/pods");
        pods.iter().filter(|pod| crate::pods::is_terminating(pod)).count()
    };
    api.until("both are asked to end", |_| {}, |api| terminating(api) == 2).await;
    api.settle().await;
    assert_eq!(api.list::<ReplicaSet>("apps/replicasets").len(), 1, "nothing new while they run");
    api.until("v2 is out", FakeApi::run_pods, |api| is_rolled_out(api, "v2")).await;
    running.stop().await;
}

#[test]
fn a_ready_pod_is_built_as_the_tests_say() {
    assert!(crate::pods::is_ready(&pod("a").ready(1)));
}
