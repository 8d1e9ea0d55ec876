//! What lies between one process and the API: delays, losses, refusals, and the process's death.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use podium_client::{ClientSource, in_process};
use serde_json::Value;

use crate::clock::{Clock, RuntimeClock};
use crate::testing::api::{Answer, FakeApi, refusal};

/// How often things go wrong, in thousandths of all calls.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    /// The request never arrives.
    pub(super) unsent: u32,
    /// The request is carried out, but nobody is told.
    pub(super) unanswered: u32,
    /// The server is overloaded or broken.
    pub(super) refused: u32,
    /// The longest a request takes each way.
    pub(super) delay_ms: u64,
}

#[derive(Debug)]
struct State {
    rng: Rng,
    faults: Faults,
    dead: bool,
    /// The process dies when it has made so many more writes.
    writes_to_live: Option<u32>,
}

/// One process's way to the API. Cheap to clone.
#[derive(Clone)]
pub(super) struct Link {
    api: FakeApi,
    number: usize,
    clock: RuntimeClock,
    state: Arc<Mutex<State>>,
}

impl Link {
    pub(super) fn new(api: &FakeApi, number: usize, clock: RuntimeClock, rng: Rng, faults: Faults) -> Self {
        let state = State { rng, faults, dead: false, writes_to_live: None };
        Self { api: api.clone(), number, clock, state: Arc::new(Mutex::new(state)) }
    }

    /// Lets the process die after so many more writes.
    pub(super) fn doom(&self, writes: u32) {
        self.state.lock().writes_to_live = Some(writes);
    }

    pub(super) fn die(&self) {
        self.state.lock().dead = true;
    }

    pub(super) fn is_dead(&self) -> bool {
        self.state.lock().dead
    }

    /// From now on nothing goes wrong.
    pub(super) fn mend(&self) {
        let mut state = self.state.lock();
        state.faults = Faults::default();
        state.writes_to_live = None;
    }

    /// A client of the controller with that service account, who may do what its role says.
    pub(super) fn acting_as(&self, account: &str) -> Client {
        let (link, account): (_, Arc<str>) = (self.clone(), Arc::from(account));
        let service =
            tower::service_fn(move |request: Request<Body>| link.clone().call(Arc::clone(&account), request));
        in_process(service, "default")
    }

    async fn call(self, account: Arc<str>, request: Request<Body>) -> std::io::Result<Answer> {
        let (parts, body) = request.into_parts();
        if let Some(refused) = self.api.refused(&account, &parts.method, &parts.uri) {
            return Ok(refused);
        }
        let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
        // Events are written and forgotten: nothing in the simulation reads them.
        let of_events = parts.uri.path().ends_with("/events") || parts.uri.path().contains("/events/");
        if of_events && matches!(parts.method, Method::POST | Method::PATCH) {
            return Ok(http::Response::new(Full::new(echo(&body)).boxed()));
        }
        let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body)? };
        let strategic = parts
            .headers
            .get("content-type")
            .is_some_and(|it| it == "application/strategic-merge-patch+json");
        let write = parts.method != Method::GET;
        let (there, back, fate) = self.draw();
        self.travel(there).await;
        match fate {
            Fate::Unsent => return Err(std::io::Error::other("connection refused, by chance")),
            Fate::Refused => return Ok(refusal(500, "InternalError")),
            Fate::Unanswered | Fate::Answered => {}
        }
        let answer = self.api.answer_to(self.number, &parts.method, &parts.uri, body, strategic);
        let now = self.clock.now();
        self.api.note(|| {
            let code = answer.status().as_u16();
            format!("{now} process {}: {} {} {code} {fate:?}", self.number, parts.method, parts.uri)
        });
        if write {
            self.count();
        }
        self.travel(back).await;
        if fate == Fate::Unanswered && write {
            return Err(std::io::Error::other("connection reset, by chance"));
        }
        Ok(answer)
    }

    fn draw(&self) -> (u64, u64, Fate) {
        let mut state = self.state.lock();
        let faults = state.faults;
        let delay = |rng: &mut Rng| if faults.delay_ms == 0 { 0 } else { rng.u64(0..=faults.delay_ms) };
        let (there, back) = (delay(&mut state.rng), delay(&mut state.rng));
        let draw = state.rng.u32(0..1000);
        let fate = if draw < faults.unsent {
            Fate::Unsent
        } else if draw < faults.unsent + faults.unanswered {
            Fate::Unanswered
        } else if draw < faults.unsent + faults.unanswered + faults.refused {
            Fate::Refused
        } else {
            Fate::Answered
        };
        (there, back, fate)
    }

    /// The dead neither send nor hear anything.
    async fn travel(&self, ms: u64) {
        if ms > 0 {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }

    fn count(&self) {
        let mut state = self.state.lock();
        match &mut state.writes_to_live {
            Some(0) => state.dead = true,
            Some(writes) => *writes -= 1,
            None => {}
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Unsent,
    Unanswered,
    Refused,
    Answered,
}

/// An Event as it would come back: with a version.
fn echo(body: &Bytes) -> Bytes {
    let mut event: Value = serde_json::from_slice(body).unwrap_or_default();
    event["metadata"]["resourceVersion"] = "1".into();
    Bytes::from(event.to_string())
}

impl ClientSource for Link {
    fn client(&self, component: &str) -> Client {
        self.acting_as(component)
    }
}
