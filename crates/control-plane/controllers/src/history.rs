//! ControllerRevisions: the templates that a DaemonSet or StatefulSet has had, for rolling back.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use podium_client::{Informer, ObjectKey, is_already_exists, is_conflict, is_not_found};
use serde_json::{Value, json};

use crate::canonical::canonical;
use crate::children::Owner;
use crate::context::{Context, Error};
use crate::expect::{Expectations, Expected};
use crate::hash;
use crate::labels::Labels;
use crate::owner::{self, controller_of};

/// Index of ControllerRevisions by the uid of their owner.
const BY_OWNER: &str = "controllers/owner";

/// Prepares an informer for [`of`].
pub(crate) fn index(revisions: &Informer<ControllerRevision>) {
    revisions.add_index(BY_OWNER, |revision| {
        controller_of(&revision.metadata).map(|owner| owner.uid.clone()).into_iter().collect()
    });
}

/// The owner's revisions, oldest first.
pub(crate) fn of(revisions: &Informer<ControllerRevision>, uid: &str) -> Vec<Arc<ControllerRevision>> {
    let mut found = revisions.by_index(BY_OWNER, uid);
    found.sort_by(|a, b| order(a).cmp(&order(b)));
    found
}

fn order(revision: &ControllerRevision) -> (i64, Option<jiff::Timestamp>, &str) {
    let created = revision.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (revision.revision, created, owner::name(&revision.metadata))
}

/// A template as revisions keep it: a patch that kubectl applies to roll back.
fn data(template: &PodTemplateSpec) -> Value {
    let mut template = canonical(template);
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

/// The template that a revision keeps.
pub(crate) fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// What brings the history up to date with the template of today.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    /// Today's revision, as it is or will be.
    pub(crate) update: ControllerRevision,
    pub(crate) write: Write,
}

/// The one write that needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    Nothing,
    Create,
    /// An older revision is the newest again.
    Renumber,
}

/// How the owner's kind names its revisions.
#[derive(Clone, Debug)]
pub(crate) struct Naming {
    pub(crate) hash: String,
    pub(crate) labels: Labels,
    pub(crate) annotations: Option<Labels>,
}

/// Finds or makes today's revision. `existing` is ordered, oldest first.
pub(crate) fn plan<K: Owner>(
    owner: &K,
    template: &PodTemplateSpec,
    existing: &[Arc<ControllerRevision>],
    naming: Naming,
) -> Plan {
    let data = data(template);
    let newest = existing.last().map(|revision| revision.revision).unwrap_or_default();
    let same = |revision: &&Arc<ControllerRevision>| {
        revision.data.as_ref().is_some_and(|kept| canonical(&kept.0) == canonical(&data))
    };
    if let Some(found) = existing.iter().rev().find(same) {
        let mut update = ControllerRevision::clone(found);
        if update.revision == newest {
            return Plan { update, write: Write::Nothing };
        }
        update.revision = newest + 1;
        return Plan { update, write: Write::Renumber };
    }
    let meta = kube::Resource::meta(owner);
    let update = ControllerRevision {
        metadata: ObjectMeta {
            name: Some(name(owner::name(meta), &naming.hash)),
            namespace: meta.namespace.clone(),
            labels: Some(naming.labels),
            annotations: naming.annotations,
            owner_references: Some(vec![owner::controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data)),
        revision: newest + 1,
    };
    Plan { update, write: Write::Create }
}

fn name(owner: &str, hash: &str) -> String {
    // Leaves room for the hash within the longest name.
    format!("{}-{hash}", &owner[..owner.len().min(223)])
}

/// A template's hash for the owner's revisions.
pub(crate) fn hash_of(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    hash::of(template, collisions)
}

/// The revisions beyond the limit that nothing uses, oldest first.
pub(crate) fn excess(
    existing: &[Arc<ControllerRevision>],
    limit: Option<i32>,
    in_use: impl Fn(&ControllerRevision) -> bool,
) -> Vec<Arc<ControllerRevision>> {
    let limit = usize::try_from(limit.unwrap_or(10)).unwrap_or(usize::MAX);
    let mut unused: Vec<_> = existing.iter().filter(|revision| !in_use(revision)).cloned().collect();
    unused.truncate(unused.len().saturating_sub(limit));
    unused
}

/// The calls about one owner's revisions. Every write is noted in `expectations`.
#[derive(Debug)]
pub(crate) struct Keeper<'a> {
    pub(crate) context: &'a Context,
    pub(crate) key: &'a ObjectKey,
    pub(crate) expectations: &'a Expectations,
}

/// What became of today's revision.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kept {
    /// It is stored.
    Stored(Box<ControllerRevision>),
    /// Its name is taken by another template: the hash must change.
    Collision,
}

impl Keeper<'_> {
    fn api(&self) -> Api<ControllerRevision> {
        Api::namespaced(self.context.client.clone(), &self.key.namespace)
    }

    /// Carries out a plan.
    pub(crate) async fn keep(&self, plan: Plan) -> Result<Kept, Error> {
        let name = owner::name(&plan.update.metadata).to_owned();
        let answer = match plan.write {
            Write::Nothing => return Ok(Kept::Stored(Box::new(plan.update))),
            Write::Create => self.api().create(&PostParams::default(), &plan.update).await,
            Write::Renumber => self.api().replace(&name, &PostParams::default(), &plan.update).await,
        };
        match answer {
            Ok(stored) => {
                self.expectations.wrote(self.key, &stored, self.context.now());
                Ok(Kept::Stored(Box::new(stored)))
            }
            Err(error) if is_already_exists(&error) => self.taken(&plan.update, &name).await,
            Err(error) => Err(Error::call("write controller revision", name)(error)),
        }
    }

    /// A lagging cache, or another template with the same hash.
    async fn taken(&self, wanted: &ControllerRevision, name: &str) -> Result<Kept, Error> {
        let found = self.api().get(name).await.map_err(Error::call("get controller revision", name))?;
        let ours = found.metadata.owner_references == wanted.metadata.owner_references;
        if ours && canonical(&found.data) == canonical(&wanted.data) {
            return Ok(Kept::Stored(Box::new(found)));
        }
        Ok(Kept::Collision)
    }

    /// Deletes revisions.
    pub(crate) async fn forget(&self, revisions: &[Arc<ControllerRevision>]) -> Result<(), Error> {
        for revision in revisions {
            let name = owner::name(&revision.metadata);
            // The version too: one that has been taken up again since is history no more.
            let precondition = Preconditions {
                uid: revision.metadata.uid.clone(),
                resource_version: revision.metadata.resource_version.clone(),
            };
            match self.api().delete(name, &DeleteParams::default().preconditions(precondition)).await {
                Ok(_) => {
                    let uid = owner::uid(&revision.metadata).to_owned();
                    let expected = Expected::Deleted { key: ObjectKey::of(revision.as_ref()), uid };
                    self.expectations.note(self.key, expected, self.context.now());
                }
                Err(error) if is_not_found(&error) || is_conflict(&error) => {}
                Err(error) => return Err(Error::call("delete controller revision", name)(error)),
            }
        }
        Ok(())
    }
}

/// Names of the revisions in use, for [`excess`].
pub(crate) fn in_use<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}
