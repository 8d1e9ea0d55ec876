//! `podium kubelet`: flags and KubeletConfiguration in, a kubelet out.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::Args;
use podium_client::{Client, SharedInformers, Shutdown};
use podium_kubelet::Configuration;
use podium_pki::tls::ServingCertificate;
use podium_pki::{KeyPair, Secret};
use serde_json::Value;

use super::Common;
use crate::certificates::{self, self_signed, serving_names};
use crate::connection::who_am_i;
use crate::daemon::Program;
use crate::node;
use crate::parts::Parts;

mod fields;

use fields::Fields;

/// Flags by upstream's names. What a flag says goes before what files say.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    common: Common,
    /// A KubeletConfiguration of kubelet.config.k8s.io/v1beta1
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of drop-ins, *.conf, which go before the file in the order of their names
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,
    /// Name of this Node [default: the host name]
    #[arg(long, value_name = "NAME")]
    hostname_override: Option<String>,
    /// Address of this node [default: the one the default route leaves by]
    #[arg(long, value_name = "IP")]
    node_ip: Option<IpAddr>,
    /// Directory of pods, volumes and the kubelet's own state
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet")]
    root_dir: PathBuf,
    /// Labels to register with: KEY=VALUE
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = label)]
    node_labels: Vec<(String, String)>,
    /// Directory of certificates that are asked for, with serverTLSBootstrap or rotateCertificates in the configuration
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet/pki")]
    cert_dir: PathBuf,
    /// A CredentialProviderConfig of kubelet.config.k8s.io/v1, or a directory of them
    #[arg(long, value_name = "FILE", requires = "image_credential_provider_bin_dir")]
    image_credential_provider_config: Option<PathBuf>,
    /// Directory of the credential provider programs
    #[arg(long, value_name = "DIR", requires = "image_credential_provider_config")]
    image_credential_provider_bin_dir: Option<PathBuf>,
    #[command(flatten)]
    fields: Fields,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| format!("{text:?} is not a label such as key=value"))?;
    // What a kubelet may set on itself below kubernetes.io. Source: the kubelet's `--node-labels`, and NodeRestriction.
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let reserved = ["kubernetes.io", "k8s.io"];
    let within = |name: &str| domain == name || domain.ends_with(&format!(".{name}"));
    let open = ["kubelet.kubernetes.io", "node.kubernetes.io"].iter().any(|name| within(name));
    let known = [
        "kubernetes.io/hostname",
        "kubernetes.io/arch",
        "kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/instance-type",
        "failure-domain.beta.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
    ];
    if reserved.iter().any(|name| within(name)) && !open && !known.contains(&key) {
        return Err(format!("label {key:?} is not one that a kubelet may set on its own Node"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

pub(crate) fn run(flags: &Flags) -> Result<ExitCode> {
    let documents = documents(flags.config.as_deref(), flags.config_dir.as_deref())?;
    let mut settings =
        Configuration::of(&documents, flags.fields.clone().into_settings()).with_context(|| match &flags
            .config
        {
            Some(path) => format!("--config {}", path.display()),
            None => "flags".to_owned(),
        })?;
    // The pair belongs to whoever runs this; a default that nobody named would be somebody else's runtime.
    let named =
        |documents: &[Value]| documents.iter().any(|one| one.get("containerRuntimeEndpoint").is_some());
    if !named(&documents) && !flags.fields.has("containerRuntimeEndpoint") {
        settings.container_runtime_endpoint.clear();
    }
    super::run(&flags.common.log, &mut Kubelet { flags, settings })
}

/// The file and its drop-ins, in the order that they are merged in.
fn documents(file: Option<&Path>, drop_ins: Option<&Path>) -> Result<Vec<Value>> {
    let mut paths: Vec<PathBuf> = file.map(Path::to_owned).into_iter().collect();
    if let Some(directory) = drop_ins {
        let entries =
            std::fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.with_context(|| format!("read {}", directory.display()))?.path();
            if path.extension().is_some_and(|ending| ending == "conf") {
                found.push(path);
            }
        }
        found.sort();
        paths.extend(found);
    }
    let parse = |path: PathBuf| {
        let text = read(&path)?;
        serde_norway::from_str(&text).with_context(|| format!("{}: not a YAML document", path.display()))
    };
    paths.into_iter().map(parse).collect()
}

struct Kubelet<'a> {
    flags: &'a Flags,
    settings: Configuration,
}

impl Program for Kubelet<'_> {
    type Running = ();

    async fn start(&mut self, parts: &mut Parts) -> Result<()> {
        let (flags, settings) = (self.flags, &self.settings);
        let end = parts.shutdown();
        // Not waited for: what this kubelet runs from files may be the API server.
        let connection = flags.common.open().await?;
        let name = flags.hostname_override.clone().map_or_else(crate::settings::host_name, Ok)?;
        let client = if settings.rotate_certificates {
            certificates::rotating(parts, &connection, &flags.cert_dir, &name)?
        } else {
            connection.client()?
        };
        let ip = flags.node_ip.map_or_else(crate::settings::default_address, Ok)?;
        ensure!(
            !settings.container_runtime_endpoint.is_empty(),
            "--container-runtime-endpoint says where the container runtime is"
        );
        let informers = SharedInformers::new(client.clone(), end.clone());
        let root = flags.root_dir.clone();
        let mut config = podium_kubelet::Config::new(&name, ip, root, settings.clone(), client, informers);
        config.version = podium_api::VERSION.to_owned();
        config.labels = flags.node_labels.iter().cloned().collect::<BTreeMap<_, _>>();
        let ca = settings.authentication.x509.client_ca_file.as_ref();
        let resolver = self.serving(parts, &config.client, &name, ip)?;
        config.serving = Some(podium_kubelet::ServingCertificate {
            resolver,
            client_ca: match ca {
                Some(path) => node::authorities(&read(path)?)?,
                None => connection.authorities()?,
            },
        });
        if let (Some(file), Some(programs)) =
            (&flags.image_credential_provider_config, &flags.image_credential_provider_bin_dir)
        {
            let providers = podium_kubelet::CredentialProviders::read(file, programs);
            config.credential_providers =
                Some(Arc::new(providers.context("--image-credential-provider-config")?));
        }
        let (client, server, until) = (config.client.clone(), connection.server(), end.clone());
        parts.spawn("connection", async move {
        podium_kubelet::apply_to_process(settings);
            say_who(&client, &server, &until).await;
            Ok::<(), Infallible>(())
        });
        parts.spawn("kubelet", podium_kubelet::run(config, end));
        Ok(())
    }

    async fn close(&mut self, _running: Option<()>) {}
}

impl Kubelet<'_> {
    fn serving(
        &self,
        parts: &mut Parts,
        client: &Client,
        name: &str,
        ip: IpAddr,
    ) -> Result<Arc<ServingCertificate>> {
        let (flags, settings) = (self.flags, &self.settings);
        let pair = match (&settings.tls_cert_file, &settings.tls_private_key_file) {
            (Some(certificate), Some(key)) => {
                KeyPair { certificate: read(certificate)?, key: Secret::new(read(key)?) }
            }
            _ if settings.server_tls_bootstrap => {
                return Ok(certificates::serving(parts, client, &flags.cert_dir, name, ip)?.0);
            }
            // Half a pair has been refused with the configuration.
            _ => self_signed(name, &serving_names(name, ip))?,
        };
        Ok(ServingCertificate::new(&pair)?)
    }
}

/// Logs who the API server says that we are, once it answers; ends with everything else.
async fn say_who(client: &Client, server: &str, until: &Shutdown) {
    let Some(answer) = until.run_until_cancelled(who_am_i(client, server)).await else { return };
    match answer {
        Ok(user) => tracing::info!(server, user, "connected"),
        Err(error) => tracing::error!(error = %format!("{error:#}"), "the API server does not let us in"),
    }
    until.cancelled().await;
}

fn read(path: &PathBuf) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_or_refused() {
        for good in
            ["a=b", "a=", "example.com/a=b", "node.kubernetes.io/x=y", "topology.kubernetes.io/zone=z"]
        {
            assert!(label(good).is_ok(), "{good}");
        }
        for wrong in ["a", "node-role.kubernetes.io/control-plane=", "kubernetes.io/x=y", "x.k8s.io/a=b"] {
            assert!(label(wrong).is_err(), "{wrong}");
        }
    }
}
