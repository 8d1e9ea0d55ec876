//! SPDY/3.1 frames, as far as Kubernetes uses them: streams with headers, data, half-close, ping. Source: the SPDY
//! protocol, draft 3.1; flow control is left out, as the implementation in every kubelet and runtime leaves it out.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::Error;

/// The longest frame taken; a frame's length has 24 bits, and nobody sends data in pieces of more than 64 KiB.
const FRAME_BYTES: usize = 1 << 20;
/// The longest header block taken, unpacked.
const HEADER_BYTES: usize = 64 << 10;

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;
const FLAG_FIN: u8 = 1;

/// The words that both sides begin with, length first. From the protocol's section 2.6.10.1.
const DICTIONARY_WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
content-length content-location content-md5 content-range content-type date etag expect expires from host if-match \
if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade user-agent \
vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie keep-alive origin";
/// What follows them, as it is.
const DICTIONARY_TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept \
Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8\
charset=iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1423);
    for word in DICTIONARY_WORDS.split(' ') {
        let word = word.replace('_', " ");
        bytes.put_u32(u32::try_from(word.len()).unwrap_or(0));
        bytes.put_slice(word.as_bytes());
    }
    bytes.put_slice(DICTIONARY_TAIL.as_bytes());
    bytes
}

/// Names and values; names are lower case.
pub type Headers = Vec<(String, String)>;

/// What arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The peer opens a stream.
    Open {
        /// Its number.
        stream: u32,
        /// What it is for.
        headers: Headers,
        /// Whether nothing will follow on it.
        last: bool,
    },
    /// The peer accepts a stream of ours.
    Reply {
        /// Its number.
        stream: u32,
        /// Whether nothing will follow on it.
        last: bool,
    },
    /// Bytes of a stream.
    Data {
        /// Its number.
        stream: u32,
        /// The bytes, maybe none.
        bytes: Bytes,
        /// Whether nothing will follow on it.
        last: bool,
    },
    /// The peer gives a stream up.
    Reset {
        /// Its number.
        stream: u32,
        /// Why, in the protocol's numbers.
        status: u32,
    },
    /// To be answered with [`Writer::pong`].
    Ping(u32),
    /// The peer opens and accepts no more streams.
    GoAway,
    /// Settings, windows and the like, which change nothing here.
    Other,
}

/// Reads frames.
pub struct Reader<R> {
    input: R,
    buffer: BytesMut,
    inflate: Decompress,
}

impl<R> std::fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("spdy::Reader").finish_non_exhaustive()
    }
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Reads from the connection after the upgrade.
    pub fn new(input: R) -> Self {
        Reader { input, buffer: BytesMut::new(), inflate: Decompress::new(true) }
    }

    /// The next frame; `None` when the connection ends. Cancel-safe.
    ///
    /// # Errors
    /// The connection failed, or the peer broke the protocol.
    pub async fn next(&mut self) -> Result<Option<Frame>, Error> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(Some(frame));
            }
            if self.input.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(Error::Closed) };
            }
        }
    }

    fn take_frame(&mut self) -> Result<Option<Frame>, Error> {
        let Some(head) = self.buffer.first_chunk::<8>() else { return Ok(None) };
        let mut head: &[u8] = &head[..];
        let first = head.get_u32();
        let second = head.get_u32();
        let length = usize::try_from(second & 0x00ff_ffff).unwrap_or(usize::MAX);
        let flags = u8::try_from(second >> 24).unwrap_or(0);
        if length > FRAME_BYTES {
            return Err(broken("a frame is too long"));
        }
        if self.buffer.len() < 8 + length {
            return Ok(None);
        }
        self.buffer.advance(8);
        let mut body = self.buffer.split_to(length).freeze();
        let last = flags & FLAG_FIN != 0;
        if first & 0x8000_0000 == 0 {
            return Ok(Some(Frame::Data { stream: first, bytes: body, last }));
        }
        let version = u16::try_from((first >> 16) & 0x7fff).unwrap_or(0);
        if version != VERSION {
            return Err(broken(&format!("version {version}")));
        }
        let mut number = |skip: usize| -> Result<u32, Error> {
            if body.len() < 4 + skip {
                return Err(broken("a control frame is too short"));
            }
            let number = body.get_u32();
            body.advance(skip);
            Ok(number)
        };
        let frame = match u16::try_from(first & 0xffff).unwrap_or(0) {
            // After the number: the associated stream, a priority, a slot.
            SYN_STREAM => {
                let stream = number(6)? & 0x7fff_ffff;
                Frame::Open { stream, headers: self.headers(&body)?, last }
            }
            SYN_REPLY => {
                let stream = number(0)? & 0x7fff_ffff;
                // The block must be unpacked even if nobody reads it: the dictionary moves on.
                self.headers(&body)?;
                Frame::Reply { stream, last }
            }
            HEADERS => {
                number(0)?;
                self.headers(&body)?;
                Frame::Other
            }
            RST_STREAM => Frame::Reset { stream: number(0)? & 0x7fff_ffff, status: number(0)? },
            PING => Frame::Ping(number(0)?),
            GOAWAY => Frame::GoAway,
            SETTINGS | WINDOW_UPDATE => Frame::Other,
            other => return Err(broken(&format!("unknown control frame {other}"))),
        };
        Ok(Some(frame))
    }

    fn headers(&mut self, packed: &[u8]) -> Result<Headers, Error> {
        let mut plain = Vec::with_capacity(1024);
        let mut used = 0;
        while used < packed.len() {
            plain.reserve(1024);
            let before = self.inflate.total_in();
            let outcome = self.inflate.decompress_vec(&packed[used..], &mut plain, FlushDecompress::Sync);
            used += usize::try_from(self.inflate.total_in() - before).unwrap_or(usize::MAX);
            match outcome {
                Ok(Status::Ok | Status::BufError) if plain.len() <= HEADER_BYTES => {}
                Ok(_) => return Err(broken("a header block is too long")),
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate
                        .set_dictionary(&dictionary())
                        .map_err(|_| broken("an unknown dictionary"))?;
                }
                Err(_) => return Err(broken("a header block cannot be unpacked")),
            }
        }
        // A flush may leave output behind when the room was exactly used up.
        loop {
            plain.reserve(256);
            let before = plain.len();
            let _ = self.inflate.decompress_vec(&[], &mut plain, FlushDecompress::Sync);
            if plain.len() == before {
                break;
            }
        }
        parse_headers(&plain).ok_or_else(|| broken("a header block is malformed"))
    }
}

fn parse_headers(mut plain: &[u8]) -> Option<Headers> {
    let text = |plain: &mut &[u8]| -> Option<String> {
        let length = usize::try_from(plain.split_off(..4).map(|mut b| b.get_u32())?).ok()?;
        String::from_utf8(plain.split_off(..length)?.to_vec()).ok()
    };
    let count = plain.split_off(..4).map(|mut b| b.get_u32())?;
    let mut headers = Vec::new();
    for _ in 0..count {
        headers.push((text(&mut plain)?, text(&mut plain)?));
    }
    Some(headers)
}

/// Writes frames.
pub struct Writer<W> {
    output: W,
    deflate: Compress,
    next_stream: u32,
}

impl<W> std::fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("spdy::Writer").field("next_stream", &self.next_stream).finish_non_exhaustive()
    }
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Writes to the connection after the upgrade, as the client: its streams have odd numbers.
    pub fn client(output: W) -> Self {
        Writer { output, deflate: compressor(), next_stream: 1 }
    }

    /// Writes as the server: its streams have even numbers.
    pub fn server(output: W) -> Self {
        Writer { output, deflate: compressor(), next_stream: 2 }
    }

    /// Opens a stream and returns its number.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn open(&mut self, headers: &[(&str, &str)]) -> Result<u32, Error> {
        let stream = self.next_stream;
        self.next_stream += 2;
        let mut body = Vec::new();
        body.put_u32(stream);
        body.put_u32(0);
        body.put_u16(0);
        body.extend(self.pack(headers)?);
        self.control(SYN_STREAM, 0, &body).await?;
        Ok(stream)
    }

    /// Accepts a stream of the peer's.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn reply(&mut self, stream: u32) -> Result<(), Error> {
        let mut body = Vec::new();
        body.put_u32(stream);
        body.extend(self.pack(&[])?);
        self.control(SYN_REPLY, 0, &body).await
    }

    /// Sends bytes; with `last`, nothing will follow on this stream.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn data(&mut self, stream: u32, bytes: &[u8], last: bool) -> Result<(), Error> {
        let mut chunks = bytes.chunks(32 << 10).peekable();
        loop {
            let chunk = chunks.next().unwrap_or_default();
            let end = chunks.peek().is_none();
            let mut frame = Vec::with_capacity(8 + chunk.len());
            frame.put_u32(stream & 0x7fff_ffff);
            let flags = if last && end { u32::from(FLAG_FIN) << 24 } else { 0 };
            frame.put_u32(flags | u32::try_from(chunk.len()).unwrap_or(0));
            frame.extend_from_slice(chunk);
            self.output.write_all(&frame).await?;
            if end {
                break;
            }
        }
        self.output.flush().await?;
        Ok(())
    }

    /// Answers a ping.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn pong(&mut self, number: u32) -> Result<(), Error> {
        self.control(PING, 0, &number.to_be_bytes()).await
    }

    /// Says that nothing follows.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn close(&mut self) -> Result<(), Error> {
        self.output.shutdown().await?;
        Ok(())
    }

    async fn control(&mut self, kind: u16, flags: u8, body: &[u8]) -> Result<(), Error> {
        let mut frame = Vec::with_capacity(8 + body.len());
        frame.put_u16(0x8000 | VERSION);
        frame.put_u16(kind);
        frame.put_u32(u32::from(flags) << 24 | u32::try_from(body.len()).unwrap_or(0));
        frame.extend_from_slice(body);
        self.output.write_all(&frame).await?;
        self.output.flush().await?;
        Ok(())
    }

    fn pack(&mut self, headers: &[(&str, &str)]) -> Result<Vec<u8>, Error> {
        let mut plain = Vec::new();
        plain.put_u32(u32::try_from(headers.len()).unwrap_or(0));
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(u32::try_from(text.len()).unwrap_or(0));
            plain.put_slice(text.as_bytes());
        }
        let mut packed = Vec::with_capacity(plain.len() + 64);
        let start = self.deflate.total_in();
        loop {
            packed.reserve(256);
            let done = usize::try_from(self.deflate.total_in() - start).unwrap_or(0);
            self.deflate
                .compress_vec(&plain[done..], &mut packed, FlushCompress::Sync)
                .map_err(|error| broken(&error.to_string()))?;
            let all = usize::try_from(self.deflate.total_in() - start).unwrap_or(0) == plain.len();
            // Room left over means that the flush is complete.
            if all && packed.len() < packed.capacity() {
                return Ok(packed);
            }
        }
    }
}

fn compressor() -> Compress {
    let mut compress = Compress::new(Compression::default(), true);
    // Without it the peer could not read the first block, so the connection would fail at once and visibly.
    let _ = compress.set_dictionary(&dictionary());
    compress
}

fn broken(message: &str) -> Error {
    Error::Protocol { protocol: "spdy", message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_protocols() {
        let bytes = dictionary();
        let (mut a, mut b) = (1u32, 0u32);
        for byte in &bytes {
            a = (a + u32::from(*byte)) % 65_521;
            b = (b + a) % 65_521;
        }
        // Its identifier on the wire, the Adler-32 sum.
        assert_eq!((bytes.len(), b << 16 | a), (1423, 0xe3c6_a7c2));
    }

    #[tokio::test]
    async fn both_sides_understand_each_other_over_many_blocks() {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (_, write) = tokio::io::split(near);
        let (read, _) = tokio::io::split(far);
        let mut writer = Writer::client(write);
        let mut reader = Reader::new(read);
        for round in 0..50u32 {
            let value = "x".repeat(usize::try_from(round).unwrap() * 40);
            let stream = writer.open(&[("streamtype", "stdin"), ("value", &value)]).await.unwrap();
            assert_eq!(stream, round * 2 + 1);
            let Some(Frame::Open { stream: seen, headers, last: false }) = reader.next().await.unwrap()
            else {
                panic!()
            };
            assert_eq!(seen, stream);
            assert_eq!(headers, [("streamtype".to_owned(), "stdin".to_owned()), ("value".to_owned(), value)]);
        }
        writer.reply(9).await.unwrap();
        assert_eq!(reader.next().await.unwrap(), Some(Frame::Reply { stream: 9, last: false }));
        writer.data(1, &[5; 40_000], true).await.unwrap();
        let Some(Frame::Data { bytes, last: false, .. }) = reader.next().await.unwrap() else { panic!() };
        assert_eq!(bytes.len(), 32 << 10);
        let Some(Frame::Data { bytes, last: true, .. }) = reader.next().await.unwrap() else { panic!() };
        assert_eq!(bytes.len(), 40_000 - (32 << 10));
        writer.data(1, &[], true).await.unwrap();
        assert_eq!(
            reader.next().await.unwrap(),
            Some(Frame::Data { stream: 1, bytes: Bytes::new(), last: true })
        );
        writer.pong(7).await.unwrap();
        assert_eq!(reader.next().await.unwrap(), Some(Frame::Ping(7)));
        drop(writer);
    }

    #[tokio::test]
    async fn nonsense_is_refused() {
        for bytes in [
            vec![0x80, 9, 0, 1, 0, 0, 0, 0],
            vec![0x80, 3, 0, 99, 0, 0, 0, 0],
            vec![0x80, 3, 0, 1, 0, 0, 0, 2, 0, 0],
            vec![0x80, 3, 0, 2, 0, 0, 0, 6, 0, 0, 0, 1, 1, 2],
            vec![0, 0, 0, 1, 0, 0xff, 0xff, 0xff],
        ] {
            assert!(Reader::new(bytes.as_slice()).next().await.is_err(), "{bytes:?}");
        }
        assert!(matches!(Reader::new(&[0u8, 0][..]).next().await, Err(Error::Closed)));
    }
}
