//! Answers about namespaces, Services, owners and volumes from the shared informers.
//!
//! Selectors are kept parsed here, because they are asked for with every pod that is scored.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, ReplicationController, Service};
use parking_lot::RwLock;
use podium_api::selector::LabelSelector;
use podium_client::{Change, Object, ObjectKey, SharedInformers};

use crate::affinity::Labels;
use crate::metrics::Stopwatch;
use crate::pod::{Owner, PodInfo};
use crate::surroundings::{Point, Surroundings, Volumes};
use crate::volume_binding::VolumeBinder;

type Map<K, V> = HashMap<K, V, ahash::RandomState>;

#[derive(Debug, Default)]
struct Kept {
    /// Selectors of Services: namespace, then name.
    services: Map<String, BTreeMap<String, Labels>>,
    /// Selectors of owners: kind, then key.
    owners: Map<(&'static str, ObjectKey), LabelSelector>,
    namespaces: Map<String, Labels>,
}

/// The informers' answers.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    kept: Arc<RwLock<Kept>>,
    /// What is known and promised of volumes.
    pub(crate) volumes: Arc<VolumeBinder>,
    informers: SharedInformers,
    /// Measures decisions.
    pub(crate) watch: Arc<Stopwatch>,
}

impl Cluster {
    /// Follows the informers; `volumes_changed` is called for every change of a volume, claim or class.
    pub(crate) fn new(
        informers: &SharedInformers,
        profile: &str,
        volumes_changed: impl Fn() + Clone + Send + Sync + 'static,
    ) -> Self {
        let kept: Arc<RwLock<Kept>> = Arc::default();
        let services = kept.clone();
        informers.of::<Service>().on_event(move |change| services.write().service(change));
        let namespaces = kept.clone();
        informers.of::<Namespace>().on_event(move |change| namespaces.write().namespace(change));
        follow(informers, &kept, "ReplicaSet", |set: &ReplicaSet| {
            LabelSelector::from_object(&set.spec.as_ref()?.selector).ok()
        });
        follow(informers, &kept, "StatefulSet", |set: &StatefulSet| {
            LabelSelector::from_object(&set.spec.as_ref()?.selector).ok()
        });
        follow(informers, &kept, "ReplicationController", |controller: &ReplicationController| {
            Some(of_labels(controller.spec.as_ref()?.selector.as_ref()?))
        });
        let volumes = VolumeBinder::new(informers, volumes_changed);
        let watch = Arc::new(Stopwatch::new(profile));
        Self { kept, volumes, informers: informers.clone(), watch }
    }

    /// Waits until everything that is asked here has been listed.
    pub(crate) async fn synced(&self) {
        let informers = &self.informers;
        informers.of::<Service>().synced().await;
        informers.of::<Namespace>().synced().await;
        informers.of::<ReplicaSet>().synced().await;
        informers.of::<StatefulSet>().synced().await;
        informers.of::<ReplicationController>().synced().await;
        self.volumes.synced().await;
    }
}

fn of_labels(labels: &Labels) -> LabelSelector {
    LabelSelector::from_set(labels.iter().map(|(key, value)| (key.as_str(), value.as_str())))
}

fn follow<K: Object>(
    informers: &SharedInformers,
    kept: &Arc<RwLock<Kept>>,
    kind: &'static str,
    selector: fn(&K) -> Option<LabelSelector>,
) {
    let kept = kept.clone();
    informers.of::<K>().on_event(move |change| {
        let key = (kind, ObjectKey::of(&**change.object()));
        let selector = match change {
            Change::Deleted(_) => None,
            Change::Added(object) | Change::Modified { new: object, .. } => selector(object),
        };
        let owners = &mut kept.write().owners;
        match selector {
            Some(selector) => owners.insert(key, selector),
            None => owners.remove(&key),
        };
    });
}

impl Kept {
    fn service(&mut self, change: &Change<Service>) {
        let service = change.object();
        let key = ObjectKey::of(&**service);
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone());
        let selector =
            selector.filter(|selector| !selector.is_empty() && !matches!(change, Change::Deleted(_)));
        match selector {
            Some(selector) => {
                self.services.entry(key.namespace).or_default().insert(key.name, selector);
            }
            None => {
                if let Some(services) = self.services.get_mut(&key.namespace) {
                    services.remove(&key.name);
                    if services.is_empty() {
                        self.services.remove(&key.namespace);
                    }
                }
            }
        }
    }

    fn namespace(&mut self, change: &Change<Namespace>) {
        let name = change.object().metadata.name.clone().unwrap_or_default();
        match change {
            Change::Deleted(_) => self.namespaces.remove(&name),
            Change::Added(object) | Change::Modified { new: object, .. } => {
                self.namespaces.insert(name, object.metadata.labels.clone().unwrap_or_default())
            }
        };
    }

    fn owner(&self, owner: &Owner, namespace: &str) -> Option<&LabelSelector> {
        let kind = match (owner.api_version.as_str(), owner.kind.as_str()) {
            ("apps/v1", "ReplicaSet") => "ReplicaSet",
            ("apps/v1", "StatefulSet") => "StatefulSet",
            ("v1", "ReplicationController") => "ReplicationController",
            _ => return None,
        };
        self.owners.get(&(kind, ObjectKey::new(namespace, owner.name.as_str())))
    }
}

impl Surroundings for Cluster {
    fn passed(&self, point: Point, success: bool) {
        self.watch.passed(point, success);
    }

    fn default_selector(&self, pod: &PodInfo) -> Option<LabelSelector> {
        let kept = self.kept.read();
        let selects =
            |selector: &&Labels| selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value));
        let services = kept.services.get(&pod.key.namespace);
        let merged: Labels = services
            .into_iter()
            .flat_map(BTreeMap::values)
            .filter(selects)
            .flatten()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let owner = pod.owner.as_ref().and_then(|owner| kept.owner(owner, &pod.key.namespace));
        match (merged.is_empty(), owner) {
            (true, None) => None,
            (true, Some(owner)) => Some(owner.clone()),
            (false, None) => Some(of_labels(&merged)),
            (false, Some(owner)) => {
                let services = of_labels(&merged);
                let both = services.requirements().iter().chain(owner.requirements()).cloned();
                Some(LabelSelector::new(both.collect()))
            }
        }
    }

    fn namespace_labels(&self, namespace: &str) -> Option<Labels> {
        self.kept.read().namespaces.get(namespace).cloned()
    }

    fn volumes(&self, pod: &PodInfo) -> Volumes {
        self.volumes.needs(pod)
    }
}
