//! Which parts of the ranges are taken, and by whom: kept up to date node by node, so that giving a part to one of thousands of
//! nodes does not look at all of them.

use std::collections::{BTreeMap, HashMap};

use super::decide::Range;
use crate::metrics;

/// Parts of each range, by their numbers.
type Parts = Vec<std::ops::Range<u32>>;

/// The parts of the cluster's ranges.
#[derive(Debug)]
pub(crate) struct Pool {
    ranges: Vec<Range>,
    /// The ranges as metrics name them.
    names: Vec<String>,
    /// For each range: how many hold a part. More than one only if somebody else gave it.
    taken: Vec<BTreeMap<u32, u32>>,
    /// What each node holds, one entry per range.
    held: HashMap<String, Parts>,
    /// The part given last of each range: freed parts are used again as late as possible.
    last: Vec<Option<u32>>,
}

impl Pool {
    /// All parts are free but those that lie in one of the `reserved` ranges.
    pub(crate) fn new(ranges: Vec<Range>, reserved: &[String]) -> Self {
        let count = ranges.len();
        let names: Vec<String> = ranges.iter().map(Range::cidr).collect();
        for (range, name) in ranges.iter().zip(&names) {
            metrics::CIDRS_AT_MOST.with([name]).set(f64::from(range.parts()));
        }
        let mut pool = Self {
            ranges,
            names,
            taken: vec![BTreeMap::new(); count],
            held: HashMap::new(),
            last: vec![None; count],
        };
        for cidr in reserved {
            let parts = pool.covered(std::slice::from_ref(cidr));
            pool.count(&parts, true);
        }
        pool
    }

    /// Whether there is anything to give.
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether the node holds something, which its object may not show yet.
    pub(crate) fn holds(&self, node: &str) -> bool {
        self.held.contains_key(node)
    }

    /// The node has these ranges.
    pub(crate) fn hold(&mut self, node: &str, cidrs: &[String]) {
        let parts = self.covered(cidrs);
        self.take(node, parts);
    }

    /// The node is gone, or did not get what it was given.
    pub(crate) fn release(&mut self, node: &str) {
        if let Some(parts) = self.held.remove(node) {
            self.count(&parts, false);
        }
    }

    /// One free part of each range, written out, which the node holds from now on. `None` when a range is used up.
    pub(crate) fn give(&mut self, node: &str) -> Option<Vec<String>> {
        let free = self.ranges.iter().zip(&self.taken).zip(&self.last);
        let numbers = free
            .map(|((range, taken), last)| range.free(|number| taken.contains_key(&number), *last))
            .collect::<Option<Vec<u32>>>()?;
        for (((range, name), last), number) in
            self.ranges.iter().zip(&self.names).zip(&self.last).zip(&numbers)
        {
            metrics::CIDR_TRIES.with([name]).observe(f64::from(range.passed(*number, *last)));
        }
        self.take(node, numbers.iter().map(|number| *number..*number + 1).collect());
        self.last = numbers.iter().copied().map(Some).collect();
        Some(self.ranges.iter().zip(numbers).map(|(range, number)| range.part(number)).collect())
    }

    fn covered(&self, cidrs: &[String]) -> Parts {
        let of_range = |range: &Range| {
            let found = cidrs.iter().map(|cidr| range.covered(cidr)).find(|parts| !parts.is_empty());
            found.unwrap_or_default()
        };
        self.ranges.iter().map(of_range).collect()
    }

    fn take(&mut self, node: &str, parts: Parts) {
        self.release(node);
        self.count(&parts, true);
        self.held.insert(node.to_owned(), parts);
    }

    fn count(&mut self, parts: &Parts, more: bool) {
        for (place, parts) in parts.iter().enumerate() {
            let before = self.taken[place].len();
            let taken = &mut self.taken[place];
            for number in parts.clone() {
                let count = taken.entry(number).or_default();
                *count = if more { *count + 1 } else { *count - 1 };
                if *count == 0 {
                    taken.remove(&number);
                }
            }
            let (after, name) = (taken.len(), [self.names[place].as_str()]);
            // A part that several hold is counted once.
            metrics::CIDRS_GIVEN.with(name).add(after.saturating_sub(before) as u64);
            metrics::CIDRS_RELEASED.with(name).add(before.saturating_sub(after) as u64);
            metrics::CIDRS_USED.with(name).set(after as f64 / f64::from(self.ranges[place].parts()));
        }
    }
}
