//! Priority and fairness: every request is classified by the FlowSchemas, and takes seats of its priority level while it is
//! handled, or waits for them in a fair queue, or is told to come back.
//!
//! [`queues`], [`rules`], [`shares`] and [`estimate`] decide, purely; this file is the shell that requests pass through, and
//! [`keeper`] what keeps configuration, default objects and borrowing up to date.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue};
use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::authentication::User;
use crate::metrics::{Counted, Watermark};
use crate::request::{Query, RequestInfo};

pub(crate) mod defaults;
mod estimate;
pub(crate) mod keeper;
mod occupancy;
mod queues;
mod rules;
mod shares;
mod telemetry;

use estimate::{RetryAfter, Stored};
use occupancy::{Occupancy, Occupants};
use queues::{Queues, Rejection, Running, Ticket, Verdict};
use rules::{CATCH_ALL, EXEMPT, LevelSpec, Schema};
use shares::{Ask, Bounds, Integrator};
use telemetry::{FlowNumbers, LevelNumbers};

/// All seats are divided again this often. Source: upstream's `borrowingAdjustmentPeriod`.
const ADJUST_EVERY: Duration = Duration::from_secs(10);

/// The most seats of one list. Source: upstream's `MaximumListSeatsLimit`.
const WIDEST: u64 = 100;

/// What requests pass through.
pub(crate) struct FlowControl {
    /// Seats of all levels together.
    seats: u64,
    /// The longest wait in a queue.
    patience: Duration,
    began: Instant,
    /// Keys the hash that deals hands.
    random: ahash::RandomState,
    current: RwLock<Arc<Configuration>>,
    stored: RwLock<HashMap<String, Stored, ahash::RandomState>>,
    fraction: Mutex<f64>,
}

impl fmt::Debug for FlowControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlowControl").field("seats", &self.seats).finish_non_exhaustive()
    }
}

/// Schemas in matching order, each with its level, and all levels.
struct Configuration {
    schemas: Vec<(Schema, Arc<Level>, Arc<FlowNumbers>)>,
    levels: Vec<Arc<Level>>,
}

/// A priority level at work.
struct Level {
    spec: RwLock<LevelSpec>,
    name: Arc<str>,
    state: Mutex<LevelState>,
    numbers: LevelNumbers,
}

struct LevelState {
    queues: Queues,
    bounds: Bounds,
    demand: Integrator,
    occupancy: Occupancy,
    smoothed: f64,
    retry_after: RetryAfter,
    /// Whom to wake, by their tickets.
    waiting: HashMap<Ticket, oneshot::Sender<Running>, ahash::RandomState>,
}

/// How a request was classified, for the headers of its answer.
#[derive(Clone, Debug)]
pub(crate) struct Classified {
    schema_uid: HeaderValue,
    level_uid: HeaderValue,
}

impl Classified {
    /// Writes the headers. They are uids, so that names, which may say how little somebody matters, are not told.
    pub(crate) fn write(self, headers: &mut HeaderMap) {
        headers.insert("x-kubernetes-pf-flowschema-uid", self.schema_uid);
        headers.insert("x-kubernetes-pf-prioritylevel-uid", self.level_uid);
    }
}

/// What a request that is turned away is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Seconds to wait before coming back.
    pub(crate) retry_after: u64,
}

impl FlowControl {
    /// Control over this many seats, with the default objects until others are there.
    pub(crate) fn new(seats: usize, patience: Duration) -> FlowControl {
        let control = FlowControl {
            seats: seats as u64,
            patience,
            began: Instant::now(),
            random: ahash::RandomState::new(),
            current: RwLock::new(Arc::new(Configuration { schemas: Vec::new(), levels: Vec::new() })),
            stored: RwLock::default(),
            fraction: Mutex::new(1.0),
        };
        control.configure(&defaults::schemas(), &defaults::levels());
        control
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Takes these objects as the configuration. The mandatory ones are there even when their objects are not.
    fn configure(&self, schemas: &[Value], levels: &[Value]) {
        let mut specs: Vec<LevelSpec> = levels.iter().map(LevelSpec::of).collect();
        for (name, mandatory) in [(EXEMPT, 0), (CATCH_ALL, 1)] {
            if !specs.iter().any(|spec| &*spec.name == name) {
                specs.push(LevelSpec::of(&defaults::levels()[mandatory]));
            }
        }
        let bounds = shares::bounds(&specs, self.seats);
        let before = Arc::clone(&self.current.read());
        let now = self.now();
        let levels: Vec<Arc<Level>> = specs
            .into_iter()
            .zip(bounds)
            .map(|(spec, bounds)| {
                match before.levels.iter().find(|level| level.name == spec.name) {
                    // What waits and executes goes on under the new configuration.
                    Some(level) => {
                        level.reconfigure(spec, bounds, now);
                        Arc::clone(level)
                    }
                    None => Arc::new(Level::new(spec, bounds, now)),
                }
            })
            .collect();
        let mut all: Vec<Schema> = schemas.iter().map(Schema::of).collect();
        for mandatory in defaults::schemas() {
            let schema = Schema::of(&mandatory);
            let needed = [EXEMPT, CATCH_ALL].contains(&&*schema.name);
            if needed && !all.iter().any(|known| known.name == schema.name) {
                all.push(schema);
            }
        }
        let schemas = rules::in_order(all)
            .into_iter()
            .filter_map(|schema| {
                let level = levels.iter().find(|level| *level.name == *schema.level)?;
                let numbers = level.numbers.of(&schema.name);
                Some((schema, Arc::clone(level), numbers))
            })
            .collect();
        *self.current.write() = Arc::new(Configuration { schemas, levels });
    }

    /// Classifies a request and waits for its seats. `gauge` counts those that wait.
    ///
    /// Cancel-safe: dropped while it waits, the request leaves its queue.
    pub(crate) async fn admit(
        &self,
        user: &User,
        info: &RequestInfo,
        query: &Query,
        kind: Option<&str>,
        gauge: &Watermark,
    ) -> (Option<Classified>, Result<Seats, Refusal>) {
        let current = Arc::clone(&self.current.read());
        let found = current.schemas.iter().find(|(schema, _, _)| schema.matches(user, info));
        // Everybody is authenticated or not, so the last schema matches; were it not so, the last level decides.
        let Some((schema, level, numbers)) = found.or_else(|| current.schemas.last()) else {
            return (None, Ok(Seats::none()));
        };
        let (exempt, hand, level_uid) = {
            let spec = level.spec.read();
            (spec.exempt, spec.shape.hand, spec.uid.clone())
        };
        let classified = Classified { schema_uid: schema.uid.clone(), level_uid };
        let stored = match (info.verb, kind) {
            ("list" | "watch", Some(kind)) => self.stored(kind),
            _ => Stored::default(),
        };
        let arrived = self.now();
        if exempt {
            let width = estimate::width(info, query, stored, WIDEST);
            let seats = level.take(numbers, width, info.verb, arrived, self.began);
            return (Some(classified), Ok(seats));
        }
        let flow = schema.flow(user, info, &self.random);
        let admitted = self.queue(level, numbers, flow, info, query, stored, hand, arrived, gauge).await;
        (Some(classified), admitted)
    }

    async fn queue(
        &self,
        level: &Arc<Level>,
        numbers: &Arc<FlowNumbers>,
        flow: u64,
        info: &RequestInfo,
        query: &Query,
        stored: Stored,
        hand: usize,
        arrived: Duration,
        gauge: &Watermark,
    ) -> Result<Seats, Refusal> {
        let seats = |running: Running, width| Seats {
            taken: Some(Taken {
                level: Arc::clone(level),
                numbers: Arc::clone(numbers),
                running: Some(running),
                width,
                watch: info.verb == "watch",
                since: self.now(),
                began: self.began,
            }),
        };
        let (sender, receiver) = oneshot::channel();
        let (verdict, width) = {
            let mut state = level.state.lock();
            let widest = estimate::widest(state.bounds.nominal, hand).min(WIDEST);
            let width = estimate::width(info, query, stored, widest);
            let verdict = state.queues.arrive(flow, width, arrived);
            state.note_demand(arrived);
            if let Verdict::Wait(ticket, _) = verdict {
                state.waiting.insert(ticket, sender);
            }
            (verdict, width)
        };
        numbers.estimated(width);
        let ticket = match verdict {
            Verdict::Execute(running) => {
                numbers.began(width, Duration::ZERO);
                return Ok(seats(running, width));
            }
            Verdict::Reject(why) => return Err(level.refuse(numbers, why, arrived, Duration::ZERO)),
            Verdict::Wait(ticket, length) => {
                numbers.queued(width, length);
                ticket
            }
        };
        let _counted = Counted::of(gauge);
        let mut place = Place {
            level: Arc::clone(level),
            numbers: Arc::clone(numbers),
            ticket: Some(ticket),
            receiver,
            width,
            arrived,
            began: self.began,
        };
        let told = match tokio::time::timeout(self.patience, &mut place.receiver).await {
            Ok(told) => {
                place.ticket = None;
                told.ok()
            }
            // It may be told to begin in this very moment.
            Err(_) => place.leave(),
        };
        numbers.left_queue(width);
        let waited = self.now().saturating_sub(arrived);
        match told {
            Some(running) => {
                numbers.began(width, waited);
                Ok(seats(running, width))
            }
            None => Err(level.refuse(numbers, Rejection::TimeOut, self.now(), waited)),
        }
    }

    /// Divides all seats by what the levels wanted lately.
    fn adjust(&self) {
        let current = Arc::clone(&self.current.read());
        let now = self.now();
        let asks: Vec<Ask> = current
            .levels
            .iter()
            .map(|level| {
                let mut state = level.state.lock();
                let demand = state.demand.take(now.as_secs_f64());
                state.smoothed = shares::smoothed(state.smoothed, &demand);
                let exempt = level.spec.read().exempt;
                let ask = Ask { bounds: state.bounds, exempt, high: demand.high, smoothed: state.smoothed };
                level.numbers.demand(&demand, state.smoothed, ask.target());
                ask
            })
            .collect();
        let (given, fraction) = shares::divide(&asks, self.seats);
        *self.fraction.lock() = fraction;
        for (level, seats) in current.levels.iter().zip(given) {
            let shape = level.spec.read().shape;
            let mut state = level.state.lock();
            state.queues.reshape(shape, seats, now);
            state.wake(now);
        }
    }

    /// How much is stored of a kind, as last counted.
    pub(crate) fn stored(&self, kind: &str) -> Stored {
        self.stored.read().get(kind).copied().unwrap_or_default()
    }

    /// Remembers how much is stored of a kind.
    fn note_stored(&self, kind: &str, stored: Stored) {
        let mut all = self.stored.write();
        match all.get_mut(kind) {
            Some(known) => *known = stored,
            None => drop(all.insert(kind.to_owned(), stored)),
        }
    }

    /// The metrics, in the text form.
    pub(crate) fn render(&self, out: &mut String) {
        let current = Arc::clone(&self.current.read());
        let rows: Vec<_> = current
            .levels
            .iter()
            .map(|level| {
                let state = level.state.lock();
                (level, state.bounds, state.queues.limit())
            })
            .collect();
        telemetry::render(out, &rows, *self.fraction.lock());
        let now = self.now();
        // Exempt requests take seats without asking.
        let limited: Vec<_> = current.levels.iter().filter(|level| !level.spec.read().exempt).collect();
        occupancy::render(out, limited.len(), |index, write| {
            let level = limited[index];
            let mut state = level.state.lock();
            state.occupancy.tick(now);
            write(&level.name, &state.occupancy);
        });
    }
}

impl Level {
    fn new(spec: LevelSpec, bounds: Bounds, now: Duration) -> Level {
        Level {
            name: Arc::clone(&spec.name),
            state: Mutex::new(LevelState {
                queues: Queues::new(spec.shape, bounds.nominal),
                bounds,
                demand: Integrator::default(),
                occupancy: Occupancy::new(now),
                smoothed: 0.0,
                retry_after: RetryAfter::default(),
                waiting: HashMap::default(),
            }),
            numbers: LevelNumbers::default(),
            spec: RwLock::new(spec),
        }
    }

    fn reconfigure(&self, spec: LevelSpec, bounds: Bounds, now: Duration) {
        let mut state = self.state.lock();
        // What has been borrowed or lent is decided afresh with the next adjustment.
        if state.bounds != bounds || self.spec.read().shape != spec.shape {
            state.queues.reshape(spec.shape, bounds.nominal, now);
        }
        state.bounds = bounds;
        state.wake(now);
        drop(state);
        *self.spec.write() = spec;
    }

    /// Seats of the exempt level: counted, never waited for.
    fn take(
        self: &Arc<Level>,
        numbers: &Arc<FlowNumbers>,
        width: u64,
        verb: &str,
        now: Duration,
        began: Instant,
    ) -> Seats {
        numbers.estimated(width);
        numbers.began(width, Duration::ZERO);
        Seats {
            taken: Some(Taken {
                level: Arc::clone(self),
                numbers: Arc::clone(numbers),
                running: None,
                width,
                watch: verb == "watch",
                since: now,
                began,
            }),
        }
    }

    fn refuse(&self, numbers: &FlowNumbers, why: Rejection, now: Duration, waited: Duration) -> Refusal {
        numbers.rejected(why, waited);
        Refusal { retry_after: self.state.lock().retry_after.rejected(now.as_secs()) }
    }
}

impl LevelState {
    fn note_demand(&mut self, now: Duration) {
        let wanted = self.queues.executing_seats() + self.queues.waiting_seats();
        self.demand.set(wanted as f64, now.as_secs_f64());
        let occupants = Occupants {
            executing: self.queues.executing(),
            executing_seats: self.queues.executing_seats(),
            waiting: self.queues.waiting(),
            waiting_seats: self.queues.waiting_seats(),
            limit: self.queues.limit(),
            nominal: self.bounds.nominal,
            capacity: self.queues.capacity(),
        };
        self.occupancy.set(occupants, now);
    }

    /// Tells everybody for whom there are seats now to begin.
    fn wake(&mut self, now: Duration) {
        while let Some((ticket, running)) = self.queues.next(now) {
            // Somebody who has gone takes no seats.
            let taken = self.waiting.remove(&ticket).map(|sender| sender.send(running).is_ok());
            if taken != Some(true) {
                self.queues.finish(running, now);
            }
        }
        self.note_demand(now);
    }
}

/// A place in a queue. Dropped with its ticket still in it, the client has gone: the queue is left.
struct Place {
    level: Arc<Level>,
    numbers: Arc<FlowNumbers>,
    ticket: Option<Ticket>,
    receiver: oneshot::Receiver<Running>,
    width: u64,
    arrived: Duration,
    began: Instant,
}

impl Place {
    /// Leaves the queue; the seats, if it was told to begin just before.
    fn leave(&mut self) -> Option<Running> {
        let ticket = self.ticket.take()?;
        let now = self.began.elapsed();
        let mut state = self.level.state.lock();
        state.waiting.remove(&ticket);
        if state.queues.leave(ticket, now) {
            state.wake(now);
            return None;
        }
        drop(state);
        self.receiver.try_recv().ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.ticket.is_none() {
            return;
        }
        let told = self.leave();
        let now = self.began.elapsed();
        self.numbers.left_queue(self.width);
        self.numbers.rejected(Rejection::Cancelled, now.saturating_sub(self.arrived));
        if let Some(running) = told {
            let mut state = self.level.state.lock();
            state.queues.finish(running, now);
            state.wake(now);
        }
    }
}

/// Seats that a request holds until this is dropped.
pub(crate) struct Seats {
    taken: Option<Taken>,
}

struct Taken {
    level: Arc<Level>,
    numbers: Arc<FlowNumbers>,
    running: Option<Running>,
    width: u64,
    watch: bool,
    since: Duration,
    began: Instant,
}

impl Seats {
    /// Of a request that takes none.
    pub(crate) fn none() -> Seats {
        Seats { taken: None }
    }
}

impl fmt::Debug for Seats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seats").field("taken", &self.taken.is_some()).finish()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let now = self.began.elapsed();
        self.numbers.ended(self.width, self.watch, now.saturating_sub(self.since));
        if let Some(running) = self.running.take() {
            let mut state = self.level.state.lock();
            state.queues.finish(running, now);
            state.wake(now);
        }
    }
}

#[cfg(test)]
mod tests;
