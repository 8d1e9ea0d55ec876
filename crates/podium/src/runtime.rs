//! Which container runtime a cluster uses: podium's own, in the daemon; a containerd of its own; or one that runs already.

use anyhow::{Context, Result, bail};
use podium_client::Shutdown;
use podium_runtime::Systemd;

use crate::containerd::Containerd;
use crate::layout::Layout;

/// What `--container-runtime-endpoint` says for podium's own runtime.
pub(crate) const PODIUM: &str = "podium";
/// And for a containerd of the cluster's own.
pub(crate) const CONTAINERD: &str = "containerd";

/// A runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// In the daemon.
    Podium,
    /// A process beside it.
    Containerd,
    /// Somebody else's.
    Other(String),
}

impl Choice {
    /// What a cluster's or a node's settings say. Those that say nothing are older than the choice, and their pods are
    /// containerd's.
    pub(crate) fn of(endpoint: Option<&str>) -> Self {
        match endpoint {
            Some(PODIUM) => Self::Podium,
            None | Some(CONTAINERD) => Self::Containerd,
            Some(endpoint) => Self::Other(endpoint.to_owned()),
        }
    }

    /// Its CRI endpoint.
    pub(crate) fn endpoint(&self, layout: &Layout) -> String {
        match self {
            Self::Podium => format!("unix://{}", layout.runtime_socket().display()),
            Self::Containerd => Containerd::new(layout).endpoint(),
            Self::Other(endpoint) => endpoint.clone(),
        }
    }

    /// Who makes the cgroups of containers, by the kubelet's `cgroupDriver`; None: the runtime, or one that is somebody else's
    /// decides.
    ///
    /// # Errors
    /// systemd should, and cannot.
    pub(crate) fn systemd(&self, driver: &str) -> Result<Option<Systemd>> {
        match self {
            _ if driver != "systemd" => Ok(None),
            Self::Podium => Ok(Some(Systemd::of_machine()?)),
            Self::Containerd => {
                bail!("cgroupDriver systemd: the containerd that podium starts uses cgroupfs")
            }
            Self::Other(_) => Ok(None),
        }
    }
}

/// How podium's own runtime is started for a cluster.
pub(crate) fn config(layout: &Layout) -> podium_runtime::Config {
    podium_runtime::Config {
        root: layout.data.join("runtime"),
        run: layout.run(),
        socket: layout.runtime_socket(),
        cni_configuration: layout.cni_configuration(),
        cni_plugins: layout.cni_plugins(),
        registries: layout.data.join("registries"),
        cdi: podium_runtime::CDI_DIRECTORIES.map(Into::into).to_vec(),
        handlers: layout.data.join("runtime.toml"),
        // Who stops pods need not know how their groups were made: an empty scope ends by itself.
        systemd: None,
        gives_networks_up: false,
        version: podium_api::VERSION.trim_start_matches('v').to_owned(),
    }
}

/// Whether the cluster has pods that no daemon looks after now.
pub(crate) fn has_pods(layout: &Layout) -> bool {
    Containerd::new(layout).running().is_some() || has_shims(layout)
}

/// Whether there are pods of podium's own runtime: their shims listen without a daemon.
pub(crate) fn has_shims(layout: &Layout) -> bool {
    let shims = std::fs::read_dir(layout.run().join("s"));
    shims.is_ok_and(|mut sockets| sockets.any(|socket| socket.is_ok()))
}

/// Serves podium's own runtime while `work` is done with it: for a cluster whose daemon has ended.
pub(crate) async fn meanwhile<T>(
    config: podium_runtime::Config,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let end = Shutdown::new();
    let (tell, told) = tokio::sync::oneshot::channel();
    let ready = move || _ = tell.send(());
    let serving = podium_runtime::run(config, ready, end.clone());
    let working = async {
        let outcome = match told.await {
            Ok(()) => work.await,
            Err(_) => Err(anyhow::anyhow!("the container runtime did not start")),
        };
        end.cancel();
        outcome
    };
    let (served, outcome) = tokio::join!(serving, working);
    served.context("the container runtime")?;
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_without_a_runtime_are_older_than_the_choice() {
        for (endpoint, expected) in [
            (None, Choice::Containerd),
            (Some("containerd"), Choice::Containerd),
            (Some("podium"), Choice::Podium),
            (Some("unix:///run/x.sock"), Choice::Other("unix:///run/x.sock".to_owned())),
        ] {
            assert_eq!(Choice::of(endpoint), expected);
        }
    }

    #[test]
    fn systemd_makes_groups_only_where_it_is() {
        for choice in [Choice::Podium, Choice::Containerd, Choice::Other("unix:///run/x.sock".to_owned())] {
            assert_eq!(choice.systemd("cgroupfs").unwrap(), None);
        }
        assert_eq!(Choice::Other("unix:///run/x.sock".to_owned()).systemd("systemd").unwrap(), None);
        let refused = Choice::Containerd.systemd("systemd").unwrap_err().to_string();
        assert_eq!(refused, "cgroupDriver systemd: the containerd that podium starts uses cgroupfs");
        match (Choice::Podium.systemd("systemd"), std::path::Path::new("/run/systemd/system").is_dir()) {
            (Ok(systemd), here) => assert!(systemd.is_some() && here),
            (Err(error), here) => {
                assert!(!here);
                assert!(error.to_string().contains("systemd is not the init of this machine"), "{error}");
                assert_eq!(error.to_string().lines().count(), 1);
            }
        }
    }
}
