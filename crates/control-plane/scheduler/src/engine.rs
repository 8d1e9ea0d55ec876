//! The scheduler without its surroundings: a state that takes events in and gives actions out. No
//! I/O, no clock; the shell feeds it, and so do tests and simulations.

use std::collections::HashMap;
use std::sync::Arc;

use fastrand::Rng;

use crate::decide::{Cursor, Decision, decide};
use crate::hints::Change;
use crate::pod::PodInfo;
use crate::preempt::Preemption;
use crate::queue::{Entry, Moment, Queue};
use crate::snapshot::{NodeFacts, Snapshot};
use crate::surroundings::Surroundings;
use crate::volumes::Choice;

/// Something the API says.
#[derive(Clone, Debug)]
pub enum Event {
    /// A node, new or changed.
    Node(Arc<NodeFacts>),
    /// A node is gone.
    NodeGone(String),
    /// A pod that has not ended, new or changed.
    Pod(Arc<PodInfo>),
    /// A pod was deleted or has ended.
    PodGone(Arc<PodInfo>),
    /// A volume or claim changed.
    Volumes,
}

/// Something to do.
#[derive(Clone, Debug)]
pub enum Action {
    /// Bind the pod, then tell [`Engine::bound`].
    Bind {
        /// The pod.
        pod: Arc<PodInfo>,
        /// The node's name.
        node: Arc<str>,
        /// What is to be done about its claims before that.
        volumes: Vec<Choice>,
    },
    /// Tell the pod that it found no node, and make room for it if that was decided.
    Refuse {
        /// The pod.
        pod: Arc<PodInfo>,
        /// Upstream's sentence.
        message: String,
        /// Pods to remove.
        preemption: Option<Preemption>,
    },
    /// Tell that the pod is not scheduled because it is being deleted.
    Skip {
        /// The pod.
        pod: Arc<PodInfo>,
    },
}

/// What a pod had behind it when it got its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheduled {
    /// How often it was tried.
    pub tries: u32,
    /// How long ago that was for the first time.
    pub since_first: Moment,
}

/// The state.
#[derive(Debug)]
pub struct Engine {
    scheduler_name: String,
    percent: usize,
    snapshot: Snapshot,
    queue: Queue,
    /// Pods whose binding is under way.
    binding: HashMap<String, Entry, ahash::RandomState>,
    cursor: Cursor,
    random: Rng,
}

impl Engine {
    /// Schedules pods that ask for `scheduler_name`. `percent` is percentageOfNodesToScore, zero for
    /// the adaptive default; `seed` decides among equal nodes.
    pub fn new(scheduler_name: &str, percent: usize, seed: u64) -> Self {
        Self {
            scheduler_name: scheduler_name.to_owned(),
            percent,
            snapshot: Snapshot::default(),
            queue: Queue::default(),
            binding: HashMap::default(),
            cursor: Cursor::default(),
            random: Rng::with_seed(seed),
        }
    }

    /// The picture of the cluster.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The pods without a node.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// The number of pods whose binding is under way.
    pub fn being_bound(&self) -> usize {
        self.binding.len()
    }

    /// Takes in what the API says.
    pub fn apply(&mut self, event: Event, now: Moment) {
        match event {
            Event::Node(facts) => {
                let change = match self.snapshot.put_node(facts.clone()) {
                    None => Change::NodeAdded(facts),
                    Some(before) if before == facts => return,
                    Some(before) => Change::NodeChanged { before, after: facts },
                };
                self.queue.changed(&change, now);
            }
            Event::NodeGone(name) => {
                if self.snapshot.remove_node(&name).is_some() {
                    self.queue.changed(&Change::NodeGone, now);
                }
            }
            Event::Pod(pod) if pod.node_name.is_some() => self.pod_on_node(pod, now),
            Event::Pod(pod) => self.pod_without_node(pod, now),
            Event::PodGone(pod) => {
                self.queue.remove(&pod.uid);
                self.binding.remove(&pod.uid);
                self.snapshot.withdraw(&pod.uid);
                if let Some(gone) = self.snapshot.remove_pod(&pod.uid) {
                    self.queue.changed(&Change::PodGone(gone), now);
                }
            }
            Event::Volumes => self.queue.changed(&Change::Volumes, now),
        }
    }

    fn pod_on_node(&mut self, pod: Arc<PodInfo>, now: Moment) {
        let assumed = self.snapshot.is_assumed(&pod.uid);
        self.queue.remove(&pod.uid);
        self.snapshot.withdraw(&pod.uid);
        let change = match self.snapshot.put_pod(pod.clone()) {
            Some(before) if !assumed => {
                if before.labels == pod.labels && before.requests == pod.requests {
                    return;
                }
                Change::PodChanged { before, after: pod }
            }
            _ => Change::PodPlaced(pod),
        };
        self.queue.changed(&change, now);
    }

    fn pod_without_node(&mut self, pod: Arc<PodInfo>, now: Moment) {
        if pod.scheduler_name != self.scheduler_name || self.snapshot.is_assumed(&pod.uid) {
            return;
        }
        if let Some(node) = &pod.nominated_node {
            self.snapshot.nominate(pod.clone(), &node.clone());
        }
        self.queue.put(pod, now);
    }

    /// Decides for the next pod, if there is one.
    pub fn next(&mut self, now: Moment, surroundings: &dyn Surroundings) -> Option<Action> {
        let entry = self.queue.pop(now)?;
        let pod = entry.pod.clone();
        if pod.terminating {
            return Some(Action::Skip { pod });
        }
        match decide(&self.snapshot, &pod, surroundings, self.percent, &mut self.cursor, &mut self.random) {
            Decision::Place { node, evaluated, feasible, volumes } => {
                tracing::debug!(pod = %pod.key, node = &*node, evaluated, feasible, "placed");
                self.snapshot.withdraw(&pod.uid);
                self.snapshot.assume(pod.clone(), &node);
                self.binding.insert(pod.uid.clone(), entry);
                Some(Action::Bind { pod, node, volumes })
            }
            Decision::Wait(wait) => {
                if let Some(preemption) = &wait.preemption {
                    self.snapshot.nominate(pod.clone(), &preemption.node);
                }
                self.queue.refused(entry, wait.refused_by, now);
                Some(Action::Refuse { pod, message: wait.message, preemption: wait.preemption })
            }
        }
    }

    /// Tells how binding a pod went. After a failure it is tried again with a back-off, unless the API
    /// has said meanwhile that it is gone or has a node.
    pub fn bound(&mut self, uid: &str, success: bool, now: Moment) -> Option<Scheduled> {
        let entry = self.binding.remove(uid)?;
        if success {
            let (tries, first) = entry.history();
            return Some(Scheduled { tries, since_first: now.saturating_sub(first) });
        }
        if !self.snapshot.is_assumed(uid) {
            return None;
        }
        if let Some(gone) = self.snapshot.remove_pod(uid) {
            self.queue.changed(&Change::PodGone(gone), now);
        }
        self.queue.failed(entry, now);
        None
    }
}
