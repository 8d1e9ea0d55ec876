//! What a simulation does to the server: holding watches back, repeating and cutting them, and seeing everything that happens.

use std::sync::Arc;

use http::Method;
use http_body::Frame;
use serde_json::{Value, json};

use super::{Answer, FakeApi, Hook, Key, Objects, State, Target};
use crate::clock::RuntimeClock;

impl FakeApi {
    /// Has watches told by [`Self::deliver`] only, times taken from `clock`, and changes shown to `hook`.
    pub(crate) fn simulate(&self, clock: RuntimeClock, hook: Hook) {
        let mut state = self.state.lock();
        state.lagging = true;
        state.clock = Some(clock);
        state.hook = Some(hook);
    }

    /// Answers a request of the client with that number.
    pub(crate) fn answer_to(
        &self,
        client: usize,
        method: &Method,
        uri: &http::Uri,
        body: Value,
        strategic: bool,
    ) -> Answer {
        self.answer(method, uri, body, strategic, Some(client))
    }

    /// The open watches that have something to be told, as reader and resource.
    pub(crate) fn waiting(&self) -> Vec<(usize, String)> {
        let mut state = self.state.lock();
        state.watchers.retain(|watcher| !watcher.sender.is_closed());
        let waiting = state.watchers.iter().filter(|watcher| !watcher.backlog.is_empty());
        waiting.map(|watcher| (watcher.reader, watcher.resource.clone())).collect()
    }

    /// The resources of all open watches, each as often as it is watched, ordered.
    pub(crate) fn watched(&self) -> Vec<String> {
        let mut state = self.state.lock();
        state.watchers.retain(|watcher| !watcher.sender.is_closed());
        let mut watched: Vec<_> = state.watchers.iter().map(|watcher| watcher.resource.clone()).collect();
        watched.sort();
        watched
    }

    /// Tells the watches of a reader and resource up to `most` of what they wait for, each line `times` times.
    pub(crate) fn deliver(&self, (reader, resource): &(usize, String), most: usize, times: usize) {
        let mut state = self.state.lock();
        let watchers = state.watchers.iter_mut();
        for watcher in watchers.filter(|it| it.reader == *reader && it.resource == *resource) {
            let count = most.min(watcher.backlog.len());
            for line in watcher.backlog.drain(..count) {
                for _ in 0..times {
                    // A reader that is gone is no trouble.
                    let _ = watcher.sender.unbounded_send(Ok(Frame::data(line.clone())));
                }
            }
        }
    }

    /// Ends the watches of a reader and resource; what they wait for is lost. With `expire` the reader must list again.
    pub(crate) fn cut(&self, (reader, resource): &(usize, String), expire: bool) {
        let mut state = self.state.lock();
        state.watchers.retain(|it| it.reader != *reader || it.resource != *resource);
        if expire {
            state.expired.push((*reader, resource.clone()));
        }
    }

    /// The next update or deletion of that object is carried out, but nobody is told: it is answered with a failure, and watches
    /// of the resource are held back from there on, see [`Self::release`].
    pub(crate) fn lose_answer(&self, resource: &str, name: &str) {
        self.state.lock().lose = Some((resource.to_owned(), name.to_owned()));
    }

    /// The number of changes so far, renewals of leases not counted.
    pub(crate) fn changes(&self) -> usize {
        self.state.lock().changes
    }

    /// All pods.
    pub(crate) fn pods(&self) -> Vec<(Key, Arc<Value>)> {
        let state = self.state.lock();
        let pods = state.objects.iter().filter(|(key, _)| key.0 == "/pods");
        pods.map(|(key, pod)| (key.clone(), Arc::clone(pod))).collect()
    }

    /// Whether there is such an object.
    pub(crate) fn contains(&self, resource: &str, namespace: &str, name: &str) -> bool {
        let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        self.state.lock().objects.contains_key(&key)
    }

    /// Everything there is.
    pub(crate) fn objects(&self) -> Objects {
        self.state.lock().objects.clone()
    }

    /// Has every request and change written down from now on.
    pub(crate) fn trace(&self) {
        self.state.lock().trace = Some(Vec::new());
    }

    /// Writes a line down.
    pub(crate) fn note(&self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.state.lock().trace {
            trace.push(line());
        }
    }

    /// What was written down.
    pub(crate) fn traced(&self) -> Vec<String> {
        self.state.lock().trace.take().unwrap_or_default()
    }

    /// What happened, in brief: equal for equal runs.
    pub(crate) fn fingerprint(&self) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        for entry in &self.state.lock().log {
            (entry.version, &entry.key, entry.type_, &entry.text).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// As a kubelet deletes a pod for good: finalizers still hold it.
    pub(crate) fn finish_pod(&self, namespace: &str, name: &str) {
        let mut state = self.state.lock();
        let key = ("/pods".to_owned(), namespace.to_owned(), name.to_owned());
        let Some(pod) = state.objects.get(&key) else { return };
        let mut pod = Value::clone(pod);
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        if !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
            pod["status"]["phase"] = json!("Failed");
        }
        pod["status"]["conditions"] = json!([]);
        state.store(&key, pod);
    }
}

impl State {
    /// Whether the answer is to be lost, and with it whatever watches would tell.
    pub(super) fn loses_answer(&mut self, method: &Method, target: &Target) -> bool {
        let is_it =
            |(resource, name): &(String, String)| *resource == target.resource && *name == target.name;
        let writes = matches!(*method, Method::PUT | Method::DELETE) && target.subresource.is_empty();
        if !writes || !self.lose.as_ref().is_some_and(is_it) {
            return false;
        }
        self.lose = None;
        let place = self.log.len();
        self.held.insert(target.resource.clone(), place);
        true
    }
}
