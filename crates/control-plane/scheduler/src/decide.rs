//! The decision: on which node one pod goes, or why on none. Pure: the snapshot, the random numbers and
//! where to start looking are arguments.

use std::collections::BTreeMap;
use std::sync::Arc;

use fastrand::Rng;

use crate::affinity::Labels;
use crate::filter::{Cycle, Plugin, Plugins, Refused, Rejection};
use crate::message::{NO_NODES, available};
use crate::pod::PodInfo;
use crate::preempt::{self, Attempt, Preemption};
use crate::score;
use crate::snapshot::Snapshot;
use crate::surroundings::{Point, Surroundings};
use crate::volumes::Choice;

/// Fewer feasible nodes than this are never enough to stop looking.
const LEAST_FEASIBLE: usize = 100;
/// However large the cluster, at least this share is looked for.
const LEAST_PERCENT: usize = 5;
/// What upstream's default plugin for resource claims adds before the preemption's message; every
/// v1.36 cluster says it.
const NO_CLAIMS: &str = "no new claims to deallocate";

/// What was decided.
#[derive(Clone, Debug)]
pub enum Decision {
    /// The pod goes there.
    Place {
        /// The node's name.
        node: Arc<str>,
        /// How many nodes were looked at.
        evaluated: usize,
        /// How many of them would have done.
        feasible: usize,
        /// What becomes of its claims that waited for a node.
        volumes: Vec<Choice>,
    },
    /// The pod must wait.
    Wait(Wait),
}

/// Why a pod must wait.
#[derive(Clone, Debug)]
pub struct Wait {
    /// For the event and the condition: upstream's sentence.
    pub message: String,
    /// The filters that refused nodes: only what they look at can help the pod.
    pub refused_by: Plugins,
    /// Room can be made for it.
    pub preemption: Option<Preemption>,
}

/// Where the next search begins, so that in large clusters all nodes get their turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor(usize);

/// How many feasible nodes are enough among `nodes`. `percent` zero: a share that falls with size,
/// as upstream's `percentageOfNodesToScore` does.
pub fn enough(nodes: usize, percent: usize) -> usize {
    if nodes < LEAST_FEASIBLE {
        return nodes;
    }
    let percent = if percent == 0 { 50usize.saturating_sub(nodes / 125).max(LEAST_PERCENT) } else { percent };
    (nodes * percent / 100).clamp(LEAST_FEASIBLE, nodes)
}

/// Decides for one pod.
pub fn decide(
    snapshot: &Snapshot,
    pod: &PodInfo,
    surroundings: &dyn Surroundings,
    percent: usize,
    cursor: &mut Cursor,
    random: &mut Rng,
) -> Decision {
    let nodes = snapshot.nodes();
    if nodes.is_empty() {
        let refused_by = Plugins::default();
        return Decision::Wait(Wait { message: NO_NODES.to_owned(), refused_by, preemption: None });
    }
    let namespaces = |name: &str| -> Option<Labels> { surroundings.namespace_labels(name) };
    let (cycle, candidates) = match prepare(snapshot, pod, surroundings, &namespaces) {
        Ok(prepared) => prepared,
        Err(refused) => {
            surroundings.passed(Point::PreFilter, false);
            return refuse(snapshot, pod, &refused);
        }
    };
    surroundings.passed(Point::PreFilter, true);
    let search = Search::run(&cycle, snapshot, candidates.as_deref(), percent, cursor);
    surroundings.passed(Point::Filter, !search.feasible.is_empty());
    match search.feasible.as_slice() {
        [] => {
            let wait = wait(&cycle, snapshot, &search, candidates.is_some(), random);
            surroundings.passed(Point::PostFilter, wait.preemption.is_some());
            Decision::Wait(wait)
        }
        [only] => place(&cycle, snapshot, *only, &search),
        several => {
            let totals = score::totals(pod, snapshot, several, surroundings, &namespaces);
            surroundings.passed(Point::Score, true);
            place(&cycle, snapshot, several[best(&totals, random)], &search)
        }
    }
}

/// What is computed before nodes are looked at; and the only nodes to look at, if the pod names them.
fn prepare<'a>(
    snapshot: &Snapshot,
    pod: &'a PodInfo,
    surroundings: &'a dyn Surroundings,
    namespaces: &'a dyn Fn(&str) -> Option<Labels>,
) -> Result<(Cycle<'a>, Option<Vec<usize>>), Refused> {
    let named = pod.node_affinity.as_ref().and_then(|affinity| affinity.named_nodes());
    if named.as_ref().is_some_and(|names| names.is_empty()) {
        let message = "pod affinity terms conflict".to_owned();
        return Err(Refused { plugin: Plugin::NodeAffinity, message });
    }
    let cycle = Cycle::new(pod, snapshot, surroundings, namespaces)?;
    let candidates =
        named.map(|names| names.iter().filter_map(|name| snapshot.position(name)).collect::<Vec<_>>());
    Ok((cycle, candidates))
}

fn refuse(snapshot: &Snapshot, pod: &PodInfo, refused: &Refused) -> Decision {
    let nodes = snapshot.nodes().len();
    let pointless = if pod.may_preempt {
        let all = BTreeMap::from([("Preemption is not helpful for scheduling".to_owned(), nodes)]);
        available(nodes, None, &all, "")
    } else {
        "not eligible due to preemptionPolicy=Never.".to_owned()
    };
    let after = format!("{NO_CLAIMS}, preemption: {pointless}");
    Decision::Wait(Wait {
        message: available(nodes, Some(&refused.message), &BTreeMap::new(), &after),
        refused_by: [refused.plugin].into_iter().collect(),
        preemption: None,
    })
}

/// Nodes that were looked at.
struct Search {
    feasible: Vec<usize>,
    rejections: Vec<(usize, Rejection)>,
}

impl Search {
    fn run(
        cycle: &Cycle<'_>,
        snapshot: &Snapshot,
        candidates: Option<&[usize]>,
        percent: usize,
        cursor: &mut Cursor,
    ) -> Self {
        let mut search = Self { feasible: Vec::new(), rejections: Vec::new() };
        // Room was made there for this pod: if it fits now, there is no need to look further.
        if let Some(at) = cycle.pod.nominated_node.as_deref().and_then(|name| snapshot.position(name))
            && cycle.check_with_nominated(&snapshot.nodes()[at], snapshot).is_ok()
        {
            search.feasible.push(at);
            return search;
        }
        let all = snapshot.nodes().len();
        let count = candidates.map_or(all, <[usize]>::len);
        let enough = enough(count, percent);
        for offset in 0..count {
            let turn = (cursor.0 + offset) % count;
            let at = candidates.map_or(turn, |candidates| candidates[turn]);
            match cycle.check_with_nominated(&snapshot.nodes()[at], snapshot) {
                Ok(()) => search.feasible.push(at),
                Err(why) => search.rejections.push((at, why)),
            }
            if search.feasible.len() >= enough {
                break;
            }
        }
        cursor.0 = (cursor.0 + search.evaluated()) % all;
        search
    }

    fn evaluated(&self) -> usize {
        self.feasible.len() + self.rejections.len()
    }
}

fn place(cycle: &Cycle<'_>, snapshot: &Snapshot, at: usize, search: &Search) -> Decision {
    let node = &snapshot.nodes()[at].facts;
    Decision::Place {
        node: node.name.clone(),
        volumes: cycle.choices(node),
        evaluated: search.evaluated(),
        feasible: search.feasible.len(),
    }
}

/// The position of the highest total; among equals each is as likely.
fn best(totals: &[i64], random: &mut Rng) -> usize {
    let mut best = 0;
    let mut equals = 1u32;
    for (at, total) in totals.iter().enumerate().skip(1) {
        if *total > totals[best] {
            best = at;
            equals = 1;
        } else if *total == totals[best] {
            equals += 1;
            if random.u32(..equals) == 0 {
                best = at;
            }
        }
    }
    best
}

fn wait(cycle: &Cycle<'_>, snapshot: &Snapshot, search: &Search, named: bool, random: &mut Rng) -> Wait {
    let nodes = snapshot.nodes().len();
    let mut histogram = BTreeMap::new();
    let mut refused_by: Plugins = search.rejections.iter().map(|(_, why)| why.plugin).collect();
    for (_, why) in &search.rejections {
        why.tally(&mut histogram);
    }
    if named {
        refused_by.insert(Plugin::NodeAffinity);
        if nodes > search.evaluated() {
            let others = "node(s) didn't satisfy plugin(s) [NodeAffinity]".to_owned();
            histogram.insert(others, nodes - search.evaluated());
        }
    }
    let (preemption, after) = match preempt::look(cycle, snapshot, &search.rejections, random.usize(..nodes))
    {
        Attempt::Possible(preemption) => (Some(preemption), String::new()),
        Attempt::Pointless(why) => (None, format!("{NO_CLAIMS}, preemption: {why}")),
    };
    Wait { message: available(nodes, None, &histogram, &after), refused_by, preemption }
}
