//! The drivers' plugins that are registered. A driver may have two for a moment, while it is replaced: the newer one is used.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use podium_plugins::dra::dra_plugin_client::DraPluginClient;
use tokio::{sync::Notify, time::Instant};
use tonic::transport::Channel;

use crate::plugin_manager::PluginHandler;

/// The service this kubelet calls.
const SERVICE: &str = "v1.DRAPlugin";
/// How long a driver has to come back before what it said of this node is taken away, upstream's.
const WIPING_DELAY: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Drivers {
    /// Oldest first.
    plugins: Mutex<BTreeMap<String, Vec<PathBuf>>>,
    /// What is to be taken away when: of one driver, or of all.
    wipes: Mutex<BTreeMap<Option<String>, Instant>>,
    pub(crate) wipes_changed: Notify,
}

impl Drivers {
    /// The plugin of a driver.
    pub(crate) fn client(&self, driver: &str) -> Result<DraPluginClient<Channel>, String> {
        let plugins = self.plugins.lock();
        let newest = plugins.get(driver).and_then(|sockets| sockets.last());
        let socket = newest.ok_or_else(|| format!("DRA driver {driver} is not registered"))?;
        Ok(DraPluginClient::new(podium_plugins::channel(socket)))
    }

    /// Has what drivers said of this node taken away at that time; `None` means what all of them said.
    pub(crate) fn wipe_at(&self, driver: Option<String>, at: Instant) {
        self.wipes.lock().insert(driver, at);
        self.wipes_changed.notify_one();
    }

    /// What is due first.
    pub(crate) fn next_wipe(&self) -> Option<(Option<String>, Instant)> {
        let wipes = self.wipes.lock();
        wipes.iter().min_by_key(|(_, at)| **at).map(|(driver, at)| (driver.clone(), *at))
    }

    /// It was taken away, or is not to be any more.
    pub(crate) fn wiped(&self, driver: Option<&str>) {
        self.wipes.lock().remove(&driver.map(str::to_owned));
    }
}

impl PluginHandler for Drivers {
    fn validate(&self, name: &str, endpoint: &Path, versions: &[String]) -> Result<(), String> {
        let why = if versions.is_empty() {
            "empty list of supported gRPC services (aka supported versions)".to_owned()
        } else if versions.iter().any(|version| version == SERVICE) {
            return Ok(());
        } else {
            format!(
                "none of services supported by the plugin ({versions:?}) are supported by the kubelet ([{SERVICE:?}])"
            )
        };
        Err(format!(
            "invalid supported gRPC versions of DRA driver plugin {name} at endpoint {}: {why}",
            endpoint.display()
        ))
    }

    fn register<'a>(
        &'a self,
        name: &'a str,
        endpoint: &'a Path,
        _: &'a [String],
    ) -> BoxFuture<'a, Result<(), String>> {
        let mut plugins = self.plugins.lock();
        let sockets = plugins.entry(name.to_owned()).or_default();
        let outcome = if sockets.iter().any(|socket| socket == endpoint) {
            Err(format!("endpoint {} already registered for DRA driver plugin {name}", endpoint.display()))
        } else {
            sockets.push(endpoint.to_owned());
            self.wiped(Some(name));
            Ok(())
        };
        Box::pin(std::future::ready(outcome))
    }

    fn deregister(&self, name: &str, endpoint: &Path) {
        let mut plugins = self.plugins.lock();
        let Some(sockets) = plugins.get_mut(name) else { return };
        sockets.retain(|socket| socket != endpoint);
        if sockets.is_empty() {
            plugins.remove(name);
            self.wipe_at(Some(name.to_owned()), Instant::now() + WIPING_DELAY);
        }
    }
}
