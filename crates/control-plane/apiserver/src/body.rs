//! Bodies: reading a request's within limits, and the few shapes an answer's can have.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use podium_api::status::ApiError;

/// Any error of a body or a service.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a request's body could not be read to its end. A type of its own, because the compiler cannot follow boxed
/// errors through the conversions that HTTP libraries ask for.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BodyError(pub(crate) BoxError);

/// A request's body, wherever it comes from.
pub(crate) type RequestBody = UnsyncBoxBody<Bytes, BodyError>;

/// The largest request body. Source: upstream's `DefaultMaxRequestBodyBytes`-like limit for resources, 3 MiB.
pub(crate) const REQUEST_LIMIT: usize = 3 << 20;

/// Reads a whole request body.
///
/// Errors: 413 above [`REQUEST_LIMIT`]; 400 if the client stops in the middle.
pub(crate) async fn read(body: RequestBody) -> Result<Bytes, ApiError> {
    match Limited::new(body, REQUEST_LIMIT).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(ApiError::bad_request(format!("unable to read request body: {error}"))),
    }
}

/// 413.
pub(crate) fn too_large() -> ApiError {
    ApiError::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {REQUEST_LIMIT}"))
}

/// An answer's body.
pub enum Body {
    /// Ready bytes, sent in order. Their sum is the content length.
    Ready(VecDeque<Bytes>),
    /// Pieces made while sending; `length` when it is known beforehand.
    Stream {
        /// The pieces.
        pieces: Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>,
        /// Bytes still to come, if known.
        length: Option<u64>,
    },
    /// Someone else's body, passed on.
    Foreign(UnsyncBoxBody<Bytes, BoxError>),
}

impl Body {
    /// No bytes.
    pub fn empty() -> Body {
        Body::Ready(VecDeque::new())
    }

    /// These bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Body {
        Body::Ready(VecDeque::from([bytes.into()]))
    }

    /// A stream of unknown length.
    pub fn stream(pieces: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> Body {
        Body::Stream { pieces: Box::pin(pieces), length: None }
    }

    /// The length in bytes, if it is known.
    pub fn length(&self) -> Option<u64> {
        match self {
            Body::Ready(pieces) => Some(pieces.iter().map(|piece| piece.len() as u64).sum()),
            Body::Stream { length, .. } => *length,
            Body::Foreign(body) => body.size_hint().exact(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the bytes: they may hold secrets.
        f.debug_struct("Body").field("length", &self.length()).finish_non_exhaustive()
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            Body::Ready(pieces) => Poll::Ready(pieces.pop_front().map(|piece| Ok(Frame::data(piece)))),
            Body::Stream { pieces, length } => match pieces.as_mut().poll_next(cx) {
                Poll::Ready(Some(Ok(piece))) => {
                    if let Some(left) = length {
                        *left = left.saturating_sub(piece.len() as u64);
                    }
                    Poll::Ready(Some(Ok(Frame::data(piece))))
                }
                Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            },
            Body::Foreign(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Ready(pieces) => pieces.is_empty(),
            Body::Stream { length, .. } => *length == Some(0),
            Body::Foreign(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.length().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
