//! Static pods from a URL, which is asked again and again: one pod, or a PodList, in YAML or JSON.
//!
//! Until the first answer nobody knows what should run, so nothing of what runs may be cleared away. After that the pods of
//! the last good answer stay, whatever goes wrong.
//!
//! Source: `pkg/kubelet/config/http.go` of v1.36. Otherwise than there: an answer that could not be used is tried anew when
//! it comes again; headers, which may be secrets, do not follow a redirect to another host or out of TLS; no proxy is used.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use podium_client::{ObjectKey, error_chain};
use podium_pki::tls::provider;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{MAX_BYTES, Origin, StaticPodError, decode, is_kind, read_object};
use crate::{
    http_get::{HttpTarget, MAX_REDIRECTS, once},
    pod,
};

/// The longest wait for an answer, upstream's.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// What servers see as the client.
const AGENT: &str = "kubelet/1.36";

/// Why there are no pods to be had from a URL.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UrlError {
    #[error("Get {url:?}: {why}")]
    Get { url: String, why: String },
    #[error("{url}: {status}")]
    Status { url: String, status: StatusCode },
    /// Upstream's kubelet takes that as no pods at all, and complains.
    #[error("zero-length data received from {0}")]
    Empty(String),
    #[error("{url}: received something that is neither a pod nor a list of pods")]
    Pods {
        url: String,
        #[source]
        source: StaticPodError,
    },
}

/// The URL, and what was last read from it.
#[derive(Debug)]
pub(crate) struct UrlSource {
    url: String,
    target: HttpTarget,
    node: String,
    trust: Arc<ClientConfig>,
    /// The last answer that was used.
    used: Option<Bytes>,
    failure: Option<String>,
}

impl UrlSource {
    /// A source that believes the certificates that this machine believes. None if the URL is none, which was checked with
    /// the configuration.
    pub(crate) fn new(url: &str, headers: &BTreeMap<String, Vec<String>>, node: &str) -> Option<Self> {
        let each = |(name, values): (&String, &Vec<String>)| {
            values.iter().map(|value| (name.clone(), value.clone())).collect::<Vec<_>>()
        };
        let target = HttpTarget::of(url, headers.iter().flat_map(each).collect())?;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Self {
            trust: trust(roots),
            url: url.to_owned(),
            target,
            node: node.to_owned(),
            used: None,
            failure: None,
        }
        .into()
    }

    /// Asks once; gives the pods, or None if the answer was the last one again.
    async fn read(&mut self) -> Result<Option<Vec<Arc<Pod>>>, UrlError> {
        let body = match tokio::time::timeout(ANSWER_LIMIT, self.get()).await {
            Ok(body) => body?,
            Err(_) => return Err(self.failed("context deadline exceeded")),
        };
        if self.used.as_ref() == Some(&body) {
            return Ok(None);
        }
        if body.is_empty() {
            self.used = None;
            return Err(UrlError::Empty(self.url.clone()));
        }
        let (url, node, text) = (self.url.clone(), self.node.clone(), body.clone());
        // Ten megabytes of YAML take their time.
        let parsing = tokio::task::spawn_blocking(move || parse_all(&text, &url, &node));
        let pods = parsing.await.unwrap_or_else(|error| Err(StaticPodError::Parse(error.to_string())));
        let pods = pods.map_err(|source| UrlError::Pods { url: self.url.clone(), source })?;
        self.used = Some(body);
        Ok(Some(pods.into_iter().map(Arc::new).collect()))
    }

    async fn get(&self) -> Result<Bytes, UrlError> {
        let mut target = self.target.clone();
        for _ in 0..MAX_REDIRECTS {
            let answer =
                once(&target, AGENT, MAX_BYTES, &self.trust).await.map_err(|why| self.failed(&why))?;
            if let Some(mut next) = answer.redirect(&target) {
                if next.host != self.target.host || target.https && !next.https {
                    next.headers.clear();
                }
                target = next;
                continue;
            }
            if answer.status != StatusCode::OK {
                return Err(UrlError::Status { url: self.url.clone(), status: answer.status });
            }
            return answer.body.map_err(|why| self.failed(&why));
        }
        Err(self.failed(&format!("stopped after {MAX_REDIRECTS} redirects")))
    }

    fn failed(&self, why: &str) -> UrlError {
        UrlError::Get { url: self.url.clone(), why: why.to_owned() }
    }

    /// Asks once and tells of the pods if they are others. A failure is logged when it is a new one.
    async fn round(&mut self, pods: &watch::Sender<Option<Vec<Arc<Pod>>>>) {
        let (found, failure) = match self.read().await {
            Ok(found) => (found, None),
            Err(error @ UrlError::Empty(_)) => (Some(Vec::new()), Some(error_chain(&error))),
            Err(error) => (None, Some(error_chain(&error))),
        };
        match (&failure, &self.failure) {
            (Some(error), known) if Some(error) != known.as_ref() => {
                tracing::warn!(error, "static pods cannot be read from their URL");
            }
            (None, Some(_)) => tracing::info!(url = self.url, "static pods are read from their URL again"),
            _ => {}
        }
        self.failure = failure;
        if found.is_some() {
            pods.send_if_modified(|known| {
                let changed = *known != found;
                *known = found;
                changed
            });
        }
    }

    /// Tells of the pods whenever they are others; the value is None until the first answer. Pauses between questions.
    pub(crate) async fn follow(mut self, pods: watch::Sender<Option<Vec<Arc<Pod>>>>, pause: Duration) {
        loop {
            self.round(&pods).await;
            tokio::time::sleep(pause).await;
        }
    }
}

fn trust(roots: RootCertStore) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring supports the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// The pods of an answer, all of them or none.
fn parse_all(body: &[u8], url: &str, node: &str) -> Result<Vec<Pod>, StaticPodError> {
    let text = std::str::from_utf8(body).map_err(|error| StaticPodError::Parse(error.to_string()))?;
    let mut object = decode(text)?;
    let items = object.get_mut("items").map_or(Value::Null, Value::take);
    let objects = match items {
        _ if is_kind(&object, "Pod") => vec![object],
        Value::Array(items) if is_kind(&object, "PodList") => items,
        Value::Null if is_kind(&object, "PodList") => Vec::new(),
        _ => return Err(StaticPodError::Parse("neither a Pod nor a PodList of v1".to_owned())),
    };
    let mut pods: Vec<Pod> = Vec::new();
    for mut object in objects {
        // Items of a list need not say what they are.
        for (field, value) in [("apiVersion", "v1"), ("kind", "Pod")] {
            if object.is_object() && object[field].is_null() {
                object[field] = json!(value);
            }
        }
        if !is_kind(&object, "Pod") {
            return Err(StaticPodError::Parse("not a Pod of v1".to_owned()));
        }
        let pod = read_object(object, Origin::Url(url), node)?;
        let key = ObjectKey::of(&pod);
        if pods.iter().any(|other| ObjectKey::of(other) == key) {
            return Err(StaticPodError::Invalid(format!("metadata.name: Duplicate value: {:?}", key.name)));
        }
        if pods.iter().any(|other| pod::uid(other) == pod::uid(&pod)) {
            return Err(StaticPodError::Invalid(format!(
                "metadata.uid: Duplicate value: {:?}",
                pod::uid(&pod)
            )));
        }
        pods.push(pod);
    }
    Ok(pods)
}

#[cfg(test)]
mod tests;
