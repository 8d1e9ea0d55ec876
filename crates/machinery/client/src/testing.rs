//! A server that a test plays by hand: every request of the client waits until the test answers it.
//!
//! Nothing here opens a socket or needs a real API server, and the order of everything is the test's.

use std::convert::Infallible;
use std::fmt;

use bytes::Bytes;
use futures::channel::mpsc as stream;
use http::{Request, Response, StatusCode, Uri};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

type Answer = Response<BoxBody<Bytes, std::io::Error>>;

/// The server's side.
pub struct HandPlayedServer {
    requests: mpsc::UnboundedReceiver<Call>,
}

/// One request that waits for its answer. Dropping it answers with a broken connection.
pub struct Call {
    /// The method.
    pub method: http::Method,
    /// Path and query.
    pub uri: Uri,
    /// What else was sent ahead.
    pub headers: http::HeaderMap,
    /// The body as JSON; null when empty.
    pub body: Value,
    reply: oneshot::Sender<Answer>,
}

/// A watch response that stays open until dropped or [`WatchStream::break_off`].
pub struct WatchStream {
    sender: stream::UnboundedSender<Result<Frame<Bytes>, std::io::Error>>,
}

impl fmt::Debug for HandPlayedServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandPlayedServer")
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.method, self.uri, self.body)
    }
}

impl fmt::Debug for WatchStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WatchStream")
    }
}

impl HandPlayedServer {
    /// A server and a client of it. Must be called within a tokio runtime.
    pub fn new() -> (Self, Client) {
        let (sender, requests) = mpsc::unbounded_channel();
        let service = tower::service_fn(move |request: Request<Body>| {
            let sender = sender.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
                let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body)? };
                let (reply, answer) = oneshot::channel();
                let call = Call { method: parts.method, uri: parts.uri, headers: parts.headers, body, reply };
                sender.send(call).map_err(|_| std::io::Error::other("the server is gone"))?;
                answer.await.map_err(|_| std::io::Error::other("connection broken"))
            }
        });
        (Self { requests }, crate::in_process(service, "default"))
    }

    /// The next request. Waits for it; give it a limit.
    pub async fn call(&mut self) -> Call {
        self.requests.recv().await.expect("the client is alive")
    }

    /// A request that is there already.
    pub fn try_call(&mut self) -> Option<Call> {
        self.requests.try_recv().ok()
    }
}

impl Call {
    /// The value of a query parameter, percent-decoding left out.
    pub fn query(&self, name: &str) -> Option<&str> {
        let pairs = self.uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
        pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// Answers with an object.
    pub fn json(self, body: &Value) {
        self.bytes(StatusCode::OK, body.to_string());
    }

    /// Answers with a failure `Status`.
    pub fn fail(self, code: u16, reason: &str, message: &str) {
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "code": code});
        self.bytes(StatusCode::from_u16(code).expect("a valid code"), status.to_string());
    }

    /// Answers with a list.
    pub fn list(self, resource_version: &str, items: &[Value]) {
        self.json(&json!({"kind": "List", "apiVersion": "v1",
            "metadata": {"resourceVersion": resource_version}, "items": items}));
    }

    /// Answers with any bytes.
    pub fn bytes(self, code: StatusCode, body: impl Into<Bytes>) {
        let body = Full::new(body.into()).map_err(|never: Infallible| match never {}).boxed();
        self.answer(code, body);
    }

    /// Answers with an open watch.
    pub fn watch(self) -> WatchStream {
        let (sender, receiver) = stream::unbounded();
        self.answer(StatusCode::OK, BodyExt::boxed(StreamBody::new(receiver)));
        WatchStream { sender }
    }

    fn answer(self, code: StatusCode, body: BoxBody<Bytes, std::io::Error>) {
        let response = Response::builder().status(code).body(body).expect("a valid response");
        // A client that left no longer wants it.
        let _ = self.reply.send(response);
    }
}

impl WatchStream {
    /// Sends one event.
    pub fn send(&self, kind: &str, object: &Value) {
        self.raw(format!("{}\n", json!({"type": kind, "object": object})));
    }

    /// Sends a bookmark.
    pub fn bookmark(&self, resource_version: &str) {
        self.send("BOOKMARK", &json!({"kind": "X", "metadata": {"resourceVersion": resource_version}}));
    }

    /// Sends any bytes.
    pub fn raw(&self, bytes: impl Into<Bytes>) {
        // A client that left no longer wants it.
        let _ = self.sender.unbounded_send(Ok(Frame::data(bytes.into())));
    }

    /// Ends the watch with a connection error.
    pub fn break_off(self) {
        let _ = self.sender.unbounded_send(Err(std::io::Error::other("connection reset")));
    }
}
