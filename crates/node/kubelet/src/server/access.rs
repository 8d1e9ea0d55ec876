//! Whether a client may: the API server is asked, as for a subresource of this node, and its answers are
//! remembered for a while.

use std::{collections::HashMap, time::Duration};

use http::Method;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::WebhookAuthorization;

use super::{
    identity::User,
    route::{subresources, verb},
};

/// How many answers are remembered.
const MOST: usize = 1024;
/// How long the API server may take.
const ANSWER: Duration = Duration::from_secs(10);

/// What is asked: the rest is the same for all questions.
type Question = (User, &'static str, &'static str);

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The API server says no.
    Forbidden { user: String, verb: &'static str, subresources: &'static [&'static str] },
    /// It did not answer.
    Unknown { user: String, verb: &'static str, subresource: &'static str },
}

impl Refusal {
    /// The HTTP status.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Forbidden { .. } => 403,
            Self::Unknown { .. } => 500,
        }
    }

    /// What the client is told, in upstream's words.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Forbidden { user, verb, subresources } => format!(
                "Forbidden (user={user}, verb={verb}, resource=nodes, subresource(s)=[{}])\n",
                subresources.join(" ")
            ),
            Self::Unknown { user, verb, subresource } => {
                format!(
                    "Authorization error (user={user}, verb={verb}, resource=nodes, subresource={subresource})"
                )
            }
        }
    }
}

/// Asks and remembers.
pub(crate) struct Access {
    client: Client,
    node: String,
    /// How long answers are believed.
    remember: WebhookAuthorization,
    known: Mutex<HashMap<Question, (Instant, bool)>>,
}

impl Access {
    pub(crate) fn new(client: Client, node: String, remember: WebhookAuthorization) -> Self {
        Self { client, node, remember, known: Mutex::default() }
    }

    /// Ok if the request may go on.
    pub(crate) async fn check(&self, user: &User, method: &Method, path: &str) -> Result<(), Refusal> {
        let (verb, subresources) = (verb(method), subresources(path));
        for subresource in subresources {
            if self.allowed(user, verb, subresource).await? {
                return Ok(());
            }
        }
        Err(Refusal::Forbidden { user: user.name.clone(), verb, subresources })
    }

    async fn allowed(
        &self,
        user: &User,
        verb: &'static str,
        subresource: &'static str,
    ) -> Result<bool, Refusal> {
        let question = (user.clone(), verb, subresource);
        let now = Instant::now();
        let remembered =
            self.known.lock().get(&question).filter(|(until, _)| now < *until).map(|(_, yes)| *yes);
        if let Some(yes) = remembered {
            return Ok(yes);
        }
        let yes = self.ask(&question).await?;
        let remember =
            if yes { self.remember.cache_authorized_ttl } else { self.remember.cache_unauthorized_ttl };
        let mut known = self.known.lock();
        if known.len() >= MOST {
            known.retain(|_, (until, _)| now < *until);
        }
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(question, (now + remember.0, yes));
        Ok(yes)
    }

    async fn ask(&self, (user, verb, subresource): &Question) -> Result<bool, Refusal> {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                uid: Some(user.uid.clone()).filter(|uid| !uid.is_empty()),
                groups: Some(user.groups.clone()),
                extra: Some(user.extra.clone()).filter(|extra| !extra.is_empty()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some((*verb).to_owned()),
                    version: Some("v1".to_owned()),
                    resource: Some("nodes".to_owned()),
                    subresource: Some((*subresource).to_owned()),
                    name: Some(self.node.clone()),
                    ..Default::default()
                }),
                ..Default::default()
            },
            ..Default::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let params = PostParams::default();
        let reason = match tokio::time::timeout(ANSWER, api.create(&params, &review)).await {
            Ok(Ok(answer)) => match answer.status {
                Some(status) => return Ok(status.allowed && status.denied != Some(true)),
                None => "the answer has no status".to_owned(),
            },
            Ok(Err(error)) => podium_client::error_chain(&error),
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::warn!(user = user.name, verb, subresource, reason, "authorising a request failed");
        Err(Refusal::Unknown { user: user.name.clone(), verb, subresource })
    }
}

#[cfg(test)]
mod tests {
    use podium_client::testing::{Call, HandPlayedServer};
    use serde_json::json;

    use super::*;

    fn answer(call: Call, allowed: bool) {
        call.json(
            &json!({"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "metadata": {},
            "spec": {}, "status": {"allowed": allowed}}),
        );
    }

    fn user(name: &str) -> User {
        User { name: name.to_owned(), groups: vec!["g".to_owned()], ..Default::default() }
    }

    #[tokio::test]
    async fn the_api_server_is_asked_once_for_a_while() {
        tokio::time::pause();
        let (mut server, client) = HandPlayedServer::new();
        let access = Access::new(client, "node-1".to_owned(), WebhookAuthorization::default());
        let who = user("u");
        let play = async {
            let call = server.call().await;
            assert_eq!(call.uri.path(), "/apis/authorization.k8s.io/v1/subjectaccessreviews");
            assert_eq!(
                call.body["spec"],
                json!({"user": "u", "groups": ["g"], "resourceAttributes": {"verb": "create", "version": "v1",
                    "resource": "nodes", "subresource": "proxy", "name": "node-1"}})
            );
            answer(call, true);
        };
        let (outcome, ()) = tokio::join!(access.check(&who, &Method::POST, "/exec/n/p/c"), play);
        assert_eq!(outcome, Ok(()));
        assert_eq!(access.check(&who, &Method::POST, "/attach/n/p/c").await, Ok(()));
        assert!(server.try_call().is_none());
        tokio::time::advance(WebhookAuthorization::default().cache_authorized_ttl.0).await;
        let play = async { answer(server.call().await, false) };
        let (outcome, ()) = tokio::join!(access.check(&who, &Method::POST, "/exec/n/p/c"), play);
        let refusal = outcome.unwrap_err();
        assert_eq!(refusal.status(), 403);
        assert_eq!(
            refusal.text(),
            "Forbidden (user=u, verb=create, resource=nodes, subresource(s)=[proxy])\n"
        );
    }

    #[tokio::test]
    async fn one_of_the_subresources_is_enough() {
        let (mut server, client) = HandPlayedServer::new();
        let access = Access::new(client, "node-1".to_owned(), WebhookAuthorization::default());
        let play = async {
            let first = server.call().await;
            assert_eq!(first.body["spec"]["resourceAttributes"]["subresource"], "pods");
            answer(first, false);
            let second = server.call().await;
            assert_eq!(second.body["spec"]["resourceAttributes"]["subresource"], "proxy");
            answer(second, true);
        };
        let who = user("u");
        let (outcome, ()) = tokio::join!(access.check(&who, &Method::GET, "/pods"), play);
        assert_eq!(outcome, Ok(()));
    }

    #[tokio::test]
    async fn no_answer_is_no() {
        let (mut server, client) = HandPlayedServer::new();
        let access = Access::new(client, "node-1".to_owned(), WebhookAuthorization::default());
        let play = async { server.call().await.fail(403, "Forbidden", "no") };
        let who = user("u");
        let (outcome, ()) = tokio::join!(access.check(&who, &Method::GET, "/metrics"), play);
        let refusal = outcome.unwrap_err();
        assert_eq!(refusal.status(), 500);
        assert_eq!(
            refusal.text(),
            "Authorization error (user=u, verb=get, resource=nodes, subresource=metrics)"
        );
    }
}
