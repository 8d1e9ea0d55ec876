//! Writers whose changes go to hundreds of watchers are answered in turns.
//!
//! Where there is processor enough, all watchers of a change have it before its writer is answered. Where there is not,
//! several writers in a loop keep each other's changes waiting: what one writes next only stands in line behind what the
//! watchers have not been sent yet, so all that early answers gain is that every watcher is late. In turns, each change
//! finds the line empty. With 200 watchers and 4 writers on two cores half of the deliveries take less than half the time,
//! for a third of the writes (`cargo xtask bench api`). A writer alone is hardly ever held up: its turn has come when it
//! has written again.
//!
//! Upstream's priority and fairness does likewise: a write that is watched keeps seats for a while after its answer.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::fresh::Handed;

/// Fewer watchers than this are not worth a turn.
const MANY: u32 = 32;

/// Nor are those who had the change this quickly: there is processor enough.
const QUICK: Duration = Duration::from_micros(200);

/// The length of a turn. The least is the timer's tick: of two answers within one, neither would have a turn.
const LEAST: Duration = Duration::from_millis(1);
const MOST: Duration = Duration::from_millis(10);

/// What a watcher adds to a turn at most, however long the machine was busy with something else.
const EACH: Duration = Duration::from_micros(25);

/// Nobody waits longer for a turn.
const PATIENCE: Duration = Duration::from_millis(100);

/// When the next turn begins.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<Option<Instant>>);

impl Turns {
    /// When the writer of a change is to be answered that these watchers have; `None` for at once.
    pub(crate) fn take(&self, handed: Handed, now: Instant) -> Option<Instant> {
        if handed.watchers < MANY || handed.took < QUICK {
            return None;
        }
        // To read takes clients as long as to hand out takes us.
        let length = (2 * handed.took).min(EACH * handed.watchers).clamp(LEAST, MOST);
        let mut next = self.0.lock();
        let turn = next.map_or(now, |next| next.clamp(now, now + PATIENCE));
        *next = Some(turn + length);
        (turn > now).then_some(turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn handed(watchers: u32, took: u64) -> Handed {
        Handed { watchers, took: Duration::from_micros(took) }
    }

    /// After how many microseconds each of these is answered, if all ask at the same moment.
    #[track_caller]
    fn check(asked: &[Handed], expected: &[u64]) {
        let (turns, now) = (Turns::default(), Instant::now());
        let answered = asked.iter().map(|handed| turns.take(*handed, now).unwrap_or(now) - now);
        let answered: Vec<_> = answered.map(|wait| wait.as_micros()).collect();
        assert_eq!(answered, expected.iter().map(|wait| u128::from(*wait)).collect::<Vec<_>>());
    }

    #[test]
    fn writers_with_many_watchers_take_turns() {
        check(&[handed(200, 800), handed(200, 700), handed(200, 700)], &[0, 1600, 3000]);
        // No shorter than the timer can tell apart, no longer than so many watchers need, nor than a hundredth second.
        check(&[handed(200, 300), handed(200, 300)], &[0, 1000]);
        check(&[handed(200, 9000), handed(200, 9000)], &[0, 5000]);
        check(&[handed(5000, 80_000), handed(200, 1000)], &[0, 10_000]);
    }

    #[test]
    fn few_watchers_and_quick_machines_know_no_turns() {
        check(&[handed(200, 5000), handed(31, 5000), handed(200, 199), handed(200, 200)], &[0, 0, 0, 5000]);
    }

    #[test]
    fn patience_ends() {
        let expected: Vec<_> = (0..14).map(|turn| (turn * 10_000).min(100_000)).collect();
        check(&[handed(5000, 80_000); 14], &expected);
    }

    #[test]
    fn a_writer_alone_finds_its_turn_come() {
        let (turns, mut now) = (Turns::default(), Instant::now());
        for _ in 0..10 {
            assert_eq!(turns.take(handed(200, 1500), now), None);
            // It writes again when its watchers have read.
            now += Duration::from_micros(3000);
        }
    }
}
