//! Every verb on every kind: one general mechanism, with the few special resources beside it.
//!
//! A [`Call`] is one authenticated and authorised request for a resource. Each file below adds the verbs of its name to
//! it. All of them are cancel-safe: whatever is half done when a client leaves is a state the API allows, because each
//! step is one commit.

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use podium_store::Record;
use serde_json::{Value, json};

use podium_api::codec::{self, Encoding, FieldValidation};
use podium_api::status::ApiError;

use crate::admission::{Operation, Request as AdmissionRequest};
use crate::authentication::User;
use crate::catalogue::Served;
use crate::components;
use crate::core::Core;
use crate::flowcontrol::Seats;
use crate::hot::Hot;
use crate::negotiate::{self, Arity, Output, Shape};
use crate::options::{self, IncludeObject};
use crate::request::{Query, RequestInfo};
use crate::response::{self, Reply};
use crate::storage;
use crate::table;

// One file per verb, and what two of them share.
mod assemble;
mod binding;
mod create;
mod delete;
mod eviction;
mod get;
mod list;
mod managed;
mod owners;
mod patch;
mod scale;
mod update;
mod watch;

pub(crate) use create::remove;
pub(crate) use managed::{from_identity, from_user_agent};
pub(crate) use update::Change;

/// One request for a resource.
#[derive(Debug)]
pub(crate) struct Call {
    /// The server.
    pub(crate) core: Arc<Core>,
    /// The kind addressed.
    pub(crate) served: Arc<Served>,
    /// The address.
    pub(crate) info: RequestInfo,
    /// The query.
    pub(crate) query: Query,
    /// Who asks.
    pub(crate) user: Arc<User>,
    /// What the client wants back.
    pub(crate) output: Output,
    /// How a refusal is encoded; `None` where the client takes nothing we have.
    pub(crate) refusal: Option<Output>,
    /// The body's media type.
    pub(crate) content_type: Option<String>,
    /// Who writes, where the query does not say: by the user agent.
    pub(crate) manager: String,
    /// Texts for `Warning` headers, gathered on the way.
    pub(crate) warnings: Mutex<Vec<String>>,
    /// The seats it holds while it is handled.
    pub(crate) seats: Mutex<Option<Seats>>,
}

/// What a client is told of a resource that is kept for old clients only.
fn deprecated(group: &str, plural: &str) -> Option<&'static str> {
    match (group, plural) {
        ("", "endpoints") => {
            Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
        }
        ("", "componentstatuses") => Some("v1 ComponentStatus is deprecated in v1.19+"),
        _ => None,
    }
}

impl Call {
    /// A call of the server itself, for what it keeps up on its own: the most privileged identity, no client.
    pub(crate) fn internal(core: &Arc<Core>, served: Arc<Served>, namespace: &str, name: &str) -> Call {
        let info = RequestInfo {
            is_resource: true,
            group: served.group.clone(),
            version: served.version.clone(),
            resource: served.plural.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..RequestInfo::default()
        };
        Call {
            core: Arc::clone(core),
            served,
            info,
            query: Query::default(),
            user: Arc::new(User::new("system:apiserver", &["system:masters"])),
            output: Output::JSON,
            refusal: Some(Output::JSON),
            content_type: None,
            manager: "kube-apiserver".to_owned(),
            warnings: Mutex::default(),
            seats: Mutex::default(),
        }
    }

    /// Answers the request.
    pub(crate) async fn answer(&self, body: Bytes) -> Result<Reply, ApiError> {
        let served =
            self.info.subresource.is_empty() || self.served.subresource(&self.info.subresource).is_some();
        if let Some(warning) = deprecated(&self.served.group, &self.served.plural).filter(|_| served) {
            self.warn(vec![warning.to_owned()]);
        }
        let answered = if self.info.subresource.is_empty() {
            self.main_resource(body).await
        } else {
            self.subresource(body).await
        };
        let warnings: Vec<String> = self.warnings.lock().drain(..).collect();
        let mut reply = match answered {
            Ok(reply) => reply,
            // A refusal carries the warnings too.
            Err(error) if !warnings.is_empty() => response::error(&error, self.refusal),
            Err(error) => return Err(error),
        };
        for warning in warnings {
            if let Some(value) = response::warning_header(&warning) {
                reply.headers_mut().append("warning", value);
            }
        }
        Ok(reply)
    }

    /// Where other servers write to the same store, waits until it is as new here as this request may expect: writes
    /// and reads of the newest see everything that anybody was told of before; reads that name a revision see that.
    pub(crate) async fn see_what_others_wrote(&self) -> Result<(), ApiError> {
        // Whether others can be seen is what this is asked for.
        if self.is_of_components() {
            return Ok(());
        }
        let version = match self.info.verb {
            "get" | "list" | "watch" => self.query.first("resourceVersion").unwrap_or_default(),
            _ => "",
        };
        let behind = |revision: u64| revision > self.core.store.revision();
        if !version.is_empty() && !version.parse().is_ok_and(behind) {
            return Ok(());
        }
        self.core.store.fresh().await.map_err(|error| match error {
            podium_store::FreshError::Closed => response::unavailable("the server is shutting down"),
            // As upstream when etcd does not answer in time.
            podium_store::FreshError::Remote(fault) => response::timeout(fault.message, 1),
        })
    }

    async fn main_resource(&self, body: Bytes) -> Result<Reply, ApiError> {
        if !self.served.allows(self.info.verb) {
            return Err(response::method_not_allowed());
        }
        // The scope is the router's to decide: a namespaced write without a namespace addresses nothing.
        let scoped = self.served.namespaced && self.info.namespace.is_empty();
        if scoped && !matches!(self.info.verb, "list" | "watch") {
            let across = matches!(self.info.verb, "create" | "deletecollection");
            return Err(if across { response::method_not_allowed() } else { response::unknown_path() });
        }
        if !self.served.namespaced && !self.info.namespace.is_empty() && self.served.plural != "namespaces" {
            return Err(response::unknown_path());
        }
        if self.is_of_components() {
            return self.component_statuses().await;
        }
        match self.info.verb {
            "update" | "patch" if self.info.name.is_empty() => Err(response::method_not_allowed()),
            "get" => self.get().await,
            "list" => self.list().await,
            "watch" => self.watch().await,
            "create" if !self.info.name.is_empty() => Err(response::method_not_allowed()),
            "create" if self.served.plural == "bindings" && self.served.group.is_empty() => {
                self.bind_by_body(&body).await
            }
            "create" if !self.served.stored => self.review(&body),
            "create" => self.create(&body).await,
            "update" => self.update(&body, "").await,
            "patch" => self.patch(&body, "").await,
            "delete" => self.delete(&body).await,
            "deletecollection" => self.delete_collection(&body).await,
            _ => Err(response::method_not_allowed()),
        }
    }

    fn is_of_components(&self) -> bool {
        self.served.plural == "componentstatuses" && self.served.group.is_empty()
    }

    /// ComponentStatuses are nowhere: those that are read are asked.
    async fn component_statuses(&self) -> Result<Reply, ApiError> {
        if self.info.verb == "get" {
            let found = components::statuses(&self.core, |name| name == self.info.name).await.pop();
            // Upstream names the kind there.
            let found = found.ok_or_else(|| ApiError::not_found("", "componentstatus", &self.info.name))?;
            self.check_arity(Arity::One)?;
            return self.reply_object(StatusCode::OK, found);
        }
        let selection = options::list(&self.query, &self.info, &self.served, false)?.selection;
        let found = components::statuses(&self.core, |name| {
            let field = |field: &str| (field == "metadata.name").then_some(name);
            selection.labels.matches_fn(|_| None) && selection.fields.matches(field)
        });
        self.check_arity(Arity::List)?;
        let list = self.list_of(found.await, &json!({}))?;
        Ok(response::object(StatusCode::OK, &list, self.output))
    }

    async fn subresource(&self, body: Bytes) -> Result<Reply, ApiError> {
        let name = self.info.subresource.as_str();
        let Some(sub) = self.served.subresource(name) else { return Err(response::unknown_path()) };
        if !sub.verbs.iter().any(|verb| verb == self.info.verb) {
            return Err(response::method_not_allowed());
        }
        if self.served.namespaced && self.info.namespace.is_empty() {
            return Err(response::unknown_path());
        }
        match (name, self.info.verb) {
            ("scale", "get") => self.get_scale().await,
            ("scale", "update") => self.update_scale(&body).await,
            ("scale", "patch") => self.patch_scale(&body).await,
            ("binding", "create") => self.bind(&body).await,
            ("eviction", "create") => self.evict(&body).await,
            ("token", "create") => self.review(&body),
            (_, "get") => self.get().await,
            (_, "update") => self.update(&body, name).await,
            (_, "patch") => self.patch(&body, name).await,
            _ => Err(response::method_not_allowed()),
        }
    }

    /// Virtual resources: an answer, nothing stored.
    fn review(&self, body: &[u8]) -> Result<Reply, ApiError> {
        if self.output.shape != negotiate::Shape::Native {
            return Err(negotiate::not_acceptable());
        }
        let write = options::write(&self.query, "CreateOptions")?;
        let (group, version, kind) = match self.served.subresource(&self.info.subresource) {
            Some(sub) => (sub.group.as_str(), sub.version.as_str(), sub.kind.as_str()),
            None => (self.served.group.as_str(), self.served.version.as_str(), self.served.kind.as_str()),
        };
        let mut object = self.decode(body, group, version, kind, write.validation)?;
        if !crate::reviews::Reviews::handles(&self.served.group, &self.served.plural, &self.info.subresource)
        {
            return Err(response::method_not_allowed());
        }
        // A review that answers with what it was given says who asked, as upstream's.
        if let Some(ty) = podium_api::schema::type_of(group, version, kind)
            && object.is_object()
        {
            self.track_as(ty, &mut object, &crate::clock::now());
        }
        let answer = self.core.reviews.create(crate::reviews::Create {
            user: &self.user,
            group: &self.served.group,
            resource: &self.served.plural,
            subresource: &self.info.subresource,
            namespace: &self.info.namespace,
            name: &self.info.name,
            body: object,
        })?;
        Ok(response::object(StatusCode::CREATED, &answer, self.output))
    }

    /// Decodes the body as one kind, collecting warnings.
    pub(crate) fn decode(
        &self,
        body: &[u8],
        group: &str,
        version: &str,
        kind: &str,
        validation: FieldValidation,
    ) -> Result<Value, ApiError> {
        let encoding = negotiate::input(self.content_type.as_deref())?;
        let decoded = codec::decode(body, encoding, group, version, kind, validation)?;
        self.warn(decoded.warnings);
        Ok(decoded.object)
    }

    /// Adds texts for `Warning` headers.
    pub(crate) fn warn(&self, texts: Vec<String>) {
        if texts.is_empty() {
            return;
        }
        let mut warnings = self.warnings.lock();
        for text in texts {
            // Bounded as upstream bounds them, and each said once.
            if warnings.len() < 32 && !warnings.contains(&text) {
                warnings.push(text);
            }
        }
    }

    /// From the served version to the stored one.
    pub(crate) fn to_stored(&self, object: Value) -> Result<Value, ApiError> {
        if self.served.as_stored() {
            return Ok(object);
        }
        codec::convert(object, &self.served.storage_group, &self.served.storage_version)
    }

    /// From the stored version to the served one.
    pub(crate) fn to_served(&self, object: Value) -> Result<Value, ApiError> {
        if self.served.as_stored() {
            return Ok(object);
        }
        codec::convert(object, &self.served.group, &self.served.version)
    }

    /// Refuses metadata in the other form than there is.
    pub(crate) fn check_arity(&self, there: Arity) -> Result<(), ApiError> {
        let Shape::Metadata(_, asked) = self.output.shape else { return Ok(()) };
        if asked == there {
            return Ok(());
        }
        // As upstream's internal package is called, which the stored group's is too.
        let package = match self.served.storage_group.split('.').next() {
            None | Some("") => "core",
            Some(first) => first,
        };
        Err(negotiate::not_of_this_arity(asked, &format!("{package}.{}", self.served.kind)))
    }

    /// Answers with a stored record: its own bytes where they are what the client asked for.
    pub(crate) fn reply_record(&self, code: StatusCode, record: &Arc<Record>) -> Result<Reply, ApiError> {
        if self.served.as_stored() && self.output == Output::JSON {
            return Ok(response::bytes(code, "application/json", record.value.clone()));
        }
        if is_hot(&self.served, self.output) {
            let form = self.core.hot.form(&self.served, record, true)?;
            return Ok(response::bytes(code, negotiate::content_type(Encoding::Protobuf), form));
        }
        let object = storage::parse(record)?;
        self.reply_object(code, object)
    }

    /// Answers with an object in the stored version.
    pub(crate) fn reply_object(&self, code: StatusCode, object: Value) -> Result<Reply, ApiError> {
        let object = match self.output.shape {
            Shape::Native => self.to_served(object)?,
            Shape::Metadata(version, _) => table::partial(&object, version),
            Shape::Table(version) => table::of_one(&self.served, version, self.include_object()?, object),
        };
        Ok(response::object(code, &object, self.output))
    }

    /// Answers with an object that is not of this kind (a Scale, a Status).
    pub(crate) fn reply_other(&self, code: StatusCode, object: &Value) -> Reply {
        response::object(code, object, Output { shape: Shape::Native, ..self.output })
    }

    /// The store's key of the addressed object.
    pub(crate) fn key(&self) -> Result<podium_store::Key, ApiError> {
        storage::key(&self.served, self.namespace(), &self.info.name)
    }

    /// The namespace of the object: empty for cluster scope (a Namespace is addressed by its own name).
    pub(crate) fn namespace(&self) -> &str {
        if self.served.namespaced { &self.info.namespace } else { "" }
    }

    /// 404 for the addressed object.
    pub(crate) fn not_found(&self) -> ApiError {
        ApiError::not_found(&self.served.group, &self.served.plural, &self.info.name)
    }

    /// 409 for the addressed object.
    pub(crate) fn conflict(&self, why: &str) -> ApiError {
        ApiError::conflict(&self.served.group, &self.served.plural, &self.info.name, why)
    }

    /// The admission request of this call.
    pub(crate) fn admission<'a>(
        &'a self,
        operation: Operation,
        kind: &'a str,
        object: &'a mut Value,
        old: Option<&'a Value>,
        options: &'a Value,
        dry_run: bool,
    ) -> AdmissionRequest<'a> {
        AdmissionRequest {
            user: &self.user,
            operation,
            group: &self.served.group,
            version: &self.served.storage_version,
            kind,
            resource: &self.served.plural,
            subresource: &self.info.subresource,
            namespace: &self.info.namespace,
            name: &self.info.name,
            object,
            old,
            options,
            dry_run,
            warnings: Vec::new(),
            annotations: Vec::new(),
        }
    }

    /// What table rows carry.
    pub(crate) fn include_object(&self) -> Result<IncludeObject, ApiError> {
        match self.output.shape {
            Shape::Table(_) => options::include_object(&self.query),
            _ => Ok(IncludeObject::Metadata),
        }
    }
}

/// The body's media type.
pub(crate) fn content_type(headers: &HeaderMap) -> Option<String> {
    headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// The most common modification message; clients look for it.
pub(crate) const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// 504: the revision has not happened yet.
pub(crate) fn too_large(asked: u64, current: u64) -> ApiError {
    let mut error = response::timeout(format!("Too large resource version: {asked}, current: {current}"), 1);
    if let Some(details) = &mut error.details {
        details["causes"] =
            json!([{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]);
    }
    error
}

/// A commit that did not happen, for reasons that are not the client's.
pub(crate) fn commit_failed(error: &podium_store::CommitError) -> ApiError {
    tracing::error!(error = %error, source = ?std::error::Error::source(error).map(ToString::to_string), "commit failed");
    match error {
        podium_store::CommitError::NoSpace(_) => {
            let mut refusal =
                ApiError::new(500, "InternalError", "Internal error occurred: no space left for the store");
            refusal.details = Some(json!({"retryAfterSeconds": 10}));
            refusal
        }
        podium_store::CommitError::Closed => response::unavailable("the server is shutting down"),
        other => ApiError::internal(other.to_string()),
    }
}

/// Whether the answer is the kept protobuf form of an object.
pub(crate) fn is_hot(served: &Served, output: Output) -> bool {
    output.encoding == Encoding::Protobuf && output.shape == Shape::Native && Hot::covers(served)
}

/// Whether the encoding can be sent without parsing.
pub(crate) fn is_plain(output: Output) -> bool {
    output.encoding == Encoding::Json && output.shape == Shape::Native && !output.pretty
}
