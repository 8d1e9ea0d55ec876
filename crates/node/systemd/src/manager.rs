//! Calls to systemd's manager.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use futures::StreamExt;
use tokio::net::UnixStream;
use zbus::message::Type;
use zbus::zvariant::{OwnedObjectPath, Value};
use zbus::{Connection, MatchRule, MessageStream, connection};

use crate::Property;

const SERVICE: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// The system's message bus.
pub const BUS: &str = "/run/dbus/system_bus_socket";
/// Exists while systemd is the machine's init. Source: sd_booted(3).
const RUNNING: &str = "/run/systemd/system";
/// How long systemd may take for one unit.
const LIMIT: Duration = Duration::from_secs(30);
/// Ends of jobs that wait to be read: systemd tells of everybody's.
const SIGNALS: usize = 1024;

/// systemd is not what this machine was started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotHere;

impl fmt::Display for NotHere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cgroupDriver systemd: systemd is not the init of this machine (there is no {RUNNING}); use cgroupfs"
        )
    }
}

impl std::error::Error for NotHere {}

/// Why systemd did not do it.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// The bus cannot be reached.
    #[error("no message bus at {path}: {source}")]
    Bus {
        /// Its socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It said no, or the connection failed.
    #[error("systemd, asked for {unit}: {source}")]
    Call {
        /// The unit.
        unit: String,
        /// What it said.
        source: Box<zbus::Error>,
    },
    /// It said nothing.
    #[error("systemd did not answer for {unit} in {LIMIT:?}")]
    Silent {
        /// The unit.
        unit: String,
    },
    /// It tried, and failed.
    #[error("systemd did not start {unit}: its job ended as {result}")]
    Job {
        /// The unit.
        unit: String,
        /// In systemd's words.
        result: String,
    },
}

/// What came of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// It is there now.
    New,
    /// It was there before, and is as it was.
    Old,
}

/// systemd, on the bus at a socket. Every task has a connection of its own: they are rare, the bus may be started anew, and
/// nothing is held meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Systemd {
    bus: PathBuf,
}

impl Systemd {
    /// The machine's.
    ///
    /// # Errors
    /// The machine was started with something else.
    pub fn of_machine() -> Result<Self, NotHere> {
        if std::path::Path::new(RUNNING).is_dir() { Ok(Self::at(BUS)) } else { Err(NotHere) }
    }

    /// One on another bus.
    pub fn at(bus: impl Into<PathBuf>) -> Self {
        Self { bus: bus.into() }
    }

    /// Starts a transient unit and waits until it has started.
    ///
    /// # Errors
    /// It has not.
    pub async fn start(&self, unit: &str, properties: Vec<Property>) -> Result<Made, SystemdError> {
        let ended = self.limited(unit, async |bus| match start(bus, unit, properties).await {
            Err(error) if is(&error, "UnitExists") => Ok(None),
            other => other.map(Some),
        });
        match ended.await?.as_deref() {
            None => Ok(Made::Old),
            Some("done") => Ok(Made::New),
            Some(result) => Err(SystemdError::Job { unit: unit.to_owned(), result: result.to_owned() }),
        }
    }

    /// Sets properties of a unit, until the machine is started anew.
    ///
    /// # Errors
    /// They are not set.
    pub async fn set(&self, unit: &str, properties: Vec<Property>) -> Result<(), SystemdError> {
        let about = (unit, true, properties);
        self.limited(unit, async |bus| call(bus, "SetUnitProperties", &about).await.map(drop)).await
    }

    /// Stops a unit and forgets how it ended; one that is gone is well.
    ///
    /// # Errors
    /// It is not known to stop.
    pub async fn stop(&self, unit: &str) -> Result<(), SystemdError> {
        let gone = |answer: zbus::Result<zbus::Message>| match answer {
            Err(error) if is(&error, "NoSuchUnit") => Ok(()),
            other => other.map(drop),
        };
        self.limited(unit, async |bus| {
            gone(call(bus, "StopUnit", &(unit, "replace")).await)?;
            // One that has failed is kept for people to see: a container's end is told elsewhere.
            gone(call(bus, "ResetFailedUnit", &(unit,)).await)
        })
        .await
    }

    /// Sends a signal to all processes of a unit.
    ///
    /// # Errors
    /// It is not sent.
    pub async fn signal(&self, unit: &str, signal: i32) -> Result<(), SystemdError> {
        let about = (unit, "all", signal);
        self.limited(unit, async |bus| call(bus, "KillUnit", &about).await.map(drop)).await
    }

    async fn limited<T>(
        &self,
        unit: &str,
        task: impl AsyncFnOnce(&Connection) -> zbus::Result<T>,
    ) -> Result<T, SystemdError> {
        let stream = UnixStream::connect(&self.bus)
            .await
            .map_err(|source| SystemdError::Bus { path: self.bus.clone(), source })?;
        let whole = async {
            let bus = connection::Builder::unix_stream(stream).build().await?;
            task(&bus).await
        };
        match tokio::time::timeout(LIMIT, whole).await {
            Ok(done) => {
                done.map_err(|source| SystemdError::Call { unit: unit.to_owned(), source: Box::new(source) })
            }
            Err(_) => Err(SystemdError::Silent { unit: unit.to_owned() }),
        }
    }
}

async fn call<B>(bus: &Connection, method: &str, about: &B) -> zbus::Result<zbus::Message>
where
    B: serde::Serialize + zbus::zvariant::DynamicType,
{
    bus.call_method(Some(SERVICE), PATH, Some(MANAGER), method, about).await
}

/// Starts a transient unit; the result of its job, `done` if all is well.
async fn start(bus: &Connection, unit: &str, properties: Vec<Property>) -> zbus::Result<String> {
    let rule = MatchRule::builder()
        .msg_type(Type::Signal)
        .sender(SERVICE)?
        .interface(MANAGER)?
        .member("JobRemoved")?
        .build();
    let mut ends = MessageStream::for_match_rule(rule, bus, Some(SIGNALS)).await?;
    // It tells of jobs only to those who said that they want to hear.
    call(bus, "Subscribe", &()).await?;
    let none: Vec<(&str, Vec<(&str, Value<'_>)>)> = Vec::new();
    let answer = call(bus, "StartTransientUnit", &(unit, "replace", properties, none)).await?;
    let job: OwnedObjectPath = answer.body().deserialize()?;
    while let Some(end) = ends.next().await {
        let end = end?;
        let (_, ended, _, result): (u32, OwnedObjectPath, String, String) = end.body().deserialize()?;
        if ended == job {
            return Ok(result);
        }
    }
    Err(zbus::Error::Failure("the message bus has closed the connection".to_owned()))
}

/// Whether systemd answered with this error.
fn is(error: &zbus::Error, name: &str) -> bool {
    matches!(error, zbus::Error::MethodError(told, _, _) if told.as_str().strip_prefix("org.freedesktop.systemd1.") == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeSystemd;

    #[tokio::test(flavor = "multi_thread")]
    async fn units_start_are_bounded_and_stop() {
        let Some(fake) = FakeSystemd::start(()).await else { return };
        let systemd = fake.systemd();
        let limit = |most: u64| vec![("TasksMax", Value::from(most))];
        assert_eq!(systemd.start("a-b.slice", limit(5)).await.unwrap(), Made::New);
        assert_eq!(systemd.start("a-b.slice", limit(6)).await.unwrap(), Made::Old);
        systemd.set("a-b.slice", limit(7)).await.unwrap();
        systemd.stop("a-b.slice").await.unwrap();
        // Gone already.
        systemd.stop("a-b.slice").await.unwrap();
        let error = systemd.start("broken.slice", Vec::new()).await.unwrap_err();
        assert_eq!(error.to_string(), "systemd did not start broken.slice: its job ended as failed");
        let error = systemd.set("none.slice", Vec::new()).await.unwrap_err();
        assert!(error.to_string().starts_with("systemd, asked for none.slice: "), "{error}");
        assert_eq!(
            fake.asked(),
            [
                "start a-b.slice replace TasksMax=5",
                "set a-b.slice TasksMax=7",
                "stop a-b.slice",
                "start broken.slice replace",
            ]
        );
    }

    #[tokio::test]
    async fn without_a_bus_the_error_says_so() {
        let error = Systemd::at("/nonexistent/bus").stop("a.slice").await.unwrap_err().to_string();
        assert!(error.starts_with("no message bus at /nonexistent/bus: "), "{error}");
        assert!(NotHere.to_string().contains("systemd is not the init of this machine"));
    }
}
