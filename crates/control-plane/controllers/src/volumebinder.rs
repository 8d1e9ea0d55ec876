//! Binds claims to volumes, and gives volumes back when their claims are gone.
//!
//! Source of behaviour: `pkg/controller/volume/persistentvolume`. Volumes are never made here: classes are handed to external
//! provisioners by an annotation on the claim. Three things differ from upstream. Where its controller looks at everything every 15
//! seconds, this one is told of what a claim waits for: volumes, classes, pods. Files of a deleted `hostPath` volume are removed
//! only if they lie below `/tmp` after all links are followed. And a recycling pod's events are not repeated on the volume.

mod claims;
mod counts;
mod decide;
mod latest;
pub(crate) mod plugins;
mod reclaim;
mod recycle;
mod shell;
mod status;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;
