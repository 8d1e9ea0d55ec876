//! WebSocket, the server's side of an upgraded connection. Source: RFC 6455.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::Error;

/// The longest message taken: kubectl sends at most 32 KiB at a time; a port-forward write is as long as its SPDY frame.
const MESSAGE_BYTES: usize = 4 << 20;

/// What `Sec-WebSocket-Accept` answers to a key.
pub fn accept_key(key: &str) -> String {
    let mut text = key.to_owned();
    text.push_str("258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    // SHA-1 is what the protocol says; it proves that we speak it and protects nothing.
    STANDARD.encode(ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// What arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Binary or text: Kubernetes' protocols do not distinguish.
    Data(Bytes),
    /// To be answered with [`Writer::pong`].
    Ping(Bytes),
    /// The client is done.
    Close,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opcode {
    Continuation,
    Data,
    Close,
    Ping,
    Pong,
}

/// Reads messages.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    buffer: BytesMut,
    partial: BytesMut,
    /// Whether a fragmented message has begun.
    within: bool,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Reads from the connection after the handshake.
    pub fn new(input: R) -> Self {
        Reader { input, buffer: BytesMut::new(), partial: BytesMut::new(), within: false }
    }

    /// The next message; `None` when the connection ends without a closing handshake. Cancel-safe.
    ///
    /// # Errors
    /// The connection failed, or the client broke the protocol.
    pub async fn next(&mut self) -> Result<Option<Message>, Error> {
        loop {
            if let Some((opcode, last, payload)) = self.take_frame()? {
                match opcode {
                    Opcode::Ping => return Ok(Some(Message::Ping(payload))),
                    Opcode::Pong => {}
                    Opcode::Close => return Ok(Some(Message::Close)),
                    Opcode::Data if self.within => return Err(broken("a message begins inside another")),
                    Opcode::Continuation if !self.within => return Err(broken("a continuation of nothing")),
                    Opcode::Data if last => return Ok(Some(Message::Data(payload))),
                    Opcode::Data | Opcode::Continuation => {
                        if self.partial.len() + payload.len() > MESSAGE_BYTES {
                            return Err(broken("a message is too long"));
                        }
                        self.partial.extend_from_slice(&payload);
                        self.within = !last;
                        if last {
                            return Ok(Some(Message::Data(self.partial.split().freeze())));
                        }
                    }
                }
            } else if self.input.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// A whole frame from the buffer, unmasked; `None` when more bytes are needed.
    fn take_frame(&mut self) -> Result<Option<(Opcode, bool, Bytes)>, Error> {
        let Some(&[first, second]) = self.buffer.first_chunk::<2>() else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(broken("reserved bits are set"));
        }
        if second & 0x80 == 0 {
            return Err(broken("a frame of the client is not masked"));
        }
        let opcode = match first & 0x0f {
            0 => Opcode::Continuation,
            1 | 2 => Opcode::Data,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            other => return Err(broken(&format!("unknown opcode {other}"))),
        };
        let last = first & 0x80 != 0;
        let (length, head) = match second & 0x7f {
            126 => match self.buffer.get(2..4) {
                Some(bytes) => (usize::from(u16::from_be_bytes([bytes[0], bytes[1]])), 4),
                None => return Ok(None),
            },
            127 => match self.buffer.get(2..10).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok()) {
                Some(bytes) => (usize::try_from(u64::from_be_bytes(bytes)).unwrap_or(usize::MAX), 10),
                None => return Ok(None),
            },
            short => (usize::from(short), 2),
        };
        let control = matches!(opcode, Opcode::Close | Opcode::Ping | Opcode::Pong);
        if length > MESSAGE_BYTES || (control && (length > 125 || !last)) {
            return Err(broken("a frame is too long"));
        }
        if self.buffer.len() < head + 4 + length {
            return Ok(None);
        }
        self.buffer.advance(head);
        let mask = self.buffer.split_to(4);
        let mut payload = self.buffer.split_to(length);
        for (byte, key) in payload.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= key;
        }
        Ok(Some((opcode, last, payload.freeze())))
    }
}

/// Writes messages.
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Writes to the connection after the handshake.
    pub fn new(output: W) -> Self {
        Writer { output }
    }

    /// Sends one binary message made of `parts`.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn binary(&mut self, parts: &[&[u8]]) -> Result<(), Error> {
        self.frame(2, parts).await
    }

    /// Sends one text message.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn text(&mut self, text: &str) -> Result<(), Error> {
        self.frame(1, &[text.as_bytes()]).await
    }

    /// Answers a ping.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn pong(&mut self, payload: &[u8]) -> Result<(), Error> {
        self.frame(10, &[payload]).await
    }

    /// Says that nothing follows, with a status (1000: all is well) and a reason.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn close(&mut self, status: u16, reason: &str) -> Result<(), Error> {
        let reason = &reason.as_bytes()[..reason.len().min(120)];
        self.frame(8, &[&status.to_be_bytes(), reason]).await?;
        self.output.shutdown().await?;
        Ok(())
    }

    async fn frame(&mut self, opcode: u8, parts: &[&[u8]]) -> Result<(), Error> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut bytes = Vec::with_capacity(length + 10);
        bytes.push(0x80 | opcode);
        match (u8::try_from(length), u16::try_from(length)) {
            (Ok(short @ 0..=125), _) => bytes.push(short),
            (_, Ok(medium)) => {
                bytes.push(126);
                bytes.extend(medium.to_be_bytes());
            }
            _ => {
                bytes.push(127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        for part in parts {
            bytes.extend_from_slice(part);
        }
        self.output.write_all(&bytes).await?;
        self.output.flush().await?;
        Ok(())
    }
}

fn broken(message: &str) -> Error {
    Error::Protocol { protocol: "websocket", message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A masked frame as a client sends it.
    pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            0..=125 => frame.push(0x80 | u8::try_from(payload.len()).unwrap()),
            length => {
                frame.push(0x80 | 126);
                frame.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
        }
        let mask = [1u8, 2, 3, 4];
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
        frame
    }

    async fn read_all(bytes: &[u8]) -> Result<Vec<Message>, Error> {
        let mut reader = Reader::new(bytes);
        let mut messages = Vec::new();
        while let Some(message) = reader.next().await? {
            messages.push(message);
        }
        Ok(messages)
    }

    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[tokio::test]
    async fn reads_whole_and_fragmented_messages_with_a_ping_between() {
        let long = vec![7; 300];
        let bytes = [
            masked(0x82, b"one"),
            masked(0x02, b"tw"),
            masked(0x89, b"?"),
            masked(0x80, b"o"),
            masked(0x82, &long),
            masked(0x88, &[]),
        ]
        .concat();
        assert_eq!(
            read_all(&bytes).await.unwrap(),
            [
                Message::Data("one".into()),
                Message::Ping("?".into()),
                Message::Data("two".into()),
                Message::Data(long.into()),
                Message::Close
            ]
        );
    }

    #[tokio::test]
    async fn refuses_what_breaks_the_protocol() {
        for (bytes, text) in [
            (vec![0x82, 0x01, 0x00], "not masked"),
            (masked(0x80, b"x"), "continuation of nothing"),
            ([masked(0x02, b"x"), masked(0x82, b"y")].concat(), "inside another"),
            (masked(0xf2, b"x"), "reserved"),
            (masked(0x83, b"x"), "opcode 3"),
            (masked(0x09, b"x"), "too long"),
            (vec![0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "too long"),
        ] {
            let error = read_all(&bytes).await.unwrap_err();
            assert!(error.to_string().contains(text), "{error} / {text}");
        }
    }

    #[tokio::test]
    async fn writes_the_shortest_length() {
        let mut output = Vec::new();
        let mut writer = Writer::new(&mut output);
        writer.binary(&[&[1], b"ab"]).await.unwrap();
        writer.binary(&[&[0; 126]]).await.unwrap();
        writer.close(1000, "").await.unwrap();
        assert_eq!(output[..5], [0x82, 3, 1, b'a', b'b']);
        assert_eq!(output[5..9], [0x82, 126, 0, 126]);
        assert_eq!(output[output.len() - 4..], [0x88, 2, 0x03, 0xe8]);
    }
}
