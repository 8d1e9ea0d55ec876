//! Counts what a remote client asks of the API, and how much it says and hears.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Buf;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tower::{Layer, Service};

use super::{Counter, Family, Histogram};

pub(super) static REQUESTS: Family<Counter, 3> = Family::new(
    "rest_client_requests_total",
    "[ALPHA] Number of HTTP requests, partitioned by status code, method, and host.",
    ["code", "method", "host"],
    Counter::default,
);

const SECONDS: &[f64] = &[0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];

pub(super) static DURATIONS: Family<Histogram, 2> = Family::new(
    "rest_client_request_duration_seconds",
    "[ALPHA] Request latency in seconds. Broken down by verb, and host.",
    ["verb", "host"],
    || Histogram::new(SECONDS),
);

/// 64 bytes to 16 MiB.
const BYTES: &[f64] = &[
    64.0,
    256.0,
    512.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
];

pub(super) static REQUEST_SIZES: Family<Histogram, 2> = Family::new(
    "rest_client_request_size_bytes",
    "[ALPHA] Request size in bytes. Broken down by verb and host.",
    ["verb", "host"],
    || Histogram::new(BYTES),
);

pub(super) static RESPONSE_SIZES: Family<Histogram, 2> = Family::new(
    "rest_client_response_size_bytes",
    "[ALPHA] Response size in bytes. Broken down by verb and host.",
    ["verb", "host"],
    || Histogram::new(BYTES),
);

/// The layer for a client of one host.
#[derive(Clone, Debug)]
pub struct CountRequests {
    host: Arc<str>,
}

impl CountRequests {
    /// Counts requests to `host`, which is the name and port of a URL.
    #[must_use]
    pub fn of(host: &str) -> Self {
        Self { host: host.into() }
    }
}

impl<S> Layer<S> for CountRequests {
    type Service = CountedRequests<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CountedRequests { inner, host: self.host.clone() }
    }
}

/// A client whose requests are counted.
#[derive(Clone, Debug)]
pub struct CountedRequests<S> {
    inner: S,
    host: Arc<str>,
}

impl<S, A, B> Service<Request<A>> for CountedRequests<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
    A: Body,
{
    type Response = Response<CountedBody<B>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let (method, host, started) = (request.method().clone(), self.host.clone(), Instant::now());
        let (size, watches) = (request.body().size_hint().exact(), watches(&request));
        self.inner
            .call(request)
            .map(move |outcome| {
                let status = outcome.as_ref().ok().map(Response::status);
                // What client-go says of a request without an answer.
                let code = status.as_ref().map_or("<error>", StatusCode::as_str);
                REQUESTS.with([code, method.as_str(), &host]).increment();
                DURATIONS.with([method.as_str(), &host]).observe(started.elapsed().as_secs_f64());
                // As client-go: not that of a watch, nor one that nobody knows beforehand.
                if let Some(size) = size.filter(|_| !watches) {
                    REQUEST_SIZES.with([method.as_str(), &host]).observe(bytes(size));
                }
                let whole = !watches && status != Some(StatusCode::SWITCHING_PROTOCOLS);
                let sizes = whole.then(|| RESPONSE_SIZES.with([method.as_str(), &host]));
                outcome.map(|response| response.map(|inner| CountedBody { inner, sizes, size: 0 }))
            })
            .boxed()
    }
}

/// Whether the answer is a stream of events without an end that means anything.
fn watches<A>(request: &Request<A>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    query.split('&').any(|pair| matches!(pair, "watch=true" | "watch=1"))
}

#[expect(clippy::cast_precision_loss, reason = "no body has 2^53 bytes")]
fn bytes(size: u64) -> f64 {
    size as f64
}

/// An answer's body, whose size is counted when it was read to its end. One that breaks off has none, as in client-go.
#[derive(Debug)]
pub struct CountedBody<B> {
    inner: B,
    /// Where to count; none once it is.
    sizes: Option<Arc<Histogram>>,
    /// Bytes so far.
    size: u64,
}

impl<B: Body + Unpin> Body for CountedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, Buf::remaining);
                self.size = self.size.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
            }
            Poll::Ready(Some(Err(_))) => self.sizes = None,
            Poll::Ready(None) => {
                if let Some(sizes) = self.sizes.take() {
                    sizes.observe(bytes(self.size));
                }
            }
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        // Not before the end was counted: who believes this reads no further.
        self.sizes.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::stream;
    use http_body_util::{BodyExt, Full, StreamBody};

    use super::*;

    const HOST: &str = "counted:6443";

    /// That a client can be built with it.
    const _: fn(kube::Config) -> kube::Result<kube::Client> =
        |config| Ok(crate::remote(config)?.with_layer(&CountRequests::of(HOST)).build());

    fn rows(name: &str, host: &str) -> Vec<String> {
        let mut out = String::new();
        super::super::collect(&mut out);
        let ours = |line: &&str| line.starts_with(name) && line.contains(host);
        out.lines().filter(ours).map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn answers_and_failures_are_counted() {
        let answer = |request: Request<Full<Bytes>>| async move {
            match request.uri().path() {
                "/cut" => Err(std::io::Error::other("cut")),
                _ => {
                    Ok(Response::builder().status(201).body(Full::new(Bytes::from_static(b"made"))).unwrap())
                }
            }
        };
        let mut client = CountRequests::of(HOST).layer(tower::service_fn(answer));
        let request = |path: &str| Request::post(path).body(Full::new(Bytes::from(vec![0; 300]))).unwrap();
        client.call(request("/api")).await.unwrap().collect().await.unwrap();
        // Nobody reads this answer.
        client.call(request("/api")).await.unwrap();
        client.call(request("/cut")).await.unwrap_err();
        assert_eq!(REQUESTS.with(["201", "POST", HOST]).value(), 2);
        assert_eq!(REQUESTS.with(["<error>", "POST", HOST]).value(), 1);
        assert_eq!(DURATIONS.with(["POST", HOST]).count(), 3);
        let sent = rows("rest_client_request_size_bytes", HOST);
        assert!(sent[1].ends_with("le=\"256\"} 0") && sent[2].ends_with("le=\"512\"} 3"), "{sent:#?}");
        let got = rows("rest_client_response_size_bytes", HOST);
        assert!(got[0].ends_with("le=\"64\"} 1"), "{got:#?}");
        let sum = got.iter().find(|row| row.contains("_sum{")).unwrap();
        assert!(sum.ends_with("} 4"), "{sum}");
    }

    #[tokio::test]
    async fn what_has_no_size_has_none_counted() {
        let host = "streams:6443";
        let answer = |request: Request<Full<Bytes>>| async move {
            let end = match request.uri().path() {
                "/broken" => Err(std::io::Error::other("broken")),
                _ => Ok(Frame::data(Bytes::from_static(b"two"))),
            };
            let frames = [Ok(Frame::data(Bytes::from_static(b"one"))), end];
            Ok::<_, std::convert::Infallible>(Response::new(StreamBody::new(stream::iter(frames))))
        };
        let mut client = CountRequests::of(host).layer(tower::service_fn(answer));
        let request = |path: &str| Request::get(path).body(Full::default()).unwrap();
        client.call(request("/pods?a=b&watch=true")).await.unwrap().collect().await.unwrap();
        assert_eq!(REQUEST_SIZES.with(["GET", host]).count(), 0, "a watch");
        client.call(request("/broken")).await.unwrap().collect().await.unwrap_err();
        assert_eq!(REQUEST_SIZES.with(["GET", host]).count(), 1, "sent, with nothing in it");
        assert_eq!(RESPONSE_SIZES.with(["GET", host]).count(), 0, "broken off");
        client.call(request("/pods")).await.unwrap().collect().await.unwrap();
        assert_eq!(RESPONSE_SIZES.with(["GET", host]).count(), 1, "of two frames");
    }
}
