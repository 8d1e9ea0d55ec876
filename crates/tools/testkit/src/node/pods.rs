//! The pods of the bench: what they are made of, and a watch that says when they became ready.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::images;
use crate::load::connection::{Connections, Target};

/// The namespace everything is in.
const NAMESPACE: &str = "bench-node";
const JSON: &str = "application/json";
/// Whatever is waited for must have come within this, or the measurement is broken.
const LIMIT: Duration = Duration::from_secs(180);

/// How a pod is asked whether it is well, each second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probes {
    None,
    Http,
    Exec,
}

/// The API, the node that pods are to run on, and what is known of them.
pub(super) struct Pods {
    connections: Connections,
    node: String,
    watch: Incoming,
    buffer: Vec<u8>,
    /// The pods that are there, and whether each is ready.
    seen: BTreeMap<String, bool>,
}

impl Pods {
    /// Makes the namespace and begins to watch it. No pods may be in it.
    pub(super) async fn open(target: &Target, node: &str) -> Result<Pods> {
        let connections = Connections::open(target, 2).await?;
        let body = json!({"metadata": {"name": NAMESPACE}}).to_string();
        connections
            .call(0, Method::POST, "/api/v1/namespaces", JSON, body)
            .await
            .context("make the namespace")?;
        // Without it pods are refused; a controller makes it.
        let account = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default");
        let started = Instant::now();
        while let Err(error) = connections.read(&account).await {
            ensure!(started.elapsed() < LIMIT, "no service account: {error:#}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let list: Value = serde_json::from_slice(&connections.read(&pods_path()).await?)?;
        let revision = list["metadata"]["resourceVersion"].as_str().context("a list without a revision")?;
        let path = format!("{}?watch=1&resourceVersion={revision}", pods_path());
        // Another connection than the one that writes.
        let answer = connections.send(1, Method::GET, &path, "", JSON, Bytes::new()).await?;
        ensure!(answer.status().is_success(), "watch: {}", answer.status());
        let watch = answer.into_body();
        let node = node.to_owned();
        Ok(Pods { connections, node, watch, buffer: Vec::new(), seen: BTreeMap::new() })
    }

    /// Deletes the namespace.
    pub(super) async fn close(self) -> Result<()> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}");
        self.connections.call(0, Method::DELETE, &path, JSON, "").await?;
        Ok(())
    }

    /// The path of a pod.
    pub(super) fn path(name: &str) -> String {
        format!("{}/{name}", pods_path())
    }

    /// Creates a pod of the web server.
    pub(super) async fn create(&self, name: &str, probes: Probes) -> Result<()> {
        self.post(&pods_path(), &json!({"metadata": {"name": name}, "spec": self.spec(probes)})).await
    }

    /// Creates a pod in which commands can be run.
    pub(super) async fn create_shell(&self, name: &str) -> Result<()> {
        let mut spec = self.spec(Probes::None);
        spec["containers"][0]["image"] = json!(images::BUSYBOX);
        spec["containers"][0]["command"] = json!(["sleep", "1000000"]);
        self.post(&pods_path(), &json!({"metadata": {"name": name}, "spec": spec})).await
    }

    /// Creates a Deployment of the web server.
    pub(super) async fn create_deployment(&self, name: &str, replicas: usize) -> Result<()> {
        let labels = json!({"app": name});
        let deployment = json!({
            "metadata": {"name": name},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": self.spec(Probes::None)},
            },
        });
        self.post(&deployments_path(), &deployment).await
    }

    /// Deletes a Deployment with its pods, and waits until they are gone.
    pub(super) async fn delete_deployment(&mut self, name: &str) -> Result<()> {
        let path = format!("{}/{name}?propagationPolicy=Foreground", deployments_path());
        self.connections.call(0, Method::DELETE, &path, JSON, "").await?;
        self.until(|seen| seen.is_empty()).await
    }

    /// Deletes all pods, and waits until they are gone.
    pub(super) async fn delete_all(&mut self) -> Result<()> {
        self.connections.call(0, Method::DELETE, &pods_path(), JSON, "").await?;
        self.until(|seen| seen.is_empty()).await
    }

    /// Waits until this many pods are ready.
    pub(super) async fn ready(&mut self, count: usize) -> Result<()> {
        self.until(|seen| seen.values().filter(|ready| **ready).count() >= count).await
    }

    async fn until(&mut self, reached: impl Fn(&BTreeMap<String, bool>) -> bool) -> Result<()> {
        let started = Instant::now();
        while !reached(&self.seen) {
            let left = LIMIT.saturating_sub(started.elapsed());
            let Ok(frame) = tokio::time::timeout(left, self.watch.frame()).await else {
                let late: BTreeSet<_> = self.seen.iter().filter(|(_, ready)| !**ready).collect();
                bail!("waited {} s for {} pods; not ready: {late:?}", LIMIT.as_secs(), self.seen.len());
            };
            let frame = frame.context("the watch ended")??;
            self.buffer.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                self.take(&serde_json::from_slice(&line)?)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, event: &Value) -> Result<()> {
        let pod = &event["object"];
        let name = pod["metadata"]["name"].as_str().with_context(|| format!("not a pod: {event}"))?;
        if event["type"] == "DELETED" {
            self.seen.remove(name);
        } else {
            self.seen.insert(name.to_owned(), is_ready(pod));
        }
        Ok(())
    }

    async fn post(&self, path: &str, object: &Value) -> Result<()> {
        self.connections.call(0, Method::POST, path, JSON, object.to_string()).await?;
        Ok(())
    }

    fn spec(&self, probes: Probes) -> Value {
        let mut container = json!({"name": "c", "image": format!("{}:v2.0.0", images::WEB)});
        let probe = match probes {
            Probes::None => None,
            Probes::Http => Some(json!({"httpGet": {"path": "/health", "port": 3000}, "periodSeconds": 1})),
            Probes::Exec => Some(json!({"exec": {"command": ["true"]}, "periodSeconds": 1})),
        };
        if let Some(mut probe) = probe {
            // One that is late on a busy machine is not one that failed.
            probe["timeoutSeconds"] = json!(10);
            container["readinessProbe"] = probe.clone();
            container["livenessProbe"] = probe;
        }
        if probes == Probes::Exec {
            container["image"] = json!(images::BUSYBOX);
            container["command"] = json!(["sleep", "1000000"]);
        }
        json!({
            "nodeSelector": {"kubernetes.io/hostname": self.node},
            "terminationGracePeriodSeconds": 1,
            "containers": [container],
        })
    }
}

fn pods_path() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/pods")
}

fn deployments_path() -> String {
    format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments")
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    // A pod that is going has nothing left to become.
    pod["metadata"]["deletionTimestamp"].is_null()
        && conditions
            .is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness() {
        let pod =
            |kind: &str, status: &str| json!({"status": {"conditions": [{"type": kind, "status": status}]}});
        assert!(is_ready(&pod("Ready", "True")));
        assert!(!is_ready(&pod("Ready", "False")) && !is_ready(&pod("Initialized", "True")));
        assert!(!is_ready(&json!({})));
        let mut going = pod("Ready", "True");
        going["metadata"] = json!({"deletionTimestamp": "2026-11-27T00:00:00Z"});
        assert!(!is_ready(&going));
    }
}
