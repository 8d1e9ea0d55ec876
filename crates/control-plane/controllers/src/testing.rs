//! Short builders for tests.

pub(crate) mod api;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, Namespace, Pod, PodCondition, PodIP, PodSpec, PodStatus, PodTemplateSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference, Time};

/// That many seconds after the epoch.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

/// The same as a `Time` field.
pub(crate) fn time(seconds: i64) -> Time {
    Time(at(seconds))
}

/// Lets that many seconds of virtual time pass. Clocks of tests are paused: they move on to the next timer whenever
/// nothing can run, so everything due in between happens, and nobody waits.
pub(crate) async fn pass(seconds: u64) {
    tokio::time::sleep(std::time::Duration::from_secs(seconds)).await;
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

pub(crate) fn selector(pairs: &[(&str, &str)]) -> LabelSelector {
    LabelSelector { match_labels: Some(labels(pairs)), match_expressions: None }
}

/// In namespace `ns`, with the uid `<name>-uid`.
pub(crate) fn meta(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some("ns".to_owned()),
        uid: Some(format!("{name}-uid")),
        resource_version: Some("1".to_owned()),
        generation: Some(1),
        ..ObjectMeta::default()
    }
}

pub(crate) fn namespace(name: &str) -> Namespace {
    Namespace { metadata: ObjectMeta { namespace: None, ..meta(name) }, ..Namespace::default() }
}

/// A reference to the controller `name` of that kind, with the uid `<name>-uid`.
pub(crate) fn controlled_by(api_version: &str, kind: &str, name: &str) -> OwnerReference {
    OwnerReference {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        name: name.to_owned(),
        uid: format!("{name}-uid"),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

pub(crate) fn template(pairs: &[(&str, &str)], image: &str) -> PodTemplateSpec {
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels(pairs)), ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            containers: vec![Container {
                name: "main".to_owned(),
                image: Some(image.to_owned()),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
    }
}

/// A pod that runs on no node yet.
pub(crate) fn pod(name: &str) -> Pod {
    Pod {
        metadata: ObjectMeta { creation_timestamp: Some(time(0)), ..meta(name) },
        spec: Some(PodSpec::default()),
        status: Some(PodStatus { phase: Some("Pending".to_owned()), ..PodStatus::default() }),
    }
}

/// Changes to a pod, to be chained.
pub(crate) trait PodExt: Sized {
    fn edit(self, edit: impl FnOnce(&mut Pod)) -> Pod;

    fn on(self, node: &str) -> Pod {
        self.edit(|pod| pod.spec.as_mut().unwrap().node_name = Some(node.to_owned()))
    }

    fn phase(self, phase: &str) -> Pod {
        self.edit(|pod| pod.status.as_mut().unwrap().phase = Some(phase.to_owned()))
    }

    fn labelled(self, pairs: &[(&str, &str)]) -> Pod {
        self.edit(|pod| pod.metadata.labels = Some(labels(pairs)))
    }

    fn owned_by(self, reference: OwnerReference) -> Pod {
        self.edit(|pod| pod.metadata.owner_references = Some(vec![reference]))
    }

    fn deleting(self) -> Pod {
        self.edit(|pod| pod.metadata.deletion_timestamp = Some(time(1)))
    }

    fn created(self, seconds: i64) -> Pod {
        self.edit(|pod| pod.metadata.creation_timestamp = Some(time(seconds)))
    }

    fn ip(self, ip: &str) -> Pod {
        self.edit(|pod| {
            let status = pod.status.as_mut().unwrap();
            status.pod_ip.get_or_insert_with(|| ip.to_owned());
            status.pod_ips.get_or_insert_default().push(PodIP { ip: ip.to_owned() });
        })
    }

    /// Running and ready since then.
    fn ready(self, since: i64) -> Pod {
        self.phase("Running").condition("Ready", "True", since)
    }

    fn condition(self, type_: &str, status: &str, since: i64) -> Pod {
        self.edit(|pod| {
            let conditions = pod.status.as_mut().unwrap().conditions.get_or_insert_default();
            conditions.retain(|condition| condition.type_ != type_);
            conditions.push(PodCondition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                last_transition_time: Some(time(since)),
                ..PodCondition::default()
            });
        })
    }
}

impl PodExt for Pod {
    fn edit(mut self, edit: impl FnOnce(&mut Pod)) -> Pod {
        edit(&mut self);
        self
    }
}
