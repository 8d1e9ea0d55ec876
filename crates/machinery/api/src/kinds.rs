//! What each kind does beyond its schema: defaulting, preparation, validation, selectable fields, printed columns.
//!
//! The API server knows only [`Rules`]; a kind that needs nothing special uses [`Plain`]. Objects are the stored
//! (canonical) version's JSON tree. Every function is pure: time and names arrive as arguments.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::field::Errors;

pub use go::invalid as invalid_struct;
pub use metadata::{Metadata, Step, validate_change, validate_metadata, validate_new};

/// The part of an object a request addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The object itself.
    Main,
    /// `/status`.
    Status,
    /// `/scale`, translated by the caller to a change of the object; rules see the object.
    Scale,
    /// Any other subresource that changes the object, by its name: `ephemeralcontainers`, `resize`, `approval`, `finalize`, `binding`.
    Other(&'static str),
}

/// What a request is about, for rules that word their messages or behave by it.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The part addressed.
    pub part: Part,
    /// The request's time, RFC 3339 in UTC with whole seconds, as stored in objects.
    pub now: &'a str,
    /// Who asks.
    pub requester: Requester<'a>,
}

/// Who makes a request, as authentication found.
#[derive(Clone, Copy, Debug)]
pub struct Requester<'a> {
    /// The user's name.
    pub name: &'a str,
    /// The user's uid; empty where there is none.
    pub uid: &'a str,
    /// The user's groups.
    pub groups: &'a [String],
    /// Everything else that is known.
    pub extra: &'a BTreeMap<String, Vec<String>>,
}

impl Requester<'_> {
    /// Nobody in particular: for kinds whose rules do not depend on who asks.
    pub const NOBODY: Requester<'static> =
        Requester { name: "", uid: "", groups: &[], extra: &BTreeMap::new() };
}

/// One column of a table, as upstream's printers declare it; what it says of itself is [`print::description`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its title as in `Table.columnDefinitions[].name`, for example `Nominated Node`.
    pub name: &'static str,
    /// `string`, `integer`, `boolean`, `date`, ...
    pub kind: &'static str,
    /// `name` for the name column, otherwise usually empty.
    pub format: &'static str,
    /// 0 is always shown; above 0 only with `-o wide`.
    pub priority: i32,
}

/// How one kind behaves.
pub trait Rules: Send + Sync {
    /// Sets what the user left out (upstream's `SetDefaults_*`). Idempotent. Runs on create, update and every read of old data.
    fn default(&self, _object: &mut Value) {}

    /// Before validation of a create: resets what a client may not set (status, generation is set by the caller).
    fn prepare_create(&self, _object: &mut Value, _ctx: &Context<'_>) {}

    /// Before validation of an update: carries over what this part may not change (main: status; status: all but status).
    /// The caller afterwards raises `metadata.generation` if [`Rules::spec_changed`] says so.
    fn prepare_update(&self, _new: &mut Value, _old: &Value, _ctx: &Context<'_>) {}

    /// Whether `metadata.generation` is kept for this kind and what raises it: by default a change of `spec`.
    fn spec_changed(&self, new: &Value, old: &Value) -> bool {
        new.get("spec") != old.get("spec")
    }

    /// Whether the kind keeps `metadata.generation` at all (it starts at 1 on create).
    fn has_generation(&self) -> bool {
        true
    }

    /// What the kind does about metadata, besides what all do.
    fn metadata(&self) -> Metadata {
        Metadata::EXTENSION
    }

    /// All faults of a new object, metadata excluded (see [`validate_new`]).
    fn validate(&self, _object: &Value, _errors: &mut Errors) {}

    /// All faults of a change, metadata excluded (see [`validate_change`]), including those of the new object where the part calls for it.
    fn validate_update(&self, new: &Value, _old: &Value, _ctx: &Context<'_>, errors: &mut Errors) {
        self.validate(new, errors);
    }

    /// Warnings for the client (`Warning` headers), as upstream words them.
    fn warnings(&self, _object: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// Whether this name is acceptable, or the reasons why not. Default: a DNS subdomain.
    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        validate::dns_subdomain(name, prefix)
    }

    /// Values of the fields that field selectors may name, besides `metadata.name` and `metadata.namespace`.
    /// The set of names is the same for every object of the kind.
    fn selectable_fields(&self, _object: &Value) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// The columns of the kind's table. Default: Name and Age.
    fn columns(&self) -> &'static [Column] {
        print::NAME_AGE
    }

    /// The cells of one row, one per column. `now` is RFC 3339.
    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        print::name_age_row(object, now)
    }

    /// The grace in seconds when an object is deleted gracefully; `None` deletes at once. Pods only, upstream.
    fn deletion_grace_seconds(&self, _object: &Value, _asked: Option<i64>) -> Option<i64> {
        None
    }

    /// Whether PUT of a name that does not exist creates it (upstream's `AllowCreateOnUpdate`).
    fn create_on_update(&self) -> bool {
        false
    }

    /// Whether an update without resourceVersion is allowed (upstream's `AllowUnconditionalUpdate`).
    fn unconditional_update(&self) -> bool {
        true
    }

    /// What a delete without `propagationPolicy` and `orphanDependents` does; `true`: orphan. Of the served versions only Jobs and
    /// ReplicationControllers do, as they did before there was a garbage collector (upstream's `DefaultGarbageCollectionPolicy`).
    fn orphans_by_default(&self) -> bool {
        false
    }

    /// Whether a new object that has no name gets one made up, instead of being refused.
    fn name_may_be_absent(&self) -> bool {
        false
    }

    /// Whether a new object without labels gets those of its pod template, together with what [`Rules::prepare_create`] adds
    /// to them: upstream's defaulting of Jobs makes both one map.
    fn shares_template_labels(&self) -> bool {
        false
    }
}

/// A kind without behaviour of its own: ConfigMap-like, Name and Age.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Rules for Plain {}

mod admission;
mod autoscaler;
mod batch;
mod certificates;
mod config_map;
mod daemon_set;
mod deployment;
mod devices;
mod difference;
mod endpoints;
mod event;
pub mod features;
mod flow_control;
mod go;
mod kind;
mod metadata;
mod namespace;
mod networking;
mod node;
pub mod pod;
pub mod print;
mod quota;
mod rbac;
mod replica_set;
mod replication_controller;
mod scheduling;
mod secret;
pub mod service;
mod service_account;
mod stateful_set;
mod storage;
pub(crate) mod tree;
pub mod validate;
mod volume_claim;
mod workload;

/// The rules of a built-in kind, by group and kind. Kinds unknown here get [`Plain`].
pub fn rules(group: &str, kind: &str) -> &'static dyn Rules {
    match (group, kind) {
        ("", "Pod") => &pod::Pod,
        ("", "Service") => &service::RULES,
        ("", "Namespace") => &namespace::Namespace,
        ("", "Node") => &node::RULES,
        ("", "ConfigMap") => &config_map::RULES,
        ("", "Secret") => &secret::RULES,
        ("", "ServiceAccount") => &service_account::RULES,
        ("", "Endpoints") => &endpoints::ENDPOINTS,
        ("", "Event") => &event::RULES,
        ("events.k8s.io", "Event") => &event::Strict,
        ("", "ReplicationController") => &replication_controller::RULES,
        ("", "ResourceQuota") => &quota::RESOURCE_QUOTA,
        ("", "LimitRange") => &quota::LIMIT_RANGE,
        ("", "PersistentVolumeClaim") => &volume_claim::RULES,
        ("apps", "Deployment") => &deployment::RULES,
        ("apps", "ReplicaSet") => &replica_set::RULES,
        ("apps", "StatefulSet") => &stateful_set::RULES,
        ("apps", "DaemonSet") => &daemon_set::RULES,
        ("coordination.k8s.io", "Lease") => &scheduling::LEASE,
        ("discovery.k8s.io", "EndpointSlice") => &endpoints::SLICE,
        ("rbac.authorization.k8s.io", "Role") => &rbac::ROLE,
        ("rbac.authorization.k8s.io", "ClusterRole") => &rbac::CLUSTER_ROLE,
        ("rbac.authorization.k8s.io", "RoleBinding") => &rbac::ROLE_BINDING,
        ("rbac.authorization.k8s.io", "ClusterRoleBinding") => &rbac::CLUSTER_ROLE_BINDING,
        ("scheduling.k8s.io", "PriorityClass") => &scheduling::PRIORITY_CLASS,
        ("", "PersistentVolume") => &storage::PERSISTENT_VOLUME,
        ("", "PodTemplate") => &batch::POD_TEMPLATE,
        ("", "ComponentStatus") => &admission::COMPONENT_STATUS,
        ("apps", "ControllerRevision") => &batch::CONTROLLER_REVISION,
        ("batch", "Job") => &batch::JOB,
        ("batch", "CronJob") => &batch::CRON_JOB,
        ("autoscaling", "HorizontalPodAutoscaler") => &autoscaler::AUTOSCALER,
        ("policy", "PodDisruptionBudget") => &batch::DISRUPTION_BUDGET,
        ("networking.k8s.io", "Ingress") => &networking::INGRESS,
        ("networking.k8s.io", "IngressClass") => &networking::INGRESS_CLASS,
        ("networking.k8s.io", "NetworkPolicy") => &networking::NETWORK_POLICY,
        ("networking.k8s.io", "IPAddress") => &networking::IP_ADDRESS,
        ("networking.k8s.io", "ServiceCIDR") => &networking::SERVICE_CIDR,
        ("node.k8s.io", "RuntimeClass") => &networking::RUNTIME_CLASS,
        ("storage.k8s.io", "StorageClass") => &storage::STORAGE_CLASS,
        ("storage.k8s.io", "VolumeAttributesClass") => &storage::VOLUME_ATTRIBUTES_CLASS,
        ("storage.k8s.io", "VolumeAttachment") => &storage::VOLUME_ATTACHMENT,
        ("storage.k8s.io", "CSINode") => &storage::CSI_NODE,
        ("storage.k8s.io", "CSIDriver") => &storage::CSI_DRIVER,
        ("storage.k8s.io", "CSIStorageCapacity") => &storage::CSI_STORAGE_CAPACITY,
        ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration") => &admission::VALIDATING_WEBHOOKS,
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration") => &admission::MUTATING_WEBHOOKS,
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => &admission::VALIDATING_POLICY,
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy") => &admission::MUTATING_POLICY,
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding") => {
            &admission::VALIDATING_BINDING
        }
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding") => &admission::MUTATING_BINDING,
        ("certificates.k8s.io", "CertificateSigningRequest") => &certificates::SIGNING_REQUEST,
        ("apiregistration.k8s.io", "APIService") => &admission::API_SERVICE,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => &admission::CUSTOM_RESOURCE_DEFINITION,
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => &flow_control::FLOW_SCHEMA,
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => &flow_control::PRIORITY_LEVEL,
        ("resource.k8s.io", "DeviceClass") => &devices::DEVICE_CLASS,
        ("resource.k8s.io", "ResourceClaim") => &devices::RESOURCE_CLAIM,
        ("resource.k8s.io", "ResourceClaimTemplate") => &devices::RESOURCE_CLAIM_TEMPLATE,
        ("resource.k8s.io", "ResourceSlice") => &devices::RESOURCE_SLICE,
        ("resource.k8s.io", "DeviceTaintRule") => &devices::DEVICE_TAINT,
        ("certificates.k8s.io", "ClusterTrustBundle") => &certificates::trust_bundle::TRUST_BUNDLE,
        ("certificates.k8s.io", "PodCertificateRequest") => &certificates::POD_CERTIFICATE,
        ("coordination.k8s.io", "LeaseCandidate") => &scheduling::LEASE_CANDIDATE,
        ("storagemigration.k8s.io", "StorageVersionMigration") => &admission::MIGRATION,
        _ => &Plain,
    }
}

/// What a status update may not change in metadata, besides what is immutable: as upstream's `ResetObjectMetaForStatus`.
pub(crate) fn reset_metadata(new: &mut Value, old: &Value) {
    for name in ["labels", "annotations", "finalizers", "ownerReferences", "deletionTimestamp"] {
        tree::carry(new, old, name);
    }
}

#[cfg(test)]
mod tests;
