//! The fields that are not built, each with the one value that is true of this kubelet. A document may say that value;
//! any other is refused, because a setting that is passed over in silence is worse than a kubelet that does not start.

use serde_json::{Map, Value, json};

/// What may be said of a field that is not built.
enum Served {
    /// This and nothing else; it is shown at `/configz`.
    Only(fn() -> Value),
    /// Nothing: there is no value that would be true.
    Nothing,
    /// Anything: upstream's kubelet does nothing with it either.
    Anything,
}

use Served::{Anything, Nothing, Only};

const FIELDS: &[(&str, Served)] = &[
    ("enableServer", Only(|| json!(true))),
    ("syncFrequency", Only(|| json!("1m0s"))),
    ("readOnlyPort", Only(|| json!(0))),
    ("tlsCurvePreferences", Only(|| json!([]))),
    ("registryPullQPS", Only(|| json!(0))),
    ("registryBurst", Only(|| json!(10))),
    ("imagePullCredentialsVerificationPolicy", Only(|| json!("NeverVerify"))),
    ("preloadedImagesVerificationAllowlist", Only(|| json!([]))),
    ("eventRecordQPS", Only(|| json!(0))),
    ("eventBurst", Only(|| json!(100))),
    ("enableDebuggingHandlers", Only(|| json!(true))),
    ("enableContentionProfiling", Only(|| json!(false))),
    ("oomScoreAdj", Nothing),
    ("streamingConnectionIdleTimeout", Nothing),
    ("volumeStatsAggPeriod", Nothing),
    ("kubeletCgroups", Only(|| json!(""))),
    ("systemCgroups", Only(|| json!(""))),
    ("cgroupsPerQOS", Only(|| json!(true))),
    ("cpuManagerReconcilePeriod", Only(|| json!("10s"))),
    ("singleProcessOOMKill", Only(|| json!(false))),
    ("qosReserved", Only(|| json!({}))),
    ("hairpinMode", Anything),
    ("runOnce", Only(|| json!(false))),
    ("maxOpenFiles", Nothing),
    ("contentType", Only(|| json!("application/json"))),
    ("kubeAPIQPS", Only(|| json!(-1))),
    ("kubeAPIBurst", Nothing),
    ("enableControllerAttachDetach", Only(|| json!(true))),
    ("makeIPTablesUtilChains", Only(|| json!(false))),
    ("iptablesMasqueradeBit", Anything),
    ("iptablesDropBit", Anything),
    ("containerLogMaxWorkers", Only(|| json!(1))),
    ("configMapAndSecretChangeDetectionStrategy", Only(|| json!("Watch"))),
    ("showHiddenMetricsForVersion", Only(|| json!(""))),
    ("volumePluginDir", Nothing),
    ("kernelMemcgNotification", Only(|| json!(false))),
    ("logging", Only(|| json!({"format": "text"}))),
    ("enableSystemLogQuery", Only(|| json!(false))),
    ("enableProfilingHandler", Only(|| json!(false))),
    ("enableDebugFlagsHandler", Only(|| json!(false))),
    ("memoryThrottlingFactor", Nothing),
    ("memoryReservationPolicy", Only(|| json!("None"))),
    ("tracing", Nothing),
    ("localStorageCapacityIsolation", Only(|| json!(true))),
    ("imageServiceEndpoint", Only(|| json!(""))),
    ("userNamespaces", Nothing),
];

/// What is true of the fields that are not built.
pub(super) fn served() -> impl Iterator<Item = (String, Value)> {
    FIELDS.iter().filter_map(|(name, served)| match served {
        Only(value) => Some(((*name).to_owned(), value())),
        Nothing | Anything => None,
    })
}

/// Takes these fields out of a document; the texts say which of them ask for what is not built.
pub(super) fn take(document: &mut Map<String, Value>) -> Vec<String> {
    let mut refused = Vec::new();
    for (name, served) in FIELDS {
        let Some(value) = document.remove(*name) else { continue };
        match served {
            Only(only) if value == only() || says_nothing(name, &value) => {}
            Only(only) => refused.push(format!("{name} {value} is not supported: only {} is", only())),
            Nothing => refused.push(format!("{name} is not supported by this kubelet")),
            Anything => {}
        }
    }
    refused
}

/// A part of a document that was written out with nothing in it, as kubeadm writes `logging`.
fn says_nothing(name: &str, value: &Value) -> bool {
    fn empty(value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::Bool(_) => false,
            Value::Number(number) => number.as_f64() == Some(0.0),
            Value::String(text) => matches!(text.as_str(), "" | "0" | "0s" | "text"),
            Value::Array(items) => items.iter().all(empty),
            Value::Object(fields) => fields.values().all(empty),
        }
    }
    name == "logging" && empty(value)
}
