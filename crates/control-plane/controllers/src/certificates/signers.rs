//! Which authority signs for which signer.

use std::sync::Arc;
use std::time::Duration;

use podium_pki::Authority;

use super::decide::{CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY};

/// The authorities. A signer without one leaves its requests alone.
#[derive(Clone, Debug)]
pub struct Signers {
    /// Of `kubernetes.io/kube-apiserver-client`.
    pub client: Option<Arc<Authority>>,
    /// Of `kubernetes.io/kube-apiserver-client-kubelet`.
    pub kubelet_client: Option<Arc<Authority>>,
    /// Of `kubernetes.io/kubelet-serving`.
    pub kubelet_serving: Option<Arc<Authority>>,
    /// Of `kubernetes.io/legacy-unknown`.
    pub legacy: Option<Arc<Authority>>,
    /// The longest a certificate lives. Source: `--cluster-signing-duration`.
    pub longest: Duration,
}

impl Default for Signers {
    fn default() -> Self {
        let longest = Duration::from_secs(365 * 24 * 3600);
        Self { client: None, kubelet_client: None, kubelet_serving: None, legacy: None, longest }
    }
}

impl Signers {
    /// One authority for all of them.
    #[must_use]
    pub fn one(authority: &Arc<Authority>) -> Self {
        let one = || Some(Arc::clone(authority));
        Self {
            client: one(),
            kubelet_client: one(),
            kubelet_serving: one(),
            legacy: one(),
            ..Self::default()
        }
    }

    /// Whether nothing at all is signed.
    pub(crate) fn is_empty(&self) -> bool {
        [CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY].iter().all(|name| self.of(name).is_none())
    }

    /// The authority of the signer of that name.
    pub(crate) fn of(&self, name: &str) -> Option<&Arc<Authority>> {
        match name {
            CLIENT => self.client.as_ref(),
            KUBELET_CLIENT => self.kubelet_client.as_ref(),
            KUBELET_SERVING => self.kubelet_serving.as_ref(),
            LEGACY => self.legacy.as_ref(),
            _ => None,
        }
    }
}
