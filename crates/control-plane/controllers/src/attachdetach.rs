//! Attaches volumes of CSI drivers to the nodes whose pods use them, and detaches them when no pod does.
//!
//! Source of behaviour: `pkg/controller/volume/attachdetach` with `pkg/volume/csi`. What is attached is what VolumeAttachments say, and
//! nothing else is remembered but since when a detachment waits for a node. Volumes of plugins that CSI drivers have replaced are
//! not translated, and attachments are not verified by asking drivers again.

mod decide;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;
