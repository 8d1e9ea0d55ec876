//! The sink against a server the test plays by hand.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::time::timeout;

use super::*;
use crate::testing::{Call, HandPlayedServer};

fn reference(name: &str) -> ObjectReference {
    let mut pod = Pod::default();
    pod.metadata.name = Some(name.into());
    pod.metadata.namespace = Some("n".into());
    pod.metadata.uid = Some("u".into());
    pod.metadata.resource_version = Some("5".into());
    reference_of(&pod)
}

async fn next(server: &mut HandPlayedServer) -> Call {
    timeout(Duration::from_secs(60), server.call()).await.expect("a request")
}

#[test]
fn references_name_the_object_completely() {
    let reference = reference("p");
    let json = serde_json::to_value(reference).unwrap();
    let expected = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "namespace": "n",
        "uid": "u", "resourceVersion": "5"});
    assert_eq!(json, expected);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_event_is_created_then_counted_then_created_anew_when_gone() {
    let (mut server, client) = HandPlayedServer::new();
    let (recorder, sink) = EventRecorder::new(client, "kubelet", "node-1");
    let shutdown = Shutdown::new();
    let task = tokio::spawn(sink.run(shutdown.clone()));
    recorder.event(&reference("p"), EventType::Warning, "BackOff", "restarting");
    let create = next(&mut server).await;
    assert_eq!((create.method.as_str(), create.uri.path()), ("POST", "/api/v1/namespaces/n/events"));
    let body = create.body.clone();
    assert_eq!(body["type"], "Warning");
    assert_eq!(body["source"], serde_json::json!({"component": "kubelet", "host": "node-1"}));
    assert_eq!(body["count"], 1);
    create.json(&body);
    let name = body["metadata"]["name"].as_str().unwrap().to_owned();
    recorder.event(&reference("p"), EventType::Warning, "BackOff", "restarting");
    let patch = next(&mut server).await;
    assert_eq!(patch.method.as_str(), "PATCH");
    assert_eq!(patch.uri.path(), format!("/api/v1/namespaces/n/events/{name}"));
    assert_eq!(patch.body["count"], 2);
    patch.fail(404, "NotFound", "events not found");
    let again = next(&mut server).await;
    assert_eq!((again.method.as_str(), &again.body["count"]), ("POST", &serde_json::json!(2)));
    let body = again.body.clone();
    again.json(&body);
    shutdown.cancel();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_server_is_tried_again_and_a_refusal_is_not() {
    let (mut server, client) = HandPlayedServer::new();
    let (recorder, sink) = EventRecorder::new(client, "test", "");
    let task = tokio::spawn(sink.run(Shutdown::new()));
    recorder.event(&reference("p"), EventType::Normal, "A", "x");
    drop(next(&mut server).await);
    let again = next(&mut server).await;
    assert_eq!(again.body["reason"], "A");
    again.fail(403, "Forbidden", "no");
    recorder.event(&reference("p"), EventType::Normal, "B", "x");
    assert_eq!(next(&mut server).await.body["reason"], "B");
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_written_at_shutdown() {
    let (mut server, client) = HandPlayedServer::new();
    let (recorder, sink) = EventRecorder::new(client, "test", "");
    let shutdown = Shutdown::new();
    for number in 0..5 {
        recorder.event(&reference(&format!("p{number}")), EventType::Normal, "A", "x");
    }
    shutdown.cancel();
    let task = tokio::spawn(sink.run(shutdown));
    for _ in 0..5 {
        let call = next(&mut server).await;
        let body = call.body.clone();
        call.json(&body);
    }
    task.await.unwrap();
}

#[test]
fn event_names_are_valid_and_unique() {
    assert_eq!(event_name("web-1", 0x17), "web-1.17");
    for odd in ["system:node", "Web", "", "a..b", "-a", &"x".repeat(250)] {
        let name = event_name(odd, 0x17);
        assert!(name.len() <= 253 && name.ends_with("0000000000000017"), "{odd:?} gave {name}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_are_written_than_the_rate_allows() {
    let (mut server, client) = HandPlayedServer::new();
    let (recorder, sink) = EventRecorder::new(client, "kubelet", "");
    let task = tokio::spawn(sink.limited(1, 2).run(Shutdown::new()));
    let begun = Instant::now();
    for number in 0..4 {
        recorder.event(&reference(&format!("p{number}")), EventType::Normal, "A", "x");
    }
    let mut written = Vec::new();
    for _ in 0..4 {
        let call = next(&mut server).await;
        let body = call.body.clone();
        call.json(&body);
        written.push(begun.elapsed().as_secs_f64().round());
    }
    assert_eq!(written, [0.0, 0.0, 1.0, 2.0]);
    task.abort();
}
