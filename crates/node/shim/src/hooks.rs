//! Programs of the host that have to do something while a container is made (`createContainer` hooks of the OCI): in the
//! container's namespaces, before its root is its root, so that they see its files and their own.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::protocol::Hook;
use crate::sys;

/// How long a hook may take that says nothing about it: a start is given up soon after.
const LIMIT: Duration = Duration::from_secs(60);
/// What is kept of what a hook says when it fails.
const WORDS: usize = 4096;

/// Calls one, with the container's state as its input, and waits for it. What it says is told if it fails.
pub(crate) fn call(hook: &Hook, id: &str, bundle: &Path) -> io::Result<()> {
    let what = |why: &str| io::Error::other(format!("{} hook {}: {why}", hook.kind, hook.path.display()));
    let state = serde_json::json!({
        "ociVersion": "1.0.2", "id": id, "status": "creating", "pid": std::process::id(), "bundle": bundle,
    });
    let (said, say) = io::pipe()?;
    let mut command = Command::new(&hook.path);
    let (name, args) = hook.args.split_first().map_or((None, &[][..]), |(name, args)| (Some(name), args));
    if let Some(name) = name {
        command.arg0(name);
    }
    command.args(args).env_clear().stdin(Stdio::piped()).stdout(say.try_clone()?).stderr(say);
    command.envs(hook.env.iter().filter_map(|entry| entry.split_once('=')));
    sys::start_with_default_signals(&mut command);
    let mut child = command.spawn().map_err(|error| what(&error.to_string()))?;
    // Its own ends of the pipes go with it.
    drop(command);
    if let Some(mut input) = child.stdin.take() {
        // Who does not want to know need not read.
        let _ = input.write_all(state.to_string().as_bytes());
    }
    crate::streams::nonblocking(&said)?;
    let until = Instant::now() + hook.timeout.unwrap_or(LIMIT);
    let pidfd = sys::pidfd(i32::try_from(child.id()).map_err(io::Error::other)?)?;
    let mut words = Vec::new();
    while !sys::ready_until(&pidfd, &said, until)? {
        hear(&said, &mut words);
        if Instant::now() >= until {
            child.kill()?;
            child.wait()?;
            return Err(what("took too long"));
        }
    }
    hear(&said, &mut words);
    let status = child.wait()?;
    if status.success() {
        return Ok(());
    }
    Err(what(&format!("{status}: {}", String::from_utf8_lossy(&words).trim())))
}

/// Takes what a hook has said by now; more than is kept is thrown away, so that it can go on.
fn hear(said: &io::PipeReader, words: &mut Vec<u8>) {
    let mut buffer = [0; 4096];
    while let Ok(size @ 1..) = nix::unistd::read(said, &mut buffer) {
        words.extend_from_slice(&buffer[..size.min(WORDS.saturating_sub(words.len()))]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_are_told_and_heard() {
        let hook = |script: &str, timeout| Hook {
            kind: "createContainer".into(),
            path: "/bin/sh".into(),
            args: ["sh", "-c", script].map(str::to_owned).to_vec(),
            env: vec!["A=1".into()],
            timeout,
        };
        let told = "grep -q '\"bundle\":\"/b\"' && test $A = 1 && test -z \"$HOME\"";
        call(&hook(told, None), "c", Path::new("/b")).unwrap();
        let failed = call(&hook("echo no room; exit 3", None), "c", Path::new("/b")).unwrap_err().to_string();
        assert_eq!(failed, "createContainer hook /bin/sh: exit status: 3: no room");
        let much =
            "i=0; while [ $i -lt 3000 ]; do echo 0123456789012345678901234567890123456789; i=$((i+1)); done";
        call(&hook(much, None), "c", Path::new("/b")).unwrap();
        let late = call(&hook("exec sleep 1000", Some(Duration::from_millis(20))), "c", Path::new("/b"));
        assert!(late.unwrap_err().to_string().ends_with("took too long"));
        let absent = Hook { path: "/no/such".into(), ..hook("", None) };
        assert!(call(&absent, "c", Path::new("/b")).is_err());
    }
}
