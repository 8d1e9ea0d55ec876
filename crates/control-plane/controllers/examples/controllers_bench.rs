//! How fast controllers are, and what they cost, seen from outside: against any cluster, ours or upstream's.
//!
//! `controllers_bench KUBECONFIG [--count N] [--pid PID]` creates N (10,000) Deployments of one replica, scales one Deployment
//! from 0 to N, deletes a namespace with N pods, and with `--pid`, the process that runs the controllers, leaves 5 N objects
//! alone for a while. The pods name a scheduler that does not exist: what is measured is controllers and API server.
//! The time is taken from the first request to the moment a watch has shown the last object.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use podium_client::{Client, Informer, Object, Scope, SharedInformers, Shutdown, from_kubeconfig};
use serde_json::json;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Requests at once: as many as a busy installer makes.
const AT_ONCE: usize = 64;
/// Longer is not slow but broken.
const LIMIT: Duration = Duration::from_secs(600);
/// How long idleness is watched.
const IDLE: Duration = Duration::from_secs(30);

struct Options {
    kubeconfig: String,
    count: usize,
    pid: Option<u32>,
}

fn options() -> Outcome<Options> {
    let mut options = Options { kubeconfig: String::new(), count: 10_000, pid: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--count" => options.count = value()?.parse()?,
            "--pid" => options.pid = Some(value()?.parse()?),
            _ => options.kubeconfig = argument,
        }
    }
    if options.kubeconfig.is_empty() { Err("a kubeconfig is needed".into()) } else { Ok(options) }
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let options = options()?;
    let bench = Bench { client: from_kubeconfig(&options.kubeconfig).await?, count: options.count };
    let count = options.count;
    bench.namespace("bench-many").await?;
    row(&format!("{count} deployments of one replica"), bench.many().await?, 30);
    row(&format!("that namespace deleted, {count} pods in it"), bench.empty("bench-many").await?, 10);
    bench.namespace("bench-one").await?;
    row(&format!("one deployment scaled from 0 to {count}"), bench.scale().await?, 5);
    row(&format!("its namespace deleted, {count} pods in it"), bench.empty("bench-one").await?, 10);
    if let Some(pid) = options.pid {
        bench.idle(pid).await?;
    }
    Ok(())
}

fn row(what: &str, took: Duration, wanted_seconds: u64) {
    println!("{what:<56} {:>8.2} s   wanted {wanted_seconds} s", took.as_secs_f64());
}

struct Bench {
    client: Client,
    count: usize,
}

/// A copy of one namespace's objects that can be waited for.
struct Watched<K> {
    objects: Informer<K>,
    changed: Arc<Notify>,
}

impl<K: Object> Watched<K> {
    async fn open(informers: &SharedInformers, namespace: &str) -> Self {
        let scope = Scope { namespace: Some(namespace.to_owned()), ..Scope::default() };
        let objects = informers.scoped::<K>(scope);
        let changed = Arc::new(Notify::new());
        let told = changed.clone();
        objects.on_event(move |_| told.notify_one());
        objects.synced().await;
        Self { objects, changed }
    }

    async fn reach(&self, count: usize) -> Outcome<()> {
        let wait = async {
            while self.objects.len() != count {
                self.changed.notified().await;
            }
        };
        let reached = tokio::time::timeout(LIMIT, wait).await;
        reached.map_err(|_| format!("{} of {count} after {LIMIT:?}", self.objects.len()).into())
    }
}

impl Bench {
    async fn namespace(&self, name: &str) -> Outcome<()> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        api.create(&PostParams::default(), &namespace).await?;
        Ok(())
    }

    fn deployment(name: &str, replicas: usize) -> Outcome<Deployment> {
        let labels = json!({"app": name});
        Ok(serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels},
                "spec": {"schedulerName": "nobody", "containers": [{"name": "main", "image": "none"}]}}},
        }))?)
    }

    /// Creates objects, [`AT_ONCE`] at a time.
    async fn create<K: Object + serde::Serialize>(&self, api: Api<K>, objects: Vec<K>) -> Outcome<()> {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let mut calls = JoinSet::new();
        for object in objects {
            let place = places.clone().acquire_owned().await?;
            let api = api.clone();
            calls.spawn(async move {
                let created = api.create(&PostParams::default(), &object).await;
                drop(place);
                created.map(drop)
            });
        }
        while let Some(call) = calls.join_next().await {
            call??;
        }
        Ok(())
    }

    async fn many(&self) -> Outcome<Duration> {
        let stop = Shutdown::new();
        let informers = SharedInformers::new(self.client.clone(), stop.clone());
        let pods = Watched::<Pod>::open(&informers, "bench-many").await;
        let sets = Watched::<ReplicaSet>::open(&informers, "bench-many").await;
        let deployments = (0..self.count)
            .map(|number| Self::deployment(&format!("web-{number}"), 1))
            .collect::<Outcome<Vec<_>>>()?;
        let started = Instant::now();
        self.create(Api::namespaced(self.client.clone(), "bench-many"), deployments).await?;
        println!("{:<56} {:>8.2} s", "  their creation alone", started.elapsed().as_secs_f64());
        sets.reach(self.count).await?;
        println!("{:<56} {:>8.2} s", "  all replica sets", started.elapsed().as_secs_f64());
        pods.reach(self.count).await?;
        let took = started.elapsed();
        stop.cancel();
        Ok(took)
    }

    async fn scale(&self) -> Outcome<Duration> {
        let stop = Shutdown::new();
        let informers = SharedInformers::new(self.client.clone(), stop.clone());
        let pods = Watched::<Pod>::open(&informers, "bench-one").await;
        let sets = Watched::<ReplicaSet>::open(&informers, "bench-one").await;
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), "bench-one");
        api.create(&PostParams::default(), &Self::deployment("web", 0)?).await?;
        sets.reach(1).await?;
        let started = Instant::now();
        let patch = Patch::Merge(json!({"spec": {"replicas": self.count}}));
        api.patch_scale("web", &PatchParams::default(), &patch).await?;
        pods.reach(self.count).await?;
        let took = started.elapsed();
        stop.cancel();
        Ok(took)
    }

    /// Deletes a namespace and waits until it is gone.
    async fn empty(&self, name: &str) -> Outcome<Duration> {
        let stop = Shutdown::new();
        let informers = SharedInformers::new(self.client.clone(), stop.clone());
        let scope = Scope { fields: Some(format!("metadata.name={name}")), ..Scope::default() };
        let objects = informers.scoped::<Namespace>(scope);
        let changed = Arc::new(Notify::new());
        let told = changed.clone();
        objects.on_event(move |_| told.notify_one());
        objects.synced().await;
        let namespace = Watched { objects, changed };
        let started = Instant::now();
        let api: Api<Namespace> = Api::all(self.client.clone());
        api.delete(name, &DeleteParams::default()).await?;
        namespace.reach(0).await?;
        let took = started.elapsed();
        stop.cancel();
        Ok(took)
    }

    /// What objects cost that nobody touches.
    async fn idle(&self, pid: u32) -> Outcome<()> {
        let count = self.count * 5;
        let before = resident_bytes(pid)?;
        self.namespace("bench-idle").await?;
        let map = |number: usize| -> Outcome<ConfigMap> {
            let meta = json!({"name": format!("idle-{number}"), "labels": {"app": "idle"}});
            Ok(serde_json::from_value(json!({"metadata": meta, "data": {"key": "value"}}))?)
        };
        let maps = (0..count).map(map).collect::<Outcome<Vec<_>>>()?;
        self.create(Api::namespaced(self.client.clone(), "bench-idle"), maps).await?;
        // Idleness is measured by letting time pass; first for what the creation stirred up to come to rest.
        tokio::time::sleep(IDLE / 3).await;
        let (cpu, after) = (cpu(pid)?, resident_bytes(pid)?);
        tokio::time::sleep(IDLE).await;
        let used = self::cpu(pid)? - cpu;
        let percent = used.as_secs_f64() / IDLE.as_secs_f64() * 100.0;
        println!("{:<56} {percent:>8.2} %   wanted 1 %", format!("{count} idle objects, of a core"));
        let each = after.saturating_sub(before) / count as u64;
        println!("{:<56} {each:>8} B   wanted 4096 B", "memory for each of them");
        self.empty("bench-idle").await?;
        Ok(())
    }
}

fn resident_bytes(pid: u32) -> Outcome<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}

/// User and system time of a process, which `stat` has in hundredths of a second.
fn cpu(pid: u32) -> Outcome<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = text.rsplit_once(')').ok_or("stat without a name")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks: u64 =
        fields.get(11..13).ok_or("short stat")?.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}
