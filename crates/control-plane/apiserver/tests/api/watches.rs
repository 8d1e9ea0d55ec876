//! Watches: what is told, in which order, and how they end.

use podium_store::Store;
use serde_json::{Value, json};

use crate::frames::Frames;
use crate::support::{Server, call, call_as};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn put(server: &Server, name: &str, app: &str) {
    let body = json!({"metadata": {"name": name, "labels": {"app": app}}});
    let answer = call(server, "POST", MAPS, body).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
}

#[tokio::test]
async fn selector_transitions() {
    let server = Server::start().await;
    put(&server, "a", "x").await;
    let mut frames = Frames::open(&server, &format!("{MAPS}?watch=1&labelSelector=app%3Dx"), "").await;
    frames.expect("ADDED", "a").await;
    put(&server, "other", "y").await;
    let relabel = |app: &str| json!({"metadata": {"labels": {"app": app}}});
    call(&server, "PATCH", &format!("{MAPS}/a"), json!({"data": {"k": "v"}})).await;
    frames.expect("MODIFIED", "a").await;
    let left = call(&server, "PATCH", &format!("{MAPS}/a"), relabel("y")).await.json();
    let frame = frames.expect("DELETED", "a").await;
    assert_eq!(frame["object"]["metadata"]["resourceVersion"], left["metadata"]["resourceVersion"]);
    assert_eq!(frame["object"]["metadata"]["labels"]["app"], "x");
    call(&server, "PATCH", &format!("{MAPS}/other"), relabel("x")).await;
    frames.expect("ADDED", "other").await;
    let before = server.store.revision();
    call(&server, "DELETE", &format!("{MAPS}/other"), Value::Null).await;
    let frame = frames.expect("DELETED", "other").await;
    let revision: u64 = frame["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert!(revision > before, "a deletion has its own revision");
    server.stop().await;
}

#[tokio::test]
async fn a_watch_resumes_where_a_list_ended() {
    let server = Server::start().await;
    put(&server, "a", "x").await;
    let list = call(&server, "GET", MAPS, Value::Null).await.json();
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap();
    put(&server, "b", "x").await;
    put(&server, "c", "x").await;
    let mut frames = Frames::open(
        &server,
        &format!("{MAPS}?watch=true&resourceVersion={revision}&timeoutSeconds=1&allowWatchBookmarks=true"),
        "",
    )
    .await;
    frames.expect("ADDED", "b").await;
    frames.expect("ADDED", "c").await;
    let last = frames.next().await.expect("a bookmark at the end");
    assert_eq!((&last["type"], &last["object"]["kind"]), (&json!("BOOKMARK"), &json!("ConfigMap")));
    assert!(frames.next().await.is_none(), "the watch ends in time");
    server.stop().await;
}

#[tokio::test]
async fn initial_events_and_their_end() {
    let server = Server::start().await;
    put(&server, "a", "x").await;
    put(&server, "b", "x").await;
    let uri = format!(
        "{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&labelSelector=app"
    );
    let mut frames = Frames::open(&server, &uri, "").await;
    frames.expect("ADDED", "a").await;
    frames.expect("ADDED", "b").await;
    let end = frames.next().await.unwrap();
    assert_eq!(end["type"], "BOOKMARK");
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    put(&server, "c", "x").await;
    frames.expect("ADDED", "c").await;
    let bad = call(&server, "GET", &format!("{MAPS}?watch=1&sendInitialEvents=true"), Value::Null).await;
    assert_eq!(bad.status, 422, "{}", bad.text());
    server.stop().await;
}

/// Upstream sends initial events, and so the mark, to whoever does not say where to begin and takes bookmarks.
#[tokio::test]
async fn a_watch_from_anywhere_marks_its_beginning() {
    let server = Server::start().await;
    put(&server, "a", "x").await;
    for version in ["", "&resourceVersion=0"] {
        let uri = format!("{MAPS}?watch=1&labelSelector=app&allowWatchBookmarks=true{version}");
        let mut frames = Frames::open(&server, &uri, "").await;
        frames.expect("ADDED", "a").await;
        let end = frames.next().await.unwrap();
        assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true", "{end}");
    }
    server.stop().await;
}

#[tokio::test]
async fn tables_are_watched_too() {
    let server = Server::start().await;
    put(&server, "a", "x").await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let mut frames = Frames::open(&server, &format!("{MAPS}?watch=1&labelSelector=app"), accept).await;
    let first = frames.next().await.unwrap();
    assert_eq!(first["object"]["kind"], "Table");
    assert_eq!(first["object"]["rows"][0]["cells"][0], "a");
    assert!(first["object"]["columnDefinitions"].is_array());
    put(&server, "b", "x").await;
    let second = frames.next().await.unwrap();
    assert_eq!(second["object"]["rows"][0]["cells"][0], "b");
    assert!(second["object"]["columnDefinitions"].is_null());
    server.stop().await;
}

#[tokio::test]
async fn a_single_object_by_name() {
    let server = Server::start().await;
    put(&server, "a", "x").await;
    let mut frames =
        Frames::open(&server, &format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Da"), "").await;
    frames.expect("ADDED", "a").await;
    put(&server, "b", "x").await;
    let patch = br#"{"data":{"k":"v"}}"#.to_vec();
    call_as(&server, "PATCH", &format!("{MAPS}/a"), "application/merge-patch+json", patch).await;
    frames.expect("MODIFIED", "a").await;
    server.stop().await;
}

#[tokio::test]
async fn watches_end_with_the_server() {
    let server = Server::start().await;
    let mut frames = Frames::open(&server, &format!("{MAPS}?watch=1&labelSelector=none"), "").await;
    server.shutdown.cancel();
    assert!(frames.next().await.is_none());
    server.stop().await;
}

/// A machine that hands a change to a hundred watchers within 200 us knows no turns; none does that with this build.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_that_many_watch_take_turns_and_every_watcher_sees_everything() {
    const WRITERS: usize = 4;
    const EACH: usize = 25;
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(podium_store::Config::new(directory.path().join("store"))).await.unwrap();
    let server = Server::start_over(directory.path(), None, store.clone(), 0, |_| {}).await;
    for writer in 0..WRITERS {
        put(&server, &format!("w{writer}"), "x").await;
    }
    let revision = store.revision();
    let mut watching = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let uri = format!("{MAPS}?watch=1&labelSelector=app%3Dx&resourceVersion={revision}");
        let mut frames = Frames::open(&server, &uri, "").await;
        watching.spawn(async move {
            let mut last = [0; WRITERS];
            while last != [EACH; WRITERS] {
                let frame = frames.next().await.expect("a frame");
                let object = &frame["object"];
                let writer: usize = object["metadata"]["name"].as_str().unwrap()[1..].parse().unwrap();
                last[writer] += 1;
                assert_eq!(object["data"]["n"], last[writer].to_string(), "each change once, in order");
            }
        });
    }
    futures::future::join_all((0..WRITERS).map(async |writer| {
        for n in 1..=EACH {
            let body = json!({"data": {"n": n.to_string()}});
            let answer = call(&server, "PATCH", &format!("{MAPS}/w{writer}"), body).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }))
    .await;
    while let Some(watched) = watching.join_next().await {
        watched.unwrap();
    }
    let metrics = call(&server, "GET", "/metrics", Value::Null).await.text();
    let turns = metrics.lines().find_map(|line| line.strip_prefix("podium_apiserver_write_turns_total "));
    assert!(turns.unwrap().parse::<u32>().unwrap() > 0, "nobody took turns");
    server.stop().await;
    store.close().await;
}
