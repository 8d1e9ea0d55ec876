//! The housekeeper: ends leases, compacts, frees memory, writes checkpoints.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::local::checkpoint::Checkpoints;
use crate::local::{Shared, Submitted};
use crate::log::frame::Entry;
use crate::retention::{self, Samples};

/// How often it looks even if nobody calls. Revisions are dated this coarsely.
const ROUND: Duration = Duration::from_secs(1);

/// The housekeeper's thread.
pub(super) fn run(shared: &Arc<Shared>, mut checkpoints: Option<Checkpoints>) {
    let mut samples = Samples::default();
    loop {
        end_leases(shared);
        compact(shared, &mut samples);
        shared.state.trim();
        if let Some(checkpoints) = &mut checkpoints {
            checkpoints.keep(shared);
        }
        let mut sequencer = shared.sequencer.lock();
        if sequencer.closing {
            return;
        }
        if !sequencer.urgent {
            let round = Instant::now() + ROUND;
            let wake = sequencer.leases.next_end().map_or(round, |end| end.min(round));
            shared.housekeeping.wait_until(&mut sequencer, wake);
        }
        sequencer.urgent = false;
    }
}

/// Revokes the leases that have ended. Nobody waits for it: a lease whose end does not become durable is booked again.
pub(super) fn end_leases(shared: &Shared) {
    shared.sequence(|sequencer| {
        if sequencer.closing {
            return;
        }
        let now = Instant::now();
        while let Some(lease) = sequencer.leases.ended(now) {
            drop(sequencer.revoke(&shared.state, lease));
        }
    });
}

fn compact(shared: &Shared, samples: &mut Samples) {
    let now = Instant::now();
    let kept = shared.kept();
    samples.add(now, kept.newest);
    let shed = |bytes| shared.state.revision_at_weight(bytes);
    let Some(revision) = retention::target(&shared.history, kept, samples, now, shed) else { return };
    let submitted = shared.sequence(|sequencer| {
        let closed = sequencer.closing || shared.state.may_compact(revision).is_err();
        (!closed).then(|| sequencer.record(&shared.state, Entry::Compact { revision }))
    });
    // Waiting for it here makes the next round see its effect. If it failed, the next round tries again.
    if let Some(Submitted::Later(receiver)) = submitted {
        drop(receiver.blocking_recv());
    }
}
