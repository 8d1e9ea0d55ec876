//! One rolling update of many replicas while the controllers' process dies after any write, again and again: at no instant are there
//! fewer pods available than promised, or more than allowed.
//!
//! `PODIUM_ROLLOUT_REPLICAS=1000` runs as many; the ordinary run has fewer, since a debug build reads each of them again and again.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::invariants::{has_condition, is_going};
use super::link::{Faults, Link};
use super::number;
use super::world::Process;
use crate::clock::RuntimeClock;
use crate::testing::api::{Commit, FakeApi};
use crate::testing::{at, namespace};

/// Replicas of an ordinary run.
const REPLICAS: u64 = 60;
const SEEDS: std::ops::Range<u64> = 0..6;
/// More steps than any run needs.
const STEPS: usize = 100_000;
const CONTROLLERS: &[&str] = &["deployment-controller", "replicaset-controller"];

/// What the API has seen, kept up to date change by change.
#[derive(Debug, Default)]
struct Tally {
    /// Pods that are not being deleted.
    live: HashSet<String>,
    available: HashSet<String>,
    /// Pods that somebody has to start.
    fresh: BTreeSet<String>,
    /// Pods that somebody has to end.
    going: BTreeSet<String>,
    /// Judged once all replicas are available.
    armed: bool,
    fewest: usize,
    most: usize,
    broken: Vec<String>,
    judged: usize,
}

impl Tally {
    fn see(&mut self, commit: &Commit<'_>) {
        if commit.key.0 != "/pods" {
            return;
        }
        let name = &commit.key.2;
        let live = commit.new.filter(|pod| !is_going(pod));
        note(&mut self.live, name, live.is_some());
        note(&mut self.available, name, live.is_some_and(|pod| has_condition(pod, "Ready")));
        let is_fresh = live.is_some_and(|pod| !has_condition(pod, "Ready"));
        if is_fresh {
            self.fresh.insert(name.clone())
        } else {
            self.fresh.remove(name)
        };
        if commit.new.is_some_and(is_going) {
            self.going.insert(name.clone())
        } else {
            self.going.remove(name)
        };
        if !self.armed {
            return;
        }
        self.judged += 1;
        let (available, live) = (self.available.len(), self.live.len());
        if available < self.fewest || live > self.most {
            self.broken.push(format!("{available} available of {live} after a change of {name}"));
        }
    }
}

fn note(set: &mut HashSet<String>, name: &str, is_in: bool) {
    if is_in {
        set.insert(name.to_owned());
    } else {
        set.remove(name);
    }
}

/// The world around one Deployment.
struct Rollout {
    api: FakeApi,
    clock: RuntimeClock,
    rng: Rng,
    tally: Arc<Mutex<Tally>>,
    process: Process,
    processes: usize,
}

impl Rollout {
    fn begin(seed: u64, deployment: &Value) -> Self {
        let mut rng = Rng::with_seed(seed);
        let clock = RuntimeClock::starting_at(at(1_000_000));
        let api = FakeApi::default();
        let tally = Arc::new(Mutex::new(Tally::default()));
        let judge = Arc::clone(&tally);
        api.simulate(clock, Box::new(move |commit| judge.lock().see(commit)));
        api.create("/namespaces", &namespace("ns"));
        api.create("apps/deployments", deployment);
        let process = process(&api, clock, &mut rng, 1);
        Self { api, clock, rng, tally, process, processes: 1 }
    }

    /// A moment passes: the process may be started again, watches are told, some pods start, those that are to end do.
    async fn step(&mut self) {
        tokio::time::sleep(Duration::from_millis(self.rng.u64(1..200))).await;
        if self.process.link.is_dead() {
            self.process.kill();
            self.processes += 1;
            self.process = process(&self.api, self.clock, &mut self.rng, self.processes);
        }
        for watch in self.api.waiting() {
            if self.rng.u32(0..4) > 0 {
                self.api.deliver(&watch, self.rng.usize(1..200), 1);
            }
        }
        let (fresh, going) = {
            let tally = self.tally.lock();
            (tally.fresh.clone(), tally.going.clone())
        };
        let ready =
            json!([{"type": "Ready", "status": "True", "lastTransitionTime": "1970-01-12T13:46:40Z"}]);
        for name in fresh {
            if self.rng.u32(0..3) == 0 {
                self.api.edit("/pods", "ns", &name, |pod| {
                    pod["status"] = json!({"phase": "Running", "conditions": ready});
                });
            }
        }
        for name in going {
            self.api.end_pod("ns", &name);
        }
    }

    async fn until(&mut self, what: &str, is: impl Fn(&FakeApi, &Tally) -> bool) {
        for _ in 0..STEPS {
            self.step().await;
            if is(&self.api, &self.tally.lock()) {
                return;
            }
        }
        panic!("never: {what}");
    }
}

/// A process that dies after some more writes, which are few enough to fall into every part of a rollout.
fn process(api: &FakeApi, clock: RuntimeClock, rng: &mut Rng, number: usize) -> Process {
    let faults = Faults { unsent: 5, unanswered: 5, refused: 5, delay_ms: 40 };
    let link = Link::new(api, number, clock, rng.fork(), faults);
    link.doom(rng.u32(0..80));
    Process::start(link, clock, rng.fork(), CONTROLLERS)
}

#[test]
fn a_large_rollout_keeps_its_promise_whenever_the_process_dies() {
    let replicas = number("PODIUM_ROLLOUT_REPLICAS").unwrap_or(REPLICAS);
    let count = usize::try_from(replicas).unwrap();
    // A tenth, rounded up for surge and down for what may be missing.
    let (surge, missing) = (count.div_ceil(10), count / 10);
    let labels = json!({"app": "web"});
    let deployment = json!({
        "metadata": {"name": "web", "namespace": "ns", "generation": 1},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": labels},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "10%", "maxUnavailable": "10%"}},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "v1"}]}},
        },
    });
    for seed in SEEDS {
        fastrand::seed(seed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let mut rollout = Rollout::begin(seed, &deployment);
            rollout.until("all are up", |_, tally| tally.available.len() == count).await;
            {
                let mut tally = rollout.tally.lock();
                (tally.fewest, tally.most, tally.armed) = (count - missing, count + surge, true);
            }
            let before = rollout.processes;
            rollout.api.edit("apps/deployments", "ns", "web", |web| {
                web["spec"]["template"]["spec"]["containers"][0]["image"] = json!("v2");
            });
            let updated = |api: &FakeApi, tally: &Tally| {
                let is_new = |pod: &Pod| {
                    pod.spec.as_ref().is_some_and(|spec| spec.containers[0].image.as_deref() == Some("v2"))
                };
                tally.available.len() == count
                    && tally.live.len() == count
                    && tally.going.is_empty()
                    && api.list::<Pod>("/pods").iter().all(is_new)
            };
            rollout.until("all are new", updated).await;
            let tally = rollout.tally.lock();
            assert!(tally.broken.is_empty(), "seed {seed}: {:#?}", tally.broken);
            let died = rollout.processes - before;
            assert!(died > 0 && tally.judged > count, "seed {seed}: {died} deaths, {} changes", tally.judged);
            rollout.process.kill();
        });
    }
}
