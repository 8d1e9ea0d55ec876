//! The manager's part of a machine's shutdown: its pods end, group after group.

use futures::future::join_all;

use super::Pods;
use crate::{
    node_shutdown::{self, Group},
    pod,
};

impl Pods {
    /// Ends every pod, a group after the other. What has not ended within the group's time is left behind: its grace has
    /// passed, and the next group has its own time.
    pub(crate) async fn end_all(&self, groups: &[Group]) {
        for (group, pods) in node_shutdown::by_group(groups, &self.active()) {
            let priority = group.priority;
            tracing::info!(priority, pods = pods.len(), "ending pods for the node's shutdown");
            let ends: Vec<_> = {
                let entries = self.entries.lock();
                let found = pods.iter().filter_map(|pod| Some((pod, entries.get(pod::uid(pod))?)));
                found
                    .map(|(pod, entry)| {
                        let grace = node_shutdown::grace_seconds(group, pod);
                        entry.mailbox.evict(node_shutdown::verdict(), grace);
                        entry.mailbox.ended()
                    })
                    .collect()
            };
            if tokio::time::timeout(group.period, join_all(ends)).await.is_err() {
                tracing::warn!(priority, "pods have not ended in the time they had");
            }
        }
    }
}
