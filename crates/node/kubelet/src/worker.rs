//! One task per pod: it looks at what the runtime holds, decides, acts, and says what it saw.
//!
//! The worker is level driven. Whatever wakes it (a change of the pod, a container's end, a probe's new
//! result, a timer), it does the same: observe, publish the status, take the next actions. A restarted
//! kubelet therefore continues where the last one stopped, and touches nothing that is as it should be.

mod admitting;
mod kill;
mod mailbox;
mod probing;
mod resizing;
mod start;
mod starting;
mod storage;
mod terminations;
mod variables;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Preconditions};
use podium_client::{Api, EventType, error_chain, is_conflict, is_not_found, reference_of};
use podium_cri::v1;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    actions::{self, PodActions, SandboxPlan},
    backoff::{elapsed, go_duration},
    container_gc,
    context::Shared,
    metrics,
    observe::{self, Observer},
    pod::{self, ContainerKind},
    record::{ContainerRecord, PodRecord, RunState},
    resize::{self, Resize},
    rounds,
    status::{self, StartError, Verdict},
    status_writer::StatusWriter,
};
pub(crate) use kill::restored as kill_restored;
pub(crate) use mailbox::{Departure, Mailbox, Neighbours};
use probing::Probes;
pub(crate) use storage::references;

/// Upstream's minimum and maximum of the crash back-off.
pub(crate) const CRASH_INITIAL: Duration = Duration::from_secs(10);
pub(crate) const CRASH_LIMIT: Duration = Duration::from_secs(300);
/// The safety net: a look without any cause.
const RESYNC: Duration = Duration::from_secs(60);
/// How often a container that waits for its back-off says so in an event.
const HELD_EVENT_EVERY: Duration = Duration::from_secs(15);
/// Pause after the runtime did not answer.
const RUNTIME_RETRY: Duration = Duration::from_secs(1);

/// What a step leaves to be done.
enum Next {
    /// Look again now: something was changed.
    Now,
    /// Wait for a cause, at most until then.
    Wait(Option<Instant>),
    /// The pod is gone from the API and from here.
    Gone,
}

/// The task of one pod.
pub(crate) struct Worker {
    shared: Shared,
    mailbox: Arc<Mailbox>,
    /// The pod as the API has it.
    wanted: Arc<Pod>,
    /// The pod with the CPU and memory it was granted: what everything here is done after.
    pod: Arc<Pod>,
    resize: Resize,
    /// The API object is gone, though nobody waited for us.
    removed: bool,
    observer: Observer,
    record: PodRecord,
    writer: StatusWriter,
    probes: Probes,
    start_errors: BTreeMap<String, StartError>,
    /// Earliest next try of containers whose start failed, by name.
    retry_at: HashMap<String, Instant>,
    verdict: Option<Verdict>,
    /// The grace period in seconds that an eviction leaves.
    evicted_within: Option<i64>,
    admitted: bool,
    storage: storage::Storage,
    sandbox_retry: Option<(Instant, Duration)>,
    held_event: HashMap<String, Instant>,
    exits: HashMap<String, AbortOnDropHandle<()>>,
    /// How long the start of the pod takes.
    starting: starting::Starting,
    terminations: terminations::Terminations,
    /// The pod has run to its end by itself.
    over: bool,
    /// Everything it held has been let go; what is left is to wait for its deletion.
    finished: bool,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("pod", &pod::full_name(&self.pod)).finish_non_exhaustive()
    }
}

impl Worker {
    pub(crate) fn new(shared: Shared, pod: Arc<Pod>, mailbox: Arc<Mailbox>) -> Self {
        let writer = StatusWriter::start(&shared.client, shared.metrics.clone(), pod.clone());
        let probes = Probes::new(shared.clone(), mailbox.clone());
        let mut resize = Resize::default();
        Self {
            shared,
            mailbox,
            pod: resize.apply(&pod),
            wanted: pod,
            resize,
            removed: false,
            observer: Observer::default(),
            record: PodRecord::default(),
            writer,
            probes,
            start_errors: BTreeMap::new(),
            retry_at: HashMap::new(),
            verdict: None,
            evicted_within: None,
            admitted: false,
            storage: storage::Storage::default(),
            sandbox_retry: None,
            held_event: HashMap::new(),
            exits: HashMap::new(),
            starting: starting::Starting::default(),
            terminations: terminations::Terminations::default(),
            over: false,
            finished: false,
        }
    }

    /// Runs until the pod is gone or the kubelet stops. A stop leaves the containers running.
    pub(crate) async fn run(mut self) {
        let shutdown = self.shared.shutdown.clone();
        self.starting.worker_begins(&self.shared.metrics, &self.pod);
        loop {
            let updated = self.read_mail();
            let (kind, began) = (self.starting.operation(updated), std::time::Instant::now());
            let next = tokio::select! {
                next = self.step() => next,
                () = shutdown.cancelled() => return,
            };
            self.shared.metrics.since(&metrics::POD_WORKER, &[("operation_type", kind)], began);
            match next {
                Next::Now => {}
                Next::Gone => return,
                Next::Wait(until) => {
                    let until = until.unwrap_or_else(|| Instant::now() + RESYNC);
                    tokio::select! {
                        () = self.mailbox.wait() => {}
                        () = tokio::time::sleep_until(until) => {}
                        () = shutdown.cancelled() => return,
                    }
                }
            }
        }
    }

    /// Takes in what has come; whether the pod is another than before.
    fn read_mail(&mut self) -> bool {
        let mail = self.mailbox.take();
        let updated = mail.pod.is_some();
        if let Some(pod) = mail.pod {
            self.writer.learn(&pod);
            // Volumes may show labels and annotations.
            self.storage.stale |= pod.metadata.labels != self.wanted.metadata.labels
                || pod.metadata.annotations != self.wanted.metadata.annotations;
            self.pod = self.resize.apply(&pod);
            for [resource, requirement, operation] in resize::asked(&self.wanted, &pod) {
                let labels = [("operation", operation), ("requirement", requirement), ("resource", resource)];
                self.shared.metrics.count(&metrics::RESIZES_ASKED, &labels);
            }
            self.wanted = pod;
        }
        if let Some(mirror) = mail.mirror {
            self.writer.learn(&mirror);
        }
        self.removed |= mail.removed;
        self.storage.stale |= mail.references_changed;
        if let Some((verdict, grace)) = mail.evict {
            // A shutdown may come to a pod that has to go already: it has another reason then, but less time.
            self.evicted_within = Some(self.evicted_within.map_or(grace, |within| within.min(grace)));
            self.verdict.get_or_insert(verdict);
        }
        updated
    }

    fn ending(&self) -> bool {
        self.over
            || self.removed
            || self.verdict.is_some()
            || pod::is_deleting(&self.pod)
            || self.over_in_api()
    }

    /// Does some work that can take long; None if the pod is to end meanwhile, and the work is left where it was.
    ///
    /// On the heap: what a worker does is nested so deeply that by itself it would fill a thread's stack.
    async fn unless_ending<T>(&mut self, mut work: BoxFuture<'_, T>) -> Option<T> {
        let mut heard = false;
        let outcome = loop {
            tokio::select! {
                outcome = work.as_mut() => break Some(outcome),
                () = self.mailbox.wait() => {
                    heard = true;
                    self.read_mail();
                    if self.ending() {
                        break None;
                    }
                    self.publish(false);
                }
            }
        };
        if heard {
            // It may have been about something else, which nobody has looked at yet.
            self.mailbox.wake();
        }
        outcome
    }

    fn over_in_api(&self) -> bool {
        pod::is_terminal_phase(self.writer.known().status.as_ref().and_then(|status| status.phase.as_deref()))
    }

    async fn observe(&mut self) -> Result<(), podium_cri::Error> {
        let began = std::time::Instant::now();
        self.record = self.observer.look(&self.shared.cri, pod::uid(&self.pod)).await?;
        self.shared.metrics.since(&metrics::POD_LOOK, &[], began);
        self.record.round = rounds::began(&self.pod, &self.record);
        self.watch_exits();
        let running: Vec<_> =
            self.record.containers.iter().filter(|one| one.state == RunState::Running).collect();
        self.resize.observe(&self.pod, &running);
        let kinds = if self.ending() { &[pod::ProbeKind::Readiness][..] } else { &pod::ProbeKind::ALL[..] };
        let known = self.writer.known();
        self.probes.update(&self.pod, &self.record, &known, kinds);
        Ok(())
    }

    async fn step(&mut self) -> Next {
        if let Err(error) = self.observe().await {
            tracing::warn!(pod = pod::full_name(&self.pod), %error, "cannot read the pod from the runtime");
            return Next::Wait(Some(Instant::now() + RUNTIME_RETRY));
        }
        if !self.ending() && !self.admitted {
            self.admit().await;
        }
        if !self.ending() {
            self.check_deadline();
        }
        if self.ending() {
            return self.end().await;
        }
        self.consider_resize();
        let plan = self.plan();
        let resized = if plan.is_idle() { self.finish_resize().await } else { None };
        let over = plan.kill_pod && matches!(plan.sandbox, SandboxPlan::None | SandboxPlan::Keep { .. });
        self.note_held(&plan);
        self.publish(false);
        if over {
            return self.finish().await;
        }
        self.storage.stale |= self.token_is_due();
        if self.storage.stale && self.storage.ready {
            self.refresh_storage().await;
        }
        self.remove_dead().await;
        let mut until = Instant::now() + RESYNC;
        let mut sooner = |at: Option<Instant>| until = at.map_or(until, |at| until.min(at));
        sooner(
            plan.held
                .iter()
                .map(|held| held.remaining.min(HELD_EVENT_EVERY))
                .min()
                .map(|wait| Instant::now() + wait),
        );
        sooner(self.deadline());
        sooner(self.token_renewal());
        sooner(resized);
        if plan.is_idle() {
            return Next::Wait(Some(until));
        }
        match Box::pin(self.act(plan)).await {
            None => Next::Now,
            Some(at) => {
                sooner(Some(at));
                self.publish(false);
                Next::Wait(Some(until))
            }
        }
    }

    fn plan(&self) -> PodActions {
        let backoff = self.shared.crashes.lock();
        actions::compute_actions(&actions::Seen {
            pod: &self.pod,
            record: &self.record,
            probe: &|id, kind| self.probes.result(id, kind),
            backoff: &backoff,
            actual: &self.resize.actual,
            now: Timestamp::now(),
        })
    }

    fn deadline(&self) -> Option<Instant> {
        let limit = self.pod.spec.as_ref()?.active_deadline_seconds?;
        let started = self.writer.known().status.as_ref()?.start_time.clone()?.0;
        let passed = elapsed(started, Timestamp::now());
        let limit = Duration::from_secs(u64::try_from(limit).ok()?);
        Some(Instant::now() + limit.saturating_sub(passed))
    }

    fn check_deadline(&mut self) {
        if self.deadline().is_some_and(|at| at <= Instant::now()) {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            let about = reference_of(&*self.pod);
            self.shared.recorder.event(&about, EventType::Normal, "DeadlineExceeded", message.clone());
            self.verdict = Some(Verdict::plain("DeadlineExceeded", message));
        }
    }

    fn token_renewal(&self) -> Option<Instant> {
        let at = self.shared.tokens.next_renewal(pod::uid(&self.pod))?;
        Some(Instant::now() + elapsed(Timestamp::now(), at).max(Duration::from_secs(1)))
    }

    fn token_is_due(&self) -> bool {
        self.shared.tokens.next_renewal(pod::uid(&self.pod)).is_some_and(|at| at <= Timestamp::now())
    }

    /// Containers that wait for their back-off say so in their status and, now and then, in an event.
    fn note_held(&mut self, plan: &PodActions) {
        let full = pod::full_name(&self.pod);
        for held in &plan.held {
            let message = format!(
                "back-off {} restarting failed container={} pod={full}",
                go_duration(held.delay),
                held.name
            );
            self.start_errors
                .insert(held.name.clone(), StartError { reason: "CrashLoopBackOff".to_owned(), message });
            let now = Instant::now();
            if self.held_event.get(&held.name).is_none_or(|last| now - *last >= HELD_EVENT_EVERY) {
                self.held_event.insert(held.name.clone(), now);
                let about = self.shared.container_reference(&self.pod, held.kind, &held.name);
                let text = format!("Back-off restarting failed container {} in pod {full}", held.name);
                self.shared.recorder.event(&about, EventType::Warning, "BackOff", text);
            }
        }
    }

    /// Computes the status and hands it to the writer.
    fn publish(&mut self, terminal: bool) {
        let known = self.writer.known();
        let old = known.status.clone().unwrap_or_default();
        let host_ips = self.shared.host_ips();
        let mut status = status::generate(&status::Seen {
            pod: &self.pod,
            record: &self.record,
            old: &old,
            start_errors: &self.start_errors,
            probe: &|id, kind| self.probes.result(id, kind),
            terminal,
            verdict: self.verdict.as_ref(),
            resize: &self.resize,
            host_ips: &host_ips,
            runtime: &self.shared.runtime_name,
            now: Timestamp::now(),
        });
        self.shared.container_manager.show(&self.pod, &mut status);
        self.starting.observe(&self.shared.metrics, &self.pod, &status);
        self.terminations.observe(&self.shared.metrics, &old, &status);
        self.writer.publish(status);
    }

    /// Carries the decision out. None if something was done and a new look is due; otherwise when to
    /// try again.
    async fn act(&mut self, plan: PodActions) -> Option<Instant> {
        if plan.kill_pod {
            let about = reference_of(&*self.pod);
            let text = "Pod sandbox changed, it will be killed and re-created.";
            self.shared.recorder.event(&about, EventType::Normal, "SandboxChanged", text);
            self.kill_pod().await?;
            self.forget_inits().await;
        }
        let again = self.raise_group().await;
        for kill in &plan.kill {
            self.kill_container(kill).await?;
        }
        if !plan.start.is_empty()
            && let Err(at) = self.ensure_storage().await
        {
            return Some(at);
        }
        if let SandboxPlan::Create { attempt, .. } = plan.sandbox {
            return self.create_sandbox(attempt).await;
        }
        let SandboxPlan::Keep { id } = &plan.sandbox else { return None };
        let started =
            if plan.start.is_empty() { again } else { self.start_containers(id, &plan.start).await };
        if plan.resize.is_empty() || again.is_some() {
            return started;
        }
        self.resize_containers(&plan.resize).await.or(started)
    }

    /// Removes runs of containers that nobody can ask for any more, with their logs: of each container
    /// the newest two stay at least, for `logs --previous` and the last state. Sandboxes that were replaced go too.
    async fn remove_dead(&mut self) {
        let cri = &self.shared.cri;
        if let Some(most) = self.shared.config.container_gc.per_container {
            for one in expendable(&self.record, most.max(1) + 1) {
                if let Err(error) = container_gc::remove(&self.shared, &one.id, &one.log_path).await {
                    tracing::debug!(container = one.name, %error, "removing an old container failed");
                }
            }
        }
        let used = |id: &str| self.record.containers.iter().any(|one| one.sandbox_id == id);
        for old in self.record.sandboxes.iter().skip(1).filter(|old| !old.ready && !used(&old.id)) {
            let request = v1::RemovePodSandboxRequest { pod_sandbox_id: old.id.clone() };
            if let Err(error) = cri.remove_pod_sandbox(request).await {
                tracing::debug!(%error, "removing an old sandbox failed");
            }
        }
    }

    /// Before a pod starts anew, its init containers' old runs are removed: they would count as done.
    async fn forget_inits(&mut self) {
        for container in pod::init_containers(&self.pod) {
            for old in self.record.containers.iter().filter(|old| old.name == container.name) {
                let request = v1::RemoveContainerRequest { container_id: old.id.clone() };
                if let Err(error) = self.shared.cri.remove_container(request).await {
                    tracing::warn!(pod = pod::full_name(&self.pod), %error, "removing an init container failed");
                }
            }
        }
    }

    /// The pod has run to its end by itself: stop what is left and let its resources go.
    async fn finish(&mut self) -> Next {
        if self.record.live().next().is_some() || self.record.sandboxes.iter().any(|sandbox| sandbox.ready) {
            if self.kill_pod().await.is_none() {
                return Next::Now;
            }
            if self.observe().await.is_err() {
                return Next::Wait(Some(Instant::now() + RUNTIME_RETRY));
            }
        }
        self.over = true;
        self.publish(true);
        self.writer.flush().await;
        Next::Now
    }

    /// The pod is to end, or has ended.
    async fn end(&mut self) -> Next {
        if !self.record.is_down() {
            self.probes.stop_restarting();
            self.publish(false);
            if !self.terminate().await {
                return Next::Wait(Some(Instant::now() + RUNTIME_RETRY));
            }
        }
        self.publish(true);
        if !self.finished {
            if let Err(error) = self.release().await {
                tracing::warn!(pod = pod::full_name(&self.pod), error, "cleaning up after a pod failed");
                return Next::Wait(Some(Instant::now() + RUNTIME_RETRY));
            }
            self.finished = true;
            if *self.shared.leaving.borrow() {
                // The machine goes down when the last pod has ended; the API should know before.
                self.writer.flush().await;
            }
            self.mailbox.set_active(false);
        }
        if !(self.removed || pod::is_deleting(&self.pod)) {
            return Next::Wait(None);
        }
        if !self.removed {
            self.writer.flush().await;
        }
        if let Err(error) = self.remove_files().await {
            tracing::warn!(pod = pod::full_name(&self.pod), error, "removing a pod's files failed");
            return Next::Wait(Some(Instant::now() + RUNTIME_RETRY));
        }
        if !self.removed
            && let Err(error) = self.delete_object().await
        {
            tracing::warn!(
                pod = pod::full_name(&self.pod),
                error = error_chain(&error),
                "deleting a pod failed"
            );
            return Next::Wait(Some(Instant::now() + RUNTIME_RETRY));
        }
        self.remove_from_runtime().await;
        Next::Gone
    }

    /// How long the pod has to end, in seconds. A deletion may shorten what an eviction left, but not lengthen it.
    fn grace(&self) -> i64 {
        let own = kill::grace_of(&self.pod);
        match self.evicted_within {
            Some(within) if pod::is_deleting(&self.pod) => within.min(own),
            Some(within) => within,
            None => own,
        }
    }

    /// Stops everything, meanwhile reading mail: a second deletion may shorten the grace period.
    async fn terminate(&mut self) -> bool {
        let (sender, grace) = tokio::sync::watch::channel(self.grace());
        let (shared, target, record) = (self.shared.clone(), self.pod.clone(), self.record.clone());
        let mut killing = Box::pin(kill::pod(&shared, &target, &record, grace));
        loop {
            tokio::select! {
                () = &mut killing => break,
                () = self.mailbox.wait() => {
                    self.read_mail();
                    let wanted = self.grace();
                    sender.send_if_modified(|current| {
                        let shorter = wanted < *current;
                        if shorter { *current = wanted; }
                        shorter
                    });
                    if self.observe().await.is_ok() {
                        self.publish(false);
                    }
                }
            }
        }
        self.observe().await.is_ok() && self.record.is_down()
    }

    /// Lets volumes and cgroups go.
    async fn release(&mut self) -> Result<(), String> {
        self.exits.clear();
        self.probes.clear();
        let uid = pod::uid(&self.pod).to_owned();
        self.shared.references.set(&uid, pod::namespace(&self.pod), &[]);
        self.shared.tokens.forget(&uid);
        self.shared.trust_bundles.forget(&uid);
        self.shared.images.forget(&uid);
        let (namespace, name) = (pod::namespace(&self.pod), pod::name(&self.pod));
        self.shared.metrics.forget(&metrics::PROBES, &[("pod_uid", &uid)]);
        self.shared.metrics.forget(&metrics::PROBE_DURATION, &[("namespace", namespace), ("pod", name)]);
        self.shared.container_manager.release(&uid).await?;
        self.shared.crashes.lock().forget_prefix(&format!("{uid}/"));
        let (shared, pod) = (self.shared.clone(), self.pod.clone());
        if shared.mounting.is_busy(shared.pod_dir(&uid).path()) {
            return Err("a volume is still being mounted".to_owned());
        }
        let done = tokio::task::spawn_blocking(move || {
            crate::volumes::release(&shared.pod_dir(&uid)).map_err(|error| error.to_string())?;
            shared.remove_group(&shared.cgroups.pod_path(&pod)).map_err(|error| error.to_string())
        });
        done.await.map_err(|error| error.to_string())?
    }

    async fn delete_object(&self) -> Result<(), kube::Error> {
        let api: Api<Pod> = Api::namespaced(self.shared.client.clone(), pod::namespace(&self.pod));
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(pod::uid(&self.pod).to_owned()),
                ..Default::default()
            }),
            ..Default::default()
        };
        match api.delete(pod::name(&self.pod), &params).await {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes what release() has left on disk.
    async fn remove_files(&self) -> Result<(), String> {
        let directory = self.shared.pod_dir(pod::uid(&self.pod));
        let removed = tokio::task::spawn_blocking(move || crate::volumes::teardown(&directory)).await;
        removed.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    /// Removes sandboxes (and with them containers) and logs. What fails is left to garbage collection.
    async fn remove_from_runtime(&self) {
        for sandbox in &self.record.sandboxes {
            let request = v1::RemovePodSandboxRequest { pod_sandbox_id: sandbox.id.clone() };
            if let Err(error) = self.shared.cri.remove_pod_sandbox(request).await {
                tracing::warn!(pod = pod::full_name(&self.pod), %error, "removing a sandbox failed");
            }
        }
        let logs = self.shared.log_directory(&self.pod);
        let removed = tokio::task::spawn_blocking(move || podium_shim::remove::tree(&logs)).await;
        if let Ok(Err(error)) = removed
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(pod = pod::full_name(&self.pod), %error, "removing logs failed");
        }
    }

    /// Watches the processes of everything that runs, so that an end is noticed when it happens.
    fn watch_exits(&mut self) {
        let live = |id: &str, record: &PodRecord| {
            record.containers.iter().any(|one| one.id == id && one.state == RunState::Running)
                || record.sandboxes.iter().any(|one| one.id == id && one.ready)
        };
        let record = &self.record;
        self.exits.retain(|id, task| live(id, record) && !task.is_finished());
        let containers = record
            .containers
            .iter()
            .filter(|one| one.state == RunState::Running)
            .map(|one| (one.id.clone(), false));
        let sandboxes = record.sandboxes.iter().filter(|one| one.ready).map(|one| (one.id.clone(), true));
        for (id, is_sandbox) in containers.chain(sandboxes) {
            if !self.exits.contains_key(&id) {
                let task = watch_exit(self.shared.clone(), self.mailbox.clone(), id.clone(), is_sandbox);
                self.exits.insert(id, AbortOnDropHandle::new(tokio::spawn(task)));
            }
        }
    }
}

/// Ended runs of containers beyond the newest of each name.
fn expendable(record: &PodRecord, newest: usize) -> Vec<&ContainerRecord> {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    record
        .containers
        .iter()
        .filter(|one| {
            let count = seen.entry(one.name.as_str()).or_default();
            *count += 1;
            *count > newest && one.state == RunState::Exited
        })
        .collect()
}

/// Waits for a process's end, then until the runtime has noticed it too, and wakes the worker.
async fn watch_exit(shared: Shared, mailbox: Arc<Mailbox>, id: String, is_sandbox: bool) {
    let Some(pid) = pid(&shared, &id, is_sandbox).await else {
        // The runtime does not say: the slow look over everything has to do.
        return;
    };
    if let Err(error) = crate::exits::ended(pid).await {
        tracing::debug!(pid, %error, "cannot watch a process");
        return;
    }
    let mut pause = Duration::from_millis(5);
    while pause < Duration::from_secs(2) {
        let running = if is_sandbox {
            let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false };
            let answer = shared.cri.pod_sandbox_status(request).await;
            answer.is_ok_and(|answer| {
                answer.status.is_some_and(|status| status.state() == v1::PodSandboxState::SandboxReady)
            })
        } else {
            let request = v1::ContainerStatusRequest { container_id: id.clone(), verbose: false };
            let answer = shared.cri.container_status(request).await;
            answer.is_ok_and(|answer| {
                answer.status.is_some_and(|status| status.state() == v1::ContainerState::ContainerRunning)
            })
        };
        if !running {
            break;
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    mailbox.wake();
}

async fn pid(shared: &Shared, id: &str, is_sandbox: bool) -> Option<i32> {
    let info = if is_sandbox {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
        shared.cri.pod_sandbox_status(request).await.ok()?.info
    } else {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
        shared.cri.container_status(request).await.ok()?.info
    };
    observe::pid_of(&info)
}

/// The containers of a kind, by value: ephemeral ones have to be converted.
pub(crate) fn container_at(
    pod: &Pod,
    kind: ContainerKind,
    index: usize,
) -> Option<k8s_openapi::api::core::v1::Container> {
    match kind {
        ContainerKind::Init => pod::init_containers(pod).get(index).cloned(),
        ContainerKind::Regular => pod::containers(pod).get(index).cloned(),
        ContainerKind::Ephemeral => pod::ephemeral_containers(pod).into_iter().nth(index),
    }
}
