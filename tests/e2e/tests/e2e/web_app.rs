//! The example application: applied, reached, scaled, rolled forward and back.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use podium_testkit::{http, wait, wait_for};

use crate::{LIMIT, becomes, cluster, deploy_example, pods, service_address, tools_pod};

const DEPLOYMENT: &str = "-n production deployment web-app";

#[test]
fn the_example_is_reachable_by_address_and_name_from_everywhere() {
    let Some(cluster) = cluster() else { return };
    let kubectl = cluster.kubectl();
    deploy_example(&kubectl);
    let address = service_address(&kubectl, "production", "web-app-service");

    // From the host, spread over all three pods.
    let names: BTreeSet<String> = pods(&kubectl, "production", "app=web-app").into_iter().collect();
    assert_eq!(names.len(), 3);
    let mut seen = BTreeSet::new();
    for _ in 0..60 {
        let body = http::get(address, "/").expect("the Service answers").body;
        assert!(body.starts_with("web v2.0.0 "), "{body}");
        seen.extend(body.split_whitespace().nth(2).map(str::to_owned));
    }
    assert_eq!(seen, names, "every ready pod gets its share");

    // From a pod, by address and by each form of the name.
    tools_pod(&kubectl, "production");
    for name in [
        address.ip().to_string().as_str(),
        "web-app-service",
        "web-app-service.production",
        "web-app-service.production.svc",
        "web-app-service.production.svc.cluster.local",
    ] {
        let url = format!("http://{name}/");
        let body = kubectl.args(&["-n", "production", "exec", "tools", "--", "wget", "-qO-", &url]).ok();
        assert!(body.starts_with("web v2.0.0"), "{name}: {body}");
    }
    // Pods reach pods by address, and the outside: the node is the only outside that every machine has.
    let pod_ip = kubectl.get("-n production pods -l app=web-app", "{.items[0].status.podIP}");
    assert!(pod_ip.starts_with("10."), "{pod_ip}");
    let url = format!("http://{pod_ip}:3000/");
    kubectl.args(&["-n", "production", "exec", "tools", "--", "wget", "-qO-", &url]).ok();
    let api = kubectl.run("-n production exec tools -- nslookup kubernetes.default.svc.cluster.local").ok();
    assert!(api.contains(&kubectl.get("service kubernetes", "{.spec.clusterIP}")), "{api}");
    let node = kubectl.get("nodes", "{.items[0].status.addresses[0].address}");
    kubectl.args(&["-n", "production", "exec", "tools", "--", "ping", "-c", "1", "-W", "5", &node]).ok();

    // A pod reaches itself through its own Service (hairpin).
    kubectl.run("-n production scale deployment web-app --replicas=1").ok();
    wait_for("one pod", LIMIT, || pods(&kubectl, "production", "app=web-app"), |names| names.len() == 1);

    // The environment came from a literal, a ConfigMap and a Secret.
    let body = wait("one endpoint", LIMIT, || http::get(address, "/env").map_err(|e| e.to_string())).body;
    for line in ["NODE_ENV=production", "LOG_LEVEL=info", "DATABASE_URL=postgres://app:change-me@"] {
        assert!(body.contains(line), "{line} is missing: {body}");
    }
    assert!(body.contains("KUBERNETES_SERVICE_HOST="), "{body}");
}

#[test]
fn it_scales_and_rolls_forward_and_back() {
    let Some(cluster) = cluster() else { return };
    let kubectl = cluster.kubectl();
    deploy_example(&kubectl);
    let address = service_address(&kubectl, "production", "web-app-service");

    kubectl.run("-n production scale deployment/web-app --replicas=5").ok();
    becomes(&kubectl, DEPLOYMENT, "{.status.readyReplicas}", "5");
    kubectl.run("-n production scale deployment/web-app --replicas=2").ok();
    becomes(&kubectl, DEPLOYMENT, "{.status.replicas}", "2");
    kubectl.run("-n production scale deployment/web-app --replicas=3").ok();
    becomes(&kubectl, DEPLOYMENT, "{.status.readyReplicas}", "3");

    // Under constant load not one request is lost.
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load: Vec<_> = (0..4).map(|_| scope.spawn(|| constant_load(address, &stop))).collect();
        let image = kubectl.run("-n production set image deployment/web-app web-app=podium.test/web:v2.1.0");
        let rolled = kubectl.run("-n production rollout status deployment/web-app --timeout=120s");
        stop.store(true, Ordering::SeqCst);
        let results: Vec<Load> =
            load.into_iter().map(|thread| thread.join().expect("a load thread")).collect();
        image.ok();
        rolled.ok();
        let failures: Vec<&String> = results.iter().flat_map(|load| &load.failures).collect();
        let sent: usize = results.iter().map(|load| load.sent).sum();
        println!("{sent} requests during the rolling update, {} lost", failures.len());
        assert!(
            failures.is_empty(),
            "lost {} of {sent}: {:?}",
            failures.len(),
            &failures[..failures.len().min(5)]
        );
        assert!(sent > 100);
    });
    only_serves(address, "v2.1.0");

    // A version that never becomes ready stalls, and every old pod keeps serving.
    kubectl.run("-n production set image deployment/web-app web-app=podium.test/web:v2.2.0").ok();
    becomes(&kubectl, DEPLOYMENT, "{.status.updatedReplicas}", "1");
    kubectl.run("-n production rollout status deployment/web-app --timeout=3s").refused();
    becomes(&kubectl, DEPLOYMENT, "{.status.readyReplicas}", "3");
    for _ in 0..20 {
        assert!(http::get(address, "/").unwrap().body.starts_with("web v2.1.0"));
    }

    let history = kubectl.run("-n production rollout history deployment/web-app").ok();
    assert!(
        history.contains("REVISION")
            && history.lines().filter(|l| l.starts_with(char::is_numeric)).count() == 3
    );
    kubectl.run("-n production rollout undo deployment/web-app").ok();
    kubectl.run("-n production rollout status deployment/web-app --timeout=60s").ok();
    wait_for(
        "the stalled pod to go",
        LIMIT,
        || pods(&kubectl, "production", "app=web-app"),
        |names| names.len() == 3,
    );
    only_serves(address, "v2.1.0");
    kubectl.run("-n production rollout undo deployment/web-app --to-revision=1").ok();
    kubectl.run("-n production rollout status deployment/web-app --timeout=60s").ok();
    only_serves(address, "v2.0.0");

    // Paused, nothing rolls; resumed, it does; restarted, every pod is new.
    kubectl.run("-n production rollout pause deployment/web-app").ok();
    kubectl.run("-n production set image deployment/web-app web-app=podium.test/web:v2.1.0").ok();
    becomes(
        &kubectl,
        DEPLOYMENT,
        "{.status.conditions[?(@.type=='Progressing')].reason}",
        "DeploymentPaused",
    );
    // The condition tells of the pause; that the new template was seen too comes after.
    becomes(&kubectl, DEPLOYMENT, "{.status.updatedReplicas}", "");
    kubectl.run("-n production rollout resume deployment/web-app").ok();
    kubectl.run("-n production rollout status deployment/web-app --timeout=60s").ok();
    let before = pods(&kubectl, "production", "app=web-app");
    kubectl.run("-n production rollout restart deployment/web-app").ok();
    kubectl.run("-n production rollout status deployment/web-app --timeout=60s").ok();
    wait_for(
        "new pods only",
        LIMIT,
        || pods(&kubectl, "production", "app=web-app"),
        |now| now.len() == 3 && now.iter().all(|name| !before.contains(name)),
    );
}

/// Waits until the Service leads to one version only: a rollout is over a moment before the last proxy has heard of it.
fn only_serves(address: SocketAddr, version: &str) {
    let wanted = format!("web {version} ");
    wait_for(
        &format!("{version} only"),
        LIMIT,
        || {
            (0..10)
                .filter(|_| http::get(address, "/").is_ok_and(|answer| answer.body.starts_with(&wanted)))
                .count()
        },
        |right| *right == 10,
    );
}

/// What one load thread saw.
struct Load {
    sent: usize,
    failures: Vec<String>,
}

fn constant_load(address: SocketAddr, stop: &AtomicBool) -> Load {
    let mut load = Load { sent: 0, failures: Vec::new() };
    while !stop.load(Ordering::SeqCst) {
        load.sent += 1;
        match http::get(address, "/") {
            Ok(answer) if answer.code == 200 => {}
            other => load.failures.push(format!("{other:?}")),
        }
        // Paces the load; nothing waits for this.
        std::thread::park_timeout(Duration::from_millis(5));
    }
    load
}
