//! What the daemon and a shim say to each other: one JSON document a line over a unix stream, descriptors beside the
//! first byte of a line. A connection carries one request and its answers.
//!
//! Specifications of containers are files (`spec.json` in the container's directory), so that a line stays short and a
//! shim holds little; they are private, because they carry environments.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The file in a container's directory that says what to run.
pub const SPEC_FILE: &str = "spec.json";
/// The file in a container's directory that says how it ended.
pub const EXIT_FILE: &str = "exit.json";
/// The configuration of a container that another OCI runtime makes, in the container's directory.
pub const OCI_CONFIG: &str = "config.json";
/// In place of a pod's id: asks whether user namespaces work, with layers in the directory that follows.
pub const CHECK_USERS: &str = "check-user-namespaces";
/// In place of everything: a process that does nothing until its input ends.
pub const HOLD: &str = "hold";
/// The longest line taken: no request is near it.
pub const LINE_BYTES: usize = 1 << 20;

/// What the daemon asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "camelCase")]
pub enum Request {
    /// Makes the pod's namespaces. Answered with [`Answer::Sandbox`].
    Sandbox(SandboxSpec),
    /// Writes kernel settings in the pod's namespaces, `name` to `value`; refused if one is not the pod's own.
    Sysctls {
        /// Dotted names and their values.
        sysctls: Vec<(String, String)>,
    },
    /// Everything there is; answered with [`Answer::State`].
    State,
    /// [`Answer::State`] at once, then [`Answer::Exited`] for every container that ends.
    Watch,
    /// Starts the container whose `spec.json` lies in `directory`.
    Start {
        /// The container's directory.
        directory: PathBuf,
    },
    /// Runs a command in a container. Without a terminal three descriptors come along: input, output, error. Answered
    /// with [`Answer::Started`] (and the terminal), then [`Answer::Exited`].
    Exec(ExecSpec),
    /// Sends a signal to a container's first process, or with `all` to every process of its group.
    Kill {
        /// The container.
        id: String,
        /// A signal's number.
        signal: i32,
        /// Everything in the container's cgroup.
        all: bool,
    },
    /// Copies output to the descriptors sent along (one for each of `stdout`, `stderr`), answered with
    /// [`Answer::Started`] and the descriptor of the container's input, if asked for and there.
    Attach {
        /// The container.
        id: String,
        /// Whether input is wanted.
        stdin: bool,
        /// Whether a descriptor for output comes along.
        stdout: bool,
        /// Whether a descriptor for errors comes along.
        stderr: bool,
    },
    /// Closes the container's input for good.
    CloseInput {
        /// The container.
        id: String,
    },
    /// Opens a container's log anew.
    ReopenLog {
        /// The container.
        id: String,
    },
    /// Forgets an ended container and removes its cgroup.
    Forget {
        /// The container.
        id: String,
    },
    /// Kills everything that is left and ends.
    End,
}

/// What the shim answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "camelCase")]
pub enum Answer {
    /// Done.
    Done,
    /// The namespaces stand.
    Sandbox {
        /// The shim itself; `/proc/PID/fd/N` names the namespaces.
        pid: i32,
        /// The descriptor of the network namespace; absent on the host's network.
        network_fd: Option<i32>,
    },
    /// All containers.
    State {
        /// The shim itself.
        pid: i32,
        /// As in [`Answer::Sandbox`].
        network_fd: Option<i32>,
        /// Every container started and not forgotten.
        containers: Vec<ContainerState>,
    },
    /// A process runs.
    Started {
        /// Its number on the host.
        pid: i32,
        /// When, in nanoseconds since 1970.
        at: i64,
        /// Who it runs as.
        user: User,
    },
    /// A process ended.
    Exited(Exit),
    /// It cannot be done.
    Failed {
        /// Why.
        message: String,
        /// What failed, for a code.
        kind: Failure,
    },
}

/// Classes of failure that callers tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Failure {
    /// The container is not there, or not in a state for this.
    NotFound,
    /// The program cannot be started: not there, not executable.
    Program,
    /// Anything else.
    Other,
}

/// A container as the shim knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// Its id.
    pub id: String,
    /// Its first process on the host.
    pub pid: i32,
    /// When it started, in nanoseconds since 1970.
    pub started_at: i64,
    /// Who it runs as.
    pub user: User,
    /// How it ended, if it has.
    pub exit: Option<Exit>,
}

/// How a process ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The container; for an exec, the exec's container.
    pub id: String,
    /// Its code; 128 and the signal if a signal ended it.
    pub code: i32,
    /// When, in nanoseconds since 1970.
    pub at: i64,
    /// When it had started, in nanoseconds since 1970.
    #[serde(default)]
    pub started_at: i64,
    /// Whether the kernel killed a process of the container for want of memory.
    pub oom: bool,
    /// Who it ran as.
    #[serde(default)]
    pub user: User,
    /// A reason other than the code; the daemon's, for a start that failed.
    #[serde(default)]
    pub reason: String,
    /// What went wrong then.
    #[serde(default)]
    pub message: String,
}

/// Numbers of a user, resolved in the container's own files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The user.
    pub uid: u32,
    /// The first group.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
}

/// A pod's namespaces.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// A UTS namespace with this name; none on the host's.
    pub hostname: Option<String>,
    /// Whether the pod has a network of its own.
    pub network: bool,
    /// Whether the pod has IPC of its own, and with it `/dev/shm`.
    pub ipc: bool,
    /// Whether its containers share one process namespace.
    pub shared_pid: bool,
    /// Size of `/dev/shm`.
    pub shm_bytes: u64,
    /// A user namespace of its own; none on the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<IdMaps>,
    /// The pod's own cgroup, below which the shared first process goes; empty if none.
    pub cgroup: String,
    /// The filter of the shared first process.
    pub seccomp: Option<Vec<Instruction>>,
}

/// Ids of a user namespace that are others outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The first, inside.
    pub inside: u32,
    /// The first, on the host.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// All ids of a user namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMaps {
    /// Of users.
    pub uids: Vec<IdRange>,
    /// Of groups.
    pub gids: Vec<IdRange>,
}

impl IdMaps {
    /// A user of the namespace as the host knows them.
    pub fn uid(&self, inside: u32) -> u32 {
        outside(&self.uids, inside)
    }

    /// A group of the namespace as the host knows it.
    pub fn gid(&self, inside: u32) -> u32 {
        outside(&self.gids, inside)
    }
}

fn outside(ranges: &[IdRange], inside: u32) -> u32 {
    // Whom the kernel shows for those that are nobody in a namespace.
    const NOBODY: u32 = 65_534;
    let mut found = ranges.iter().filter_map(|range| {
        let offset = inside.checked_sub(range.inside).filter(|offset| *offset < range.count)?;
        range.outside.checked_add(offset)
    });
    found.next().unwrap_or(NOBODY)
}

/// One instruction of a seccomp program: code, jumps, operand.
pub type Instruction = (u16, u8, u8, u32);

/// Where a container's processes live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PidMode {
    /// Alone.
    Container,
    /// With the pod's other containers.
    Pod,
    /// With the host's.
    Host,
    /// With one container of this pod.
    Target(String),
}

/// How changes to mounts travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Propagation {
    /// Not at all.
    Private,
    /// From the host.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// An image's files, merged and never written to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFiles {
    /// Where layers are named from.
    pub base: PathBuf,
    /// Relative to `base`, uppermost first; at least one.
    pub lower: Vec<String>,
    /// A directory or file of the image; empty is all of it.
    pub sub_path: PathBuf,
}

/// Something of the host's, or of an image, in the container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bind {
    /// On the host; of an image its id, which is no path, so that a shim that knows no images mounts nothing instead.
    pub source: PathBuf,
    /// An image's files, in place of the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageFiles>,
    /// In the container, absolute.
    pub target: PathBuf,
    /// Not writable.
    pub read_only: bool,
    /// Nor anything mounted below it.
    pub recursive_read_only: bool,
    /// How mounts below it travel.
    pub propagation: Propagation,
    /// Ids of its files are those that they are in the pod's user namespace.
    #[serde(default)]
    pub mapped: bool,
}

/// A device file in the container, and who may use it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceFile {
    /// In the container.
    pub path: PathBuf,
    /// `c` or `b`.
    pub kind: char,
    /// Numbers.
    pub major: u32,
    /// Numbers.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Owner.
    pub gid: u32,
    /// Of `r`, `w`, `m`.
    pub access: String,
}

/// The layers of a root file system, mounted in the container's own mount namespace only.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rootfs {
    /// Where layers are named from.
    pub base: PathBuf,
    /// Relative to `base`, uppermost first.
    pub lower: Vec<String>,
    /// Absolute.
    pub upper: PathBuf,
    /// Absolute, on the same file system as `upper`.
    pub work: PathBuf,
    /// Whether `/` is not writable.
    pub read_only: bool,
}

/// Limits; absent means untouched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Relative weight, version 1's scale.
    pub cpu_shares: Option<u64>,
    /// Microseconds per period; negative for none.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// CPUs, as a list.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, as a list.
    pub cpuset_mems: Option<String>,
    /// Bytes; negative for none.
    pub memory_limit: Option<i64>,
    /// Bytes of memory and swap together; negative for none.
    pub memory_swap_limit: Option<i64>,
    /// Processes; negative for none.
    pub pids_limit: Option<i64>,
    /// Page size as the kernel writes it (`2MB`) and bytes.
    pub hugepages: Vec<(String, u64)>,
    /// Files of version 2, as they are.
    pub unified: Vec<(String, String)>,
}

/// Capability sets as bit masks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// What can ever be had.
    pub bounding: u64,
    /// Permitted and effective.
    pub effective: u64,
    /// Kept over the start of a program by a user who is not root.
    pub ambient: u64,
}

/// Who to run as, before the container's files are asked.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct UserSpec {
    /// A name or a number; empty is root.
    pub user: String,
    /// A name or a number; empty is the user's own.
    pub group: String,
    /// Further groups.
    pub groups: Vec<u32>,
    /// Only those, not what `/etc/group` says.
    pub strict: bool,
}

/// A program and everything it starts with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Absolute.
    pub cwd: PathBuf,
    /// Who.
    pub user: UserSpec,
    /// What it may.
    pub capabilities: Capabilities,
    /// Never more than it has.
    pub no_new_privs: bool,
    /// The AppArmor profile it runs under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apparmor: Option<String>,
    /// Kernel's resource number, soft and hard limit.
    pub rlimits: Vec<(u32, u64, u64)>,
    /// How gladly the kernel kills it.
    pub oom_score_adj: Option<i32>,
    /// The filter of system calls.
    pub seccomp: Option<Vec<Instruction>>,
}

/// A program of the host that is called while a container is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// When, in the OCI's words.
    pub kind: String,
    /// Absolute, on the host.
    pub path: PathBuf,
    /// Its name and arguments; may be empty.
    pub args: Vec<String>,
    /// `NAME=value`, nothing else.
    pub env: Vec<String>,
    /// How long it may take.
    pub timeout: Option<Duration>,
}

/// A container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Its id.
    pub id: String,
    /// Its files.
    pub rootfs: Rootfs,
    /// The host's files in it, in the order to mount.
    pub binds: Vec<Bind>,
    /// On the host's network, so the host's `/sys` may be looked at.
    pub host_network: bool,
    /// On the host's IPC.
    pub host_ipc: bool,
    /// On the host's UTS.
    pub host_uts: bool,
    /// Its process namespace.
    pub pid: PidMode,
    /// `/sys` and cgroups writable, no masks.
    pub privileged: bool,
    /// Hidden.
    pub masked_paths: Vec<PathBuf>,
    /// Not writable.
    pub readonly_paths: Vec<PathBuf>,
    /// Device files.
    pub devices: Vec<DeviceFile>,
    /// Every device is allowed.
    pub all_devices: bool,
    /// From the root of each hierarchy.
    pub cgroup: String,
    /// Limits.
    pub resources: Resources,
    /// The program.
    pub process: ProcessSpec,
    /// On a terminal.
    pub tty: bool,
    /// Whether input can be given.
    pub stdin: bool,
    /// Where output goes; none is nowhere.
    pub log_path: Option<PathBuf>,
    /// Called while its files are made, in this order; told where its directory is, with its [`OCI_CONFIG`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<Hook>,
    /// The program of another OCI runtime that makes it; its configuration is [`OCI_CONFIG`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<PathBuf>,
}

/// A command in a running container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExecSpec {
    /// The container.
    pub id: String,
    /// The container's directory: the process takes after the container's own.
    pub directory: PathBuf,
    /// Program and arguments.
    pub args: Vec<String>,
    /// On a terminal.
    pub tty: bool,
    /// Killed when the connection ends before it does.
    pub kill_on_close: bool,
}
