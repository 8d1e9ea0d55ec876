//! The Python client's script in a process of its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::support::Server;

/// The script takes three seconds; each of its watches ends after thirty at the latest.
const LIMIT: Duration = Duration::from_secs(180);

/// A Python that has the client: Debian's package is seen by Debian's Python only, which need not be first on the PATH.
async fn interpreter() -> Option<&'static str> {
    for python in ["python3", "/usr/bin/python3"] {
        let imported =
            Command::new(python).args(["-c", "import kubernetes"]).stderr(Stdio::null()).status().await;
        if imported.is_ok_and(|status| status.success()) {
            return Some(python);
        }
    }
    None
}

async fn run(python: &str, kubeconfig: &Path, suffix: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("script.py");
    let mut command = Command::new(python);
    command
        // A proxy of the machine's is not the way to a server on loopback.
        .env("NO_PROXY", "*")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // What it prints before it hangs should be seen.
        .env("PYTHONUNBUFFERED", "1")
        .arg(script)
        .arg(kubeconfig)
        .arg(suffix)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output())
        .await
        .unwrap_or_else(|_| panic!("script.py took longer than {LIMIT:?}"))
        .expect("Python runs");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // The last line is printed after every part.
    let done = stdout.lines().last().is_some_and(|line| line.starts_with("all: "));
    assert!(output.status.success() && done, "{}\n{stdout}{stderr}", output.status);
    print!("{stdout}");
}

/// `PODIUM_CLIENTS_KUBECONFIG=file` runs the script against another server without controllers, upstream's for example.
#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_sees_upstreams_answers() {
    let Some(python) = interpreter().await else {
        println!("skipped: no Python with the package kubernetes (Debian: python3-kubernetes)");
        return;
    };
    if let Some(kubeconfig) = std::env::var_os("PODIUM_CLIENTS_KUBECONFIG").map(PathBuf::from) {
        return run(python, &kubeconfig, &format!("-{}", std::process::id())).await;
    }
    let server = Server::start().await;
    run(python, &server.kubeconfig, "").await;
    server.stop().await;
}
