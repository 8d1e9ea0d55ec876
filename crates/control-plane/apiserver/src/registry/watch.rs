//! Watch: a cursor into the store's events, turned into frames as the client reads them.
//!
//! Nothing runs for a watcher between events: the body itself is the loop, woken by the store or by its own timer, and
//! ends with the connection. A client that does not read stops being served and, once the store has dropped what it has
//! not seen, gets one clear error.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream;
use http::StatusCode;
use parking_lot::Mutex;
use podium_store::{Event, EventKind, RangeOptions, Record, WatchError, WatchOptions, WatchStart, Watcher};
use serde_json::{Value, json};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use podium_api::codec::{self, Encoding};
use podium_api::status::ApiError;

use super::{Call, is_hot, is_plain};
use crate::body::{Body, BoxError};
use crate::core::Core;
use crate::flowcontrol::Seats;
use crate::fresh::Form;
use crate::metrics::WatchSeries;
use crate::negotiate::{Output, Shape};
use crate::options::{self, Freshness, IncludeObject, ListOptions};
use crate::response::{self, Reply};
use crate::storage::{self, Selection};
use crate::watchman::{self, OnDuty};
use crate::{catalogue::Served, table};

/// How often a quiet watch says how far it has seen. Source: upstream's `defaultBookmarkFrequency`.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// The shortest life of a watch without `timeoutSeconds`; the longest is twice that, chosen at random so that watchers
/// do not all come back at once. Source: upstream's `--min-request-timeout`.
const MIN_LIFE: Duration = Duration::from_secs(1800);

/// More initial events than this are watched for being read.
const WATCHED: usize = 100;

/// Bytes of initial events made at once.
const PIECE: usize = 64 * 1024;

/// Batches of events that are sent before the end of the watch, bookmarks and the server's shutdown are looked at again.
const IN_A_ROW: u32 = 32;

/// A frame's kind and object, before encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Added,
    Modified,
    Deleted,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Added => "ADDED",
            Kind::Modified => "MODIFIED",
            Kind::Deleted => "DELETED",
        }
    }
}

impl Call {
    pub(super) async fn watch(&self) -> Result<Reply, ApiError> {
        let options = options::list(&self.query, &self.info, &self.served, true)?;
        let range = storage::range(&self.served, self.namespace())?;
        let include = self.include_object()?;
        let begins = Begins::of(&options);
        let mut frames = Frames {
            core: Arc::clone(&self.core),
            served: Arc::clone(&self.served),
            selection: options.selection.clone(),
            output: self.output,
            include,
            as_stored: is_plain(self.output) && self.served.as_stored(),
            hot: is_hot(&self.served, self.output),
            columns_sent: false,
            series: self.core.metrics.watch(&self.served),
        };
        let store = &self.core.store;
        let mut pending = BytesMut::new();
        let mut initial = Vec::new();
        let mut mark = None;
        let start = match begins {
            Begins::AfterState { marked, at_least } => {
                self.wait_for(at_least).await?;
                let state = store
                    .range(&range, RangeOptions::default())
                    .map_err(|error| ApiError::internal(error.to_string()))?;
                initial = state.records;
                mark = marked.then_some(state.revision);
                WatchStart::After(state.revision)
            }
            Begins::After(revision) => WatchStart::After(revision),
            Begins::Now => WatchStart::Now,
        };
        // A name that is asked for exactly needs no other events.
        let watched = match options.selection.fields.exact_requirement("metadata.name") {
            Some(name) if !self.served.namespaced || !self.namespace().is_empty() => {
                storage::key(&self.served, self.namespace(), name)
                    .map_or(range, |key| podium_store::KeyRange::single(&key))
            }
            _ => range,
        };
        let watcher = match store.watch(watched, start, WatchOptions::default()) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                frames.error(&mut pending, &watch_error(&error, &options));
                None
            }
        };
        let life = options
            .timeout_seconds
            .map_or_else(|| MIN_LIFE.mul_f64(1.0 + fastrand::f64()), Duration::from_secs);
        let initial = Initial::of(&self.core, initial, &frames.series);
        let state = WatchState {
            frames,
            watcher,
            pending,
            initial,
            mark,
            bookmarks: options.bookmarks,
            next_bookmark: Instant::now() + BOOKMARK_EVERY,
            ends: Instant::now() + life,
            timer: Box::pin(tokio::time::sleep(BOOKMARK_EVERY.min(life))),
            shutdown: Box::pin(self.core.shutdown.clone().cancelled_owned()),
            done: false,
            in_a_row: 0,
            seats: self.seats.lock().take(),
        };
        let media = match self.output.encoding {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml;stream=watch",
            Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        };
        let pieces = stream::unfold(state, |mut state| async move {
            let piece = state.next().await?;
            Some((Ok::<_, BoxError>(piece), state))
        });
        Ok(response::with_body(StatusCode::OK, media, Body::stream(pieces)))
    }
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begins {
    /// With what is there, as additions; then a bookmark that says so, if asked.
    AfterState { marked: bool, at_least: u64 },
    /// With the first change after a revision.
    After(u64),
    /// With the next change.
    Now,
}

impl Begins {
    fn of(options: &ListOptions) -> Begins {
        let revision = match options.freshness {
            Freshness::Latest | Freshness::Any => 0,
            Freshness::NotOlderThan(revision) | Freshness::Exact(revision) => revision,
        };
        match options.send_initial_events {
            Some(true) => Begins::AfterState { marked: options.bookmarks, at_least: revision },
            Some(false) if revision == 0 => Begins::Now,
            // Upstream defaults this to `true`, so those who want bookmarks get the mark too.
            None if revision == 0 => Begins::AfterState { marked: options.bookmarks, at_least: 0 },
            _ => Begins::After(revision),
        }
    }
}

struct WatchState {
    frames: Frames,
    /// `None` once the watch can give nothing more.
    watcher: Option<Watcher>,
    pending: BytesMut,
    /// What was there when the watch began and has not been sent yet. Framed only as fast as the client reads.
    initial: Initial,
    /// The revision of the bookmark that ends the initial events, where one is wanted.
    mark: Option<u64>,
    bookmarks: bool,
    next_bookmark: Instant,
    ends: Instant,
    /// Rings at the earlier of the two. Kept from event to event, as is the other: to wait anew for each event would cost
    /// more than to send it.
    timer: Pin<Box<Sleep>>,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
    done: bool,
    /// Batches of events since the rest was looked at.
    in_a_row: u32,
    /// Held until the initial events are made: from then on a watch costs next to nothing.
    seats: Option<Seats>,
}

impl WatchState {
    /// The next piece of the body; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            while self.pending.len() < PIECE {
                let Some(record) = self.initial.next() else {
                    // Only here: the records may be taken away at any moment before, and then this is not their end.
                    if self.initial.is_cut() {
                        let why = "the initial events of this watch were not read in time";
                        self.frames.error(&mut self.pending, &ApiError::expired(why).to_status());
                        self.done = true;
                        self.mark = None;
                    }
                    drop(self.seats.take());
                    if let Some(revision) = self.mark.take() {
                        self.frames.bookmark(&mut self.pending, revision, true);
                    }
                    break;
                };
                if self.frames.selection.matches(&self.frames.served, &record) {
                    self.frames.push(&mut self.pending, Kind::Added, &record);
                }
            }
            if !self.pending.is_empty() {
                return Some(self.pending.split().freeze());
            }
            if self.done {
                return None;
            }
            let Some(watcher) = &mut self.watcher else { return None };
            // Mostly it is an event that is to be sent, and to look at everything else first takes longer than sending it.
            if self.in_a_row < IN_A_ROW
                && let Ok(Some(batch)) = watcher.try_next()
            {
                self.in_a_row += 1;
                if let Some(frame) = self.frames.batch(&mut self.pending, &batch.events) {
                    return Some(frame);
                }
                continue;
            }
            self.in_a_row = 0;
            tokio::select! {
                biased;
                () = &mut self.shutdown => self.done = true,
                () = &mut self.timer => {
                    let now = Instant::now();
                    self.done = self.ends <= now;
                    // At the end also, as a last word on how far it came: the next watch resumes there.
                    if self.bookmarks && (self.done || self.next_bookmark <= now) {
                        let seen = watcher.progress();
                        self.frames.bookmark(&mut self.pending, seen, false);
                        self.next_bookmark = now + BOOKMARK_EVERY;
                    }
                    let next = if self.bookmarks { self.next_bookmark.min(self.ends) } else { self.ends };
                    self.timer.as_mut().reset(next);
                }
                batch = watcher.next() => match batch {
                    Ok(batch) => {
                        if let Some(frame) = self.frames.batch(&mut self.pending, &batch.events) {
                            return Some(frame);
                        }
                    }
                    Err(WatchError::Closed) => self.done = true,
                    Err(error) => {
                        self.frames.series.terminated();
                        let status = ApiError::expired(format!("too old resource version: {error}")).to_status();
                        self.frames.error(&mut self.pending, &status);
                        self.done = true;
                    }
                },
            }
        }
    }
}

/// Initial events that have not been sent. They are dropped when the client does not read for as long as a request may
/// take.
struct Initial {
    shared: Arc<Unsent>,
    _watchman: Option<OnDuty>,
}

struct Unsent {
    records: Mutex<std::vec::IntoIter<Arc<Record>>>,
    cut: AtomicBool,
    series: Arc<WatchSeries>,
}

impl watchman::Watched for Unsent {
    fn progress(&self) -> Option<u64> {
        Some(self.records.lock().len() as u64).filter(|left| *left > 0)
    }

    fn cut(&self) {
        let mut records = self.records.lock();
        if records.len() == 0 {
            // The last were taken in this moment.
            return;
        }
        self.cut.store(true, Ordering::Release);
        let unsent = std::mem::take(&mut *records);
        drop(records);
        drop(unsent);
        self.series.terminated();
    }
}

impl Initial {
    fn of(core: &Arc<Core>, records: Vec<Arc<Record>>, series: &Arc<WatchSeries>) -> Initial {
        let large = records.len() > WATCHED;
        let shared = Arc::new(Unsent {
            records: Mutex::new(records.into_iter()),
            cut: AtomicBool::new(false),
            series: Arc::clone(series),
        });
        let watchman = large.then(|| watchman::post(core, Arc::clone(&shared), core.config.limits.request));
        Initial { shared, _watchman: watchman }
    }

    fn next(&mut self) -> Option<Arc<Record>> {
        self.shared.records.lock().next()
    }

    /// Whether some were dropped. Said once.
    fn is_cut(&self) -> bool {
        self.shared.cut.swap(false, Ordering::AcqRel)
    }
}

/// Turns events into bytes.
struct Frames {
    core: Arc<Core>,
    served: Arc<Served>,
    selection: Selection,
    output: Output,
    include: IncludeObject,
    /// Whether the stored bytes are what is sent. Found out once, as is the next: it takes longer than to send an event.
    as_stored: bool,
    /// Whether the kept protobuf form is.
    hot: bool,
    columns_sent: bool,
    series: Arc<WatchSeries>,
}

/// What a watcher is shown of an event.
struct Shown<'e> {
    kind: Kind,
    record: &'e Arc<Record>,
    /// The revision to show, where it is not the record's own.
    at: Option<u64>,
}

impl Frames {
    /// What this watcher is shown of an event, if anything.
    fn shown<'e>(&self, event: &'e Event) -> Option<Shown<'e>> {
        let matches = |record: &Record| self.selection.matches(&self.served, record);
        let before = event.previous.as_deref().is_some_and(matches);
        let kind = match event.kind {
            EventKind::Delete if before || event.previous.is_none() => Kind::Deleted,
            EventKind::Delete => return None,
            EventKind::Put => match (before, matches(&event.record)) {
                (false, true) => Kind::Added,
                (true, true) => Kind::Modified,
                (true, false) => Kind::Deleted,
                (false, false) => return None,
            },
        };
        let left_selection = kind == Kind::Deleted && event.kind == EventKind::Put;
        match (&event.previous, left_selection) {
            // An object that left the selection is shown as it last matched, at the revision of the change.
            (Some(previous), true) => Some(Shown { kind, record: previous, at: Some(event.revision) }),
            _ => Some(Shown { kind, record: &event.record, at: None }),
        }
    }

    /// Adds the frames of these events, or, where there is nothing before it, returns the one of the only event.
    fn batch(&mut self, out: &mut BytesMut, events: &[Arc<Event>]) -> Option<Bytes> {
        let alone = events.len() == 1 && out.is_empty();
        for event in events {
            let Some(shown) = self.shown(event) else { continue };
            if let Some(frame) = self.shared(&shown) {
                if alone {
                    return Some(frame);
                }
                out.extend_from_slice(&frame);
                continue;
            }
            match shown.at {
                Some(revision) => self.push_at(out, shown.kind, shown.record, revision),
                None => self.push(out, shown.kind, shown.record),
            }
        }
        None
    }

    /// The frame that all watchers who ask for the stored object in this form send; `None` where it is made for each.
    fn shared(&self, shown: &Shown<'_>) -> Option<Bytes> {
        if shown.at.is_some() || !(self.as_stored || self.hot) {
            return None;
        }
        let form = Form { kind: shown.kind.name(), encoding: self.output.encoding };
        let make = || {
            let mut frame = BytesMut::new();
            self.stored(&mut frame, shown.kind, shown.record).unwrap_or(Ok(())).map(|()| frame.freeze())
        };
        // A failure is told the long way.
        let frame = self.core.fresh.frame(shown.record, form, make).ok()?;
        self.series.sent(frame.len());
        Some(frame)
    }

    /// A frame with the record's own bytes or its kept form; `None` where its object has to be made.
    fn stored(&self, out: &mut BytesMut, kind: Kind, record: &Arc<Record>) -> Option<Result<(), ApiError>> {
        if self.as_stored {
            out.reserve(record.value.len() + 40);
            out.extend_from_slice(b"{\"type\":\"");
            out.extend_from_slice(kind.name().as_bytes());
            out.extend_from_slice(b"\",\"object\":");
            out.extend_from_slice(&record.value);
            out.extend_from_slice(b"}\n");
            return Some(Ok(()));
        }
        let form = self.hot.then(|| self.core.hot.form(&self.served, record, true))?;
        Some(form.map(|form| {
            out.reserve(form.len() + codec::WATCH_FRAME_HEAD_MAX);
            codec::watch_frame_head(kind.name(), form.len(), out);
            out.extend_from_slice(&form);
        }))
    }

    /// A frame with the record's own bytes, or its object in the shape asked for.
    fn push(&mut self, out: &mut BytesMut, kind: Kind, record: &Arc<Record>) {
        let before = out.len();
        match self.stored(out, kind, record) {
            Some(Ok(())) => return self.series.sent(out.len() - before),
            Some(Err(error)) => return self.error(out, &error.to_status()),
            None => {}
        }
        match storage::parse(record) {
            Ok(object) => self.push_object(out, kind, object),
            Err(error) => self.error(out, &error.to_status()),
        }
    }

    fn push_at(&mut self, out: &mut BytesMut, kind: Kind, record: &Record, revision: u64) {
        match storage::parse(record) {
            Ok(mut object) => {
                object["metadata"]["resourceVersion"] = json!(revision.to_string());
                self.push_object(out, kind, object);
            }
            Err(error) => self.error(out, &error.to_status()),
        }
    }

    fn push_object(&mut self, out: &mut BytesMut, kind: Kind, object: Value) {
        let shaped = match self.output.shape {
            Shape::Native if self.served.as_stored() => Ok(object),
            Shape::Native => codec::convert(object, &self.served.group, &self.served.version),
            Shape::Metadata(version, _) => Ok(table::partial(&object, version)),
            Shape::Table(version) => {
                let mut table = table::of_one(&self.served, version, self.include, object);
                // Columns are said once; later frames leave them out.
                if std::mem::replace(&mut self.columns_sent, true) {
                    table["columnDefinitions"] = Value::Null;
                }
                Ok(table)
            }
        };
        match shaped {
            Ok(shaped) => {
                let before = out.len();
                self.frame(out, kind.name(), &shaped);
                self.series.sent(out.len() - before);
            }
            Err(error) => self.error(out, &error.to_status()),
        }
    }

    fn bookmark(&mut self, out: &mut BytesMut, revision: u64, initial_events_end: bool) {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if initial_events_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let mut object = json!({
            "kind": self.served.kind, "apiVersion": self.served.api_version(), "metadata": metadata,
        });
        match self.output.shape {
            Shape::Native => {}
            Shape::Metadata(version, _) => object = table::partial(&object, version),
            Shape::Table(version) => {
                let metadata = json!({"resourceVersion": revision.to_string()});
                let rows = if initial_events_end {
                    json!([{"cells": [], "object": table::partial(&object, version)}])
                } else {
                    json!([])
                };
                object = json!({
                    "kind": "Table", "apiVersion": version.api_version(), "metadata": metadata,
                    "columnDefinitions": null, "rows": rows,
                });
            }
        }
        self.frame(out, "BOOKMARK", &object);
    }

    fn error(&mut self, out: &mut BytesMut, status: &Value) {
        self.frame(out, "ERROR", status);
    }

    fn frame(&self, out: &mut BytesMut, kind: &str, object: &Value) {
        out.extend_from_slice(&codec::encode_watch_event(kind, object, self.output.encoding));
    }
}

fn watch_error(error: &WatchError, options: &ListOptions) -> Value {
    match error {
        WatchError::Compacted { compacted } => {
            ApiError::expired(format!("too old resource version: {} ({compacted})", options.resource_version))
                .to_status()
        }
        other => ApiError::internal(other.to_string()).to_status(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(freshness: Freshness, initial: Option<bool>, bookmarks: bool, expected: Begins) {
        let options = ListOptions {
            selection: Selection::default(),
            limit: 0,
            continue_token: None,
            resource_version: String::new(),
            freshness,
            timeout_seconds: None,
            bookmarks,
            send_initial_events: initial,
        };
        assert_eq!(Begins::of(&options), expected);
    }

    #[test]
    fn where_a_watch_begins() {
        check(Freshness::Latest, None, false, Begins::AfterState { marked: false, at_least: 0 });
        check(Freshness::Any, None, true, Begins::AfterState { marked: true, at_least: 0 });
        check(Freshness::NotOlderThan(7), None, true, Begins::After(7));
        check(Freshness::Latest, Some(true), true, Begins::AfterState { marked: true, at_least: 0 });
        check(Freshness::NotOlderThan(7), Some(true), true, Begins::AfterState { marked: true, at_least: 7 });
        check(Freshness::Latest, Some(false), true, Begins::Now);
        check(Freshness::NotOlderThan(7), Some(false), true, Begins::After(7));
    }
}
