//! Sets of completion indexes, as `status.completedIndexes` writes them: `1,3-5,7`.

use std::fmt;

/// Disjoint intervals, ordered, never touching.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// Reads a list. What does not parse or lies beyond `completions` is left out.
    pub(crate) fn parse(text: &str, completions: i32) -> Self {
        let mut indexes = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
                indexes.add(first, last.min(completions - 1));
            }
        }
        indexes
    }

    fn add(&mut self, first: i32, last: i32) {
        if first > last {
            return;
        }
        let touches =
            |(from, to): &(i32, i32)| *from <= last.saturating_add(1) && first <= to.saturating_add(1);
        let (mut first, mut last) = (first, last);
        for (from, to) in self.0.iter().filter(|interval| touches(interval)) {
            first = first.min(*from);
            last = last.max(*to);
        }
        self.0.retain(|interval| !touches(interval));
        let place = self.0.partition_point(|(from, _)| *from < first);
        self.0.insert(place, (first, last));
    }

    /// Adds one index.
    pub(crate) fn insert(&mut self, index: i32) {
        self.add(index, index);
    }

    /// Whether the index is in the set.
    pub(crate) fn contains(&self, index: i32) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&index))
    }

    /// How many indexes there are.
    pub(crate) fn len(&self) -> i32 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// How many of them are in `other` too.
    pub(crate) fn overlap(&self, other: &Self) -> i32 {
        let pairs = self.0.iter().flat_map(|a| other.0.iter().map(move |b| (a, b)));
        pairs.map(|(a, b)| (a.1.min(b.1) - a.0.max(b.0) + 1).max(0)).sum()
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (first, last)) in self.0.iter().enumerate() {
            let comma = if position > 0 { "," } else { "" };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}
