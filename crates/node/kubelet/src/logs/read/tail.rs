//! Finds where the last lines of a log begin, reading backwards.

use std::{fs::File, io, os::unix::fs::FileExt};

/// How much is read at a time.
const BLOCK: u64 = 16 * 1024;
/// An entry's time, stream and first tag lie within that.
const HEAD: usize = 80;

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) offset: u64,
    /// How many lines there are from there on, at most what was asked for.
    pub(crate) lines: u64,
}

/// Where the last `wanted` lines begin (at least one). Pieces of one line count as one.
pub(crate) fn start(file: &File, size: u64, wanted: u64) -> io::Result<Found> {
    let mut lines = 0;
    // The beginning of the earliest entry looked at, and the bytes that stand there.
    let mut earliest = size;
    let mut after: Vec<u8> = Vec::new();
    let mut position = size;
    while position > 0 {
        let length = position.min(BLOCK);
        let from = position - length;
        let mut block = vec![0; usize::try_from(length).unwrap_or_default()];
        file.read_exact_at(&mut block, from)?;
        let own = block.len();
        block.extend_from_slice(&after);
        for at in (0..=own).rev() {
            // An entry begins here if a line's end is before it, or the file's beginning.
            let begins = if at == 0 { from == 0 } else { block[at - 1] == b'\n' };
            let offset = from + u64::try_from(at).unwrap_or_default();
            if !begins || offset >= earliest {
                continue;
            }
            // The last entry may be the unfinished piece of a line; it counts as one all the same.
            if lines == 0 || !is_partial(&block[at..]) {
                if lines == wanted {
                    return Ok(Found { offset: earliest, lines });
                }
                lines += 1;
            }
            earliest = offset;
        }
        block.truncate(HEAD.min(block.len()));
        after = block;
        position = from;
    }
    Ok(Found { offset: 0, lines })
}

/// Whether the entry that begins here goes on in another one.
fn is_partial(entry: &[u8]) -> bool {
    let head = &entry[..entry.len().min(HEAD)];
    let tags = head.splitn(4, |byte| *byte == b' ').nth(2).unwrap_or_default();
    tags.split(|byte| *byte == b':').next() == Some(b"P")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn entry(tag: &str, text: &str) -> String {
        format!("2016-10-06T00:17:09.669794202Z stdout {tag} {text}\n")
    }

    #[track_caller]
    fn check(log: &str, wanted: u64, want: &str, lines: u64) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(log.as_bytes()).unwrap();
        let found = start(&file, u64::try_from(log.len()).unwrap(), wanted).unwrap();
        let offset = usize::try_from(found.offset).unwrap();
        assert_eq!((&log[offset..], found.lines), (want, lines), "the last {wanted}");
    }

    #[test]
    fn lines_are_counted_from_the_end() {
        let (a, b, c) = (entry("F", "a"), entry("F", "b"), entry("F", "c"));
        let log = format!("{a}{b}{c}");
        check(&log, 1, &c, 1);
        check(&log, 2, &format!("{b}{c}"), 2);
        check(&log, 3, &log, 3);
        check(&log, 9, &log, 3);
        check("", 2, "", 0);
    }

    #[test]
    fn pieces_belong_to_their_line() {
        let (a, p, q, f) = (entry("F", "a"), entry("P", "p"), entry("P:x", "q"), entry("F", "f"));
        let log = format!("{a}{p}{q}{f}");
        check(&log, 1, &format!("{p}{q}{f}"), 1);
        check(&log, 2, &log, 2);
        // The last line is still being written.
        let log = format!("{a}{f}{p}{q}");
        check(&log, 1, &format!("{p}{q}"), 1);
        check(&log, 2, &format!("{f}{p}{q}"), 2);
    }

    #[test]
    fn an_entry_may_be_unfinished() {
        let (a, b) = (entry("F", "a"), entry("F", "b"));
        let half = b.trim_end();
        check(&format!("{a}{half}"), 1, half, 1);
        check(&format!("{a}{half}"), 2, &format!("{a}{half}"), 2);
    }

    #[test]
    fn blocks_do_not_show() {
        // Entries of many lengths, so that block borders fall everywhere.
        for length in [1, 50, 1000, 16 * 1024 - 48, 16 * 1024 - 47, 40_000] {
            let entries: Vec<String> =
                (0..40).map(|n| entry(if n % 3 == 0 { "P" } else { "F" }, &"x".repeat(length + n))).collect();
            let log = entries.concat();
            // Entry 39 is a piece of its own, 36 begins the line that 37 ends, 38 is a line.
            check(&log, 1, &entries[39..].concat(), 1);
            check(&log, 2, &entries[38..].concat(), 2);
            check(&log, 3, &entries[36..].concat(), 3);
        }
    }
}
