//! When the node is short of something: the thresholds of the configuration. Pure; rules are upstream's
//! (`pkg/kubelet/eviction/helpers.go`).

use std::time::Duration;

use podium_api::quantity::Quantity;

use crate::{Amounts, Configuration, Span};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Signal {
    Memory,
    /// Of what all pods together may use, `allocatableMemory.available`.
    AllocatableMemory,
    NodeFs,
    NodeFsInodes,
    ImageFs,
    ImageFsInodes,
    Pids,
}

impl Signal {
    const ALL: [(Self, &'static str); 7] = [
        (Self::Memory, "memory.available"),
        (Self::AllocatableMemory, "allocatableMemory.available"),
        (Self::NodeFs, "nodefs.available"),
        (Self::NodeFsInodes, "nodefs.inodesFree"),
        (Self::ImageFs, "imagefs.available"),
        (Self::ImageFsInodes, "imagefs.inodesFree"),
        (Self::Pids, "pid.available"),
    ];

    fn parse(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(_, known)| *known == name);
        found.map(|(signal, _)| *signal).ok_or_else(|| format!("unsupported eviction signal {name}"))
    }

    /// As thresholds and metrics name it.
    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(signal, _)| *signal == self).map_or("", |(_, name)| *name)
    }

    /// What is to be reclaimed, as messages name it.
    pub(crate) fn resource(self) -> &'static str {
        match self {
            Self::Memory | Self::AllocatableMemory => "memory",
            Self::NodeFs | Self::ImageFs => "ephemeral-storage",
            Self::NodeFsInodes | Self::ImageFsInodes => "inodes",
            Self::Pids => "pids",
        }
    }

    /// Whether it is about memory: that goes first, because it is what kills.
    pub(crate) fn is_memory(self) -> bool {
        self.resource() == "memory"
    }

    /// Whether removing images helps.
    pub(crate) fn is_disk(self) -> bool {
        matches!(self, Self::NodeFs | Self::NodeFsInodes | Self::ImageFs | Self::ImageFsInodes)
    }
}

/// An amount, or a part of what there is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Level {
    Amount(i64),
    Percent(f64),
}

impl Level {
    /// Of this capacity.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "a part of a capacity, as upstream counts it"
    )]
    pub(crate) fn of(self, capacity: i64) -> i64 {
        match self {
            Self::Amount(amount) => amount,
            Self::Percent(percent) => (capacity as f64 * percent / 100.0) as i64,
        }
    }

    /// None: it asks for nothing.
    fn parse(signal: &str, text: &str) -> Result<Option<Self>, String> {
        if let Some(number) = text.strip_suffix('%') {
            let percent: f64 =
                number.parse().map_err(|_| format!("{signal}: {text:?} is not a percentage"))?;
            if !(0.0..=100.0).contains(&percent) {
                return Err(format!(
                    "eviction percentage threshold {signal} must be >= 0% and <= 100%: {text}"
                ));
            }
            return Ok((percent > 0.0 && percent < 100.0).then_some(Self::Percent(percent)));
        }
        let amount: Quantity = text.parse().map_err(|_| format!("{signal}: {text:?} is not a quantity"))?;
        if amount <= Quantity::ZERO {
            return Err(format!("eviction threshold {signal} must be positive: {text}"));
        }
        Ok(Some(Self::Amount(amount.value())))
    }
}

/// Below this level something is done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Threshold {
    pub(crate) signal: Signal,
    pub(crate) level: Level,
    /// How long it may last; None is a hard threshold.
    pub(crate) grace: Option<Duration>,
    /// How much more than the level is to be reached before it is over.
    pub(crate) reclaim: Option<Level>,
}

/// `evictionHard` as it is meant: the defaults where nothing was said, or beside what was said.
pub(crate) fn hard(settings: &Configuration) -> Amounts {
    let defaults = [
        ("memory.available", "100Mi"),
        ("nodefs.available", "10%"),
        ("nodefs.inodesFree", "5%"),
        ("imagefs.available", "15%"),
        ("imagefs.inodesFree", "5%"),
    ];
    let defaults = defaults.into_iter().map(|(signal, level)| (signal.to_owned(), level.to_owned()));
    match &settings.eviction_hard {
        None => defaults.collect(),
        Some(own) if settings.merge_default_eviction_settings => defaults.chain(own.clone()).collect(),
        Some(own) => own.clone(),
    }
}

/// All thresholds, hard ones first.
pub(crate) fn parse(settings: &Configuration) -> Result<Vec<Threshold>, String> {
    let mut found = Vec::new();
    let reclaim_of = |signal: &str| match settings.eviction_minimum_reclaim.get(signal) {
        Some(text) => Level::parse(signal, text),
        None => Ok(None),
    };
    for signal in settings.eviction_minimum_reclaim.keys().chain(settings.eviction_soft_grace_period.keys()) {
        Signal::parse(signal)?;
    }
    for (name, text) in &hard(settings) {
        let signal = Signal::parse(name)?;
        if let Some(level) = Level::parse(name, text)? {
            found.push(Threshold { signal, level, grace: None, reclaim: reclaim_of(name)? });
        }
    }
    if settings.enforce_node_allocatable.iter().any(|option| option == "pods") {
        // What holds for the machine's memory holds for what the pods' group leaves of its bound, too.
        let of_memory: Vec<Threshold> =
            found.iter().filter(|one| one.signal == Signal::Memory).copied().collect();
        let of_pods = |one| Threshold { signal: Signal::AllocatableMemory, ..one };
        found.extend(of_memory.into_iter().map(of_pods));
    }
    for (name, text) in &settings.eviction_soft {
        let signal = Signal::parse(name)?;
        let grace = settings.eviction_soft_grace_period.get(name);
        let grace = grace.ok_or_else(|| {
            format!("grace period must be specified for the soft eviction threshold {name}")
        })?;
        let grace =
            Span::parse(grace).ok_or_else(|| format!("{name}: {grace:?} is not a duration such as 1m30s"))?;
        if let Some(level) = Level::parse(name, text)? {
            found.push(Threshold { signal, level, grace: Some(grace.0), reclaim: reclaim_of(name)? });
        }
    }
    Ok(found)
}

/// What the hard threshold of a signal keeps free of a capacity.
pub(crate) fn kept_free(settings: &Configuration, signal: Signal, capacity: i64) -> i64 {
    let all = parse(settings).unwrap_or_default();
    let own = all.iter().find(|one| one.signal == signal && one.grace.is_none());
    own.map_or(0, |threshold| threshold.level.of(capacity))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amounts(list: &[(&str, &str)]) -> Amounts {
        list.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn defaults_and_what_goes_before_them() {
        let mut settings = Configuration::default();
        assert_eq!(parse(&settings).unwrap().len(), 6);
        assert_eq!(kept_free(&settings, Signal::Memory, 1 << 30), 100 << 20);
        assert_eq!(kept_free(&settings, Signal::NodeFs, 1000), 100);
        settings.eviction_hard = Some(amounts(&[("memory.available", "5%"), ("imagefs.available", "0%")]));
        let mut found = parse(&settings).unwrap();
        found.sort_by_key(|one| one.signal);
        let all: Vec<_> = found.iter().map(|one| (one.signal, one.level)).collect();
        let level = Level::Percent(5.0);
        assert_eq!(all, [(Signal::Memory, level), (Signal::AllocatableMemory, level)]);
        // Where nothing bounds the pods together, there is nothing to measure.
        let unbounded =
            Configuration { enforce_node_allocatable: vec!["none".to_owned()], ..settings.clone() };
        assert_eq!(parse(&unbounded).unwrap().len(), 1);
        assert_eq!(kept_free(&settings, Signal::NodeFs, 1000), 0);
        settings.merge_default_eviction_settings = true;
        assert_eq!(hard(&settings)["nodefs.available"], "10%");
        assert_eq!(hard(&settings)["memory.available"], "5%");
        settings.eviction_hard = Some(Amounts::new());
        settings.merge_default_eviction_settings = false;
        assert_eq!(parse(&settings), Ok(vec![]));
    }

    #[test]
    fn soft_ones_have_a_grace_period() {
        let mut settings = Configuration {
            eviction_hard: Some(Amounts::new()),
            eviction_soft: amounts(&[("memory.available", "1Gi")]),
            eviction_minimum_reclaim: amounts(&[("memory.available", "500Mi")]),
            ..Configuration::default()
        };
        assert!(parse(&settings).unwrap_err().starts_with("grace period must be specified for the soft"));
        settings.eviction_soft_grace_period = amounts(&[("memory.available", "1m30s")]);
        let expected = Threshold {
            signal: Signal::Memory,
            level: Level::Amount(1 << 30),
            grace: Some(Duration::from_secs(90)),
            reclaim: Some(Level::Amount(500 << 20)),
        };
        assert_eq!(parse(&settings), Ok(vec![expected]));
        for (signal, text, why) in [
            ("gpu.available", "1", "unsupported eviction signal gpu.available"),
            ("memory.available", "-1", "must be positive"),
            ("memory.available", "101%", "must be >= 0%"),
            ("memory.available", "much", "is not a quantity"),
        ] {
            settings.eviction_hard = Some(amounts(&[(signal, text)]));
            assert!(parse(&settings).unwrap_err().contains(why), "{signal} {text}");
        }
    }
}
