//! Clears away what pods left that nobody knows any more: in the runtime, directories, groups, logs.

use std::{
    collections::BTreeSet,
    fs, io,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use parking_lot::Mutex;

use super::{
    Pods,
    orphans::{self, Ending},
};
use crate::{context::Context, metrics};

/// How often what nobody knows is looked for.
const EVERY: Duration = Duration::from_secs(60);

/// The pods whose remains are being removed, by uid. One of them may come back at any moment, a static pod under the same
/// uid: its worker waits.
#[derive(Debug, Default)]
pub(crate) struct Cleaning(Mutex<BTreeSet<String>>);

impl Cleaning {
    /// Does something to what a pod left; None, and nothing is done, if somebody `holds` the pod. It is asked when the worker of
    /// a pod that comes from here on would see that this is under way.
    fn of<T>(&self, uid: &str, holds: &dyn Fn(&str) -> bool, work: impl FnOnce() -> T) -> Option<T> {
        self.0.lock().insert(uid.to_owned());
        let done = (!holds(uid)).then(work);
        self.0.lock().remove(uid);
        done
    }

    /// Whether what a pod of that uid left is being removed. To be asked by a pod that is held.
    pub(crate) fn is_under_way(&self, uid: &str) -> bool {
        self.0.lock().contains(uid)
    }
}

impl Pods {
    /// Clears away now and then, until dropped.
    pub(super) async fn clean(self: &Arc<Self>) {
        let mut ending = Ending::default();
        loop {
            self.clean_once(&mut ending).await;
            self.orphans.store(ending.uids().count(), Ordering::Relaxed);
            ending.wait(EVERY).await;
            self.orphans.store(ending.uids().count(), Ordering::Relaxed);
        }
    }

    /// Ends pods in the runtime that nobody knows, and removes directories and groups of those that are gone. What is being
    /// ended keeps its own.
    async fn clean_once(self: &Arc<Self>, ending: &mut Ending) {
        let Ok(owners) = orphans::owners(&self.shared.cri).await else { return };
        for (uid, owner) in owners {
            if !self.entries.lock().contains_key(&uid) {
                ending.begin(&self.shared, &uid, owner);
            }
        }
        let going: BTreeSet<String> = ending.uids().cloned().collect();
        let this = self.clone();
        let holds = move |uid: &str| going.contains(uid) || this.entries.lock().contains_key(uid);
        self.shared.container_manager.retain(&holds).await;
        let shared = self.shared.clone();
        let cleaned = tokio::task::spawn_blocking(move || clean_disk(&shared, &holds)).await;
        if let Err(error) = cleaned {
            tracing::warn!(%error, "clearing away directories failed");
        }
    }
}

/// Removes what is on disk of pods that nobody `holds`. Blocking.
fn clean_disk(shared: &Context, holds: &dyn Fn(&str) -> bool) {
    let cleaning = &shared.cleaning;
    let removed = directories(cleaning, &shared.config.root_dir.join("pods"), holds, &|uid| {
        crate::volumes::teardown(&shared.pod_dir(uid))
    });
    let count = |all: &[(String, io::Result<()>)], failed: bool| {
        let number = all.iter().filter(|(_, outcome)| !failed || outcome.is_err()).count();
        // There are never so many that a float could not tell them apart.
        f64::from(u32::try_from(number).unwrap_or(u32::MAX))
    };
    shared.metrics.set(&metrics::ORPHANS_CLEANED, &[], count(&removed, false));
    shared.metrics.set(&metrics::ORPHANS_FAILED, &[], count(&removed, true));
    for (uid, outcome) in removed {
        if let Err(error) = outcome {
            tracing::warn!(uid, %error, "removing an orphaned pod's directory failed");
        }
    }
    for (uid, path) in shared.cgroups.pods() {
        if let Some(Err(error)) = cleaning.of(&uid, holds, || shared.remove_group(&path)) {
            tracing::debug!(uid, %error, "removing an orphaned pod's cgroup failed");
        }
    }
    for name in names(&shared.config.settings.pod_logs_dir) {
        let Some(uid) = name.rsplit('_').next().filter(|uid| matches!(uid.len(), 32 | 36)) else { continue };
        let path = shared.config.settings.pod_logs_dir.join(&name);
        if let Some(Err(error)) = cleaning.of(uid, holds, || podium_shim::remove::tree(&path)) {
            tracing::warn!(uid, %error, "removing an orphaned pod's logs failed");
        }
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Removes the directories of pods, which have uids as names, of those that nobody `holds` when their turn comes. What came
/// of each.
fn directories(
    cleaning: &Cleaning,
    all: &Path,
    holds: &dyn Fn(&str) -> bool,
    remove: &dyn Fn(&str) -> io::Result<()>,
) -> Vec<(String, io::Result<()>)> {
    let removed = |uid: String| {
        let outcome = cleaning.of(&uid, holds, || remove(&uid))?;
        Some((uid, outcome))
    };
    names(all).into_iter().filter_map(removed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_comes_meanwhile_keeps_its_directory() {
        let root = tempfile::tempdir().unwrap();
        for uid in ["a", "b", "c"] {
            fs::create_dir(root.path().join(uid)).unwrap();
        }
        let (cleaning, known) = (Cleaning::default(), Mutex::new(BTreeSet::new()));
        let holds = |uid: &str| known.lock().contains(uid);
        let remove = |uid: &str| {
            assert!(cleaning.is_under_way(uid), "its worker has to wait");
            // While the first is removed, all the others come.
            known.lock().extend(["a", "b", "c"].into_iter().filter(|other| *other != uid));
            fs::remove_dir(root.path().join(uid))
        };
        let removed = directories(&cleaning, root.path(), &holds, &remove);
        assert_eq!((removed.len(), names(root.path()).len()), (1, 2), "{removed:?}");
        assert!(!["a", "b", "c"].into_iter().any(|uid| cleaning.is_under_way(uid)));
    }
}
