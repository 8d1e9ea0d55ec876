//! What a credential plugin learns of a pod's service account: a token for its audience, and chosen annotations.
//!
//! Source: KEP-4412; `pkg/credentialprovider/plugin` of v1.36.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::{Api, Client};
use podium_api::kinds::validate::qualified_name;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::{images::verification::PullServiceAccount, pod, tokens::Tokens, volumes::payload::TokenRef};

/// What the API server gives tokens where nothing else is asked for.
const TOKEN_SECONDS: i64 = 3600;

/// `tokenAttributes` of a provider.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TokenAttributes {
    #[serde(default)]
    service_account_token_audience: String,
    #[serde(default)]
    cache_type: String,
    require_service_account: Option<bool>,
    #[serde(default)]
    required_service_account_annotation_keys: Vec<String>,
    #[serde(default)]
    optional_service_account_annotation_keys: Vec<String>,
}

impl TokenAttributes {
    /// What is wrong with them, by field; in upstream's words.
    pub(super) fn fault(&self) -> Option<String> {
        let (required, optional) =
            (&self.required_service_account_annotation_keys, &self.optional_service_account_annotation_keys);
        if self.service_account_token_audience.is_empty() {
            return Some("serviceAccountTokenAudience: Required value".to_owned());
        }
        match self.require_service_account {
            None => return Some("requireServiceAccount: Required value".to_owned()),
            Some(false) if !required.is_empty() => {
                return Some(
                    "requiredServiceAccountAnnotationKeys: Forbidden: requireServiceAccount cannot be false when \
                     requiredServiceAccountAnnotationKeys is set"
                        .to_owned(),
                );
            }
            Some(_) => {}
        }
        let keys = [
            ("requiredServiceAccountAnnotationKeys", required),
            ("optionalServiceAccountAnnotationKeys", optional),
        ];
        for (field, keys) in keys {
            let mut seen = BTreeSet::new();
            for key in keys {
                if let Some(fault) = qualified_name(&key.to_lowercase()).first() {
                    return Some(format!("{field}: Invalid value: {key:?}: {fault}"));
                }
                if !seen.insert(key) {
                    return Some(format!("{field}: Duplicate value: {key:?}"));
                }
            }
        }
        if let Some(both) = required.iter().find(|key| optional.contains(key)) {
            return Some(format!(
                "Invalid value: [{both:?}]: annotation keys cannot be both required and optional"
            ));
        }
        match self.cache_type.as_str() {
            "ServiceAccount" | "Token" => None,
            "" => Some(
                "cacheType: Required value: cacheType is required to be set when tokenAttributes is specified. Supported \
                 values are: ServiceAccount, Token"
                    .to_owned(),
            ),
            other => Some(format!(
                "cacheType: Unsupported value: {other:?}: supported values: \"ServiceAccount\", \"Token\""
            )),
        }
    }

    /// Whether answers are kept for one token only. If not, an answer must not be the token.
    pub(super) fn is_per_token(&self) -> bool {
        self.cache_type == "Token"
    }
}

/// A pod's service account as one plugin sees it.
pub(super) struct Account {
    pub(super) token: String,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) coordinates: PullServiceAccount,
}

impl Account {
    /// What an answer is kept by, beside what the plugin says.
    pub(super) fn key(&self, attributes: &TokenAttributes) -> AccountKey {
        let PullServiceAccount { uid, namespace, name } = self.coordinates.clone();
        // Of the token only a hash: keys live longer than it.
        let token = attributes.is_per_token().then(|| Sha256::digest(&self.token).into());
        AccountKey { namespace, name, uid, annotations: self.annotations.clone(), token }
    }
}

/// Answers of one account, or one token, are not for another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct AccountKey {
    namespace: String,
    name: String,
    uid: String,
    annotations: BTreeMap<String, String>,
    token: Option<[u8; 32]>,
}

/// How a plugin is asked for one pod.
pub(super) enum Asked {
    /// Without an account.
    Plainly,
    As(Account),
    /// Not at all: the account is not one of those that the plugin is for.
    Not,
}

/// Why nothing can be told of an account.
#[derive(Debug, thiserror::Error)]
pub(super) enum AccountError {
    #[error("failed to get service account")]
    Account(#[source] kube::Error),
    #[error("failed to get service account token")]
    Token(#[source] kube::Error),
}

/// Service accounts of pods, and their tokens for plugins.
pub(crate) struct Accounts {
    client: Client,
    /// Apart from those in volumes, which are renewed before they end: here nobody holds one.
    tokens: Tokens,
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Accounts")
    }
}

impl Accounts {
    pub(crate) fn new(client: Client) -> Self {
        Self { tokens: Tokens::new(client.clone()), client }
    }

    /// Forgets a pod's tokens.
    pub(crate) fn forget(&self, uid: &str) {
        self.tokens.forget(uid);
    }

    /// How a plugin with these attributes is asked for the pod.
    pub(super) async fn asked(&self, pod: &Pod, attributes: &TokenAttributes) -> Result<Asked, AccountError> {
        let name =
            pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or_default();
        if name.is_empty() {
            // A static pod, for one, has none.
            let needs = attributes.require_service_account == Some(true);
            return Ok(if needs { Asked::Not } else { Asked::Plainly });
        }
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), pod::namespace(pod));
        let account = api.get(name).await.map_err(AccountError::Account)?;
        let uid = account.metadata.uid.unwrap_or_default();
        let known = account.metadata.annotations.unwrap_or_default();
        let mut annotations = BTreeMap::new();
        for key in &attributes.required_service_account_annotation_keys {
            // By this an account says that it is for the plugin.
            let Some(value) = known.get(key) else { return Ok(Asked::Not) };
            annotations.insert(key.clone(), value.clone());
        }
        for key in &attributes.optional_service_account_annotation_keys {
            annotations.extend(known.get(key).map(|value| (key.clone(), value.clone())));
        }
        let wanted = TokenRef {
            audience: attributes.service_account_token_audience.clone(),
            expiration_seconds: TOKEN_SECONDS,
            account_uid: uid.clone(),
        };
        let token = self.tokens.get(pod, &wanted, Timestamp::now()).await.map_err(AccountError::Token)?;
        let coordinates =
            PullServiceAccount { uid, namespace: pod::namespace(pod).to_owned(), name: name.to_owned() };
        Ok(Asked::As(Account { token, annotations, coordinates }))
    }
}
