//! Users and groups of a container, looked up in its own files. Pure but for reading them.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::mounts;
use crate::protocol::{User, UserSpec};

/// Files larger than this are not a user database but an attack on our memory.
const FILE_BYTES: u64 = 4 << 20;

/// A user resolved, and where they live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) user: User,
    pub(crate) home: Option<String>,
}

/// What the text of a user or a group is. Whoever judges an image by its user reads it as `resolve` does: a number that
/// one takes for somebody and the other for the name of root in a hostile `/etc/passwd` is a way around `runAsNonRoot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity<'a> {
    /// Within 0 and `i32::MAX`, as Kubernetes has it.
    Number(u32),
    /// Of an entry in the container's files, or empty.
    Name(&'a str),
    /// A number that nobody has, and no name either.
    Impossible,
}

/// Reads a user or a group.
pub fn identity(text: &str) -> Identity<'_> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Identity::Name(text);
    }
    let number = text.parse::<i32>().ok().and_then(|number| u32::try_from(number).ok());
    number.map_or(Identity::Impossible, Identity::Number)
}

fn impossible(what: &str, text: &str) -> String {
    format!("{what} {text}: uids and gids must be in range 0-{}", i32::MAX)
}

/// An id in one of the container's files. The kernel takes the greatest one for "stay who you are".
fn id(field: &str) -> Option<u32> {
    field.parse().ok().filter(|id| *id != u32::MAX)
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
        let uid = id(fields.nth(1)?)?;
        let gid = id(fields.next()?)?;
        Some(Entry { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    })
}

/// Finds who is meant. Source: how Docker and the other runtimes read `USER`: a number needs no entry, a name does.
pub(crate) fn resolve(spec: &UserSpec, passwd: &str, group: &str) -> Result<Resolved, String> {
    let number = match identity(&spec.user) {
        Identity::Number(uid) => Some(uid),
        Identity::Name("") => Some(0),
        Identity::Name(_) => None,
        Identity::Impossible => return Err(impossible("user", &spec.user)),
    };
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
        let gid = id(fields.nth(1)?)?;
        let members = fields.next().unwrap_or_default().split(',').map(str::to_owned).collect();
        Some((name, gid, members))
    };
    let gid = match identity(&spec.group) {
        Identity::Number(gid) => gid,
        Identity::Name("") => entry.as_ref().map_or(0, |entry| entry.gid),
        Identity::Name(wanted) => group
            .lines()
            .filter_map(lists)
            .find(|(name, ..)| name == wanted)
            .map(|(_, gid, _)| gid)
            .ok_or_else(|| format!("unable to find group {wanted}: no matching entries in group file"))?,
        Identity::Impossible => return Err(impossible("group", &spec.group)),
    };
    if let Some(other) = spec.groups.iter().find(|other| **other == u32::MAX) {
        return Err(impossible("group", &other.to_string()));
    }
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

/// A file of the container's; one that is not there is empty. Its links lead nowhere out of the root, and nothing but a
/// regular file is read, so it cannot make us wait.
pub(crate) fn read(root: &File, path: &str) -> io::Result<String> {
    let file = match mounts::open_to_read(root, Path::new(path)) {
        Ok(file) => File::from(file),
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
        check(&spec("33", "", &[u32::MAX], false), None);
    }

    #[test]
    fn numbers_are_no_names() {
        for (text, expected) in [
            ("", Identity::Name("")),
            ("web", Identity::Name("web")),
            ("-web", Identity::Name("-web")),
            ("1x", Identity::Name("1x")),
            ("+", Identity::Name("+")),
            ("0", Identity::Number(0)),
            ("+0", Identity::Number(0)),
            ("-0", Identity::Number(0)),
            ("007", Identity::Number(7)),
            ("2147483647", Identity::Number(2_147_483_647)),
            ("2147483648", Identity::Impossible),
            ("4294967295", Identity::Impossible),
            ("4294967296", Identity::Impossible),
            ("-1", Identity::Impossible),
            ("-5", Identity::Impossible),
            ("99999999999999999999", Identity::Impossible),
        ] {
            assert_eq!(identity(text), expected, "{text:?}");
        }
    }

    /// An image that would be root where its user says otherwise.
    #[test]
    fn a_hostile_user_database_makes_nobody_root() {
        let passwd = "4294967296:x:0:0::/:\n-5:x:0:0::/:\n99999999999999999999:x:0:0::/:\n\
                      all:x:4294967295:0::/:\ngroup:x:5:4294967295::/:\nweb:x:33:34::/:\n";
        let group = "4294967296:x:0:\n-5:x:0:\nall:x:4294967295:web\n";
        let cases = [
            ("4294967295", ""),
            ("4294967296", ""),
            ("2147483648", ""),
            ("-5", ""),
            ("-1", ""),
            ("99999999999999999999", ""),
            ("all", ""),
            ("group", ""),
            ("1000", "4294967295"),
            ("1000", "4294967296"),
            ("1000", "-5"),
            ("1000", "all"),
        ];
        for (user, of) in cases {
            assert!(resolve(&spec(user, of, &[], false), passwd, group).is_err(), "{user}:{of}");
        }
        let web = resolve(&spec("web", "", &[], false), passwd, group).unwrap();
        assert_eq!(web.user, User { uid: 33, gid: 34, groups: vec![34] });
    }
}
