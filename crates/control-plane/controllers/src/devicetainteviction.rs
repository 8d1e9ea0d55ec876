//! Ends pods whose devices are tainted.
//!
//! Source of behaviour: `pkg/controller/devicetainteviction`. Taints are those that drivers publish in ResourceSlices; rules of
//! administrators (DeviceTaintRule) are an API that is off by default.

mod decide;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;
