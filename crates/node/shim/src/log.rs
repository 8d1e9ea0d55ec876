//! A container's output as log lines. Source: the CRI logging format (`kubernetes/design-proposals-archive`,
//! kubelet-cri-logging): `TIME STREAM TAG TEXT`, where the tag says whether the line goes on.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The longest text of one entry; a longer line becomes several. The size that other runtimes use.
const ENTRY_BYTES: usize = 16 << 10;

/// Cuts one stream into entries. Text without an end of line waits for more, or for [`Formatter::finish`].
#[derive(Debug)]
pub struct Formatter {
    stream: &'static str,
    /// The beginning of a line whose end has not come.
    pending: Vec<u8>,
}

impl Formatter {
    /// For `stdout` or `stderr`.
    pub fn new(stream: &'static str) -> Self {
        Self { stream, pending: Vec::new() }
    }

    /// Adds the entries of some output to `entries`. `now` is the entries' time.
    pub fn push(&mut self, bytes: &[u8], now: &str, entries: &mut Vec<u8>) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match part.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (part, false),
            };
            self.pending.extend_from_slice(text);
            let mut start = 0;
            while self.pending.len() - start > ENTRY_BYTES
                || (!ends && self.pending.len() - start == ENTRY_BYTES)
            {
                entry(self.stream, now, b'P', &self.pending[start..start + ENTRY_BYTES], entries);
                start += ENTRY_BYTES;
            }
            self.pending.drain(..start);
            if ends {
                entry(self.stream, now, b'F', &self.pending, entries);
                self.pending.clear();
            }
        }
        // A burst's room is not kept: a pod has one of these per stream.
        if self.pending.is_empty() && self.pending.capacity() > 1024 {
            self.pending = Vec::new();
        }
    }

    /// The stream has ended: what is left is an entry by itself.
    pub fn finish(&mut self, now: &str, entries: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            entry(self.stream, now, b'P', &std::mem::take(&mut self.pending), entries);
        }
    }
}

fn entry(stream: &str, now: &str, tag: u8, text: &[u8], entries: &mut Vec<u8>) {
    entries.extend_from_slice(now.as_bytes());
    entries.push(b' ');
    entries.extend_from_slice(stream.as_bytes());
    entries.extend_from_slice(&[b' ', tag, b' ']);
    entries.extend_from_slice(text);
    entries.push(b'\n');
}

/// A moment as RFC 3339 with nanoseconds.
pub(crate) fn timestamp(nanoseconds: i64) -> String {
    let (seconds, fraction) = (nanoseconds.div_euclid(1_000_000_000), nanoseconds.rem_euclid(1_000_000_000));
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since the first of March of year 0 in the Gregorian calendar, counted in eras of 400 years.
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{fraction:09}Z",
        rest / 3600,
        rest % 3600 / 60,
        rest % 60
    )
}

/// The clock, in nanoseconds since 1970.
pub(crate) fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// A container's log.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: Option<File>,
}

impl Log {
    /// Opens a log, in a directory that may have to be made.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
        }
        Ok(Self { path: path.to_owned(), file: Some(create(path)?) })
    }

    /// After rotation: what was the log has another name now.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        self.file = Some(create(&self.path)?);
        Ok(())
    }

    /// Writes entries. A full disk loses them: the container must not stop for it.
    pub(crate) fn write(&mut self, entries: &[u8]) {
        if let Some(file) = &mut self.file {
            let _ = file.write_all(entries);
        }
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).custom_flags(libc::O_NOFOLLOW).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pushes: &[&[u8]], expected: &str) {
        let mut formatter = Formatter::new("stdout");
        let mut entries = Vec::new();
        for bytes in pushes {
            formatter.push(bytes, "T", &mut entries);
        }
        formatter.finish("T", &mut entries);
        assert_eq!(String::from_utf8_lossy(&entries), expected);
    }

    #[test]
    fn lines_become_entries() {
        check(&[b"a\nb\n"], "T stdout F a\nT stdout F b\n");
        check(&[b"a", b"b\n", b"\n"], "T stdout F ab\nT stdout F \n");
        check(&[b"end"], "T stdout P end\n");
        check(&[], "");
        let long = vec![b'x'; ENTRY_BYTES];
        let whole = String::from_utf8(long.clone()).unwrap();
        check(&[&long, b"\n"], &format!("T stdout P {whole}\nT stdout F \n"));
        check(&[&[&long[..], b"\n"].concat()], &format!("T stdout F {whole}\n"));
        check(&[&[&long[..], b"y\n"].concat()], &format!("T stdout P {whole}\nT stdout F y\n"));
        check(&[&long, &long, b"z"], &format!("T stdout P {whole}\nT stdout P {whole}\nT stdout P z\n"));
    }

    #[test]
    fn timestamps() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(timestamp(951_782_400_000_000_001), "2000-02-29T00:00:00.000000001Z");
        assert_eq!(timestamp(1_735_689_599_123_000_000), "2024-12-31T23:59:59.123000000Z");
        assert_eq!(timestamp(4_107_542_400_000_000_000), "2100-03-01T00:00:00.000000000Z");
    }
}
