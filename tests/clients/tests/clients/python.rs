//! The Python client's script in a process of its own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use crate::support::Server;

/// The script takes three seconds; each of its watches ends after thirty at the latest.
const LIMIT: Duration = Duration::from_secs(180);

async fn run(mut python: Command, kubeconfig: &Path, suffix: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("script.py");
    python.arg(script).arg(kubeconfig).arg(suffix).kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, python.output())
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
    let Some(python) = podium_testkit::python().map(Command::from) else { return };
    if let Some(kubeconfig) = std::env::var_os("PODIUM_CLIENTS_KUBECONFIG").map(PathBuf::from) {
        return run(python, &kubeconfig, &format!("-{}", std::process::id())).await;
    }
    let server = Server::start().await;
    run(python, &server.kubeconfig, "").await;
    server.stop().await;
}
