//! The works: who sends what, how often, how many at once.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::connection::{Connections, drain};
use super::figures::Run;

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";

/// Before a request that was turned away is sent again, where the server does not say.
const AGAIN: Duration = Duration::from_secs(1);

/// Sends works to one server.
pub(super) struct Work {
    pub(super) connections: Connections,
}

impl Work {
    pub(super) fn new(connections: Connections) -> Work {
        Work { connections }
    }

    /// Makes the namespaces, with the service account that pods need.
    pub(super) async fn prepare(&self) -> Result<()> {
        for name in ["load", "load-one", "load-watch", "many", "secrets"] {
            let body = json!({"metadata": {"name": name}});
            self.put_new("/api/v1/namespaces", &body).await?;
            let account = json!({"metadata": {"name": "default"}});
            self.put_new(&format!("/api/v1/namespaces/{name}/serviceaccounts"), &account).await?;
        }
        Ok(())
    }

    /// Creates an object that may be there already.
    pub(super) async fn put_new(&self, path: &str, object: &Value) -> Result<()> {
        let body = object.to_string();
        let answer = self.connections.send(0, Method::POST, path, JSON, JSON, body).await?;
        let (status, _, text) = drain(answer).await?;
        ensure!(
            status.is_success() || status == StatusCode::CONFLICT,
            "{path}: {status}: {}",
            String::from_utf8_lossy(&text)
        );
        Ok(())
    }

    /// Creates pods of about 2 KB that nobody schedules.
    pub(super) async fn create(&self, namespace: &str, count: usize, writers: usize) -> Result<Run> {
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        // Encoded beforehand: the client's JSON library is not what is measured.
        let bodies: Vec<Bytes> = (0..count).map(|number| Bytes::from(pod(number).to_string())).collect();
        self.run(count, writers, async |number| {
            self.connections.call(number, Method::POST, &path, JSON, bodies[number].clone()).await
        })
        .await
    }

    /// Gets pods in turn.
    pub(super) async fn get(
        &self,
        namespace: &str,
        pods: usize,
        count: usize,
        readers: usize,
    ) -> Result<Run> {
        self.run(count, readers, async |number| {
            let path = format!("/api/v1/namespaces/{namespace}/pods/load-{}", number % pods.min(1000));
            self.connections.call(number, Method::GET, &path, "", Bytes::new()).await
        })
        .await
    }

    /// Patches an annotation of pods in turn.
    pub(super) async fn patch(
        &self,
        namespace: &str,
        pods: usize,
        count: usize,
        writers: usize,
    ) -> Result<Run> {
        self.run(count, writers, async |number| {
            let path = format!("/api/v1/namespaces/{namespace}/pods/load-{}", number % pods.min(1000));
            let body = format!("{{\"metadata\":{{\"annotations\":{{\"n\":\"{number}\"}}}}}}");
            self.connections.call(number, Method::PATCH, &path, MERGE, body).await
        })
        .await
    }

    /// Deletes the pods that [`Work::create`] made.
    pub(super) async fn delete(&self, namespace: &str, count: usize, writers: usize) -> Result<Run> {
        self.run(count, writers, async |number| {
            let path = format!("/api/v1/namespaces/{namespace}/pods/load-{number}");
            self.connections.call(number, Method::DELETE, &path, "", Bytes::new()).await
        })
        .await
    }

    /// Lists pods, one request at a time, with these queries in turn.
    pub(super) async fn list(
        &self,
        namespace: &str,
        queries: &[String],
        accept: &'static str,
        times: usize,
    ) -> Result<Run> {
        self.run(times, 1, async |number| {
            let query = &queries[number % queries.len()];
            let path = format!("/api/v1/namespaces/{namespace}/pods?{query}");
            self.whole(&path, accept).await
        })
        .await
    }

    async fn whole(&self, path: &str, accept: &'static str) -> Result<usize> {
        let answer = self.connections.send(0, Method::GET, path, "", accept, Bytes::new()).await?;
        let (status, length, text) = drain(answer).await?;
        ensure!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&text));
        Ok(length)
    }

    /// The queries of the first pages of a list.
    pub(super) async fn page_starts(
        &self,
        namespace: &str,
        limit: usize,
        pages: usize,
    ) -> Result<Vec<String>> {
        let mut queries = vec![format!("limit={limit}")];
        while queries.len() < pages {
            let query = queries.last().context("there is a first page")?;
            let list = self.connections.read(&format!("/api/v1/namespaces/{namespace}/pods?{query}")).await?;
            let list: Value = serde_json::from_slice(&list)?;
            let Some(next) = list["metadata"]["continue"].as_str().filter(|next| !next.is_empty()) else {
                break;
            };
            queries.push(format!("limit={limit}&continue={}", next.replace('=', "%3D")));
        }
        Ok(queries)
    }

    /// Creates ConfigMaps of some hundred bytes.
    pub(super) async fn create_small(&self, namespace: &str, count: usize, writers: usize) -> Result<Run> {
        let path = format!("/api/v1/namespaces/{namespace}/configmaps");
        self.run(count, writers, async |number| {
            let body = format!("{{\"metadata\":{{\"name\":\"small-{number}\"}},\"data\":{{\"k\":\"v\"}}}}");
            self.connections.call(number, Method::POST, &path, JSON, body).await
        })
        .await
    }

    /// Lists them.
    pub(super) async fn list_small(&self, namespace: &str, times: usize) -> Result<Run> {
        let path = format!("/api/v1/namespaces/{namespace}/configmaps?resourceVersion=0");
        self.run(times, 1, async |_| self.whole(&path, JSON).await).await
    }

    /// Creates Secrets that do not compress.
    pub(super) async fn create_secrets(&self, namespace: &str, count: usize, bytes: usize) -> Result<()> {
        let path = format!("/api/v1/namespaces/{namespace}/secrets");
        let mut seed = 1u64;
        // Base64 text of a generator of no quality: it only must not compress.
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let noise: String = (0..bytes / 4 * 4)
            .map(|_| {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                char::from(alphabet[(seed >> 58) as usize])
            })
            .collect();
        let run = self.run(count, 16, async |number| {
            let body =
                format!("{{\"metadata\":{{\"name\":\"secret-{number}\"}},\"data\":{{\"k\":\"{noise}\"}}}}");
            let answer = self.connections.send(number, Method::POST, &path, JSON, JSON, body).await?;
            let (status, length, text) = drain(answer).await?;
            let good = status.is_success() || status == StatusCode::CONFLICT;
            ensure!(good, "{path}: {status}: {}", String::from_utf8_lossy(&text));
            Ok(length)
        });
        run.await.map(|_| ())
    }

    /// Informers that all begin at once: each lists everything, again when it is turned away, until it has it whole.
    pub(super) async fn storm(&self, namespace: &str, informers: usize, limit: Duration) -> Result<Duration> {
        let path = format!("/api/v1/namespaces/{namespace}/secrets?resourceVersion=0");
        let started = Instant::now();
        let one = async |number: usize| -> Result<usize> {
            loop {
                let answer =
                    self.connections.send(number, Method::GET, &path, "", JSON, Bytes::new()).await?;
                let wait = answer.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse().ok());
                let (status, length, text) = drain(answer).await?;
                if status == StatusCode::TOO_MANY_REQUESTS {
                    tokio::time::sleep(wait.map_or(AGAIN, Duration::from_secs)).await;
                    continue;
                }
                ensure!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&text));
                return Ok(length);
            }
        };
        let all = try_join_all((0..informers).map(one));
        let lengths = tokio::time::timeout(limit, all).await.context("the informers did not end")??;
        ensure!(lengths.iter().all(|length| *length == lengths[0]), "the informers saw different lists");
        Ok(started.elapsed())
    }

    /// Does `one` for each number below `count`, `at_once` at a time.
    async fn run(
        &self,
        count: usize,
        at_once: usize,
        one: impl AsyncFn(usize) -> Result<usize>,
    ) -> Result<Run> {
        let next = Rc::new(Cell::new(0));
        let started = Instant::now();
        let one = &one;
        let worker = || {
            let next = Rc::clone(&next);
            async move {
                let mut times = Vec::new();
                let mut bytes = 0;
                loop {
                    let number = next.get();
                    if number >= count {
                        return Ok::<_, anyhow::Error>((times, bytes));
                    }
                    next.set(number + 1);
                    let began = Instant::now();
                    bytes += one(number).await?;
                    times.push(began.elapsed());
                }
            }
        };
        let parts = try_join_all((0..at_once).map(|_| worker())).await?;
        let took = started.elapsed();
        let bytes = parts.iter().map(|(_, bytes)| bytes).sum();
        let times = parts.into_iter().flat_map(|(times, _)| times).collect();
        Ok(Run::new(took, times, bytes))
    }
}

/// A pod with the fields a real one has, about 2 KB when it is stored as upstream stores it.
fn pod(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("load-{number}"),
            "labels": {"app": format!("app-{}", number % 100), "load": "yes", "tier": "backend"},
            "annotations": {
                "example.com/owner": "team-payments",
                "example.com/description": "made by the load generator, with what a real pod has",
            },
        },
        "spec": {
            // Nobody schedules it, so nothing else happens to it.
            "schedulerName": "nobody",
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main", "image": "registry.example.com/team/app:v1.2.3",
                "ports": [{"containerPort": 8080, "name": "http"}],
                "env": [
                    {"name": "LOG_LEVEL", "value": "info"},
                    {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                ],
                "resources": {
                    "requests": {"cpu": "100m", "memory": "128Mi"},
                    "limits": {"cpu": "500m", "memory": "256Mi"},
                },
                "livenessProbe": {"httpGet": {"path": "/health", "port": 8080}},
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}},
                "volumeMounts": [{"name": "settings", "mountPath": "/etc/settings"}],
            }],
            "volumes": [{"name": "settings", "configMap": {"name": "settings"}}],
            "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        },
    })
}
