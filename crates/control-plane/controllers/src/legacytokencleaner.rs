//! Retires service account tokens in Secrets that were made automatically and that nobody has used for a year.
//!
//! Source of behaviour: `pkg/controller/serviceaccount/legacy_serviceaccount_token_cleaner.go`. An API server that notes the uses of
//! tokens says in a ConfigMap since when it has done so. Without that map, or before a year has passed since, nothing is touched;
//! Podium's own API server notes no uses and writes no such map.

mod decide;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;
