//! Files as people have them: read, refused, shown.

use serde_json::{Value, json};

use super::*;

fn document(mut fields: Value) -> Value {
    fields["apiVersion"] = json!(sources::API_VERSION);
    fields["kind"] = json!(sources::KIND);
    fields
}

fn read(fields: Value) -> Result<Configuration, String> {
    Configuration::of(&[document(fields)], []).map_err(|error| error.to_string())
}

/// As kubeadm 1.36 writes it, down to the zeros.
fn kubeadm() -> Value {
    json!({
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"cacheTTL": "0s", "enabled": true},
            "x509": {"clientCAFile": "/etc/kubernetes/pki/ca.crt"}},
        "authorization": {"mode": "Webhook", "webhook": {"cacheAuthorizedTTL": "0s", "cacheUnauthorizedTTL": "0s"}},
        "cgroupDriver": "systemd", "clusterDNS": ["10.96.0.10"], "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": "", "cpuManagerReconcilePeriod": "0s", "crashLoopBackOff": {},
        "evictionPressureTransitionPeriod": "0s", "fileCheckFrequency": "0s", "healthzBindAddress": "127.0.0.1",
        "healthzPort": 10248, "httpCheckFrequency": "0s", "imageMaximumGCAge": "0s", "imageMinimumGCAge": "0s",
        "logging": {"flushFrequency": 0, "options": {"json": {"infoBufferSize": "0"}, "text": {"infoBufferSize": "0"}},
            "verbosity": 0},
        "memorySwap": {}, "nodeStatusReportFrequency": "0s", "nodeStatusUpdateFrequency": "0s",
        "resolvConf": "/run/systemd/resolve/resolv.conf", "rotateCertificates": true, "runtimeRequestTimeout": "0s",
        "shutdownGracePeriod": "0s", "shutdownGracePeriodCriticalPods": "0s", "streamingConnectionIdleTimeout": "0s",
        "syncFrequency": "0s", "staticPodPath": "/etc/kubernetes/manifests", "volumeStatsAggPeriod": "0s", "evictionHard": null,
    })
}

#[test]
fn a_kubeadm_configuration_is_read() {
    let read = read(kubeadm()).unwrap();
    assert_eq!(read.authentication.x509.client_ca_file, Some("/etc/kubernetes/pki/ca.crt".into()));
    assert_eq!(read.cluster_dns, ["10.96.0.10".parse::<IpAddr>().unwrap()]);
    assert!(read.rotate_certificates);
    assert_eq!(read.authentication.webhook.cache_ttl, Span::minutes(2));
    assert_eq!(
        (read.runtime_request_timeout, read.file_check_frequency),
        (Span::minutes(2), Span::seconds(20))
    );
    assert_eq!(read.static_pod_path, Some("/etc/kubernetes/manifests".into()));
    // Zero is the default, as upstream's; what is below it turns volumes' statistics off, and is shown as it was said.
    assert_eq!(read.volume_stats_agg_period.positive(), Some(Duration::from_secs(60)));
    let off = self::read(json!({"volumeStatsAggPeriod": "-1s"})).unwrap();
    assert_eq!(off.volume_stats_agg_period.positive(), None);
    assert_eq!(off.shown()["volumeStatsAggPeriod"], "-1s");
    assert_eq!(read.report_frequency(), Duration::from_secs(300));
    assert_eq!((read.healthz_bind_address, read.healthz_port), (IpAddr::from([127, 0, 0, 1]), 10248));
    assert_eq!(
        (read.image_minimum_gc_age, read.eviction_pressure_transition_period),
        (Span::minutes(2), Span::minutes(5))
    );
}

/// What upstream's kubelet v1.36 shows at `/configz` when nobody configured it. Source: `SetDefaults_KubeletConfiguration`,
/// the thresholds that it adds, and zeros where the types leave none out.
fn upstreams_defaults() -> Value {
    // A text: the macro would nest too deeply.
    let text = r#"{
        "enableServer": true, "podLogsDir": "/var/log/pods", "syncFrequency": "1m0s", "fileCheckFrequency": "20s",
        "httpCheckFrequency": "20s", "address": "0.0.0.0", "port": 10250, "authentication": {"x509": {},
            "webhook": {"enabled": true, "cacheTTL": "2m0s"}, "anonymous": {"enabled": false}},
        "authorization": {"mode": "Webhook", "webhook": {"cacheAuthorizedTTL": "5m0s", "cacheUnauthorizedTTL": "30s"}},
        "registryPullQPS": 5, "registryBurst": 10, "imagePullCredentialsVerificationPolicy": "NeverVerifyPreloadedImages",
        "preloadedImagesVerificationAllowlist": null, "eventRecordQPS": 50, "eventBurst": 100,
        "enableDebuggingHandlers": true, "healthzPort": 10248, "healthzBindAddress": "127.0.0.1", "oomScoreAdj": -999,
        "streamingConnectionIdleTimeout": "4h0m0s", "nodeStatusUpdateFrequency": "10s",
        "nodeStatusReportFrequency": "5m0s", "nodeLeaseDurationSeconds": 40, "imageMinimumGCAge": "2m0s",
        "imageMaximumGCAge": "0s", "imageGCHighThresholdPercent": 85, "imageGCLowThresholdPercent": 80,
        "volumeStatsAggPeriod": "1m0s", "cgroupsPerQOS": true, "cgroupDriver": "cgroupfs", "cpuManagerPolicy": "none",
        "cpuManagerReconcilePeriod": "10s", "memoryManagerPolicy": "None", "topologyManagerPolicy": "none",
        "topologyManagerScope": "container", "runtimeRequestTimeout": "2m0s", "hairpinMode": "promiscuous-bridge",
        "maxPods": 110, "podPidsLimit": -1, "resolvConf": "/etc/resolv.conf", "cpuCFSQuota": true,
        "cpuCFSQuotaPeriod": "100ms", "nodeStatusMaxImages": 50, "maxOpenFiles": 1000000,
        "contentType": "application/vnd.kubernetes.protobuf", "kubeAPIQPS": 50, "kubeAPIBurst": 100,
        "serializeImagePulls": true, "evictionHard": {"imagefs.available": "15%", "imagefs.inodesFree": "5%",
            "memory.available": "100Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%"},
        "evictionPressureTransitionPeriod": "5m0s", "mergeDefaultEvictionSettings": false,
        "enableControllerAttachDetach": true, "makeIPTablesUtilChains": true, "iptablesMasqueradeBit": 14,
        "iptablesDropBit": 15, "failSwapOn": true, "memorySwap": {}, "containerLogMaxSize": "10Mi",
        "containerLogMaxFiles": 5, "containerLogMaxWorkers": 1, "containerLogMonitorInterval": "10s",
        "configMapAndSecretChangeDetectionStrategy": "Watch", "enforceNodeAllocatable": ["pods"],
        "volumePluginDir": "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/", "logging": {"format": "text",
            "flushFrequency": "5s", "verbosity": 0, "options": {"text": {"infoBufferSize": "0"},
                "json": {"infoBufferSize": "0"}}},
        "enableSystemLogHandler": true, "enableSystemLogQuery": false, "shutdownGracePeriod": "0s",
        "shutdownGracePeriodCriticalPods": "0s", "crashLoopBackOff": {"maxContainerRestartPeriod": "5m0s"},
        "enableProfilingHandler": true, "enableDebugFlagsHandler": true, "seccompDefault": false, "failCgroupV1": true,
        "memoryThrottlingFactor": 0.9, "memoryReservationPolicy": "None", "registerNode": true,
        "localStorageCapacityIsolation": true, "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock"
    }"#;
    serde_json::from_str(text).unwrap()
}

#[test]
fn upstreams_own_defaults_are_taken_and_are_ours() {
    let mut taken = read(upstreams_defaults()).unwrap();
    let without: Vec<_> =
        taken.without_effect.iter().filter_map(|note| note.split_whitespace().next()).collect();
    assert_eq!(
        without,
        [
            "contentType",
            "kubeAPIQPS",
            "kubeAPIBurst",
            "makeIPTablesUtilChains",
            "volumePluginDir",
            "enableProfilingHandler",
            "enableDebugFlagsHandler",
            "memoryThrottlingFactor",
        ]
    );
    // What they come to is what nobody says, but for groups of version 1, and what is written out.
    assert!(taken.fail_cgroup_v1);
    taken.fail_cgroup_v1 = false;
    let ours = Configuration::default();
    assert_eq!(taken.shown(), {
        let mut shown = ours.shown();
        shown["crashLoopBackOff"] = json!({"maxContainerRestartPeriod": "5m0s"});
        shown
    });
    assert_eq!((taken.registry_pull_qps, taken.registry_burst), (5, 10));
    assert_eq!((taken.event_record_qps, taken.event_burst), (50, 100));
    assert_eq!((taken.oom_score_adj, taken.max_open_files), (Some(-999), Some(1_000_000)));
    assert_eq!(taken.streaming_connection_idle_timeout, Span::hours(4));
    assert_eq!(taken.volume_stats_agg_period.positive(), Some(Duration::from_secs(60)));
}

#[test]
fn the_health_server_can_be_off() {
    assert_eq!(read(json!({"healthzPort": 0})).unwrap().healthz_port, 0);
    assert_eq!(read(json!({"healthzBindAddress": "::1"})).unwrap().healthz_port, 10248);
}

#[test]
fn what_is_wrong_or_not_built_is_refused() {
    for (fields, why) in [
        (json!({"maxPod": 5}), "strict decoding error: unknown field `maxPod`"),
        (json!({"maxPods": "many"}), "strict decoding error"),
        (json!({"readOnlyPort": 10255}), "readOnlyPort 10255 is not supported: only 0 is"),
        (
            json!({"authentication": {"anonymous": {"enabled": true}}}),
            "authentication.anonymous.enabled is not",
        ),
        (json!({"authentication": {"x509": {"clientCaFile": "/x"}}}), "unknown field `clientCaFile`"),
        (json!({"authorization": {"mode": "AlwaysAllow"}}), "authorization.mode is not supported"),
        (
            json!({"healthzBindAddress": "0.0.0.0"}),
            "healthzBindAddress is not supported: only a loopback address is",
        ),
        (
            json!({"shutdownGracePeriod": "10s", "shutdownGracePeriodCriticalPods": "20s"}),
            "shutdownGracePeriod 10s must be >= shutdownGracePeriodCriticalPods 20s",
        ),
        (
            json!({"shutdownGracePeriod": "500ms"}),
            "shutdownGracePeriod 500ms must be either zero or otherwise >= 1 sec",
        ),
        (
            json!({"shutdownGracePeriod": "10s", "shutdownGracePeriodByPodPriority":
                [{"priority": 0, "shutdownGracePeriodSeconds": 5}]}),
            "Cannot specify both shutdownGracePeriodByPodPriority and shutdownGracePeriod at the same time",
        ),
        (
            json!({"shutdownGracePeriodByPodPriority": [{"priority": 0, "shutdownGracePeriodSeconds": -5}]}),
            "must not be negative",
        ),
        (json!({"oomScoreAdj": -1001}), "oomScoreAdj (--oom-score-adj) -1001 must be between range"),
        (json!({"registryPullQPS": -1}), "strict decoding error"),
        (json!({"contentType": "application/cbor"}), "contentType \"application/cbor\" is not supported"),
        (json!({"memoryThrottlingFactor": 0.5}), "memoryThrottlingFactor 0.5 is not supported"),
        (json!({"tracing": {"samplingRatePerMillion": 1}}), "tracing is not supported by this kubelet"),
        (json!({"logging": {"verbosity": 4}}), "logging {\"verbosity\":4} is not supported"),
        (json!({"featureGates": {"AllAlpha": true}}), "featureGates: AllAlpha is not built in this kubelet"),
        (json!({"featureGates": {"SidecarContainers": false}}), "SidecarContainers cannot be turned off"),
        (json!({"featureGates": {"NoSuchGate": true}}), "NoSuchGate is not a gate that this kubelet knows"),
        (
            json!({"featureGates": {"ClusterTrustBundleProjection": true}}),
            "depends on features that are disabled: [ClusterTrustBundle]",
        ),
        (json!({"featureGates": {"AllAlpha": "no"}}), "strict decoding error"),
        (json!({"tlsMinVersion": "VersionTLS11"}), "only VersionTLS12 and VersionTLS13 are"),
        (
            json!({"tlsCipherSuites": ["TLS_RSA_WITH_RC4_128_SHA"]}),
            "cipher suite TLS_RSA_WITH_RC4_128_SHA not supported or doesn't exist",
        ),
        (json!({"cgroupDriver": "none"}), "cgroupDriver \"none\" must be one of"),
        (json!({"kubeReserved": {"gpu": "1"}}), "cannot reserve \"gpu\" resource"),
        (json!({"kubeReserved": {"cpu": "-1"}}), "cannot be negative"),
        (json!({"enforceNodeAllocatable": ["none", "pods"]}), "may not contain additional enforcements"),
        (json!({"enforceNodeAllocatable": ["kube-reserved"]}), "kubeReservedCgroup must be specified"),
        (json!({"serializeImagePulls": true, "maxParallelImagePulls": 2}), "cannot be larger than 1 unless"),
        (json!({"crashLoopBackOff": {"maxContainerRestartPeriod": "301s"}}), "(got: 301 seconds)"),
        (json!({"containerLogMaxFiles": 1}), "must be greater than 1"),
        (json!({"containerLogMaxSize": "x"}), "is not a size"),
        (json!({"cpuCFSQuotaPeriod": "2s"}), "must be between 1ms and 1sec"),
        (json!({"nodeStatusUpdateFrequency": "10"}), "is not a duration"),
        (json!({"allowedUnsafeSysctls": ["fs.*"]}), "neither a known sysctl name nor a sysctl pattern"),
        (json!({"imageGCHighThresholdPercent": 101}), "101 must be between 0 and 100"),
        (json!({"imageGCLowThresholdPercent": 85}), "85 must be less than"),
        (
            json!({"imageMaximumGCAge": "1m"}),
            "imageMaximumGCAge 1m0s must be greater than imageMinimumGCAge 2m0s",
        ),
        (json!({"evictionHard": {"gpu.available": "1"}}), "unsupported eviction signal gpu.available"),
        (json!({"tlsCertFile": "/a"}), "belong together"),
        (json!({"staticPodURL": "/a"}), "\"/a\" must be a URL of http or https without a user in it"),
        (json!({"staticPodURL": "http://u:p@a/"}), "must be a URL of http or https without a user in it"),
        (json!({"staticPodURLHeader": {"a b": ["x"]}}), "\"a b\" is no header of HTTP"),
        (json!({"staticPodURLHeader": {"a": ["x", "\n"]}}), "\"a\" is no header of HTTP"),
        (json!({"httpCheckFrequency": "-1s"}), "is not a duration"),
    ] {
        let error = read(fields).unwrap_err();
        assert!(error.contains(why), "{error} lacks {why}");
    }
    assert!(Configuration::of(&[json!({"kind": "KubeletConfiguration"})], []).is_err());
    assert!(Configuration::of(&[json!([])], []).is_err());
}

#[test]
fn drop_ins_and_flags_go_before_the_file() {
    let documents = [
        document(
            json!({"maxPods": 1, "clusterDNS": ["10.0.0.1", "10.0.0.2"], "kubeReserved": {"cpu": "1", "memory": "1Gi"}}),
        ),
        document(json!({"maxPods": 2, "clusterDNS": ["10.0.0.3"], "kubeReserved": {"cpu": "2"}})),
    ];
    let flags =
        [("maxPods".to_owned(), json!(3)), ("authentication.x509.clientCAFile".to_owned(), json!("/ca"))];
    let read = Configuration::of(&documents, flags).unwrap();
    assert_eq!(read.max_pods, 3);
    assert_eq!(read.cluster_dns.len(), 1);
    assert_eq!(read.reserved("cpu").value(), 2);
    assert_eq!(read.reserved("memory").value(), 1 << 30);
    assert_eq!(read.authentication.x509.client_ca_file, Some("/ca".into()));
}

#[test]
fn what_is_shown_is_read_back() {
    let read = read(kubeadm()).unwrap();
    let shown = read.shown();
    assert_eq!(shown["authentication"]["webhook"]["cacheTTL"], "2m0s");
    assert_eq!(shown["nodeStatusReportFrequency"], "5m0s");
    assert_eq!(shown["evictionHard"]["imagefs.available"], "15%");
    assert_eq!(shown["cpuManagerPolicy"], "none");
    assert_eq!(shown["serializeImagePulls"], true);
    let again = Configuration::of(std::slice::from_ref(&shown), []).unwrap();
    assert_eq!(again.shown(), shown);
}

#[test]
fn pods_from_a_url() {
    assert_eq!(read(kubeadm()).unwrap().http_check_frequency, Span::seconds(20));
    let headers = json!({"Authorization": ["Bearer secret"]});
    let fields = json!({"staticPodURL": "https://pods/here", "staticPodURLHeader": headers, "httpCheckFrequency": "1m"});
    let read = read(fields).unwrap();
    assert_eq!(read.static_pod_url.as_deref(), Some("https://pods/here"));
    assert_eq!(read.static_pod_url_header["Authorization"], ["Bearer secret"]);
    assert_eq!(read.http_check_frequency, Span::minutes(1));
    let shown = read.shown();
    assert_eq!(shown["staticPodURLHeader"], json!({"Authorization": ["<masked>"]}));
    assert_eq!(
        (&shown["staticPodURL"], &shown["httpCheckFrequency"]),
        (&json!("https://pods/here"), &json!("1m0s"))
    );
}

#[test]
fn gates_may_say_what_is_true() {
    let gates = json!({"AllAlpha": false, "EnvFiles": true, "SidecarContainers": true, "NodeSwap": true});
    let shown = read(json!({"featureGates": gates})).unwrap().shown();
    assert_eq!(shown["featureGates"], gates);
}

#[test]
fn some_gates_are_switches() {
    let (bundle, projection) = ("ClusterTrustBundle", "ClusterTrustBundleProjection");
    assert!(!read(json!({})).unwrap().feature_is_on(projection));
    let on = read(json!({"featureGates": {bundle: true, projection: true}})).unwrap();
    assert!(on.feature_is_on(projection) && on.feature_is_on(bundle));
    assert!(
        !read(json!({"featureGates": {bundle: true, projection: false}})).unwrap().feature_is_on(projection)
    );
}

#[test]
fn suites_of_tls() {
    let suites = |fields: Value| {
        let read = read(fields).unwrap();
        let mut provider = rustls::crypto::ring::default_provider();
        read.limit_suites(&mut provider);
        let (old, new): (Vec<_>, Vec<_>) =
            provider.cipher_suites.into_iter().partition(|one| one.tls13().is_none());
        (read.tls_versions().len(), old.len(), new.len())
    };
    for (fields, expected) in [
        (json!({}), (2, 6, 3)),
        (json!({"tlsMinVersion": "VersionTLS13"}), (1, 6, 3)),
        (json!({"tlsCipherSuites": ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]}), (2, 1, 3)),
        (json!({"tlsCipherSuites": ["TLS_AES_128_GCM_SHA256"]}), (2, 0, 3)),
        (
            json!({"tlsCipherSuites": ["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
                "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"]}),
            (2, 2, 3),
        ),
    ] {
        assert_eq!(suites(fields.clone()), expected, "{fields}");
    }
}

#[test]
fn pulls_in_parallel() {
    for (fields, most) in [
        (json!({}), Some(1)),
        (json!({"maxParallelImagePulls": 4}), Some(4)),
        (json!({"maxParallelImagePulls": 1}), Some(1)),
        (json!({"serializeImagePulls": false}), None),
        (json!({"serializeImagePulls": false, "maxParallelImagePulls": 2}), Some(2)),
    ] {
        assert_eq!(read(fields.clone()).unwrap().parallel_pulls(), most, "{fields}");
    }
}

#[test]
fn pods_by_the_core() {
    let read = read(json!({"podsPerCore": 10, "maxPods": 50})).unwrap();
    assert_eq!((read.pod_limit(2), read.pod_limit(16)), (20, 50));
}

#[test]
fn managers_of_processors_and_memory_are_told() {
    let read = read(json!({
        "cpuManagerPolicy": "static", "cpuManagerPolicyOptions": {"full-pcpus-only": "true"}, "reservedSystemCPUs": "0-1",
        "kubeReserved": {"cpu": "500m", "memory": "1Gi"}, "memoryManagerPolicy": "Static",
        "reservedMemory": [{"numaNode": 1, "limits": {"memory": "1Gi"}}],
        "topologyManagerPolicy": "restricted", "topologyManagerScope": "pod",
    }))
    .unwrap();
    let managers = read.container_manager();
    assert_eq!((managers.cpu_manager_policy.as_str(), managers.reserved_cpu_millis), ("static", 500));
    assert_eq!(managers.cpu_manager_policy_options["full-pcpus-only"], "true");
    assert_eq!(managers.reserved_system_cpus, "0-1");
    assert_eq!(managers.memory_manager_policy, "Static");
    assert_eq!(managers.reserved_memory[&1]["memory"], 1 << 30);
    assert_eq!(managers.topology_manager_policy, "restricted");
    assert_eq!(managers.topology_manager_scope, "pod");
    let wrong =
        self::read(json!({"reservedMemory": [{"numaNode": 0, "limits": {"memory": "0"}}]})).unwrap_err();
    assert!(wrong.contains("must be a quantity above zero"), "{wrong}");
}

#[test]
fn images_that_need_no_credentials() {
    let read_with = |policy: &str, list: Value| {
        read(json!({
            "imagePullCredentialsVerificationPolicy": policy, "preloadedImagesVerificationAllowlist": list,
        }))
    };
    let taken = read_with("NeverVerifyAllowlistedImages", json!(["r.io/*"])).unwrap();
    assert_eq!(taken.without_effect, [""; 0]);
    assert_eq!(taken.shown()["imagePullCredentialsVerificationPolicy"], "NeverVerifyAllowlistedImages");
    assert_eq!(taken.shown()["preloadedImagesVerificationAllowlist"], json!(["r.io/*"]));
    for (policy, list) in [("Sometimes", json!([])), ("AlwaysVerify", json!(["r.io/*"]))] {
        let error = read_with(policy, list).unwrap_err();
        assert!(error.contains("invalid configuration: "), "{error}");
    }
}
