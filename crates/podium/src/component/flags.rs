//! Flags that components share: leader election, and upstream's flags that are refused with a reason instead of a guess.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, error::ErrorKind, parser::ValueSource};
use podium_client::{Client, LeaderElection, LeadershipTimings};

/// A duration in Go's form, in whole units such as `1m30s`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 40s, 5m or 1h30m");
    let span: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(span).map_err(|_| wrong())
}

/// How a component makes sure that it acts alone.
#[derive(Debug, Args)]
pub(crate) struct Election {
    /// Act only while holding a Lease
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1,
          default_missing_value = "true")]
    leader_elect: bool,
    /// Others take over when the Lease was not renewed for this long
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration)]
    leader_elect_lease_duration: Duration,
    /// Give up acting when it could not be renewed for this long
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    leader_elect_renew_deadline: Duration,
    /// Time between tries
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    leader_elect_retry_period: Duration,
    /// What is held
    #[arg(long, value_name = "KIND", default_value = "leases", value_parser = ["leases"])]
    leader_elect_resource_lock: String,
    /// The Lease's name [default: the component's]
    #[arg(long, value_name = "NAME")]
    leader_elect_resource_name: Option<String>,
    /// The Lease's namespace
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-system")]
    leader_elect_resource_namespace: String,
}

impl Election {
    /// Whether the flags fit together.
    pub(crate) fn check(&self) -> Result<()> {
        let (lease, renew) = (self.leader_elect_lease_duration, self.leader_elect_renew_deadline);
        ensure!(
            lease > renew,
            "--leader-elect-lease-duration must be greater than --leader-elect-renew-deadline"
        );
        // Tries are spread by up to that factor.
        let retry = self.leader_elect_retry_period.mul_f64(1.2);
        ensure!(
            renew > retry,
            "--leader-elect-renew-deadline must be greater than --leader-elect-retry-period * 1.2"
        );
        ensure!(!retry.is_zero(), "--leader-elect-retry-period must be greater than zero");
        Ok(())
    }

    /// The candidate, if there is to be an election.
    pub(crate) fn candidate(&self, client: Client, component: &str) -> Result<Option<LeaderElection>> {
        if !self.leader_elect {
            return Ok(None);
        }
        Ok(Some(LeaderElection {
            client,
            namespace: self.leader_elect_resource_namespace.clone(),
            name: self.leader_elect_resource_name.clone().unwrap_or_else(|| component.to_owned()),
            identity: super::leader_identity()?,
            timings: LeadershipTimings {
                lease_duration: self.leader_elect_lease_duration,
                renew_deadline: self.leader_elect_renew_deadline,
                retry_period: self.leader_elect_retry_period,
            },
            release_on_shutdown: true,
        }))
    }
}

/// Flags of upstream's controller manager and scheduler that have nothing to act on here, and why.
const REFUSED: &[(&str, &str)] = &[
    ("attach-detach-reconcile-sync-period", NO_VOLUMES),
    ("cidr-allocator-type", "addresses are given from --cluster-cidr only"),
    ("cloud-config", NO_CLOUD),
    ("cloud-provider", NO_CLOUD),
    ("cluster-name", NO_CLOUD),
    ("concurrent-service-syncs", NO_CLOUD),
    ("config", "there are no configuration files: give flags"),
    ("configure-cloud-routes", NO_CLOUD),
    ("contention-profiling", NO_PROFILING),
    ("controller-start-interval", "controllers start at once"),
    ("disable-attach-detach-reconcile-sync", NO_VOLUMES),
    ("disable-force-detach-on-timeout", NO_VOLUMES),
    ("enable-dynamic-provisioning", NO_VOLUMES),
    ("enable-hostpath-provisioner", NO_VOLUMES),
    ("endpoint-updates-batch-period", NO_BATCHES),
    ("endpointslice-updates-batch-period", NO_BATCHES),
    ("feature-gates", "features are those of v1.36 that are on by default"),
    ("flex-volume-plugin-dir", NO_VOLUMES),
    ("kube-api-burst", NO_RATES),
    ("kube-api-content-type", "the API is spoken to in JSON"),
    ("kube-api-qps", NO_RATES),
    ("min-resync-period", NO_ROUNDS),
    ("mirroring-endpointslice-updates-batch-period", NO_BATCHES),
    ("namespace-sync-period", NO_ROUNDS),
    ("profiling", NO_PROFILING),
    ("requestheader-client-ca-file", "requests through a proxy are not accepted on this port"),
    ("resource-quota-sync-period", NO_ROUNDS),
    ("route-reconciliation-period", NO_CLOUD),
];
const NO_BATCHES: &str =
    "changes are written as they come; what comes while a write is under way goes with the next";
const NO_CLOUD: &str = "there is no cloud provider";
const NO_PROFILING: &str = "there is no profiling; it is always off";
const NO_RATES: &str = "the client has no limit of its own; the API server's flow control has";
const NO_ROUNDS: &str = "nothing is done in rounds: objects are looked at when something about them changes";
const NO_VOLUMES: &str = "volumes are not provisioned or attached here";

/// Takes the flags of [`REFUSED`] and answers each with its reason.
#[derive(Debug)]
pub(crate) struct Refused;

impl Args for Refused {
    fn augment_args(command: Command) -> Command {
        command.args(REFUSED.iter().map(|(name, _)| {
            Arg::new(*name).long(*name).hide(true).num_args(0..=1).default_missing_value("true")
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Refused {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |name: &str| matches.value_source(name) == Some(ValueSource::CommandLine);
        match REFUSED.iter().find(|(name, _)| given(name)) {
            // What is asked for is so.
            Some((name, why)) if *why == NO_PROFILING && says_false(matches, name) => Ok(Refused),
            Some((name, why)) => Err(clap::Error::raw(
                ErrorKind::UnknownArgument,
                format!("--{name} is not supported: {why}\n"),
            )),
            None => Ok(Refused),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn says_false(matches: &ArgMatches, name: &str) -> bool {
    matches.get_one::<String>(name).is_some_and(|value| value == "false")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        election: Election,
        #[command(flatten)]
        _refused: Refused,
    }

    fn parse(arguments: &[&str]) -> Result<Program, clap::Error> {
        Program::try_parse_from(std::iter::once(&"program").chain(arguments))
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        assert_eq!(duration("40s"), Ok(Duration::from_secs(40)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert!(duration("-1s").is_err() && duration("x").is_err());
    }

    #[test]
    fn a_refused_flag_is_named_with_its_reason() {
        for flag in [&["--kube-api-qps=50"][..], &["--kube-api-qps", "50"], &["--profiling"]] {
            let text = parse(flag).unwrap_err().to_string();
            let name = flag[0].split('=').next().unwrap();
            assert!(text.contains(&format!("{name} is not supported: ")), "{text}");
        }
        let all: std::collections::BTreeSet<_> = REFUSED.iter().collect();
        assert_eq!(all.len(), REFUSED.len());
        parse(&["--profiling=false"]).unwrap();
    }

    #[test]
    fn an_election_that_could_have_two_leaders_is_refused() {
        let check =
            |arguments: &[&str]| parse(arguments).unwrap().election.check().map_err(|e| e.to_string());
        assert_eq!(check(&[]), Ok(()));
        let error = check(&["--leader-elect-lease-duration=10s"]).unwrap_err();
        assert!(error.starts_with("--leader-elect-lease-duration must be greater"), "{error}");
        assert!(check(&["--leader-elect-retry-period=9s"]).is_err());
        assert!(parse(&["--leader-elect-resource-lock=configmaps"]).is_err());
        assert!(!parse(&["--leader-elect=false"]).unwrap().election.leader_elect);
    }
}
