//! The manager's part of eviction: measures the node, and when it is short of something removes images first and then, one
//! after the other, pods.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Pod;
use nix::sys::statvfs::statvfs;
use podium_client::EventType;
use podium_cri::v1;

use super::{Pods, is_over, memory_notice};
use crate::{
    container_gc::{self, Scope},
    eviction::{
        self, Candidate,
        state::{Observations, Observed, State, is_met},
        thresholds::{Signal, Threshold},
    },
    image_gc,
    local_storage::{self, Unit},
    metrics,
    node::{self, machine::memory},
    pod,
    record::label,
    status::Verdict,
};

/// How often the node is measured, and how long a relief is given to show.
const EVERY: Duration = Duration::from_secs(10);
const AFTER_EVICTION: Duration = Duration::from_secs(20);
const AFTER_NOTICE: Duration = Duration::from_millis(100);
/// How long what is over may take to let go of what it holds, before the rest goes.
const SETTLE: Duration = Duration::from_secs(10);

/// What pods use, by uid, and of that their containers by name.
type Usage = HashMap<String, (i64, BTreeMap<String, i64>)>;

impl Pods {
    /// When memory, disk or processes are short, one pod after the other has to go.
    pub(super) async fn relieve(&self) {
        let settings = &self.shared.config.settings;
        let mut state = State::default();
        let mut images = None;
        if settings.kernel_memcg_notification && self.shared.cgroups.is_v2() {
            tracing::info!("kernelMemcgNotification has no effect: cgroups of version 2 give no such notice");
        }
        let mut complete = self.complete.subscribe();
        loop {
            // Before the look, so that what comes while it goes on is a reason for another.
            let known = *complete.borrow_and_update();
            if images.is_none() {
                images = self.images_at().await;
            }
            let began = Instant::now();
            let observed = self.observe_node(images.as_deref()).await;
            let transition = settings.eviction_pressure_transition_period.0;
            let outcome = state.look(&self.shared.thresholds, &observed, transition, Instant::now());
            *self.shared.pressures.lock() = outcome.pressures;
            let evicted = match outcome.reclaim {
                Some(threshold) => self.reclaim(&threshold, (&observed, began), images.as_deref()).await,
                None => false,
            };
            if evicted {
                // Time to let go of what it held, before another has to go.
                tokio::time::sleep(AFTER_EVICTION).await;
                continue;
            }
            let notices = if settings.kernel_memcg_notification {
                memory_notice::ask(&self.shared.cgroups, &self.shared.thresholds, &observed)
            } else {
                Vec::new()
            };
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                // A disk that is short has waited for this.
                true = async { complete.wait_for(|complete| *complete).await.is_ok() }, if !known => {}
                // Use that goes up and down about a threshold crosses it again and again.
                () = memory_notice::any(&notices) => tokio::time::sleep(AFTER_NOTICE).await,
            }
        }
    }

    /// True if a pod has to go.
    async fn reclaim(
        &self,
        threshold: &Threshold,
        (observed, at): (&Observations, Instant),
        images: Option<&Path>,
    ) -> bool {
        let signal = threshold.signal;
        let about = node::reference(&self.shared.config.node_name);
        let text = format!("Attempting to reclaim {}", signal.resource());
        self.shared.recorder.event(&about, EventType::Warning, "EvictionThresholdMet", text);
        if signal.is_disk() && self.counted(signal, images).layers {
            if !self.is_complete() {
                // Images of pods that nobody has told us of yet look unused.
                return false;
            }
            self.settle().await;
            // What nobody uses goes before pods do: ended containers, which hold images, then images.
            if let Err(error) = container_gc::collect(&self.shared, self, Scope::Over).await {
                tracing::warn!(%error, "removing ended containers failed");
            }
            if let Err(error) = self.shared.image_gc.remove_unused(&self.shared, self).await {
                tracing::warn!(%error, "removing unused images failed");
            }
            let after = self.observe_node(images).await;
            if !self.shared.thresholds.iter().any(|one| is_met(one, &after, true)) {
                return false;
            }
        }
        let usage =
            if signal.is_disk() { self.disk_usage(signal, images).await } else { self.usage(signal).await };
        let candidates: Vec<Candidate> = self
            .staying()
            .into_iter()
            .map(|pod| {
                let (used, containers) = usage.get(pod::uid(&pod)).cloned().unwrap_or_default();
                Candidate { pod, used, containers }
            })
            .collect();
        let Some(seen) = observed.get(&signal) else { return false };
        self.shared.metrics.since(&metrics::EVICTION_AGE, &[("eviction_signal", signal.name())], at);
        let Some((pod, verdict)) = eviction::choose(&candidates, threshold, *seen) else {
            tracing::warn!(resource = signal.resource(), "no pod may be evicted");
            return false;
        };
        let most = self.shared.config.settings.eviction_max_pod_grace_period;
        let grace = eviction::grace_seconds(threshold, &pod, most);
        // What it holds is free only when it has ended; another that went meanwhile would go for nothing.
        if let Some(ended) = self.evict(&pod, verdict, grace) {
            self.shared.metrics.count(&metrics::EVICTIONS, &[("eviction_signal", signal.name())]);
            if tokio::time::timeout(eviction::patience(grace), ended).await.is_err() {
                tracing::warn!(pod = pod::full_name(&pod), "an evicted pod has not ended in its time");
            }
        }
        true
    }

    /// Waits for workers whose pods the API says are over: at a start they have yet to find out, and until then what such a
    /// pod has in the runtime is kept.
    async fn settle(&self) {
        let ends: Vec<_> = {
            let entries = self.entries.lock();
            let over = entries.values().filter(|entry| is_over(&entry.pod) && entry.mailbox.is_active());
            over.map(|entry| entry.mailbox.ended()).collect()
        };
        if tokio::time::timeout(SETTLE, futures::future::join_all(ends)).await.is_err() {
            tracing::warn!("pods that are over still hold something");
        }
    }

    /// Tells a pod to go. What it gives returns when the pod has ended; None if it is not here, or knows already.
    pub(super) fn evict(
        &self,
        pod: &Pod,
        verdict: Verdict,
        grace: i64,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        let (reason, message) = (verdict.reason.clone(), verdict.message.clone());
        let (first, ended) = {
            let entries = self.entries.lock();
            let mailbox = &entries.get(pod::uid(pod))?.mailbox;
            (mailbox.evict(verdict, grace), mailbox.ended())
        };
        if first {
            let about = podium_client::reference_of(pod);
            self.shared.recorder.event(&about, EventType::Warning, &reason, message);
        }
        first.then_some(ended)
    }

    pub(super) async fn container_stats(&self) -> Vec<v1::ContainerStats> {
        let request = v1::ListContainerStatsRequest::default();
        self.shared.cri.list_container_stats(request).await.map(|all| all.stats).unwrap_or_default()
    }

    fn counted(&self, signal: Signal, images: Option<&Path>) -> Counted {
        Counted::of(signal, images.is_none_or(|images| one_disk(&self.shared.config.root_dir, images)))
    }

    /// What each pod has on the disk that a signal is about.
    async fn disk_usage(&self, signal: Signal, images: Option<&Path>) -> Usage {
        let unit = if signal.resource() == "inodes" { Unit::Inodes } else { Unit::Bytes };
        let counted = self.counted(signal, images);
        let mut layers = if counted.layers { self.layers(unit).await } else { HashMap::new() };
        let mut usage = Usage::new();
        let number = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
        for pod in self.active() {
            let own = layers.remove(pod::uid(&pod)).unwrap_or_default();
            let measured = if counted.local {
                self.measure(&pod, own, unit).await
            } else {
                local_storage::Usage { containers: own, ..local_storage::Usage::default() }
            };
            let total = number(local_storage::on_disk(&pod, &measured));
            let containers =
                measured.containers.into_iter().map(|(name, used)| (name, number(used))).collect();
            usage.insert(pod::uid(&pod).to_owned(), (total, containers));
        }
        usage
    }

    /// What each pod uses of memory or processes.
    async fn usage(&self, signal: Signal) -> Usage {
        let mut usage = Usage::new();
        let mut add = |uid: String, container: Option<String>, amount: Option<u64>| {
            let amount = i64::try_from(amount.unwrap_or(0)).unwrap_or(i64::MAX);
            let (sum, containers) = usage.entry(uid).or_default();
            *sum = sum.saturating_add(amount);
            if let Some(container) = container {
                containers.insert(container, amount);
            }
        };
        let number = |value: Option<&v1::UInt64Value>| value.map(|value| value.value);
        if signal == Signal::Pids {
            let request = v1::ListPodSandboxStatsRequest::default();
            for one in
                self.shared.cri.list_pod_sandbox_stats(request).await.map(|all| all.stats).unwrap_or_default()
            {
                let uid =
                    one.attributes.and_then(|attributes| attributes.metadata).map(|metadata| metadata.uid);
                let count =
                    one.linux.and_then(|linux| linux.process).and_then(|process| process.process_count);
                add(uid.unwrap_or_default(), None, number(count.as_ref()));
            }
            return usage;
        }
        for one in self.container_stats().await {
            let amount = number(one.memory.as_ref().and_then(|memory| memory.working_set_bytes.as_ref()));
            let labels = one.attributes.map(|attributes| attributes.labels).unwrap_or_default();
            let told = |key: &str| labels.get(key).cloned();
            add(told(label::POD_UID).unwrap_or_default(), told(label::CONTAINER_NAME), amount);
        }
        usage
    }

    /// Where the runtime keeps images. Asked once: it does not move, and the answer counts what every container wrote.
    async fn images_at(&self) -> Option<PathBuf> {
        let answer = self.shared.cri.image_fs_info(v1::ImageFsInfoRequest {}).await.ok()?;
        image_gc::mountpoint(&answer).map(PathBuf::from)
    }

    /// Measures what thresholds are about.
    async fn observe_node(&self, images: Option<&Path>) -> Observations {
        let (root, images) = (self.shared.config.root_dir.clone(), images.map(Path::to_owned));
        let cgroups = self.shared.cgroups.clone();
        let measuring = move || {
            let mut observed = measure(&root, images.as_deref());
            let top = cgroups.top();
            let of_pods = memory_of_pods(cgroups.is_v2(), |file| cgroups.read(&top, "memory", file));
            observed.extend(of_pods.map(|seen| (Signal::AllocatableMemory, seen)));
            observed
        };
        tokio::task::spawn_blocking(measuring).await.unwrap_or_default()
    }
}

/// Which part of a pod lies on a disk. Where its containers' layers do, removing ended ones and images helps. Source: upstream's `buildSignalToRankFunc`.
#[derive(Debug, PartialEq, Eq)]
struct Counted {
    /// What containers write beside their images.
    layers: bool,
    /// Logs, emptyDir volumes and files that the kubelet writes.
    local: bool,
}

impl Counted {
    /// `one_disk`: images and all else share it.
    fn of(signal: Signal, one_disk: bool) -> Self {
        let images = matches!(signal, Signal::ImageFs | Signal::ImageFsInodes);
        Self { layers: images || one_disk, local: !images || one_disk }
    }
}

fn one_disk(root: &Path, images: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
    device(images).is_none_or(|images| device(root) == Some(images))
}

/// Blocking.
fn measure(root: &Path, images: Option<&Path>) -> Observations {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let mut observed = Observations::new();
    let (available, capacity) = (memory(&meminfo, "MemAvailable"), memory(&meminfo, "MemTotal"));
    if capacity > 0 {
        observed.insert(Signal::Memory, Observed { available, capacity });
    }
    // A runtime on the same disk has no disk of its own, whatever path it names.
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
    let images = images.filter(|images| device(images).is_some()).unwrap_or(root);
    for (path, bytes, inodes) in
        [(root, Signal::NodeFs, Signal::NodeFsInodes), (images, Signal::ImageFs, Signal::ImageFsInodes)]
    {
        let Ok(stats) = statvfs(path) else { continue };
        let size =
            |blocks: u64| i64::try_from(blocks.saturating_mul(stats.fragment_size())).unwrap_or(i64::MAX);
        observed.insert(
            bytes,
            Observed { available: size(stats.blocks_available()), capacity: size(stats.blocks()) },
        );
        let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        // Some file systems make inodes as they need them, and say that there are none.
        if stats.files() > 0 {
            let (available, capacity) = (count(stats.files_available()), count(stats.files()));
            observed.insert(inodes, Observed { available, capacity });
        }
    }
    observed.extend(processes().map(|seen| (Signal::Pids, seen)));
    observed
}

/// What the group of all pods leaves of its bound; None if nothing bounds it. `read`: a file of its memory controller.
/// Source: upstream's `makeSignalObservations`, whose capacity is what is used and what is left.
fn memory_of_pods(v2: bool, read: impl Fn(&str) -> Option<String>) -> Option<Observed> {
    let (bound, usage, inactive) = if v2 {
        ("memory.max", "memory.current", "inactive_file ")
    } else {
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
    };
    let number = |text: &str| text.trim().parse::<i64>().ok();
    // Version 1 writes a number near the largest for no bound, version 2 a word.
    let bound = number(&read(bound)?).filter(|bound| *bound < 1 << 60)?;
    let stat = read("memory.stat").unwrap_or_default();
    // The kernel takes files back that nobody used for a while before it kills.
    let inactive = stat.lines().find_map(|line| number(line.strip_prefix(inactive)?)).unwrap_or(0);
    let working_set = (number(&read(usage)?)? - inactive).max(0);
    let available = (bound - working_set).max(0);
    Some(Observed { available, capacity: available + working_set })
}

/// Processes and threads: how many more there may be.
pub(crate) fn processes() -> Option<Observed> {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<i64>().ok();
    let capacity =
        number("/proc/sys/kernel/pid_max").into_iter().chain(number("/proc/sys/kernel/threads-max")).min()?;
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    let running: i64 = load.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    Some(Observed { available: capacity - running, capacity })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_on_which_disk() {
        for (signal, one_disk, layers, local) in [
            (Signal::NodeFs, true, true, true),
            (Signal::ImageFsInodes, true, true, true),
            (Signal::NodeFsInodes, false, false, true),
            (Signal::ImageFs, false, true, false),
        ] {
            assert_eq!(Counted::of(signal, one_disk), Counted { layers, local }, "{signal:?} {one_disk}");
        }
        assert!(one_disk(Path::new("/"), Path::new("/nonexistent")));
        assert!(!one_disk(Path::new("/"), Path::new("/proc")));
    }

    #[test]
    fn what_pods_may_still_use_of_memory() {
        let check = |v2: bool, files: &[(&str, &str)], wanted: Option<(i64, i64)>| {
            let read =
                |file: &str| files.iter().find(|(name, _)| *name == file).map(|(_, text)| (*text).to_owned());
            let seen = memory_of_pods(v2, read).map(|seen| (seen.available, seen.capacity));
            assert_eq!(seen, wanted, "{files:?}");
        };
        let v2 = |max| {
            [("memory.max", max), ("memory.current", "700\n"), ("memory.stat", "file 3\ninactive_file 100\n")]
        };
        check(true, &v2("1000\n"), Some((400, 1000)));
        // Lowered below what is used already.
        check(true, &v2("500\n"), Some((0, 600)));
        check(true, &v2("max\n"), None);
        let v1 = |limit| {
            [
                ("memory.limit_in_bytes", limit),
                ("memory.usage_in_bytes", "700\n"),
                ("memory.stat", "inactive_file 600\ntotal_inactive_file 100\n"),
            ]
        };
        check(false, &v1("1000\n"), Some((400, 1000)));
        check(false, &v1("9223372036854771712\n"), None);
        check(false, &[], None);
    }

    #[test]
    fn this_machine_is_measured() {
        let observed = measure(Path::new("/"), Some(Path::new("/nonexistent")));
        for signal in [Signal::Memory, Signal::NodeFs, Signal::ImageFs, Signal::Pids] {
            let seen = observed[&signal];
            assert!(seen.capacity > 0 && seen.available <= seen.capacity, "{signal:?} {seen:?}");
        }
        assert_eq!(observed[&Signal::NodeFs].capacity, observed[&Signal::ImageFs].capacity);
    }
}
