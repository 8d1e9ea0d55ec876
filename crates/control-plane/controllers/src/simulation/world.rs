//! One seed's run: the API, the processes, and everything around them that moves.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use parking_lot::Mutex;
use podium_client::{SharedInformers, Shutdown};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::ending;
use super::invariants::{Judge, Strictness, is_going};
use super::link::Link;
use super::scenario::{Ending, NAMESPACE, NODES, Scenario, edit, furnish};
use super::theme::{self, Theme};
use crate::clock::{Clock, RuntimeClock};
use crate::manager::{Config, OWN_IDENTITY, Settings};
use crate::names::{ALPHABET, NameSource, SUFFIX_LENGTH};
use crate::testing::api::FakeApi;
use crate::testing::at;

/// How long nothing must have happened before everybody is at rest: longer than the longest back-off and deadline.
const REST_SECONDS: u64 = 620;
/// By then everybody must be at rest.
const PATIENCE_SECONDS: u64 = 4 * 3600;

/// Reconciles at once of one controller: no fewer than there is work for, since idle ones too take time to make.
const WORKERS: usize = 8;

/// How a seed went, or many.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) broken: Vec<String>,
    /// Equal for equal runs; only with a history.
    pub(super) fingerprint: u64,
    pub(super) judged: u64,
    pub(super) crashes: u64,
    pub(super) overlaps: u64,
    pub(super) cuts: u64,
    /// Every change, a line each; kept only if asked for.
    pub(super) history: Vec<String>,
}

impl Outcome {
    pub(super) fn add(&mut self, other: &Self) {
        self.judged += other.judged;
        self.crashes += other.crashes;
        self.overlaps += other.overlaps;
        self.cuts += other.cuts;
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { judged, crashes, overlaps, cuts, .. } = self;
        write!(
            f,
            "{judged} changes judged, {crashes} crashes, {overlaps} times two leaders, {cuts} watches cut"
        )
    }
}

/// Runs one seed.
///
/// With `verbose` it says what it was about, and keeps its history.
pub(super) fn run(seed: u64, verbose: bool) -> Outcome {
    run_with(seed, verbose, false, None)
}

/// Runs one seed of those that are about a [`Theme`].
pub(super) fn run_themed(seed: u64, verbose: bool) -> Outcome {
    run_with(seed, verbose, false, Some(Theme::of(seed)))
}

/// Runs one seed with someone who makes pods that nobody asked for.
pub(super) fn run_sabotaged(seed: u64) -> Outcome {
    run_with(seed, false, true, None)
}

fn run_with(seed: u64, verbose: bool, sabotage: bool, theme: Option<Theme>) -> Outcome {
    // The client's back-offs draw from the thread's generator.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without I/O can be built");
    runtime.block_on(async {
        let mut world = World::new(seed, verbose, theme);
        if verbose {
            println!("{:#?}", world.scenario);
        }
        for step in 0..world.scenario.steps {
            world.step(step).await;
            if sabotage && step == 30 {
                world.sabotage();
            }
        }
        world.finish(verbose).await
    })
}

/// Names from the seed.
#[derive(Debug)]
struct SeededNames(Mutex<Rng>);

impl NameSource for SeededNames {
    fn suffix(&self) -> String {
        let mut rng = self.0.lock();
        (0..SUFFIX_LENGTH).map(|_| char::from(ALPHABET[rng.usize(..ALPHABET.len())])).collect()
    }
}

/// Whether a pod of a set serves only when nothing goes wrong any more: a few do, so that sets that shrink have a choice.
fn is_slow(pod: &Value) -> bool {
    let of_set = pod["metadata"]["ownerReferences"][0]["kind"] == "ReplicaSet"
        || pod["metadata"]["ownerReferences"][0]["kind"] == "ReplicationController";
    let number =
        pod["metadata"]["uid"].as_str().and_then(|uid| uid.strip_prefix("uid-")?.parse::<u64>().ok());
    of_set && number.is_some_and(|number| number.is_multiple_of(7))
}

/// A process that runs controllers.
pub(super) struct Process {
    pub(super) link: Link,
    stop: Shutdown,
    task: JoinHandle<()>,
}

impl Process {
    /// Starts the named controllers over a link of their own.
    pub(super) fn start(link: Link, clock: RuntimeClock, rng: Rng, controllers: &[&str]) -> Self {
        let stop = Shutdown::new();
        let informers = SharedInformers::new(link.acting_as(OWN_IDENTITY), stop.clone());
        let settings = Settings { root_ca_pem: "PEM".to_owned(), ..Settings::default() };
        let config = Config {
            controllers: controllers.iter().map(|name| (*name).to_owned()).collect(),
            clock: Arc::new(clock),
            names: Arc::new(SeededNames(Mutex::new(rng))),
            workers: crate::manager::workers()
                .map(|(name, count)| (name.to_owned(), count.min(WORKERS)))
                .collect(),
            ..Config::new(Arc::new(link.clone()), informers, settings)
        };
        let shutdown = stop.clone();
        let task = tokio::spawn(async move {
            crate::manager::run(config, shutdown).await.expect("controllers run");
        });
        Self { link, stop, task }
    }

    pub(super) fn kill(&self) {
        self.link.die();
        self.task.abort();
        self.stop.cancel();
    }
}

struct World {
    api: FakeApi,
    rng: Rng,
    scenario: Scenario,
    clock: RuntimeClock,
    judge: Arc<Mutex<Judge>>,
    processes: Vec<Process>,
    started: usize,
    /// The step at which the older of two leaders learns that it is none.
    overlap_ends: Option<u32>,
    renewed: i64,
    addresses: u32,
    outcome: Outcome,
}

impl World {
    fn new(seed: u64, trace: bool, theme: Option<Theme>) -> Self {
        let mut rng = Rng::with_seed(seed);
        let scenario = match theme {
            Some(theme) => Scenario::about(theme, &mut rng),
            None => Scenario::of(&mut rng),
        };
        let clock = RuntimeClock::starting_at(at(1_000_000));
        let strict =
            Strictness { steady_pods: scenario.steady_pods, evicted_pods: theme == Some(Theme::Taints) };
        let judge = Judge::new(clock, strict);
        let api = FakeApi::default();
        if trace {
            api.trace();
        }
        api.simulate(clock, Judge::hook(&judge));
        furnish(&api, &scenario);
        let outcome = Outcome::default();
        let mut world = Self {
            api,
            rng,
            scenario,
            clock,
            judge,
            processes: Vec::new(),
            started: 0,
            overlap_ends: None,
            renewed: 0,
            addresses: 0,
            outcome,
        };
        world.start();
        world
    }

    fn start(&mut self) {
        self.started += 1;
        let link = Link::new(&self.api, self.started, self.clock, self.rng.fork(), self.scenario.faults);
        if self.scenario.crashes && self.rng.u32(0..3) > 0 {
            link.doom(self.rng.u32(0..60));
        }
        self.processes.push(Process::start(link, self.clock, self.rng.fork(), &["*"]));
    }

    async fn step(&mut self, step: u32) {
        let pause = Duration::from_millis(self.rng.u64(1..400));
        tokio::time::sleep(pause).await;
        self.renew_leases();
        self.processes_live_and_die(step);
        self.tell_watches(step);
        self.run_kubelets(false);
        if self.rng.u32(0..12) == 0 {
            self.act_as_user();
        }
        if self.scenario.theme == Some(Theme::Taints) && self.rng.u32(0..10) == 0 {
            let (node, ill) = (NODES[self.rng.usize(0..NODES.len())], self.rng.bool());
            theme::taint(&self.api, node, ill.then_some(self.second().as_str()));
        }
    }

    /// The present moment, as objects have it.
    fn second(&self) -> String {
        self.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    /// Where a pod is put, if anywhere.
    fn schedule(&mut self, pod: &Value) -> Option<String> {
        let wanted = &pod["spec"]["affinity"]["nodeAffinity"];
        let wanted = &wanted["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"][0];
        let wanted = wanted["matchFields"][0]["values"][0].as_str().map(str::to_owned);
        let node = wanted.unwrap_or_else(|| NODES[self.rng.usize(0..NODES.len())].to_owned());
        let admitted = self.scenario.theme.is_none_or(|it| it.admits(&self.api.objects(), pod, &node));
        admitted.then_some(node)
    }

    fn processes_live_and_die(&mut self, step: u32) {
        let before = self.processes.len();
        self.processes.retain(|process| {
            if process.link.is_dead() {
                process.kill();
            }
            !process.link.is_dead()
        });
        self.outcome.crashes += (before - self.processes.len()) as u64;
        if self.overlap_ends.is_some_and(|end| end <= step) {
            self.overlap_ends = None;
            if self.processes.len() > 1 {
                self.processes.remove(0).kill();
            }
        }
        let wants_two = self.scenario.two_leaders && self.overlap_ends.is_none() && self.rng.u32(0..20) == 0;
        if wants_two && self.processes.len() == 1 {
            self.overlap_ends = Some(step + self.rng.u32(1..20));
            self.outcome.overlaps += 1;
            self.start();
        }
        if self.processes.is_empty() && self.rng.u32(0..3) == 0 {
            self.start();
        }
        self.judge.lock().leaders(self.processes.len());
    }

    fn tell_watches(&mut self, step: u32) {
        let all = step.is_multiple_of(20);
        for watch in self.api.waiting() {
            let chance = self.rng.u32(0..100);
            if all || chance < 40 {
                self.api.deliver(&watch, usize::MAX, 1);
            } else if chance < 60 {
                self.api.deliver(&watch, 1, 1);
            } else if chance < 65 {
                self.api.deliver(&watch, 3, 2);
            } else if chance < 67 && self.scenario.cuts {
                self.outcome.cuts += 1;
                let expire = self.rng.bool();
                self.api.cut(&watch, expire);
            }
        }
    }

    fn renew_leases(&mut self) {
        let now = self.clock.now();
        if now.as_second() - self.renewed < 10 {
            return;
        }
        self.renewed = now.as_second();
        for node in NODES {
            let time = format!("{now:.6}");
            self.api.edit("coordination.k8s.io/leases", "kube-node-lease", node, |lease| {
                lease["spec"]["renewTime"] = json!(time);
            });
        }
    }

    /// Plays scheduler and kubelets. `surely`: everything that can happen does, and nothing fails.
    fn run_kubelets(&mut self, surely: bool) {
        for (key, pod) in self.api.pods() {
            if surely || self.rng.u32(0..100) < 45 {
                self.run_pod(&key.2, &pod, surely);
            }
        }
    }

    fn run_pod(&mut self, name: &str, pod: &Value, surely: bool) {
        let phase = pod["status"]["phase"].as_str().unwrap_or_default();
        let bound = pod["spec"]["nodeName"].is_string();
        if is_going(pod) {
            if bound {
                self.api.finish_pod(NAMESPACE, name);
            }
            return;
        }
        let now = self.second();
        let ready = pod["status"]["conditions"]
            .as_array()
            .is_some_and(|it| it.iter().any(|it| it["type"] == "Ready" && it["status"] == "True"));
        let is_work = pod["metadata"]["ownerReferences"][0]["kind"] == "Job";
        let (mut node, mut end, mut serves) = (None, None, None);
        match phase {
            "Pending" if !bound => {
                let Some(chosen) = self.schedule(pod) else { return };
                node = Some(chosen);
            }
            "Pending" => serves = Some(false),
            "Running" if is_work && (surely || self.rng.bool()) => {
                end = Some(if surely || self.rng.u32(0..4) > 0 { "Succeeded" } else { "Failed" });
            }
            "Running" if !ready && !surely && is_slow(pod) => return,
            "Running" if !ready => serves = Some(true),
            "Running" if !surely && !self.scenario.steady_pods && self.rng.u32(0..25) == 0 => {
                match self.rng.u32(0..3) {
                    0 => serves = Some(false),
                    1 => end = Some("Failed"),
                    _ => self.api.delete("/pods", NAMESPACE, name, "Background"),
                }
                if serves.is_none() && end.is_none() {
                    return;
                }
            }
            _ => return,
        }
        let exit_code = match (end, self.scenario.theme) {
            (Some("Failed"), Some(theme)) => theme.exit_code(&mut self.rng),
            (end, _) => i64::from(end == Some("Failed")),
        };
        self.addresses += 1;
        let address = format!("10.{}.{}.{}", 1, self.addresses / 250, self.addresses % 250 + 1);
        self.api.edit("/pods", NAMESPACE, name, |pod| {
            if let Some(node) = node {
                pod["spec"]["nodeName"] = json!(node);
            }
            if let Some(end) = end {
                pod["status"]["phase"] = json!(end);
                pod["status"]["containerStatuses"] = json!([{"name": "main", "restartCount": 0, "ready": false,
                    "image": "", "imageID": "",
                    "state": {"terminated": {"exitCode": exit_code, "finishedAt": now}}}]);
            }
            if let Some(serves) = serves {
                let status = &mut pod["status"];
                status["phase"] = json!("Running");
                if !status["podIP"].is_string() {
                    status["podIP"] = json!(address);
                    status["podIPs"] = json!([{"ip": address}]);
                }
                status["conditions"] = json!([{"type": "Ready", "status": if serves { "True" } else { "False" },
                    "lastTransitionTime": now}]);
            } else if end.is_some() {
                pod["status"]["conditions"] = json!([{"type": "Ready", "status": "False", "lastTransitionTime": now}]);
            }
        });
    }

    fn act_as_user(&mut self) {
        let index = self.rng.usize(0..self.scenario.workloads.len());
        let workload = self.scenario.workloads[index].clone();
        if workload.edits && self.exists(workload.resource, &workload.name) {
            edit(&self.api, &mut self.rng, &workload);
        }
    }

    fn exists(&self, resource: &str, name: &str) -> bool {
        self.api.contains(resource, NAMESPACE, name)
    }

    fn sabotage(&self) {
        let objects = self.api.objects();
        let pods = objects.iter().filter(|(key, pod)| {
            let kind = &pod["metadata"]["ownerReferences"][0]["kind"];
            key.0 == "/pods" && (kind == "ReplicaSet" || kind == "DaemonSet")
        });
        for (_, pod) in pods {
            for copy in 0..10 {
                let mut pod = Value::clone(pod);
                pod["metadata"]["name"] =
                    json!(format!("{}-{copy}", pod["metadata"]["name"].as_str().unwrap()));
                pod["metadata"]["resourceVersion"] = Value::Null;
                self.api.create("/pods", &pod);
            }
        }
    }

    /// The last wishes of users, then nothing goes wrong any more until everybody is at rest.
    async fn finish(mut self, verbose: bool) -> Outcome {
        match self.scenario.ends_with {
            Ending::Stay => {}
            Ending::DeleteOwners => {
                for workload in self.scenario.workloads.clone() {
                    let policy = ["Background", "Foreground", "Orphan"][self.rng.usize(0..3)];
                    if self.exists(workload.resource, &workload.name) {
                        self.api.delete(workload.resource, NAMESPACE, &workload.name, policy);
                    }
                }
            }
            Ending::DeleteNamespace => self.api.delete("/namespaces", "", NAMESPACE, "Background"),
        }
        for workload in &self.scenario.workloads {
            if workload.resource == "batch/cronjobs" && self.exists(workload.resource, &workload.name) {
                self.api.edit(workload.resource, NAMESPACE, &workload.name, |cron| {
                    cron["spec"]["suspend"] = json!(true);
                });
            }
        }
        if self.scenario.theme == Some(Theme::Taints) {
            let now = self.second();
            theme::settle_taints(&self.api, &mut self.rng, &now);
        }
        self.scenario.faults = super::link::Faults::default();
        self.scenario.crashes = false;
        while self.processes.len() > 1 {
            self.processes.remove(0).kill();
        }
        self.processes.retain(|process| {
            process.link.mend();
            !process.link.is_dead()
        });
        if self.processes.is_empty() {
            self.start();
        }
        self.judge.lock().leaders(self.processes.len());
        let (mut changes, mut rested, mut waited) = (self.api.changes(), 0, 0);
        while rested < REST_SECONDS && waited < PATIENCE_SECONDS {
            self.renew_leases();
            self.run_kubelets(true);
            for watch in self.api.waiting() {
                self.api.deliver(&watch, usize::MAX, 1);
            }
            // While things move they are watched closely.
            // Two pauses, one for a lease and one for its watch, must fit into the time that nodes are given.
            let pause = if rested < 5 { 1 } else { 15 };
            tokio::time::sleep(Duration::from_secs(pause)).await;
            waited += pause;
            rested = if self.api.changes() == changes { rested + pause } else { 0 };
            changes = self.api.changes();
        }
        let mut broken = std::mem::take(&mut self.judge.lock().broken);
        if rested < REST_SECONDS {
            broken.push(format!("no rest in {PATIENCE_SECONDS} s"));
        }
        broken.extend(self.api.forbidden());
        broken.extend(ending::judge(&self.scenario, &self.api.objects(), &self.judge.lock()));
        if verbose {
            self.outcome.history = self.api.traced();
            self.outcome.fingerprint = self.api.fingerprint();
        }
        self.processes.iter().for_each(Process::kill);
        self.outcome.broken = broken;
        self.outcome.judged = self.judge.lock().judged;
        self.outcome
    }
}
