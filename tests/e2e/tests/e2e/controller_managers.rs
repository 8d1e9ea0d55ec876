//! `podium controller-manager` alone beside `podium server`: who acts of two, what it tells and to whom, and which controllers run.
//!
//! No node, so no pod ever runs.

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use nix::sys::signal::Signal;
use podium_client::kube::{Api, Client};
use podium_testkit::{Cluster, Kubectl, wait_for};

use crate::LIMIT;
use crate::process::Process;
use crate::two_servers::Server;

/// How long a leader may be silent here. Everything else follows from it.
const LEASE: Duration = Duration::from_secs(4);
/// The longest time between two looks at the Lease: a second, and as much again and a fifth by chance.
const LOOKS: Duration = Duration::from_millis(2200);

/// A controller manager.
struct Manager {
    process: Process,
    port: u16,
}

impl Manager {
    /// Starts one with a port of its own.
    fn start(server: &Server, directory: PathBuf, flags: &[&str]) -> Manager {
        let port = podium_testkit::free_port().expect("a free port");
        let process = Process::start(directory, |command| {
            command
                .args(["controller-manager", "--bind-address=127.0.0.1", "--leader-elect-renew-deadline=3s"])
                .args(["--leader-elect-retry-period=1s", "--use-service-account-credentials"])
                .arg(format!("--leader-elect-lease-duration={}s", LEASE.as_secs()))
                .arg(format!("--secure-port={port}"))
                .arg("--kubeconfig")
                .arg(server.kubeconfig())
                .args(flags);
        });
        Manager { process, port }
    }

    /// Its metrics, to an administrator, or why there are none yet.
    fn metrics(&self, kubectl: &Kubectl) -> String {
        let url = format!("https://127.0.0.1:{}", self.port);
        let arguments = ["--server", &url, "--insecure-skip-tls-verify=true", "get", "--raw", "/metrics"];
        let answer = kubectl.args(&arguments);
        if answer.code == 0 { answer.stdout } else { answer.stderr }
    }

    /// What it answers to somebody who has no more than that token, or nothing at all; else why not.
    async fn tells(&self, token: Option<&str>, path: &str) -> Result<String, String> {
        let user = token.map(|token| format!("token: {token}")).unwrap_or_default();
        let kubeconfig = self.process.directory.join("stranger");
        let text = format!(
            "{{apiVersion: v1, kind: Config, current-context: it, contexts: [{{name: it, context: {{cluster: it, user: it}}}}], \
             users: [{{name: it, user: {{{user}}}}}], clusters: [{{name: it, cluster: {{\
             server: 'https://127.0.0.1:{}', insecure-skip-tls-verify: true}}}}]}}",
            self.port
        );
        std::fs::write(&kubeconfig, text).expect("a file");
        let client = podium_client::from_kubeconfig(&kubeconfig).await.expect("a client");
        let request = http::Request::get(path).body(Vec::new()).expect("a request");
        client.request_text(request).await.map_err(|error| format!("{error:?}"))
    }

    /// Waits until it says that it leads, or that another does.
    fn until_it_leads(&self, kubectl: &Kubectl, leads: bool) {
        let row = format!(
            "\nleader_election_master_status{{name=\"kube-controller-manager\"}} {}\n",
            u8::from(leads)
        );
        wait_for(&row, LIMIT, || self.metrics(kubectl), |text| text.contains(&row));
    }
}

fn available() -> bool {
    Cluster::available() && Kubectl::available()
}

async fn lease(client: &Client) -> LeaseSpec {
    let api = Api::<Lease>::namespaced(client.clone(), "kube-system");
    api.get("kube-controller-manager").await.expect("there is a lease").spec.expect("a spec")
}

fn workload(kind: &str, name: &str, replicas: u32) -> String {
    format!(
        "{{apiVersion: apps/v1, kind: {kind}, metadata: {{name: {name}}}, spec: {{replicas: {replicas}, \
         selector: {{matchLabels: {{app: {name}}}}}, template: {{metadata: {{labels: {{app: {name}}}}}, \
         spec: {{containers: [{{name: main, image: none}}]}}}}}}}}"
    )
}

/// Waits for as many pods of a workload.
fn until_pods(kubectl: &Kubectl, name: &str, count: usize) {
    let pods = || kubectl.get(&format!("pods -l app={name}"), "{.items[*].metadata.name}");
    wait_for(&format!("{count} pods of {name}"), LIMIT, pods, |names| {
        names.split_whitespace().count() == count
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn another_takes_over_when_the_leader_is_killed() {
    if !available() {
        return;
    }
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(None, scratch.path().join("server")).await;
    let kubectl = server.kubectl();
    let mut first = Manager::start(&server, scratch.path().join("first"), &[]);
    first.until_it_leads(&kubectl, true);
    let mut second = Manager::start(&server, scratch.path().join("second"), &[]);
    second.until_it_leads(&kubectl, false);
    assert!(!second.metrics(&kubectl).contains("running_managed_controllers"), "it only waits");
    kubectl.apply(&workload("Deployment", "web", 2));
    until_pods(&kubectl, "web", 2);

    first.process.kill();
    let left = lease(&server.client).await;
    second.until_it_leads(&kubectl, true);
    let taken = lease(&server.client).await;
    assert_ne!(left.holder_identity, taken.holder_identity);
    assert_eq!(taken.lease_transitions, left.lease_transitions.map(|count| count + 1));
    let since =
        |time: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime>| time.expect("a time").0;
    let silence = since(taken.acquire_time).duration_since(since(left.renew_time));
    let silence = Duration::try_from(silence).expect("one after the other");
    // Not while the other may still act, and then as soon as it is looked for: a busy machine is late by seconds.
    let latest = LEASE + LOOKS + Duration::from_secs(10);
    assert!(silence >= LEASE && silence <= latest, "{silence:?}");
    kubectl.run("scale deployment web --replicas=3").ok();
    until_pods(&kubectl, "web", 3);

    // One that ends in peace leaves the Lease to whoever comes next.
    second.process.signal(Signal::SIGTERM);
    let ended = second.process.child.wait().expect("ended");
    assert!(ended.success(), "{ended}");
    let released = lease(&server.client).await;
    assert_eq!(released.holder_identity.as_deref().unwrap_or_default(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_tells_only_those_who_may_know_and_runs_what_it_is_told_to() {
    if !available() {
        return;
    }
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(None, scratch.path().join("server")).await;
    let kubectl = server.kubectl();
    let flags = ["--controllers=-deployment,*"];
    let manager = Manager::start(&server, scratch.path().join("manager"), &flags);
    manager.until_it_leads(&kubectl, true);

    assert_eq!(manager.tells(None, "/healthz").await.as_deref().map(str::trim_end), Ok("ok"));
    let refused = manager.tells(None, "/metrics").await.unwrap_err();
    assert!(refused.contains("403") && refused.contains("system:anonymous"), "{refused}");
    let refused = manager.tells(Some("nonsense"), "/metrics").await.unwrap_err();
    assert!(refused.contains("401"), "{refused}");
    kubectl.run("create serviceaccount scraper").ok();
    let token = kubectl.run("create token scraper").ok();
    let token = Some(token.trim());
    let refused = manager.tells(token, "/metrics").await.unwrap_err();
    assert!(
        refused.contains("403") && refused.contains("system:serviceaccount:default:scraper"),
        "{refused}"
    );
    kubectl.run("create clusterrole scraper --verb=get --non-resource-url=/metrics").ok();
    kubectl
        .run("create clusterrolebinding scraper --clusterrole=scraper --serviceaccount=default:scraper")
        .ok();
    let started = std::time::Instant::now();
    let metrics = loop {
        match manager.tells(token, "/metrics").await {
            Ok(metrics) => break metrics,
            Err(last) => assert!(started.elapsed() < LIMIT, "{last}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };

    for row in [
        "\nkubernetes_build_info{",
        "\nkubernetes_feature_enabled{name=\"ContextualLogging\",stage=\"BETA\"} 1\n",
        "\nprocess_start_time_seconds ",
        "\nworkqueue_adds_total{name=\"replicaset\"}",
        "\nrest_client_requests_total{",
        "running_managed_controllers{manager=\"kube-controller-manager\",name=\"replicaset-controller\"} 1\n",
    ] {
        assert!(metrics.contains(row), "{row}\n{}", metrics);
    }
    assert!(!metrics.contains("\"deployment-controller\""), "{}", metrics);
    kubectl.apply(&workload("Deployment", "idle", 1));
    kubectl.apply(&workload("ReplicaSet", "busy", 2));
    until_pods(&kubectl, "busy", 2);
    assert_eq!(kubectl.get("deployment idle", "{.status.observedGeneration}"), "", "nobody looked at it");
    assert_eq!(kubectl.get("replicasets -l app=idle", "{.items[*].metadata.name}"), "");
}
