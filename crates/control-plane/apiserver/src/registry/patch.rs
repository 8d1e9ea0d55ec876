//! Patch: JSON, merge, strategic merge and server-side apply, on the newest state in the served version.

use http::StatusCode;
use serde_json::Value;

use podium_api::kinds::Part;
use podium_api::patch::apply::{self, Writer};
use podium_api::patch::{self, PatchType};
use podium_api::schema::TypeId;
use podium_api::status::ApiError;

use super::create::Created;
use super::managed::reset_fields;
use super::update::part;
use super::{Call, Change};
use crate::options::{self, WriteOptions};
use crate::response::Reply;
use crate::{clock, negotiate};

/// The media types of patches, in upstream's order.
const ACCEPTED: &str = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";

/// The same for kinds without merge keys.
const ACCEPTED_CUSTOM: &str =
    "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";

/// How a patch is to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Patch(PatchType),
    Apply,
}

impl Call {
    pub(super) async fn patch(&self, body: &[u8], subresource: &str) -> Result<Reply, ApiError> {
        let method = self.patch_method()?;
        let write = options::patch(&self.query, method == Method::Apply)?;
        let kind = match method {
            Method::Apply => return self.apply(body, &write, subresource).await,
            Method::Patch(kind) => kind,
        };
        if self.served.type_id.is_none() && kind == PatchType::Strategic {
            // A kind without merge keys: upstream refuses the media type for custom resources.
            return Err(negotiate::unsupported_media_type(ACCEPTED_CUSTOM));
        }
        let change =
            Change { part: part(subresource), write: &write, body: None, internal: false, tracked: false };
        debug_assert!(change.part != Part::Scale, "scale patches a Scale");
        let outcome = self
            .change(&change, |old| {
                let old = self.to_served(old.clone())?;
                let new = match (self.served.type_id, kind) {
                    (Some(ty), _) => {
                        let decoded = patch::patch(old, body, kind, ty, write.validation)?;
                        self.warn(decoded.warnings);
                        decoded.object
                    }
                    (None, PatchType::Json) => patch::json_patch(&old, body)?,
                    (None, _) => patch::merge_patch(&old, body)?,
                };
                self.check_kind(&new)?;
                self.check_name(&new)?;
                self.to_stored(new)
            })
            .await?;
        self.reply_outcome(outcome)
    }

    /// The method the media type names.
    pub(super) fn patch_method(&self) -> Result<Method, ApiError> {
        let media = self.content_type.as_deref().map(negotiate::media_type).unwrap_or_default();
        match media.as_str() {
            "application/json-patch+json" => Ok(Method::Patch(PatchType::Json)),
            "application/merge-patch+json" => Ok(Method::Patch(PatchType::Merge)),
            "application/strategic-merge-patch+json" => Ok(Method::Patch(PatchType::Strategic)),
            "application/apply-patch+yaml" => Ok(Method::Apply),
            _ => Err(negotiate::unsupported_media_type(ACCEPTED)),
        }
    }

    /// A patch may not make another kind of the object.
    fn check_kind(&self, object: &Value) -> Result<(), ApiError> {
        let text = |name: &str| object[name].as_str().unwrap_or_default();
        let served = &self.served;
        if (text("apiVersion"), text("kind")) == (served.api_version().as_str(), served.kind.as_str()) {
            return Ok(());
        }
        Err(ApiError::bad_request(format!(
            "the object provided is of another kind: {} (expected {})",
            apply::shown_kind(text("apiVersion"), text("kind")),
            apply::shown_kind(&served.api_version(), &served.kind)
        )))
    }

    /// The name and namespace of a changed object must be those of the URL.
    pub(super) fn check_name(&self, object: &Value) -> Result<(), ApiError> {
        let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
        if text("name") != self.info.name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({})",
                text("name"),
                self.info.name
            )));
        }
        if self.served.namespaced && !text("namespace").is_empty() && text("namespace") != self.info.namespace
        {
            return Err(ApiError::bad_request(format!(
                "the namespace of the object ({}) does not match the namespace on the request ({})",
                text("namespace"),
                self.info.namespace
            )));
        }
        Ok(())
    }

    /// Server-side apply: creates the object if there is none.
    async fn apply(&self, body: &[u8], write: &WriteOptions, subresource: &str) -> Result<Reply, ApiError> {
        let config = self.configuration(body, write)?;
        let ty = self.served.type_id.ok_or_else(|| negotiate::unsupported_media_type(ACCEPTED_CUSTOM))?;
        let change = Change { part: part(subresource), write, body: None, internal: false, tracked: true };
        // Who creates and deletes in turn with us is a rare sight; then it is somebody else's conflict.
        for _ in 0..5 {
            if self.core.store.get(&self.key()?).is_none() && subresource.is_empty() {
                match self.create_applied(&config, ty, write).await {
                    Err(error) if error.reason == "AlreadyExists" => continue,
                    other => return other,
                }
            }
            let outcome = self
                .change(&change, |old| {
                    let old = self.to_served(old.clone())?;
                    self.to_stored(self.applied(&old, &config, ty, write)?)
                })
                .await;
            match outcome {
                Err(error) if error.code == 404 && subresource.is_empty() => {}
                outcome => return self.reply_outcome(outcome?),
            }
        }
        Err(self.conflict(super::MODIFIED))
    }

    async fn create_applied(
        &self,
        config: &Value,
        ty: TypeId,
        write: &WriteOptions,
    ) -> Result<Reply, ApiError> {
        self.may_create()?;
        if let Some(uid) = config["metadata"]["uid"].as_str().filter(|uid| !uid.is_empty()) {
            return Err(self.conflict(&format!(
                "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
            )));
        }
        let object = self.to_stored(self.applied(&Value::Null, config, ty, write)?)?;
        match self.create_object(object, write, true).await? {
            Created::Stored(record) => self.reply_record(StatusCode::CREATED, &record),
            Created::DryRun(object) => self.reply_object(StatusCode::CREATED, object),
        }
    }

    /// The configuration in a body; what is wrong with its form is refused or warned of.
    pub(super) fn configuration(&self, body: &[u8], write: &WriteOptions) -> Result<Value, ApiError> {
        let (config, duplicates) = apply::parse(body)?;
        match write.validation {
            podium_api::codec::FieldValidation::Strict if !duplicates.is_empty() => {
                return Err(ApiError::bad_request(format!(
                    "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  {}",
                    duplicates.join("\n  ")
                )));
            }
            podium_api::codec::FieldValidation::Warn => self.warn(duplicates),
            _ => {}
        }
        Ok(config)
    }

    /// The live object with a configuration applied, both in the served version; `live` is null if there is none.
    fn applied(
        &self,
        live: &Value,
        config: &Value,
        ty: TypeId,
        write: &WriteOptions,
    ) -> Result<Value, ApiError> {
        let text = |name: &str| config[name].as_str().unwrap_or_default();
        let served = &self.served;
        if text("kind") != served.kind || text("apiVersion") != served.api_version() {
            let found = apply::shown_kind(text("apiVersion"), text("kind"));
            return Err(ApiError::bad_request(format!("invalid object type: {found}")));
        }
        let manager = self.manager();
        let now = clock::now();
        let subresource = self.info.subresource.as_str();
        let writer = Writer {
            manager: &manager,
            subresource,
            now: &now,
            reset: reset_fields(&served.plural, subresource),
        };
        let new = apply::server_side_apply(live, config, ty, &writer, write.force)?;
        self.check_name(&new)?;
        Ok(new)
    }
}
