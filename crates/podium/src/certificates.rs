//! How a node gets its certificates: it makes keys, asks the API for certificates, and keeps both below its data directory.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use podium_client::{Api, Client, exchangeable};
use podium_pki::authority::{LEAF_LIFE, Request, Usage};
use podium_pki::certificate::AltName;
use podium_pki::tls::ServingCertificate;
use podium_pki::{Authority, KeyPair, NewRequest, Secret};
use tokio::sync::watch;

use crate::connection::Connection;
use crate::parts::Parts;

/// How long a person who joins a node waits for an answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How long a daemon waits before it makes another request: where nobody approves, each one lies there for a day. Upstream's
/// `certificateWaitTimeout`.
const LONG_PATIENCE: Duration = Duration::from_secs(15 * 60);
/// How soon a pending request is looked at first, and how rarely in the end. A node without a certificate may not watch.
const FIRST_LOOK: Duration = Duration::from_millis(100);
const LAST_LOOK: Duration = Duration::from_secs(10);

/// How often certificates are looked at at least, and how long after a failed try the next one is made.
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
    let pair = read(directory, purpose)?;
    let facts = pair.facts().ok()?;
    let good = facts.common_name == format!("system:node:{node}")
        && facts.names == *names
        && !facts.renewal_due(Timestamp::now())
        // Of two files one may be of another pair.
        && ServingCertificate::new(&pair).is_ok();
    good.then_some(pair)
}

/// Both in one file, so that no crash leaves a key without its certificate: the old pair is what the next one is asked by.
fn path(directory: &Path, purpose: Purpose) -> PathBuf {
    directory.join(format!("{}.pem", purpose.file()))
}

fn read(directory: &Path, purpose: Purpose) -> Option<KeyPair> {
    let read = |path: &Path| podium_pki::files::read(path).ok().flatten();
    if let Some(text) = read(&path(directory, purpose)) {
        let (key, certificate) = text.split_at(text.find("-----BEGIN CERTIFICATE-----")?);
        return Some(KeyPair { certificate: certificate.to_owned(), key: Secret::new(key.to_owned()) });
    }
    // As earlier versions kept them.
    let part = |ending: &str| read(&directory.join(format!("{}.{ending}", purpose.file())));
    Some(KeyPair { certificate: part("crt")?, key: Secret::new(part("key")?) })
}

fn keep(directory: &Path, purpose: Purpose, pair: &KeyPair) -> Result<()> {
    podium_pki::files::private_directory(directory)?;
    let text = format!("{}\n{}", pair.key.expose().trim_end(), pair.certificate);
    Ok(podium_pki::files::write(&path(directory, purpose), text.as_bytes())?)
}

/// How long until a pair is to be renewed: some live for less than an hour. A moment at least: one that is issued when it is
/// due, by an authority or a clock that is nearly over, must not be asked for without a pause.
fn until_due(pair: &KeyPair, now: Timestamp) -> Duration {
    let Ok(facts) = pair.facts() else { return AGAIN };
    let whole = facts.not_after.as_second() - facts.not_before.as_second();
    let due = facts.not_after.as_second() - whole / 5 - now.as_second();
    Duration::from_secs(u64::try_from(due).unwrap_or(0)).clamp(AGAIN, RENEWAL)
}

/// Asks for a certificate of the node, waits until it is issued, and keeps it.
pub(crate) async fn obtain(
    client: &Client,
    directory: &Path,
    purpose: Purpose,
    node: &str,
    names: &BTreeSet<AltName>,
    patience: Duration,
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
    let issued = tokio::time::timeout(patience, issued(&api, &name)).await;
    let certificate = issued.with_context(|| {
        format!("certificate signing request {name} is still pending: `kubectl certificate approve {name}` approves it")
    })??;
    let pair = KeyPair { certificate, key: new.key };
    // Also sees that the key fits.
    ServingCertificate::new(&pair).context("the issued certificate")?;
    keep(directory, purpose, &pair)?;
    Ok(pair)
}

async fn issued(api: &Api<CertificateSigningRequest>, name: &str) -> Result<String> {
    let mut look = FIRST_LOOK;
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
        tokio::time::sleep(look).await;
        look = (look * 2).min(LAST_LOOK);
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
        let take = |pair: &KeyPair| {
            resolver.replace(pair).context("use the new certificate")?;
            issued.send_replace(true);
            Ok(())
        };
        let keep = keep_fresh(&client, &directory, Purpose::Serving, &name, &names, take);
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
        let take = |pair: &KeyPair| {
            exchange.replace(connection.client_by(pair)?);
            Ok(())
        };
        let none = BTreeSet::new();
        let keep = keep_fresh(&asking, &directory, Purpose::Client, &name, &none, take);
        end.run_until_cancelled(keep).await;
        Ok::<(), Infallible>(())
    });
    Ok(client)
}

/// Has a certificate renewed when it is due, for as long as this is polled. `take` puts a new one to use.
async fn keep_fresh(
    client: &Client,
    directory: &Path,
    purpose: Purpose,
    name: &str,
    names: &BTreeSet<AltName>,
    take: impl Fn(&KeyPair) -> Result<()>,
) {
    loop {
        let renew = async {
            let pair = obtain(client, directory, purpose, name, names, LONG_PATIENCE).await?;
            take(&pair)?;
            tracing::info!(name, ?purpose, "the node has a new certificate");
            anyhow::Ok(pair)
        };
        let pair = match kept(directory, purpose, name, names) {
            Some(pair) => Ok(pair),
            None => renew.await,
        };
        let wait = pair.map(|pair| until_due(&pair, Timestamp::now())).unwrap_or_else(|error| {
            tracing::warn!(?purpose, error = %format!("{error:#}"), "no new certificate for the node");
            AGAIN
        });
        tokio::time::sleep(wait).await;
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
        // One file of both comes before the two.
        keep(&own, Purpose::Serving, &pair).unwrap();
        let found = kept(&own, Purpose::Serving, "n", &names).unwrap();
        assert_eq!(
            (found.certificate.trim(), found.key.expose().trim()),
            (pair.certificate.trim(), pair.key.expose().trim())
        );
    }

    #[test]
    fn short_lives_are_renewed_in_time() {
        let now = Timestamp::now();
        let authority = Authority::generate("ca", now).unwrap();
        let issue = |life| {
            let request = Request {
                common_name: "n",
                organization: None,
                names: BTreeSet::new(),
                usage: Usage::Client,
                life,
            };
            authority.issue(&request, now).unwrap()
        };
        let year = Duration::from_secs(365 * 24 * 3600);
        assert_eq!(until_due(&issue(year), now), RENEWAL);
        let hour = until_due(&issue(Duration::from_secs(3600)), now).as_secs();
        assert!((40 * 60..=48 * 60).contains(&hour), "{hour}");
        assert_eq!(until_due(&issue(year), now + year), AGAIN);
    }
}
