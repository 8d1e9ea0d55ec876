//! The whole scheduler against a server the test plays by hand.

use std::time::Duration;

use podium_client::testing::{Call, HandPlayedServer, WatchStream};
use podium_client::{SharedInformers, Shutdown, SingleClient};
use tokio::time::timeout;

use super::*;

pub(super) struct Rig {
    server: HandPlayedServer,
    pods: WatchStream,
    /// By path.
    others: Vec<(String, WatchStream)>,
    shutdown: Shutdown,
    scheduler: tokio::task::JoinHandle<Result<(), crate::Error>>,
}

impl Rig {
    /// Starts the scheduler and answers its lists and watches.
    async fn start(nodes: &[Value]) -> Self {
        Self::start_among(&[("/api/v1/nodes", nodes)]).await
    }

    /// The same, with more than nodes: what lists of these paths answer.
    pub(super) async fn start_among(lists: &[(&str, &[Value])]) -> Self {
        let (mut server, client) = HandPlayedServer::new();
        let shutdown = Shutdown::new();
        let informers = SharedInformers::new(client.clone(), shutdown.clone());
        let config = Config { seed: Some(1), ..Config::new(Arc::new(SingleClient(client)), informers) };
        let scheduler = tokio::spawn(crate::run(config, shutdown.clone()));
        let mut pods = None;
        let mut others = Vec::new();
        while others.len() < 9 || pods.is_none() {
            let call = next(&mut server).await;
            if call.query("watch").is_none() {
                let items = lists
                    .iter()
                    .find(|(path, _)| *path == call.uri.path())
                    .map_or(&[][..], |(_, items)| items);
                call.list("1", items);
            } else if call.uri.path() == "/api/v1/pods" {
                pods = Some(call.watch());
            } else {
                others.push((call.uri.path().to_owned(), call.watch()));
            }
        }
        Self { server, pods: pods.unwrap(), others, shutdown, scheduler }
    }

    /// Tells the watch of a path.
    pub(super) fn send(&self, path: &str, type_: &str, object: &Value) {
        let (_, watch) = self.others.iter().find(|(of, _)| of == path).expect("it is watched");
        watch.send(type_, object);
    }

    pub(super) fn send_pod(&self, type_: &str, pod: &Value) {
        self.pods.send(type_, pod);
    }

    pub(super) async fn call(&mut self) -> Call {
        next(&mut self.server).await
    }

    pub(super) async fn stop(self) {
        self.shutdown.cancel();
        drop(self.others);
        timeout(Duration::from_secs(10), self.scheduler).await.expect("stops").unwrap().unwrap();
    }
}

async fn next(server: &mut HandPlayedServer) -> Call {
    timeout(Duration::from_secs(20), server.call()).await.expect("a request")
}

fn versioned(pod: Value, version: u32) -> Value {
    with(pod, json!({"metadata": {"resourceVersion": version.to_string()}}))
}

#[tokio::test]
async fn a_pod_is_bound_and_the_event_says_where() {
    let mut rig = Rig::start(&[node("n", "4", "8Gi")]).await;
    rig.pods.send("ADDED", &versioned(pod("p", "1", ""), 10));
    let bind = rig.call().await;
    assert_eq!((bind.method.as_str(), bind.uri.path()), ("POST", "/api/v1/namespaces/ns/pods/p/binding"));
    assert_eq!(bind.body["target"], json!({"kind": "Node", "name": "n"}));
    assert_eq!(bind.body["metadata"]["uid"], "uid-p");
    bind.json(&json!({"kind": "Status", "apiVersion": "v1", "status": "Success", "code": 201}));
    let event = rig.call().await;
    assert_eq!(event.uri.path(), "/api/v1/namespaces/ns/events");
    assert_eq!((&event.body["reason"], &event.body["type"]), (&json!("Scheduled"), &json!("Normal")));
    assert_eq!(event.body["message"], "Successfully assigned ns/p to n");
    assert_eq!(event.body["source"]["component"], "default-scheduler");
    let body = event.body.clone();
    event.json(&body);
    rig.stop().await;
}

#[tokio::test]
async fn a_pod_that_fits_nowhere_is_told_and_bound_once_there_is_room() {
    let mut rig = Rig::start(&[node("n", "4", "8Gi")]).await;
    rig.pods.send("ADDED", &versioned(on(pod("big", "3", ""), "n"), 9));
    rig.pods.send("ADDED", &versioned(pod("p", "2", ""), 10));
    let message = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    let mut patched = false;
    let mut recorded = false;
    while !(patched && recorded) {
        let call = rig.call().await;
        let body = call.body.clone();
        if call.method == "PATCH" {
            assert_eq!(call.uri.path(), "/api/v1/namespaces/ns/pods/p/status");
            let condition = &body["status"]["conditions"][0];
            assert_eq!(condition["type"], "PodScheduled");
            assert_eq!(condition["status"], "False");
            assert_eq!(condition["reason"], "Unschedulable");
            assert_eq!(condition["message"], message);
            patched = true;
            call.json(&pod("p", "2", ""));
        } else {
            assert_eq!((&body["reason"], &body["type"]), (&json!("FailedScheduling"), &json!("Warning")));
            assert_eq!(body["message"], message);
            recorded = true;
            call.json(&body);
        }
    }
    rig.pods.send("DELETED", &versioned(on(pod("big", "3", ""), "n"), 11));
    let bind = rig.call().await;
    assert_eq!(bind.uri.path(), "/api/v1/namespaces/ns/pods/p/binding");
    bind.fail(500, "InternalError", "try again");
    // A failed binding is tried again after its back-off.
    let again = rig.call().await;
    assert_eq!(again.uri.path(), "/api/v1/namespaces/ns/pods/p/binding");
    again.json(&json!({"kind": "Status", "status": "Success"}));
    rig.stop().await;
}

#[tokio::test]
async fn victims_are_marked_and_deleted() {
    let mut rig = Rig::start(&[node("n", "4", "8Gi")]).await;
    rig.pods.send("ADDED", &versioned(on(pod("low", "3", ""), "n"), 9));
    rig.pods.send("ADDED", &versioned(with(pod("high", "2", ""), json!({"spec": {"priority": 10}})), 10));
    let mut seen = Vec::new();
    while seen.len() < 5 {
        let call = rig.call().await;
        let body = call.body.clone();
        let what = match call.method.as_str() {
            "PATCH" if call.uri.path().contains("/high/") => {
                format!("nominate {}", body["status"]["nominatedNodeName"])
            }
            "PATCH" => format!("mark {}", body["status"]["conditions"][0]["reason"]),
            "DELETE" => format!("delete {} {}", call.uri.path(), body["preconditions"]["uid"]),
            _ => format!("event {} {}", body["reason"], body["message"]),
        };
        seen.push(what);
        let answer = if call.method == "POST" { body } else { pod("low", "3", "") };
        call.json(&answer);
    }
    seen.sort();
    assert_eq!(
        seen,
        [
            "delete /api/v1/namespaces/ns/pods/low \"uid-low\"",
            "event \"FailedScheduling\" \"0/1 nodes are available: 1 Insufficient cpu.\"",
            "event \"Preempted\" \"Preempted by pod uid-high on node n\"",
            "mark \"PreemptionByScheduler\"",
            "nominate \"n\"",
        ]
    );
    rig.stop().await;
}
