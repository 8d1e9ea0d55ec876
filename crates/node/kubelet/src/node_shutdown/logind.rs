//! systemd's login manager over D-Bus: delay locks on the machine's shutdown, and the signal that one begins.
//!
//! Source: org.freedesktop.login1(5), and systemd's page on inhibitor locks.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::StreamExt;
use podium_systemd::{Systemd, SystemdError};
use tokio::net::UnixStream;
use zbus::{
    Connection, MatchRule, MessageStream, connection,
    message::Type,
    zvariant::{OwnedFd, OwnedValue},
};

const SERVICE: &str = "org.freedesktop.login1";
const PATH: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";
const SIGNAL: &str = "PrepareForShutdown";
const BUS: &str = "org.freedesktop.DBus";

/// How long one call may take.
const CALL: Duration = Duration::from_secs(10);
/// How often, and after what pauses, the delay is looked at after logind was told to read its configuration: the signal
/// that tells it so is not answered.
const LOOKS: u32 = 50;
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The file in the kubelet's directory that holds what was written into the drop-in.
const WRITTEN: &str = "logind-drop-in";
/// Signals that wait to be read: there is one when a shutdown begins and one when it is called off.
const SIGNALS: usize = 16;

/// Where logind is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogindPlaces {
    /// The socket of the system's message bus.
    pub bus: PathBuf,
    /// The directory of logind's drop-ins, into which the longer delay is written.
    pub drop_ins: PathBuf,
}

impl Default for LogindPlaces {
    fn default() -> Self {
        Self {
            bus: PathBuf::from(podium_systemd::BUS),
            drop_ins: PathBuf::from("/etc/systemd/logind.conf.d"),
        }
    }
}

impl LogindPlaces {
    /// The drop-in by upstream's name.
    fn drop_in(&self) -> PathBuf {
        self.drop_ins.join("99-kubelet.conf")
    }

    /// Makes logind read its configuration.
    async fn reload(&self) -> Result<(), SystemdError> {
        Systemd::at(&self.bus).signal("systemd-logind.service", libc::SIGHUP).await
    }

    /// Takes the longer delay away again that the kubelet of this `root` directory asked for; true if there was one. What
    /// somebody else has written since stays.
    ///
    /// # Errors
    /// It cannot be removed.
    pub async fn withdraw(&self, root: &Path) -> io::Result<bool> {
        let path = self.drop_in();
        let ours = match (fs::read(root.join(WRITTEN)), fs::read(&path)) {
            (Ok(written), Ok(found)) => written == found,
            _ => false,
        };
        if ours {
            fs::remove_file(&path)?;
            if let Err(error) = self.reload().await {
                tracing::warn!(%error, "logind keeps its longer delay until it starts again");
            }
        }
        Ok(ours)
    }
}

/// Why logind cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogindError {
    #[error("no message bus at {path}")]
    Bus { path: PathBuf, source: io::Error },
    #[error("cannot {what}")]
    Call { what: &'static str, source: Box<zbus::Error> },
    #[error("cannot {what}: no answer")]
    Silent { what: &'static str },
    #[error("the message bus has closed the connection")]
    Closed,
    #[error("cannot make logind read its configuration")]
    Reload(#[from] SystemdError),
    #[error("cannot write {path}")]
    DropIn { path: PathBuf, source: io::Error },
    #[error(
        "unable to update logind InhibitDelayMaxSec to {wanted:?} (ShutdownGracePeriod), current value of InhibitDelayMaxSec ({current:?}) is less than requested ShutdownGracePeriod"
    )]
    Delay { wanted: Duration, current: Duration },
}

/// A connection to the bus that logind is on.
#[derive(Debug)]
pub(crate) struct Logind<'a> {
    bus: Connection,
    places: &'a LogindPlaces,
}

/// A call with a time limit.
async fn limited<T>(
    what: &'static str,
    call: impl Future<Output = zbus::Result<T>>,
) -> Result<T, LogindError> {
    match tokio::time::timeout(CALL, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(LogindError::Call { what, source: Box::new(source) }),
        Err(_) => Err(LogindError::Silent { what }),
    }
}

impl<'a> Logind<'a> {
    pub(crate) async fn connect(places: &'a LogindPlaces) -> Result<Self, LogindError> {
        let stream = UnixStream::connect(&places.bus)
            .await
            .map_err(|source| LogindError::Bus { path: places.bus.clone(), source })?;
        let bus = limited("log in to the message bus", connection::Builder::unix_stream(stream).build());
        Ok(Self { bus: bus.await?, places })
    }

    /// The signals that come from now on.
    pub(crate) async fn shutdowns(&self) -> Result<Shutdowns<'_>, LogindError> {
        let subscribe = async {
            let rule = MatchRule::builder()
                .msg_type(Type::Signal)
                .sender(SERVICE)?
                .path(PATH)?
                .interface(MANAGER)?
                .member(SIGNAL)?
                .build();
            MessageStream::for_match_rule(rule, &self.bus, Some(SIGNALS)).await
        };
        Ok(Shutdowns { bus: &self.bus, stream: limited("ask for logind's signals", subscribe).await? })
    }

    /// A delay lock. It is let go when the descriptor is closed.
    pub(crate) async fn inhibit(&self) -> Result<OwnedFd, LogindError> {
        let call = async {
            let about = ("shutdown", "kubelet", "Kubelet needs time to handle node shutdown", "delay");
            let answer = self.bus.call_method(Some(SERVICE), PATH, Some(MANAGER), "Inhibit", &about).await?;
            answer.body().deserialize::<OwnedFd>()
        };
        limited("take a delay lock on shutdown", call).await
    }

    /// Whether a shutdown is under way.
    pub(crate) async fn is_preparing(&self) -> Result<bool, LogindError> {
        self.property("read PreparingForShutdown of logind", "PreparingForShutdown").await
    }

    /// Makes logind wait for delay locks at least so long. `root`: the kubelet's own directory, where it is noted.
    pub(crate) async fn allow(&self, wanted: Duration, root: &Path) -> Result<(), LogindError> {
        if self.delay().await? >= wanted {
            return Ok(());
        }
        let path = self.places.drop_in();
        write_delay(&path, wanted, root).map_err(|source| LogindError::DropIn { path, source })?;
        self.places.reload().await?;
        let mut current = self.delay().await?;
        for _ in 0..LOOKS {
            if current >= wanted {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
            current = self.delay().await?;
        }
        if current >= wanted { Ok(()) } else { Err(LogindError::Delay { wanted, current }) }
    }

    /// How long logind waits for delay locks at most.
    async fn delay(&self) -> Result<Duration, LogindError> {
        let micros: u64 = self.property("read InhibitDelayMaxUSec of logind", "InhibitDelayMaxUSec").await?;
        Ok(Duration::from_micros(micros))
    }

    async fn property<T>(&self, what: &'static str, name: &str) -> Result<T, LogindError>
    where
        T: TryFrom<OwnedValue, Error = zbus::zvariant::Error>,
    {
        let call = async {
            let about = (MANAGER, name);
            let properties = Some("org.freedesktop.DBus.Properties");
            let answer = self.bus.call_method(Some(SERVICE), PATH, properties, "Get", &about).await?;
            let value: OwnedValue = answer.body().deserialize()?;
            T::try_from(value).map_err(zbus::Error::from)
        };
        limited(what, call).await
    }
}

/// Drop-ins have whole seconds: a part of one is counted full.
fn write_delay(path: &Path, delay: Duration, root: &Path) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
    let text = format!("# Kubelet logind override\n[Login]\nInhibitDelayMaxSec={seconds}\n");
    // First what lets it be taken away again.
    fs::write(root.join(WRITTEN), &text)?;
    fs::write(path, text)
}

/// logind's word on shutdowns, as it comes.
#[derive(Debug)]
pub(crate) struct Shutdowns<'a> {
    bus: &'a Connection,
    stream: MessageStream,
}

impl Shutdowns<'_> {
    /// The next one: true if a shutdown begins, false if it was called off.
    pub(crate) async fn next(&mut self) -> Result<bool, LogindError> {
        loop {
            let message = match self.stream.next().await {
                None => return Err(LogindError::Closed),
                Some(message) => message.map_err(|source| LogindError::Call {
                    what: "read logind's signals",
                    source: Box::new(source),
                })?,
            };
            let Ok(begins) = message.body().deserialize::<bool>() else { continue };
            // Any user of the machine may send signals to whom it likes: only the owner of logind's name is believed.
            let owner = async {
                let answer =
                    self.bus.call_method(Some(BUS), "/", Some(BUS), "GetNameOwner", &SERVICE).await?;
                answer.body().deserialize::<String>()
            };
            let owner = limited("ask who logind is", owner).await?;
            if message.header().sender().is_some_and(|sender| sender.as_str() == owner) {
                return Ok(begins);
            }
            tracing::warn!("a signal of shutdown that is not logind's was passed over");
        }
    }
}
