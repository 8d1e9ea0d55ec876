//! Flags that components share: leader election, and upstream's flags that have nothing to act on here. Of those, one that would be
//! misunderstood is refused with a reason instead of a guess.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use podium_client::{Client, LeaderElection, LeadershipTimings, Watchdog};

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
            watchdog: Watchdog::default(),
        }))
    }
}

/// What becomes of one of upstream's flags that has nothing to act on here.
#[derive(Clone, Copy, Debug)]
enum Rule {
    /// Refused, for this reason.
    Never(&'static str),
    /// Taken with the value that tells what is so, and refused with any other for this reason.
    Only(&'static str, &'static str),
    /// The same with several values, in small letters or capitals.
    OneOf(&'static [&'static str], &'static str),
    /// Taken with any value, for this reason, which the log then has.
    Any(&'static str),
    /// Taken if the check finds nothing.
    Checked(fn(&str) -> Result<(), String>),
}
use Rule::{Any, Checked, Never, OneOf, Only};

/// Flags of upstream's controller manager and scheduler that have nothing to act on here.
const WITHOUT_EFFECT: &[(&str, Rule)] = &[
    ("allow-metric-labels", Never(ALL_METRICS)),
    ("allow-metric-labels-manifest", Never(ALL_METRICS)),
    ("allow-untagged-cloud", Only("false", NO_CLOUD)),
    ("attach-detach-reconcile-sync-period", Never(NO_ROUNDS)),
    (
        "authentication-skip-lookup",
        Only(
            "false",
            "authorities that --client-ca-file and --requestheader-client-ca-file name are not looked up",
        ),
    ),
    ("authentication-token-webhook-cache-ttl", Any(NO_CACHE)),
    (
        "authentication-tolerate-lookup-failure",
        Only(
            "true",
            "certificates of authorities that could not be looked up are refused, and nothing else changes",
        ),
    ),
    ("authorization-webhook-cache-authorized-ttl", Any(NO_CACHE)),
    ("authorization-webhook-cache-unauthorized-ttl", Any(NO_CACHE)),
    ("cert-dir", Only("", "give --tls-cert-file and --tls-private-key-file")),
    ("cidr-allocator-type", Only("RangeAllocator", "addresses are given from --cluster-cidr only")),
    ("cloud-config", Never(NO_CLOUD)),
    ("cloud-provider", Only("", NO_CLOUD)),
    ("cluster-name", Any("The cluster's name for cloud providers, of which there are none")),
    ("concurrent-service-syncs", Never(NO_CLOUD)),
    ("config", Never("there are no configuration files: give flags")),
    ("configure-cloud-routes", Any("Whether a cloud provider makes routes; there is none")),
    ("contention-profiling", Only("false", NO_PROFILING)),
    ("controller-start-interval", Never("controllers start at once")),
    ("disable-attach-detach-reconcile-sync", Only("true", NO_ROUNDS)),
    (
        "disable-force-detach-on-timeout",
        Only("false", "volumes of unhealthy nodes are detached by force after a while"),
    ),
    (
        "enable-dynamic-provisioning",
        Only("true", "claims are always handed to the provisioners of their classes"),
    ),
    ("disable-http2-serving", Only("true", "HTTP/1.1 is spoken and nothing else")),
    ("disabled-metrics", Never(ALL_METRICS)),
    ("emulated-version", OneOf(&["1.36", "kube=1.36", ""], "v1.36 is all there is")),
    ("enable-leader-migration", Only("false", NO_CLOUD)),
    ("enable-hostpath-provisioner", Only("false", "no volumes are made in directories of hosts")),
    ("endpoint-updates-batch-period", Only("0s", NO_BATCHES)),
    ("endpointslice-updates-batch-period", Only("0s", NO_BATCHES)),
    ("external-cloud-volume-plugin", Only("", NO_CLOUD)),
    ("feature-gates", Checked(super::gates::check)),
    ("flex-volume-plugin-dir", Never("there are no plugins of that kind: use CSI")),
    ("http2-max-streams-per-connection", Any("HTTP/1.1 is spoken, which has no streams")),
    ("kube-api-burst", Any(NO_RATES)),
    ("kube-api-content-type", Only("application/json", "the API is spoken to in JSON")),
    ("kube-api-qps", Any(NO_RATES)),
    ("leader-migration-config", Never(NO_CLOUD)),
    ("log-flush-frequency", Any(AT_ONCE)),
    ("log-json-info-buffer-size", Any(AT_ONCE)),
    ("log-json-split-stream", Only("false", "the log is text on standard error")),
    ("log-text-info-buffer-size", Any(AT_ONCE)),
    ("log-text-split-stream", Only("false", "the log is text on standard error")),
    ("logging-format", Only("text", "the log is text on standard error")),
    (
        "min-compatibility-version",
        OneOf(&["1.35", "1.36", "kube=1.35", "kube=1.36", ""], "v1.36 is all there is"),
    ),
    ("min-resync-period", Never(NO_ROUNDS)),
    ("mirroring-endpointslice-updates-batch-period", Only("0s", NO_BATCHES)),
    ("namespace-sync-period", Never(NO_ROUNDS)),
    ("node-sync-period", Never(NO_CLOUD)),
    ("permit-address-sharing", Only("false", "the port is this process's alone")),
    ("permit-port-sharing", Only("false", "the port is this process's alone")),
    ("profiling", Only("false", NO_PROFILING)),
    ("pv-recycler-increment-timeout-nfs", Only("30", RECYCLER)),
    ("pv-recycler-minimum-timeout-hostpath", Only("60", RECYCLER)),
    ("pv-recycler-minimum-timeout-nfs", Only("300", RECYCLER)),
    ("pv-recycler-pod-template-filepath-hostpath", Only("", RECYCLER)),
    ("pv-recycler-pod-template-filepath-nfs", Only("", RECYCLER)),
    ("pv-recycler-timeout-increment-hostpath", Only("30", RECYCLER)),
    ("pvclaimbinder-sync-period", Never(NO_ROUNDS)),
    ("requestheader-extra-headers-prefix", OneOf(&["x-remote-extra-"], HEADERS)),
    ("requestheader-group-headers", OneOf(&["x-remote-group"], HEADERS)),
    ("requestheader-uid-headers", OneOf(&["x-remote-uid", ""], HEADERS)),
    ("requestheader-username-headers", OneOf(&["x-remote-user"], HEADERS)),
    ("resource-quota-sync-period", Never(NO_ROUNDS)),
    ("route-reconciliation-period", Never(NO_CLOUD)),
    ("show-hidden-metrics-for-version", Any("no metric is hidden")),
    ("tls-cipher-suites", Never(STRONG_TLS)),
    ("tls-curve-preferences", Never(STRONG_TLS)),
    ("tls-min-version", OneOf(&["VersionTLS12", ""], STRONG_TLS)),
    ("tls-sni-cert-key", Never("there is one certificate: give --tls-cert-file and --tls-private-key-file")),
    ("v", Any("how much is logged is said by --log")),
    ("version", Never("ask `podium --version`")),
    ("vmodule", Never("give --log, which takes modules: --log=info,podium_controllers=debug")),
];
const ALL_METRICS: &str = "all metrics are shown with all their labels: let who collects them choose";
const AT_ONCE: &str = "each line of the log is written at once";
const HEADERS: &str = "front proxies say whom they speak for in X-Remote-User, -Group, -Uid and -Extra-";
const NO_CACHE: &str = "the API server is asked each time";
const NO_BATCHES: &str =
    "changes are written as they come; what comes while a write is under way goes with the next";
const NO_CLOUD: &str = "there is no cloud provider";
const NO_PROFILING: &str = "there is no profiling; it is always off";
const NO_RATES: &str =
    "Any value is taken and slows nothing down: requests are limited by the API server's flow control only";
const RECYCLER: &str = "volumes are recycled as upstream does it by default: leave it out";
const STRONG_TLS: &str = "TLS 1.2 and 1.3 are spoken with what is strong of them: leave it out";
const NO_ROUNDS: &str = "nothing is done in rounds: objects are looked at when something about them changes";

impl Rule {
    /// What is wrong with that value.
    fn judge(self, name: &str, value: &str) -> Result<(), String> {
        match self {
            Never(why) => Err(format!("--{name} is not supported: {why}")),
            Only(so, _) if value == so => Ok(()),
            OneOf(so, _) if so.iter().any(|it| it.eq_ignore_ascii_case(value)) => Ok(()),
            Only(_, why) | OneOf(_, why) => Err(format!("--{name}={value} is not supported: {why}")),
            Any(_) => Ok(()),
            Checked(check) => check(value).map_err(|why| format!("--{name}: {why}")),
        }
    }

    /// For the help text, where the flag can be of use.
    fn help(self) -> Option<&'static str> {
        match self {
            Any(why) => Some(why),
            Checked(_) => Some("Features to turn on or off; each must be said to be as it is by default"),
            Never(_) | Only(..) | OneOf(..) => None,
        }
    }
}

/// Takes the flags of [`WITHOUT_EFFECT`], and answers those that would be misunderstood.
#[derive(Debug)]
pub(crate) struct WithoutEffect(
    /// Those that were given though they change nothing, with the reason.
    pub(super) Vec<(&'static str, &'static str)>,
);

impl WithoutEffect {
    /// Lets the log have what was given in vain.
    pub(crate) fn tell(&self) {
        for (name, why) in &self.0 {
            tracing::info!(flag = format!("--{name}"), why, "a flag has no effect");
        }
    }
}

impl Args for WithoutEffect {
    fn augment_args(command: Command) -> Command {
        command.args(WITHOUT_EFFECT.iter().map(|(name, rule)| {
            let arg = Arg::new(*name).long(*name).num_args(0..=1).default_missing_value("true");
            // As klog has it.
            let arg = if *name == "v" { arg.short('v') } else { arg };
            // A list may be given in parts.
            let arg = if matches!(rule, Checked(_)) { arg.action(ArgAction::Append) } else { arg };
            match rule.help() {
                Some(help) => arg.help(help).value_name("VALUE"),
                None => arg.hide(true),
            }
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for WithoutEffect {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let judge = |(name, rule): &(&str, Rule)| {
            let mut values = matches.get_many::<String>(name).into_iter().flatten();
            values.try_for_each(|value| rule.judge(name, value))
        };
        let in_vain = |(name, rule): &(&'static str, Rule)| match rule {
            Any(why) if matches.contains_id(name) => Some((*name, *why)),
            _ => None,
        };
        match WITHOUT_EFFECT.iter().try_for_each(judge) {
            Ok(()) => Ok(WithoutEffect(WITHOUT_EFFECT.iter().filter_map(in_vain).collect())),
            Err(why) => Err(clap::Error::raw(ErrorKind::ValueValidation, format!("{why}\n"))),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
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
        election: Election,
        #[command(flatten)]
        without_effect: WithoutEffect,
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
        for (flag, said) in [
            (
                &["--cloud-config=/etc/cloud"][..],
                "--cloud-config is not supported: there is no cloud provider",
            ),
            (
                &["--cloud-provider", "aws"],
                "--cloud-provider=aws is not supported: there is no cloud provider",
            ),
            (&["--profiling"], "--profiling=true is not supported: there is no profiling"),
            (
                &["--feature-gates=NodeSwap=true,Bogus=true"],
                "--feature-gates: unrecognized feature gate: Bogus",
            ),
            (
                &["--feature-gates=NodeSwap=false", "--feature-gates=NodeSwap=true"],
                "--feature-gates: NodeSwap=false is not supported: ",
            ),
        ] {
            let text = parse(flag).unwrap_err().to_string();
            assert!(text.contains(said), "{text}");
        }
        let all: std::collections::BTreeSet<_> = WITHOUT_EFFECT.iter().map(|(name, _)| name).collect();
        assert_eq!(all.len(), WITHOUT_EFFECT.len());
    }

    #[test]
    fn a_flag_that_changes_nothing_is_taken() {
        for flag in [
            "--profiling=false",
            "--kube-api-qps=50",
            "--kube-api-burst=100",
            "--cluster-name=kubernetes",
            "--cloud-provider=",
            "--enable-dynamic-provisioning",
            "--feature-gates=NodeSwap=true,AllAlpha=false",
        ] {
            assert!(parse(&[flag]).is_ok(), "{flag}");
        }
    }

    #[test]
    fn what_is_given_in_vain_is_noted() {
        let given = parse(&["-v", "4", "--kube-api-qps=50", "--profiling=false"]).unwrap().without_effect.0;
        let names: Vec<_> = given.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["kube-api-qps", "v"]);
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
