//! The scale subresource: `autoscaling/v1 Scale` as a view of an object's replicas.

use http::StatusCode;
use serde_json::{Map, Value, json};

use podium_api::field::{Errors, Path};
use podium_api::kinds::Part;
use podium_api::patch;
use podium_api::patch::apply::{self, Writer};
use podium_api::schema::{self, TypeId};
use podium_api::selector::LabelSelector;
use podium_api::status::ApiError;

use super::managed::set_managed_fields;
use super::patch::Method;
use super::update::Outcome;
use super::{Call, Change};
use crate::options::{self, WriteOptions};
use crate::response::Reply;
use crate::{clock, storage};

impl Call {
    pub(super) async fn get_scale(&self) -> Result<Reply, ApiError> {
        let object = storage::parse(&*self.current()?)?;
        Ok(self.reply_other(StatusCode::OK, &scale_of(&object)))
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
        self.change_scale(&write, false, |_| Ok(scale.clone())).await
    }

    pub(super) async fn patch_scale(&self, body: &[u8]) -> Result<Reply, ApiError> {
        let method = self.patch_method()?;
        let write = options::patch(&self.query, method == Method::Apply)?;
        let ty = scale_type()?;
        let kind = match method {
            Method::Apply => return self.apply_scale(body, &write).await,
            Method::Patch(kind) => kind,
        };
        self.change_scale(&write, false, |old| {
            let decoded = patch::patch(old.clone(), body, kind, ty, write.validation)?;
            self.warn(decoded.warnings);
            Ok(decoded.object)
        })
        .await
    }

    async fn apply_scale(&self, body: &[u8], write: &WriteOptions) -> Result<Reply, ApiError> {
        let ty = scale_type()?;
        let config = self.configuration(body, write)?;
        self.change_scale(write, true, |old| {
            let now = clock::now();
            let manager = self.manager();
            let writer = Writer { manager: &manager, subresource: "scale", now: &now, reset: SCALE_RESET };
            apply::server_side_apply(old, &config, ty, &writer, write.force)
        })
        .await
    }

    async fn change_scale(
        &self,
        write: &WriteOptions,
        tracked: bool,
        make: impl Fn(&Value) -> Result<Value, ApiError> + Send + Sync,
    ) -> Result<Reply, ApiError> {
        // Admission sees the Scale; it is the same for every attempt but for its revision.
        let seen = make(&managed_scale_of(&storage::parse(&*self.current()?)?))?;
        let change =
            Change { part: Part::Scale, write, body: Some(("Scale", seen)), internal: false, tracked: true };
        let ty = scale_type()?;
        let outcome = self
            .change(&change, |old| {
                let live = managed_scale_of(old);
                let mut scale = make(&live)?;
                if !tracked {
                    let (now, manager) = (clock::now(), self.manager());
                    let writer =
                        Writer { manager: &manager, subresource: "scale", now: &now, reset: SCALE_RESET };
                    apply::track(&live, &mut scale, ty, &writer);
                }
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
                let version = self.served.api_version();
                set_managed_fields(&mut new, apply::scale::of_parent(old, &scale, &version));
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
        Ok(self.reply_other(StatusCode::OK, &scale_of(&object)))
    }
}

/// What a write of a Scale cannot change.
const SCALE_RESET: &[&[&str]] = &[&["status"]];

fn scale_type() -> Result<TypeId, ApiError> {
    schema::type_of("autoscaling", "v1", "Scale").ok_or_else(|| ApiError::internal("Scale has no schema"))
}

/// The Scale with whoever owns the replicas.
fn managed_scale_of(object: &Value) -> Value {
    let mut scale = scale_of(object);
    set_managed_fields(&mut scale, apply::scale::of_scale(object));
    scale
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
