//! Deletes finished Jobs when their `ttlSecondsAfterFinished` is over. Source of behaviour: `pkg/controller/ttlafterfinished`.

mod decide;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;
