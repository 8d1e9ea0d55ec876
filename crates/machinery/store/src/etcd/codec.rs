//! How keys and values stand in etcd, which other programs may read too.

use std::fmt::Debug;

use bytes::Bytes;

use crate::key::Key;
use crate::record::Value;

/// Translates between the store's keys and values and those in etcd.
///
/// What one version of a program wrote, every later one must be able to read.
pub trait Codec: Debug + Send + Sync + 'static {
    /// The key in etcd, below the store's prefix. The keys of one collection stand together there, in the same order and
    /// behind the place of the collection itself.
    fn key_to_etcd(&self, key: &[u8]) -> Vec<u8>;

    /// The store's key for a key below its prefix; `None` for one that is not the store's, and is left alone.
    fn key_from_etcd(&self, key: &[u8]) -> Option<Key>;

    /// The value in etcd. The commit's revision is not known yet.
    fn encode(&self, key: &Key, value: &Value) -> Bytes;

    /// The value as the store keeps it, its revision to be put in where `revision_at` says.
    ///
    /// Errors: what is wrong with the bytes. The store then keeps them as they are.
    fn decode(&self, key: &Key, bytes: Bytes) -> Result<Value, String>;
}

/// Keys as they are, values with the place of their revision in front.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

/// The place of the revision in a value that has none.
const NOWHERE: u32 = u32::MAX;

impl Codec for Plain {
    fn key_to_etcd(&self, key: &[u8]) -> Vec<u8> {
        key.to_vec()
    }

    fn key_from_etcd(&self, key: &[u8]) -> Option<Key> {
        Some(Key::new(key))
    }

    fn encode(&self, _: &Key, value: &Value) -> Bytes {
        let at = value.revision_at.and_then(|at| u32::try_from(at).ok()).unwrap_or(NOWHERE);
        [&at.to_le_bytes(), value.bytes.as_ref()].concat().into()
    }

    fn decode(&self, _: &Key, mut bytes: Bytes) -> Result<Value, String> {
        if bytes.len() < 4 {
            return Err("it is too short".to_owned());
        }
        let head = bytes.split_to(4);
        let at = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let revision_at = (at != NOWHERE).then_some(at as usize);
        if revision_at.is_some_and(|at| at > bytes.len()) {
            return Err("the revision's place is behind its end".to_owned());
        }
        Ok(Value { bytes, revision_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_values_come_back() {
        let key = Key::from("k");
        for revision_at in [None, Some(0), Some(3)] {
            let value = Value { bytes: Bytes::from_static(b"abc"), revision_at };
            assert_eq!(Plain.decode(&key, Plain.encode(&key, &value)), Ok(value));
        }
        for damaged in [&b""[..], b"\0\0", b"\x04\0\0\0abc"] {
            assert!(Plain.decode(&key, Bytes::copy_from_slice(damaged)).is_err(), "{damaged:?}");
        }
    }
}
