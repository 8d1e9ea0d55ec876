//! client-go, by `client-go/main.go`.
//!
//! No package registry that the tests may use has client-go, so this runs where the developer has it: `PODIUM_CLIENT_GO` names
//! a Go module or workspace that depends on client-go, upstream's own repository for one.

use std::path::Path;

use crate::support::Server;

#[tokio::test(flavor = "multi_thread")]
async fn client_go_runs_its_script() {
    let Some(module) = std::env::var_os("PODIUM_CLIENT_GO") else {
        println!("skipped: PODIUM_CLIENT_GO names no Go module that has client-go");
        return;
    };
    let server = Server::start().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("client-go/main.go");
    let output = tokio::process::Command::new("go")
        .arg("run")
        .arg(script)
        .current_dir(module)
        .env("KUBECONFIG", &server.kubeconfig)
        .output()
        .await
        .expect("go is on the PATH");
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    println!("{text}");
    server.stop().await;
}
