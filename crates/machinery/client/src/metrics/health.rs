//! What `/metrics/slis` says: how a component's health checks went.

use super::{Collect, Counter, Family, Gauge};

/// The health checks of one component, by name and by endpoint (`livez` and the like).
///
/// Counted are the checks that an endpoint makes when it is asked as a whole; one that is asked for alone is not, as upstream.
/// Source: `k8s.io/component-base/metrics/prometheus/slis`.
#[derive(Debug)]
pub struct HealthChecks {
    last: Family<Gauge, 2>,
    results: Family<Counter, 3>,
}

impl HealthChecks {
    /// Of a component that was not asked yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            last: Family::new(
                "kubernetes_healthcheck",
                "[STABLE] This metric records the result of a single healthcheck.",
                ["name", "type"],
                Gauge::default,
            ),
            results: Family::new(
                "kubernetes_healthchecks_total",
                "[STABLE] This metric records the results of all healthcheck.",
                ["name", "status", "type"],
                Counter::default,
            ),
        }
    }

    /// Counts how a check went. Names and endpoints are the component's own, never a client's: each makes a series that stays.
    pub fn observe(&self, endpoint: &str, name: &str, good: bool) {
        self.last.with([name, endpoint]).set(f64::from(u8::from(good)));
        let status = if good { "success" } else { "error" };
        self.results.with([name, status, endpoint]).increment();
    }

    /// Appends what was counted, and when the process began: a count is worth little without.
    pub fn collect(&self, out: &mut String) {
        self.last.collect(out);
        self.results.collect(out);
        let process = crate::process_metrics();
        for line in process.lines().filter(|line| line.contains("process_start_time_seconds")) {
            out.push_str(line);
            out.push('\n');
        }
    }
}

impl Default for HealthChecks {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_result_and_all_results_are_told() {
        let checks = HealthChecks::new();
        checks.observe("livez", "ping", true);
        checks.observe("livez", "ping", true);
        checks.observe("livez", "ping", false);
        checks.observe("readyz", "ping", true);
        let mut out = String::new();
        checks.collect(&mut out);
        let rows: Vec<_> = out.lines().filter(|line| !line.starts_with('#')).collect();
        let (start, counted) = rows.split_last().unwrap();
        assert_eq!(
            counted,
            [
                "kubernetes_healthcheck{name=\"ping\",type=\"livez\"} 0",
                "kubernetes_healthcheck{name=\"ping\",type=\"readyz\"} 1",
                "kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"livez\"} 2",
                "kubernetes_healthchecks_total{name=\"ping\",status=\"error\",type=\"livez\"} 1",
                "kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"readyz\"} 1",
            ]
        );
        assert!(start.starts_with("process_start_time_seconds "), "{start}");
    }
}
