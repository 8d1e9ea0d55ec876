//! The CRI calls: each finds what it is about and hands on. A call that changes something is finished even if its client
//! goes away.

mod filter;
mod image;
mod runtime;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use podium_cri::images::image_store_server::ImageStoreServer;
use podium_cri::v1::image_service_server::ImageServiceServer;
use podium_cri::v1::runtime_service_server::RuntimeServiceServer;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::{Response, Status};

use crate::Config;
use crate::core::{Error, Runtime};
use crate::streaming::Streaming;

/// Upstream's limit of a message: a list of many containers is long.
const MESSAGE_BYTES: usize = 16 << 20;
/// How long work in the background may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves until told to stop.
pub(crate) async fn serve(
    config: Config,
    ready: Box<dyn FnOnce() + Send>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let io = |what: &'static str| move |source| Error::Io { what, source };
    let socket = config.socket.clone();
    let opening = shutdown.clone();
    let runtime = tokio::task::spawn_blocking(move || Runtime::open(config, opening))
        .await
        .map_err(|error| Error::Io { what: "opening", source: std::io::Error::other(error) })??;
    runtime.recover().await?;
    Streaming::start(&runtime).await.map_err(io("serving streams"))?;
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(io("taking the socket")(error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&socket).map_err(io("taking the socket"))?;
    std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .map_err(io("guarding the socket"))?;
    ready();
    let router = Router {
        runtime: RuntimeServiceServer::new(Calls(Arc::clone(&runtime)))
            .max_decoding_message_size(MESSAGE_BYTES),
        image: ImageServiceServer::new(Calls(Arc::clone(&runtime))).max_decoding_message_size(MESSAGE_BYTES),
        store: ImageStoreServer::new(Calls(Arc::clone(&runtime))),
    };
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                runtime.tasks.spawn(connection(router.clone(), stream, shutdown.clone()));
            }
            Err(error) => tracing::warn!(%error, "a CRI connection was lost"),
        }
    }
    drop(router);
    runtime.tasks.close();
    if tokio::time::timeout(PATIENCE, runtime.tasks.wait()).await.is_err() {
        tracing::warn!("some work of the runtime did not end in time");
    }
    Ok(())
}

/// Calls by the name of their service.
#[derive(Clone, Debug)]
struct Router {
    runtime: RuntimeServiceServer<Calls>,
    image: ImageServiceServer<Calls>,
    store: ImageStoreServer<Calls>,
}

impl Router {
    async fn answer(mut self, request: Request<Incoming>) -> Result<http::Response<Body>, Infallible> {
        let service = request.uri().path().trim_start_matches('/').split('/').next().unwrap_or_default();
        match service {
            "runtime.v1.RuntimeService" => self.runtime.call(request).await,
            "runtime.v1.ImageService" => self.image.call(request).await,
            "podium.runtime.v1.ImageStore" => self.store.call(request).await,
            _ => Ok(Status::unimplemented(format!("unknown service {service}")).into_http()),
        }
    }
}

/// Serves a client until it goes, or until it has its answers at the end.
async fn connection(router: Router, stream: UnixStream, shutdown: CancellationToken) {
    let service = service_fn(move |request| router.clone().answer(request));
    let serving = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let outcome = tokio::select! {
        outcome = serving.as_mut() => outcome,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            match tokio::time::timeout(PATIENCE, serving).await {
                Ok(outcome) => outcome,
                // A watch that its client does not end.
                Err(_) => return,
            }
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a CRI connection ended");
    }
}

/// The services over one runtime.
#[derive(Clone, Debug)]
pub(crate) struct Calls(pub(crate) Arc<Runtime>);

impl Calls {
    /// Finishes `work` whatever becomes of the caller.
    async fn finish<T: Send + 'static>(
        &self,
        call: &'static str,
        work: impl Future<Output = Result<T, Status>> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let outcome = self.0.tasks.spawn(work).await;
        let outcome = outcome.unwrap_or_else(|error| Err(Status::internal(format!("{call}: {error}"))));
        if let Err(status) = &outcome {
            tracing::warn!(call, code = ?status.code(), message = status.message(), "refused");
        }
        outcome.map(Response::new)
    }
}
