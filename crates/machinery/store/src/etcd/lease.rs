//! Leases: etcd's own.

use std::time::Duration;

use tonic::{Code, Status};

use crate::error::{CommitError, LeaseError};
use crate::etcd::client::{self, Client, Repeat};
use crate::etcd::proto::etcdserverpb::lease_client::LeaseClient;
use crate::etcd::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
};
use crate::record::{LeaseId, Revision};

/// What etcd says of a lease that is not there.
pub(super) const NOT_FOUND: &str = "etcdserver: requested lease not found";

/// A time in whole seconds, which is what etcd counts in; never less than was asked for.
fn seconds(ttl: Duration) -> i64 {
    let whole = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0));
    // etcd takes up to 9,000,000,000.
    i64::try_from(whole).unwrap_or(i64::MAX).clamp(1, 9_000_000_000)
}

fn refused(status: &Status, lease: Option<LeaseId>) -> LeaseError {
    match lease {
        Some(lease) if status.code() == Code::NotFound => LeaseError::NotFound(lease),
        _ => LeaseError::Commit(CommitError::Remote(client::fault(status))),
    }
}

/// Grants a lease; etcd chooses its number.
pub(super) async fn grant(client: &Client, ttl: Duration) -> Result<LeaseId, LeaseError> {
    let request = LeaseGrantRequest { ttl: seconds(ttl), id: 0 };
    // Granting twice leaves a lease that nobody uses, which ends by itself.
    let granted = client
        .call(Repeat::Safe, |channel| async move { LeaseClient::new(channel).lease_grant(request).await });
    let granted = granted.await.map_err(|status| refused(&status, None))?;
    LeaseId::new(granted.id.cast_unsigned())
        .ok_or_else(|| refused(&Status::unknown(format!("etcd granted no lease: {}", granted.error)), None))
}

/// Gives a lease its full time again.
pub(super) async fn keep_alive(client: &Client, lease: LeaseId) -> Result<Duration, LeaseError> {
    let request = LeaseKeepAliveRequest { id: lease.get().cast_signed() };
    let kept = client.call(Repeat::Safe, |channel| async move {
        let asked = futures::stream::iter([request]);
        let mut answers = LeaseClient::new(channel).lease_keep_alive(asked).await?.into_inner();
        let answer = answers.message().await?;
        answer.map(tonic::Response::new).ok_or_else(|| Status::unavailable("etcd ended the stream"))
    });
    let kept = kept.await.map_err(|status| refused(&status, Some(lease)))?;
    // A lease that has ended is answered without time.
    match u64::try_from(kept.ttl) {
        Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
        _ => Err(LeaseError::NotFound(lease)),
    }
}

/// Ends a lease. Returns the revision at which its keys were gone.
pub(super) async fn revoke(client: &Client, lease: LeaseId) -> Result<Revision, LeaseError> {
    let request = LeaseRevokeRequest { id: lease.get().cast_signed() };
    let revoked = client
        .call(Repeat::Unsafe, |channel| async move { LeaseClient::new(channel).lease_revoke(request).await });
    let revoked = revoked.await.map_err(|status| refused(&status, Some(lease)))?;
    Ok(revoked.header.map_or(0, |header| header.revision.cast_unsigned()))
}

/// All leases with their full times.
pub(super) async fn all(client: &Client) -> Result<Vec<(LeaseId, Duration)>, Status> {
    let listed = client
        .call(Repeat::Safe, |channel| async move {
            LeaseClient::new(channel).lease_leases(LeaseLeasesRequest {}).await
        })
        .await?;
    let mut leases = Vec::with_capacity(listed.leases.len());
    for lease in listed.leases {
        let request = LeaseTimeToLiveRequest { id: lease.id, keys: false };
        let told = client
            .call(Repeat::Safe, |channel| async move {
                LeaseClient::new(channel).lease_time_to_live(request).await
            })
            .await?;
        // One that has ended meanwhile has none; one in its last second has no whole one left, but is there.
        if let (Some(id), Ok(seconds)) =
            (LeaseId::new(lease.id.cast_unsigned()), u64::try_from(told.granted_ttl))
            && seconds > 0
        {
            leases.push((id, Duration::from_secs(seconds)));
        }
    }
    leases.sort_unstable();
    Ok(leases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_up_to_seconds() {
        for (millis, expected) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (3_660_000, 3660)] {
            assert_eq!(seconds(Duration::from_millis(millis)), expected, "{millis} ms");
        }
        assert_eq!(seconds(Duration::MAX), 9_000_000_000);
    }
}
