//! Streams that kubectl does not open, but client libraries do.

use std::path::Path;

use podium_testkit::python;

use crate::{cluster, listens, tools_pod};

#[test]
fn the_python_client_executes_and_forwards() {
    let Some(mut python) = python() else { return };
    let Some(cluster) = cluster() else { return };
    let kubectl = cluster.kubectl();
    tools_pod(&kubectl, "default");
    kubectl.run("run web --image=podium.test/web:v2.0.0").ok();
    kubectl.run("wait --for=condition=Ready pod/web --timeout=60s").ok();
    listens(&kubectl, "pod web");
    python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("streams.py"));
    let output = python.arg(cluster.data_dir().join("kubeconfig")).args(["tools", "web"]).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout == "all streams\n", "{}\n{stdout}{stderr}", output.status);
}
