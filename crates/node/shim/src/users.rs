//! Users and groups of a container, looked up in its own files. Pure but for reading them.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use crate::protocol::{User, UserSpec};

/// Files larger than this are not a user database but an attack on our memory.
const FILE_BYTES: u64 = 4 << 20;

/// A user resolved, and where they live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) user: User,
    pub(crate) home: Option<String>,
}

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn entries(passwd: &str) -> impl Iterator<Item = Entry<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Entry { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    })
}

/// Finds who is meant. Source: how Docker and the other runtimes read `USER`: a number needs no entry, a name does.
pub(crate) fn resolve(spec: &UserSpec, passwd: &str, group: &str) -> Result<Resolved, String> {
    let number: Option<u32> = if spec.user.is_empty() { Some(0) } else { spec.user.parse().ok() };
    let entry = match number {
        Some(uid) => entries(passwd).find(|entry| entry.uid == uid),
        None => {
            let found = entries(passwd).find(|entry| entry.name == spec.user);
            Some(found.ok_or_else(|| {
                format!("unable to find user {}: no matching entries in passwd file", spec.user)
            })?)
        }
    };
    let uid = number.or_else(|| entry.as_ref().map(|entry| entry.uid)).unwrap_or(0);
    let lists = |line: &str| -> Option<(String, u32, Vec<String>)> {
        let mut fields = line.trim().split(':');
        let name = fields.next()?.to_owned();
        let gid = fields.nth(1)?.parse().ok()?;
        let members = fields.next().unwrap_or_default().split(',').map(str::to_owned).collect();
        Some((name, gid, members))
    };
    let gid = if spec.group.is_empty() {
        entry.as_ref().map_or(0, |entry| entry.gid)
    } else if let Ok(gid) = spec.group.parse() {
        gid
    } else {
        group
            .lines()
            .filter_map(lists)
            .find(|(name, ..)| *name == spec.group)
            .map(|(_, gid, _)| gid)
            .ok_or_else(|| {
                format!("unable to find group {}: no matching entries in group file", spec.group)
            })?
    };
    // The first group is among the others, so that dropping it is no way to lose a restriction (CVE-2022-36109).
    let mut groups = vec![gid];
    groups.extend(&spec.groups);
    if let Some(entry) = entry.as_ref().filter(|_| !spec.strict) {
        let of = group.lines().filter_map(lists);
        groups.extend(
            of.filter(|(.., members)| members.iter().any(|m| m == entry.name)).map(|(_, gid, _)| gid),
        );
    }
    let mut seen = std::collections::BTreeSet::new();
    groups.retain(|gid| seen.insert(*gid));
    let home = entry.map(|entry| entry.home.to_owned()).filter(|home| !home.is_empty());
    Ok(Resolved { user: User { uid, gid, groups }, home })
}

/// A file of the container's; one that is not there is empty. Called with the container's root as ours, so its links lead
/// nowhere else, and nothing but a regular file is read, so it cannot make us wait.
pub(crate) fn read(path: &str) -> io::Result<String> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    let file = match file {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(String::new());
        }
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.size() > FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{path} is no ordinary file")));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# no\nbroken\nweb:x:33:34:w:/srv:/bin/false\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlogs:x:50:web,root\nvideo:x:44:web\n";

    fn spec(user: &str, group: &str, groups: &[u32], strict: bool) -> UserSpec {
        UserSpec { user: user.into(), group: group.into(), groups: groups.to_vec(), strict }
    }

    #[track_caller]
    fn check(spec: &UserSpec, expected: Option<(u32, u32, &[u32], Option<&str>)>) {
        let found = resolve(spec, PASSWD, GROUP).ok();
        let expected = expected.map(|(uid, gid, groups, home)| Resolved {
            user: User { uid, gid, groups: groups.to_vec() },
            home: home.map(str::to_owned),
        });
        assert_eq!(found, expected, "{spec:?}");
    }

    #[test]
    fn users() {
        check(&spec("", "", &[], false), Some((0, 0, &[0, 50], Some("/root"))));
        check(&spec("web", "", &[7], false), Some((33, 34, &[34, 7, 50, 44], Some("/srv"))));
        check(&spec("web", "", &[7], true), Some((33, 34, &[34, 7], Some("/srv"))));
        check(&spec("33", "logs", &[], true), Some((33, 50, &[50], Some("/srv"))));
        check(&spec("1000", "", &[], false), Some((1000, 0, &[0], None)));
        check(&spec("1000", "2000", &[2000, 3000], false), Some((1000, 2000, &[2000, 3000], None)));
        check(&spec("nobody", "", &[], false), None);
        check(&spec("web", "nobody", &[], false), None);
        check(&spec("4294967296", "", &[], false), None);
    }
}
