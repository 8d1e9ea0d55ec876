//! Keeps a [`Sink`] equal to a resource on the server: list once, watch from there, resume, list
//! again when the server has forgotten the version.
//!
//! Guarantees: every state the server still has arrives; an object that vanished while no watch was
//! open is removed by the next list; a line or object that cannot be read is skipped with a warning.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use kube::core::Status;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::scan::{self, EventKind};
use super::store::Sink;
use crate::{Scope, Shutdown, error_chain};

/// Objects per page: upstream's reflector page size.
const PAGE: usize = 500;
/// Time for one page, or for a watch to be accepted.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// The server ends a watch after a random time in this range, so that reconnects spread out.
const WATCH_SECONDS: std::ops::Range<u64> = 300..600;
/// A watch that outlives its own limit by this much hangs on a dead connection.
const WATCH_GRACE: Duration = Duration::from_secs(30);
/// A watch that ends sooner than this without an event counts as a failure, so as not to spin.
const TOO_SHORT: Duration = Duration::from_secs(1);
/// After so many failed watches in a row the version itself is suspected, and everything is listed.
const SUSPECT_AFTER: u32 = 5;

#[derive(Debug, thiserror::Error)]
enum ReflectError {
    #[error("request")]
    Client(#[source] Box<kube::Error>),
    #[error("building the request")]
    Build(#[source] http::Error),
    #[error("server answered {code}: {message}")]
    Answer { code: u16, message: String },
    #[error("no answer in {} s", ANSWER_WITHIN.as_secs())]
    Silent,
    #[error("list cannot be read")]
    List(#[source] scan::ScanError),
    #[error("resource version is too old")]
    Expired,
}

/// How a watch ended.
#[derive(Debug)]
struct Ended {
    /// Lines received, bookmarks included.
    events: usize,
    /// `None` when the server closed it, as it does after its time.
    error: Option<ReflectError>,
}

/// One resource to follow.
pub(super) struct Reflector {
    pub(super) client: Client,
    /// Such as `/api/v1/pods`.
    pub(super) path: String,
    pub(super) scope: Scope,
    /// Notified when all that was received is to be received anew.
    pub(super) again: Arc<Notify>,
    pub(super) shutdown: Shutdown,
}

impl Reflector {
    /// Follows until shutdown.
    pub(super) async fn run(self, sink: &dyn Sink) {
        let follow = async {
            loop {
                // Whatever is broken off is listed again.
                tokio::select! {
                    biased;
                    () = self.again.notified() => {}
                    () = self.follow(sink) => {}
                }
            }
        };
        self.shutdown.run_until_cancelled(follow).await;
    }

    async fn follow(&self, sink: &dyn Sink) {
        let mut backoff = Backoff::default();
        loop {
            sink.begin();
            match self.list(sink).await {
                Ok((items, version)) => {
                    tracing::debug!(path = %self.path, items = items.len(), version, "listed");
                    sink.replace(items, &version);
                    self.watch(sink, version, &mut backoff).await;
                }
                Err(error) => {
                    self.report(&backoff, "list", &error);
                    sleep(backoff.next()).await;
                }
            }
        }
    }

    /// Watches, and resumes, until the resource must be listed again. Only a watch that works resets the
    /// back-off: a server whose lists cannot be watched from is not asked for them without a pause.
    async fn watch(&self, sink: &dyn Sink, mut version: String, backoff: &mut Backoff) {
        loop {
            let started = Instant::now();
            let ended = self.watch_once(sink, &mut version).await;
            if ended.events > 0 || started.elapsed() >= TOO_SHORT {
                backoff.reset();
            }
            match ended.error {
                None if ended.events > 0 || started.elapsed() >= TOO_SHORT => continue,
                None => {}
                Some(ReflectError::Expired) => {
                    tracing::debug!(path = %self.path, version, "version is too old, listing again");
                    if ended.events == 0 && started.elapsed() < TOO_SHORT {
                        sleep(backoff.next()).await;
                    }
                    return;
                }
                Some(error) => self.report(backoff, "watch", &error),
            }
            sleep(backoff.next()).await;
            if backoff.failures >= SUSPECT_AFTER {
                return;
            }
        }
    }

    async fn list(&self, sink: &dyn Sink) -> Result<(Vec<Bytes>, String), ReflectError> {
        match self.list_paged(sink, Some(PAGE)).await {
            // The continue token outlived the snapshot it named: take everything in one answer.
            Err(ReflectError::Expired) => self.list_paged(sink, None).await,
            other => other,
        }
    }

    async fn list_paged(
        &self,
        sink: &dyn Sink,
        limit: Option<usize>,
    ) -> Result<(Vec<Bytes>, String), ReflectError> {
        let reduced = sink.metadata_only().then_some("PartialObjectMetadataList");
        let mut items = Vec::new();
        let mut continue_token = String::new();
        loop {
            let mut query = self.selectors();
            if let Some(limit) = limit {
                query.push(("limit", limit.to_string()));
            }
            if !continue_token.is_empty() {
                query.push(("continue", continue_token));
            }
            let body = timeout(ANSWER_WITHIN, async {
                let response = self.send(&query, reduced).await?;
                let body = response.collect().await.map_err(|error| ReflectError::Client(Box::new(error)))?;
                Ok(body.to_bytes())
            })
            .await
            .map_err(|_| ReflectError::Silent)??;
            let page = scan::list_page(&body).map_err(ReflectError::List)?;
            items.extend(page.items.into_iter().map(|range| sink.condensed(body.slice(range))));
            continue_token = page.continue_token;
            if continue_token.is_empty() {
                return Ok((items, page.resource_version));
            }
        }
    }

    /// One watch request. `version` follows what was received, bookmarks included.
    async fn watch_once(&self, sink: &dyn Sink, version: &mut String) -> Ended {
        let mut events = 0;
        let error = self.watch_lines(sink, version, &mut events).await.err();
        // Lines behind an error are not read.
        sink.queued(0);
        Ended { events, error }
    }

    async fn watch_lines(
        &self,
        sink: &dyn Sink,
        version: &mut String,
        events: &mut usize,
    ) -> Result<(), ReflectError> {
        let seconds = fastrand::u64(WATCH_SECONDS);
        let mut query = self.selectors();
        query.push(("watch", "true".to_owned()));
        query.push(("allowWatchBookmarks", "true".to_owned()));
        query.push(("resourceVersion", version.clone()));
        query.push(("timeoutSeconds", seconds.to_string()));
        let reduced = sink.metadata_only().then_some("PartialObjectMetadata");
        let sent = timeout(ANSWER_WITHIN, self.send(&query, reduced));
        let mut body = sent.await.map_err(|_| ReflectError::Silent)??;
        let deadline = Instant::now() + Duration::from_secs(seconds) + WATCH_GRACE;
        let mut lines = Lines::default();
        loop {
            let frame = match timeout_at(deadline, body.frame()).await.map_err(|_| ReflectError::Silent)? {
                None => return Ok(()),
                Some(frame) => frame.map_err(|error| ReflectError::Client(Box::new(error)))?,
            };
            let Ok(data) = frame.into_data() else { continue };
            let mut waiting = data.iter().filter(|byte| **byte == b'\n').count();
            lines.push(data);
            while let Some(line) = lines.next() {
                waiting = waiting.saturating_sub(1);
                sink.queued(waiting);
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                self.line(sink, &line, version)?;
                *events += 1;
            }
        }
    }

    fn line(&self, sink: &dyn Sink, line: &[u8], version: &mut String) -> Result<(), ReflectError> {
        let (kind, range) = match scan::watch_line(line) {
            Ok(parts) => parts,
            Err(error) => {
                tracing::warn!(path = %self.path, error = %error_chain(&error), "watch line cannot be read and is skipped");
                return Ok(());
            }
        };
        let object = &line[range];
        match kind {
            EventKind::Error => {
                let status: Status = serde_json::from_slice(object).unwrap_or_default();
                return Err(answer(status.code, status));
            }
            EventKind::Bookmark => match scan::resource_version(object) {
                Ok(reached) => {
                    sink.progress(&reached);
                    *version = reached;
                }
                Err(error) => {
                    tracing::warn!(path = %self.path, error = %error_chain(&error), "bookmark without a version");
                }
            },
            EventKind::Added | EventKind::Modified | EventKind::Deleted => {
                if let Some(reached) = sink.event(kind, object).filter(|reached| !reached.is_empty()) {
                    *version = reached;
                }
            }
        }
        Ok(())
    }

    fn selectors(&self) -> Vec<(&'static str, String)> {
        let labels = self.scope.labels.iter().map(|labels| ("labelSelector", labels.clone()));
        let fields = self.scope.fields.iter().map(|fields| ("fieldSelector", fields.clone()));
        labels.chain(fields).collect()
    }

    async fn send(&self, query: &[(&str, String)], reduced: Option<&str>) -> Result<Body, ReflectError> {
        let accept = match reduced {
            Some(kind) => format!("application/json;as={kind};g=meta.k8s.io;v=v1,application/json"),
            None => "application/json".to_owned(),
        };
        let request = http::Request::get(format!("{}?{}", self.path, encode(query)))
            .header(http::header::ACCEPT, accept)
            .body(Body::empty())
            .map_err(ReflectError::Build)?;
        let response =
            self.client.send(request).await.map_err(|error| ReflectError::Client(Box::new(error)))?;
        let code = response.status();
        if code.is_success() {
            return Ok(response.into_body());
        }
        let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        Err(answer(code.as_u16(), serde_json::from_slice(&body).unwrap_or_default()))
    }

    fn report(&self, backoff: &Backoff, what: &str, error: &ReflectError) {
        let cause = error_chain(error);
        // A server that is just starting, or a connection cut once, is not worth a person's time.
        if backoff.failures < 3 {
            tracing::debug!(path = %self.path, cause, "{what} failed, trying again");
        } else {
            tracing::warn!(path = %self.path, cause, failures = backoff.failures, "{what} keeps failing");
        }
    }
}

fn answer(code: u16, status: Status) -> ReflectError {
    if code == 410 || matches!(status.reason.as_str(), "Expired" | "Gone") {
        return ReflectError::Expired;
    }
    ReflectError::Answer { code, message: status.message }
}

/// Cuts a stream of chunks into lines.
#[derive(Default)]
struct Lines {
    buffer: BytesMut,
    /// Bytes at the front of the buffer that hold no line end.
    searched: usize,
}

impl Lines {
    fn push(&mut self, data: Bytes) {
        if self.buffer.is_empty() {
            // The usual case, one event per chunk, is not copied.
            self.buffer = BytesMut::from(data);
        } else {
            self.buffer.extend_from_slice(&data);
        }
    }

    fn next(&mut self) -> Option<Bytes> {
        let found = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
        let Some(offset) = found else {
            self.searched = self.buffer.len();
            return None;
        };
        let line = self.buffer.split_to(self.searched + offset + 1).freeze();
        self.searched = 0;
        Some(line)
    }
}

/// Percent-encodes a query.
fn encode(query: &[(&str, String)]) -> String {
    let mut text = String::new();
    for (name, value) in query {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(byte.into()),
                _ => text.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    text
}

/// Doubling waits with jitter, from 50 ms to 30 s. Upstream starts at 800 ms; ours starts sooner,
/// because server and informers start together in one process.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
}

impl Backoff {
    fn next(&mut self) -> Duration {
        let base = Duration::from_millis(50).saturating_mul(1 << self.failures.min(10));
        self.failures = self.failures.saturating_add(1);
        base.min(Duration::from_secs(30)).mul_f64(0.5 + fastrand::f64())
    }

    fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_however_they_arrive() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for chunk in ["{\"a\"", ":1}\n{\"b\":", "2}", "\n\n", "{\"c\":3}\n"] {
            lines.push(Bytes::from_static(chunk.as_bytes()));
            while let Some(line) = lines.next() {
                seen.push(String::from_utf8(line.to_vec()).unwrap());
            }
        }
        assert_eq!(seen, ["{\"a\":1}\n", "{\"b\":2}\n", "\n", "{\"c\":3}\n"]);
    }

    #[test]
    fn queries_are_percent_encoded() {
        let query = [("labelSelector", "a in (b,c)".to_owned()), ("limit", "500".to_owned())];
        assert_eq!(encode(&query), "labelSelector=a%20in%20%28b%2Cc%29&limit=500");
    }

    #[test]
    fn backoff_grows_to_its_limit_and_no_further() {
        let mut backoff = Backoff::default();
        let waits: Vec<Duration> = (0..40).map(|_| backoff.next()).collect();
        assert!(waits[0] <= Duration::from_millis(75), "{:?}", waits[0]);
        assert!(
            waits[39] >= Duration::from_secs(15) && waits[39] <= Duration::from_secs(45),
            "{:?}",
            waits[39]
        );
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(75));
    }
}
