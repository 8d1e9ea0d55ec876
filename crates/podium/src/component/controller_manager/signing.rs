//! `--cluster-signing-*`: which authorities sign which certificate signing requests.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use podium_controllers::Signers;
use podium_pki::{Authority, KeyPair, Secret};

use crate::component::flags::duration;

/// Flags by upstream's names. Either the first two, or the pairs of those signers that are to sign.
#[derive(Debug, Args)]
pub(crate) struct Signing {
    /// Authority that signs certificate signing requests; without it they are not signed
    #[arg(long, value_name = "FILE", requires = "cluster_signing_key_file")]
    cluster_signing_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "cluster_signing_cert_file")]
    cluster_signing_key_file: Option<PathBuf>,
    /// Authority of kubernetes.io/kube-apiserver-client
    #[arg(long, value_name = "FILE", requires = "cluster_signing_kube_apiserver_client_key_file")]
    cluster_signing_kube_apiserver_client_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "cluster_signing_kube_apiserver_client_cert_file")]
    cluster_signing_kube_apiserver_client_key_file: Option<PathBuf>,
    /// Authority of kubernetes.io/kube-apiserver-client-kubelet
    #[arg(long, value_name = "FILE", requires = "cluster_signing_kubelet_client_key_file")]
    cluster_signing_kubelet_client_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "cluster_signing_kubelet_client_cert_file")]
    cluster_signing_kubelet_client_key_file: Option<PathBuf>,
    /// Authority of kubernetes.io/kubelet-serving
    #[arg(long, value_name = "FILE", requires = "cluster_signing_kubelet_serving_key_file")]
    cluster_signing_kubelet_serving_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "cluster_signing_kubelet_serving_cert_file")]
    cluster_signing_kubelet_serving_key_file: Option<PathBuf>,
    /// Authority of kubernetes.io/legacy-unknown
    #[arg(long, value_name = "FILE", requires = "cluster_signing_legacy_unknown_key_file")]
    cluster_signing_legacy_unknown_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "cluster_signing_legacy_unknown_cert_file")]
    cluster_signing_legacy_unknown_key_file: Option<PathBuf>,
    /// The longest that a certificate is good
    #[arg(long, value_name = "DURATION", default_value = "8760h", value_parser = duration)]
    cluster_signing_duration: Duration,
}

impl Signing {
    /// Reads the files.
    pub(crate) fn signers(&self) -> Result<Signers> {
        let general = authority(
            "--cluster-signing-cert-file",
            self.cluster_signing_cert_file.as_ref(),
            self.cluster_signing_key_file.as_ref(),
        )?;
        let own = Signers {
            client: authority(
                "--cluster-signing-kube-apiserver-client-cert-file",
                self.cluster_signing_kube_apiserver_client_cert_file.as_ref(),
                self.cluster_signing_kube_apiserver_client_key_file.as_ref(),
            )?,
            kubelet_client: authority(
                "--cluster-signing-kubelet-client-cert-file",
                self.cluster_signing_kubelet_client_cert_file.as_ref(),
                self.cluster_signing_kubelet_client_key_file.as_ref(),
            )?,
            kubelet_serving: authority(
                "--cluster-signing-kubelet-serving-cert-file",
                self.cluster_signing_kubelet_serving_cert_file.as_ref(),
                self.cluster_signing_kubelet_serving_key_file.as_ref(),
            )?,
            legacy: authority(
                "--cluster-signing-legacy-unknown-cert-file",
                self.cluster_signing_legacy_unknown_cert_file.as_ref(),
                self.cluster_signing_legacy_unknown_key_file.as_ref(),
            )?,
            longest: self.cluster_signing_duration,
        };
        let has_own = [&own.client, &own.kubelet_client, &own.kubelet_serving, &own.legacy]
            .into_iter()
            .any(Option::is_some);
        match general {
            None => Ok(own),
            Some(general) => {
                ensure!(
                    !has_own,
                    "cannot specify --cluster-signing-{{cert,key}}-file and other --cluster-signing-*-file flags at the same time"
                );
                Ok(Signers { longest: own.longest, ..Signers::one(&general) })
            }
        }
    }
}

fn authority(
    flag: &str,
    certificate: Option<&PathBuf>,
    key: Option<&PathBuf>,
) -> Result<Option<Arc<Authority>>> {
    let (Some(certificate), Some(key)) = (certificate, key) else { return Ok(None) };
    let read =
        |path: &PathBuf| std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()));
    let pair = KeyPair { certificate: read(certificate)?, key: Secret::new(read(key)?) };
    Ok(Some(Arc::new(Authority::load(pair).with_context(|| flag.to_owned())?)))
}
