//! Tells of claims that ask for more than they have, and whom they wait for.
//!
//! Source of behaviour: `pkg/controller/volume/expand`. Nothing is resized here: of the plugins that upstream's controller manager
//! still has none can expand a volume, so an external resizer does it for CSI drivers and for whatever a CSI driver took over. One
//! difference: a claim on a FlexVolume waits like all others, where upstream calls it resized at once and leaves the rest to the
//! kubelet; no kubelet of ours mounts one.

mod decide;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;
