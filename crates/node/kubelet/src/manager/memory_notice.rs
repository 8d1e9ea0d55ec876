//! The kernel's own word that memory use has come to a threshold, so that nobody has to look: `kernelMemcgNotification`.
//!
//! Source: `memory.usage_in_bytes` and `cgroup.event_control` of cgroups version 1, and upstream's
//! `memory_threshold_notifier_others.go`. Version 2 has no such word, and there the setting does nothing, as upstream.
#![allow(unsafe_code)]

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    sys::eventfd::{EfdFlags, EventFd},
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{
    cgroups::Cgroups,
    eviction::{
        state::Observations,
        thresholds::{Signal, Threshold},
    },
};

/// Waits for the use of one group to cross an amount of bytes, in either direction.
pub(super) struct Notice {
    events: AsyncFd<EventFd>,
}

impl Notice {
    /// Of the group in this directory.
    fn new(group: &Path, bytes: i64) -> io::Result<Self> {
        let events = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let usage = File::open(group.join("memory.usage_in_bytes"))?;
        let order = format!("{} {} {bytes}", events.as_fd().as_raw_fd(), usage.as_raw_fd());
        fs::write(group.join("cgroup.event_control"), order)?;
        // SAFETY: the descriptor belongs to the `EventFd` inside, which lives as long as the registration and keeps it.
        let events = unsafe { AsyncFd::register_with_interest(events, Interest::READABLE)? };
        Ok(Self { events })
    }

    async fn crossed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.events.readable().await?;
            match self.events.get_ref().read() {
                Ok(_) => return Ok(()),
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The use in bytes at which a threshold is met, and the signal it is about. What is met already needs no word.
fn amounts(
    thresholds: &[Threshold],
    observed: &Observations,
    usage: impl Fn(Signal) -> Option<i64>,
) -> Vec<(Signal, i64)> {
    let of = |threshold: &Threshold| {
        let signal = threshold.signal;
        let seen = observed.get(&signal).filter(|_| signal.is_memory())?;
        let room = seen.available - threshold.level.of(seen.capacity);
        // Files that the kernel would give back count as use, and as available: both are as they were just now.
        (room > 0).then_some(())?;
        Some((signal, usage(signal)?.saturating_add(room)))
    };
    thresholds.iter().filter_map(of).collect()
}

/// Where the kernel counts what a signal is about.
fn group(cgroups: &Cgroups, signal: Signal) -> Option<PathBuf> {
    let path = if signal == Signal::AllocatableMemory { cgroups.top() } else { "/".to_owned() };
    cgroups.directory(&path, "memory")
}

/// Asks for a word about each threshold of memory, from what was observed just now.
pub(super) fn ask(cgroups: &Cgroups, thresholds: &[Threshold], observed: &Observations) -> Vec<Notice> {
    let usage = |signal| {
        let text = fs::read_to_string(group(cgroups, signal)?.join("memory.usage_in_bytes")).ok()?;
        text.trim().parse().ok()
    };
    let notice = |(signal, bytes)| {
        let notice = Notice::new(&group(cgroups, signal)?, bytes);
        notice
            .inspect_err(|error| tracing::warn!(signal = signal.name(), %error, "the kernel gives no notice of memory"))
            .ok()
    };
    amounts(thresholds, observed, usage).into_iter().filter_map(notice).collect()
}

/// Returns at the first word; never if there is none to come.
pub(super) async fn any(notices: &[Notice]) {
    if notices.is_empty() {
        return std::future::pending().await;
    }
    let words = notices.iter().map(|notice| Box::pin(notice.crossed()));
    let (outcome, ..) = futures::future::select_all(words).await;
    if let Err(error) = outcome {
        tracing::warn!(%error, "the kernel's notice of memory cannot be read");
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::{state::Observed, thresholds::Level};

    #[test]
    fn how_much_use_is_too_much() {
        let threshold = |signal, level| Threshold { signal, level, grace: None, reclaim: None };
        let thresholds = [
            threshold(Signal::Memory, Level::Amount(100)),
            threshold(Signal::Memory, Level::Percent(50.0)),
            threshold(Signal::AllocatableMemory, Level::Amount(10)),
            threshold(Signal::NodeFs, Level::Amount(10)),
        ];
        let observed = Observations::from([
            (Signal::Memory, Observed { available: 400, capacity: 1000 }),
            (Signal::AllocatableMemory, Observed { available: 30, capacity: 90 }),
            (Signal::NodeFs, Observed { available: 400, capacity: 1000 }),
        ]);
        let usage = |signal| Some(if signal == Signal::Memory { 700 } else { 60 });
        // Half of it is used already; and disks have no such word.
        assert_eq!(
            amounts(&thresholds, &observed, usage),
            [(Signal::Memory, 1000), (Signal::AllocatableMemory, 80)]
        );
        assert_eq!(amounts(&thresholds, &Observations::new(), usage), []);
        assert_eq!(amounts(&thresholds, &observed, |_| None), []);
    }

    #[tokio::test]
    async fn the_kernel_is_asked_and_heard() {
        let group = tempfile::tempdir().unwrap();
        assert!(Notice::new(group.path(), 5).is_err());
        fs::write(group.path().join("memory.usage_in_bytes"), "1").unwrap();
        let notices = [Notice::new(group.path(), 9).unwrap(), Notice::new(group.path(), 5).unwrap()];
        let order = fs::read_to_string(group.path().join("cgroup.event_control")).unwrap();
        let events = notices[1].events.get_ref();
        let [first, _, bytes] = order.split(' ').collect::<Vec<_>>()[..] else { panic!("{order}") };
        assert_eq!((first, bytes), (events.as_fd().as_raw_fd().to_string().as_str(), "5"));
        let mut waiting = Box::pin(any(&notices));
        assert!(futures::poll!(&mut waiting).is_pending());
        events.write(1).unwrap();
        waiting.await;
    }

    /// Against the kernel of this machine, where it has version 1.
    #[tokio::test]
    async fn this_kernel_gives_notice() {
        let Ok(cgroups) = Cgroups::new(&crate::Configuration::default()) else { return };
        let (Some(parent), true) = (cgroups.directory("/", "memory"), nix::unistd::geteuid().is_root())
        else {
            println!("skipped: needs root and cgroups version 1");
            return;
        };
        let group = parent.join(format!("podium-notice-{}", std::process::id()));
        fs::create_dir(&group).unwrap();
        let asked = Notice::new(&group, 4 << 20);
        let outcome = async {
            let notice = asked?;
            let script =
                format!("echo $$ > {}/cgroup.procs && head -c 16M /dev/zero | tail -c 16M", group.display());
            let mut child = tokio::process::Command::new("sh")
                .args(["-c", &script])
                .stdout(std::process::Stdio::null())
                .spawn()?;
            let heard = tokio::time::timeout(std::time::Duration::from_secs(20), notice.crossed()).await;
            child.wait().await?;
            heard.map_err(io::Error::other)?
        };
        let outcome = outcome.await;
        fs::remove_dir(&group).unwrap();
        outcome.unwrap();
    }
}
