//! The health server: plain HTTP on loopback, for what watches over the kubelet on its own machine (kubeadm waits for it).
//!
//! It is the one exception from TLS and authentication, and can afford it: it says `ok` or which check failed, never more,
//! and reads nothing of a request but its method and path. Addresses other than loopback are refused with the configuration.
//! Source: `healthzPort` and `healthzBindAddress` of KubeletConfiguration; paths and texts of upstream's health checks.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http::{
    HeaderValue, Method, Request,
    header::{ALLOW, HOST},
    uri::Authority,
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use podium_client::Shutdown;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::task::TaskTracker;

use crate::server::{Reply, text};

/// Upstream's pause before it tries again to listen.
const RETRY: Duration = Duration::from_secs(5);
/// How long a request's head may take, and an idle connection stay.
const HEAD: Duration = Duration::from_secs(10);
/// Connections at a time: a few watchers ask now and then, and nobody may take the kubelet's descriptors from here.
const CONNECTIONS: usize = 32;

/// Whether the kubelet is well; the text says what is wrong, for the log.
pub(crate) type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Serves until shutdown. An address that is taken is tried again, as upstream does: the kubelet does its work without.
pub(crate) async fn run(address: SocketAddr, check: Check, shutdown: &Shutdown) {
    let refused = |error| {
        tracing::error!(%address, %error, "cannot listen for health checks; trying again");
        RETRY
    };
    tokio::select! {
        listener = listen(address, refused) => serve(listener, check, shutdown).await,
        () = shutdown.cancelled() => {}
    }
}

/// Listens as soon as it can; `refused` says how long to wait for the next try.
async fn listen(address: SocketAddr, mut refused: impl FnMut(std::io::Error) -> Duration) -> TcpListener {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => tokio::time::sleep(refused(error)).await,
        }
    }
}

async fn serve(listener: TcpListener, check: Check, shutdown: &Shutdown) {
    let (tracker, places) = (TaskTracker::new(), Arc::new(Semaphore::new(CONNECTIONS)));
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (check, shutdown) = (check.clone(), shutdown.clone());
                tracker.spawn(async move {
                    tokio::select! {
                        () = connection(stream, check) => {}
                        () = shutdown.cancelled() => {}
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    tracker.close();
    tracker.wait().await;
}

async fn connection(stream: TcpStream, check: Check) {
    let service = service_fn(|request: Request<Incoming>| {
        let reply = answer(&request, &check);
        async move { Ok::<_, Infallible>(reply) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection ended");
    }
}

fn answer<B>(request: &Request<B>, check: &Check) -> Reply {
    // A browser that was sent here under another name is not a watcher of this machine.
    if !request.headers().get(HOST).is_none_or(is_loopback) {
        return text(403, "only for this machine\n");
    }
    let checked = match request.uri().path() {
        "/healthz" | "/healthz/syncloop" => check(),
        // That this is answered is the check; and the log has no buffer that could be stuck.
        "/healthz/ping" | "/healthz/log" => Ok(()),
        _ => return text(404, "404 page not found\n"),
    };
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut reply = text(405, "405: Method Not Allowed");
        reply.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return reply;
    }
    match checked {
        Ok(()) => text(200, "ok"),
        Err(why) => {
            tracing::warn!(why, "a health check failed");
            text(500, "[-]syncloop failed: reason withheld\nhealthz check failed\n")
        }
    }
}

fn is_loopback(host: &HeaderValue) -> bool {
    let Some(authority) = host.to_str().ok().and_then(|text| text.parse::<Authority>().ok()) else {
        return false;
    };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn ask(method: &str, path: &str, host: &str, well: bool) -> u16 {
        let request = Request::builder().method(method).uri(path).header(HOST, host).body(()).unwrap();
        let check: Check = Arc::new(move || if well { Ok(()) } else { Err("it hangs".to_owned()) });
        answer(&request, &check).status().as_u16()
    }

    #[test]
    fn answers() {
        let local = "localhost:10248";
        for (method, path, host, well, status) in [
            ("GET", "/healthz", local, true, 200),
            ("HEAD", "/healthz", "127.0.0.1:10248", true, 200),
            ("GET", "/healthz?verbose", "[::1]:10248", true, 200),
            ("GET", "/healthz", local, false, 500),
            ("GET", "/healthz/syncloop", local, false, 500),
            ("GET", "/healthz/ping", local, false, 200),
            ("GET", "/healthz/log", local, false, 200),
            ("POST", "/healthz", local, true, 405),
            ("GET", "/metrics", local, true, 404),
            ("GET", "/pods", local, true, 404),
            ("GET", "/healthz", "rebound.example:10248", true, 403),
        ] {
            assert_eq!(ask(method, path, host, well), status, "{method} {path} {host} {well}");
        }
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_tried_again() {
        // No other test is given a port there while it is free.
        let taken = TcpListener::bind("127.0.0.77:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let mut taken = Some(taken);
        let mut refusals = 0;
        let listener = listen(address, |_| {
            refusals += 1;
            drop(taken.take());
            Duration::ZERO
        })
        .await;
        assert_eq!(refusals, 1);
        let shutdown = Shutdown::new();
        let end = shutdown.clone();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let check: Check = Arc::new(move || tell.send(()).map_err(|error| error.to_string()));
        let task = tokio::spawn(async move { serve(listener, check, &end).await });
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\n") && reply.ends_with("\r\n\r\nok"), "{reply}");
        assert_eq!(told.recv().await, Some(()));
        shutdown.cancel();
        task.await.unwrap();
        assert!(TcpListener::bind(address).await.is_ok());
    }
}
