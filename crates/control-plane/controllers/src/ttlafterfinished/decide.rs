//! When one Job is to go.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;

use crate::clock;
use crate::job;

/// The moment from which the Job may be deleted; `None` for never, or not yet known.
pub(crate) fn expires_at(job: &Job) -> Option<Timestamp> {
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let seconds = job.spec.as_ref()?.ttl_seconds_after_finished?;
    Some(clock::after(job::finished_at(job)?, i64::from(seconds)))
}
