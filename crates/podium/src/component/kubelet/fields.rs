//! Flags that are fields of KubeletConfiguration, as upstream still has them: one table of names, and how each is read.

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, error::ErrorKind};
use serde_json::{Map, Value, json};

/// How a flag's text becomes a field.
#[derive(Clone, Copy, Debug)]
enum Form {
    Text,
    Truth,
    Number,
    /// Separated by commas.
    List,
    /// `key=value`, separated by commas.
    Pairs,
    /// `signal<value`, separated by commas.
    Thresholds,
    /// `key=true`, separated by commas.
    Gates,
    /// `key=value:effect`, separated by commas.
    Taints,
    /// `name:value`, separated by commas; names and flags may be repeated.
    Headers,
}

use Form::{Gates, Headers, List, Number, Pairs, Taints, Text, Thresholds, Truth};

/// Flag, field, form. Inner fields are reached with dots.
const FLAGS: &[(&str, &str, Form)] = &[
    ("address", "address", Text),
    ("allowed-unsafe-sysctls", "allowedUnsafeSysctls", List),
    ("anonymous-auth", "authentication.anonymous.enabled", Truth),
    ("authentication-token-webhook", "authentication.webhook.enabled", Truth),
    ("authentication-token-webhook-cache-ttl", "authentication.webhook.cacheTTL", Text),
    ("authorization-mode", "authorization.mode", Text),
    ("authorization-webhook-cache-authorized-ttl", "authorization.webhook.cacheAuthorizedTTL", Text),
    ("authorization-webhook-cache-unauthorized-ttl", "authorization.webhook.cacheUnauthorizedTTL", Text),
    ("cgroup-driver", "cgroupDriver", Text),
    ("cgroup-root", "cgroupRoot", Text),
    ("cgroups-per-qos", "cgroupsPerQOS", Truth),
    ("client-ca-file", "authentication.x509.clientCAFile", Text),
    ("cluster-dns", "clusterDNS", List),
    ("cluster-domain", "clusterDomain", Text),
    ("container-log-max-files", "containerLogMaxFiles", Number),
    ("container-log-max-size", "containerLogMaxSize", Text),
    ("container-runtime-endpoint", "containerRuntimeEndpoint", Text),
    ("contention-profiling", "enableContentionProfiling", Truth),
    ("cpu-cfs-quota", "cpuCFSQuota", Truth),
    ("cpu-cfs-quota-period", "cpuCFSQuotaPeriod", Text),
    ("cpu-manager-policy", "cpuManagerPolicy", Text),
    ("cpu-manager-policy-options", "cpuManagerPolicyOptions", Pairs),
    ("cpu-manager-reconcile-period", "cpuManagerReconcilePeriod", Text),
    ("enable-controller-attach-detach", "enableControllerAttachDetach", Truth),
    ("enable-debugging-handlers", "enableDebuggingHandlers", Truth),
    ("enable-server", "enableServer", Truth),
    ("enforce-node-allocatable", "enforceNodeAllocatable", List),
    ("event-burst", "eventBurst", Number),
    ("event-qps", "eventRecordQPS", Number),
    ("eviction-hard", "evictionHard", Thresholds),
    ("eviction-max-pod-grace-period", "evictionMaxPodGracePeriod", Number),
    ("eviction-minimum-reclaim", "evictionMinimumReclaim", Pairs),
    ("eviction-pressure-transition-period", "evictionPressureTransitionPeriod", Text),
    ("eviction-soft", "evictionSoft", Thresholds),
    ("eviction-soft-grace-period", "evictionSoftGracePeriod", Pairs),
    ("fail-swap-on", "failSwapOn", Truth),
    ("feature-gates", "featureGates", Gates),
    ("file-check-frequency", "fileCheckFrequency", Text),
    ("hairpin-mode", "hairpinMode", Text),
    ("healthz-bind-address", "healthzBindAddress", Text),
    ("healthz-port", "healthzPort", Number),
    ("http-check-frequency", "httpCheckFrequency", Text),
    ("image-gc-high-threshold", "imageGCHighThresholdPercent", Number),
    ("image-gc-low-threshold", "imageGCLowThresholdPercent", Number),
    ("image-service-endpoint", "imageServiceEndpoint", Text),
    ("kernel-memcg-notification", "kernelMemcgNotification", Truth),
    ("kube-api-burst", "kubeAPIBurst", Number),
    ("kube-api-content-type", "contentType", Text),
    ("kube-api-qps", "kubeAPIQPS", Number),
    ("kube-reserved", "kubeReserved", Pairs),
    ("kube-reserved-cgroup", "kubeReservedCgroup", Text),
    ("kubelet-cgroups", "kubeletCgroups", Text),
    ("local-storage-capacity-isolation", "localStorageCapacityIsolation", Truth),
    ("make-iptables-util-chains", "makeIPTablesUtilChains", Truth),
    ("manifest-url", "staticPodURL", Text),
    ("manifest-url-header", "staticPodURLHeader", Headers),
    ("max-open-files", "maxOpenFiles", Number),
    ("max-pods", "maxPods", Number),
    ("memory-manager-policy", "memoryManagerPolicy", Text),
    ("minimum-image-ttl-duration", "imageMinimumGCAge", Text),
    ("node-status-max-images", "nodeStatusMaxImages", Number),
    ("node-status-update-frequency", "nodeStatusUpdateFrequency", Text),
    ("oom-score-adj", "oomScoreAdj", Number),
    ("pod-cidr", "podCIDR", Text),
    ("pod-manifest-path", "staticPodPath", Text),
    ("pod-max-pids", "podPidsLimit", Number),
    ("pods-per-core", "podsPerCore", Number),
    ("port", "port", Number),
    ("protect-kernel-defaults", "protectKernelDefaults", Truth),
    ("provider-id", "providerID", Text),
    ("qos-reserved", "qosReserved", Pairs),
    ("read-only-port", "readOnlyPort", Number),
    ("register-node", "registerNode", Truth),
    ("register-with-taints", "registerWithTaints", Taints),
    ("registry-burst", "registryBurst", Number),
    ("registry-qps", "registryPullQPS", Number),
    ("reserved-cpus", "reservedSystemCPUs", Text),
    ("resolv-conf", "resolvConf", Text),
    ("rotate-certificates", "rotateCertificates", Truth),
    ("rotate-server-certificates", "serverTLSBootstrap", Truth),
    ("runtime-request-timeout", "runtimeRequestTimeout", Text),
    ("seccomp-default", "seccompDefault", Truth),
    ("serialize-image-pulls", "serializeImagePulls", Truth),
    ("streaming-connection-idle-timeout", "streamingConnectionIdleTimeout", Text),
    ("sync-frequency", "syncFrequency", Text),
    ("system-cgroups", "systemCgroups", Text),
    ("system-reserved", "systemReserved", Pairs),
    ("system-reserved-cgroup", "systemReservedCgroup", Text),
    ("tls-cert-file", "tlsCertFile", Text),
    ("tls-cipher-suites", "tlsCipherSuites", List),
    ("tls-min-version", "tlsMinVersion", Text),
    ("tls-private-key-file", "tlsPrivateKeyFile", Text),
    ("topology-manager-policy", "topologyManagerPolicy", Text),
    ("topology-manager-policy-options", "topologyManagerPolicyOptions", Pairs),
    ("topology-manager-scope", "topologyManagerScope", Text),
    ("volume-plugin-dir", "volumePluginDir", Text),
    ("volume-stats-agg-period", "volumeStatsAggPeriod", Text),
];

/// The flags that were given, by the field that each is.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields(BTreeMap<String, Value>);

impl Fields {
    /// As [`podium_kubelet::Configuration::of`] takes them.
    pub(super) fn into_settings(self) -> BTreeMap<String, Value> {
        self.0
    }

    pub(super) fn has(&self, field: &str) -> bool {
        self.0.contains_key(field)
    }
}

impl Args for Fields {
    fn augment_args(command: Command) -> Command {
        FLAGS.iter().fold(command, |command, (flag, field, form)| {
            let arg = Arg::new(*flag)
                .long(*flag)
                .action(ArgAction::Set)
                .help(format!("{field} of the configuration"));
            command.arg(match form {
                Truth => {
                    arg.value_name("BOOL").num_args(0..=1).require_equals(true).default_missing_value("true")
                }
                Number => arg.value_name("N").allow_negative_numbers(true),
                List => arg.value_name("LIST"),
                Pairs => arg.value_name("KEY=VALUE,..."),
                Thresholds => arg.value_name("SIGNAL<VALUE,..."),
                Gates => arg.value_name("GATE=BOOL,..."),
                Taints => arg.value_name("KEY=VALUE:EFFECT,..."),
                Headers => arg.value_name("NAME:VALUE,...").action(ArgAction::Append),
                Text => arg.value_name("VALUE"),
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Fields {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut fields = Self::default();
        fields.update_from_arg_matches(matches)?;
        Ok(fields)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for (flag, field, form) in FLAGS {
            let Some(texts) = matches.get_many::<String>(flag) else { continue };
            let text = texts.map(String::as_str).collect::<Vec<_>>().join(",");
            let value = read(*form, &text).map_err(|why| {
                clap::Error::raw(ErrorKind::ValueValidation, format!("--{flag} {text:?}: {why}\n"))
            })?;
            self.0.insert((*field).to_owned(), value);
        }
        Ok(())
    }
}

/// A flag's text as a field's value.
fn read(form: Form, text: &str) -> Result<Value, String> {
    let parts = || text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let map = |separator: char, value: fn(&str) -> Option<Value>| {
        let pair = |part: &str| {
            let (key, rest) = part.split_once(separator)?;
            Some((key.trim().to_owned(), value(rest.trim())?))
        };
        let wrong = |part: &str| format!("{part:?} is not of the form KEY{separator}VALUE");
        parts()
            .map(|part| pair(part).ok_or_else(|| wrong(part)))
            .collect::<Result<Map<_, _>, _>>()
            .map(Value::Object)
    };
    Ok(match form {
        Text => json!(text),
        Truth => json!(text.parse::<bool>().map_err(|_| "neither true nor false")?),
        Number => json!(text.parse::<i64>().map_err(|error| error.to_string())?),
        List => parts().map(Value::from).collect(),
        Pairs => map('=', |value| Some(json!(value)))?,
        Thresholds => map('<', |value| Some(json!(value)))?,
        Gates => map('=', |value| value.parse::<bool>().ok().map(Value::from))?,
        Taints => parts().map(taint).collect::<Result<_, _>>()?,
        Headers => {
            let mut headers = BTreeMap::<&str, Vec<&str>>::new();
            for part in parts() {
                let (name, value) = part.split_once(':').ok_or("malformed pair, expect string:string")?;
                headers.entry(name.trim()).or_default().push(value.trim());
            }
            json!(headers)
        }
    })
}

/// `KEY=VALUE:EFFECT` or `KEY:EFFECT`; whether the effect is one is judged with the configuration.
fn taint(text: &str) -> Result<Value, String> {
    let wrong = || format!("{text:?} is not a taint such as key=value:NoSchedule");
    let (left, effect) = text.rsplit_once(':').ok_or_else(wrong)?;
    let (key, value) = left.split_once('=').unwrap_or((left, ""));
    if key.is_empty() {
        return Err(wrong());
    }
    let mut taint = json!({"key": key, "effect": effect});
    if !value.is_empty() {
        taint["value"] = json!(value);
    }
    Ok(taint)
}

#[cfg(test)]
mod tests {
    use podium_kubelet::Configuration;

    use super::*;

    fn parse(flags: &[&str]) -> Result<Configuration, String> {
        let command = Fields::augment_args(Command::new("kubelet"));
        let matches = command
            .try_get_matches_from(std::iter::once("kubelet").chain(flags.iter().copied()))
            .map_err(|error| error.to_string())?;
        let fields = Fields::from_arg_matches(&matches).map_err(|error| error.to_string())?;
        Configuration::of(&[], fields.into_settings()).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_are_fields() {
        let read = parse(&[
            "--max-pods=7",
            "--fail-swap-on=false",
            "--seccomp-default",
            "--pod-max-pids",
            "-1",
            "--kube-reserved=cpu=100m,memory=1Gi",
            "--cluster-dns=10.0.0.1,10.0.0.2",
            "--register-with-taints=dedicated=db:NoSchedule,a:NoExecute",
            "--client-ca-file=/ca",
            "--authorization-webhook-cache-authorized-ttl=1s",
            "--manifest-url=http://pods:81/here",
            "--manifest-url-header=a:hello,b:again, c:x:y",
            "--manifest-url-header",
            "b:beautiful",
            "--http-check-frequency=5s",
        ])
        .unwrap();
        assert_eq!((read.max_pods, read.fail_swap_on, read.seccomp_default), (7, false, true));
        assert_eq!((read.kube_reserved["memory"].as_str(), read.cluster_dns.len()), ("1Gi", 2));
        let taints: Vec<_> = read
            .register_with_taints
            .iter()
            .map(|taint| (taint.key.as_str(), taint.value.as_deref()))
            .collect();
        assert_eq!(taints, [("dedicated", Some("db")), ("a", None)]);
        assert_eq!(read.authentication.x509.client_ca_file, Some("/ca".into()));
        assert_eq!(read.authorization.webhook.cache_authorized_ttl.to_string(), "1s");
        assert_eq!(read.static_pod_url.as_deref(), Some("http://pods:81/here"));
        assert_eq!(read.http_check_frequency.to_string(), "5s");
        let headers: Vec<_> = read
            .static_pod_url_header
            .iter()
            .map(|(name, values)| (name.as_str(), values.join("+")))
            .collect();
        assert_eq!(headers, [("a", "hello".into()), ("b", "again+beautiful".into()), ("c", "x:y".into())]);
    }

    #[test]
    fn what_is_wrong_or_not_built_is_refused() {
        for (flag, why) in [
            ("--max-pods=many", "invalid digit"),
            ("--fail-swap-on=maybe", "neither true nor false"),
            ("--kube-reserved=cpu", "is not of the form KEY=VALUE"),
            ("--register-with-taints=a", "is not a taint such as"),
            ("--register-with-taints=a:b", "invalid taint"),
            ("--register-with-taints==v:NoSchedule", "is not a taint such as"),
            ("--read-only-port=10255", "readOnlyPort 10255 is not supported"),
            ("--feature-gates=NodeLogQuery=true", "featureGates"),
            ("--manifest-url=pods", "must be a URL of http or https"),
            ("--manifest-url-header=secret", "malformed pair, expect string:string"),
            ("--no-such-flag=1", "unexpected argument"),
        ] {
            let error = parse(&[flag]).unwrap_err();
            assert!(error.contains(why), "{error} lacks {why}");
        }
    }
}
