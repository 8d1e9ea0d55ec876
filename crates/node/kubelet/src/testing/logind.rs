//! A login manager that does what the test says, on a message bus of its own.

use std::{
    io::{PipeReader, Read},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use podium_systemd::fake::Bus;
use tokio::sync::mpsc;
use zbus::{connection, interface, object_server::SignalEmitter, zvariant::OwnedFd};

use crate::LogindPlaces;

const PATH: &str = "/org/freedesktop/login1";

/// One delay lock that was taken: what was said of it, and the end that closes with it.
pub(crate) struct Lock {
    pub(crate) about: String,
    end: PipeReader,
}

impl Lock {
    /// Returns once it was let go.
    pub(crate) async fn released(mut self) {
        let read = tokio::task::spawn_blocking(move || self.end.read(&mut [0])).await.unwrap();
        assert_eq!(read.unwrap(), 0);
    }
}

#[derive(Debug, Default)]
struct State {
    delay_micros: u64,
    preparing: bool,
}

struct Manager {
    state: Arc<Mutex<State>>,
    locks: mpsc::UnboundedSender<Lock>,
}

#[interface(name = "org.freedesktop.login1.Manager")]
impl Manager {
    fn inhibit(&self, what: &str, who: &str, why: &str, mode: &str) -> OwnedFd {
        let (end, lock) = std::io::pipe().unwrap();
        self.locks.send(Lock { about: format!("{what}|{who}|{why}|{mode}"), end }).ok();
        std::os::fd::OwnedFd::from(lock).into()
    }

    #[zbus(property, name = "InhibitDelayMaxUSec")]
    fn delay(&self) -> u64 {
        self.state.lock().delay_micros
    }

    #[zbus(property, name = "PreparingForShutdown")]
    fn preparing(&self) -> bool {
        self.state.lock().preparing
    }

    #[zbus(signal)]
    async fn prepare_for_shutdown(emitter: &SignalEmitter<'_>, begins: bool) -> zbus::Result<()>;
}

/// The part of systemd that sends a signal to a unit: the login manager reads its drop-ins anew.
struct Systemd {
    state: Arc<Mutex<State>>,
    drop_ins: PathBuf,
}

#[interface(name = "org.freedesktop.systemd1.Manager")]
impl Systemd {
    fn kill_unit(&self, unit: &str, who: &str, signal: i32) {
        assert_eq!((unit, who, signal), ("systemd-logind.service", "all", libc::SIGHUP));
        let text = std::fs::read_to_string(self.drop_ins.join("99-kubelet.conf")).unwrap_or_default();
        let seconds = text.lines().find_map(|line| line.strip_prefix("InhibitDelayMaxSec=")).unwrap_or("5");
        self.state.lock().delay_micros = seconds.parse::<u64>().unwrap() * 1_000_000;
    }
}

/// The login manager and its bus, which ends when this is dropped.
pub(crate) struct FakeLogind {
    pub(crate) places: LogindPlaces,
    pub(crate) locks: mpsc::UnboundedReceiver<Lock>,
    state: Arc<Mutex<State>>,
    service: zbus::Connection,
    bus: Bus,
}

impl FakeLogind {
    /// With a login manager that waits five seconds for delay locks, systemd's default. None, and a word about it, where
    /// there is no dbus-daemon.
    pub(crate) async fn start() -> Option<Self> {
        let bus = Bus::start()?;
        let state = Arc::new(Mutex::new(State { delay_micros: 5_000_000, ..State::default() }));
        let (tell, locks) = mpsc::unbounded_channel();
        let places = LogindPlaces { bus: bus.path.clone(), drop_ins: bus.directory().join("logind.conf.d") };
        let systemd = Systemd { state: state.clone(), drop_ins: places.drop_ins.clone() };
        let service = connection::Builder::unix_stream(bus.connect().await)
            .name("org.freedesktop.login1")
            .unwrap()
            .name("org.freedesktop.systemd1")
            .unwrap()
            .serve_at(PATH, Manager { state: state.clone(), locks: tell })
            .unwrap()
            .serve_at("/org/freedesktop/systemd1", systemd)
            .unwrap()
            .build()
            .await
            .unwrap();
        Some(Self { places, locks, state, service, bus })
    }

    /// The next lock that is taken.
    pub(crate) async fn lock(&mut self) -> Lock {
        tokio::time::timeout(Duration::from_secs(20), self.locks.recv()).await.expect("a lock").unwrap()
    }

    /// Says that a shutdown begins, or that it was called off.
    pub(crate) async fn say(&self, begins: bool) {
        self.state.lock().preparing = begins;
        let manager = self.service.object_server().interface::<_, Manager>(PATH).await.unwrap();
        Manager::prepare_for_shutdown(manager.signal_emitter(), begins).await.unwrap();
    }

    /// Says that a shutdown begins, as somebody who is not the login manager.
    pub(crate) async fn lie(&self) {
        let liar = connection::Builder::unix_stream(self.bus.connect().await).build().await.unwrap();
        let about = ("org.freedesktop.login1.Manager", "PrepareForShutdown");
        liar.emit_signal(None::<&str>, PATH, about.0, about.1, &true).await.unwrap();
        // An answer comes after everything sent before it.
        let bus = Some("org.freedesktop.DBus");
        liar.call_method(bus, "/", bus, "GetId", &()).await.unwrap();
    }
}
