//! How long a change takes from its writer to every watcher.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use memchr::{memchr, memmem};
use serde_json::json;

use super::connection::Connections;
use super::figures::Run;
use super::work::Work;

/// All watchers must have seen everything within this after the last write.
const LIMIT: Duration = Duration::from_secs(30);

/// `watchers` watch a namespace in which `writers` patch one ConfigMap each, `updates` times in all; each patch carries
/// its send time. The result has one time per update and watcher.
pub(super) async fn fan_out(
    work: &Work,
    watching: &Connections,
    watchers: usize,
    writers: usize,
    updates: usize,
) -> Result<Run> {
    let maps = "/api/v1/namespaces/load-watch/configmaps";
    let label = format!("w{watchers}x{writers}");
    for writer in 0..writers {
        let object = json!({
            "metadata": {"name": format!("{label}-{writer}"), "labels": {"watch": label}},
            "data": {"sent": "0", "padding": "x".repeat(1000)},
        });
        work.put_new(maps, &object).await?;
    }
    let query = format!("labelSelector=watch%3D{label}");
    let list = work.connections.read(&format!("{maps}?{query}")).await?;
    let list: serde_json::Value = serde_json::from_slice(&list)?;
    let revision = list["metadata"]["resourceVersion"].as_str().context("a list without a revision")?;
    let path = format!("{maps}?watch=1&{query}&resourceVersion={revision}");
    let origin = Instant::now();
    let mut bodies = Vec::new();
    for number in 0..watchers {
        let json = "application/json";
        let answer = watching.send(number, Method::GET, &path, "", json, Bytes::new()).await?;
        ensure!(answer.status().is_success(), "watch: {}", answer.status());
        bodies.push(answer.into_body());
    }
    let each = updates / writers;
    let reading = try_join_all(bodies.into_iter().map(|body| read(body, origin, each * writers)));
    let started = Instant::now();
    let ended = Rc::new(Cell::new(Duration::ZERO));
    let writing = async {
        let writer = |number: usize| {
            let path = format!("{maps}/{label}-{number}");
            async move {
                for _ in 0..each {
                    let sent = origin.elapsed().as_micros();
                    let body = format!("{{\"data\":{{\"sent\":\"{sent}\"}}}}");
                    let merge = "application/merge-patch+json";
                    work.connections.call(number, Method::PATCH, &path, merge, body).await?;
                }
                Ok::<_, anyhow::Error>(())
            }
        };
        try_join_all((0..writers).map(writer)).await?;
        ended.set(started.elapsed());
        Ok::<_, anyhow::Error>(())
    };
    // Nobody may wait for a watcher for ever; the limit is far above any write's time.
    let both = tokio::time::timeout(LIMIT + Duration::from_millis(updates as u64 * 20), async {
        tokio::try_join!(reading, writing)
    });
    let (times, ()) = both.await.context("not every watcher saw every change")??;
    Ok(Run::new(ended.get(), times.into_iter().flatten().collect(), 0))
}

/// Reads frames until this many changes were seen: how old each was when it came.
async fn read(mut body: Incoming, origin: Instant, wanted: usize) -> Result<Vec<Duration>> {
    let mark = memmem::Finder::new(b"\"sent\":\"");
    let mut times = Vec::with_capacity(wanted);
    // The beginning of a line whose end is still to come.
    let mut begun: Vec<u8> = Vec::new();
    while times.len() < wanted {
        let Some(frame) = body.frame().await else { bail!("a watch ended after {} changes", times.len()) };
        let Ok(data) = frame?.into_data() else { continue };
        let now = origin.elapsed();
        let mut rest = &data[..];
        while let Some(end) = memchr(b'\n', rest) {
            begun.extend_from_slice(if begun.is_empty() { &[] } else { &rest[..end] });
            let line = if begun.is_empty() { &rest[..end] } else { &begun };
            if let Some(at) = mark.find(line) {
                let digits = line[at + mark.needle().len()..].split(|byte| *byte == b'"').next();
                let sent: u64 = std::str::from_utf8(digits.unwrap_or_default())?.parse()?;
                if sent > 0 {
                    times.push(now.saturating_sub(Duration::from_micros(sent)));
                }
            }
            begun.clear();
            rest = &rest[end + 1..];
        }
        begun.extend_from_slice(rest);
    }
    Ok(times)
}
