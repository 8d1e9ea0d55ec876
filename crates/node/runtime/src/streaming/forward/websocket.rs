//! Port-forward over WebSocket, as clients spoke it before SPDY went into messages: each port of the request has a channel for
//! its bytes and one for its error, which begin with the port as two bytes, the lower first.
//!
//! Source: `v4.channel.k8s.io` and `v4.base64.channel.k8s.io` of upstream's kubelet. A port is connected to once, at the
//! beginning, and the whole ends with the last of the connections.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use podium_streaming::websocket::Message;
use podium_streaming::{Error, websocket};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use super::{Talker, WAITING, connection};
use crate::streaming::channels::{decoded, send};

/// A channel is a byte.
const MOST: usize = 128;
/// And in text a character from `0` on, of those that are one byte.
const MOST_BASE64: usize = 40;

/// Why a client that speaks so cannot be served.
pub(in crate::streaming) fn check(ports: &[u16], base64: bool) -> Result<(), &'static str> {
    match ports.len() {
        0 => Err("query parameter \"port\" is required"),
        length if length > if base64 { MOST_BASE64 } else { MOST } => {
            Err("too many ports for one connection")
        }
        _ => Ok(()),
    }
}

struct Channels<W> {
    writer: websocket::Writer<W>,
    base64: bool,
}

impl<W: AsyncWrite + Unpin + Send> Talker for Channels<W> {
    /// The end of a channel cannot be said.
    async fn say(&mut self, stream: u32, bytes: &[u8], _: bool) -> Result<(), Error> {
        match u8::try_from(stream) {
            Ok(channel) if !bytes.is_empty() => send(&mut self.writer, self.base64, channel, bytes).await,
            _ => Ok(()),
        }
    }
}

/// Serves a client until it goes or all connections have ended. `namespace` is where the pod's loopback is.
pub(in crate::streaming) async fn serve<S>(
    namespace: Result<Option<PathBuf>, String>,
    ports: &[u16],
    base64: bool,
    stream: S,
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (read, write) = tokio::io::split(stream);
    let mut reader = websocket::Reader::new(read);
    let writer = Arc::new(Mutex::new(Channels { writer: websocket::Writer::new(write), base64 }));
    let numbers = || (0u32..).step_by(2).zip(ports);
    for (data, port) in numbers() {
        for channel in [data, data + 1] {
            writer.lock().await.say(channel, &port.to_le_bytes(), false).await?;
        }
    }
    let mut inputs = Vec::new();
    // Ends with us: a client that has gone takes its connections along.
    let mut connections = JoinSet::new();
    for (data, port) in numbers() {
        let (sender, receiver) = mpsc::channel(WAITING);
        inputs.push(sender);
        let (namespace, writer) = (namespace.clone(), Arc::clone(&writer));
        connections.spawn(connection(namespace, Some(*port), receiver, writer, data + 1, data));
    }
    loop {
        tokio::select! {
            ended = connections.join_next() => if ended.is_none() {
                return writer.lock().await.writer.close(1000, "").await;
            },
            message = reader.next() => match message? {
                Some(Message::Data(message)) => hear(decoded(message, base64)?, &inputs).await,
                Some(Message::Ping(payload)) => writer.lock().await.writer.pong(&payload).await?,
                Some(Message::Close) | None => return Ok(()),
            },
        }
    }
}

/// Hands a message to its connection. What comes on channels that are not to be written to is passed over, as upstream does.
async fn hear(message: Bytes, inputs: &[mpsc::Sender<Bytes>]) {
    let Some((channel, rest)) = message.split_first() else { return };
    if channel % 2 == 0
        && !rest.is_empty()
        && let Some(input) = inputs.get(usize::from(channel / 2))
    {
        // One that has ended does not want it.
        let _ = input.send(message.slice(1..)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::net::TcpListener;

    use super::*;

    /// A client's message. The mask is zero, which changes nothing.
    async fn say(client: &mut DuplexStream, first: u8, payload: &[u8]) {
        let length = 0x80 | u8::try_from(payload.len()).unwrap();
        client.write_all(&[&[first, length, 0, 0, 0, 0], payload].concat()).await.unwrap();
    }

    /// The server's next message: its opcode, and what is in it.
    async fn hear(client: &mut DuplexStream) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        client.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; usize::from(head[1])];
        client.read_exact(&mut payload).await.unwrap();
        (head[0] & 0x0f, payload)
    }

    fn start(ports: &[u16], base64: bool) -> (DuplexStream, tokio::task::JoinHandle<Result<(), Error>>) {
        let (client, server) = tokio::io::duplex(1 << 16);
        let ports = ports.to_vec();
        (client, tokio::spawn(async move { serve(Ok(None), &ports, base64, server).await }))
    }

    async fn within<T>(work: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(60), work).await.expect("in time")
    }

    #[tokio::test]
    async fn every_port_has_two_channels() {
        let listeners = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let [first, second] = listeners.map(|one| async { one.await.unwrap() });
        let (first, second) = (first.await, second.await);
        // Nobody listens there: it was taken and let go.
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap().port();
        let ports = [first.local_addr().unwrap().port(), closed, second.local_addr().unwrap().port()];
        let (mut client, task) = start(&ports, false);
        within(async {
            for (channel, port) in [0, 1, 2, 3, 4, 5].into_iter().zip(ports.iter().flat_map(|port| [port; 2]))
            {
                let [low, high] = port.to_le_bytes();
                assert_eq!(hear(&mut client).await, (2, vec![channel, low, high]));
            }
            let (mut near, mut far) = (first.accept().await.unwrap().0, second.accept().await.unwrap().0);
            let (opcode, refusal) = hear(&mut client).await;
            let text = String::from_utf8_lossy(&refusal[1..]).into_owned();
            assert_eq!((opcode, refusal[0]), (2, 3));
            assert!(text.starts_with(&format!("failed to connect to localhost:{closed}")), "{text}");

            // To the second, past channels that cannot be written to, and those that are not there.
            for message in [&b"\x01no"[..], b"\x09no", b"\x02no", b"\x04to b", b"\x00to a", b""] {
                say(&mut client, 0x82, message).await;
            }
            say(&mut client, 0x89, b"?").await;
            assert_eq!(hear(&mut client).await, (10, b"?".to_vec()));
            let mut text = [0; 4];
            near.read_exact(&mut text).await.unwrap();
            assert_eq!(&text, b"to a");
            far.read_exact(&mut text).await.unwrap();
            assert_eq!(&text, b"to b");
            far.write_all(b"from b").await.unwrap();
            assert_eq!(hear(&mut client).await, (2, b"\x04from b".to_vec()));
            drop(far);
            near.write_all(b"from a").await.unwrap();
            assert_eq!(hear(&mut client).await, (2, b"\x00from a".to_vec()));
            // With the last of them the whole ends.
            drop(near);
            assert_eq!(hear(&mut client).await, (8, vec![0x03, 0xe8]));
            task.await.unwrap().unwrap();
        })
        .await;
    }

    #[tokio::test]
    async fn in_text_and_until_the_client_goes() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mut client, task) = start(&[port], true);
        within(async {
            for digit in ["0", "1"] {
                let text = format!("{digit}{}", STANDARD.encode(port.to_le_bytes()));
                assert_eq!(hear(&mut client).await, (1, text.into_bytes()));
            }
            let mut pod = listener.accept().await.unwrap().0;
            say(&mut client, 0x81, format!("0{}", STANDARD.encode("hello")).as_bytes()).await;
            let mut text = [0; 5];
            pod.read_exact(&mut text).await.unwrap();
            assert_eq!(&text, b"hello");
            say(&mut client, 0x88, &[]).await;
            assert_eq!(pod.read(&mut text).await.unwrap(), 0);
            task.await.unwrap().unwrap();
        })
        .await;
    }

    #[test]
    fn as_many_ports_as_channels_go() {
        assert!(check(&[], false).is_err());
        for (most, base64) in [(MOST, false), (MOST_BASE64, true)] {
            assert_eq!(check(&vec![1; most], base64), Ok(()));
            assert!(check(&vec![1; most + 1], base64).is_err());
        }
    }
}
