//! What a pod's spec asks for and only a whole kubelet shows: against a runtime that pretends, as in [`crate::tests_life`].

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use podium_cri::v1;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    testing::eventually,
    tests_life::{LIMIT, World, container, is, with},
};

/// The configurations that containers of a name were made with, in order.
fn configs(world: &World, name: &str) -> Vec<v1::ContainerConfig> {
    let named = |config: &&v1::ContainerConfig| config.metadata.as_ref().is_some_and(|one| one.name == name);
    world.runtime.held.lock().configs.iter().filter(named).cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_readiness_gate_is_somebody_elses_word() {
    let Some(world) = World::start() else { return };
    let gates = json!([{"conditionType": "example.com/up"}]);
    world.pod("web", json!({"readinessGates": gates, "containers": [container("a")]}));
    let mut pod = world.wait("web", "has ready containers", |pod| is(pod, "ContainersReady", "True")).await;
    assert!(is(&pod, "Ready", "False"), "{pod}");
    let conditions = pod["status"]["conditions"].as_array_mut().unwrap();
    let ready = conditions.iter().find(|one| one["type"] == "Ready").unwrap();
    assert_eq!(ready["reason"], "ReadinessGatesNotReady", "{ready}");
    conditions.push(json!({"type": "example.com/up", "status": "True"}));
    world.api.put("pods", pod);
    let pod = world.wait("web", "becomes ready", |pod| is(pod, "Ready", "True")).await;
    assert!(is(&pod, "example.com/up", "True"), "the kubelet leaves it alone: {pod}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_of_every_kind_come_before_the_next_container() {
    let Some(world) = World::start() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let hooked = |name: &str, hook: Value| with(container(name), json!({"lifecycle": {"postStart": hook}}));
    world.pod(
        "web",
        json!({"containers": [
            hooked("a", json!({"exec": {"command": ["hello"]}})),
            hooked("b", json!({"sleep": {"seconds": 1}})),
            hooked("c", json!({"httpGet": {"host": "127.0.0.1", "port": port, "path": "/started"}})),
            container("d"),
        ]}),
    );
    let (mut stream, _) = tokio::time::timeout(LIMIT, listener.accept()).await.expect("in time").unwrap();
    let mut asked = vec![0; 4096];
    let read = stream.read(&mut asked).await.unwrap();
    let asked = String::from_utf8_lossy(&asked[..read]).into_owned();
    assert!(asked.starts_with("GET /started HTTP/1.1\r\n"), "{asked}");
    // Until the hook has been answered, nothing goes on.
    assert_eq!(world.runtime.calls(), ["sandbox", "start a", "exec hello", "start b", "start c"]);
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await.unwrap();
    world.wait("web", "is ready", |pod| is(pod, "Ready", "True")).await;
    let started = |name: &str| {
        let held = world.runtime.held.lock();
        let named =
            |status: &v1::ContainerStatus| status.metadata.as_ref().is_some_and(|one| one.name == name);
        held.containers.iter().find(|(_, status)| named(status)).unwrap().1.started_at
    };
    assert!(started("c") - started("b") >= 1_000_000_000, "the sleep was kept");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_fails_ends_its_container() {
    let Some(world) = World::start() else { return };
    world.runtime.held.lock().exec.insert("bad".into(), 7);
    let hooked = with(container("a"), json!({"lifecycle": {"postStart": {"exec": {"command": ["bad"]}}}}));
    world.pod("web", json!({"containers": [hooked]}));
    world.event("FailedPostStartHook", "PostStartHook failed").await;
    world.called("stop a").await;
    world.runtime.held.lock().exec.clear();
    world.wait("web", "runs in the end", |pod| is(pod, "Ready", "True")).await;
    world.stop().await;
}

/// A server of `grpc.health.v1.Health` whose answer is one flag's.
async fn health(serving: Arc<AtomicBool>) -> (u16, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let serving = serving.clone();
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                let status = if serving.load(Ordering::Acquire) { 1 } else { 2 };
                // One message that is not compressed: two bytes, the first field.
                let body = Full::new(Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status]));
                let answer = http::Response::builder()
                    .header("content-type", "application/grpc")
                    .header("grpc-status", "0")
                    .body(body);
                std::future::ready(answer)
            });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            // The client goes when it has its answer.
            connection.await.ok();
        }
    });
    (port, task)
}

/// A server that speaks TLS with a certificate that nobody vouches for.
async fn tls(good: Arc<AtomicBool>) -> (u16, tokio::task::JoinHandle<()>) {
    use podium_pki::{
        authority::{Authority, LEAF_LIFE, Request, Usage},
        tls::{ServingCertificate, provider},
    };
    let now = jiff::Timestamp::now();
    let request = Request {
        common_name: "anything",
        organization: None,
        names: Default::default(),
        usage: Usage::Server,
        life: LEAF_LIFE,
    };
    let pair = Authority::generate("nobody", now).unwrap().issue(&request, now).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(ServingCertificate::new(&pair).unwrap());
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut asked = vec![0; 4096];
            let Ok(read) = stream.read(&mut asked).await else { continue };
            assert!(asked[..read].starts_with(b"GET /ready HTTP/1.1\r\n"));
            let line = if good.load(Ordering::Acquire) { "200 OK" } else { "503 Service Unavailable" };
            let answer = format!("HTTP/1.1 {line}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.ok();
            stream.shutdown().await.ok();
        }
    });
    (port, task)
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_by_grpc_and_by_https() {
    let Some(world) = World::start() else { return };
    let (serving, good) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
    let ((grpc, health), (https, tls)) = (health(serving.clone()).await, tls(good.clone()).await);
    let probed = |name: &str, probe: Value| {
        let probe = with(probe, json!({"periodSeconds": 1, "failureThreshold": 1}));
        with(container(name), json!({"readinessProbe": probe}))
    };
    let get = json!({"scheme": "HTTPS", "port": https, "path": "/ready"});
    world.pod(
        "web",
        json!({"hostNetwork": true, "containers": [
            probed("a", json!({"grpc": {"port": grpc, "service": "app"}})),
            probed("b", json!({"httpGet": get})),
        ]}),
    );
    world.wait("web", "is ready", |pod| is(pod, "Ready", "True")).await;
    serving.store(false, Ordering::Release);
    good.store(false, Ordering::Release);
    world
        .event("Unhealthy", "Readiness probe failed: service unhealthy (responded with \"NOT_SERVING\")")
        .await;
    world.event("Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 503").await;
    world
        .wait("web", "is taken out", |pod| {
            let statuses = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
            is(pod, "Ready", "False")
                && statuses.len() == 2
                && statuses.iter().all(|one| one["ready"] == false)
        })
        .await;
    world.stop().await;
    health.abort();
    tls.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_what_a_container_may_do() {
    let Some(world) = World::start() else { return };
    let context = json!({"runAsUser": 1234, "runAsGroup": 77, "procMount": "Unmasked", "readOnlyRootFilesystem": true,
        "allowPrivilegeEscalation": false, "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}});
    let bound = with(container("a"), json!({"securityContext": context}));
    world.pod("web", json!({"containers": [bound, container("b")]}));
    world.wait("web", "is ready", |pod| is(pod, "Ready", "True")).await;
    // By a kubelet that did not make it, too: CVE-2019-11245.
    let world = world.restart().await;
    world.runtime.end("a", 1);
    world
        .wait("web", "is restarted", |pod| {
            pod["status"]["containerStatuses"][0]["restartCount"] == 1 && is(pod, "Ready", "True")
        })
        .await;
    let made: Vec<v1::LinuxContainerSecurityContext> = configs(&world, "a")
        .into_iter()
        .map(|config| config.linux.unwrap().security_context.unwrap())
        .collect();
    let [first, second] = &made[..] else { panic!("{} containers were made", made.len()) };
    assert_eq!(first, second);
    let id = |value: Option<v1::Int64Value>| value.map(|value| value.value);
    assert_eq!((id(first.run_as_user), id(first.run_as_group)), (Some(1234), Some(77)));
    let capabilities = first.capabilities.clone().unwrap();
    assert_eq!(capabilities.add_capabilities, ["NET_ADMIN"]);
    assert_eq!(capabilities.drop_capabilities, ["ALL"]);
    assert!(first.no_new_privs && first.readonly_rootfs);
    // `procMount`: the whole of `/proc`, which its neighbour does not see.
    assert!(first.masked_paths.is_empty() && first.readonly_paths.is_empty());
    let beside = configs(&world, "b")[0].linux.clone().unwrap().security_context.unwrap();
    assert!(beside.masked_paths.contains(&"/proc/kcore".to_owned()) && !beside.readonly_paths.is_empty());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_class_is_waited_for_and_handed_on() {
    let Some(world) = World::start() else { return };
    world.pod("web", json!({"runtimeClassName": "fast", "containers": [container("a")]}));
    world.event("FailedCreatePodSandBox", "RuntimeClass.node.k8s.io \"fast\" not found").await;
    assert!(world.runtime.calls().is_empty(), "not with another handler: {:?}", world.runtime.calls());
    world.api.put("runtimeclasses", json!({"metadata": {"name": "fast"}, "handler": "crun"}));
    world.wait("web", "is ready", |pod| is(pod, "Ready", "True")).await;
    assert_eq!(world.runtime.held.lock().handlers, ["crun"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_log_is_the_last_word_of_a_failure_alone() {
    let Some(world) = World::start() else { return };
    let tells = |name: &str, policy: &str| with(container(name), json!({"terminationMessagePolicy": policy}));
    let all = [
        ("failed", "FallbackToLogsOnError", 3, "what went wrong"),
        ("ended", "FallbackToLogsOnError", 0, ""),
        ("silent", "File", 3, ""),
    ];
    let containers: Vec<Value> = all.iter().map(|(name, policy, ..)| tells(name, policy)).collect();
    world.pod("web", json!({"restartPolicy": "Never", "containers": containers}));
    world.wait("web", "is ready", |pod| is(pod, "Ready", "True")).await;
    let log = world.runtime.path().join("log");
    std::fs::write(&log, "2026-01-01T00:00:00.000000000Z stderr F what went wrong\n").unwrap();
    for (_, status) in &mut world.runtime.held.lock().containers {
        status.log_path = log.to_string_lossy().into_owned();
    }
    for (name, _, code, _) in all {
        world.runtime.end(name, code);
    }
    let pod = world.wait("web", "has failed", |pod| pod["status"]["phase"] == "Failed").await;
    let statuses = pod["status"]["containerStatuses"].as_array().unwrap();
    for (name, _, _, said) in all {
        let status = statuses.iter().find(|one| one["name"] == name).unwrap();
        let message = status["state"]["terminated"]["message"].as_str().unwrap_or_default();
        assert_eq!(message.trim_end(), said, "{name}: {status}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sub_path_is_made_from_variables() {
    let Some(world) = World::start() else { return };
    let mounted = with(
        container("a"),
        json!({"env": [{"name": "WHO", "value": "me"}],
            "volumeMounts": [{"name": "v", "mountPath": "/v", "subPathExpr": "$(WHO)/files"}]}),
    );
    world.pod("web", json!({"containers": [mounted], "volumes": [{"name": "v", "emptyDir": {}}]}));
    let pod = world.wait("web", "is ready", |pod| is(pod, "Ready", "True")).await;
    let mounts = configs(&world, "a")[0].mounts.clone();
    let mount = mounts.iter().find(|mount| mount.container_path == "/v").unwrap();
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let volume =
        world.runtime.path().join("kubelet/pods").join(uid).join("volumes/kubernetes.io~empty-dir/v");
    std::fs::write(volume.join("me/files/one"), "x").unwrap();
    let seen = std::path::Path::new(&mount.host_path).join("one");
    assert_eq!(std::fs::read_to_string(seen).unwrap(), "x");
    // A variable that is not there is nobody's name for a directory.
    let mut wrong = with(
        container("a"),
        json!({"volumeMounts": [{"name": "v", "mountPath": "/v", "subPathExpr": "$(NO)"}]}),
    );
    wrong["name"] = json!("b");
    world.pod("other", json!({"containers": [wrong], "volumes": [{"name": "v", "emptyDir": {}}]}));
    world
        .wait("other", "is refused", |pod| {
            let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
            waiting["reason"] == "CreateContainerConfigError" && waiting["message"] == "missing value for NO"
        })
        .await;
    assert!(configs(&world, "b").is_empty());
    world.api.delete("pods", "default", "web", Some(1));
    world.gone("web").await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_of_a_device_is_a_device() {
    use std::os::unix::fs::FileTypeExt;
    let device = std::fs::read_dir("/dev").unwrap().flatten().find(|entry| {
        entry.file_type().is_ok_and(|kind| kind.is_block_device()) && entry.file_name().to_str().is_some()
    });
    let Some(device) = device.map(|entry| entry.path()) else {
        println!("skipped: this machine shows no block device");
        return;
    };
    let Some(world) = World::start() else { return };
    world.api.put(
        "persistentvolumes",
        json!({"metadata": {"name": "pv"}, "spec": {"local": {"path": device}, "volumeMode": "Block",
            "claimRef": {"uid": "cu"}}}),
    );
    world.api.put(
        "persistentvolumeclaims",
        json!({"metadata": {"name": "c", "namespace": "default", "uid": "cu"},
            "spec": {"volumeName": "pv", "volumeMode": "Block"}, "status": {"phase": "Bound"}}),
    );
    let opened = with(container("a"), json!({"volumeDevices": [{"name": "v", "devicePath": "/dev/data"}]}));
    let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c", "readOnly": true}}]);
    world.pod("web", json!({"containers": [opened], "volumes": volumes}));
    world.wait("web", "is ready", |pod| is(pod, "Ready", "True")).await;
    let config = configs(&world, "a")[0].clone();
    let [given] = &config.devices[..] else { panic!("{:?}", config.devices) };
    assert_eq!(given.container_path, "/dev/data");
    assert_eq!(std::fs::canonicalize(&given.host_path).unwrap(), std::fs::canonicalize(&device).unwrap());
    assert!(!given.permissions.contains('w'), "read-only: {given:?}");
    assert!(config.mounts.iter().all(|mount| mount.container_path != "/dev/data"), "no file system");
    // Nothing of it is left with the node.
    world.api.delete("pods", "default", "web", Some(1));
    world.gone("web").await;
    eventually("the link goes", LIMIT, || async {
        let left = world.runtime.path().join("kubelet/pods").read_dir().map_or(0, Iterator::count);
        if left == 0 { Ok(()) } else { Err(format!("{left} directories")) }
    })
    .await;
    assert!(device.exists());
    world.stop().await;
}
