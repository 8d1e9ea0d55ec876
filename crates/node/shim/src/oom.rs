//! Whether the kernel killed for want of memory in a container that has ended.
//!
//! Its own group counts that, but where systemd makes groups it removes a scope as soon as that is empty, often before this process
//! has heard of the end. In version 2 the group above counts for all below it, also for those that are gone: what nobody else
//! can have caused is the container's.

use std::path::Path;

use crate::cgroup::Cgroups;

/// What has been counted in the group of one pod.
#[derive(Debug, Default)]
pub(crate) struct OomKills {
    /// Of its count, what was there before the first container, or came by those that have ended. None: no container has begun.
    known: Option<u64>,
}

impl OomKills {
    /// A container begins in `group`.
    pub(crate) fn begin(&mut self, cgroups: &Cgroups, group: &str) {
        if self.known.is_none() {
            self.known = Some(of_pod(cgroups, group));
        }
    }

    /// A container has ended in `group`, while others run in theirs: whether the kernel killed in it.
    pub(crate) fn ended<'a>(
        &mut self,
        cgroups: &Cgroups,
        group: &str,
        others: impl Iterator<Item = &'a str>,
    ) -> bool {
        let known = self.known.unwrap_or(0);
        let own = cgroups.oom_kills(group).unwrap_or_else(|| {
            let others: u64 = others.filter_map(|other| cgroups.oom_kills(other)).sum();
            of_pod(cgroups, group).saturating_sub(known + others)
        });
        self.known = Some(known + own);
        own > 0
    }
}

fn of_pod(cgroups: &Cgroups, group: &str) -> u64 {
    // Version 1 counts in each group for itself.
    let pod = Path::new(group).parent().and_then(Path::to_str).filter(|_| cgroups.is_v2());
    pod.and_then(|pod| cgroups.oom_kills(pod)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cgroup::Layout;

    #[test]
    fn a_group_that_is_gone_is_told_by_the_one_above() {
        let tree = tempfile::tempdir().unwrap();
        let cgroups = Cgroups::with_layout(Layout::V2 { mount: tree.path().to_owned() });
        let count = |group: &str, kills: u64| {
            fs::create_dir_all(tree.path().join(group)).unwrap();
            fs::write(tree.path().join(group).join("memory.events"), format!("oom 1\noom_kill {kills}\n"))
                .unwrap();
        };
        let gone = |group: &str| fs::remove_dir_all(tree.path().join(group)).unwrap();
        let mut kills = OomKills::default();
        // An earlier life of the pod had one.
        count("pod", 1);
        kills.begin(&cgroups, "/pod/a");
        kills.begin(&cgroups, "/pod/b");
        for group in ["pod/a", "pod/b"] {
            count(group, 0);
        }
        gone("pod/a");
        assert!(!kills.ended(&cgroups, "/pod/a", ["/pod/b"].into_iter()));
        // Its restart is killed; the other lost a process too and goes on.
        count("pod", 6);
        count("pod/b", 2);
        kills.begin(&cgroups, "/pod/c");
        assert!(kills.ended(&cgroups, "/pod/c", ["/pod/b"].into_iter()));
        // What it caused is not counted again.
        assert!(!kills.ended(&cgroups, "/pod/d", ["/pod/b"].into_iter()));
        assert!(kills.ended(&cgroups, "/pod/b", std::iter::empty()));
        gone("pod/b");
        assert!(!kills.ended(&cgroups, "/pod/e", std::iter::empty()));
    }

    #[test]
    fn version_1_has_only_its_own_count() {
        let tree = tempfile::tempdir().unwrap();
        let mounts = vec![(vec!["memory".to_owned()], tree.path().to_owned())];
        let cgroups = Cgroups::with_layout(Layout::V1 { mounts });
        fs::create_dir_all(tree.path().join("pod/a")).unwrap();
        for group in ["pod", "pod/a"] {
            fs::write(tree.path().join(group).join("memory.oom_control"), "under_oom 0\noom_kill 1\n")
                .unwrap();
        }
        let mut kills = OomKills::default();
        kills.begin(&cgroups, "/pod/a");
        assert!(kills.ended(&cgroups, "/pod/a", std::iter::empty()));
        assert!(!kills.ended(&cgroups, "/pod/b", std::iter::empty()));
    }
}
