//! Frames cut, torn and damaged in every place.

use super::*;

const STORE: u64 = 0x1234_5678_9abc_def0;

fn put(key: &str, value: &[u8], revision: Revision) -> Entry {
    let record = Record::new(
        Key::from(key),
        Bytes::copy_from_slice(value),
        2,
        revision,
        3,
        LeaseId::new(revision % 2),
        revision.is_multiple_of(3).then_some(1),
    );
    let event = Event { kind: EventKind::Put, record: Arc::new(record), previous: None, revision };
    Entry::Transaction { revision, events: vec![Arc::new(event)], revoke: None }
}

fn frames(count: u64) -> (Vec<u8>, Vec<usize>) {
    let mut bytes = Vec::new();
    let mut ends = Vec::new();
    for number in 1..=count {
        let entries = [put("key", &[b'v'; 700], number), put("other", b"x", number + 1)];
        encode(&mut bytes, STORE, number, entries.iter());
        ends.push(bytes.len());
    }
    (bytes, ends)
}

#[test]
fn entries_come_back_as_they_were() {
    let Entry::Transaction { events, .. } = put("a", b"value", 9) else { unreachable!("it is one") };
    let record = Arc::clone(&events[0].record);
    let deleted = Event {
        kind: EventKind::Delete,
        record: Arc::new(record.deleted_at(9)),
        previous: Some(Arc::clone(&record)),
        revision: 9,
    };
    let lease = LeaseId::new(5).expect("not zero");
    let entries = [
        Entry::Transaction { revision: 9, events, revoke: None },
        Entry::Transaction { revision: 10, events: vec![Arc::new(deleted)], revoke: Some(lease) },
        Entry::Grant { lease, ttl: Duration::from_millis(1500) },
        Entry::Compact { revision: 8 },
    ];
    let mut bytes = Vec::new();
    encode(&mut bytes, STORE, 4, entries.iter());
    let Next::Frame { payload, end } = next(&bytes, 0, STORE, 4) else { panic!("no frame") };
    assert_eq!(end, bytes.len());
    let expected = vec![
        Replay::Transaction {
            revision: 9,
            changes: vec![ReplayChange::Put(Arc::clone(&record))],
            revoke: None,
        },
        Replay::Transaction {
            revision: 10,
            changes: vec![ReplayChange::Delete(record.key.clone())],
            revoke: Some(lease),
        },
        Replay::Grant { lease, ttl: Duration::from_millis(1500) },
        Replay::Compact { revision: 8 },
    ];
    assert_eq!(decode(payload), Some(expected));
    assert_eq!(next(&bytes, end, STORE, 5), Next::End);
}

#[test]
fn a_payload_cut_anywhere_is_refused_or_shorter() {
    let mut bytes = Vec::new();
    encode(&mut bytes, STORE, 1, [put("key", b"value", 3)].iter());
    let payload = &bytes[HEADER_BYTES..];
    for len in 1..payload.len() {
        assert_eq!(decode(&payload[..len]), None, "cut at {len}");
    }
}

#[test]
fn a_last_frame_cut_anywhere_is_torn() {
    let (bytes, ends) = frames(2);
    for len in ends[0] + 1..ends[1] {
        let cut = &bytes[..len];
        assert!(matches!(next(cut, ends[0], STORE, 2), Next::Bad(_)), "cut at {len}");
        assert!(is_torn(cut, ends[0], STORE, 2), "cut at {len}");
    }
}

#[test]
fn a_last_frame_with_unwritten_sectors_is_torn() {
    let (bytes, ends) = frames(2);
    for sector in ends[0] / SECTOR_BYTES..=(ends[1] - 1) / SECTOR_BYTES {
        let mut torn = bytes.clone();
        let start = (sector * SECTOR_BYTES).max(ends[0]);
        let end = ((sector + 1) * SECTOR_BYTES).min(ends[1]);
        torn[start..end].fill(0);
        assert!(matches!(next(&torn, ends[0], STORE, 2), Next::Bad(_)));
        assert!(is_torn(&torn, ends[0], STORE, 2), "sector {sector}");
    }
}

#[test]
fn a_changed_byte_is_damage_wherever_it_is() {
    let (bytes, ends) = frames(3);
    for index in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[index] ^= 0x40;
        let frame = ends.iter().filter(|end| **end <= index).count();
        let start = if frame == 0 { 0 } else { ends[frame - 1] };
        let number = frame as u64 + 1;
        assert!(matches!(next(&damaged, start, STORE, number), Next::Bad(_)), "byte {index}");
        assert!(!is_torn(&damaged, start, STORE, number), "byte {index}");
    }
}

#[test]
fn zeros_before_an_intact_frame_are_damage() {
    let (mut bytes, ends) = frames(3);
    bytes[ends[0]..ends[1]].fill(0);
    assert!(!is_torn(&bytes, ends[0], STORE, 2));
}

#[test]
fn frames_of_another_store_inside_a_value_do_not_count() {
    let mut stored = Vec::new();
    encode(&mut stored, STORE + 1, 99, [put("evil", b"x", 99)].iter());
    let mut bytes = Vec::new();
    encode(&mut bytes, STORE, 1, [put("key", &stored, 2)].iter());
    let cut = &bytes[..bytes.len() - 1];
    assert!(is_torn(cut, 0, STORE, 1));
}
