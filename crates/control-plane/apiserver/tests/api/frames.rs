//! A watch as its client reads it.

use std::time::Duration;

use futures::StreamExt;
use http_body_util::{BodyExt, Empty};
use podium_apiserver::User;
use serde_json::Value;
use tower::ServiceExt;

use crate::support::Server;

/// A watch's frames, one by one.
pub(crate) struct Frames {
    body: futures::stream::BoxStream<'static, bytes::Bytes>,
    buffer: Vec<u8>,
}

impl Frames {
    pub(crate) async fn open(server: &Server, uri: &str, accept: &str) -> Frames {
        let request = http::Request::builder()
            .uri(uri)
            .header("accept", accept)
            .body(Empty::<bytes::Bytes>::new())
            .unwrap();
        let service = server.server.service(User::new("admin", &["system:masters"]));
        let Ok(reply) = service.oneshot(request).await;
        assert_eq!(reply.status(), 200);
        let body = reply.into_body().into_data_stream().map(|piece| piece.unwrap()).boxed();
        Frames { body, buffer: Vec::new() }
    }

    /// The next frame; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let piece = tokio::time::timeout(Duration::from_secs(20), self.body.next())
                .await
                .expect("a frame in time")?;
            self.buffer.extend_from_slice(&piece);
        }
    }

    pub(crate) async fn expect(&mut self, kind: &str, name: &str) -> Value {
        let frame = self.next().await.expect("a frame");
        assert_eq!(
            (frame["type"].as_str(), frame["object"]["metadata"]["name"].as_str()),
            (Some(kind), Some(name)),
            "{frame}"
        );
        frame
    }

    /// Reads on until an object is as wanted. The first frames of a watch are what is there already.
    pub(crate) async fn until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let found = async {
            while let Some(frame) = self.next().await {
                if wanted(&frame["object"]) {
                    return frame["object"].clone();
                }
                last = frame;
            }
            panic!("the watch ended before {what}: {last}");
        };
        tokio::time::timeout(Duration::from_secs(30), found)
            .await
            .unwrap_or_else(|_| panic!("not seen: {what}"))
    }
}
