//! Keeps the zone as the API says, and the server running.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::{Mutex, RwLock};
use podium_client::{Informer, ObjectKey, Running, SharedInformers, Shutdown};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Notify;

use crate::answer::Domain;
use crate::forward::Upstreams;
use crate::server::{Responder, serve};
use crate::zone::{Zone, entry};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What the DNS server needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Shared watches.
    pub informers: SharedInformers,
    /// Where to listen, UDP and TCP.
    pub listen: SocketAddr,
    /// The cluster's domain, `cluster.local`.
    pub domain: String,
    /// Whose name servers answer for all other names.
    pub resolv_conf: PathBuf,
}

/// The server could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The domain is not a name.
    #[error("cluster domain {0:?} is not a domain name")]
    Domain(String),
    /// The address is taken or not ours.
    #[error("listen on {address} for DNS")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Serves until told to stop. `on_ready` is called once the zone is complete and the sockets are bound.
pub fn run(config: Config, on_ready: impl FnOnce() + Send + 'static, shutdown: Shutdown) -> Running<Error> {
    Box::pin(run_until(config, Box::new(on_ready), shutdown))
}

async fn run_until(
    config: Config,
    on_ready: Box<dyn FnOnce() + Send>,
    shutdown: Shutdown,
) -> Result<(), Error> {
    let domain = Domain::parse(&config.domain).ok_or_else(|| Error::Domain(config.domain.clone()))?;
    let fail = |source| Error::Listen { address: config.listen, source };
    let tcp = TcpListener::bind(config.listen).await.map_err(fail)?;
    let address = tcp.local_addr().map_err(fail)?;
    let udp = UdpSocket::bind(address).await.map_err(fail)?;
    let upstreams = match tokio::fs::read_to_string(&config.resolv_conf).await {
        Ok(text) => Upstreams::from_resolv_conf(&text, &[address]),
        Err(error) => {
            tracing::warn!(path = %config.resolv_conf.display(), %error, "no upstream name servers");
            Upstreams::default()
        }
    };
    let responder = Arc::new(Responder {
        zone: RwLock::new(Zone::default()),
        domain,
        upstreams,
        server: Some(address.ip()),
    });
    let services = config.informers.of::<Service>();
    let slices = config.informers.of::<EndpointSlice>();
    slices.add_index("service", |slice| owner(slice).map(|key| key.to_string()).into_iter().collect());
    let dirty = Arc::new((Mutex::new(BTreeSet::new()), Notify::new()));
    let mark = dirty.clone();
    services.on_event(move |change| {
        mark.0.lock().insert(ObjectKey::from(change.object().as_ref()));
        mark.1.notify_one();
    });
    let mark = dirty.clone();
    slices.on_event(move |change| {
        if let Some(key) = owner(change.object()) {
            mark.0.lock().insert(key);
            mark.1.notify_one();
        }
    });
    services.synced().await;
    slices.synced().await;
    refresh(&responder, &services, &slices, &dirty.0);
    on_ready();
    let server = serve(udp, tcp, responder.clone(), shutdown.clone());
    let updates = async {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = dirty.1.notified() => refresh(&responder, &services, &slices, &dirty.0),
            }
        }
    };
    tokio::join!(server, updates);
    Ok(())
}

fn refresh(
    responder: &Responder,
    services: &Informer<Service>,
    slices: &Informer<EndpointSlice>,
    dirty: &Mutex<BTreeSet<ObjectKey>>,
) {
    let keys = std::mem::take(&mut *dirty.lock());
    for key in keys {
        let found = slices.by_index("service", &key.to_string());
        let found: Vec<&EndpointSlice> = found.iter().map(AsRef::as_ref).collect();
        let new = services.get(&key).and_then(|service| entry(&service, &found));
        responder.zone.write().set(&key, new.as_ref());
    }
}

fn owner(slice: &EndpointSlice) -> Option<ObjectKey> {
    Some(ObjectKey {
        namespace: slice.metadata.namespace.clone()?,
        name: slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?.clone(),
    })
}
