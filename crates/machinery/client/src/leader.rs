//! Leader election over a Lease, as client-go does it: `decide` says what the lease should become,
//! the rest asks and tells.
//!
//! Another's lease counts as held until it has not changed for its duration by *our* clock, so that
//! clocks need not agree. A leader that could not renew for the renew deadline stops before others
//! may start; see [`LeaderElection::run`].

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::{Shutdown, error_chain, is_already_exists, is_conflict, is_not_found};

/// How long leadership lasts and how often it is asked for. The defaults are upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeadershipTimings {
    /// Others take over when the lease has not changed for this long. 15 s.
    pub lease_duration: Duration,
    /// The leader stops when it could not renew for this long; must be less than the duration. 10 s.
    pub renew_deadline: Duration,
    /// Time between tries, jittered while waiting for leadership. 2 s.
    pub retry_period: Duration,
}

impl Default for LeadershipTimings {
    fn default() -> Self {
        Self {
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// Why leadership ended before shutdown.
#[derive(Debug, thiserror::Error)]
pub enum LeadershipError {
    /// The lease could not be renewed in time, or another took it.
    #[error("leadership of {lease} lost")]
    Lost {
        /// `namespace/name` of the lease.
        lease: String,
    },
}

/// One candidate for one lease.
#[derive(Clone)]
pub struct LeaderElection {
    /// Must be allowed to get, create and update the lease.
    pub client: Client,
    /// The lease's namespace, usually `kube-system`.
    pub namespace: String,
    /// The lease's name, usually the component's.
    pub name: String,
    /// Different for every process, such as `host_uuid`.
    pub identity: String,
    /// Durations.
    pub timings: LeadershipTimings,
    /// Whether to give the lease up at shutdown, so that the next one need not wait for it to expire.
    pub release_on_shutdown: bool,
    /// Is told of each renewal.
    pub watchdog: Watchdog,
}

/// Knows whether a leader renews its lease or stops, as it should. Copies know the same.
///
/// Source: client-go's `leaderelection.HealthzAdaptor`, the health check `leaderElection`.
#[derive(Clone, Debug, Default)]
pub struct Watchdog(Arc<Mutex<Option<Renewed>>>);

#[derive(Debug)]
struct Renewed {
    lease: String,
    at: Instant,
    duration: Duration,
}

impl Watchdog {
    /// How long past its lease a leader may be about to stop.
    const TOLERANCE: Duration = Duration::from_secs(20);

    /// What is wrong: the process still acts as the leader, long after its lease has ended. Who does not lead is well.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let renewed = self.0.lock();
        let renewed = renewed.as_ref()?;
        let late = renewed.at.elapsed() > renewed.duration + Self::TOLERANCE;
        late.then(|| format!("failed election to renew leadership on lease {}", renewed.lease))
    }
}

impl fmt::Debug for LeaderElection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaderElection({}/{} as {})", self.namespace, self.name, self.identity)
    }
}

/// The lease as last seen, and when it was last seen to change.
#[derive(Clone, Debug)]
struct Observed {
    spec: LeaseSpec,
    at: Instant,
}

/// What to do about the lease.
#[derive(Debug, PartialEq)]
enum Step {
    /// Write this spec: it makes or keeps us leader.
    Write(LeaseSpec),
    /// Another holds it.
    Wait,
}

/// What one try came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    Held,
    /// Another holds the lease.
    Taken,
    /// No answer, an error, or somebody wrote at the same moment.
    Unknown,
}

/// Why leading ended.
enum Ended {
    Work,
    Shutdown,
    Lost,
}

/// Decides from the lease on the server (`None`: there is none) and from when it last changed.
fn decide(
    current: Option<&LeaseSpec>,
    changed_at: Instant,
    now: Instant,
    wall: Timestamp,
    identity: &str,
    duration: Duration,
) -> Step {
    let stamp = Some(MicroTime(wall));
    let ours = LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)),
        acquire_time: stamp.clone(),
        renew_time: stamp,
        lease_transitions: Some(0),
        ..Default::default()
    };
    let Some(current) = current else { return Step::Write(ours) };
    let transitions = current.lease_transitions.unwrap_or(0);
    let holder = current.holder_identity.as_deref().unwrap_or_default();
    if holder == identity {
        let acquire_time = current.acquire_time.clone().or(ours.acquire_time);
        return Step::Write(LeaseSpec { acquire_time, lease_transitions: Some(transitions), ..ours });
    }
    let held_for = u64::try_from(current.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
    if !holder.is_empty() && now < changed_at + Duration::from_secs(held_for) {
        return Step::Wait;
    }
    Step::Write(LeaseSpec { lease_transitions: Some(transitions.saturating_add(1)), ..ours })
}

impl LeaderElection {
    /// Waits until this candidate leads, then runs `lead` with a token that is cancelled when
    /// leadership is lost or at shutdown, and returns when `lead` has returned.
    ///
    /// # Errors
    /// [`LeadershipError::Lost`] when the lease was lost: the process should end or start over, and
    /// `lead` must have stopped acting within the time between renew deadline and lease duration.
    pub async fn run<F, Fut>(self, shutdown: Shutdown, lead: F) -> Result<(), LeadershipError>
    where
        F: FnOnce(Shutdown) -> Fut,
        Fut: Future<Output = ()>,
    {
        let mut seen = None;
        let master = crate::metrics::MASTER.with([&self.name]);
        master.set(0.0);
        match shutdown.run_until_cancelled(self.acquire(&mut seen)).await {
            Some(()) => tracing::info!(lease = %self.lease(), identity = self.identity, "leading"),
            None => return Ok(()),
        }
        master.set(1.0);
        self.renewed();
        let leading = shutdown.child_token();
        let mut work = pin!(lead(leading.clone()));
        let ended = tokio::select! {
            () = &mut work => Ended::Work,
            () = self.renew(&mut seen) => Ended::Lost,
            () = shutdown.cancelled() => Ended::Shutdown,
        };
        leading.cancel();
        master.set(0.0);
        if matches!(ended, Ended::Lost) {
            tracing::error!(lease = %self.lease(), "leadership lost");
        }
        if !matches!(ended, Ended::Work) {
            work.await;
        }
        *self.watchdog.0.lock() = None;
        if matches!(ended, Ended::Lost) {
            return Err(LeadershipError::Lost { lease: self.lease() });
        }
        if self.release_on_shutdown {
            self.release(seen.as_ref()).await;
        }
        Ok(())
    }

    fn renewed(&self) {
        let (lease, at) = (self.name.clone(), Instant::now());
        *self.watchdog.0.lock() = Some(Renewed { lease, at, duration: self.timings.lease_duration });
    }

    fn lease(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn api(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn acquire(&self, seen: &mut Option<Observed>) {
        while self.attempt(seen).await != Round::Held {
            sleep(self.timings.retry_period.mul_f64(1.0 + 1.2 * fastrand::f64())).await;
        }
    }

    /// Returns when another has the lease or it could not be renewed for the renew deadline.
    async fn renew(&self, seen: &mut Option<Observed>) {
        let mut renewed = Instant::now();
        loop {
            let deadline = renewed + self.timings.renew_deadline;
            sleep_until(deadline.min(Instant::now() + self.timings.retry_period)).await;
            let round = tokio::select! {
                biased;
                round = self.attempt(seen) => round,
                () = sleep_until(deadline) => Round::Unknown,
            };
            match round {
                Round::Held => {
                    renewed = Instant::now();
                    self.renewed();
                }
                Round::Taken => return,
                Round::Unknown if Instant::now() >= deadline => return,
                Round::Unknown => {}
            }
        }
    }

    /// One round: read the lease, decide, write.
    async fn attempt(&self, seen: &mut Option<Observed>) -> Round {
        match timeout(self.timings.renew_deadline, self.read_and_write(seen)).await {
            Ok(Ok(round)) => return round,
            Ok(Err(error)) if is_conflict(&error) || is_already_exists(&error) => {
                tracing::debug!(lease = %self.lease(), "another wrote the lease first");
            }
            Ok(Err(error)) => {
                tracing::warn!(lease = %self.lease(), cause = error_chain(&error), "lease cannot be taken or renewed");
            }
            Err(_) => tracing::warn!(lease = %self.lease(), "no answer about the lease"),
        }
        Round::Unknown
    }

    async fn read_and_write(&self, seen: &mut Option<Observed>) -> Result<Round, kube::Error> {
        let api = self.api();
        let current = match api.get(&self.name).await {
            Ok(lease) => Some(lease),
            Err(error) if is_not_found(&error) => None,
            Err(error) => return Err(error),
        };
        let now = Instant::now();
        let spec = current.as_ref().map(|lease| lease.spec.clone().unwrap_or_default());
        if let Some(spec) = &spec
            && seen.as_ref().is_none_or(|seen| seen.spec != *spec)
        {
            *seen = Some(Observed { spec: spec.clone(), at: now });
        }
        let changed_at = seen.as_ref().map_or(now, |seen| seen.at);
        let duration = self.timings.lease_duration;
        let step = decide(spec.as_ref(), changed_at, now, Timestamp::now(), &self.identity, duration);
        let Step::Write(spec) = step else { return Ok(Round::Taken) };
        let written = match current {
            Some(mut lease) => {
                // The resourceVersion read above travels along: who wrote meanwhile wins.
                lease.spec = Some(spec);
                api.replace(&self.name, &PostParams::default(), &lease).await?
            }
            None => {
                let mut lease = Lease { spec: Some(spec), ..Default::default() };
                lease.metadata.name = Some(self.name.clone());
                lease.metadata.namespace = Some(self.namespace.clone());
                api.create(&PostParams::default(), &lease).await?
            }
        };
        *seen = Some(Observed { spec: written.spec.unwrap_or_default(), at: now });
        Ok(Round::Held)
    }

    /// Leaves a lease that anybody may take at once.
    async fn release(&self, seen: Option<&Observed>) {
        let Some(seen) = seen else { return };
        let released = async {
            let mut lease = self.api().get(&self.name).await?;
            let held = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
            if held != Some(self.identity.as_str()) {
                return Ok(());
            }
            let now = Some(MicroTime(Timestamp::now()));
            lease.spec = Some(LeaseSpec {
                holder_identity: Some(String::new()),
                lease_duration_seconds: Some(1),
                acquire_time: now.clone(),
                renew_time: now,
                lease_transitions: seen.spec.lease_transitions,
                ..Default::default()
            });
            self.api().replace(&self.name, &PostParams::default(), &lease).await.map(|_| ())
        };
        match timeout(Duration::from_secs(2), released).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(lease = %self.lease(), cause = error_chain(&error), "lease not released");
            }
            Err(_) => tracing::debug!(lease = %self.lease(), "lease not released: no answer"),
        }
    }
}

#[cfg(test)]
mod tests;
