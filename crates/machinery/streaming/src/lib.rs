//! Streams into pods on the wire: what kubectl speaks (WebSocket) and what container runtimes speak (SPDY/3.1).
//!
//! Nothing here opens a connection: every function works on a pair of byte streams that an upgrade has produced.
//!
//! - [`websocket`]: RFC 6455, the server's side.
//! - [`spdy`]: the frames of SPDY/3.1, the client's side, as far as Kubernetes uses them.
//! - [`exec`]: channels of `v5.channel.k8s.io` to SPDY streams and back.
//! - [`tunnel`]: SPDY inside WebSocket messages, for port-forward.

pub mod exec;
pub mod spdy;
pub mod tunnel;
pub mod websocket;

/// A stream ended otherwise than agreed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection failed.
    #[error("stream")]
    Io(#[from] std::io::Error),
    /// The peer broke the protocol; the connection cannot be used any more.
    #[error("{protocol}: {message}")]
    Protocol {
        /// `websocket` or `spdy`.
        protocol: &'static str,
        /// What was wrong.
        message: String,
    },
    /// The peer closed the connection before everything was said.
    #[error("the connection was closed")]
    Closed,
}
