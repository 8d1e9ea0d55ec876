//! Watches Services and EndpointSlices, asks [`crate::plan`] and [`crate::rules`], tells the kernel.

use std::collections::BTreeSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;
use podium_client::{Informer, ObjectKey, Running, SharedInformers, Shutdown};
use podium_network::Cidr;
use podium_network::conntrack::Conntrack;
use podium_network::netlink::{NetlinkError, local_addresses};
use podium_network::nft::{self, NftError};
use tokio::sync::{Notify, watch};

use crate::flows::{Flows, Serving, node_port_addresses};
use crate::health::{Health, HealthPorts, health};
use crate::plan::{PortPlan, plan};
use crate::rules;
use crate::state::State;

/// The label that ties a slice to its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// How long after a refused transaction the whole table is written anew.
const RETRY: Duration = Duration::from_secs(1);

/// What the proxy needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Shared watches.
    pub informers: SharedInformers,
    /// This node's name, for local traffic policies.
    pub node_name: String,
    /// The nftables table, one per cluster on a machine.
    pub table: String,
    /// All pods' addresses: who else calls a cluster address gets the node's. `None` leaves sources as they are.
    pub cluster_cidr: Option<Cidr>,
    /// Addresses of this node at which node ports answer; empty for all.
    pub node_port_addresses: Vec<Cidr>,
}

/// The proxy could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The worker thread died.
    #[error("the proxy's worker panicked")]
    Panicked,
    /// The table could not be set up at all.
    #[error("service rules")]
    Rules(#[from] NftError),
}

/// Keeps the rules as the API says until told to stop. They stay in place afterwards. `synced` becomes true after the
/// first full transaction.
pub fn run(config: Config, synced: watch::Sender<bool>, shutdown: Shutdown) -> Running<Error> {
    Box::pin(run_until(config, synced, shutdown))
}

async fn run_until(config: Config, synced: watch::Sender<bool>, shutdown: Shutdown) -> Result<(), Error> {
    let services = config.informers.of::<Service>();
    let slices = config.informers.of::<EndpointSlice>();
    slices.add_index("service", |slice| owner(slice).map(|key| key.to_string()).into_iter().collect());
    let dirty = Arc::new(Dirty::default());
    let mark = dirty.clone();
    services.on_event(move |change| mark.add(ObjectKey::from(change.object().as_ref())));
    let mark = dirty.clone();
    slices.on_event(move |change| {
        if let Some(key) = owner(change.object()) {
            mark.add(key);
        }
    });
    services.synced().await;
    slices.synced().await;
    let options = rules::Frame {
        cluster_cidr: config.cluster_cidr,
        node_port_addresses: config.node_port_addresses.clone(),
    };
    let frame = rules::frame(&config.table, &options);
    apply(frame.clone()).await?;
    let mut state = State::new(&config.table);
    let mut flows = Flows::default();
    let mut health_ports = HealthPorts::new(&config.node_port_addresses);
    loop {
        let mut applied = true;
        for key in dirty.take() {
            let (ports, health) = wanted(&services, &slices, &key, &config.node_name);
            update(&mut state, &mut flows, &key, &ports);
            health_ports.update(&key, health);
        }
        let script = state.take();
        if !script.is_empty()
            && let Err(error) = apply(script).await
        {
            // What the kernel holds is now in doubt: say all of it again, in one transaction.
            tracing::error!(error = %error, "service rules refused, writing the table anew");
            health_ports.set_healthy(false);
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(RETRY) => {}
            }
            dirty.extend(state.services().filter_map(parse_key));
            dirty.extend(services.list().iter().map(|service| ObjectKey::from(service.as_ref())));
            state = State::new(&config.table);
            let mut whole = frame.clone();
            for key in dirty.take() {
                let (ports, health) = wanted(&services, &slices, &key, &config.node_name);
                update(&mut state, &mut flows, &key, &ports);
                health_ports.update(&key, health);
            }
            whole.push_str(&state.take());
            if let Err(error) = apply(whole).await {
                tracing::error!(error = %error, "service rules refused as a whole");
                applied = false;
                dirty.extend(services.list().iter().map(|service| ObjectKey::from(service.as_ref())));
                state = State::new(&config.table);
                apply(frame.clone()).await?;
            }
        }
        health_ports.set_healthy(applied);
        if dirty.is_empty() {
            synced.send_replace(true);
        }
        // Not before the rules stand: a flow that is forgotten too early goes back to where it went.
        if applied && let Some(serving) = flows.take() {
            let node_ports_at = config.node_port_addresses.clone();
            let done = tokio::task::spawn_blocking(move || forget_stale(&serving, &node_ports_at)).await;
            match done.map_err(|_| Error::Panicked)? {
                Ok(0) => {}
                Ok(count) => tracing::debug!(count, "forgot udp flows to endpoints that do not serve"),
                Err(error) => {
                    let error = podium_client::error_chain(&error);
                    tracing::warn!(error, "stale udp flows stay until the next change");
                    flows.mark();
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = dirty.changed() => {}
        }
    }
}

/// What one Service needs now; nothing when it is gone.
fn wanted(
    services: &Informer<Service>,
    slices: &Informer<EndpointSlice>,
    key: &ObjectKey,
    node: &str,
) -> (Vec<PortPlan>, Option<Health>) {
    let Some(service) = services.get(key) else { return (Vec::new(), None) };
    let found = slices.by_index("service", &key.to_string());
    let found: Vec<&EndpointSlice> = found.iter().map(AsRef::as_ref).collect();
    (plan(&service, &found, node), health(&service, &found, node))
}

fn update(state: &mut State, flows: &mut Flows, key: &ObjectKey, ports: &[PortPlan]) {
    let name = key.to_string();
    flows.update(&name, ports);
    state.update(&name, rules::service(&chain_id(key), ports));
}

/// Makes the kernel forget the UDP flows that go where nobody serves; how many there were. Blocks as long as the kernel
/// takes to list its flows. What fails half-way is safe to repeat.
pub(crate) fn forget_stale(serving: &Serving, node_ports_at: &[Cidr]) -> Result<usize, NetlinkError> {
    let own = node_port_addresses(local_addresses()?, node_ports_at);
    let mut conntrack = Conntrack::open()?;
    let flows = conntrack.udp_flows()?;
    let mut count = 0;
    for flow in serving.stale(&flows, &own) {
        count += usize::from(conntrack.delete(flow)?);
    }
    Ok(count)
}

/// A short name for a Service's own chains: chain names are limited and must not hold arbitrary text.
fn chain_id(key: &ObjectKey) -> String {
    // Fixed keys by construction, so the name is the same on every node and run.
    let mut hasher = DefaultHasher::new();
    key.namespace.hash(&mut hasher);
    key.name.hash(&mut hasher);
    format!("svc-{:016x}", hasher.finish())
}

fn owner(slice: &EndpointSlice) -> Option<ObjectKey> {
    Some(ObjectKey {
        namespace: slice.metadata.namespace.clone()?,
        name: slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?.clone(),
    })
}

fn parse_key(text: &str) -> Option<ObjectKey> {
    let (namespace, name) = text.split_once('/')?;
    Some(ObjectKey { namespace: namespace.to_owned(), name: name.to_owned() })
}

async fn apply(script: String) -> Result<(), Error> {
    tokio::task::spawn_blocking(move || nft::apply(&script))
        .await
        .map_err(|_| Error::Panicked)?
        .map_err(Error::from)
}

/// Services to look at again. Setting is cheap and never blocks, as an informer's handler must be.
#[derive(Debug, Default)]
struct Dirty {
    keys: Mutex<BTreeSet<ObjectKey>>,
    wake: Notify,
}

impl Dirty {
    fn add(&self, key: ObjectKey) {
        self.keys.lock().insert(key);
        self.wake.notify_one();
    }

    fn extend(&self, keys: impl Iterator<Item = ObjectKey>) {
        self.keys.lock().extend(keys);
    }

    fn take(&self) -> BTreeSet<ObjectKey> {
        std::mem::take(&mut self.keys.lock())
    }

    fn is_empty(&self) -> bool {
        self.keys.lock().is_empty()
    }

    async fn changed(&self) {
        if self.is_empty() {
            self.wake.notified().await;
        }
    }
}
