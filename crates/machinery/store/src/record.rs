//! What the store keeps and tells: values, records, events.

use std::any::Any;
use std::fmt;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::key::Key;

/// A point in the store's history. Each change has its own; they rise by one from 2 (a fresh store is at 1).
pub type Revision = u64;

/// Names a lease. Never zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub(crate) NonZeroU64);

impl LeaseId {
    /// The lease with this number; `None` for zero.
    pub fn new(number: u64) -> Option<LeaseId> {
        NonZeroU64::new(number).map(LeaseId)
    }

    /// The number of the lease.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Bytes to store.
///
/// If `revision_at` is set, the decimal digits of the commit's own revision are spliced in at that byte offset when the
/// revision is assigned, so an object that carries its resourceVersion is encoded once, before its revision is known:
///
/// ```
/// use podium_store::Value;
/// let text = r#"{"metadata":{"resourceVersion":""}}"#;
/// let value = Value { bytes: text.into(), revision_at: Some(32) };
/// assert_eq!(value.at_revision(7), r#"{"metadata":{"resourceVersion":"7"}}"#);
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Value {
    /// The bytes. They are copied into a buffer of their own size, so passing a slice of something larger is fine.
    pub bytes: Bytes,
    /// Where the digits of the revision go; at most `bytes.len()`, and below 4 GiB.
    pub revision_at: Option<usize>,
}

impl Value {
    /// A value without its own revision in it.
    pub fn plain(bytes: impl Into<Bytes>) -> Value {
        Value { bytes: bytes.into(), revision_at: None }
    }

    /// The bytes that are kept if the value is committed at this revision: a buffer of exactly their size.
    ///
    /// An offset behind the end is taken as the end.
    pub fn at_revision(&self, revision: Revision) -> Bytes {
        match self.revision_at {
            None => Bytes::copy_from_slice(&self.bytes),
            Some(at) => splice(&self.bytes, at.min(self.bytes.len()), 0, revision),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::plain(text.as_bytes().to_vec())
    }
}

impl From<Bytes> for Value {
    fn from(bytes: Bytes) -> Value {
        Value::plain(bytes)
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Value {
        Value::plain(bytes)
    }
}

// Values may be secrets, so neither they nor records ever print their bytes.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Value")
            .field("len", &self.bytes.len())
            .field("revision_at", &self.revision_at)
            .finish()
    }
}

/// `bytes` with the `skip` bytes at `at` replaced by the digits of `revision`.
fn splice(bytes: &[u8], at: usize, skip: usize, revision: Revision) -> Bytes {
    let mut digits = [0u8; 20];
    let digits = decimal(revision, &mut digits);
    let mut out = Vec::with_capacity(bytes.len() - skip + digits.len());
    out.extend_from_slice(&bytes[..at]);
    out.extend_from_slice(digits);
    out.extend_from_slice(&bytes[at + skip..]);
    Bytes::from(out)
}

/// The decimal digits of a number, written to the end of the buffer (u64 has at most 20).
fn decimal(mut number: u64, buffer: &mut [u8; 20]) -> &[u8] {
    let mut start = buffer.len();
    loop {
        start -= 1;
        buffer[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &buffer[start..];
        }
    }
}

fn decimal_len(number: u64) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// A key and its value as of one revision. Shared between reads, watches and history; never changed.
pub struct Record {
    /// The key.
    pub key: Key,
    /// The stored bytes, with the revision spliced in if the writer asked for it.
    pub value: Bytes,
    /// The revision that created the key (since it was last absent).
    pub create_revision: Revision,
    /// The revision of this change.
    pub mod_revision: Revision,
    /// How often the key has been put since it was created, this time included; 1 for a new key.
    pub version: u64,
    /// The lease whose end deletes the key.
    pub lease: Option<LeaseId>,
    /// Where in `value` the digits of `mod_revision` stand, if they do.
    pub revision_at: Option<u32>,
    attachment: OnceLock<Box<dyn Any + Send + Sync>>,
    mark: AtomicU64,
}

/// The mark of a record about which nothing is known: every reader has to look at it.
pub(crate) const UNMARKED: u64 = u64::MAX;

impl Record {
    /// A record, for engines. The digits of `mod_revision` must already be in `value` where `revision_at` says.
    pub fn new(
        key: Key,
        value: Bytes,
        create_revision: Revision,
        mod_revision: Revision,
        version: u64,
        lease: Option<LeaseId>,
        revision_at: Option<u32>,
    ) -> Record {
        Record {
            key,
            value,
            create_revision,
            mod_revision,
            version,
            lease,
            revision_at,
            attachment: OnceLock::new(),
            mark: AtomicU64::new(UNMARKED),
        }
    }

    /// Says what the record can be found by: bits of which a reader that wants it asks for a part (see
    /// [`Store::range_where`]), as in a Bloom filter. Whoever has read the value says it, always the same.
    ///
    /// [`Store::range_where`]: crate::Store::range_where
    pub fn set_mark(&self, mark: u64) {
        self.mark.store(mark, Ordering::Relaxed);
    }

    /// What [`Record::set_mark`] said; all bits before.
    pub fn mark(&self) -> u64 {
        self.mark.load(Ordering::Relaxed)
    }

    /// Something computed from this record once, by whoever asks first, and then shared by every list and watch that
    /// holds the record (parsed labels, for instance).
    ///
    /// # Panics
    /// If it is asked for with two different types: a record has one attachment.
    pub fn attachment<T: Send + Sync + 'static>(&self, make: impl FnOnce(&Record) -> T) -> &T {
        self.attachment
            .get_or_init(|| Box::new(make(self)))
            .downcast_ref::<T>()
            .expect("a record's attachment is always asked for with the same type")
    }

    /// What a watcher is told when this record is deleted at `revision`: the last value with the deletion's revision in
    /// the place of its own (if it carries one).
    pub(crate) fn deleted_at(&self, revision: Revision) -> Record {
        let value = match self.revision_at {
            None => self.value.clone(),
            Some(at) => splice(&self.value, at as usize, decimal_len(self.mod_revision), revision),
        };
        Record::new(
            self.key.clone(),
            value,
            self.create_revision,
            revision,
            self.version,
            self.lease,
            self.revision_at,
        )
    }

    /// The value as its writer gave it.
    pub fn written(&self) -> Value {
        let Some(at) = self.revision_at.map(|at| at as usize) else {
            return Value::plain(self.value.clone());
        };
        let behind = at + decimal_len(self.mod_revision);
        Value { bytes: [&self.value[..at], &self.value[behind..]].concat().into(), revision_at: Some(at) }
    }

    /// Bytes of key and value.
    pub fn size(&self) -> usize {
        self.key.len() + self.value.len()
    }
}

/// Equal if everything but the attachment is.
impl PartialEq for Record {
    fn eq(&self, other: &Record) -> bool {
        self.key == other.key
            && self.value == other.value
            && self.create_revision == other.create_revision
            && self.mod_revision == other.mod_revision
            && self.version == other.version
            && self.lease == other.lease
            && self.revision_at == other.revision_at
    }
}

impl Eq for Record {}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("key", &self.key)
            .field("len", &self.value.len())
            .field("create_revision", &self.create_revision)
            .field("mod_revision", &self.mod_revision)
            .field("version", &self.version)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was created or changed. It was created if the event has no previous record.
    Put,
    /// It was deleted.
    Delete,
}

/// One change of one key, as watchers see it. Shared by all watchers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The record after a put. For a delete: the last record, with the deletion's revision as `mod_revision`, and in
    /// `value` too if the value carries its revision (see [`Value`]); so it is the final object, ready to be sent.
    pub record: Arc<Record>,
    /// The record before this change; `None` if there was none.
    pub previous: Option<Arc<Record>>,
    /// The revision of the change.
    pub revision: Revision,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revision_is_spliced_where_asked() {
        let value = Value { bytes: Bytes::from_static(b"ab"), revision_at: Some(1) };
        assert_eq!(value.at_revision(120), "a120b");
        assert_eq!(Value { revision_at: Some(2), ..value.clone() }.at_revision(9), "ab9");
        assert_eq!(Value { revision_at: Some(99), ..value.clone() }.at_revision(9), "ab9");
        assert_eq!(Value { revision_at: None, ..value }.at_revision(9), "ab");
        assert_eq!(
            Value { bytes: Bytes::new(), revision_at: Some(0) }.at_revision(u64::MAX),
            u64::MAX.to_string()
        );
    }

    #[test]
    fn a_deleted_record_carries_the_deletions_revision() {
        let value = Value { bytes: Bytes::from_static(b"<>"), revision_at: Some(1) };
        let record = Record::new(Key::from("k"), value.at_revision(99), 3, 99, 4, None, Some(1));
        let deleted = record.deleted_at(100);
        assert_eq!(
            (&deleted.value[..], deleted.mod_revision, deleted.create_revision),
            (&b"<100>"[..], 100, 3)
        );
    }

    #[test]
    fn decimal_len_counts_digits() {
        for number in [0, 1, 9, 10, 99, 100, u64::MAX] {
            assert_eq!(decimal_len(number), number.to_string().len());
        }
    }

    #[test]
    fn attachment_is_made_once() {
        let record = Record::new(Key::from("k"), Bytes::new(), 2, 2, 1, None, None);
        assert_eq!(*record.attachment(|r| r.mod_revision), 2);
        assert_eq!(*record.attachment::<u64>(|_| unreachable!("made already")), 2);
    }

    #[test]
    fn debug_does_not_show_values() {
        let record = Record::new(Key::from("k"), Bytes::from_static(b"hunter2"), 2, 2, 1, None, None);
        assert!(!format!("{record:?}").contains("hunter2"));
        assert!(!format!("{:?}", Value::from("hunter2")).contains("hunter2"));
    }
}
