//! How a node gets its certificates: it makes keys, asks the API for certificates, and keeps both below its data directory.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use podium_client::{Api, Client, Exchange, exchangeable};
use podium_pki::authority::{LEAF_LIFE, Request, Usage};
use podium_pki::certificate::AltName;
use podium_pki::tls::ServingCertificate;
use podium_pki::{Authority, KeyPair, NewRequest, Secret};
use tokio::sync::watch;

use crate::connection::Connection;
use crate::parts::Parts;

/// How long an answer may take before the request is made again.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a pending request is looked at. A node without a certificate may not watch, and this happens once.
const LOOK: Duration = Duration::from_millis(100);

/// How often certificates are looked at, and how long after a failed try the next one is made.
const RENEWAL: Duration = Duration::from_secs(6 * 3600);
const AGAIN: Duration = Duration::from_secs(10);

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// To be known to the API server as the node.
    Client,
    /// To be known to the API server's calls to the kubelet.
    Serving,
}

impl Purpose {
    fn signer(self) -> &'static str {
        match self {
            Purpose::Client => "kubernetes.io/kube-apiserver-client-kubelet",
            Purpose::Serving => "kubernetes.io/kubelet-serving",
        }
    }

    fn usage(self) -> &'static str {
        match self {
            Purpose::Client => "client auth",
            Purpose::Serving => "server auth",
        }
    }

    fn file(self) -> &'static str {
        match self {
            Purpose::Client => "kubelet-client",
            Purpose::Serving => "kubelet-server",
        }
    }
}

/// The names a node's serving certificate holds.
pub(crate) fn serving_names(node: &str, ip: IpAddr) -> BTreeSet<AltName> {
    BTreeSet::from([AltName::Dns(node.to_owned()), AltName::Ip(ip)])
}

/// The pair kept in `directory`, if it is still good for these names.
pub(crate) fn kept(
    directory: &Path,
    purpose: Purpose,
    node: &str,
    names: &BTreeSet<AltName>,
) -> Option<KeyPair> {
    let read = |ending: &str| {
        podium_pki::files::read(&directory.join(format!("{}.{ending}", purpose.file()))).ok().flatten()
    };
    let pair = KeyPair { certificate: read("crt")?, key: Secret::new(read("key")?) };
    let facts = pair.facts().ok()?;
    let good = facts.common_name == format!("system:node:{node}")
        && facts.names == *names
        && !facts.renewal_due(Timestamp::now())
        // A crash between the two files leaves a key of another certificate.
        && ServingCertificate::new(&pair).is_ok();
    good.then_some(pair)
}

/// Asks for a certificate of the node, waits until it is issued, and keeps it.
pub(crate) async fn obtain(
    client: &Client,
    directory: &Path,
    purpose: Purpose,
    node: &str,
    names: &BTreeSet<AltName>,
) -> Result<KeyPair> {
    let new = NewRequest::new(&format!("system:node:{node}"), "system:nodes", names)?;
    let api = Api::<CertificateSigningRequest>::all(client.clone());
    let request = CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some("csr-".to_owned()), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: k8s_openapi::ByteString(new.request.into_bytes()),
            signer_name: purpose.signer().to_owned(),
            usages: Some(vec!["digital signature".to_owned(), purpose.usage().to_owned()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    let created = api.create(&PostParams::default(), &request).await.context("ask for a certificate")?;
    let name = created.metadata.name.context("the request has no name")?;
    let issued = tokio::time::timeout(PATIENCE, issued(&api, &name)).await;
    let certificate = issued.with_context(|| {
        format!("certificate signing request {name} is still pending: `kubectl certificate approve {name}` approves it")
    })??;
    let pair = KeyPair { certificate, key: new.key };
    // Also sees that the key fits.
    ServingCertificate::new(&pair).context("the issued certificate")?;
    podium_pki::files::private_directory(directory)?;
    let write = |ending: &str, text: &str| {
        podium_pki::files::write(&directory.join(format!("{}.{ending}", purpose.file())), text.as_bytes())
    };
    write("key", pair.key.expose())?;
    write("crt", &pair.certificate)?;
    Ok(pair)
}

async fn issued(api: &Api<CertificateSigningRequest>, name: &str) -> Result<String> {
    loop {
        let status = api.get(name).await.context("look at the certificate signing request")?.status;
        let status = status.unwrap_or_default();
        for condition in status.conditions.iter().flatten() {
            if matches!(condition.type_.as_str(), "Denied" | "Failed") {
                let why = condition.message.clone().unwrap_or_default();
                bail!("certificate signing request {name}: {}: {why}", condition.type_);
            }
        }
        if let Some(certificate) = status.certificate.filter(|bytes| !bytes.0.is_empty()) {
            return String::from_utf8(certificate.0).context("the issued certificate is no text");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A serving certificate of the node that is asked for and renewed, in whose place one signed by nobody stands until it comes.
/// The channel becomes true once it is there.
pub(crate) fn serving(
    parts: &mut Parts,
    client: &Client,
    directory: &Path,
    name: &str,
    ip: IpAddr,
) -> Result<(Arc<ServingCertificate>, watch::Receiver<bool>)> {
    let names = serving_names(name, ip);
    let kept = kept(directory, Purpose::Serving, name, &names);
    let (issued, seen) = watch::channel(kept.is_some());
    let pair = match kept {
        Some(kept) => kept,
        None => self_signed(name, &names)?,
    };
    let serving = ServingCertificate::new(&pair)?;
    let (resolver, client, end) = (serving.clone(), client.clone(), parts.shutdown());
    let (directory, name) = (directory.to_owned(), name.to_owned());
    parts.spawn("serving certificate", async move {
        let keep = keep_serving(&client, &directory, &name, &names, &resolver, &issued);
        end.run_until_cancelled(keep).await;
        Ok::<(), Infallible>(())
    });
    Ok((serving, seen))
}

/// A client that is known by a certificate of its own, which is renewed while it is used. Until there is one it is known by the
/// connection's credentials, and asks by them.
pub(crate) fn rotating(
    parts: &mut Parts,
    connection: &Connection,
    directory: &Path,
    name: &str,
) -> Result<Client> {
    let first = match kept(directory, Purpose::Client, name, &BTreeSet::new()) {
        Some(pair) => connection.client_by(&pair)?,
        None => connection.client()?,
    };
    let (client, exchange) = exchangeable(first);
    let (asking, connection, end) = (client.clone(), connection.clone(), parts.shutdown());
    let (directory, name) = (directory.to_owned(), name.to_owned());
    parts.spawn("client certificate", async move {
        let keep = keep_client(&asking, &connection, &directory, &name, &exchange);
        end.run_until_cancelled(keep).await;
        Ok::<(), Infallible>(())
    });
    Ok(client)
}

async fn keep_client(
    client: &Client,
    connection: &Connection,
    directory: &Path,
    name: &str,
    exchange: &Exchange,
) {
    loop {
        if kept(directory, Purpose::Client, name, &BTreeSet::new()).is_none() {
            let renewed = async {
                let pair = obtain(client, directory, Purpose::Client, name, &BTreeSet::new()).await?;
                exchange.replace(connection.client_by(&pair)?);
                anyhow::Ok(())
            };
            if let Err(error) = renewed.await {
                tracing::warn!(error = %format!("{error:#}"), "no new client certificate for the node");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            tracing::info!(name, "the node's client certificate is new");
        }
        tokio::time::sleep(RENEWAL).await;
    }
}

async fn keep_serving(
    client: &Client,
    directory: &Path,
    name: &str,
    names: &BTreeSet<AltName>,
    serving: &ServingCertificate,
    issued: &watch::Sender<bool>,
) {
    loop {
        if kept(directory, Purpose::Serving, name, names).is_none() {
            let renewed = async {
                let pair = obtain(client, directory, Purpose::Serving, name, names).await?;
                serving.replace(&pair).context("use the new certificate")
            };
            if let Err(error) = renewed.await {
                tracing::warn!(error = %format!("{error:#}"), "no serving certificate for the kubelet");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            issued.send_replace(true);
        }
        tokio::time::sleep(RENEWAL).await;
    }
}

/// A pair signed by nobody that anyone knows, as upstream's kubelet makes one for itself.
pub(crate) fn self_signed(name: &str, names: &BTreeSet<AltName>) -> Result<KeyPair> {
    let now = Timestamp::now();
    let authority = Authority::generate(&format!("{name}-ca"), now)?;
    let request = Request {
        common_name: name,
        organization: None,
        names: names.clone(),
        usage: Usage::Server,
        life: LEAF_LIFE,
    };
    Ok(authority.issue(&request, now)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use podium_pki::{NodeNames, Pki};

    #[test]
    fn a_kept_pair_is_used_while_it_fits() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::open(&directory.path().join("pki"), Timestamp::now()).unwrap();
        let ip: IpAddr = "192.0.2.2".parse().unwrap();
        let names = NodeNames { name: "n".to_owned(), addresses: vec![ip] };
        let pair = pki.node(&names, Timestamp::now()).unwrap().serving;
        let own = directory.path().join("own");
        let names = serving_names("n", ip);
        assert!(kept(&own, Purpose::Serving, "n", &names).is_none());
        std::fs::create_dir(&own).unwrap();
        std::fs::write(own.join("kubelet-server.crt"), &pair.certificate).unwrap();
        std::fs::write(own.join("kubelet-server.key"), pair.key.expose()).unwrap();
        assert!(kept(&own, Purpose::Serving, "n", &names).is_some());
        assert!(kept(&own, Purpose::Client, "n", &names).is_none());
        assert!(kept(&own, Purpose::Serving, "m", &names).is_none());
        assert!(
            kept(&own, Purpose::Serving, "n", &serving_names("n", "192.0.2.3".parse().unwrap())).is_none()
        );
        let other = pki.admin(Timestamp::now()).unwrap();
        std::fs::write(own.join("kubelet-server.key"), other.key.expose()).unwrap();
        assert!(kept(&own, Purpose::Serving, "n", &names).is_none());
    }
}
