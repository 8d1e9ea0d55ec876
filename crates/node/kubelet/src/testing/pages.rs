//! A web server that gives the answers it is told.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

#[derive(Debug, Default)]
struct State {
    answers: VecDeque<Vec<u8>>,
    requests: Vec<String>,
}

/// The server; it ends with the test's runtime. Every connection is for one request.
#[derive(Debug, Clone)]
pub(crate) struct Pages {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Pages {
    pub(crate) async fn start() -> Self {
        Self::start_as(None).await
    }

    /// With TLS, if told how.
    pub(crate) async fn start_as(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let this = Self { address, state: Arc::default() };
        let state = this.state.clone();
        let server = async move {
            while let Ok((stream, _)) = listener.accept().await {
                match &tls {
                    None => talk(stream, &state).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            talk(stream, &state).await;
                        }
                    }
                }
            }
        };
        drop(tokio::spawn(server));
        this
    }

    /// Answers like this from now on, one after the other, and then like the last.
    pub(crate) fn set<A: Into<Vec<u8>>>(&self, answers: impl IntoIterator<Item = A>) {
        self.state.lock().answers = answers.into_iter().map(Into::into).collect();
    }

    /// The heads of all requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.lock().requests.clone()
    }
}

/// An answer with this body.
pub(crate) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// An answer that leads elsewhere.
pub(crate) fn redirect(location: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n")
}

async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, state: &Mutex<State>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_buf(&mut head).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    let answer = {
        let mut state = state.lock();
        state.requests.push(String::from_utf8_lossy(&head).into_owned());
        match state.answers.len() {
            0 | 1 => state.answers.front().cloned(),
            _ => state.answers.pop_front(),
        }
    };
    // Whoever asked may have heard enough.
    stream.write_all(&answer.unwrap_or_default()).await.ok();
    stream.shutdown().await.ok();
}
