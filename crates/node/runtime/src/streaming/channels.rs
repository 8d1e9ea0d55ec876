//! The client's side of exec and attach, whichever protocol it speaks. Source: `v4.channel.k8s.io` and
//! `v5.channel.k8s.io`, over SPDY streams or WebSocket messages.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use podium_streaming::exec::Streams;
use podium_streaming::{Error, spdy, websocket};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};

/// How long a client may take to open its streams. Source: upstream's default.
const OPENING: Duration = Duration::from_secs(30);

/// What the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// `status`: the outcome is a Kubernetes status, not a line of text.
    Spdy { status: bool },
    /// `base64`: messages are text, the channel a digit and the bytes encoded.
    WebSocket { status: bool, base64: bool },
}

/// What the client says.
#[derive(Debug)]
pub(super) enum Said {
    Input(Bytes),
    InputEnd,
    Size { width: u16, height: u16 },
    Gone,
}

/// What it is told on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    Stdout,
    Stderr,
    Outcome,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// The numbers of SPDY streams.
#[derive(Clone, Copy, Debug, Default)]
struct Numbers {
    stdin: Option<u32>,
    stdout: Option<u32>,
    stderr: Option<u32>,
    error: Option<u32>,
    resize: Option<u32>,
}

enum Input<S> {
    Spdy { reader: spdy::Reader<ReadHalf<S>>, numbers: Numbers, sizes: Vec<u8> },
    WebSocket { reader: websocket::Reader<ReadHalf<S>>, base64: bool },
}

enum Output<S> {
    Spdy { writer: spdy::Writer<WriteHalf<S>>, numbers: Numbers, status: bool },
    WebSocket { writer: websocket::Writer<WriteHalf<S>>, status: bool, base64: bool },
}

/// The listening half.
pub(super) struct Listener<S>(Input<S>);
/// The talking half.
pub(super) struct Talker<S>(Output<S>);

/// A client.
pub(super) struct Peer<S> {
    pub(super) listener: Listener<S>,
    pub(super) talker: Talker<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// Waits until the client has opened the streams it asked for.
    pub(super) async fn open(stream: S, protocol: Protocol, wanted: Streams) -> Result<Self, Error> {
        let (read, write) = tokio::io::split(stream);
        match protocol {
            Protocol::WebSocket { status, base64 } => {
                let mut writer = websocket::Writer::new(write);
                // An empty message on every output says that the streams stand; old clients wait for it.
                for (there, number) in [(wanted.stdout, 1u8), (wanted.stderr, 2), (true, 3)] {
                    if there {
                        send(&mut writer, base64, number, &[]).await?;
                    }
                }
                Ok(Self {
                    listener: Listener(Input::WebSocket { reader: websocket::Reader::new(read), base64 }),
                    talker: Talker(Output::WebSocket { writer, status, base64 }),
                })
            }
            Protocol::Spdy { status } => {
                let mut reader = spdy::Reader::new(read);
                let mut writer = spdy::Writer::server(write);
                let opened = tokio::time::timeout(OPENING, open_spdy(&mut reader, &mut writer, wanted)).await;
                let numbers = opened.map_err(|_| Error::Closed)??;
                Ok(Self {
                    listener: Listener(Input::Spdy { reader, numbers, sizes: Vec::new() }),
                    talker: Talker(Output::Spdy { writer, numbers, status }),
                })
            }
        }
    }
}

async fn open_spdy<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    reader: &mut spdy::Reader<R>,
    writer: &mut spdy::Writer<W>,
    wanted: Streams,
) -> Result<Numbers, Error> {
    let mut numbers = Numbers::default();
    let complete = |numbers: &Numbers| {
        numbers.error.is_some()
            && (!wanted.stdin || numbers.stdin.is_some())
            && (!wanted.stdout || numbers.stdout.is_some())
            && (!wanted.stderr || numbers.stderr.is_some())
    };
    while !complete(&numbers) {
        match reader.next().await? {
            Some(spdy::Frame::Open { stream, headers, .. }) => {
                let kind =
                    headers.iter().find(|(name, _)| name == "streamtype").map(|(_, value)| value.as_str());
                let place = match kind {
                    Some("stdin") => &mut numbers.stdin,
                    Some("stdout") => &mut numbers.stdout,
                    Some("stderr") => &mut numbers.stderr,
                    Some("error") => &mut numbers.error,
                    Some("resize") => &mut numbers.resize,
                    _ => continue,
                };
                *place = Some(stream);
                writer.reply(stream).await?;
            }
            Some(spdy::Frame::Ping(number)) => writer.pong(number).await?,
            Some(_) => {}
            None => return Err(Error::Closed),
        }
    }
    Ok(numbers)
}

impl<S: AsyncRead + AsyncWrite + Unpin> Listener<S> {
    /// What the client says next. Pings are answered through `pong`. Cancel-safe.
    pub(super) async fn next(&mut self, late: &mut Vec<Answer>) -> Result<Said, Error> {
        match &mut self.0 {
            Input::Spdy { reader, numbers, sizes } => loop {
                match reader.next().await? {
                    Some(spdy::Frame::Data { stream, bytes, last }) if Some(stream) == numbers.stdin => {
                        if !bytes.is_empty() {
                            if last {
                                late.push(Answer::InputEnd);
                            }
                            return Ok(Said::Input(bytes));
                        }
                        if last {
                            return Ok(Said::InputEnd);
                        }
                    }
                    Some(spdy::Frame::Data { stream, bytes, .. }) if Some(stream) == numbers.resize => {
                        sizes.extend_from_slice(&bytes);
                        if let Some(size) = take_size(sizes) {
                            return Ok(size);
                        }
                    }
                    // The terminal's sizes may come late: they have a stream of their own.
                    Some(spdy::Frame::Open { stream, headers, .. }) => {
                        if headers.iter().any(|(name, value)| name == "streamtype" && value == "resize") {
                            numbers.resize = Some(stream);
                            late.push(Answer::Accept(stream));
                            return Ok(Said::Input(Bytes::new()));
                        }
                    }
                    Some(spdy::Frame::Ping(number)) => {
                        late.push(Answer::Pong(number));
                        return Ok(Said::Input(Bytes::new()));
                    }
                    Some(spdy::Frame::Reset { stream, .. }) if Some(stream) == numbers.stdin => {
                        return Ok(Said::InputEnd);
                    }
                    Some(_) => {}
                    None => return Ok(Said::Gone),
                }
            },
            Input::WebSocket { reader, base64 } => loop {
                match reader.next().await? {
                    Some(websocket::Message::Data(data)) => match decoded(data, *base64)? {
                        data if data.first() == Some(&0) && data.len() > 1 => {
                            return Ok(Said::Input(data.slice(1..)));
                        }
                        data if data.first() == Some(&4) => {
                            let mut sizes = data[1..].to_vec();
                            if let Some(size) = take_size(&mut sizes) {
                                return Ok(size);
                            }
                        }
                        data if data[..] == [255, 0] => return Ok(Said::InputEnd),
                        _ => {}
                    },
                    Some(websocket::Message::Ping(payload)) => {
                        late.push(Answer::WebSocketPong(payload));
                        return Ok(Said::Input(Bytes::new()));
                    }
                    Some(websocket::Message::Close) | None => return Ok(Said::Gone),
                }
            },
        }
    }
}

/// What has to be answered by the other half.
#[derive(Debug)]
pub(super) enum Answer {
    Accept(u32),
    Pong(u32),
    WebSocketPong(Bytes),
    /// The input ended together with its last bytes.
    InputEnd,
}

/// A size, when it has arrived whole. They follow each other as JSON documents.
fn take_size(bytes: &mut Vec<u8>) -> Option<Said> {
    let mut documents = serde_json::Deserializer::from_slice(bytes).into_iter::<Size>();
    let mut last = None;
    let mut end = 0;
    while let Some(Ok(size)) = documents.next() {
        end = documents.byte_offset();
        last = Some(Said::Size { width: size.width, height: size.height });
    }
    bytes.drain(..end);
    // Nonsense that never becomes a size must not pile up.
    if bytes.len() > 4096 {
        bytes.clear();
    }
    last
}

impl<S: AsyncRead + AsyncWrite + Unpin> Talker<S> {
    /// Sends output.
    pub(super) async fn say(&mut self, channel: Channel, bytes: &[u8]) -> Result<(), Error> {
        match &mut self.0 {
            Output::Spdy { writer, numbers, .. } => {
                if let Some(stream) = number(numbers, channel) {
                    writer.data(stream, bytes, false).await?;
                }
                Ok(())
            }
            Output::WebSocket { writer, base64, .. } => send(writer, *base64, code(channel), bytes).await,
        }
    }

    /// Answers what the listening half heard.
    pub(super) async fn answer(&mut self, answer: &Answer) -> Result<(), Error> {
        match (&mut self.0, answer) {
            (Output::Spdy { writer, .. }, Answer::Accept(stream)) => writer.reply(*stream).await,
            (Output::Spdy { writer, .. }, Answer::Pong(number)) => writer.pong(*number).await,
            (Output::WebSocket { writer, .. }, Answer::WebSocketPong(payload)) => writer.pong(payload).await,
            _ => Ok(()),
        }
    }

    /// Says how it ended, and ends.
    pub(super) async fn finish(&mut self, outcome: &Outcome) -> Result<(), Error> {
        match &mut self.0 {
            Output::Spdy { writer, numbers, status } => {
                let text = if *status { outcome.status() } else { outcome.text() };
                if let Some(stream) = numbers.error {
                    writer.data(stream, text.as_bytes(), true).await?;
                }
                for stream in [numbers.stdout, numbers.stderr].into_iter().flatten() {
                    writer.data(stream, &[], true).await?;
                }
                writer.close().await
            }
            Output::WebSocket { writer, status, base64 } => {
                let text = if *status { outcome.status() } else { outcome.text() };
                if !text.is_empty() {
                    send(writer, *base64, code(Channel::Outcome), text.as_bytes()).await?;
                }
                writer.close(1000, "").await
            }
        }
    }
}

/// One message to a client.
pub(super) async fn send<W: AsyncWrite + Unpin>(
    writer: &mut websocket::Writer<W>,
    base64: bool,
    channel: u8,
    bytes: &[u8],
) -> Result<(), Error> {
    if base64 {
        let digit = char::from(b'0'.wrapping_add(channel));
        return writer.text(&format!("{digit}{}", STANDARD.encode(bytes))).await;
    }
    writer.binary(&[&[channel], bytes]).await
}

/// One message of a client, the channel as a byte before its bytes.
pub(super) fn decoded(message: Bytes, base64: bool) -> Result<Bytes, Error> {
    let Some((digit, text)) = message.split_first().filter(|_| base64) else { return Ok(message) };
    let mut plain = vec![digit.wrapping_sub(b'0')];
    STANDARD.decode_vec(text, &mut plain).map_err(std::io::Error::other)?;
    Ok(plain.into())
}

fn number(numbers: &Numbers, channel: Channel) -> Option<u32> {
    match channel {
        Channel::Stdout => numbers.stdout,
        Channel::Stderr => numbers.stderr,
        Channel::Outcome => numbers.error,
    }
}

fn code(channel: Channel) -> u8 {
    match channel {
        Channel::Stdout => 1,
        Channel::Stderr => 2,
        Channel::Outcome => 3,
    }
}

/// How a stream's work ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Code(i32),
    Failed(String),
}

impl Outcome {
    /// As `v4` has it. Source: upstream's `remotecommand` server.
    fn status(&self) -> String {
        match self {
            Outcome::Code(0) => serde_json::json!({"metadata": {}, "status": "Success"}),
            Outcome::Code(code) => serde_json::json!({
                "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                "message": format!("command terminated with non-zero exit code: exit status {code}"),
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Outcome::Failed(message) => serde_json::json!({
                "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
                "message": format!("Internal error occurred: error executing command in container: {message}"),
                "details": {"causes": [{"message": format!("error executing command in container: {message}")}]},
            }),
        }
        .to_string()
    }

    /// As older protocols have it: nothing if all is well.
    fn text(&self) -> String {
        match self {
            Outcome::Code(0) => String::new(),
            Outcome::Code(code) => format!("command terminated with non-zero exit code: exit status {code}"),
            Outcome::Failed(message) => format!("error executing command in container: {message}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn sizes_in_pieces() {
        let mut bytes = br#"{"Width":80,"Hei"#.to_vec();
        assert!(take_size(&mut bytes).is_none());
        bytes.extend_from_slice(br#"ght":24}{"Width":100,"Height":30}"#);
        let Some(Said::Size { width, height }) = take_size(&mut bytes) else { panic!() };
        assert_eq!((width, height, bytes.len()), (100, 30, 0));
        let mut nonsense = vec![b'x'; 5000];
        assert!(take_size(&mut nonsense).is_none() && nonsense.is_empty());
    }

    #[tokio::test]
    async fn messages_of_a_client_that_wants_text() {
        let (mut near, far) = tokio::io::duplex(1 << 16);
        let wanted = Streams { stdin: true, stdout: true, stderr: false, tty: false };
        let protocol = Protocol::WebSocket { status: false, base64: true };
        let mut peer = Peer::open(far, protocol, wanted).await.unwrap();
        // Clients mask what they send: here with nothing.
        let frame =
            |text: &[u8]| [&[0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0], text].concat();
        near.write_all(&frame(b"0aGk=")).await.unwrap();
        let Said::Input(bytes) = peer.listener.next(&mut Vec::new()).await.unwrap() else { panic!() };
        assert_eq!(bytes, "hi");
        near.write_all(&frame(b"0???")).await.unwrap();
        assert!(peer.listener.next(&mut Vec::new()).await.is_err());
        peer.talker.say(Channel::Stdout, b"out").await.unwrap();
        peer.talker.finish(&Outcome::Code(0)).await.unwrap();
        drop(peer);
        let mut seen = Vec::new();
        near.read_to_end(&mut seen).await.unwrap();
        // Outputs and the outcome announce themselves, success has no text, and the end is status 1000.
        assert_eq!(seen, b"\x81\x011\x81\x013\x81\x051b3V0\x88\x02\x03\xe8");
    }

    #[tokio::test]
    async fn streams_of_a_spdy_client() {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (read, write) = tokio::io::split(near);
        let (mut reader, mut writer) = (spdy::Reader::new(read), spdy::Writer::client(write));
        let wanted = Streams { stdin: true, stdout: true, stderr: false, tty: false };
        let opening = tokio::spawn(Peer::open(far, Protocol::Spdy { status: true }, wanted));
        for kind in ["error", "stdin", "stdout"] {
            writer.open(&[("streamtype", kind)]).await.unwrap();
        }
        let mut peer = opening.await.unwrap().unwrap();
        writer.data(3, b"hi", true).await.unwrap();
        let mut late = Vec::new();
        let Said::Input(bytes) = peer.listener.next(&mut late).await.unwrap() else { panic!() };
        assert_eq!(bytes, "hi");
        assert!(matches!(late[..], [Answer::InputEnd]));
        peer.talker.say(Channel::Stdout, b"out").await.unwrap();
        peer.talker.finish(&Outcome::Code(3)).await.unwrap();
        let mut seen = Vec::new();
        while let Some(frame) = reader.next().await.unwrap() {
            if let spdy::Frame::Data { stream, bytes, last } = frame {
                seen.push((stream, String::from_utf8_lossy(&bytes).into_owned(), last));
            }
        }
        assert_eq!(seen[0], (5, "out".to_owned(), false));
        assert!(seen[1].0 == 1 && seen[1].1.contains("NonZeroExitCode") && seen[1].2);
        assert_eq!(seen[2], (5, String::new(), true));
    }
}
