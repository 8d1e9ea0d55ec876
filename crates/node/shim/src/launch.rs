//! A process from its specification to its program: forked, put into groups and namespaces, and watched until it has
//! become the program or said why not.
//!
//! The child says what it has to say over a socket pair that closes by itself when the program starts: one packet each,
//! the first byte says what it is.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::cmsg_space;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};
use nix::unistd::Pid;

use crate::cgroup::Cgroups;
use crate::process::{self, StartError, Stdio};
use crate::protocol::{ContainerSpec, Failure, PidMode, ProcessSpec, User};
use crate::rootfs;
use crate::sandbox::{Namespaces, step};
use crate::sys::{self, Fork};
use crate::userns::{Users, become_root};

/// How long a start may take before it is given up: mounting from a network that does not answer hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// The longest message of a child.
const MESSAGE_BYTES: usize = 16 << 10;

const PID: u8 = b'p';
const TERMINAL: u8 = b't';
const USER: u8 = b'u';
const FAILED: u8 = b'e';
const BAD_PROGRAM: u8 = b'x';

/// A process that runs its program.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) user: User,
    /// The controlling end of its terminal.
    pub(crate) terminal: Option<OwnedFd>,
}

/// The child's end of the conversation.
struct Child(OwnedFd);

impl Child {
    fn say(&self, kind: u8, body: &[u8], fd: Option<&OwnedFd>) -> io::Result<()> {
        let body = &body[..body.len().min(MESSAGE_BYTES - 1)];
        let parts = [IoSlice::new(std::slice::from_ref(&kind)), IoSlice::new(body)];
        let raw: Vec<_> = fd.iter().map(|fd| fd.as_raw_fd()).collect();
        let control = [ControlMessage::ScmRights(&raw)];
        let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &control };
        sendmsg::<()>(self.0.as_raw_fd(), &parts, control, MsgFlags::empty(), None)?;
        Ok(())
    }

    /// Waits for the parent to have put us into our groups.
    fn wait(&self) -> io::Result<()> {
        let mut byte = [0];
        match nix::unistd::read(&self.0, &mut byte)? {
            1 => Ok(()),
            _ => Err(io::Error::other("the shim has gone")),
        }
    }

    fn say_user(&self, user: &User) -> io::Result<()> {
        self.say(USER, &serde_json::to_vec(user)?, None)
    }

    fn fail(&self, error: &StartError) -> ! {
        let kind = if error.kind == Failure::Program { BAD_PROGRAM } else { FAILED };
        let _ = self.say(kind, error.message.as_bytes(), None);
        sys::exit(127)
    }
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Starts a container's first process. `streams` are its input, output and errors, unless it has a terminal.
pub(crate) fn container(
    spec: &ContainerSpec,
    pod: &Namespaces,
    target: Option<i32>,
    streams: Option<[OwnedFd; 3]>,
    cgroups: &Cgroups,
) -> Result<Started, StartError> {
    let joined = match &spec.pid {
        PidMode::Container | PidMode::Host => None,
        PidMode::Pod => Some(pod.pid.as_ref().ok_or_else(|| other("the pod has no process namespace"))?.1),
        PidMode::Target(id) => Some(target.ok_or_else(|| other(&format!("container {id} does not run")))?),
    };
    let joined = match joined {
        Some(pid) => Some(File::open(format!("/proc/{pid}/ns/pid"))?),
        None => None,
    };
    let own_pid = spec.pid == PidMode::Container;
    let (ours, theirs) = pair()?;
    // With users of its own its process namespace has to be theirs, made from inside.
    let flags = if own_pid && pod.users.is_none() { libc::CLONE_NEWPID } else { 0 };
    match sys::fork(flags)? {
        Fork::Child => {
            drop(ours);
            let child = Child(theirs);
            let error = (|| -> Result<std::convert::Infallible, StartError> {
                step("hiding", sys::hide())?;
                child.wait()?;
                if let Some(users) = &pod.users {
                    return inside(spec, pod, users, joined, streams, cgroups, &child);
                }
                if let Some(namespace) = joined {
                    step("process namespace", sys::setns(&namespace, libc::CLONE_NEWPID))?;
                    fork_again(&child, 0)?;
                }
                join(spec, pod)?;
                own_group(cgroups)?;
                process::new_session(&spec.id)?;
                step("mount namespace", unshare(CloneFlags::CLONE_NEWNS))?;
                let terminal = rootfs::enter(spec, pod, cgroups)?;
                let stdio = match (terminal, streams) {
                    (Some(master), _) => {
                        child.say(TERMINAL, &[], Some(&master))?;
                        Stdio::Terminal(master)
                    }
                    (None, Some(streams)) => Stdio::Pipes(streams),
                    (None, None) => return Err(other("neither streams nor a terminal")),
                };
                Err(process::become_program(&spec.process, &stdio, |user| child.say_user(user)))
            })();
            match error {
                Err(error) => child.fail(&error),
            }
        }
        Fork::Parent(pid) => {
            drop((theirs, streams));
            attend(&ours, pid, |pid| cgroups.enter(&spec.cgroup, pid), spec.process.oom_score_adj)
        }
    }
}

/// A container's first process in the pod's user namespace. It has no privileges on the host there, so another process, which
/// has them, makes its files meanwhile: in the same mount namespace, where changing the root changes both, and in its process
/// namespace, whose `/proc` it mounts.
fn inside(
    spec: &ContainerSpec,
    pod: &Namespaces,
    users: &Users,
    joined: Option<File>,
    streams: Option<[OwnedFd; 3]>,
    cgroups: &Cgroups,
    child: &Child,
) -> Result<std::convert::Infallible, StartError> {
    join(spec, pod)?;
    step("mount namespace", unshare(CloneFlags::CLONE_NEWNS))?;
    let (builder, built) = pair()?;
    let (mut number, mut tell) = io::pipe()?;
    // The shim's child as we are: its own child is then the shim's too, and ends with the shim, not with us.
    if let Fork::Child = step("fork", sys::fork(libc::CLONE_PARENT))? {
        drop((builder, number));
        step("hiding", sys::hide())?;
        users.enter()?;
        let flags = if spec.pid == PidMode::Container { libc::CLONE_NEWPID } else { 0 };
        if let Some(namespace) = joined {
            step("process namespace", sys::setns(&namespace, libc::CLONE_NEWPID))?;
        }
        fork_again_telling(child, flags, |pid| tell.write_all(&pid.to_le_bytes()))?;
        drop(tell);
        let built = Child(built);
        let (size, terminal) = receive(&built.0, &mut [0; 1])?;
        if size == 0 {
            // Whoever made the files has said why not.
            sys::exit(127);
        }
        step("mount namespace", unshare(CloneFlags::CLONE_NEWNS))?;
        own_group(cgroups)?;
        process::new_session(&spec.id)?;
        let stdio = match (terminal, streams) {
            (Some(master), _) => Stdio::Terminal(master),
            (None, Some(streams)) => Stdio::Pipes(streams),
            (None, None) => return Err(other("neither streams nor a terminal")),
        };
        return Err(process::become_program(&spec.process, &stdio, |user| child.say_user(user)));
    }
    drop((built, tell));
    let mut pid = [0; 4];
    if number.read_exact(&mut pid).is_err() {
        // It has said why.
        sys::exit(127);
    }
    let namespace = File::open(format!("/proc/{}/ns/pid", i32::from_le_bytes(pid)))?;
    step("process namespace", sys::setns(&namespace, libc::CLONE_NEWPID))?;
    match step("fork", sys::fork(0))? {
        Fork::Child => {
            step("hiding", sys::hide())?;
            if let Some(streams) = &streams {
                step("owner of the streams", users.give(streams))?;
            }
            let terminal = rootfs::enter(spec, pod, cgroups)?;
            if let Some(master) = &terminal {
                child.say(TERMINAL, &[], Some(master))?;
            }
            Child(builder).say(PID, &[], terminal.as_ref())?;
            sys::exit(0)
        }
        Fork::Parent(pid) => {
            // As one of that namespace it ends before the namespace does.
            let _ = nix::sys::wait::waitpid(Pid::from_raw(pid), None);
            sys::exit(0)
        }
    }
}

/// Starts a further process in a container, whose first process is `init`.
pub(crate) fn exec(
    spec: &ContainerSpec,
    process: &ProcessSpec,
    pod: &Namespaces,
    init: i32,
    streams: Option<[OwnedFd; 3]>,
    cgroups: &Cgroups,
) -> Result<Started, StartError> {
    let container = sys::pidfd(init)?;
    let (ours, theirs) = pair()?;
    match sys::fork(0)? {
        Fork::Child => {
            drop(ours);
            let child = Child(theirs);
            let error = (|| -> Result<std::convert::Infallible, StartError> {
                step("hiding", sys::hide())?;
                child.wait()?;
                let mut kinds = libc::CLONE_NEWNS
                    | libc::CLONE_NEWPID
                    | libc::CLONE_NEWNET
                    | libc::CLONE_NEWIPC
                    | libc::CLONE_NEWUTS;
                if cgroups.is_v2() {
                    kinds |= libc::CLONE_NEWCGROUP;
                }
                if let Some(users) = &pod.users {
                    kinds |= libc::CLONE_NEWUSER;
                    if let Some(streams) = &streams {
                        step("owner of the streams", users.give(streams))?;
                    }
                }
                step("joining the container", sys::setns(&container, kinds))?;
                if pod.users.is_some() {
                    become_root()?;
                }
                fork_again(&child, 0)?;
                process::new_session(&spec.id)?;
                let stdio = match streams {
                    Some(streams) => Stdio::Pipes(streams),
                    None => {
                        let master = step("terminal", rootfs::open_terminal())?;
                        child.say(TERMINAL, &[], Some(&master))?;
                        Stdio::Terminal(master)
                    }
                };
                Err(process::become_program(process, &stdio, |user| child.say_user(user)))
            })();
            match error {
                Err(error) => child.fail(&error),
            }
        }
        Fork::Parent(pid) => {
            drop((theirs, streams));
            let enter = |pid| cgroups.enter_beside(&spec.cgroup, init, pid);
            attend(&ours, pid, enter, process.oom_score_adj)
        }
    }
}

fn other(message: &str) -> StartError {
    StartError { kind: Failure::Other, message: message.to_owned() }
}

/// Goes on in a child: only a child is in a process namespace that was joined. It is the shim's child as we are, and we
/// tell its number and end.
fn fork_again(child: &Child, flags: libc::c_int) -> io::Result<()> {
    fork_again_telling(child, flags, |_| Ok(()))
}

/// The same, with somebody else to tell the number.
fn fork_again_telling(
    child: &Child,
    flags: libc::c_int,
    mut tell: impl FnMut(i32) -> io::Result<()>,
) -> io::Result<()> {
    match step("fork", sys::fork(libc::CLONE_PARENT | flags))? {
        Fork::Child => step("hiding", sys::hide()),
        Fork::Parent(pid) => {
            let told = child.say(PID, &pid.to_le_bytes(), None).and_then(|()| tell(pid));
            sys::exit(i32::from(told.is_err()))
        }
    }
}

/// Joins the pod's namespaces.
fn join(spec: &ContainerSpec, pod: &Namespaces) -> io::Result<()> {
    for (host, namespace, name) in [
        (spec.host_network, &pod.network, "network namespace"),
        (spec.host_ipc, &pod.ipc, "IPC namespace"),
        (spec.host_uts, &pod.uts, "UTS namespace"),
    ] {
        match namespace {
            _ if host => {}
            Some(namespace) => step(name, sys::setns(namespace, 0))?,
            None => return Err(io::Error::other(format!("the pod has no {name} of its own"))),
        }
    }
    Ok(())
}

/// We are in the container's group by now: of version 2 it is the root of what the container sees.
fn own_group(cgroups: &Cgroups) -> io::Result<()> {
    if cgroups.is_v2() { step("cgroup namespace", unshare(CloneFlags::CLONE_NEWCGROUP)) } else { Ok(()) }
}

/// The parent's part: groups, then listening until the child is a program.
fn attend(
    socket: &OwnedFd,
    first: i32,
    enter: impl FnOnce(i32) -> io::Result<()>,
    oom_score_adj: Option<i32>,
) -> Result<Started, StartError> {
    let mut pid = first;
    let outcome = (|| {
        enter(first)?;
        if let Some(score) = oom_score_adj {
            step("oom_score_adj", set_oom_score(first, score))?;
        }
        nix::unistd::write(socket, &[0]).map_err(io::Error::from)?;
        listen(socket, &mut pid)
    })();
    if outcome.is_err() {
        for pid in [first, pid] {
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    outcome
}

fn listen(socket: &OwnedFd, pid: &mut i32) -> Result<Started, StartError> {
    let limit = Instant::now() + PATIENCE;
    let (mut user, mut terminal, mut pidfd) = (User::default(), None, None);
    let mut buffer = vec![0; MESSAGE_BYTES];
    loop {
        let left = limit.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut waits = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        if poll(&mut waits, timeout).map_err(io::Error::from)? == 0 {
            return Err(other("the start took too long"));
        }
        // Before the program runs: after its end the number could be another process's.
        if pidfd.is_none() {
            pidfd = Some((*pid, sys::pidfd(*pid)?));
        }
        let (size, fd) = receive(socket, &mut buffer)?;
        let Some((kind, body)) = buffer[..size].split_first() else {
            let pidfd = match pidfd {
                Some((number, pidfd)) if number == *pid => pidfd,
                _ => sys::pidfd(*pid)?,
            };
            return Ok(Started { pid: *pid, pidfd, user, terminal });
        };
        match *kind {
            PID => {
                let bytes = body.try_into().map_err(|_| other("a broken message"))?;
                *pid = i32::from_le_bytes(bytes);
                pidfd = Some((*pid, sys::pidfd(*pid)?));
            }
            TERMINAL => terminal = fd,
            USER => user = serde_json::from_slice(body).map_err(io::Error::from)?,
            kind => {
                let kind = if kind == BAD_PROGRAM { Failure::Program } else { Failure::Other };
                return Err(StartError { kind, message: String::from_utf8_lossy(body).into_owned() });
            }
        }
    }
}

pub(crate) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = cmsg_space!([i32; 1]);
    let mut parts = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut fd = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            fd = fds.into_iter().next().map(sys::own);
        }
    }
    Ok((message.bytes, fd))
}

/// Sets how gladly the kernel kills a process. Lower than its own score nobody may without a capability; then it keeps
/// what it has, as other runtimes can be told to.
fn set_oom_score(pid: i32, score: i32) -> io::Result<()> {
    let path = format!("/proc/{pid}/oom_score_adj");
    match std::fs::write(Path::new(&path), score.to_string()) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => other,
    }
}
