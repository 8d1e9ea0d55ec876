//! What the clusters and nodes on one machine keep for themselves: ports and address ranges, published under `/run` until a
//! reset or the machine's end, so that the next one keeps out of their way, also while they are stopped.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::layout::Layout;

/// Held while a start chooses and publishes: two that chose at the same time would choose the same.
const LOCK: &str = "/run/podium.lock";
/// Where kubelets listen that cannot have the usual port. Below the range that outgoing connections take their ports from.
const OTHER_PORTS: std::ops::Range<u16> = 20_250..20_750;

/// What one of them keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Claim {
    pub(crate) kubelet_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pod_cidr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service_cidr: Option<String>,
    /// Its data directory. Without that it is no cluster any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<PathBuf>,
    /// The network namespace it runs in: in another one all ports and ranges are free again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) network_namespace: Option<u64>,
}

/// What others keep here, and the right to choose.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    others: Vec<Claim>,
    _lock: Option<Flock<File>>,
}

impl Claims {
    /// Waits for whoever is choosing now. The right ends with the value.
    pub(crate) fn lock(layout: &Layout) -> Result<Self> {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(LOCK)
            .with_context(|| format!("open {LOCK}"))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| errno)
            .with_context(|| format!("lock {LOCK}"))?;
        Ok(Claims { others: read(Path::new("/run"), &layout.run()), _lock: Some(lock) })
    }

    /// Takes back what clusters keep here whose data directories are gone: they were killed and then deleted instead of
    /// reset. `forget` takes away what else is left of one; where it cannot, the claim stays.
    pub(crate) fn reclaim(&mut self, forget: impl Fn(&Layout) -> Result<()>) {
        self.others.retain(|claim| {
            let Some(data) = claim.data.as_ref().filter(|data| matches!(data.try_exists(), Ok(false))) else {
                return true;
            };
            let outcome = Layout::new(data).map_err(Into::into).and_then(|layout| forget(&layout));
            if let Err(error) = &outcome {
                eprintln!("podium: the cluster that was in {} is left as it is: {error:#}", data.display());
            }
            outcome.is_err()
        });
    }

    #[cfg(test)]
    pub(crate) fn of(others: Vec<Claim>) -> Self {
        Claims { others, _lock: None }
    }

    pub(crate) fn pod_cidrs(&self) -> impl Iterator<Item = &str> + Clone {
        self.others.iter().filter_map(|claim| claim.pod_cidr.as_deref())
    }

    pub(crate) fn service_cidrs(&self) -> impl Iterator<Item = &str> + Clone {
        self.others.iter().filter_map(|claim| claim.service_cidr.as_deref())
    }

    /// Tells the others what was chosen, and lets the next one choose.
    pub(crate) fn publish(self, layout: &Layout, mut own: Claim) -> Result<()> {
        own.network_namespace = network_namespace();
        own.data = Some(layout.data.clone());
        let text = format!("{:#}\n", serde_json::to_value(own)?);
        Ok(podium_pki::files::write(&layout.run().join("cluster.json"), text.as_bytes())?)
    }

    /// `preferred`, or another port when somebody listens there or may do so any moment.
    pub(crate) fn kubelet_port(&self, preferred: u16) -> Result<u16> {
        let is_free = |port: &u16| {
            !self.others.iter().any(|claim| claim.kubelet_port == *port)
                && TcpListener::bind(("0.0.0.0", *port)).is_ok()
        };
        std::iter::once(preferred).chain(OTHER_PORTS).find(is_free).with_context(|| {
            format!(
                "no free port for the kubelet: {preferred} and {} to {} are taken",
                OTHER_PORTS.start,
                OTHER_PORTS.end - 1
            )
        })
    }
}

fn network_namespace() -> Option<u64> {
    std::fs::metadata("/proc/self/ns/net").ok().map(|metadata| metadata.ino())
}

/// The claims of all but `own` that were made since the machine started.
fn read(run: &Path, own: &Path) -> Vec<Claim> {
    let here = network_namespace();
    let Ok(entries) = std::fs::read_dir(run) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("podium") && entry.path() != own)
        .filter_map(|entry| {
            serde_json::from_slice::<Claim>(&std::fs::read(entry.path().join("cluster.json")).ok()?).ok()
        })
        .filter(|claim| claim.network_namespace.is_none() || claim.network_namespace == here)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_another_has_claimed_or_listens_on_is_not_chosen() {
        let listener = TcpListener::bind(("0.0.0.0", 0)).unwrap();
        let taken = listener.local_addr().unwrap().port();
        let nobody = Claims::default();
        let port = nobody.kubelet_port(taken).unwrap();
        assert!(OTHER_PORTS.contains(&port), "{port}");
        // Nobody listens on it, but its owner may start any moment.
        let claimed = Claims::of(vec![Claim { kubelet_port: port, ..Claim::default() }]);
        assert_ne!(claimed.kubelet_port(port).unwrap(), port);
    }

    #[test]
    fn what_deleted_clusters_kept_is_taken_back() {
        let there = tempfile::tempdir().unwrap();
        let gone = there.path().join("gone");
        let claim = |name: &str, data: Option<&Path>| Claim {
            pod_cidr: Some(name.to_owned()),
            data: data.map(Path::to_owned),
            ..Claim::default()
        };
        let all =
            [claim("there", Some(there.path())), claim("older", None), claim("gone", Some(&gone))].to_vec();
        let mut claims = Claims::of(all);
        claims.reclaim(|_| anyhow::bail!("its pods still run"));
        assert_eq!(claims.pod_cidrs().count(), 3);
        let forgotten = std::cell::RefCell::new(Vec::new());
        claims.reclaim(|layout| {
            forgotten.borrow_mut().push(layout.data.clone());
            Ok(())
        });
        assert_eq!(forgotten.into_inner(), [gone]);
        assert_eq!(claims.pod_cidrs().collect::<Vec<_>>(), ["there", "older"]);
    }

    #[test]
    fn only_claims_of_others_in_this_network_count() {
        let run = tempfile::tempdir().unwrap();
        let here = network_namespace();
        for (name, namespace) in
            [("podium", here), ("podium-aaaa", here), ("podium-bbbb", Some(1)), ("other", here)]
        {
            let directory = run.path().join(name);
            std::fs::create_dir(&directory).unwrap();
            let claim = Claim {
                pod_cidr: Some(format!("of {name}")),
                network_namespace: namespace,
                ..Claim::default()
            };
            std::fs::write(directory.join("cluster.json"), serde_json::to_vec(&claim).unwrap()).unwrap();
        }
        std::fs::create_dir(run.path().join("podium-cccc")).unwrap();
        let others = Claims::of(read(run.path(), &run.path().join("podium")));
        assert_eq!(others.pod_cidrs().collect::<Vec<_>>(), ["of podium-aaaa"]);
    }
}
