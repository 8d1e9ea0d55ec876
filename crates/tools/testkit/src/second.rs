//! A second node of a cluster on the same machine: a network namespace behind a link of its own, with its own host name, data
//! directory, runtime and cgroups.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

use crate::cluster::Cluster;
use crate::kubectl::Outcome;

/// A network namespace with a link to the host's; dropping it removes both.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    /// The host's end.
    pub host: Ipv4Addr,
    /// The namespace's end.
    pub inside: Ipv4Addr,
}

impl Namespace {
    /// Makes one that no other process uses.
    ///
    /// # Errors
    /// What `ip` printed when it failed.
    pub fn new() -> Result<Self> {
        let id = std::process::id();
        let (high, low) = ((id >> 6) & 0xff, (id & 0x3f) << 2);
        // 198.18.0.0/15 is for tests between devices (RFC 2544): nothing else on a machine has it.
        let address = |last: u32| Ipv4Addr::from((198 << 24) | (18 << 16) | (high << 8) | (low + last));
        let namespace = Namespace { name: format!("pt{id}"), host: address(1), inside: address(2) };
        let (name, host, inside) = (&namespace.name, namespace.host, namespace.inside);
        for line in [
            format!("netns add {name}"),
            format!("link add {name}h type veth peer name {name}n netns {name}"),
            format!("addr add {host}/30 dev {name}h"),
            format!("link set {name}h up"),
            format!("-n {name} addr add {inside}/30 dev {name}n"),
            format!("-n {name} link set {name}n up"),
            format!("-n {name} link set lo up"),
            format!("-n {name} route add default via {host}"),
        ] {
            let done = Command::new("ip").args(line.split(' ')).output().context("run ip")?;
            if !done.status.success() {
                bail!("ip {line}: {}", String::from_utf8_lossy(&done.stderr));
            }
        }
        Ok(namespace)
    }

    /// A command that runs inside, with a host name of its own. The cgroup mounts stay visible, which `ip netns exec` would hide.
    pub fn command(&self, hostname: &str, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.name))
            .args(["unshare", "--uts", "sh", "-c", "hostname \"$0\" && exec \"$@\"", hostname])
            .arg(program);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        for line in [format!("link del {}h", self.name), format!("netns del {}", self.name)] {
            let _ = Command::new("ip").args(line.split(' ')).output();
        }
    }
}

/// A running second node; dropping it takes it away.
#[derive(Debug)]
pub struct SecondNode<'a> {
    cluster: &'a Cluster,
    namespace: &'a Namespace,
    name: String,
    directory: PathBuf,
}

impl<'a> SecondNode<'a> {
    /// Joins a node of this name to the cluster and waits until it is ready.
    ///
    /// # Errors
    /// What `podium node` printed when it failed, and the end of its log.
    pub fn join(cluster: &'a Cluster, namespace: &'a Namespace, name: &str) -> Result<Self> {
        let directory = cluster.scratch().join(name);
        let server = format!("https://{}:{}", namespace.host, cluster.port());
        let kubeconfig = cluster.podium(&["kubeconfig", "--server", &server]).ok();
        let file = cluster.scratch().join("join.kubeconfig");
        std::fs::write(&file, kubeconfig)?;
        let node = SecondNode { cluster, namespace, name: name.to_owned(), directory };
        let (file, address) = (file.display().to_string(), IpAddr::from(namespace.inside).to_string());
        let outcome = node.podium(&["node", "--detach", "--kubeconfig", &file, "--node-ip", &address]);
        if outcome.code != 0 {
            bail!("podium node: {}{}\n{}", outcome.stdout, outcome.stderr, node.log());
        }
        Ok(node)
    }

    /// Its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("podium.log")).unwrap_or_default()
    }

    /// Its data directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its process id.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self) -> Result<i32> {
        crate::cluster::pid_of(&self.podium(&["status"]))
    }

    /// Runs `podium` on the node with its data directory.
    pub fn podium(&self, arguments: &[&str]) -> Outcome {
        let mut command = self.namespace.command(&self.name, self.cluster.binary());
        command.args(arguments).arg("--data-dir").arg(&self.directory);
        crate::kubectl::outcome(&mut command)
    }

    /// Loads an image archive.
    #[track_caller]
    pub fn load(&self, archive: &Path) {
        self.podium(&["image", "load", &archive.display().to_string()]).ok();
    }
}

impl Drop for SecondNode<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> =
                log.lines().filter(|l| l.contains("WARN") || l.contains("ERROR")).collect();
            let tail = &lines[lines.len().saturating_sub(40)..];
            eprintln!("--- warnings of the second node ---\n{}", tail.join("\n"));
        }
        let outcome = self.podium(&["reset", "--yes"]);
        if outcome.code != 0 {
            eprintln!("reset of the second node: {}{}", outcome.stdout, outcome.stderr);
        }
    }
}

/// Sends one HTTP request from inside the namespace.
///
/// # Errors
/// As [`crate::http::get`].
pub fn get_inside(
    namespace: &Namespace,
    address: std::net::SocketAddr,
    path: &str,
) -> std::io::Result<crate::http::Answer> {
    let file = std::fs::File::open(format!("/run/netns/{}", namespace.name))?;
    std::thread::scope(|scope| {
        let work = || {
            nix::sched::setns(&file, nix::sched::CloneFlags::CLONE_NEWNET)?;
            crate::http::get(address, path)
        };
        scope.spawn(work).join().unwrap_or_else(|_| Err(std::io::Error::other("the request panicked")))
    })
}

/// Where tests listen: below the range from which outgoing connections take their ports, for on such a port nobody can listen, and
/// below that of Services of type NodePort, whose rules would lead away what is meant for the listener.
const PORTS: std::ops::Range<u16> = 21_000..30_000;

/// A port nobody listens on, and that this process gives to nobody else.
///
/// # Errors
/// There is none.
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Processes at the same time begin at different places.
    let start = std::process::id().wrapping_mul(97);
    for _ in PORTS {
        let step =
            start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % u32::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(step)?;
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port from {} to {} is free", PORTS.start, PORTS.end - 1)
}
