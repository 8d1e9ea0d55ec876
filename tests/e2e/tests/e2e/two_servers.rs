//! Two API servers on one etcd, each a process of its own, spoken to over TLS on both sides: to clients they are one API.
//!
//! Debian's etcd on loopback with its own data directory. No controllers run.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Service};
use podium_client::kube::api::{DeleteParams, ListParams, PostParams, VersionMatch, WatchEvent, WatchParams};
use podium_client::kube::{self, Api, Client, Error, ResourceExt};
use podium_testkit::{Cluster, Kubectl};
use serde_json::{Value, json};

use crate::LIMIT;
use crate::etcd::{EtcdServer, certificates};
use crate::process::Process;

/// Ports for Services of type NodePort: few, so that servers that did not agree would soon give one twice.
const NODE_PORTS: std::ops::RangeInclusive<i32> = 30100..=30129;
/// How long events are kept here: longer than a busy machine takes to read what it has just written.
const EVENT_TTL: &str = "5s";

/// An API server; killed when dropped.
pub(crate) struct Server {
    process: Process,
    pub(crate) client: Client,
}

impl Server {
    /// Starts a server in its own data directory and waits until it is ready.
    pub(crate) async fn start(etcd: Option<&EtcdServer>, directory: PathBuf) -> Server {
        let ports = format!("{}-{}", NODE_PORTS.start(), NODE_PORTS.end());
        let port = podium_testkit::free_port().expect("a free port").to_string();
        let mut process = Process::start(directory.clone(), |command| {
            command
                .args(["server", "--bind-address", "127.0.0.1", "--advertise-address", "192.0.2.10"])
                .args(["--port", &port])
                .args(["--service-node-port-range", &ports, "--service-cluster-ip-range", "10.96.0.0/26"])
                .args(["--event-ttl", EVENT_TTL])
                .arg("--data-dir")
                .arg(&directory);
            if let Some(etcd) = etcd {
                command.args(etcd_flags(etcd));
            }
        });
        let kubeconfig = directory.join("kubeconfig");
        let started = std::time::Instant::now();
        let client = loop {
            let answer = async {
                let client =
                    podium_client::from_kubeconfig(&kubeconfig).await.map_err(|error| error.to_string())?;
                let request = http::Request::get("/readyz").body(Vec::new()).expect("a request");
                client.request_text(request).await.map_err(|error| error.to_string())?;
                Ok::<Client, String>(client)
            };
            match answer.await {
                Ok(client) => break client,
                Err(last) => {
                    let ended = process.child.try_wait().expect("looked at");
                    assert!(
                        ended.is_none() && started.elapsed() < LIMIT,
                        "the server is not ready ({ended:?}, {last}):\n{}",
                        process.log()
                    );
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        };
        Server { process, client }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    /// How an administrator reaches it.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.process.directory.join("kubeconfig")
    }

    pub(crate) fn kubectl(&self) -> Kubectl {
        Kubectl::new(&self.kubeconfig())
    }

    /// Ends it as a power cut would.
    fn kill(&mut self) {
        self.process.kill();
    }
}

/// How `podium` is told of an etcd.
fn etcd_flags(etcd: &EtcdServer) -> Vec<OsString> {
    let mut flags: Vec<OsString> = vec!["--etcd-servers".into(), etcd.url().into()];
    if let Some(files) = etcd.files() {
        for (flag, path) in [
            ("--etcd-cafile", &files.ca),
            ("--etcd-certfile", &files.client.0),
            ("--etcd-keyfile", &files.client.1),
        ] {
            flags.extend([flag.into(), path.into()]);
        }
    }
    flags
}

/// An etcd with TLS and two servers on it, which share keys and certificates as two control plane machines do.
struct Pair {
    first: Server,
    second: Server,
    etcd: EtcdServer,
    _directory: tempfile::TempDir,
}

impl Pair {
    async fn start() -> Option<Pair> {
        if !Cluster::available() || !Kubectl::available() {
            return None;
        }
        let directory = tempfile::tempdir().expect("a directory");
        let etcd = EtcdServer::start_with(Some(certificates(directory.path())));
        let first = Server::start(Some(&etcd), directory.path().join("first")).await;
        let to = directory.path().join("second");
        copy(&first.process.directory.join("pki"), &to.join("pki"));
        let second = Server::start(Some(&etcd), to).await;
        Some(Pair { first, second, etcd, _directory: directory })
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("listed") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("its type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"n": "0"}})).expect("a ConfigMap")
}

fn node_port(name: &str) -> Service {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"type": "NodePort", "selector": {"app": "x"}, "ports": [{"port": 80}]},
    }))
    .expect("a Service")
}

fn version(object: &impl ResourceExt) -> String {
    object.resource_version().expect("a stored object has a version")
}

fn data(map: &ConfigMap) -> u64 {
    map.data.as_ref().and_then(|data| data["n"].parse().ok()).expect("a number")
}

fn code(error: &Error) -> u16 {
    match error {
        Error::Api(status) => status.code,
        _ => 0,
    }
}

/// The next `count` events of a watch: kind, name and version of each.
async fn events(
    stream: &mut (impl Stream<Item = kube::Result<WatchEvent<ConfigMap>>> + Unpin),
    count: usize,
) -> Vec<(&'static str, String, String)> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let next = tokio::time::timeout(LIMIT, stream.next()).await;
        let event = next.unwrap_or_else(|_| panic!("no event after {seen:?}")).expect("the watch goes on");
        let (kind, map) = match event.expect("an event") {
            WatchEvent::Added(map) => ("added", map),
            WatchEvent::Modified(map) => ("modified", map),
            WatchEvent::Deleted(map) => ("deleted", map),
            WatchEvent::Bookmark(_) => continue,
            WatchEvent::Error(status) => panic!("{status:?} after {seen:?}"),
        };
        seen.push((kind, map.name_any(), version(&map)));
    }
    seen
}

/// Adds one to a ConfigMap's number, as often as it takes to do so without losing anybody else's. Returns how often others
/// came between.
async fn increment(maps: &Api<ConfigMap>, name: &str) -> usize {
    let mut conflicts = 0;
    loop {
        let mut map = maps.get(name).await.expect("read");
        let next = data(&map) + 1;
        map.data = Some(BTreeMap::from([("n".to_owned(), next.to_string())]));
        match maps.replace(name, &PostParams::default(), &map).await {
            Ok(_) => return conflicts,
            Err(error) if code(&error) == 409 => conflicts += 1,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_see_what_the_other_wrote() {
    let Some(pair) = Pair::start().await else { return };
    let (here, there): (Api<ConfigMap>, Api<ConfigMap>) = (pair.first.api(), pair.second.api());
    let (parameters, all) = (PostParams::default(), ListParams::default().labels("round"));
    for round in 0..40 {
        let (writer, reader) = if round % 2 == 0 { (&here, &there) } else { (&there, &here) };
        let name = format!("read-{round}");
        let mut map = config_map(&name);
        map.labels_mut().insert("round".to_owned(), round.to_string());
        let created = writer.create(&parameters, &map).await.expect("created");
        let mut read = reader.get(&name).await.expect("read at once");
        assert_eq!(version(&read), version(&created));
        let listed = reader.list(&all).await.expect("listed");
        assert_eq!(listed.items.len(), round + 1, "{name}");
        read.data = Some(BTreeMap::from([("n".to_owned(), "1".to_owned())]));
        let updated = reader.replace(&name, &parameters, &read).await.expect("updated");
        assert_eq!(version(&writer.get(&name).await.expect("read")), version(&updated));
        let stale = writer.replace(&name, &parameters, &created).await.expect_err("it has changed");
        assert_eq!(code(&stale), 409, "{stale}");
    }
    here.delete("read-0", &DeleteParams::default()).await.expect("deleted");
    assert_eq!(code(&there.get("read-0").await.expect_err("it is gone")), 404);
    let names = pair.second.kubectl().get("configmaps -l round", "{.items[*].metadata.name}");
    assert_eq!(names.split_whitespace().count(), 39, "{names}");
}

#[tokio::test(flavor = "multi_thread")]
async fn increments_through_both_are_all_counted() {
    let Some(pair) = Pair::start().await else { return };
    const EACH: usize = 25;
    pair.first.api().create(&PostParams::default(), &config_map("counter")).await.expect("created");
    let tasks: Vec<_> = (0..8)
        .map(|number| {
            let maps: Api<ConfigMap> = if number % 2 == 0 { pair.first.api() } else { pair.second.api() };
            tokio::spawn(async move {
                let mut conflicts = 0;
                for _ in 0..EACH {
                    conflicts += increment(&maps, "counter").await;
                }
                conflicts
            })
        })
        .collect();
    let mut conflicts = 0;
    for task in tasks {
        conflicts += task.await.expect("all are done");
    }
    assert!(conflicts > 0, "nobody came between: this shows nothing");
    for server in [&pair.first, &pair.second] {
        assert_eq!(data(&server.api().get("counter").await.expect("read")), 8 * EACH as u64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_and_ports_are_given_once() {
    let Some(pair) = Pair::start().await else { return };
    let ports = NODE_PORTS.count();
    let creations = (0..ports).map(|number| {
        let services: Api<Service> = if number % 2 == 0 { pair.first.api() } else { pair.second.api() };
        tokio::spawn(async move {
            services.create(&PostParams::default(), &node_port(&format!("s{number}"))).await
        })
    });
    let creations: Vec<_> = creations.collect();
    let (mut addresses, mut given) = (BTreeSet::new(), BTreeSet::new());
    for creation in creations {
        let service = creation.await.expect("done").expect("there are as many ports as Services");
        let spec = service.spec.expect("a spec");
        let address = spec.cluster_ip.expect("an address");
        assert!(addresses.insert(address.clone()), "{address} was given twice");
        let port = spec.ports.expect("ports")[0].node_port.expect("a node port");
        assert!(NODE_PORTS.contains(&port) && given.insert(port), "{port} was given twice");
    }
    for server in [&pair.first, &pair.second] {
        let services: Api<Service> = server.api();
        let refused =
            services.create(&PostParams::default(), &node_port("more")).await.expect_err("none is left");
        assert!(refused.to_string().contains("range is full"), "{refused}");
    }
    // What one gives back the other can give.
    pair.first.api::<Service>().delete("s0", &DeleteParams::default()).await.expect("deleted");
    let again = pair.second.api::<Service>().create(&PostParams::default(), &node_port("more")).await;
    again.expect("a port was given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_at_the_other() {
    let Some(pair) = Pair::start().await else { return };
    let maps: Api<ConfigMap> = pair.first.api();
    let others: Api<ConfigMap> = pair.second.api();
    let start = maps.list(&ListParams::default()).await.expect("listed").metadata.resource_version;
    let start = start.expect("a list has a version");
    let mut expected = Vec::new();
    for number in 0..20 {
        let writer = if number % 3 == 0 { &others } else { &maps };
        let name = format!("watched-{number}");
        let created = writer.create(&PostParams::default(), &config_map(&name)).await.expect("created");
        expected.push(("added", name, version(&created)));
    }
    let parameters = WatchParams::default();
    let mut here = Box::pin(maps.watch(&parameters, &start).await.expect("watched"));
    let before = events(&mut here, 7).await;
    assert_eq!(before, expected[..7]);
    drop(here);
    let mut there = Box::pin(others.watch(&parameters, &before[6].2).await.expect("watched"));
    assert_eq!(events(&mut there, 13).await, expected[7..], "no gap, nothing twice");
    // And what happens from now on is told, whoever does it.
    maps.delete("watched-0", &DeleteParams::default()).await.expect("deleted");
    let (kind, name, _) = events(&mut there, 1).await.remove(0);
    assert_eq!((kind, name.as_str()), ("deleted", "watched-0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_expire_at_both() {
    let Some(pair) = Pair::start().await else { return };
    let event: Event = serde_json::from_value(json!({
        "metadata": {"name": "short"}, "reason": "Tested", "message": "it does not stay", "type": "Normal",
        "involvedObject": {"kind": "ConfigMap", "namespace": "default", "name": "x"},
    }))
    .expect("an Event");
    let there: Api<Event> = pair.second.api();
    let from = there.list(&ListParams::default()).await.expect("listed").metadata.resource_version;
    pair.first.api().create(&PostParams::default(), &event).await.expect("created");
    there.get("short").await.expect("it is there at first");
    let watch = there.watch(&WatchParams::default(), &from.expect("a version")).await.expect("watched");
    let ended = async {
        let mut watch = Box::pin(watch);
        while let Some(event) = watch.next().await {
            match event.expect("an event") {
                WatchEvent::Deleted(event) if event.name_any() == "short" => return,
                _ => {}
            }
        }
        panic!("the watch ended first");
    };
    tokio::time::timeout(LIMIT, ended).await.expect("the event expires");
    for server in [&pair.first, &pair.second] {
        assert_eq!(code(&server.api::<Event>().get("short").await.expect_err("it has expired")), 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_restarts_under_both() {
    let Some(mut pair) = Pair::start().await else { return };
    let before = pair.first.api::<ConfigMap>().list(&ListParams::default()).await.expect("listed");
    let start = before.metadata.resource_version.expect("a version");
    let (first, second): (Api<ConfigMap>, Api<ConfigMap>) = (pair.first.api(), pair.second.api());
    let parameters = WatchParams::default();
    let mut watches = Vec::new();
    for maps in [&first, &second] {
        watches.push(Box::pin(maps.watch(&parameters, &start).await.expect("watched")));
    }
    pair.etcd.kill();
    pair.etcd.run();
    let mut expected = Vec::new();
    for (name, maps) in [("after-1", &first), ("after-2", &second)] {
        let created = created_at_last(maps, name).await;
        expected.push(("added", name.to_owned(), version(&created)));
    }
    for watch in &mut watches {
        assert_eq!(events(watch, 2).await, expected);
    }
    assert_eq!(version(&second.get("after-1").await.expect("read")), expected[0].2);
}

/// Creates an object though etcd may still be starting.
async fn created_at_last(maps: &Api<ConfigMap>, name: &str) -> ConfigMap {
    let tries = async {
        loop {
            match maps.create(&PostParams::default(), &config_map(name)).await {
                Ok(created) => return created,
                // An attempt that was said to have failed may have been made.
                Err(error) if code(&error) == 409 => return maps.get(name).await.expect("it is there"),
                Err(error) => assert!(code(&error) >= 500, "{error}"),
            }
        }
    };
    tokio::time::timeout(LIMIT, tries).await.expect("etcd takes it at last")
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_one_leaves_the_other_alone() {
    let Some(mut pair) = Pair::start().await else { return };
    let maps: Api<ConfigMap> = pair.second.api();
    for number in 0..30 {
        let mut map = config_map(&format!("page-{number}"));
        map.labels_mut().insert("page".to_owned(), "x".to_owned());
        maps.create(&PostParams::default(), &map).await.expect("created");
    }
    let start = maps.list(&ListParams::default()).await.expect("listed").metadata.resource_version;
    let parameters = WatchParams::default();
    let mut watch = Box::pin(maps.watch(&parameters, &start.expect("a version")).await.expect("watched"));
    let pages = ListParams::default().labels("page").limit(10);
    let page = pair.first.api::<ConfigMap>().list(&pages).await.expect("a page");
    let exact = page.metadata.resource_version.clone().expect("a version");
    let next = page.metadata.continue_.clone().expect("there is more");
    let last = pair.first.api().create(&PostParams::default(), &config_map("last")).await.expect("created");
    pair.first.kill();
    let own = maps.create(&PostParams::default(), &config_map("own")).await.expect("created");
    let expected =
        [("last", &last), ("own", &own)].map(|(name, map)| ("added", name.to_owned(), version(map)));
    assert_eq!(events(&mut watch, 2).await, expected);
    // One more takes its place, with the same keys, and knows everything.
    let again = Server::start(Some(&pair.etcd), pair.first.process.directory.clone()).await;
    let seen: Value =
        serde_json::from_str(&again.kubectl().run("get configmap own -o json").ok()).expect("JSON");
    assert_eq!(seen["metadata"]["resourceVersion"], json!(version(&own)));
    // It was not there when that page was read, so only etcd can go on with it.
    let maps: Api<ConfigMap> = again.api();
    maps.delete(&page.items[0].name_any(), &DeleteParams::default()).await.expect("deleted");
    let rest = maps.list(&pages.clone().limit(100).continue_token(&next)).await.expect("the token survives");
    assert_eq!(
        (page.items.len() + rest.items.len(), rest.metadata.resource_version.as_ref()),
        (30, Some(&exact))
    );
    let then = ListParams::default().labels("page").at(&exact).matching(VersionMatch::Exact);
    let whole = maps.list(&then).await.expect("the past is read");
    let names = |maps: &[ConfigMap]| maps.iter().map(ResourceExt::name_any).collect::<Vec<_>>();
    assert_eq!(names(&whole.items), [names(&page.items), names(&rest.items)].concat());
}

/// Runs `podium store`; what it printed.
fn store(verb: &str, file: &Path, flags: &[OsString]) -> Result<String, String> {
    let binary = std::env::var_os(podium_testkit::cluster::BINARY).expect("looked for before");
    let output = Command::new(binary).args(["store", verb]).arg(file).args(flags).output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_moves_to_etcd_and_back() {
    if !Cluster::available() || !Kubectl::available() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let etcd = EtcdServer::start_with(Some(certificates(directory.path())));
    let (here, back) = (directory.path().join("here"), directory.path().join("back"));
    let file = |name: &str| directory.path().join(name);
    let data = |path: &Path| [OsString::from("--data-dir"), path.into()];
    let map = config_map("moved");

    let mut server = Server::start(None, here.clone()).await;
    let created = server.api().create(&PostParams::default(), &map).await.expect("created");
    let service = server.api().create(&PostParams::default(), &node_port("moved")).await.expect("created");
    let refused = store("export", &file("log"), &data(&here)).expect_err("the server has it open");
    assert!(refused.contains("in use by another process"), "{refused}");
    server.kill();
    store("export", &file("log"), &data(&here)).expect("exported");
    store("import", &file("log"), &etcd_flags(&etcd)).expect("imported");
    let refused = store("import", &file("log"), &etcd_flags(&etcd)).expect_err("something is there");
    assert!(refused.contains("the store is not empty"), "{refused}");

    let mut server = Server::start(Some(&etcd), here.clone()).await;
    let there: ConfigMap = server.api().get("moved").await.expect("it came along");
    assert_eq!((there.metadata.uid.as_ref(), &there.data), (created.metadata.uid.as_ref(), &created.data));
    let stale = server.api().replace("moved", &PostParams::default(), &created).await;
    assert_eq!(code(&stale.expect_err("versions are etcd's now")), 409);
    let second: Service = server.api().get("moved").await.expect("it came along");
    assert_eq!(second.spec, service.spec);
    server.kill();

    store("export", &file("etcd"), &etcd_flags(&etcd)).expect("exported");
    copy(&here.join("pki"), &back.join("pki"));
    store("import", &file("etcd"), &data(&back)).expect("imported");
    let server = Server::start(None, back).await;
    let last: ConfigMap = server.api().get("moved").await.expect("it came back");
    assert_eq!(version(&last), version(&there), "the log goes on with etcd's versions");
}
