//! Whether the pods' cache is as new as what a Job's status says.
//!
//! A status with a pod's end in its counts, beside a cache that still shows the pod held, would have that end counted again. One
//! process cannot get there: it turns a noted end into a count only when its cache shows the finalizer gone. But a status that
//! another process has written, of two that lead for a moment, can be known here before the pods that it is about. Upstream
//! does not guard against this.

use std::collections::HashMap;

use parking_lot::Mutex;
use podium_client::ObjectKey;

/// Per Job, the versions that matter. An entry lives as long as its Job.
#[derive(Debug, Default)]
pub(super) struct Freshness {
    jobs: Mutex<HashMap<ObjectKey, Versions>>,
}

#[derive(Debug, Default)]
struct Versions {
    /// The newest one written here.
    own: u64,
    /// The newest one seen that was written by somebody else, or by nobody knows whom.
    foreign: u64,
}

impl Freshness {
    /// Whether a cache of pods at version `pods` shows all that the Job at version `job` can be about.
    ///
    /// Versions of Jobs and pods are compared, which holds as long as one store keeps both.
    pub(super) fn suffices(&self, key: &ObjectKey, job: u64, pods: u64) -> bool {
        let mut jobs = self.jobs.lock();
        let versions = jobs.entry(key.clone()).or_default();
        if job != versions.own {
            versions.foreign = versions.foreign.max(job);
        }
        pods >= versions.foreign
    }

    /// Notes the version that a write made here was answered with.
    pub(super) fn wrote(&self, key: &ObjectKey, version: u64) {
        self.jobs.lock().entry(key.clone()).or_default().own = version;
    }

    /// Forgets a Job that is gone.
    pub(super) fn forget(&self, key: &ObjectKey) {
        self.jobs.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_versions_of_others_have_to_be_caught_up_with() {
        let (freshness, key) = (Freshness::default(), ObjectKey::new("ns", "work"));
        assert!(freshness.suffices(&key, 5, 5), "as new");
        assert!(!freshness.suffices(&key, 7, 6), "somebody wrote 7");
        freshness.wrote(&key, 9);
        assert!(!freshness.suffices(&key, 9, 6), "our own 9 is based on 7");
        assert!(freshness.suffices(&key, 9, 7));
        assert!(freshness.suffices(&key, 9, 8), "our own needs no catching up");
        assert!(!freshness.suffices(&key, 10, 9));
        freshness.forget(&key);
        assert!(freshness.jobs.lock().is_empty());
    }
}
