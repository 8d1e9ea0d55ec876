//! Starting, stopping, several clusters, and what is refused before a start.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use podium_testkit::{Cluster, Kubectl};

use crate::{LIMIT, cluster};

#[test]
fn up_shows_its_steps_and_the_other_commands_know_the_cluster() {
    let Some(cluster) = cluster() else { return };
    let again = cluster.up().unwrap();
    assert!(again.starts_with("already running on port "), "{again}");
    let status = cluster.podium(&["status"]).ok();
    for word in ["running", "API server", "node", "Ready", "pods"] {
        assert!(status.contains(word), "{word} is missing: {status}");
    }
    assert!(cluster.podium(&["kubeconfig"]).ok().contains("client-certificate-data"));
    assert!(cluster.podium(&["image", "ls"]).ok().contains("podium.test/web:v2.1.0"));
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(cluster.data_dir()).unwrap());
    assert_eq!(mode & 0o777, 0o700);

    assert!(cluster.podium(&["down"]).ok().contains("stopped"));
    let status = cluster.podium(&["status"]);
    assert_eq!(status.code, 3, "{status:?}");
    let started = Instant::now();
    let shown = cluster.up().unwrap();
    let warm = started.elapsed();
    for step in [
        "preflight",
        "certificates",
        "store",
        "API server",
        "controllers",
        "scheduler",
        "node",
        "network",
        "DNS",
        "cluster ready in ",
        "try next:",
        "kubectl get nodes",
    ] {
        assert!(shown.contains(step), "{step} is missing:\n{shown}");
    }
    println!("warm start to node Ready: {:.2} s\n{shown}", warm.as_secs_f64());
    assert!(warm < LIMIT);
}

#[test]
fn two_clusters_run_side_by_side() {
    if !Cluster::available() || !Kubectl::available() {
        return;
    }
    // At the same moment, when neither can see yet what the other has taken.
    let (first, second) = std::thread::scope(|scope| {
        let second = scope.spawn(|| Cluster::start().unwrap());
        (Cluster::start().unwrap(), second.join().unwrap())
    });
    for cluster in [&first, &second] {
        let nodes = cluster.kubectl().run("get nodes --no-headers").ok();
        assert_eq!(nodes.lines().count(), 1);
        assert!(nodes.contains(" Ready "), "{nodes}");
    }
    let range = |kubectl: Kubectl| kubectl.get("nodes", "{.items[0].spec.podCIDR}");
    assert_ne!(range(first.kubectl()), range(second.kubectl()));
    let services = |kubectl: Kubectl| kubectl.get("service kubernetes", "{.spec.clusterIP}");
    assert_ne!(services(first.kubectl()), services(second.kubectl()));
}

#[test]
fn a_taken_port_is_refused_with_a_remedy() {
    if !Cluster::available() {
        return;
    }
    let listener = TcpListener::bind(("0.0.0.0", 0)).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let directory = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(std::env::var_os("PODIUM_BIN").unwrap())
        .args(["up", "--port", &port, "--data-dir"])
        .arg(directory.path().join("data"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(text.contains(&format!("port {port} is taken")) && text.contains("--port"), "{text}");
}

#[test]
fn a_cold_start_is_quick() {
    if !Cluster::available() || !Kubectl::available() {
        return;
    }
    // The figure is 3 s on a quiet machine; CI machines are shared, so the quickest of a few counts.
    let mut quickest = Duration::MAX;
    for _ in 0..3 {
        let started = Instant::now();
        let cluster = Cluster::start().unwrap();
        let took = started.elapsed();
        println!("cold start to node Ready: {:.2} s (upstream: about 9 s)", took.as_secs_f64());
        cluster.kubectl().run("get --raw /readyz").ok();
        quickest = quickest.min(took);
        if quickest < Duration::from_secs(15) {
            return;
        }
    }
    panic!("{quickest:?}");
}
