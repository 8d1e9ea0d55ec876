//! What an apply leaves out that the same manager's last one had.
//!
//! A manager may have applied another version of the API before, and others may own fields by the names of yet other
//! versions, so each set is held against the object as its own version shows it. Source: structured-merge-diff's
//! `Updater.prune` and `addBackOwnedItems`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::in_version;
use super::managers::{Entry, Managers};
use crate::codec::{self, FieldValidation};
use crate::patch::typed::{self, Node};
use crate::schema::TypeId;

/// Takes out of a merged object, which is of type `ty`, what `last` has and no manager owns any more. `managers` hold
/// the new configuration already.
pub(super) fn prune(merged: &mut Value, ty: TypeId, api_version: &str, last: &Entry, managers: &Managers) {
    let versions: BTreeSet<&str> = managers.iter().map(|entry| entry.api_version.as_str()).collect();
    if last.api_version == api_version && versions.iter().all(|version| *version == api_version) {
        typed::prune(Node::Struct(ty), merged, &last.set, &managers.owned_in(api_version));
        return;
    }
    // Conversions are made for canonical objects. One that is not valid is left as it is: the caller will refuse it.
    let Ok(whole) = codec::check(merged.clone(), ty, FieldValidation::Ignore).map(|checked| checked.object)
    else {
        return;
    };
    // A version that is no longer known: nothing can be said about what was applied in it.
    let Some((node, mut pruned)) = in_version(&whole, api_version, &last.api_version) else { return };
    typed::prune(node, &mut pruned, &last.set, &managers.owned_in(&last.api_version));
    let mut shown_in = last.api_version.as_str();
    for version in versions.into_iter().filter(|version| *version != last.api_version) {
        let (Some((node, before)), Some((_, after))) =
            (in_version(&whole, api_version, version), in_version(&pruned, shown_in, version))
        else {
            continue;
        };
        // What has gone comes back where an owner knows it by this version's names.
        let gone = typed::compare(node, &before, &after).removed;
        let owned = managers.owned_in(version);
        if gone.intersection(&owned).is_empty() {
            continue;
        }
        pruned = before;
        typed::prune(node, &mut pruned, &gone, &owned);
        shown_in = version;
    }
    if let Some((_, pruned)) = in_version(&pruned, shown_in, api_version) {
        *merged = pruned;
    }
}
