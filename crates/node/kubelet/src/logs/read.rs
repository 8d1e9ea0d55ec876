//! Gives a container's log to a client: from where, how much, with or without times, and on as it grows.
//!
//! Blocking: each reader has a thread of its own, which waits on inotify while it follows.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    os::{
        fd::AsFd,
        unix::fs::{FileExt, MetadataExt},
    },
    path::Path,
    time::Duration,
};

use jiff::Timestamp;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};

use super::parse;

/// How long a follower sleeps before it looks anyway, for a client or a container that is gone.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_millis(500);
/// The longest line taken in; runtimes cut at 16 KiB.
const MAX_LINE_BYTES: usize = 1 << 20;
/// Step of the backward search for the last lines.
const BLOCK_BYTES: u64 = 64 << 10;

/// What of a log is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) follow: bool,
    pub(crate) timestamps: bool,
    pub(crate) since: Option<Timestamp>,
    pub(crate) tail_lines: Option<u64>,
    pub(crate) limit_bytes: Option<u64>,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
}

/// What became of the reader's surroundings while it waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The container writes, or may.
    Open,
    /// Nothing will be written any more.
    Ended,
}

/// Reads the log at `path`. `sink` takes pieces and says whether it wants more; `source` says whether
/// more may come.
pub(crate) fn stream(
    path: &Path,
    options: &Options,
    sink: &mut dyn FnMut(&[u8]) -> bool,
    source: &mut dyn FnMut() -> Source,
) -> io::Result<()> {
    let mut file = File::open(path)?;
    if let Some(lines) = options.tail_lines {
        let start = tail_start(&file, lines)?;
        file.seek(SeekFrom::Start(start))?;
    }
    let mut writer = Writer { options, left: options.limit_bytes, new_line: true };
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    let mut watch = None;
    loop {
        // A line that is not complete yet stays in the buffer until the rest comes.
        let before = line.len();
        let room = u64::try_from(MAX_LINE_BYTES - before.min(MAX_LINE_BYTES - 1)).unwrap_or(1);
        let read = reader.by_ref().take(room).read_until(b'\n', &mut line)?;
        if line.ends_with(b"\n") || line.len() >= MAX_LINE_BYTES {
            if !writer.write(&line, sink) {
                return Ok(());
            }
            line.clear();
            continue;
        }
        if read > 0 {
            continue;
        }
        if !options.follow {
            return Ok(());
        }
        if watch.is_none() {
            watch = Some(Watch::new(path)?);
            continue;
        }
        // Asked before the last look, so that what was written before the end is not missed.
        let state = source();
        if reader.fill_buf()?.is_empty() {
            if let Some(next) = rotated(path, reader.get_ref())? {
                reader = BufReader::new(next);
                continue;
            }
            if state == Source::Ended || !sink(&[]) {
                return Ok(());
            }
            if let Some(watch) = &watch {
                watch.wait(LOOK_AT_LEAST_EVERY)?;
            }
        }
    }
}

/// The file that took the place of the one we read, if there is one.
fn rotated(path: &Path, reading: &File) -> io::Result<Option<File>> {
    let now = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let (ours, theirs) = (reading.metadata()?, now.metadata()?);
    Ok((ours.ino() != theirs.ino()).then_some(now))
}

struct Watch(Inotify);

impl Watch {
    fn new(path: &Path) -> io::Result<Self> {
        let watch = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        // The directory, because rotation replaces the file.
        let directory = path.parent().unwrap_or(path);
        watch.add_watch(directory, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO)?;
        Ok(Self(watch))
    }

    fn wait(&self, limit: Duration) -> io::Result<()> {
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::ZERO);
        let mut descriptors = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        match poll(&mut descriptors, timeout) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Ok(_) => match self.0.read_events() {
                Ok(_) | Err(nix::errno::Errno::EAGAIN) => Ok(()),
                Err(error) => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }
}

struct Writer<'a> {
    options: &'a Options,
    left: Option<u64>,
    new_line: bool,
}

impl Writer<'_> {
    /// Passes one line of the file on; false if no more is wanted.
    fn write(&mut self, line: &[u8], sink: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        let Some(entry) = parse(line.strip_suffix(b"\n").unwrap_or(line)) else { return true };
        let wanted = if entry.stderr { self.options.stderr } else { self.options.stdout };
        let early = self.options.since.is_some_and(|since| {
            entry.time.parse::<Timestamp>().is_ok_and(|time| time < since)
        });
        if !wanted || early {
            return true;
        }
        let mut text = Vec::with_capacity(line.len());
        if self.options.timestamps && self.new_line {
            text.extend_from_slice(fixed_width(entry.time).as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(entry.text);
        if !entry.partial {
            text.push(b'\n');
        }
        self.new_line = !entry.partial;
        if let Some(left) = &mut self.left {
            let room = usize::try_from(*left).unwrap_or(usize::MAX);
            text.truncate(room);
            *left -= text.len() as u64;
        }
        (text.is_empty() || sink(&text)) && self.left != Some(0)
    }
}

/// A time with all nine digits after the second, as upstream writes it out.
fn fixed_width(time: &str) -> String {
    let Some((seconds, rest)) = time.split_once('.') else {
        let zone = time.find(['Z', '+']).or_else(|| time.get(10..)?.find('-').map(|at| at + 10)).unwrap_or(time.len());
        return format!("{}.000000000{}", &time[..zone], &time[zone..]);
    };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    format!("{seconds}.{:0<9}{}", &rest[..digits.min(9)], &rest[digits..])
}

/// Where the last `lines` lines of a file begin.
fn tail_start(file: &File, lines: u64) -> io::Result<u64> {
    let size = file.metadata()?.len();
    if lines == 0 {
        return Ok(size);
    }
    let mut found = 0;
    let mut end = size;
    let mut block = vec![0; usize::try_from(BLOCK_BYTES).unwrap_or(0)];
    while end > 0 {
        let start = end.saturating_sub(BLOCK_BYTES);
        let part = &mut block[..usize::try_from(end - start).unwrap_or(0)];
        file.read_exact_at(part, start)?;
        for (at, _) in part.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let next = start + at as u64 + 1;
            // The newline at the very end closes the last line and begins none.
            if next == size {
                continue;
            }
            found += 1;
            if found == lines {
                return Ok(next);
            }
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const LOG: &str = "2026-01-01T00:00:01.5Z stdout F one\n\
        2026-01-01T00:00:02.000000001Z stderr F two\n\
        2026-01-01T00:00:03Z stdout P thr\n\
        2026-01-01T00:00:03.1Z stdout F ee\n\
        2026-01-01T00:00:04Z stdout F four\n";

    fn all() -> Options {
        Options { stdout: true, stderr: true, ..Default::default() }
    }

    fn read(options: &Options) -> String {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(LOG.as_bytes()).unwrap();
        let mut out = Vec::new();
        stream(file.path(), options, &mut |piece| { out.extend_from_slice(piece); true }, &mut || Source::Ended).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn choices() {
        assert_eq!(read(&all()), "one\ntwo\nthree\nfour\n");
        assert_eq!(read(&Options { follow: true, ..all() }), "one\ntwo\nthree\nfour\n");
        assert_eq!(read(&Options { stderr: false, ..all() }), "one\nthree\nfour\n");
        assert_eq!(read(&Options { tail_lines: Some(1), ..all() }), "four\n");
        assert_eq!(read(&Options { tail_lines: Some(0), ..all() }), "");
        assert_eq!(read(&Options { tail_lines: Some(99), ..all() }), "one\ntwo\nthree\nfour\n");
        assert_eq!(read(&Options { limit_bytes: Some(6), ..all() }), "one\ntw");
        let since = Some("2026-01-01T00:00:03Z".parse().unwrap());
        assert_eq!(read(&Options { since, ..all() }), "three\nfour\n");
        assert_eq!(
            read(&Options { timestamps: true, tail_lines: Some(3), ..all() }),
            "2026-01-01T00:00:03.000000000Z three\n2026-01-01T00:00:04.000000000Z four\n"
        );
    }

    #[test]
    fn times_get_nine_digits() {
        for (time, expected) in [
            ("2026-01-01T00:00:01.5Z", "2026-01-01T00:00:01.500000000Z"),
            ("2026-01-01T00:00:01+02:00", "2026-01-01T00:00:01.000000000+02:00"),
            ("2026-01-01T00:00:01.123456789-01:00", "2026-01-01T00:00:01.123456789-01:00"),
        ] {
            assert_eq!(fixed_width(time), expected);
        }
    }

    #[test]
    fn following_sees_growth_and_rotation() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        std::fs::write(&path, "2026-01-01T00:00:01Z stdout F a\n2026-01-01T00:00:02Z stdout F b").unwrap();
        let mut step = 0;
        let mut out = Vec::new();
        stream(
            &path,
            &Options { follow: true, ..all() },
            &mut |piece| {
                out.extend_from_slice(piece);
                true
            },
            &mut || {
                step += 1;
                match step {
                    1 => {
                        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
                        file.write_all(b"b\n").unwrap();
                        Source::Open
                    }
                    2 => {
                        std::fs::rename(&path, directory.path().join("0.log.old")).unwrap();
                        std::fs::write(&path, "2026-01-01T00:00:03Z stdout F c\n").unwrap();
                        Source::Open
                    }
                    _ => Source::Ended,
                }
            },
        )
        .unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "a\nbb\nc\n");
    }
}
