//! Zstandard layers.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// A plain stream of a compressed one: all its frames, one after the other. Source: RFC 8878, section 3.
pub(crate) fn decoder(input: impl BufRead) -> impl Read {
    Frames { input, decoder: FrameDecoder::new(), inside: false }
}

struct Frames<R> {
    input: R,
    decoder: FrameDecoder,
    /// Whether a frame has begun and not been read to its end.
    inside: bool,
}

impl<R: BufRead> Frames<R> {
    /// Begins the next frame with content; false at the end of all.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.input.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.input) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    if io::copy(&mut (&mut self.input).take(length), &mut io::sink())? < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.inside {
                if !self.begin()? {
                    return Ok(0);
                }
                self.inside = true;
            }
            // What is decoded cannot all be read before the frame's end: later blocks refer to it.
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let some = BlockDecodingStrategy::UptoBytes(buffer.len());
                self.decoder.decode_blocks(&mut self.input, some).map_err(io::Error::other)?;
            }
            match self.decoder.read(buffer)? {
                0 => self.inside = false,
                size => return Ok(size),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    #[test]
    fn all_frames_are_read_and_some_are_skipped() {
        let frame = |text: &[u8]| compress_to_vec(text, CompressionLevel::Uncompressed);
        let skipped = b"\x5a\x2a\x4d\x18\x03\0\0\0xyz".to_vec();
        let long = vec![7; 300 << 10];
        let stream = [skipped.clone(), frame(b"one"), skipped.clone(), frame(&long), skipped];
        let mut plain = Vec::new();
        decoder(stream.concat().as_slice()).read_to_end(&mut plain).unwrap();
        assert_eq!(plain, [b"one".as_slice(), &long].concat());
        for broken in [&b"\x5a\x2a\x4d\x18\xff\0\0\0x"[..], b"no frame", &frame(&long)[..1000]] {
            assert!(decoder(broken).read_to_end(&mut Vec::new()).is_err(), "{broken:?}");
        }
    }
}
