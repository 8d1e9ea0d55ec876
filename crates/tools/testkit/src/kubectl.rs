//! The real kubectl, with a cluster's kubeconfig.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a call printed and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// The exit code; -1 when a signal ended it.
    pub code: i32,
}

impl Outcome {
    /// Standard output of a call that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.code == 0, "exit code {}\nstdout: {}\nstderr: {}", self.code, self.stdout, self.stderr);
        self.stdout
    }

    /// Standard error of a call that must have failed.
    #[track_caller]
    pub fn refused(self) -> String {
        assert!(self.code != 0, "expected a refusal\nstdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stderr
    }
}

/// kubectl for one cluster.
#[derive(Clone, Debug)]
pub struct Kubectl {
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// With this kubeconfig.
    pub fn new(kubeconfig: &Path) -> Self {
        Kubectl { kubeconfig: kubeconfig.to_owned() }
    }

    /// Whether a kubectl of version 1.32 or newer is on the PATH; otherwise says that the test is skipped.
    pub fn available() -> bool {
        let version = Command::new("kubectl").args(["version", "--client", "-o", "json"]).output();
        let minor = version.ok().and_then(|output| {
            let document: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
            let minor = document["clientVersion"]["minor"].as_str()?;
            minor.trim_end_matches(|c: char| !c.is_ascii_digit()).parse::<u32>().ok()
        });
        let good = minor.is_some_and(|minor| minor >= 32);
        if !good {
            println!("skipped: no kubectl 1.32 or newer on the PATH");
        }
        good
    }

    /// A command ready for arguments, for calls that stream.
    pub fn command(&self) -> Command {
        let mut command = Command::new("kubectl");
        // No cache shared with the person's own kubectl, or with another cluster on the same port.
        let cache = self.kubeconfig.with_file_name("kubectl-cache");
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg("--cache-dir")
            .arg(cache)
            .env_remove("KUBECONFIG");
        command
    }

    /// Runs `kubectl` with these arguments, split at blanks.
    pub fn run(&self, arguments: &str) -> Outcome {
        self.args(&arguments.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs `kubectl` with exactly these arguments.
    pub fn args(&self, arguments: &[&str]) -> Outcome {
        outcome(self.command().args(arguments).stdin(Stdio::null()))
    }

    /// Runs `kubectl` and gives it standard input.
    pub fn input(&self, arguments: &str, input: &str) -> Outcome {
        let mut command = self.command();
        command
            .args(arguments.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl is on the PATH");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("kubectl reads its input");
        let output = child.wait_with_output().expect("kubectl ends");
        convert(&output)
    }

    /// `kubectl apply -f -` of a manifest; must succeed.
    #[track_caller]
    pub fn apply(&self, manifest: &str) -> String {
        // Flow style begins with a brace, which kubectl would take for JSON.
        self.input("apply -f -", &format!("---\n{manifest}")).ok()
    }

    /// One value by JSONPath; empty when there is none.
    #[track_caller]
    pub fn get(&self, what: &str, path: &str) -> String {
        let output = format!("jsonpath={path}");
        let mut arguments = vec!["get"];
        arguments.extend(what.split_whitespace());
        arguments.extend(["--ignore-not-found", "-o", &output]);
        self.args(&arguments).ok()
    }
}

/// Runs a command to its end.
pub(crate) fn outcome(command: &mut Command) -> Outcome {
    convert(&command.output().expect("the program is there"))
}

fn convert(output: &std::process::Output) -> Outcome {
    Outcome {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code().unwrap_or(-1),
    }
}
