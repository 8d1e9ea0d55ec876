//! A containerd of the test's own, in a directory of its own, ended with the test.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use podium_cri::{Cri, v1};
use serde_json::json;

use super::eventually;

/// The image that stands for the pause container and for the tests' containers: busybox.
pub(crate) const IMAGE: &str = "docker.io/podium/test:v1";

/// A running containerd.
#[derive(Debug)]
pub(crate) struct Containerd {
    child: Child,
    directory: tempfile::TempDir,
}

impl Containerd {
    /// Starts one, or says why the test is skipped.
    pub(crate) async fn start() -> Option<Self> {
        for missing in ["/usr/bin/containerd", "/usr/bin/busybox", "/usr/sbin/runc"] {
            let elsewhere = missing.replace("/usr/sbin/", "/usr/bin/");
            if !Path::new(missing).exists() && !Path::new(&elsewhere).exists() {
                println!("skipped: {missing} is not installed");
                return None;
            }
        }
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: containerd needs root");
            return None;
        }
        let directory = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| directory.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\ndisabled_plugins = [\"io.containerd.snapshotter.v1.zfs\", \"io.containerd.snapshotter.v1.devmapper\", \"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.tracing.processor.v1.otlp\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = {socket:?}\n[ttrpc]\naddress = {ttrpc:?}\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = {IMAGE:?}\nrestrict_oom_score_adj = true\nenable_selinux = false\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = {cni:?}\nconf_dir = {cni:?}\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"overlayfs\"\ndefault_runtime_name = \"runc\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\nSystemdCgroup = false\n",
            root = at("root"),
            state = at("state"),
            socket = at("c.sock"),
            ttrpc = at("t.sock"),
            cni = at("cni"),
        );
        std::fs::write(at("config.toml"), config).expect("writing the configuration");
        let log = std::fs::File::create(at("log")).expect("making the log");
        let child = Command::new("containerd")
            .args(["--config", &at("config.toml")])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("starting containerd");
        let this = Self { child, directory };
        let cri = this.cri();
        eventually("containerd answers", Duration::from_secs(30), || async {
            cri.version(v1::VersionRequest::default()).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
        let archive = this.directory.path().join("image.tar");
        std::fs::write(&archive, busybox_archive()).expect("writing the image");
        podium_cri::import_image(&this.endpoint(), &archive).await.expect("importing the image");
        Some(this)
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("unix://{}", self.directory.path().join("c.sock").display())
    }

    pub(crate) fn cri(&self) -> Cri {
        Cri::connect(&self.endpoint()).expect("an endpoint")
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().to_owned()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let path = self.directory.path().display().to_string();
        // Shims carry the socket's path in their arguments; they outlive containerd on purpose.
        self.child.kill().ok();
        self.child.wait().ok();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&command).contains(&path) {
                for child in descendants(pid) {
                    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), nix::sys::signal::SIGKILL).ok();
                }
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).ok();
            }
        }
        crate::volumes::sub_path::unmount_below(self.directory.path()).ok();
    }
}

fn descendants(pid: i32) -> Vec<i32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// A docker archive with one layer: busybox and some of its names. Its default command sleeps.
fn busybox_archive() -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    let mut add = |name: &str, content: &[u8], mode: u32| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        layer.append_data(&mut header, name, content).expect("writing to memory");
    };
    add("bin/busybox", &std::fs::read("/usr/bin/busybox").expect("busybox"), 0o755);
    add("etc/passwd", b"root:x:0:0::/:/bin/sh\n", 0o644);
    for name in ["sh", "sleep", "cat", "echo", "touch", "rm", "test", "false", "true", "env", "ls", "id"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        layer.append_link(&mut header, format!("bin/{name}"), "busybox").expect("writing to memory");
    }
    let layer = layer.into_inner().expect("writing to memory");
    let digest = |bytes: &[u8]| {
        use sha2::Digest as _;
        format!("{:x}", sha2::Sha256::digest(bytes))
    };
    let config = json!({
        "architecture": crate::node::machine::architecture(), "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sleep", "1000000"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest(&layer))]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in [
        ("manifest.json", manifest.to_string().into_bytes()),
        ("config.json", config.to_string().into_bytes()),
        ("layer.tar", layer),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, content.as_slice()).expect("writing to memory");
    }
    let mut bytes = archive.into_inner().expect("writing to memory");
    bytes.flush().expect("writing to memory");
    bytes
}
