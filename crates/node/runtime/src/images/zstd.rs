//! Zstandard layers.

use std::io::{self, Read};

/// A plain stream of a compressed one.
pub(crate) fn decoder(input: impl Read) -> io::Result<impl Read> {
    ruzstd::decoding::StreamingDecoder::new(input).map_err(io::Error::other)
}
