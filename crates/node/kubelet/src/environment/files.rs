//! Variables from a file that a container wrote: `fileKeyRef`. Pure: the file has been read elsewhere.
//!
//! Source: KEP-3721, and `pkg/kubelet/util/env` of v1.36, whose words these are. The format is a small part of a shell's:
//! `NAME='value'`, the value as it stands between its quotes, over several lines if need be; comments and blank lines.

use std::path::PathBuf;

/// A file that variables come from, as it was found.
#[derive(Debug, Clone)]
pub(crate) struct EnvFile {
    /// Where it is on the host.
    pub(crate) at: PathBuf,
    /// What is in it, None if there is no such file, or why it cannot be read.
    pub(crate) text: Result<Option<String>, FileError>,
}

/// What is wrong with a file. It is for the log: the pod's status says no more than that the file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FileError {
    #[error("failed to open environment variable file: {0}")]
    Read(String),
    #[error("failed to open environment variable file: there is none")]
    Missing,
    #[error("invalid environment variable format at line {line}: {what}")]
    Line { line: usize, what: &'static str },
    #[error("invalid environment variable format starting at line {line}: unclosed single quote")]
    Unclosed { line: usize },
}

/// The value of a key: its first mention in the file. An empty value counts as none, as upstream has it. What comes after
/// the key is not looked at.
pub(crate) fn find(text: &str, key: &str) -> Result<Option<String>, FileError> {
    let mut lines = (1..).zip(lines(text));
    while let Some((number, whole)) = lines.next() {
        let wrong = |line, what| Err(FileError::Line { line, what });
        let line = whole.trim_start_matches(BLANK);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else { return wrong(number, "missing '='") };
        if name.trim_end_matches(BLANK).is_empty() {
            return wrong(number, "empty variable name");
        }
        if name.ends_with(BLANK) {
            return wrong(number, "whitespace before '=' is not allowed");
        }
        // To a shell the variable is empty then, and what follows is a command.
        if value.starts_with(BLANK) {
            if name == key {
                return Ok(None);
            }
            continue;
        }
        let Some(mut rest) = value.strip_prefix('\'') else {
            return wrong(number, "value must be enclosed in single quotes");
        };
        let (mut found, mut last) = (String::new(), number);
        let after = loop {
            if let Some((end, after)) = rest.split_once('\'') {
                found.push_str(end);
                break after.trim_start_matches(BLANK);
            }
            found.push_str(rest);
            found.push('\n');
            let Some((next, more)) = lines.next() else { return Err(FileError::Unclosed { line: number }) };
            (last, rest) = (next, more);
        };
        if !after.is_empty() && !after.starts_with('#') {
            return wrong(last, "unexpected content after closing quote");
        }
        if name == key {
            return Ok(Some(found).filter(|value| !value.is_empty()));
        }
    }
    Ok(None)
}

const BLANK: [char; 2] = [' ', '\t'];

/// Lines without their ends, `\r\n` for one; there is none after the last end.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, key: &str, expected: Result<Option<&str>, &str>) {
        let found = find(text, key).map_err(|error| error.to_string());
        let expected = expected.map(|value| value.map(str::to_owned)).map_err(str::to_owned);
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn values_are_what_stands_between_quotes() {
        for (text, value) in [
            ("K='v'", "v"),
            ("K='v'\n", "v"),
            ("K='v'\r\nL='w'\r\n", "v"),
            (" \tK='v'", "v"),
            ("# K='no'\n\n \t\n  # more\nL='w'\nK='v'\n", "v"),
            ("K='v' # why", "v"),
            ("K='v'\t#why", "v"),
            ("K='  v  '", "  v  "),
            ("K='a#b=c'", "a#b=c"),
            ("K='$HOME ${X} \\n \"q\"'", "$HOME ${X} \\n \"q\""),
            ("K='eins\n\n  zwei  \n# drei'\nL='w'", "eins\n\n  zwei  \n# drei"),
            ("K='one\r\ntwo'", "one\ntwo"),
            ("K='\u{4e2d}\u{1f30d}'", "\u{4e2d}\u{1f30d}"),
            ("L='a\nK=b'\nK='v'", "v"),
            // The first one counts, and what comes after it need not be right.
            ("K='v'\nK='w'", "v"),
            ("K='v'\nnonsense", "v"),
            ("L= 'w'\nK='v'", "v"),
        ] {
            check(text, "K", Ok(Some(value)));
        }
    }

    #[test]
    fn what_is_not_there() {
        for text in ["", "\n", "# K='v'", "L='v'\n", "k='v'", "KK='v'", "K=''", "K= 'v'", "K=", "L='K=\n'"] {
            let expected = if text == "K=" {
                Err("invalid environment variable format at line 1: value must be enclosed in single quotes")
            } else {
                Ok(None)
            };
            check(text, "K", expected);
        }
    }

    #[test]
    fn what_is_wrong() {
        for (text, line, what) in [
            ("L='w'\nnonsense\nK='v'", 2, "missing '='"),
            ("='v'", 1, "empty variable name"),
            (" \t='v'", 1, "empty variable name"),
            ("L ='w'\nK='v'", 1, "whitespace before '=' is not allowed"),
            ("L\t='w'", 1, "whitespace before '=' is not allowed"),
            ("K=v", 1, "value must be enclosed in single quotes"),
            ("L='w'\nK=\"v\"", 2, "value must be enclosed in single quotes"),
            ("K='v'w", 1, "unexpected content after closing quote"),
            ("K='v''w'", 1, "unexpected content after closing quote"),
            ("K='it\\'s'", 1, "unexpected content after closing quote"),
            ("L='a\nb'c\nK='v'", 2, "unexpected content after closing quote"),
            ("L='a\nK='v'", 2, "unexpected content after closing quote"),
        ] {
            check(text, "K", Err(&format!("invalid environment variable format at line {line}: {what}")));
        }
        let unclosed = "invalid environment variable format starting at line 2: unclosed single quote";
        check("L='w'\nK='v\nmore\n", "K", Err(unclosed));
    }
}
