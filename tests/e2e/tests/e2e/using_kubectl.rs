//! The commands of every course, against a real cluster.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use podium_testkit::{http, images, wait, wait_for};

use crate::{LIMIT, cluster, deploy_example, listens, pods, tools_pod};

#[test]
fn getting_and_describing() {
    let Some(cluster) = cluster() else { return };
    let kubectl = cluster.kubectl();
    deploy_example(&kubectl);
    let contains = |arguments: &str, words: &[&str]| {
        let text = kubectl.run(arguments).ok();
        for word in words {
            assert!(text.contains(word), "kubectl {arguments}: no {word:?} in\n{text}");
        }
    };
    contains(
        "get nodes -o wide",
        &["STATUS", "INTERNAL-IP", "OS-IMAGE", "KERNEL-VERSION", "CONTAINER-RUNTIME", "v1.36", " Ready "],
    );
    contains("-n production get pods", &["NAME", "READY", "STATUS", "RESTARTS", "AGE", "1/1", "Running"]);
    contains("-n production get pods -o wide", &["IP", "NODE", "NOMINATED NODE", "READINESS GATES", "10."]);
    contains(
        "-n production get all",
        &["pod/web-app-", "service/web-app-service", "deployment.apps/web-app", "replicaset.apps/web-app-"],
    );
    contains("-n production get deployment web-app", &["READY", "UP-TO-DATE", "AVAILABLE", "3/3"]);
    contains("-n production get service", &["CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "80/TCP", "<none>"]);
    contains("-n production get pods -l app=web-app -o name", &["pod/web-app-"]);
    contains("get pods -A", &["NAMESPACE", "production"]);
    contains(
        "-n production get deployment web-app -o yaml",
        &["apiVersion: apps/v1", "maxSurge: 1", "readyReplicas: 3"],
    );
    contains("-n production get deployment web-app -o json", &["\"kind\": \"Deployment\""]);
    contains("-n production get pods -o custom-columns=N:.metadata.name,P:.status.phase", &["Running"]);
    contains(
        "-n production describe deployment web-app",
        &["RollingUpdateStrategy:  0 max unavailable, 1 max surge", "NewReplicaSet:", "ScalingReplicaSet"],
    );
    contains("-n production describe service web-app-service", &["Endpoints:", ":3000", "Session Affinity:"]);
    let pod = &pods(&kubectl, "production", "app=web-app")[0];
    contains(
        &format!("-n production describe pod {pod}"),
        &[
            "Liveness:",
            "http-get http://:3000/health",
            "LOG_LEVEL:",
            "QoS Class:",
            "Burstable",
            "Scheduled",
            "Pulled",
            "Created",
            "Started",
        ],
    );
    let node = kubectl.get("nodes", "{.items[0].metadata.name}");
    contains(
        &format!("describe node {node}"),
        &[
            "Capacity:",
            "Allocatable:",
            "Non-terminated Pods:",
            "KubeletReady",
            "PodCIDR:",
            "Allocated resources:",
        ],
    );
    contains("api-resources", &["deployments", "deploy", "apps/v1", "Deployment"]);
    contains("api-versions", &["apps/v1", "batch/v1", "networking.k8s.io/v1"]);
    contains("explain deployment.spec.strategy", &["rollingUpdate", "DESCRIPTION"]);
    contains("cluster-info", &["control plane", "is running at"]);
    contains("version", &["Server Version: v1.36"]);
    contains("-n production get events --sort-by=.lastTimestamp", &["SuccessfulCreate", "Scheduled"]);
    contains("auth can-i create deployments", &["yes"]);
    assert_eq!(kubectl.run("auth can-i list secrets --as=jane").stdout.trim(), "no");
    let error = kubectl.run("get pods --as=jane").refused();
    assert!(error.contains("pods is forbidden: User \"jane\" cannot list resource \"pods\""), "{error}");
    assert!(
        kubectl
            .run("get pod nobody")
            .refused()
            .contains("Error from server (NotFound): pods \"nobody\" not found")
    );
}

#[test]
fn logs_exec_attach_cp_and_port_forward() {
    let Some(cluster) = cluster() else { return };
    let kubectl = cluster.kubectl();
    tools_pod(&kubectl, "default");
    assert_eq!(kubectl.run("exec tools -- echo hello").ok(), "hello\n");
    assert_eq!(kubectl.args(&["exec", "tools", "--", "sh", "-c", "exit 42"]).code, 42);
    // The daemon does without huge pages; what it starts does not.
    assert_eq!(kubectl.run("exec tools -- grep THP_enabled /proc/self/status").ok(), "THP_enabled:\t1\n");
    assert_eq!(kubectl.input("exec -i tools -- cat", "from outside").ok(), "from outside");
    let terminal = std::process::Command::new("script")
        .args(["-qec"])
        .arg(format!(
            "kubectl --kubeconfig {} exec -it tools -- tty",
            cluster.data_dir().join("kubeconfig").display()
        ))
        .arg("/dev/null")
        .stdin(Stdio::null())
        .output();
    if let Ok(output) = terminal {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("/dev/pts/"), "{text}");
    }

    kubectl.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: talker}}, spec: {{terminationGracePeriodSeconds: 0, containers: \
         [{{name: main, image: {}, command: [sh, -c, 'for i in 1 2 3; do echo line $i; done; exec sleep 3600']}}]}}}}",
        images::BUSYBOX
    ));
    kubectl.run("wait --for=condition=Ready pod/talker --timeout=60s").ok();
    wait_for(
        "its lines",
        LIMIT,
        || kubectl.run("logs talker").stdout,
        |text| text == "line 1\nline 2\nline 3\n",
    );
    assert_eq!(kubectl.run("logs talker --tail=1").ok(), "line 3\n");
    assert!(kubectl.run("logs talker --timestamps --tail=1").ok().contains("T"));
    assert_eq!(kubectl.run("logs talker --since=1h").ok().lines().count(), 3);
    let mut following =
        kubectl.command().args(["logs", "-f", "talker"]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(following.stdout.take().unwrap()).lines();
    assert_eq!(lines.take(3).map(Result::unwrap).last().unwrap(), "line 3");
    following.kill().unwrap();
    following.wait().unwrap();

    let file = cluster.scratch().join("file");
    std::fs::write(&file, "copied").unwrap();
    kubectl.args(&["cp", &file.display().to_string(), "tools:/tmp/file"]).ok();
    assert_eq!(kubectl.run("exec tools -- cat /tmp/file").ok(), "copied");
    let back = cluster.scratch().join("back");
    kubectl.args(&["cp", "tools:/tmp/file", &back.display().to_string()]).ok();
    assert_eq!(std::fs::read_to_string(back).unwrap(), "copied");

    kubectl.run("run web --image=podium.test/web:v2.0.0").ok();
    kubectl.run("wait --for=condition=Ready pod/web --timeout=60s").ok();
    listens(&kubectl, "pod web");
    let mut forward =
        kubectl.command().args(["port-forward", "pod/web", ":3000"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(forward.stdout.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    let port: u16 =
        line.split("127.0.0.1:").nth(1).and_then(|r| r.split(' ').next()).unwrap().parse().unwrap();
    for _ in 0..3 {
        let body = http::get(([127, 0, 0, 1], port).into(), "/").unwrap().body;
        assert_eq!(body, "web v2.0.0 web\n");
    }
    forward.kill().unwrap();
    forward.wait().unwrap();

    let mut attached = kubectl.command().args(["attach", "web"]).stdout(Stdio::piped()).spawn().unwrap();
    let ip = kubectl.get("pod web", "{.status.podIP}");
    let mut output = attached.stdout.take().unwrap();
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        let mut buffer = [0; 256];
        while !text.contains("GET /attached") {
            match output.read(&mut buffer) {
                Ok(size) if size > 0 => text.push_str(&String::from_utf8_lossy(&buffer[..size])),
                _ => break,
            }
        }
        text
    });
    wait_for(
        "the attached output",
        LIMIT,
        || {
            let _ = http::get(format!("{ip}:3000").parse().unwrap(), "/attached");
            reading.is_finished()
        },
        |done| *done,
    );
    assert!(reading.join().unwrap().contains("GET /attached"));
    attached.kill().unwrap();
    attached.wait().unwrap();
}

#[test]
fn creating_changing_and_deleting() {
    let Some(cluster) = cluster() else { return };
    let kubectl = cluster.kubectl();
    let text = kubectl.run("create deployment hello --image=podium.test/web:v2.0.0 --replicas=2").ok();
    assert_eq!(text, "deployment.apps/hello created\n");
    kubectl.run("wait --for=condition=Available deployment/hello --timeout=60s").ok();
    assert_eq!(
        kubectl.run("expose deployment hello --port=80 --target-port=3000").ok(),
        "service/hello exposed\n"
    );
    let address = crate::service_address(&kubectl, "default", "hello");
    wait("the exposed Service", LIMIT, || http::get(address, "/"));
    assert_eq!(kubectl.run("label deployment hello tier=front").ok(), "deployment.apps/hello labeled\n");
    assert_eq!(kubectl.get("deployments -l tier=front", "{.items[*].metadata.name}"), "hello");
    assert_eq!(kubectl.run("annotate deployment hello note=x").ok(), "deployment.apps/hello annotated\n");
    let patched = kubectl.args(&["patch", "deployment", "hello", "-p", r#"{"spec":{"replicas":1}}"#]).ok();
    assert_eq!(patched, "deployment.apps/hello patched\n");
    for (kind, patch) in [
        ("merge", r#"{"metadata":{"labels":{"a":"b"}}}"#),
        ("json", r#"[{"op":"remove","path":"/metadata/labels/a"}]"#),
    ] {
        kubectl.args(&["patch", "deployment", "hello", "--type", kind, "-p", patch]).ok();
    }
    assert_eq!(kubectl.get("deployment hello", "{.metadata.labels.a}"), "");
    let mut edit = kubectl.command();
    edit.args(["edit", "deployment", "hello"]).env("KUBE_EDITOR", "sed -i s/tier:.front/tier:\\ back/");
    assert!(edit.output().unwrap().status.success());
    assert_eq!(kubectl.get("deployment hello", "{.metadata.labels.tier}"), "back");
    let watch = kubectl.command().args(["get", "pods", "-w", "--no-headers"]).stdout(Stdio::piped()).spawn();
    let mut watch = watch.unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("hello-"));
    kubectl.run("run one --image=podium.test/web:v2.0.0").ok();
    assert!(lines.map(Result::unwrap).any(|line| line.starts_with("one ")));
    watch.kill().unwrap();
    watch.wait().unwrap();
    let text = kubectl.run("delete deployment,service hello").ok();
    assert!(text.contains("deployment.apps \"hello\" deleted"), "{text}");
    wait_for("pods to go", LIMIT, || pods(&kubectl, "default", "app=hello"), Vec::is_empty);
    kubectl.run("create namespace gone").ok();
    kubectl.run("-n gone create configmap c --from-literal=a=b").ok();
    kubectl.run("delete namespace gone --timeout=60s").ok();
    assert!(kubectl.run("get namespace gone").refused().contains("NotFound"));
}
