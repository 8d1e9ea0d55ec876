//! System calls that no library here wraps, each as a safe function.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::signal::Signal;

/// What a system call's result means.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    let number = i32::try_from(check(result)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A path as the kernel takes it.
pub(crate) fn text(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// An absolute path from nowhere in particular.
pub(crate) const CWD: RawFd = libc::AT_FDCWD;

const OPEN_TREE_CLONE: u32 = 1;
const AT_RECURSIVE: u32 = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 4;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;

/// A detached copy of the mounts at a path, with those below it.
pub(crate) fn clone_tree(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let path = text(path)?;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC.cast_unsigned() | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the string outlives the call, which only reads it.
    descriptor(unsafe { libc::syscall(libc::SYS_open_tree, CWD, path.as_ptr(), flags) })
}

/// A detached copy of the mount that a descriptor points into, maybe with those below it.
pub(crate) fn clone_tree_at(fd: impl AsFd, recursive: bool) -> io::Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE
        | libc::O_CLOEXEC.cast_unsigned()
        | libc::AT_EMPTY_PATH.cast_unsigned()
        | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the string is static, and the call only reads it.
    descriptor(unsafe { libc::syscall(libc::SYS_open_tree, fd.as_fd().as_raw_fd(), c"".as_ptr(), flags) })
}

/// Puts a detached mount where a descriptor points.
pub(crate) fn move_mount(tree: impl AsFd, target: impl AsFd) -> io::Result<()> {
    // SAFETY: both descriptors are open for the call; the strings are static.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            target.as_fd().as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// Has the kernel load the module of a file system that it has not loaded yet, as a mount of it would; nothing is mounted.
///
/// # Errors
/// The kernel has no such file system, or may not load it.
pub fn load_file_system(kind: &CStr) -> io::Result<()> {
    // SAFETY: the string outlives the call, which only reads it.
    descriptor(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 1u32) }).map(drop)
}

/// A new file system's mount, detached. Options are names and maybe values.
pub(crate) fn new_mount(
    kind: &CStr,
    options: &[(&str, Option<&str>)],
    attributes: u64,
) -> io::Result<OwnedFd> {
    const CLOEXEC: u32 = 1;
    const SET_FLAG: u32 = 0;
    const SET_STRING: u32 = 1;
    const CREATE: u32 = 6;
    // SAFETY: the string outlives the call, which only reads it.
    let context = descriptor(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), CLOEXEC) })?;
    let configure = |command: u32, key: Option<&CStr>, value: Option<&CStr>| {
        let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
        // SAFETY: both strings outlive the call, which only reads them; null is allowed where the command has none.
        check(unsafe {
            libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, pointer(key), pointer(value), 0)
        })
    };
    for (key, value) in options {
        let key = CString::new(*key)?;
        match value {
            Some(value) => configure(SET_STRING, Some(&key), Some(&CString::new(*value)?))?,
            None => configure(SET_FLAG, Some(&key), None)?,
        };
    }
    configure(CREATE, None, None)?;
    // SAFETY: the call takes only integers.
    descriptor(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), CLOEXEC, attributes) })
}

/// What `mount_setattr` changes, laid out as the kernel's.
#[repr(C)]
#[derive(Default)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Changes a mount: attributes set, and its propagation (0 keeps it).
pub(crate) fn mount_setattr(tree: impl AsFd, recursive: bool, set: u64, propagation: u64) -> io::Result<()> {
    set_attributes(tree, recursive, &MountAttributes { set, propagation, ..MountAttributes::default() })
}

/// Has a detached mount show ids as a user namespace has them.
pub(crate) fn map_ids(tree: impl AsFd, namespace: impl AsFd) -> io::Result<()> {
    const IDMAP: u64 = 0x0010_0000;
    let user_namespace = u64::try_from(namespace.as_fd().as_raw_fd()).map_err(io::Error::other)?;
    let attributes = MountAttributes { set: IDMAP, user_namespace, ..MountAttributes::default() };
    set_attributes(tree, false, &attributes)
}

fn set_attributes(tree: impl AsFd, recursive: bool, attributes: &MountAttributes) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH.cast_unsigned() | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the structure is laid out as the kernel's, outlives the call, and its size is passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<MountAttributes>(),
        )
    })
    .map(drop)
}

/// Makes files as somebody else, keeping all capabilities. For a process with every one of them.
pub(crate) fn make_files_as(uid: nix::unistd::Uid, gid: nix::unistd::Gid) -> io::Result<()> {
    nix::unistd::setfsgid(gid);
    nix::unistd::setfsuid(uid);
    // The answer is who it was before: whether it worked shows in the next one.
    let is = (nix::unistd::setfsuid(uid), nix::unistd::setfsgid(gid));
    if is != (uid, gid) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    // The change took those over files.
    set_capabilities_to_permitted()
}

fn set_capabilities_to_permitted() -> io::Result<()> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let mut data = [CapabilityData::default(), CapabilityData::default()];
    // SAFETY: version 3 writes two data structures laid out as these, which outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) })?;
    for half in &mut data {
        half.effective = half.permitted;
    }
    // SAFETY: as in `set_capabilities`.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// Mount attributes of `fsmount` and `mount_setattr`.
pub(crate) mod attribute {
    pub(crate) const RDONLY: u64 = 1;
    pub(crate) const NOSUID: u64 = 2;
    pub(crate) const NODEV: u64 = 4;
    pub(crate) const NOEXEC: u64 = 8;
    pub(crate) const STRICTATIME: u64 = 0x20;
}

/// How a fork went.
#[derive(Debug)]
pub(crate) enum Fork {
    /// In the child.
    Child,
    /// In the parent, with the child's number.
    Parent(i32),
}

/// Forks, with flags such as `CLONE_NEWPID` and `CLONE_PARENT`. The process must have no other thread.
pub(crate) fn fork(flags: libc::c_int) -> io::Result<Fork> {
    #[repr(C, align(8))]
    #[derive(Default)]
    struct Arguments {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
    }
    // With CLONE_PARENT the child's signal is its parent's own, and none may be named.
    let exit_signal = if flags & libc::CLONE_PARENT == 0 { libc::SIGCHLD } else { 0 };
    let arguments = Arguments {
        flags: u64::from(flags.cast_unsigned()),
        exit_signal: u64::from(exit_signal.cast_unsigned()),
        ..Arguments::default()
    };
    // SAFETY: without CLONE_VM the child gets a copy of our memory and goes on from here, as after fork; this program has
    // one thread, so no lock is held by anyone else. The structure is laid out as the kernel's.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<Arguments>()) };
    match check(result)? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(i32::try_from(pid).map_err(io::Error::other)?)),
    }
}

/// A descriptor for a process.
pub(crate) fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes only integers.
    descriptor(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// Waits until a process has ended or says something, or the time is over. Whether it has ended.
pub(crate) fn ready_until(
    process: impl AsFd,
    said: impl AsFd,
    until: std::time::Instant,
) -> io::Result<bool> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    // A moment longer, or the last wait would be none at all.
    let left =
        until.saturating_duration_since(std::time::Instant::now()) + std::time::Duration::from_millis(1);
    let mut waits =
        [PollFd::new(process.as_fd(), PollFlags::POLLIN), PollFd::new(said.as_fd(), PollFlags::POLLIN)];
    match poll(&mut waits, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
        Ok(_) => Ok(waits[0].revents().is_some_and(|events| !events.is_empty())),
        Err(nix::errno::Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Signals the process that a descriptor stands for.
pub(crate) fn pidfd_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    // SAFETY: no information structure is passed; the rest are integers.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })
    .map(drop)
}

/// Joins namespaces of a descriptor (of a namespace, or of a process and then those in `kinds`).
pub(crate) fn setns(fd: impl AsFd, kinds: libc::c_int) -> io::Result<()> {
    // SAFETY: the call takes only integers.
    check(unsafe { libc::setns(fd.as_fd().as_raw_fd(), kinds) }.into()).map(drop)
}

/// Marks every descriptor from `first` on as closed when a program starts.
pub(crate) fn close_on_exec_from(first: u32) -> io::Result<()> {
    const CLOEXEC: u32 = 4;
    // SAFETY: the call takes only integers.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOEXEC) }).map(drop)
}

/// Closes every descriptor from `first` on. Only for a child that will return from nothing that owns one.
pub(crate) fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: the call takes only integers; the caller's owners of descriptors are never dropped.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// Makes `new` the same as `old`, kept when a program starts.
pub(crate) fn duplicate_to(old: impl AsFd, new: RawFd) -> io::Result<()> {
    let old = old.as_fd().as_raw_fd();
    if old == new {
        // SAFETY: integers only; clears close-on-exec.
        return check(unsafe { libc::fcntl(new, libc::F_SETFD, 0) }.into()).map(drop);
    }
    // SAFETY: integers only; standard streams are owned by nobody here.
    check(unsafe { libc::dup2(old, new) }.into()).map(drop)
}

fn prctl(option: libc::c_int, a: libc::c_ulong, b: libc::c_ulong) -> io::Result<()> {
    // SAFETY: only options whose arguments are integers are used below.
    check(unsafe { libc::prctl(option, a, b, 0, 0) }.into()).map(drop)
}

/// Orphans below us become our children.
pub(crate) fn become_subreaper() -> io::Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0)
}

/// Leaves the session keyring that was inherited for one of that name: a fresh one, since the kernel lets nobody find
/// another's by its name unless its owner allows it. A kernel without keys, or that keeps them from us, has none to leak.
pub(crate) fn join_keyring(name: &CStr) -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: the string outlives the call, which only reads it.
    let joined = check(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) });
    match joined {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => Ok(()),
        other => other.map(drop),
    }
}

/// Nobody may look into this process, not even through `/proc`.
pub(crate) fn hide() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0, 0)
}

/// Killed when the parent ends.
pub(crate) fn die_with_parent() -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, libc::c_ulong::from(libc::SIGKILL.cast_unsigned()), 0)
}

/// Never more privileges than now.
pub(crate) fn no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)
}

/// Capabilities stay when the user changes.
pub(crate) fn keep_capabilities(on: bool) -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, libc::c_ulong::from(on), 0)
}

/// Takes a capability out of the bounding set. False: the kernel does not know it.
pub(crate) fn drop_bounding(capability: u32) -> io::Result<bool> {
    match prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        other => other.map(|()| true),
    }
}

/// Puts a capability into the ambient set.
pub(crate) fn raise_ambient(capability: u32) -> io::Result<()> {
    prctl(
        libc::PR_CAP_AMBIENT,
        libc::c_ulong::from(libc::PR_CAP_AMBIENT_RAISE.cast_unsigned()),
        libc::c_ulong::from(capability),
    )
}

/// The name that `ps` shows.
pub(crate) fn set_name(name: &CStr) {
    // SAFETY: the string outlives the call, which reads at most sixteen bytes of it.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Default)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The third version: two halves of 32.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// Sets permitted, effective and inheritable capabilities.
pub(crate) fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    let half = |shift: u32| {
        let part = |set: u64| u32::try_from(set >> shift & 0xffff_ffff).unwrap_or(0);
        CapabilityData {
            effective: part(effective),
            permitted: part(permitted),
            inheritable: part(inheritable),
        }
    };
    let header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads a header and two data structures laid out as these, which outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// Installs a filter of system calls.
pub(crate) fn install_filter(program: &[libc::sock_filter]) -> io::Result<()> {
    const SET_MODE_FILTER: libc::c_uint = 1;
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel copies the program, which outlives the call and is `len` instructions long.
    check(unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, 0, &raw const program) }).map(drop)
}

/// Limits a resource of this process.
pub(crate) fn set_rlimit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure outlives the call, which fills it.
    check(unsafe { libc::getrlimit(resource, &raw mut now) }.into())?;
    let wanted = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the structure outlives the call, which only reads it.
    let result = check(unsafe { libc::setrlimit(resource, &raw const wanted) }.into());
    match result {
        // Without CAP_SYS_RESOURCE the hard limit can only fall.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            let hard = hard.min(now.rlim_max);
            let wanted = libc::rlimit { rlim_cur: soft.min(hard), rlim_max: hard };
            // SAFETY: as above.
            check(unsafe { libc::setrlimit(resource, &raw const wanted) }.into()).map(drop)
        }
        other => other.map(drop),
    }
}

/// Makes a terminal the controlling one of this session.
pub(crate) fn take_terminal(fd: impl AsFd) -> io::Result<()> {
    // SAFETY: the request takes an integer.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) }.into()).map(drop)
}

/// The other end of a terminal, opened without a path.
pub(crate) fn terminal_peer(master: impl AsFd) -> io::Result<OwnedFd> {
    let master = master.as_fd().as_raw_fd();
    let unlock: libc::c_int = 0;
    // SAFETY: the request reads one integer, which outlives the call.
    check(unsafe { libc::ioctl(master, libc::TIOCSPTLCK, &raw const unlock) }.into())?;
    // SAFETY: the request takes flags as an integer.
    descriptor(
        unsafe { libc::ioctl(master, libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) }
            .into(),
    )
}

/// Becomes another program; returns only on failure.
pub(crate) fn exec(program: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let list = |texts: &[CString]| -> Vec<*const libc::c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (args, env) = (list(args), list(env));
    // SAFETY: both lists end with null and point to strings that outlive the call.
    unsafe { libc::execve(program.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Ends at once: a child runs none of its parent's endings.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: the call does not return.
    unsafe { libc::_exit(code) }
}

/// All signals unblocked and at their defaults, as a program expects to start.
pub(crate) fn reset_signals() {
    for number in 1..=64 {
        // SAFETY: the default disposition runs no code of ours; those that cannot be changed fail harmlessly.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
}

/// The same for a program that is yet to start.
pub(crate) fn start_with_default_signals(command: &mut std::process::Command) {
    let reset = || {
        reset_signals();
        Ok(())
    };
    // SAFETY: what runs between fork and exec makes system calls that may be made there, and allocates nothing.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, reset) };
}

/// Ignores a signal.
pub(crate) fn ignore(signal: Signal) {
    // SAFETY: ignoring runs no code of ours.
    unsafe { libc::signal(signal as libc::c_int, libc::SIG_IGN) };
}

/// A descriptor inherited at a fixed number.
pub(crate) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: integers only.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
    // SAFETY: whoever started us passed this descriptor for us to own; it is taken once, in `serve::run`.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Loads a device program and attaches it to a cgroup of version 2.
pub(crate) fn attach_device_program(cgroup: impl AsFd, program: &[u64]) -> io::Result<()> {
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }
    const PROG_LOAD: libc::c_int = 5;
    const PROG_ATTACH: libc::c_int = 8;
    const TYPE_CGROUP_DEVICE: u32 = 15;
    const CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    let load = Load {
        kind: TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr() as u64,
        license: c"Apache".as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: the structure is laid out as the kernel's for this command, its size is passed, and what it points to
    // outlives the call.
    let loaded =
        descriptor(unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>()) })?;
    let raw = |fd: RawFd| u32::try_from(fd).map_err(io::Error::other);
    let attach = Attach {
        target: raw(cgroup.as_fd().as_raw_fd())?,
        program: raw(loaded.as_raw_fd())?,
        kind: CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attach, size_of::<Attach>()) })
        .map(drop)
}

/// Sets the loopback interface of this process's network namespace up.
pub(crate) fn loopback_up() -> io::Result<()> {
    // SAFETY: the call takes only integers.
    let socket =
        descriptor(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) }.into())?;
    // SAFETY: all zeroes is a valid request: it has only integers and arrays of them.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(0);
    // SAFETY: the request reads the structure, which outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }.into()).map(drop)
}

/// A descriptor that a message brought.
pub(crate) fn own(raw: RawFd) -> OwnedFd {
    // SAFETY: the kernel made this descriptor for the receiver of the message; `recvmsg` gives each out once.
    unsafe { OwnedFd::from_raw_fd(raw) }
}
