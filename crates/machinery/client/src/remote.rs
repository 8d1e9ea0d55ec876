//! Clients of a server on another machine, which notice when that machine is gone.
//!
//! What is asked, and how, is kube's: base address, retries, credentials, headers. Its own builder gives no way to the sockets,
//! and without their options a watch on a machine that lost its power waits until its time is over.

use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ClientBuilder, ConfigExt, DynBody};
use tower::retry::RetryLayer;
use tower::util::BoxService;
use tower::{BoxError, ServiceBuilder, ServiceExt};

/// What a remote client stands on.
pub type RemoteService = BoxService<Request<Body>, Response<Box<DynBody>>, BoxError>;

/// When a connection counts as dead.
///
/// The kernels ask and answer, not the two programs: watches have HTTP/1.1 connections of their own here, which know no ping; and
/// the answer to one of HTTP/2 would wait behind all that is under way, so that a large list over a slow line looked like death.
/// To TCP everything that arrives is a sign of life, and so is the answer of a machine whose server is only slow. What this does
/// not notice, and upstream's ping does, is a server that was stopped on a machine that lives.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// Without a sign of life before the other end is asked for one. Linux counts this and the next in whole seconds.
    silence: Duration,
    /// Between two questions.
    pause: Duration,
    /// From the first question to the end of the connection.
    answer: Duration,
}

/// **Source**: `ReadIdleTimeout` and `PingTimeout` in `k8s.io/apimachinery/pkg/util/net/http.go`. A question may be lost, so it is
/// put three times.
const PATIENCE: Patience = Patience {
    silence: Duration::from_secs(30),
    pause: Duration::from_secs(5),
    answer: Duration::from_secs(15),
};

/// A client of the server in `config`, to be built or to be given further layers. A connection whose other end has not given a
/// sign of life for 45 s breaks, and so does one whose other end took nothing of what was sent for as long.
///
/// # Errors
/// The certificates, keys or headers in it cannot be used, or it names a proxy, which kube's features for proxies are off for.
pub fn remote(config: kube::Config) -> kube::Result<ClientBuilder<RemoteService>> {
    remote_with(config, PATIENCE)
}

fn remote_with(config: kube::Config, patience: Patience) -> kube::Result<ClientBuilder<RemoteService>> {
    if config.proxy_url.is_some() {
        return ClientBuilder::try_from(config);
    }
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_keepalive(Some(patience.silence));
    connector.set_keepalive_interval(Some(patience.pause));
    // Linux asks beyond any number until this time is over, and applies it to what was sent as well.
    connector.set_tcp_user_timeout(Some(patience.silence + patience.answer));
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(connector)?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.default_retry.then(|| RetryLayer::new(RetryPolicy::server_retry())))
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(connector))
        .map_response(|response: Response<hyper::body::Incoming>| {
            response.map(|body| Box::new(body.map_err(BoxError::from)) as Box<DynBody>)
        })
        .boxed();
    Ok(ClientBuilder::new(service, config.default_namespace))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use socket2::{SockFilter, SockRef};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;
    use crate::error_chain;

    /// Two seconds in all.
    const SHORT: Patience = Patience {
        silence: Duration::from_secs(1),
        pause: Duration::from_secs(1),
        answer: Duration::from_secs(1),
    };

    /// Far above what the kernel needs to notice, far below the time that a system has by itself.
    const LIMIT: Duration = Duration::from_secs(120);

    /// More than all buffers between two ends hold.
    const SIZE: usize = 16 << 20;

    /// The next connection, whose request must begin like that.
    async fn accept(listener: &TcpListener, request: &str) -> TcpStream {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(head.starts_with(request.as_bytes()), "{}", String::from_utf8_lossy(&head));
        stream
    }

    /// Takes nothing from the other end any more, in the kernel, which therefore answers nothing: as a machine that is gone.
    fn fall_silent(stream: &TcpStream) {
        /// The instruction that returns how many bytes of a packet to keep.
        const RETURN: u16 = 0x06;
        SockRef::from(stream).attach_filter(&[SockFilter::new(RETURN, 0, 0, 0)]).unwrap();
    }

    fn get(path: &str) -> Request<Body> {
        Request::get(path).body(Body::empty()).unwrap()
    }

    #[tokio::test]
    async fn a_machine_that_is_gone_is_noticed_and_one_that_is_slow_is_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let client = remote_with(kube::Config::new(url.parse().unwrap()), SHORT).unwrap().build();
        let (heard, first_heard) = oneshot::channel();
        let served = tokio::spawn(async move {
            let mut watched = accept(&listener, "GET /watched ").await;
            watched
                .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
                .await
                .unwrap();
            let mut slow = accept(&listener, "GET /slow ").await;
            let mut head = String::new();
            write!(head, "HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n").unwrap();
            slow.write_all(head.as_bytes()).await.unwrap();
            let sent = accept(&listener, "POST /sent ").await;
            first_heard.await.unwrap();
            fall_silent(&watched);
            fall_silent(&sent);
            slow.write_all(&vec![b'x'; SIZE]).await.unwrap();
            // None of them has been closed.
            (watched, sent, slow)
        });

        let mut watched = client.send(get("/watched")).await.unwrap().into_body();
        let first = timeout(LIMIT, watched.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "first");
        // Not read for as long as it takes the others to end: its other end has to wait, and is there.
        let slow = client.send(get("/slow")).await.unwrap().into_body();
        let sent = tokio::spawn({
            let client = client.clone();
            let request = Request::post("/sent").body(Body::from(vec![b'x'; SIZE])).unwrap();
            async move { client.send(request).await.map(|_| ()) }
        });
        heard.send(()).unwrap();
        let watched = timeout(LIMIT, watched.frame()).await.expect("silence is noticed").unwrap();
        let sent = timeout(LIMIT, sent).await.expect("that nothing is taken is noticed").unwrap();
        for (case, error) in [("watched", watched.err().unwrap()), ("sent", sent.err().unwrap())] {
            let text = error_chain(&error);
            assert!(text.contains("timed out (os error 110)"), "{case}: {text}");
        }
        let slow = timeout(LIMIT, slow.collect()).await.unwrap().unwrap().to_bytes();
        assert_eq!(slow.len(), SIZE);
        served.await.unwrap();
    }
}
