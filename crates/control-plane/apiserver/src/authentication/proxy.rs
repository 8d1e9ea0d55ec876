//! Front proxies: clients whose certificate lets them say in headers whom they speak for.
//!
//! Source: `apiserver/pkg/authentication/request/headerrequest`, with the header names that everybody uses.

use std::collections::BTreeMap;

use http::HeaderMap;
use rustls_pki_types::CertificateDer;

use super::certificates::{Peer, Verifier};
use super::{User, impersonation};

/// Who may speak for others.
#[derive(Debug)]
pub struct FrontProxies {
    /// `None` where nobody may.
    certificates: Option<Verifier>,
    names: Vec<String>,
}

impl FrontProxies {
    /// Those with a certificate of one of the authorities and one of the common names; without names, any of them.
    pub fn new(authorities: Vec<CertificateDer<'static>>, names: Vec<String>) -> Self {
        let certificates = (!authorities.is_empty()).then(|| Verifier::new(authorities));
        FrontProxies { certificates, names }
    }

    /// The user that a proxy vouches for in the headers. Without a proxy's certificate the headers mean nothing.
    pub fn user(&self, peer: &Peer, headers: &HeaderMap, now: jiff::Timestamp) -> Option<User> {
        let certificates = self.certificates.as_ref().filter(|_| headers.contains_key("x-remote-user"))?;
        let proxy = certificates.verify_peer(peer, now).ok()?;
        if !self.names.is_empty() && !self.names.contains(&proxy.name) {
            return None;
        }
        let text =
            |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let all = |name: &str| -> Vec<String> {
            headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect()
        };
        let name = text("x-remote-user");
        if name.is_empty() {
            return None;
        }
        let mut user =
            User { name, uid: text("x-remote-uid"), groups: all("x-remote-group"), extra: BTreeMap::new() };
        for key in headers.keys() {
            if let Some(rest) = key.as_str().strip_prefix("x-remote-extra-") {
                user.extra.insert(impersonation::unescape(rest), all(key.as_str()));
            }
        }
        user.add_authenticated();
        Some(user)
    }
}
