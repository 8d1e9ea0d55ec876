//! The ReplicaSets of one Deployment as they will be once the planned writes are made.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::revision;
use super::strategy::Strategy;
use crate::owner;

/// One write to a ReplicaSet. They are made in order and the first failure ends them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Write {
    /// Create the ReplicaSet of a new template.
    Create(Box<ReplicaSet>),
    /// Replace a ReplicaSet; its resourceVersion is the precondition.
    Update {
        /// The new object.
        set: Box<ReplicaSet>,
        /// The sizes before and after, if they differ.
        scaled: Option<(i32, i32)>,
    },
    /// Delete a ReplicaSet that the history has no room for.
    Delete(Box<ReplicaSet>),
}

/// One ReplicaSet, and the size it is to have.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) set: ReplicaSet,
}

impl Planned {
    pub(crate) fn size(&self) -> i32 {
        self.set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    /// Pods there are.
    pub(crate) fn actual(&self) -> i32 {
        self.set.status.as_ref().map(|status| status.replicas).unwrap_or_default()
    }

    /// Whether the set's status is about the size it has.
    pub(crate) fn is_settled(&self) -> bool {
        let observed = self.set.status.as_ref().and_then(|status| status.observed_generation);
        observed.unwrap_or_default() >= self.set.metadata.generation.unwrap_or_default()
    }

    /// Pods there may be: those it is to have, and those it has not got rid of yet.
    pub(crate) fn possible(&self) -> i32 {
        self.size().max(self.actual())
    }

    pub(crate) fn ready(&self) -> i32 {
        self.set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or_default()
    }

    /// Available pods by the set's status.
    pub(crate) fn reported_available(&self) -> i32 {
        self.set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or_default()
    }

    /// Available pods that remain once the set has its planned size.
    pub(crate) fn available(&self) -> i32 {
        self.reported_available().min(self.size())
    }

    pub(crate) fn name(&self) -> &str {
        owner::name(&self.set.metadata)
    }

    /// Older first; the name decides between equals.
    fn age(&self) -> (Option<jiff::Timestamp>, &str) {
        (self.set.metadata.creation_timestamp.as_ref().map(|time| time.0), self.name())
    }
}

/// What is there and what is to be done.
#[derive(Clone, Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) deployment: &'a Deployment,
    pub(crate) strategy: Strategy,
    /// The set of the current template.
    pub(crate) new: Option<Planned>,
    /// All others, oldest first.
    pub(crate) old: Vec<Planned>,
    pub(crate) writes: Vec<Write>,
}

impl<'a> Plan<'a> {
    /// Sorts the Deployment's ReplicaSets. The oldest that runs the template is the new one, should there be two.
    pub(crate) fn new(deployment: &'a Deployment, sets: impl IntoIterator<Item = ReplicaSet>) -> Self {
        let mut old: Vec<Planned> = sets.into_iter().map(|set| Planned { set }).collect();
        old.sort_by(|a, b| a.age().cmp(&b.age()));
        let template = deployment.spec.as_ref().map(|spec| &spec.template);
        let position =
            old.iter().position(|set| template.is_some_and(|template| revision::runs(&set.set, template)));
        let new = position.map(|position| old.remove(position));
        Self { deployment, strategy: Strategy::of(deployment), new, old, writes: Vec::new() }
    }

    /// All sets, the old ones first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Planned> {
        self.old.iter().chain(&self.new)
    }

    /// The sum over all sets.
    pub(crate) fn total(&self, of: impl Fn(&Planned) -> i32) -> i32 {
        self.all().map(of).sum()
    }

    /// Old sets that are to have pods, oldest first, by their position in [`Self::old`].
    pub(crate) fn active_old(&self) -> Vec<usize> {
        (0..self.old.len()).filter(|index| self.old[*index].size() > 0).collect()
    }

    /// Plans a size for an old set. Returns whether it is another one.
    pub(crate) fn scale_old(&mut self, index: usize, size: i32) -> bool {
        scale(&mut self.old[index], size, &self.strategy, &mut self.writes)
    }

    /// Plans a size for the new set. Returns whether it is another one.
    pub(crate) fn scale_new(&mut self, size: i32) -> bool {
        match &mut self.new {
            Some(new) => scale(new, size, &self.strategy, &mut self.writes),
            None => false,
        }
    }

    /// Plans an update of the new set that leaves its size alone.
    pub(crate) fn update_new(&mut self, set: ReplicaSet) {
        self.writes.push(Write::Update { set: Box::new(set.clone()), scaled: None });
        self.new = Some(Planned { set });
    }
}

/// Plans a size, and the annotations that go with it, as one write.
fn scale(planned: &mut Planned, size: i32, strategy: &Strategy, writes: &mut Vec<Write>) -> bool {
    let before = planned.size();
    let annotated = revision::annotate_replicas(&mut planned.set, strategy.replicas, strategy.most());
    if before == size && !annotated {
        return false;
    }
    planned.set.spec.get_or_insert_default().replicas = Some(size);
    let set = Box::new(planned.set.clone());
    let scaled = (before != size).then_some((before, size));
    match writes.iter_mut().find(|write| is_about(write, &planned.set)) {
        // Two updates of one object would need the version that the first is answered with: make them one.
        Some(Write::Update { set: earlier, scaled: earlier_scaled }) => {
            let from = earlier_scaled.map_or(before, |(from, _)| from);
            *earlier = set;
            *earlier_scaled = (from != size).then_some((from, size));
        }
        Some(Write::Create(earlier)) => *earlier = set,
        Some(Write::Delete(_)) | None => writes.push(Write::Update { set, scaled }),
    }
    before != size
}

fn is_about(write: &Write, set: &ReplicaSet) -> bool {
    let (Write::Create(other) | Write::Update { set: other, .. } | Write::Delete(other)) = write;
    other.metadata.name == set.metadata.name
}
