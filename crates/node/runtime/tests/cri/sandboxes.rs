//! Pods.

use podium_cri::v1;

use super::{Fixture, Kind};

pub(crate) async fn version_and_status(fixture: &Fixture) {
    let version = fixture.cri.version(Default::default()).await.unwrap();
    assert_eq!(version.runtime_api_version, "v1");
    let expected = if fixture.kind == Kind::Podium { "podium" } else { "containerd" };
    assert_eq!(version.runtime_name, expected);
    let status = fixture.cri.status(v1::StatusRequest { verbose: false }).await.unwrap().status.unwrap();
    for wanted in ["RuntimeReady", "NetworkReady"] {
        let found = status.conditions.iter().find(|one| one.r#type == wanted).unwrap();
        assert!(found.status, "{found:?}");
    }
    if fixture.kind == Kind::Podium {
        let moved = fixture.path("net.d/10-test.conflist");
        std::fs::rename(&moved, fixture.path("aside")).unwrap();
        let status = fixture.cri.status(v1::StatusRequest { verbose: false }).await.unwrap().status.unwrap();
        let network = status.conditions.iter().find(|one| one.r#type == "NetworkReady").unwrap();
        assert!(!network.status);
        assert_eq!(network.reason, "NetworkPluginNotReady");
        std::fs::rename(fixture.path("aside"), moved).unwrap();
    }
}

async fn state(fixture: &Fixture, id: &str) -> v1::PodSandboxStatus {
    let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
    fixture.cri.pod_sandbox_status(request).await.unwrap().status.unwrap()
}

pub(crate) async fn life_of_a_pod(fixture: &Fixture) {
    let pod = fixture.pod("a");
    let id = fixture.run_pod(&pod).await;
    let status = state(fixture, &id).await;
    assert_eq!(status.state(), v1::PodSandboxState::SandboxReady);
    assert_eq!(status.metadata, pod.metadata);
    assert_eq!(status.labels, pod.labels);
    assert_eq!(status.network.unwrap().ip, "10.9.8.7");
    // The same pod again is refused, another attempt is not.
    assert!(fixture.cri.run_pod_sandbox(pod.clone(), "").await.is_err());
    assert!(fixture.cri.run_pod_sandbox(fixture.pod("other"), "no-such-handler").await.is_err());
    let container = fixture.run(&id, fixture.script("c", "sleep 1000"), &pod).await;
    for _ in 0..2 {
        fixture.cri.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await.unwrap();
    }
    assert_eq!(state(fixture, &id).await.state(), v1::PodSandboxState::SandboxNotready);
    assert_eq!(fixture.status(&container).await.state(), v1::ContainerState::ContainerExited);
    assert!(fixture.create(&id, fixture.script("d", "true"), &pod).await.is_err());
    for _ in 0..2 {
        fixture
            .cri
            .remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: id.clone() })
            .await
            .unwrap();
    }
    let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false };
    assert!(fixture.cri.pod_sandbox_status(request).await.unwrap_err().is_not_found());
    let request = v1::ContainerStatusRequest { container_id: container, verbose: false };
    assert!(fixture.cri.container_status(request).await.unwrap_err().is_not_found());
}

pub(crate) async fn lists_are_filtered(fixture: &Fixture) {
    let (one, two) = (fixture.pod("one"), fixture.pod("two"));
    let (first, second) = (fixture.run_pod(&one).await, fixture.run_pod(&two).await);
    let container = fixture.run(&first, fixture.script("c", "sleep 1000"), &one).await;
    fixture.create(&second, fixture.script("d", "true"), &two).await.unwrap();
    let pods = async |filter: v1::PodSandboxFilter| {
        let request = v1::ListPodSandboxRequest { filter: Some(filter) };
        let items = fixture.cri.list_pod_sandbox(request).await.unwrap().items;
        items.into_iter().map(|item| item.id).collect::<std::collections::BTreeSet<_>>()
    };
    let set = |ids: &[&String]| ids.iter().map(|id| (*id).clone()).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(pods(Default::default()).await, set(&[&first, &second]));
    assert_eq!(
        pods(v1::PodSandboxFilter { id: first[..13].to_owned(), ..Default::default() }).await,
        set(&[&first])
    );
    let labels = [("app".to_owned(), "two".to_owned())].into();
    assert_eq!(
        pods(v1::PodSandboxFilter { label_selector: labels, ..Default::default() }).await,
        set(&[&second])
    );
    let not_ready = v1::PodSandboxStateValue { state: v1::PodSandboxState::SandboxNotready.into() };
    assert_eq!(pods(v1::PodSandboxFilter { state: Some(not_ready), ..Default::default() }).await, set(&[]));
    let containers = async |filter: v1::ContainerFilter| {
        let request = v1::ListContainersRequest { filter: Some(filter) };
        fixture.cri.list_containers(request).await.unwrap().containers
    };
    assert_eq!(containers(Default::default()).await.len(), 2);
    let running = v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning.into() };
    let found = containers(v1::ContainerFilter { state: Some(running), ..Default::default() }).await;
    assert_eq!(found.iter().map(|one| &one.id).collect::<Vec<_>>(), [&container]);
    let found = containers(v1::ContainerFilter { pod_sandbox_id: second, ..Default::default() }).await;
    assert_eq!((found.len(), found[0].metadata.as_ref().unwrap().name.as_str()), (1, "d"));
    assert_eq!(found[0].state(), v1::ContainerState::ContainerCreated);
}

pub(crate) async fn namespaces(fixture: &Fixture) {
    let modes =
        |pod: &mut v1::PodSandboxConfig, config: &mut v1::ContainerConfig, options: v1::NamespaceOption| {
            let security = &mut pod.linux.as_mut().unwrap().security_context;
            security.as_mut().unwrap().namespace_options = Some(options.clone());
            let linux = config.linux.as_mut().unwrap();
            linux.security_context.as_mut().unwrap().namespace_options = Some(options);
        };
    let (pod, node): (i32, i32) = (v1::NamespaceMode::Pod.into(), v1::NamespaceMode::Node.into());
    let own = |name: &str| std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display().to_string();
    let script = "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done; echo pid $$; hostname";
    let (_, alone) = fixture.outcome("alone", |_, _| {}, script).await;
    for name in ["net", "ipc", "uts", "pid"] {
        assert!(!alone.contains(&own(name)), "{name}: {alone}");
    }
    assert!(alone.contains("pid 1\n") && alone.ends_with("alone\n"), "{alone}");
    let all = v1::NamespaceOption { network: node, ipc: node, pid: node, ..Default::default() };
    let (_, host) = fixture
        .outcome(
            "host",
            |p, c| {
                p.hostname = String::new();
                modes(p, c, all);
            },
            script,
        )
        .await;
    for name in ["net", "ipc", "pid"] {
        assert!(host.contains(&own(name)), "{name}: {host}");
    }
    // Containers of one pod: shared network and memory, and processes if asked for.
    let mut config = fixture.pod("shared");
    let shared = v1::NamespaceOption { network: pod, ipc: pod, pid: pod, ..Default::default() };
    let mut first = fixture.script("first", "echo here > /dev/shm/note; exec sleep 12345");
    let mut second = fixture.script("second", "sleep 1000");
    modes(&mut config, &mut first, shared.clone());
    modes(&mut config, &mut second, shared);
    let sandbox = fixture.run_pod(&config).await;
    let first = fixture.run(&sandbox, first, &config).await;
    let second = fixture.run(&sandbox, second, &config).await;
    super::fixture::eventually("the other's memory and processes are seen", || async {
        let (_, out, _) = fixture.exec(&second, "cat /dev/shm/note; cat /proc/*/cmdline").await;
        if out.contains("here") && out.contains("12345") { Ok(()) } else { Err(out) }
    })
    .await;
    let (code, _, _) = fixture.exec(&second, "test $$ != 1 && ls /proc/1/ns > /dev/null; kill -0 1").await;
    assert_eq!(code, 0);
    // A third looks into one of them only.
    let mut third = fixture.script("third", "cat /proc/1/cmdline; echo; readlink /proc/self/ns/pid");
    let target = v1::NamespaceOption {
        network: pod,
        ipc: pod,
        pid: v1::NamespaceMode::Target.into(),
        target_id: first.clone(),
        ..Default::default()
    };
    third.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options = Some(target);
    let third = fixture.run(&sandbox, third, &config).await;
    fixture.ended(&third).await;
    let (_, expected, _) = fixture.exec(&first, "readlink /proc/self/ns/pid").await;
    assert!(fixture.log("shared", "third").await.ends_with(&expected));
}

pub(crate) async fn sysctls_and_dns(fixture: &Fixture) {
    let script = "cat /etc/resolv.conf; cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/shm_rmid_forced; cat /etc/hostname";
    let change = |pod: &mut v1::PodSandboxConfig, _: &mut v1::ContainerConfig| {
        pod.dns_config = Some(v1::DnsConfig {
            servers: vec!["10.96.0.10".into()],
            searches: vec!["svc.cluster.local".into()],
            options: vec!["ndots:5".into()],
        });
        pod.linux.as_mut().unwrap().sysctls = [
            ("net.ipv4.ip_local_port_range".to_owned(), "1024 2000".to_owned()),
            ("kernel.shm_rmid_forced".to_owned(), "1".to_owned()),
        ]
        .into();
    };
    let (code, text) = fixture.outcome("settings", change, script).await;
    assert_eq!(code, 0, "{text}");
    assert_eq!(
        text,
        "search svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n1024\t2000\n1\nsettings\n"
    );
    // With the value it has: a runtime that writes it does no harm.
    let core_pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    let core_pattern = core_pattern.trim_end();
    for (name, value) in [
        ("no.such.setting", "1"),
        ("kernel.core_pattern", core_pattern),
        ("kernel/core_pattern", core_pattern),
        ("net/../kernel/core_pattern", core_pattern),
        ("net.//.kernel.core_pattern", core_pattern),
    ] {
        let mut bad = fixture.pod("bad");
        bad.linux.as_mut().unwrap().sysctls = [(name.to_owned(), value.to_owned())].into();
        assert!(fixture.cri.run_pod_sandbox(bad, "").await.is_err(), "{name}");
    }
}
