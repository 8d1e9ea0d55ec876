//! Where things lie below the data directory, and the few that must lie elsewhere.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The data directory of a cluster whose user named none.
pub(crate) const DEFAULT_DATA_DIR: &str = "/var/lib/podium";

/// All paths of one cluster on one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// The data directory, absolute.
    pub(crate) data: PathBuf,
    /// What distinguishes this cluster from others on the machine: empty for the default directory, otherwise four
    /// hexadecimal digits of its path's hash.
    pub(crate) tag: String,
}

impl Layout {
    pub(crate) fn new(data_dir: &Path) -> std::io::Result<Self> {
        let data = std::path::absolute(data_dir)?;
        let tag = if data == Path::new(DEFAULT_DATA_DIR) {
            String::new()
        } else {
            let digest = Sha256::digest(data.as_os_str().as_encoded_bytes());
            digest[..2].iter().map(|byte| format!("{byte:02x}")).collect()
        };
        Ok(Layout { data, tag })
    }

    fn tagged(&self, name: &str) -> String {
        if self.tag.is_empty() { name.to_owned() } else { format!("{name}-{}", self.tag) }
    }

    /// Sockets and other things that do not outlive a boot. Not below the data directory: a socket's path has 107 bytes.
    pub(crate) fn run(&self) -> PathBuf {
        Path::new("/run").join(self.tagged("podium"))
    }

    pub(crate) fn settings(&self) -> PathBuf {
        self.data.join("cluster.json")
    }

    /// Of a node that has joined another's cluster.
    pub(crate) fn node_settings(&self) -> PathBuf {
        self.data.join("node.json")
    }

    pub(crate) fn pid_file(&self) -> PathBuf {
        self.run().join("podium.pid")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.data.join("podium.log")
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.data.join("kubeconfig")
    }

    pub(crate) fn pki(&self) -> PathBuf {
        self.data.join("pki")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.data.join("store")
    }

    pub(crate) fn kubelet(&self) -> PathBuf {
        self.data.join("kubelet")
    }

    pub(crate) fn pod_logs(&self) -> PathBuf {
        self.data.join("pod-logs")
    }

    pub(crate) fn addresses(&self) -> PathBuf {
        self.data.join("network/addresses")
    }

    /// Routes to other nodes that we made.
    pub(crate) fn routes(&self) -> PathBuf {
        self.data.join("network/routes")
    }

    pub(crate) fn cni_configuration(&self) -> PathBuf {
        self.data.join("cni/net.d")
    }

    pub(crate) fn cni_plugins(&self) -> PathBuf {
        self.data.join("cni/bin")
    }

    pub(crate) fn containerd(&self) -> PathBuf {
        self.data.join("containerd")
    }

    pub(crate) fn containerd_socket(&self) -> PathBuf {
        self.run().join("containerd.sock")
    }

    /// Podium's own container runtime answers here.
    pub(crate) fn runtime_socket(&self) -> PathBuf {
        self.run().join("cri.sock")
    }

    /// The bridge of the pod network; the kernel allows 15 characters.
    pub(crate) fn bridge(&self) -> String {
        if self.tag.is_empty() { "podium0".to_owned() } else { format!("podium{}", self.tag) }
    }

    pub(crate) fn network_table(&self) -> String {
        self.tagged("podium-pods")
    }

    pub(crate) fn proxy_table(&self) -> String {
        self.tagged("podium-services")
    }

    /// The cgroup that holds all pods of this cluster.
    pub(crate) fn cgroup_root(&self) -> String {
        format!("/{}", self.tagged("podium"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_on_one_machine_share_no_name() {
        let default = Layout::new(Path::new(DEFAULT_DATA_DIR)).unwrap();
        let other = Layout::new(Path::new("/srv/b")).unwrap();
        assert_eq!(default.bridge(), "podium0");
        assert_eq!(default.run(), Path::new("/run/podium"));
        for pair in [
            (default.bridge(), other.bridge()),
            (default.network_table(), other.network_table()),
            (default.proxy_table(), other.proxy_table()),
            (default.cgroup_root(), other.cgroup_root()),
            (default.run().display().to_string(), other.run().display().to_string()),
        ] {
            assert_ne!(pair.0, pair.1);
        }
        assert!(other.bridge().len() <= 15);
        assert_eq!(other, Layout::new(Path::new("/srv/b")).unwrap());
    }
}
