//! The shim's loop: requests, ends of processes, output, all waited for at once by one thread.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{SockFlag, accept4};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use crate::cgroup::Cgroups;
use crate::containers::{Attached, Container, MAX_ATTACHED, Output};
use crate::launch;
use crate::log::{Log, now};
use crate::oci::Oci;
use crate::oom::OomKills;
use crate::process::StartError;
use crate::protocol::{
    Answer, ContainerSpec, ExecSpec, Exit, Failure, PidMode, ProcessSpec, Request, SPEC_FILE, SandboxSpec,
    User,
};
use crate::sandbox::{self, Namespaces};
use crate::streams::Connection;
use crate::sys;

/// The listening socket's number, agreed with the daemon: where input would be.
const LISTENER: i32 = 0;
/// How often a group is tried that still has an ending process: the kernel tells nobody when it is free.
const REMOVAL_PAUSE: Duration = Duration::from_millis(1);
const REMOVAL_TRIES: u32 = 3000;

/// A command that runs in a container.
#[derive(Debug)]
struct Exec {
    container: String,
    pidfd: OwnedFd,
    /// Who waits for it.
    connection: Option<u64>,
    kill_on_close: bool,
    started_at: i64,
    user: User,
}

/// Everything the shim holds.
struct Shim {
    directory: PathBuf,
    cgroups: Cgroups,
    pod: Namespaces,
    /// The group of the pod's first process; empty if there is none.
    pod_group: String,
    containers: BTreeMap<String, Container>,
    oom_kills: OomKills,
    execs: BTreeMap<i32, Exec>,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    buffer: Vec<u8>,
    /// No descriptor is left for another connection: the listener waits until something else has happened.
    full: bool,
    end: bool,
}

/// What a descriptor in the wait belongs to.
enum Source {
    Listener,
    Signals,
    Connection(u64),
    Output(String, usize),
    Attached(String, usize),
}

/// Runs until told to end.
///
/// # Errors
/// The machine lacks what a shim stands on: cgroups, signals, its socket.
pub fn run(directory: &Path) -> io::Result<()> {
    let listener = sys::inherited(LISTENER)?.try_clone()?;
    sys::duplicate_to(File::options().read(true).write(true).open("/dev/null")?, LISTENER)?;
    crate::streams::nonblocking(&listener)?;
    // A terminal's interrupt is not for us, nor for what we start.
    let _ = nix::unistd::setsid();
    sys::become_subreaper()?;
    sys::hide()?;
    for signal in [Signal::SIGPIPE, Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        sys::ignore(signal);
    }
    let mut watched = SigSet::empty();
    watched.add(Signal::SIGCHLD);
    watched.thread_set_mask()?;
    let signals = SignalFd::with_flags(&watched, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    std::env::set_current_dir("/")?;
    let mut shim = Shim {
        directory: directory.to_owned(),
        cgroups: Cgroups::of_machine()?,
        pod: Namespaces::default(),
        pod_group: String::new(),
        containers: BTreeMap::new(),
        oom_kills: OomKills::default(),
        execs: BTreeMap::new(),
        connections: BTreeMap::new(),
        next_connection: 0,
        buffer: vec![0; 32 << 10],
        full: false,
        end: false,
    };
    while !shim.end {
        let (fds, sources) = shim.sources(listener.as_fd(), signals.as_fd());
        let mut waits: Vec<PollFd<'_>> = fds.iter().map(|(fd, flags)| PollFd::new(*fd, *flags)).collect();
        match poll(&mut waits, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready: Vec<bool> =
            waits.iter().map(|wait| wait.revents().is_some_and(|events| !events.is_empty())).collect();
        drop((waits, fds));
        let mut others = false;
        for (source, _) in sources.into_iter().zip(ready).filter(|(_, ready)| *ready) {
            others |= !matches!(source, Source::Listener);
            match source {
                Source::Listener => shim.accept(&listener),
                Source::Signals => {
                    while let Ok(Some(_)) = signals.read_signal() {}
                    shim.reap();
                }
                Source::Connection(number) => shim.serve(number),
                Source::Output(id, index) => shim.take_output(&id, index),
                Source::Attached(id, index) => {
                    if let Some(output) = shim.containers.get_mut(&id).and_then(|c| c.outputs.get_mut(index))
                    {
                        output.flush();
                    }
                }
            }
        }
        shim.drop_closed();
        // Only what happens frees a descriptor; whether it did shows when the next connection is taken.
        shim.full &= !others;
    }
    Ok(())
}

impl Shim {
    fn sources<'a>(
        &'a self,
        listener: BorrowedFd<'a>,
        signals: BorrowedFd<'a>,
    ) -> (Vec<(BorrowedFd<'a>, PollFlags)>, Vec<Source>) {
        let mut fds = vec![(signals, PollFlags::POLLIN)];
        let mut sources = vec![Source::Signals];
        if !self.full {
            fds.push((listener, PollFlags::POLLIN));
            sources.push(Source::Listener);
        }
        for (number, connection) in &self.connections {
            let behind = if connection.is_behind() { PollFlags::POLLOUT } else { PollFlags::empty() };
            fds.push((connection.fd(), PollFlags::POLLIN | behind));
            sources.push(Source::Connection(*number));
        }
        for (id, container) in &self.containers {
            for (index, output) in container.outputs.iter().enumerate() {
                if let Some(fd) = output.fd() {
                    fds.push((fd.as_fd(), PollFlags::POLLIN));
                    sources.push(Source::Output(id.clone(), index));
                }
                for attached in &output.attached {
                    // The end of whoever reads is told without being asked for.
                    let behind = if attached.is_behind() { PollFlags::POLLOUT } else { PollFlags::empty() };
                    fds.push((attached.fd.as_fd(), behind));
                    sources.push(Source::Attached(id.clone(), index));
                }
            }
        }
        (fds, sources)
    }

    fn accept(&mut self, listener: &OwnedFd) {
        use std::os::fd::AsRawFd;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        match accept4(listener.as_raw_fd(), flags) {
            Ok(socket) => {
                self.connections.insert(self.next_connection, Connection::new(sys::own(socket)));
                self.next_connection += 1;
            }
            // Whoever waits stays ready: we would turn in circles.
            Err(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => self.full = true,
            Err(_) => {}
        }
    }

    fn take_output(&mut self, id: &str, index: usize) {
        if let Some(container) = self.containers.get_mut(id) {
            let _ = container.take(index, &mut self.buffer);
        }
    }

    /// Lets connections go that have ended, and with them what was to end with them.
    fn drop_closed(&mut self) {
        let closed: Vec<u64> =
            self.connections.iter().filter(|(_, one)| one.closed).map(|(number, _)| *number).collect();
        for number in closed {
            self.connections.remove(&number);
            for exec in self.execs.values_mut().filter(|exec| exec.connection == Some(number)) {
                exec.connection = None;
                if exec.kill_on_close {
                    let _ = sys::pidfd_signal(&exec.pidfd, libc::SIGKILL);
                }
            }
        }
    }

    fn serve(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.flush();
        for line in connection.receive() {
            let answer = match serde_json::from_slice::<Request>(&line) {
                Ok(request) => self.answer(number, request),
                Err(error) => Err(failed(format!("a request that is none: {error}"))),
            };
            let Some(connection) = self.connections.get_mut(&number) else { return };
            match answer {
                Ok((answer, fd)) => connection.say(&answer, fd.as_ref()),
                Err(error) => {
                    connection.say(&Answer::Failed { message: error.message, kind: error.kind }, None);
                }
            }
        }
    }

    fn answer(&mut self, number: u64, request: Request) -> Result<(Answer, Option<OwnedFd>), StartError> {
        let done = Ok((Answer::Done, None));
        match request {
            Request::Sandbox(spec) => Ok((self.make_sandbox(&spec)?, None)),
            Request::Sysctls { sysctls } => {
                sandbox::write_sysctls(&self.pod, &sysctls)?;
                done
            }
            Request::State => Ok((self.state(), None)),
            Request::Watch => {
                if let Some(connection) = self.connections.get_mut(&number) {
                    connection.watches = true;
                }
                Ok((self.state(), None))
            }
            Request::Start { directory } => self.start(&directory),
            Request::Exec(spec) => self.exec(number, &spec),
            Request::Kill { id, signal, all } => {
                let container = self.container(&id)?;
                if all {
                    let group = container.cgroup.clone();
                    self.cgroups.kill(&group);
                } else if container.exit.is_none() {
                    sys::pidfd_signal(&container.pidfd, signal)?;
                }
                done
            }
            Request::Attach { id, stdin, stdout, stderr } => {
                self.attach(number, &id, stdin, [stdout, stderr])
            }
            Request::CloseInput { id } => {
                self.container(&id)?.input = None;
                done
            }
            Request::ReopenLog { id } => {
                if let Some(log) = &mut self.container(&id)?.log {
                    log.reopen()?;
                }
                done
            }
            Request::Forget { id } => {
                let notes = self.notes();
                if let Some(container) = self.containers.get(&id) {
                    if let Some(oci) = container.made_by(notes) {
                        oci.delete();
                    }
                    let group = container.cgroup.clone();
                    self.remove_group(&group);
                    self.containers.remove(&id);
                }
                done
            }
            Request::End => {
                self.end_all();
                done
            }
        }
    }

    fn container(&mut self, id: &str) -> Result<&mut Container, StartError> {
        self.containers.get_mut(id).ok_or_else(|| StartError {
            kind: Failure::NotFound,
            message: format!("container {id} is not running"),
        })
    }

    fn make_sandbox(&mut self, spec: &SandboxSpec) -> Result<Answer, StartError> {
        self.pod_group.clone_from(&spec.cgroup);
        self.pod = sandbox::create(spec, &self.directory, &self.cgroups)?;
        Ok(Answer::Sandbox { pid: own_pid(), network_fd: sandbox::network_fd(&self.pod) })
    }

    fn state(&self) -> Answer {
        Answer::State {
            pid: own_pid(),
            network_fd: sandbox::network_fd(&self.pod),
            containers: self.containers.values().map(Container::state).collect(),
        }
    }

    fn start(&mut self, directory: &Path) -> Result<(Answer, Option<OwnedFd>), StartError> {
        let spec: ContainerSpec = read_spec(directory)?;
        if self.containers.contains_key(&spec.id) {
            return Err(failed(format!("container {} has been started", spec.id)));
        }
        let group = spec.cgroup.clone();
        let started = self.start_container(directory, spec);
        if started.is_err() {
            self.remove_group(&group);
        }
        started.map(|answer| (answer, None))
    }

    fn start_container(&mut self, directory: &Path, spec: ContainerSpec) -> Result<Answer, StartError> {
        self.cgroups.create(&spec.cgroup)?;
        self.oom_kills.begin(&self.cgroups, &spec.cgroup);
        self.cgroups.apply(&spec.cgroup, &spec.resources)?;
        self.cgroups.allow_devices(&spec.cgroup, &spec.devices, spec.all_devices)?;
        let log = match &spec.log_path {
            Some(path) => Some(sandbox::step(&format!("log {}", path.display()), Log::open(path))?),
            None => None,
        };
        let mut outputs = Vec::new();
        let mut input = None;
        let streams = if spec.tty {
            None
        } else {
            let child_input: OwnedFd = if spec.stdin {
                let (read, write) = io::pipe()?;
                input = Some(OwnedFd::from(write));
                read.into()
            } else {
                File::open("/dev/null")?.into()
            };
            let (out, child_out) = io::pipe()?;
            let (err, child_err) = io::pipe()?;
            outputs.push(Output::new(out.into(), "stdout")?);
            outputs.push(Output::new(err.into(), "stderr")?);
            Some([child_input, child_out.into(), child_err.into()])
        };
        let target = match &spec.pid {
            PidMode::Target(id) => self
                .containers
                .get(id)
                .filter(|container| container.exit.is_none())
                .map(|container| container.pid),
            _ => None,
        };
        let started = match &spec.runtime {
            Some(binary) => {
                let oci = Oci { binary, state: self.notes(), bundle: directory, id: &spec.id };
                oci.start(&spec, &self.pod, target, streams, &self.cgroups)?
            }
            None => launch::container(&spec, &self.pod, target, streams, &self.cgroups)?,
        };
        if let Some(terminal) = &started.terminal {
            outputs.push(Output::new(terminal.try_clone()?, "stdout")?);
        }
        let container = Container {
            id: spec.id.clone(),
            directory: directory.to_owned(),
            pid: started.pid,
            pidfd: started.pidfd,
            started_at: now(),
            user: started.user,
            cgroup: spec.cgroup,
            runtime: spec.runtime,
            own_pid: spec.pid == PidMode::Container,
            log,
            input,
            outputs,
            terminal: started.terminal,
            exit: None,
        };
        let answer =
            Answer::Started { pid: container.pid, at: container.started_at, user: container.user.clone() };
        self.containers.insert(spec.id, container);
        Ok(answer)
    }

    /// Where other runtimes keep notes on this pod's containers.
    fn notes(&self) -> PathBuf {
        self.directory.join("oci")
    }

    fn exec(&mut self, number: u64, spec: &ExecSpec) -> Result<(Answer, Option<OwnedFd>), StartError> {
        let container = self.container(&spec.id)?;
        if container.exit.is_some() {
            return Err(StartError {
                kind: Failure::NotFound,
                message: format!("container {} is not running", spec.id),
            });
        }
        let init = container.pid;
        let of: ContainerSpec = read_spec(&spec.directory)?;
        let process = ProcessSpec { args: spec.args.clone(), ..of.process.clone() };
        let descriptors = self
            .connections
            .get_mut(&number)
            .map(|one| std::mem::take(&mut one.descriptors))
            .unwrap_or_default();
        let streams = if spec.tty {
            None
        } else {
            Some(descriptors.try_into().map_err(|_| failed("an exec without three streams".to_owned()))?)
        };
        let notes = self.notes();
        let container = self.container(&spec.id)?;
        let user = container.user.clone();
        let started = match container.made_by(notes) {
            Some(oci) => oci.exec(&process, &user, streams)?,
            None => launch::exec(&of, &process, &self.pod, init, streams, &self.cgroups)?,
        };
        let at = now();
        let answer = Answer::Started { pid: started.pid, at, user: started.user.clone() };
        let exec = Exec {
            container: spec.id.clone(),
            pidfd: started.pidfd,
            connection: Some(number),
            kill_on_close: spec.kill_on_close,
            started_at: at,
            user: started.user,
        };
        self.execs.insert(started.pid, exec);
        Ok((answer, started.terminal))
    }

    fn attach(
        &mut self,
        number: u64,
        id: &str,
        stdin: bool,
        wanted: [bool; 2],
    ) -> Result<(Answer, Option<OwnedFd>), StartError> {
        let mut descriptors = self
            .connections
            .get_mut(&number)
            .map(|one| std::mem::take(&mut one.descriptors))
            .unwrap_or_default()
            .into_iter();
        let container = self.container(id)?;
        if !container.has_room() {
            return Err(failed(format!(
                "too many are attached to container {id}: no more than {MAX_ATTACHED} may be"
            )));
        }
        for (index, _) in wanted.iter().enumerate().filter(|(_, wanted)| **wanted) {
            let fd = descriptors.next().ok_or_else(|| failed("an attach without its streams".to_owned()))?;
            // A terminal has one output only; what has ended says nothing more.
            if let Some(output) = container.outputs.get_mut(index).filter(|output| output.fd().is_some()) {
                output.attached.push(Attached::new(fd)?);
            }
        }
        let input = container.input_for_attach(stdin).map(OwnedFd::try_clone).transpose()?;
        let answer =
            Answer::Started { pid: container.pid, at: container.started_at, user: container.user.clone() };
        Ok((answer, input))
    }

    /// Takes the ends of all processes that have ended.
    fn reap(&mut self) {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => self.ended(pid.as_raw(), code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => self.ended(pid.as_raw(), 128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(_) | Err(_) => {}
            }
        }
    }

    fn ended(&mut self, pid: i32, code: i32) {
        if let Some(exec) = self.execs.remove(&pid) {
            let exit = Exit {
                id: exec.container,
                code,
                at: now(),
                started_at: exec.started_at,
                oom: false,
                user: exec.user,
                ..Exit::default()
            };
            if let Some(connection) = exec.connection.and_then(|number| self.connections.get_mut(&number)) {
                connection.say(&Answer::Exited(exit), None);
            }
            return;
        }
        if self.pod.pid.as_ref().is_some_and(|(_, waiter)| *waiter == pid) {
            // The pod's first process is gone, and with it all others: the pod is over.
            self.tell(&Exit { code, at: now(), ..Exit::default() });
            return;
        }
        let found = self.containers.values_mut().find(|one| one.pid == pid && one.exit.is_none());
        let Some(container) = found else { return };
        if !container.own_pid {
            // Its processes share a namespace with others: nobody ends them for us.
            self.cgroups.kill(&container.cgroup);
        }
        container.drain(&mut self.buffer);
        let id = container.id.clone();
        let others = self.containers.values().filter(|one| one.id != id && one.exit.is_none());
        let group = &self.containers[&id].cgroup;
        let oom = self.oom_kills.ended(&self.cgroups, group, others.map(|one| one.cgroup.as_str()));
        let Some(container) = self.containers.get_mut(&id) else { return };
        let exit = container.ended(code, oom);
        self.tell(&exit);
    }

    fn tell(&mut self, exit: &Exit) {
        for connection in self.connections.values_mut().filter(|one| one.watches) {
            connection.say(&Answer::Exited(exit.clone()), None);
        }
    }

    /// Kills what is in a group and removes it.
    fn remove_group(&mut self, group: &str) {
        for _ in 0..REMOVAL_TRIES {
            self.cgroups.kill(group);
            self.reap();
            if self.cgroups.remove(group) {
                return;
            }
            std::thread::sleep(REMOVAL_PAUSE);
        }
        eprintln!("podium-shim: cgroup {group} is still in use");
    }

    fn end_all(&mut self) {
        let own = Some(self.pod_group.clone()).filter(|group| !group.is_empty());
        let notes = self.notes();
        for oci in self.containers.values().filter_map(|one| one.made_by(notes.clone())) {
            oci.delete();
        }
        let groups: Vec<String> = self.containers.values().map(|one| one.cgroup.clone()).chain(own).collect();
        if let Some((_, waiter)) = &self.pod.pid {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(*waiter), Signal::SIGKILL);
        }
        for group in groups {
            self.remove_group(&group);
        }
        self.end = true;
    }
}

fn own_pid() -> i32 {
    std::process::id().cast_signed()
}

fn failed(message: String) -> StartError {
    StartError { kind: Failure::Other, message }
}

fn read_spec(directory: &Path) -> Result<ContainerSpec, StartError> {
    let path = directory.join(SPEC_FILE);
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path);
    let text = file.and_then(io::read_to_string);
    let text = sandbox::step(&format!("reading {}", path.display()), text)?;
    serde_json::from_str(&text).map_err(|error| failed(format!("{}: {error}", path.display())))
}
