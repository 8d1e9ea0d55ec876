//! An etcd server of a test's own: on loopback, with its own data, ended by its process id.

// Each test binary uses a part of this.
#![allow(dead_code)]

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use podium_store::{Codec, EtcdConfig, EtcdTls, History, Plain, Store};

/// A server; killed when dropped.
pub(crate) struct EtcdServer {
    child: Option<Child>,
    dir: tempfile::TempDir,
    client: u16,
    peer: u16,
    tls: Option<Files>,
}

/// Certificates of a server and of a client.
#[derive(Clone)]
pub(crate) struct Files {
    pub(crate) ca: PathBuf,
    pub(crate) server: (PathBuf, PathBuf),
    pub(crate) client: (PathBuf, PathBuf),
}

/// A port nobody listens on, and that this process gives to nobody else. One that the kernel had chosen would be of those that
/// outgoing connections take: one of them could have it before etcd listens, or while it is away between two runs.
fn free_port() -> u16 {
    /// Below the kernel's range, and below the testkit's.
    const PORTS: std::ops::Range<u16> = 11_000..21_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes at the same time begin at different places.
    let start = std::process::id().wrapping_mul(97);
    let free = PORTS.map(|_| {
        let step = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed).into());
        let step = step % u32::from(PORTS.end - PORTS.start);
        PORTS.start + u16::try_from(step).expect("less than there are ports")
    });
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    free.into_iter().find(is_free).expect("a port is free")
}

impl EtcdServer {
    /// Starts a fresh server. `PODIUM_TEST_ETCD` names the program; otherwise it is `etcd`.
    pub(crate) fn start() -> EtcdServer {
        EtcdServer::start_with(None)
    }

    pub(crate) fn start_with(tls: Option<Files>) -> EtcdServer {
        let dir = tempfile::tempdir().expect("a directory");
        let mut server = EtcdServer { child: None, dir, client: free_port(), peer: free_port(), tls };
        server.run();
        server
    }

    /// Starts it (again), on the same data and port.
    pub(crate) fn run(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let program = std::env::var_os("PODIUM_TEST_ETCD").unwrap_or_else(|| "etcd".into());
        let peer = format!("http://127.0.0.1:{}", self.peer);
        let log = std::fs::File::create(self.dir.path().join("log")).expect("a log");
        let mut command = Command::new(program);
        command
            .args(["--name", "test", "--log-level", "warn", "--logger", "zap"])
            .arg("--data-dir")
            .arg(self.dir.path().join("data"))
            .args(["--listen-client-urls", &self.url(), "--advertise-client-urls", &self.url()])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("test={peer}")])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if let Some(files) = &self.tls {
            command
                .arg("--client-cert-auth")
                .arg("--trusted-ca-file")
                .arg(&files.ca)
                .arg("--cert-file")
                .arg(&files.server.0)
                .arg("--key-file")
                .arg(&files.server.1);
        }
        let child = command.spawn().expect("etcd can be started: the package is etcd-server");
        self.child = Some(child);
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("killed");
            child.wait().expect("ended");
        }
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let id = self.child.as_ref().expect("it runs").id();
        let id = nix::unistd::Pid::from_raw(i32::try_from(id).expect("an id"));
        nix::sys::signal::kill(id, signal).expect("signalled");
    }

    /// Stops it where it is.
    pub(crate) fn pause(&self) {
        self.signal(nix::sys::signal::Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.signal(nix::sys::signal::Signal::SIGCONT);
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.client)
    }

    /// The certificates it was started with.
    pub(crate) fn files(&self) -> Option<&Files> {
        self.tls.as_ref()
    }

    /// How a store on it is opened: nothing is forgotten by itself.
    pub(crate) fn config(&self) -> EtcdConfig {
        let codec: Arc<dyn Codec> = Arc::new(Plain);
        let tls = self
            .tls
            .as_ref()
            .map(|files| EtcdTls { ca: Some(files.ca.clone()), identity: Some(files.client.clone()) });
        EtcdConfig {
            prefix: "/test".to_owned(),
            codec,
            tls,
            history: History { automatic: false, ..History::default() },
            compaction_interval: Duration::ZERO,
            ..EtcdConfig::new(vec![self.url()])
        }
    }

    /// Opens a store on it.
    pub(crate) async fn open(&self) -> Store {
        open(self.config()).await
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }
}

/// Opens a store; the server may still be starting.
pub(crate) async fn open(config: EtcdConfig) -> Store {
    let limit = Instant::now() + Duration::from_secs(60);
    loop {
        match Store::open_etcd(config.clone()).await {
            Ok(store) => return store,
            Err(error) => assert!(Instant::now() < limit, "the store does not open: {error}"),
        }
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("etcd said:\n{}", self.log());
        }
        self.kill();
    }
}

/// An authority, and certificates of it for a server on loopback and for a client.
pub(crate) fn certificates(dir: &Path) -> Files {
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
    let write = |name: &str, text: String| {
        let path = dir.join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = write("ca.pem", params.self_signed(&key).expect("a certificate").pem());
    let issuer = Issuer::new(params, key);
    let issue = |name: &str, usage| {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
        params.extended_key_usages = usage;
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        (write(&format!("{name}.pem"), certificate.pem()), write(&format!("{name}.key"), key.serialize_pem()))
    };
    // etcd's gateway is a client of its own server, with the server's certificate.
    let both = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Files {
        server: issue("server", both),
        client: issue("client", vec![ExtendedKeyUsagePurpose::ClientAuth]),
        ca,
    }
}
