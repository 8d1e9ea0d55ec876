//! The header of a segment. Pure.

use crate::log::frame::{self, Reader};
use crate::record::Revision;

const MAGIC: &[u8; 8] = b"PODLOG1\n";
/// Bytes of a segment's header.
pub(crate) const HEADER_BYTES: usize = 36;

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The store it belongs to.
    pub(crate) store_id: u64,
    /// The number of its first frame. What older segments hold from this number on was never acknowledged.
    pub(crate) first_frame: u64,
    /// The newest revision before its first frame.
    pub(crate) base_revision: Revision,
}

impl Header {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for number in [self.store_id, self.first_frame, self.base_revision] {
            frame::put_u64(&mut bytes, number);
        }
        let checksum = frame::checksum(0, &bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Header, &'static str> {
        let header = bytes.get(..HEADER_BYTES).ok_or("it is too short for a log segment")?;
        if !header.starts_with(MAGIC) {
            return Err("it is not a log segment of this version");
        }
        let mut reader = Reader(&header[MAGIC.len()..]);
        let mut number = || reader.u64().unwrap_or(0);
        let decoded = Header { store_id: number(), first_frame: number(), base_revision: number() };
        if reader.u32() != Some(frame::checksum(0, &header[..HEADER_BYTES - 4])) {
            return Err("the segment header's checksum does not match");
        }
        Ok(decoded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_changed_byte_is_seen() {
        let header = Header { store_id: 5, first_frame: 7, base_revision: 9 };
        let bytes = header.encode();
        assert_eq!(bytes.len(), HEADER_BYTES);
        assert_eq!(Header::decode(&bytes), Ok(header));
        for index in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[index] ^= 1;
            assert!(Header::decode(&changed).is_err(), "byte {index}");
            assert!(Header::decode(&bytes[..index]).is_err(), "cut at {index}");
        }
    }
}
