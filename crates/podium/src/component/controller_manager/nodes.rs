//! Flags about nodes that go silent.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use podium_controllers::NodeEviction;

use crate::component::flags::duration;

/// Flags by upstream's names.
#[derive(Debug, Args)]
pub(crate) struct Nodes {
    /// How long a silent Node passes for well
    #[arg(long, value_name = "DURATION", default_value = "50s", value_parser = duration)]
    pub(crate) node_monitor_grace_period: Duration,
    /// The same for a new Node
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = duration)]
    pub(crate) node_startup_grace_period: Duration,
    /// At most how much later a change of a Node may be noticed; any is kept, since changes are seen as they happen
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    node_monitor_period: Duration,
    /// Nodes of a zone per second whose pods are evicted, while most are well
    #[arg(long, value_name = "RATE", default_value_t = 0.1)]
    node_eviction_rate: f64,
    /// The same while a large zone is in trouble
    #[arg(long, value_name = "RATE", default_value_t = 0.01)]
    secondary_node_eviction_rate: f64,
    /// How many nodes make a zone large
    #[arg(long, value_name = "N", default_value_t = 50)]
    large_cluster_size_threshold: usize,
    /// From which part of its nodes on that are not ready a zone is in trouble
    #[arg(long, value_name = "PART", default_value_t = 0.55)]
    unhealthy_zone_threshold: f64,
}

impl Nodes {
    /// How fast pods are evicted.
    pub(crate) fn eviction(&self) -> Result<NodeEviction> {
        ensure!(!self.node_monitor_period.is_zero(), "--node-monitor-period must be greater than zero");
        ensure!(
            (0.0..=1.0).contains(&self.unhealthy_zone_threshold),
            "--unhealthy-zone-threshold must be from 0 to 1"
        );
        Ok(NodeEviction {
            interval: interval(self.node_eviction_rate).context("--node-eviction-rate")?,
            secondary_interval: interval(self.secondary_node_eviction_rate)
                .context("--secondary-node-eviction-rate")?,
            large_zone: self.large_cluster_size_threshold,
            unhealthy: self.unhealthy_zone_threshold,
        })
    }
}

/// The time between two at so many per second; `None` for none at all.
fn interval(rate: f64) -> Result<Option<Duration>> {
    ensure!(rate >= 0.0, "must not be less than zero");
    if rate == 0.0 {
        return Ok(None);
    }
    Ok(Some(Duration::try_from_secs_f64(1.0 / rate).context("is too small")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_become_intervals() {
        assert_eq!(interval(0.1).unwrap(), Some(Duration::from_secs(10)));
        assert_eq!(interval(0.0).unwrap(), None);
        for wrong in [-1.0, f64::NAN, 1e-300] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }
}
