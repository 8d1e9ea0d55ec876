//! Metadata from whichever informer there is, against a server the test plays by hand.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::*;
use crate::testing::{Call, HandPlayedServer, WatchStream};
use crate::{Change, Informer, Shutdown};

fn deployment(name: &str, version: u64) -> Value {
    json!({"metadata": {"name": name, "namespace": "n", "uid": format!("uid-{name}"),
        "resourceVersion": version.to_string()}, "spec": {"replicas": version, "selector": {}, "template": {}}})
}

/// Its metadata can be read, the rest not.
fn bad(name: &str, version: u64) -> Value {
    let mut deployment = deployment(name, version);
    deployment["spec"]["replicas"] = json!("many");
    deployment
}

fn resource(version: &str) -> ResourcePath {
    ResourcePath { group: "apps".into(), version: version.into(), plural: "deployments".into() }
}

/// What somebody was told, in a few letters each: `+` and `-` as ever, `~` for a change.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    fn note(&self, sign: char, metadata: &ObjectMeta) {
        let (name, version) = (metadata.name.as_deref(), metadata.resource_version.as_deref());
        self.0.lock().push(format!("{sign}{}@{}", name.unwrap(), version.unwrap()));
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock())
    }
}

struct Rig {
    server: HandPlayedServer,
    informers: SharedInformers,
    shutdown: Shutdown,
}

impl Rig {
    fn new() -> Self {
        let (server, client) = HandPlayedServer::new();
        let shutdown = Shutdown::new();
        Self { server, informers: SharedInformers::new(client, shutdown.clone()), shutdown }
    }

    fn follow(&self, version: &str, served: &[&str]) -> (Follower, Told) {
        let told = Told::default();
        let seen = told.clone();
        let served: Vec<String> = served.iter().map(|it| (*it).to_owned()).collect();
        let follower = self.informers.follow_metadata(&resource(version), &served, move |change| {
            let sign = match change {
                MetadataChange::Added(_) => '+',
                MetadataChange::Modified(_) => '~',
                MetadataChange::Deleted(_) => '-',
            };
            seen.note(sign, change.metadata());
        });
        (follower, told)
    }

    fn typed(&self) -> (Informer<Deployment>, Told) {
        let (informer, told) = (self.informers.of::<Deployment>(), Told::default());
        let seen = told.clone();
        informer.on_event(move |change| {
            let sign = match change {
                Change::Added(_) => '+',
                Change::Modified { .. } => '~',
                Change::Deleted(_) => '-',
            };
            seen.note(sign, &change.object().metadata);
        });
        (informer, told)
    }

    async fn call(&mut self) -> Call {
        timeout(Duration::from_secs(120), self.server.call()).await.expect("a request")
    }

    /// Answers the next list, and the watch that follows it.
    async fn serve(&mut self, version: &str, items: &[Value]) -> WatchStream {
        let list = self.call().await;
        assert_eq!(list.query("watch"), None, "{list:?}");
        list.list(version, items);
        let watch = self.call().await;
        assert_eq!(watch.query("resourceVersion"), Some(version), "{watch:?}");
        watch.watch()
    }

    /// Waits until everything that can run has: time moves only then.
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    /// Nobody asks for anything for a while.
    async fn quiet(&mut self) {
        let asked = timeout(Duration::from_secs(200), self.server.call()).await;
        assert!(asked.is_err(), "{asked:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_runs_already_is_not_listed_again() {
    let mut rig = Rig::new();
    let (_, objects) = rig.typed();
    let stream = rig.serve("10", &[deployment("a", 1)]).await;
    // Whatever version is preferred: it shows the same objects.
    let (follower, told) = rig.follow("v2", &["v2", "v1"]);
    assert!(follower.is_synced());
    assert_eq!(told.take(), ["+a@1"]);
    stream.send("ADDED", &deployment("b", 11));
    stream.send("MODIFIED", &deployment("a", 12));
    stream.send("DELETED", &deployment("b", 13));
    rig.settle().await;
    assert_eq!(told.take(), ["+b@11", "~a@12", "-b@13"]);
    assert_eq!(objects.take(), ["+a@1", "+b@11", "~a@12", "-b@13"]);
    drop(follower);
    stream.send("MODIFIED", &deployment("a", 14));
    rig.settle().await;
    assert_eq!((told.take(), objects.take().join(",")), (vec![], "~a@14".to_owned()));
    // Nobody follows its metadata any more, but its type.
    rig.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn the_last_follower_ends_a_watch_that_nobody_else_needs() {
    let mut rig = Rig::new();
    let (follower, told) = rig.follow("v1", &["v1"]);
    let (second, told_second) = rig.follow("v1", &["v1"]);
    let list = rig.call().await;
    assert_eq!(list.uri.path(), "/apis/apps/v1/deployments");
    assert!(!follower.is_synced());
    list.list("10", &[deployment("a", 1), bad("b", 2)]);
    timeout(Duration::from_secs(1), follower.synced()).await.expect("synced");
    let stream = rig.call().await.watch();
    assert_eq!(
        (told.take(), told_second.take()),
        (vec!["+a@1".into(), "+b@2".into()], vec!["+a@1".into(), "+b@2".into()])
    );
    drop(follower);
    stream.send("DELETED", &bad("b", 11));
    rig.settle().await;
    assert_eq!((told.take(), told_second.take().join(",")), (vec![], "-b@11".to_owned()));
    // With the last of them the watch goes, and nobody waits for it.
    drop(second);
    timeout(Duration::from_secs(1), rig.informers.stopped()).await.expect("its task ends");
    timeout(Duration::from_secs(1), rig.informers.synced()).await.expect("nothing to wait for");
}

#[tokio::test(start_paused = true)]
async fn a_type_that_is_asked_for_later_takes_over() {
    let mut rig = Rig::new();
    let (follower, told) = rig.follow("v1", &["v1"]);
    let replaced = deployment("e", 5);
    let items = [deployment("a", 1), deployment("b", 2), deployment("d", 4), replaced.clone()];
    let stream = rig.serve("10", &items).await;
    rig.settle().await;
    assert_eq!(told.take(), ["+a@1", "+b@2", "+d@4", "+e@5"]);
    let (informer, objects) = rig.typed();
    // The other watch has ended: what it would say comes by the new one.
    stream.send("ADDED", &deployment("late", 11));
    let list = rig.call().await;
    assert_eq!((list.uri.path(), list.query("watch")), ("/apis/apps/v1/deployments", None));
    assert_eq!(told.take(), Vec::<String>::new());
    // Somebody who comes in between is told what the others know, once.
    let (_between, told_between) = rig.follow("v1", &["v1"]);
    assert_eq!(told_between.take(), ["+a@1", "+b@2", "+d@4", "+e@5"]);
    let mut successor = deployment("e", 14);
    successor["metadata"]["uid"] = json!("another");
    list.list("20", &[deployment("a", 1), deployment("b", 12), deployment("c", 13), successor]);
    let stream = rig.call().await.watch();
    let differs = ["~b@12", "+c@13", "-e@5", "+e@14", "-d@4"];
    assert_eq!(
        (told.take(), told_between.take()),
        (differs.map(String::from).to_vec(), differs.map(String::from).to_vec())
    );
    assert_eq!(objects.take(), ["+a@1", "+b@12", "+c@13", "+e@14"]);
    stream.send("MODIFIED", &deployment("a", 21));
    rig.settle().await;
    assert_eq!((told.take().join(","), objects.take().join(",")), ("~a@21".to_owned(), "~a@21".to_owned()));
    assert!(informer.is_synced() && follower.is_synced());
    // One informer is left, and asks for nothing more.
    assert_eq!(format!("{:?}", rig.informers), "SharedInformers { informers: 1 }");
    rig.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_first_list_is_served_by_the_one_that_takes_over() {
    let mut rig = Rig::new();
    let (follower, told) = rig.follow("v1", &["v1"]);
    let unanswered = rig.call().await;
    let everything = rig.informers.clone();
    let (early, _) =
        tokio::join!(async { timeout(Duration::from_secs(60), everything.synced()).await }, async {
            let (informer, _) = rig.typed();
            drop(unanswered);
            let _stream = rig.serve("10", &[deployment("a", 1)]).await;
            timeout(Duration::from_secs(1), informer.synced()).await.expect("synced");
        });
    early.expect("whoever waited for the one that ended waits no longer");
    timeout(Duration::from_secs(1), follower.synced()).await.expect("synced");
    assert_eq!(told.take(), ["+a@1"]);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_not_served_tells_nothing() {
    let mut rig = Rig::new();
    let (_, objects) = rig.typed();
    rig.call().await.fail(404, "NotFound", "the server could not find the requested resource");
    let (_follower, told) = rig.follow("v2", &["v2", "v2beta1"]);
    loop {
        let call = rig.call().await;
        if call.uri.path() == "/apis/apps/v2/deployments" {
            call.list("10", &[deployment("a", 1)]);
            break;
        }
        call.fail(404, "NotFound", "the server could not find the requested resource");
    }
    rig.settle().await;
    assert_eq!((told.take().join(","), objects.take()), ("+a@1".to_owned(), vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_taken_away_is_left_for_one_that_is_served() {
    let mut rig = Rig::new();
    let (_first, told) = rig.follow("v1beta1", &["v1beta1", "v2"]);
    let _stream = rig.serve("10", &[deployment("a", 1), deployment("b", 2)]).await;
    rig.settle().await;
    assert_eq!(told.take(), ["+a@1", "+b@2"]);
    let (_second, told_second) = rig.follow("v2", &["v2"]);
    assert_eq!(told_second.take(), ["+a@1", "+b@2"]);
    let list = rig.call().await;
    assert_eq!(list.uri.path(), "/apis/apps/v2/deployments");
    list.list("20", &[deployment("a", 1), deployment("b", 15)]);
    rig.settle().await;
    assert_eq!((told.take(), told_second.take()), (vec!["~b@15".to_owned()], vec!["~b@15".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn an_informer_that_runs_is_told_apart_from_what_followers_know() {
    let mut rig = Rig::new();
    let (informer, _) = rig.typed();
    // At first the type's own version is not among those that are served, then it is the only one.
    let (_follower, told) = rig.follow("v2", &["v2"]);
    let mut streams = Vec::new();
    for _ in 0..2 {
        let call = rig.call().await;
        let (version, items) = match call.uri.path() {
            "/apis/apps/v1/deployments" => {
                ("20", vec![deployment("a", 1), deployment("b", 12), deployment("d", 13), bad("e", 5)])
            }
            _ => ("10", vec![deployment("a", 1), deployment("b", 2), deployment("c", 3), bad("e", 5)]),
        };
        call.list(version, &items);
    }
    for _ in 0..2 {
        streams.push(rig.call().await.watch());
    }
    timeout(Duration::from_secs(1), informer.synced()).await.expect("synced");
    assert_eq!(told.take(), ["+a@1", "+b@2", "+c@3", "+e@5"]);
    let (_second, told_second) = rig.follow("v1", &["v1"]);
    assert_eq!(told.take(), ["~b@12", "+d@13", "-c@3"]);
    assert_eq!(told_second.take(), ["+a@1", "+b@12", "+d@13", "+e@5"]);
    assert_eq!(format!("{:?}", rig.informers), "SharedInformers { informers: 1 }");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_of_the_type_is_still_there() {
    let mut rig = Rig::new();
    let (informer, objects) = rig.typed();
    let (_follower, told) = rig.follow("v1", &["v1"]);
    let stream = rig.serve("10", &[deployment("a", 1), bad("b", 2), bad("c", 3)]).await;
    rig.settle().await;
    assert_eq!((told.take().join(","), objects.take().join(",")), ("+a@1,+b@2,+c@3".into(), "+a@1".into()));
    stream.send("MODIFIED", &bad("a", 11));
    stream.send("MODIFIED", &bad("a", 10));
    stream.send("MODIFIED", &deployment("b", 12));
    stream.send("DELETED", &bad("c", 13));
    rig.settle().await;
    assert_eq!(
        (told.take().join(","), objects.take().join(",")),
        ("~a@11,~b@12,-c@13".into(), "+b@12".into())
    );
    // The last state that made sense stays for those who need the type.
    assert_eq!(
        informer.get(&ObjectKey::new("n", "a")).unwrap().metadata.resource_version.as_deref(),
        Some("1")
    );
    let (_late, told_late) = rig.follow("v1", &["v1"]);
    let mut known = told_late.take();
    known.sort();
    assert_eq!(known, ["+a@11", "+b@12"]);
    stream.send("DELETED", &bad("a", 14));
    rig.settle().await;
    assert_eq!((told.take().join(","), objects.take().join(",")), ("-a@14".into(), "-a@1".into()));
}

#[tokio::test(start_paused = true)]
async fn breaks_of_the_watch_are_bridged_for_everybody() {
    let mut rig = Rig::new();
    let (_, objects) = rig.typed();
    let (_follower, told) = rig.follow("v1", &["v1"]);
    let stream = rig.serve("10", &[deployment("a", 1), deployment("b", 2)]).await;
    rig.settle().await;
    stream.send("ERROR", &json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}));
    let _stream = rig.serve("20", &[deployment("a", 1), deployment("c", 15)]).await;
    rig.settle().await;
    let expected = ["+a@1", "+b@2", "+c@15", "-b@2"];
    assert_eq!(
        (told.take(), objects.take()),
        (expected.map(String::from).to_vec(), expected.map(String::from).to_vec())
    );
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_panics_harms_nobody() {
    let mut rig = Rig::new();
    let (_, objects) = rig.typed();
    let _bad = rig.informers.follow_metadata(&resource("v1"), &[], |_| panic!("on purpose"));
    let (_follower, told) = rig.follow("v1", &["v1"]);
    let _stream = rig.serve("10", &[deployment("a", 1)]).await;
    rig.settle().await;
    assert_eq!((told.take().join(","), objects.take().join(",")), ("+a@1".into(), "+a@1".into()));
}

#[tokio::test(start_paused = true)]
async fn followers_that_hold_themselves_end_with_their_informer() {
    let rig = Rig::new();
    let mut kept = Vec::new();
    for typed_first in [true, false] {
        let holder: Arc<Mutex<Option<Follower>>> = Arc::default();
        let held = holder.clone();
        if typed_first {
            rig.typed();
        }
        let path = ResourcePath {
            plural: if typed_first { "deployments" } else { "widgets" }.into(),
            ..resource("v1")
        };
        let follower = rig.informers.follow_metadata(&path, &[], move |_| assert!(held.lock().is_none()));
        kept.push(Arc::downgrade(&holder));
        *holder.lock() = Some(follower);
    }
    assert!(kept.iter().all(|it| it.upgrade().is_some()));
    rig.shutdown.cancel();
    timeout(Duration::from_secs(1), rig.informers.stopped()).await.expect("its tasks end");
    assert!(kept.iter().all(|it| it.upgrade().is_none()));
    // Whoever comes too late is told nothing and kept by nobody.
    let holder: Arc<()> = Arc::default();
    let held = holder.clone();
    let _follower = rig.informers.follow_metadata(&resource("v1"), &[], move |_| drop(held.clone()));
    assert_eq!(Arc::strong_count(&holder), 1);
}
