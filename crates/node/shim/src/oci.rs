//! Containers run by another OCI runtime, such as runc or crun: its program makes and starts them, and goes. What it made is
//! then the shim's child, like any other container.
//!
//! The daemon writes the bundle's configuration; only what is known here is added: who the user is, and where the pod's
//! namespaces are. The layers are mounted in a mount namespace that the program is started in and that ends with it, so that
//! nothing of them is in the host's mount table. What the program says for people goes into a file of its own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::cgroup::Cgroups;
use crate::launch::{PATIENCE, Started, receive};
use crate::process::{StartError, resolve_in};
use crate::protocol::{ContainerSpec, Failure, OCI_CONFIG, PidMode, ProcessSpec, User};
use crate::rootfs;
use crate::sandbox::{Namespaces, step};
use crate::sys::{self, Fork};

/// Files in the container's directory: what the program says, the number of the process that it started, the socket that
/// it sends a terminal to, a command's configuration. Short: a socket's path may have 107 bytes, and it is named from there.
const LOG: &str = "oci.log";
const PID_FILE: &str = "oci.pid";
const CONSOLE: &str = "tty";
const PROCESS: &str = "process.json";
/// How an error begins that is the command's own fault.
const PROGRAM_ERROR: &str = "unable to start container process: ";

/// Another runtime, as one pod uses it.
#[derive(Debug)]
pub(crate) struct Oci<'a> {
    pub(crate) binary: &'a Path,
    /// Where it keeps its notes.
    pub(crate) state: PathBuf,
    /// The container's directory, its bundle.
    pub(crate) bundle: &'a Path,
    pub(crate) id: &'a str,
}

impl Oci<'_> {
    /// Makes and starts a container. `streams` are its input, output and errors, unless it has a terminal.
    pub(crate) fn start(
        &self,
        spec: &ContainerSpec,
        pod: &Namespaces,
        target: Option<i32>,
        streams: Option<[OwnedFd; 3]>,
        cgroups: &Cgroups,
    ) -> Result<Started, StartError> {
        let namespaces = namespaces(spec, pod, target, cgroups)?;
        let console = spec.tty.then(|| self.listen()).transpose()?;
        let (mut said, mut say) = io::pipe()?;
        let pid = match sys::fork(0)? {
            Fork::Child => {
                drop(said);
                let failed = match self.become_runtime(spec, pod, namespaces, streams, &mut say) {
                    Err(error) => error,
                    Ok(never) => match never {},
                };
                let _ = say.write_all(failed.message.as_bytes());
                sys::exit(127)
            }
            Fork::Parent(pid) => pid,
        };
        drop((say, streams));
        let process = sys::pidfd(pid)?;
        let mut text = Vec::new();
        let outcome = said.read_to_end(&mut text).map_err(StartError::from).and_then(|_| {
            let user: User =
                serde_json::from_slice(&text).map_err(|_| other(&String::from_utf8_lossy(&text)))?;
            self.wait(&process, pid)?;
            Ok(user)
        });
        let started = outcome.and_then(|user| {
            let terminal = console.map(|console| terminal(&console)).transpose()?;
            let pid = self.pid()?;
            let pidfd = sys::pidfd(pid)?;
            self.run(self.command(&["start", self.id]))?;
            Ok(Started { pid, pidfd, user, terminal })
        });
        if started.is_err() {
            self.delete();
        }
        started
    }

    /// The child's part: the files as the program finds them, then the program. The user is told before.
    fn become_runtime(
        &self,
        spec: &ContainerSpec,
        pod: &Namespaces,
        namespaces: Value,
        streams: Option<[OwnedFd; 3]>,
        say: &mut io::PipeWriter,
    ) -> Result<std::convert::Infallible, StartError> {
        step("hiding", sys::hide())?;
        let shm = match pod.shm.as_ref().filter(|_| !spec.host_ipc) {
            Some(namespace) => Some(step("/dev/shm of the pod", rootfs::take_shm(namespace))?),
            None => None,
        };
        step("mount namespace", unshare(CloneFlags::CLONE_NEWNS))?;
        let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
        step("mounts", mount(None::<&str>, "/", None::<&str>, slave, None::<&str>).map_err(io::Error::from))?;
        for (number, bind) in spec.binds.iter().enumerate().filter(|(_, bind)| bind.image.is_some()) {
            let tree = step(&crate::images::what(bind), rootfs::take_image(bind, None, spec))?;
            self.put(&tree, &image_name(number))?;
        }
        if let Some(shm) = shm {
            self.put(&shm, SHM)?;
        }
        let place = step("layers", rootfs::mount_layers(spec, None))?;
        let user = resolve_in(&place, &spec.process)?.user;
        let path = self.bundle.join(OCI_CONFIG);
        let mut config: Value = serde_json::from_slice(&fs::read(&path)?).map_err(io::Error::from)?;
        config["process"]["user"] = user_of(&user);
        config["linux"]["namespaces"] = namespaces;
        fs::write(&path, config.to_string())?;
        match streams {
            Some(streams) => {
                for (number, stream) in (0..).zip(&streams) {
                    step("streams", sys::duplicate_to(stream, number))?;
                }
            }
            None => {
                let null = File::options().read(true).write(true).open("/dev/null")?;
                for number in 0..3 {
                    step("streams", sys::duplicate_to(&null, number))?;
                }
            }
        }
        serde_json::to_writer(&mut *say, &user).map_err(io::Error::from)?;
        let mut command = self.command(&["create", "--bundle"]);
        command.arg(self.bundle).args(["--pid-file", PID_FILE]);
        if spec.tty {
            command.args(["--console-socket", CONSOLE]);
        }
        command.arg(self.id).stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
        Err(std::os::unix::process::CommandExt::exec(&mut command).into())
    }

    fn put(&self, tree: &OwnedFd, name: &str) -> Result<(), StartError> {
        let at = self.bundle.join(name);
        if !crate::mounts::is_directory(tree)? {
            File::create(&at)?;
        } else if let Err(error) = fs::create_dir(&at)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(error.into());
        }
        Ok(step(name, sys::move_mount(tree, File::open(at)?))?)
    }

    /// Starts a further process in the container.
    pub(crate) fn exec(
        &self,
        process: &ProcessSpec,
        user: &User,
        streams: Option<[OwnedFd; 3]>,
    ) -> Result<Started, StartError> {
        let text = fs::read(self.bundle.join(OCI_CONFIG))?;
        let config: Value = serde_json::from_slice(&text).map_err(io::Error::from)?;
        let mut wanted = config["process"].clone();
        wanted["args"] = json!(process.args);
        wanted["terminal"] = json!(streams.is_none());
        wanted["user"] = user_of(user);
        // Private, as it has the environment.
        let path = self.bundle.join(PROCESS);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        serde_json::to_writer(file, &wanted).map_err(io::Error::from)?;
        let console = streams.is_none().then(|| self.listen()).transpose()?;
        let mut command = self.command(&["exec", "--detach", "--process", PROCESS, "--pid-file", PID_FILE]);
        if console.is_some() {
            command.args(["--console-socket", CONSOLE]);
        }
        command.arg(self.id);
        if let Some([input, output, errors]) = streams {
            command.stdin(input).stdout(output).stderr(errors);
        }
        self.run(command)?;
        let terminal = console.map(|console| terminal(&console)).transpose()?;
        let pid = self.pid()?;
        Ok(Started { pid, pidfd: sys::pidfd(pid)?, user: user.clone(), terminal })
    }

    /// Forgets a container, which has ended or must.
    pub(crate) fn delete(&self) {
        if let Err(error) = self.run(self.command(&["delete", "--force", self.id])) {
            eprintln!("podium-shim: {} is not forgotten by {}: {error:?}", self.id, self.binary.display());
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.binary);
        command
            .arg("--root")
            .arg(&self.state)
            .args(["--log", LOG, "--log-format", "json"])
            .args(args)
            .current_dir(self.bundle)
            .env_clear()
            // Where helpers of its own are.
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // What it starts is not to inherit what we ignore.
        sys::start_with_default_signals(&mut command);
        command
    }

    /// Runs the program to its end.
    fn run(&self, mut command: Command) -> Result<(), StartError> {
        // What it says is about this time, and does not grow with every probe.
        for name in [PID_FILE, LOG] {
            let _ = fs::remove_file(self.bundle.join(name));
        }
        let what = format!("starting {}", self.binary.display());
        let child = step(&what, command.spawn())?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        self.wait(&sys::pidfd(pid)?, pid)
    }

    /// Waits for the program's end, which is to be a success.
    fn wait(&self, process: &OwnedFd, pid: i32) -> Result<(), StartError> {
        let until = Instant::now() + PATIENCE;
        while !ready(process, until)? {
            if Instant::now() >= until {
                let _ = sys::pidfd_signal(process, libc::SIGKILL);
                let _ = waitpid(Pid::from_raw(pid), None);
                return Err(other("the start took too long"));
            }
        }
        match waitpid(Pid::from_raw(pid), None).map_err(io::Error::from)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            _ => Err(self.complaint()),
        }
    }

    /// Why the program failed, as it says itself.
    fn complaint(&self) -> StartError {
        let log = fs::read_to_string(self.bundle.join(LOG)).unwrap_or_default();
        complaint(&log)
            .unwrap_or_else(|| other(&format!("{} failed and says no reason", self.binary.display())))
    }

    fn pid(&self) -> Result<i32, StartError> {
        let text = step("the process that was started", fs::read_to_string(self.bundle.join(PID_FILE)))?;
        text.trim().parse().map_err(|_| other("a broken number of a process"))
    }

    /// Listens for a terminal.
    fn listen(&self) -> io::Result<UnixListener> {
        let directory = File::open(self.bundle)?;
        let _ = fs::remove_file(self.bundle.join(CONSOLE));
        UnixListener::bind(format!("/proc/self/fd/{}/{CONSOLE}", directory.as_raw_fd()))
    }
}

/// Where a pod's `/dev/shm` is mounted for the program, in the bundle.
pub const SHM: &str = "shm";

/// Where an image of the container's binds is, likewise, by the bind's number.
pub fn image_name(number: usize) -> String {
    format!("image{number}")
}

fn other(message: &str) -> StartError {
    StartError { kind: Failure::Other, message: message.to_owned() }
}

fn user_of(user: &User) -> Value {
    json!({"uid": user.uid, "gid": user.gid, "additionalGids": user.groups})
}

/// The last error in the program's log.
fn complaint(log: &str) -> Option<StartError> {
    let lines = log.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut errors = lines.filter(|line| matches!(line["level"].as_str(), Some("error" | "fatal")));
    let message = errors.next()?["msg"].as_str()?.to_owned();
    Some(match message.split_once(PROGRAM_ERROR) {
        Some((_, own)) => StartError { kind: Failure::Program, message: own.to_owned() },
        None => StartError { kind: Failure::Other, message },
    })
}

/// The namespaces of a container, as the OCI has them: the pod's by path, its own without.
fn namespaces(
    spec: &ContainerSpec,
    pod: &Namespaces,
    target: Option<i32>,
    cgroups: &Cgroups,
) -> Result<Value, StartError> {
    if pod.users.is_some() {
        return Err(other("user namespaces are not supported with another runtime"));
    }
    let own = std::process::id();
    let mut all = vec![json!({"type": "mount"})];
    for (host, namespace, kind) in [
        (spec.host_network, &pod.network, "network"),
        (spec.host_ipc, &pod.ipc, "ipc"),
        (spec.host_uts, &pod.uts, "uts"),
    ] {
        match namespace {
            _ if host => {}
            Some(fd) => all.push(json!({"type": kind, "path": format!("/proc/{own}/fd/{}", fd.as_raw_fd())})),
            None => return Err(other(&format!("the pod has no {kind} namespace of its own"))),
        }
    }
    let of = |pid: i32| json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")});
    match &spec.pid {
        PidMode::Container => all.push(json!({"type": "pid"})),
        PidMode::Host => {}
        PidMode::Pod => {
            all.push(of(pod.pid.as_ref().ok_or_else(|| other("the pod has no process namespace"))?.1));
        }
        PidMode::Target(id) => {
            all.push(of(target.ok_or_else(|| other(&format!("container {id} does not run")))?));
        }
    }
    if cgroups.is_v2() {
        all.push(json!({"type": "cgroup"}));
    }
    Ok(Value::Array(all))
}

/// Waits until a descriptor is ready. False: a signal came, or the time is over.
fn ready(fd: impl AsFd, until: Instant) -> io::Result<bool> {
    let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout) {
        Ok(count) => Ok(count > 0),
        Err(nix::errno::Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// The terminal that the program has sent.
fn terminal(console: &UnixListener) -> Result<OwnedFd, StartError> {
    // It has ended by now, and sent it before: whatever is there is there already.
    console.set_nonblocking(true)?;
    let (connection, _) = step("terminal", console.accept())?;
    connection.set_read_timeout(Some(Duration::from_secs(1)))?;
    let (_, fd) = step("terminal", receive(&connection.into(), &mut [0; 4096]))?;
    fd.ok_or_else(|| other("no terminal was sent"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_wrong_is_the_last_error() {
        let log = "{\"level\":\"warning\",\"msg\":\"w\"}\nnonsense\n\
            {\"level\":\"error\",\"msg\":\"runc create failed: unable to start container process: exec: \\\"x\\\": executable file not found in $PATH\"}\n";
        let found = complaint(log).unwrap();
        assert_eq!(found.message, "exec: \"x\": executable file not found in $PATH");
        assert!(found.kind == Failure::Program);
        let other =
            complaint("{\"level\":\"error\",\"msg\":\"no room\"}\n{\"level\":\"info\",\"msg\":\"i\"}")
                .unwrap();
        assert!(other.message == "no room" && other.kind == Failure::Other);
        assert!(complaint("").is_none());
    }
}
