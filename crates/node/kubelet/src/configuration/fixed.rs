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
    /// Anything, though upstream's kubelet acts on it: the log says why nothing comes of it here.
    Taken(&'static str),
    /// One of these, which say what is not so: the log says what is. Upstream's default is among them.
    Said(fn() -> Value, &'static str),
}

use Served::{Anything, Nothing, Only, Said, Taken};

const FIELDS: &[(&str, Served)] = &[
    ("enableServer", Only(|| json!(true))),
    ("syncFrequency", Only(|| json!("1m0s"))),
    ("readOnlyPort", Only(|| json!(0))),
    ("tlsCurvePreferences", Only(|| json!([]))),
    ("enableDebuggingHandlers", Only(|| json!(true))),
    ("enableContentionProfiling", Only(|| json!(false))),
    ("kubeletCgroups", Only(|| json!(""))),
    ("systemCgroups", Only(|| json!(""))),
    ("cgroupsPerQOS", Only(|| json!(true))),
    ("cpuManagerReconcilePeriod", Only(|| json!("10s"))),
    ("singleProcessOOMKill", Only(|| json!(false))),
    ("qosReserved", Only(|| json!({}))),
    ("hairpinMode", Anything),
    ("runOnce", Only(|| json!(false))),
    ("contentType", Said(|| json!(["application/json", PROTOBUF]), "the API is spoken to in JSON")),
    ("kubeAPIQPS", Taken(NO_RATES)),
    ("kubeAPIBurst", Taken(NO_RATES)),
    ("enableControllerAttachDetach", Only(|| json!(true))),
    ("makeIPTablesUtilChains", Said(|| json!([false, true]), "no rules of iptables are made")),
    ("iptablesMasqueradeBit", Anything),
    ("iptablesDropBit", Anything),
    ("containerLogMaxWorkers", Only(|| json!(1))),
    ("configMapAndSecretChangeDetectionStrategy", Only(|| json!("Watch"))),
    ("showHiddenMetricsForVersion", Only(|| json!(""))),
    ("volumePluginDir", Taken("there are no FlexVolume drivers: use CSI")),
    ("logging", Only(|| json!({"format": "text"}))),
    ("enableSystemLogQuery", Only(|| json!(false))),
    ("enableProfilingHandler", Said(|| json!([false, true]), NO_DEBUGGING)),
    ("enableDebugFlagsHandler", Said(|| json!([false, true]), NO_DEBUGGING)),
    ("memoryThrottlingFactor", Said(|| json!([0.9]), "MemoryQoS, which it belongs to, is not built")),
    ("memoryReservationPolicy", Only(|| json!("None"))),
    ("tracing", Nothing),
    ("localStorageCapacityIsolation", Only(|| json!(true))),
    ("imageServiceEndpoint", Only(|| json!(""))),
    ("userNamespaces", Nothing),
];

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const NO_RATES: &str = "requests are limited by the API server's flow control only";
const NO_DEBUGGING: &str = "there are no handlers for profiles and flags";

/// What a document's fields that are not built come to.
#[derive(Debug, Default)]
pub(super) struct Judged {
    /// What asks for something that is not built.
    pub(super) refused: Vec<String>,
    /// What was taken and has no effect.
    pub(super) notes: Vec<String>,
}

/// What is true of the fields that are not built.
pub(super) fn served() -> impl Iterator<Item = (String, Value)> {
    FIELDS.iter().filter_map(|(name, served)| match served {
        Only(value) => Some(((*name).to_owned(), value())),
        Nothing | Anything | Taken(_) | Said(..) => None,
    })
}

/// Takes these fields out of a document.
pub(super) fn take(document: &mut Map<String, Value>) -> Judged {
    let mut judged = Judged::default();
    let refused = &mut judged.refused;
    for (name, served) in FIELDS {
        let Some(value) = document.remove(*name) else { continue };
        match served {
            Only(only) if value == only() || says_nothing(name, &value) => {}
            Only(only) => refused.push(format!("{name} {value} is not supported: only {} is", only())),
            Nothing => refused.push(format!("{name} is not supported by this kubelet")),
            Anything => {}
            Taken(why) => judged.notes.push(format!("{name} {value} has no effect: {why}")),
            Said(values, why) if values().as_array().is_some_and(|values| values.contains(&value)) => {
                judged.notes.push(format!("{name} {value}: {why}"));
            }
            Said(values, _) => {
                refused.push(format!("{name} {value} is not supported: only {} are", values()));
            }
        }
    }
    judged
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
    let Some(fields) = value.as_object().filter(|_| name == "logging") else { return false };
    // Lines are written at once, however often that is asked for.
    fields.iter().all(|(name, value)| name == "flushFrequency" || empty(value))
}
