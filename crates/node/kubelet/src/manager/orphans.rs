//! Pods in the runtime that nobody knows: they went from the API, or their file did, while no kubelet was here. Each ends as
//! its worker would have ended it, from what the kubelet wrote on its containers when it made them: hooks run, and it has
//! its grace. Upstream's kubelet gives such a pod a second.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use k8s_openapi::api::core::v1::{Container, Lifecycle, Pod, PodSpec};
use kube::api::ObjectMeta;
use podium_cri::{Cri, Error, v1};
use serde::de::DeserializeOwned;

use crate::{
    context::Shared,
    metrics,
    observe::Observer,
    record::{ContainerRecord, PodRecord, label},
    worker,
};

/// A pod's namespace and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    namespace: String,
    name: String,
}

/// The pods of everything in the runtime, by uid.
pub(super) async fn owners(cri: &Cri) -> Result<BTreeMap<String, Owner>, Error> {
    let (sandboxes, containers) = tokio::try_join!(
        cri.list_pod_sandbox(v1::ListPodSandboxRequest::default()),
        cri.list_containers(v1::ListContainersRequest::default())
    )?;
    let labels = sandboxes.items.into_iter().map(|one| one.labels);
    Ok(labels.chain(containers.containers.into_iter().map(|one| one.labels)).filter_map(owner).collect())
}

/// The uid of a pod, and whose it is; None of what is not a pod's.
pub(super) fn owner(mut labels: HashMap<String, String>) -> Option<(String, Owner)> {
    let mut take = |key: &str| labels.remove(key).unwrap_or_default();
    let uid = take(label::POD_UID);
    let owner = Owner { namespace: take(label::POD_NAMESPACE), name: take(label::POD_NAME) };
    (!uid.is_empty()).then_some((uid, owner))
}

/// The orphans that are being ended. A hook may take its time, and the others do not wait for it. Dropping this leaves them
/// where they are, for the next kubelet.
#[derive(Default)]
pub(super) struct Ending {
    uids: BTreeSet<String>,
    ends: FuturesUnordered<BoxFuture<'static, (String, Result<(), Error>)>>,
}

impl Ending {
    /// Ends an orphan, unless that is being done already.
    pub(super) fn begin(&mut self, shared: &Shared, uid: &str, owner: Owner) {
        if !self.uids.insert(uid.to_owned()) {
            return;
        }
        shared.metrics.count(&metrics::ORPHANS, &[]);
        tracing::info!(uid, namespace = owner.namespace, name = owner.name, "ending a pod that nobody knows");
        let (shared, uid) = (shared.clone(), uid.to_owned());
        self.ends.push(async move { (uid.clone(), end(&shared, &uid, &owner).await) }.boxed());
    }

    /// Those that still may have something here.
    pub(super) fn uids(&self) -> impl Iterator<Item = &String> {
        self.uids.iter()
    }

    /// Returns when one has ended and left directories to clear away, at the latest after `pause`.
    pub(super) async fn wait(&mut self, pause: Duration) {
        let over = tokio::time::sleep(pause);
        tokio::pin!(over);
        loop {
            let ended = tokio::select! {
                Some(ended) = self.ends.next() => ended,
                () = &mut over => return,
            };
            let (uid, outcome) = ended;
            self.uids.remove(&uid);
            match outcome {
                Ok(()) => return,
                // The next look finds it again.
                Err(error) => tracing::warn!(uid, %error, "ending an orphaned pod failed"),
            }
        }
    }
}

/// Ends an orphan and removes it from the runtime.
pub(super) async fn end(shared: &Shared, uid: &str, owner: &Owner) -> Result<(), Error> {
    let cri = &shared.cri;
    let record = Observer::default().look(cri, uid).await?;
    worker::kill_restored(shared, &restore(uid, owner, &record), &record).await;
    for sandbox in &record.sandboxes {
        // Again, for what its own stop said: a sandbox whose network is still there must not be forgotten.
        cri.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: sandbox.id.clone() }).await?;
        cri.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: sandbox.id.clone() }).await?;
    }
    for one in &record.containers {
        cri.remove_container(v1::RemoveContainerRequest { container_id: one.id.clone() }).await?;
    }
    Ok(())
}

/// As much of a pod as its end needs, from what was written on its containers. Nobody knows any more which of them are
/// sidecars: they end together.
fn restore(uid: &str, owner: &Owner, record: &PodRecord) -> Pod {
    let said = |key: &str| record.live().find_map(|one| noted::<i64>(one, key));
    let mut containers: Vec<Container> = Vec::new();
    for one in record.live().filter(|one| !one.name.is_empty()) {
        if containers.iter().any(|known| known.name == one.name) {
            continue;
        }
        let pre_stop = noted(one, label::PRE_STOP);
        containers.push(Container {
            name: one.name.clone(),
            ports: noted(one, label::PORTS),
            lifecycle: pre_stop.map(|hook| Lifecycle { pre_stop: Some(hook), ..Lifecycle::default() }),
            ..Container::default()
        });
    }
    Pod {
        metadata: ObjectMeta {
            name: Some(owner.name.clone()),
            namespace: Some(owner.namespace.clone()),
            uid: Some(uid.to_owned()),
            deletion_grace_period_seconds: said(label::DELETION_GRACE),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            containers,
            termination_grace_period_seconds: said(label::TERMINATION_GRACE),
            host_network: record.sandbox().map(|sandbox| sandbox.host_network),
            ..PodSpec::default()
        }),
        status: None,
    }
}

/// What one of a container's annotations says.
fn noted<T: DeserializeOwned>(record: &ContainerRecord, key: &str) -> Option<T> {
    let text = record.annotations.get(key)?;
    let read = serde_json::from_str(text);
    read.inspect_err(
        |error| tracing::warn!(container = record.name, key, %error, "cannot read an annotation"),
    )
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{RunState, Sandbox};

    #[test]
    fn what_a_pods_containers_say_of_it() {
        let one = |name: &str, state, notes: &[(&str, &str)]| ContainerRecord {
            name: name.into(),
            state,
            annotations: notes.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            ..ContainerRecord::default()
        };
        let hook = r#"{"httpGet": {"port": "bye"}}"#;
        let ports = r#"[{"name": "bye", "containerPort": 81}]"#;
        let record = PodRecord {
            sandboxes: vec![Sandbox { host_network: true, ..Sandbox::default() }],
            containers: vec![
                one("old", RunState::Exited, &[(label::TERMINATION_GRACE, "9")]),
                one("a", RunState::Running, &[(label::PRE_STOP, hook), (label::PORTS, ports)]),
                one("b", RunState::Unknown, &[(label::PRE_STOP, "{"), (label::TERMINATION_GRACE, "40")]),
            ],
            round: None,
        };
        let owner = Owner { namespace: "default".into(), name: "web".into() };
        let pod = restore("u", &owner, &record);
        assert_eq!(crate::pod::full_name(&pod), "web_default(u)");
        let spec = pod.spec.unwrap();
        assert_eq!((spec.termination_grace_period_seconds, spec.host_network), (Some(40), Some(true)));
        assert_eq!(pod.metadata.deletion_grace_period_seconds, None);
        let [a, b] = &spec.containers[..] else { panic!("{:?}", spec.containers) };
        assert_eq!((a.name.as_str(), b.name.as_str()), ("a", "b"));
        assert_eq!(a.ports.as_ref().unwrap()[0].container_port, 81);
        let hook = a.lifecycle.as_ref().unwrap().pre_stop.as_ref().unwrap();
        assert!(hook.http_get.is_some() && b.lifecycle.is_none());
    }
}
