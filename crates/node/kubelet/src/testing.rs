//! What tests run a whole kubelet against: an API server in memory, a runtime that pretends, and a real
//! containerd where there is one.

pub(crate) mod api;
pub(crate) mod containerd;
pub(crate) mod device_plugin;
pub(crate) mod driver;
pub(crate) mod logind;
pub(crate) mod pages;
pub(crate) mod plugin;
pub(crate) mod runtime;

use std::{future::Future, path::Path, time::Duration};

use crate::Configuration;

/// Settings of a kubelet that leaves the machine's own directories alone.
pub(crate) fn settings(endpoint: &str, cgroup_root: &str, root: &Path) -> Configuration {
    Configuration {
        container_runtime_endpoint: endpoint.to_owned(),
        cgroup_root: cgroup_root.to_owned(),
        pod_logs_dir: root.join("logs"),
        static_pod_path: Some(root.join("manifests")),
        // Kubelets of other tests run beside this one.
        healthz_port: 0,
        fail_swap_on: false,
        // However full the disk is that tests run on.
        eviction_hard: Some(crate::Amounts::new()),
        ..Configuration::default()
    }
}

/// Waits until `check` gives something, at most `limit`; the panic shows what was seen last.
pub(crate) async fn eventually<T, F, Fut>(what: &str, limit: Duration, mut check: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        match check().await {
            Ok(found) => return found,
            Err(seen) => assert!(tokio::time::Instant::now() < deadline, "{what}: last seen {seen}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
