//! User namespaces of pods (`hostUsers: false`): each has a range of ids that no other pod here has.
//!
//! What a pod has is written into its directory before anything runs with it, in upstream's form, and goes with the
//! directory; which ranges are free is what the directories of the others say. Source: `pkg/kubelet/userns`.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use podium_cri::v1;
use serde::{Deserialize, Serialize};

use crate::pod;

/// A range is a multiple of this: what a user namespace of an ordinary system has.
const UNIT: u32 = 65_536;
/// The file in a pod's directory.
const FILE: &str = "userns";
/// Whose subordinate ids are given to pods, if there is such a user.
const USER: &str = "kubelet";

/// One range, as upstream writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_id: u32,
    container_id: u32,
    length: u32,
}

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mappings {
    uid_mappings: Vec<Mapping>,
    gid_mappings: Vec<Mapping>,
}

/// The ranges of this node.
#[derive(Debug)]
pub(crate) struct UserNamespaces {
    /// The directory of the pods' directories.
    pods: PathBuf,
    first: u32,
    length: u32,
    slots: u32,
    /// Choosing a range and writing it down are one.
    choosing: Mutex<()>,
}

/// Ids that pods may have: the first, and how many. Those of the user `kubelet` if the machine's owner has given them any,
/// else all but the first ones. The texts are those of `/etc/passwd`, `/etc/subuid` and `/etc/subgid`.
pub(crate) fn ids(per_pod: u32, passwd: &str, uids: &str, gids: &str) -> Result<(u32, u32), String> {
    let default = (per_pod, u32::MAX - per_pod + 1);
    if !passwd.lines().any(|line| line.split(':').next() == Some(USER)) {
        return Ok(default);
    }
    let of = |text: &str| -> Vec<String> {
        let own = text.lines().filter_map(|line| line.trim().strip_prefix(USER)?.strip_prefix(':'));
        own.map(str::to_owned).collect()
    };
    let (uids, gids) = (of(uids), of(gids));
    if uids != gids {
        return Err(format!("mismatched subuids and subgids for user {USER:?}"));
    }
    match uids.as_slice() {
        [] => Ok(default),
        [only] => {
            let (first, count) = only.split_once(':').unwrap_or((only, ""));
            let number = |text: &str| {
                text.parse::<u32>().map_err(|error| format!("error parsing line {only:?}: {error}"))
            };
            Ok((number(first)?, number(count)?))
        }
        all => Err(format!("error parsing line {:?}: it must contain only one line", all.join("\n"))),
    }
}

impl UserNamespaces {
    /// `ids` as [`ids`] gives them.
    pub(crate) fn new(
        pods: PathBuf,
        per_pod: u32,
        (first, count): (u32, u32),
        max_pods: u32,
    ) -> Result<Self, String> {
        if per_pod == 0 || !per_pod.is_multiple_of(UNIT) {
            return Err(format!("kubelet user namespace length {per_pod} is not a multiple of {UNIT}"));
        }
        if !first.is_multiple_of(per_pod) {
            return Err(format!("kubelet user assigned ID {first} is not a multiple of {per_pod}"));
        }
        if first < per_pod {
            // Nobody of a pod may be root of the host.
            return Err(format!("kubelet user assigned ID {first} must be greater or equal to {per_pod}"));
        }
        if !count.is_multiple_of(per_pod) {
            return Err(format!("kubelet user assigned IDs length {count} is not a multiple of {per_pod}"));
        }
        if count / per_pod < max_pods {
            return Err(format!("kubelet user assigned IDs are not enough to support {max_pods} pods"));
        }
        Ok(Self { pods, first, length: per_pod, slots: count / per_pod, choosing: Mutex::new(()) })
    }

    /// What CRI is told of a pod that uses the host's ids.
    pub(crate) fn of_host() -> v1::UserNamespace {
        v1::UserNamespace { mode: v1::NamespaceMode::Node.into(), ..Default::default() }
    }

    /// Whether a pod wants one.
    pub(crate) fn wanted(pod: &Pod) -> bool {
        pod.spec.as_ref().and_then(|spec| spec.host_users) == Some(false)
    }

    /// The namespace of a pod that wants one: the one it has, or a new one. Blocking.
    ///
    /// # Errors
    /// There is none left, or what is written down is not what we write.
    pub(crate) fn of_pod(&self, pod: &Pod) -> Result<v1::UserNamespace, String> {
        let uid = pod::uid(pod);
        let _alone = self.choosing.lock();
        let first = match self.read(uid).map_err(|error| format!("user namespace: {error}"))? {
            Some(first) => first,
            None => self.create(uid).map_err(|error| format!("create user namespace: {error}"))?,
        };
        let range = || vec![v1::IdMapping { host_id: first, container_id: 0, length: self.length }];
        Ok(v1::UserNamespace { mode: v1::NamespaceMode::Pod.into(), uids: range(), gids: range() })
    }

    fn create(&self, uid: &str) -> Result<u32, String> {
        let mut taken = BTreeSet::new();
        for entry in fs::read_dir(&self.pods).map_err(|error| error.to_string())?.flatten() {
            // What another pod's file says wrongly is that pod's trouble; it takes no range that is ours to give.
            taken.extend(self.read(&entry.file_name().to_string_lossy()).ok().flatten());
        }
        let mut all = (0..self.slots).map(|slot| self.first + slot * self.length);
        let first = all
            .find(|first| !taken.contains(first))
            .ok_or("could not find an empty slot to allocate a user namespace")?;
        self.write(uid, first).map_err(|error| error.to_string())?;
        Ok(first)
    }

    /// The first id of a pod's range, if it has one.
    fn read(&self, uid: &str) -> Result<Option<u32>, String> {
        match fs::read(self.pods.join(uid).join(FILE)) {
            Ok(text) => self.parse(&text).map(Some),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(None)
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn parse(&self, text: &[u8]) -> Result<u32, String> {
        let found: Mappings = serde_json::from_slice(text)
            .map_err(|error| format!("invalid user namespace mappings file: {error}"))?;
        let [range] = found.uid_mappings.as_slice() else {
            return Err("invalid user namespace configuration: no more than one mapping allowed.".to_owned());
        };
        if found.gid_mappings != found.uid_mappings {
            return Err(
                "invalid user namespace configuration: GID and UID mapping should be identical".to_owned()
            );
        }
        if range.container_id != 0 {
            return Err("invalid user namespace configuration: UID 0 must be mapped".to_owned());
        }
        let Mapping { host_id, length, .. } = *range;
        if length != self.length {
            return Err(format!("wrong user namespace length {length}"));
        }
        if !host_id.is_multiple_of(self.length) {
            return Err(format!("wrong user namespace offset specified {host_id}"));
        }
        let slot = host_id.checked_sub(self.first).map(|offset| offset / self.length);
        if slot.is_none_or(|slot| slot >= self.slots) {
            return Err(format!("id {host_id} is out of range"));
        }
        Ok(host_id)
    }

    /// Whole and on the disk before anybody runs with it.
    fn write(&self, uid: &str, first: u32) -> io::Result<()> {
        let range = vec![Mapping { host_id: first, container_id: 0, length: self.length }];
        let mappings = Mappings { uid_mappings: range.clone(), gid_mappings: range };
        let directory = self.pods.join(uid);
        let fresh = directory.join(format!(".{FILE}"));
        let mut file = File::create(&fresh)?;
        file.write_all(&serde_json::to_vec(&mappings)?)?;
        file.sync_all()?;
        fs::rename(&fresh, directory.join(FILE))?;
        File::open(&directory)?.sync_all()
    }
}

/// Why a pod of a runtime handler cannot have a user namespace; `handlers` are what the runtime says it has.
pub(crate) fn check_handler(handlers: &[v1::RuntimeHandler], handler: &str) -> Result<(), String> {
    let refused = if handler.is_empty() {
        "can't set `spec.hostUsers: false`, runtime does not support user namespaces".to_owned()
    } else {
        format!(
            "can't set `spec.hostUsers: false`, RuntimeClass handler {handler:?} does not support user namespaces"
        )
    };
    if handlers.is_empty() {
        return Err(refused);
    }
    match handlers.iter().find(|one| one.name == handler) {
        Some(one) if one.features.is_some_and(|features| features.user_namespaces) => Ok(()),
        Some(_) => Err(refused),
        None => Err(format!("{refused}: the handler {handler:?} is not known")),
    }
}

/// The ids of this machine, by its files.
pub(crate) fn ids_of_machine(per_pod: u32) -> Result<(u32, u32), String> {
    let read = |path: &str| fs::read_to_string(Path::new(path)).unwrap_or_default();
    ids(per_pod, &read("/etc/passwd"), &read("/etc/subuid"), &read("/etc/subgid"))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{api::core::v1::PodSpec, apimachinery::pkg::apis::meta::v1::ObjectMeta};

    use super::*;

    fn pod(uid: &str) -> Pod {
        Pod {
            metadata: ObjectMeta { uid: Some(uid.to_owned()), ..Default::default() },
            spec: Some(PodSpec { host_users: Some(false), ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn each_pod_has_ids_of_its_own_and_keeps_them() {
        let root = tempfile::tempdir().unwrap();
        let open = || UserNamespaces::new(root.path().to_owned(), UNIT, (UNIT, 2 * UNIT), 2).unwrap();
        for uid in ["a", "b", "c", "d"] {
            fs::create_dir(root.path().join(uid)).unwrap();
        }
        let users = open();
        let first =
            |users: &UserNamespaces, uid: &str| users.of_pod(&pod(uid)).map(|one| one.uids[0].host_id);
        assert_eq!(first(&users, "a"), Ok(UNIT));
        assert_eq!(first(&users, "b"), Ok(2 * UNIT));
        let full = "create user namespace: could not find an empty slot to allocate a user namespace";
        assert_eq!(first(&users, "c"), Err(full.to_owned()));
        // After a restart too; and what went with its directory is free.
        assert_eq!(first(&open(), "b"), Ok(2 * UNIT));
        fs::remove_dir_all(root.path().join("a")).unwrap();
        assert_eq!(first(&users, "c"), Ok(UNIT));
        let whole = users.of_pod(&pod("c")).unwrap();
        assert_eq!((whole.mode(), whole.gids[0].length), (v1::NamespaceMode::Pod, UNIT));
        for (text, why) in [
            ("{", "user namespace: invalid user namespace mappings file: "),
            (
                r#"{"uidMappings":[],"gidMappings":[]}"#,
                "user namespace: invalid user namespace configuration: no more",
            ),
            (
                r#"{"uidMappings":[{"hostId":65536,"containerId":0,"length":1}],"gidMappings":[{"hostId":65536,"containerId":0,"length":1}]}"#,
                "user namespace: wrong user namespace length 1",
            ),
            (
                r#"{"uidMappings":[{"hostId":0,"containerId":0,"length":65536}],"gidMappings":[{"hostId":0,"containerId":0,"length":65536}]}"#,
                "user namespace: id 0 is out of range",
            ),
        ] {
            fs::write(root.path().join("d").join(FILE), text).unwrap();
            let refused = first(&users, "d").unwrap_err();
            assert!(refused.starts_with(why), "{refused}");
        }
    }

    #[test]
    fn whose_ids_they_are() {
        let passwd = "root:x:0:0::/:\nkubelet:x:999:999::/:\n";
        assert_eq!(ids(UNIT, "root:x:0:0::/:\n", "kubelet:1:2", ""), Ok((UNIT, 0xffff_0000)));
        assert_eq!(ids(UNIT, passwd, "", ""), Ok((UNIT, 0xffff_0000)));
        let one = "web:100000:65536\nkubelet:131072:7208960\n";
        assert_eq!(ids(UNIT, passwd, one, one), Ok((131_072, 7_208_960)));
        assert_eq!(
            ids(UNIT, passwd, one, ""),
            Err("mismatched subuids and subgids for user \"kubelet\"".into())
        );
        assert!(ids(UNIT, passwd, "kubelet:x:1", "kubelet:x:1").is_err());
        let new = |per_pod, ids, pods| UserNamespaces::new(PathBuf::new(), per_pod, ids, pods).map(drop);
        assert_eq!(new(UNIT, (131_072, 7_208_960), 110), Ok(()));
        for (per_pod, ids, why) in [
            (1, (1, 1), "kubelet user namespace length 1 is not a multiple of 65536"),
            (UNIT, (100_000, UNIT), "kubelet user assigned ID 100000 is not a multiple of 65536"),
            (UNIT, (0, UNIT), "kubelet user assigned ID 0 must be greater or equal to 65536"),
            (UNIT, (UNIT, 7), "kubelet user assigned IDs length 7 is not a multiple of 65536"),
            (UNIT, (UNIT, UNIT), "kubelet user assigned IDs are not enough to support 110 pods"),
        ] {
            assert_eq!(new(per_pod, ids, 110), Err(why.to_owned()));
        }
    }

    #[test]
    fn handlers_have_to_support_them() {
        let one = |name: &str, user_namespaces| v1::RuntimeHandler {
            name: name.to_owned(),
            features: Some(v1::RuntimeHandlerFeatures { user_namespaces, ..Default::default() }),
        };
        let all = [one("", true), one("old", false)];
        assert_eq!(check_handler(&all, ""), Ok(()));
        let begin = "can't set `spec.hostUsers: false`, ";
        for (handlers, handler, why) in [
            (&[][..], "", "runtime does not support user namespaces"),
            (&all[..], "old", "RuntimeClass handler \"old\" does not support user namespaces"),
            (
                &all[..],
                "new",
                "RuntimeClass handler \"new\" does not support user namespaces: the handler \"new\" is not known",
            ),
        ] {
            assert_eq!(check_handler(handlers, handler), Err(format!("{begin}{why}")));
        }
    }
}
