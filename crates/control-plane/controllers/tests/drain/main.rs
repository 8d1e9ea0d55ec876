//! Many drains of one budget at once, through two API servers over one store: never are more pods disrupted than it allows.
//!
//! Deployment, ReplicaSet and disruption controller are the real ones; a task stands in for kubelets and makes pods ready. The
//! workload is scaled up meanwhile. What counts is the order in which the store saw it: a watch is told every state of every pod.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{EvictParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use podium_client::{Api, Client, SharedInformers, Shutdown, SingleClient, status_of};
use podium_controllers::{Config, Settings};
use podium_store::Store;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

#[path = "../../../apiserver/tests/api/support.rs"]
mod support;

use support::Server;

/// What the budget asks for.
const HEALTHY: usize = 8;
/// Before and after the scaling.
const REPLICAS: [usize; 3] = [12, 15, 18];
/// Drains at once, half of them through each server.
const DRAINS: usize = 8;
/// Pods that are evicted in all.
const EVICTIONS: usize = 60;
const LIMIT: Duration = Duration::from_secs(120);

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("an object of this kind")
}

fn is_healthy(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().any(|it| it.type_ == "Ready" && it.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

fn name(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

/// Makes every new pod run, and then ready.
async fn play_kubelet(client: Client) {
    let pods: Api<Pod> = Api::default_namespaced(client);
    let mut events = events(&pods).await;
    while let Some(event) = events.try_next().await.expect("a watch") {
        let WatchEvent::Added(pod) = event else { continue };
        let status =
            json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        match pods.patch_status(&name(&pod), &PatchParams::default(), &Patch::Merge(status)).await {
            Ok(_) => {}
            Err(error) => assert_eq!(status_of(&error).map(|it| it.code), Some(404), "{error}"),
        }
    }
}

type Events = futures::stream::BoxStream<'static, kube::Result<WatchEvent<Pod>>>;

/// All pods as events, and what happens from then on.
async fn events(pods: &Api<Pod>) -> Events {
    let list = pods.list(&ListParams::default()).await.expect("a list");
    let version = list.metadata.resource_version.expect("a version");
    let known = futures::stream::iter(list.items.into_iter().map(|pod| Ok(WatchEvent::Added(pod))));
    let params = WatchParams::default().timeout(290);
    let more = pods.watch(&params, &version).await.expect("a watch");
    known.chain(more).boxed()
}

/// What the observer has seen.
#[derive(Default)]
struct Seen {
    /// The fewest healthy pods since there were enough.
    fewest: AtomicUsize,
    armed: AtomicBool,
}

/// Follows all pods, tells how many are healthy after each event, and keeps the least.
async fn observe(client: Client, seen: Arc<Seen>, healthy: watch::Sender<usize>) {
    let pods: Api<Pod> = Api::default_namespaced(client);
    let mut events = events(&pods).await;
    let mut up = HashSet::new();
    while let Some(event) = events.try_next().await.expect("a watch") {
        match event {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) if is_healthy(&pod) => {
                up.insert(name(&pod));
            }
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) | WatchEvent::Deleted(pod) => {
                up.remove(&name(&pod));
            }
            WatchEvent::Bookmark(_) => continue,
            WatchEvent::Error(error) => panic!("{error:?}"),
        }
        if seen.armed.load(Ordering::SeqCst) {
            seen.fewest.fetch_min(up.len(), Ordering::SeqCst);
        }
        healthy.send_replace(up.len());
    }
}

/// Tells of every change of the budget: what it allows follows the pods a moment later.
async fn follow_budget(client: Client, told: watch::Sender<u64>) {
    let budgets: Api<PodDisruptionBudget> = Api::default_namespaced(client);
    let list = budgets.list(&ListParams::default()).await.expect("a list");
    let version = list.metadata.resource_version.expect("a version");
    let params = WatchParams::default().timeout(290);
    let mut events = budgets.watch(&params, &version).await.expect("a watch").boxed();
    while events.try_next().await.expect("a watch").is_some() {
        told.send_modify(|count| *count += 1);
    }
}

/// Evicts one pod after the other until enough have gone.
async fn drain(client: Client, turn: usize, gone: Arc<AtomicUsize>, mut budget: watch::Receiver<u64>) {
    let pods: Api<Pod> = Api::default_namespaced(client);
    let mut round = turn;
    while gone.load(Ordering::SeqCst) < EVICTIONS {
        budget.borrow_and_update();
        let list = pods.list(&ListParams::default()).await.expect("a list").items;
        let up: Vec<&Pod> = list.iter().filter(|pod| is_healthy(pod)).collect();
        round += 1;
        let Some(pod) = up.get(round % up.len().max(1)) else { continue };
        match pods.evict(&name(pod), &EvictParams::default()).await {
            Ok(_) => {
                gone.fetch_add(1, Ordering::SeqCst);
            }
            Err(error) => {
                let status = status_of(&error).unwrap_or_else(|| panic!("no answer: {error}"));
                match status.code {
                    // Another drain had it.
                    404 => continue,
                    429 => {}
                    code => panic!("{code}: {}", status.message),
                }
                let cause = status.details.as_ref().and_then(|details| details.causes.first());
                assert_eq!(cause.map(|cause| cause.reason.as_str()), Some("DisruptionBudget"), "{error}");
                // Not before the budget has changed.
                if budget.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_budget_holds_under_many_drains_through_two_servers() {
    let store = Store::memory();
    let mut servers = Vec::new();
    for _ in 0..2 {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().to_owned();
        servers.push(Server::start_over(&path, Some(directory), store.clone(), 0, |_| {}).await);
    }
    let client = servers[0].admin();
    let stop = Shutdown::new();
    let informers = SharedInformers::new(client.clone(), stop.clone());
    let mut config = Config::new(Arc::new(SingleClient(client.clone())), informers, Settings::default());
    config.controllers = ["deployment-controller", "replicaset-controller", "disruption-controller"]
        .map(str::to_owned)
        .to_vec();
    let controllers = tokio::spawn(podium_controllers::run(config, stop.clone()));
    let seen = Arc::new(Seen { fewest: AtomicUsize::new(usize::MAX), ..Seen::default() });
    let (tell, mut healthy) = watch::channel(0);
    let (tell_budget, budget_changes) = watch::channel(0);
    let mut parts = JoinSet::new();
    parts.spawn(follow_budget(client.clone(), tell_budget));
    parts.spawn(play_kubelet(client.clone()));
    parts.spawn(observe(client.clone(), seen.clone(), tell));

    let labels = json!({"app": "web"});
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let deployment: Deployment = object(json!({"metadata": {"name": "web"}, "spec": {
        "replicas": REPLICAS[0], "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "none"}]}}}}));
    deployments.create(&PostParams::default(), &deployment).await.expect("a deployment");
    let budgets: Api<PodDisruptionBudget> = Api::default_namespaced(client.clone());
    let budget: PodDisruptionBudget = object(json!({"metadata": {"name": "web"}, "spec": {
        "minAvailable": HEALTHY, "selector": {"matchLabels": labels}}}));
    budgets.create(&PostParams::default(), &budget).await.expect("a budget");
    let all_up = async |healthy: &mut watch::Receiver<usize>, count: usize| {
        let wait = healthy.wait_for(|up| *up == count);
        // An observer that broke off has not seen it.
        let reached = matches!(tokio::time::timeout(LIMIT, wait).await, Ok(Ok(_)));
        assert!(reached, "{} of {count} pods are healthy", *healthy.borrow());
    };
    all_up(&mut healthy, REPLICAS[0]).await;

    seen.armed.store(true, Ordering::SeqCst);
    let gone = Arc::new(AtomicUsize::new(0));
    let mut drains = JoinSet::new();
    for turn in 0..DRAINS {
        let client = servers[turn % 2].admin();
        drains.spawn(drain(client, turn * 5, gone.clone(), budget_changes.clone()));
    }
    // Scaled twice while the drains are at it.
    for (part, replicas) in [(1, REPLICAS[1]), (2, REPLICAS[2])] {
        let wait = healthy.wait_for(|_| gone.load(Ordering::SeqCst) >= part * EVICTIONS / 3);
        let reached = matches!(tokio::time::timeout(LIMIT, wait).await, Ok(Ok(_)));
        assert!(reached, "{} evicted", gone.load(Ordering::SeqCst));
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        deployments.patch_scale("web", &PatchParams::default(), &patch).await.expect("scaled");
    }
    let ended = tokio::time::timeout(LIMIT, async {
        while let Some(ended) = drains.join_next().await {
            ended.expect("a drain");
        }
    });
    let ended = ended.await.is_ok();
    // A drain that is told of no more changes of the budget ends before its time.
    let evicted = gone.load(Ordering::SeqCst);
    assert!(ended && evicted >= EVICTIONS, "{evicted} of {EVICTIONS} evicted");
    all_up(&mut healthy, REPLICAS[2]).await;
    let fewest = seen.fewest.load(Ordering::SeqCst);
    assert!(fewest >= HEALTHY, "only {fewest} pods were healthy for a moment, of {HEALTHY} promised");
    assert!(fewest < REPLICAS[0], "nothing was disrupted, so nothing was tested");
    assert!(parts.try_join_next().is_none(), "a kubelet or an observer broke off");
    stop.cancel();
    controllers.await.expect("no panic").expect("no error");
    parts.abort_all();
    for server in servers {
        server.stop().await;
    }
}
