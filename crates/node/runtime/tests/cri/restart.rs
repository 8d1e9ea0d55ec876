//! A daemon that ends and starts again, at bad moments: nothing lost, nothing left.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use podium_cri::{Cri, v1};

use super::fixture::{Fixture, IMAGE, Kind, eventually};

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
