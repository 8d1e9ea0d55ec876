//! What to do about the sockets that are there. Pure.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::Plugin;

/// Pauses after a failed registration, each twice the one before; upstream's.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(122);

/// Tells a socket from one that was made later at the same path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SocketId {
    pub(crate) inode: u64,
    /// Seconds and nanoseconds.
    pub(crate) made: (i64, i64),
}

/// How far a socket is.
enum State<P> {
    Registered(P),
    Failed { again: Instant, pause: Duration },
}

/// The sockets that were tried.
pub(crate) struct Known<P = Plugin>(BTreeMap<PathBuf, (SocketId, State<P>)>);

impl<P> Default for Known<P> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<P> Known<P> {
    /// Forgets a socket; gives the plugin that was in use there.
    pub(crate) fn forget(&mut self, path: &Path) -> Option<P> {
        match self.0.remove(path)?.1 {
            State::Registered(plugin) => Some(plugin),
            State::Failed { .. } => None,
        }
    }

    /// What came of a try; None if it failed.
    pub(crate) fn note(&mut self, path: &Path, id: SocketId, outcome: Option<P>, now: Instant) {
        let state = match outcome {
            Some(plugin) => State::Registered(plugin),
            None => {
                let pause = match self.0.get(path) {
                    Some((before, State::Failed { pause, .. })) if *before == id => {
                        (*pause * 2).min(LAST_RETRY)
                    }
                    _ => FIRST_RETRY,
                };
                State::Failed { again: now + pause, pause }
            }
        };
        self.0.insert(path.to_owned(), (id, state));
    }
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    /// Sockets whose plugins are to be let go; these come first.
    pub(crate) gone: Vec<PathBuf>,
    pub(crate) register: Vec<(PathBuf, SocketId)>,
    /// When to look again, whatever the directory says.
    pub(crate) next: Option<Instant>,
}

/// A socket that was made anew is one that is gone and one that came.
pub(crate) fn decide<P>(known: &Known<P>, sockets: &BTreeMap<PathBuf, SocketId>, now: Instant) -> Decision {
    let mut decision = Decision { gone: Vec::new(), register: Vec::new(), next: None };
    for (path, (id, _)) in &known.0 {
        if sockets.get(path) != Some(id) {
            decision.gone.push(path.clone());
        }
    }
    for (path, id) in sockets {
        match known.0.get(path) {
            Some((before, State::Registered(_))) if before == id => {}
            Some((before, State::Failed { again, .. })) if before == id && *again > now => {
                decision.next = Some(decision.next.map_or(*again, |next| next.min(*again)));
            }
            _ => decision.register.push((path.clone(), *id)),
        }
    }
    decision
}
