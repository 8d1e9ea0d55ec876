//! Kernel settings that a pod may have of its own: which there are, and where they lie. Pure.
//!
//! Everything else below `/proc/sys` is the whole machine's (`kernel.core_pattern` names a program that the kernel runs as
//! root), so what is not known here is refused: by the daemon, with a code that says so, and again where it is written.

/// What the kernel keeps a setting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Each IPC namespace.
    Ipc,
    /// Each network namespace.
    Network,
}

/// A setting of one namespace. There is no other way to get one than [`Setting::parse`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    name: String,
    scope: Scope,
}

impl Setting {
    /// Reads a name with dots or with slashes between its parts; `None` if it is not one of a namespace's.
    ///
    /// Source: `NormalizeName` and `GetNamespace` of k8s.io/component-helpers `node/util/sysctl`: the first separator says
    /// which is meant, the other one is part of an interface's name (`net.ipv4.conf.eth0/100.rp_filter`). Settings of the
    /// host name are in no list of upstream's either.
    pub fn parse(name: &str) -> Option<Self> {
        let slashes = name.find(['.', '/']).is_some_and(|first| name[first..].starts_with('/'));
        let name = if slashes { swapped(name) } else { name.to_owned() };
        // Of the path, because there an interface's dots are dots.
        let whole = swapped(&name).split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !whole || name.contains('\0') {
            return None;
        }
        let scope = match name.as_str() {
            "kernel.sem"
            | "kernel.msgmax"
            | "kernel.msgmnb"
            | "kernel.msgmni"
            | "kernel.shmall"
            | "kernel.shmmax"
            | "kernel.shmmni"
            | "kernel.shm_rmid_forced" => Scope::Ipc,
            name if name.starts_with("fs.mqueue.") => Scope::Ipc,
            name if name.starts_with("net.") => Scope::Network,
            _ => return None,
        };
        Some(Self { name, scope })
    }

    /// With dots between its parts.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whose it is.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// Its file below `/proc/sys`.
    pub(crate) fn path(&self) -> String {
        swapped(&self.name)
    }
}

/// Dots for slashes and slashes for dots.
fn swapped(name: &str) -> String {
    let swap = |letter| match letter {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    name.chars().map(swap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_namespaces_own_settings() {
        for (name, expected) in [
            ("kernel.shm_rmid_forced", Some(("kernel/shm_rmid_forced", Scope::Ipc))),
            ("kernel/sem", Some(("kernel/sem", Scope::Ipc))),
            ("fs.mqueue.msg_max", Some(("fs/mqueue/msg_max", Scope::Ipc))),
            ("net.ipv4.tcp_rmem", Some(("net/ipv4/tcp_rmem", Scope::Network))),
            ("net.ipv4.conf.eth0/100.rp_filter", Some(("net/ipv4/conf/eth0.100/rp_filter", Scope::Network))),
            ("net/ipv4/conf/eth0.100/rp_filter", Some(("net/ipv4/conf/eth0.100/rp_filter", Scope::Network))),
            ("kernel.core_pattern", None),
            ("kernel/core_pattern", None),
            ("kernel.modprobe", None),
            ("kernel.hostname", None),
            ("kernel.domainname", None),
            ("kernel.shm", None),
            ("kernel.sem.more", None),
            ("vm.overcommit_memory", None),
            ("fs.suid_dumpable", None),
            ("fs.mqueue", None),
            ("net", None),
            ("netx.ipv4", None),
            ("net.", None),
            ("net..ipv4", None),
            (".net.ipv4", None),
            ("/net/ipv4", None),
            ("net/../kernel/core_pattern", None),
            ("net.//.kernel.core_pattern", None),
            ("fs.mqueue.//.//.kernel.core_pattern", None),
            ("net./.ipv4", None),
            ("net.ipv4\0", None),
            ("", None),
        ] {
            let found = Setting::parse(name);
            let found = found.as_ref().map(|setting| (setting.path(), setting.scope()));
            assert_eq!(found, expected.map(|(path, scope)| (path.to_owned(), scope)), "{name:?}");
        }
        assert_eq!(Setting::parse("net/ipv4/tcp_rmem").unwrap().name(), "net.ipv4.tcp_rmem");
    }
}
