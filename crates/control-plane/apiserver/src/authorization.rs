//! Who may do what: the members of `system:masters`, the node authoriser, then RBAC; the first opinion wins.
//!
//! Decisions are pure functions over an index that is compiled from the watch cache and brought up to date when
//! something changed, so that a decision costs a few hash look-ups. `Deny` exists for completeness; like upstream's default set-up, none of
//! the three ever denies: what nobody allows is forbidden.

use std::sync::Arc;

pub(crate) use podium_api::go::quote as go_quote;
use podium_api::kinds::{features::Features, validate};
use podium_api::selector::FieldSelector;
use podium_api::status::ApiError;
use podium_client::metrics::{Counter, Metric as _, head};

use crate::authentication::User;
use crate::objects::Objects;

pub mod escalation;
pub mod node;
pub mod rbac;

/// What one request asks for.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// Who asks.
    pub user: &'a User,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, `proxy`, a special verb, or, for
    /// other than resource requests, the HTTP method in lower case.
    pub verb: &'a str,
    /// The API group; empty is core.
    pub group: &'a str,
    /// The API version.
    pub version: &'a str,
    /// The plural resource.
    pub resource: &'a str,
    /// The subresource, or empty.
    pub subresource: &'a str,
    /// The namespace; empty for cluster scope and for all namespaces.
    pub namespace: &'a str,
    /// The name, or empty.
    pub name: &'a str,
    /// Whether this is about a resource; otherwise only `verb` and `path` count.
    pub resource_request: bool,
    /// The URL path.
    pub path: &'a str,
    /// The `fieldSelector` of the query, decoded, or empty.
    pub field_selector: &'a str,
    /// The `labelSelector` of the query, decoded, or empty.
    pub label_selector: &'a str,
}

impl<'a> Attributes<'a> {
    /// Attributes of a request for a resource, with everything else empty.
    pub fn resource(user: &'a User, verb: &'a str, group: &'a str, resource: &'a str) -> Self {
        Attributes {
            user,
            verb,
            group,
            version: "",
            resource,
            subresource: "",
            namespace: "",
            name: "",
            resource_request: true,
            path: "",
            field_selector: "",
            label_selector: "",
        }
    }

    /// Attributes of a request that is not about a resource.
    pub fn path(user: &'a User, verb: &'a str, path: &'a str) -> Self {
        Attributes { resource_request: false, path, ..Attributes::resource(user, verb, "", "") }
    }
}

/// The answer of an authoriser. The reason is for the audit log and for access reviews.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go ahead.
    Allow {
        /// Why.
        reason: Arc<str>,
    },
    /// Refused, whatever other authorisers say.
    Deny {
        /// Why.
        reason: Arc<str>,
    },
    /// Nobody allowed it, so it is refused.
    NoOpinion {
        /// Why; often empty.
        reason: Arc<str>,
    },
}

impl Decision {
    /// Whether the request may go on.
    pub fn allowed(&self) -> bool {
        matches!(self, Decision::Allow { .. })
    }

    /// Why.
    pub fn reason(&self) -> &str {
        match self {
            Decision::Allow { reason } | Decision::Deny { reason } | Decision::NoOpinion { reason } => reason,
        }
    }
}

/// Members may do everything; the group is not in RBAC so that no change of RBAC can lock the administrator out.
pub const MASTERS: &str = "system:masters";

/// The union of the authorisers.
#[derive(Debug)]
pub struct Authorizer {
    rbac: rbac::Rbac,
    node: node::NodeAuthorizer,
    /// What the node authoriser allowed.
    by_node: Counter,
    /// What RBAC allowed.
    by_rbac: Counter,
}

impl Authorizer {
    /// Builds the indexes from what is stored and follows changes from then on.
    pub fn new(objects: &Objects) -> Self {
        Self::with_features(objects, Features::default())
    }

    /// The same where features are on that are off by default: nodes may do more.
    pub fn with_features(objects: &Objects, features: Features) -> Self {
        Authorizer {
            rbac: rbac::Rbac::new(objects.clone()),
            node: node::NodeAuthorizer::new(objects.clone(), features),
            by_node: Counter::default(),
            by_rbac: Counter::default(),
        }
    }

    /// Decides one request.
    ///
    /// A list or watch of one object by `metadata.name=x` counts as naming it, as in upstream's request info.
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let selected = selected_name(attributes);
        let attributes = &Attributes { name: selected.as_deref().unwrap_or(attributes.name), ..*attributes };
        if attributes.user.groups.iter().any(|group| group == MASTERS) {
            return Decision::Allow { reason: Arc::from("") };
        }
        let node = self.node.authorize(attributes);
        if !matches!(node, Decision::NoOpinion { .. }) {
            self.by_node.increment();
            return node;
        }
        match self.rbac.authorize(attributes) {
            Decision::NoOpinion { reason } => {
                Decision::NoOpinion { reason: join_reasons(node.reason(), &reason) }
            }
            decided => {
                self.by_rbac.increment();
                decided
            }
        }
    }

    /// Writes who decided, as metrics. Neither of the two ever denies, and what nobody decides is nobody's.
    pub(crate) fn render(&self, out: &mut String) {
        let name = "apiserver_authorization_decisions_total";
        head(out, name, "counter", "[ALPHA] Requests on which an authoriser had the last word.");
        for (kind, who, count) in [("Node", "node", &self.by_node), ("RBAC", "rbac", &self.by_rbac)] {
            let labels = format!("decision=\"allowed\",name=\"{who}\",type=\"{kind}\"");
            count.write(out, name, &labels);
        }
    }

    /// The 403 for a request that was not allowed, in upstream's words.
    pub fn forbidden(attributes: &Attributes<'_>, reason: &str) -> ApiError {
        forbidden(attributes, reason)
    }

    /// Decides, and makes the refusal.
    pub fn check(&self, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        match self.authorize(attributes) {
            Decision::Allow { .. } => Ok(()),
            refused => Err(forbidden(attributes, refused.reason())),
        }
    }

    /// The RBAC part, for rule reviews and escalation checks.
    pub fn rbac(&self) -> &rbac::Rbac {
        &self.rbac
    }
}

/// The name that a field selector narrows a list, watch or deletecollection to.
fn selected_name(attributes: &Attributes<'_>) -> Option<String> {
    let collective = matches!(attributes.verb, "list" | "watch" | "deletecollection");
    if !collective || !attributes.name.is_empty() || !attributes.field_selector.contains("metadata.name") {
        return None;
    }
    let selector = FieldSelector::parse(attributes.field_selector).ok()?;
    let name = selector.exact_requirement("metadata.name")?;
    (!name.is_empty() && validate::path_segment(name, false).is_empty()).then(|| name.to_owned())
}

/// Upstream joins the reasons of a union's members with line ends.
fn join_reasons(first: &str, second: &str) -> Arc<str> {
    match (first.is_empty(), second.is_empty()) {
        (true, _) => Arc::from(second),
        (_, true) => Arc::from(first),
        _ => Arc::from(format!("{first}\n{second}")),
    }
}

/// Upstream's `ForbiddenStatusError`: the message names user, verb and target; names come out harmless for HTML.
fn forbidden(attributes: &Attributes<'_>, reason: &str) -> ApiError {
    let user = go_quote(&attributes.user.name);
    let verb = attributes.verb;
    let what = if !attributes.resource_request {
        format!("User {user} cannot {verb} path {}", go_quote(attributes.path))
    } else {
        let resource = if attributes.subresource.is_empty() {
            go_quote(attributes.resource)
        } else {
            go_quote(&format!("{}/{}", attributes.resource, attributes.subresource))
        };
        let group = go_quote(attributes.group);
        if attributes.namespace.is_empty() {
            format!("User {user} cannot {verb} resource {resource} in API group {group} at the cluster scope")
        } else {
            let namespace = go_quote(attributes.namespace);
            format!(
                "User {user} cannot {verb} resource {resource} in API group {group} in the namespace {namespace}"
            )
        }
    };
    let mut why = what.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    if !reason.is_empty() {
        why.push_str(": ");
        why.push_str(reason);
    }
    if attributes.resource_request {
        return ApiError::forbidden(attributes.group, attributes.resource, attributes.name, &why);
    }
    // Upstream leaves kind, group and name empty here, and the message begins with the path's refusal.
    ApiError {
        code: 403,
        reason: "Forbidden",
        message: format!("forbidden: {why}"),
        details: Some(serde_json::json!({})),
    }
}

#[cfg(test)]
mod tests;
