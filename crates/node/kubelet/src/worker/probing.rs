//! The probes of one pod's running containers: a task for each, their settled results in one table.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use parking_lot::Mutex;
use podium_client::EventType;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    context::Shared,
    environment::expand,
    metrics,
    pod::{self, ContainerKind, ProbeKind},
    probes::{self, ProbeState, run::Target},
    record::{PodRecord, RunState},
    worker::Mailbox,
};

type Key = (String, ProbeKind);

/// Results by container id and kind.
type Results = Arc<Mutex<HashMap<Key, Option<bool>>>>;

/// All probes of one pod.
pub(crate) struct Probes {
    shared: Shared,
    mailbox: Arc<Mailbox>,
    results: Results,
    tasks: HashMap<Key, AbortOnDropHandle<()>>,
}

/// One probe of one run of a container.
struct Subject {
    shared: Shared,
    mailbox: Arc<Mailbox>,
    results: Results,
    pod: Arc<Pod>,
    kind_of_container: ContainerKind,
    container: Container,
    id: String,
    address: Option<IpAddr>,
    kind: ProbeKind,
    probe: Probe,
    /// The command of an exec probe, with the container's literal variables filled in.
    command: Option<Vec<String>>,
}

/// An exec probe's command as upstream expands it: only variables with literal values count.
fn command(probe: &Probe, container: &Container) -> Option<Vec<String>> {
    let command = probe.exec.as_ref()?.command.as_ref()?;
    let literal = |name: &str| {
        let found = container.env.iter().flatten().rfind(|env| env.name == name && env.value_from.is_none());
        found.map(|env| env.value.clone().unwrap_or_default())
    };
    Some(command.iter().map(|text| expand(text, literal)).collect())
}

impl Probes {
    pub(crate) fn new(shared: Shared, mailbox: Arc<Mailbox>) -> Self {
        Self { shared, mailbox, results: Results::default(), tasks: HashMap::new() }
    }

    /// The settled result of a container's probe; None while there is none.
    pub(crate) fn result(&self, id: &str, kind: ProbeKind) -> Option<bool> {
        self.results.lock().get(&(id.to_owned(), kind)).copied().flatten()
    }

    /// Starts the probes of containers that run, as far as they are due, and ends the others.
    /// `known` is the pod as the API has it: what was ready before a restart of ours stays ready.
    pub(crate) fn update(&mut self, pod: &Arc<Pod>, record: &PodRecord, known: &Pod, kinds: &[ProbeKind]) {
        let running = |id: &str| record.containers.iter().any(|c| c.id == id && c.state == RunState::Running);
        self.tasks.retain(|(id, kind), _| running(id) && kinds.contains(kind));
        self.results.lock().retain(|(id, _), _| running(id));
        for one in record.containers.iter().filter(|one| one.state == RunState::Running) {
            let Some((kind_of_container, container)) = pod::find_container(pod, &one.name) else { continue };
            let restartable = kind_of_container == ContainerKind::Regular
                || (kind_of_container == ContainerKind::Init && pod::is_sidecar(&container));
            if !restartable {
                continue;
            }
            let started =
                container.startup_probe.is_none() || self.result(&one.id, ProbeKind::Startup) == Some(true);
            for kind in kinds {
                let Some(probe) = kind.of(&container) else { continue };
                let key = (one.id.clone(), *kind);
                if self.results.lock().contains_key(&key) && self.tasks.contains_key(&key) {
                    continue;
                }
                let state = ProbeState::new(*kind, self.before(known, one.started_at, &one.id, *kind));
                self.results.lock().entry(key.clone()).or_insert(state.result());
                if (*kind != ProbeKind::Startup && !started) || state.is_over() {
                    continue;
                }
                let ips = record.sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default();
                let subject = Subject {
                    shared: self.shared.clone(),
                    mailbox: self.mailbox.clone(),
                    results: self.results.clone(),
                    pod: pod.clone(),
                    kind_of_container,
                    container: container.clone(),
                    id: one.id.clone(),
                    address: self.shared.address_of(pod, &ips),
                    kind: *kind,
                    probe: probe.clone(),
                    command: command(probe, &container),
                };
                let began =
                    Timestamp::from_nanosecond(i128::from(one.started_at)).unwrap_or(Timestamp::UNIX_EPOCH);
                self.tasks.insert(key, AbortOnDropHandle::new(tokio::spawn(subject.run(state, began))));
            }
        }
    }

    /// What the API says about a container that ran before this kubelet came up.
    fn before(&self, known: &Pod, started_at: i64, id: &str, kind: ProbeKind) -> Option<bool> {
        if i128::from(started_at) >= self.shared.started.as_nanosecond() {
            return None;
        }
        let status = pod::all_statuses(known)
            .find(|status| status.container_id.as_deref().is_some_and(|have| have.ends_with(id)))?;
        match kind {
            ProbeKind::Readiness => Some(status.ready),
            ProbeKind::Startup => status.started,
            ProbeKind::Liveness => None,
        }
    }

    /// A pod that ends is not restarted any more: only readiness is still of interest.
    pub(crate) fn stop_restarting(&mut self) {
        self.tasks.retain(|(_, kind), _| *kind == ProbeKind::Readiness);
    }

    /// Ends all probes.
    pub(crate) fn clear(&mut self) {
        self.tasks.clear();
    }
}

impl Subject {
    async fn run(self, mut state: ProbeState, began: Timestamp) {
        tokio::time::sleep(probes::first_run_in(&self.probe, began, Timestamp::now())).await;
        let mut ticks = tokio::time::interval(probes::period(&self.probe).max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !state.is_over() {
            ticks.tick().await;
            let target = Target {
                cri: &self.shared.cri,
                container: &self.container,
                container_id: &self.id,
                address: self.address,
                command: self.command.as_deref(),
            };
            let asked = std::time::Instant::now();
            let answer = probes::run::run(&self.probe, &target).await;
            self.count(&answer, asked);
            if let Some((reason, message)) = probes::event(self.kind, &answer) {
                let about =
                    self.shared.container_reference(&self.pod, self.kind_of_container, &self.container.name);
                self.shared.recorder.event(&about, EventType::Warning, reason, message);
            }
            if state.observe(&self.probe, &answer) {
                self.results.lock().insert((self.id.clone(), self.kind), state.result());
                self.mailbox.wake();
            }
        }
    }

    /// Notes an answer, under upstream's words for it.
    fn count(&self, answer: &probes::Answer, asked: std::time::Instant) {
        let result = match answer {
            probes::Answer::Success | probes::Answer::Warning(_) => "successful",
            probes::Answer::Failure(_) => "failed",
            probes::Answer::Error(_) => "unknown",
        };
        let kind = match self.kind {
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
            ProbeKind::Startup => "Startup",
        };
        let (namespace, name, uid) = (pod::namespace(&self.pod), pod::name(&self.pod), pod::uid(&self.pod));
        let about = [
            ("container", self.container.name.as_str()),
            ("namespace", namespace),
            ("pod", name),
            ("probe_type", kind),
        ];
        let [container, namespace, name, kind] = about;
        let all = [container, namespace, name, ("pod_uid", uid), kind, ("result", result)];
        self.shared.metrics.count(&metrics::PROBES, &all);
        if result == "successful" {
            self.shared.metrics.since(&metrics::PROBE_DURATION, &about, asked);
        }
    }
}
