//! The format of a case: a session with kubectl as text.
//!
//! ```text
//! # What it is about.
//! == file web.yaml
//! (the file's text)
//! == kubectl apply -f web.yaml
//! (its standard output)
//! == err
//! (its standard error, if any)
//! == exit 1
//! == until kubectl get deployment web -o name
//! (called again until it prints this)
//! ```
//!
//! A command is split at blanks as a shell does, with quotes; it may begin with `NAME=value` for the environment and end
//! with `< file` for standard input. `$NS` is the session's namespace. What varies between runs is masked (`mask.rs`).

use std::fmt::Write;

use anyhow::{Context, Result, bail};

/// One session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Case {
    /// The comment at its head, with its marks.
    pub(crate) head: String,
    /// What is done, in order.
    pub(crate) steps: Vec<Step>,
}

/// One block of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A file is written.
    File(String, String),
    /// kubectl is called.
    Call(Call),
}

/// A call and what is expected of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Call {
    /// The line after the mark.
    pub(crate) line: String,
    /// Whether it is repeated until it answers as expected.
    pub(crate) until: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) exit: i32,
}

impl Case {
    pub(crate) fn parse(text: &str) -> Result<Case> {
        let mut case = Case::default();
        // Where lines go: the head, a file, or one of a call's two streams.
        let mut errors = false;
        for line in text.lines() {
            let Some(mark) = line.strip_prefix("== ") else {
                let target = match case.steps.last_mut() {
                    None => &mut case.head,
                    Some(Step::File(_, text)) => text,
                    Some(Step::Call(call)) if errors => &mut call.stderr,
                    Some(Step::Call(call)) => &mut call.stdout,
                };
                target.push_str(line);
                target.push('\n');
                continue;
            };
            if let Some(name) = mark.strip_prefix("file ") {
                case.steps.push(Step::File(name.to_owned(), String::new()));
            } else if mark == "err" {
                errors = true;
            } else if let Some(code) = mark.strip_prefix("exit ") {
                match case.steps.last_mut() {
                    Some(Step::Call(call)) => call.exit = code.parse().context("an exit code")?,
                    _ => bail!("{line:?} follows no call"),
                }
            } else {
                errors = false;
                let (until, line) = match mark.strip_prefix("until ") {
                    Some(line) => (true, line),
                    None => (false, mark),
                };
                case.steps.push(Step::Call(Call { line: line.to_owned(), until, ..Call::default() }));
            }
        }
        Ok(case)
    }

    pub(crate) fn write(&self) -> String {
        let mut text = self.head.clone();
        for step in &self.steps {
            match step {
                Step::File(name, content) => write!(text, "== file {name}\n{content}"),
                Step::Call(call) => {
                    let until = if call.until { "until " } else { "" };
                    let errors = if call.stderr.is_empty() { "" } else { "== err\n" };
                    let exit =
                        if call.exit == 0 { String::new() } else { format!("== exit {}\n", call.exit) };
                    write!(text, "== {until}{}\n{}{errors}{}{exit}", call.line, call.stdout, call.stderr)
                }
            }
            .expect("text takes all");
        }
        text
    }
}

/// A command line taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Words {
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) arguments: Vec<String>,
    pub(crate) input: Option<String>,
}

impl Words {
    /// Splits a line; its command must be kubectl.
    pub(crate) fn parse(line: &str) -> Result<Words> {
        let mut parts = split(line)?.into_iter().peekable();
        let mut words = Words::default();
        while let Some((name, value)) =
            parts.peek().and_then(|p| p.split_once('=')).map(|(n, v)| (n.to_owned(), v.to_owned()))
        {
            words.environment.push((name, value));
            parts.next();
        }
        if parts.next().as_deref() != Some("kubectl") {
            bail!("not a call of kubectl: {line}");
        }
        while let Some(part) = parts.next() {
            if part == "<" {
                words.input = Some(parts.next().context("no file after <")?);
            } else {
                words.arguments.push(part);
            }
        }
        Ok(words)
    }
}

/// Splits at blanks outside of quotes; a backslash outside of single quotes takes the next character as it is.
fn split(line: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some('\''), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (_, '\\') => word.get_or_insert_default().extend(characters.next()),
            (None, ' ') => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        bail!("a quote is left open: {line}");
    }
    words.extend(word);
    Ok(words)
}

#[test]
fn what_is_read_is_written() {
    let text = "# head\n== file a\nx\n== kubectl get a\nout\n== err\nbad\n== exit 1\n== until kubectl b\n";
    assert_eq!(Case::parse(text).unwrap().write(), text);
}

#[test]
fn lines_are_split_as_a_shell_does() {
    let words = Words::parse(r#"A="b c" kubectl p -p '{"x": "\n"}' a\ b "" < f"#).unwrap();
    assert_eq!(words.environment, [("A".to_owned(), "b c".to_owned())]);
    assert_eq!(words.arguments, ["p", "-p", r#"{"x": "\n"}"#, "a b", ""]);
    assert_eq!(words.input.as_deref(), Some("f"));
    assert!(Words::parse("rm x").is_err() && Words::parse("kubectl 'x").is_err());
}
