//! `podium kubelet`: flags and KubeletConfiguration in, a kubelet out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use k8s_openapi::api::core::v1::Taint;
use podium_client::{Client, SharedInformers};
use podium_pki::tls::ServingCertificate;
use podium_pki::{KeyPair, Secret};

use super::Common;
use crate::certificates::{self, self_signed, serving_names};
use crate::daemon::Program;
use crate::node;
use crate::parts::Parts;

mod configuration;

use configuration::Configuration;

/// Flags by upstream's names. What a flag says goes before what the file says.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    common: Common,
    /// A KubeletConfiguration of kubelet.config.k8s.io/v1beta1
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Name of this Node [default: the host name]
    #[arg(long, value_name = "NAME")]
    hostname_override: Option<String>,
    /// Address of this node [default: the one the default route leaves by]
    #[arg(long, value_name = "IP")]
    node_ip: Option<IpAddr>,
    /// Directory of pods, volumes and the kubelet's own state
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet")]
    root_dir: PathBuf,
    /// CRI socket of the container runtime
    #[arg(long, value_name = "SOCKET")]
    container_runtime_endpoint: Option<String>,
    /// Taints to register with: KEY=VALUE:EFFECT
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = taint)]
    register_with_taints: Vec<Taint>,
    /// Labels to register with: KEY=VALUE
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = label)]
    node_labels: Vec<(String, String)>,
    /// Addresses of this node's pods, where no controller hands out any
    #[arg(long, value_name = "CIDR")]
    pod_cidr: Option<String>,
    /// Address of the cluster's DNS
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    cluster_dns: Vec<IpAddr>,
    /// The cluster's domain
    #[arg(long, value_name = "DOMAIN")]
    cluster_domain: Option<String>,
    /// Port of the kubelet's server [default: 10250]
    #[arg(long, value_name = "N")]
    port: Option<u16>,
    /// Authorities of the kubelet's clients [default: the kubeconfig's certificate-authority]
    #[arg(long, value_name = "FILE")]
    client_ca_file: Option<PathBuf>,
    /// Serving certificate [default: one signed by nobody]
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
    /// Directory of certificates that are asked for, with serverTLSBootstrap in the configuration
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet/pki")]
    cert_dir: PathBuf,
    /// A CredentialProviderConfig of kubelet.config.k8s.io/v1, or a directory of them
    #[arg(long, value_name = "FILE", requires = "image_credential_provider_bin_dir")]
    image_credential_provider_config: Option<PathBuf>,
    /// Directory of the credential provider programs
    #[arg(long, value_name = "DIR", requires = "image_credential_provider_config")]
    image_credential_provider_bin_dir: Option<PathBuf>,
    /// The cgroup below which pods' groups are made
    #[arg(long, value_name = "PATH")]
    cgroup_root: Option<String>,
}

/// `KEY=VALUE:EFFECT` or `KEY:EFFECT`.
fn taint(text: &str) -> Result<Taint, String> {
    let wrong = || format!("{text:?} is not a taint such as key=value:NoSchedule");
    let (left, effect) = text.rsplit_once(':').ok_or_else(wrong)?;
    let (key, value) = left.split_once('=').map_or((left, None), |(key, value)| (key, Some(value)));
    if key.is_empty() || !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
        return Err(wrong());
    }
    Ok(Taint {
        key: key.to_owned(),
        value: value.filter(|value| !value.is_empty()).map(str::to_owned),
        effect: effect.to_owned(),
        time_added: None,
    })
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
    let configuration = match &flags.config {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
            Configuration::parse(&text).with_context(|| format!("--config {}", path.display()))?
        }
        None => Configuration::default(),
    };
    super::run(&flags.common.log, &mut Kubelet { flags, configuration })
}

struct Kubelet<'a> {
    flags: &'a Flags,
    configuration: Configuration,
}

impl Program for Kubelet<'_> {
    type Running = ();

    async fn start(&mut self, parts: &mut Parts) -> Result<()> {
        let (flags, file) = (self.flags, &self.configuration);
        for field in &file.unsupported {
            tracing::warn!(field, "a field of KubeletConfiguration that this kubelet does not follow yet");
        }
        let end = parts.shutdown();
        let connection = flags.common.connect().await?;
        let client = connection.client()?;
        let name = flags.hostname_override.clone().map_or_else(crate::settings::host_name, Ok)?;
        let ip = flags.node_ip.map_or_else(crate::settings::default_address, Ok)?;
        let endpoint = flags.container_runtime_endpoint.as_ref().or(file.container_runtime_endpoint.as_ref());
        let endpoint =
            endpoint.context("--container-runtime-endpoint says where the container runtime is")?;
        let informers = SharedInformers::new(client.clone(), end.clone());
        let mut config =
            podium_kubelet::Config::new(&name, ip, flags.root_dir.clone(), endpoint, client, informers);
        config.version = podium_api::VERSION.to_owned();
        config.pod_logs_dir = file.pod_logs_dir.clone().unwrap_or_else(|| PathBuf::from("/var/log/pods"));
        let ca = flags.client_ca_file.as_ref().or(file.client_ca_file.as_ref());
        let resolver = self.serving(parts, &config.client, &name, ip)?;
        config.serving = Some(podium_kubelet::ServingCertificate {
            resolver,
            client_ca: match ca {
                Some(path) => node::authorities(&read(path)?)?,
                None => connection.authorities()?,
            },
        });
        self.fill(&mut config);
        if let (Some(file), Some(programs)) =
            (&flags.image_credential_provider_config, &flags.image_credential_provider_bin_dir)
        {
            let providers = podium_kubelet::CredentialProviders::read(file, programs);
            config.credential_providers =
                Some(Arc::new(providers.context("--image-credential-provider-config")?));
        }
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
        let (flags, file) = (self.flags, &self.configuration);
        let certificate = flags.tls_cert_file.as_ref().or(file.tls_cert_file.as_ref());
        let key = flags.tls_private_key_file.as_ref().or(file.tls_private_key_file.as_ref());
        let pair = match (certificate, key) {
            (Some(certificate), Some(key)) => {
                KeyPair { certificate: read(certificate)?, key: Secret::new(read(key)?) }
            }
            (None, None) if file.server_tls_bootstrap => {
                return Ok(certificates::serving(parts, client, &flags.cert_dir, name, ip)?.0);
            }
            (None, None) => self_signed(name, &serving_names(name, ip))?,
            _ => bail!("tlsCertFile and tlsPrivateKeyFile belong together"),
        };
        Ok(ServingCertificate::new(&pair)?)
    }

    /// The settings that are values and nothing more.
    fn fill(&self, config: &mut podium_kubelet::Config) {
        let (flags, file) = (self.flags, &self.configuration);
        config.address = file.address.unwrap_or(config.address);
        config.port = flags.port.or(file.port).unwrap_or(config.port);
        config.max_pods = file.max_pods.unwrap_or(config.max_pods);
        config.cluster_dns =
            if flags.cluster_dns.is_empty() { file.cluster_dns.clone() } else { flags.cluster_dns.clone() };
        if let Some(domain) = flags.cluster_domain.as_ref().or(file.cluster_domain.as_ref()) {
            config.cluster_domain.clone_from(domain);
        }
        if let Some(path) = &file.resolv_conf {
            config.resolv_conf.clone_from(path);
        }
        if let Some(root) = flags.cgroup_root.as_ref().or(file.cgroup_root.as_ref()) {
            config.cgroup_root.clone_from(root);
        }
        config.labels = flags.node_labels.iter().cloned().collect::<BTreeMap<_, _>>();
        config.taints = if flags.register_with_taints.is_empty() {
            file.register_with_taints.clone()
        } else {
            flags.register_with_taints.clone()
        };
        config.pod_cidr = flags.pod_cidr.clone().or_else(|| file.pod_cidr.clone());
    }
}

fn read(path: &PathBuf) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

/// Refuses a setting that this kubelet cannot follow, where passing over it would be unsafe.
fn only(fits: bool, field: &str, served: &str) -> Result<()> {
    ensure!(fits, "{field} is not supported: only {served} is");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_and_labels_are_read_or_refused() {
        let read = taint("dedicated=db:NoSchedule").unwrap();
        assert_eq!(
            (read.key.as_str(), read.value.as_deref(), read.effect.as_str()),
            ("dedicated", Some("db"), "NoSchedule")
        );
        assert_eq!(taint("a:NoExecute").unwrap().value, None);
        for wrong in ["a", "a:b", ":NoSchedule", "=v:NoSchedule"] {
            assert!(taint(wrong).is_err(), "{wrong}");
        }
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
