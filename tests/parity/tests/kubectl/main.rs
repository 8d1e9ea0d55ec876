//! kubectl against the API server and its controllers: what each call prints and how it ends, as upstream's server makes it.
//!
//! Every file of `cases/` is a session of its own in a namespace of its own (`case.rs` tells the format); without a kubectl
//! on the PATH the test says that it is skipped. Three variables serve whoever adds a case:
//!
//! - `PODIUM_PARITY_CASES=word` runs only the files whose names hold the word;
//! - `PODIUM_PARITY_KUBECONFIG=file` runs them against another server, upstream's for example, instead of Podium's;
//! - `PODIUM_PARITY_UPDATE=1` writes what was seen into the files.

mod case;
mod mask;
mod run;
#[path = "../../../../crates/control-plane/apiserver/tests/api/support.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use podium_client::{Client, ClientSource, SharedInformers, Shutdown};
use podium_testkit::Kubectl;

use crate::case::Case;
use crate::run::{Place, Report};

/// Sessions at once: kubectl mostly waits for its own start.
const WORKERS: usize = 4;

struct Clients(Arc<support::Server>);

impl ClientSource for Clients {
    fn client(&self, component: &str) -> Client {
        match component {
            "kube-controller-manager" => self.0.server.client("system:kube-controller-manager", &[]),
            controller => self.0.server.service_account_client("kube-system", controller),
        }
    }
}

/// A server with controllers; nodes are only objects here, so what judges their silence is left out.
async fn start(server: Arc<support::Server>, shutdown: Shutdown) {
    let manager = server.server.client("system:kube-controller-manager", &[]);
    let informers = SharedInformers::new(manager, shutdown.clone());
    let settings = podium_controllers::Settings::default();
    let mut config = podium_controllers::Config::new(Arc::new(Clients(server)), informers, settings);
    for absent in ["node-lifecycle-controller", "taint-eviction-controller", "node-ipam-controller"] {
        config.controllers.push(format!("-{absent}"));
    }
    if let Err(error) = podium_controllers::run(config, shutdown).await {
        panic!("controllers: {error}");
    }
}

fn cases() -> Vec<(PathBuf, Case)> {
    let wanted = std::env::var("PODIUM_PARITY_CASES").unwrap_or_default();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory)
        .expect("the cases")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.extension().is_some_and(|e| e == "txt") && path.to_string_lossy().contains(&wanted)
        })
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no case's file name holds {wanted:?}");
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a case");
        let case = Case::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path, case)
    };
    paths.into_iter().map(read).collect()
}

/// Sessions run side by side, each in a namespace of its own: what they make outside of namespaces must not show in others. (Rights
/// that the user jane has in the whole cluster would.)
fn run_all(kubeconfig: &Path, suffix: &str) -> Vec<Report> {
    let cases = cases();
    let next = AtomicUsize::new(0);
    let update = std::env::var_os("PODIUM_PARITY_UPDATE").is_some();
    let worker = || {
        let mut reports = Vec::new();
        while let Some((path, case)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let place = Place::new(path, kubeconfig, suffix);
            reports.push(run::session(&place, path, case, update));
        }
        reports
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a session")).collect()
    })
}

#[test]
fn calls_print_and_end_as_upstream() {
    if !Kubectl::available() {
        return;
    }
    let reports = match std::env::var_os("PODIUM_PARITY_KUBECONFIG") {
        Some(kubeconfig) => run_all(Path::new(&kubeconfig), &format!("-{}", std::process::id())),
        None => {
            // A word that no message holds, for it stands for the namespace.
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            let server = Arc::new(runtime.block_on(support::Server::start()));
            let shutdown = Shutdown::new();
            let controllers = runtime.spawn(start(Arc::clone(&server), shutdown.clone()));
            let reports = run_all(&server.kubeconfig, "-case");
            shutdown.cancel();
            runtime.block_on(controllers).expect("the controllers end");
            server.shutdown.cancel();
            runtime.block_on(server.server.wait());
            reports
        }
    };
    let calls: usize = reports.iter().map(|report| report.calls).sum();
    println!("{} sessions, {calls} calls", reports.len());
    let faults: Vec<String> = reports.into_iter().flat_map(|report| report.faults).collect();
    assert!(faults.is_empty(), "{} calls differ\n\n{}", faults.len(), faults.join("\n\n"));
}
