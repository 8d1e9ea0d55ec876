//! The virtual resources that answer questions about identity and access, and issue tokens: nothing here is stored.

use std::sync::Arc;

use podium_api::status::ApiError;
use serde_json::Value;

use crate::admission::{Operation, Request, node_restriction};
use crate::authentication::{Authenticator, User};
use crate::authorization::Authorizer;
use crate::authorization::node::node_of;
use crate::objects::Objects;

mod access;
mod token;

/// Answers reviews and token requests.
#[derive(Debug)]
pub struct Reviews {
    authenticator: Arc<Authenticator>,
    authorizer: Arc<Authorizer>,
    objects: Objects,
    issuer: Option<Issuer>,
}

/// How service account tokens are made.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// The signing keys.
    pub keys: Arc<podium_pki::token::Keys>,
    /// The `iss` claim.
    pub issuer: String,
    /// The audiences of a request that names none: the API server's own.
    pub audiences: Vec<String>,
}

/// One create of a virtual resource.
#[derive(Debug)]
pub struct Create<'a> {
    /// Who asks.
    pub user: &'a User,
    /// The API group of the URL.
    pub group: &'a str,
    /// The plural resource.
    pub resource: &'a str,
    /// The subresource, or empty (`token` for `serviceaccounts/NAME/token`).
    pub subresource: &'a str,
    /// The namespace, or empty.
    pub namespace: &'a str,
    /// The name in the URL, or empty.
    pub name: &'a str,
    /// The decoded body.
    pub body: Value,
}

/// Takes out what only the server says, as at every create.
fn forget_system_metadata(create: &mut Create<'_>) {
    let namespaced = !create.namespace.is_empty() || create.resource == "localsubjectaccessreviews";
    let Some(metadata) = create.body.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    for name in ["creationTimestamp", "uid", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        metadata.remove(name);
    }
    if !namespaced {
        metadata.remove("namespace");
    }
}

impl Reviews {
    /// Reviews by these two; `issuer` is `None` where no tokens are issued.
    pub fn new(
        authenticator: Arc<Authenticator>,
        authorizer: Arc<Authorizer>,
        objects: Objects,
        issuer: Option<Issuer>,
    ) -> Self {
        Reviews { authenticator, authorizer, objects, issuer }
    }

    /// Whether a create of this (sub)resource is answered here.
    pub fn handles(group: &str, resource: &str, subresource: &str) -> bool {
        match (group, resource, subresource) {
            ("", "serviceaccounts", "token") => true,
            ("authentication.k8s.io", "tokenreviews" | "selfsubjectreviews", "") => true,
            ("authorization.k8s.io", resource, "") => {
                resource == "subjectaccessreviews"
                    || resource == "selfsubjectaccessreviews"
                    || resource == "localsubjectaccessreviews"
                    || resource == "selfsubjectrulesreviews"
            }
            _ => false,
        }
    }

    /// Answers one; the result is the body of a 201.
    ///
    /// # Errors
    /// Upstream's refusals: 422 for an invalid review, 404 for a missing service account, 400 where binding is not possible.
    pub fn create(&self, create: Create<'_>) -> Result<Value, ApiError> {
        self.create_at(create, jiff::Timestamp::now(), &uuid::Uuid::new_v4().to_string())
    }

    /// As [`Reviews::create`], at a given time; `token_id` becomes the `jti` of an issued token.
    ///
    /// # Errors
    /// As [`Reviews::create`].
    pub fn create_at(
        &self,
        create: Create<'_>,
        now: jiff::Timestamp,
        token_id: &str,
    ) -> Result<Value, ApiError> {
        let mut create = create;
        // Whoever asks for a token may say of which uid.
        if create.subresource.is_empty() {
            forget_system_metadata(&mut create);
        }
        match (create.group, create.resource, create.subresource) {
            ("", "serviceaccounts", "token") => {
                let issuer = self
                    .issuer
                    .as_ref()
                    .ok_or_else(|| ApiError::not_found("", "serviceaccounts/token", create.name))?;
                self.restrict_nodes(&create)?;
                token::request(&self.objects, issuer, create, now, token_id)
            }
            ("authentication.k8s.io", "tokenreviews", "") => token::review(&self.authenticator, create, now),
            ("authentication.k8s.io", "selfsubjectreviews", "") => Ok(token::self_review(create.user, now)),
            ("authorization.k8s.io", "subjectaccessreviews", "") => access::subject(&self.authorizer, create),
            ("authorization.k8s.io", "localsubjectaccessreviews", "") => {
                access::local(&self.authorizer, create)
            }
            ("authorization.k8s.io", "selfsubjectaccessreviews", "") => access::own(&self.authorizer, create),
            ("authorization.k8s.io", "selfsubjectrulesreviews", "") => {
                access::rules(&self.authorizer, create.user, &create.body)
            }
            (group, resource, _) => Err(ApiError::not_found(group, resource, create.name)),
        }
    }

    /// NodeRestriction, here because no way to a token may go past it: a node gets tokens for its own pods only.
    fn restrict_nodes(&self, create: &Create<'_>) -> Result<(), ApiError> {
        if node_of(create.user).is_none() {
            return Ok(());
        }
        let mut body = create.body.clone();
        let request = Request {
            user: create.user,
            operation: Operation::Create,
            group: create.group,
            version: "v1",
            kind: "TokenRequest",
            resource: create.resource,
            subresource: create.subresource,
            namespace: create.namespace,
            name: create.name,
            object: &mut body,
            old: None,
            options: &Value::Null,
            dry_run: false,
            warnings: Vec::new(),
            annotations: Vec::new(),
        };
        node_restriction::check(&request, &self.objects, &self.authorizer)
    }
}

/// A `UserInfo` as reviews show it.
fn user_info(user: &User) -> Value {
    let mut info = serde_json::json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = Value::from(user.uid.clone());
    }
    if !user.extra.is_empty() {
        info["extra"] = serde_json::json!(user.extra);
    }
    info
}

#[cfg(test)]
mod tests;
