//! Objects that are held by a finalizer while something uses them: claims, volumes, and classes of volume attributes.

use kube::api::{Api, PostParams};
use podium_client::{Object, is_not_found};

use crate::context::Error;
use crate::finalizers;
use crate::owner;

/// What one object needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Keep,
    /// It is not held and not being deleted: old, from before admission did this, or made just now.
    Hold,
    /// It is being deleted, and nothing that is known of uses it.
    Release,
}

/// Decides about one object. `used` is only asked when it matters.
pub(crate) fn decide<K: Object>(object: &K, finalizer: &str, used: impl FnOnce() -> bool) -> Decision {
    match (object.meta().deletion_timestamp.is_some(), finalizers::has(object, finalizer)) {
        (false, false) => Decision::Hold,
        (true, true) if !used() => Decision::Release,
        _ => Decision::Keep,
    }
}

/// Writes what was decided about the object as it was seen.
///
/// The whole object is written, because the roles of these controllers allow update and not patch. With it goes the version that
/// was seen: who has seen an old one gets a conflict, and decides again.
pub(crate) async fn apply<K: Object>(
    api: &Api<K>,
    object: &K,
    finalizer: &str,
    decision: Decision,
) -> Result<(), Error> {
    let mut held_by = object.meta().finalizers.clone().unwrap_or_default();
    match decision {
        Decision::Keep => return Ok(()),
        Decision::Hold => held_by.push(finalizer.to_owned()),
        Decision::Release => held_by.retain(|it| it != finalizer),
    }
    let mut updated = object.clone();
    updated.meta_mut().finalizers = Some(held_by);
    let name = owner::name(object.meta());
    match api.replace(name, &PostParams::default(), &updated).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(Error::call("update", format!("{} {name}", K::kind(&())))(error)),
    }
}
