//! What the kernel counts for one control group, of both versions, by cAdvisor's meaning of each number.

use std::{collections::BTreeMap, fs};

use nix::unistd::{SysconfVar, sysconf};
use podium_cri::{parse_pressure, v1};

use crate::server::stats::Pressures;

/// What went to and from one device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Io {
    pub(super) read_bytes: u64,
    pub(super) written_bytes: u64,
    pub(super) reads: u64,
    pub(super) writes: u64,
}

/// The numbers of a group; None where the kernel does not have one. Times are in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Group {
    pub(super) cpu_user: Option<u64>,
    pub(super) cpu_system: Option<u64>,
    /// Periods of a quota, those in which it was used up, and how long tasks waited for the next.
    pub(super) periods: Option<u64>,
    pub(super) throttled_periods: Option<u64>,
    pub(super) throttled: Option<u64>,
    pub(super) cache: Option<u64>,
    pub(super) mapped_file: Option<u64>,
    pub(super) kernel: Option<u64>,
    pub(super) swap: Option<u64>,
    pub(super) active_file: Option<u64>,
    pub(super) inactive_file: Option<u64>,
    pub(super) max_usage: Option<u64>,
    /// How often the bound of memory was met, and how many processes were killed for it.
    pub(super) failures: Option<u64>,
    pub(super) oom_kills: Option<u64>,
    pub(super) processes: Option<u64>,
    pub(super) threads: Option<u64>,
    /// Zero: as many as there may be.
    pub(super) most_threads: Option<u64>,
    pub(super) pressures: Pressures,
    /// By device, as `major:minor`.
    pub(super) io: BTreeMap<String, Io>,
    /// One process of it.
    pub(super) pid: Option<u32>,
}

impl Group {
    /// `read` takes a controller and a file's name. Blocking.
    pub(super) fn read(v2: bool, read: impl Fn(&str, &str) -> Option<String>) -> Self {
        let number = |controller: &str, file: &str| read(controller, file)?.trim().parse::<u64>().ok();
        let memory = Table(read("memory", "memory.stat").unwrap_or_default());
        let cpu = Table(read("cpu", "cpu.stat").unwrap_or_default());
        let micros = |key: &str| cpu.get(key).map(|micros| micros.saturating_mul(1000));
        let members = read(if v2 { "" } else { "pids" }, "cgroup.procs");
        let pids = members.as_deref().map(|text| text.lines().filter_map(|line| line.parse::<u32>().ok()));
        let common = Self {
            periods: cpu.get("nr_periods"),
            throttled_periods: cpu.get("nr_throttled"),
            threads: number("pids", "pids.current"),
            most_threads: read("pids", "pids.max").map(|text| text.trim().parse().unwrap_or(0)),
            processes: pids.clone().map(|pids| pids.count() as u64),
            pid: pids.and_then(|mut pids| pids.next()),
            ..Self::default()
        };
        if v2 {
            let events = Table(read("memory", "memory.events").unwrap_or_default());
            let pressure = |of: &str| parse_pressure(&read(of, &format!("{of}.pressure"))?);
            return Self {
                cpu_user: micros("user_usec"),
                cpu_system: micros("system_usec"),
                throttled: micros("throttled_usec"),
                cache: memory.get("file"),
                mapped_file: memory.get("file_mapped"),
                kernel: memory.get("kernel"),
                active_file: memory.get("active_file"),
                inactive_file: memory.get("inactive_file"),
                swap: number("memory", "memory.swap.current"),
                max_usage: number("memory", "memory.peak"),
                failures: events.get("max"),
                oom_kills: events.get("oom_kill"),
                pressures: Pressures { cpu: pressure("cpu"), memory: pressure("memory"), io: pressure("io") },
                io: read("io", "io.stat").map(|text| io_of_v2(&text)).unwrap_or_default(),
                ..common
            };
        }
        let ticks = Table(read("cpuacct", "cpuacct.stat").unwrap_or_default());
        let rate = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|rate| u64::try_from(rate).ok());
        let nanos = |key: &str| {
            ticks.get(key).map(|ticks| ticks.saturating_mul(1_000_000_000 / rate.unwrap_or(100).max(1)))
        };
        let control = Table(read("memory", "memory.oom_control").unwrap_or_default());
        let blkio = |file: &str| read("blkio", file).unwrap_or_default();
        Self {
            cpu_user: nanos("user"),
            cpu_system: nanos("system"),
            throttled: cpu.get("throttled_time"),
            cache: memory.get("total_cache"),
            mapped_file: memory.get("total_mapped_file"),
            kernel: number("memory", "memory.kmem.usage_in_bytes"),
            active_file: memory.get("total_active_file"),
            inactive_file: memory.get("total_inactive_file"),
            swap: memory.get("total_swap"),
            max_usage: number("memory", "memory.max_usage_in_bytes"),
            failures: number("memory", "memory.failcnt"),
            oom_kills: control.get("oom_kill"),
            io: io_of_v1(&blkio("blkio.throttle.io_service_bytes"), &blkio("blkio.throttle.io_serviced")),
            ..common
        }
    }
}

/// Lines of a key and a number.
struct Table(String);

impl Table {
    fn get(&self, key: &str) -> Option<u64> {
        self.0.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
    }
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 ...`
fn io_of_v2(text: &str) -> BTreeMap<String, Io> {
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split(' ');
        let Some(device) = fields.next().filter(|device| device.contains(':')) else { continue };
        let mut io = Io::default();
        for (key, number) in fields.filter_map(|field| field.split_once('=')) {
            let number = number.parse().unwrap_or(0);
            match key {
                "rbytes" => io.read_bytes = number,
                "wbytes" => io.written_bytes = number,
                "rios" => io.reads = number,
                "wios" => io.writes = number,
                _ => {}
            }
        }
        found.insert(device.to_owned(), io);
    }
    found
}

/// `8:0 Read 1`, one file of bytes and one of operations.
fn io_of_v1(bytes: &str, operations: &str) -> BTreeMap<String, Io> {
    let mut found: BTreeMap<String, Io> = BTreeMap::new();
    for (text, of_bytes) in [(bytes, true), (operations, false)] {
        for line in text.lines() {
            let mut fields = line.split(' ');
            // The last line is a sum, without a device.
            let (Some(device), Some(kind), Some(number)) = (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let io = found.entry(device.to_owned()).or_default();
            let place = match (kind, of_bytes) {
                ("Read", true) => &mut io.read_bytes,
                ("Write", true) => &mut io.written_bytes,
                ("Read", false) => &mut io.reads,
                ("Write", false) => &mut io.writes,
                _ => continue,
            };
            *place = number.parse().unwrap_or(0);
        }
    }
    found
}

/// The device's file, from its numbers; empty if it has gone.
pub(super) fn device_name(numbers: &str) -> String {
    let link = fs::read_link(format!("/sys/dev/block/{numbers}")).ok();
    let name = link.as_deref().and_then(|link| link.file_name()).and_then(|name| name.to_str());
    name.map(|name| format!("/dev/{name}")).unwrap_or_default()
}

/// Packets of one interface, which CRI does not count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Packets {
    pub(super) interface: String,
    pub(super) received: u64,
    pub(super) receive_dropped: u64,
    pub(super) sent: u64,
    pub(super) send_dropped: u64,
}

/// From the text of `/proc/PID/net/dev`: the name, eight numbers received, eight sent. Loopback is left out.
pub(super) fn packets(text: &str) -> Vec<Packets> {
    let lines = text.lines().filter_map(|line| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        Some(Packets {
            interface: name.trim().to_owned(),
            received: *numbers.get(1)?,
            receive_dropped: *numbers.get(3)?,
            sent: *numbers.get(9)?,
            send_dropped: *numbers.get(11)?,
        })
    });
    lines.filter(|one| one.interface != "lo").collect()
}

/// Microseconds of one kind of pressure.
pub(super) fn stalled(psi: Option<&v1::PsiStats>, full: bool) -> Option<u64> {
    let psi = psi?;
    Some(if full { psi.full.as_ref()? } else { psi.some.as_ref()? }.total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_tell_the_same() {
        let v2 = Group::read(true, |_, file| {
            let text = match file {
                "cpu.stat" => {
                    "usage_usec 9\nuser_usec 2000000\nsystem_usec 1000000\nnr_periods 10\nnr_throttled 4\nthrottled_usec 500000\n"
                }
                "memory.stat" => {
                    "anon 1\nfile 100\nkernel 30\nfile_mapped 7\nactive_file 60\ninactive_file 40\n"
                }
                "memory.swap.current" => "5\n",
                "memory.peak" => "900\n",
                "memory.events" => "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n",
                "cgroup.procs" => "11\n12\n",
                "pids.current" => "6\n",
                "pids.max" => "max\n",
                "io.stat" => "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
                "cpu.pressure" => "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\n",
                _ => return None,
            };
            Some(text.to_owned())
        });
        assert_eq!((v2.cpu_user, v2.cpu_system), (Some(2_000_000_000), Some(1_000_000_000)));
        assert_eq!((v2.periods, v2.throttled_periods, v2.throttled), (Some(10), Some(4), Some(500_000_000)));
        assert_eq!((v2.cache, v2.mapped_file, v2.kernel, v2.swap), (Some(100), Some(7), Some(30), Some(5)));
        assert_eq!((v2.active_file, v2.inactive_file, v2.max_usage), (Some(60), Some(40), Some(900)));
        assert_eq!((v2.failures, v2.oom_kills), (Some(3), Some(2)));
        assert_eq!(
            (v2.processes, v2.threads, v2.most_threads, v2.pid),
            (Some(2), Some(6), Some(0), Some(11))
        );
        assert_eq!(v2.io["8:0"], Io { read_bytes: 1, written_bytes: 2, reads: 3, writes: 4 });
        assert_eq!(stalled(v2.pressures.cpu.as_ref(), false), Some(1_500_000));
        assert_eq!(stalled(v2.pressures.cpu.as_ref(), true), None);

        let v1 = Group::read(false, |controller, file| {
            let text = match (controller, file) {
                ("cpu", "cpu.stat") => "nr_periods 10\nnr_throttled 4\nthrottled_time 500000000\n",
                ("cpuacct", "cpuacct.stat") => "user 200\nsystem 100\n",
                ("memory", "memory.stat") => {
                    "cache 1\ntotal_cache 100\ntotal_mapped_file 7\ntotal_swap 5\ntotal_active_file 60\ntotal_inactive_file 40\n"
                }
                ("memory", "memory.kmem.usage_in_bytes") => "30\n",
                ("memory", "memory.max_usage_in_bytes") => "900\n",
                ("memory", "memory.failcnt") => "3\n",
                ("memory", "memory.oom_control") => "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
                ("pids", "cgroup.procs") => "11\n12\n",
                ("pids", "pids.current") => "6\n",
                ("pids", "pids.max") => "max\n",
                ("blkio", "blkio.throttle.io_service_bytes") => {
                    "8:0 Read 1\n8:0 Write 2\n8:0 Sync 3\nTotal 3\n"
                }
                ("blkio", "blkio.throttle.io_serviced") => "8:0 Read 3\n8:0 Write 4\nTotal 7\n",
                _ => return None,
            };
            Some(text.to_owned())
        });
        assert_eq!(v1, Group { pressures: Pressures::default(), ..v2 });
        assert_eq!(Group::read(true, |_, _| None), Group::default());
    }

    #[test]
    fn packets_of_interfaces() {
        let text = "Inter-| Receive\n face |bytes packets\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  \
            eth0: 10 1 2 3 0 0 0 0 20 4 5 6 0 0 0 0\n short: 1 2\n";
        let expected = Packets {
            interface: "eth0".to_owned(),
            received: 1,
            receive_dropped: 3,
            sent: 4,
            send_dropped: 6,
        };
        assert_eq!(packets(text), [expected]);
        assert_eq!(device_name("999:999"), "");
    }
}
