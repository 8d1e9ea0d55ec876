//! The manager's part of static pods: starts and ends their workers, keeps their mirrors.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams, Preconditions};
use podium_client::{Api, Informer, ObjectKey, error_chain, is_already_exists, is_conflict, is_not_found};
use podium_cri::v1;
use tokio::{sync::watch, task::JoinHandle};

use super::{Pods, orphans};
use crate::{
    pod,
    record::label,
    static_pods::{
        Source,
        mirror::{self, Step},
        url::UrlSource,
    },
};

/// How long after a failed step the next one is tried.
const AGAIN: Duration = Duration::from_secs(1);

impl Pods {
    /// The pods of files, read once and run: what there is of them must be known before anything is cleared away.
    pub(super) async fn first_statics(self: &Arc<Self>) -> Option<(Source, Vec<Arc<Pod>>)> {
        let config = &self.shared.config;
        let mut source = Source::new(config.settings.static_pod_path.as_ref()?, &config.node_name);
        let read = tokio::task::spawn_blocking(move || {
            let found = source.read();
            (source, found)
        });
        let (source, found) = read.await.ok()?;
        self.end_predecessors(&found).await;
        self.run_statics(&found);
        Some((source, found))
    }

    /// Runs what the sources have, and shows it to the API. `heard` becomes true when all sources have been heard.
    pub(super) async fn keep_statics(
        self: &Arc<Self>,
        first: Option<(Source, Vec<Arc<Pod>>)>,
        heard: &watch::Sender<bool>,
        informer: &Informer<Pod>,
    ) {
        let settings = &self.shared.config.settings;
        let (source, found) = first.unzip();
        let (told, mut of_files) = watch::channel(found.unwrap_or_default());
        let follow = async {
            if let Some(source) = source {
                source.follow(told, settings.file_check_frequency.0).await;
            }
        };
        let url = self.url_source();
        let (told, mut of_url) = watch::channel(url.is_none().then(Vec::new));
        let follow_url = async {
            if let Some(source) = url {
                source.follow(told, settings.http_check_frequency.0).await;
            }
        };
        let keep = async {
            loop {
                let mut pods = of_files.borrow_and_update().clone();
                let more = of_url.borrow_and_update().clone();
                let all_heard = more.is_some();
                pods.extend(more.into_iter().flatten());
                let news = all_heard && !*heard.borrow();
                if news {
                    self.end_predecessors(&pods).await;
                }
                self.run_statics(&pods);
                if news {
                    heard.send_replace(true);
                }
                // Without the API's word nothing is known of mirrors.
                let failed = informer.is_synced() && !self.keep_mirrors(&pods, all_heard).await;
                tokio::select! {
                    () = self.statics_wake.notified() => {}
                    Ok(()) = of_files.changed() => {}
                    Ok(()) = of_url.changed() => {}
                    () = informer.synced(), if !informer.is_synced() => {}
                    () = tokio::time::sleep(AGAIN), if failed => {}
                }
            }
        };
        tokio::join!(follow, follow_url, keep);
    }

    fn url_source(&self) -> Option<UrlSource> {
        let config = &self.shared.config;
        let url = config.settings.static_pod_url.as_ref()?;
        UrlSource::new(url, &config.settings.static_pod_url_header, &config.node_name)
    }

    /// Ends what still runs of a static pod that was changed while no kubelet looked: two of one name would fight for
    /// what they share.
    async fn end_predecessors(&self, wanted: &[Arc<Pod>]) {
        let sandboxes = self.shared.cri.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await;
        for sandbox in sandboxes.map(|answer| answer.items).unwrap_or_default() {
            let told = |key: &str| sandbox.labels.get(key).map(String::as_str).unwrap_or_default();
            let uid = told(label::POD_UID);
            let same = |one: &Arc<Pod>| {
                pod::name(one) == told(label::POD_NAME) && pod::namespace(one) == told(label::POD_NAMESPACE)
            };
            if wanted.iter().any(same)
                && wanted.iter().all(|one| pod::uid(one) != uid)
                && let Some((uid, owner)) = orphans::owner(sandbox.labels.clone())
                && let Err(error) = orphans::end(&self.shared, &uid, &owner).await
            {
                tracing::warn!(uid, %error, "ending the predecessor of a static pod failed");
            }
        }
    }

    /// Starts workers of new pods and ends those of pods that are gone. A changed pod waits for the one it replaces.
    fn run_statics(self: &Arc<Self>, wanted: &[Arc<Pod>]) {
        let runtime = tokio::runtime::Handle::current();
        let mut starting = Vec::new();
        {
            let mut entries = self.entries.lock();
            entries.retain(|uid, entry| {
                let gone = pod::is_static(&entry.pod) && !wanted.iter().any(|one| pod::uid(one) == uid);
                if gone && !entry.leaving {
                    entry.leaving = true;
                    entry.mailbox.removed(entry.pod.clone());
                }
                !(gone && entry.task.as_ref().is_none_or(JoinHandle::is_finished))
            });
            for one in wanted {
                let held = |uid: &str, other: &Pod| {
                    uid != pod::uid(one) && ObjectKey::of(other) == ObjectKey::of(&**one)
                };
                let waits =
                    entries.iter().any(|(uid, entry)| pod::is_static(&entry.pod) && held(uid, &entry.pod))
                        || starting.iter().any(|other: &Arc<Pod>| held(pod::uid(other), other));
                let known = entries.get(pod::uid(one)).is_some_and(|entry| entry.pod == *one);
                if !waits && !known {
                    starting.push(one.clone());
                }
            }
        }
        for one in &starting {
            self.put(one, &runtime);
            if let Some(mirror) = self.mirrors.lock().get(&ObjectKey::of(&**one)).cloned() {
                self.tell_mirror(&mirror);
            }
        }
    }

    /// A mirror was made or changed.
    pub(super) fn mirror_changed(&self, mirror: &Arc<Pod>) {
        self.mirrors.lock().insert(ObjectKey::of(&**mirror), mirror.clone());
        self.tell_mirror(mirror);
        self.statics_wake.notify_one();
    }

    /// A mirror was deleted.
    pub(super) fn mirror_gone(&self, mirror: &Pod) {
        let key = ObjectKey::of(mirror);
        let mut mirrors = self.mirrors.lock();
        if mirrors.get(&key).is_some_and(|known| pod::uid(known) == pod::uid(mirror)) {
            mirrors.remove(&key);
        }
        drop(mirrors);
        self.statics_wake.notify_one();
    }

    /// Tells the worker of the pod that a mirror shows where its status goes.
    fn tell_mirror(&self, mirror: &Arc<Pod>) {
        let key = ObjectKey::of(&**mirror);
        let entries = self.entries.lock();
        let shown =
            entries.values().find(|entry| pod::is_static(&entry.pod) && ObjectKey::of(&*entry.pod) == key);
        if let Some(entry) = shown {
            entry.mailbox.mirror(mirror.clone());
        }
    }

    /// Makes and deletes mirrors; false if something is to be tried again.
    async fn keep_mirrors(&self, wanted: &[Arc<Pod>], all_heard: bool) -> bool {
        let mut statics: Vec<Arc<Pod>> = self
            .entries
            .lock()
            .values()
            .map(|entry| entry.pod.clone())
            .filter(|pod| pod::is_static(pod))
            .collect();
        // One that waits for its predecessor is shown by that one's mirror.
        for one in wanted {
            if !statics.iter().any(|other| ObjectKey::of(&**other) == ObjectKey::of(&**one)) {
                statics.push(one.clone());
            }
        }
        let mirrors: Vec<Arc<Pod>> = self.mirrors.lock().values().cloned().collect();
        let mut done = true;
        for step in mirror::plan(&statics, &mirrors, all_heard) {
            done &= match step {
                Step::Create(wanted) => self.create_mirror(&wanted).await,
                Step::Delete(mirror) => self.delete_mirror(&mirror).await,
            };
        }
        done
    }

    async fn create_mirror(&self, wanted: &Pod) -> bool {
        let node = self.shared.node.lock().clone();
        let Some(node_uid) = node.and_then(|node| node.metadata.uid.clone()) else { return false };
        let mirror = mirror::of(wanted, &self.shared.config.node_name, &node_uid);
        let api: Api<Pod> = Api::namespaced(self.shared.client.clone(), pod::namespace(wanted));
        match api.create(&PostParams::default(), &mirror).await {
            Ok(made) => {
                self.mirror_changed(&Arc::new(made));
                true
            }
            // The informer tells of it; an ordinary pod of that name stays where it is.
            Err(error) if is_already_exists(&error) => false,
            Err(error) => {
                let error = error_chain(&error);
                tracing::warn!(pod = pod::full_name(wanted), error, "creating a mirror pod failed");
                false
            }
        }
    }

    async fn delete_mirror(&self, mirror: &Pod) -> bool {
        let api: Api<Pod> = Api::namespaced(self.shared.client.clone(), pod::namespace(mirror));
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: mirror.metadata.uid.clone(),
                ..Preconditions::default()
            }),
            ..DeleteParams::default()
        };
        match api.delete(pod::name(mirror), &params).await {
            Ok(_) => {
                self.mirror_gone(mirror);
                true
            }
            Err(error) if is_not_found(&error) || is_conflict(&error) => {
                self.mirror_gone(mirror);
                true
            }
            Err(error) => {
                let error = error_chain(&error);
                tracing::warn!(pod = pod::full_name(mirror), error, "deleting a mirror pod failed");
                false
            }
        }
    }
}
