//! Makes sure that a container's image is here: pull policies, back-off, upstream's events and errors.

pub(crate) mod pull_records;
pub(crate) mod verification;

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Secret};
use parking_lot::Mutex;
use podium_client::{EventRecorder, EventType, TokenBucket, error_chain};
use podium_cri::{Cri, v1};
use tokio::{sync::Semaphore, time::Instant};

use crate::{
    Configuration,
    backoff::{Backoff, go_duration},
    credentials::{
        self,
        accounts::Accounts,
        provider::{Credentials, Providers},
    },
    metrics::{self, Metrics},
    pod,
    security::ImageUser,
    status::StartError,
};
use pull_records::PullRecords;
use verification::{Policy, PullCredentials, PullServiceAccount, Source, Verdict};

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

/// What is known of a request when it is over, in metrics' words.
struct Known {
    present: &'static str,
    pull: &'static str,
}

/// Upstream's words for how large an image is.
fn size_class(bytes: u64) -> &'static str {
    const MEGA: u64 = 1 << 20;
    const GIGA: u64 = 1 << 30;
    const CLASSES: [(u64, &str); 12] = [
        (100 * GIGA, "GT100GB"),
        (60 * GIGA, "60GB-100GB"),
        (40 * GIGA, "40GB-60GB"),
        (30 * GIGA, "30GB-40GB"),
        (20 * GIGA, "20GB-30GB"),
        (10 * GIGA, "10GB-20GB"),
        (5 * GIGA, "5GB-10GB"),
        (GIGA, "1GB-5GB"),
        (500 * MEGA, "500MB-1GB"),
        (100 * MEGA, "100MB-500MB"),
        (10 * MEGA, "10MB-100MB"),
        (0, "0-10MB"),
    ];
    CLASSES.iter().find(|(above, _)| bytes > *above).map_or("N/A", |(_, class)| class)
}

/// Pulls images for all pods.
pub(crate) struct Images {
    cri: Cri,
    recorder: EventRecorder,
    providers: Option<Arc<Providers>>,
    accounts: Accounts,
    policy: Policy,
    records: Arc<PullRecords>,
    state: Mutex<State>,
    slots: Semaphore,
    rate: Mutex<Option<TokenBucket>>,
    metrics: Arc<Metrics>,
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
    /// `settings` say how many images are pulled at a time, how often, and who may have them; they have been checked.
    pub(crate) fn new(
        cri: Cri,
        recorder: EventRecorder,
        providers: Option<Arc<Providers>>,
        accounts: Accounts,
        records: PullRecords,
        metrics: Arc<Metrics>,
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
            accounts,
            // What cannot be read lets nobody in without credentials.
            policy: Policy::of(settings).unwrap_or(Policy::AlwaysVerify),
            records: Arc::new(records),
            state: Mutex::new(State { backoff, last_errors: HashMap::new() }),
            slots: Semaphore::new(slots),
            rate: Mutex::new(TokenBucket::new(
                settings.registry_pull_qps,
                settings.registry_burst,
                Instant::now(),
            )),
            metrics,
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
        let mut known = Known { present: "unknown", pull: "unknown" };
        let outcome = self.find_or_pull(pod, wanted, secrets, sandbox, &mut known).await;
        let policy = wanted.policy.unwrap_or("IfNotPresent").to_ascii_lowercase();
        let labels =
            [("present_locally", known.present), ("pull_policy", &policy), ("pull_required", known.pull)];
        self.metrics.count(&metrics::IMAGE_REQUESTS, &labels);
        outcome
    }

    async fn find_or_pull(
        &self,
        pod: &Pod,
        wanted: Wanted<'_>,
        secrets: &[Secret],
        sandbox: Option<&v1::PodSandboxConfig>,
        known: &mut Known,
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
        known.present = if local.is_some() { "true" } else { "false" };
        let local = match local {
            Some(local)
                if policy != "Always" && !self.is_given(pod, wanted, &spec, &local, secrets).await =>
            {
                None
            }
            local => local,
        };
        let need = need(policy, local.is_some());
        known.pull = if need == Need::UseLocal { "false" } else { "true" };
        match (need, local) {
            (Need::UseLocal, Some(local)) => {
                let message = format!(
                    "Container image {wanted:?} already present on machine and can be accessed by the pod"
                );
                self.recorder.event(about, EventType::Normal, "Pulled", message);
                Ok(image_of(&local, &spec.image))
            }
            // Also if it is here for others, which is not for this pod to know.
            (Need::NeverPull, _) => {
                let message = format!("Container image {wanted:?} is not present with pull policy of Never");
                self.recorder.event(about, EventType::Warning, "ErrImageNeverPull", message.clone());
                Err(NoImage { error: error("ErrImageNeverPull", message), retry_after: later })
            }
            _ => self.pull(pod, wanted, spec, about, secrets, sandbox).await,
        }
    }

    /// Whether a pod with these secrets may have an image that is here.
    async fn is_given(
        &self,
        pod: &Pod,
        wanted: &str,
        spec: &v1::ImageSpec,
        local: &v1::Image,
        secrets: &[Secret],
    ) -> bool {
        let reference = image_of(local, &spec.image).reference;
        let sources =
            || credentials::for_image(wanted, secrets).into_iter().map(|(_, source)| source).collect();
        let of_accounts = self.records.look(wanted, &reference, local, |trace| {
            verification::is_of_accounts(&self.policy, wanted, trace)
        });
        let account = if of_accounts { self.account(pod, wanted).await } else { None };
        let judge = |trace: verification::Trace<'_>| {
            verification::judge(&self.policy, wanted, trace, sources, account.as_ref())
        };
        match self.records.look(wanted, &reference, local, judge) {
            Verdict::Given => true,
            Verdict::MustPull => false,
            Verdict::GivenFor(secret) => {
                let (image, with) = (wanted.to_owned(), PullCredentials::of(Some(secret.into())));
                let written =
                    self.blocking(move |records| records.pulled(&image, &reference, Some(with))).await;
                if let Some(Err(error)) = written {
                    tracing::warn!(
                        error = error_chain(&error),
                        image = wanted,
                        "cannot write the record of an image"
                    );
                }
                true
            }
        }
    }

    /// The pod's service account, if a plugin has credentials for the image by it.
    async fn account(&self, pod: &Pod, image: &str) -> Option<PullServiceAccount> {
        let found = self.providers.as_ref()?.for_image(image, pod, &self.accounts).await;
        found.into_iter().find_map(|one| one.account)
    }

    /// Does something that may write records, which goes on if nobody waits for it any more. None: it panicked.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<PullRecords>) -> T + Send + 'static,
    ) -> Option<T> {
        let records = self.records.clone();
        tokio::task::spawn_blocking(move || work(&records)).await.ok()
    }

    /// Makes records of what a kubelet before this one began to pull and did not come to write down.
    pub(crate) async fn recover(&self) {
        match self.cri.list_images().await {
            Ok(images) => drop(self.blocking(move |records| records.recover(&images)).await),
            Err(error) => {
                tracing::warn!(%error, "cannot list images: pulls that broke off are not looked after");
            }
        }
    }

    /// Removes the records of images that are gone, but for those pulled since `until`.
    pub(crate) async fn prune_records(
        &self,
        until: Timestamp,
        is_gone: impl Fn(&str) -> bool + Send + 'static,
    ) {
        self.blocking(move |records| records.prune(until, is_gone)).await;
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
        let image = wanted.to_owned();
        let begun = match self.blocking(move |records| records.begin(&image)).await {
            Some(Ok(begun)) => begun,
            failed => {
                let cause = failed.and_then(Result::err).map(|error| error_chain(&error)).unwrap_or_default();
                let message = format!(
                    "Failed to record image pull intent for container image {wanted:?}: failed to record image pull intent: {cause}"
                );
                return Err(NoImage {
                    error: error("ErrImagePull", message),
                    retry_after: Duration::from_secs(10),
                });
            }
        };
        let asked = Timestamp::now();
        self.recorder.event(about, EventType::Normal, "Pulling", format!("Pulling image {wanted:?}"));
        let _slot = self.slots.acquire().await;
        let started = Timestamp::now();
        match self.try_credentials(pod, wanted, &spec, secrets, sandbox).await {
            Ok((reference, used)) => {
                let now = Timestamp::now();
                let pulled = self.cri.image_status(v1::ImageSpec { image: reference.clone(), ..spec }).await;
                let pulled = pulled.ok().flatten();
                // An image whose id nobody can tell gets no record: it counts as begun.
                if let Some(image) = &pulled {
                    let id = image_of(image, &reference).reference;
                    self.blocking(move |_| begun.succeeded(&id, PullCredentials::of(used))).await;
                }
                let bytes = pulled.as_ref().map_or(0, |image| image.size);
                let waited = truncate(crate::backoff::elapsed(asked, now));
                let class = [("image_size_in_bytes", size_class(bytes))];
                self.metrics.took(&metrics::IMAGE_PULLS, &class, waited);
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
                self.blocking(move |_| begun.failed()).await;
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

    /// Pulls with each of the credentials that fit, or without any. The answer is the image's reference, and the secret or
    /// service account that opened the way if it was one's.
    async fn try_credentials(
        &self,
        pod: &Pod,
        wanted: &str,
        spec: &v1::ImageSpec,
        secrets: &[Secret],
        sandbox: Option<&v1::PodSandboxConfig>,
    ) -> Result<(String, Option<Source>), String> {
        let of_secrets = credentials::for_image(wanted, secrets);
        let mut choices: Vec<(Option<v1::AuthConfig>, Option<Source>)> =
            of_secrets.into_iter().map(|(auth, source)| (Some(auth), Some(source.into()))).collect();
        if let Some(providers) = &self.providers {
            let found = providers.for_image(wanted, pod, &self.accounts).await.into_iter();
            choices
                .extend(found.map(|Credentials { auth, account }| (Some(auth), account.map(Source::from))));
        }
        if choices.is_empty() {
            choices.push((None, None));
        }
        let mut outcome = Err(String::new());
        for (auth, source) in choices {
            if !self.rate.lock().as_mut().is_none_or(|rate| rate.try_take(Instant::now())) {
                // Upstream's, of its throttled image service.
                return Err("pull QPS exceeded".to_owned());
            }
            let pulled = self.cri.pull_image(spec.clone(), auth, sandbox.cloned()).await;
            outcome = pulled.map(|reference| (reference, source)).map_err(|error| error.grpc_text());
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// Forgets a pod's back-offs.
    pub(crate) fn forget(&self, uid: &str) {
        self.accounts.forget(uid);
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
            images.try_credentials(&Pod::default(), "r/app:v1", &spec, &[], None).await.unwrap_err()
        };
        let root = tempfile::tempdir().unwrap();
        let records = || PullRecords::open(root.path()).unwrap();
        let images = Images::new(
            cri.clone(),
            recorder.clone(),
            None,
            Accounts::new(api.client()),
            records(),
            Arc::default(),
            &settings,
        );
        for asked in [true, true, false] {
            let error = pull(&images).await;
            assert_eq!(error != "pull QPS exceeded", asked, "{error}");
        }
        let settings = Configuration { registry_pull_qps: 0, ..settings };
        let free = {
            let accounts = Accounts::new(api.client());
            Images::new(cri, recorder, None, accounts, records(), Arc::default(), &settings)
        };
        for _ in 0..3 {
            assert_ne!(pull(&free).await, "pull QPS exceeded");
        }
    }

    #[test]
    fn images_have_sizes() {
        for (bytes, class) in [
            (0, "N/A"),
            (1, "0-10MB"),
            (10 << 20, "0-10MB"),
            ((10 << 20) + 1, "10MB-100MB"),
            (700 << 20, "500MB-1GB"),
            (2 << 30, "1GB-5GB"),
            (101 << 30, "GT100GB"),
        ] {
            assert_eq!(size_class(bytes), class, "{bytes}");
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
