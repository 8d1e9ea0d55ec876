//! What the processes of a node use, as `/proc` tells it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::load::server::resident;

/// The processes that are the node: those that were named, and the shims that come and go with pods.
#[derive(Clone, Debug)]
pub(super) struct Processes {
    named: Vec<i32>,
    /// What stands in the command line of each shim.
    shims: Option<String>,
}

impl Processes {
    pub(super) fn new(named: Vec<i32>, shims: Option<String>) -> Self {
        Processes { named, shims }
    }

    /// Resident bytes of those that were named.
    pub(super) fn resident(&self) -> Result<u64> {
        self.named.iter().map(|pid| resident(*pid)).sum()
    }

    /// The shims that run now.
    pub(super) fn shims(&self) -> Result<Vec<i32>> {
        let Some(wanted) = &self.shims else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let entry = entry?;
            let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
            // It may have ended meanwhile.
            let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
            let line = String::from_utf8_lossy(&line);
            let program = line.split('\0').next().unwrap_or_default();
            if program.contains("shim") && line.contains(wanted.as_str()) {
                found.push(pid);
            }
        }
        Ok(found)
    }

    /// What each shim has for itself, ascending.
    pub(super) fn private(&self) -> Result<Vec<u64>> {
        let mut all = self.shims()?.into_iter().map(private).collect::<Result<Vec<u64>>>()?;
        all.sort_unstable();
        Ok(all)
    }

    /// Processor time of all of them until now.
    pub(super) fn times(&self) -> Result<Times> {
        let shims = self.shims()?;
        let named = self.named.iter().map(|pid| Ok((*pid, time(*pid)?))).collect::<Result<_>>()?;
        let shims = shims.into_iter().map(|pid| Ok((pid, time(pid)?))).collect::<Result<_>>()?;
        Ok(Times { named, shims })
    }
}

/// Processor time by process.
#[derive(Debug)]
pub(super) struct Times {
    named: BTreeMap<i32, Duration>,
    shims: BTreeMap<i32, Duration>,
}

impl Times {
    /// What was used since `before`: by those named, and by the shims that were there both times.
    pub(super) fn since(&self, before: &Times) -> (Duration, Duration) {
        let sum = |now: &BTreeMap<i32, Duration>, before: &BTreeMap<i32, Duration>| {
            now.iter().filter_map(|(pid, time)| Some(time.saturating_sub(*before.get(pid)?))).sum()
        };
        (sum(&self.named, &before.named), sum(&self.shims, &before.shims))
    }
}

/// User and system time of a process and of the children that it has waited for.
fn time(pid: i32) -> Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = text.rsplit_once(')').context("stat without a name")?;
    let fields: Vec<u64> = rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    let [user, system, children_user, children_system] = fields[..].get(11..15).context("short stat")? else {
        return Ok(Duration::ZERO);
    };
    let ticks = |count: u64| Duration::from_millis(count * 10);
    // The first is in hundredths of a second, of which a shim uses less than one; the second forgets threads that ended.
    let own = ticks(user + system).max(threads(pid)?);
    Ok(own + ticks(children_user + children_system))
}

/// Time of the threads that live.
fn threads(pid: i32) -> Result<Duration> {
    let mut sum = 0;
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let Ok(text) = std::fs::read_to_string(entry?.path().join("schedstat")) else { continue };
        sum += text.split(' ').next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(sum))
}

/// Memory that a process has for itself, in bytes.
fn private(pid: i32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    Ok((field("Private_Clean:") + field("Private_Dirty:")) << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_its_own_use() {
        let own = i32::try_from(std::process::id()).unwrap();
        let processes = Processes::new(vec![own], Some("no such command line".to_owned()));
        let before = processes.times().unwrap();
        let mut sum = 0u64;
        // Until the scheduler has counted some of it.
        while processes.times().unwrap().since(&before).0.is_zero() {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(processes.resident().unwrap() > 0 && private(own).unwrap() > 0);
        assert_eq!(processes.shims().unwrap(), Vec::<i32>::new());
    }
}
