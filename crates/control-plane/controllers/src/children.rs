//! The pods of one owner: finding, taking over, creating and deleting them. Shared by all controllers that make pods.

use futures::future::join_all;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::Resource;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use podium_client::{
    Change, Informer, Object, ObjectKey, is_already_exists, is_conflict, is_invalid, is_not_found,
};
use serde_json::{Value, json};

use crate::context::{self, Context, Error};
use crate::expect::{Expectations, Expected};
use crate::labels::Selector;
use crate::owner::{self, controller_of};
use crate::slow_start;

/// A kind that owns pods: it lives in a namespace.
pub(crate) trait Owner: Object + Resource<Scope = NamespaceResourceScope> {}

impl<K: Object + Resource<Scope = NamespaceResourceScope>> Owner for K {}

/// A pod to be acted upon; the uid is the action's precondition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    pub(crate) key: ObjectKey,
    pub(crate) uid: String,
}

impl Target {
    /// Names a pod.
    pub(crate) fn of(pod: &Pod) -> Self {
        Self { key: ObjectKey::of(pod), uid: owner::uid(&pod.metadata).to_owned() }
    }
}

/// The owners of kind `K` that a change of a pod concerns: the one that controls it, the one that did, and those whose selector
/// would have it if nobody does.
pub(crate) fn concerned<K: Owner>(
    change: &Change<Pod>,
    owners: &Informer<K>,
    selector: impl Fn(&K) -> LabelSelector,
) -> Vec<ObjectKey> {
    let mut keys = Vec::new();
    let new = &change.object().metadata;
    let mut orphan_changed = true;
    if let Change::Modified { old, .. } = change {
        let old = &old.metadata;
        if controller_of(old) != controller_of(new) {
            keys.extend(owner_of::<K>(old));
        } else {
            orphan_changed = old.labels != new.labels;
        }
    }
    if controller_of(new).is_some() {
        keys.extend(owner_of::<K>(new));
    } else if orphan_changed && !matches!(change, Change::Deleted(_)) {
        let selects = |owner: &K| {
            Selector::new(&selector(owner))
                .is_ok_and(|selector| !selector.is_empty() && selector.matches(new.labels.as_ref()))
        };
        let candidates = owners.list_namespace(owner::namespace(new));
        keys.extend(candidates.iter().filter(|it| selects(it)).map(|it| ObjectKey::of(it.as_ref())));
    }
    keys
}

/// The owner of kind `K` that controls the object, by what its reference says.
pub(crate) fn owner_of<K: Owner>(meta: &ObjectMeta) -> Option<ObjectKey> {
    controller_of(meta)
        .filter(|owner| owner.kind == K::kind(&()) && owner.api_version == K::api_version(&()))
        .map(|owner| ObjectKey::new(owner::namespace(meta), owner.name.as_str()))
}

/// The calls about one owner's pods. Every write is noted in `expectations`.
#[derive(Debug)]
pub(crate) struct Children<'a, K> {
    pub(crate) context: &'a Context,
    pub(crate) owner: &'a K,
    pub(crate) key: &'a ObjectKey,
    pub(crate) expectations: &'a Expectations,
}

impl<K: Owner> Children<'_, K> {
    /// The pods of the owner's namespace.
    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.context.client.clone(), &self.key.namespace)
    }

    /// Takes pods over and lets pods go.
    pub(crate) async fn claim(&self, adopt: &[Target], release: &[Target]) -> Result<(), Error> {
        self.adopt(adopt, None).await?;
        let uid = owner::uid(Resource::meta(self.owner));
        for target in release {
            self.patch(target, &owner::release_patch(uid, &target.uid)).await?;
        }
        Ok(())
    }

    /// Takes pods over, and puts a finalizer on them in the same step.
    pub(crate) async fn adopt(&self, targets: &[Target], finalizer: Option<&str>) -> Result<(), Error> {
        if targets.is_empty() {
            return Ok(());
        }
        self.confirm_alive().await?;
        let reference = owner::controller_reference(self.owner);
        for target in targets {
            let mut patch = owner::adopt_patch(&reference, &target.uid);
            if let Some(finalizer) = finalizer {
                patch["metadata"]["finalizers"] = json!([finalizer]);
            }
            self.patch(target, &patch).await?;
        }
        Ok(())
    }

    /// A deleted owner must not adopt, whatever the cache still says.
    async fn confirm_alive(&self) -> Result<(), Error> {
        let api: Api<K> = Api::namespaced(self.context.client.clone(), &self.key.namespace);
        let live = api.get(&self.key.name).await.map_err(Error::call("get", self.key.to_string()))?;
        let (live, cached) = (Resource::meta(&live), Resource::meta(self.owner));
        if live.uid != cached.uid || live.deletion_timestamp.is_some() {
            return Err(Error::Unusable {
                object: self.key.to_string(),
                why: format!("not adopting pods: gone or being deleted, uid {}", owner::uid(cached)),
            });
        }
        Ok(())
    }

    /// Applies a strategic merge patch to a pod, if it is still the same one.
    pub(crate) async fn patch(&self, target: &Target, patch: &Value) -> Result<(), Error> {
        let answer =
            self.pods().patch(&target.key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        match answer {
            Ok(pod) => {
                self.expectations.wrote(self.key, &pod, self.context.now());
                Ok(())
            }
            // Gone, or another life of the name: there is nothing left to patch.
            Err(error) if is_not_found(&error) || is_invalid(&error) => Ok(()),
            Err(error) => Err(Error::call("patch pod", target.key.to_string())(error)),
        }
    }

    /// Creates pods in batches that double while all goes well.
    pub(crate) async fn create_all(
        &self,
        pods: impl ExactSizeIterator<Item = Pod>,
    ) -> Result<(), kube::Error> {
        self.create_counted(pods).await.1
    }

    /// The same, with how many were created and how many could not be.
    pub(crate) async fn create_counted(
        &self,
        mut pods: impl ExactSizeIterator<Item = Pod>,
    ) -> ((u64, u64), Result<(), kube::Error>) {
        let (mut created, mut refused) = (0, 0);
        for size in slow_start::batches(pods.len()) {
            let batch: Vec<Pod> = pods.by_ref().take(size).collect();
            let answers = join_all(batch.iter().map(|pod| self.create(pod))).await;
            for answer in &answers {
                created += u64::from(matches!(answer, Ok(true)));
                refused += u64::from(answer.is_err());
            }
            if let Err(error) = answers.into_iter().collect::<Result<Vec<bool>, _>>() {
                return ((created, refused), Err(error));
            }
        }
        ((created, refused), Ok(()))
    }

    /// Creates one pod, and says whether it did. It does not, and nothing is wrong, where the namespace is on its way out.
    async fn create(&self, pod: &Pod) -> Result<bool, kube::Error> {
        let name = owner::name(&pod.metadata);
        let error = match self.pods().create(&PostParams::default(), pod).await {
            Ok(created) => {
                self.expectations.wrote(self.key, &created, self.context.now());
                self.context.normal(self.owner, "SuccessfulCreate", format!("Created pod: {name}"));
                return Ok(true);
            }
            Err(error) => error,
        };
        if context::namespace_is_terminating(&error) {
            return Ok(false);
        }
        let may = || Expected::MaybeCreated { key: ObjectKey::new(self.key.namespace.as_str(), name) };
        self.expectations.unanswered(self.key, &error, may, self.context.now());
        // A taken name is bad luck, not a failure that users should read about: the next round picks another.
        if !is_already_exists(&error) {
            let message = format!("Error creating: {}", context::words(&error));
            self.context.warning(self.owner, "FailedCreate", message);
        }
        Err(error)
    }

    /// Deletes pods, all at once.
    pub(crate) async fn delete_all(&self, targets: &[Target]) -> Result<(), kube::Error> {
        join_all(targets.iter().map(|target| self.delete(target))).await.into_iter().collect()
    }

    /// Deletes one pod.
    pub(crate) async fn delete(&self, target: &Target) -> Result<(), kube::Error> {
        let precondition = Preconditions { uid: Some(target.uid.clone()), resource_version: None };
        let params = DeleteParams::default().preconditions(precondition);
        match self.pods().delete(&target.key.name, &params).await {
            Ok(_) => {
                let expected = Expected::Deleted { key: target.key.clone(), uid: target.uid.clone() };
                self.expectations.note(self.key, expected, self.context.now());
                let message = format!("Deleted pod: {}", target.key.name);
                self.context.normal(self.owner, "SuccessfulDelete", message);
                Ok(())
            }
            // Gone already, or another pod by that name: either way ours is away.
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
            Err(error) => {
                let may = || Expected::MaybeDeleted { key: target.key.clone(), uid: target.uid.clone() };
                self.expectations.unanswered(self.key, &error, may, self.context.now());
                let message = format!("Error deleting: {}", context::words(&error));
                self.context.warning(self.owner, "FailedDelete", message);
                Err(error)
            }
        }
    }
}
