//! Fairness, simulated: many flows, a virtual clock, real decisions.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::*;

const SHAPE: Shape = Shape { queues: 64, hand: 6, length: 50 };

fn millis(number: u64) -> Duration {
    Duration::from_millis(number)
}

#[test]
fn hands_are_of_different_queues_and_repeat() {
    for hash in [0, 1, 12_345, u64::MAX, 0x9e37_79b9_7f4a_7c15] {
        let (mut first, mut second) = ([0; MAX_HAND], [0; MAX_HAND]);
        let hand = deal(hash, 8, 6, &mut first).to_vec();
        assert_eq!(hand, deal(hash, 8, 6, &mut second));
        let mut sorted = hand.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), 6, "{hand:?}");
        assert!(sorted.iter().all(|card| *card < 8));
    }
    // Every hand of all queues is all queues.
    let mut out = [0; MAX_HAND];
    let mut all = deal(77, 4, 4, &mut out).to_vec();
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3]);
}

#[test]
fn without_queues_what_does_not_fit_is_turned_away() {
    let mut level = Queues::new(Shape { queues: 0, hand: 1, length: 0 }, 2);
    let Verdict::Execute(first) = level.arrive(1, 1, millis(0)) else { panic!("no seat") };
    assert!(matches!(level.arrive(1, 1, millis(0)), Verdict::Execute(_)));
    assert_eq!(level.arrive(2, 1, millis(0)), Verdict::Reject(Rejection::ConcurrencyLimit));
    level.finish(first, millis(1));
    assert!(matches!(level.arrive(2, 1, millis(1)), Verdict::Execute(_)));
}

#[test]
fn a_full_queue_turns_away_and_a_left_place_is_free() {
    let mut level = Queues::new(Shape { queues: 1, hand: 1, length: 2 }, 1);
    assert!(matches!(level.arrive(1, 1, millis(0)), Verdict::Execute(_)));
    let Verdict::Wait(first, 1) = level.arrive(1, 1, millis(0)) else { panic!("not the first") };
    let Verdict::Wait(_, 2) = level.arrive(1, 3, millis(0)) else { panic!("not the second") };
    assert_eq!((level.waiting(), level.waiting_seats()), (2, 4));
    assert_eq!(level.arrive(1, 1, millis(0)), Verdict::Reject(Rejection::QueueFull));
    assert!(level.leave(first, millis(1)));
    assert!(!level.leave(first, millis(1)));
    assert!(matches!(level.arrive(1, 1, millis(1)), Verdict::Wait(_, 2)));
}

#[test]
fn the_wide_are_waited_for() {
    let mut level = Queues::new(Shape { queues: 1, hand: 1, length: 9 }, 4);
    let running: Vec<Running> = (0..4)
        .map(|_| match level.arrive(1, 1, millis(0)) {
            Verdict::Execute(running) => running,
            other => panic!("{other:?}"),
        })
        .collect();
    let Verdict::Wait(wide, _) = level.arrive(1, 3, millis(0)) else { panic!("fits") };
    assert!(matches!(level.arrive(1, 1, millis(0)), Verdict::Wait(..)));
    level.finish(running[0], millis(5));
    assert_eq!(level.next(millis(5)), None, "one seat is not three");
    level.finish(running[1], millis(6));
    level.finish(running[2], millis(6));
    assert_eq!(level.next(millis(6)).map(|(ticket, _)| ticket), Some(wide));
    // Wider than everything: alone.
    let mut small = Queues::new(SHAPE, 2);
    assert!(matches!(small.arrive(1, 10, millis(0)), Verdict::Execute(_)));
    assert!(matches!(small.arrive(1, 1, millis(0)), Verdict::Wait(..)));
}

#[test]
fn fewer_queues_lose_nobody() {
    let mut level = Queues::new(SHAPE, 1);
    let Verdict::Execute(running) = level.arrive(1, 1, millis(0)) else { panic!("no seat") };
    for flow in 0..20 {
        assert!(matches!(level.arrive(flow * 0x1_0000_001f, 1, millis(0)), Verdict::Wait(..)));
    }
    level.reshape(Shape { queues: 2, hand: 1, length: 50 }, 100, millis(1));
    level.finish(running, millis(1));
    let mut begun = 0;
    while level.next(millis(1)).is_some() {
        begun += 1;
    }
    assert_eq!((begun, level.waiting()), (20, 0));
}

/// What a flow does: keeps this many requests open at once, each of a width and a duration.
#[derive(Clone, Copy)]
struct Flow {
    open: usize,
    width: u64,
    takes: Duration,
}

/// Runs closed-loop flows for a while: how many seat-milliseconds each was given, and how long its requests waited at most.
fn simulate(shape: Shape, limit: u64, flows: &[Flow], length: Duration) -> Vec<(f64, Duration)> {
    let mut level = Queues::new(shape, limit);
    let mut results = vec![(0.0, Duration::ZERO); flows.len()];
    // What happens next: at a time, an execution ends or a flow sends again.
    let mut agenda: BinaryHeap<Reverse<(Duration, u64, usize)>> = BinaryHeap::new();
    let mut running: HashMap<u64, Running> = HashMap::new();
    let mut waiting: HashMap<Ticket, (usize, Duration)> = HashMap::new();
    let mut serial = 0;
    let hash = |flow: usize| (flow as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for (index, flow) in flows.iter().enumerate() {
        for _ in 0..flow.open {
            serial += 1;
            agenda.push(Reverse((Duration::ZERO, serial, index)));
        }
    }
    while let Some(Reverse((now, id, index))) = agenda.pop() {
        if now > length {
            break;
        }
        let flow = flows[index];
        if let Some(done) = running.remove(&id) {
            level.finish(done, now);
            results[index].0 += flow.width as f64 * flow.takes.as_secs_f64() * 1e3;
        }
        // It sends the next one at once.
        match level.arrive(hash(index), flow.width, now) {
            Verdict::Execute(started) => {
                serial += 1;
                running.insert(serial, started);
                agenda.push(Reverse((now + flow.takes, serial, index)));
            }
            Verdict::Wait(ticket, _) => {
                waiting.insert(ticket, (index, now));
            }
            Verdict::Reject(_) => {
                serial += 1;
                agenda.push(Reverse((now + Duration::from_millis(10), serial, index)));
            }
        }
        while let Some((ticket, started)) = level.next(now) {
            let (of, since) = waiting.remove(&ticket).expect("only who waits is next");
            let waited = now - since;
            results[of].1 = results[of].1.max(waited);
            serial += 1;
            running.insert(serial, started);
            agenda.push(Reverse((now + flows[of].takes, serial, of)));
        }
        assert!(
            level.executing_seats()
                <= limit.max(flow.width.max(flows.iter().map(|f| f.width).max().unwrap_or(0)))
        );
    }
    results
}

#[test]
fn a_flood_hardly_delays_the_modest() {
    let flood = Flow { open: 400, width: 1, takes: millis(20) };
    let modest = Flow { open: 1, width: 1, takes: millis(20) };
    let mut flows = vec![flood];
    flows.extend([modest; 10]);
    let results = simulate(SHAPE, 10, &flows, Duration::from_secs(20));
    for (index, (_, waited)) in results.iter().enumerate().skip(1) {
        assert!(*waited < millis(200), "flow {index} waited {waited:?}");
    }
    // Alone, a modest flow would be given 1000 seat-milliseconds a second.
    for (given, _) in &results[1..] {
        assert!(*given > 20_000.0 * 0.4, "{results:?}");
    }
    assert!(results[0].0 > results[1].0, "the flood still gets what is left");
}

#[test]
fn equals_get_equal_shares() {
    let flows = [Flow { open: 40, width: 1, takes: millis(10) }; 4];
    let results = simulate(Shape { queues: 64, hand: 1, length: 50 }, 8, &flows, Duration::from_secs(20));
    let total: f64 = results.iter().map(|(given, _)| given).sum();
    for (given, _) in &results {
        let share = given / total;
        assert!((0.22..0.28).contains(&share), "{results:?}");
    }
}

#[test]
fn width_and_duration_are_paid_for() {
    // One flow lists (wide and slow), the other gets: both are given about the same number of seat-seconds.
    let flows =
        [Flow { open: 40, width: 5, takes: millis(50) }, Flow { open: 40, width: 1, takes: millis(2) }];
    let results = simulate(Shape { queues: 64, hand: 1, length: 50 }, 10, &flows, Duration::from_secs(30));
    let share = results[0].0 / (results[0].0 + results[1].0);
    assert!((0.35..0.65).contains(&share), "{results:?}");
}
