//! ResourceQuota: counts what the objects of a namespace use.
//!
//! Admission charges a quota before an object is made; this controller finds what was charged for objects that were not made after
//! all, and what has been freed. It counts live objects, and lowers a count only when the quota has been quiet for a moment, so that
//! a charge whose object is just being made is not taken back. Source of behaviour: `pkg/controller/resourcequota`, `pkg/quota/v1`.

mod decide;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;
