//! How requests were authenticated and authorised, and how long the steps before their handlers took.
//!
//! Every place to count is made beforehand: a request adds to a few numbers and looks nothing up.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use podium_client::metrics::{Histogram, exponential, head};

/// Source: upstream's `endpoints/filters/metrics.go`, in seconds.
const ATTEMPTS: &[f64] = &exponential::<15>(0.001, 2.0);
/// Source: upstream `apiserver_request_filter_duration_seconds`.
const FILTERS: &[f64] = &[0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 5.0, 10.0, 15.0, 30.0];

/// How an authentication ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Authentication {
    Success,
    /// Nothing was shown, and that is not enough.
    Failure,
    /// What was shown is not good.
    Error,
}

/// How an authorisation ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Authorization {
    Allowed,
    Denied,
    NoOpinion,
}

/// The steps before a handler, under upstream's names.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Filter {
    Authentication,
    Impersonation,
    PriorityAndFairness,
    Authorization,
}

/// Names that are told, as upstream: names of its own first set-ups. The others are counted together.
const USERS: [&str; 7] = [
    "admin",
    "client",
    "kube_proxy",
    "kubelet",
    "system:serviceaccount:kube-system:default",
    "email_id",
    "other",
];

/// Distributions of one metric, by the value of its label.
#[derive(Debug)]
struct Labelled<const N: usize> {
    values: [&'static str; N],
    each: [Histogram; N],
}

impl<const N: usize> Labelled<N> {
    fn new(values: [&'static str; N], bounds: &'static [f64]) -> Self {
        Labelled { values, each: std::array::from_fn(|_| Histogram::new(bounds)) }
    }

    fn write(&self, out: &mut String, name: &str, help: &str, label: &str) {
        head(out, name, "histogram", help);
        for (value, histogram) in self.values.iter().zip(&self.each) {
            histogram.render(out, name, &format!("{label}=\"{value}\""));
        }
    }

    /// How many there were of each.
    fn count(&self, out: &mut String, name: &str, help: &str, label: &str) {
        head(out, name, "counter", help);
        for (value, histogram) in self.values.iter().zip(&self.each) {
            match histogram.count() {
                0 => {}
                count => _ = writeln!(out, "{name}{{{label}=\"{value}\"}} {count}"),
            }
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Access {
    authentications: Labelled<3>,
    users: [AtomicU64; USERS.len()],
    authorizations: Labelled<3>,
    filters: Labelled<4>,
}

impl Default for Access {
    fn default() -> Access {
        let filters = ["authentication", "constrainedimpersonation", "priorityandfairness", "authorization"];
        Access {
            authentications: Labelled::new(["success", "failure", "error"], ATTEMPTS),
            users: Default::default(),
            authorizations: Labelled::new(["allowed", "denied", "no-opinion"], ATTEMPTS),
            filters: Labelled::new(filters, FILTERS),
        }
    }
}

impl Access {
    /// Credentials were looked at; `user` is whose they are, if they are good.
    pub(crate) fn authenticated(&self, outcome: Authentication, user: Option<&str>, took: Duration) {
        self.authentications.each[outcome as usize].observe(took.as_secs_f64());
        self.passed(Filter::Authentication, took);
        if let Some(user) = user {
            let known = USERS[..5].iter().position(|known| *known == user);
            let index = known.unwrap_or(if user.contains('@') { 5 } else { 6 });
            self.users[index].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A request was allowed or not.
    pub(crate) fn authorized(&self, outcome: Authorization, took: Duration) {
        self.authorizations.each[outcome as usize].observe(took.as_secs_f64());
        self.passed(Filter::Authorization, took);
    }

    /// A request went through a step.
    pub(crate) fn passed(&self, filter: Filter, took: Duration) {
        self.filters.each[filter as usize].observe(took.as_secs_f64());
    }

    pub(super) fn render(&self, out: &mut String) {
        let help = "[ALPHA] Requests whose credentials were looked at, by what came of it.";
        self.authentications.count(out, "authentication_attempts", help, "result");
        let help = "[ALPHA] How long it took to know who sends a request.";
        self.authentications.write(out, "authentication_duration_seconds", help, "result");
        let name = "authenticated_user_requests";
        head(out, name, "counter", "[ALPHA] Requests whose sender is known, by a few well-known names.");
        for (user, count) in USERS.iter().zip(&self.users) {
            match count.load(Ordering::Relaxed) {
                0 => {}
                count => _ = writeln!(out, "{name}{{username=\"{user}\"}} {count}"),
            }
        }
        let help = "[ALPHA] Requests about which the authorisers were asked, by their answer.";
        self.authorizations.count(out, "authorization_attempts_total", help, "result");
        let help = "[ALPHA] How long it took to know whether a request is allowed.";
        self.authorizations.write(out, "authorization_duration_seconds", help, "result");
        let help = "[ALPHA] How long a step before the handler took.";
        self.filters.write(out, "apiserver_request_filter_duration_seconds", help, "filter");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_is_counted_under_its_own_name() {
        let access = Access::default();
        let took = Duration::from_micros(200);
        access.authenticated(Authentication::Success, Some("admin"), took);
        access.authenticated(Authentication::Success, Some("a@b.c"), took);
        access.authenticated(Authentication::Success, Some("system:node:a"), took);
        access.authenticated(Authentication::Error, None, took);
        access.authorized(Authorization::NoOpinion, took);
        access.passed(Filter::PriorityAndFairness, took);
        let mut text = String::new();
        access.render(&mut text);
        for row in [
            "authentication_attempts{result=\"success\"} 3",
            "authentication_attempts{result=\"error\"} 1",
            "authentication_duration_seconds_bucket{result=\"success\",le=\"0.001\"} 3",
            "authenticated_user_requests{username=\"admin\"} 1",
            "authenticated_user_requests{username=\"email_id\"} 1",
            "authenticated_user_requests{username=\"other\"} 1",
            "authorization_attempts_total{result=\"no-opinion\"} 1",
            "authorization_duration_seconds_count{result=\"no-opinion\"} 1",
            "apiserver_request_filter_duration_seconds_count{filter=\"authentication\"} 4",
            "apiserver_request_filter_duration_seconds_bucket{filter=\"priorityandfairness\",le=\"0.0001\"} 0",
            "apiserver_request_filter_duration_seconds_bucket{filter=\"priorityandfairness\",le=\"0.0003\"} 1",
        ] {
            assert!(text.lines().any(|line| line == row), "{row}\nis not in\n{text}");
        }
        assert!(!text.contains("result=\"failure\"") && !text.contains("kubelet"), "{text}");
    }
}
