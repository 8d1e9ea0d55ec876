//! CronJob: make Jobs by the clock. Source of behaviour: `pkg/controller/cronjob`.

mod decide;
mod schedule;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;
