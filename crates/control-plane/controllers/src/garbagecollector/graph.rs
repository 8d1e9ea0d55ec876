//! Who owns whom, over all objects of the cluster, as far as the watches have told.
//!
//! An owner that a dependent names but no watch has shown is in the graph as a *virtual* node, and is looked at: either its own
//! watch lags, or it is gone and the dependent is garbage.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::{FOREGROUND, ORPHAN};
use crate::owner;

/// A uid; shared between the maps.
pub(crate) type Uid = Arc<str>;

/// `apiVersion` and `kind`; shared between all nodes of the kind.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kind {
    pub(crate) api_version: String,
    pub(crate) kind: String,
}

/// Where an object is, and which one it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) kind: Arc<Kind>,
    /// Empty for cluster scope.
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) uid: Uid,
}

/// One owner reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) kind: Arc<Kind>,
    pub(crate) name: Arc<str>,
    pub(crate) uid: Uid,
    pub(crate) blocks: bool,
}

/// Something to look at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Work {
    /// Does this owner exist, of which only its dependents have told?
    Verify(Uid),
    /// Is this object garbage, or does it wait for its dependents?
    Delete(Uid),
    /// This object's dependents must be set free.
    Orphan(Uid),
}

/// What an observation led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) work: Vec<Work>,
    /// Objects that name an owner in another namespace, with the reference as it reads from their own.
    pub(crate) invalid: Vec<(Identity, Identity)>,
}

/// One object.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) identity: Identity,
    pub(crate) owners: Vec<Owner>,
    pub(crate) dependents: BTreeSet<Uid>,
    /// Whether a watch has shown it.
    pub(crate) observed: bool,
    pub(crate) deleting: bool,
    /// Being deleted, and waiting for its dependents to be deleted first.
    pub(crate) deleting_dependents: bool,
    /// Being deleted, and waiting for its dependents to be set free.
    pub(crate) orphaning: bool,
}

/// The whole graph.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    nodes: HashMap<Uid, Node>,
    kinds: HashMap<(String, String), Arc<Kind>>,
    namespaces: HashMap<String, Arc<str>>,
}

impl Graph {
    /// One object.
    pub(crate) fn node(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// How many objects there are, virtual ones included.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The dependents that keep the node from going in a foreground deletion.
    pub(crate) fn blocking<'g>(&'g self, node: &'g Node) -> Vec<&'g Node> {
        let blocks = |dependent: &&Node| {
            dependent.owners.iter().any(|owner| owner.uid == node.identity.uid && owner.blocks)
        };
        self.dependents(node).filter(blocks).collect()
    }

    /// The objects that name the node as an owner.
    pub(crate) fn dependents<'g>(&'g self, node: &'g Node) -> impl Iterator<Item = &'g Node> {
        node.dependents.iter().filter_map(|uid| self.nodes.get(uid))
    }

    /// A shared `apiVersion` and `kind`.
    pub(crate) fn kind(&mut self, api_version: &str, kind: &str) -> Arc<Kind> {
        let entry = self.kinds.entry((api_version.to_owned(), kind.to_owned()));
        entry
            .or_insert_with_key(|(api_version, kind)| {
                Arc::new(Kind { api_version: api_version.clone(), kind: kind.clone() })
            })
            .clone()
    }

    fn identity(&mut self, kind: &Arc<Kind>, meta: &ObjectMeta) -> Identity {
        let namespace = owner::namespace(meta);
        let namespace = match self.namespaces.get(namespace) {
            Some(shared) => shared.clone(),
            None => {
                let shared: Arc<str> = Arc::from(namespace);
                self.namespaces.insert(namespace.to_owned(), shared.clone());
                shared
            }
        };
        Identity {
            kind: kind.clone(),
            namespace,
            name: Arc::from(owner::name(meta)),
            uid: self.uid(owner::uid(meta)),
        }
    }

    /// The uid as the graph's own keys have it, if it is in there.
    fn uid(&self, uid: &str) -> Uid {
        self.nodes.get_key_value(uid).map_or_else(|| Arc::from(uid), |(uid, _)| uid.clone())
    }

    fn owners(&mut self, references: Option<&Vec<OwnerReference>>) -> Vec<Owner> {
        let mut owners = Vec::new();
        for reference in references.into_iter().flatten() {
            owners.push(Owner {
                kind: self.kind(&reference.api_version, &reference.kind),
                name: Arc::from(reference.name.as_str()),
                uid: self.uid(&reference.uid),
                blocks: reference.block_owner_deletion == Some(true),
            });
        }
        owners
    }

    /// A watch has shown an object, new or changed.
    pub(crate) fn observe(&mut self, kind: &Arc<Kind>, meta: &ObjectMeta) -> Outcome {
        let mut outcome = Outcome::default();
        let identity = self.identity(kind, meta);
        let owners = self.owners(meta.owner_references.as_ref());
        let uid = identity.uid.clone();
        if self.nodes.get(&uid).is_some_and(|node| !node.observed) {
            self.replace_virtual(&identity, &mut outcome);
        }
        let node = self.nodes.entry(uid.clone()).or_insert_with(|| Node::new(identity, true));
        let before = std::mem::replace(&mut node.owners, owners.clone());
        if before != owners {
            self.change_owners(&uid, &before, &owners, &mut outcome);
        }
        self.note_deletion(&uid, meta, &mut outcome);
        outcome
    }

    /// The first sight of what was only heard of. Dependents that described it wrongly are looked at.
    fn replace_virtual(&mut self, identity: &Identity, outcome: &mut Outcome) {
        let node = self.nodes.get_mut(&identity.uid).expect("the caller has just seen it");
        let heard = std::mem::replace(&mut node.identity, identity.clone());
        node.observed = true;
        if heard == *identity {
            return;
        }
        let node = self.nodes[&identity.uid].clone();
        for dependent in self.dependents(&node) {
            if !is_described(dependent, identity) {
                outcome.invalid.extend(foreign(dependent, identity));
                outcome.work.push(Work::Delete(dependent.identity.uid.clone()));
            }
        }
    }

    fn change_owners(&mut self, uid: &Uid, before: &[Owner], after: &[Owner], outcome: &mut Outcome) {
        for owner in before {
            let now = after.iter().find(|other| other.uid == owner.uid);
            // An owner in foreground deletion may have waited for just this.
            if owner.blocks && !now.is_some_and(|now| now.blocks) && self.nodes.contains_key(&owner.uid) {
                outcome.work.push(Work::Delete(owner.uid.clone()));
            }
            if now.is_none()
                && let Some(node) = self.nodes.get_mut(&owner.uid)
            {
                node.dependents.remove(uid);
                if !node.observed && node.dependents.is_empty() {
                    self.nodes.remove(&owner.uid);
                }
            }
        }
        let identity = self.nodes[uid].identity.clone();
        let mut suspicious = false;
        for owner in after {
            if before.iter().any(|other| other.uid == owner.uid) {
                continue;
            }
            suspicious |= self.add_dependent(&identity, owner, outcome);
        }
        if suspicious {
            outcome.work.push(Work::Delete(uid.clone()));
        }
    }

    /// Notes one owner of `dependent`. Returns whether the reference does not fit what is known of the owner.
    fn add_dependent(&mut self, dependent: &Identity, owner: &Owner, outcome: &mut Outcome) -> bool {
        if let Some(node) = self.nodes.get_mut(&owner.uid) {
            node.dependents.insert(dependent.uid.clone());
            let namespaced = !node.identity.namespace.is_empty();
            let fits = node.identity.kind == owner.kind
                && node.identity.name == owner.name
                && if namespaced || !node.observed {
                    node.identity.namespace == dependent.namespace
                } else {
                    true
                };
            let known = node.identity.clone();
            if node.observed && namespaced && known.namespace != dependent.namespace {
                outcome.invalid.push((dependent.clone(), as_seen_from(dependent, owner)));
            }
            return !fits;
        }
        let mut node = Node::new(as_seen_from(dependent, owner), false);
        node.dependents.insert(dependent.uid.clone());
        self.nodes.insert(owner.uid.clone(), node);
        outcome.work.push(Work::Verify(owner.uid.clone()));
        false
    }

    fn note_deletion(&mut self, uid: &Uid, meta: &ObjectMeta, outcome: &mut Outcome) {
        let node = self.nodes.get_mut(uid).expect("observed just now");
        let has = |finalizer: &str| meta.finalizers.iter().flatten().any(|it| it == finalizer);
        let deleting = meta.deletion_timestamp.is_some();
        node.deleting |= deleting;
        let orphaning = deleting && has(ORPHAN);
        let deleting_dependents = deleting && has(FOREGROUND);
        let starts_orphaning = orphaning && !node.orphaning;
        let starts_deleting = deleting_dependents && !node.deleting_dependents;
        node.orphaning = orphaning;
        node.deleting_dependents |= deleting_dependents;
        if starts_orphaning {
            outcome.work.push(Work::Orphan(uid.clone()));
        } else if starts_deleting {
            outcome.work.extend(node.dependents.iter().cloned().map(Work::Delete));
            outcome.work.push(Work::Delete(uid.clone()));
        }
    }

    /// A watch has shown that an object is gone.
    pub(crate) fn removed(&mut self, uid: &str) -> Outcome {
        let mut outcome = Outcome::default();
        self.remove(uid, &mut outcome);
        outcome
    }

    /// A look at the API has shown that there is no object of this identity.
    ///
    /// A virtual node may have been described differently by different dependents; those that described it otherwise keep it
    /// in the graph under their description, to be looked at in turn.
    pub(crate) fn absent(&mut self, identity: &Identity) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(node) = self.nodes.get(&identity.uid) else { return outcome };
        if node.observed {
            if node.identity == *identity {
                self.remove(&identity.uid, &mut outcome);
            }
            return outcome;
        }
        let (right, wrong): (Vec<_>, Vec<_>) =
            self.dependents(node).partition(|dependent| is_described(dependent, identity));
        let Some(other) = wrong.iter().find_map(|dependent| {
            let owner = dependent.owners.iter().find(|owner| owner.uid == identity.uid)?;
            Some(as_seen_from(&dependent.identity, owner))
        }) else {
            self.remove(&identity.uid, &mut outcome);
            return outcome;
        };
        outcome.work.extend(right.iter().map(|dependent| Work::Delete(dependent.identity.uid.clone())));
        if node.identity == *identity {
            outcome.work.push(Work::Verify(identity.uid.clone()));
            self.nodes.get_mut(&identity.uid).expect("seen above").identity = other;
        }
        outcome
    }

    fn remove(&mut self, uid: &str, outcome: &mut Outcome) {
        let Some(node) = self.nodes.remove(uid) else { return };
        outcome.work.extend(node.dependents.iter().cloned().map(Work::Delete));
        for owner in &node.owners {
            let Some(parent) = self.nodes.get_mut(&owner.uid) else { continue };
            parent.dependents.remove(uid);
            if parent.deleting_dependents {
                outcome.work.push(Work::Delete(owner.uid.clone()));
            }
            if !parent.observed && parent.dependents.is_empty() {
                self.nodes.remove(&owner.uid);
            }
        }
    }
}

impl Node {
    fn new(identity: Identity, observed: bool) -> Self {
        Self {
            identity,
            owners: Vec::new(),
            dependents: BTreeSet::new(),
            observed,
            deleting: false,
            deleting_dependents: false,
            orphaning: false,
        }
    }
}

/// The owner as its dependent describes it: in the dependent's own namespace.
fn as_seen_from(dependent: &Identity, owner: &Owner) -> Identity {
    Identity {
        kind: owner.kind.clone(),
        namespace: dependent.namespace.clone(),
        name: owner.name.clone(),
        uid: owner.uid.clone(),
    }
}

/// Whether the dependent's reference fits the owner.
fn is_described(dependent: &Node, owner: &Identity) -> bool {
    let reaches = owner.namespace.is_empty() || owner.namespace == dependent.identity.namespace;
    reaches
        && dependent
            .owners
            .iter()
            .any(|it| it.uid == owner.uid && it.kind == owner.kind && it.name == owner.name)
}

/// The report about a dependent whose owner is in another namespace.
fn foreign(dependent: &Node, owner: &Identity) -> Option<(Identity, Identity)> {
    if owner.namespace.is_empty() || owner.namespace == dependent.identity.namespace {
        return None;
    }
    let reference = dependent.owners.iter().find(|it| it.uid == owner.uid)?;
    Some((dependent.identity.clone(), as_seen_from(&dependent.identity, reference)))
}
