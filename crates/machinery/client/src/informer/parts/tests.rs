//! Parts cut from one watch, against a server the test plays by hand.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::*;
use crate::testing::{Call, HandPlayedServer};
use crate::{Change, Follower, Informer, MetadataChange, ResourcePath, SharedInformers, Shutdown};

fn map(namespace: &str, name: &str, version: u64) -> Value {
    json!({"metadata": {"name": name, "namespace": namespace, "uid": format!("{namespace}-{name}"),
        "resourceVersion": version.to_string()}, "data": {"version": version.to_string()}})
}

type Told = Arc<Mutex<Vec<String>>>;

fn take(told: &Told) -> String {
    std::mem::take(&mut *told.lock()).join(" ")
}

struct Rig {
    server: HandPlayedServer,
    informers: SharedInformers,
}

impl Rig {
    fn new() -> Self {
        let (server, client) = HandPlayedServer::new();
        let informers = SharedInformers::new(client, Shutdown::new());
        informers.cut_parts_from_wholes();
        Self { server, informers }
    }

    async fn call(&mut self) -> Call {
        let call = timeout(Duration::from_secs(120), self.server.call()).await.expect("a request");
        assert_eq!(call.uri.path(), "/api/v1/configmaps");
        assert_eq!((call.query("fieldSelector"), call.query("labelSelector")), (None, None));
        call
    }

    /// The ConfigMaps of that name in all namespaces.
    fn part(&self, name: &str) -> (Informer<ConfigMap>, Told) {
        let scope = Scope { fields: Some(format!("metadata.name={name}")), ..Scope::default() };
        let (part, told) = (self.informers.scoped::<ConfigMap>(scope), Told::default());
        let seen = told.clone();
        part.on_event(move |change| {
            let data = change.object().data.clone().unwrap_or_default();
            let sign = if matches!(change, Change::Deleted(_)) { '-' } else { '+' };
            let namespace = change.object().metadata.namespace.as_deref();
            seen.lock().push(format!("{sign}{}={}", namespace.unwrap(), data["version"]));
        });
        (part, told)
    }

    fn follow(&self) -> (Follower, Told) {
        let (path, told) = (
            ResourcePath { group: String::new(), version: "v1".into(), plural: "configmaps".into() },
            Told::default(),
        );
        let seen = told.clone();
        let follower = self.informers.follow_metadata(&path, &[], move |change| {
            let sign = if matches!(change, MetadataChange::Deleted(_)) { '-' } else { '+' };
            seen.lock().push(format!("{sign}{}", change.metadata().name.as_deref().unwrap()));
        });
        (follower, told)
    }

    /// Waits until everything that can run has: time moves only then.
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    async fn quiet(&mut self) {
        let asked = timeout(Duration::from_secs(200), self.server.call()).await;
        assert!(asked.is_err(), "{asked:?}");
    }
}

fn asks_for_metadata(call: &Call) -> bool {
    call.headers[http::header::ACCEPT].to_str().unwrap().contains("as=PartialObjectMetadata")
}

#[tokio::test(start_paused = true)]
async fn a_part_comes_from_the_watch_of_the_whole() {
    let mut rig = Rig::new();
    let (part, told) = rig.part("x");
    let (_follower, metadata) = rig.follow();
    let list = rig.call().await;
    assert!(!asks_for_metadata(&list));
    list.list("10", &[map("a", "x", 1), map("a", "y", 2)]);
    let watch = rig.call().await;
    assert!(!asks_for_metadata(&watch));
    let stream = watch.watch();
    timeout(Duration::from_secs(1), part.synced()).await.expect("synced");
    assert_eq!((take(&told), take(&metadata)), ("+a=1".into(), "+x +y".into()));
    stream.send("ADDED", &map("b", "x", 11));
    stream.send("MODIFIED", &map("a", "y", 12));
    stream.send("DELETED", &map("a", "x", 13));
    rig.settle().await;
    assert_eq!((take(&told), take(&metadata)), ("+b=11 -a=13".into(), "+x +y -x".into()));
    assert_eq!((part.keys(), part.resource_version()), (vec![ObjectKey::new("b", "x")], "13".into()));
    stream.bookmark("50");
    rig.settle().await;
    assert_eq!(part.resource_version(), "50");
    // What is lost with the watch is found by the next list, for the part too.
    drop(stream);
    rig.call().await.fail(410, "Expired", "too old");
    rig.call().await.list("60", &[map("a", "y", 12)]);
    let _stream = rig.call().await.watch();
    assert_eq!((take(&told), take(&metadata)), ("-b=11".into(), "-x".into()));
    rig.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_part_that_comes_later_has_the_whole_listed_again() {
    let mut rig = Rig::new();
    let (_follower, metadata) = rig.follow();
    let list = rig.call().await;
    assert!(asks_for_metadata(&list));
    // It comes between question and answer, then between list and watch.
    let (first, told_first) = rig.part("x");
    list.list("10", &[json!({"metadata": map("a", "x", 1)["metadata"]})]);
    let list = rig.call().await;
    assert_eq!((list.query("watch"), asks_for_metadata(&list)), (None, false));
    assert_eq!((take(&told_first), first.is_synced()), (String::new(), false));
    list.list("10", &[map("a", "x", 1), map("a", "y", 2)]);
    let _stream = rig.call().await.watch();
    assert_eq!((take(&told_first), take(&metadata)), ("+a=1".into(), "+x +y".into()));
    let (_second, told_second) = rig.part("y");
    rig.call().await.list("20", &[map("a", "x", 1), map("a", "y", 2)]);
    let stream = rig.call().await.watch();
    assert_eq!(
        (take(&told_first), take(&told_second), take(&metadata)),
        (String::new(), "+a=2".into(), String::new())
    );
    stream.send("MODIFIED", &map("a", "x", 21));
    rig.settle().await;
    assert_eq!(
        (take(&told_first), take(&told_second), take(&metadata)),
        ("+a=21".into(), String::new(), "+x".into())
    );
    rig.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_part_goes_with_whatever_follows_the_whole() {
    let mut rig = Rig::new();
    let (_part, told) = rig.part("x");
    let (follower, _) = rig.follow();
    rig.call().await.list("10", &[map("a", "x", 1)]);
    let _stream = rig.call().await.watch();
    rig.settle().await;
    assert_eq!(take(&told), "+a=1");
    // It is needed when nobody follows metadata any more, and when somebody needs all.
    drop(follower);
    let whole = rig.informers.of::<ConfigMap>();
    rig.call().await.list("20", &[map("a", "x", 11), map("a", "y", 12)]);
    let stream = rig.call().await.watch();
    timeout(Duration::from_secs(1), whole.synced()).await.expect("synced");
    assert_eq!((take(&told), whole.len()), ("+a=11".into(), 2));
    stream.send("DELETED", &map("a", "x", 21));
    rig.settle().await;
    assert_eq!(take(&told), "-a=21");
    timeout(Duration::from_secs(1), rig.informers.synced()).await.expect("nobody waits for what has ended");
    rig.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn nobody_is_sent_everything_for_a_part_alone() {
    let (mut server, client) = HandPlayedServer::new();
    let informers = SharedInformers::new(client, Shutdown::new());
    let scope = |labels: Option<&str>| Scope {
        fields: Some("metadata.name=x".into()),
        labels: labels.map(str::to_owned),
        ..Scope::default()
    };
    let _part = informers.scoped::<ConfigMap>(scope(None));
    let call = timeout(Duration::from_secs(1), server.call()).await.unwrap();
    assert_eq!(call.query("fieldSelector"), Some("metadata.name%3Dx"));
    // What takes more than a key to select, the server selects.
    informers.cut_parts_from_wholes();
    let _labelled = informers.scoped::<ConfigMap>(scope(Some("a=b")));
    let call = timeout(Duration::from_secs(1), server.call()).await.unwrap();
    assert_eq!(call.query("labelSelector"), Some("a%3Db"));
}

#[test]
fn selections() {
    let of = |namespace: Option<&str>, labels: Option<&str>, fields: Option<&str>| {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Selection::of(&Scope { namespace: owned(namespace), labels: owned(labels), fields: owned(fields) })
    };
    let has = |selection: Option<Selection>, namespace: &str, name: &str| {
        selection.unwrap().has(&ObjectKey::new(namespace, name))
    };
    assert!(has(of(Some("n"), None, None), "n", "x") && !has(of(Some("n"), None, None), "m", "x"));
    let named = || of(None, None, Some("metadata.name=kube-root-ca.crt"));
    assert!(has(named(), "n", "kube-root-ca.crt") && !has(named(), "n", "kube-root-ca"));
    let both = || of(Some("n"), None, Some("metadata.name=x"));
    assert!(has(both(), "n", "x") && !has(both(), "m", "x") && !has(both(), "n", "y"));
    let others = [
        (None, None, None),
        (Some("n"), Some("a=b"), None),
        (None, None, Some("spec.nodeName=n")),
        (None, None, Some("metadata.name!=x")),
        (None, None, Some("metadata.name==x")),
        (None, None, Some("metadata.name=x,spec.nodeName=n")),
    ];
    for (namespace, labels, fields) in others {
        assert_eq!(of(namespace, labels, fields), None, "{namespace:?} {labels:?} {fields:?}");
    }
}

#[test]
fn long_lists_wait_without_what_nobody_needs() {
    use crate::informer::{PartialObject, Store};
    let whole = Arc::new(Store::<PartialObject>::new("maps", true, None));
    let fan = Fan::new(whole);
    let item = |name: &str| Bytes::from(map("a", name, 1).to_string());
    let reduced = |name: &str| fan.condensed(item(name)).len() < item(name).len();
    fan.begin();
    assert!(fan.metadata_only() && !reduced("x"), "the server leaves it out");
    let selection = Selection::of(&Scope { fields: Some("metadata.name=x".into()), ..Scope::default() });
    fan.add(selection.unwrap(), Arc::new(Store::<ConfigMap>::new("parts", false, None)));
    assert!(fan.metadata_only(), "not before the next list");
    fan.begin();
    assert!(!fan.metadata_only() && reduced("y") && !reduced("x"));
}
