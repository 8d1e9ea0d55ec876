//! Decides what a transaction does. Pure: what is there and which revision is next are arguments.

use std::sync::Arc;

use crate::change::{Change, Committed, Operation, TransactionCommitted};
use crate::error::CommitError;
use crate::key::Key;
use crate::record::{Event, EventKind, LeaseId, Record, Revision};

/// The most bytes of keys and values in one transaction: far above any request that the API takes (3 MB), far below
/// what the length field of a log frame can say.
pub(crate) const TRANSACTION_BYTES: usize = 1 << 30;

/// What a transaction does.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    /// The changes, all at one revision; empty if nothing changes, and then no revision is used.
    pub(crate) events: Vec<Arc<Event>>,
    /// The answer, if the changes become durable.
    pub(crate) answer: TransactionCommitted,
}

/// Decides a transaction that would get the revision after `newest`.
///
/// `current` is what is there, in-flight changes included; `has_lease` likewise. Fails with the reason why it does not
/// happen.
pub(crate) fn decide(
    operations: Vec<Operation>,
    newest: Revision,
    mut current: impl FnMut(&Key) -> Option<Arc<Record>>,
    has_lease: impl Fn(LeaseId) -> bool,
) -> Result<Decision, CommitError> {
    check(&operations)?;
    let next = newest + 1;
    let mut found = Vec::with_capacity(operations.len());
    for (key, expect, change) in &operations {
        let record = current(key);
        if !expect.holds(record.as_deref()) {
            return Err(CommitError::Conflict { key: key.clone(), current: record });
        }
        if let Change::Put { lease: Some(lease), .. } = change
            && !has_lease(*lease)
        {
            return Err(CommitError::LeaseNotFound(*lease));
        }
        found.push(record);
    }
    let mut events = Vec::with_capacity(operations.len());
    let mut results = Vec::with_capacity(operations.len());
    for ((key, _, change), previous) in operations.into_iter().zip(found) {
        let event = match (change, &previous) {
            (Change::Put { value, lease }, previous) => {
                let (create_revision, version) = previous
                    .as_ref()
                    .map_or((next, 1), |record| (record.create_revision, record.version + 1));
                // `check` has seen that it fits.
                let revision_at = value.revision_at.map(|at| at as u32);
                let bytes = value.at_revision(next);
                let record = Record::new(key, bytes, create_revision, next, version, lease, revision_at);
                Some((EventKind::Put, Arc::new(record)))
            }
            (Change::Delete, Some(record)) => Some((EventKind::Delete, Arc::new(record.deleted_at(next)))),
            (Change::Delete | Change::Check, _) => None,
        };
        match event {
            Some((kind, record)) => {
                let committed = Committed {
                    revision: next,
                    record: Some(Arc::clone(&record)),
                    previous: previous.clone(),
                };
                results.push(committed);
                events.push(Arc::new(Event { kind, record, previous, revision: next }));
            }
            None => {
                results.push(Committed { revision: newest, record: previous.clone(), previous });
            }
        }
    }
    let revision = if events.is_empty() { newest } else { next };
    for committed in &mut results {
        committed.revision = revision;
    }
    Ok(Decision { events, answer: TransactionCommitted { revision, results } })
}

/// Whether any store could carry these out.
pub(crate) fn check(operations: &[Operation]) -> Result<(), CommitError> {
    let mut bytes = 0;
    for (key, _, change) in operations {
        if key.is_empty() {
            return Err(CommitError::Invalid("a key must not be empty"));
        }
        bytes += key.len();
        if let Change::Put { value, .. } = change {
            bytes += value.bytes.len();
            if value.revision_at.is_some_and(|at| at > value.bytes.len()) {
                return Err(CommitError::Invalid("the revision's place is behind the end of the value"));
            }
        }
    }
    if bytes > TRANSACTION_BYTES {
        return Err(CommitError::Invalid("the transaction is too large"));
    }
    if operations.len() > 1 {
        let mut keys: Vec<&Key> = operations.iter().map(|(key, _, _)| key).collect();
        keys.sort_unstable();
        if keys.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(CommitError::Invalid("a key occurs twice in the transaction"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::change::Expect;
    use crate::record::Value;

    const KNOWN: u64 = 7;

    /// Decides over one existing key `old` (created at 3, last changed at 5, version 2), newest revision 9.
    fn run(operations: Vec<Operation>) -> Result<Decision, CommitError> {
        let record = Arc::new(Record::new(Key::from("old"), Bytes::from_static(b"v"), 3, 5, 2, None, None));
        decide(
            operations,
            9,
            |key| (*key == record.key).then(|| Arc::clone(&record)),
            |lease| lease.get() == KNOWN,
        )
    }

    fn outcome(expect: Expect, key: &str) -> &'static str {
        match run(vec![(Key::from(key), expect, Change::put("x"))]) {
            Ok(_) => "ok",
            Err(CommitError::Conflict { current: Some(_), .. }) => "conflict, there",
            Err(CommitError::Conflict { current: None, .. }) => "conflict, absent",
            Err(_) => "other",
        }
    }

    #[test]
    fn expectations() {
        for (expect, on_old, on_new) in [
            (Expect::Any, "ok", "ok"),
            (Expect::Absent, "conflict, there", "ok"),
            (Expect::Exists, "ok", "conflict, absent"),
            (Expect::ModRevision(5), "ok", "conflict, absent"),
            (Expect::ModRevision(4), "conflict, there", "conflict, absent"),
            (Expect::ModRevision(0), "conflict, there", "ok"),
        ] {
            assert_eq!(outcome(expect, "old"), on_old, "{expect:?} on a key that exists");
            assert_eq!(outcome(expect, "new"), on_new, "{expect:?} on a key that does not");
        }
    }

    #[test]
    fn a_put_continues_its_key() {
        let decision = run(vec![(Key::from("old"), Expect::Any, Change::put("x"))]).expect("decided");
        let record = decision.answer.results[0].record.clone().expect("a record");
        assert_eq!((record.create_revision, record.mod_revision, record.version), (3, 10, 3));
        assert_eq!(decision.events[0].previous.as_ref().map(|record| record.mod_revision), Some(5));
        let decision = run(vec![(Key::from("new"), Expect::Any, Change::put("x"))]).expect("decided");
        let record = decision.answer.results[0].record.clone().expect("a record");
        assert_eq!((record.create_revision, record.mod_revision, record.version), (10, 10, 1));
    }

    #[test]
    fn what_changes_nothing_takes_no_revision() {
        for operations in [
            vec![],
            vec![(Key::from("new"), Expect::Any, Change::Delete)],
            vec![(Key::from("old"), Expect::Exists, Change::Check)],
        ] {
            let decision = run(operations).expect("decided");
            assert!(decision.events.is_empty());
            assert_eq!(decision.answer.revision, 9);
        }
    }

    #[test]
    fn all_of_a_transaction_has_one_revision() {
        let decision = run(vec![
            (Key::from("new"), Expect::Absent, Change::put("x")),
            (Key::from("old"), Expect::Exists, Change::Delete),
            (Key::from("other"), Expect::Absent, Change::Check),
        ])
        .expect("decided");
        assert_eq!(decision.events.len(), 2);
        assert!(decision.events.iter().all(|event| event.revision == 10 && event.record.mod_revision == 10));
        assert!(decision.answer.results.iter().all(|committed| committed.revision == 10));
    }

    #[test]
    fn one_failed_expectation_refuses_all() {
        let result = run(vec![
            (Key::from("new"), Expect::Absent, Change::put("x")),
            (Key::from("old"), Expect::Absent, Change::Check),
        ]);
        assert!(matches!(result, Err(CommitError::Conflict { key, .. }) if key == Key::from("old")));
    }

    #[test]
    fn refuses_what_no_store_could_do() {
        let put = |key: &str| (Key::from(key), Expect::Any, Change::put("x"));
        assert!(matches!(run(vec![put("a"), put("b"), put("a")]), Err(CommitError::Invalid(_))));
        assert!(matches!(run(vec![put("")]), Err(CommitError::Invalid(_))));
        let value = Value { bytes: Bytes::from_static(b"ab"), revision_at: Some(3) };
        let change = Change::Put { value, lease: None };
        assert!(matches!(run(vec![(Key::from("a"), Expect::Any, change)]), Err(CommitError::Invalid(_))));
    }

    #[test]
    fn leases_must_be_there() {
        let put = |lease: u64| {
            let change = Change::Put { value: Value::from("x"), lease: LeaseId::new(lease) };
            run(vec![(Key::from("a"), Expect::Any, change)])
        };
        assert!(put(KNOWN).is_ok());
        assert!(matches!(put(8), Err(CommitError::LeaseNotFound(_))));
    }
}
