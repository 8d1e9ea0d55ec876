//! A pod's namespaces: made by a short-lived child, held open by descriptors, so that no process has to wait in them.
//!
//! `/dev/shm` of the pod is a file system of its own that is the root of an otherwise empty mount namespace: containers
//! take a copy of its mount, and the host's mount table never sees it. Only a pod whose containers share one process
//! namespace has a waiting process: such a namespace lives as long as its first process.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, pivot_root, setgroups, setresgid, setresuid, setsid};

use crate::cgroup::Cgroups;
use crate::ending::WAITER_NAME;
use crate::mounts;
use crate::process::filter;
use crate::protocol::SandboxSpec;
use crate::sys::{self, Fork, attribute};
use crate::sysctl::{Scope, Setting};
use crate::userns::Users;

/// Before the number of the waiting process, where another one has to tell it.
const PID_MARK: char = '#';
/// Who the waiting process is: nobody that a container could be.
const WAITER: u32 = 65_535;

/// What a pod's containers join.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    pub(crate) network: Option<OwnedFd>,
    pub(crate) ipc: Option<OwnedFd>,
    pub(crate) uts: Option<OwnedFd>,
    /// The mount namespace whose root is `/dev/shm`.
    pub(crate) shm: Option<OwnedFd>,
    /// The pod's user namespace: it owns all of these but the one of `/dev/shm`.
    pub(crate) users: Option<Users>,
    /// The shared process namespace and its first process.
    pub(crate) pid: Option<(OwnedFd, i32)>,
}

/// Makes them. `directory` is an existing directory that the child may mount over in its own namespace.
pub(crate) fn create(spec: &SandboxSpec, directory: &Path, cgroups: &Cgroups) -> io::Result<Namespaces> {
    let users = spec.users.as_ref().map(Users::create).transpose()?;
    let mut made = Namespaces { users, ..Namespaces::default() };
    let mut flags = CloneFlags::empty();
    for (wanted, flag) in [
        (spec.network, CloneFlags::CLONE_NEWNET),
        (spec.hostname.is_some(), CloneFlags::CLONE_NEWUTS),
        (spec.ipc, CloneFlags::CLONE_NEWIPC),
    ] {
        if wanted {
            flags |= flag;
        }
    }
    if !flags.is_empty() {
        let child = in_child(|| inside(spec, flags, made.users.as_ref(), directory))?;
        let namespace = |name: &str| File::open(format!("/proc/{}/ns/{name}", child.pid)).map(OwnedFd::from);
        if spec.network {
            made.network = Some(namespace("net")?);
        }
        if spec.hostname.is_some() {
            made.uts = Some(namespace("uts")?);
        }
        if spec.ipc {
            made.ipc = Some(namespace("ipc")?);
            made.shm = Some(namespace("mnt")?);
        }
        child.end();
    }
    if spec.shared_pid {
        made.pid = Some(waiter(spec, &made, directory, cgroups)?);
    }
    Ok(made)
}

/// A child that has done its work and waits to be let go.
pub(crate) struct Child {
    pub(crate) pid: i32,
    hold: io::PipeWriter,
}

impl Child {
    pub(crate) fn end(self) {
        drop(self.hold);
        let _ = waitpid(Pid::from_raw(self.pid), None);
    }
}

/// Runs `work` in a child and returns once it is done; the child stays until it is let go.
pub(crate) fn in_child(work: impl FnOnce() -> io::Result<()>) -> io::Result<Child> {
    let (mut said, mut say) = io::pipe()?;
    let (mut wait, hold) = io::pipe()?;
    match sys::fork(0)? {
        Fork::Child => {
            drop((said, hold));
            let outcome = work();
            let message = outcome.err().map(|error| error.to_string()).unwrap_or_default();
            let _ = say.write_all(message.as_bytes());
            drop(say);
            let _ = wait.read(&mut [0]);
            sys::exit(0)
        }
        Fork::Parent(pid) => {
            drop((say, wait));
            let child = Child { pid, hold };
            let mut message = String::new();
            let read = said.read_to_string(&mut message);
            if read.is_err() || !message.is_empty() {
                child.end();
                return Err(io::Error::other(message));
            }
            Ok(child)
        }
    }
}

/// Names a step in an error.
pub(crate) fn step<T, E: Into<io::Error>>(what: &str, result: Result<T, E>) -> io::Result<T> {
    result.map_err(|error| {
        let error: io::Error = error.into();
        io::Error::new(error.kind(), format!("{what}: {error}"))
    })
}

fn inside(spec: &SandboxSpec, flags: CloneFlags, users: Option<&Users>, directory: &Path) -> io::Result<()> {
    if spec.ipc {
        // Before the user namespace is entered: whose root could change the mount.
        step("new mount namespace", unshare(CloneFlags::CLONE_NEWNS))?;
        let size = spec.shm_bytes.to_string();
        let (uid, gid) = users.map_or((Uid::from_raw(0), Gid::from_raw(0)), Users::root);
        let (uid, gid) = (uid.to_string(), gid.to_string());
        let options =
            [("size", Some(&*size)), ("mode", Some("1777")), ("uid", Some(&*uid)), ("gid", Some(&*gid))];
        empty_root(directory, &options, 0)?;
    }
    if let Some(users) = users {
        users.enter()?;
    }
    step("new namespaces", unshare(flags))?;
    if let Some(name) = &spec.hostname {
        step("host name", nix::unistd::sethostname(name))?;
    }
    if spec.network {
        step("loopback interface", sys::loopback_up())?;
    }
    Ok(())
}

/// Makes a new, empty file system the root of this process's own mount namespace and lets everything else go.
fn empty_root(directory: &Path, options: &[(&str, Option<&str>)], attributes: u64) -> io::Result<()> {
    step(
        "private mounts",
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>),
    )?;
    let attributes = attributes | attribute::NOSUID | attribute::NODEV | attribute::NOEXEC;
    let tree = step("file system", sys::new_mount(c"tmpfs", options, attributes))?;
    step("mount", sys::move_mount(&tree, File::open(directory)?))?;
    step("enter", nix::unistd::chdir(directory))?;
    step("new root", pivot_root(".", "."))?;
    step("let the host's mounts go", umount2(".", MntFlags::MNT_DETACH))?;
    Ok(())
}

/// Starts the first process of a shared process namespace.
fn waiter(
    spec: &SandboxSpec,
    made: &Namespaces,
    directory: &Path,
    cgroups: &Cgroups,
) -> io::Result<(OwnedFd, i32)> {
    let (mut said, mut say) = io::pipe()?;
    // With users of its own its process namespace has to be theirs: made from inside, by a child that is there.
    let flags = if made.users.is_some() { 0 } else { libc::CLONE_NEWPID };
    match sys::fork(flags)? {
        Fork::Child => {
            drop(said);
            let outcome = (|| {
                settle_waiter(made, directory)?;
                if let Some(users) = &made.users {
                    users.enter()?;
                    if let Fork::Parent(pid) =
                        step("fork", sys::fork(libc::CLONE_PARENT | libc::CLONE_NEWPID))?
                    {
                        say.write_all(format!("{PID_MARK}{pid}\n").as_bytes())?;
                        sys::exit(0);
                    }
                    step("hiding", sys::hide())?;
                }
                become_waiter(spec)
            })();
            let message = outcome.err().map(|error| error.to_string()).unwrap_or_default();
            let failed = !message.is_empty();
            let _ = say.write_all(message.as_bytes());
            drop(say);
            if failed {
                sys::exit(1);
            }
            // The streams too: containers of the pod see this process, and may see what it has open.
            let _ = sys::close_from(0);
            wait_for_end()
        }
        Fork::Parent(pid) => {
            drop(say);
            if !spec.cgroup.is_empty() {
                cgroups.create(&spec.cgroup)?;
                cgroups.enter(&spec.cgroup, pid)?;
            }
            let mut message = String::new();
            said.read_to_string(&mut message)?;
            let first = pid;
            let (pid, message) = match message.strip_prefix(PID_MARK).and_then(|rest| rest.split_once('\n')) {
                Some((pid, rest)) => (pid.parse().map_err(io::Error::other)?, rest),
                None => (pid, message.as_str()),
            };
            if !message.is_empty() {
                return Err(io::Error::other(message));
            }
            if pid != first && !spec.cgroup.is_empty() {
                // It may have been made before its maker was there.
                cgroups.enter(&spec.cgroup, pid)?;
            }
            Ok((File::open(format!("/proc/{pid}/ns/pid"))?.into(), pid))
        }
    }
}

/// What it does with the host's privileges: what it may see of the pod and of files.
fn settle_waiter(made: &Namespaces, directory: &Path) -> io::Result<()> {
    step("hiding", sys::hide())?;
    for namespace in [&made.network, &made.ipc, &made.uts].into_iter().flatten() {
        step("joining the pod", sys::setns(namespace, 0))?;
    }
    step("mounts", unshare(CloneFlags::CLONE_NEWNS))?;
    empty_root(directory, &[("size", Some("4096"))], attribute::RDONLY)
}

fn become_waiter(spec: &SandboxSpec) -> io::Result<()> {
    step("session", setsid())?;
    sys::set_name(&std::ffi::CString::new(WAITER_NAME)?);
    if let Some(program) = &spec.seccomp {
        sys::no_new_privileges()?;
        step("system call filter", sys::install_filter(&filter(program)))?;
    }
    let (uid, gid) = (Uid::from_raw(WAITER), Gid::from_raw(WAITER));
    step("groups", setgroups(&[]))?;
    step("group", setresgid(gid, gid, gid))?;
    step("user", setresuid(uid, uid, uid))?;
    // Changing the user made this process readable for that user again.
    step("hiding", sys::hide())?;
    step("parent's end", sys::die_with_parent())
}

/// Takes the ends of orphans until told to end.
fn wait_for_end() -> ! {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGCHLD].into_iter().collect();
    let _ = signals.thread_set_mask();
    loop {
        match signals.wait() {
            Ok(Signal::SIGCHLD) => while reap_one() {},
            Ok(_) => sys::exit(0),
            Err(_) => {}
        }
    }
}

fn reap_one() -> bool {
    matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive)
}

/// Writes kernel settings in the pod's network and IPC namespaces: none is written if one is not the pod's own.
pub(crate) fn write_sysctls(made: &Namespaces, sysctls: &[(String, String)]) -> io::Result<()> {
    let settings = own(made, sysctls)?;
    let child = in_child(|| {
        for namespace in [&made.network, &made.ipc, &made.uts].into_iter().flatten() {
            step("joining the pod", sys::setns(namespace, 0))?;
        }
        settings.iter().try_for_each(|(setting, value)| {
            step(
                &format!("sysctl {}", setting.name()),
                write_sysctl(Path::new("/proc/sys"), &setting.path(), value),
            )
        })
    })?;
    child.end();
    Ok(())
}

/// The settings as those of namespaces that the pod has. The daemon has looked already: a mistake there must not reach the
/// host.
fn own<'a>(made: &Namespaces, sysctls: &'a [(String, String)]) -> io::Result<Vec<(Setting, &'a str)>> {
    let one = |(name, value): &'a (String, String)| {
        let setting = Setting::parse(name).filter(|setting| match setting.scope() {
            Scope::Ipc => made.ipc.is_some(),
            Scope::Network => made.network.is_some(),
        });
        setting.map(|setting| (setting, value.as_str())).ok_or_else(|| {
            let text = format!("sysctl {name:?} is not in a namespace of the pod's own");
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })
    };
    sysctls.iter().map(one).collect()
}

/// Only what is on procfs below `root`, whatever the name says.
fn write_sysctl(root: &Path, name: &str, value: &str) -> io::Result<()> {
    let root = File::open(root)?;
    let how = OpenHow::new().flags(OFlag::O_WRONLY | OFlag::O_CLOEXEC).resolve(
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV,
    );
    let mut file = File::from(mounts::openat2(&root, name, how)?);
    if fstatfs(&file)?.filesystem_type() != PROC_SUPER_MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a kernel setting"));
    }
    file.write_all(value.as_bytes())
}

/// Where the network namespace is found by others: a descriptor of this process.
pub(crate) fn network_fd(made: &Namespaces) -> Option<i32> {
    made.network.as_ref().map(AsRawFd::as_raw_fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_stay_on_procfs() {
        for name in ["../../etc/passwd", "/etc/passwd", "net/../../self/oom_score_adj", "no/such/setting"] {
            assert!(write_sysctl(Path::new("/proc/sys"), name, "1").is_err(), "{name}");
        }
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::write(elsewhere.path().join("setting"), "").unwrap();
        assert!(write_sysctl(elsewhere.path(), "setting", "1").is_err());
    }

    #[test]
    fn the_hosts_settings_are_not_written() {
        let null = || Some(OwnedFd::from(File::open("/dev/null").unwrap()));
        let nothing = Namespaces::default();
        let network = Namespaces { network: null(), ..Namespaces::default() };
        let ipc = Namespaces { ipc: null(), uts: null(), ..Namespaces::default() };
        for (made, name, allowed) in [
            (&network, "net.ipv4.tcp_rmem", true),
            (&ipc, "kernel.sem", true),
            (&ipc, "net.ipv4.tcp_rmem", false),
            (&network, "kernel.sem", false),
            (&nothing, "net.ipv4.tcp_rmem", false),
            (&network, "kernel.core_pattern", false),
            (&ipc, "kernel.hostname", false),
        ] {
            let asked = [(name.to_owned(), "1".to_owned())];
            assert_eq!(own(made, &asked).is_ok(), allowed, "{name}");
        }
    }
}
