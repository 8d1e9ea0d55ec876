//! Ends pods for a reason, each of them once.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use kube::api::{Api, DeleteParams, Preconditions};
use parking_lot::Mutex;
use podium_client::ObjectKey;

use crate::context::{Context, Error};
use crate::owner;
use crate::pods::patch_condition;

/// Why a pod is ended, in the words of who ends it.
pub(crate) struct Eviction {
    /// The reason of the event.
    pub(crate) event: &'static str,
    /// What the event says.
    pub(crate) told: String,
    /// Of the condition that tells a disruption from an end.
    pub(crate) reason: &'static str,
    /// What the condition says.
    pub(crate) message: &'static str,
}

/// The evictions of one controller.
///
/// An eviction writes twice, and the cache shows the first write, the condition, before it shows the second. Whoever acts on
/// what it shows in between would evict the pod again; so what was done is remembered until the pod is gone from the cache.
///
/// **Shape**: by pod, at most one for every pod in the cache; whoever watches pods calls [`Self::forget`].
#[derive(Debug, Default)]
pub(crate) struct Evictions(Mutex<HashMap<ObjectKey, Begun>>);

#[derive(Debug)]
struct Begun {
    /// Of which life of the name.
    uid: String,
    /// Whether the API has taken the pod, or had nothing to take.
    done: bool,
}

impl Evictions {
    /// Hears that a pod is gone from the cache.
    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.0.lock().remove(key);
    }

    /// Hears that a pod may stay after all. What the API has taken it does not give back.
    pub(crate) fn cancel(&self, key: &ObjectKey) {
        let mut begun = self.0.lock();
        if begun.get(key).is_some_and(|it| !it.done) {
            begun.remove(key);
        }
    }

    /// Tells a pod why it ends and deletes it, in this life of its name. Whether it was this call that did.
    ///
    /// **Errors**: what the API said. The next call goes on without telling it again.
    pub(crate) async fn evict(
        &self,
        context: &Context,
        pod: &Pod,
        eviction: &Eviction,
    ) -> Result<bool, Error> {
        let key = ObjectKey::of(pod);
        match self.begin(&key, owner::uid(&pod.metadata)) {
            Step::Tell => context.normal(pod, eviction.event, eviction.told.as_str()),
            Step::GoOn => {}
            Step::Nothing => return Ok(false),
        }
        let deleted = delete(context, pod, eviction, &key).await?;
        if let Some(begun) = self.0.lock().get_mut(&key) {
            begun.done = true;
        }
        Ok(deleted)
    }

    fn begin(&self, key: &ObjectKey, uid: &str) -> Step {
        let mut begun = self.0.lock();
        match begun.get(key) {
            Some(it) if it.uid == uid && it.done => Step::Nothing,
            Some(it) if it.uid == uid => Step::GoOn,
            _ => {
                begun.insert(key.clone(), Begun { uid: uid.to_owned(), done: false });
                Step::Tell
            }
        }
    }
}

/// What is left to do of an eviction.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// All of it.
    Tell,
    /// All but the event.
    GoOn,
    Nothing,
}

/// Whether there was something to delete.
async fn delete(context: &Context, pod: &Pod, eviction: &Eviction, key: &ObjectKey) -> Result<bool, Error> {
    let condition = PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some(eviction.reason.to_owned()),
        message: Some(eviction.message.to_owned()),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    };
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    patch_condition(&api, pod, condition, None, context.now())
        .await
        .map_err(Error::call("patch status of pod", key.to_string()))?;
    let precondition = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
    match api.delete(&key.name, &DeleteParams::default().preconditions(precondition)).await {
        Ok(_) => Ok(true),
        Err(error) if podium_client::is_not_found(&error) || podium_client::is_conflict(&error) => Ok(false),
        Err(error) => Err(Error::call("delete pod", key.to_string())(error)),
    }
}

#[test]
fn every_life_of_a_name_is_ended_once() {
    let evictions = Evictions::default();
    let key = ObjectKey::new("ns", "p");
    let done = || evictions.0.lock().get_mut(&key).unwrap().done = true;
    assert_eq!(evictions.begin(&key, "first"), Step::Tell);
    assert_eq!(evictions.begin(&key, "first"), Step::GoOn, "the API refused it");
    evictions.cancel(&key);
    assert_eq!(evictions.begin(&key, "first"), Step::Tell, "it was spared in between");
    done();
    assert_eq!(evictions.begin(&key, "first"), Step::Nothing);
    evictions.cancel(&key);
    assert_eq!(evictions.begin(&key, "first"), Step::Nothing, "too late");
    assert_eq!(evictions.begin(&key, "second"), Step::Tell, "another pod of that name");
    done();
    evictions.forget(&key);
    assert!(evictions.0.lock().is_empty());
}
