//! Both ends of a plugin's socket: a lazy channel to one, and a server behind one.

use std::{
    convert::Infallible,
    future::Future,
    io,
    path::{Path, PathBuf},
};

use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{UnixListener, UnixStream},
    task::JoinSet,
};
use tonic::{body::Body, transport::Channel};
use tower::Service;

/// A channel to the service behind a socket; it connects on first use, and again after a loss.
#[must_use]
pub fn channel(socket: &Path) -> Channel {
    podium_cri::unix_channel(socket.to_owned())
}

/// A socket that listens. Whoever connects after [`PluginSocket::bind`] is served once [`PluginSocket::serve`] runs.
#[derive(Debug)]
pub struct PluginSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl PluginSocket {
    /// Listens at `path`, in place of a socket that an earlier process left there. Only the owner may connect.
    ///
    /// # Errors
    /// What the system says; a path of more than 107 bytes is no address of a socket.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        Ok(Self { path: path.to_owned(), listener })
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Serves one gRPC service until `ended` is, or the future is dropped; connections end with it. The socket's file stays:
    /// a watch on its directory tells who took it away.
    pub async fn serve<S>(self, service: S, ended: impl Future<Output = ()>)
    where
        S: Service<http::Request<Incoming>, Response = http::Response<Body>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
    {
        let mut connections = JoinSet::new();
        tokio::pin!(ended);
        loop {
            let accepted = tokio::select! {
                () = &mut ended => break,
                accepted = self.listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, service.clone()));
                }
                Err(error) => {
                    // Out of file descriptors, most likely: others must close theirs first.
                    tracing::warn!(%error, socket = %self.path.display(), "accept failed");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
        }
    }
}

async fn connection<S>(stream: UnixStream, service: S)
where
    S: Service<http::Request<Incoming>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    let answer = service_fn(move |request| service.clone().call(request));
    let serving = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer);
    if let Err(error) = serving.await {
        tracing::debug!(%error, "a plugin's connection ended");
    }
}
