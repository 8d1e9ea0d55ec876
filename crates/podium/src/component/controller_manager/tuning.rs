//! Numbers of single controllers: of autoscalers, of slices, of tokens.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use podium_controllers::{Autoscaling, Settings};

use crate::component::flags::duration;

/// Flags by upstream's names.
#[derive(Debug, Args)]
pub(crate) struct Tuning {
    /// How often an autoscaler is looked at
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration)]
    horizontal_pod_autoscaler_sync_period: Duration,
    /// For how long the highest recommendation holds, where an autoscaler does not say
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    horizontal_pod_autoscaler_downscale_stabilization: Duration,
    /// How far from its target a ratio may be before anything is done, where an autoscaler does not say
    #[arg(long, value_name = "PART", default_value_t = 0.1)]
    horizontal_pod_autoscaler_tolerance: f64,
    /// How long after its start a pod's use of CPU may be passed over
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    horizontal_pod_autoscaler_cpu_initialization_period: Duration,
    /// How long after its start a pod that turns unready counts as never ready
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    horizontal_pod_autoscaler_initial_readiness_delay: Duration,
    /// The most endpoints of one EndpointSlice
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    max_endpoints_per_slice: u16,
    /// The most addresses of one subset of Endpoints that are mirrored to EndpointSlices
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=1000))]
    mirroring_max_endpoints_per_subset: u16,
    /// How long the token of a Secret is kept that nobody uses
    #[arg(long, value_name = "DURATION", default_value = "8760h", value_parser = duration)]
    legacy_service_account_token_clean_up_period: Duration,
}

impl Tuning {
    /// Writes down what was chosen.
    pub(crate) fn apply(&self, settings: &mut Settings) -> Result<()> {
        for (flag, period) in [
            ("--horizontal-pod-autoscaler-sync-period", self.horizontal_pod_autoscaler_sync_period),
            (
                "--legacy-service-account-token-clean-up-period",
                self.legacy_service_account_token_clean_up_period,
            ),
        ] {
            ensure!(!period.is_zero(), "{flag} must be greater than zero");
        }
        let tolerance = self.horizontal_pod_autoscaler_tolerance;
        ensure!(tolerance >= 0.0, "--horizontal-pod-autoscaler-tolerance must not be less than zero");
        settings.autoscaling = Autoscaling {
            sync_period: self.horizontal_pod_autoscaler_sync_period,
            downscale_stabilization: self.horizontal_pod_autoscaler_downscale_stabilization,
            tolerance,
            cpu_initialization: self.horizontal_pod_autoscaler_cpu_initialization_period,
            initial_readiness_delay: self.horizontal_pod_autoscaler_initial_readiness_delay,
        };
        settings.endpoints_per_slice = self.max_endpoints_per_slice.into();
        settings.mirrored_per_subset = self.mirroring_max_endpoints_per_subset.into();
        settings.legacy_token_period = self.legacy_service_account_token_clean_up_period;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        tuning: Tuning,
    }

    fn settings(flags: &str) -> Result<Settings> {
        let program = Program::try_parse_from(std::iter::once("program").chain(flags.split_whitespace()))?;
        let mut settings = Settings::default();
        program.tuning.apply(&mut settings)?;
        Ok(settings)
    }

    #[test]
    fn without_flags_nothing_changes() {
        let (given, own) = (settings("").unwrap(), Settings::default());
        assert_eq!(given.autoscaling, own.autoscaling);
        assert_eq!(given.endpoints_per_slice, own.endpoints_per_slice);
        assert_eq!(given.mirrored_per_subset, own.mirrored_per_subset);
        assert_eq!(given.legacy_token_period, own.legacy_token_period);
    }

    #[test]
    fn each_flag_sets_its_number() {
        let settings = settings(
            "--horizontal-pod-autoscaler-sync-period=30s --horizontal-pod-autoscaler-downscale-stabilization=1m \
             --horizontal-pod-autoscaler-tolerance=0.2 --horizontal-pod-autoscaler-cpu-initialization-period=2m \
             --horizontal-pod-autoscaler-initial-readiness-delay=45s --max-endpoints-per-slice=500 \
             --mirroring-max-endpoints-per-subset=50 --legacy-service-account-token-clean-up-period=24h",
        );
        let settings = settings.unwrap();
        let expected = Autoscaling {
            sync_period: Duration::from_secs(30),
            downscale_stabilization: Duration::from_secs(60),
            tolerance: 0.2,
            cpu_initialization: Duration::from_secs(120),
            initial_readiness_delay: Duration::from_secs(45),
        };
        assert_eq!(settings.autoscaling, expected);
        assert_eq!((settings.endpoints_per_slice, settings.mirrored_per_subset), (500, 50));
        assert_eq!(settings.legacy_token_period, Duration::from_secs(24 * 3600));
    }

    #[test]
    fn senseless_numbers_are_refused_by_name() {
        for flag in [
            "--horizontal-pod-autoscaler-sync-period=0s",
            "--horizontal-pod-autoscaler-tolerance=-1",
            "--horizontal-pod-autoscaler-tolerance=NaN",
            "--max-endpoints-per-slice=0",
            "--mirroring-max-endpoints-per-subset=1001",
            "--legacy-service-account-token-clean-up-period=0s",
        ] {
            let error = settings(flag).map(drop).unwrap_err().to_string();
            let name = flag.split('=').next().unwrap();
            assert!(error.contains(name), "{flag}: {error}");
        }
    }
}
