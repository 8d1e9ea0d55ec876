//! The real binary, real containers, the real kubectl. Each test starts a cluster of its own on free ports.
//!
//! Run by `cargo xtask e2e [NAME]`; without root or a binary to test, every test says that it was skipped.

mod churn;
mod controller_managers;
#[path = "../../../../crates/machinery/store/tests/support/mod.rs"]
mod etcd;
mod healing;
mod host_ports;
mod hostile;
mod lifecycle;
mod process;
mod restarts;
mod scheduling;
mod software;
mod streams;
mod two_nodes;
mod two_servers;
mod using_kubectl;
mod web_app;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use podium_testkit::{Cluster, Kubectl, http, images, wait, wait_for};

/// Long enough for any single step on a machine that is busy with something else.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A running cluster with the test images, or `None`, having said why the test is skipped.
pub(crate) fn cluster() -> Option<Cluster> {
    if !Cluster::available() || !Kubectl::available() {
        return None;
    }
    let cluster = Cluster::start().expect("the cluster starts");
    for archive in archives() {
        cluster.load(archive);
    }
    Some(cluster)
}

/// The image archives, built once for all tests of a run, where the next run replaces them.
pub(crate) fn archives() -> &'static [PathBuf] {
    static ARCHIVES: OnceLock<Vec<PathBuf>> = OnceLock::new();
    ARCHIVES.get_or_init(|| {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let made = tempfile::tempdir_in(place).expect("a temporary directory");
        let mut paths = images::web(made.path()).expect("the web images can be built");
        paths.extend(images::busybox(made.path()).expect("the busybox image can be built"));
        // One step each: another run may be reading the file of that name.
        let kept = |path: PathBuf| {
            let to = place.join(path.file_name().expect("an archive has a name"));
            std::fs::rename(path, &to).expect("moved");
            to
        };
        paths.into_iter().map(kept).collect()
    })
}

/// The example application, with its three pods ready and its Service leading to each of them: the proxy hears of the last one a
/// moment after the Deployment's status says that the rollout is over.
pub(crate) fn deploy_example(kubectl: &Kubectl) {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/web-app");
    kubectl.args(&["apply", "-f", &examples.display().to_string()]).ok();
    let text = kubectl.run("-n production rollout status deployment/web-app --timeout=60s").ok();
    assert!(text.contains("successfully rolled out"), "{text}");
    let address = service_address(kubectl, "production", "web-app-service");
    let mut seen = BTreeSet::new();
    wait("the Service to lead to three pods", LIMIT, || {
        match http::get(address, "/") {
            Ok(answer) => _ = seen.insert(answer.body),
            Err(error) => return Err(error.to_string()),
        }
        if seen.len() == 3 { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

/// A pod with a shell, running.
pub(crate) fn tools_pod(kubectl: &Kubectl, namespace: &str) {
    kubectl.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: tools, namespace: {namespace}}}, spec: {{\
         terminationGracePeriodSeconds: 0, containers: [{{name: tools, image: {image}, command: [sleep, '3600']}}]}}}}",
        image = images::BUSYBOX
    ));
    kubectl.args(&["-n", namespace, "wait", "--for=condition=Ready", "pod/tools", "--timeout=60s"]).ok();
}

/// The Service's cluster address and port.
pub(crate) fn service_address(kubectl: &Kubectl, namespace: &str, name: &str) -> SocketAddr {
    let text =
        kubectl.get(&format!("-n {namespace} service {name}"), "{.spec.clusterIP}:{.spec.ports[0].port}");
    text.parse().unwrap_or_else(|_| panic!("not an address: {text:?}"))
}

/// Names of pods with this label, sorted.
pub(crate) fn pods(kubectl: &Kubectl, namespace: &str, label: &str) -> Vec<String> {
    let text = kubectl.get(&format!("-n {namespace} pods -l {label}"), "{.items[*].metadata.name}");
    text.split_whitespace().map(str::to_owned).collect()
}

/// Waits until a JSONPath of an object gives what is wanted.
#[track_caller]
pub(crate) fn becomes(kubectl: &Kubectl, what: &str, path: &str, wanted: &str) {
    wait_for(&format!("{what} {path} = {wanted}"), LIMIT, || kubectl.get(what, path), |seen| seen == wanted);
}

/// Waits until the Events of the namespace `default` that this selects say all of that: they are written beside the status, and
/// may come after it.
#[track_caller]
pub(crate) fn told(kubectl: &Kubectl, selector: &str, words: &[&str]) {
    told_in(kubectl, "default", selector, words);
}

/// The same in that namespace.
#[track_caller]
pub(crate) fn told_in(kubectl: &Kubectl, namespace: &str, selector: &str, words: &[&str]) {
    wait_for(
        &format!("events that say {words:?}"),
        LIMIT,
        || kubectl.args(&["-n", namespace, "get", "events", "--field-selector", selector]).stdout,
        |events| words.iter().all(|word| events.contains(word)),
    );
}

/// Waits until the server of a test image listens: its container runs, and its pod is ready where no probe asks, a moment earlier.
#[track_caller]
pub(crate) fn listens(kubectl: &Kubectl, what: &str) {
    let ip = kubectl.get(what, "{.status.podIP}");
    let address = format!("{ip}:3000").parse().unwrap_or_else(|_| panic!("{what} has no address: {ip:?}"));
    wait(&format!("{what} to listen"), LIMIT, || http::get(address, "/").map_err(|error| error.to_string()));
}

/// Whether pods run on containerd, not on the runtime of our own.
pub(crate) fn on_containerd() -> bool {
    std::env::var("PODIUM_CONTAINER_RUNTIME").is_ok_and(|runtime| runtime == "containerd")
}

/// What a container's status may say of the kernel's kill for want of memory. containerd hears of the kill and of the exit by two
/// ways; where the exit comes first, as under load, it calls that an error, and nobody asks again.
pub(crate) fn out_of_memory() -> &'static [&'static str] {
    if on_containerd() { &["OOMKilled", "Error"] } else { &["OOMKilled"] }
}
