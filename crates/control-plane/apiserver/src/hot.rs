//! Protobuf forms of stored objects, kept beside their records while they are hot.
//!
//! A form is made by whoever first asks (a get, a list, a watch) and then shared, so a list of ten thousand pods for one
//! client after another, or an event for hundreds of watchers, is encoded once. What is kept is bounded in bytes, and
//! forgotten when nobody has asked for a while.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use podium_api::codec;
use podium_api::status::ApiError;
use podium_store::Record;

use crate::catalogue::Served;
use crate::storage::{self, Meta};

/// The most bytes that are kept: twice the protobuf list of ten thousand pods, and within the memory budget of a node.
const BUDGET: usize = 64 << 20;

/// Sweeps, ten seconds apart, that a form survives without being asked for.
const IDLE_SWEEPS: u32 = 12;

/// The protobuf form of one record, if it is kept.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    form: Mutex<Option<Bytes>>,
    /// The length of the message inside plus one, once it is known; 0 until then.
    length: AtomicU32,
    /// The sweep before which it was last asked for.
    used: AtomicU32,
}

/// All that is kept.
#[derive(Debug, Default)]
pub(crate) struct Hot {
    kept: Mutex<Kept>,
    sweep: AtomicU32,
}

#[derive(Debug, Default)]
struct Kept {
    /// In the order they were made.
    entries: VecDeque<(Weak<Record>, usize)>,
    bytes: usize,
}

/// Where the slot of a record is. A record that is in the queue has its attachment.
fn slot_of(record: &Record) -> &Slot {
    &record.attachment(|_| Meta::default()).protobuf
}

impl Hot {
    /// Whether forms of a kind are made here: clients see it as it is stored, and it has a protobuf form.
    pub(crate) fn covers(served: &Served) -> bool {
        served.as_stored() && served.type_id.is_some()
    }

    /// The record's object in its envelope. `keep` is false for what is too much to be kept.
    ///
    /// Errors: 500 where a stored object does not fit its own type.
    pub(crate) fn form(&self, served: &Served, record: &Arc<Record>, keep: bool) -> Result<Bytes, ApiError> {
        let slot = &Meta::of(served, record).protobuf;
        slot.used.store(self.sweep.load(Ordering::Relaxed), Ordering::Relaxed);
        if let Some(form) = &*slot.form.lock() {
            return Ok(form.clone());
        }
        let form = Bytes::from(codec::json_to_protobuf(&storage::parse(record)?)?);
        let length = message_in(&form).map_or(0, <[u8]>::len);
        slot.length.store(u32::try_from(length + 1).unwrap_or(0), Ordering::Relaxed);
        if keep && form.len() < BUDGET / 16 {
            let before = slot.form.lock().replace(form.clone());
            // Two may have made it at once; it is counted once.
            if before.is_none() {
                self.keep(record, form.len());
            }
        }
        Ok(form)
    }

    /// The length of the message in the form, which is made if that has never been done.
    ///
    /// Errors: as [`Hot::form`].
    pub(crate) fn length(
        &self,
        served: &Served,
        record: &Arc<Record>,
        keep: bool,
    ) -> Result<usize, ApiError> {
        match Meta::of(served, record).protobuf.length.load(Ordering::Relaxed) {
            0 => {
                let form = self.form(served, record, keep)?;
                Ok(message_in(&form).map_or(0, <[u8]>::len))
            }
            known => Ok(known as usize - 1),
        }
    }

    /// Whether this many bytes can be kept at once.
    pub(crate) fn has_room_for(bytes: usize) -> bool {
        bytes <= BUDGET
    }

    fn keep(&self, record: &Arc<Record>, bytes: usize) {
        let mut gone = Vec::new();
        {
            let mut kept = self.kept.lock();
            kept.entries.push_back((Arc::downgrade(record), bytes));
            kept.bytes += bytes;
            while kept.bytes > BUDGET {
                let Some((oldest, bytes)) = kept.entries.pop_front() else { break };
                kept.bytes -= bytes;
                gone.push(oldest);
            }
        }
        for record in gone.iter().filter_map(Weak::upgrade) {
            drop(slot_of(&record).form.lock().take());
        }
    }

    /// Forgets what nobody asked for lately, and counts what went with its record no more.
    pub(crate) fn sweep(&self) {
        let now = self.sweep.fetch_add(1, Ordering::Relaxed) + 1;
        let mut cold = Vec::new();
        {
            let mut kept = self.kept.lock();
            let mut bytes = 0;
            kept.entries.retain(|(record, size)| {
                let Some(record) = record.upgrade() else { return false };
                if now.wrapping_sub(slot_of(&record).used.load(Ordering::Relaxed)) > IDLE_SWEEPS {
                    cold.push(record);
                    return false;
                }
                bytes += size;
                true
            });
            kept.bytes = bytes;
            if kept.entries.capacity() > 4 * kept.entries.len() + 1024 {
                kept.entries.shrink_to_fit();
            }
        }
        for record in cold {
            drop(slot_of(&record).form.lock().take());
        }
    }
}

/// The message in an envelope: its field 2. All fields of an envelope are length-delimited.
pub(crate) fn message_in(enveloped: &[u8]) -> Option<&[u8]> {
    let mut rest = enveloped.strip_prefix(b"k8s\0")?;
    loop {
        let (tag, tail) = rest.split_first()?;
        let (length, tail) = read_varint(tail)?;
        let (bytes, tail) = tail.split_at_checked(usize::try_from(length).ok()?)?;
        if *tag == (2 << 3 | 2) {
            return Some(bytes);
        }
        rest = tail;
    }
}

fn read_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0;
    for (index, byte) in bytes.iter().enumerate().take(9) {
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((number, &bytes[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::catalogue::Catalogue;

    fn record(name: &str, padding: usize) -> Arc<Record> {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v".repeat(padding)},
        });
        let bytes = Bytes::from(object.to_string());
        Arc::new(Record::new(podium_store::Key::from(name), bytes, 2, 2, 1, None, None))
    }

    fn kept(hot: &Hot) -> (usize, usize) {
        let kept = hot.kept.lock();
        (kept.entries.len(), kept.bytes)
    }

    #[test]
    fn a_form_is_made_once_and_kept() {
        let served = Catalogue::built_in(&podium_api::resources::Selection::default())
            .find("", "v1", "configmaps")
            .unwrap();
        let hot = Hot::default();
        let record = record("a", 100);
        let form = hot.form(&served, &record, true).unwrap();
        assert_eq!(form.as_ptr(), hot.form(&served, &record, true).unwrap().as_ptr());
        assert_eq!(hot.length(&served, &record, true).unwrap(), message_in(&form).unwrap().len());
        assert_eq!(kept(&hot), (1, form.len()));
        // Not to be kept: made, and its length remembered.
        let other = super::tests::record("b", 100);
        let form = hot.form(&served, &other, false).unwrap();
        assert_ne!(form.as_ptr(), hot.form(&served, &other, false).unwrap().as_ptr());
        assert_eq!(kept(&hot).0, 1);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let served = Catalogue::built_in(&podium_api::resources::Selection::default())
            .find("", "v1", "configmaps")
            .unwrap();
        let hot = Hot::default();
        let records: Vec<_> = (0..40).map(|n| super::tests::record(&format!("r{n}"), 3 << 20)).collect();
        for record in &records {
            hot.form(&served, record, true).unwrap();
        }
        let (entries, bytes) = kept(&hot);
        assert!(bytes <= BUDGET && (20..22).contains(&entries), "{entries} {bytes}");
        assert!(slot_of(&records[0]).form.lock().is_none());
        assert!(slot_of(&records[39]).form.lock().is_some());
    }

    #[test]
    fn what_is_cold_or_gone_is_forgotten() {
        let served = Catalogue::built_in(&podium_api::resources::Selection::default())
            .find("", "v1", "configmaps")
            .unwrap();
        let hot = Hot::default();
        let (cold, warm) = (super::tests::record("cold", 10), super::tests::record("warm", 10));
        hot.form(&served, &cold, true).unwrap();
        hot.form(&served, &super::tests::record("gone", 10), true).unwrap();
        for _ in 0..=IDLE_SWEEPS {
            hot.form(&served, &warm, true).unwrap();
            hot.sweep();
        }
        assert_eq!(kept(&hot).0, 1);
        assert!(slot_of(&cold).form.lock().is_none());
        assert!(slot_of(&warm).form.lock().is_some());
    }
}
