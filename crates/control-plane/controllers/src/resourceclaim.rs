//! Resource claims of pods: made from templates, reserved for whoever uses them, let go when nobody does.
//!
//! Source of behaviour: `pkg/controller/resourceclaim`. Upstream has the API server choose the names of generated claims and
//! remembers them; here a name follows from the pod and its claim, so that a claim whose making got no answer is found again
//! instead of made twice. Claims shared by pod groups are left alone: nothing serves pod groups.

mod decide;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use decide::{Name, claims_of, is_own, is_pod, name_of};
pub(crate) use shell::run;
