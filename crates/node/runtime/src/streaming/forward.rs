//! Port-forward: connections into a pod, each a pair of streams. Source: `portforward.k8s.io` over SPDY; the older protocol
//! is in [`websocket`].

pub(super) mod websocket;

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as StdStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use nix::sched::{CloneFlags, setns};
use podium_streaming::{Error, spdy};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::core::Runtime;

/// A pod that does not answer on its own loopback within this does not answer.
const CONNECTING: Duration = Duration::from_secs(30);
/// Frames that may wait for a slow connection before the client is made to wait.
const WAITING: usize = 64;

/// Connections that may be half asked for at a time: a client opens the two streams of one after each other.
const HALF_OPEN: usize = 256;

/// Where the streams of connections go, which share one way to the client.
trait Talker: Send {
    /// Sends bytes of a stream; `last`: nothing follows.
    fn say(
        &mut self,
        stream: u32,
        bytes: &[u8],
        last: bool,
    ) -> impl Future<Output = Result<(), Error>> + Send;
}

impl<W: AsyncWrite + Unpin + Send> Talker for spdy::Writer<W> {
    async fn say(&mut self, stream: u32, bytes: &[u8], last: bool) -> Result<(), Error> {
        self.data(stream, bytes, last).await
    }
}

/// A request of the client's whose streams arrive one by one.
#[derive(Debug, Default)]
struct Pair {
    error: Option<u32>,
    data: Option<u32>,
    port: Option<u16>,
}

/// Serves a client until it goes.
pub(super) async fn serve<S>(runtime: &Arc<Runtime>, sandbox: &str, stream: S) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (read, write) = tokio::io::split(stream);
    let mut reader = spdy::Reader::new(read);
    let writer = Arc::new(Mutex::new(spdy::Writer::server(write)));
    let mut pairs: HashMap<String, Pair> = HashMap::new();
    let mut inputs: HashMap<u32, mpsc::Sender<Bytes>> = HashMap::new();
    // Ends with us: a client that has gone takes its connections along.
    let mut connections = JoinSet::new();
    while let Some(frame) = reader.next().await? {
        match frame {
            spdy::Frame::Open { stream, headers, .. } => {
                let header = |name: &str| {
                    headers
                        .iter()
                        .find(|(known, _)| known == name)
                        .map(|(_, value)| value.clone())
                        .unwrap_or_default()
                };
                if pairs.len() >= HALF_OPEN {
                    let message = "too many connections of which one stream is missing".to_owned();
                    return Err(Error::Protocol { protocol: "spdy", message });
                }
                writer.lock().await.reply(stream).await?;
                let request = header("requestid");
                let pair = pairs.entry(request.clone()).or_default();
                pair.port = pair.port.or_else(|| header("port").parse().ok());
                match header("streamtype").as_str() {
                    "error" => pair.error = Some(stream),
                    "data" => pair.data = Some(stream),
                    _ => continue,
                }
                let (Some(error), Some(data)) = (pair.error, pair.data) else { continue };
                let port = pair.port;
                pairs.remove(&request);
                let (sender, receiver) = mpsc::channel(WAITING);
                inputs.insert(data, sender);
                let namespace = namespace(runtime, sandbox);
                let writer = Arc::clone(&writer);
                connections.spawn(connection(namespace, port, receiver, writer, error, data));
            }
            spdy::Frame::Data { stream, bytes, last } => {
                if let Some(input) = inputs.get(&stream)
                    && !bytes.is_empty()
                {
                    // One that has ended does not want it.
                    let _ = input.send(bytes).await;
                }
                if last {
                    inputs.remove(&stream);
                }
            }
            spdy::Frame::Reset { stream, .. } => {
                inputs.remove(&stream);
            }
            spdy::Frame::Ping(number) => writer.lock().await.pong(number).await?,
            _ => {}
        }
        while connections.try_join_next().is_some() {}
    }
    Ok(())
}

/// Where the pod's loopback is: `Ok(None)` for the host's.
pub(super) fn namespace(runtime: &Runtime, sandbox: &str) -> Result<Option<PathBuf>, String> {
    let found = runtime.sandbox(sandbox).filter(|one| one.is_ready());
    found.map(|one| one.network_namespace()).ok_or_else(|| "the pod is over".to_owned())
}

async fn connection<T: Talker>(
    namespace: Result<Option<PathBuf>, String>,
    port: Option<u16>,
    mut input: mpsc::Receiver<Bytes>,
    writer: Arc<Mutex<T>>,
    error: u32,
    data: u32,
) {
    let outcome = async {
        let port = port.ok_or_else(|| "a stream without a port".to_owned())?;
        let stream = connect(namespace?, port)
            .await
            .map_err(|error| format!("failed to connect to localhost:{port} inside namespace: {error}"))?;
        copy(stream, &mut input, &writer, data).await.map_err(|error| error.to_string())
    }
    .await;
    let mut writer = writer.lock().await;
    // A client that has gone cannot be told.
    match outcome {
        Err(message) => {
            let _ = writer.say(error, message.as_bytes(), true).await;
        }
        Ok(()) => {
            let _ = writer.say(error, &[], true).await;
        }
    }
    let _ = writer.say(data, &[], true).await;
}

async fn copy<T: Talker>(
    stream: TcpStream,
    input: &mut mpsc::Receiver<Bytes>,
    writer: &Mutex<T>,
    data: u32,
) -> Result<(), Error> {
    let (mut from, mut to) = stream.into_split();
    let mut buffer = vec![0; 32 << 10];
    // What the pod has not taken: writing it must not keep us from reading what the pod says meanwhile.
    let mut pending = Bytes::new();
    let mut open = true;
    loop {
        tokio::select! {
            size = from.read(&mut buffer) => match size? {
                0 => return Ok(()),
                size => writer.lock().await.say(data, &buffer[..size], false).await?,
            },
            size = to.write(&pending), if !pending.is_empty() => pending.advance(size?),
            bytes = input.recv(), if open && pending.is_empty() => match bytes {
                Some(bytes) => pending = bytes,
                None => {
                    open = false;
                    to.shutdown().await?;
                }
            },
        }
    }
}

/// Connects to a port of a pod's loopback.
async fn connect(namespace: Option<PathBuf>, port: u16) -> io::Result<TcpStream> {
    let (tell, told) = oneshot::channel();
    // A thread of its own, which ends: no other work must ever find itself in the pod's namespace.
    std::thread::Builder::new().name("port-forward".to_owned()).spawn(move || {
        let work = || {
            if let Some(path) = namespace {
                setns(std::fs::File::open(path)?, CloneFlags::CLONE_NEWNET)?;
            }
            let four = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let six = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
            StdStream::connect_timeout(&four, CONNECTING)
                .or_else(|error| StdStream::connect_timeout(&six, CONNECTING).map_err(|_| error))
        };
        let _ = tell.send(work());
    })?;
    let stream = told.await.map_err(io::Error::other)??;
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    TcpStream::from_std(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pod_that_answers_as_it_reads() {
        // Several times what sockets, buffers and the connection hold together.
        const CHUNKS: usize = 1024;
        let chunk = Bytes::from(vec![7; 64 << 10]);
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let echo = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap();
        });
        let stream = TcpStream::connect(address).await.unwrap();
        let (near, far) = tokio::io::duplex(1 << 16);
        // Both ends live until the test does.
        let (_unused, write) = tokio::io::split(far);
        let (read, _unsaid) = tokio::io::split(near);
        let writer = Arc::new(Mutex::new(spdy::Writer::server(write)));
        let mut reader = spdy::Reader::new(read);
        let (sender, mut input) = mpsc::channel(WAITING);
        let total = CHUNKS * chunk.len();
        let send = async move {
            for _ in 0..CHUNKS {
                sender.send(chunk.clone()).await.unwrap();
            }
            drop(sender);
        };
        let receive = async {
            let mut length = 0;
            while length < total {
                if let Some(spdy::Frame::Data { bytes, .. }) = reader.next().await.unwrap() {
                    length += bytes.len();
                }
            }
            length
        };
        let all = futures::future::join3(copy(stream, &mut input, &writer, 1), send, receive);
        let limit = Duration::from_secs(60);
        let (copied, (), length) = tokio::time::timeout(limit, all).await.expect("bytes go both ways");
        copied.unwrap();
        assert_eq!(length, total);
        echo.join().unwrap();
    }
}
