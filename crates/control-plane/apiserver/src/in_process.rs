//! The server as a service in this process: no socket, no TLS, an identity attached.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body_util::BodyExt;
use tower::Service;

use crate::authentication::User;
use crate::body::{Body, BodyError, BoxError};
use crate::core::Core;
use crate::handler::{self, Caller};

/// Answers requests as one identity. Cheap to clone. Requests are authorised and admitted as any other.
#[derive(Clone)]
pub struct InProcess {
    core: Arc<Core>,
    user: Arc<User>,
}

impl InProcess {
    pub(crate) fn new(core: Arc<Core>, user: User) -> InProcess {
        InProcess { core, user: Arc::new(user) }
    }
}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcess").field("user", &self.user.name).finish_non_exhaustive()
    }
}

impl<B> Service<Request<B>> for InProcess
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Overload answers 429; the process' own parts are never turned away.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let request = request.map(|body| body.map_err(|error| BodyError(error.into())).boxed_unsync());
        let served =
            handler::serve(Arc::clone(&self.core), request, Caller::InProcess(Arc::clone(&self.user)));
        Box::pin(async move { Ok(served.await) })
    }
}
