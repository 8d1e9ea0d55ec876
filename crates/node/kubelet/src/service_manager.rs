//! The service manager, systemd, that started this process: it is told that the kubelet is up and, again and again, that it is
//! well; a unit with `WatchdogSec` is started anew when that stays out. Source: sd_notify(3), and upstream's
//! `pkg/kubelet/watchdog`, whose times and limits these are.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    time::Duration,
};

use podium_client::Shutdown;

use crate::healthz::Check;

/// A shorter time to be heard in is refused.
const SHORTEST: Duration = Duration::from_secs(1);
/// Pause before what could not be told is tried once more.
const RETRY: Duration = Duration::from_secs(1);

/// Where the service manager listens, and how long it waits for a word.
#[derive(Clone, Debug)]
pub struct ServiceManager {
    socket: SocketAddr,
    watchdog: Option<Duration>,
}

/// What the service manager wrote into the environment is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum ServiceManagerError {
    /// `NOTIFY_SOCKET` is no address.
    #[error("NOTIFY_SOCKET {text:?}")]
    Socket {
        /// What it says.
        text: String,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// `WATCHDOG_USEC` or `WATCHDOG_PID` is no number.
    #[error("configure watchdog: {name} {text:?} is not a number above zero")]
    Number {
        /// Which one.
        name: &'static str,
        /// What it says.
        text: String,
    },
    /// The watchdog waits too short a time.
    #[error("configure watchdog timeout too small: {0:?}")]
    TooShort(Duration),
}

impl ServiceManager {
    /// Reads its `variable`s; None if there is no service manager that wants to be told. `pid`: of this process.
    ///
    /// # Errors
    /// They cannot be read, or ask for the impossible.
    pub fn of(
        variable: impl Fn(&str) -> Option<String>,
        pid: u32,
    ) -> Result<Option<Self>, ServiceManagerError> {
        let number = |name: &'static str| match variable(name) {
            None => Ok(None),
            Some(text) => match text.parse::<u64>() {
                Ok(number) if number > 0 => Ok(Some(number)),
                _ => Err(ServiceManagerError::Number { name, text }),
            },
        };
        let watchdog = number("WATCHDOG_USEC")?.map(Duration::from_micros);
        let ours = number("WATCHDOG_PID")?.is_none_or(|wanted| wanted == u64::from(pid));
        let watchdog = watchdog.filter(|_| ours);
        if let Some(short) = watchdog.filter(|time| *time <= SHORTEST) {
            return Err(ServiceManagerError::TooShort(short));
        }
        let Some(text) = variable("NOTIFY_SOCKET").filter(|text| !text.is_empty()) else { return Ok(None) };
        let socket = match text.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(&text),
        };
        let socket = socket.map_err(|source| ServiceManagerError::Socket { text, source })?;
        Ok(Some(Self { socket, watchdog }))
    }

    fn tell(&self, state: &str) -> io::Result<()> {
        let from = UnixDatagram::unbound()?;
        // A manager whose queue is full is not worth standing still for.
        from.set_nonblocking(true)?;
        from.send_to_addr(state.as_bytes(), &self.socket).map(drop)
    }

    /// Says that the kubelet is up, then, where it wants to know, that it is well, in half the time that is left each time.
    /// Runs until shutdown.
    pub(crate) async fn run(&self, check: Check, shutdown: &Shutdown) {
        if let Err(error) = self.tell("READY=1") {
            tracing::warn!(%error, "the service manager does not hear that the kubelet is up");
        }
        let Some(time) = self.watchdog else { return };
        let watched = async {
            loop {
                match check() {
                    Ok(()) => self.tell_well().await,
                    Err(why) => tracing::error!(why, "the kubelet is not well: its watchdog is not told"),
                }
                tokio::time::sleep(time / 2).await;
            }
        };
        shutdown.run_until_cancelled(watched).await;
    }

    async fn tell_well(&self) {
        const WELL: &str = "WATCHDOG=1";
        let Err(error) = self.tell(WELL) else { return };
        tracing::debug!(%error, "the watchdog could not be told; trying again");
        tokio::time::sleep(RETRY).await;
        if let Err(error) = self.tell(WELL) {
            tracing::error!(%error, "failed to notify watchdog");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use super::*;

    #[track_caller]
    fn read(variables: &[(&str, &str)]) -> Result<Option<ServiceManager>, String> {
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        ServiceManager::of(variable, 7).map_err(|error| error.to_string())
    }

    #[test]
    fn what_the_environment_says() {
        let socket = ("NOTIFY_SOCKET", "@podium-test");
        let watchdog = |variables: &[(&str, &str)]| read(variables).unwrap().unwrap().watchdog;
        assert!(read(&[]).unwrap().is_none());
        assert!(read(&[("WATCHDOG_USEC", "30000000")]).unwrap().is_none(), "nobody to tell");
        assert_eq!(watchdog(&[socket]), None);
        let usec = ("WATCHDOG_USEC", "30000000");
        assert_eq!(watchdog(&[socket, usec]), Some(Duration::from_secs(30)));
        assert_eq!(watchdog(&[socket, usec, ("WATCHDOG_PID", "7")]), Some(Duration::from_secs(30)));
        assert_eq!(watchdog(&[socket, usec, ("WATCHDOG_PID", "8")]), None, "another process's");
        for (usec, why) in [("0", "not a number"), ("soon", "not a number"), ("1000000", "too small: 1s")] {
            let error = read(&[socket, ("WATCHDOG_USEC", usec)]).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let long = "/x".repeat(100);
        assert!(read(&[("NOTIFY_SOCKET", &long)]).unwrap_err().starts_with("NOTIFY_SOCKET"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_kubelet_that_is_not_well_falls_silent() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let heard = UnixDatagram::bind(&path).unwrap();
        heard.set_nonblocking(true).unwrap();
        let socket = path.to_str().unwrap();
        let manager = read(&[("NOTIFY_SOCKET", socket), ("WATCHDOG_USEC", "10000000")]).unwrap().unwrap();
        let (well, shutdown) = (Arc::new(AtomicBool::new(true)), Shutdown::new());
        let (told, until) = (well.clone(), shutdown.clone());
        let check: Check =
            Arc::new(move || if told.load(Ordering::Relaxed) { Ok(()) } else { Err("stuck".into()) });
        let running = tokio::spawn(async move { manager.run(check, &until).await });
        let states = || {
            let mut buffer = [0; 64];
            let mut states = Vec::new();
            while let Ok(length) = heard.recv(&mut buffer) {
                states.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
            states
        };
        // The clock is the test's own.
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert_eq!(states(), ["READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1"]);
        well.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(states(), [] as [&str; 0]);
        well.store(true, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(states(), ["WATCHDOG=1"]);
        shutdown.cancel();
        running.await.unwrap();
    }
}
