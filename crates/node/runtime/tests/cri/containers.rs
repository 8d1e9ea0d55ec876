//! Containers.

use std::time::Duration;

use podium_cri::v1;

use super::Fixture;
use super::fixture::{IMAGE, eventually};

pub(crate) async fn life_of_a_container(fixture: &Fixture) {
    let pod = fixture.pod("p");
    let sandbox = fixture.run_pod(&pod).await;
    let id = fixture.create(&sandbox, fixture.script("c", "exec sleep 1000"), &pod).await.unwrap();
    let status = fixture.status(&id).await;
    assert_eq!(status.state(), v1::ContainerState::ContainerCreated);
    assert!(status.created_at > 0 && status.started_at == 0);
    assert_eq!(status.image.unwrap().image, IMAGE);
    // The same name in the same pod is refused.
    assert!(fixture.create(&sandbox, fixture.script("c", "true"), &pod).await.is_err());
    fixture.start_container(&id).await.unwrap();
    let status = fixture.status(&id).await;
    assert_eq!(status.state(), v1::ContainerState::ContainerRunning);
    assert!(status.started_at >= status.created_at);
    assert!(fixture.start_container(&id).await.is_err(), "started twice");
    let stop = || fixture.cri.stop_container(&id, 1);
    stop().await.unwrap();
    stop().await.unwrap();
    let status = fixture.status(&id).await;
    assert_eq!(status.state(), v1::ContainerState::ContainerExited);
    assert!(status.finished_at >= status.started_at && status.started_at > 0);
    // sleep as first process ignores TERM: it was killed.
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
    assert!(fixture.start_container(&id).await.is_err(), "started after its end");
    for _ in 0..2 {
        fixture.cri.remove_container(v1::RemoveContainerRequest { container_id: id.clone() }).await.unwrap();
    }
    // A running one is killed; the name is free again.
    let id = fixture.run(&sandbox, fixture.script("c", "exec sleep 1000"), &pod).await;
    fixture.cri.remove_container(v1::RemoveContainerRequest { container_id: id }).await.unwrap();
    let absent = v1::CreateContainerRequest {
        pod_sandbox_id: sandbox.clone(),
        config: Some(v1::ContainerConfig {
            image: Some(v1::ImageSpec { image: "example.com/absent:v1".into(), ..Default::default() }),
            ..fixture.script("x", "true")
        }),
        sandbox_config: Some(pod.clone()),
    };
    assert!(fixture.cri.create_container(absent).await.is_err());
}

pub(crate) async fn ends_are_told(fixture: &Fixture) {
    let pod = fixture.pod("p");
    let sandbox = fixture.run_pod(&pod).await;
    for (name, script, code, reason) in [
        ("good", "true", 0, "Completed"),
        ("bad", "exit 7", 7, "Error"),
        ("signal", "kill -9 $$; sleep 5 & kill -9 $!; exit 9", 9, "Error"),
    ] {
        let id = fixture.run(&sandbox, fixture.script(name, script), &pod).await;
        let status = fixture.ended(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (code, reason), "{name}");
    }
    // A program that is not there is a start that fails, and says so.
    for (name, program, text) in [
        ("absent", "no-such-program", "executable file not found in $PATH"),
        ("path", "/no/such/program", "no such file or directory"),
        ("forbidden", "/etc/passwd", "permission denied"),
    ] {
        let mut config = fixture.script(name, "");
        config.command = vec![program.to_owned()];
        let id = fixture.create(&sandbox, config, &pod).await.unwrap();
        let error = fixture.start_container(&id).await.unwrap_err().to_string();
        assert!(format!("{error:?}").contains(text), "{error}");
        let status = fixture.status(&id).await;
        assert_eq!(status.state(), v1::ContainerState::ContainerExited, "{name}");
        assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"), "{name}");
        assert!(status.message.contains(text), "{}", status.message);
    }
}

pub(crate) async fn logs(fixture: &Fixture) {
    let pod = fixture.pod("p");
    let sandbox = fixture.run_pod(&pod).await;
    let script = "echo out; echo err >&2; echo -n half; sleep 0.1; echo done; head -c 40000 /dev/zero | tr '\\0' x; echo";
    let script = script.replace("head", "busybox head").replace("tr", "busybox tr");
    let id = fixture.run(&sandbox, fixture.script("c", &script), &pod).await;
    fixture.ended(&id).await;
    let path = fixture.path("logs/p/c/0.log");
    let text = eventually("the log is complete", || async {
        let text = std::fs::read_to_string(&path).unwrap();
        if text.lines().count() >= 6 { Ok(text) } else { Err(text) }
    })
    .await;
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.splitn(4, ' ').collect()).collect();
    let find = |stream: &str, body: &str| lines.iter().any(|line| line[1..] == [stream, "F", body]);
    assert!(find("stdout", "out") && find("stderr", "err") && find("stdout", "halfdone"), "{text}");
    let tags: Vec<(&str, usize)> =
        lines.iter().filter(|line| line[3].starts_with('x')).map(|line| (line[2], line[3].len())).collect();
    assert_eq!(tags, [("P", 16384), ("P", 16384), ("F", 7232)]);
    for line in &lines {
        assert!(
            line[0].len() == 30 && line[0].ends_with('Z') || line[0].contains('+') || line[0].ends_with('Z'),
            "{line:?}"
        );
    }
    // Rotation: what was the log is moved away, and the next lines go to a new file.
    let id =
        fixture.run(&sandbox, fixture.script("r", "while true; do echo line; sleep 0.05; done"), &pod).await;
    let (path, old) = (fixture.path("logs/p/r/0.log"), fixture.path("logs/p/r/0.log.1"));
    std::fs::rename(&path, &old).unwrap();
    fixture
        .cri
        .reopen_container_log(v1::ReopenContainerLogRequest { container_id: id.clone() })
        .await
        .unwrap();
    eventually("the new log has lines", || async {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        if text.contains("line") { Ok(()) } else { Err(text) }
    })
    .await;
    fixture.cri.stop_container(&id, 0).await.unwrap();
    assert!(
        fixture.cri.reopen_container_log(v1::ReopenContainerLogRequest { container_id: id }).await.is_err()
    );
}

pub(crate) async fn commands(fixture: &Fixture) {
    let pod = fixture.pod("p");
    let sandbox = fixture.run_pod(&pod).await;
    let mut config = fixture.script("c", "sleep 1000");
    config.envs = vec![v1::KeyValue { key: "OWN".into(), value: b"value".to_vec() }];
    config.working_dir = "/made/for/it".to_owned();
    let id = fixture.run(&sandbox, config, &pod).await;
    let (code, out, err) =
        fixture.exec(&id, "echo $OWN $FROM_IMAGE $HOSTNAME $HOME; pwd; echo oops >&2; exit 5").await;
    assert_eq!((code, out.as_str(), err.as_str()), (5, "value yes p /root\n/made/for/it\n", "oops\n"));
    // Another process of the same container: its namespaces, its root.
    let (_, out, _) = fixture.exec(&id, "cat /proc/1/cmdline").await;
    assert!(out.contains("sleep"), "{out}");
    let late = fixture.cri.exec_sync(&id, vec!["sleep".into(), "30".into()], Duration::from_secs(1)).await;
    let late = late.unwrap_err().to_string();
    assert!(late.contains("imeout") || late.contains("eadline"), "{late}");
    eventually("the command that took too long is gone", || async {
        let (_, out, _) = fixture.exec(&id, "cat /proc/*/cmdline | grep -c [s]leep.30").await;
        if out.trim() == "0" { Ok(()) } else { Err(out) }
    })
    .await;
    let absent =
        fixture.cri.exec_sync(&id, vec!["no-such".into()], Duration::from_secs(5)).await.unwrap_err();
    assert!(absent.to_string().contains("executable file not found in $PATH"), "{absent}");
    // Much output, and a process that is left behind holding it open.
    let (_, out, _) = fixture.exec(&id, "busybox head -c 3000000 /dev/zero").await;
    assert_eq!(out.len(), 3_000_000);
    fixture.cri.stop_container(&id, 0).await.unwrap();
    assert!(fixture.cri.exec_sync(&id, vec!["true".into()], Duration::from_secs(5)).await.is_err());
}

pub(crate) async fn volumes(fixture: &Fixture) {
    let host = fixture.path("volume");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("file"), "from host").unwrap();
    let mount = |path: &str, source: &str, readonly: bool| v1::Mount {
        container_path: path.to_owned(),
        host_path: fixture.path(source).display().to_string(),
        readonly,
        ..Default::default()
    };
    let change = |_: &mut v1::PodSandboxConfig, config: &mut v1::ContainerConfig| {
        config.mounts = vec![
            mount("/ro", "volume", true),
            mount("/rw", "volume", false),
            mount("/one/file", "volume/file", true),
            mount("/made", "made-by-runtime", false),
        ];
    };
    let script = "cat /ro/file; echo; cat /one/file; echo; echo x > /rw/new && echo written; \
                  (echo x > /ro/no) 2>/dev/null || echo refused; (echo x > /one/file) 2>/dev/null || echo refused; ls -d /made";
    let (code, text) = fixture.outcome("volumes", change, script).await;
    assert_eq!((code, text.as_str()), (0, "from host\nfrom host\nwritten\nrefused\nrefused\n/made\n"));
    assert_eq!(std::fs::read_to_string(host.join("new")).unwrap(), "x\n");
    assert!(fixture.path("made-by-runtime").is_dir());
}

pub(crate) async fn limits(fixture: &Fixture) {
    let pod = fixture.pod("p");
    let sandbox = fixture.run_pod(&pod).await;
    let mut config = fixture.script("eater", "x=a; while true; do x=$x$x; done");
    let resources = v1::LinuxContainerResources {
        memory_limit_in_bytes: 32 << 20,
        cpu_shares: 512,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        oom_score_adj: 500,
        ..Default::default()
    };
    config.linux.as_mut().unwrap().resources = Some(resources.clone());
    let id = fixture.run(&sandbox, config.clone(), &pod).await;
    let status = fixture.ended(&id).await;
    assert_eq!((status.reason.as_str(), status.exit_code), ("OOMKilled", 137));
    config.metadata.as_mut().unwrap().name = "limited".to_owned();
    config.command[2] = "sleep 1000".to_owned();
    let id = fixture.run(&sandbox, config, &pod).await;
    let at = |controller: &str, file: &str| {
        let path = format!("/sys/fs/cgroup/{controller}{}/{id}/{file}", fixture.cgroup());
        std::fs::read_to_string(path).map(|text| text.trim().to_owned())
    };
    if at("memory", "memory.limit_in_bytes").is_ok() {
        assert_eq!(at("memory", "memory.limit_in_bytes").unwrap(), (32u64 << 20).to_string());
        assert_eq!(at("cpu", "cpu.shares").unwrap(), "512");
        assert_eq!(at("cpu", "cpu.cfs_quota_us").unwrap(), "50000");
    }
    let (_, score, _) = fixture.exec(&id, "cat /proc/1/oom_score_adj").await;
    assert_eq!(score.trim(), "500");
    // How many files may be open is the same wherever the daemon was started; containerd passes on what it has itself.
    if fixture.kind == super::Kind::Podium {
        let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
        let least = hard.min(1 << 20);
        for script in ["ulimit -n; ulimit -Hn", "grep 'open files' /proc/1/limits | sed 's/[^0-9]*//'"] {
            let (_, text, error) = fixture.exec(&id, &script.replace("sed", "busybox sed")).await;
            let limits: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            assert!(limits.len() == 2 && limits[0] == limits[1], "{text}{error}");
            assert!((least..=1 << 20).contains(&limits[0]), "{text}");
        }
    }
    let update = v1::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(v1::LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..resources }),
        ..Default::default()
    };
    fixture.cri.update_container_resources(update).await.unwrap();
    if let Ok(limit) = at("memory", "memory.limit_in_bytes") {
        assert_eq!(limit, (64u64 << 20).to_string());
    }
    let stats = fixture
        .cri
        .container_stats(v1::ContainerStatsRequest { container_id: id.clone() })
        .await
        .unwrap()
        .stats
        .unwrap();
    assert_eq!(stats.attributes.unwrap().id, id);
    assert!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0);
    assert!(stats.memory.unwrap().working_set_bytes.unwrap().value > 0);
}

pub(crate) async fn stopping(fixture: &Fixture) {
    let pod = fixture.pod("p");
    let sandbox = fixture.run_pod(&pod).await;
    let polite = fixture.script("polite", "trap 'exit 3' TERM; echo ready; while true; do sleep 0.05; done");
    let id = fixture.run(&sandbox, polite, &pod).await;
    eventually("it listens", || async {
        let log = fixture.log("p", "polite").await;
        if log.contains("ready") { Ok(()) } else { Err(log) }
    })
    .await;
    fixture.cri.stop_container(&id, 20).await.unwrap();
    assert_eq!(fixture.status(&id).await.exit_code, 3);
    let stubborn =
        fixture.script("stubborn", "trap '' TERM INT HUP; echo ready; while true; do sleep 0.05; done");
    let id = fixture.run(&sandbox, stubborn, &pod).await;
    eventually("it listens to nobody", || async {
        let log = fixture.log("p", "stubborn").await;
        if log.contains("ready") { Ok(()) } else { Err(log) }
    })
    .await;
    let begun = std::time::Instant::now();
    fixture.cri.stop_container(&id, 1).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(fixture.status(&id).await.exit_code, 137);
}

pub(crate) async fn devices_and_files(fixture: &Fixture) {
    let script = "for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; done; \
        echo x > /dev/null && busybox head -c 4 /dev/urandom | busybox wc -c; readlink /dev/fd; readlink /dev/stdout; readlink /dev/ptmx; \
        test -d /dev/pts && test -d /dev/shm && test -d /dev/mqueue && echo dirs; \
        (echo x > /sys/x) 2>/dev/null || echo sys; mount | grep -c ' / '; \
        busybox mknod /tmp/sda b 8 0 && cat /tmp/sda 2>/dev/null || echo no disk; \
        cat /proc/self/cgroup > /dev/null; ls /sys/fs/cgroup > /dev/null && echo groups; ls -l /proc/self/fd 2>/dev/null | busybox wc -l";
    let (_, text) = fixture.outcome("files", |_, _| {}, script).await;
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    assert_eq!(
        lines[..9],
        ["4", "/proc/self/fd", "/proc/self/fd/1", "pts/ptmx", "dirs", "sys", "1", "no disk", "groups"],
        "{text}"
    );
    // Streams, the directory that is listed, and the head line: nothing else is open.
    assert!(lines[9].parse::<u32>().is_ok_and(|count| count <= 5), "{text}");
    let change = |_: &mut v1::PodSandboxConfig, config: &mut v1::ContainerConfig| {
        config.linux.as_mut().unwrap().security_context.as_mut().unwrap().readonly_rootfs = true;
    };
    let (_, text) = fixture
        .outcome("readonly", change, "touch /x 2>/dev/null || echo refused; touch /dev/shm/x && echo shm")
        .await;
    assert_eq!(text, "refused\nshm\n");
}
