//! For tests: a message bus of their own (Debian's dbus-daemon), and a systemd on it that does as it is told.

#![expect(missing_docs, reason = "zbus makes a method for each signal, without a word")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::net::UnixStream;
use zbus::zvariant::{OwnedObjectPath, OwnedValue, Value};
use zbus::{connection, interface, object_server::SignalEmitter};

use crate::Systemd;

/// A message bus, ended when this is dropped.
#[derive(Debug)]
pub struct Bus {
    /// Its socket.
    pub path: PathBuf,
    daemon: Child,
    directory: TempDir,
}

impl Bus {
    /// Starts one. None, and a word about it, where there is no dbus-daemon.
    pub fn start() -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory for the bus");
        let (path, file) = (directory.path().join("bus"), directory.path().join("bus.conf"));
        let configuration = format!(
            "<busconfig><listen>unix:path={}</listen><auth>EXTERNAL</auth><policy context='default'>\
             <allow send_destination='*' eavesdrop='true'/><allow eavesdrop='true'/><allow own='*'/></policy></busconfig>",
            path.display()
        );
        std::fs::write(&file, configuration).expect("the bus' configuration");
        let mut command = Command::new("dbus-daemon");
        command.args(["--nofork", "--print-address=1"]).arg(format!("--config-file={}", file.display()));
        let Ok(mut daemon) = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn() else {
            println!("skipped: no dbus-daemon");
            return None;
        };
        // It says its address when it listens.
        let mut address = String::new();
        let output = daemon.stdout.take().expect("it is a pipe");
        BufReader::new(output).read_line(&mut address).expect("the bus' address");
        assert!(address.starts_with("unix:path="), "dbus-daemon said {address:?}");
        Some(Self { path, daemon, directory })
    }

    /// A connection, before anything is said on it.
    pub async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.path).await.expect("the bus listens")
    }

    /// A directory that lives as long as the bus.
    pub fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.daemon.kill().ok();
        self.daemon.wait().ok();
    }
}

/// What a unit is besides its name: what a test makes of it.
pub trait Groups: Send + Sync + 'static {
    /// A unit begins with these processes, in this slice.
    fn begin(&self, unit: &str, slice: &str, processes: &[u32]);
    /// It ends.
    fn end(&self, unit: &str, slice: &str);
}

/// Nothing.
impl Groups for () {
    fn begin(&self, _: &str, _: &str, _: &[u32]) {}
    fn end(&self, _: &str, _: &str) {}
}

#[derive(Debug, Default)]
struct State {
    asked: Vec<String>,
    /// With the slice that each is in.
    units: BTreeMap<String, String>,
}

#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.freedesktop.systemd1")]
enum UnitError {
    UnitExists(String),
    NoSuchUnit(String),
}

struct Manager {
    state: Arc<Mutex<State>>,
    groups: Box<dyn Groups>,
    jobs: u32,
}

/// Properties as a line of text.
fn shown(properties: impl IntoIterator<Item = (String, OwnedValue)>) -> String {
    let value = |value: OwnedValue| match &*value {
        Value::U64(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
        Value::Str(text) => format!("{:?}", text.as_str()),
        Value::Array(list) => {
            let items: Vec<String> = list.iter().map(ToString::to_string).collect();
            format!("[{}]", items.join(", "))
        }
        other => format!("{other:?}"),
    };
    properties.into_iter().map(|(name, one)| format!(" {name}={}", value(one))).collect()
}

fn find<'a>(properties: &'a [(String, OwnedValue)], name: &str) -> Option<&'a Value<'static>> {
    properties.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
}

#[interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
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
        let slice = match find(&properties, "Slice") {
            Some(Value::Str(slice)) => slice.to_string(),
            _ => String::new(),
        };
        let processes: Vec<u32> = match find(&properties, "PIDs") {
            Some(Value::Array(list)) => list.iter().filter_map(|one| u32::try_from(one).ok()).collect(),
            _ => Vec::new(),
        };
        {
            let mut state = self.state.lock();
            if state.units.contains_key(unit) {
                return Err(UnitError::UnitExists(unit.to_owned()));
            }
            // Processes' numbers are not the same twice.
            let told = properties.into_iter().filter(|(name, _)| name != "PIDs");
            state.asked.push(format!("start {unit} {mode}{}", shown(told)));
            state.units.insert(unit.to_owned(), slice.clone());
        }
        let result = if unit.starts_with("broken") { "failed" } else { "done" };
        if result == "done" {
            self.groups.begin(unit, &slice, &processes);
        }
        self.jobs += 1;
        let job = |number: u32| {
            OwnedObjectPath::try_from(format!("/org/freedesktop/systemd1/job/{number}")).expect("a path")
        };
        // Of another job first, and before the answer, as may be.
        for (number, unit, result) in [(0, "other.service", "canceled"), (self.jobs, unit, result)] {
            Self::job_removed(&emitter, number, job(number), unit, result).await.expect("the bus is there");
        }
        Ok(job(self.jobs))
    }

    fn set_unit_properties(
        &self,
        unit: &str,
        runtime: bool,
        properties: Vec<(String, OwnedValue)>,
    ) -> Result<(), UnitError> {
        assert!(runtime);
        let mut state = self.state.lock();
        if !state.units.contains_key(unit) {
            return Err(UnitError::NoSuchUnit(unit.to_owned()));
        }
        state.asked.push(format!("set {unit}{}", shown(properties)));
        Ok(())
    }

    fn stop_unit(&self, unit: &str, mode: &str) -> Result<OwnedObjectPath, UnitError> {
        assert_eq!(mode, "replace");
        let mut state = self.state.lock();
        let slice = state.units.remove(unit).ok_or_else(|| UnitError::NoSuchUnit(unit.to_owned()))?;
        state.asked.push(format!("stop {unit}"));
        self.groups.end(unit, &slice);
        Ok(OwnedObjectPath::try_from("/org/freedesktop/systemd1/job/0").expect("a path"))
    }

    fn reset_failed_unit(&self, unit: &str) -> Result<(), UnitError> {
        Err(UnitError::NoSuchUnit(unit.to_owned()))
    }

    /// A job has ended.
    #[zbus(signal)]
    async fn job_removed(
        emitter: &SignalEmitter<'_>,
        id: u32,
        job: OwnedObjectPath,
        unit: &str,
        result: &str,
    ) -> zbus::Result<()>;
}

/// A systemd on a bus of its own. Units that are called `broken` do not start.
#[derive(Debug)]
pub struct FakeSystemd {
    bus: Bus,
    state: Arc<Mutex<State>>,
    _service: zbus::Connection,
}

impl FakeSystemd {
    /// None, and a word about it, where there is no dbus-daemon.
    pub async fn start(groups: impl Groups) -> Option<Self> {
        let bus = Bus::start()?;
        let state = Arc::new(Mutex::new(State::default()));
        let manager = Manager { state: Arc::clone(&state), groups: Box::new(groups), jobs: 0 };
        let service = connection::Builder::unix_stream(bus.connect().await)
            .name("org.freedesktop.systemd1")
            .and_then(|builder| builder.serve_at("/org/freedesktop/systemd1", manager))
            .expect("names that are well formed");
        let service = service.build().await.expect("the bus is there");
        Some(Self { bus, state, _service: service })
    }

    /// For who is to be tested.
    pub fn systemd(&self) -> Systemd {
        Systemd::at(&self.bus.path)
    }

    /// What it was asked for and has done, in order.
    pub fn asked(&self) -> Vec<String> {
        self.state.lock().asked.clone()
    }

    /// The units that are there.
    pub fn units(&self) -> Vec<String> {
        self.state.lock().units.keys().cloned().collect()
    }
}
