//! Informers against a server the test plays by hand.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::*;
use crate::testing::{Call, HandPlayedServer};

fn pod(name: &str, version: u64) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "n", "uid": format!("uid-{name}"), "resourceVersion": version.to_string()},
        "spec": {"nodeName": format!("node-{}", version % 2), "containers": []}})
}

fn bad(name: &str, version: u64) -> Value {
    let mut pod = pod(name, version);
    pod["spec"]["containers"] = json!("not a list");
    pod
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("n", name)
}

struct Rig {
    server: HandPlayedServer,
    pods: Informer<Pod>,
    told: Arc<Mutex<Vec<String>>>,
    shutdown: Shutdown,
    informers: SharedInformers,
}

impl Rig {
    fn new() -> Self {
        let (server, client) = HandPlayedServer::new();
        let shutdown = Shutdown::new();
        let informers = SharedInformers::new(client, shutdown.clone());
        let pods = informers.of::<Pod>();
        let told = Arc::new(Mutex::new(Vec::new()));
        let seen = told.clone();
        pods.on_event(move |change| seen.lock().push(describe(change)));
        Self { server, pods, told, shutdown, informers }
    }

    async fn call(&mut self) -> Call {
        timeout(Duration::from_secs(120), self.server.call()).await.expect("a request")
    }

    /// Waits until the informer has seen that version, without letting time pass for others.
    async fn reach(&self, version: &str) {
        let reached = async {
            while self.pods.resource_version() != version {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(5), reached).await.unwrap_or_else(|_| {
            panic!(
                "stays at {} instead of {version}; told {:?}",
                self.pods.resource_version(),
                self.told.lock()
            )
        });
    }

    fn told(&self) -> Vec<String> {
        std::mem::take(&mut *self.told.lock())
    }
}

fn describe(change: &Change<Pod>) -> String {
    let version = |pod: &Pod| {
        format!(
            "{}@{}",
            pod.metadata.name.as_deref().unwrap(),
            pod.metadata.resource_version.as_deref().unwrap()
        )
    };
    match change {
        Change::Added(pod) => format!("+{}", version(pod)),
        Change::Modified { old, new } => format!("{}>{}", version(old), version(new)),
        Change::Deleted(pod) => format!("-{}", version(pod)),
    }
}

#[tokio::test(start_paused = true)]
async fn lists_then_watches_from_there() {
    let mut rig = Rig::new();
    assert!(!rig.pods.is_synced());
    let list = rig.call().await;
    assert_eq!(list.uri.path(), "/api/v1/pods");
    assert_eq!(
        (list.query("limit"), list.query("watch"), list.query("resourceVersion")),
        (Some("500"), None, None)
    );
    list.list("10", &[pod("a", 3), pod("b", 4)]);
    let watch = rig.call().await;
    assert_eq!(watch.query("watch"), Some("true"));
    assert_eq!(watch.query("allowWatchBookmarks"), Some("true"));
    assert_eq!(watch.query("resourceVersion"), Some("10"));
    let stream = watch.watch();
    rig.pods.synced().await;
    stream.send("ADDED", &pod("c", 11));
    stream.send("MODIFIED", &pod("a", 12));
    stream.send("DELETED", &pod("b", 13));
    rig.reach("13").await;
    assert_eq!(rig.told(), ["+a@3", "+b@4", "+c@11", "a@3>a@12", "-b@13"]);
    assert_eq!(rig.pods.keys(), [key("a"), key("c")]);
    assert_eq!(rig.pods.len(), 2);
    assert!(rig.pods.get(&key("b")).is_none());
    rig.shutdown.cancel();
    timeout(Duration::from_secs(1), rig.informers.stopped()).await.expect("stops at shutdown");
}

#[tokio::test(start_paused = true)]
async fn long_lists_are_read_in_pages() {
    let mut rig = Rig::new();
    rig.call()
        .await
        .json(&json!({"metadata": {"resourceVersion": "10", "continue": "more"}, "items": [pod("a", 1)]}));
    let second = rig.call().await;
    assert_eq!(second.query("continue"), Some("more"));
    second.list("10", &[pod("b", 2)]);
    let _watch = rig.call().await;
    assert_eq!(rig.told(), ["+a@1", "+b@2"]);
}

#[tokio::test(start_paused = true)]
async fn an_expired_page_is_read_again_whole() {
    let mut rig = Rig::new();
    rig.call()
        .await
        .json(&json!({"metadata": {"resourceVersion": "10", "continue": "more"}, "items": [pod("a", 1)]}));
    rig.call().await.fail(410, "Expired", "the provided continue parameter is too old");
    let whole = rig.call().await;
    assert_eq!((whole.query("limit"), whole.query("continue")), (None, None));
    whole.list("20", &[pod("b", 2)]);
    let watch = rig.call().await;
    assert_eq!(watch.query("resourceVersion"), Some("20"));
    assert_eq!(rig.told(), ["+b@2"]);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_watch_resumes_where_it_was() {
    let mut rig = Rig::new();
    rig.call().await.list("10", &[]);
    let stream = rig.call().await.watch();
    stream.send("ADDED", &pod("a", 11));
    rig.reach("11").await;
    stream.break_off();
    let again = rig.call().await;
    assert_eq!((again.query("watch"), again.query("resourceVersion")), (Some("true"), Some("11")));
    let stream = again.watch();
    stream.send("MODIFIED", &pod("a", 12));
    rig.reach("12").await;
    drop(stream);
    assert_eq!(rig.call().await.query("resourceVersion"), Some("12"));
    assert_eq!(rig.told(), ["+a@11", "a@11>a@12"]);
}

#[tokio::test(start_paused = true)]
async fn bookmarks_alone_carry_the_version_forward() {
    let mut rig = Rig::new();
    rig.call().await.list("10", &[]);
    let stream = rig.call().await.watch();
    stream.bookmark("500");
    rig.reach("500").await;
    drop(stream);
    assert_eq!(rig.call().await.query("resourceVersion"), Some("500"));
    assert!(rig.told().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_delete_while_disconnected_is_not_lost() {
    for by_answer in [true, false] {
        let mut rig = Rig::new();
        rig.call().await.list("10", &[pod("a", 1), pod("b", 2), pod("c", 3)]);
        let watch = rig.call().await;
        if by_answer {
            watch.fail(410, "Expired", "too old resource version");
        } else {
            let stream = watch.watch();
            stream.send(
                "ERROR",
                &json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}),
            );
        }
        // Gone: b. Replaced under the same name: c. Unchanged: a.
        let mut replaced = pod("c", 12);
        replaced["metadata"]["uid"] = json!("another");
        let relist = rig.call().await;
        assert_eq!(relist.query("watch"), None);
        relist.list("20", &[pod("a", 1), replaced]);
        assert_eq!(rig.call().await.query("resourceVersion"), Some("20"));
        assert_eq!(rig.told(), ["+a@1", "+b@2", "+c@3", "-c@3", "+c@12", "-b@2"]);
    }
}

#[tokio::test(start_paused = true)]
async fn duplicates_and_the_past_change_nothing() {
    let mut rig = Rig::new();
    rig.call().await.list("10", &[pod("a", 5)]);
    let stream = rig.call().await.watch();
    stream.send("ADDED", &pod("a", 5));
    stream.send("MODIFIED", &pod("a", 11));
    stream.send("MODIFIED", &pod("a", 11));
    stream.send("MODIFIED", &pod("a", 9));
    stream.send("DELETED", &pod("never-seen", 12));
    rig.reach("12").await;
    assert_eq!(rig.told(), ["+a@5", "a@5>a@11"]);
}

#[tokio::test(start_paused = true)]
async fn one_bad_object_spoils_only_itself() {
    let mut rig = Rig::new();
    rig.call().await.list("10", &[pod("a", 1), bad("b", 2), json!({"metadata": {}}), json!(7), pod("c", 3)]);
    let stream = rig.call().await.watch();
    stream.raw("this is not JSON\n");
    stream.send("ADDED", &bad("d", 11));
    stream.send("MODIFIED", &bad("a", 12));
    stream.send("RENAMED", &pod("a", 13));
    stream.send("ADDED", &pod("e", 14));
    rig.reach("14").await;
    assert_eq!(rig.told(), ["+a@1", "+c@3", "+e@14"]);
    // The last good state of a stays.
    let kept = rig.pods.get(&key("a")).unwrap();
    assert_eq!(kept.metadata.resource_version.as_deref(), Some("1"));
    stream.send("MODIFIED", &pod("a", 15));
    rig.reach("15").await;
    assert_eq!(rig.told(), ["a@1>a@15"]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_list_is_tried_again_with_growing_waits() {
    let mut rig = Rig::new();
    let mut gaps = Vec::new();
    let mut last = tokio::time::Instant::now();
    for _ in 0..6 {
        let call = rig.call().await;
        gaps.push(last.elapsed());
        last = tokio::time::Instant::now();
        call.fail(503, "ServiceUnavailable", "starting");
    }
    assert!(gaps[5] > gaps[1] * 4, "{gaps:?}");
    rig.call().await.bytes(StatusCode::OK, "{\"kind\":\"PodList\"");
    rig.call().await.list("10", &[pod("a", 1)]);
    timeout(Duration::from_secs(1), rig.pods.synced()).await.expect("synced");
    assert_eq!(rig.told(), ["+a@1"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_never_works_leads_to_a_new_list() {
    let mut rig = Rig::new();
    rig.call().await.list("10", &[]);
    let mut watches = 0;
    loop {
        let call = rig.call().await;
        if call.query("watch").is_none() {
            call.list("30", &[pod("a", 25)]);
            break;
        }
        watches += 1;
        assert!(watches < 20, "keeps watching");
        call.fail(500, "InternalError", "too large resource version");
    }
    rig.reach("30").await;
    assert_eq!(rig.told(), ["+a@25"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_hangs_is_given_up() {
    let mut rig = Rig::new();
    rig.call().await.list("10", &[]);
    let hanging = rig.call().await.watch();
    let again = timeout(Duration::from_secs(700), rig.server.call()).await.expect("gives up");
    assert_eq!(again.query("resourceVersion"), Some("10"));
    drop(hanging);
}

#[tokio::test(start_paused = true)]
async fn a_late_handler_is_told_what_is_there() {
    let mut rig = Rig::new();
    rig.call().await.list("10", &[pod("b", 2), pod("a", 1)]);
    let _watch = rig.call().await.watch();
    rig.pods.synced().await;
    let late = Arc::new(Mutex::new(Vec::new()));
    let seen = late.clone();
    rig.pods.on_event(move |change| seen.lock().push(describe(change)));
    assert_eq!(*late.lock(), ["+a@1", "+b@2"]);
}

#[tokio::test(start_paused = true)]
async fn an_informer_that_ended_holds_nobody() {
    let rig = Rig::new();
    let controller = Arc::new(rig.pods.clone());
    let weak = Arc::downgrade(&controller);
    rig.pods.on_event(move |_| assert!(!controller.is_empty()));
    assert!(weak.upgrade().is_some());
    rig.shutdown.cancel();
    rig.informers.stopped().await;
    assert!(weak.upgrade().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_harms_nobody() {
    let mut rig = Rig::new();
    rig.pods.on_event(|change| assert!(!describe(change).starts_with("+a"), "panics on purpose"));
    rig.call().await.list("10", &[pod("a", 1)]);
    let stream = rig.call().await.watch();
    stream.send("ADDED", &pod("b", 11));
    rig.reach("11").await;
    assert_eq!(rig.told(), ["+a@1", "+b@11"]);
}

#[tokio::test]
async fn indexes_follow_every_change() {
    let (pods, feed) = Informer::<Pod>::by_hand();
    let node = |pod: &Pod| pod.spec.iter().filter_map(|spec| spec.node_name.clone()).collect::<Vec<_>>();
    let names = |value: &str| -> Vec<String> {
        pods.keys_by_index("node", value).into_iter().map(|key| key.name).collect()
    };
    let typed = |name, version| serde_json::from_value::<Pod>(pod(name, version)).unwrap();
    feed.put(&typed("a", 2));
    feed.put(&typed("b", 3));
    pods.add_index("node", node);
    pods.add_index("node", |_| panic!("a second index of that name is not used"));
    assert_eq!((names("node-0"), names("node-1")), (vec!["a".to_owned()], vec!["b".to_owned()]));
    feed.put(&typed("a", 5));
    feed.put(&typed("c", 7));
    assert_eq!((names("node-0"), names("node-1").join(",")), (vec![], "a,b,c".to_owned()));
    feed.delete(&typed("b", 9));
    assert_eq!(names("node-1").join(","), "a,c");
    assert_eq!(pods.by_index("node", "node-1").len(), 2);
    assert!(pods.by_index("other", "node-1").is_empty());
}

#[tokio::test]
async fn namespaces_are_listed_apart() {
    let (maps, feed) = Informer::<ConfigMap>::by_hand();
    for (namespace, name) in [("a", "x"), ("b", "y"), ("b", "z"), ("bc", "w")] {
        let mut map = ConfigMap::default();
        map.metadata.namespace = Some(namespace.into());
        map.metadata.name = Some(name.into());
        feed.put(&map);
    }
    let names: Vec<_> =
        maps.list_namespace("b").iter().map(|map| map.metadata.name.clone().unwrap()).collect();
    assert_eq!(names, ["y", "z"]);
    assert_eq!(maps.list().len(), 4);
    assert!(maps.list_namespace("none").is_empty());
}

#[tokio::test]
async fn typed_values_are_shared_while_recent_and_bounded() {
    let (pods, feed) = Informer::<Pod>::by_hand();
    let total = store::RECENT * 2;
    for number in 0..total {
        feed.put(&serde_json::from_value(pod(&format!("p{number}"), number as u64 + 1)).unwrap());
    }
    let first = pods.get(&key("p0")).unwrap();
    assert!(Arc::ptr_eq(&first, &pods.get(&key("p0")).unwrap()));
    for number in 1..total {
        assert!(pods.get(&key(&format!("p{number}"))).is_some());
    }
    // Driven out meanwhile: only our handle is left.
    assert_eq!(Arc::strong_count(&first), 1);
    assert_eq!(pods.list().len(), total);
}

#[tokio::test(start_paused = true)]
async fn one_kind_is_listed_once_for_all_who_ask() {
    let mut rig = Rig::new();
    let again = rig.informers.of::<Pod>();
    let scoped =
        rig.informers.scoped::<Pod>(Scope { fields: Some("spec.nodeName=n1".into()), ..Scope::default() });
    let mut paths = Vec::new();
    for _ in 0..2 {
        let call = rig.call().await;
        paths.push(call.uri.query().unwrap_or_default().to_owned());
        call.list("10", &[pod("a", 1)]);
    }
    paths.sort();
    assert_eq!(paths, ["fieldSelector=spec.nodeName%3Dn1&limit=500", "limit=500"]);
    timeout(Duration::from_secs(1), rig.informers.synced()).await.expect("both synced");
    assert!(again.contains(&key("a")) && scoped.contains(&key("a")));
}

#[tokio::test(start_paused = true)]
async fn a_server_whose_lists_are_always_too_old_is_asked_ever_more_seldom() {
    let mut rig = Rig::new();
    let mut gaps = Vec::new();
    let mut last = tokio::time::Instant::now();
    for _ in 0..8 {
        let list = rig.call().await;
        assert_eq!(list.query("watch"), None);
        gaps.push(last.elapsed());
        last = tokio::time::Instant::now();
        list.list("10", &[pod("a", 1)]);
        rig.call().await.fail(410, "Expired", "too old resource version");
    }
    assert!(gaps[7] > Duration::from_secs(1), "{gaps:?}");
    assert_eq!(rig.told(), ["+a@1"]);
}
