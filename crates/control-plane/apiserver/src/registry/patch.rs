//! Patch: JSON, merge and strategic merge, applied to the newest state in the served version.

use http::StatusCode;
use serde_json::Value;

use podium_api::codec::{self, FieldValidation};
use podium_api::kinds::Part;
use podium_api::patch;
use podium_api::status::ApiError;

use super::update::part;
use super::{Call, Change};
use crate::negotiate;
use crate::options;
use crate::response::Reply;

/// The media types of patches, in upstream's order.
const ACCEPTED: &str =
    "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json";

/// How a patch is to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Json,
    Merge,
    Strategic,
}

impl Call {
    pub(super) async fn patch(&self, body: &[u8], subresource: &str) -> Result<Reply, ApiError> {
        let method = self.patch_method()?;
        let write = options::write(&self.query, "PatchOptions")?;
        let change = Change { part: part(subresource), write: &write, body: None, internal: false };
        debug_assert!(change.part != Part::Scale, "scale patches a Scale");
        let outcome = self
            .change(&change, |old| {
                let old = self.to_served(old.clone())?;
                let patched = self.apply_patch(method, &old, body)?;
                let new = self.check_patched(&old, &patched, write.validation)?;
                self.to_stored(new)
            })
            .await?;
        self.reply_outcome(outcome)
    }

    /// The method the media type names.
    pub(super) fn patch_method(&self) -> Result<Method, ApiError> {
        let media = self.content_type.as_deref().map(negotiate::media_type).unwrap_or_default();
        match media.as_str() {
            "application/json-patch+json" => Ok(Method::Json),
            "application/merge-patch+json" => Ok(Method::Merge),
            "application/strategic-merge-patch+json" => Ok(Method::Strategic),
            "application/apply-patch+yaml" | "application/apply-patch+cbor" => Err(ApiError::new(
                415,
                "UnsupportedMediaType",
                format!("server-side apply is not served yet - accepted media types include: {ACCEPTED}"),
            )),
            _ => Err(negotiate::unsupported_media_type(ACCEPTED)),
        }
    }

    /// Applies a patch to an object of the served version.
    fn apply_patch(&self, method: Method, old: &Value, body: &[u8]) -> Result<Value, ApiError> {
        match (method, self.served.type_id) {
            (Method::Json, _) => patch::json_patch(old, body),
            (Method::Merge, _) => patch::merge_patch(old, body),
            (Method::Strategic, Some(type_id)) => patch::strategic_merge_patch(old, body, type_id),
            // A kind without merge keys: upstream refuses the media type for custom resources.
            (Method::Strategic, None) => Err(negotiate::unsupported_media_type(
                "application/json-patch+json, application/merge-patch+json",
            )),
        }
    }

    /// The result of a patch must still be an object of this kind, with this name.
    fn check_patched(
        &self,
        old: &Value,
        patched: &Value,
        validation: FieldValidation,
    ) -> Result<Value, ApiError> {
        let served = &self.served;
        let decoded = codec::decode_value(patched, &served.group, &served.version, &served.kind, validation)?;
        self.warn(decoded.warnings);
        let new = decoded.object;
        if new["metadata"]["name"] != old["metadata"]["name"] {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({})",
                new["metadata"]["name"].as_str().unwrap_or_default(),
                self.info.name
            )));
        }
        Ok(new)
    }

    /// Applies a patch to an object that is not of this kind (a Scale): strategic merge is merge there.
    pub(super) fn patch_other(&self, method: Method, old: &Value, body: &[u8]) -> Result<Value, ApiError> {
        match method {
            Method::Json => patch::json_patch(old, body),
            Method::Merge | Method::Strategic => patch::merge_patch(old, body),
        }
    }

    /// Answers a patch of a Scale.
    pub(super) fn reply_scale(&self, scale: &Value) -> Reply {
        self.reply_other(StatusCode::OK, scale)
    }
}
