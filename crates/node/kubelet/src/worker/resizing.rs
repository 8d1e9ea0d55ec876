//! The worker's part of resizing in place: asks whether there is room, tells the runtime, says how far it is.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use podium_client::{EventType, reference_of};
use podium_cri::v1;
use tokio::time::Instant;

use podium_api::quantity::Quantity;

use crate::{
    actions::ToResize,
    metrics, pod,
    record::{ContainerRecord, RunState},
    resize, resources,
    worker::{Worker, container_at},
};

/// Pause after the runtime or the kernel refused new amounts: memory may have to be given back first.
const RETRY: Duration = Duration::from_secs(5);

impl Worker {
    /// Grants what the spec asks for if there is room, and says so if there is not.
    pub(super) fn consider_resize(&mut self) {
        if self.resize.is_wanted(&self.wanted) {
            let allocatable = self.shared.machine.allocatable(&self.shared.config.settings);
            let fits = self.mailbox.neighbours().fits(&self.wanted);
            let forbidden = self.shared.container_manager.forbids_resize(&self.wanted);
            let detail = forbidden.as_ref().map_or("insufficient_node_allocatable", |(detail, _)| *detail);
            let forbidden = forbidden.map(|(_, message)| message);
            match resize::judge(&self.wanted, &allocatable, forbidden, fits) {
                Ok(()) => {
                    if self.resize.pending.as_ref().is_some_and(|pending| pending.reason == "Deferred") {
                        // Whatever woke the worker, it looks at everything.
                        let labels = [("retry_trigger", "periodic_retry")];
                        self.shared.metrics.count(&metrics::RESIZES_DEFERRED, &labels);
                    }
                    self.resize.began = Some(std::time::Instant::now());
                    self.resize.grant(&self.wanted);
                    // Volumes may show requests and limits.
                    self.storage.stale = true;
                    self.resize.progress = Some((self.wanted.metadata.generation.unwrap_or(0), None));
                    self.resize_event(EventType::Normal, "ResizeStarted", "Pod resize started", None);
                }
                Err(pending) if self.resize.pending.as_ref() != Some(&pending) => {
                    let prefix = format!("Pod resize {}", pending.reason);
                    let reason = format!("Resize{}", pending.reason);
                    self.resize_event(EventType::Warning, &reason, &prefix, Some(&pending.message));
                    if pending.reason == "Infeasible" {
                        self.shared.metrics.count(&metrics::RESIZES_INFEASIBLE, &[("reason_detail", detail)]);
                    }
                    self.resize.pending = Some(pending);
                }
                Err(_) => {}
            }
        } else {
            self.resize.grant(&self.wanted);
        }
        self.pod = self.resize.apply(&self.wanted);
        if self.resize.progress.is_none() && self.resize.is_group_behind(&self.pod) {
            // An earlier kubelet granted it and ended before its work did.
            self.resize.progress = Some((self.wanted.metadata.generation.unwrap_or(0), None));
        }
        self.mailbox.set_held(&self.pod);
    }

    /// While a resize is under way the pod's group bears the larger of old and new amounts. The answer is
    /// when to try again if that failed.
    pub(super) async fn raise_group(&mut self) -> Option<Instant> {
        self.resize.progress.as_ref()?;
        let peak = resize::peak(&self.pod, &self.running(), &self.resize);
        self.bound_group(Arc::new(peak)).await
    }

    /// Gives running containers the amounts they were granted. None if all have them; otherwise when to try
    /// again.
    pub(super) async fn resize_containers(&mut self, wanted: &[ToResize]) -> Option<Instant> {
        for one in wanted {
            let Some(container) = container_at(&self.pod, one.kind, one.index) else { continue };
            let path = self.shared.cgroups.container_path(&self.pod, &one.id, &self.shared.runtime_name);
            let effective = resources::effective(&container, resources::of_pod(&self.pod));
            let limit = resources::limit(Some(&effective), "memory");
            let outcome = match self.below_usage("container", &path, limit) {
                Some(refused) => Err(refused),
                None => self.update(&one.id, &container).await.map_err(|error| error.to_string()),
            };
            match outcome {
                Ok(()) => {
                    let pod = self.pod.clone();
                    self.resize.started(&one.id, &pod, &container);
                }
                Err(error) => return Some(self.resize_failed(error)),
            }
        }
        None
    }

    /// Once nothing is left to change, the pod's group gets its new bounds and the resize is over. The
    /// answer is when to try again if it could not be finished.
    pub(super) async fn finish_resize(&mut self) -> Option<Instant> {
        self.resize.progress.as_ref()?;
        let path = self.shared.cgroups.pod_path(&self.pod);
        if let Some(refused) = self.below_usage("pod", &path, resources::pod_limit(&self.pod, "memory")) {
            return Some(self.resize_failed(refused));
        }
        if let Some(at) = self.bound_group(self.pod.clone()).await {
            return Some(at);
        }
        self.resize.progress = None;
        self.resize_took(true);
        self.resize_event(EventType::Normal, "ResizeCompleted", "Pod resize completed", None);
        None
    }

    fn running(&self) -> Vec<&ContainerRecord> {
        self.record.containers.iter().filter(|one| one.state == RunState::Running).collect()
    }

    async fn bound_group(&mut self, pod: Arc<Pod>) -> Option<Instant> {
        let (shared, target) = (self.shared.clone(), pod.clone());
        let bounded = tokio::task::spawn_blocking(move || shared.make_group(&target, "update")).await;
        match bounded {
            Ok(Ok(())) => {
                self.resize.bounded(&pod);
                None
            }
            Ok(Err(error)) => Some(self.resize_failed(error.to_string())),
            Err(error) => Some(self.resize_failed(error.to_string())),
        }
    }

    async fn update(
        &self,
        id: &str,
        container: &k8s_openapi::api::core::v1::Container,
    ) -> Result<(), podium_cri::Error> {
        let mut linux = resources::linux_resources(&self.pod, container, &self.shared.bounds());
        // Version 1 bounds memory and swap together: the sum has to move with its part.
        linux.memory_swap_limit_in_bytes = linux.memory_limit_in_bytes;
        let request = v1::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(linux),
            ..Default::default()
        };
        self.shared.cri.update_container_resources(request).await.map(|_| ())
    }

    /// Why a group cannot have a limit of memory, where the kernel would kill in it; version 1 refuses instead.
    fn below_usage(&self, whose: &str, path: &str, limit: Option<Quantity>) -> Option<String> {
        let cgroups = &self.shared.cgroups;
        if !cgroups.is_v2() {
            return None;
        }
        let number = |file: &str| cgroups.read(path, "memory", file)?.trim().parse::<i64>().ok();
        resize::below_usage(whose, limit?.value(), number("memory.max"), number("memory.current"))
    }

    /// Notes how long a try took; the next one begins.
    fn resize_took(&mut self, success: bool) {
        let Some(began) = self.resize.began.take() else { return };
        let labels = [("success", if success { "true" } else { "false" })];
        let milliseconds = began.elapsed().as_secs_f64() * 1000.0;
        self.shared.metrics.observe(&metrics::RESIZE_DURATION, &labels, milliseconds);
        self.resize.began = (!success).then(std::time::Instant::now);
    }

    fn resize_failed(&mut self, error: String) -> Instant {
        self.resize_took(false);
        let generation = self.wanted.metadata.generation.unwrap_or(0);
        let again = matches!(&self.resize.progress, Some((_, Some(before))) if *before == error);
        if !again {
            tracing::warn!(pod = pod::full_name(&self.pod), error, "resizing failed");
            self.resize_event(EventType::Warning, "ResizeError", "Pod resize error", Some(&error));
        }
        self.resize.progress = Some((generation, Some(error)));
        Instant::now() + RETRY
    }

    fn resize_event(&self, kind: EventType, reason: &str, prefix: &str, error: Option<&str>) {
        let text = resize::summary(prefix, &self.wanted, error);
        self.shared.recorder.event(&reference_of(&*self.pod), kind, reason, text);
    }
}
