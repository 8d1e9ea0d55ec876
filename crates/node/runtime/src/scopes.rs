//! Groups that systemd makes: each container's is a scope, which is delegated to us and ends with the container.
//!
//! A scope cannot begin without a process, and a container's first process begins in its group. So a process that does nothing
//! is first in it, and goes as soon as the container's own is there; if this daemon dies meanwhile it goes by itself, and the
//! scope with it. Limits are told to systemd and written to the group's files as well: systemd writes its own again
//! whenever it reads its configuration anew, and some limits it does not know.

use std::io;

use podium_shim::cgroup::weight;
use podium_shim::devices;
use podium_shim::protocol::{DeviceFile, Resources};
use podium_systemd::{Made, Property, Systemd, names, properties};
use tokio::process::{Child, ChildStdin};
use tonic::Status;

use crate::core::{Runtime, failed};

/// What ends a scope's name.
const SCOPE: &str = ".scope";

/// The group of a container below the slice of its pod; `None`: the parent is no slice.
pub(crate) fn path(parent: &str, id: &str) -> Option<String> {
    // Clients give the slice by its name or by its whole path; the name says both.
    let slice = parent.rsplit('/').next().unwrap_or_default();
    Some(format!("{}/cri-podium-{id}{SCOPE}", names::expand(slice)?))
}

/// Whether a parent of groups is one for this driver.
///
/// # Errors
/// It is the other driver's.
pub(crate) fn check(parent: &str, systemd: Option<&Systemd>) -> Result<(), Status> {
    let of_systemd = parent.ends_with(".slice");
    match (of_systemd, systemd) {
        (true, None) => Err(Status::invalid_argument(format!(
            "cgroup parent {parent:?} is systemd's, this runtime uses cgroupfs"
        ))),
        (false, Some(_)) => Err(Status::invalid_argument(format!(
            "cgroup parent {parent:?} is not a slice, this runtime uses systemd"
        ))),
        _ => Ok(()),
    }
}

/// What a scope may hold.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bounds<'a> {
    pub(crate) resources: Option<&'a Resources>,
    pub(crate) devices: &'a [DeviceFile],
    pub(crate) all_devices: bool,
}

/// A scope's properties when it begins.
fn scope(unit: &str, slice: &str, holder: u32, bounds: Bounds<'_>, v2: bool) -> Vec<Property> {
    let io = if v2 { "IOAccounting" } else { "BlockIOAccounting" };
    let mut all: Vec<Property> = vec![
        ("Description", format!("container of Kubernetes: {unit}").into()),
        ("Slice", slice.to_owned().into()),
        ("PIDs", vec![holder].into()),
        ("Delegate", true.into()),
        // A node's containers end by the kubelet's word, not in the order of the machine's units.
        ("DefaultDependencies", false.into()),
    ];
    all.extend(["CPUAccounting", "MemoryAccounting", "TasksAccounting", io].map(|name| (name, true.into())));
    let limits = bounds.resources.map(|resources| properties::of(resources, v2.then_some(weight)));
    all.extend(limits.into_iter().flatten());
    if bounds.all_devices {
        all.push(("DevicePolicy", "auto".into()));
    } else {
        // Without its own list systemd would allow every device again when it reads its configuration anew.
        all.push(("DevicePolicy", "strict".into()));
        all.push(("DeviceAllow", devices::named(bounds.devices).into()));
    }
    all
}

/// The process that keeps a scope.
#[derive(Debug)]
pub(crate) struct Holder {
    process: Child,
    /// It ends with this, too.
    _input: Option<ChildStdin>,
}

impl Holder {
    async fn end(mut self) -> io::Result<()> {
        self.process.kill().await
    }
}

impl Runtime {
    /// Has systemd make a group, where it makes groups. [`Self::occupied`] is told what this gives.
    pub(crate) async fn begin_scope(
        &self,
        group: &str,
        bounds: Bounds<'_>,
    ) -> Result<Option<Holder>, Status> {
        let Some(systemd) = self.config.systemd.as_ref().filter(|_| group.ends_with(SCOPE)) else {
            return Ok(None);
        };
        let (unit, slice) = names::units(group);
        let started = async {
            let mut process = self.program.hold()?;
            let input = process.stdin.take();
            let id = process.id().ok_or_else(|| io::Error::other("the scope's first process has ended"))?;
            Ok::<_, io::Error>((id, Holder { process, _input: input }))
        };
        let (id, holder) =
            started.await.map_err(|error| failed("starting the scope's first process", &error))?;
        let whole = scope(unit, slice, id, bounds, self.cgroups.is_v2());
        match systemd.start(unit, whole).await.map_err(|error| failed("making the cgroup", &error))? {
            Made::New => Ok(Some(holder)),
            Made::Old => Err(Status::already_exists(format!("there is a {unit} already"))),
        }
    }

    /// The group has a process of its own now, or will never have one.
    pub(crate) async fn occupied(&self, holder: Option<Holder>) {
        if let Some(holder) = holder
            && let Err(error) = holder.end().await
        {
            tracing::warn!(%error, "a scope's first process has not ended");
        }
    }

    /// Tells systemd other limits of a group.
    pub(crate) async fn bound_scope(&self, group: &str, resources: &Resources) -> Result<(), Status> {
        let Some(systemd) = self.config.systemd.as_ref().filter(|_| group.ends_with(SCOPE)) else {
            return Ok(());
        };
        let limits = properties::of(resources, self.cgroups.is_v2().then_some(weight));
        if limits.is_empty() {
            return Ok(());
        }
        let (unit, _) = names::units(group);
        systemd
            .set(unit, limits)
            .await
            .map_err(|error| failed("failed to update container resources", &error))
    }

    /// Has systemd forget a group that is gone.
    pub(crate) async fn end_scope(&self, group: &str) {
        if let Some(systemd) = self.config.systemd.as_ref().filter(|_| group.ends_with(SCOPE)) {
            let (unit, _) = names::units(group);
            if let Err(error) = systemd.stop(unit).await {
                tracing::warn!(unit, %error, "a scope is not known to have ended");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_scopes_are() {
        let pod = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice";
        for (parent, expected) in [
            (pod, Some(format!("{pod}/cri-podium-c.scope"))),
            ("kubepods-burstable-pod1_2.slice", Some(format!("{pod}/cri-podium-c.scope"))),
            (
                "kubepods-podx.slice",
                Some("/kubepods.slice/kubepods-podx.slice/cri-podium-c.scope".to_owned()),
            ),
            ("-.slice", Some("/cri-podium-c.scope".to_owned())),
            ("/kubepods/podx", None),
            ("a--b.slice", None),
            ("../x y.slice", None),
            ("", None),
        ] {
            assert_eq!(path(parent, "c"), expected, "{parent}");
        }
    }

    #[test]
    fn each_driver_has_its_parents() {
        let systemd = Systemd::at("/nonexistent");
        for (parent, with, without) in [
            ("a-b.slice", true, false),
            ("/a.slice/a-b.slice", true, false),
            ("/a/b", false, true),
            ("", false, true),
        ] {
            assert_eq!(check(parent, Some(&systemd)).is_ok(), with, "{parent}");
            assert_eq!(check(parent, None).is_ok(), without, "{parent}");
        }
    }

    #[test]
    fn a_scope_in_words() {
        let resources = Resources { pids_limit: Some(9), ..Resources::default() };
        let shown = |bounds: Bounds<'_>, v2: bool| {
            let all = scope("cri-podium-c.scope", "a-b.slice", 7, bounds, v2);
            all.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
        };
        let plain = shown(Bounds { resources: Some(&resources), ..Bounds::default() }, true);
        for expected in [
            "Slice=\"a-b.slice\"",
            "PIDs=[7]",
            "Delegate=true",
            "IOAccounting=true",
            "TasksMax=9",
            "DevicePolicy=\"strict\"",
        ] {
            assert!(
                plain
                    .iter()
                    .any(|one| one == expected
                        || one.replace("uint32 ", "").replace("uint64 ", "") == expected),
                "{expected}: {plain:?}"
            );
        }
        let all = shown(Bounds { all_devices: true, ..Bounds::default() }, false);
        assert!(all.iter().any(|one| one == "DevicePolicy=\"auto\""), "{all:?}");
        assert!(all.iter().any(|one| one == "BlockIOAccounting=true"), "{all:?}");
        assert!(!all.iter().any(|one| one.starts_with("DeviceAllow")), "{all:?}");
    }
}
