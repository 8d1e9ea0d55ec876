//! The scale subresource: `autoscaling/v1 Scale` as a view of an object's replicas.

use serde_json::{Map, Value, json};

use podium_api::codec;
use podium_api::field::{Errors, Path};
use podium_api::kinds::Part;
use podium_api::selector::LabelSelector;
use podium_api::status::ApiError;

use super::update::Outcome;
use super::{Call, Change};
use crate::options::{self, WriteOptions};
use crate::response::Reply;
use crate::storage;

impl Call {
    pub(super) async fn get_scale(&self) -> Result<Reply, ApiError> {
        let object = storage::parse(&*self.current()?)?;
        Ok(self.reply_scale(&scale_of(&object)))
    }

    pub(super) async fn update_scale(&self, body: &[u8]) -> Result<Reply, ApiError> {
        let write = options::write(&self.query, "UpdateOptions")?;
        let scale = self.decode(body, "autoscaling", "v1", "Scale", write.validation)?;
        let name = scale["metadata"]["name"].as_str().unwrap_or_default();
        if !name.is_empty() && name != self.info.name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                self.info.name
            )));
        }
        self.change_scale(&write, |_| Ok(scale.clone())).await
    }

    pub(super) async fn patch_scale(&self, body: &[u8]) -> Result<Reply, ApiError> {
        let method = self.patch_method()?;
        let write = options::write(&self.query, "PatchOptions")?;
        self.change_scale(&write, |old| {
            let patched = self.patch_other(method, old, body)?;
            let decoded = codec::decode_value(&patched, "autoscaling", "v1", "Scale", write.validation)?;
            self.warn(decoded.warnings);
            Ok(decoded.object)
        })
        .await
    }

    async fn change_scale(
        &self,
        write: &WriteOptions,
        make: impl Fn(&Value) -> Result<Value, ApiError> + Send + Sync,
    ) -> Result<Reply, ApiError> {
        // Admission sees the Scale; it is the same for every attempt but for its revision.
        let seen = make(&scale_of(&storage::parse(&*self.current()?)?))?;
        let change = Change { part: Part::Scale, write, body: Some(("Scale", seen)), internal: false };
        let outcome = self
            .change(&change, |old| {
                let scale = make(&scale_of(old))?;
                let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
                if replicas < 0 {
                    let mut errors = Errors::new();
                    let spec = Path::new("spec");
                    let why = "must be greater than or equal to 0";
                    errors.invalid(&spec.child("replicas"), replicas, why);
                    return Err(ApiError::invalid("autoscaling", "Scale", &self.info.name, &errors));
                }
                let mut new = old.clone();
                new["spec"]["replicas"] = json!(replicas);
                for name in ["uid", "resourceVersion"] {
                    new["metadata"][name] = match scale["metadata"].get(name) {
                        Some(value) => value.clone(),
                        None => json!(""),
                    };
                }
                Ok(new)
            })
            .await?;
        let object = match outcome {
            Outcome::Stored(record) => storage::parse(&record)?,
            Outcome::DryRun(object) | Outcome::Deleted(object) => object,
        };
        Ok(self.reply_scale(&scale_of(&object)))
    }
}

/// An object's replicas as a Scale.
fn scale_of(object: &Value) -> Value {
    let mut metadata = Map::new();
    for name in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(name) {
            metadata.insert(name.to_owned(), value.clone());
        }
    }
    let mut status = json!({"replicas": object["status"]["replicas"].as_i64().unwrap_or(0)});
    let selector = selector_text(object);
    if !selector.is_empty() {
        status["selector"] = json!(selector);
    }
    json!({
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": metadata,
        "spec": {"replicas": object["spec"]["replicas"].as_i64().unwrap_or(0)},
        "status": status,
    })
}

/// The selector in text form; a ReplicationController's is a plain map.
fn selector_text(object: &Value) -> String {
    let selector = &object["spec"]["selector"];
    let plain = object["kind"] == "ReplicationController";
    if plain {
        let pairs = selector.as_object().into_iter().flatten();
        return LabelSelector::from_set(pairs.map(|(k, v)| (k.as_str(), v.as_str().unwrap_or_default())))
            .to_string();
    }
    LabelSelector::from_value(selector).map(|selector| selector.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_as_scale() {
        let scale = scale_of(&json!({
            "kind": "Deployment", "metadata": {"name": "web", "uid": "u", "labels": {"a": "b"}},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}},
            "status": {"replicas": 2},
        }));
        assert_eq!(
            scale,
            json!({
                "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web", "uid": "u"},
                "spec": {"replicas": 3}, "status": {"replicas": 2, "selector": "app=web"},
            })
        );
    }
}
