//! `podium server`: the API server and its store, alone.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use jiff::Timestamp;
use podium_api::resources::Selection;
use podium_apiserver::components::Components;
use podium_apiserver::{ApiServer, Cidr, KubeletClient, Limits, admission, authentication, reviews};
use podium_client::Shutdown;
use podium_pki::tls::ServingCertificate;
use podium_pki::token::Keys;
use podium_pki::{KeyPair, Pki, Secret, ServerNames};
use podium_store::Store;

use super::Log;
use super::flags::duration;
use crate::cli::Data;
use crate::daemon::Program;
use crate::engine::{Engine, Etcd};
use crate::layout::Layout;
use crate::parts::Parts;

/// Flags by upstream's names. What is not given is made and kept in the data directory.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    log: Log,
    /// Port to listen on
    #[arg(long, value_name = "N", default_value_t = 6443, alias = "secure-port")]
    port: u16,
    /// Address to listen on
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    bind_address: IpAddr,
    /// Address others reach this server at [default: the one the default route leaves by]
    #[arg(long, value_name = "IP")]
    advertise_address: Option<IpAddr>,
    /// More names and addresses for the serving certificate
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    tls_san: Vec<String>,
    /// Addresses of Services
    #[arg(long, value_name = "CIDR", default_value = "10.96.0.0/12")]
    service_cluster_ip_range: Cidr,
    /// Ports of Services on nodes
    #[arg(long, value_name = "FROM-TO", default_value = "30000-32767", value_parser = ports)]
    service_node_port_range: RangeInclusive<u16>,
    /// Versions of the API to turn on or off: group/version=true|false, api/ga, api/beta, api/all
    #[arg(long, value_name = "LIST", default_value = "", hide_default_value = true)]
    runtime_config: Selection,
    /// Features to turn on or off: ClusterTrustBundle and ClusterTrustBundleProjection; others are as they are by default
    #[arg(long, value_name = "LIST")]
    feature_gates: Vec<String>,
    #[command(flatten)]
    etcd: Etcd,
    /// How long events are kept
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    event_ttl: Duration,
    /// Serving certificate [default: one of the cluster's own authority]
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
    /// Authorities of client certificates [default: the cluster's own]
    #[arg(long, value_name = "FILE")]
    client_ca_file: Option<PathBuf>,
    #[command(flatten)]
    proxies: Proxies,
    /// Issuer of service account tokens; the first one is written, all are accepted
    #[arg(long, value_name = "URL", default_value = "https://kubernetes.default.svc.cluster.local")]
    service_account_issuer: Vec<String>,
    /// Audiences that are this server [default: the issuers]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    api_audiences: Vec<String>,
    /// Key that signs service account tokens [default: one of the cluster's own]
    #[arg(long, value_name = "FILE")]
    service_account_signing_key_file: Option<PathBuf>,
    /// More keys that verify them
    #[arg(long, value_name = "FILE")]
    service_account_key_file: Vec<PathBuf>,
    /// Authorities of kubelets' serving certificates [default: the cluster's own]
    #[arg(long, value_name = "FILE")]
    kubelet_certificate_authority: Option<PathBuf>,
    /// Certificate shown to kubelets [default: one of the cluster's own authority]
    #[arg(long, value_name = "FILE", requires = "kubelet_client_key")]
    kubelet_client_certificate: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "kubelet_client_certificate")]
    kubelet_client_key: Option<PathBuf>,
    /// Whether requests without credentials are let in as system:anonymous
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    anonymous_auth: bool,
}

/// Who may speak for others.
#[derive(Clone, Debug, Args)]
struct Proxies {
    /// Authority of front proxies [default: the cluster's own]
    #[arg(long, value_name = "FILE")]
    requestheader_client_ca_file: Option<PathBuf>,
    /// Names that a front proxy's certificate may have; empty for any [default: front-proxy-client]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    requestheader_allowed_names: Option<Vec<String>>,
    /// Headers with the user's name; only X-Remote-User is served
    #[arg(long, value_name = "LIST", default_value = "X-Remote-User")]
    requestheader_username_headers: String,
    /// Headers with the user's groups; only X-Remote-Group is served
    #[arg(long, value_name = "LIST", default_value = "X-Remote-Group")]
    requestheader_group_headers: String,
    /// Beginning of headers with more about the user; only X-Remote-Extra- is served
    #[arg(long, value_name = "LIST", default_value = "X-Remote-Extra-")]
    requestheader_extra_headers_prefix: String,
}

impl Proxies {
    fn check(&self) -> Result<()> {
        for (flag, given, served) in [
            ("--requestheader-username-headers", &self.requestheader_username_headers, "X-Remote-User"),
            ("--requestheader-group-headers", &self.requestheader_group_headers, "X-Remote-Group"),
            (
                "--requestheader-extra-headers-prefix",
                &self.requestheader_extra_headers_prefix,
                "X-Remote-Extra-",
            ),
        ] {
            ensure!(given.eq_ignore_ascii_case(served), "{flag}={given} is not supported: only {served} is");
        }
        Ok(())
    }
}

fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let range = text.split_once('-').and_then(|(from, to)| Some(from.parse().ok()?..=to.parse().ok()?));
    range
        .filter(|range: &RangeInclusive<u16>| !range.is_empty() && *range.start() > 0)
        .ok_or_else(|| format!("{text:?} is not a range of ports such as 30000-32767"))
}

fn read(path: &PathBuf) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

/// Two files as a pair; `None` when they were not given.
fn pair(certificate: Option<&PathBuf>, key: Option<&PathBuf>) -> Result<Option<KeyPair>> {
    let (Some(certificate), Some(key)) = (certificate, key) else { return Ok(None) };
    Ok(Some(KeyPair { certificate: read(certificate)?, key: Secret::new(read(key)?) }))
}

pub(crate) fn run(flags: &Flags) -> Result<ExitCode> {
    flags.proxies.check()?;
    super::run(&flags.log, &mut Server { flags, end: Shutdown::new() })
}

struct Server<'a> {
    flags: &'a Flags,
    end: Shutdown,
}

impl Program for Server<'_> {
    type Running = (ApiServer, Store);

    async fn start(&mut self, _parts: &mut Parts) -> Result<(ApiServer, Store)> {
        let layout = Layout::new(&self.flags.data.data_dir)?;
        podium_pki::files::private_directory(&layout.data)?;
        let config = config(self.flags, &layout, Timestamp::now())?;
        let store = Engine::choose(&self.flags.etcd, &layout).open().await?;
        tracing::info!(revision = store.revision(), "store open");
        let api = ApiServer::start(config, store.clone(), self.end.clone()).await.context("API server")?;
        api.ready().await;
        tracing::info!(address = %api.address(), kubeconfig = %layout.kubeconfig().display(), "ready");
        Ok((api, store))
    }

    async fn close(&mut self, running: Option<(ApiServer, Store)>) {
        self.end.cancel();
        if let Some((api, store)) = running {
            api.wait().await;
            store.close().await;
        }
    }
}

fn config(flags: &Flags, layout: &Layout, now: Timestamp) -> Result<podium_apiserver::Config> {
    let pki = Pki::open(&layout.pki(), now)?;
    let authority = pki.authority().certificate();
    let advertise_address = flags.advertise_address.map_or_else(crate::settings::default_address, Ok)?;
    let given = |path: Option<&PathBuf>, own: &str| path.map_or_else(|| Ok(own.to_owned()), read);
    let serving = match pair(flags.tls_cert_file.as_ref(), flags.tls_private_key_file.as_ref())? {
        Some(pair) => pair,
        None => pki.api_server(&names(flags, advertise_address)?, now)?,
    };
    write_kubeconfig(flags, layout, &pki, now)?;
    let clients = given(flags.client_ca_file.as_ref(), authority)?;
    let proxies =
        given(flags.proxies.requestheader_client_ca_file.as_ref(), pki.proxy_authority().certificate())?;
    let keys = keys(flags, &pki)?;
    let audiences = match flags.api_audiences.as_slice() {
        [] => flags.service_account_issuer.clone(),
        given => given.to_vec(),
    };
    let issuer = flags.service_account_issuer.first().context("--service-account-issuer is empty")?.clone();
    let own_names = || vec!["front-proxy-client".to_owned()];
    Ok(podium_apiserver::Config {
        bind: SocketAddr::new(flags.bind_address, flags.port),
        advertise_address,
        advertise_port: None,
        service_cidr: flags.service_cluster_ip_range,
        node_ports: flags.service_node_port_range.clone(),
        served: flags.runtime_config.clone(),
        features: super::gates::features(&flags.feature_gates.join(",")).map_err(anyhow::Error::msg)?,
        serving: ServingCertificate::new(&serving)?,
        authentication: authentication::Config {
            client_authorities: podium_pki::certificate::from_pem(&clients).context("--client-ca-file")?,
            proxy_authorities: podium_pki::certificate::from_pem(&proxies)
                .context("--requestheader-client-ca-file")?,
            proxy_names: flags.proxies.requestheader_allowed_names.clone().unwrap_or_else(own_names),
            token_keys: Some(Arc::clone(&keys)),
            issuers: flags.service_account_issuer.clone(),
            audiences: audiences.clone(),
            anonymous: flags.anonymous_auth,
        },
        admission: admission::Config::default(),
        issuer: Some(reviews::Issuer { keys, issuer, audiences }),
        kubelet: Some(KubeletClient {
            pair: match pair(flags.kubelet_client_certificate.as_ref(), flags.kubelet_client_key.as_ref())? {
                Some(pair) => pair,
                None => pki.kubelet_client(now)?,
            },
            authority: given(flags.kubelet_certificate_authority.as_ref(), authority)?,
        }),
        client_authority: clients,
        proxy_authority: Some(proxies),
        components: Components::beside(),
        limits: Limits { event_ttl: flags.event_ttl, ..Limits::default() },
        more_metrics: super::healthz::of_process,
    })
}

fn names(flags: &Flags, advertise_address: IpAddr) -> Result<ServerNames> {
    let issuer = flags.service_account_issuer.first().map(String::as_str).unwrap_or_default();
    let domain = issuer.strip_prefix("https://kubernetes.default.svc.").unwrap_or("cluster.local");
    Ok(ServerNames {
        addresses: vec![advertise_address, flags.bind_address],
        service_ip: flags.service_cluster_ip_range.at(1),
        hostname: crate::settings::host_name()?,
        cluster_domain: domain.split(['/', ':']).next().unwrap_or("cluster.local").to_owned(),
        extra: flags.tls_san.clone(),
    })
}

fn keys(flags: &Flags, pki: &Pki) -> Result<Arc<Keys>> {
    let more = flags.service_account_key_file.iter().map(read).collect::<Result<Vec<String>>>()?;
    let own = layout_key(pki.directory());
    let signing = match &flags.service_account_signing_key_file {
        Some(path) => Secret::new(read(path)?),
        None if more.is_empty() => return Ok(pki.token_keys()),
        None => Secret::new(read(&own)?),
    };
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    Ok(Arc::new(Keys::new(&signing, &more).context("--service-account-key-file")?))
}

fn layout_key(directory: &Path) -> PathBuf {
    directory.join("sa.key")
}

/// The administrator's kubeconfig. Only good where the cluster's own authority is believed.
fn write_kubeconfig(flags: &Flags, layout: &Layout, pki: &Pki, now: Timestamp) -> Result<()> {
    let host = match flags.bind_address {
        address if address.is_unspecified() => "127.0.0.1".to_owned(),
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    let url = format!("https://{host}:{}", flags.port);
    let authority = pki.authority().certificate();
    let text = podium_pki::kubeconfig::write("podium", "kubernetes-admin", &url, authority, &pki.admin(now)?);
    Ok(podium_pki::files::write(&layout.kubeconfig(), text.expose().as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    fn flags(line: &str) -> Flags {
        Line::try_parse_from(std::iter::once("server").chain(line.split_whitespace())).unwrap().flags
    }

    #[test]
    fn a_configuration_is_made_of_flags_and_own_files() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path()).unwrap();
        let now = Timestamp::now();
        let line = "--advertise-address 192.0.2.1 --port 7000 --requestheader-allowed-names a,b \
                    --runtime-config networking.k8s.io/v1beta1=true \
                    --feature-gates ClusterTrustBundle=true --feature-gates ClusterTrustBundleProjection=true \
                    --service-cluster-ip-range 10.0.0.0/16 --tls-san api.example.com --event-ttl 1m30s";
        let config = config(&flags(line), &layout, now).unwrap();
        assert_eq!(config.bind.port(), 7000);
        assert_eq!(config.limits.event_ttl, Duration::from_secs(90));
        assert!(config.served.of("networking.k8s.io", "v1beta1").next().is_some());
        assert!(config.features.cluster_trust_bundle && config.features.cluster_trust_bundle_projection);
        assert_eq!(config.authentication.proxy_names, ["a", "b"]);
        assert_eq!(config.service_cidr.to_string(), "10.0.0.0/16");
        let serving = std::fs::read_to_string(layout.pki().join("apiserver.crt")).unwrap();
        let facts =
            podium_pki::certificate::Facts::of(&podium_pki::certificate::from_pem(&serving).unwrap()[0]);
        let names: Vec<String> = facts.unwrap().names.iter().map(ToString::to_string).collect();
        for name in ["api.example.com", "192.0.2.1", "10.0.0.1", "kubernetes.default.svc.cluster.local"] {
            assert!(names.iter().any(|have| have == name), "{name} is missing: {names:?}");
        }
        assert!(layout.kubeconfig().exists());
    }

    #[test]
    fn what_is_not_served_is_refused() {
        assert!(flags("").proxies.check().is_ok());
        let error = flags("--requestheader-username-headers X-User").proxies.check().unwrap_err().to_string();
        assert!(error.contains("only X-Remote-User"), "{error}");
        assert_eq!(ports("1-2"), Ok(1..=2));
        let line = ["server", "--runtime-config", "example.com/v1=true"];
        let error = Line::try_parse_from(line).unwrap_err().to_string();
        assert!(error.contains("unknown api groups example.com"), "{error}");
        for wrong in ["", "1", "2-1", "0-9", "a-b", "1-70000"] {
            assert!(ports(wrong).is_err(), "{wrong}");
        }
    }
}
