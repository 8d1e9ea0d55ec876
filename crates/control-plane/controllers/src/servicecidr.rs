//! Keeps ranges of Service addresses until no address needs them, and says whether they are ready.
//!
//! Source of behaviour: `pkg/controller/servicecidrs`.

mod decide;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;
