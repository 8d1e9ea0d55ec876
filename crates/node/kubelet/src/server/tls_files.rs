//! The server's TLS, where it comes from files: they are read again when they change, and connections made afterwards get what they
//! hold then. Whoever has a connection keeps it.
//!
//! Source: upstream's `dynamiccertificates`, which watches the same files and looks once a minute, too.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    fmt::Display,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use podium_pki::{KeyPair, Secret, certificate::from_pem, tls::ServingCertificate};
use rustls::{RootCertStore, ServerConfig, server::ResolvesServerCert};
use tokio::sync::watch;

use super::{ServerError, tls};
use crate::{Configuration, directory_watch::DirectoryWatch};

/// What no event tells, a directory that was replaced or one on a file server, is found so much later at most.
const EVERY: Duration = Duration::from_secs(60);
/// A change is acted on when nothing has followed for so long: a certificate and its key are written one after the other.
const QUIET: Duration = Duration::from_millis(100);
/// Changes that follow one another are waited for no more than so often: others may write to the same directory all the time.
const MOST_WAITS: u32 = 20;

/// What comes from files, and what they held.
struct Part<T> {
    /// As the log names it.
    what: &'static str,
    files: Vec<PathBuf>,
    /// A mark of what was read last, whole or not.
    seen: Option<u64>,
    value: T,
}

impl<T> Part<T> {
    fn new(what: &'static str, files: Vec<PathBuf>, value: T) -> Self {
        Self { what, files, seen: None, value }
    }

    /// Reads the files. True if there is another value than before; what is not whole leaves the old one and is said once.
    async fn look<E: Display>(&mut self, parse: impl FnOnce(Vec<String>) -> Result<T, E>) -> bool {
        if self.files.is_empty() {
            return false;
        }
        let read = read(&self.files).await.map_err(|error| error.to_string());
        let mut hasher = DefaultHasher::new();
        read.hash(&mut hasher);
        let mark = hasher.finish();
        if self.seen.replace(mark) == Some(mark) {
            return false;
        }
        match read.and_then(|texts| parse(texts).map_err(|error| error.to_string())) {
            Ok(value) => {
                self.value = value;
                true
            }
            Err(error) => {
                tracing::warn!(what = self.what, error, "read again and not whole: the old one is kept");
                false
            }
        }
    }
}

async fn read(files: &[PathBuf]) -> io::Result<Vec<String>> {
    let mut texts = Vec::new();
    for file in files {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", file.display()));
        texts.push(tokio::fs::read_to_string(file).await.map_err(named)?);
    }
    Ok(texts)
}

/// What the server's connections are made with.
pub(super) struct Tls {
    settings: Configuration,
    certificate: Part<Arc<dyn ResolvesServerCert>>,
    client_ca: Part<Arc<RootCertStore>>,
    current: watch::Sender<Arc<ServerConfig>>,
}

impl Tls {
    /// Serves what is given until files that the settings name have been read again.
    pub(super) fn new(
        resolver: Arc<dyn ResolvesServerCert>,
        client_ca: Arc<RootCertStore>,
        settings: &Configuration,
    ) -> Result<Self, ServerError> {
        let current = Arc::new(tls(resolver.clone(), client_ca.clone(), settings)?);
        let pair = match (&settings.tls_cert_file, &settings.tls_private_key_file) {
            (Some(certificate), Some(key)) => vec![certificate.clone(), key.clone()],
            _ => Vec::new(),
        };
        let authorities = settings.authentication.x509.client_ca_file.iter().cloned().collect();
        Ok(Self {
            settings: settings.clone(),
            certificate: Part::new("serving certificate", pair, resolver),
            client_ca: Part::new("authorities of clients", authorities, client_ca),
            current: watch::Sender::new(current),
        })
    }

    /// What new connections are made with.
    pub(super) fn current(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.current.subscribe()
    }

    /// Reads the files again whenever they change.
    pub(super) async fn follow(mut self) -> Infallible {
        if self.files().next().is_none() {
            return std::future::pending().await;
        }
        loop {
            // Before they are read: what changes afterwards is told.
            let watch = self.watch();
            self.look().await;
            wait(watch.as_ref()).await;
        }
    }

    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.certificate.files.iter().chain(&self.client_ca.files)
    }

    /// Watches where the files are named, and where they are: they may be links. None if nothing can be watched.
    fn watch(&self) -> Option<DirectoryWatch> {
        let real = self.files().filter_map(|file| file.canonicalize().ok());
        let files = self.files().cloned().chain(real);
        let directories: BTreeSet<PathBuf> =
            files.filter_map(|file| file.parent().map(Path::to_owned)).collect();
        let mut watch: Option<DirectoryWatch> = None;
        for directory in directories {
            match &watch {
                Some(watch) => _ = watch.add(&directory),
                None => watch = DirectoryWatch::new(&directory).ok(),
            }
        }
        watch
    }

    async fn look(&mut self) {
        let pair = |texts: Vec<String>| {
            let [certificate, key] = <[String; 2]>::try_from(texts).unwrap_or_default();
            let pair = KeyPair { certificate, key: Secret::new(key) };
            ServingCertificate::new(&pair).map(|serving| serving as Arc<dyn ResolvesServerCert>)
        };
        let authorities = |texts: Vec<String>| -> Result<_, Box<dyn std::error::Error + Send + Sync>> {
            let mut roots = RootCertStore::empty();
            for certificate in from_pem(&texts.concat())? {
                roots.add(certificate)?;
            }
            Ok(Arc::new(roots))
        };
        let changed = [self.certificate.look(pair).await, self.client_ca.look(authorities).await];
        if changed == [false, false] {
            return;
        }
        // A configuration of its own: sessions that the old authorities let in are not resumed.
        match tls(self.certificate.value.clone(), self.client_ca.value.clone(), &self.settings) {
            Ok(config) => {
                tracing::info!("serving by the files of TLS as they are now");
                self.current.send_replace(Arc::new(config));
            }
            Err(error) => tracing::warn!(%error, "the old configuration of TLS is kept"),
        }
    }
}

/// Waits until something has changed and it is quiet again.
async fn wait(watch: Option<&DirectoryWatch>) {
    let Some(watch) = watch else { return tokio::time::sleep(EVERY).await };
    match tokio::time::timeout(EVERY, watch.changed()).await {
        Err(_) => return,
        Ok(Err(error)) => {
            tracing::debug!(%error, "the files of TLS cannot be watched");
            return tokio::time::sleep(EVERY).await;
        }
        Ok(Ok(_)) => {}
    }
    for _ in 0..MOST_WAITS {
        if !matches!(tokio::time::timeout(QUIET, watch.changed()).await, Ok(Ok(_))) {
            return;
        }
    }
}
