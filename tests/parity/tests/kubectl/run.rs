//! Runs a session and compares what was seen with what was expected.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::case::{Call, Case, Step, Words};
use crate::mask::mask;

/// How long controllers may take until a repeated call answers as expected.
const LIMIT: Duration = Duration::from_secs(30);
/// How long the answer of a repeated call must stay the same before it is written into a case.
const SETTLED: Duration = Duration::from_secs(3);

/// Where a session takes place.
pub(crate) struct Place<'a> {
    kubeconfig: &'a Path,
    namespace: String,
    directory: tempfile::TempDir,
}

/// What came of a session.
pub(crate) struct Report {
    pub(crate) calls: usize,
    pub(crate) faults: Vec<String>,
}

impl<'a> Place<'a> {
    pub(crate) fn new(case: &Path, kubeconfig: &'a Path, suffix: &str) -> Self {
        let stem = case.file_stem().expect("a case has a name").to_string_lossy().replace('_', "-");
        let directory = tempfile::tempdir().expect("a temporary directory");
        Place { kubeconfig, namespace: format!("{stem}{suffix}"), directory }
    }

    /// kubectl as a user of this namespace has it; its cache is shared by the sessions of a run.
    fn kubectl(&self, arguments: &[String]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env("KUBECONFIG", self.config())
            .env("KUBECACHEDIR", std::env::temp_dir().join(format!("podium-parity-{}", std::process::id())))
            .env("HOME", self.directory.path());
        command
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join(".kubeconfig")
    }

    /// The namespace, the account that pods need, and a kubeconfig that says where we are.
    fn prepare(&self) {
        std::fs::copy(self.kubeconfig, self.config()).expect("the kubeconfig");
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for line in [
            format!("config set-context --current --namespace={}", self.namespace),
            format!("create namespace {}", self.namespace),
            // Its controller may have been first, or may not run at all.
            "create serviceaccount default".to_owned(),
        ] {
            let output = self.kubectl(&words(&line)).output().expect("kubectl runs");
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() || text.contains("already exists"), "kubectl {line}: {text}");
        }
    }

    fn call(&self, words: &Words) -> (String, String, i32) {
        let own = |text: &String| text.replace("$NS", &self.namespace);
        let arguments: Vec<String> = words.arguments.iter().map(own).collect();
        let mut command = self.kubectl(&arguments);
        command.envs(words.environment.iter().map(|(name, value)| (name, own(value))));
        command.stdin(match &words.input {
            Some(name) => std::fs::File::open(self.directory.path().join(name)).expect("the input").into(),
            None => Stdio::null(),
        });
        let output = command.output().expect("kubectl runs");
        let shown = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes).replace(&self.namespace, "$NS");
            let text = text.replace(&*self.directory.path().to_string_lossy(), "$DIR");
            let text = mask(&text);
            if text.is_empty() || text.ends_with('\n') { text } else { text + "\n" }
        };
        (shown(&output.stdout), shown(&output.stderr), output.status.code().unwrap_or(-1))
    }

    fn answer(&self, wanted: &Call, update: bool) -> Call {
        let words = Words::parse(&wanted.line).unwrap_or_else(|error| panic!("{error}"));
        let began = Instant::now();
        let mut since = began;
        let mut last: Option<Call> = None;
        loop {
            let (stdout, stderr, exit) = self.call(&words);
            let seen = Call { line: wanted.line.clone(), until: wanted.until, stdout, stderr, exit };
            if last.as_ref() != Some(&seen) {
                since = Instant::now();
            }
            let settled = if update { since.elapsed() > SETTLED } else { began.elapsed() > LIMIT };
            if !wanted.until || seen == *wanted || settled {
                return seen;
            }
            last = Some(seen);
        }
    }
}

/// Runs a case from its first step to its last, whatever differs on the way.
pub(crate) fn session(place: &Place<'_>, path: &Path, case: &Case, update: bool) -> Report {
    place.prepare();
    let mut report = Report { calls: 0, faults: Vec::new() };
    let mut seen_case = Case { head: case.head.clone(), steps: Vec::new() };
    for step in &case.steps {
        let wanted = match step {
            Step::File(name, text) => {
                let target = place.directory.path().join(name);
                std::fs::create_dir_all(target.parent().expect("a directory")).expect("the directory");
                std::fs::write(target, text.replace("$NS", &place.namespace)).expect("the file");
                seen_case.steps.push(step.clone());
                continue;
            }
            Step::Call(call) => call,
        };
        report.calls += 1;
        let seen = place.answer(wanted, update);
        if seen != *wanted && !update {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            report.faults.push(format!("{name}: {}\n{}", wanted.line, difference(wanted, &seen)));
        }
        seen_case.steps.push(Step::Call(seen));
    }
    if update && seen_case != *case {
        std::fs::write(path, seen_case.write()).expect("the case");
    }
    report
}

/// What was expected and not seen with a minus, what was seen and not expected with a plus.
fn difference(wanted: &Call, seen: &Call) -> String {
    let flat = |call: &Call| format!("{}{}exit {}\n", call.stdout, call.stderr, call.exit);
    let (wanted, seen) = (flat(wanted), flat(seen));
    let (old, new): (Vec<&str>, Vec<&str>) = (wanted.lines().collect(), seen.lines().collect());
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::new();
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            (i, j) = (i + 1, j + 1);
            continue;
        }
        // The nearest line that both have: whatever is before it differs.
        let near = (0..old.len() - i + new.len() - j).find_map(|distance| {
            (0..=distance)
                .map(|a| (i + a, j + distance - a))
                .find(|&(a, b)| a < old.len() && b < new.len() && old[a] == new[b])
        });
        let (to_old, to_new) = near.unwrap_or((old.len(), new.len()));
        lines.extend(old[i..to_old].iter().map(|line| format!("  - {line}")));
        lines.extend(new[j..to_new].iter().map(|line| format!("  + {line}")));
        (i, j) = (to_old, to_new);
    }
    lines.join("\n")
}
