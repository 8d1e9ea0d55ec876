//! Container logs in CRI's format: reading one line, reading for clients, rotation.

pub(crate) mod read;
pub(crate) mod rotate;

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

/// One line of a log file: `time stream tags text`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    /// As written, RFC 3339 with nanoseconds.
    pub(crate) time: &'a str,
    pub(crate) stderr: bool,
    /// The text goes on in the next entry of the same stream.
    pub(crate) partial: bool,
    /// Without the line's end.
    pub(crate) text: &'a [u8],
}

/// Reads one line (without its newline); None if it is not in the format.
pub(crate) fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stderr = match parts.next()? {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    // Tags are separated by colons; only the first one means something.
    let partial = match parts.next()?.split(|byte| *byte == b':').next()? {
        b"F" => false,
        b"P" => true,
        _ => return None,
    };
    Some(Entry { time, stderr, partial, text: parts.next().unwrap_or_default() })
}

/// The text of the last lines of a log, for termination messages.
pub(crate) fn last_text(path: &Path, max_lines: usize, max_bytes: usize) -> std::io::Result<String> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        other => other?,
    };
    // Each line carries some fifty bytes of its own before the text.
    let window = u64::try_from(max_bytes + max_lines * 64).unwrap_or(u64::MAX);
    let size = file.metadata()?.len();
    let start = size.saturating_sub(window);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(window).read_to_end(&mut bytes)?;
    let mut lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    if start > 0 && !lines.is_empty() {
        lines.remove(0);
    }
    let from = lines.len().saturating_sub(max_lines);
    let mut text = Vec::new();
    for line in &lines[from..] {
        if let Some(entry) = parse(line.strip_suffix(b"\n").unwrap_or(line)) {
            text.extend_from_slice(entry.text);
            if !entry.partial {
                text.push(b'\n');
            }
        }
    }
    let from = text.len().saturating_sub(max_bytes);
    Ok(String::from_utf8_lossy(&text[from..]).into_owned())
}
