//! A containerd of our own: its configuration, its start, its supervision.
//!
//! It runs in its own session and outlives us: a daemon that starts again finds it and its containers as they were.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podium_cri::Cri;
use tokio_util::sync::CancellationToken;

use crate::layout::Layout;
use crate::memory::huge_pages;
use crate::pause;

/// How long containerd may take to answer; it takes 0.2 s on an idle machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a socket that is not there yet is tried: connecting is all there is to wait by.
const PROBE: Duration = Duration::from_millis(10);
/// How often the process is looked after once it runs, and how long a restart waits.
const WATCH: Duration = Duration::from_secs(2);

/// A containerd that belongs to one cluster.
#[derive(Clone, Debug)]
pub(crate) struct Containerd {
    layout: Layout,
}

impl Containerd {
    pub(crate) fn new(layout: &Layout) -> Self {
        Containerd { layout: layout.clone() }
    }

    /// Its CRI endpoint.
    pub(crate) fn endpoint(&self) -> String {
        format!("unix://{}", self.layout.containerd_socket().display())
    }

    fn pid_file(&self) -> PathBuf {
        self.layout.run().join("containerd.pid")
    }

    /// The process, if it runs: the recorded number must still be a containerd with our configuration.
    pub(crate) fn running(&self) -> Option<Pid> {
        let number: i32 = std::fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()?;
        let command = std::fs::read(format!("/proc/{number}/cmdline")).ok()?;
        let configuration = self.configuration_path();
        let ours =
            command.split(|byte| *byte == 0).any(|part| part == configuration.as_os_str().as_encoded_bytes());
        ours.then(|| Pid::from_raw(number))
    }

    fn configuration_path(&self) -> PathBuf {
        self.layout.containerd().join("config.toml")
    }

    /// Starts it unless it runs. Returns before it answers: see [`Containerd::ready`].
    pub(crate) fn start(&self) -> Result<()> {
        podium_pki::files::private_directory(&self.layout.containerd())?;
        let path = self.configuration_path();
        let text = self.configuration();
        let unchanged = std::fs::read_to_string(&path).is_ok_and(|current| current == text);
        if let Some(pid) = self.running() {
            if unchanged {
                return Ok(());
            }
            // A new version of ours may configure it anew; containers live in their shims meanwhile.
            stop(pid)?;
        }
        podium_pki::files::write(&path, text.as_bytes())?;
        for directory in [self.layout.cni_configuration(), self.layout.cni_plugins()] {
            std::fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        }
        self.spawn()
    }

    fn spawn(&self) -> Result<()> {
        let log = self.layout.containerd().join("containerd.log");
        let output = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("open {}", log.display()))?;
        let mut command = Command::new("containerd");
        command
            .arg("--config")
            .arg(self.configuration_path())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        // A group of its own: an interrupt at our terminal is not meant for it.
        command.process_group(0);
        huge_pages(true);
        let child = command.spawn().context("start containerd");
        huge_pages(false);
        let child = child?;
        podium_pki::files::write(&self.pid_file(), child.id().to_string().as_bytes())?;
        reap(child);
        Ok(())
    }

    /// Waits until it answers CRI calls, and sees that the sandbox image is there.
    pub(crate) async fn ready(&self) -> Result<String> {
        let endpoint = self.endpoint();
        let limit = tokio::time::Instant::now() + PATIENCE;
        loop {
            // The socket appears before the CRI plugin is up: only an answer counts.
            let last = match Cri::connect(&endpoint)?.version(podium_cri::v1::VersionRequest::default()).await
            {
                Ok(answer) => {
                    self.ensure_pause(&endpoint).await?;
                    return Ok(format!("{} {}", answer.runtime_name, answer.runtime_version));
                }
                Err(error) => error,
            };
            if self.running().is_none() {
                bail!(
                    "containerd ended at once: see {}",
                    self.layout.containerd().join("containerd.log").display()
                );
            }
            if tokio::time::Instant::now() > limit {
                return Err(last).context("containerd does not answer");
            }
            tokio::time::sleep(PROBE).await;
        }
    }

    async fn ensure_pause(&self, endpoint: &str) -> Result<()> {
        ensure_pause(endpoint, &self.layout.containerd()).await
    }

    /// Starts it again whenever it ends, until told to stop watching. It keeps running then.
    pub(crate) async fn supervise(self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(WATCH) => {}
            }
            if self.running().is_none() {
                tracing::error!("containerd ended, starting it again");
                if let Err(error) = self.spawn() {
                    tracing::error!(error = %format!("{error:#}"), "containerd not started");
                }
            }
        }
    }

    /// Ends it.
    pub(crate) fn stop(&self) -> Result<()> {
        match self.running() {
            Some(pid) => stop(pid),
            None => Ok(()),
        }
    }

    fn configuration(&self) -> String {
        let quote = |path: &Path| format!("{:?}", path.display().to_string());
        format!(
            r#"# Written by podium at every start: changes are lost.
version = 2
root = {root}
state = {state}
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.native", "io.containerd.internal.v1.opt",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[grpc]
  address = {socket}
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # Without CAP_SYS_RESOURCE a score below our own is refused.
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = {plugins}
    conf_dir = {networks}
    max_conf_num = 1
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = {registries}
"#,
            root = quote(&self.layout.containerd().join("root")),
            state = quote(&self.layout.run().join("containerd")),
            socket = quote(&self.layout.containerd_socket()),
            pause = pause::NAME,
            plugins = quote(&self.layout.cni_plugins()),
            networks = quote(&self.layout.cni_configuration()),
            registries = quote(&self.layout.data.join("registries")),
        )
    }
}

/// Loads the sandbox image unless the runtime has it.
pub(crate) async fn ensure_pause(endpoint: &str, scratch: &Path) -> Result<()> {
    let spec = podium_cri::v1::ImageSpec { image: pause::NAME.to_owned(), ..Default::default() };
    if Cri::connect(endpoint)?.image_status(spec).await?.is_some() {
        return Ok(());
    }
    let path = scratch.join("pause.tar");
    podium_pki::files::write(&path, &pause::archive()?)?;
    podium_cri::import_image(endpoint, &path).await.context("load the sandbox image")?;
    Ok(())
}

/// Waits for the process in the background, so that it leaves no zombie if it ends before us.
fn reap(mut child: std::process::Child) {
    let pid = child.id();
    let spawned = std::thread::Builder::new().name("reap-containerd".to_owned()).spawn(move || {
        if let Ok(status) = child.wait() {
            tracing::info!(pid, %status, "containerd ended");
        }
    });
    if let Err(error) = spawned {
        tracing::warn!(%error, "no thread to wait for containerd");
    }
}

/// Asks a process to end and waits until it has.
fn stop(pid: Pid) -> Result<()> {
    if kill(pid, Signal::SIGTERM).is_err() {
        return Ok(());
    }
    crate::commands::wait_for_end(pid, Duration::from_secs(15))
}
