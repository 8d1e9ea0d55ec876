//! Service account tokens bound to pods: asked for by TokenRequest, kept until they have to be renewed.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
        core::v1::{Pod, ServiceAccount},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;

use crate::{backoff::elapsed, pod, volumes::payload::TokenRef};

/// A token is renewed at the latest after a day, as upstream does.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// Tokens by pod and what was asked for.
pub(crate) struct Tokens {
    client: Client,
    held: Mutex<HashMap<(String, TokenRef), Held>>,
}

struct Held {
    token: String,
    issued: Timestamp,
    expires: Timestamp,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens")
    }
}

/// When a token is to be renewed: after four fifths of its life.
pub(crate) fn renew_at(issued: Timestamp, expires: Timestamp) -> Timestamp {
    let life = elapsed(issued, expires);
    issued + (life * 4 / 5).min(MAX_AGE)
}

impl Tokens {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, held: Mutex::new(HashMap::new()) }
    }

    /// A token for the pod, a kept one if it is still good.
    ///
    /// # Errors
    /// If the API refuses; a kept token that has not expired yet is given instead.
    pub(crate) async fn get(
        &self,
        pod: &Pod,
        wanted: &TokenRef,
        now: Timestamp,
    ) -> Result<String, kube::Error> {
        let key = (pod::uid(pod).to_owned(), wanted.clone());
        let kept = {
            let held = self.held.lock();
            held.get(&key).map(|held| (held.token.clone(), renew_at(held.issued, held.expires), held.expires))
        };
        if let Some((token, renew, _)) = &kept
            && now < *renew
        {
            return Ok(token.clone());
        }
        match self.request(pod, wanted).await {
            Ok((token, expires)) => {
                self.held.lock().insert(key, Held { token: token.clone(), issued: now, expires });
                Ok(token)
            }
            Err(error) => match kept {
                Some((token, _, expires)) if now < expires => Ok(token),
                _ => Err(error),
            },
        }
    }

    /// The next moment one of the pod's tokens has to be renewed.
    pub(crate) fn next_renewal(&self, uid: &str) -> Option<Timestamp> {
        let held = self.held.lock();
        held.iter()
            .filter(|((of, _), _)| of == uid)
            .map(|(_, held)| renew_at(held.issued, held.expires))
            .min()
    }

    /// Forgets a pod's tokens.
    pub(crate) fn forget(&self, uid: &str) {
        self.held.lock().retain(|(of, _), _| of != uid);
    }

    async fn request(&self, pod: &Pod, wanted: &TokenRef) -> Result<(String, Timestamp), kube::Error> {
        let account =
            pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
        let request = TokenRequest {
            metadata: ObjectMeta {
                uid: (!wanted.account_uid.is_empty()).then(|| wanted.account_uid.clone()),
                ..Default::default()
            },
            spec: Some(TokenRequestSpec {
                audiences: (!wanted.audience.is_empty()).then(|| vec![wanted.audience.clone()]),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(pod::name(pod).to_owned()),
                    uid: Some(pod::uid(pod).to_owned()),
                }),
                expiration_seconds: Some(wanted.expiration_seconds),
            }),
            ..Default::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), pod::namespace(pod));
        let answer = api.create_token_request(account, &PostParams::default(), &request).await?;
        let status = answer.status.unwrap_or_default();
        // An answer without a time to live is used once and asked for again.
        let expires = status.expiration_timestamp.map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        Ok((status.token.unwrap_or_default(), expires))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_comes_before_expiry() {
        let at = |seconds: i64| Timestamp::from_second(seconds).unwrap();
        for (life, renew) in [(3600, 2880), (600, 480), (365 * 86400, 86400)] {
            assert_eq!(renew_at(at(0), at(life)), at(renew), "{life}");
        }
    }
}
