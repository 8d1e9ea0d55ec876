//! Frames that were just made for one watcher, for the others that wait for the same change.
//!
//! Hundreds of watchers send the same bytes. Each of them making its own costs an allocation and a copy into cold memory
//! for each, which is more than all else that is done for an event; one frame that all of them send stays in the cache.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use podium_api::codec::Encoding;
use podium_store::Record;
use tokio::time::Instant;

/// Changes whose frames are kept: more than writers usually make while the watchers of one are served.
const KEPT: usize = 64;

/// Larger ones are not kept, so that all together never matter. To copy them costs each watcher more, but sending them
/// costs far more than that.
const LARGEST: usize = 64 * 1024;

/// What a frame was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    /// The event's type.
    pub(crate) kind: &'static str,
    /// How the object is written. It is the stored one, whole.
    pub(crate) encoding: Encoding,
}

/// See [`Fresh::handed`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handed {
    pub(crate) watchers: u32,
    pub(crate) took: Duration,
}

#[derive(Debug)]
struct Made {
    record: Arc<Record>,
    form: Form,
    frame: Bytes,
    /// When it was made, for the first of its watchers.
    since: Instant,
    /// How many watchers have it.
    watchers: u32,
}

/// The newest frames.
#[derive(Debug)]
pub(crate) struct Fresh([Mutex<Option<Made>>; KEPT]);

impl Default for Fresh {
    fn default() -> Fresh {
        Fresh(std::array::from_fn(|_| Mutex::default()))
    }
}

impl Fresh {
    fn place(&self, record: &Record) -> &Mutex<Option<Made>> {
        &self.0[usize::try_from(record.mod_revision).unwrap_or_default() % KEPT]
    }

    /// How many watchers have been handed the change that made this record, and how long ago the first was. `None` where
    /// none was, or newer changes have pushed it out.
    pub(crate) fn handed(&self, record: &Arc<Record>) -> Option<Handed> {
        let slot = self.place(record).lock();
        let made = slot.as_ref().filter(|made| Arc::ptr_eq(&made.record, record))?;
        Some(Handed { watchers: made.watchers, took: made.since.elapsed() })
    }

    /// The frame of a record in this form; `make` is called if nobody has made it, or others have pushed it out.
    pub(crate) fn frame<E>(
        &self,
        record: &Arc<Record>,
        form: Form,
        make: impl FnOnce() -> Result<Bytes, E>,
    ) -> Result<Bytes, E> {
        let mut slot = self.place(record).lock();
        match &mut *slot {
            Some(made) if Arc::ptr_eq(&made.record, record) && made.form == form => {
                made.watchers += 1;
                Ok(made.frame.clone())
            }
            _ => {
                let frame = make()?;
                if frame.len() <= LARGEST {
                    let (record, since) = (Arc::clone(record), Instant::now());
                    *slot = Some(Made { record, form, frame: frame.clone(), since, watchers: 1 });
                }
                Ok(frame)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use podium_store::Key;

    use super::*;

    fn record(revision: u64) -> Arc<Record> {
        let key = Key::from("/registry/pods/default/a");
        Arc::new(Record::new(key, Bytes::from_static(b"{}"), 1, revision, 1, None, None))
    }

    #[test]
    fn a_frame_is_made_once_for_a_change_and_form() {
        const JSON: Form = Form { kind: "ADDED", encoding: Encoding::Json };
        let (fresh, one) = (Fresh::default(), record(5));
        let frame = |record: &Arc<Record>, form, made: &'static str| {
            let made = Bytes::from_static(made.as_bytes());
            let found: Result<Bytes, ()> = fresh.frame(record, form, || Ok(made));
            String::from_utf8(found.unwrap().to_vec()).unwrap()
        };
        assert_eq!(frame(&one, JSON, "first"), "first");
        assert_eq!(frame(&one, JSON, "again"), "first");
        let other = record(5 + KEPT as u64);
        assert_eq!(frame(&other, JSON, "other record"), "other record");
        assert_eq!(frame(&one, JSON, "pushed out"), "pushed out");
        assert_eq!(frame(&one, Form { kind: "DELETED", ..JSON }, "other kind"), "other kind");
        let protobuf = Form { encoding: Encoding::Protobuf, ..JSON };
        assert_eq!(frame(&one, protobuf, "other form"), "other form");
        // The same revision is not the same change: an apply to another key of the same transaction has it too.
        assert_eq!(frame(&record(5), protobuf, "other key"), "other key");
        assert_eq!(fresh.frame(&other, JSON, || Err("no")), Err("no"));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_known_who_has_a_change_and_since_when() {
        const JSON: Form = Form { kind: "MODIFIED", encoding: Encoding::Json };
        let (fresh, one) = (Fresh::default(), record(5));
        assert!(fresh.handed(&one).is_none());
        for _ in 0..3 {
            fresh.frame::<()>(&one, JSON, || Ok(Bytes::new())).unwrap();
            tokio::time::advance(Duration::from_millis(2)).await;
        }
        let handed = fresh.handed(&one).unwrap();
        assert_eq!((handed.watchers, handed.took), (3, Duration::from_millis(6)));
        assert!(fresh.handed(&record(5)).is_none(), "another change of that revision");
    }

    #[test]
    fn what_is_large_is_not_kept() {
        const FORM: Form = Form { kind: "ADDED", encoding: Encoding::Json };
        let (fresh, one) = (Fresh::default(), record(1));
        let made = |size| fresh.frame::<()>(&one, FORM, || Ok(Bytes::from(vec![0; size]))).unwrap().len();
        assert_eq!((made(LARGEST + 1), made(LARGEST), made(1)), (LARGEST + 1, LARGEST, LARGEST));
    }
}
