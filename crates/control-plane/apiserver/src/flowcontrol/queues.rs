//! Fair queuing within one priority level: who executes, who waits, who is turned away. Pure: time is an argument.
//!
//! Every flow (a user, or a namespace, of one FlowSchema) is dealt a small hand of the level's queues and joins the one with
//! the least work. Queues take turns by virtual time: each would like to be served at an equal rate, and the one whose
//! oldest request would finish first, were that so, is next. So a flow that sends a thousand requests waits behind
//! itself and hardly delays anybody else.
//!
//! Source: upstream's KEP-1040 and `apiserver/pkg/util/flowcontrol/fairqueuing`. Simplified: the seats that upstream keeps
//! for a moment after a write, on behalf of its watchers, are not kept; a watcher costs us microseconds.

use std::collections::VecDeque;
use std::time::Duration;

/// How long a request is believed to execute before it has. Source: upstream's `estimatedServiceDuration`.
const BELIEVED_SECONDS: f64 = 0.003;

/// How a level queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// How many queues; none means that what cannot execute at once is turned away.
    pub(crate) queues: usize,
    /// How many of them a flow is dealt.
    pub(crate) hand: usize,
    /// The most requests in one queue.
    pub(crate) length: usize,
}

/// A request that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Ticket {
    number: u64,
    queue: usize,
}

/// A request that executes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Running {
    queue: Option<usize>,
    width: u64,
    since: Duration,
}

/// Why a request is turned away. The names are upstream's, in the metric's `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Rejection {
    /// All seats are taken and the level does not queue.
    ConcurrencyLimit,
    /// Its queue is full.
    QueueFull,
    /// It waited too long.
    TimeOut,
    /// The client left.
    Cancelled,
}

impl Rejection {
    /// As in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Rejection::ConcurrencyLimit => "concurrency-limit",
            Rejection::QueueFull => "queue-full",
            Rejection::TimeOut => "time-out",
            Rejection::Cancelled => "cancelled",
        }
    }
}

/// What becomes of a request that arrives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// It executes now.
    Execute(Running),
    /// It waits, as the last of this many in its queue.
    Wait(Ticket, usize),
    /// It is turned away.
    Reject(Rejection),
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    number: u64,
    width: u64,
}

impl Waiting {
    /// Seat-seconds it is believed to need.
    fn work(self) -> f64 {
        self.width as f64 * BELIEVED_SECONDS
    }
}

#[derive(Clone, Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// The virtual time at which its next request may begin.
    begins: f64,
    executing: usize,
    executing_seats: u64,
}

impl Queue {
    fn is_active(&self) -> bool {
        !self.waiting.is_empty() || self.executing > 0
    }

    /// Seat-seconds ahead of a request that would join.
    fn work(&self) -> f64 {
        let waiting: f64 = self.waiting.iter().map(|request| request.work()).sum();
        waiting + self.executing_seats as f64 * BELIEVED_SECONDS
    }
}

/// The queues of one level.
#[derive(Debug)]
pub(crate) struct Queues {
    shape: Shape,
    /// Seats; at least one, or nothing would ever happen.
    limit: u64,
    /// At least as many as the shape says; more only until those that are too many are empty.
    queues: Vec<Queue>,
    executing: usize,
    /// Seats taken.
    executing_seats: u64,
    waiting_seats: u64,
    waiting: usize,
    /// Virtual time: what each active queue would have been given by now, in seat-seconds.
    virtual_now: f64,
    real_now: Duration,
    numbers: u64,
    /// Where the search for the next queue begins, so that equals take turns.
    turn: usize,
}

impl Queues {
    pub(crate) fn new(shape: Shape, limit: u64) -> Queues {
        Queues {
            shape,
            limit: limit.max(1),
            queues: vec![Queue::default(); shape.queues],
            executing: 0,
            executing_seats: 0,
            waiting_seats: 0,
            waiting: 0,
            virtual_now: 0.0,
            real_now: Duration::ZERO,
            numbers: 0,
            turn: 0,
        }
    }

    /// Another shape and number of seats from now on. What waits goes on waiting where it is.
    pub(crate) fn reshape(&mut self, shape: Shape, limit: u64, now: Duration) {
        self.advance(now);
        self.shape = shape;
        self.limit = limit.max(1);
        if self.queues.len() < shape.queues {
            self.queues.resize(shape.queues, Queue::default());
        }
        while self.queues.len() > shape.queues && self.queues.last().is_some_and(|last| !last.is_active()) {
            self.queues.pop();
        }
    }

    /// Seats taken by what executes.
    pub(crate) fn executing_seats(&self) -> u64 {
        self.executing_seats
    }

    /// Seats that are wanted by what waits.
    pub(crate) fn waiting_seats(&self) -> u64 {
        self.waiting_seats
    }

    /// Requests that execute.
    pub(crate) fn executing(&self) -> usize {
        self.executing
    }

    /// Requests that the queues hold at most.
    pub(crate) fn capacity(&self) -> usize {
        self.shape.queues * self.shape.length
    }

    /// Virtual time, as of the last change.
    pub(crate) fn virtual_now(&self) -> f64 {
        self.virtual_now
    }

    /// The earliest and the latest virtual time at which a queue's oldest waiting request may begin.
    pub(crate) fn next_begins(&self) -> Option<(f64, f64)> {
        let begins = self.queues.iter().filter(|queue| !queue.waiting.is_empty()).map(|queue| queue.begins);
        begins.fold(None, |bounds, at| {
            let (least, most) = bounds.unwrap_or((at, at));
            Some((at.min(least), at.max(most)))
        })
    }

    /// Requests that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Seats there are.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// A request of a flow arrives that needs `width` seats.
    pub(crate) fn arrive(&mut self, flow: u64, width: u64, now: Duration) -> Verdict {
        self.advance(now);
        let width = width.max(1);
        if self.shape.queues == 0 {
            // A level that does not queue, and queues of an earlier shape that still drain come first.
            if self.waiting == 0 && self.fits(width) {
                return Verdict::Execute(self.begin(None, width));
            }
            return Verdict::Reject(Rejection::ConcurrencyLimit);
        }
        let index = self.choose(flow);
        if self.waiting == 0 && self.fits(width) {
            self.wake(index);
            return Verdict::Execute(self.begin(Some(index), width));
        }
        if self.queues[index].waiting.len() >= self.shape.length {
            return Verdict::Reject(Rejection::QueueFull);
        }
        self.wake(index);
        self.numbers += 1;
        let number = self.numbers;
        self.queues[index].waiting.push_back(Waiting { number, width });
        self.waiting += 1;
        self.waiting_seats += width;
        Verdict::Wait(Ticket { number, queue: index }, self.queues[index].waiting.len())
    }

    /// A request ends; `next` tells who may begin because of it.
    pub(crate) fn finish(&mut self, running: Running, now: Duration) {
        self.advance(now);
        self.executing = self.executing.saturating_sub(1);
        self.executing_seats = self.executing_seats.saturating_sub(running.width);
        let Some(queue) = running.queue.and_then(|index| self.queues.get_mut(index)) else { return };
        queue.executing = queue.executing.saturating_sub(1);
        queue.executing_seats = queue.executing_seats.saturating_sub(running.width);
        // It was believed to take a certain time; its queue pays for what it really took.
        let took = now.saturating_sub(running.since).as_secs_f64();
        queue.begins += running.width as f64 * (took - BELIEVED_SECONDS);
    }

    /// The next waiting request that may begin, if there are seats for it. To be asked until there is none.
    pub(crate) fn next(&mut self, now: Duration) -> Option<(Ticket, Running)> {
        self.advance(now);
        if self.waiting == 0 {
            return None;
        }
        let count = self.queues.len();
        let mut best: Option<(usize, f64)> = None;
        for step in 1..=count {
            let index = (self.turn + step) % count;
            let Some(head) = self.queues[index].waiting.front() else { continue };
            let finish = self.queues[index].begins + head.work();
            if best.is_none_or(|(_, earliest)| finish < earliest) {
                best = Some((index, finish));
            }
        }
        let (index, _) = best?;
        let head = *self.queues[index].waiting.front()?;
        // Who is next is waited for, even if somebody narrower would fit: else the wide would wait for ever.
        if !self.fits(head.width) {
            return None;
        }
        self.turn = index;
        self.queues[index].waiting.pop_front();
        self.waiting -= 1;
        self.waiting_seats -= head.width;
        Some((Ticket { number: head.number, queue: index }, self.begin(Some(index), head.width)))
    }

    /// Takes a waiting request back; whether it still waited.
    pub(crate) fn leave(&mut self, ticket: Ticket, now: Duration) -> bool {
        self.advance(now);
        let Some(queue) = self.queues.get_mut(ticket.queue) else { return false };
        let Some(at) = queue.waiting.iter().position(|request| request.number == ticket.number) else {
            return false;
        };
        if let Some(request) = queue.waiting.remove(at) {
            self.waiting -= 1;
            self.waiting_seats -= request.width;
        }
        true
    }

    /// A request wider than all seats may execute alone.
    fn fits(&self, width: u64) -> bool {
        self.executing_seats == 0 || self.executing_seats + width <= self.limit
    }

    fn begin(&mut self, index: Option<usize>, width: u64) -> Running {
        self.executing += 1;
        self.executing_seats += width;
        if let Some(queue) = index.and_then(|index| self.queues.get_mut(index)) {
            queue.executing += 1;
            queue.executing_seats += width;
            queue.begins += width as f64 * BELIEVED_SECONDS;
        }
        Running { queue: index, width, since: self.real_now }
    }

    /// A queue that was idle has no claim from the time before.
    fn wake(&mut self, index: usize) {
        if !self.queues[index].is_active() {
            self.queues[index].begins = self.virtual_now;
        }
    }

    /// The queue with the least work of the flow's hand.
    fn choose(&self, flow: u64) -> usize {
        let mut hand = [0_usize; MAX_HAND];
        let hand = deal(flow, self.shape.queues, self.shape.hand, &mut hand);
        let mut best = hand.first().copied().unwrap_or(0);
        let mut least = f64::INFINITY;
        // Begins elsewhere each time, so that a flow alone uses its whole hand.
        for step in 0..hand.len() {
            let index = hand[(step + self.numbers as usize) % hand.len()];
            let work = self.queues[index].work();
            if work < least {
                (best, least) = (index, work);
            }
        }
        best
    }

    /// Virtual time passes as fast as seats are used, divided among the queues that want them.
    fn advance(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.real_now);
        self.real_now = self.real_now.max(now);
        if self.waiting == 0 {
            // Nobody competes, so nobody's share matters; a queue that wakes begins at the present time anyway.
            let wanted = self.executing_seats.min(self.limit) as f64;
            self.virtual_now += passed.as_secs_f64() * wanted;
            return;
        }
        let active = self.queues.iter().filter(|queue| queue.is_active()).count().max(1);
        let wanted = (self.executing_seats + self.waiting_seats).min(self.limit) as f64;
        self.virtual_now += passed.as_secs_f64() * wanted / active as f64;
    }
}

/// The largest hand that validation lets through: dealing all of nineteen queues takes 57 of the 60 bits that upstream's
/// `MaxHashBits` allows, and twenty would take 62.
const MAX_HAND: usize = 19;

/// Deals a hand of different queues from a hash: the same hash, the same hand.
fn deal(hash: u64, queues: usize, hand: usize, out: &mut [usize; MAX_HAND]) -> &[usize] {
    let hand = hand.clamp(1, MAX_HAND).min(queues);
    let mut hash = hash;
    for dealt in 0..hand {
        let left = (queues - dealt) as u64;
        let mut card = (hash % left) as usize;
        hash /= left;
        // The card is counted among those that are left: each smaller one already dealt moves it up.
        let mut sorted = [0_usize; MAX_HAND];
        sorted[..dealt].copy_from_slice(&out[..dealt]);
        sorted[..dealt].sort_unstable();
        for taken in &sorted[..dealt] {
            if *taken <= card {
                card += 1;
            }
        }
        out[dealt] = card;
    }
    &out[..hand]
}

#[cfg(test)]
mod tests;
