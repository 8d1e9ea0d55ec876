//! A message bus of its own (Debian's dbus-daemon), with a login manager on it that does what the test says.

use std::{
    collections::BTreeSet,
    io::{PipeReader, Read},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::{net::UnixStream, sync::mpsc};
use zbus::{
    connection, interface,
    object_server::SignalEmitter,
    zvariant::{OwnedFd, OwnedObjectPath, OwnedValue, Value},
};

use super::eventually;
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
    /// What units were asked for, and those that are there.
    units: Vec<String>,
    started: BTreeSet<String>,
}

#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.freedesktop.systemd1")]
enum UnitError {
    UnitExists(String),
    NoSuchUnit(String),
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
    jobs: u32,
}

/// Properties as a line of text.
fn shown(properties: &[(String, OwnedValue)]) -> String {
    let value = |value: &OwnedValue| match &**value {
        Value::U64(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
        Value::Str(text) => format!("{:?}", text.as_str()),
        Value::Array(list) => format!("{:?}", Vec::<String>::try_from(list.try_clone().unwrap()).unwrap()),
        other => panic!("{other:?}"),
    };
    properties.iter().map(|(name, one)| format!(" {name}={}", value(one))).collect()
}

#[interface(name = "org.freedesktop.systemd1.Manager")]
impl Systemd {
    fn subscribe(&self) {}

    async fn start_transient_unit(
        &mut self,
        unit: &str,
        mode: &str,
        properties: Vec<(String, OwnedValue)>,
        auxiliary: Vec<(String, Vec<(String, OwnedValue)>)>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> Result<OwnedObjectPath, UnitError> {
        assert!(auxiliary.is_empty());
        if self.state.lock().started.contains(unit) {
            return Err(UnitError::UnitExists(unit.to_owned()));
        }
        let text = format!("start {unit} {mode}{}", shown(&properties));
        self.state.lock().units.push(text);
        self.state.lock().started.insert(unit.to_owned());
        self.jobs += 1;
        let job = OwnedObjectPath::try_from(format!("/org/freedesktop/systemd1/job/{}", self.jobs)).unwrap();
        let result = if unit.starts_with("broken") { "failed" } else { "done" };
        // Of another job first, and before the answer, as may be.
        let other = OwnedObjectPath::try_from("/org/freedesktop/systemd1/job/0").unwrap();
        Self::job_removed(&emitter, 0, other, "other.service", "canceled").await.unwrap();
        Self::job_removed(&emitter, self.jobs, job.clone(), unit, result).await.unwrap();
        Ok(job)
    }

    fn set_unit_properties(&self, unit: &str, runtime: bool, properties: Vec<(String, OwnedValue)>) {
        assert!(runtime);
        self.state.lock().units.push(format!("set {unit}{}", shown(&properties)));
    }

    fn stop_unit(&self, unit: &str, mode: &str) -> Result<OwnedObjectPath, UnitError> {
        assert_eq!(mode, "replace");
        let mut state = self.state.lock();
        state.units.push(format!("stop {unit}"));
        if !state.started.remove(unit) {
            return Err(UnitError::NoSuchUnit(unit.to_owned()));
        }
        Ok(OwnedObjectPath::try_from("/org/freedesktop/systemd1/job/0").unwrap())
    }

    #[zbus(signal)]
    async fn job_removed(
        emitter: &SignalEmitter<'_>,
        id: u32,
        job: OwnedObjectPath,
        unit: &str,
        result: &str,
    ) -> zbus::Result<()>;

    fn kill_unit(&self, unit: &str, who: &str, signal: i32) {
        assert_eq!((unit, who, signal), ("systemd-logind.service", "all", libc::SIGHUP));
        let text = std::fs::read_to_string(self.drop_ins.join("99-kubelet.conf")).unwrap();
        let seconds = text.lines().find_map(|line| line.strip_prefix("InhibitDelayMaxSec=")).unwrap();
        self.state.lock().delay_micros = seconds.parse::<u64>().unwrap() * 1_000_000;
    }
}

/// The bus, ended when this is dropped.
pub(crate) struct FakeLogind {
    pub(crate) places: LogindPlaces,
    pub(crate) locks: mpsc::UnboundedReceiver<Lock>,
    state: Arc<Mutex<State>>,
    service: zbus::Connection,
    daemon: Child,
    _directory: TempDir,
}

impl FakeLogind {
    /// With a login manager that waits five seconds for delay locks, systemd's default. None, and a word about it, where
    /// there is no dbus-daemon.
    pub(crate) async fn start() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let (bus, file) = (directory.path().join("bus"), directory.path().join("bus.conf"));
        let configuration = format!(
            "<busconfig><listen>unix:path={}</listen><auth>EXTERNAL</auth><policy context='default'>\
             <allow send_destination='*' eavesdrop='true'/><allow eavesdrop='true'/><allow own='*'/></policy></busconfig>",
            bus.display()
        );
        std::fs::write(&file, configuration).unwrap();
        let mut command = Command::new("dbus-daemon");
        command.arg("--nofork").arg(format!("--config-file={}", file.display()));
        let Ok(daemon) = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn() else {
            println!("skipped: no dbus-daemon");
            return None;
        };
        let state = Arc::new(Mutex::new(State { delay_micros: 5_000_000, ..State::default() }));
        let (tell, locks) = mpsc::unbounded_channel();
        let places = LogindPlaces { bus: bus.clone(), drop_ins: directory.path().join("logind.conf.d") };
        let systemd = Systemd { state: state.clone(), drop_ins: places.drop_ins.clone(), jobs: 0 };
        let stream = eventually("the bus listens", Duration::from_secs(20), || async {
            UnixStream::connect(&bus).await.map_err(|error| error.to_string())
        })
        .await;
        let service = connection::Builder::unix_stream(stream)
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
        Some(Self { places, locks, state, service, daemon, _directory: directory })
    }

    /// What systemd was asked for, in order.
    pub(crate) fn units(&self) -> Vec<String> {
        self.state.lock().units.clone()
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
        let stream = UnixStream::connect(&self.places.bus).await.unwrap();
        let liar = connection::Builder::unix_stream(stream).build().await.unwrap();
        let about = ("org.freedesktop.login1.Manager", "PrepareForShutdown");
        liar.emit_signal(None::<&str>, PATH, about.0, about.1, &true).await.unwrap();
        // An answer comes after everything sent before it.
        let bus = Some("org.freedesktop.DBus");
        liar.call_method(bus, "/", bus, "GetId", &()).await.unwrap();
    }
}

impl Drop for FakeLogind {
    fn drop(&mut self) {
        self.daemon.kill().ok();
        self.daemon.wait().ok();
    }
}
