//! Counts what a remote client asks of the API.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
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
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let (method, host, started) = (request.method().clone(), self.host.clone(), Instant::now());
        self.inner
            .call(request)
            .inspect(move |outcome| {
                let status = outcome.as_ref().ok().map(Response::status);
                // What client-go says of a request without an answer.
                let code = status.as_ref().map_or("<error>", http::StatusCode::as_str);
                REQUESTS.with([code, method.as_str(), &host]).increment();
                DURATIONS.with([method.as_str(), &host]).observe(started.elapsed().as_secs_f64());
            })
            .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_and_failures_are_counted() {
        let mut client =
            CountRequests::of("counted:6443").layer(tower::service_fn(|request: Request<bool>| async move {
                match request.body() {
                    true => Ok(Response::builder().status(201).body(()).unwrap()),
                    false => Err(std::io::Error::other("cut")),
                }
            }));
        let request = |body| Request::post("/api").body(body).unwrap();
        client.call(request(true)).await.unwrap();
        client.call(request(true)).await.unwrap();
        client.call(request(false)).await.unwrap_err();
        assert_eq!(REQUESTS.with(["201", "POST", "counted:6443"]).value(), 2);
        assert_eq!(REQUESTS.with(["<error>", "POST", "counted:6443"]).value(), 1);
        assert_eq!(DURATIONS.with(["POST", "counted:6443"]).count(), 3);
    }
}
