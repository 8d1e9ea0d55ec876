//! Packs endpoints into slices, by as few and as small writes as possible. Shared with the mirroring controller.
//!
//! Endpoints stay in the slice they are in: every write is sent to every node.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::decide::{Counts, Decision};
use crate::labels::Labels;
use crate::names::{self, NameSource};
use crate::services::{self, trigger};

/// What the slices belong to.
#[derive(Clone, Debug)]
pub(crate) struct Parent {
    pub(crate) name: String,
    pub(crate) namespace: Option<String>,
    pub(crate) owner: OwnerReference,
    /// The labels of every slice, all of them.
    pub(crate) labels: Labels,
    /// The annotations of every slice, where they are the parent's; the trigger time aside.
    pub(crate) annotations: Option<Labels>,
    /// Whether a parent without endpoints still has one slice.
    pub(crate) placeholder: bool,
}

/// Endpoints by what identifies them, for each set of ports.
pub(crate) type Groups = BTreeMap<Vec<PortKey>, Group>;

#[derive(Clone, Debug, Default)]
pub(crate) struct Group {
    pub(crate) ports: Vec<EndpointPort>,
    pub(crate) endpoints: BTreeMap<EndpointKey, Endpoint>,
}

/// Name, number, protocol, application protocol.
pub(crate) type PortKey = (String, Option<i32>, String, Option<String>);

pub(crate) fn port_key(ports: &[EndpointPort]) -> Vec<PortKey> {
    let mut keys: Vec<PortKey> = ports
        .iter()
        .map(|port| {
            let protocol = services::protocol(port.protocol.as_deref()).to_owned();
            (port.name.clone().unwrap_or_default(), port.port, protocol, port.app_protocol.clone())
        })
        .collect();
    keys.sort();
    keys
}

/// Addresses, host name, namespace and name of the target. Source: `endpointHashObj`.
pub(crate) type EndpointKey = (Vec<String>, Option<String>, Option<(Option<String>, Option<String>)>);

pub(crate) fn endpoint_key(endpoint: &Endpoint) -> EndpointKey {
    let mut addresses = endpoint.addresses.clone();
    addresses.sort();
    let target = endpoint.target_ref.as_ref().map(|target| (target.namespace.clone(), target.name.clone()));
    (addresses, endpoint.hostname.clone(), target)
}

/// The work on the slices of one address type.
#[derive(Debug)]
pub(crate) struct Family<'a> {
    pub(crate) parent: &'a Parent,
    pub(crate) family: &'a str,
    /// The most endpoints of one slice. Slices that have more stay as they are until they change.
    pub(crate) most: usize,
    pub(crate) names: &'a dyn NameSource,
}

/// One existing slice while its new content is worked out.
struct Draft {
    slice: EndpointSlice,
    changed: bool,
}

impl Draft {
    fn len(&self) -> usize {
        self.slice.endpoints.as_ref().map(Vec::len).unwrap_or_default()
    }

    fn push(&mut self, endpoint: Endpoint) {
        self.slice.endpoints.get_or_insert_default().push(endpoint);
        self.changed = true;
    }
}

impl Family<'_> {
    /// From the slices there are to the endpoints wanted.
    pub(crate) fn reconcile(&self, slices: &[Arc<EndpointSlice>], mut groups: Groups) -> Decision {
        let mut decision = Decision::default();
        let mut existing: BTreeMap<Vec<PortKey>, Vec<EndpointSlice>> = BTreeMap::new();
        let mut count = 0;
        for slice in slices.iter().filter(|slice| slice.address_type == self.family) {
            count += 1;
            if self.owns(slice) {
                let key = port_key(slice.ports.as_deref().unwrap_or_default());
                existing.entry(key).or_default().push(EndpointSlice::clone(slice));
            } else {
                decision.delete.push(EndpointSlice::clone(slice));
            }
        }
        for (key, slices) in &mut existing {
            if !groups.contains_key(key) {
                decision.delete.append(slices);
            }
        }
        let mut counts = Counts::default();
        for (key, group) in &mut groups {
            self.fill(existing.remove(key).unwrap_or_default(), group, &mut decision, &mut counts);
        }
        if self.parent.placeholder && decision.delete.len() == count && decision.create.is_empty() {
            self.keep_one(&mut decision);
            counts.slices += 1;
        }
        if self.parent.placeholder {
            counts.fewest = counts.fewest.max(1);
        }
        decision.counts.push(counts);
        self.reuse(&mut decision);
        decision
    }

    fn owns(&self, slice: &EndpointSlice) -> bool {
        let owner = &self.parent.owner;
        slice
            .metadata
            .owner_references
            .iter()
            .flatten()
            .any(|it| it.uid == owner.uid && it.kind == owner.kind && it.api_version == owner.api_version)
    }

    /// Brings the slices of one set of ports up to date.
    fn fill(
        &self,
        slices: Vec<EndpointSlice>,
        group: &mut Group,
        decision: &mut Decision,
        counts: &mut Counts,
    ) {
        counts.endpoints += group.endpoints.len();
        counts.fewest += group.endpoints.len().div_ceil(self.most);
        let mut drafts = Vec::new();
        for slice in slices {
            let draft = retain(slice, self.parent, &mut group.endpoints, counts);
            if draft.changed && draft.len() == 0 {
                decision.delete.push(draft.slice);
            } else {
                drafts.push(draft);
            }
        }
        let mut left = std::mem::take(&mut group.endpoints);
        counts.added += left.len();
        counts.slices += drafts.len();
        // Slices that are written anyway take what they can, the fullest first.
        let mut order: Vec<usize> = (0..drafts.len()).filter(|index| drafts[*index].changed).collect();
        order.sort_by_key(|index| std::cmp::Reverse(drafts[*index].len()));
        for index in order {
            top_up(&mut drafts[index], &mut left, self.most);
        }
        while !left.is_empty() {
            match best_fit(&drafts, left.len(), self.most) {
                Some(index) => top_up(&mut drafts[index], &mut left, self.most),
                None => {
                    let mut fresh = Draft { slice: self.new_slice(group.ports.clone()), changed: true };
                    top_up(&mut fresh, &mut left, self.most);
                    decision.create.push(fresh.slice);
                    counts.slices += 1;
                }
            }
        }
        decision.update.extend(drafts.into_iter().filter(|draft| draft.changed).map(|draft| draft.slice));
    }

    /// A Service without endpoints still has one slice, to tell "none" from "not looked at yet".
    fn keep_one(&self, decision: &mut Decision) {
        let placeholder = self.new_slice(Vec::new());
        let is_placeholder = |slice: &EndpointSlice| {
            slice.endpoints.as_ref().is_none_or(Vec::is_empty)
                && slice.ports.as_ref().is_none_or(Vec::is_empty)
                && slice.metadata.labels == placeholder.metadata.labels
                && self.owns(slice)
        };
        if decision.delete.len() == 1 && is_placeholder(&decision.delete[0]) {
            decision.delete.clear();
        } else {
            decision.create.push(placeholder);
        }
    }

    /// A slice to be deleted and one to be created make one update.
    fn reuse(&self, decision: &mut Decision) {
        let mut kept = Vec::new();
        for old in std::mem::take(&mut decision.delete) {
            if decision.create.is_empty() || !self.owns(&old) {
                kept.push(old);
                continue;
            }
            let new = decision.create.pop().expect("just seen not to be empty");
            let metadata = ObjectMeta { labels: new.metadata.labels, ..old.metadata };
            decision.update.push(EndpointSlice { metadata, ..new });
        }
        decision.delete = kept;
    }

    fn new_slice(&self, ports: Vec<EndpointPort>) -> EndpointSlice {
        let prefix = names::prefix(&self.parent.name);
        EndpointSlice {
            address_type: self.family.to_owned(),
            endpoints: Some(Vec::new()),
            metadata: ObjectMeta {
                name: Some(names::generate(&prefix, self.names)),
                generate_name: Some(prefix),
                namespace: self.parent.namespace.clone(),
                labels: Some(self.parent.labels.clone()),
                annotations: self.parent.annotations.clone().filter(|it| !it.is_empty()),
                owner_references: Some(vec![self.parent.owner.clone()]),
                ..ObjectMeta::default()
            },
            ports: Some(ports),
        }
    }
}

/// Keeps of a slice what is still wanted, as it is wanted now, and takes that out of `wanted`.
fn retain(
    mut slice: EndpointSlice,
    parent: &Parent,
    wanted: &mut BTreeMap<EndpointKey, Endpoint>,
    counts: &mut Counts,
) -> Draft {
    let before = slice.endpoints.take().unwrap_or_default();
    let mut changed = false;
    let mut kept = Vec::with_capacity(before.len());
    for old in before {
        match wanted.remove(&endpoint_key(&old)) {
            Some(new) => {
                if !is_same(&old, &new) {
                    counts.updated += 1;
                    changed = true;
                }
                kept.push(new);
            }
            None => {
                counts.removed += 1;
                changed = true;
            }
        }
    }
    slice.endpoints = Some(kept);
    if slice.metadata.labels.as_ref() != Some(&parent.labels) {
        slice.metadata.labels = Some(parent.labels.clone());
        changed = true;
    }
    if let Some(wanted) = &parent.annotations {
        let mut annotations = slice.metadata.annotations.take().unwrap_or_default();
        let time = annotations.remove(trigger::TRIGGER_TIME);
        changed |= annotations != *wanted;
        annotations.clone_from(wanted);
        annotations.extend(time.map(|time| (trigger::TRIGGER_TIME.to_owned(), time)));
        slice.metadata.annotations = Some(annotations).filter(|it| !it.is_empty());
    }
    Draft { slice, changed }
}

fn is_same(old: &Endpoint, new: &Endpoint) -> bool {
    let mut old = old.clone();
    if let Some(target) = &mut old.target_ref {
        target.resource_version = None;
    }
    old == *new
}

fn top_up(draft: &mut Draft, left: &mut BTreeMap<EndpointKey, Endpoint>, most: usize) {
    while draft.len() < most
        && let Some((_, endpoint)) = left.pop_first()
    {
        draft.push(endpoint);
    }
}

/// The untouched slice that takes all `count` endpoints and has the least room to spare after.
fn best_fit(drafts: &[Draft], count: usize, most: usize) -> Option<usize> {
    (0..drafts.len())
        .filter(|index| !drafts[*index].changed && drafts[*index].len() + count <= most)
        .max_by_key(|index| drafts[*index].len())
}
