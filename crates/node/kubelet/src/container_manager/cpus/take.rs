//! Which of the free processors: whole parts of the machine first, so that as few others as possible are disturbed. Pure.

use super::{
    super::{
        cpu_set::CpuSet,
        hardware::{Hardware, Level},
        numa::NodeMask,
    },
    pool::Options,
};

/// Beyond this many nodes even distribution is not tried: there would be too many ways.
const MOST_NODES: u32 = 8;

/// Chooses `count` processors of `free`.
pub(crate) fn take(
    hardware: &Hardware,
    free: &CpuSet,
    count: usize,
    options: Options,
) -> Result<CpuSet, String> {
    if count > free.len() {
        return Err(format!(
            "not enough cpus available to satisfy request: requested={count}, available={}",
            free.len()
        ));
    }
    if options.distribute_across_numa
        && let Some(parts) = distribute(hardware, free, count, options)
    {
        let own = |(node, count): (usize, usize)| {
            pack(hardware, &hardware.within(free, Level::Node, node), count, options)
        };
        return Ok(parts.into_iter().map(own).fold(CpuSet::default(), |all, part| all.union(&part)));
    }
    Ok(pack(hardware, free, count, options))
}

/// From the largest part of the machine to the smallest. Where a socket holds several nodes it comes first.
fn levels(hardware: &Hardware) -> [Level; 3] {
    let all = hardware.all();
    let count = |level| hardware.parts(&all, level).len();
    if count(Level::Socket) >= count(Level::Node) {
        [Level::Node, Level::Socket, Level::Core]
    } else {
        [Level::Socket, Level::Node, Level::Core]
    }
}

/// The free processors by the last of these levels; parts of which less is free come first, at every level.
fn ordered(hardware: &Hardware, free: &CpuSet, levels: &[Level]) -> Vec<(usize, CpuSet)> {
    let Some((level, inner)) = levels.split_first() else { return Vec::new() };
    let mut parts: Vec<(usize, CpuSet)> = hardware.parts(free, *level).into_iter().collect();
    parts.sort_by_key(|(id, cpus)| (cpus.len(), *id));
    if inner.is_empty() {
        return parts;
    }
    parts.iter().flat_map(|(_, cpus)| ordered(hardware, cpus, inner)).collect()
}

fn pack(hardware: &Hardware, free: &CpuSet, count: usize, options: Options) -> CpuSet {
    let all = hardware.all();
    let levels = levels(hardware);
    let mut taken = CpuSet::default();
    let whole = |taken: &mut CpuSet, levels: &[Level], level: Level| {
        for (id, cpus) in ordered(hardware, &free.minus(taken), levels) {
            let complete = cpus.len() == hardware.within(&all, level, id).len();
            if complete && cpus.len() <= count - taken.len() {
                *taken = taken.union(&cpus);
            }
        }
    };
    whole(&mut taken, &levels[..1], levels[0]);
    whole(&mut taken, &levels[..2], levels[1]);
    if options.prefer_align_by_uncore_cache {
        let by_cache = [levels[0], levels[1], Level::Cache];
        whole(&mut taken, &by_cache, Level::Cache);
        // What is left in one part, if it fits: all that follows takes from there only.
        let rest = count - taken.len();
        let fitting = ordered(hardware, &free.minus(&taken), &by_cache).into_iter();
        if let Some((_, cpus)) = fitting.into_iter().find(|(_, cpus)| rest > 0 && cpus.len() >= rest) {
            return taken.union(&pack(hardware, &cpus, rest, Options::default()));
        }
    }
    whole(&mut taken, &levels, Level::Core);
    let single = ordered(hardware, &free.minus(&taken), &levels);
    let rest = count - taken.len();
    let single: Vec<usize> = single.iter().flat_map(|(_, cpus)| cpus.iter()).take(rest).collect();
    taken.union(&single.into_iter().collect())
}

/// How many processors from which node, so that each of as few nodes as possible gives as many. None if that cannot be.
fn distribute(
    hardware: &Hardware,
    free: &CpuSet,
    count: usize,
    options: Options,
) -> Option<Vec<(usize, usize)>> {
    let group = if options.full_physical_only { hardware.threads_per_core() } else { 1 };
    let room = hardware.parts(free, Level::Node);
    let nodes: NodeMask = room.keys().copied().collect();
    if !count.is_multiple_of(group) || nodes.count() > MOST_NODES {
        return None;
    }
    // Whole groups only: half a core is no room.
    let room = |node: usize| {
        let cpus = room.get(&node).cloned().unwrap_or_default();
        let cores = hardware.parts(&cpus, Level::Core);
        if group == 1 { cpus.len() } else { cores.values().map(|core| core.len() / group * group).sum() }
    };
    let spread = |nodes: NodeMask| {
        let of = nodes.count() as usize;
        let each = count / of / group * group;
        let mut parts: Vec<(usize, usize)> = nodes.nodes().map(|node| (node, each)).collect();
        if parts.iter().any(|(node, share)| room(*node) < *share) {
            return None;
        }
        let mut rest = count - each * of;
        while rest > 0 {
            // To the node that would have the most left.
            let most = parts.iter_mut().filter(|(node, share)| room(*node) >= *share + group);
            let (_, share) =
                most.max_by_key(|(node, share)| (room(*node) - *share, std::cmp::Reverse(*node)))?;
            *share += group;
            rest -= group;
        }
        Some(parts)
    };
    // How uneven the nodes are left: the sum of squares is least where they are most alike.
    let unevenness = |parts: &Vec<(usize, usize)>| -> usize {
        nodes
            .nodes()
            .map(|node| {
                room(node) - parts.iter().find(|(one, _)| *one == node).map_or(0, |(_, share)| *share)
            })
            .map(|left| left * left)
            .sum()
    };
    let ways = nodes.subsets().into_iter().filter_map(|nodes| Some((nodes.count(), spread(nodes)?)));
    ways.min_by_key(|(nodes, parts)| (*nodes, unevenness(parts))).map(|(_, parts)| parts)
}
