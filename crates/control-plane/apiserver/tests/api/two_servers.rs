//! Two API servers on one etcd are one cluster: nobody can tell which of them answers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::etcd::{self, EtcdServer};
use crate::frames::Frames;
use crate::support::{Server, call};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SERVICES: &str = "/api/v1/namespaces/default/services";

/// Two servers with one set of keys, over stores of their own.
async fn pair(etcd: &EtcdServer, directory: &Path) -> (Server, Server) {
    (one(etcd, directory).await, one(etcd, directory).await)
}

async fn one(server: &EtcdServer, directory: &Path) -> Server {
    let config = podium_store::EtcdConfig {
        prefix: "/registry".to_owned(),
        codec: Arc::new(podium_apiserver::EtcdCodec),
        ..server.config()
    };
    Server::start_over(directory, None, etcd::open(config).await, 0, |_| {}).await
}

fn map(name: &str, count: u64) -> Value {
    json!({"metadata": {"name": name}, "data": {"count": count.to_string()}})
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().expect("a version").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_server_has_written_the_other_has_read() {
    let (etcd, directory) = (EtcdServer::start(), tempfile::tempdir().unwrap());
    let (a, b) = pair(&etcd, directory.path()).await;
    for number in 0..50 {
        let (writer, reader) = if number % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let name = format!("m{number}");
        let made = call(writer, "POST", MAPS, map(&name, 0)).await;
        assert_eq!(made.status, 201, "{}", made.text());
        let read = call(reader, "GET", &format!("{MAPS}/{name}"), Value::Null).await;
        assert_eq!(read.body, made.body, "a get is not older than the last write");
        let list = call(reader, "GET", MAPS, Value::Null).await.json();
        assert!(version(&list) >= version(&made.json()));
        assert!(list["items"].as_array().unwrap().iter().any(|one| one["metadata"]["name"] == *name));
        let gone = call(reader, "DELETE", &format!("{MAPS}/{name}"), Value::Null).await;
        assert_eq!(gone.status, 200, "{}", gone.text());
        assert_eq!(call(writer, "GET", &format!("{MAPS}/{name}"), Value::Null).await.status, 404);
    }
    a.stop().await;
    b.stop().await;
}

/// Adds one to a counter, trying again after each conflict; how often there was one.
async fn increment(server: &Server, name: &str) -> usize {
    let uri = format!("{MAPS}/{name}");
    for conflicts in 0.. {
        let mut object = call(server, "GET", &uri, Value::Null).await.json();
        let count: u64 = object["data"]["count"].as_str().unwrap().parse().unwrap();
        object["data"]["count"] = json!((count + 1).to_string());
        let answer = call(server, "PUT", &uri, object).await;
        match answer.status {
            200 => return conflicts,
            409 => {}
            other => panic!("{other}: {}", answer.text()),
        }
    }
    unreachable!("the loop has no end")
}

#[tokio::test(flavor = "multi_thread")]
async fn no_update_is_lost_between_them() {
    let (etcd, directory) = (EtcdServer::start(), tempfile::tempdir().unwrap());
    let (a, b) = pair(&etcd, directory.path()).await;
    assert_eq!(call(&a, "POST", MAPS, map("counter", 0)).await.status, 201);
    let work = (0..8).map(|number| {
        let server = if number % 2 == 0 { &a } else { &b };
        async move {
            let mut conflicts = 0;
            for _ in 0..20 {
                conflicts += increment(server, "counter").await;
            }
            conflicts
        }
    });
    let conflicts: usize = futures::future::join_all(work).await.into_iter().sum();
    assert!(conflicts > 0, "they did get into each other's way");
    let counter = call(&b, "GET", &format!("{MAPS}/counter"), Value::Null).await.json();
    assert_eq!(counter["data"]["count"], "160");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_and_ports_of_services_are_given_once() {
    let (etcd, directory) = (EtcdServer::start(), tempfile::tempdir().unwrap());
    let (a, b) = pair(&etcd, directory.path()).await;
    let work = (0..40).map(|number| {
        let server = if number % 2 == 0 { &a } else { &b };
        async move {
            let body = json!({"metadata": {"name": format!("s{number}")},
                "spec": {"type": "NodePort", "ports": [{"port": 80}], "selector": {"a": "b"}}});
            let answer = call(server, "POST", SERVICES, body).await;
            assert_eq!(answer.status, 201, "{}", answer.text());
            let spec = answer.json()["spec"].clone();
            (spec["clusterIP"].as_str().unwrap().to_owned(), spec["ports"][0]["nodePort"].as_u64().unwrap())
        }
    });
    let given = futures::future::join_all(work).await;
    assert_eq!(given.iter().map(|(address, _)| address).collect::<BTreeSet<_>>().len(), 40);
    assert_eq!(given.iter().map(|(_, port)| port).collect::<BTreeSet<_>>().len(), 40);
    // What was asked for by name is refused by the other server, too.
    let (address, port) = &given[0];
    for (spec, what) in [
        (json!({"clusterIP": address, "ports": [{"port": 80}]}), "provided IP is already allocated"),
        (
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}),
            "provided port is already allocated",
        ),
    ] {
        let answer = call(&b, "POST", SERVICES, json!({"metadata": {"name": "again"}, "spec": spec})).await;
        assert_eq!(answer.status, 422, "{}", answer.text());
        assert!(answer.text().contains(what), "{}", answer.text());
    }
    a.stop().await;
    b.stop().await;
}

/// Follows the maps from a version until one named `end` is made: version and name of every change, in order.
async fn follow(server: &Server, from: u64) -> Vec<(u64, String)> {
    let mut frames = Frames::open(server, &format!("{MAPS}?watch=1&resourceVersion={from}"), "").await;
    let mut told = Vec::new();
    while let Some(frame) = frames.next().await {
        let name = frame["object"]["metadata"]["name"].as_str().expect("a name").to_owned();
        told.push((version(&frame["object"]), name.clone()));
        if name == "end" {
            return told;
        }
    }
    panic!("the watch ended after {told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_tell_the_same_story_and_one_goes_on_where_the_other_stopped() {
    let (etcd, directory) = (EtcdServer::start(), tempfile::tempdir().unwrap());
    let (a, b) = pair(&etcd, directory.path()).await;
    let from = version(&call(&a, "GET", MAPS, Value::Null).await.json());
    let writes = async {
        let writers = (0..4).map(|writer| {
            let server = if writer % 2 == 0 { &a } else { &b };
            async move {
                for number in 0..25 {
                    let name = format!("w{writer}-{number}");
                    assert_eq!(call(server, "POST", MAPS, map(&name, 0)).await.status, 201);
                    if number % 3 == 0 {
                        let gone = call(server, "DELETE", &format!("{MAPS}/{name}"), Value::Null).await;
                        assert_eq!(gone.status, 200);
                    }
                }
            }
        });
        futures::future::join_all(writers).await;
        assert_eq!(call(&a, "POST", MAPS, map("end", 0)).await.status, 201);
    };
    let (of_a, of_b, ()) = tokio::join!(follow(&a, from), follow(&b, from), writes);
    assert_eq!(of_a, of_b);
    assert!(of_a.windows(2).all(|pair| pair[0].0 < pair[1].0), "in order, and nothing twice: {of_a:?}");
    let mut changes: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, name) in &of_a {
        *changes.entry(name).or_default() += 1;
    }
    assert_eq!(changes.values().sum::<usize>(), 4 * (25 + 9) + 1);

    // From every place in the story the other server tells the rest of it.
    for at in [0, of_a.len() / 3, of_a.len() - 2] {
        assert_eq!(follow(&b, of_a[at].0).await, of_a[at + 1..]);
    }

    // A server that ends is nobody's loss, and one that begins knows everything.
    a.stop().await;
    let c = one(&etcd, directory.path()).await;
    assert_eq!(call(&c, "POST", MAPS, map("later", 0)).await.status, 201);
    let list = call(&b, "GET", MAPS, Value::Null).await;
    assert_eq!(list.json()["items"].as_array().unwrap().len(), 4 * 16 + 2);
    b.stop().await;
    c.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_comes_back_finds_both_as_they_were() {
    let (mut etcd, directory) = (EtcdServer::start(), tempfile::tempdir().unwrap());
    let (a, b) = pair(&etcd, directory.path()).await;
    assert_eq!(call(&a, "POST", MAPS, map("counter", 0)).await.status, 201);
    let from = version(&call(&b, "GET", MAPS, Value::Null).await.json());
    for round in 1..=3u64 {
        etcd.kill();
        let refused = call(&a, "POST", MAPS, map("unheard", 0));
        let (refused, ()) = tokio::join!(refused, async { etcd.run() });
        // It may have been held until etcd was there again; it may not claim what is not so.
        assert!([201, 409, 500, 503, 504].contains(&refused.status), "{}", refused.text());
        let mut last = String::new();
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        while tokio::time::Instant::now() < deadline {
            let answer =
                call(&b, "PATCH", &format!("{MAPS}/counter"), json!({"data": {"count": round.to_string()}}))
                    .await;
            last = answer.text();
            if answer.status == 200 {
                break;
            }
            tokio::task::yield_now().await;
        }
        let read = call(&a, "GET", &format!("{MAPS}/counter"), Value::Null).await;
        assert_eq!(read.json()["data"]["count"], round.to_string(), "round {round}: {last}");
    }
    assert_eq!(call(&a, "POST", MAPS, map("end", 0)).await.status, 201);
    let (of_a, of_b) = tokio::join!(follow(&a, from), follow(&b, from));
    assert_eq!(of_a, of_b);
    a.stop().await;
    b.stop().await;
}
