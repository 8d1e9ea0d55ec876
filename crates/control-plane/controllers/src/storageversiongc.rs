//! Forgets what API servers that are gone wrote down about how they stored objects.
//!
//! Source of behaviour: `pkg/controller/storageversiongc`. Upstream's runs where its feature gates are on; the kind is alpha, so this
//! one looks whether it is served, and does nothing where it is not. One difference: a lease that cannot be read is no proof that its
//! server is gone, where upstream takes any failure for one.

mod decide;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;
