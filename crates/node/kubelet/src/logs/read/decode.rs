//! From log files to what a person reads. Pure.

use jiff::Timestamp;

use crate::logs;

/// Which of a container's streams are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Choice {
    #[default]
    All,
    Stdout,
    Stderr,
}

/// How entries are shown.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Format {
    /// Entries before that are left out.
    pub(crate) since: Option<Timestamp>,
    /// Lines begin with their time.
    pub(crate) timestamps: bool,
    /// No more than so many bytes are given.
    pub(crate) limit_bytes: Option<u64>,
    pub(crate) stream: Choice,
}

/// Takes a log's bytes in any pieces.
#[derive(Debug)]
pub(crate) struct Decoder {
    format: Format,
    /// The beginning of an entry whose end has not come yet.
    rest: Vec<u8>,
    /// The next entry begins a line.
    fresh: bool,
    left: Option<u64>,
}

impl Decoder {
    pub(crate) fn new(format: Format) -> Self {
        Self { left: format.limit_bytes, format, rest: Vec::new(), fresh: true }
    }

    /// No more bytes may be given.
    pub(crate) fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    /// Decodes the entries that end within `bytes`.
    pub(crate) fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while let Some(at) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, after) = (&bytes[..at], &bytes[at + 1..]);
            if self.rest.is_empty() {
                self.entry(line, true, out);
            } else {
                let mut whole = std::mem::take(&mut self.rest);
                whole.extend_from_slice(line);
                self.entry(&whole, true, out);
            }
            bytes = after;
        }
        self.rest.extend_from_slice(bytes);
    }

    /// Decodes what has come of the last entry: nothing more will.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        let rest = std::mem::take(&mut self.rest);
        if !rest.is_empty() {
            self.entry(&rest, false, out);
        }
    }

    fn entry(&mut self, line: &[u8], whole: bool, out: &mut Vec<u8>) {
        if self.is_full() {
            return;
        }
        let Some(entry) = logs::parse(line) else {
            tracing::debug!(bytes = line.len(), "a line of a log file is not in the runtime's format");
            return;
        };
        let wanted = match self.format.stream {
            Choice::All => true,
            Choice::Stdout => !entry.stderr,
            Choice::Stderr => entry.stderr,
        };
        if !wanted {
            return;
        }
        if let Some(since) = self.format.since
            && entry.time.parse::<Timestamp>().is_ok_and(|time| time < since)
        {
            return;
        }
        if self.format.timestamps && self.fresh {
            self.put(fixed_width(entry.time).as_bytes(), out);
            self.put(b" ", out);
        }
        self.put(entry.text, out);
        self.fresh = !entry.partial && whole;
        if self.fresh {
            self.put(b"\n", out);
        }
    }

    fn put(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let length = match &mut self.left {
            None => bytes.len(),
            Some(left) => {
                let length = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= u64::try_from(length).unwrap_or(0);
                length
            }
        };
        out.extend_from_slice(&bytes[..length]);
    }
}

/// A time with all nine digits of its second's fraction, as upstream prints them.
fn fixed_width(time: &str) -> String {
    let fraction = time.find('.');
    let zone_at =
        time.rfind(['Z', '+']).or_else(|| time.rfind('-').filter(|at| *at > 18)).unwrap_or(time.len());
    let (seconds, digits) = match fraction {
        Some(point) if point < zone_at => (&time[..point], &time[point + 1..zone_at]),
        _ => (&time[..zone_at], ""),
    };
    let zone = match &time[zone_at..] {
        "+00:00" => "Z",
        zone => zone,
    };
    format!("{seconds}.{digits:0<9.9}{zone}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2016-10-06T00:17:09.1Z stdout F one\n\
        2016-10-06T00:17:10.2Z stderr F two\n\
        2016-10-06T00:17:11.3Z stdout P thr\n\
        2016-10-06T00:17:12.4Z stdout F ee\n\
        not an entry\n\
        2016-10-06T00:17:13.5Z stdout F \n\
        2016-10-06T00:17:14.6Z stdout F:x last";

    #[track_caller]
    fn check(format: &Format, want: &str) {
        // In pieces of every size, the result is the same.
        for size in [1, 7, 40, LOG.len()] {
            let mut decoder = Decoder::new(format.clone());
            let mut out = Vec::new();
            for piece in LOG.as_bytes().chunks(size) {
                decoder.push(piece, &mut out);
            }
            decoder.finish(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), want, "{format:?} in pieces of {size}");
        }
    }

    #[test]
    fn entries_become_lines() {
        check(&Format::default(), "one\ntwo\nthree\n\nlast");
        check(&Format { stream: Choice::Stdout, ..Default::default() }, "one\nthree\n\nlast");
        check(&Format { stream: Choice::Stderr, ..Default::default() }, "two\n");
    }

    #[test]
    fn times_begin_lines_not_pieces() {
        check(
            &Format { timestamps: true, since: "2016-10-06T00:17:11Z".parse().ok(), ..Default::default() },
            "2016-10-06T00:17:11.300000000Z three\n2016-10-06T00:17:13.500000000Z \n2016-10-06T00:17:14.600000000Z last",
        );
    }

    #[test]
    fn since_is_inclusive() {
        check(&Format { since: "2016-10-06T00:17:13.5Z".parse().ok(), ..Default::default() }, "\nlast");
        check(&Format { since: "2016-10-06T02:17:14.6+02:00".parse().ok(), ..Default::default() }, "last");
    }

    #[test]
    fn bytes_are_limited_in_the_middle_of_a_line() {
        for (limit, want) in
            [(0, ""), (2, "on"), (4, "one\n"), (10, "one\ntwo\nth"), (1000, "one\ntwo\nthree\n\nlast")]
        {
            check(&Format { limit_bytes: Some(limit), ..Default::default() }, want);
        }
    }

    #[test]
    fn times_have_nine_digits() {
        for (time, want) in [
            ("2016-10-06T00:17:09Z", "2016-10-06T00:17:09.000000000Z"),
            ("2016-10-06T00:17:09.669794202Z", "2016-10-06T00:17:09.669794202Z"),
            ("2016-10-06T00:17:09.5+02:00", "2016-10-06T00:17:09.500000000+02:00"),
            ("2016-10-06T00:17:09-07:00", "2016-10-06T00:17:09.000000000-07:00"),
            ("2016-10-06T00:17:09.25+00:00", "2016-10-06T00:17:09.250000000Z"),
        ] {
            assert_eq!(fixed_width(time), want);
        }
    }
}
