//! Cgroups by way of systemd: groups above containers are slices, which systemd makes, bounds and removes when it is told so
//! over D-Bus. Writing beside it would last until it looks again.
//!
//! Source: systemd.slice(5) and systemd.resource-control(5), org.freedesktop.systemd1(5), and the names that upstream's
//! kubelet and its runtimes agree on.

use std::{path::PathBuf, time::Duration};

use futures::StreamExt;
use tokio::{net::UnixStream, runtime::Handle};
use zbus::{
    Connection, MatchRule, MessageStream, connection,
    message::Type,
    zvariant::{OwnedObjectPath, Value},
};

use super::{Limits, weight};
use crate::resources::CpuBounds;

const SERVICE: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// How long systemd may take for one slice.
const LIMIT: Duration = Duration::from_secs(30);
/// Ends of jobs that wait to be read: systemd tells of everybody's.
const SIGNALS: usize = 1024;

/// Why systemd did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SystemdError {
    #[error("no message bus at {path}: {source}")]
    Bus { path: PathBuf, source: std::io::Error },
    #[error("systemd, asked for {unit}: {source}")]
    Call { unit: String, source: Box<zbus::Error> },
    #[error("systemd did not answer for {unit} in {LIMIT:?}")]
    Silent { unit: String },
    #[error("systemd did not start {unit}: its job ended as {result}")]
    Job { unit: String, result: String },
}

/// The group of these names, each within the one before: `[a, b-c]` is `/a.slice/a-b_c.slice`. A dash stands for a level in
/// a slice's name, so those in names are written as underscores.
pub(super) fn path(names: &[&str]) -> String {
    let (mut path, mut unit) = (String::new(), String::new());
    for name in names {
        if !unit.is_empty() {
            unit.push('-');
        }
        unit.push_str(&name.replace('-', "_"));
        path.push('/');
        path.push_str(&unit);
        path.push_str(".slice");
    }
    path
}

/// The uid of a pod from the name of its slice, as [`path`] makes it.
pub(super) fn pod_uid(slice: &str) -> Option<String> {
    let last = slice.strip_suffix(".slice")?.rsplit('-').next()?;
    Some(last.strip_prefix("pod")?.replace('_', "-"))
}

/// The slice that is named last in a group's path, and the one it is in.
fn units(path: &str) -> (&str, &str) {
    let mut parts = path.trim_matches('/').rsplit('/');
    (parts.next().unwrap_or_default(), parts.next().unwrap_or("-.slice"))
}

type Property = (&'static str, Value<'static>);

/// Limits as properties of a unit. Zero shares and None are not said.
fn resources(limits: Limits, cpu: CpuBounds, v2: bool) -> Vec<Property> {
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    let mut properties: Vec<Property> = Vec::new();
    if limits.cpu_shares > 0 {
        properties.push(if v2 {
            ("CPUWeight", number(weight(limits.cpu_shares)).into())
        } else {
            ("CPUShares", number(limits.cpu_shares).into())
        });
    }
    if let Some(quota) = limits.cpu_quota {
        // Whole percents of a second, rounded up: systemd keeps no smaller parts.
        let micros = match u64::try_from(quota) {
            Ok(quota) => {
                (quota * 1_000_000).div_ceil(number(cpu.period_micros).max(1)).next_multiple_of(10_000)
            }
            Err(_) => u64::MAX,
        };
        properties.push(("CPUQuotaPeriodUSec", number(cpu.period_micros).into()));
        properties.push(("CPUQuotaPerSecUSec", micros.into()));
    }
    if let Some(bytes) = limits.memory_bytes {
        properties.push((if v2 { "MemoryMax" } else { "MemoryLimit" }, number(bytes).into()));
    }
    if let Some(pids) = limits.pids {
        properties.push(("TasksMax", number(pids).into()));
    }
    properties
}

/// A slice's properties when it is made.
fn slice(unit: &str, parent: &str, v2: bool) -> Vec<Property> {
    let accounting = if v2 { "IOAccounting" } else { "BlockIOAccounting" };
    let mut properties: Vec<Property> = vec![
        ("Description", format!("pods of Kubernetes: {unit}").into()),
        ("Wants", vec![parent.to_owned()].into()),
        // A node's pods end by the kubelet's word, not in the order of the machine's units.
        ("DefaultDependencies", false.into()),
    ];
    properties.extend(
        ["CPUAccounting", "MemoryAccounting", "TasksAccounting", accounting].map(|name| (name, true.into())),
    );
    properties
}

/// systemd, on the bus at a socket. Every task has a connection of its own: they are rare, and the bus may be started anew.
#[derive(Debug, Clone)]
pub(crate) struct Systemd {
    bus: PathBuf,
    runtime: Handle,
}

impl Systemd {
    /// To be called within a runtime.
    pub(crate) fn new(bus: PathBuf) -> Self {
        Self { bus, runtime: Handle::current() }
    }

    /// Makes a slice, or bounds one that is there. Blocking; not for a runtime's own threads.
    pub(super) fn make(
        &self,
        path: &str,
        limits: Limits,
        cpu: CpuBounds,
        v2: bool,
    ) -> Result<(), SystemdError> {
        let (unit, parent) = units(path);
        let bounds = resources(limits, cpu, v2);
        let whole = slice(unit, parent, v2).into_iter().chain(resources(limits, cpu, v2)).collect();
        self.limited(unit, async |bus| match start(bus, unit, whole).await {
            Err(error) if is(&error, "UnitExists") => {
                bus.call_method(
                    Some(SERVICE),
                    PATH,
                    Some(MANAGER),
                    "SetUnitProperties",
                    &(unit, true, bounds),
                )
                .await?;
                Ok("done".to_owned())
            }
            other => other,
        })
        .and_then(|result| match result.as_str() {
            "done" => Ok(()),
            _ => Err(SystemdError::Job { unit: unit.to_owned(), result }),
        })
    }

    /// Removes a slice; one that is gone is well. Blocking, as [`Self::make`].
    pub(super) fn remove(&self, path: &str) -> Result<(), SystemdError> {
        let (unit, _) = units(path);
        self.limited(unit, async |bus| {
            match bus.call_method(Some(SERVICE), PATH, Some(MANAGER), "StopUnit", &(unit, "replace")).await {
                Err(error) if is(&error, "NoSuchUnit") => Ok(()),
                other => other.map(|_| ()),
            }
        })
    }

    fn limited<T>(
        &self,
        unit: &str,
        task: impl AsyncFnOnce(&Connection) -> zbus::Result<T>,
    ) -> Result<T, SystemdError> {
        let failed =
            |source: zbus::Error| SystemdError::Call { unit: unit.to_owned(), source: Box::new(source) };
        self.runtime.block_on(async {
            let stream = UnixStream::connect(&self.bus)
                .await
                .map_err(|source| SystemdError::Bus { path: self.bus.clone(), source })?;
            let whole = async {
                let bus = connection::Builder::unix_stream(stream).build().await?;
                task(&bus).await
            };
            match tokio::time::timeout(LIMIT, whole).await {
                Ok(done) => done.map_err(failed),
                Err(_) => Err(SystemdError::Silent { unit: unit.to_owned() }),
            }
        })
    }
}

/// Starts a transient unit; the result of its job, `done` if all is well.
async fn start(bus: &Connection, unit: &str, properties: Vec<Property>) -> zbus::Result<String> {
    let rule = MatchRule::builder()
        .msg_type(Type::Signal)
        .sender(SERVICE)?
        .interface(MANAGER)?
        .member("JobRemoved")?
        .build();
    let mut ends = MessageStream::for_match_rule(rule, bus, Some(SIGNALS)).await?;
    // It tells of jobs only to those who said that they want to hear.
    bus.call_method(Some(SERVICE), PATH, Some(MANAGER), "Subscribe", &()).await?;
    let none: Vec<(&str, Vec<Property>)> = Vec::new();
    let about = (unit, "replace", properties, none);
    let answer = bus.call_method(Some(SERVICE), PATH, Some(MANAGER), "StartTransientUnit", &about).await?;
    let job: OwnedObjectPath = answer.body().deserialize()?;
    while let Some(end) = ends.next().await {
        let end = end?;
        let (_, ended, _, result): (u32, OwnedObjectPath, String, String) = end.body().deserialize()?;
        if ended == job {
            return Ok(result);
        }
    }
    Err(zbus::Error::Failure("the message bus has closed the connection".to_owned()))
}

/// Whether systemd answered with this error.
fn is(error: &zbus::Error, name: &str) -> bool {
    matches!(error, zbus::Error::MethodError(told, _, _) if told.as_str().strip_prefix("org.freedesktop.systemd1.") == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::logind::FakeLogind;

    #[test]
    fn names() {
        for (names, expected) in [
            (&["kubepods"][..], "/kubepods.slice"),
            (&["kubepods", "burstable"], "/kubepods.slice/kubepods-burstable.slice"),
            (
                &["kubepods", "besteffort", "pod1-2-3"],
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2_3.slice",
            ),
            (
                &["my-root", "kubepods", "podx"],
                "/my_root.slice/my_root-kubepods.slice/my_root-kubepods-podx.slice",
            ),
        ] {
            assert_eq!(path(names), expected);
        }
        assert_eq!(pod_uid("kubepods-besteffort-pod1_2_3.slice").as_deref(), Some("1-2-3"));
        assert_eq!(pod_uid("kubepods-podabc.slice").as_deref(), Some("abc"));
        assert_eq!(pod_uid("kubepods-burstable.slice"), None);
        assert_eq!(pod_uid("cri-containerd-pod1.scope"), None);
        assert_eq!(units("/kubepods.slice"), ("kubepods.slice", "-.slice"));
        assert_eq!(units("/a.slice/a-b.slice"), ("a-b.slice", "a.slice"));
    }

    #[test]
    fn limits_as_properties() {
        let limits = Limits {
            cpu_shares: 1024,
            cpu_quota: Some(12_345),
            memory_bytes: Some(1 << 30),
            pids: Some(100),
        };
        let shown = |limits: Limits, v2: bool| {
            let cpu = CpuBounds::of(&crate::Configuration::default());
            let of = |(name, value): (&str, Value<'_>)| (name.to_owned(), u64::try_from(value).unwrap());
            resources(limits, cpu, v2).into_iter().map(of).collect::<Vec<_>>()
        };
        let named = |list: &[(&str, u64)]| {
            list.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect::<Vec<_>>()
        };
        let period = ("CPUQuotaPeriodUSec", 100_000);
        let quota = ("CPUQuotaPerSecUSec", 130_000);
        assert_eq!(
            shown(limits, true),
            named(&[("CPUWeight", 39), period, quota, ("MemoryMax", 1 << 30), ("TasksMax", 100)])
        );
        assert_eq!(
            shown(limits, false),
            named(&[("CPUShares", 1024), period, quota, ("MemoryLimit", 1 << 30), ("TasksMax", 100)])
        );
        let open = Limits { cpu_quota: Some(-1), ..Limits::default() };
        assert_eq!(shown(open, true), named(&[period, ("CPUQuotaPerSecUSec", u64::MAX)]));
        assert!(shown(Limits::default(), true).is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn slices_are_made_bounded_and_removed() {
        let Some(fake) = FakeLogind::start().await else { return };
        let systemd = Systemd::new(fake.places.bus.clone());
        let group = path(&["kubepods", "burstable", "pod1-2"]);
        let work = tokio::task::spawn_blocking(move || {
            let cpu = CpuBounds::of(&crate::Configuration::default());
            let limits = |pids| Limits { pids: Some(pids), ..Limits::default() };
            systemd.make(&group, limits(5), cpu, true).unwrap();
            systemd.make(&group, limits(7), cpu, true).unwrap();
            systemd.remove(&group).unwrap();
            // Gone already.
            systemd.remove(&group).unwrap();
            systemd.make("/broken.slice", Limits::default(), cpu, true).unwrap_err().to_string()
        });
        assert_eq!(work.await.unwrap(), "systemd did not start broken.slice: its job ended as failed");
        let unit = "kubepods-burstable-pod1_2.slice";
        let accounting = "CPUAccounting=true MemoryAccounting=true TasksAccounting=true IOAccounting=true";
        assert_eq!(
            fake.units(),
            [
                format!(
                    "start {unit} replace Description=\"pods of Kubernetes: {unit}\" Wants=[\"kubepods-burstable.slice\"] \
                     DefaultDependencies=false {accounting} TasksMax=5"
                ),
                format!("set {unit} TasksMax=7"),
                format!("stop {unit}"),
                format!("stop {unit}"),
                format!(
                    "start broken.slice replace Description=\"pods of Kubernetes: broken.slice\" Wants=[\"-.slice\"] \
                     DefaultDependencies=false {accounting}"
                ),
            ]
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn without_a_bus_the_error_says_so() {
        let systemd = Systemd::new("/nonexistent/bus".into());
        let work = tokio::task::spawn_blocking(move || systemd.remove("/a.slice").unwrap_err().to_string());
        assert!(work.await.unwrap().starts_with("no message bus at /nonexistent/bus: "));
    }
}
