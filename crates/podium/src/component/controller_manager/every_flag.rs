//! Every flag of upstream's controller manager v1.36, and what becomes of it here.
//!
//! Source: `cmd/kube-controller-manager/app/options` and what it takes from `k8s.io/controller-manager`, `cloud-provider`,
//! `apiserver` and `component-base`.

use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Program {
    #[command(flatten)]
    flags: Flags,
}

/// What becomes of a flag with that value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It acts, or says what is so.
    Taken,
    /// It cannot act, and the log has why.
    Told,
    /// With a message that says why.
    Refused(&'static str),
}
use Fate::{Refused, Taken, Told};

const NO_CLOUD: &str = "there is no cloud provider";
const NO_ROUNDS: &str = "nothing is done in rounds";

const FLAGS: &[(&str, Fate)] = &[
    ("allocate-node-cidrs=true", Taken),
    ("allow-metric-labels=a,b=c", Refused("let who collects them choose")),
    ("allow-metric-labels-manifest=/f", Refused("let who collects them choose")),
    ("allow-untagged-cloud=true", Refused(NO_CLOUD)),
    ("attach-detach-reconcile-sync-period=1m0s", Refused(NO_ROUNDS)),
    ("authentication-kubeconfig=/f", Taken),
    ("authentication-skip-lookup=false", Taken),
    ("authentication-skip-lookup=true", Refused("--client-ca-file and --requestheader-client-ca-file")),
    ("authentication-token-webhook-cache-ttl=10s", Told),
    ("authentication-tolerate-lookup-failure=true", Taken),
    ("authentication-tolerate-lookup-failure=false", Refused("could not be looked up")),
    ("authorization-always-allow-paths=/healthz", Taken),
    ("authorization-kubeconfig=/f", Taken),
    ("authorization-webhook-cache-authorized-ttl=10s", Told),
    ("authorization-webhook-cache-unauthorized-ttl=10s", Told),
    ("bind-address=127.0.0.1", Taken),
    ("cert-dir=/d", Refused("give --tls-cert-file and --tls-private-key-file")),
    ("cidr-allocator-type=RangeAllocator", Taken),
    ("cidr-allocator-type=CloudAllocator", Refused("--cluster-cidr only")),
    ("client-ca-file=/f", Taken),
    ("cloud-config=/f", Refused(NO_CLOUD)),
    ("cloud-provider=external", Refused(NO_CLOUD)),
    ("cluster-cidr=10.0.0.0/16", Taken),
    ("cluster-name=kubernetes", Told),
    ("cluster-signing-cert-file=/f --cluster-signing-key-file=/f", Taken),
    ("cluster-signing-duration=24h0m0s", Taken),
    (
        "cluster-signing-kube-apiserver-client-cert-file=/f --cluster-signing-kube-apiserver-client-key-file=/f",
        Taken,
    ),
    ("cluster-signing-kubelet-client-cert-file=/f --cluster-signing-kubelet-client-key-file=/f", Taken),
    ("cluster-signing-kubelet-serving-cert-file=/f --cluster-signing-kubelet-serving-key-file=/f", Taken),
    ("cluster-signing-legacy-unknown-cert-file=/f --cluster-signing-legacy-unknown-key-file=/f", Taken),
    ("concurrent-cron-job-syncs=5", Taken),
    ("concurrent-daemonset-syncs=2", Taken),
    ("concurrent-deployment-syncs=5", Taken),
    ("concurrent-device-taint-eviction-syncs=8", Taken),
    ("concurrent-endpoint-syncs=5", Taken),
    ("concurrent-ephemeralvolume-syncs=5", Taken),
    ("concurrent-gc-syncs=20", Taken),
    ("concurrent-horizontal-pod-autoscaler-syncs=5", Taken),
    ("concurrent-job-syncs=5", Taken),
    ("concurrent-namespace-syncs=10", Taken),
    ("concurrent-rc-syncs=5", Taken),
    ("concurrent-replicaset-syncs=5", Taken),
    ("concurrent-resource-quota-syncs=5", Taken),
    ("concurrent-resourceclaim-syncs=50", Taken),
    ("concurrent-service-endpoint-syncs=5", Taken),
    ("concurrent-service-syncs=1", Refused(NO_CLOUD)),
    ("concurrent-serviceaccount-token-syncs=5", Taken),
    ("concurrent-statefulset-syncs=5", Taken),
    ("concurrent-ttl-after-finished-syncs=5", Taken),
    ("concurrent-validating-admission-policy-status-syncs=5", Taken),
    ("configure-cloud-routes=true", Told),
    ("contention-profiling=true", Refused("there is no profiling")),
    ("controller-shutdown-timeout=10s", Taken),
    ("controller-start-interval=0s", Refused("controllers start at once")),
    ("controllers=*,-ttl", Taken),
    ("disable-attach-detach-reconcile-sync=false", Refused(NO_ROUNDS)),
    ("disable-force-detach-on-timeout=true", Refused("by force after a while")),
    ("disable-http2-serving=true", Taken),
    ("disable-http2-serving=false", Refused("HTTP/1.1")),
    ("disabled-metrics=a", Refused("let who collects them choose")),
    ("emulated-version=1.36", Taken),
    ("emulated-version=1.35", Refused("v1.36 is all there is")),
    ("enable-dynamic-provisioning=true", Taken),
    ("enable-garbage-collector=false", Taken),
    ("enable-hostpath-provisioner=true", Refused("directories of hosts")),
    ("enable-leader-migration=true", Refused(NO_CLOUD)),
    ("endpoint-updates-batch-period=1s", Refused("changes are written as they come")),
    ("endpointslice-updates-batch-period=0s", Taken),
    ("external-cloud-volume-plugin=aws", Refused(NO_CLOUD)),
    ("feature-gates=NodeSwap=true,AllBeta=false", Taken),
    ("feature-gates=AllAlpha=true", Refused("those of v1.36 with their defaults")),
    ("flex-volume-plugin-dir=/d", Refused("use CSI")),
    ("horizontal-pod-autoscaler-cpu-initialization-period=5m0s", Taken),
    ("horizontal-pod-autoscaler-downscale-stabilization=5m0s", Taken),
    ("horizontal-pod-autoscaler-initial-readiness-delay=30s", Taken),
    ("horizontal-pod-autoscaler-sync-period=15s", Taken),
    ("horizontal-pod-autoscaler-tolerance=0.1", Taken),
    ("http2-max-streams-per-connection=100", Told),
    ("kube-api-burst=30", Told),
    ("kube-api-content-type=application/json", Taken),
    ("kube-api-content-type=application/vnd.kubernetes.protobuf", Refused("in JSON")),
    ("kube-api-qps=20", Told),
    ("large-cluster-size-threshold=50", Taken),
    ("leader-elect=false", Taken),
    ("leader-elect-lease-duration=15s", Taken),
    ("leader-elect-renew-deadline=10s", Taken),
    ("leader-elect-resource-lock=leases", Taken),
    ("leader-elect-resource-name=other", Taken),
    ("leader-elect-resource-namespace=kube-system", Taken),
    ("leader-elect-retry-period=2s", Taken),
    ("leader-migration-config=/f", Refused(NO_CLOUD)),
    ("legacy-service-account-token-clean-up-period=8760h0m0s", Taken),
    ("log-flush-frequency=5s", Told),
    ("log-json-info-buffer-size=0", Told),
    ("log-json-split-stream=true", Refused("text on standard error")),
    ("log-text-info-buffer-size=0", Told),
    ("log-text-split-stream=false", Taken),
    ("logging-format=text", Taken),
    ("logging-format=json", Refused("text on standard error")),
    ("master=https://10.0.0.1:6443", Taken),
    ("max-endpoints-per-slice=100", Taken),
    ("min-compatibility-version=1.35", Taken),
    ("min-resync-period=12h0m0s", Refused(NO_ROUNDS)),
    ("mirroring-concurrent-service-endpoint-syncs=5", Taken),
    ("mirroring-endpointslice-updates-batch-period=1s", Refused("changes are written as they come")),
    ("mirroring-max-endpoints-per-subset=1000", Taken),
    ("namespace-sync-period=5m0s", Refused(NO_ROUNDS)),
    ("node-cidr-mask-size=24", Taken),
    ("node-cidr-mask-size-ipv4=24", Taken),
    ("node-cidr-mask-size-ipv6=64", Taken),
    ("node-eviction-rate=0.1", Taken),
    ("node-monitor-grace-period=50s", Taken),
    ("node-monitor-period=5s", Taken),
    ("node-startup-grace-period=1m0s", Taken),
    ("node-sync-period=0s", Refused(NO_CLOUD)),
    ("permit-address-sharing=true", Refused("this process's alone")),
    ("permit-port-sharing=false", Taken),
    ("profiling=false", Taken),
    ("profiling=true", Refused("there is no profiling")),
    ("pv-recycler-increment-timeout-nfs=30", Taken),
    ("pv-recycler-minimum-timeout-hostpath=61", Refused("as upstream does it by default")),
    ("pv-recycler-minimum-timeout-nfs=300", Taken),
    ("pv-recycler-pod-template-filepath-hostpath=/f", Refused("as upstream does it by default")),
    ("pv-recycler-pod-template-filepath-nfs=/f", Refused("as upstream does it by default")),
    ("pv-recycler-timeout-increment-hostpath=30", Taken),
    ("pvclaimbinder-sync-period=15s", Refused(NO_ROUNDS)),
    ("requestheader-client-ca-file=/f --requestheader-allowed-names=a,b", Taken),
    ("requestheader-extra-headers-prefix=X-Remote-Extra-", Taken),
    ("requestheader-group-headers=X-Remote-Group", Taken),
    ("requestheader-uid-headers=x-remote-uid", Taken),
    ("requestheader-username-headers=X-Forwarded-User", Refused("X-Remote-User")),
    ("resource-quota-sync-period=5m0s", Refused(NO_ROUNDS)),
    ("root-ca-file=/f", Taken),
    ("route-reconciliation-period=10s", Refused(NO_CLOUD)),
    ("secondary-node-eviction-rate=0.01", Taken),
    ("secure-port=10257", Taken),
    ("service-account-private-key-file=/f", Taken),
    ("service-cluster-ip-range=10.96.0.0/12", Taken),
    ("show-hidden-metrics-for-version=1.35", Told),
    ("terminated-pod-gc-threshold=12500", Taken),
    ("tls-cert-file=/f --tls-private-key-file=/f", Taken),
    ("tls-cipher-suites=TLS_AES_128_GCM_SHA256", Refused("leave it out")),
    ("tls-curve-preferences=23", Refused("leave it out")),
    ("tls-min-version=VersionTLS12", Taken),
    ("tls-min-version=VersionTLS10", Refused("leave it out")),
    ("tls-sni-cert-key=/f,/g", Refused("give --tls-cert-file and --tls-private-key-file")),
    ("unhealthy-zone-threshold=0.55", Taken),
    ("use-service-account-credentials=true", Taken),
    ("v=2", Told),
    ("version=raw", Refused("podium --version")),
    ("vmodule=a=4", Refused("give --log")),
];

#[test]
fn each_is_taken_or_told_about_or_refused_in_one_line() {
    for (given, fate) in FLAGS {
        let flag = given.split('=').next().unwrap();
        let line = format!("podium --kubeconfig=/f --{given}");
        let found = match Program::try_parse_from(line.split(' ')) {
            Ok(program) => match program.flags.without_effect.0.iter().any(|(name, _)| *name == flag) {
                true => Told,
                false => Taken,
            },
            Err(error) => {
                let text = error.to_string();
                // What comes after is the usage.
                let line = text.lines().next().unwrap_or_default();
                assert!(line.contains(&format!("--{flag}")), "{given}: {text}");
                match fate {
                    Refused(why) if line.contains(why) => *fate,
                    _ => panic!("{given}: {text}"),
                }
            }
        };
        assert_eq!(found, *fate, "{given}");
    }
}
