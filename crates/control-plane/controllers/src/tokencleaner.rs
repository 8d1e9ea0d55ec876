//! Deletes bootstrap tokens that have expired.
//!
//! Source of behaviour: `pkg/controller/bootstrap/tokencleaner.go`. Off unless asked for, as upstream.

mod decide;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;
