//! A daemon that ends and starts again, at bad moments: nothing lost, nothing left.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use podium_cri::{Cri, v1};

use super::fixture::{Fixture, IMAGE, Kind, eventually, image_of_files};
use super::images::volume;

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_daemon_finds_everything_again() {
    let Some(mut fixture) = Fixture::start(Kind::Podium).await else { return };
    let pod = fixture.pod("p");
    let sandbox = fixture.run_pod(&pod).await;
    let running = fixture
        .run(
            &sandbox,
            fixture.script("running", "i=0; while true; do echo $i; i=$((i+1)); sleep 0.02; done"),
            &pod,
        )
        .await;
    let ending = fixture.run(&sandbox, fixture.script("ending", "sleep 0.3; exit 4"), &pod).await;
    let done = fixture.run(&sandbox, fixture.script("done", "exit 5"), &pod).await;
    let created = fixture.create(&sandbox, fixture.script("created", "echo late"), &pod).await.unwrap();
    fixture.ended(&done).await;
    let before = fixture.status(&running).await;
    fixture.down().await;
    // Ends while nobody looks.
    let record = fixture.path("root/containers").join(&ending).join("exit.json");
    eventually("the shim records the end", || async {
        if record.exists() { Ok(()) } else { Err(format!("no {}", record.display())) }
    })
    .await;
    fixture.up().await;
    let after = fixture.status(&running).await;
    assert_eq!((after.state(), after.started_at), (before.state(), before.started_at));
    assert_eq!(fixture.ended(&ending).await.exit_code, 4);
    assert_eq!(fixture.ended(&done).await.exit_code, 5);
    assert_eq!(fixture.status(&created).await.state(), v1::ContainerState::ContainerCreated);
    fixture.start_container(&created).await.unwrap();
    fixture.ended(&created).await;
    assert_eq!(fixture.log("p", "created").await, "late\n");
    assert_eq!(fixture.exec(&running, "echo still").await.1, "still\n");
    // No line of the log is missing.
    fixture.cri.stop_container(&running, 0).await.unwrap();
    let numbers: Vec<u64> =
        fixture.log("p", "running").await.lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.iter().enumerate().all(|(at, number)| *number == at as u64), "{numbers:?}");
    fixture.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_volume_outlives_its_name_and_the_daemon() {
    const VOLUME: &str = "example.com/podium/volume:v1";
    let Some(mut fixture) = Fixture::start(Kind::Podium).await else { return };
    let archive = fixture.path("volume.tar");
    image_of_files(VOLUME, "first", &archive);
    podium_cri::import_image(&fixture.endpoint(), &archive).await.unwrap();
    let cri = fixture.cri.clone();
    let id_of = || async {
        let image = v1::ImageSpec { image: VOLUME.to_owned(), ..Default::default() };
        cri.image_status(image).await.unwrap().unwrap().id
    };
    let first = id_of().await;
    let pod = fixture.pod("p");
    let sandbox = fixture.run_pod(&pod).await;
    let config = |name: &str| v1::ContainerConfig {
        mounts: vec![volume("/v", VOLUME, "etc")],
        ..fixture.script(name, "cat /v/volume; echo; exec sleep 1000")
    };
    let running = fixture.run(&sandbox, config("running"), &pod).await;
    let created = fixture.create(&sandbox, config("created"), &pod).await.unwrap();
    let in_use = podium_cri::prune(&fixture.endpoint()).await.unwrap().0;
    assert_eq!(in_use, Vec::<String>::new(), "an image that is a volume is in use");
    // The name means something else from now on.
    image_of_files(VOLUME, "second", &archive);
    podium_cri::import_image(&fixture.endpoint(), &archive).await.unwrap();
    let second = id_of().await;
    assert_ne!(first, second);
    for id in [&first, &second] {
        fixture.cri.remove_image(id).await.unwrap();
    }
    fixture.down().await;
    fixture.up().await;
    podium_cri::prune(&fixture.endpoint()).await.unwrap();
    assert_eq!(fixture.exec(&running, "cat /v/volume").await.1, "first");
    fixture.start_container(&created).await.unwrap();
    eventually("the other one says the same", || async {
        let log = fixture.log("p", "created").await;
        if log == "first\n" { Ok(()) } else { Err(log) }
    })
    .await;
    fixture.remove(&sandbox).await;
    // Nobody needs the first any more: it is taken, and its layers with it.
    podium_cri::prune(&fixture.endpoint()).await.unwrap();
    assert_eq!(fixture.cri.list_images().await.unwrap().len(), 0);
    let layers: Vec<String> = std::fs::read_dir(fixture.path("root/layers"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(layers, ["empty"]);
    fixture.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_is_a_pod_that_is_over() {
    let Some(fixture) = Fixture::start(Kind::Podium).await else { return };
    let pod = fixture.pod("p");
    let sandbox = fixture.run_pod(&pod).await;
    let id = fixture.run(&sandbox, fixture.script("c", "sleep 1000 & sleep 1000"), &pod).await;
    let request = v1::PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: true };
    let info = fixture.cri.pod_sandbox_status(request).await.unwrap().info["info"].clone();
    let pid = serde_json::from_str::<serde_json::Value>(&info).unwrap()["pid"].as_i64().unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap()),
        nix::sys::signal::SIGKILL,
    )
    .unwrap();
    let status = fixture.ended(&id).await;
    assert_ne!(status.exit_code, 0);
    let state = fixture.cri.list_pod_sandbox(Default::default()).await.unwrap().items[0].state();
    assert_eq!(state, v1::PodSandboxState::SandboxNotready);
    fixture.finish().await;
}

/// The daemon as a process of its own, to be killed.
struct Daemon(Child);

impl Daemon {
    async fn start(fixture: &Fixture, cri: &Cri) -> Self {
        let program = std::env::current_exe().unwrap();
        let child = Command::new(program)
            .args(["--exact", "restart::daemon_for_the_killing", "--nocapture"])
            .env("PODIUM_RUNTIME_TEST", fixture.path(""))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the daemon answers", || async {
            cri.version(Default::default()).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
        Self(child)
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Not a test by itself: the process that the next test kills.
#[tokio::test(flavor = "multi_thread")]
async fn daemon_for_the_killing() {
    let Some(directory) = std::env::var_os("PODIUM_RUNTIME_TEST").map(std::path::PathBuf::from) else {
        return;
    };
    let config = podium_runtime::Config {
        root: directory.join("root"),
        run: directory.join("run"),
        socket: directory.join("c.sock"),
        cni_configuration: directory.join("net.d"),
        cni_plugins: directory.join("bin"),
        registries: directory.join("registries"),
        handlers: directory.join("runtime.toml"),
        systemd: None,
        gives_networks_up: false,
        cdi: vec![directory.join("cdi")],
        version: "test".to_owned(),
    };
    podium_runtime::run(config, || {}, Default::default()).await.unwrap();
}

/// How often the daemon is killed.
const KILLS: usize = 30;

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_killed_during_churn_loses_and_leaves_nothing() {
    let Some(mut fixture) = Fixture::start(Kind::Podium).await else { return };
    let pod = fixture.pod("steady");
    let steady = fixture.run_pod(&pod).await;
    let runner = fixture.run(&steady, fixture.script("c", "exec sleep 100000"), &pod).await;
    let begun = fixture.status(&runner).await.started_at;
    fixture.down().await;
    let cri = Cri::connect(&fixture.endpoint()).unwrap();
    for round in 0..KILLS {
        let daemon = Daemon::start(&fixture, &cri).await;
        let churn = churn(&fixture, &cri, round);
        // At another moment of the work each time.
        let moment = Duration::from_millis(7 * (round as u64 % 20));
        tokio::select! {
            () = churn => {}
            () = tokio::time::sleep(moment) => {}
        }
        daemon.kill();
    }
    fixture.up().await;
    let status = fixture.status(&runner).await;
    assert_eq!((status.state(), status.started_at), (v1::ContainerState::ContainerRunning, begun));
    assert_eq!(fixture.exec(&runner, "echo alive").await.1, "alive\n");
    // Everything whole can be used, and all of it removed.
    for sandbox in fixture.cri.list_pod_sandbox(Default::default()).await.unwrap().items {
        fixture.remove(&sandbox.id).await;
    }
    assert_eq!(fixture.cri.list_containers(Default::default()).await.unwrap().containers.len(), 0);
    fixture.finish().await;
}

async fn churn(fixture: &Fixture, cri: &Cri, round: usize) {
    for number in 0.. {
        let pod = fixture.pod(&format!("p{round}-{number}"));
        let Ok(sandbox) = cri.run_pod_sandbox(pod.clone(), "").await else { return };
        let config = fixture.script("c", "exec sleep 1000");
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.clone(),
            config: Some(v1::ContainerConfig {
                image: Some(v1::ImageSpec { image: IMAGE.to_owned(), ..Default::default() }),
                ..config
            }),
            sandbox_config: Some(pod),
        };
        let Ok(container) = cri.create_container(request).await else { return };
        let container_id = container.container_id;
        if cri.start_container(v1::StartContainerRequest { container_id }).await.is_err() {
            return;
        }
        if number % 2 == 0 {
            let pod_sandbox_id = sandbox.clone();
            if cri.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id }).await.is_err() {
                return;
            }
            let pod_sandbox_id = sandbox.clone();
            if cri.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id }).await.is_err() {
                return;
            }
        }
    }
}

/// The shims of a test, with their arguments.
fn shims(fixture: &Fixture) -> Vec<(nix::unistd::Pid, String)> {
    let own = fixture.path("").display().to_string();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).into_owned();
        let shim = command.starts_with("podium-shim\0") && command.contains(&own);
        shim.then_some((nix::unistd::Pid::from_raw(pid), command))
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn hung_shims_hold_up_a_start_together_and_not_one_after_another() {
    let Some(mut fixture) = Fixture::start(Kind::Podium).await else { return };
    let mut pods = Vec::new();
    for name in ["hung", "also", "well"] {
        let pod = fixture.pod(name);
        let sandbox = fixture.run_pod(&pod).await;
        let id = fixture.run(&sandbox, fixture.script("c", "exec sleep 100000"), &pod).await;
        pods.push((sandbox, id));
    }
    fixture.down().await;
    let well = pods[2].0.clone();
    for (pid, _) in shims(&fixture).iter().filter(|(_, command)| !command.contains(&well)) {
        nix::sys::signal::kill(*pid, nix::sys::signal::SIGSTOP).unwrap();
    }
    let begun = std::time::Instant::now();
    fixture.up().await;
    // Each is given half a minute.
    assert!(begun.elapsed() < Duration::from_secs(55), "{:?}", begun.elapsed());
    for (number, (_, id)) in pods.iter().enumerate() {
        let status = fixture.status(id).await;
        let expected = if number == 2 {
            (v1::ContainerState::ContainerRunning, 0)
        } else {
            (v1::ContainerState::ContainerExited, 255)
        };
        assert_eq!((status.state(), status.exit_code), expected, "{id}");
    }
    assert_eq!(fixture.exec(&pods[2].1, "echo well").await.1, "well\n");
    fixture.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_shim_hangs_is_ended_all_the_same() {
    let Some(fixture) = Fixture::start(Kind::Podium).await else { return };
    let pod = fixture.pod("p");
    let sandbox = fixture.run_pod(&pod).await;
    let id = fixture.run(&sandbox, fixture.script("c", "sleep 1000"), &pod).await;
    let shims = shims(&fixture);
    assert_eq!(shims.len(), 1);
    nix::sys::signal::kill(shims[0].0, nix::sys::signal::SIGSTOP).unwrap();
    // Nobody could tell how it ended.
    fixture.cri.stop_container(&id, 1).await.unwrap();
    let status = fixture.status(&id).await;
    assert_eq!((status.state(), status.exit_code), (v1::ContainerState::ContainerExited, 255));
    // With the pod its shim goes too: nothing is left.
    fixture.remove(&sandbox).await;
    fixture.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_records_are_taken_away() {
    let Some(mut fixture) = Fixture::start(Kind::Podium).await else { return };
    let pod = fixture.pod("p");
    let sandbox = fixture.run_pod(&pod).await;
    let created = fixture.create(&sandbox, fixture.script("created", "true"), &pod).await.unwrap();
    fixture.down().await;
    // As a power cut leaves them: named, and empty.
    let stray = fixture.path("root/sandboxes").join("0".repeat(64));
    let container = fixture.path("root/containers").join(&created);
    std::fs::create_dir(&stray).unwrap();
    for directory in [&stray, &container] {
        std::fs::write(directory.join("record.json"), "").unwrap();
    }
    fixture.up().await;
    eventually("broken records are taken away", || async {
        if stray.exists() || container.exists() { Err("still there".to_owned()) } else { Ok(()) }
    })
    .await;
    let left = fixture.cri.list_pod_sandbox(Default::default()).await.unwrap().items;
    assert_eq!(left.into_iter().map(|one| one.id).collect::<Vec<_>>(), [sandbox]);
    fixture.finish().await;
}
