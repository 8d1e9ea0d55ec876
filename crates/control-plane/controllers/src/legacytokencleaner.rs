//! Retires service account tokens in Secrets that were made automatically and that nobody has used for a year.
//!
//! Source of behaviour: `pkg/controller/serviceaccount/legacy_serviceaccount_token_cleaner.go`. The API server notes in a
//! ConfigMap since when it has been noting the uses.

mod decide;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use decide::{ACCOUNT_NAME, ACCOUNT_UID, TYPE};
pub(crate) use shell::run;
