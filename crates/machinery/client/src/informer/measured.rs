//! A sink whose changes are counted and timed.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::scan::EventKind;
use super::store::Sink;
use crate::metrics::informers::Numbers;

/// Feeds another sink.
pub(super) struct Measured {
    pub(super) sink: Arc<dyn Sink>,
    pub(super) numbers: Numbers,
}

impl Measured {
    fn timed<T>(&self, change: impl FnOnce(&dyn Sink) -> T) -> T {
        let started = Instant::now();
        let outcome = change(&*self.sink);
        self.numbers.latencies.observe(started.elapsed().as_secs_f64());
        outcome
    }
}

impl Sink for Measured {
    fn begin(&self) {
        // What a watch that was broken off left unread is listed again.
        self.numbers.queued(0);
        self.sink.begin();
    }

    fn metadata_only(&self) -> bool {
        self.sink.metadata_only()
    }

    fn condensed(&self, item: Bytes) -> Bytes {
        self.sink.condensed(item)
    }

    fn queued(&self, changes: usize) {
        self.numbers.queued(changes);
    }

    fn replace(&self, items: Vec<Bytes>, resource_version: &str) {
        self.timed(|sink| sink.replace(items, resource_version));
        self.numbers.reached(resource_version);
    }

    fn event(&self, kind: EventKind, object: &[u8]) -> Option<String> {
        let version = self.timed(|sink| sink.event(kind, object));
        if let Some(version) = &version {
            self.numbers.reached(version);
        }
        version
    }

    fn progress(&self, resource_version: &str) {
        self.timed(|sink| sink.progress(resource_version));
        self.numbers.reached(resource_version);
    }

    fn end(&self) {
        self.numbers.queued(0);
        self.sink.end();
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Pod};
    use parking_lot::Mutex;
    use serde_json::{Value, json};

    use super::super::*;
    use crate::testing::HandPlayedServer;

    fn object(name: &str, version: u64) -> Value {
        json!({"metadata": {"name": name, "namespace": "n", "resourceVersion": version.to_string()}})
    }

    fn rows(of: &str) -> Vec<String> {
        let mut out = String::new();
        crate::metrics::collect(&mut out);
        let ours = out.lines().filter(|line| line.starts_with("informer_") && line.contains(of));
        ours.filter(|line| !line.contains("_bucket") && !line.contains("_sum")).map(str::to_owned).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_named_informer_tells_what_it_has_done_and_has_to_do() {
        let (mut server, client) = HandPlayedServer::new();
        let informers = SharedInformers::named("measured", client, Shutdown::new());
        let pods = informers.of::<Pod>();
        let waiting = Arc::new(Mutex::new(Vec::new()));
        let seen = waiting.clone();
        pods.on_event(move |_| {
            let queued = rows("name=\"measured\"").into_iter().find(|row| row.contains("_queued_items"));
            seen.lock().extend(queued.and_then(|row| row.rsplit(' ').next().map(str::to_owned)));
        });
        server.call().await.list("10", &[object("a", 3)]);
        let stream = server.call().await.watch();
        let lines: String =
            [("ADDED", object("b", 11)), ("DELETED", object("b", 12)), ("BOOKMARK", object("", 15))]
                .map(|(kind, object)| format!("{}\n", json!({"type": kind, "object": object})))
                .concat();
        stream.raw(lines);
        while pods.resource_version() != "15" || rows("name=\"measured\"").len() < 3 {
            tokio::task::yield_now().await;
        }
        assert_eq!(*waiting.lock(), ["0", "2", "1"], "behind a listed object, an added and a deleted one");
        let labels = "name=\"measured\",group=\"\",version=\"v1\",resource=\"pods\"";
        assert_eq!(
            rows("name=\"measured\""),
            [
                format!("informer_queued_items{{{labels}}} 0"),
                format!("informer_processing_latency_seconds_count{{{labels}}} 4"),
                format!("informer_store_resource_version{{{labels}}} 15"),
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_resource_the_first_informer_is_measured_and_of_metadata_none() {
        let (mut server, client) = HandPlayedServer::new();
        let informers = SharedInformers::named("first", client, Shutdown::new());
        let deployments =
            ResourcePath { group: "apps".into(), version: "v1".into(), plural: "deployments".into() };
        let follower = informers.follow_metadata(&deployments, &[], |_| {});
        let part = Scope { namespace: Some("n".into()), ..Scope::default() };
        let (first, second) = (informers.scoped::<ConfigMap>(part), informers.of::<ConfigMap>());
        for _ in 0..3 {
            let call = server.call().await;
            let version = if call.uri.path().contains("/n/") { "20" } else { "30" };
            call.list(version, &[]);
        }
        follower.synced().await;
        first.synced().await;
        second.synced().await;
        let versions = rows("name=\"first\"").into_iter().filter(|row| row.contains("_version{"));
        let expected = "informer_store_resource_version{name=\"first\",group=\"\",version=\"v1\",resource=\"configmaps\"} 20";
        assert_eq!(versions.collect::<Vec<_>>(), [expected]);
        assert!(rows("deployments").is_empty(), "only its metadata is kept");
    }
}
