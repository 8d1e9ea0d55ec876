//! Update: read, change, admit, validate, commit; again where somebody else was faster and the client does not mind.

use http::StatusCode;
use podium_store::{Change as StoreChange, CommitError, Expect, Record};
use serde_json::{Value, json};

use podium_api::field::{Errors, Path, Reason};
use podium_api::kinds::{self, Context, Part};
use podium_api::status::ApiError;

use super::create::{Created, remove};
use super::managed::only_times_differ;
use super::{Call, MODIFIED, commit_failed};
use crate::admission::Operation;
use crate::authorization::Attributes;
use crate::options::{self, WriteOptions};
use crate::response::Reply;
use crate::services::Reservation;
use crate::storage::{self, Meta, Shared};
use crate::{clock, names};

/// What a change came to.
pub(crate) enum Outcome {
    /// It is stored, or was so already.
    Stored(Shared),
    /// The last finalizer went, and the object with it; this is its last state.
    Deleted(Value),
    /// It would have been stored.
    DryRun(Value),
}

/// One change of an object.
pub(crate) struct Change<'c> {
    /// The part addressed.
    pub(crate) part: Part,
    /// The write's options.
    pub(crate) write: &'c WriteOptions,
    /// For a subresource with a body of another kind: that kind and body, which admission then sees.
    pub(crate) body: Option<(&'static str, Value)>,
    /// The server's own change, past admission: binding, eviction's condition.
    pub(crate) internal: bool,
    /// `make` keeps the managed fields up to date itself.
    pub(crate) tracked: bool,
}

impl Call {
    pub(super) async fn update(&self, body: &[u8], subresource: &str) -> Result<Reply, ApiError> {
        let write = options::write(&self.query, "UpdateOptions")?;
        let served = &self.served;
        let part = part(subresource);
        let object = self.decode(body, &served.group, &served.version, &served.kind, write.validation)?;
        let mut object = self.to_stored(object)?;
        self.check_addressed(&mut object)?;
        self.dedup_owners(&mut object, false);
        if self.core.store.get(&self.key()?).is_none()
            && part == Part::Main
            && served.rules.create_on_update()
        {
            self.may_create()?;
            return match self.create_object(object, &write, false).await? {
                Created::Stored(record) => self.reply_record(StatusCode::CREATED, &record),
                Created::DryRun(object) => self.reply_object(StatusCode::CREATED, object),
            };
        }
        let change = Change { part, write: &write, body: None, internal: false, tracked: false };
        let outcome = self.change(&change, |_| Ok(object.clone())).await?;
        self.reply_outcome(outcome)
    }

    /// Whoever creates by a verb that changes needs the right to create too.
    pub(super) fn may_create(&self) -> Result<(), ApiError> {
        let info = &self.info;
        self.core.authorizer.check(&Attributes {
            user: &self.user,
            verb: "create",
            group: &info.group,
            version: &info.version,
            resource: &info.resource,
            subresource: &info.subresource,
            namespace: &info.namespace,
            name: &info.name,
            resource_request: true,
            path: &info.path,
            field_selector: "",
            label_selector: "",
        })
    }

    /// The body's name and namespace must be the URL's.
    fn check_addressed(&self, object: &mut Value) -> Result<(), ApiError> {
        if !object["metadata"].is_object() {
            object["metadata"] = json!({});
        }
        if object["metadata"]["name"].as_str().unwrap_or_default().is_empty() {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({} based on URL) was undeterminable: name must be provided",
                self.info.name
            )));
        }
        self.check_namespace(&mut object["metadata"])?;
        self.check_name(object)
    }

    /// Answers with what a change came to.
    pub(super) fn reply_outcome(&self, outcome: Outcome) -> Result<Reply, ApiError> {
        match outcome {
            Outcome::Stored(record) => self.reply_record(StatusCode::OK, &record),
            Outcome::Deleted(object) | Outcome::DryRun(object) => self.reply_object(StatusCode::OK, object),
        }
    }

    /// Applies `make` to the newest state until it is stored or refused. `make` gets the object in the stored version
    /// and returns the whole new one; a resourceVersion left in it must be the newest.
    pub(crate) async fn change(
        &self,
        change: &Change<'_>,
        make: impl Fn(&Value) -> Result<Value, ApiError> + Send + Sync,
    ) -> Result<Outcome, ApiError> {
        let key = self.key()?;
        let mut record = self.current()?;
        // Somebody wins each round, so this ends with the last other writer, or with the request's time.
        loop {
            let old = storage::parse(&record)?;
            let new = make(&old)?;
            match self.try_change(change, &key, &record, old, new).await {
                Err(Failure::Raced(Some(current))) => record = current,
                Err(Failure::Raced(None)) => return Err(self.not_found()),
                Err(Failure::Refused(error)) => return Err(error),
                Ok(outcome) => return Ok(outcome),
            }
        }
    }

    async fn try_change(
        &self,
        change: &Change<'_>,
        key: &podium_store::Key,
        record: &Record,
        mut old: Value,
        mut new: Value,
    ) -> Result<Outcome, Failure> {
        self.check_preconditions(&new, &old, record)?;
        // From here on it is a change of what is stored, also where the client did not say of what.
        new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
        let mut reserved = Reservation::default();
        if change.internal {
            keep_system_metadata(&mut new, &old);
            self.served.rules.default(&mut new);
        } else {
            reserved = self.check_change(change, &mut new, &old).await?;
        }
        if goes_now(&new, &old) && !finalizes_namespace(&self.served.plural, &new) {
            return self.delete_instead(change, key, record, new).await;
        }
        if change.write.dry_run {
            return Ok(Outcome::DryRun(new));
        }
        if new == old || only_times_differ(&mut new, &mut old) {
            return self.core.store.get(key).map(Outcome::Stored).ok_or(Failure::Raced(None));
        }
        // An event that is told again is kept for as long as a new one.
        let lease = self.lease().await?.or(record.lease);
        let store_change = StoreChange::Put { value: storage::encode(&new), lease };
        let expect = Expect::ModRevision(record.mod_revision);
        let result =
            self.core.commit(&self.served, key.clone(), expect, store_change, reserved.operations).await;
        match result {
            Ok(committed) => {
                self.core.services.allocated(reserved.allocations);
                let stored = committed.record.ok_or(Failure::Raced(None))?;
                Meta::remember(&self.served, &stored, &new);
                Ok(Outcome::Stored(stored))
            }
            Err(error) => Err(self.raced(key, error)),
        }
    }

    /// Admission, rules and validation of a client's change. Returns what else has to be written with it.
    async fn check_change(
        &self,
        change: &Change<'_>,
        new: &mut Value,
        old: &Value,
    ) -> Result<Reservation, ApiError> {
        let rules = &*self.served.rules;
        let now = clock::now();
        let context = Context { part: change.part, now: &now, requester: self.user.as_requester() };
        rules.default(new);
        if !change.tracked {
            self.track(old, new, &now)?;
        }
        self.mutate(change, new, old)?;
        self.dedup_owners(new, true);
        self.check_namespace(&mut new["metadata"])?;
        rules.default(new);
        keep_system_metadata(new, old);
        self.drop_disabled(new, Some(old));
        rules.prepare_update(new, old, &context);
        if rules.has_generation() && change.part != Part::Status && rules.spec_changed(new, old) {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
            new["metadata"]["generation"] = json!(generation + 1);
        }
        let reserved = match change.part {
            Part::Main => self.core.services.prepare_update(&self.core, &self.served, new, old)?,
            // Nothing else changes what a Service is given.
            _ => Reservation::default(),
        };
        self.validate_change(new, old, &context)?;
        self.warn(rules.warnings(new, Some(old)));
        self.admit(change, new, old).await?;
        Ok(reserved)
    }

    fn raced(&self, key: &podium_store::Key, error: CommitError) -> Failure {
        match error {
            CommitError::Conflict { key: taken, current } if taken == *key => Failure::Raced(current),
            // An address was taken meanwhile; the object itself is as it was.
            CommitError::Conflict { .. } => Failure::Raced(self.core.store.get(key)),
            error => Failure::Refused(commit_failed(&error)),
        }
    }

    /// uid and resourceVersion in the new object must be those of the stored one.
    fn check_preconditions(&self, new: &Value, old: &Value, record: &Record) -> Result<(), Failure> {
        let uid = new["metadata"]["uid"].as_str().unwrap_or_default();
        let stored_uid = old["metadata"]["uid"].as_str().unwrap_or_default();
        if !uid.is_empty() && uid != stored_uid {
            return Err(self
                .conflict(&format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {stored_uid}"
                ))
                .into());
        }
        match storage::revision_of(new) {
            Ok(0) if self.served.rules.unconditional_update() => Ok(()),
            Ok(0) => {
                let mut errors = Errors::new();
                let metadata = Path::new("metadata");
                errors.push(
                    Reason::Invalid,
                    &metadata.child("resourceVersion"),
                    "Invalid value: 0: must be specified for an update".to_owned(),
                );
                Err(ApiError::invalid(&self.served.group, &self.served.plural, &self.info.name, &errors)
                    .into())
            }
            Ok(version) if version == record.mod_revision => Ok(()),
            Ok(_) => Err(self.conflict(MODIFIED).into()),
            Err(text) => Err(ApiError::bad_request(format!("invalid resource version {text:?}")).into()),
        }
    }

    fn mutate(&self, change: &Change<'_>, new: &mut Value, old: &Value) -> Result<(), ApiError> {
        if change.internal {
            return Ok(());
        }
        let mut body = change.body.clone();
        let (kind, object) = match &mut body {
            Some((kind, body)) => (*kind, body),
            None => (self.served.kind.as_str(), new),
        };
        let options = &change.write.object;
        let mut request =
            self.admission(Operation::Update, kind, object, Some(old), options, change.write.dry_run);
        self.core.admission.mutate(&mut request)?;
        let warnings = std::mem::take(&mut request.warnings);
        self.warn(warnings);
        Ok(())
    }

    async fn admit(&self, change: &Change<'_>, new: &mut Value, old: &Value) -> Result<(), ApiError> {
        if change.internal {
            return Ok(());
        }
        let mut body = change.body.clone();
        let (kind, object) = match &mut body {
            Some((kind, body)) => (*kind, body),
            None => (self.served.kind.as_str(), new),
        };
        let options = &change.write.object;
        let mut request =
            self.admission(Operation::Update, kind, object, Some(old), options, change.write.dry_run);
        self.core.admission.validate(&mut request)?;
        self.core.admission.charge(&request, &*self.core).await?;
        let warnings = std::mem::take(&mut request.warnings);
        self.warn(warnings);
        Ok(())
    }

    fn validate_change(&self, new: &Value, old: &Value, context: &Context<'_>) -> Result<(), ApiError> {
        let rules = &*self.served.rules;
        let mut errors = Errors::new();
        kinds::validate_change(rules, self.served.namespaced, new, old, context, &mut errors);
        if errors.is_empty() {
            return Ok(());
        }
        Err(ApiError::invalid(&self.served.storage_group, &self.served.kind, &self.info.name, &errors))
    }

    /// The change took the last thing that held a deleted object.
    async fn delete_instead(
        &self,
        change: &Change<'_>,
        key: &podium_store::Key,
        record: &Record,
        new: Value,
    ) -> Result<Outcome, Failure> {
        if change.write.dry_run {
            return Ok(Outcome::Deleted(new));
        }
        let freed = self.core.services.freed(&self.served, &new);
        let expect = Expect::ModRevision(record.mod_revision);
        match self.core.commit(&self.served, key.clone(), expect, StoreChange::Delete, freed).await {
            Ok(_) => Ok(Outcome::Deleted(new)),
            Err(error) => Err(self.raced(key, error)),
        }
    }
}

/// Why one attempt came to nothing.
enum Failure {
    /// Somebody else changed the object meanwhile; this is what is there now.
    Raced(Option<Shared>),
    /// It is not allowed.
    Refused(ApiError),
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Failure {
        Failure::Refused(error)
    }
}

/// The part a subresource name addresses.
pub(super) fn part(subresource: &str) -> Part {
    match subresource {
        "" => Part::Main,
        "status" => Part::Status,
        "scale" => Part::Scale,
        "ephemeralcontainers" => Part::Other("ephemeralcontainers"),
        "resize" => Part::Other("resize"),
        "approval" => Part::Other("approval"),
        "finalize" => Part::Other("finalize"),
        "binding" => Part::Other("binding"),
        _ => Part::Other("other"),
    }
}

/// What only the server says stays as it is stored. A deletion is never undone; one that a client makes up, or another
/// grace, is left for validation to refuse.
fn keep_system_metadata(new: &mut Value, old: &Value) {
    let before = &old["metadata"];
    let metadata = &mut new["metadata"];
    remove(metadata, "selfLink");
    for name in ["uid", "creationTimestamp", "generation"] {
        match before.get(name).filter(|value| !value.is_null()) {
            Some(value) => metadata[name] = value.clone(),
            None => remove(metadata, name),
        }
    }
    for (name, may_differ) in [("deletionTimestamp", false), ("deletionGracePeriodSeconds", true)] {
        let given = !metadata[name].is_null();
        match before.get(name).filter(|value| !value.is_null()) {
            Some(value) if !(given && may_differ) => metadata[name] = value.clone(),
            None if !given => remove(metadata, name),
            _ => {}
        }
    }
    // Objects from before the server gave uids do not exist, but an empty one must never be stored.
    if metadata["uid"].as_str().is_none_or(str::is_empty) {
        metadata["uid"] = json!(names::uid());
    }
}

/// Whether nothing holds a deleted object any longer: no finalizers, no grace left.
fn goes_now(new: &Value, old: &Value) -> bool {
    let finalizers = new["metadata"]["finalizers"].as_array().map_or(0, Vec::len);
    let deleted = old["metadata"]["deletionTimestamp"].is_string();
    let grace = old["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    finalizers == 0 && deleted && grace == 0
}

/// A namespace is also held by its own finalizers, in its spec.
fn finalizes_namespace(plural: &str, new: &Value) -> bool {
    plural == "namespaces" && new["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deleted_objects_go_with_their_last_finalizer() {
        let old = json!({"metadata": {"deletionTimestamp": "t", "finalizers": ["a"]}});
        assert!(goes_now(&json!({"metadata": {}}), &old));
        assert!(!goes_now(&json!({"metadata": {"finalizers": ["b"]}}), &old));
        let graceful = json!({"metadata": {"deletionTimestamp": "t", "deletionGracePeriodSeconds": 30}});
        assert!(!goes_now(&json!({"metadata": {}}), &graceful));
        assert!(!goes_now(&json!({"metadata": {}}), &json!({"metadata": {}})));
    }
}
