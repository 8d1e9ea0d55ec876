//! The Node object: registration, status, lease.

pub(crate) mod conditions;
pub(crate) mod machine;
pub(crate) mod pressure;
pub(crate) mod startup;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{
            ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeDaemonEndpoints, NodeSpec, NodeStatus,
            ObjectReference, Taint,
        },
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use parking_lot::Mutex;
use podium_client::{EventType, error_chain, is_already_exists, is_conflict, is_not_found};
use podium_cri::v1;
use serde_json::{Value, json};

use crate::{Cloud, Config, context::Shared};
use pressure::Report;
use startup::Startup;

/// How often to look while the node is not ready: others wait for it.
const NOT_READY_EVERY: Duration = Duration::from_millis(200);
const RETRY: Duration = Duration::from_millis(200);

/// The node's keeper.
#[derive(Debug)]
pub(crate) struct NodeKeeper {
    shared: Shared,
    port: u16,
    startup: Mutex<Startup>,
}

/// What events about this node are recorded on: upstream uses the name as uid there.
pub(crate) fn reference(name: &str) -> ObjectReference {
    ObjectReference {
        kind: Some("Node".to_owned()),
        name: Some(name.to_owned()),
        uid: Some(name.to_owned()),
        ..Default::default()
    }
}

impl NodeKeeper {
    /// `port` is the one the kubelet's server listens on.
    pub(crate) fn new(shared: Shared, port: u16, startup: Startup) -> Self {
        Self { shared, port, startup: Mutex::new(startup) }
    }

    /// Registers the node, then keeps its status and lease until shutdown.
    pub(crate) async fn run(&self) {
        let shutdown = self.shared.shutdown.clone();
        tokio::select! {
            () = async { tokio::join!(self.keep_status(), self.keep_lease()); } => {}
            () = shutdown.cancelled() => {}
        }
    }

    fn api(&self) -> Api<Node> {
        Api::all(self.shared.client.clone())
    }

    fn name(&self) -> &str {
        &self.shared.config.node_name
    }

    fn event(&self, reason: &str, message: String) {
        self.shared.recorder.event(&reference(self.name()), EventType::Normal, reason, message);
    }

    async fn keep_status(&self) {
        self.event("Starting", "Starting kubelet.".to_owned());
        let settings = &self.shared.config.settings;
        let mut reported: Option<Instant> = None;
        let mut last = Value::Null;
        let mut leaving = self.shared.leaving.subscribe();
        loop {
            let report = pressure::report(&self.shared).await;
            let due = reported.is_none_or(|at| at.elapsed() >= settings.report_frequency());
            match self.write(&report, due, &mut last).await {
                Ok(true) => reported = Some(Instant::now()),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(
                        node = self.name(),
                        error = error_chain(&error),
                        "writing the node's status failed"
                    );
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            }
            let every = settings.node_status_update_frequency.0;
            let pause = if report.health.not_ready.is_some() { NOT_READY_EVERY } else { every };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shared.container_manager.capacity_changed() => {}
                Ok(()) = leaving.changed() => {}
            }
        }
    }

    /// Writes the status if it changed or is due; true if it was written.
    async fn write(&self, report: &Report, due: bool, last: &mut Value) -> Result<bool, kube::Error> {
        let Some(node) = self.current().await? else { return Ok(false) };
        let old = node.status.clone().unwrap_or_default();
        let (conditions, transitions) = conditions::conditions(
            &report.health,
            old.conditions.as_deref().unwrap_or_default(),
            Timestamp::now(),
        );
        let mut status = self.status(conditions, report).await;
        status.addresses = addresses(&self.shared.config, &old);
        if last.is_null() {
            self.shared.container_manager.reset_extended(&old, &mut status);
        }
        allow_advertised(&old, &mut status);
        let value = serde_json::to_value(&status).unwrap_or_default();
        let core = without_heartbeat(value.clone());
        let theirs = without_heartbeat(serde_json::to_value(&old).unwrap_or_default());
        let agrees = core.as_object().is_some_and(|core| {
            core.iter().all(|(key, value)| theirs.get(key).is_some_and(|theirs| contains(theirs, value)))
        });
        if agrees && !due && core == *last {
            return Ok(false);
        }
        let patch = json!({"status": with_replacements(value)});
        let written =
            self.api().patch_status(self.name(), &PatchParams::default(), &Patch::Strategic(patch)).await?;
        *self.shared.node.lock() = Some(Arc::new(written));
        if report.health.not_ready.is_none() {
            self.startup.lock().ready(&self.shared.metrics, Instant::now());
        }
        if last.is_null() && rebooted(&old, &self.shared.machine.boot_id) {
            let boot = &self.shared.machine.boot_id;
            let text = format!("Node {} has been rebooted, boot id: {boot}", self.name());
            self.shared.recorder.event(&reference(self.name()), EventType::Warning, "Rebooted", text);
        }
        *last = core;
        for transition in transitions {
            self.event(transition, format!("Node {} status is now: {transition}", self.name()));
        }
        Ok(true)
    }

    /// The node as it is in the API, registered if it is not there, with our labels on it. None if it is not there and
    /// somebody else is to register it.
    async fn current(&self) -> Result<Option<Arc<Node>>, kube::Error> {
        let api = self.api();
        let found = match api.get_opt(self.name()).await? {
            Some(found) => found,
            None if !self.shared.config.settings.register_node => return Ok(None),
            None => {
                self.startup.lock().tries(Instant::now());
                match api.create(&PostParams::default(), &self.registration()).await {
                    Ok(created) => {
                        self.startup.lock().registered(&self.shared.metrics, Instant::now());
                        created
                    }
                    Err(error) if is_already_exists(&error) => api.get(self.name()).await?,
                    Err(error) => return Err(error),
                }
            }
        };
        let (labels, named) = (self.labels(), provided_address(&self.shared.config));
        let has = |have: &Option<BTreeMap<String, String>>, key: &str, value: Option<&str>| {
            have.as_ref().and_then(|have| have.get(key)).map(String::as_str) == value
        };
        let labelled = labels.iter().all(|(key, value)| has(&found.metadata.labels, key, Some(value)));
        let found = if labelled && has(&found.metadata.annotations, PROVIDED_ADDRESS, named.as_deref()) {
            found
        } else {
            // Null takes away what a kubelet with another cloud provider has said.
            let patch = json!({"metadata": {"labels": labels, "annotations": {PROVIDED_ADDRESS: named}}});
            api.patch(self.name(), &PatchParams::default(), &Patch::Merge(patch)).await?
        };
        let found = Arc::new(found);
        *self.shared.node.lock() = Some(found.clone());
        Ok(Some(found))
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let architecture = self.shared.machine.architecture;
        let mut labels: BTreeMap<String, String> = [
            ("kubernetes.io/hostname", self.name()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", architecture),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", architecture),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
        labels.extend(self.shared.config.labels.clone());
        labels
    }

    fn registration(&self) -> Node {
        Node {
            metadata: ObjectMeta {
                name: Some(self.name().to_owned()),
                labels: Some(self.labels()),
                annotations: Some(
                    [(
                        "volumes.kubernetes.io/controller-managed-attach-detach".to_owned(),
                        "true".to_owned(),
                    )]
                    .into_iter()
                    .chain(
                        provided_address(&self.shared.config)
                            .map(|address| (PROVIDED_ADDRESS.to_owned(), address)),
                    )
                    .collect(),
                ),
                ..Default::default()
            },
            spec: self.registered_spec(),
            ..Default::default()
        }
    }

    fn registered_spec(&self) -> Option<NodeSpec> {
        let settings = &self.shared.config.settings;
        let spec = NodeSpec {
            taints: Some(taints(&self.shared.config)).filter(|taints| !taints.is_empty()),
            pod_cidr: settings.pod_cidr.clone(),
            pod_cidrs: settings.pod_cidr.clone().map(|cidr| vec![cidr]),
            provider_id: Some(settings.provider_id.clone()).filter(|id| !id.is_empty()),
            ..Default::default()
        };
        (spec != NodeSpec::default()).then_some(spec)
    }

    async fn status(
        &self,
        conditions: Vec<k8s_openapi::api::core::v1::NodeCondition>,
        report: &Report,
    ) -> NodeStatus {
        let (config, machine) = (&self.shared.config, &self.shared.machine);
        let (mut capacity, mut allocatable) =
            (machine.capacity(&config.settings), machine.allocatable(&config.settings));
        self.shared.container_manager.extend(&mut capacity, &mut allocatable);
        NodeStatus {
            capacity: Some(capacity),
            allocatable: Some(allocatable),
            conditions: Some(conditions),
            daemon_endpoints: Some(NodeDaemonEndpoints {
                kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(self.port) }),
            }),
            images: Some(self.images().await),
            runtime_handlers: report.runtime_handlers.clone(),
            features: report.features.clone(),
            node_info: Some(machine.node_info(&config.version, &self.shared.runtime_version)),
            ..Default::default()
        }
    }

    /// The largest images, as the scheduler wants to know them.
    async fn images(&self) -> Vec<ContainerImage> {
        let mut images = self.shared.cri.list_images().await.unwrap_or_default();
        images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
        // A negative number means all of them.
        if let Ok(most) = usize::try_from(self.shared.config.settings.node_status_max_images) {
            images.truncate(most);
        }
        images.into_iter().map(|image: v1::Image| image_entry(&image)).collect()
    }

    async fn keep_lease(&self) {
        let api: Api<Lease> = Api::namespaced(self.shared.client.clone(), "kube-node-lease");
        let mut lease: Option<Lease> = None;
        loop {
            match self.renew(&api, lease.take()).await {
                Ok(renewed) => {
                    lease = Some(renewed);
                    // Upstream renews when a quarter of the lease has passed.
                    tokio::time::sleep(Duration::from_secs(u64::from(self.lease_seconds()) / 4)).await;
                }
                Err(error) => {
                    if !is_conflict(&error) {
                        tracing::debug!(
                            node = self.name(),
                            error = error_chain(&error),
                            "renewing the lease failed"
                        );
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    fn lease_seconds(&self) -> u32 {
        self.shared.config.settings.node_lease_duration_seconds
    }

    async fn renew(&self, api: &Api<Lease>, lease: Option<Lease>) -> Result<Lease, kube::Error> {
        let spec = LeaseSpec {
            holder_identity: Some(self.name().to_owned()),
            lease_duration_seconds: i32::try_from(self.lease_seconds()).ok(),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..Default::default()
        };
        let lease = match lease {
            Some(lease) => Some(lease),
            None => api.get_opt(self.name()).await?,
        };
        match lease {
            Some(mut lease) => {
                lease.spec = Some(spec);
                if lease.metadata.owner_references.is_none() {
                    lease.metadata.owner_references = self.owner();
                }
                match api.replace(self.name(), &PostParams::default(), &lease).await {
                    Err(error) if is_not_found(&error) => {
                        lease.metadata.resource_version = None;
                        lease.metadata.uid = None;
                        api.create(&PostParams::default(), &lease).await
                    }
                    other => other,
                }
            }
            None => {
                let lease = Lease {
                    metadata: ObjectMeta {
                        name: Some(self.name().to_owned()),
                        namespace: Some("kube-node-lease".to_owned()),
                        owner_references: self.owner(),
                        ..Default::default()
                    },
                    spec: Some(spec),
                };
                api.create(&PostParams::default(), &lease).await
            }
        }
    }

    /// The lease goes with the node.
    fn owner(&self) -> Option<Vec<OwnerReference>> {
        let node = self.shared.node.lock().clone()?;
        Some(vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: self.name().to_owned(),
            uid: node.metadata.uid.clone()?,
            ..Default::default()
        }])
    }
}

/// The taint of nodes that no cloud's controller has looked at, and where one is told what address the kubelet was given.
/// Source: upstream's k8s.io/cloud-provider/api.
const UNINITIALIZED: &str = "node.cloudprovider.kubernetes.io/uninitialized";
const PROVIDED_ADDRESS: &str = "alpha.kubernetes.io/provided-node-ip";

/// The taints to register with.
fn taints(config: &Config) -> Vec<Taint> {
    let uninitialized = (config.cloud != Cloud::None).then(|| Taint {
        key: UNINITIALIZED.to_owned(),
        value: Some("true".to_owned()),
        effect: "NoSchedule".to_owned(),
        ..Default::default()
    });
    config.settings.register_with_taints.iter().cloned().chain(uninitialized).collect()
}

/// What a cloud's controller is told of the address.
fn provided_address(config: &Config) -> Option<String> {
    matches!(config.cloud, Cloud::External { provided: true, .. }).then(|| config.node_ip.to_string())
}

/// The node's addresses, or None to leave them to who has set them.
///
/// Source: upstream's `nodestatus.NodeAddress`.
fn addresses(config: &Config, old: &NodeStatus) -> Option<Vec<NodeAddress>> {
    let address = |type_: &str, address: String| NodeAddress { type_: type_.to_owned(), address };
    let host_name = address("Hostname", config.node_name.clone());
    let all = vec![address("InternalIP", config.node_ip.to_string()), host_name.clone()];
    match config.cloud {
        Cloud::None => Some(all),
        Cloud::External { .. } if old.addresses.as_ref().is_some_and(|theirs| !theirs.is_empty()) => None,
        Cloud::External { bootstrap: true, .. } => Some(all),
        Cloud::External { bootstrap: false, .. } => Some(vec![host_name]),
    }
}

/// Whether the machine has been started again since a kubelet last wrote of it.
fn rebooted(old: &NodeStatus, boot_id: &str) -> bool {
    old.node_info.as_ref().is_some_and(|info| !info.boot_id.is_empty() && info.boot_id != boot_id)
}

/// Who advertises a resource of the node writes its capacity, and pods may have all of it.
fn allow_advertised(old: &NodeStatus, status: &mut NodeStatus) {
    let ours = status.capacity.clone().unwrap_or_default();
    let allowed = old.allocatable.clone().unwrap_or_default();
    for (name, amount) in old.capacity.iter().flatten() {
        // What is there already is not written again: it may just have been taken away.
        if podium_api::kinds::pod::is_extended_resource(name)
            && !ours.contains_key(name)
            && allowed.get(name) != Some(amount)
        {
            status.allocatable.get_or_insert_default().insert(name.clone(), amount.clone());
        }
    }
}

fn image_entry(image: &v1::Image) -> ContainerImage {
    let names = image.repo_digests.iter().chain(&image.repo_tags).take(5).cloned().collect();
    ContainerImage { names: Some(names), size_bytes: i64::try_from(image.size).ok() }
}

fn without_heartbeat(mut status: Value) -> Value {
    for condition in status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(condition) = condition.as_object_mut() {
            condition.remove("lastHeartbeatTime");
        }
    }
    status
}

/// Whether the API's value says what ours says; it may hold more entries of others.
fn contains(theirs: &Value, ours: &Value) -> bool {
    match (theirs, ours) {
        (Value::Array(theirs), Value::Array(ours)) if ours.iter().any(|one| one.get("type").is_some()) => {
            ours.iter().all(|one| theirs.contains(one))
        }
        (Value::Object(theirs), Value::Object(ours)) => {
            ours.iter().all(|(key, value)| theirs.get(key).is_some_and(|theirs| contains(theirs, value)))
        }
        (theirs, ours) => theirs == ours,
    }
}

/// Addresses are merged by type in the API; ours replace.
fn with_replacements(mut status: Value) -> Value {
    if let Some(addresses) = status.get_mut("addresses").and_then(Value::as_array_mut) {
        addresses.insert(0, json!({"$patch": "replace"}));
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cloud_says_the_addresses() {
        let api = crate::testing::api::FakeApi::new();
        let informers = podium_client::SharedInformers::new(api.client(), Default::default());
        let settings = crate::testing::settings("/run/cri.sock", "/", std::path::Path::new("/nonexistent"));
        let mut config = Config::new(
            "n1",
            "10.0.0.1".parse().unwrap(),
            "/nonexistent".into(),
            settings,
            api.client(),
            informers,
        );
        config.settings.register_with_taints =
            vec![Taint { key: "a".to_owned(), effect: "NoExecute".to_owned(), ..Default::default() }];
        let fresh = NodeStatus::default();
        let theirs = NodeStatus {
            addresses: Some(vec![NodeAddress {
                type_: "ExternalIP".to_owned(),
                address: "1.2.3.4".to_owned(),
            }]),
            ..Default::default()
        };
        let external = |bootstrap, provided| Cloud::External { bootstrap, provided };
        let both = Some("InternalIP 10.0.0.1, Hostname n1");
        for (cloud, first, later, told, marked) in [
            (Cloud::None, both, both, None, false),
            (external(false, false), Some("Hostname n1"), None, None, true),
            (external(true, false), both, None, None, true),
            (external(true, true), both, None, Some("10.0.0.1"), true),
        ] {
            config.cloud = cloud;
            let shown = |old: &NodeStatus| {
                let texts = |all: Vec<NodeAddress>| {
                    let texts: Vec<_> =
                        all.iter().map(|one| format!("{} {}", one.type_, one.address)).collect();
                    texts.join(", ")
                };
                addresses(&config, old).map(texts)
            };
            assert_eq!(shown(&fresh).as_deref(), first, "{cloud:?}");
            assert_eq!(shown(&theirs).as_deref(), later, "{cloud:?}");
            assert_eq!(provided_address(&config).as_deref(), told, "{cloud:?}");
            let taints = taints(&config);
            assert_eq!(taints[0].key, "a");
            let mark = taints.get(1).map(|one| (one.key.as_str(), one.value.as_deref(), one.effect.as_str()));
            assert_eq!(mark, marked.then_some((UNINITIALIZED, Some("true"), "NoSchedule")), "{cloud:?}");
        }
    }

    #[test]
    fn a_machine_that_was_started_again() {
        let status = |boot: &str| NodeStatus {
            node_info: Some(k8s_openapi::api::core::v1::NodeSystemInfo {
                boot_id: boot.to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        };
        for (old, expected) in
            [(NodeStatus::default(), false), (status(""), false), (status("b"), false), (status("a"), true)]
        {
            assert_eq!(rebooted(&old, "b"), expected, "{old:?}");
        }
    }

    #[test]
    fn advertised_resources_are_allowed() {
        let read = |status: Value| serde_json::from_value::<NodeStatus>(status).unwrap();
        let old = read(json!({"capacity": {"cpu": "2", "example.com/dongle": "3", "example.com/device": "1",
            "example.com/known": "1"}, "allocatable": {"example.com/known": "1"}}));
        let mut status =
            read(json!({"capacity": {"cpu": "4", "example.com/device": "0"}, "allocatable": {"cpu": "3"}}));
        allow_advertised(&old, &mut status);
        let allowed = serde_json::to_value(status.allocatable).unwrap();
        assert_eq!(allowed, json!({"cpu": "3", "example.com/dongle": "3"}));
    }
}
