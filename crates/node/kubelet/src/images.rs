//! Makes sure that a container's image is here: pull policies, back-off, upstream's events and errors.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Secret};
use parking_lot::Mutex;
use podium_client::{EventRecorder, EventType, TokenBucket};
use podium_cri::{Cri, v1};
use tokio::{sync::Semaphore, time::Instant};

use crate::{
    Configuration,
    backoff::{Backoff, go_duration},
    credentials::{self, provider::Providers},
    pod,
    security::ImageUser,
    status::StartError,
};

/// The image as the runtime knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    /// What to create the container from.
    pub(crate) reference: String,
    pub(crate) user: ImageUser,
}

/// Why there is no image, and when to try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoImage {
    pub(crate) error: StartError,
    pub(crate) retry_after: Duration,
}

/// An image that a pod needs, of a container or a volume.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// As the pod names it.
    pub(crate) name: &'a str,
    /// Unset is IfNotPresent; the API server sets it.
    pub(crate) policy: Option<&'a str>,
    /// What events are recorded on: the container, or of a volume the pod.
    pub(crate) about: &'a ObjectReference,
}

/// What the pull policy makes of an image's presence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    UseLocal,
    Pull,
    NeverPull,
}

/// The policy's decision.
pub(crate) fn need(policy: &str, present: bool) -> Need {
    match (policy, present) {
        ("Always", _) => Need::Pull,
        (_, true) => Need::UseLocal,
        ("Never", false) => Need::NeverPull,
        (_, false) => Need::Pull,
    }
}

/// Pulls images for all pods.
pub(crate) struct Images {
    cri: Cri,
    recorder: EventRecorder,
    providers: Option<Arc<Providers>>,
    state: Mutex<State>,
    slots: Semaphore,
    rate: Mutex<Option<TokenBucket>>,
}

struct State {
    backoff: Backoff,
    /// The last error of a pull by its back-off key.
    last_errors: HashMap<String, String>,
}

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Images")
    }
}

fn error(reason: &str, message: impl Into<String>) -> StartError {
    StartError { reason: reason.to_owned(), message: message.into() }
}

impl Images {
    /// `settings` say how many images are pulled at a time, and how often.
    pub(crate) fn new(
        cri: Cri,
        recorder: EventRecorder,
        providers: Option<Arc<Providers>>,
        settings: &Configuration,
    ) -> Self {
        let slots = settings
            .parallel_pulls()
            .and_then(|most| usize::try_from(most).ok())
            .unwrap_or(Semaphore::MAX_PERMITS);
        let backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(300));
        Self {
            cri,
            recorder,
            providers,
            state: Mutex::new(State { backoff, last_errors: HashMap::new() }),
            slots: Semaphore::new(slots),
            rate: Mutex::new(TokenBucket::new(
                settings.registry_pull_qps,
                settings.registry_burst,
                Instant::now(),
            )),
        }
    }

    /// Finds or pulls an image.
    pub(crate) async fn ensure(
        &self,
        pod: &Pod,
        wanted: Wanted<'_>,
        secrets: &[Secret],
        sandbox: Option<&v1::PodSandboxConfig>,
    ) -> Result<Image, NoImage> {
        let Wanted { name: wanted, policy, about } = wanted;
        let later = Duration::from_secs(10);
        if let Err(invalid) = podium_cri::normalize_image_name(wanted) {
            let message = format!(
                "Failed to apply default image tag {wanted:?}: couldn't parse image name {wanted:?}: {invalid}"
            );
            self.recorder.event(about, EventType::Warning, "InspectFailed", message.clone());
            return Err(NoImage {
                error: error("InvalidImageName", message),
                retry_after: Duration::from_secs(300),
            });
        }
        let spec = v1::ImageSpec { image: tagged(wanted), ..Default::default() };
        let policy = policy.unwrap_or("IfNotPresent");
        let local = match self.cri.image_status(spec.clone()).await {
            Ok(local) => local,
            Err(failure) => {
                let message = format!("Failed to inspect image {:?}: {}", spec.image, failure.grpc_text());
                self.recorder.event(about, EventType::Warning, "InspectFailed", message.clone());
                return Err(NoImage { error: error("ImageInspectError", message), retry_after: later });
            }
        };
        match (need(policy, local.is_some()), local) {
            (Need::UseLocal, Some(local)) => {
                let message = format!(
                    "Container image {wanted:?} already present on machine and can be accessed by the pod"
                );
                self.recorder.event(about, EventType::Normal, "Pulled", message);
                Ok(image_of(&local, &spec.image))
            }
            (Need::NeverPull, _) => {
                let message = format!("Container image {wanted:?} is not present with pull policy of Never");
                self.recorder.event(about, EventType::Warning, "ErrImageNeverPull", message.clone());
                Err(NoImage { error: error("ErrImageNeverPull", message), retry_after: later })
            }
            _ => self.pull(pod, wanted, spec, about, secrets, sandbox).await,
        }
    }

    async fn pull(
        &self,
        pod: &Pod,
        wanted: &str,
        spec: v1::ImageSpec,
        about: &ObjectReference,
        secrets: &[Secret],
        sandbox: Option<&v1::PodSandboxConfig>,
    ) -> Result<Image, NoImage> {
        let key = format!("{}/{wanted}", pod::uid(pod));
        let held = {
            let state = self.state.lock();
            state
                .backoff
                .waiting(&key, Timestamp::now())
                .map(|(remaining, _)| (remaining, state.last_errors.get(&key).cloned()))
        };
        if let Some((remaining, last)) = held {
            let text = format!("Back-off pulling image {wanted:?}");
            self.recorder.event(about, EventType::Normal, "BackOff", text.clone());
            let message = last.map_or(text.clone(), |last| format!("{text}: {last}"));
            return Err(NoImage { error: error("ImagePullBackOff", message), retry_after: remaining });
        }
        let asked = Timestamp::now();
        self.recorder.event(about, EventType::Normal, "Pulling", format!("Pulling image {wanted:?}"));
        let _slot = self.slots.acquire().await;
        let started = Timestamp::now();
        match self.try_credentials(wanted, &spec, secrets, sandbox).await {
            Ok(reference) => {
                let now = Timestamp::now();
                let pulled = self.cri.image_status(v1::ImageSpec { image: reference.clone(), ..spec }).await;
                let pulled = pulled.ok().flatten();
                let bytes = pulled.as_ref().map_or(0, |image| image.size);
                let spent = |from| go_duration(truncate(crate::backoff::elapsed(from, now)));
                self.recorder.event(
                    about,
                    EventType::Normal,
                    "Pulled",
                    format!(
                        "Successfully pulled image {wanted:?} in {} ({} including waiting). Image size: {bytes} bytes.",
                        spent(started),
                        spent(asked)
                    ),
                );
                self.state.lock().last_errors.remove(&key);
                Ok(match pulled {
                    Some(image) => image_of(&image, &reference),
                    None => Image { reference, user: ImageUser::default() },
                })
            }
            Err(text) => {
                self.recorder.event(
                    about,
                    EventType::Warning,
                    "Failed",
                    format!("Failed to pull image {wanted:?}: {text}"),
                );
                let now = Timestamp::now();
                let mut state = self.state.lock();
                state.backoff.next(&key, now, now);
                state.last_errors.insert(key, format!("ErrImagePull: {text}"));
                // Soon again, to show the back-off; the pull itself waits for its end.
                Err(NoImage { error: error("ErrImagePull", text), retry_after: Duration::from_secs(3) })
            }
        }
    }

    /// Pulls with each of the credentials that fit, or without any.
    async fn try_credentials(
        &self,
        wanted: &str,
        spec: &v1::ImageSpec,
        secrets: &[Secret],
        sandbox: Option<&v1::PodSandboxConfig>,
    ) -> Result<String, String> {
        let mut found = credentials::for_image(wanted, secrets);
        if let Some(providers) = &self.providers {
            found.extend(providers.for_image(wanted).await);
        }
        let mut choices: Vec<Option<v1::AuthConfig>> = found.into_iter().map(Some).collect();
        if choices.is_empty() {
            choices.push(None);
        }
        let mut outcome = Err(String::new());
        for auth in choices {
            if !self.rate.lock().as_mut().is_none_or(|rate| rate.try_take(Instant::now())) {
                // Upstream's, of its throttled image service.
                return Err("pull QPS exceeded".to_owned());
            }
            let pulled = self.cri.pull_image(spec.clone(), auth, sandbox.cloned()).await;
            outcome = pulled.map_err(|error| error.grpc_text());
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// Forgets a pod's back-offs.
    pub(crate) fn forget(&self, uid: &str) {
        let prefix = format!("{uid}/");
        let mut state = self.state.lock();
        state.backoff.forget_prefix(&prefix);
        state.last_errors.retain(|key, _| !key.starts_with(&prefix));
    }
}

fn truncate(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// The name with a tag, as the runtime is asked for it: `:latest` if there is neither tag nor digest.
fn tagged(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains(':') || name.contains('@') { name.to_owned() } else { format!("{name}:latest") }
}

fn image_of(image: &v1::Image, asked: &str) -> Image {
    let reference = if image.id.is_empty() { asked.to_owned() } else { image.id.clone() };
    Image {
        reference,
        user: ImageUser { uid: image.uid.as_ref().map(|uid| uid.value), name: image.username.clone() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        for (policy, present, expected) in [
            ("Always", true, Need::Pull),
            ("Always", false, Need::Pull),
            ("IfNotPresent", true, Need::UseLocal),
            ("IfNotPresent", false, Need::Pull),
            ("Never", true, Need::UseLocal),
            ("Never", false, Need::NeverPull),
        ] {
            assert_eq!(need(policy, present), expected, "{policy} {present}");
        }
    }

    #[tokio::test]
    async fn pulls_are_limited() {
        let api = crate::testing::api::FakeApi::new();
        let (recorder, _sink) = EventRecorder::new(api.client(), "kubelet", "n1");
        let cri = Cri::connect("unix:///nonexistent/cri.sock").unwrap();
        let settings = Configuration { registry_pull_qps: 1, registry_burst: 2, ..Configuration::default() };
        let pull = async |images: &Images| {
            let spec = v1::ImageSpec { image: "r/app:v1".to_owned(), ..Default::default() };
            images.try_credentials("r/app:v1", &spec, &[], None).await.unwrap_err()
        };
        let images = Images::new(cri.clone(), recorder.clone(), None, &settings);
        for asked in [true, true, false] {
            let error = pull(&images).await;
            assert_eq!(error != "pull QPS exceeded", asked, "{error}");
        }
        let free = Images::new(cri, recorder, None, &Configuration { registry_pull_qps: 0, ..settings });
        for _ in 0..3 {
            assert_ne!(pull(&free).await, "pull QPS exceeded");
        }
    }

    #[test]
    fn names_get_a_tag() {
        for (name, expected) in [
            ("app", "app:latest"),
            ("r:5000/app", "r:5000/app:latest"),
            ("app:v1", "app:v1"),
            ("app@sha256:1", "app@sha256:1"),
        ] {
            assert_eq!(tagged(name), expected);
        }
    }
}
