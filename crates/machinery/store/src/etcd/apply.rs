//! What etcd's watch tells, turned into transactions for the state. Pure but for the feed it looks at.

use std::collections::HashMap;
use std::sync::Arc;

use crate::engine::{Feed, Published};
use crate::etcd::Layout;
use crate::etcd::proto::mvccpb::event::EventType;
use crate::etcd::proto::mvccpb::{Event as EtcdEvent, KeyValue};
use crate::key::Key;
use crate::record::{Event, EventKind, LeaseId, Record, Revision};

/// Something was not told, so the state must be read again.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Missed {
    /// The key that shows it.
    pub(super) key: Key,
    pub(super) revision: Revision,
}

/// The transactions in a batch of events, which are in revision order and whole. What the feed has had already (a
/// server may tell it again after a reconnect) is left out; keys that are not the store's change nothing, but their
/// revisions count.
///
/// Errors: an event does not follow from what was told before.
pub(super) fn transactions(
    layout: &Layout,
    feed: &Feed,
    events: &[EtcdEvent],
) -> Result<Vec<Published>, Missed> {
    let mut seen = feed.revision();
    // What is newer here than in the feed.
    let mut changed: HashMap<Key, Option<Arc<Record>>> = HashMap::new();
    let mut transactions: Vec<Published> = Vec::new();
    for event in events {
        let Some(kv) = &event.kv else { continue };
        let revision = kv.mod_revision.cast_unsigned();
        let goes_on = transactions.last().is_some_and(|last| last.revision == revision);
        if revision <= seen && !goes_on {
            continue;
        }
        if !goes_on {
            seen = revision;
            transactions.push(Published { revision, events: Vec::new() });
        }
        let Some(key) = layout.key_from_etcd(&kv.key) else { continue };
        let previous = changed.get(&key).cloned().unwrap_or_else(|| feed.get(&key));
        let event = match event.r#type() {
            EventType::Put => {
                let record = record(layout, key.clone(), kv);
                let follows = match &previous {
                    Some(previous) => {
                        record.create_revision == previous.create_revision
                            && record.version == previous.version + 1
                    }
                    None => record.version == 1,
                };
                if !follows {
                    return Err(Missed { key, revision });
                }
                changed.insert(key, Some(Arc::clone(&record)));
                Event { kind: EventKind::Put, record, previous, revision }
            }
            EventType::Delete => {
                let Some(previous) = previous else { return Err(Missed { key, revision }) };
                changed.insert(key, None);
                let record = Arc::new(previous.deleted_at(revision));
                Event { kind: EventKind::Delete, record, previous: Some(previous), revision }
            }
        };
        if let Some(last) = transactions.last_mut() {
            last.events.push(Arc::new(event));
        }
    }
    Ok(transactions)
}

/// The record of a key in etcd.
pub(super) fn record(layout: &Layout, key: Key, kv: &KeyValue) -> Arc<Record> {
    let revision = kv.mod_revision.cast_unsigned();
    let value = layout.codec.decode(&key, kv.value.clone()).unwrap_or_else(|problem| {
        tracing::error!(%key, problem, "a value in etcd cannot be read; it is kept as it is");
        kv.value.clone().into()
    });
    let revision_at = value.revision_at.and_then(|at| u32::try_from(at).ok());
    Arc::new(Record::new(
        key,
        value.at_revision(revision),
        kv.create_revision.cast_unsigned(),
        revision,
        kv.version.cast_unsigned(),
        LeaseId::new(kv.lease.cast_unsigned()),
        revision_at,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Value;
    use crate::etcd::codec::{Codec, Plain};

    fn layout() -> Layout {
        Layout { prefix: b"/p".to_vec(), codec: Arc::new(Plain) }
    }

    fn put(key: &str, revision: i64, created: i64, version: i64) -> EtcdEvent {
        let value = Plain.encode(&Key::from(key), &Value::from("v"));
        let kv = KeyValue {
            key: format!("/p{key}").into(),
            create_revision: created,
            mod_revision: revision,
            version,
            value,
            lease: 0,
        };
        EtcdEvent { r#type: EventType::Put.into(), kv: Some(kv), prev_kv: None }
    }

    fn delete(key: &str, revision: i64) -> EtcdEvent {
        let kv = KeyValue { key: format!("/p{key}").into(), mod_revision: revision, ..Default::default() };
        EtcdEvent { r#type: EventType::Delete.into(), kv: Some(kv), prev_kv: None }
    }

    /// What is told: each revision with its keys.
    #[track_caller]
    fn check(feed: &Feed, events: &[EtcdEvent], expected: &[(Revision, &[&str])]) {
        let found = transactions(&layout(), feed, events).expect("nothing is missing");
        let found: Vec<(Revision, Vec<String>)> = found
            .iter()
            .map(|transaction| {
                let keys = transaction.events.iter().map(|event| event.record.key.to_string()).collect();
                (transaction.revision, keys)
            })
            .collect();
        let expected: Vec<(Revision, Vec<String>)> = expected
            .iter()
            .map(|(revision, keys)| (*revision, keys.iter().map(|key| (*key).to_owned()).collect()))
            .collect();
        assert_eq!(found, expected);
        feed.publish(transactions(&layout(), feed, events).expect("nothing is missing"));
    }

    #[test]
    fn events_become_transactions() {
        let feed = Feed::new(Vec::new(), 1);
        check(
            &feed,
            &[put("a", 2, 2, 1), put("b", 2, 2, 1), put("a", 3, 2, 2), delete("a", 5), put("a", 7, 7, 1)],
            &[(2, &["a", "b"]), (3, &["a"]), (5, &["a"]), (7, &["a"])],
        );
        assert_eq!(feed.revision(), 7);
        check(&feed, &[delete("b", 8)], &[(8, &["b"])]);
    }

    #[test]
    fn what_is_told_again_is_left_out() {
        let feed = Feed::new(Vec::new(), 1);
        check(&feed, &[put("a", 2, 2, 1), put("a", 3, 2, 2)], &[(2, &["a"]), (3, &["a"])]);
        check(&feed, &[put("a", 2, 2, 1), put("a", 3, 2, 2), put("a", 4, 2, 3)], &[(4, &["a"])]);
        check(&feed, &[put("a", 3, 2, 2)], &[]);
    }

    #[test]
    fn what_is_not_ours_only_moves_the_revision() {
        let feed = Feed::new(Vec::new(), 1);
        let mut foreign = put("a", 2, 2, 1);
        foreign.kv.as_mut().expect("there").key = "other".into();
        check(&feed, &[foreign], &[(2, &[])]);
        assert_eq!(feed.revision(), 2);
    }

    #[test]
    fn what_does_not_follow_is_seen() {
        let feed = Feed::new(Vec::new(), 1);
        check(&feed, &[put("a", 2, 2, 1)], &[(2, &["a"])]);
        let missed = |event: EtcdEvent| transactions(&layout(), &feed, &[event]).err();
        let of = |key: &str, revision| Some(Missed { key: Key::from(key), revision });
        assert_eq!(missed(put("a", 4, 2, 3)), of("a", 4), "a change between");
        assert_eq!(missed(put("a", 4, 4, 1)), of("a", 4), "a deletion between");
        assert_eq!(missed(put("b", 4, 3, 2)), of("b", 4), "the creation");
        assert_eq!(missed(delete("b", 4)), of("b", 4), "the creation of what is deleted");
    }
}
