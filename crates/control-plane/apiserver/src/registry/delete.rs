//! Delete: at once, gracefully, or held by finalizers; and the deletion of a whole collection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt;
use futures::future::BoxFuture;
use http::StatusCode;
use podium_store::{Change as StoreChange, CommitError, Expect, Key, Record};
use serde_json::{Value, json};

use podium_api::codec::{self, Encoding, FieldValidation};
use podium_api::status::ApiError;

use super::{Call, commit_failed};
use crate::admission::Operation;
use crate::clock;
use crate::negotiate::{self, Shape};
use crate::options::{self, DeleteOptions, Propagation};
use crate::response::{self, Reply};
use crate::storage::{self, Meta};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// Deletions of a collection under way at once: enough to share the store's syncs, few enough to leave room for others.
const CONCURRENT: usize = 16;

/// The kinds whose deletion answers with the object instead of a Status. Source: upstream's `ReturnDeletedObject`.
const RETURNS_OBJECT: &[&str] = &[
    "csidrivers",
    "csinodes",
    "deviceclasses",
    "namespaces",
    "persistentvolumeclaims",
    "persistentvolumes",
    "pods",
    "podtemplates",
    "resourceclaims",
    "resourceclaimtemplates",
    "resourcequotas",
    "resourceslices",
    "serviceaccounts",
    "services",
    "storageclasses",
    "volumeattachments",
    "volumeattributesclasses",
];

/// What a delete came to.
pub(crate) enum Deleted {
    /// The object is gone; its last state.
    Gone(Value),
    /// The object stays until someone lets it go; its state now.
    Waiting(Value),
}

/// What one delete does to an object, decided purely.
#[derive(Debug, PartialEq)]
enum Step {
    /// Remove it. What was asked for a graceful deletion that has no time left is still marked as one: so it looks at last.
    Remove(Option<Value>),
    /// Store it like this: marked, with its finalizers.
    Mark(Value),
    /// Nothing: it is being deleted already, and not slower than asked.
    Nothing,
}

impl Call {
    pub(super) async fn delete(&self, body: &[u8]) -> Result<Reply, ApiError> {
        let options = self.delete_options(body)?;
        self.warn_of_orphans(&options);
        let deleted = self.delete_object(&options).await?;
        Ok(match deleted {
            Deleted::Gone(object) if RETURNS_OBJECT.contains(&self.served.plural.as_str()) => {
                self.reply_object(StatusCode::OK, object)?
            }
            Deleted::Gone(object) => {
                let mut details = json!({
                    "name": self.info.name, "kind": self.served.plural,
                    "uid": object["metadata"]["uid"],
                });
                if !self.served.group.is_empty() {
                    details["group"] = json!(self.served.group);
                }
                self.reply_other(StatusCode::OK, &response::success_status(&details))
            }
            Deleted::Waiting(object) => {
                // The one case in which upstream says that the work goes on.
                let accepted = options.orphan_dependents == Some(false);
                let code = if accepted { StatusCode::ACCEPTED } else { StatusCode::OK };
                self.reply_object(code, object)?
            }
        })
    }

    /// Jobs are the one kind whose dependents stay unless something else is asked for; few who delete one expect that.
    /// Source: `pkg/registry/batch/job/storage`.
    fn warn_of_orphans(&self, options: &DeleteOptions) {
        let job = self.served.group == "batch" && self.served.plural == "jobs";
        if job && options.propagation.is_none() && options.orphan_dependents.is_none() {
            let text = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to \
                        remove them or set propagationPolicy=Orphan to suppress this warning";
            self.warn(vec![text.to_owned()]);
        }
    }

    /// Reads DeleteOptions from the body, or the query.
    fn delete_options(&self, body: &[u8]) -> Result<DeleteOptions, ApiError> {
        if body.is_empty() {
            return DeleteOptions::read(None, &self.query);
        }
        let encoding = negotiate::input(self.content_type.as_deref())?;
        let (group, version) = options_version(body, encoding);
        let decoded =
            codec::decode(body, encoding, &group, &version, "DeleteOptions", FieldValidation::Ignore)?;
        DeleteOptions::read(Some(&decoded.object), &self.query)
    }

    /// Deletes the addressed object, trying again when somebody changes it meanwhile.
    pub(crate) async fn delete_object(&self, options: &DeleteOptions) -> Result<Deleted, ApiError> {
        let key = self.key()?;
        let mut record = self.current()?;
        loop {
            let object = storage::parse(&record)?;
            self.check_delete_preconditions(&object, options)?;
            self.admit_delete(&object, options).await?;
            match self.delete_once(&key, &record, object, options).await {
                Ok(deleted) => return Ok(deleted),
                Err(CommitError::Conflict { current: Some(current), .. }) => record = current,
                Err(CommitError::Conflict { current: None, .. }) => return Err(self.not_found()),
                Err(error) => return Err(commit_failed(&error)),
            }
        }
    }

    async fn delete_once(
        &self,
        key: &Key,
        record: &Record,
        object: Value,
        options: &DeleteOptions,
    ) -> Result<Deleted, CommitError> {
        let now = jiff::Timestamp::now();
        let step = self.decide_delete(&object, options, now);
        let expect = Expect::ModRevision(record.mod_revision);
        match step {
            Step::Nothing => Ok(Deleted::Waiting(object)),
            Step::Mark(new) if options.dry_run || new == object => Ok(Deleted::Waiting(new)),
            Step::Mark(new) => {
                let put = StoreChange::Put { value: storage::encode(&new), lease: record.lease };
                let committed = self.core.commit(&self.served, key.clone(), expect, put, Vec::new()).await?;
                let stored = committed.record.as_deref();
                let stored = stored.inspect(|stored| Meta::remember(&self.served, stored, &new));
                Ok(Deleted::Waiting(stored.and_then(|r| storage::parse(r).ok()).unwrap_or(new)))
            }
            Step::Remove(last) if options.dry_run => Ok(Deleted::Gone(last.unwrap_or(object))),
            Step::Remove(last) => {
                let freed = self.core.services.freed(&self.served, &object);
                let committed =
                    self.core.commit(&self.served, key.clone(), expect, StoreChange::Delete, freed).await?;
                let stored = committed.record.as_deref().and_then(|record| storage::parse(record).ok());
                Ok(Deleted::Gone(match (last, stored) {
                    (Some(mut last), Some(stored)) => {
                        last["metadata"]["resourceVersion"] = stored["metadata"]["resourceVersion"].clone();
                        last
                    }
                    (last, stored) => last.or(stored).unwrap_or(object),
                }))
            }
        }
    }

    fn decide_delete(&self, object: &Value, options: &DeleteOptions, now: jiff::Timestamp) -> Step {
        if self.served.plural == "namespaces" && self.served.group.is_empty() {
            return decide_namespace(object, options, now);
        }
        let deleting = object["metadata"]["deletionTimestamp"].is_string();
        let grace = self.served.rules.deletion_grace_seconds(object, options.grace_seconds);
        // A kind that cannot be deleted gracefully ignores the grace asked for.
        let graceful = grace.is_some();
        if deleting && graceful {
            match shorten(object, options.grace_seconds, now) {
                Shortened::No => return Step::Nothing,
                Shortened::To(new) => return Step::Mark(with_finalizers(new, object, options, false)),
                Shortened::Over => {}
            }
        }
        let orphans = self.served.rules.orphans_by_default();
        let new = with_finalizers(object.clone(), object, options, orphans);
        let held = new["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
        // A grace that is over already cannot end once more.
        let over = deleting && object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0;
        match grace.filter(|_| !deleting) {
            Some(seconds) if seconds > 0 => Step::Mark(mark(new, seconds, now)),
            _ if held => Step::Mark(mark(new, 0, now)),
            _ => Step::Remove((graceful && !over).then(|| mark(new, 0, now))),
        }
    }

    pub(super) fn check_delete_preconditions(
        &self,
        object: &Value,
        options: &DeleteOptions,
    ) -> Result<(), ApiError> {
        let metadata = &object["metadata"];
        let differs = |name: &str, wanted: &Option<String>| {
            let found = metadata[name].as_str().unwrap_or_default();
            wanted
                .as_deref()
                .filter(|wanted| *wanted != found)
                .map(|wanted| (wanted.to_owned(), found.to_owned()))
        };
        let why = if let Some((wanted, found)) = differs("uid", &options.uid) {
            format!(
                "the UID in the precondition ({wanted}) does not match the UID in record ({found}). The object might have been deleted and then recreated"
            )
        } else if let Some((wanted, found)) = differs("resourceVersion", &options.resource_version) {
            format!(
                "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({found}). The object might have been modified"
            )
        } else {
            return Ok(());
        };
        // Upstream names the kind here, not the resource.
        Err(ApiError::conflict(&self.served.group, &self.served.kind, &self.info.name, &why))
    }

    async fn admit_delete(&self, object: &Value, options: &DeleteOptions) -> Result<(), ApiError> {
        let mut nothing = Value::Null;
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let mut request = self.admission(
            Operation::Delete,
            &self.served.kind,
            &mut nothing,
            Some(object),
            &options.object,
            options.dry_run,
        );
        request.name = name;
        self.core.admission.mutate(&mut request)?;
        self.core.admission.validate(&mut request)?;
        self.core.admission.charge(&request, &*self.core).await?;
        let warnings = std::mem::take(&mut request.warnings);
        self.warn(warnings);
        Ok(())
    }

    pub(super) async fn delete_collection(&self, body: &[u8]) -> Result<Reply, ApiError> {
        let options = self.delete_options(body)?;
        self.warn_of_orphans(&options);
        let list = options::list(&self.query, &self.info, &self.served, false)?;
        if let options::Freshness::NotOlderThan(revision) = list.freshness {
            self.wait_for(revision).await?;
        }
        let page = self.read_selected(&list).await?;
        let metadata = page.metadata();
        let selected: Vec<Arc<Record>> = page.records;
        let deletions: Vec<BoxFuture<'_, _>> = selected
            .into_iter()
            .map(|record| -> BoxFuture<'_, _> { Box::pin(self.delete_one(record, &options)) })
            .collect();
        // Upstream deletes one after the other and stops at the first that it may not; that matters where conditions are for
        // some of them only.
        let conditional = options.uid.is_some() || options.resource_version.is_some();
        let at_once = if conditional { 1 } else { CONCURRENT };
        let deleted: Vec<Option<Value>> = until_one_fails(deletions, at_once).await?;
        let native = self.output.shape == Shape::Native;
        let mut items = Vec::new();
        for object in deleted.into_iter().flatten() {
            items.push(if native { self.to_served(object)? } else { object });
        }
        let list = self.list_of(items, &metadata)?;
        Ok(response::object(StatusCode::OK, &list, self.output))
    }

    async fn delete_one(
        &self,
        record: Arc<Record>,
        options: &DeleteOptions,
    ) -> Result<Option<Value>, ApiError> {
        let (namespace, name) = storage::names_in(&self.served.prefix, &record.key)
            .ok_or_else(|| ApiError::internal("a key outside its prefix"))?;
        match self.of(namespace, name).delete_object(options).await {
            Ok(Deleted::Gone(object) | Deleted::Waiting(object)) => Ok(Some(object)),
            // Somebody else was faster; that is what was asked for.
            Err(error) if error.code == 404 => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The same call for one object of a collection.
    fn of(&self, namespace: &str, name: &str) -> Call {
        let mut info = self.info.clone();
        namespace.clone_into(&mut info.namespace);
        name.clone_into(&mut info.name);
        Call {
            core: Arc::clone(&self.core),
            served: Arc::clone(&self.served),
            info,
            query: self.query.clone(),
            user: Arc::clone(&self.user),
            output: self.output,
            refusal: self.refusal,
            content_type: None,
            manager: self.manager.clone(),
            warnings: parking_lot::Mutex::default(),
            seats: parking_lot::Mutex::default(),
        }
    }
}

/// What these come to, or the first failure. None begins after one failed, and those under way then end before the answer.
async fn until_one_fails<T: Send, E: Send>(
    works: Vec<BoxFuture<'_, Result<T, E>>>,
    at_once: usize,
) -> Result<Vec<T>, E> {
    let failed = AtomicBool::new(false);
    let works: Vec<BoxFuture<'_, _>> = works
        .into_iter()
        .map(|work| -> BoxFuture<'_, _> { Box::pin(unless_one_failed(&failed, work)) })
        .collect();
    let results: Vec<Option<Result<T, E>>> = futures::stream::iter(works).buffered(at_once).collect().await;
    results.into_iter().flatten().collect()
}

async fn unless_one_failed<T, E>(
    failed: &AtomicBool,
    work: BoxFuture<'_, Result<T, E>>,
) -> Option<Result<T, E>> {
    if failed.load(Ordering::Relaxed) {
        return None;
    }
    let result = work.await;
    failed.fetch_or(result.is_err(), Ordering::Relaxed);
    Some(result)
}

/// The version a body of DeleteOptions says it has; any served group's is allowed.
fn options_version(body: &[u8], encoding: Encoding) -> (String, String) {
    let api_version = match encoding {
        Encoding::Json => serde_json::from_slice::<Value>(body)
            .ok()
            .and_then(|value| value["apiVersion"].as_str().map(str::to_owned)),
        Encoding::Protobuf => codec::protobuf_to_json(body)
            .ok()
            .and_then(|value| value["apiVersion"].as_str().map(str::to_owned)),
        Encoding::Yaml => None,
    };
    let text = api_version.filter(|text| !text.is_empty()).unwrap_or_else(|| "v1".to_owned());
    match text.split_once('/') {
        Some((group, version)) => (group.to_owned(), version.to_owned()),
        None => (String::new(), text),
    }
}

/// A namespace's first deletion only begins it; the namespace controller empties it and finalizes it.
fn decide_namespace(object: &Value, options: &DeleteOptions, now: jiff::Timestamp) -> Step {
    if !object["metadata"]["deletionTimestamp"].is_string() {
        let mut new = with_finalizers(object.clone(), object, options, false);
        new["metadata"]["deletionTimestamp"] = json!(clock::format(now));
        new["status"]["phase"] = json!("Terminating");
        return Step::Mark(new);
    }
    let held = |list: &Value| list.as_array().is_some_and(|list| !list.is_empty());
    if held(&object["spec"]["finalizers"]) || held(&object["metadata"]["finalizers"]) {
        return Step::Nothing;
    }
    Step::Remove(None)
}

/// Marks an object as being deleted. The generation rises with the first mark: its controllers behave differently now.
fn mark(mut object: Value, seconds: i64, now: jiff::Timestamp) -> Value {
    let metadata = &mut object["metadata"];
    let due = now + jiff::SignedDuration::from_secs(seconds);
    let already = metadata["deletionTimestamp"].as_str().and_then(clock::parse);
    if already.is_none() {
        let generation = metadata["generation"].as_i64().unwrap_or(0);
        if generation > 0 {
            metadata["generation"] = json!(generation + 1);
        }
    }
    if already.is_none_or(|already| already > due) {
        metadata["deletionTimestamp"] = json!(clock::format(due));
    }
    metadata["deletionGracePeriodSeconds"] = json!(seconds);
    object
}

enum Shortened {
    /// It stays as it is.
    No,
    /// It goes earlier.
    To(Value),
    /// There is no grace left: it goes now.
    Over,
}

/// A second delete of an object that is being deleted gracefully may only make it faster.
fn shorten(object: &Value, asked: Option<i64>, now: jiff::Timestamp) -> Shortened {
    let metadata = &object["metadata"];
    let current = match metadata["deletionGracePeriodSeconds"].as_i64() {
        None | Some(0) => return Shortened::Over,
        Some(current) => {
            if current < 0 {
                1
            } else {
                current
            }
        }
    };
    let Some(asked) = asked else { return Shortened::No };
    let mut period = if asked < 0 { 1 } else { asked };
    if period >= current {
        return Shortened::No;
    }
    if period == 0 {
        return Shortened::Over;
    }
    let Some(old) = metadata["deletionTimestamp"].as_str().and_then(clock::parse) else {
        return Shortened::Over;
    };
    let mut due = old + jiff::SignedDuration::from_secs(period - current);
    if due < now {
        // All of the new grace has passed already; the node still has to see it and answer.
        due = now;
        period = 1;
    }
    let mut new = object.clone();
    new["metadata"]["deletionTimestamp"] = json!(clock::format(due));
    new["metadata"]["deletionGracePeriodSeconds"] = json!(period);
    Shortened::To(new)
}

/// Puts the garbage collector's finalizers on, or takes them off, as the options and the object itself say.
fn with_finalizers(
    mut new: Value,
    object: &Value,
    options: &DeleteOptions,
    orphan_by_default: bool,
) -> Value {
    let present: Vec<&str> =
        object["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let policy = match (options.orphan_dependents, options.propagation) {
        (Some(true), _) => Propagation::Orphan,
        (Some(false), _) => Propagation::Background,
        (None, Some(policy)) => policy,
        (None, None) => {
            let set = present.iter().find_map(|finalizer| match *finalizer {
                ORPHAN => Some(Propagation::Orphan),
                FOREGROUND => Some(Propagation::Foreground),
                _ => None,
            });
            let default = if orphan_by_default { Propagation::Orphan } else { Propagation::Background };
            set.unwrap_or(default)
        }
    };
    let mut wanted: Vec<&str> =
        present.iter().copied().filter(|finalizer| !matches!(*finalizer, ORPHAN | FOREGROUND)).collect();
    match policy {
        Propagation::Orphan => wanted.push(ORPHAN),
        Propagation::Foreground => wanted.push(FOREGROUND),
        Propagation::Background => {}
    }
    let same = wanted.len() == present.len() && wanted.iter().all(|finalizer| present.contains(finalizer));
    if !same {
        if wanted.is_empty() {
            super::create::remove(&mut new["metadata"], "finalizers");
        } else {
            new["metadata"]["finalizers"] = json!(wanted);
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> jiff::Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn finalizers_follow_the_policy() {
        let options = |propagation| DeleteOptions { propagation, ..DeleteOptions::default() };
        let object = json!({"metadata": {"finalizers": ["x", "orphan"]}});
        let check = |propagation, expected: Value| {
            let new = with_finalizers(object.clone(), &object, &options(propagation), false);
            assert_eq!(new["metadata"]["finalizers"], expected);
        };
        check(Some(Propagation::Foreground), json!(["x", "foregroundDeletion"]));
        check(Some(Propagation::Background), json!(["x"]));
        check(Some(Propagation::Orphan), json!(["x", "orphan"]));
        check(None, json!(["x", "orphan"]));
    }

    #[test]
    fn a_grace_period_only_gets_shorter() {
        let pod = json!({"metadata": {
            "deletionTimestamp": "2026-01-01T00:00:30Z", "deletionGracePeriodSeconds": 30,
        }});
        let now = at("2026-01-01T00:00:05Z");
        assert!(matches!(shorten(&pod, None, now), Shortened::No));
        assert!(matches!(shorten(&pod, Some(60), now), Shortened::No));
        assert!(matches!(shorten(&pod, Some(0), now), Shortened::Over));
        let Shortened::To(new) = shorten(&pod, Some(10), now) else { panic!("must be shortened") };
        assert_eq!(new["metadata"]["deletionTimestamp"], "2026-01-01T00:00:10Z");
        let Shortened::To(new) = shorten(&pod, Some(2), now) else { panic!("must be shortened") };
        assert_eq!(new["metadata"]["deletionTimestamp"], "2026-01-01T00:00:05Z");
        assert_eq!(new["metadata"]["deletionGracePeriodSeconds"], 1);
    }

    #[tokio::test]
    async fn what_is_under_way_ends_before_a_failure_is_told() {
        let (begin, under_way) = tokio::sync::oneshot::channel();
        let ended = AtomicBool::new(false);
        let begun = AtomicBool::new(false);
        let works: Vec<BoxFuture<'_, Result<(), &str>>> = vec![
            Box::pin(async {
                under_way.await.expect("the second begins");
                Err("first")
            }),
            Box::pin(async {
                begin.send(()).expect("the first waits");
                tokio::task::yield_now().await;
                ended.store(true, Ordering::Relaxed);
                Ok(())
            }),
            Box::pin(async {
                begun.store(true, Ordering::Relaxed);
                Ok(())
            }),
        ];
        assert_eq!(until_one_fails(works, 2).await, Err("first"));
        assert!(ended.load(Ordering::Relaxed));
        assert!(!begun.load(Ordering::Relaxed));
    }

    #[test]
    fn a_namespace_ends_in_two_steps() {
        let now = at("2026-01-01T00:00:00Z");
        let namespace = json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        let Step::Mark(marked) = decide_namespace(&namespace, &DeleteOptions::default(), now) else {
            panic!("must be marked")
        };
        assert_eq!(marked["status"]["phase"], "Terminating");
        assert_eq!(decide_namespace(&marked, &DeleteOptions::default(), now), Step::Nothing);
        let mut empty = marked;
        empty["spec"]["finalizers"] = json!([]);
        assert_eq!(decide_namespace(&empty, &DeleteOptions::default(), now), Step::Remove(None));
    }

    #[test]
    fn marking_raises_the_generation_once() {
        let now = at("2026-01-01T00:00:00Z");
        let object = json!({"metadata": {"generation": 3}});
        let once = mark(object, 0, now);
        assert_eq!(once["metadata"]["generation"], 4);
        assert_eq!(once["metadata"]["deletionGracePeriodSeconds"], 0);
        assert_eq!(mark(once.clone(), 0, now), once);
    }
}
