//! How long a node takes from the machine's boot until it is ready. Told only of a node that this kubelet registered anew, as
//! upstream's `node_startup_latency_tracker.go` does.

use std::time::{Duration, Instant};

use crate::metrics::{self, Metrics};

/// The clock of one kubelet.
#[derive(Debug)]
pub(crate) struct Startup {
    began: Instant,
    /// How long the machine had been up then; None: nobody says.
    up: Option<Duration>,
    tried: Option<Instant>,
    registered: Option<Instant>,
    ready: bool,
}

impl Startup {
    /// The kubelet begins.
    pub(crate) fn begin() -> Self {
        let uptime = std::fs::read_to_string("/proc/uptime").ok();
        let up = uptime.and_then(|text| text.split(' ').next()?.parse().ok()).map(Duration::from_secs_f64);
        Self::at(Instant::now(), up)
    }

    fn at(began: Instant, up: Option<Duration>) -> Self {
        Self { began, up, tried: None, registered: None, ready: false }
    }

    /// The node is about to be registered; the first try counts.
    pub(crate) fn tries(&mut self, now: Instant) {
        self.tried.get_or_insert(now);
    }

    /// The node was made by this kubelet.
    pub(crate) fn registered(&mut self, metrics: &Metrics, now: Instant) {
        let Some(tried) = self.tried.filter(|_| self.registered.is_none()) else { return };
        self.registered = Some(now);
        if let Some(up) = self.up {
            metrics.set(&metrics::NODE_PRE_KUBELET, &[], up.as_secs_f64());
        }
        metrics.set(&metrics::NODE_PRE_REGISTRATION, &[], (tried - self.began).as_secs_f64());
        metrics.set(&metrics::NODE_REGISTRATION, &[], (now - tried).as_secs_f64());
    }

    /// The API has been told that the node is ready.
    pub(crate) fn ready(&mut self, metrics: &Metrics, now: Instant) {
        let Some(registered) = self.registered.filter(|_| !self.ready) else { return };
        self.ready = true;
        metrics.set(&metrics::NODE_POST_REGISTRATION, &[], (now - registered).as_secs_f64());
        if let Some(up) = self.up {
            metrics.set(&metrics::NODE_STARTUP, &[], (up + (now - self.began)).as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_new_node_is_timed_and_once() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let (metrics, mut startup) = (Metrics::default(), Startup::at(began, Some(Duration::from_secs(100))));
        startup.registered(&metrics, at(1));
        startup.ready(&metrics, at(2));
        assert!(metrics.render("kubelet_node_startup_duration").ends_with(" 0\n"), "it was there before");
        for (tried, registered, ready) in [(3, 5, 9), (20, 30, 40)] {
            startup.tries(at(tried));
            startup.registered(&metrics, at(registered));
            startup.ready(&metrics, at(ready));
        }
        let told = metrics.render("kubelet_node_startup_");
        let told: Vec<_> = told.lines().filter(|line| !line.starts_with('#')).collect();
        let expected = [
            "pre_kubelet_duration_seconds 100",
            "pre_registration_duration_seconds 3",
            "registration_duration_seconds 2",
            "post_registration_duration_seconds 4",
            "duration_seconds 109",
        ];
        assert_eq!(told, expected.map(|row| format!("kubelet_node_startup_{row}")));
    }
}
