//! What remains of a storage version once the servers that are gone are taken away.

use jiff::Timestamp;
use k8s_openapi::api::apiserverinternal::v1alpha1::{
    ServerStorageVersion, StorageVersion, StorageVersionCondition, StorageVersionStatus,
};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::labels;

/// On leases in `kube-system`: whose identity they are.
pub(crate) const IDENTITY: &str = "apiserver.kubernetes.io/identity";
/// The value of [`IDENTITY`] on leases of API servers.
pub(crate) const API_SERVER: &str = "kube-apiserver";

const ALL_EQUAL: &str = "AllEncodingVersionsEqual";

/// What one storage version needs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    Keep,
    /// No server is left.
    Delete,
    Update(Box<StorageVersionStatus>),
}

/// Whether a lease is an API server's identity.
pub(crate) fn is_identity(lease: &Lease) -> bool {
    labels::value(lease.metadata.labels.as_ref(), IDENTITY) == Some(API_SERVER)
}

/// The servers that a storage version names.
pub(crate) fn servers(version: &StorageVersion) -> Vec<String> {
    let named = version.status.iter().flat_map(|status| status.storage_versions.iter().flatten());
    named.map(|record| record.api_server_id.clone()).collect()
}

/// Decides about one storage version, given which servers are gone.
pub(crate) fn decide(version: &StorageVersion, gone: &[String], now: Timestamp) -> Decision {
    let mut status = version.status.clone().unwrap_or_default();
    let records = status.storage_versions.take().unwrap_or_default();
    let before = records.len();
    let left: Vec<_> = records.into_iter().filter(|record| !gone.contains(&record.api_server_id)).collect();
    if left.len() == before {
        return Decision::Keep;
    }
    if left.is_empty() {
        return Decision::Delete;
    }
    agree(&mut status, &left, version.metadata.generation, now);
    status.storage_versions = Some(left);
    Decision::Update(Box::new(status))
}

/// Says whether all servers write the same version, and which.
fn agree(
    status: &mut StorageVersionStatus,
    records: &[ServerStorageVersion],
    generation: Option<i64>,
    now: Timestamp,
) {
    let first = records.first().map(|record| record.encoding_version.clone());
    let common = first.filter(|first| records.iter().all(|record| record.encoding_version == *first));
    let (value, reason, message) = match common {
        Some(_) => ("True", "CommonEncodingVersionSet", "Common encoding version set"),
        None => ("False", "CommonEncodingVersionUnset", "Common encoding version unset"),
    };
    let old = std::mem::replace(&mut status.common_encoding_version, common.clone());
    let is_another = old.is_some() && common.is_some() && old != common;
    let conditions = status.conditions.get_or_insert_default();
    let mut condition = StorageVersionCondition {
        type_: ALL_EQUAL.to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
        last_transition_time: Some(Time(now)),
    };
    match conditions.iter_mut().find(|it| it.type_ == ALL_EQUAL) {
        Some(existing) => {
            if existing.status == value && !is_another {
                condition.last_transition_time.clone_from(&existing.last_transition_time);
            }
            *existing = condition;
        }
        None => conditions.push(condition),
    }
}
