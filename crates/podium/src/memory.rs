//! What a daemon that rests gives back to the kernel: memory that it has freed, and parts of its program that it does not run.
//!
//! Neither happens by itself. The allocator returns pages while it is asked for others, and a daemon at rest asks for none: what a
//! hundred pods needed for a second would stay. And the kernel maps 64 KiB or more around each touched page of a program, of which
//! one that is every part of Kubernetes runs a little everywhere: of 43 MB an idle node runs 6, and had 38 resident.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::libc::{self, c_int, c_ulong, c_void};

/// How often a thread looks whether it rests.
const LOOK: Duration = Duration::from_secs(5);
/// A thread rests that ran for less than this share of the time: giving back is for those who will not want it again at once.
const BUSY: u32 = 20;
/// How often the program's pages are let go: those in use come back at once, each by a fault of a microsecond, a thousand in all.
const FORGET: Duration = Duration::from_secs(60);

unsafe extern "C" {
    /// Of the allocator that is linked in: returns what this thread has freed; with `force` also to the kernel.
    fn mi_collect(force: bool);
}

thread_local! {
    /// When this thread last looked whether it rests, and how long it had run until then.
    static LOOKED: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
}

/// When the program's pages were last let go.
static FORGOT: Mutex<Option<Instant>> = Mutex::new(None);

/// Run by the loader before anything is allocated: huge pages that are there already stay.
#[used]
// SAFETY: the section holds pointers to functions of this kind, which the loader calls one by one before the program's own start;
// this one makes one system call and needs nothing of what a start makes.
#[unsafe(link_section = ".init_array")]
static BEFORE_ALL: extern "C" fn() = {
    extern "C" fn before_all() {
        let _ = nix::sys::prctl::set_thp_disable(true);
    }
    before_all
};

/// Whether the kernel may give transparent huge pages to the processes that this one starts: the setting is inherited. This one has
/// none from its beginning: the allocator asks for them, and a daemon that touches a little of many of them is three times as
/// large; containers are to have them.
pub(crate) fn huge_pages(allowed: bool) {
    if let Err(error) = nix::sys::prctl::set_thp_disable(!allowed) {
        tracing::debug!(%error, "huge pages stay as they are");
    }
}

/// To be called by a thread that is about to wait for work. Most calls only look at the clock.
pub(crate) fn rest() {
    let now = Instant::now();
    let before = LOOKED.get();
    if before.is_some_and(|(then, _)| now - then < LOOK) {
        return;
    }
    let ran = thread_time();
    LOOKED.set(Some((now, ran)));
    let rests = before.is_some_and(|(then, had_run)| ran.saturating_sub(had_run) * BUSY < now - then);
    if !rests {
        return;
    }
    collect();
    if let Ok(mut last) = FORGOT.try_lock()
        && last.is_some_and(|last| now - last >= FORGET)
    {
        *last = Some(now);
        forget_program();
    }
}

/// How long this thread has run.
fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes to the structure, which lives; a clock that there is not leaves it as it is.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The start is over: gives back what only it needed, and begins to do so again and again.
pub(crate) fn started() {
    collect();
    forget_program();
    if let Ok(mut last) = FORGOT.lock() {
        *last = Some(Instant::now());
    }
}

/// Returns what this thread has freed.
fn collect() {
    // SAFETY: the allocator's own function, for the calling thread, which is not within the allocator now.
    unsafe { mi_collect(true) }
}

/// Lets go of the program's pages; those that are needed are mapped again from the file when they are touched.
fn forget_program() {
    let program = match program() {
        Ok(program) => program,
        Err(error) => return tracing::debug!(%error, "the program's pages stay"),
    };
    for range in program {
        // SAFETY: these mappings are of a file, private and not writable, so their pages hold what the file holds, and it is what
        // they will hold again.
        let outcome = unsafe { libc::madvise(range.start as *mut c_void, range.len(), libc::MADV_DONTNEED) };
        if outcome != 0 {
            tracing::debug!(error = %io::Error::last_os_error(), "the program's pages stay");
        }
    }
}

/// Asks the kernel to map those pages of the program that are touched, and none around them. Linux 6.7 and newer can; an older one
/// goes on mapping more.
pub(crate) fn map_what_is_touched() {
    match no_fault_around() {
        // The kernel keeps to it while this is open; children do not have it.
        Ok(descriptor) => std::mem::forget(descriptor),
        Err(error) => tracing::debug!(%error, "the kernel maps more of the program than is touched"),
    }
}

/// The kernel maps nothing around a page where somebody wants to be told of writes. We ask it to be told, and to settle each write by
/// itself (`UFFD_FEATURE_WP_ASYNC`), for mappings that nobody writes to: nothing else comes of it.
/// Source: `should_fault_around` in the kernel's mm/memory.c; ioctl_userfaultfd(2).
fn no_fault_around() -> io::Result<OwnedFd> {
    const USER_MODE_ONLY: c_int = 1;
    const API: c_ulong = 0xc018_aa3f;
    const REGISTER: c_ulong = 0xc020_aa00;
    const VERSION: u64 = 0xaa;
    const WRITES_SETTLE_THEMSELVES: u64 = 1 << 15;
    const TELL_OF_WRITES: u64 = 2;

    // SAFETY: userfaultfd takes flags and returns a new descriptor or an error.
    let number = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | USER_MODE_ONLY) };
    let number = c_int::try_from(number).map_err(io::Error::other)?;
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    let ask = |request: c_ulong, argument: &mut [u64]| {
        // SAFETY: the argument is as long as the request's number says (24 and 32 bytes), and lives while the kernel reads and
        // writes it.
        match unsafe { libc::ioctl(number, request, argument.as_mut_ptr()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // struct uffdio_api: api, features, ioctls.
    ask(API, &mut [VERSION, WRITES_SETTLE_THEMSELVES, 0])?;
    for range in program()? {
        // struct uffdio_register: start, len, mode, ioctls.
        ask(REGISTER, &mut [range.start as u64, range.len() as u64, TELL_OF_WRITES, 0])?;
    }
    Ok(descriptor)
}

/// Where the running program's code and constants are mapped.
fn program() -> io::Result<Vec<Range<usize>>> {
    let path = std::fs::read_link("/proc/self/exe")?;
    Ok(mappings(&std::fs::read_to_string("/proc/self/maps")?, &path.to_string_lossy()))
}

/// Those of a file's mappings that were never written to: its code, and the constants at its beginning. What the linker made
/// unwritable after relocating it is read-only too, and differs from the file.
fn mappings(maps: &str, path: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for line in maps.lines().filter(|line| line.ends_with(path)) {
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some(access), Some(offset)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let constants = access == "r--p" && offset.bytes().all(|digit| digit == b'0');
        if access != "r-xp" && !constants {
            continue;
        }
        let number = |text: &str| usize::from_str_radix(text, 16).ok();
        if let Some((Some(start), Some(end))) = range.split_once('-').map(|(a, b)| (number(a), number(b))) {
            found.push(start..end);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_let_go() {
        let maps = "1000-3000 r--p 00000000 fe:00 7    /bin/podium\n\
                    3000-9000 r-xp 00002000 fe:00 7    /bin/podium\n\
                    9000-a000 r--p 00008000 fe:00 7    /bin/podium\n\
                    a000-b000 rw-p 00009000 fe:00 7    /bin/podium\n\
                    c000-d000 r-xp 00000000 fe:00 8    /lib/libc.so.6\n\
                    d000-e000 rw-p 00000000 00:00 0\n";
        assert_eq!(mappings(maps, "/bin/podium"), [0x1000..0x3000, 0x3000..0x9000]);
        assert!(mappings("x r-xp 0 /bin/podium\n1-\n", "/bin/podium").is_empty());
    }

    #[test]
    fn there_are_no_huge_pages_from_the_beginning() {
        assert!(nix::sys::prctl::get_thp_disable().unwrap());
        let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        let huge = text.lines().find_map(|line| line.strip_prefix("AnonHugePages:")).unwrap();
        assert_eq!(huge.trim(), "0 kB");
    }

    fn resident() -> usize {
        let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let path = std::fs::read_link("/proc/self/exe").unwrap();
        let mut lines = text
            .lines()
            .skip_while(|line| !line.ends_with(&*path.to_string_lossy()) || !line.contains("r-xp"));
        let line = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn a_program_goes_on_without_its_pages() {
        map_what_is_touched();
        // Touches much of the program.
        let parsed = <crate::cli::Cli as clap::Parser>::try_parse_from(["podium", "up"]).map(|_| ());
        let before = resident();
        started();
        assert!(resident() < before, "{before} KiB");
        let again = <crate::cli::Cli as clap::Parser>::try_parse_from(["podium", "up"]).map(|_| ());
        assert_eq!(parsed.is_ok(), again.is_ok());
        rest();
        rest();
    }
}
