//! The parts of the control plane whose health ComponentStatuses tell: `controller-manager`, `scheduler` and the store,
//! `etcd-0`, whatever engine it has and of however many servers. Each is asked when it is read.
//!
//! Source: upstream's `pkg/registry/core/componentstatus`, and the list of components in `pkg/registry/core/rest`.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;
use serde_json::{Value, json};

use crate::connect;
use crate::core::Core;

/// The name of the store among the components.
const STORE: &str = "etcd-0";

/// The parts besides this server and its store, and where they are.
#[derive(Clone, Debug)]
pub struct Components {
    /// The controllers.
    pub controller_manager: Part,
    /// The scheduler.
    pub scheduler: Part,
}

impl Components {
    /// Parts that run beside the server and serve their health at their usual ports.
    pub fn beside() -> Components {
        Components { controller_manager: Part::At(10257), scheduler: Part::At(10259) }
    }
}

/// Where a part of the control plane is.
#[derive(Clone, Debug)]
pub enum Part {
    /// In this process. It is well as long as it runs.
    Here(Running),
    /// In another one on this machine, which answers `/healthz` at this port.
    At(u16),
}

/// Whether a part of this process runs.
#[derive(Clone, Debug, Default)]
pub struct Running(Arc<AtomicBool>);

impl Running {
    /// Runs it, and says so until it ends or is dropped.
    pub async fn during<F: Future>(self, part: F) -> F::Output {
        struct Ends<'r>(&'r AtomicBool);
        impl Drop for Ends<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Relaxed);
            }
        }
        self.0.store(true, Ordering::Relaxed);
        let _ends = Ends(&self.0);
        part.await
    }
}

impl Part {
    /// What it says of itself, or why it is not well.
    async fn health(&self) -> Result<String, String> {
        match self {
            Part::Here(running) if running.0.load(Ordering::Relaxed) => Ok("ok".to_owned()),
            Part::Here(_) => Err("not running".to_owned()),
            Part::At(port) => connect::health_at(SocketAddr::from((Ipv4Addr::LOCALHOST, *port))).await,
        }
    }
}

/// The ComponentStatuses of these names.
pub(crate) async fn statuses(core: &Core, wanted: impl Fn(&str) -> bool) -> Vec<Value> {
    let components = &core.config.components;
    let parts =
        [("controller-manager", &components.controller_manager), ("scheduler", &components.scheduler)];
    let wanted_parts = parts.into_iter().filter(|(name, _)| wanted(name));
    let mut statuses =
        join_all(wanted_parts.map(|(name, part)| async { status(name, part.health().await) })).await;
    if wanted(STORE) {
        let health = core.store.fresh().await;
        statuses.push(status(STORE, health.map(|()| "ok".to_owned()).map_err(|error| error.to_string())));
    }
    statuses
}

fn status(name: &str, health: Result<String, String>) -> Value {
    let (status, message) = match health {
        Ok(message) => ("True", message),
        Err(why) => ("False", why),
    };
    json!({
        "kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name},
        "conditions": [{"type": "Healthy", "status": status, "message": message}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_is_well_while_it_runs() {
        let running = Running::default();
        let part = Part::Here(running.clone());
        assert_eq!(part.health().await, Err("not running".to_owned()));
        assert_eq!(running.clone().during(part.health()).await, Ok("ok".to_owned()));
        assert_eq!(part.health().await, Err("not running".to_owned()));
    }

    #[tokio::test]
    async fn a_part_that_does_not_answer_is_not_well() {
        let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let why = Part::At(unused).health().await.unwrap_err();
        assert!(why.starts_with(&format!("Get \"https://127.0.0.1:{unused}/healthz\": ")), "{why}");
    }
}
