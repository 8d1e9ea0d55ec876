//! The figures of a whole node, measured from outside and printed beside upstream's.
//!
//! Upstream's figures are those of the project's anchors: v1.36.2 with etcd, containerd and runc on a machine of this kind,
//! quiet. These machines are shared and noisy: compare ratios, and run it twice.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::{Cluster, Kubectl, images, wait};

/// A pod must be seen Ready within this, or the measurement is broken.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs all measurements on a cluster of its own.
///
/// # Errors
/// The cluster does not start, or something does not become ready.
pub fn run() -> Result<()> {
    ensure!(Cluster::available() && Kubectl::available(), "root, a binary and kubectl are needed");
    let scratch = tempfile::tempdir()?;
    let archives = images::web(scratch.path())?;
    let started = Instant::now();
    let cluster = Cluster::start()?;
    row("start of everything to node Ready, cold", started.elapsed(), "9 s", "3 s");
    for archive in &archives {
        cluster.load(archive);
    }
    cluster.podium(&["down"]).ok();
    let started = Instant::now();
    cluster.up()?;
    row("the same, warm", started.elapsed(), "9 s", "1 s");
    let kubectl = cluster.kubectl();

    let mut times = Vec::new();
    for number in 0..20 {
        let name = format!("bench-{number}");
        let started = Instant::now();
        kubectl.args(&["run", &name, "--image", &format!("{}:v2.0.0", images::WEB)]).ok();
        kubectl.args(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"]).ok();
        times.push(started.elapsed());
        kubectl.args(&["delete", "pod", &name, "--grace-period=0", "--force"]).ok();
    }
    times.sort();
    row("pod create to Ready, median of 20, by kubectl", times[times.len() / 2], "0.75 s", "0.5 s");

    let started = Instant::now();
    kubectl
        .args(&[
            "create",
            "deployment",
            "many",
            "--replicas=30",
            "--image",
            &format!("{}:v2.0.0", images::WEB),
        ])
        .ok();
    wait("30 replicas", LIMIT, || match kubectl.get("deployment many", "{.status.readyReplicas}").as_str() {
        "30" => Ok(()),
        other => Err(other.to_owned()),
    });
    row("30 replicas Ready", started.elapsed(), "6.6 s", "4 s");
    kubectl.args(&["delete", "deployment", "many", "--grace-period=1"]).ok();
    wait("pods to go", LIMIT, || match kubectl.get("pods", "{.items[*].metadata.name}").as_str() {
        "" => Ok(()),
        other => Err(other.to_owned()),
    });

    let pid = cluster.pid()?;
    let before = cpu(pid)?;
    let window = Duration::from_secs(20);
    // Idleness is measured by letting time pass: there is no condition to wait for.
    std::thread::park_timeout(window);
    let used = cpu(pid)? - before;
    let percent = used.as_secs_f64() / window.as_secs_f64() * 100.0;
    println!("{:<48} {:>9} {:>14} {:>10}", "daemon idle, resident", resident(pid)?, "682 MB", "100 MB");
    println!("{:<48} {:>7.2} % {:>14} {:>10}", "daemon idle, of a core", percent, "", "1 %");
    Ok(())
}

fn row(what: &str, took: Duration, upstream: &str, wanted: &str) {
    println!("{what:<48} {:>7.2} s {upstream:>14} {wanted:>10}", took.as_secs_f64());
}

fn resident(pid: i32) -> Result<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok())
        .context("no VmRSS")?;
    Ok(format!("{} MB", kib / 1024))
}

/// User and system time of a process, from its `stat`: fields 14 and 15, in hundredths of a second.
fn cpu(pid: i32) -> Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = text.rsplit_once(')').context("stat without a name")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks: u64 =
        fields.get(11..13).context("short stat")?.iter().filter_map(|f| f.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}
