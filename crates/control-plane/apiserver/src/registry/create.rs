//! Create: decode, fill in, admit, default, validate, admit, encode once, commit.

use http::StatusCode;
use podium_store::{Change as StoreChange, CommitError, Expect, LeaseId};
use serde_json::{Map, Value, json};

use podium_api::field::Errors;
use podium_api::kinds::{self, Context, Part};
use podium_api::status::ApiError;

use super::{Call, commit_failed};
use crate::admission::Operation;
use crate::options::{self, WriteOptions};
use crate::response::Reply;
use crate::services::RACED;
use crate::storage::{self, Meta, Shared};
use crate::{clock, names};

/// What a create made.
pub(crate) enum Created {
    /// It is stored.
    Stored(Shared),
    /// It would have been stored.
    DryRun(Value),
}

impl Call {
    pub(super) async fn create(&self, body: &[u8]) -> Result<Reply, ApiError> {
        let write = options::write(&self.query, "CreateOptions")?;
        let served = &self.served;
        let object = self.decode(body, &served.group, &served.version, &served.kind, write.validation)?;
        let object = self.to_stored(object)?;
        match self.create_object(object, &write, false).await? {
            Created::Stored(record) => self.reply_record(StatusCode::CREATED, &record),
            Created::DryRun(object) => self.reply_object(StatusCode::CREATED, object),
        }
    }

    /// Creates a decoded object of the stored version. A generated name that is taken is made again. `tracked` says that
    /// its managed fields are up to date.
    pub(crate) async fn create_object(
        &self,
        mut object: Value,
        write: &WriteOptions,
        tracked: bool,
    ) -> Result<Created, ApiError> {
        self.check_new_metadata(&mut object)?;
        let metadata = &object["metadata"];
        let given = |name: &str| metadata[name].as_str().is_some_and(|text| !text.is_empty());
        let generates = !given("name") && given("generateName");
        // What may have to be tried again: a name that is made up, an address that is chosen.
        let retries = generates || self.served.plural == "services";
        if !retries {
            return self.try_create(object, write, tracked).await;
        }
        let mut names_taken = 0;
        loop {
            match self.try_create(object.clone(), write, tracked).await {
                // Each such race has a winner, so this ends when no address is left, or with the request's time.
                Err(error) if error.reason == RACED => {}
                Err(error) if generates && error.reason == "AlreadyExists" => {
                    names_taken += 1;
                    if names_taken == names::ATTEMPTS {
                        return Err(no_free_name(error));
                    }
                }
                other => return other,
            }
        }
    }

    /// What a client may not say about a new object.
    fn check_new_metadata(&self, object: &mut Value) -> Result<(), ApiError> {
        let Some(members) = object.as_object_mut() else {
            return Err(ApiError::bad_request("the object provided is not an object"));
        };
        let metadata = members.entry("metadata").or_insert_with(|| json!({}));
        if metadata.is_null() {
            *metadata = json!({});
        }
        if metadata["resourceVersion"].as_str().is_some_and(|version| !version.is_empty()) {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        self.check_namespace(metadata)
    }

    /// Fills in or compares `metadata.namespace` with the URL's.
    pub(super) fn check_namespace(&self, metadata: &mut Value) -> Result<(), ApiError> {
        let wanted = self.namespace();
        let found = metadata["namespace"].as_str().unwrap_or_default();
        if found == wanted {
            return Ok(());
        }
        if found.is_empty() {
            metadata["namespace"] = json!(wanted);
            return Ok(());
        }
        if !self.served.namespaced {
            remove(metadata, "namespace");
            return Ok(());
        }
        Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ))
    }

    async fn try_create(
        &self,
        mut object: Value,
        write: &WriteOptions,
        tracked: bool,
    ) -> Result<Created, ApiError> {
        let rules = &*self.served.rules;
        let now = clock::now();
        fill_system_metadata(&mut object, &now);
        let shares_labels = rules.shares_template_labels() && !has_labels(&object["metadata"]);
        if rules.name_may_be_absent() && object["metadata"]["name"].as_str().is_none_or(str::is_empty) {
            object["metadata"]["name"] = json!(names::uid());
        }
        rules.default(&mut object);
        if !tracked {
            self.dedup_owners(&mut object, false);
            // What admission adds is nobody's, as upstream.
            self.track(&Value::Null, &mut object, &now)?;
        }
        {
            let mut request = self.admission(
                Operation::Create,
                &self.served.kind,
                &mut object,
                None,
                &write.object,
                write.dry_run,
            );
            self.core.admission.settle(&request).await;
            self.core.admission.mutate(&mut request)?;
            let warnings = std::mem::take(&mut request.warnings);
            self.warn(warnings);
        }
        self.dedup_owners(&mut object, true);
        self.check_namespace(&mut object["metadata"])?;
        rules.default(&mut object);
        let context = Context { part: Part::Main, now: &now, requester: self.user.as_requester() };
        self.drop_disabled(&mut object, None);
        rules.prepare_create(&mut object, &context);
        if shares_labels && has_labels(&object["spec"]["template"]["metadata"]) {
            object["metadata"]["labels"] = object["spec"]["template"]["metadata"]["labels"].clone();
        }
        // Where it means nothing, it is what the client says, as upstream.
        if rules.has_generation() {
            object["metadata"]["generation"] = json!(1);
        }
        let reserved = self.core.services.prepare_create(&self.core, &self.served, &mut object)?;
        self.validate_new(&object)?;
        self.warn(rules.warnings(&object, None));
        let mut request = self.admission(
            Operation::Create,
            &self.served.kind,
            &mut object,
            None,
            &write.object,
            write.dry_run,
        );
        self.core.admission.validate(&mut request)?;
        self.core.admission.charge(&request, &*self.core).await?;
        let warnings = std::mem::take(&mut request.warnings);
        self.warn(warnings);
        if write.dry_run {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            if self.core.store.get(&storage::key(&self.served, self.namespace(), name)?).is_some() {
                return Err(self.already_exists(name));
            }
            return Ok(Created::DryRun(object));
        }
        self.store_new(object, reserved).await
    }

    /// Takes out what belongs to features that are off.
    pub(super) fn drop_disabled(&self, object: &mut Value, old: Option<&Value>) {
        let served = &self.served;
        self.core.config.features.drop_disabled(&served.storage_group, &served.kind, object, old);
    }

    /// All faults at once.
    fn validate_new(&self, object: &Value) -> Result<(), ApiError> {
        let rules = &*self.served.rules;
        let mut errors = Errors::new();
        kinds::validate_new(rules, self.served.namespaced, object, &mut errors);
        if errors.is_empty() {
            return Ok(());
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        Err(ApiError::invalid(&self.served.storage_group, &self.served.kind, name, &errors))
    }

    fn already_exists(&self, name: &str) -> ApiError {
        ApiError::already_exists(&self.served.group, &self.served.plural, name)
    }

    async fn store_new(
        &self,
        object: Value,
        reserved: crate::services::Reservation,
    ) -> Result<Created, ApiError> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let key = storage::key(&self.served, self.namespace(), &name)?;
        let lease = self.lease().await?;
        let change = StoreChange::Put { value: storage::encode(&object), lease };
        let result =
            self.core.commit(&self.served, key.clone(), Expect::Absent, change, reserved.operations).await;
        match result {
            Ok(committed) => {
                self.core.services.allocated(reserved.allocations);
                let record =
                    committed.record.ok_or_else(|| ApiError::internal("a created object has no record"))?;
                Meta::remember(&self.served, &record, &object);
                Ok(Created::Stored(record))
            }
            Err(CommitError::Conflict { key: taken, current }) if taken == key => {
                let mut error = self.already_exists(&name);
                let deleting = current.and_then(|record| storage::parse(&record).ok());
                if deleting.is_some_and(|object| !object["metadata"]["deletionTimestamp"].is_null()) {
                    error.message = format!("object is being deleted: {}", error.message);
                }
                Err(error)
            }
            Err(CommitError::Conflict { key: taken, .. }) => Err(crate::services::taken(&taken, &name)),
            Err(error) => Err(commit_failed(&error)),
        }
    }

    /// Events are forgotten after a while.
    pub(super) async fn lease(&self) -> Result<Option<LeaseId>, ApiError> {
        if self.served.plural == "events" && self.served.storage_group.is_empty() {
            let ttl = self.core.config.limits.event_ttl;
            return self.core.event_leases.lease(&self.core.store, ttl).await.map(Some);
        }
        Ok(None)
    }
}

/// 409 for a generated name that was always taken; the client may try again. Source: upstream's
/// `NewGenerateNameConflict`.
fn no_free_name(mut error: ApiError) -> ApiError {
    error.message.push_str(", the server was not able to generate a unique name for the object");
    if let Some(details) = &mut error.details {
        details["retryAfterSeconds"] = json!(1);
    }
    error
}

fn has_labels(metadata: &Value) -> bool {
    metadata["labels"].as_object().is_some_and(|labels| !labels.is_empty())
}

/// What only the server says: uid, creation time; and what a new object cannot have.
fn fill_system_metadata(object: &mut Value, now: &str) {
    let metadata = &mut object["metadata"];
    for name in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"] {
        remove(metadata, name);
    }
    metadata["creationTimestamp"] = json!(now);
    metadata["uid"] = json!(names::uid());
    let text = |metadata: &Value, name: &str| metadata[name].as_str().unwrap_or_default().to_owned();
    let base = text(metadata, "generateName");
    if text(metadata, "name").is_empty() && !base.is_empty() {
        metadata["name"] = json!(names::generate(&base));
    }
}

/// Removes a member, if the value is an object that has it.
pub(crate) fn remove(value: &mut Value, name: &str) {
    if let Some(members) = value.as_object_mut() {
        let _: &mut Map<String, Value> = members;
        members.remove(name);
    }
}
