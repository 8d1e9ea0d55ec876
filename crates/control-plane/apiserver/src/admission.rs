//! Admission: what is filled in and what is refused after authorisation and before storage.
//!
//! One list of plugins, the same for every way to write an object: each decides by operation, resource and subresource, and is
//! asked for all of them. The old object always comes from the store, never from the client. Order is upstream's.
//!
//! The order of a write: [`Admission::settle`] (waits, rarely), [`Admission::mutate`], defaulting and validation,
//! [`Admission::validate`], [`Admission::charge`] (the only one that writes), the store. Virtual resources
//! (`serviceaccounts/token`, bindings, evictions) go the same way.

use std::fmt;
use std::sync::Arc;

use podium_api::status::ApiError;
use serde_json::Value;

use crate::authentication::User;
use crate::authorization::{Authorizer, escalation};
use crate::objects::{Objects, items, text};

use timings::{Phase, Plugin, Timings, Walk};

mod certificates;
mod classes;
mod declared_features;
mod devices;
mod event_rate;
mod limit_ranger;
mod namespace;
pub(crate) mod node_restriction;
mod pod_defaults;
mod pod_resize;
pub mod pod_security;
mod priority;
pub mod quota;
mod runtime_class;
mod service_account;
mod services;
mod storage;
mod timings;

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A new object or a create of a subresource (binding, eviction).
    Create,
    /// A change of an object or one of its subresources.
    Update,
    /// A deletion; `object` is null.
    Delete,
    /// exec, attach, port-forward, proxy; `object` is null.
    Connect,
}

impl Operation {
    /// As in admission reviews.
    pub const fn name(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// One write on its way to the store.
#[derive(Debug)]
pub struct Request<'a> {
    /// Who asks.
    pub user: &'a User,
    /// What is done.
    pub operation: Operation,
    /// The API group.
    pub group: &'a str,
    /// The API version of the object's JSON.
    pub version: &'a str,
    /// The kind of `object`, for example `Pod`, or `Eviction` for that subresource.
    pub kind: &'a str,
    /// The plural resource of the URL.
    pub resource: &'a str,
    /// The subresource, or empty.
    pub subresource: &'a str,
    /// The namespace, or empty.
    pub namespace: &'a str,
    /// The name: of the URL, else `metadata.name`; empty on a create with `generateName`.
    pub name: &'a str,
    /// The object as it will be stored; null where there is none (delete, connect). For a subresource that changes
    /// the whole object (status, ephemeralcontainers, resize) this is the whole object.
    pub object: &'a mut Value,
    /// The object as it is stored now, for update and delete.
    pub old: Option<&'a Value>,
    /// Create, update, or delete options; null if none.
    pub options: &'a Value,
    /// Whether nothing will be stored.
    pub dry_run: bool,
    /// For the client; become `Warning` headers.
    pub warnings: Vec<String>,
    /// For the audit log.
    pub annotations: Vec<(String, String)>,
}

impl Request<'_> {
    /// Whether this is about this resource of this group, and the object itself, not a subresource.
    fn is(&self, group: &str, resource: &str) -> bool {
        self.subresource.is_empty() && self.group == group && self.resource == resource
    }

    /// The 403 of an admission plugin, named as upstream's `admission.NewForbidden` does.
    fn forbidden(&self, why: &str) -> ApiError {
        let name = if !self.name.is_empty() {
            self.name
        } else if self.object.is_null() {
            "Unknown"
        } else {
            match (text(self.object, "/metadata/name"), text(self.object, "/metadata/generateName")) {
                ("", "") => "Unknown",
                ("", generate) => generate,
                (name, _) => name,
            }
        };
        ApiError::forbidden(self.group, self.resource, name, why)
    }
}

/// Every container of a pod, of every kind, with the path of its list.
fn containers(pod: &Value) -> impl Iterator<Item = (&'static str, &Value)> {
    ["/spec/initContainers", "/spec/containers", "/spec/ephemeralContainers"]
        .into_iter()
        .flat_map(|list| items(pod, list).iter().map(move |container| (list, container)))
}

/// The list at this field of an object, made if it is absent or null.
fn list_mut<'a>(object: &'a mut Value, field: &str) -> &'a mut Vec<Value> {
    if !object[field].is_array() {
        object[field] = Value::Array(Vec::new());
    }
    object[field].as_array_mut().expect("it was made an array")
}

/// Compare-and-swap on a stored quota, which CORE implements over the store.
pub trait QuotaStore: Send + Sync {
    /// Replaces the ResourceQuota of `updated`'s namespace and name by `updated` if its stored `metadata.resourceVersion` is still that of
    /// `updated`; `Ok(false)` if it is not (the caller reads again and tries again).
    fn swap<'a>(
        &'a self,
        updated: Value,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<bool, ApiError>> + Send + 'a>>;
}

/// What an operator can choose.
#[derive(Clone, Debug)]
pub struct Config {
    /// The level that namespaces without Pod Security labels have: privileged upstream.
    pub pod_security_enforce: pod_security::Level,
    /// Namespaces may name `spec.externalIPs` of Services only if this is set (CVE-2020-8554).
    pub allow_external_ips: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config { pod_security_enforce: pod_security::Level::Privileged, allow_external_ips: false }
    }
}

/// All admission plugins.
pub struct Admission {
    config: Config,
    defaults: pod_security::Policy,
    evaluations: pod_security::Evaluations,
    objects: Objects,
    authorizer: Arc<Authorizer>,
    accounts: service_account::Arrivals,
    event_rate: event_rate::EventRate,
    timings: Box<Timings>,
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Admission {
    /// The plugins over what is stored.
    pub fn new(config: Config, objects: Objects, authorizer: Arc<Authorizer>) -> Self {
        let defaults = pod_security::Policy::enforcing(config.pod_security_enforce);
        let accounts = service_account::Arrivals::follow(&objects);
        Admission {
            config,
            defaults,
            evaluations: pod_security::Evaluations::default(),
            objects,
            authorizer,
            accounts,
            event_rate: event_rate::EventRate::default(),
            timings: Box::default(),
        }
    }

    /// Waits, for at most a second, for what a request needs and a controller is about to make: the default service
    /// account of a new namespace. Everything else returns at once.
    pub async fn settle(&self, request: &Request<'_>) {
        self.accounts.settle(request, &self.objects).await;
    }

    /// The mutating phase, before defaulting's second pass and validation.
    ///
    /// # Errors
    /// The first refusal, as the client sees it.
    pub fn mutate(&self, request: &mut Request<'_>) -> Result<(), ApiError> {
        let mut walk = self.timings.walk(Phase::Admit, request.operation);
        let outcome = self.mutate_by(&mut walk, request);
        walk.end(outcome)
    }

    fn mutate_by(&self, walk: &mut Walk<'_>, request: &mut Request<'_>) -> Result<(), ApiError> {
        let objects = &self.objects;
        walk.ran(Plugin::NamespaceLifecycle, namespace::check(request, objects))?;
        let restricted = |request: &Request<'_>| node_restriction::check(request, objects, &self.authorizer);
        match request.operation {
            Operation::Create | Operation::Update => {}
            Operation::Delete => return walk.ran(Plugin::NodeRestriction, restricted(request)),
            Operation::Connect => return Ok(()),
        }
        walk.ran(Plugin::EventRateLimit, self.event_rate.check(request, std::time::Instant::now()))?;
        limit_ranger::mutate(request, objects);
        walk.filled(Plugin::LimitRanger);
        walk.ran(Plugin::ServiceAccount, service_account::mutate(request, objects))?;
        walk.ran(Plugin::NodeRestriction, restricted(request))?;
        pod_defaults::taint_new_node(request);
        walk.filled(Plugin::TaintNodesByCondition);
        walk.ran(Plugin::Priority, priority::mutate(request, objects))?;
        pod_defaults::tolerations(request);
        walk.filled(Plugin::DefaultTolerationSeconds);
        classes::default_storage_class(request, objects);
        walk.filled(Plugin::DefaultStorageClass);
        storage::protect(request);
        walk.filled(Plugin::StorageObjectInUseProtection);
        walk.ran(Plugin::RuntimeClass, runtime_class::mutate(request, objects))?;
        classes::default_ingress_class(request, objects);
        walk.filled(Plugin::DefaultIngressClass);
        pod_defaults::topology_of_binding(request, objects);
        walk.filled(Plugin::PodTopologyLabels);
        Ok(())
    }

    /// The validating phase, after validation, on the object as it will be stored.
    ///
    /// # Errors
    /// The first refusal, as the client sees it.
    pub fn validate(&self, request: &mut Request<'_>) -> Result<(), ApiError> {
        let mut walk = self.timings.walk(Phase::Validate, request.operation);
        let outcome = self.validate_by(&mut walk, request);
        walk.end(outcome)
    }

    fn validate_by(&self, walk: &mut Walk<'_>, request: &mut Request<'_>) -> Result<(), ApiError> {
        let objects = &self.objects;
        walk.ran(Plugin::NamespaceLifecycle, namespace::check(request, objects))?;
        let restricted = |request: &Request<'_>| node_restriction::check(request, objects, &self.authorizer);
        match request.operation {
            Operation::Create | Operation::Update => {}
            Operation::Delete => return walk.ran(Plugin::NodeRestriction, restricted(request)),
            Operation::Connect => return Ok(()),
        }
        walk.ran(Plugin::LimitRanger, limit_ranger::validate(request, objects))?;
        walk.ran(Plugin::ServiceAccount, service_account::validate(request, objects))?;
        walk.ran(Plugin::NodeRestriction, restricted(request))?;
        walk.ran(
            Plugin::PodSecurity,
            pod_security::check(request, objects, &self.defaults, &self.evaluations),
        )?;
        walk.ran(Plugin::Priority, priority::validate(request, objects))?;
        walk.ran(Plugin::PersistentVolumeClaimResize, storage::check_resize(request, objects))?;
        walk.ran(Plugin::RuntimeClass, runtime_class::validate(request, objects))?;
        if let Some(plugin) = certificates::plugin(request) {
            walk.ran(plugin, certificates::check(request, &self.authorizer))?;
        }
        let external = services::check_external_ips(request, self.config.allow_external_ips);
        walk.ran(Plugin::DenyServiceExternalIPs, external)?;
        let declared = declared_features::check(request, objects);
        walk.ran(Plugin::NodeDeclaredFeatureValidator, declared)?;
        // Upstream has the rest in its registry, behind admission's back.
        devices::check_admin_access(request, objects)?;
        devices::check_status(request, &self.authorizer)?;
        pod_resize::check(request, &self.objects)?;
        escalation::check(&self.authorizer, request)
    }

    /// Charges ResourceQuotas: the last step before the write. Does nothing, at once, in namespaces without quotas.
    ///
    /// If the write then fails, the charge stays until the quota controller counts again, as upstream.
    ///
    /// # Errors
    /// 403 `exceeded quota: ...`.
    pub async fn charge(&self, request: &Request<'_>, store: &dyn QuotaStore) -> Result<(), ApiError> {
        let mut walk = self.timings.walk(Phase::Validate, request.operation);
        walk.ran(Plugin::ResourceQuota, quota::charge(request, &self.objects, store).await)
    }

    /// Writes how long plugins and phases took, as metrics. ResourceQuota is in no phase: it writes, so it comes last.
    pub(crate) fn render(&self, out: &mut String) {
        self.timings.render(out);
        self.evaluations.render(out);
    }
}

#[cfg(test)]
mod tests;
