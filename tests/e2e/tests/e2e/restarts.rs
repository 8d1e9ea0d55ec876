//! The daemon stops, starts and is killed; containers and acknowledged writes stay.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use podium_testkit::{http, wait};

use crate::{LIMIT, becomes, cluster, deploy_example, service_address};

/// How often the daemon is killed; the issue asks for fifty.
const KILLS: usize = 50;

#[test]
fn stopping_and_starting_leaves_containers_running() {
    let Some(cluster) = cluster() else { return };
    let kubectl = cluster.kubectl();
    deploy_example(&kubectl);
    let address = service_address(&kubectl, "production", "web-app-service");
    let ids = "{.items[*].status.containerStatuses[0].containerID}";
    let before = kubectl.get("-n production pods", ids);
    cluster.podium(&["down"]).ok();
    assert!(http::get(address, "/").is_ok(), "Services lead to their pods while the daemon is down");
    cluster.up().unwrap();
    becomes(&kubectl, "-n production deployment web-app", "{.status.readyReplicas}", "3");
    assert_eq!(kubectl.get("-n production pods", ids), before);
    let restarts = "{.items[*].status.containerStatuses[0].restartCount}";
    assert_eq!(kubectl.get("-n production pods", restarts), "0 0 0");
}

#[test]
fn kill_9_under_load_loses_no_acknowledged_write_and_no_container() {
    let Some(cluster) = cluster() else { return };
    let kubectl = cluster.kubectl();
    deploy_example(&kubectl);
    let address = service_address(&kubectl, "production", "web-app-service");
    let ids = "{.items[*].status.containerStatuses[0].containerID}";
    let before = kubectl.get("-n production pods -l app=web-app", ids);
    kubectl.run("create namespace writes").ok();
    let stop = AtomicBool::new(false);
    let mut slowest = Duration::ZERO;
    let acknowledged = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut acknowledged = Vec::new();
            let mut number = 0;
            while !stop.load(Ordering::SeqCst) {
                number += 1;
                let name = format!("w{number}");
                let outcome =
                    kubectl.args(&["-n", "writes", "create", "configmap", &name, "--from-literal=a=b"]);
                if outcome.code == 0 {
                    acknowledged.push(name);
                }
            }
            acknowledged
        });
        let end = Ends(&stop);
        for round in 0..KILLS {
            // A different moment of the daemon's work each time.
            std::thread::park_timeout(Duration::from_millis(u64::try_from(round * 37 % 400).unwrap()));
            cluster.kill().unwrap();
            assert!(http::get(address, "/").is_ok(), "round {round}: pods serve without the daemon");
            let started = Instant::now();
            cluster.up().unwrap_or_else(|error| panic!("round {round}: {error:#}"));
            slowest = slowest.max(started.elapsed());
        }
        drop(end);
        writer.join().expect("the writer")
    });
    println!(
        "{} writes acknowledged over {KILLS} kills; slowest start to Ready {slowest:?}",
        acknowledged.len()
    );
    let list = kubectl.run("-n writes get configmaps -o name").ok();
    let lost: Vec<&String> =
        acknowledged.iter().filter(|name| !list.lines().any(|l| l == format!("configmap/{name}"))).collect();
    assert!(lost.is_empty(), "lost {lost:?} of {}", acknowledged.len());
    becomes(&kubectl, "-n production deployment web-app", "{.status.readyReplicas}", "3");
    assert_eq!(kubectl.get("-n production pods -l app=web-app", ids), before, "containers are the same");
    wait("the Service", LIMIT, || http::get(address, "/"));
}

/// Sets a flag when it goes, also when an assertion fails: the scope would wait for its threads for ever.
pub(crate) struct Ends<'a>(pub(crate) &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
