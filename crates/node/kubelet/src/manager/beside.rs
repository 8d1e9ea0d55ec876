//! What the worker of a pod may ask about the others: whether there is room beside them, and to make some.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use k8s_openapi::{
    api::core::v1::{Node, Pod},
    apimachinery::pkg::api::resource::Quantity,
};

use podium_api::kinds::pod::is_extended_resource;

use super::{Pods, is_over};
use crate::{
    admission::{self, Refused},
    eviction, metrics, pod, preemption,
    worker::{Departure, Neighbours},
};

/// The others as one pod's worker sees them.
pub(super) struct Beside {
    pub(super) pods: Weak<Pods>,
    pub(super) uid: String,
}

impl Neighbours for Beside {
    fn admit(&self, wanted: &Pod, newer: Option<&Node>) -> Result<(), Refused> {
        self.pods.upgrade().map_or(Ok(()), |pods| pods.admit(wanted, &self.uid, newer))
    }

    fn fits(&self, wanted: &Pod) -> Result<(), Refused> {
        let Some(pods) = self.pods.upgrade() else { return Ok(()) };
        admission::fits(wanted, &pods.others(&self.uid), &pods.allocatable())
    }

    fn make_room(&self, wanted: &Pod) -> Result<Departure, Refused> {
        match self.pods.upgrade() {
            Some(pods) => pods.make_room(wanted, &self.uid),
            None => Ok(Box::pin(async {})),
        }
    }
}

impl Pods {
    /// The pods that take something of the node, with what they were granted.
    fn others(&self, uid: &str) -> Vec<Arc<Pod>> {
        let entries = self.entries.lock();
        entries
            .iter()
            .filter(|(other, entry)| *other != uid && entry.mailbox.is_active() && !is_over(&entry.pod))
            .map(|(_, entry)| entry.mailbox.held().unwrap_or_else(|| entry.pod.clone()))
            .collect()
    }

    /// What pods may have of the node. Devices are not in it: who gives them out knows better.
    fn allocatable(&self) -> BTreeMap<String, Quantity> {
        let mut all = self.shared.machine.allocatable(&self.shared.config.settings);
        let (mut capacity, mut devices) = (BTreeMap::new(), BTreeMap::new());
        self.shared.container_manager.extend(&mut capacity, &mut devices);
        let node = self.shared.node.lock().clone();
        let advertised = node.as_ref().and_then(|node| node.status.as_ref()?.allocatable.as_ref());
        let others = advertised
            .into_iter()
            .flatten()
            .filter(|(name, _)| is_extended_resource(name) && !devices.contains_key(*name));
        all.extend(others.map(|(name, amount)| (name.clone(), amount.clone())));
        all
    }

    fn admit(&self, wanted: &Pod, uid: &str, newer: Option<&Node>) -> Result<(), Refused> {
        let node = self.shared.node.lock().clone();
        let unsafe_sysctls = &self.shared.config.settings.allowed_unsafe_sysctls;
        let node = newer.or(node.as_deref());
        admission::admit(wanted, &self.others(uid), node, &self.allocatable(), unsafe_sysctls)
    }

    /// Ends pods so that a critical one has room; the answer is over when they have gone, or have taken too long.
    fn make_room(&self, wanted: &Pod, uid: &str) -> Result<Departure, Refused> {
        let others = self.others(uid);
        let short = admission::shortages(wanted, &others, &self.allocatable());
        let victims = preemption::choose(wanted, &others, &short).map_err(|error| Refused {
            reason: "UnexpectedAdmissionError".to_owned(),
            message: format!(
                "Unexpected error while attempting to recover from admission failure: preemption: error finding a set of pods to preempt: {error}"
            ),
        })?;
        let signal = short.first().map_or("", |short| short.resource.as_str());
        let grace = |pod: &Pod| {
            pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or_default()
        };
        for victim in &victims {
            tracing::info!(pod = pod::full_name(victim), "ending a pod for a critical one");
            self.shared.metrics.count(&metrics::PREEMPTIONS, &[("preemption_signal", signal)]);
            self.evict(victim, preemption::verdict(), grace(victim));
        }
        let going = || victims.iter().chain(others.iter().filter(|other| pod::is_deleting(other)));
        let longest = going().map(|pod| grace(pod)).max().unwrap_or_default();
        let patience = eviction::patience(longest);
        let entries = self.entries.lock();
        let ends: Vec<_> =
            going().filter_map(|pod| entries.get(pod::uid(pod))).map(|entry| entry.mailbox.ended()).collect();
        Ok(Box::pin(async move {
            let all = futures::future::join_all(ends);
            if tokio::time::timeout(patience, all).await.is_err() {
                tracing::warn!("a pod that was to make room has not ended in time");
            }
        }))
    }
}
