//! Fills token Secrets that users make for service accounts, and deletes them with their accounts.
//!
//! Source of behaviour: `pkg/controller/serviceaccount/tokens_controller.go`.

mod decide;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;
