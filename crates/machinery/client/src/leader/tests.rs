//! The decision by table, the election against a lease the test keeps.

use serde_json::Value;

use super::*;
use crate::testing::{Call, HandPlayedServer};

fn spec(holder: &str, transitions: i32) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(holder.into()),
        lease_duration_seconds: Some(15),
        lease_transitions: Some(transitions),
        acquire_time: Some(MicroTime(Timestamp::UNIX_EPOCH)),
        ..Default::default()
    }
}

#[tokio::test(start_paused = true)]
async fn who_may_take_the_lease() {
    let start = Instant::now();
    let wall = Timestamp::from_second(1_000).unwrap();
    // (case, lease, seconds since it changed, transitions when we take it)
    let cases = [
        ("there is none", None, 0, Some(0)),
        ("ours", Some(spec("me", 3)), 0, Some(3)),
        ("ours, long unchanged", Some(spec("me", 3)), 100, Some(3)),
        ("another's, fresh", Some(spec("you", 3)), 14, None),
        ("another's, expired", Some(spec("you", 3)), 15, Some(4)),
        ("released", Some(spec("", 3)), 0, Some(4)),
    ];
    for (case, lease, age, expected) in cases {
        let now = start + Duration::from_secs(age);
        let step = decide(lease.as_ref(), start, now, wall, "me", Duration::from_secs(15));
        let taken = match step {
            Step::Write(spec) => {
                assert_eq!(spec.holder_identity.as_deref(), Some("me"), "{case}");
                assert_eq!(spec.renew_time, Some(MicroTime(wall)), "{case}");
                spec.lease_transitions
            }
            Step::Wait => None,
        };
        assert_eq!(taken, expected, "{case}");
    }
}

/// A lease kept by the test, with compare-and-swap on the resource version.
#[derive(Default)]
struct KeptLease {
    lease: Option<Value>,
    version: u64,
}

impl KeptLease {
    fn serve(&mut self, call: Call) {
        match (call.method.as_str(), &self.lease) {
            ("GET", Some(lease)) => {
                let lease = lease.clone();
                call.json(&lease);
            }
            ("GET", None) => call.fail(404, "NotFound", "leases not found"),
            ("PUT", Some(old))
                if old["metadata"]["resourceVersion"] != call.body["metadata"]["resourceVersion"] =>
            {
                call.fail(409, "Conflict", "the object has been modified");
            }
            _ => {
                self.version += 1;
                let mut lease = call.body.clone();
                lease["metadata"]["resourceVersion"] = self.version.to_string().into();
                self.lease = Some(lease.clone());
                call.json(&lease);
            }
        }
    }

    fn holder(&self) -> &str {
        self.lease.as_ref().and_then(|lease| lease["spec"]["holderIdentity"].as_str()).unwrap_or("")
    }
}

fn candidate(client: Client, identity: &str) -> LeaderElection {
    LeaderElection {
        client,
        namespace: "kube-system".into(),
        name: "test".into(),
        identity: identity.into(),
        timings: LeadershipTimings::default(),
        release_on_shutdown: true,
        watchdog: Watchdog::default(),
    }
}

#[tokio::test(start_paused = true)]
async fn the_leader_renews_and_releases_at_shutdown() {
    let (mut server, client) = HandPlayedServer::new();
    let shutdown = Shutdown::new();
    let election = tokio::spawn(candidate(client, "me").run(shutdown.clone(), |token| async move {
        token.cancelled().await;
    }));
    let mut kept = KeptLease::default();
    while kept.version < 5 {
        kept.serve(server.call().await);
    }
    assert_eq!(kept.holder(), "me");
    assert_eq!(kept.lease.as_ref().unwrap()["spec"]["leaseTransitions"], 0);
    shutdown.cancel();
    while !kept.holder().is_empty() {
        kept.serve(server.call().await);
    }
    assert!(election.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_stops_within_the_deadline() {
    let (mut server, client) = HandPlayedServer::new();
    let stopped_after = std::sync::Arc::new(parking_lot::Mutex::new(None));
    let election = tokio::spawn(candidate(client, "me").run(Shutdown::new(), {
        let stopped_after = stopped_after.clone();
        move |token| async move {
            let started = Instant::now();
            token.cancelled().await;
            *stopped_after.lock() = Some(started.elapsed());
        }
    }));
    let mut kept = KeptLease::default();
    while kept.version < 1 {
        kept.serve(server.call().await);
    }
    let broken = tokio::spawn(async move {
        loop {
            server.call().await.fail(503, "ServiceUnavailable", "no");
        }
    });
    let ended = election.await.unwrap();
    broken.abort();
    assert!(matches!(ended, Err(LeadershipError::Lost { lease }) if lease == "kube-system/test"));
    let after = stopped_after.lock().expect("the work was stopped");
    assert!(after <= Duration::from_millis(10_100) && after >= Duration::from_secs(8), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_goes_on_without_its_lease_is_ill() {
    let (mut server, client) = HandPlayedServer::new();
    let election = candidate(client, "me");
    let watchdog = election.watchdog.clone();
    let (let_go, deaf) = tokio::sync::oneshot::channel::<()>();
    let election = tokio::spawn(election.run(Shutdown::new(), |_| async move { deaf.await.unwrap() }));
    let mut kept = KeptLease::default();
    while kept.version < 30 {
        kept.serve(server.call().await);
        assert_eq!(watchdog.fault(), None);
    }
    let renewed = Instant::now();
    let broken = tokio::spawn(async move {
        loop {
            server.call().await.fail(503, "ServiceUnavailable", "no");
        }
    });
    let mut well = Duration::ZERO;
    while watchdog.fault().is_none() {
        well = renewed.elapsed();
        assert!(well < Duration::from_secs(60));
        tokio::time::advance(Duration::from_millis(500)).await;
    }
    assert!(well >= Duration::from_secs(34) && well <= Duration::from_secs(36), "{well:?}");
    assert_eq!(watchdog.fault().unwrap(), "failed election to renew leadership on lease test");
    let_go.send(()).unwrap();
    assert!(election.await.unwrap().is_err());
    broken.abort();
    assert_eq!(watchdog.fault(), None, "it leads no more");
}

#[tokio::test(start_paused = true)]
async fn a_second_candidate_waits_for_the_lease_to_expire() {
    let (mut server, client) = HandPlayedServer::new();
    let shutdown = Shutdown::new();
    let mut kept = KeptLease { lease: None, version: 1 };
    kept.lease = Some(serde_json::json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "test", "namespace": "kube-system", "resourceVersion": "1"},
        "spec": {"holderIdentity": "you", "leaseDurationSeconds": 15, "leaseTransitions": 7},
    }));
    let start = Instant::now();
    let election = tokio::spawn(candidate(client, "me").run(shutdown.clone(), |token| async move {
        token.cancelled().await;
    }));
    while kept.holder() != "me" {
        kept.serve(server.call().await);
    }
    let waited = start.elapsed();
    assert!(waited >= Duration::from_secs(15) && waited <= Duration::from_secs(20), "{waited:?}");
    assert_eq!(kept.lease.as_ref().unwrap()["spec"]["leaseTransitions"], 8);
    // Another takes it from us: we stop at once instead of trying until the deadline.
    kept.lease.as_mut().unwrap()["spec"]["holderIdentity"] = "you".into();
    let serving = tokio::spawn(async move {
        loop {
            kept.serve(server.call().await);
        }
    });
    let ended = tokio::time::timeout(Duration::from_secs(4), election).await.expect("stops soon").unwrap();
    serving.abort();
    assert!(ended.is_err());
}
