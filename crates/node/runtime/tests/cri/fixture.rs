//! A runtime of the test's own: its directory, its network plugin, its image.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use podium_cri::{Cri, v1};
use podium_image::{Image, ImageFile};
use tokio_util::sync::CancellationToken;

/// The tests' image: busybox under its usual names. Its default command sleeps.
pub(crate) const IMAGE: &str = "example.com/podium/test:v1";
/// Waits end with what was seen last.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Which runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Podium,
    Containerd,
}

/// A running runtime.
pub(crate) struct Fixture {
    pub(crate) kind: Kind,
    pub(crate) cri: Cri,
    /// Who makes cgroups; None is the runtime.
    systemd: Option<podium_runtime::Systemd>,
    directory: tempfile::TempDir,
    podium: Option<(CancellationToken, tokio::task::JoinHandle<()>)>,
    containerd: Option<Child>,
}

const APPLETS: [&str; 24] = [
    "sh", "sleep", "cat", "echo", "touch", "rm", "test", "false", "true", "env", "ls", "id", "grep", "mount",
    "mkdir", "unshare", "hostname", "ip", "nc", "kill", "chown", "stat", "readlink", "tty",
];

/// An image of files only, `/etc/volume` among them: `what` is in it.
pub(crate) fn image_of_files(name: &str, what: &str, path: &Path) {
    let file = ImageFile::Regular(what.as_bytes().to_vec(), 0o644);
    let image = Image::new(name).file("/etc/volume", file);
    image.write(std::fs::File::create(path).unwrap()).unwrap();
}

/// The image of every test, with these links in it.
pub(crate) fn image_with_links(name: &str, links: &[(&str, &str)], path: &Path) {
    let image = links
        .iter()
        .fold(base(name), |image, (at, target)| image.file(at, ImageFile::Link((*target).to_owned())));
    image.write(std::fs::File::create(path).unwrap()).unwrap();
}

fn image(path: &Path) {
    base(IMAGE).write(std::fs::File::create(path).unwrap()).unwrap();
}

fn base(name: &str) -> Image {
    let regular = |text: &str, mode| ImageFile::Regular(text.as_bytes().to_vec(), mode);
    let busybox = std::fs::read("/usr/bin/busybox").unwrap();
    let mut image = Image::new(name)
        .file("/bin/busybox", ImageFile::Regular(busybox, 0o755))
        .file("/etc/passwd", regular("root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n", 0o644))
        .file("/etc/group", regular("root:x:0:\nweb:x:34:\nlogs:x:50:web\n", 0o644))
        .file("/tmp", ImageFile::Directory(0o1777))
        .file("/root", ImageFile::Directory(0o700))
        .env("PATH", "/bin")
        .env("FROM_IMAGE", "yes")
        .command(&["sleep", "1000000"]);
    for name in APPLETS {
        image = image.file(&format!("/bin/{name}"), ImageFile::Link("busybox".to_owned()));
    }
    image
}

/// A plugin that gives every pod the same address and tells nobody.
const PLUGIN: &str = "#!/bin/sh\ncat > /dev/null\n[ \"$CNI_COMMAND\" = VERSION ] && echo '{\"cniVersion\":\"0.4.0\",\"supportedVersions\":[\"0.3.1\",\"0.4.0\"]}'\n\
[ \"$CNI_COMMAND\" = ADD ] && echo \"{\\\"cniVersion\\\":\\\"0.4.0\\\",\\\"interfaces\\\":[{\\\"name\\\":\\\"eth0\\\",\\\"sandbox\\\":\\\"$CNI_NETNS\\\"}],\\\"ips\\\":[{\\\"version\\\":\\\"4\\\",\\\"interface\\\":0,\\\"address\\\":\\\"10.9.8.7/32\\\"}]}\"\nexit 0\n";

impl Fixture {
    /// Starts one, or says why the test is skipped.
    pub(crate) async fn start(kind: Kind) -> Option<Self> {
        Self::start_beside(kind, None).await
    }

    /// With a systemd that makes cgroups, too.
    pub(crate) async fn start_beside(kind: Kind, systemd: Option<podium_runtime::Systemd>) -> Option<Self> {
        let mut needed = vec!["/usr/bin/busybox"];
        if kind == Kind::Containerd {
            needed.extend(["/usr/bin/containerd", "/usr/sbin/runc"]);
        }
        for missing in needed {
            if !Path::new(missing).exists() {
                println!("skipped: {missing} is not installed");
                return None;
            }
        }
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: containers need root");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["net.d", "bin", "logs"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        std::fs::write(
            at("net.d/10-test.conflist"),
            r#"{"cniVersion":"0.4.0","name":"test","plugins":[{"type":"plugin"}]}"#,
        )
        .unwrap();
        for name in ["plugin", "loopback"] {
            std::fs::write(at("bin").join(name), PLUGIN).unwrap();
            std::fs::set_permissions(at("bin").join(name), PermissionsExt::from_mode(0o755)).unwrap();
        }
        image(&at("image.tar"));
        let cri = Cri::connect(&format!("unix://{}", at("c.sock").display())).unwrap();
        let mut fixture = Self { kind, cri, systemd, directory, podium: None, containerd: None };
        fixture.up().await;
        podium_cri::import_image(&fixture.endpoint(), &fixture.path("image.tar")).await.unwrap();
        Some(fixture)
    }

    /// Starts the runtime, for the first time or again.
    pub(crate) async fn up(&mut self) {
        match self.kind {
            Kind::Podium => self.start_podium().await,
            Kind::Containerd => self.start_containerd().await,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("unix://{}", self.path("c.sock").display())
    }

    /// Of a cgroup of the test's own.
    pub(crate) fn cgroup(&self) -> String {
        let name = self.directory.path().file_name().unwrap().to_string_lossy().replace('.', "");
        format!("/podium-test-{name}")
    }

    pub(crate) fn config(&self) -> podium_runtime::Config {
        podium_runtime::Config {
            root: self.path("root"),
            run: self.path("run"),
            socket: self.path("c.sock"),
            cni_configuration: self.path("net.d"),
            cni_plugins: self.path("bin"),
            registries: self.path("registries"),
            handlers: self.path("runtime.toml"),
            systemd: self.systemd.clone(),
            gives_networks_up: false,
            cdi: vec![self.path("cdi")],
            version: "test".to_owned(),
        }
    }

    async fn start_podium(&mut self) {
        let shutdown = CancellationToken::new();
        let (config, end) = (self.config(), shutdown.clone());
        let (tell, told) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            podium_runtime::run(config, || tell.send(()).unwrap(), end).await.unwrap();
        });
        told.await.expect("the runtime starts");
        self.podium = Some((shutdown, task));
    }

    /// Ends the daemon, not its pods.
    pub(crate) async fn down(&mut self) {
        if let Some((shutdown, task)) = self.podium.take() {
            shutdown.cancel();
            task.await.unwrap();
        }
    }

    async fn start_containerd(&mut self) {
        let at = |name: &str| self.path(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\ndisabled_plugins = [\"io.containerd.snapshotter.v1.zfs\", \"io.containerd.snapshotter.v1.devmapper\", \"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.tracing.processor.v1.otlp\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = {socket:?}\n[ttrpc]\naddress = {ttrpc:?}\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = {IMAGE:?}\nrestrict_oom_score_adj = true\nstream_server_address = \"127.0.0.1\"\nstream_server_port = \"0\"\nenable_unprivileged_ports = true\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = {bin:?}\nconf_dir = {conf:?}\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"overlayfs\"\ndefault_runtime_name = \"runc\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\nSystemdCgroup = false\n",
            root = at("root"),
            state = at("state"),
            socket = at("c.sock"),
            ttrpc = at("t.sock"),
            bin = at("bin"),
            conf = at("net.d"),
        );
        std::fs::write(self.path("config.toml"), config).unwrap();
        let log = std::fs::File::create(self.path("log")).unwrap();
        let child = Command::new("containerd")
            .args(["--config", &at("config.toml")])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.containerd = Some(child);
        eventually("containerd answers", || async {
            self.cri.version(Default::default()).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
    }

    /// Removes all pods and checks that nothing is left.
    pub(crate) async fn finish(mut self) {
        for sandbox in self.cri.list_pod_sandbox(Default::default()).await.unwrap().items {
            self.remove(&sandbox.id).await;
        }
        if self.kind == Kind::Podium {
            assert_eq!(self.leftovers(), Vec::<String>::new());
        }
        self.down().await;
    }

    /// What must not be there when no pod is: processes, sockets, directories, cgroups, mounts.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        for name in ["root/sandboxes", "root/containers", "run/s"] {
            for entry in std::fs::read_dir(self.path(name)).unwrap() {
                left.push(format!("{name}/{}", entry.unwrap().file_name().to_string_lossy()));
            }
        }
        let own = self.directory.path().display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        left.extend(mounts.lines().filter(|line| line.contains(&own)).map(str::to_owned));
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            if command.starts_with("podium-shim") && command.contains(&own) {
                left.push(command);
            }
        }
        for controller in ["memory", "pids", "cpuset", "devices", "freezer", "unified", "systemd"] {
            let group = PathBuf::from(format!("/sys/fs/cgroup/{controller}{}", self.cgroup()));
            for entry in std::fs::read_dir(&group).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    left.push(entry.path().display().to_string());
                }
            }
        }
        left
    }

    pub(crate) async fn remove(&self, sandbox: &str) {
        let pod_sandbox_id = sandbox.to_owned();
        self.cri.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id }).await.unwrap();
        let pod_sandbox_id = sandbox.to_owned();
        self.cri.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id }).await.unwrap();
    }

    /// A pod's configuration, on a network of its own.
    pub(crate) fn pod(&self, name: &str) -> v1::PodSandboxConfig {
        let logs = self.path("logs").join(name);
        std::fs::create_dir_all(&logs).unwrap();
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: logs.display().to_string(),
            labels: [("app".to_owned(), name.to_owned())].into(),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup(),
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(v1::NamespaceOption {
                        pid: v1::NamespaceMode::Container.into(),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    pub(crate) async fn run_pod(&self, config: &v1::PodSandboxConfig) -> String {
        self.cri.run_pod_sandbox(config.clone(), "").await.expect("a pod")
    }

    /// A container's configuration that runs a script.
    pub(crate) fn script(&self, name: &str, script: &str) -> v1::ContainerConfig {
        v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(v1::ImageSpec { image: IMAGE.to_owned(), ..Default::default() }),
            command: vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()],
            // As the kubelet has it: the runtime makes the directory.
            log_path: format!("{name}/0.log"),
            labels: [("name".to_owned(), name.to_owned())].into(),
            linux: Some(v1::LinuxContainerConfig {
                security_context: Some(v1::LinuxContainerSecurityContext {
                    namespace_options: Some(v1::NamespaceOption {
                        pid: v1::NamespaceMode::Container.into(),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    pub(crate) async fn create(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
        pod: &v1::PodSandboxConfig,
    ) -> Result<String, podium_cri::Error> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(pod.clone()),
        };
        Ok(self.cri.create_container(request).await?.container_id)
    }

    pub(crate) async fn start_container(&self, id: &str) -> Result<(), podium_cri::Error> {
        self.cri.start_container(v1::StartContainerRequest { container_id: id.to_owned() }).await.map(drop)
    }

    /// Creates and starts.
    pub(crate) async fn run(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
        pod: &v1::PodSandboxConfig,
    ) -> String {
        let id = self.create(sandbox, config, pod).await.expect("a container");
        self.start_container(&id).await.expect("a start");
        id
    }

    pub(crate) async fn status(&self, id: &str) -> v1::ContainerStatus {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        self.cri.container_status(request).await.expect("a status").status.expect("a status")
    }

    /// Waits for a container's end.
    pub(crate) async fn ended(&self, id: &str) -> v1::ContainerStatus {
        eventually("the container ends", || async {
            let status = self.status(id).await;
            if status.state() == v1::ContainerState::ContainerExited {
                Ok(status)
            } else {
                Err(format!("{status:?}"))
            }
        })
        .await
    }

    /// Runs a script in a pod of its own to its end: its code and what it said.
    pub(crate) async fn outcome(
        &self,
        name: &str,
        change: impl FnOnce(&mut v1::PodSandboxConfig, &mut v1::ContainerConfig),
        script: &str,
    ) -> (i32, String) {
        let mut pod = self.pod(name);
        let mut config = self.script("c", script);
        change(&mut pod, &mut config);
        let sandbox = self.run_pod(&pod).await;
        let id = self.run(&sandbox, config, &pod).await;
        let status = self.ended(&id).await;
        let text = self.log(name, "c").await;
        self.remove(&sandbox).await;
        (status.exit_code, text)
    }

    /// What a container said, without times and tags. The log is complete a moment after the end.
    pub(crate) async fn log(&self, pod: &str, container: &str) -> String {
        let text =
            std::fs::read_to_string(self.path("logs").join(pod).join(format!("{container}/0.log"))).unwrap();
        text.lines().map(|line| format!("{}\n", line.splitn(4, ' ').nth(3).unwrap_or_default())).collect()
    }

    pub(crate) async fn exec(&self, id: &str, script: &str) -> (i32, String, String) {
        let command = vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()];
        let answer = self.cri.exec_sync(id, command, Duration::from_secs(20)).await.expect("a command");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (answer.exit_code, text(answer.stdout), text(answer.stderr))
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let own = self.directory.path().display().to_string();
        if let Some(child) = &mut self.containerd {
            let _ = child.kill();
            let _ = child.wait();
        }
        // Shims outlive their daemon on purpose: those of this test carry its directory in their arguments.
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let children =
                std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            if String::from_utf8_lossy(&command).contains(&own) {
                for pid in children.split_whitespace().filter_map(|pid| pid.parse().ok()).chain([pid]) {
                    let _ =
                        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
                }
            }
        }
        // Clients own the groups above pods, and the client is this test.
        if let Ok(cgroups) = podium_shim::cgroup::Cgroups::of_machine() {
            let _ = cgroups.remove(&self.cgroup());
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for place in
            mounts.lines().rev().filter_map(|line| line.split(' ').nth(4)).filter(|at| at.starts_with(&own))
        {
            let _ = nix::mount::umount2(place, nix::mount::MntFlags::MNT_DETACH);
        }
        for controller in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let group = PathBuf::from(format!("{}{}", controller.path().display(), self.cgroup()));
            for below in std::fs::read_dir(&group).into_iter().flatten().flatten() {
                let _ = std::fs::remove_dir(below.path());
            }
            let _ = std::fs::remove_dir(group);
        }
    }
}

/// Waits until `check` gives something; the panic shows what was seen last.
pub(crate) async fn eventually<T, Fut>(what: &str, mut check: impl FnMut() -> Fut) -> T
where
    Fut: Future<Output = Result<T, String>>,
{
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        match check().await {
            Ok(found) => return found,
            Err(seen) => assert!(tokio::time::Instant::now() < deadline, "{what}: last seen {seen}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
