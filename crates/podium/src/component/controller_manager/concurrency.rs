//! `--concurrent-*-syncs`: how many objects each controller works on at once.

use std::collections::BTreeMap;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, value_parser};

/// Flags and the controllers that they are about, one each.
const FLAGS: &[(&str, &str)] = &[
    ("concurrent-cron-job-syncs", "cronjob-controller"),
    ("concurrent-daemonset-syncs", "daemonset-controller"),
    ("concurrent-deployment-syncs", "deployment-controller"),
    ("concurrent-endpoint-syncs", "endpoints-controller"),
    ("concurrent-ephemeralvolume-syncs", "ephemeral-volume-controller"),
    ("concurrent-gc-syncs", "garbage-collector-controller"),
    ("concurrent-horizontal-pod-autoscaler-syncs", "horizontal-pod-autoscaler-controller"),
    ("concurrent-job-syncs", "job-controller"),
    ("concurrent-namespace-syncs", "namespace-controller"),
    ("concurrent-device-taint-eviction-syncs", "device-taint-eviction-controller"),
    ("concurrent-replicaset-syncs", "replicaset-controller"),
    ("concurrent-rc-syncs", "replicationcontroller-controller"),
    ("concurrent-resource-quota-syncs", "resourcequota-controller"),
    ("concurrent-resourceclaim-syncs", "resourceclaim-controller"),
    ("concurrent-service-endpoint-syncs", "endpointslice-controller"),
    ("concurrent-serviceaccount-token-syncs", "serviceaccount-token-controller"),
    ("concurrent-statefulset-syncs", "statefulset-controller"),
    ("concurrent-ttl-after-finished-syncs", "ttl-after-finished-controller"),
    ("concurrent-validating-admission-policy-status-syncs", "validatingadmissionpolicy-status-controller"),
    ("mirroring-concurrent-service-endpoint-syncs", "endpointslice-mirroring-controller"),
];
/// More than this at once only crowds the API server.
const MOST: u64 = 1000;

/// What was given, by controller.
#[derive(Debug, Default)]
pub(crate) struct Concurrency(pub(crate) BTreeMap<String, usize>);

impl Args for Concurrency {
    fn augment_args(command: Command) -> Command {
        let defaults: BTreeMap<_, _> = podium_controllers::workers().collect();
        command.args(FLAGS.iter().map(|(flag, controller)| {
            let default = defaults.get(controller).copied().unwrap_or_default();
            Arg::new(*flag)
                .long(*flag)
                .value_name("N")
                .value_parser(value_parser!(u64).range(1..=MOST))
                .help(format!("Objects that {controller} works on at once [default: {default}]"))
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Concurrency {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = BTreeMap::new();
        for (flag, controller) in FLAGS {
            let Some(count) = matches.get_one::<u64>(flag) else { continue };
            given.insert((*controller).to_owned(), usize::try_from(*count).expect("at most MOST"));
        }
        Ok(Self(given))
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
        concurrency: Concurrency,
    }

    #[test]
    fn each_flag_is_about_a_controller_that_there_is() {
        for (flag, controller) in FLAGS {
            assert!(podium_controllers::names().any(|name| name == *controller), "{flag}: {controller}");
        }
    }

    #[test]
    fn what_is_given_is_told_and_what_is_senseless_refused() {
        let parse = |flag: &str| Program::try_parse_from(["program", flag]);
        let given = parse("--concurrent-job-syncs=7").unwrap().concurrency.0;
        assert_eq!(given, BTreeMap::from([("job-controller".to_owned(), 7)]));
        let error = parse("--concurrent-job-syncs=0").unwrap_err().to_string();
        assert!(error.contains("--concurrent-job-syncs"), "{error}");
    }
}
