//! When what endpoints show has changed, written beside them so that the way from a pod to every node can be timed.
//!
//! A change is told once: with the first write after it. What is written for another reason carries no time, since an old one
//! would make the network look slow. Source: upstream's `TriggerTimeTracker`.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service};
use parking_lot::Mutex;
use podium_client::ObjectKey;

use crate::labels::Labels;
use crate::{owner, pods};

/// The annotation with the time.
pub(crate) const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// By Service, the times that were told already.
#[derive(Debug, Default)]
pub(crate) struct TriggerTimes(Mutex<HashMap<ObjectKey, Told>>);

#[derive(Debug)]
struct Told {
    created: Option<Timestamp>,
    /// By pod.
    ready: HashMap<String, Timestamp>,
}

impl TriggerTimes {
    /// The earliest change since the last call, which counts as told from now on. Of a Service that is seen for the first time it is
    /// the Service's creation.
    pub(crate) fn news(&self, key: &ObjectKey, service: &Service, pods: &[Arc<Pod>]) -> Option<Timestamp> {
        let created = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let ready = pods.iter().filter_map(|pod| {
            let time = pods::condition(pod, "Ready")?.last_transition_time.as_ref()?.0;
            Some((owner::name(&pod.metadata).to_owned(), time))
        });
        let now = Told { created, ready: ready.collect() };
        let mut told = self.0.lock();
        let Some(before) = told.get(key) else {
            told.insert(key.clone(), now);
            return created;
        };
        let newer = |time: Timestamp, known: Option<Timestamp>| known.is_none_or(|known| time > known);
        let service = created.filter(|time| newer(*time, before.created));
        let pods = now.ready.iter().filter(|(name, time)| newer(**time, before.ready.get(*name).copied()));
        let earliest = pods.map(|(_, time)| *time).chain(service).min();
        told.insert(key.clone(), now);
        earliest
    }

    /// Forgets a Service that is gone.
    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.0.lock().remove(key);
    }
}

/// Sets the annotation, or takes it away where there is nothing to tell.
pub(crate) fn stamp(annotations: &mut Option<Labels>, time: Option<Timestamp>) {
    match time {
        Some(time) => {
            annotations.get_or_insert_default().insert(TRIGGER_TIME.to_owned(), time.to_string());
        }
        None => {
            if let Some(annotations) = annotations {
                annotations.remove(TRIGGER_TIME);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{PodExt, at, meta, pod, time};

    #[test]
    fn every_change_is_told_once_and_nothing_else_is() {
        let times = TriggerTimes::default();
        let mut service = Service { metadata: meta("s"), ..Service::default() };
        service.metadata.creation_timestamp = Some(time(10));
        let key = ObjectKey::of(&service);
        let news = |pods: &[Pod]| {
            let pods: Vec<_> = pods.iter().cloned().map(Arc::new).collect();
            times.news(&key, &service, &pods)
        };
        let (one, two, three) = (pod("one").ready(20), pod("two").ready(30), pod("three").ready(40));
        assert_eq!(news(std::slice::from_ref(&one)), Some(at(10)), "a new Service");
        assert_eq!(news(std::slice::from_ref(&one)), None, "the same again");
        assert_eq!(news(&[one.clone(), two.clone(), three.clone()]), Some(at(30)), "the earlier of two");
        assert_eq!(news(&[one.clone(), three]), None, "one is gone");
        assert_eq!(news(std::slice::from_ref(&one)), None, "and another");
        assert_eq!(news(&[one.clone(), two]), Some(at(30)), "one is back");
        times.forget(&key);
        assert_eq!(news(&[one]), Some(at(10)), "another Service of that name");
    }
}
