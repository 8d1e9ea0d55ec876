//! The cluster's PKI directory: which pairs there are, under which names, and when each is made anew.
//!
//! File names are kubeadm's where kubeadm has them, so that people find what they look for.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use crate::authority::{Authority, LEAF_LIFE, Request, Usage};
use crate::certificate::AltName;
use crate::token::{self, Keys};
use crate::{Error, KeyPair, Secret, files};

/// What the API server is called. These names, and no other, are in its certificate: nothing a client sends adds to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerNames {
    /// Addresses clients may use.
    pub addresses: Vec<IpAddr>,
    /// The cluster address of the `kubernetes` Service.
    pub service_ip: IpAddr,
    /// The machine's name.
    pub hostname: String,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// More names or addresses, chosen by the administrator.
    pub extra: Vec<String>,
}

/// What a node is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeNames {
    /// The Node's name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// The certificates of one node.
#[derive(Clone, Debug)]
pub struct NodeCertificates {
    /// The kubelet as client: `system:node:NAME` in `system:nodes`.
    pub client: KeyPair,
    /// The kubelet as server.
    pub serving: KeyPair,
}

/// The directory and the authorities in it.
#[derive(Debug)]
pub struct Pki {
    directory: PathBuf,
    authority: Arc<Authority>,
    proxy_authority: Authority,
    token_keys: Arc<Keys>,
}

impl Pki {
    /// Opens the directory, making what is missing: directory, authorities, token key.
    ///
    /// # Errors
    /// [`Error::HalfPair`] if an authority lost its key; otherwise what reading, writing and parsing may give.
    pub fn open(directory: &Path, now: Timestamp) -> Result<Self, Error> {
        files::private_directory(directory)?;
        let authority = Arc::new(authority(directory, "ca", "kubernetes", now)?);
        let proxy_authority = authority_of_proxies(directory, now)?;
        let key_path = directory.join("sa.key");
        let key = match files::read(&key_path)? {
            Some(key) => Secret::new(key),
            None => {
                let key = token::generate_key()?;
                files::write(&key_path, key.expose().as_bytes())?;
                key
            }
        };
        let token_keys = Arc::new(Keys::new(&key, &[])?);
        let public = token_keys.public_pem();
        let public_path = directory.join("sa.pub");
        if files::read(&public_path)?.as_deref() != Some(public.as_str()) {
            files::write(&public_path, public.as_bytes())?;
        }
        Ok(Pki { directory: directory.to_owned(), authority, proxy_authority, token_keys })
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The authority of the cluster: servers and clients.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The same, to be kept: the signer of certificate signing requests holds on to it.
    pub fn authority_shared(&self) -> Arc<Authority> {
        Arc::clone(&self.authority)
    }

    /// The authority of front proxies (aggregation).
    pub fn proxy_authority(&self) -> &Authority {
        &self.proxy_authority
    }

    /// The keys of service account tokens.
    pub fn token_keys(&self) -> Arc<Keys> {
        Arc::clone(&self.token_keys)
    }

    /// The API server's serving certificate.
    ///
    /// # Errors
    /// What reading, signing and writing may give.
    pub fn api_server(&self, names: &ServerNames, now: Timestamp) -> Result<KeyPair, Error> {
        let request = Request {
            common_name: "kube-apiserver",
            organization: None,
            names: server_alt_names(names),
            usage: Usage::Server,
            life: LEAF_LIFE,
        };
        self.ensure(&self.authority, "apiserver", &request, now)
    }

    /// The administrator: `kubernetes-admin` in `system:masters`.
    ///
    /// # Errors
    /// As [`Pki::client`].
    pub fn admin(&self, now: Timestamp) -> Result<KeyPair, Error> {
        self.client("admin", "kubernetes-admin", Some("system:masters"), now)
    }

    /// The API server as client of kubelets; RBAC grants this user what it needs there.
    ///
    /// # Errors
    /// As [`Pki::client`].
    pub fn kubelet_client(&self, now: Timestamp) -> Result<KeyPair, Error> {
        self.client("apiserver-kubelet-client", "kube-apiserver-kubelet-client", Some("system:masters"), now)
    }

    /// The API server as front proxy to aggregated servers.
    ///
    /// # Errors
    /// As [`Pki::client`].
    pub fn front_proxy_client(&self, now: Timestamp) -> Result<KeyPair, Error> {
        let request = client_request("front-proxy-client", None);
        self.ensure(&self.proxy_authority, "front-proxy-client", &request, now)
    }

    /// A client certificate kept in `FILE.crt` and `FILE.key`.
    ///
    /// # Errors
    /// What reading, signing and writing may give.
    pub fn client(
        &self,
        file: &str,
        user: &str,
        group: Option<&str>,
        now: Timestamp,
    ) -> Result<KeyPair, Error> {
        self.ensure(&self.authority, file, &client_request(user, group), now)
    }

    /// Both certificates of a node, in `nodes/NAME/`.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a name that is no DNS subdomain (it becomes a path); otherwise as [`Pki::client`].
    pub fn node(&self, names: &NodeNames, now: Timestamp) -> Result<NodeCertificates, Error> {
        if !is_node_name(&names.name) {
            return Err(Error::Malformed {
                what: "node name".to_owned(),
                detail: "it is not a DNS subdomain".to_owned(),
            });
        }
        let directory = self.directory.join("nodes").join(&names.name);
        files::private_directory(&directory)?;
        let user = format!("system:node:{}", names.name);
        let mut alt_names: BTreeSet<AltName> = names.addresses.iter().copied().map(AltName::Ip).collect();
        alt_names.insert(AltName::Dns(names.name.clone()));
        let serving = Request {
            common_name: &user,
            organization: Some("system:nodes"),
            names: alt_names,
            usage: Usage::Server,
            life: LEAF_LIFE,
        };
        let prefix = format!("nodes/{}", names.name);
        Ok(NodeCertificates {
            client: self.client(&format!("{prefix}/kubelet-client"), &user, Some("system:nodes"), now)?,
            serving: self.ensure(&self.authority, &format!("{prefix}/kubelet-server"), &serving, now)?,
        })
    }

    /// The stored pair if it still serves, else a new one, stored.
    fn ensure(
        &self,
        authority: &Authority,
        file: &str,
        request: &Request<'_>,
        now: Timestamp,
    ) -> Result<KeyPair, Error> {
        let certificate_path = self.directory.join(format!("{file}.crt"));
        let key_path = self.directory.join(format!("{file}.key"));
        if let (Some(certificate), Some(key)) = (files::read(&certificate_path)?, files::read(&key_path)?) {
            let pair = KeyPair { certificate, key: Secret::new(key) };
            if serves(&pair, authority, request, now) {
                return Ok(pair);
            }
        }
        let pair = authority.issue(request, now)?;
        // Key first: a crash between the two leaves a pair that does not match and is made anew (see `serves`).
        files::write(&key_path, pair.key.expose().as_bytes())?;
        files::write(&certificate_path, pair.certificate.as_bytes())?;
        Ok(pair)
    }
}

/// Whether a stored pair is what `request` asks for, signed by this authority, its key its own, and not near its end.
fn serves(pair: &KeyPair, authority: &Authority, request: &Request<'_>, now: Timestamp) -> bool {
    let Ok(facts) = pair.facts() else { return false };
    facts.common_name == request.common_name
        && facts.organizations.iter().map(String::as_str).eq(request.organization)
        && facts.names == request.names
        && !facts.renewal_due(now)
        && signed_by(pair, authority)
        && key_matches(pair)
}

fn signed_by(pair: &KeyPair, authority: &Authority) -> bool {
    use x509_parser::prelude::{FromDer as _, X509Certificate};
    let (Ok(leaf), Ok(issuer)) = (pair.chain(), authority.pair().chain()) else { return false };
    let (Ok((_, leaf)), Ok((_, issuer))) =
        (X509Certificate::from_der(&leaf[0]), X509Certificate::from_der(&issuer[0]))
    else {
        return false;
    };
    leaf.verify_signature(Some(issuer.public_key())).is_ok()
}

fn key_matches(pair: &KeyPair) -> bool {
    let (Ok(chain), Ok(key)) = (pair.chain(), pair.key_der()) else { return false };
    rustls::sign::CertifiedKey::from_der(chain, key, &crate::tls::provider())
        .is_ok_and(|k| k.keys_match().is_ok())
}

fn client_request<'a>(user: &'a str, group: Option<&'a str>) -> Request<'a> {
    Request {
        common_name: user,
        organization: group,
        names: BTreeSet::new(),
        usage: Usage::Client,
        life: LEAF_LIFE,
    }
}

/// kubeadm's names for the API server, and the administrator's.
fn server_alt_names(names: &ServerNames) -> BTreeSet<AltName> {
    let domain = &names.cluster_domain;
    let mut all: BTreeSet<AltName> = [
        "localhost",
        &names.hostname,
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        &format!("kubernetes.default.svc.{domain}"),
    ]
    .iter()
    .filter(|name| !name.is_empty())
    .map(|&name| AltName::Dns(name.to_owned()))
    .collect();
    all.extend(names.addresses.iter().copied().filter(|a| !a.is_unspecified()).map(AltName::Ip));
    all.insert(AltName::Ip(names.service_ip));
    all.insert(AltName::Ip(Ipv4Addr::LOCALHOST.into()));
    for extra in &names.extra {
        all.insert(match extra.parse() {
            Ok(address) => AltName::Ip(address),
            Err(_) => AltName::Dns(extra.clone()),
        });
    }
    all
}

fn is_node_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}

fn authority_of_proxies(directory: &Path, now: Timestamp) -> Result<Authority, Error> {
    authority(directory, "front-proxy-ca", "front-proxy-ca", now)
}

/// The stored authority, or a new one if there is neither certificate nor key.
fn authority(directory: &Path, file: &str, common_name: &str, now: Timestamp) -> Result<Authority, Error> {
    let certificate_path = directory.join(format!("{file}.crt"));
    let key_path = directory.join(format!("{file}.key"));
    match (files::read(&certificate_path)?, files::read(&key_path)?) {
        (Some(certificate), Some(key)) => Authority::load(KeyPair { certificate, key: Secret::new(key) }),
        // Died between the two writes below: nothing was ever signed with it, because the certificate comes last.
        (None, Some(_) | None) => {
            let authority = Authority::generate(common_name, now)?;
            files::write(&key_path, authority.pair().key.expose().as_bytes())?;
            files::write(&certificate_path, authority.certificate().as_bytes())?;
            Ok(authority)
        }
        (Some(_), None) => Err(Error::HalfPair { present: certificate_path, missing: key_path }),
    }
}

#[cfg(test)]
mod tests;
