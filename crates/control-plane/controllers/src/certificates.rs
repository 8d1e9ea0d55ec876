//! Certificate signing requests: approves those of kubelets for client certificates, signs approved ones, and removes those
//! that are over.
//!
//! Source of behaviour: `pkg/controller/certificates/{approver,signer,cleaner}`. What has no key in
//! [`crate::Settings::signers`] is not signed.

mod decide;
mod shell;
mod signers;
#[cfg(test)]
mod tests;

pub(crate) use shell::{run_approving, run_cleaning, run_signing};
pub use signers::Signers;
