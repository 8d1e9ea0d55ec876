//! Python with the Kubernetes client.

use std::process::{Command, Stdio};

/// Python, ready to be given a script that uses the client; `None`, having said that the test is skipped, where there is
/// none. Debian's package is seen by Debian's Python only, which need not be first on the PATH.
pub fn python() -> Option<Command> {
    let has_client = |python: &&str| {
        let imported = Command::new(python).args(["-c", "import kubernetes"]).stderr(Stdio::null()).status();
        imported.is_ok_and(|status| status.success())
    };
    let Some(python) = ["python3", "/usr/bin/python3"].into_iter().find(has_client) else {
        println!("skipped: no Python with the package kubernetes (Debian: python3-kubernetes)");
        return None;
    };
    let mut command = Command::new(python);
    command
        // A proxy of the machine's is not the way to a server on loopback.
        .env("NO_PROXY", "*")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // What it prints before it hangs should be seen.
        .env("PYTHONUNBUFFERED", "1")
        .stdin(Stdio::null());
    Some(command)
}
