//! `podium kubelet`: flags and KubeletConfiguration in, a kubelet out.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

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
    /// Who says this node's addresses: nobody but the kubelet, or `external`, a cloud's controller
    #[arg(long, value_name = "NAME", default_value = "", value_parser = cloud_provider)]
    cloud_provider: String,
    /// Used by nothing: nodes join by --kubeconfig. Taken while that file is there, as upstream's kubelet takes it
    #[arg(long, value_name = "FILE")]
    bootstrap_kubeconfig: Option<PathBuf>,
    /// Used by nothing: the container runtime says what sandboxes are made of
    #[arg(long, value_name = "IMAGE")]
    pod_infra_container_image: Option<String>,
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
    dead: DeadContainers,
    #[command(flatten)]
    fields: Fields,
}

/// How much of containers that have ended is kept.
#[derive(Clone, Debug, Args)]
struct DeadContainers {
    /// How old an ended container is at least before it is removed
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = super::flags::duration)]
    minimum_container_ttl_duration: Duration,
    /// Ended runs that are kept of each container; less than none: all
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    maximum_dead_containers_per_container: i32,
    /// Ended containers that are kept on the whole node; less than none: all
    #[arg(long, value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    maximum_dead_containers: i32,
}

impl DeadContainers {
    fn policy(&self) -> podium_kubelet::ContainerGcPolicy {
        podium_kubelet::ContainerGcPolicy {
            min_age: self.minimum_container_ttl_duration,
            per_container: usize::try_from(self.maximum_dead_containers_per_container).ok(),
            total: usize::try_from(self.maximum_dead_containers).ok(),
        }
    }
}

fn cloud_provider(text: &str) -> Result<String, String> {
    match text {
        "" | "external" => Ok(text.to_owned()),
        other => Err(format!("there is no cloud provider {other:?} within the kubelet: only \"external\"")),
    }
}

/// The address that was named, if one was: 0.0.0.0 asks for that of the default route, as upstream has it.
fn named_address(node_ip: Option<IpAddr>) -> Result<Option<IpAddr>> {
    ensure!(
        node_ip != Some(IpAddr::from([0u16; 8])),
        "--node-ip :: is not supported: give the address itself"
    );
    Ok(node_ip.filter(|ip| !ip.is_unspecified()))
}

/// What was given for a kubelet that starts with less than ours.
fn check_bootstrap(flags: &Flags) -> Result<()> {
    let (bootstrap, kubeconfig) = (&flags.bootstrap_kubeconfig, &flags.common.kubeconfig);
    ensure!(
        bootstrap.is_none() || kubeconfig.exists(),
        "--bootstrap-kubeconfig is not supported: there is no {}, and no bootstrap tokens to get one by",
        kubeconfig.display()
    );
    Ok(())
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
    check_bootstrap(flags)?;
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
        podium_kubelet::apply_to_process(settings);
        let end = parts.shutdown();
        // Not waited for: what this kubelet runs from files may be the API server.
        let connection = flags.common.open().await?;
        let name = flags.hostname_override.clone().map_or_else(crate::settings::host_name, Ok)?;
        let client = if settings.rotate_certificates {
            certificates::rotating(parts, &connection, &flags.cert_dir, &name)?
        } else {
            connection.renewed_client(parts)?
        };
        let named = named_address(flags.node_ip)?;
        let ip = named.map_or_else(crate::settings::default_address, Ok)?;
        ensure!(
            !settings.container_runtime_endpoint.is_empty(),
            "--container-runtime-endpoint says where the container runtime is"
        );
        let informers = SharedInformers::new(client.clone(), end.clone());
        let root = flags.root_dir.clone();
        let mut config = podium_kubelet::Config::new(&name, ip, root, settings.clone(), client, informers);
        if flags.cloud_provider == "external" {
            config.cloud = podium_kubelet::Cloud::External {
                bootstrap: flags.node_ip.is_some(),
                provided: named.is_some(),
            };
        }
        if let Some(image) = &flags.pod_infra_container_image {
            tracing::info!(
                image,
                "--pod-infra-container-image has no effect: it is the container runtime's to choose"
            );
        }
        config.version = podium_api::VERSION.to_owned();
        config.process_metrics = super::healthz::of_process;
        config.flags = super::zpages::flags::<Flags>(std::env::args_os().skip(1));
        config.container_gc = flags.dead.policy();
        config.service_manager = crate::node::service_manager()?;
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

    #[derive(Debug, clap::Parser)]
    struct Alone {
        #[command(flatten)]
        flags: Flags,
    }

    fn parse(flags: &[&str]) -> Result<Flags, String> {
        let words = ["kubelet", "--kubeconfig=/proc/self/status"].iter().chain(flags);
        <Alone as clap::Parser>::try_parse_from(words)
            .map(|alone| alone.flags)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn flags_of_kubeadm_and_k3s() {
        // As /var/lib/kubelet/kubeadm-flags.env and kubeadm's unit have them, and k3s's agent.
        let flags = parse(&[
            "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf",
            "--container-runtime-endpoint=unix:///run/containerd/containerd.sock",
            "--pod-infra-container-image=registry.k8s.io/pause:3.10",
            "--cloud-provider=external",
            "--hostname-override=n1",
            "--node-ip=10.0.0.1",
            "--node-labels=a=b,c=d",
            "--register-with-taints=node-role.kubernetes.io/control-plane=:NoSchedule",
            "--config-dir=/etc/kubelet.d",
            "--read-only-port=0",
        ])
        .unwrap();
        assert_eq!((flags.cloud_provider.as_str(), flags.node_labels.len()), ("external", 2));
        assert!(check_bootstrap(&flags).is_ok(), "the kubeconfig is there");
        let settings = Configuration::of(&[], flags.fields.into_settings()).unwrap();
        assert_eq!(settings.register_with_taints[0].key, "node-role.kubernetes.io/control-plane");
        let policy =
            parse(&["--maximum-dead-containers=-1", "--minimum-container-ttl-duration=1m"]).unwrap().dead;
        let expected = podium_kubelet::ContainerGcPolicy {
            min_age: Duration::from_secs(60),
            ..podium_kubelet::ContainerGcPolicy::default()
        };
        assert_eq!(policy.policy(), expected);
        let refused = parse(&["--cloud-provider=aws"]).unwrap_err();
        assert!(refused.contains("there is no cloud provider \"aws\""), "{refused}");
        assert_eq!(parse(&[]).unwrap().cloud_provider, "");
        let flags = parse(&["--bootstrap-kubeconfig=/b"]).unwrap();
        let common = Common { kubeconfig: "/nonexistent/kubelet.conf".into(), ..flags.common };
        let refused = check_bootstrap(&Flags { common, ..flags }).unwrap_err().to_string();
        assert!(refused.contains("no /nonexistent/kubelet.conf"), "{refused}");
    }

    #[test]
    fn addresses_that_are_named() {
        let named = |text: &str| named_address(Some(text.parse().unwrap()));
        assert_eq!(named("10.0.0.1").unwrap(), Some(IpAddr::from([10, 0, 0, 1])));
        assert_eq!(named("0.0.0.0").unwrap(), None);
        assert_eq!(named_address(None).unwrap(), None);
        assert!(named("::").is_err());
    }

    #[test]
    fn drop_ins_are_merged_in_the_order_of_their_names() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, most: u32| {
            let text = format!(
                "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: {most}\n"
            );
            std::fs::write(directory.path().join(name), text).unwrap();
        };
        write("20-b.conf", 2);
        write("10-a.conf", 1);
        write("30-c.yaml", 3);
        let documents = documents(None, Some(directory.path())).unwrap();
        assert_eq!(Configuration::of(&documents, []).unwrap().max_pods, 2);
        assert!(super::documents(None, Some(Path::new("/nonexistent"))).is_err());
    }

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
