//! Puts a configuration together: the file, then drop-ins in the order of their names, then flags.

use serde_json::{Map, Value};

use super::{Configuration, check, fixed};

pub(super) const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
pub(super) const KIND: &str = "KubeletConfiguration";

/// Why a configuration cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// The text is neither YAML nor JSON, or not an object.
    #[error("not a YAML document: {0}")]
    Document(String),
    /// Another kind of document.
    #[error("not a {KIND} of {API_VERSION}")]
    Kind,
    /// A field that there is not, or a value of a wrong type.
    #[error("strict decoding error: {0}")]
    Decode(String),
    /// Values that are wrong, or ask for what is not built.
    #[error("{}", .0.join("; "))]
    Values(Vec<String>),
}

impl Configuration {
    /// The configuration of `documents` (a file and its drop-ins, later ones going before earlier ones as RFC 7386 patches)
    /// with `flags` over them. Flags are fields as a document has them; inner fields are reached with dots.
    ///
    /// # Errors
    /// Other documents, unknown fields, values of wrong types, and what [`ConfigurationError::Values`] lists.
    pub fn of(
        documents: &[Value],
        flags: impl IntoIterator<Item = (String, Value)>,
    ) -> Result<Self, ConfigurationError> {
        let mut merged = Value::Object(Map::new());
        for document in documents {
            let Value::Object(mut fields) = document.clone() else {
                return Err(ConfigurationError::Document("not an object".to_owned()));
            };
            let kind = (fields.remove("apiVersion"), fields.remove("kind"));
            if kind != (Some(API_VERSION.into()), Some(KIND.into())) {
                return Err(ConfigurationError::Kind);
            }
            let patch = Value::Object(fields).to_string();
            merged = podium_api::patch::merge_patch(&merged, patch.as_bytes())
                .map_err(|error| ConfigurationError::Document(error.message))?;
        }
        for (path, value) in flags {
            let at = path.split('.').fold(&mut merged, |at, part| &mut at[part]);
            *at = value;
        }
        let Value::Object(mut fields) = merged else { return Ok(Self::default()) };
        prune(&mut fields);
        let judged = fixed::take(&mut fields);
        let mut wrong = judged.refused;
        let mut read: Self = serde_json::from_value(Value::Object(fields))
            .map_err(|error| ConfigurationError::Decode(error.to_string()))?;
        read.without_effect = judged.notes;
        wrong.extend(check::check(&read));
        if wrong.is_empty() { Ok(read) } else { Err(ConfigurationError::Values(wrong)) }
    }
}

/// Fields of Go's zero value mean their default where the type is no pointer.
const ZERO_IS_UNSET: [&str; 7] = [
    "port",
    "maxPods",
    "nodeLeaseDurationSeconds",
    "registryBurst",
    "eventBurst",
    "kubeAPIBurst",
    "maxOpenFiles",
];

/// Takes out what says nothing: null, empty texts, durations of zero, and the zeros above.
fn prune(fields: &mut Map<String, Value>) {
    fields.retain(|name, value| match value {
        Value::Null => false,
        Value::String(text) => !matches!(text.as_str(), "" | "0" | "0s"),
        Value::Number(number) => !(number.as_i64() == Some(0) && ZERO_IS_UNSET.contains(&name.as_str())),
        _ => true,
    });
    for section in ["authentication", "authorization", "x509", "webhook", "anonymous", "crashLoopBackOff"] {
        if let Some(Value::Object(inner)) = fields.get_mut(section) {
            prune(inner);
        }
    }
}
