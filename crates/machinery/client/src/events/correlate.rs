//! Decides whether a recorded event is written as it is, counted onto an earlier one, merged with
//! similar ones, or dropped. Pure: time is an argument.
//!
//! The rules and numbers are client-go's (`tools/record/events_cache.go`, v1.36):
//! - more than 10 messages within 10 minutes that differ in nothing but the message become one event
//!   that says so;
//! - an event that was seen before is counted up by a patch;
//! - one source may write 25 events about one object at once, then one every five minutes.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

/// Entries per cache; beyond it the least recently used quarter is forgotten.
const CACHE_ENTRIES: usize = 4096;
/// Distinct messages of one reason before they are combined.
const SIMILAR: usize = 10;
const SIMILAR_WITHIN: Duration = Duration::from_secs(600);
const BURST: f64 = 25.0;
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;

/// What to do with a recorded event.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    /// The source has said too much about this object.
    Skip,
    Create(Event),
    /// Count up the event of that name; create `whole` if it is gone.
    Patch {
        patch: Value,
        whole: Event,
    },
}

#[derive(Debug, Default)]
pub(super) struct Correlator {
    similar: Recent<Similar>,
    counted: Recent<Counted>,
    tokens: Recent<Tokens>,
}

#[derive(Debug, Default)]
struct Similar {
    messages: HashSet<String>,
    last: Timestamp,
}

#[derive(Clone, Debug)]
struct Counted {
    name: String,
    count: i32,
    first: Option<Time>,
}

#[derive(Debug)]
struct Tokens {
    left: f64,
    at: Timestamp,
}

impl Correlator {
    pub(super) fn correlate(&mut self, event: Event, now: Timestamp) -> Outcome {
        let (mut event, key) = self.combine(event, now);
        let known = self.counted.get(&key).cloned();
        if let Some(known) = &known {
            event.metadata.name = Some(known.name.clone());
            event.first_timestamp = known.first.clone();
            event.count = Some(known.count.saturating_add(1));
        }
        let kept = Counted {
            name: event.metadata.name.clone().unwrap_or_default(),
            count: event.count.unwrap_or(1),
            first: event.first_timestamp.clone(),
        };
        self.counted.put(key, kept);
        if !self.take_token(&event, now) {
            return Outcome::Skip;
        }
        if known.is_none() {
            return Outcome::Create(event);
        }
        let patch = json!({
            "count": event.count,
            "lastTimestamp": event.last_timestamp,
            "message": event.message,
        });
        Outcome::Patch { patch, whole: event }
    }

    /// Returns the event, or the combined one in its place, with the key it is counted under.
    fn combine(&mut self, event: Event, now: Timestamp) -> (Event, String) {
        let kind_of_event = similar_key(&event);
        let message = event.message.clone().unwrap_or_default();
        let record = self.similar.get_or_default(&kind_of_event);
        if elapsed(record.last, now) > SIMILAR_WITHIN {
            record.messages.clear();
        }
        record.messages.insert(message.clone());
        record.last = now;
        if record.messages.len() < SIMILAR {
            let key = event_key(&event);
            return (event, key);
        }
        // Bounded: one goes for the one that came.
        if let Some(other) = record.messages.iter().find(|other| **other != message).cloned() {
            record.messages.remove(&other);
        }
        let combined = Event {
            message: Some(format!("(combined from similar events): {message}")),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            ..event
        };
        (combined, kind_of_event)
    }

    fn take_token(&mut self, event: &Event, now: Timestamp) -> bool {
        let key = spam_key(event);
        if self.tokens.get(&key).is_none() {
            self.tokens.put(key.clone(), Tokens { left: BURST, at: now });
        }
        let tokens = self.tokens.get(&key).expect("just put");
        tokens.left = (tokens.left + elapsed(tokens.at, now).as_secs_f64() * REFILL_PER_SECOND).min(BURST);
        tokens.at = now;
        let allowed = tokens.left >= 1.0;
        if allowed {
            tokens.left -= 1.0;
        }
        allowed
    }
}

fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

fn spam_key(event: &Event) -> String {
    let about = &event.involved_object;
    let source = event.source.as_ref();
    let parts = [
        source.and_then(|source| source.component.as_deref()),
        source.and_then(|source| source.host.as_deref()),
        about.kind.as_deref(),
        about.namespace.as_deref(),
        about.name.as_deref(),
        about.uid.as_deref(),
        about.api_version.as_deref(),
        event.type_.as_deref(),
    ];
    parts.map(Option::unwrap_or_default).join("\u{1}")
}

fn similar_key(event: &Event) -> String {
    [&spam_key(event), event.reason.as_deref().unwrap_or_default()].join("\u{1}")
}

fn event_key(event: &Event) -> String {
    let field = event.involved_object.field_path.as_deref().unwrap_or_default();
    [&similar_key(event), field, event.message.as_deref().unwrap_or_default()].join("\u{1}")
}

/// A map that forgets what was not used for long.
#[derive(Debug)]
struct Recent<V> {
    entries: HashMap<String, (u64, V), ahash::RandomState>,
    clock: u64,
}

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Self { entries: HashMap::default(), clock: 0 }
    }
}

impl<V> Recent<V> {
    fn get(&mut self, key: &str) -> Option<&mut V> {
        self.clock += 1;
        let (used, value) = self.entries.get_mut(key)?;
        *used = self.clock;
        Some(value)
    }

    fn put(&mut self, key: String, value: V) {
        self.clock += 1;
        self.entries.insert(key, (self.clock, value));
        if self.entries.len() > CACHE_ENTRIES {
            let mut used: Vec<u64> = self.entries.values().map(|(used, _)| *used).collect();
            let (_, limit, _) = used.select_nth_unstable(CACHE_ENTRIES / 4);
            let limit = *limit;
            self.entries.retain(|_, (used, _)| *used > limit);
        }
    }

    fn get_or_default(&mut self, key: &str) -> &mut V
    where
        V: Default,
    {
        if !self.entries.contains_key(key) {
            self.put(key.to_owned(), V::default());
        }
        self.get(key).expect("just put")
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{EventSource, ObjectReference};

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn event(object: &str, reason: &str, message: &str, seconds: i64) -> Event {
        let mut event = Event {
            involved_object: ObjectReference { name: Some(object.into()), ..Default::default() },
            reason: Some(reason.into()),
            message: Some(message.into()),
            type_: Some("Normal".into()),
            source: Some(EventSource { component: Some("test".into()), host: None }),
            count: Some(1),
            first_timestamp: Some(Time(at(seconds))),
            last_timestamp: Some(Time(at(seconds))),
            ..Default::default()
        };
        event.metadata.name = Some(format!("{object}.{seconds}.{message}"));
        event
    }

    #[test]
    fn a_repeated_event_is_counted_on_the_first_one() {
        let mut correlator = Correlator::default();
        assert!(matches!(correlator.correlate(event("a", "Pulled", "x", 0), at(0)), Outcome::Create(_)));
        for count in 2..=5 {
            let second = i64::from(count) * 10;
            let Outcome::Patch { patch, whole } =
                correlator.correlate(event("a", "Pulled", "x", second), at(second))
            else {
                panic!("not a patch");
            };
            assert_eq!(patch["count"], count);
            assert_eq!(patch["message"], "x");
            assert_eq!(whole.metadata.name.as_deref(), Some("a.0.x"));
            assert_eq!(whole.first_timestamp, Some(Time(at(0))));
            assert_eq!(whole.last_timestamp, Some(Time(at(second))));
        }
        assert!(matches!(correlator.correlate(event("b", "Pulled", "x", 60), at(60)), Outcome::Create(_)));
    }

    #[test]
    fn the_tenth_message_of_a_kind_is_combined() {
        let mut correlator = Correlator::default();
        for number in 0..9 {
            let outcome =
                correlator.correlate(event("a", "Failed", &format!("m{number}"), number), at(number));
            assert!(matches!(outcome, Outcome::Create(_)), "{number}");
        }
        let Outcome::Create(combined) = correlator.correlate(event("a", "Failed", "m9", 9), at(9)) else {
            panic!("not created");
        };
        assert_eq!(combined.message.as_deref(), Some("(combined from similar events): m9"));
        let Outcome::Patch { patch, whole } = correlator.correlate(event("a", "Failed", "m10", 10), at(10))
        else {
            panic!("not counted");
        };
        assert_eq!(patch["count"], 2);
        assert_eq!(patch["message"], "(combined from similar events): m10");
        assert_eq!(whole.metadata.name, combined.metadata.name);
    }

    #[test]
    fn messages_far_apart_are_not_similar() {
        let mut correlator = Correlator::default();
        for number in 0..20 {
            let second = number * 601;
            let outcome =
                correlator.correlate(event("a", "Failed", &format!("m{number}"), second), at(second));
            assert!(matches!(outcome, Outcome::Create(_)), "{number}");
        }
    }

    #[test]
    fn a_source_that_says_too_much_about_an_object_is_cut() {
        let mut correlator = Correlator::default();
        let mut written = 0;
        for _ in 0..100 {
            written += u32::from(correlator.correlate(event("a", "Failed", "m", 0), at(0)) != Outcome::Skip);
        }
        assert_eq!(written, 25);
        assert_ne!(correlator.correlate(event("b", "Failed", "m", 0), at(0)), Outcome::Skip);
        assert_eq!(correlator.correlate(event("a", "Failed", "m", 299), at(299)), Outcome::Skip);
        let Outcome::Patch { patch, .. } = correlator.correlate(event("a", "Failed", "m", 301), at(301))
        else {
            panic!("no token after five minutes");
        };
        // What was skipped is counted all the same.
        assert_eq!(patch["count"], 102);
    }

    #[test]
    fn caches_stay_bounded() {
        let mut recent = Recent::default();
        for number in 0..3 * CACHE_ENTRIES {
            recent.put(number.to_string(), number);
            assert!(recent.entries.len() <= CACHE_ENTRIES);
        }
        assert!(recent.get(&(3 * CACHE_ENTRIES - 1).to_string()).is_some());
    }
}
