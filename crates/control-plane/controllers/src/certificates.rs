//! Certificate signing requests: approves those of kubelets for client certificates, signs approved ones, and removes those
//! that are over.
//!
//! Source of behaviour: `pkg/controller/certificates/{approver,signer,cleaner}`. Without a signing key
//! ([`crate::Settings::signer`]) nothing is signed.

mod decide;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use shell::{run_approving, run_cleaning, run_signing};
