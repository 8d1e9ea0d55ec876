//! A seeded simulation: all controllers, as they run in a cluster, over an API in memory with a virtual clock.
//!
//! A seed decides everything: which workloads there are and what users do to them, when pods start, serve, end and fail, how
//! long requests take, and what goes wrong: the process dies after a write, an answer or a request is lost, a call is refused,
//! watches lag, repeat themselves, break and expire, and for a while two processes think they lead. `invariants` judges every
//! single change as it is made, and `ending` what is left when everybody has come to rest.
//!
//! `cargo test -p podium-controllers simulation` runs 500 seeds. `PODIUM_SIM_SEEDS=100000` runs more, from `PODIUM_SIM_FROM`;
//! `PODIUM_SIM_SEED=17` runs that one again and prints what happened. Equal seeds are equal runs. Long runs are worth a build with
//! `--release --config 'profile.release.package.podium-controllers.opt-level=3'`: a release is optimised for size.
//!
//! `theme` has scenarios of their own, with seeds of their own, that are about claims of stateful sets, about the rules of Jobs, and
//! about tainted nodes; one seed of those is run again by naming its test.
//!
//! `rollout` is about one rolling update of many replicas, with a process that dies again and again.

mod ending;
mod invariants;
mod link;
mod rollout;
mod sabotage;
mod scenario;
mod theme;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use self::world::{Outcome, run, run_themed};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Seeds of an ordinary test run.
const SEEDS: u64 = 500;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn the_invariants_hold_whatever_goes_wrong() {
    check(run);
}

#[test]
fn the_invariants_hold_for_claims_and_rules_of_jobs_and_taints() {
    check(run_themed);
}

/// Runs the seeds that were asked for.
fn check(run: fn(u64, bool) -> Outcome) {
    if let Some(seed) = number("PODIUM_SIM_SEED") {
        let outcome = run(seed, true);
        outcome.history.iter().for_each(|line| println!("{line}"));
        assert!(outcome.broken.is_empty(), "seed {seed}: {:#?}", outcome.broken);
        return;
    }
    let first = number("PODIUM_SIM_FROM").unwrap_or(0);
    let end = first + number("PODIUM_SIM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(first);
    let (failures, totals) = (Mutex::new(Vec::new()), Mutex::new(Outcome::default()));
    let started = Instant::now();
    std::thread::scope(|threads| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            threads.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || failures.lock().len() >= 10 {
                        return;
                    }
                    let outcome = run(seed, false);
                    if !outcome.broken.is_empty() {
                        // At once: a long run may be stopped before its end.
                        println!("seed {seed} failed: {:?}", outcome.broken);
                        failures.lock().push((seed, outcome.broken.clone()));
                    }
                    totals.lock().add(&outcome);
                    if end - first > 10_000 && seed.is_multiple_of(5_000) {
                        println!("{seed} after {:?}", started.elapsed());
                    }
                }
            });
        }
    });
    let failures = failures.into_inner();
    println!("{} seeds in {:?}: {}", end - first, started.elapsed(), totals.into_inner());
    assert!(failures.is_empty(), "run again with PODIUM_SIM_SEED=<seed>: {failures:#?}");
}

#[test]
fn equal_seeds_are_equal_runs() {
    for seed in [3, 17, 40, 99] {
        let (first, again) = (run(seed, true), run(seed, true));
        let same = first.history.iter().zip(&again.history).take_while(|(one, other)| one == other).count();
        let around = |history: &[String]| {
            history.iter().skip(same.saturating_sub(3)).take(6).cloned().collect::<Vec<_>>()
        };
        assert_eq!(around(&first.history), around(&again.history), "seed {seed}");
        assert_eq!(first.fingerprint, again.fingerprint, "seed {seed}");
    }
}

#[test]
fn a_broken_promise_is_noticed_in_a_whole_run() {
    // Pods made behind the controllers' backs are more than there may be. `sabotage` breaks every single invariant.
    let noticed = (0..40).any(|seed| !world::run_sabotaged(seed).broken.is_empty());
    assert!(noticed);
}
