//! Fills ClusterRoles with an aggregation rule, such as `admin`, `edit` and `view`, from the roles that their selectors select.
//!
//! Source of behaviour: `pkg/controller/clusterroleaggregation`.

mod decide;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;
