//! What is told of control groups beside pods: those of the kubelet, of the runtime and of all pods; and the rates that only two
//! looks at a counter give.

use std::{collections::HashMap, fs};

use parking_lot::Mutex;
use tokio::net::UnixStream;

use super::{Host, Usage};

/// Rates over less time than this are noise.
const SAMPLE_NANOS: i64 = 500_000_000;

/// When a counter was looked at, what it was, and the rate found then.
type Sample = (i64, u64, Option<u64>);

/// The last looks at counters of processor time, by what they are of: the machine and a few groups, never pods.
#[derive(Debug, Default)]
pub(crate) struct Rates(Mutex<HashMap<&'static str, Sample>>);

impl Rates {
    /// Processors used since the last look, in billionths; None at the first one.
    pub(super) fn rate(&self, of: &'static str, usage: &Usage) -> Option<u64> {
        let (now, count) = (usage.time, usage.cpu_nanoseconds?);
        let mut all = self.0.lock();
        let rate = match all.get(of) {
            Some((then, _, rate)) if now - then < SAMPLE_NANOS => return *rate,
            Some((then, before, _)) => {
                let passed = u128::try_from(now - then).unwrap_or(1).max(1);
                u64::try_from(u128::from(count.saturating_sub(*before)) * 1_000_000_000 / passed).ok()
            }
            None => None,
        };
        all.insert(of, (now, count, rate));
        rate
    }
}

/// A group that belongs to the node, by upstream's name for it.
#[derive(Debug)]
pub(super) struct SystemContainer {
    pub(super) name: &'static str,
    pub(super) usage: Usage,
}

/// Those that are known. A group that is the whole machine's says nothing of who is in it.
pub(super) async fn system(host: &dyn Host, now: i64) -> Vec<SystemContainer> {
    let group_of = |pid: Option<i32>| {
        let at = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
        let text = fs::read_to_string(format!("/proc/{at}/cgroup")).ok()?;
        group(&text, host.cgroup_v2())
    };
    let runtime = runtime_pid(host.runtime_endpoint()).await;
    let groups = [
        ("kubelet", group_of(None)),
        ("runtime", runtime.and_then(|pid| group_of(Some(pid)))),
        ("pods", Some(host.pods_group())),
    ];
    groups
        .into_iter()
        .filter_map(|(name, path)| {
            let path = path.filter(|path| path != "/")?;
            let read = |controller: &str, file: &str| host.group_file(&path, controller, file);
            let mut usage = Usage::of_cgroup(host.cgroup_v2(), now, read);
            usage.nano_cores = host.kept().rates.rate(name, &usage);
            (usage.time > 0).then_some(SystemContainer { name, usage })
        })
        .collect()
}

/// Who listens on the runtime's socket.
async fn runtime_pid(endpoint: &str) -> Option<i32> {
    let path = endpoint.strip_prefix("unix://")?;
    UnixStream::connect(path).await.ok()?.peer_cred().ok()?.pid()
}

/// The group that accounts for memory, from the text of `/proc/PID/cgroup`.
fn group(text: &str, v2: bool) -> Option<String> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let wanted =
            if v2 { id == "0" } else { controllers.split(',').any(|controller| controller == "memory") };
        wanted.then(|| path.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_a_process() {
        let v1 = "9:name=systemd:/a\n4:cpu,cpuacct:/b\n3:memory:/system.slice/c:d\n0::/e\n";
        assert_eq!(group(v1, false).as_deref(), Some("/system.slice/c:d"));
        assert_eq!(group("0::/e\n", true).as_deref(), Some("/e"));
        assert_eq!(group("0::/e\n", false), None);
    }

    #[test]
    fn rates_take_two_looks() {
        let rates = Rates::default();
        let look = |time: i64, count| {
            rates.rate("kubelet", &Usage { time, cpu_nanoseconds: Some(count), ..Usage::default() })
        };
        assert_eq!(look(1, 5), None);
        assert_eq!(look(2_000_000_001, 1_000_000_005), Some(500_000_000));
        assert_eq!(look(2_100_000_000, 9_000_000_000), Some(500_000_000), "too soon for another");
        assert_eq!(rates.rate("node", &Usage::default()), None);
    }

    #[tokio::test]
    async fn the_runtime_is_who_listens() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cri.sock");
        let endpoint = format!("unix://{}", path.display());
        assert_eq!(runtime_pid(&endpoint).await, None);
        let _listening = tokio::net::UnixListener::bind(&path).unwrap();
        assert_eq!(runtime_pid(&endpoint).await, i32::try_from(std::process::id()).ok());
    }
}
