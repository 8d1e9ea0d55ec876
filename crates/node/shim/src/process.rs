//! The last steps of a process before it becomes the container's program: streams, limits, user, capabilities, filter.
//!
//! Every one is done anew for every start and every exec, from the specification, so that none is lost by a restart
//! (CVE-2019-11245).

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::{Mode, fstat, umask};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid, setsid};

use crate::mounts;
use crate::protocol::{Capabilities, Failure, Instruction, ProcessSpec, User};
use crate::rootfs;
use crate::sandbox::step;
use crate::sys;
use crate::users::{self, Resolved};

/// Where programs are looked for when the container does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What installs a filter.
const SYS_ADMIN: u64 = 1 << 21;

/// A start that failed.
#[derive(Debug)]
pub(crate) struct StartError {
    pub(crate) kind: Failure,
    pub(crate) message: String,
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self { kind: Failure::Other, message: error.to_string() }
    }
}

/// What the process reads from and writes to.
#[derive(Debug)]
pub(crate) enum Stdio {
    /// Input, output, errors.
    Pipes([OwnedFd; 3]),
    /// All on one terminal, given by its controlling end.
    Terminal(OwnedFd),
}

/// A filter as the kernel takes it.
pub(crate) fn filter(program: &[Instruction]) -> Vec<libc::sock_filter> {
    program
        .iter()
        .map(|(code, jt, jf, k)| libc::sock_filter { code: *code, jt: *jt, jf: *jf, k: *k })
        .collect()
}

/// Becomes the program. `told` is given the user before; whoever waits learns of success by the end of their descriptor.
/// Returns only with what went wrong.
pub(crate) fn become_program(
    spec: &ProcessSpec,
    stdio: &Stdio,
    told: impl FnOnce(&User) -> io::Result<()>,
) -> StartError {
    match prepare(spec, stdio, told) {
        Err(error) => error,
        Ok(ready) => {
            let error = sys::exec(&ready.program, &ready.args, &ready.env);
            // The kernel says the same of a missing interpreter as of a missing program.
            program_error(&format!("exec {}", ready.program.to_string_lossy()), &plain(&error))
        }
    }
}

/// A program and what it is started with, as the kernel takes it: nothing is allocated after the filter.
struct Ready {
    program: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

fn strings<'a>(texts: impl Iterator<Item = &'a String>) -> io::Result<Vec<CString>> {
    texts.map(|text| CString::new(text.as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())).collect()
}

/// An error as C libraries word it, without the number, and as other runtimes do in lower case.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

fn program_error(what: &str, why: &str) -> StartError {
    StartError { kind: Failure::Program, message: format!("{what}: {why}") }
}

fn prepare(
    spec: &ProcessSpec,
    stdio: &Stdio,
    told: impl FnOnce(&User) -> io::Result<()>,
) -> Result<Ready, StartError> {
    sys::reset_signals();
    match stdio {
        Stdio::Pipes(streams) => {
            for (number, stream) in (0..).zip(streams) {
                step("streams", sys::duplicate_to(stream, number))?;
            }
            step("/dev/null", own_null_devices())?;
        }
        Stdio::Terminal(master) => {
            let peer = step("terminal", sys::terminal_peer(master))?;
            for number in 0..3 {
                step("terminal", sys::duplicate_to(&peer, number))?;
            }
            step("terminal", sys::take_terminal(&peer))?;
        }
    }
    for (resource, soft, hard) in &spec.rlimits {
        step("resource limit", sys::set_rlimit(*resource, *soft, *hard))?;
    }
    let who = resolve(spec)?;
    for stream in [io::stdin().as_fd(), io::stdout().as_fd(), io::stderr().as_fd()] {
        step("owner of the streams", give(stream, Uid::from_raw(who.user.uid)))?;
    }
    let directory = rootfs::enter_directory(&spec.cwd);
    let late = directory.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    if !late {
        step(&format!("chdir to cwd ({:?})", spec.cwd.display()), directory)?;
    }
    // Without no_new_privs a filter needs a capability: it is kept for so long.
    let kept = if spec.seccomp.is_some() && !spec.no_new_privs { SYS_ADMIN } else { 0 };
    step("capabilities and user", change_user(&who.user, &spec.capabilities, kept))?;
    if late {
        step(&format!("chdir to cwd ({:?})", spec.cwd.display()), rootfs::enter_directory(&spec.cwd))?;
    }
    umask(Mode::from_bits_truncate(0o022));
    let env = environment(&spec.env, who.home.as_deref());
    let program = find_program(spec.args.first().map_or("", String::as_str), &env)?;
    step("telling the shim", told(&who.user))?;
    step("parent's end", sys::die_with_parent())?;
    // Nothing of ours is open in the program (CVE-2024-21626).
    step("descriptors", sys::close_on_exec_from(3))?;
    let ready =
        Ready { program: sys::text(&program)?, args: strings(spec.args.iter())?, env: strings(env.iter())? };
    let filter = spec.seccomp.as_deref().map(filter);
    // Before it may have no more privileges than now, which a profile could be.
    if let Some(profile) = &spec.apparmor {
        step(&format!("AppArmor profile {profile:?}"), confine(profile))?;
    }
    if spec.no_new_privs {
        step("no_new_privs", sys::no_new_privileges())?;
    }
    // Last: a profile need not know what we do to get here.
    if let Some(filter) = &filter {
        step("system call filter", sys::install_filter(filter))?;
    }
    if kept != 0 {
        step("capabilities", set_capabilities(&spec.capabilities, 0))?;
    }
    Ok(ready)
}

/// Has the kernel start the program under an AppArmor profile. The file is written through a procfs that is proven to be
/// the kernel's: one of the container's making would take the profile and do nothing (CVE-2019-16884).
fn confine(profile: &str) -> io::Result<()> {
    let root = File::open("/")?;
    let own = std::process::id();
    let open = |name: &str| mounts::open_to_write(&root, Path::new(&format!("proc/{own}/attr/{name}")));
    let mut file = match open("apparmor/exec") {
        // Kernels before 5.8 have one file for all modules.
        Err(error) if error.kind() == io::ErrorKind::NotFound => File::from(open("exec")?),
        other => File::from(other?),
    };
    if fstatfs(&file)?.filesystem_type() != PROC_SUPER_MAGIC {
        return Err(io::Error::other("/proc is not the kernel's"));
    }
    file.write_all(format!("exec {profile}").as_bytes())
}

/// Replaces the host's null device among the streams by the container's own: who holds the host's can change its mode for
/// everybody. Source: runc's `reOpenDevNull`, which does so for a container's first process only.
fn own_null_devices() -> io::Result<()> {
    for (number, stream) in (0..).zip([io::stdin().as_fd(), io::stdout().as_fd(), io::stderr().as_fd()]) {
        if mounts::is_null(&fstat(stream)?) {
            sys::duplicate_to(mounts::open_null(File::open("/")?)?, number)?;
        }
    }
    Ok(())
}

/// Gives a stream to whoever runs on it, so that they can open it by its name too (`/dev/stdout`). Not the null device,
/// which is everybody's, nor what cannot be given. Source: runc's `fixStdioPermissions`.
fn give(stream: BorrowedFd<'_>, owner: Uid) -> io::Result<()> {
    let stat = fstat(stream)?;
    if stat.st_uid == owner.as_raw() || mounts::is_null(&stat) {
        return Ok(());
    }
    match nix::unistd::fchown(stream, Some(owner), None) {
        Ok(()) | Err(Errno::EINVAL | Errno::EPERM | Errno::EROFS) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn resolve(spec: &ProcessSpec) -> Result<Resolved, StartError> {
    resolve_in(Path::new("/"), spec)
}

/// The same of a container whose root is not ours.
pub(crate) fn resolve_in(root: &Path, spec: &ProcessSpec) -> Result<Resolved, StartError> {
    let root = File::open(root)?;
    let passwd = step("/etc/passwd", users::read(&root, "etc/passwd"))?;
    let group = step("/etc/group", users::read(&root, "etc/group"))?;
    users::resolve(&spec.user, &passwd, &group)
        .map_err(|message| StartError { kind: Failure::Other, message })
}

/// Lowers the bounding set, changes the user, and sets what is left and what is `kept` for the moment.
fn change_user(user: &User, capabilities: &Capabilities, kept: u64) -> io::Result<()> {
    for number in 0..64 {
        if capabilities.bounding & 1 << number == 0 && !sys::drop_bounding(number)? {
            break;
        }
    }
    sys::keep_capabilities(true)?;
    let groups: Vec<Gid> = user.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    setgroups(&groups)?;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    set_capabilities(capabilities, kept)?;
    let ambient = capabilities.ambient & capabilities.effective & capabilities.bounding;
    for number in (0..64).filter(|number| ambient & 1 << number != 0) {
        sys::raise_ambient(number)?;
    }
    sys::keep_capabilities(false)
}

fn set_capabilities(capabilities: &Capabilities, kept: u64) -> io::Result<()> {
    let effective = capabilities.effective & capabilities.bounding;
    sys::set_capabilities(effective | kept, effective | kept, capabilities.ambient & effective)
}

/// The environment with what every process has.
fn environment(given: &[String], home: Option<&str>) -> Vec<String> {
    let mut env: Vec<String> = given.to_vec();
    let has = |env: &[String], name: &str| {
        env.iter().any(|entry| entry.strip_prefix(name).is_some_and(|rest| rest.starts_with('=')))
    };
    if !has(&env, "PATH") {
        env.push(format!("PATH={DEFAULT_PATH}"));
    }
    if !has(&env, "HOME") {
        env.push(format!("HOME={}", home.unwrap_or("/")));
    }
    env
}

/// Where the program is: its path, or the first on `PATH` that can be executed. Messages are those that people look for.
fn find_program(name: &str, env: &[String]) -> Result<PathBuf, StartError> {
    let quoted = format!("exec: {name:?}");
    if name.is_empty() {
        return Err(program_error(&quoted, "no command"));
    }
    if name.contains('/') {
        return match executable(Path::new(name)) {
            Ok(()) => Ok(PathBuf::from(name)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(program_error(&quoted, &format!("stat {name}: no such file or directory")))
            }
            Err(error) => Err(program_error(&quoted, &plain(&error))),
        };
    }
    let path = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or_default();
    let mut forbidden = false;
    for directory in path.split(':') {
        let at = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        match executable(&at) {
            Ok(()) => return Ok(at),
            Err(error) => forbidden |= error.kind() == io::ErrorKind::PermissionDenied,
        }
    }
    let why = if forbidden { "permission denied" } else { "executable file not found in $PATH" };
    Err(program_error(&quoted, why))
}

fn executable(path: &Path) -> io::Result<()> {
    let metadata = std::fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    if metadata.permissions().mode() & 0o111 == 0 || metadata.size() == 0 && !metadata.is_file() {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    nix::unistd::access(
        Path::new(std::ffi::OsStr::from_bytes(path.as_os_str().as_bytes())),
        nix::unistd::AccessFlags::X_OK,
    )?;
    Ok(())
}

/// A session of its own, whose terminal it can take, and without the daemon's keys. The keyring is named after the
/// container, as runc's; a later command has one of its own of the same name.
pub(crate) fn new_session(id: &str) -> io::Result<()> {
    step("session", setsid())?;
    step("session keyring", sys::join_keyring(&CString::new(format!("_ses.{id}"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_never_lost() {
        // No kernel has this one: without AppArmor there is nothing to write to, or nothing that takes it.
        assert!(confine("podium-no-such-profile").is_err());
    }

    #[test]
    fn environments_are_completed() {
        let env = environment(&["PATH=/x".into(), "HOMER=1".into()], Some("/srv"));
        assert_eq!(env, ["PATH=/x", "HOMER=1", "HOME=/srv"]);
        assert_eq!(environment(&["HOME=/h".into()], None)[1], format!("PATH={DEFAULT_PATH}"));
    }

    #[test]
    fn streams_are_given_to_their_user() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: owners are changed by root");
            return;
        }
        let (read, _write) = io::pipe().unwrap();
        give(read.as_fd(), Uid::from_raw(1000)).unwrap();
        assert_eq!(fstat(&read).unwrap().st_uid, 1000);
    }

    #[test]
    fn programs_are_found_or_not_in_familiar_words() {
        let env = vec!["PATH=/nowhere:/bin".to_owned()];
        assert_eq!(find_program("sh", &env).unwrap(), Path::new("/bin/sh"));
        let message = |name: &str| find_program(name, &env).unwrap_err().message;
        assert_eq!(message("no-such"), "exec: \"no-such\": executable file not found in $PATH");
        assert_eq!(message("/no/such"), "exec: \"/no/such\": stat /no/such: no such file or directory");
        assert_eq!(message("/etc/passwd"), "exec: \"/etc/passwd\": permission denied");
        assert_eq!(message("/etc"), "exec: \"/etc\": is a directory");
    }
}
