//! Job: run pods until enough of them have succeeded.
//!
//! Every pod carries a finalizer until its end has been counted, so that no end is counted twice or missed: first its uid is
//! written to `status.uncountedTerminatedPods`, then the finalizer is taken off, then the uid is turned into a count. Source of
//! behaviour: `pkg/controller/job`. Where upstream keeps failures and their times in memory for the back-off, here they are
//! read off the pods, so a restart does not forget them.

mod decide;
mod freshness;
mod indexes;
mod policy;
mod shell;
mod status;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;
pub(crate) use status::finished_at;

/// Holds a pod until its end has been counted.
pub(crate) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Annotation and label: which index of an Indexed Job a pod works on.
pub(crate) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Annotation: how often the index has failed before.
pub(crate) const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// Annotation: the same for failures that the policy ignores.
pub(crate) const INDEX_IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
