//! The `default` ServiceAccount of every namespace. Source of behaviour: `pkg/controller/serviceaccount`.

mod decide;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use decide::is_alive;
pub(crate) use shell::run;
