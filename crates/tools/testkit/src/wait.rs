//! Waiting for a condition.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// How long between two looks: short against what a person notices, long against what a look costs.
const PAUSE: Duration = Duration::from_millis(50);

/// Looks until `look` gives `Ok`, and returns that; panics after `limit` with what was waited for and the last `Err`.
#[track_caller]
pub fn wait<T, E: Debug>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T, E>) -> T {
    let started = Instant::now();
    loop {
        match look() {
            Ok(value) => return value,
            Err(last) if started.elapsed() > limit => {
                panic!("waited {} s for {what}; last seen: {last:?}", limit.as_secs())
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// Looks until the value satisfies the condition; panics after `limit` with the last value.
#[track_caller]
pub fn wait_for<T: Debug>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> T,
    good: impl Fn(&T) -> bool,
) -> T {
    wait(what, limit, || {
        let value = look();
        if good(&value) { Ok(value) } else { Err(value) }
    })
}
