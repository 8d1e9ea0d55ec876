//! The server before a real containerd: its logs, its streams.

use podium_client::SharedInformers;

use super::*;
use crate::testing::{
    api::FakeApi,
    containerd::{Containerd, IMAGE},
    eventually,
};

/// Reads one unmasked message of a WebSocket server.
async fn message(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> (u8, Vec<u8>) {
    let first = limited(stream.read_u8()).await.unwrap();
    let length = match limited(stream.read_u8()).await.unwrap() {
        126 => u64::from(limited(stream.read_u16()).await.unwrap()),
        127 => limited(stream.read_u64()).await.unwrap(),
        short => u64::from(short),
    };
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    limited(stream.read_exact(&mut payload)).await.unwrap();
    (first & 0xf, payload)
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_and_exec_of_a_real_container() {
    let Some(containerd) = Containerd::start().await else { return };
    let (api, shutdown) = (FakeApi::new(), Shutdown::new());
    let informers = SharedInformers::new(api.client(), shutdown.clone());
    let root = containerd.path().join("kubelet");
    let node_ip = "127.0.0.1".parse().unwrap();
    let name = containerd.path().file_name().unwrap().to_string_lossy().into_owned();
    let cgroup = format!("podium-test-{}", name.trim_start_matches('.'));
    let settings = crate::testing::settings(&containerd.endpoint(), &cgroup, &root);
    let config = crate::Config::new("n1", node_ip, root, settings, api.client(), informers);
    let kubelet = tokio::spawn(crate::run(config, shutdown.clone()));
    let script =
        "echo first; trap 'exit 0' TERM; n=0; while true; do n=$((n+1)); echo line $n; sleep 0.05; done";
    api.put(
        "pods",
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n", "generation": 1},
            "spec": {"nodeName": "n1", "hostNetwork": true, "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 2, "serviceAccountName": "default",
                "containers": [{"name": "c", "image": IMAGE, "imagePullPolicy": "IfNotPresent",
                    "command": ["sh", "-c", script], "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "File"}]},
            "status": {"phase": "Pending"}}),
    );
    let pod = eventually("the pod runs", LIMIT, || async {
        let pod = api.get("pods", "n", "p").unwrap_or_default();
        if pod["status"]["phase"] == "Running" { Ok(pod) } else { Err(pod["status"].to_string()) }
    })
    .await;
    let world = World::of(Arc::new(containerd.cri()), pod).await;

    let answer = world.ask("GET /containerLogs/n/p/c?limitBytes=6").await;
    assert!(answer.contains("first\n"), "{answer}");
    let mut follower = world.connect().await;
    let request =
        "GET /containerLogs/n/p/c?follow=true&tailLines=1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    follower.write_all(request.as_bytes()).await.unwrap();
    assert!(head(&mut follower).await.starts_with("HTTP/1.1 200 "));

    // A rotation under the follower loses and repeats nothing; that is looked at below.
    let mut paths = HashMap::new();
    crate::logs::rotate::look(
        &containerd.cri(),
        &mut paths,
        crate::logs::rotate::Limits { bytes: 1, files: 5 },
    )
    .await
    .unwrap();
    let log = paths.values().next().expect("one container").clone();
    let before = crate::logs::rotate::newest_plain(&log).unwrap().expect("the log was rotated");
    eventually("the runtime writes to a new file", LIMIT, || async {
        let size = |path: &Path| std::fs::metadata(path).map(|found| found.len()).unwrap_or_default();
        if size(&log) > 0 { Ok(()) } else { Err(format!("{} bytes in the old one", size(&before))) }
    })
    .await;

    // WebSocket as the runtime speaks it, and as it is translated here.
    for (protocol, output) in [("v4.channel.k8s.io", "hello 4"), ("v5.channel.k8s.io", "hello 5")] {
        let mut stream = world.connect().await;
        let command = format!("command=sh&command=-c&command=echo+{}", output.replace(' ', "+"));
        let request = format!(
            "GET /exec/n/p/c?output=1&error=1&{command} HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: {protocol}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = head(&mut stream).await;
        assert!(
            answer.starts_with("HTTP/1.1 101 ") && answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            "{answer}"
        );
        let (mut said, mut outcome) = (Vec::new(), Vec::new());
        while outcome.is_empty() {
            let (kind, payload) = message(&mut stream).await;
            assert_ne!(kind, 8, "closed before the outcome: {said:?}");
            match payload.first() {
                Some(1) => said.extend_from_slice(&payload[1..]),
                Some(3) => outcome.extend_from_slice(&payload[1..]),
                _ => {}
            }
        }
        assert_eq!(String::from_utf8(said).unwrap(), format!("{output}\n"), "{protocol}");
        assert!(String::from_utf8_lossy(&outcome).contains("\"Success\""), "{protocol}: {outcome:?}");
    }
    let answer = world.ask("POST /run/n/p/c?cmd=echo+done").await;
    assert!(answer.ends_with("done\n"), "{answer}");
    let answer = world.ask("GET /stats/summary").await;
    assert!(answer.contains("\"workingSetBytes\"") && answer.contains("\"podRef\""), "{answer}");
    let answer = world.ask("GET /metrics/resource").await;
    assert!(
        answer.contains("container_cpu_usage_seconds_total{container=\"c\",namespace=\"n\",pod=\"p\"}"),
        "{answer}"
    );

    // The end of the container is the end of its log.
    api.delete("pods", "n", "p", Some(1));
    let mut followed = String::new();
    limited(follower.read_to_string(&mut followed)).await.ok();
    assert!(followed.ends_with("0\r\n\r\n"), "{followed}");
    let lines: Vec<u64> =
        followed.lines().filter_map(|line| line.strip_prefix("line ")?.parse().ok()).collect();
    assert!(lines.len() > 1 && lines.windows(2).all(|pair| pair[1] == pair[0] + 1), "{lines:?}");
    eventually("the pod goes", LIMIT, || async {
        let left = api.list("pods").len();
        if left == 0 { Ok(()) } else { Err(format!("{left} pods")) }
    })
    .await;
    world.stop().await;
    shutdown.cancel();
    limited(kubelet).await.unwrap().unwrap();
}
