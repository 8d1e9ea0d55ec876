//! The health server: plain HTTP on loopback, for what watches over the kubelet on its own machine (kubeadm waits for it).
//!
//! It is the one exception from TLS and authentication, and can afford it: it says `ok` or which check failed, never more,
//! and reads nothing of a request but its method and address. Addresses other than loopback are refused with the configuration.
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

use podium_api::healthz;

use crate::server::{Query, Reply, text};

/// Upstream's pause before it tries again to listen.
const RETRY: Duration = Duration::from_secs(5);
/// How long a request's head may take, and an idle connection stay.
const HEAD: Duration = Duration::from_secs(10);
/// Connections at a time: a few watchers ask now and then, and nobody may take the kubelet's descriptors from here.
const CONNECTIONS: usize = 32;

/// What is looked at, in upstream's order.
const CHECKS: [&str; 3] = ["ping", "log", "syncloop"];

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
    let Some(("healthz", only)) = healthz::of_path(request.uri().path()) else { return no_page() };
    if !CHECKS.contains(&only) && !only.is_empty() {
        return no_page();
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut reply = text(405, "405: Method Not Allowed");
        reply.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return reply;
    }
    page(|| check(), only, &Query::of(request.uri()), |_, _| ())
}

fn no_page() -> Reply {
    text(404, "404 page not found\n")
}

/// Makes one health check, or all of them, each of which `observe` is told of. That this is answered is the check `ping`; and the log
/// has no buffer that could be stuck.
pub(crate) fn page(
    looping: impl FnOnce() -> Result<(), String>,
    only: &str,
    query: &Query,
    observe: impl FnMut(&str, bool),
) -> Reply {
    let fault = if matches!(only, "" | "syncloop") { looping().err() } else { None };
    if let Some(why) = &fault {
        tracing::warn!(why, "a health check failed");
    }
    let checks = CHECKS.map(|name| healthz::Check::new(name, fault.clone().filter(|_| name == "syncloop")));
    let answer = match only {
        "" => Some(healthz::all("healthz", &checks, query.all("exclude"), query.has("verbose"), observe)),
        only => healthz::one(&checks, only),
    };
    answer.map_or_else(no_page, |(code, body)| text(code, body))
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
    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn ask(method: &str, path: &str, host: &str, well: bool) -> u16 {
        let request = Request::builder().method(method).uri(path).header(HOST, host).body(()).unwrap();
        let check: Check = Arc::new(move || if well { Ok(()) } else { Err("it hangs".to_owned()) });
        answer(&request, &check).status().as_u16()
    }

    #[tokio::test]
    async fn all_is_told_to_who_asks_for_it() {
        let ask = async |query: &str, well: bool| {
            let looping = || if well { Ok(()) } else { Err("it hangs".to_owned()) };
            let reply = page(looping, "", &Query::parse(query), |_, _| ());
            let body = reply.into_body().collect().await.unwrap().to_bytes();
            String::from_utf8(body.to_vec()).unwrap()
        };
        let all = "[+]ping ok\n[+]log ok\n[+]syncloop ok\nhealthz check passed\n";
        assert_eq!(ask("verbose", true).await, all);
        let ill = "[+]ping ok\n[+]log ok\n[-]syncloop failed: reason withheld\nhealthz check failed\n";
        assert_eq!(ask("", false).await, ill);
        assert_eq!(ask("exclude=syncloop", false).await, "ok");
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
