//! `/containerLogs`: finds the container, reads its log.

use std::{path::PathBuf, sync::Arc};

use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use podium_cri::v1;

use super::{
    containers,
    host::{Host, Runtime},
    query::Query,
    reply::{self, Reply, text},
};
use crate::{
    logs::read::{self, Choice, Format, Options, StillRuns},
    pod,
};

/// A query that cannot be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadQuery {
    /// A parameter is not of its type.
    Undecodable,
    /// Parameters out of range, or that exclude each other.
    Invalid,
}

/// Reads upstream's `PodLogOptions`; the second value asks for the previous container.
pub(crate) fn options(query: &Query, now: Timestamp) -> Result<(Options, bool), BadQuery> {
    let number = |name: &str| -> Result<Option<i64>, BadQuery> {
        query.first(name).map(|text| text.parse().map_err(|_| BadQuery::Undecodable)).transpose()
    };
    let at_least = |name: &str, least: i64| -> Result<Option<u64>, BadQuery> {
        let Some(number) = number(name)? else { return Ok(None) };
        if number < least { Err(BadQuery::Invalid) } else { Ok(u64::try_from(number).ok()) }
    };
    // Upstream still takes its old name for tailLines.
    let tail_lines = match query.first("tail") {
        None | Some("") => at_least("tailLines", 0)?,
        Some("all") => None,
        Some(_) => at_least("tail", 0)?,
    };
    let stream = match query.first("stream") {
        None | Some("All") => Choice::All,
        Some("Stdout") => Choice::Stdout,
        Some("Stderr") => Choice::Stderr,
        Some(_) => return Err(BadQuery::Invalid),
    };
    let since_seconds = at_least("sinceSeconds", 1)?;
    let since_time = query.first("sinceTime").filter(|text| !text.is_empty());
    let since_time: Option<Timestamp> =
        since_time.map(str::parse).transpose().map_err(|_| BadQuery::Undecodable)?;
    if (since_seconds.is_some() && since_time.is_some()) || (stream != Choice::All && tail_lines.is_some()) {
        return Err(BadQuery::Invalid);
    }
    let since = match since_seconds {
        Some(seconds) => {
            let ago = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
            Some(now.checked_sub(ago).unwrap_or(Timestamp::MIN))
        }
        None => since_time,
    };
    let format = Format {
        since,
        timestamps: query.truthy("timestamps"),
        limit_bytes: at_least("limitBytes", 1)?,
        stream,
    };
    Ok((Options { format, tail_lines, follow: query.truthy("follow") }, query.truthy("previous")))
}

/// Answers with a container's log.
pub(crate) async fn serve(
    host: &Arc<dyn Host>,
    namespace: &str,
    name: &str,
    container: &str,
    query: &Query,
) -> Reply {
    let (options, previous) = match options(query, Timestamp::now()) {
        Ok(read) => read,
        Err(BadQuery::Undecodable) => return text(400, "{\"message\": \"Unable to decode query.\"}"),
        Err(BadQuery::Invalid) => return text(422, "{\"message\": \"Invalid request.\"}"),
    };
    let Some(pod) = host.pod(namespace, name) else {
        return text(404, format!("pod {name:?} does not exist"));
    };
    if pod::find_container(&pod, container).is_none() {
        return text(404, format!("container {container:?} not found in pod {name:?}"));
    }
    let runtime = host.runtime();
    let held = match runtime.containers(Some(pod::uid(&pod).to_owned()), false).await {
        Ok(held) => held,
        Err(error) => return text(500, error.grpc_text()),
    };
    let id = match containers::choose_log(&pod, container, &held, previous, host.runtime_name()) {
        Ok(id) => id,
        Err(reason) => return text(400, reason),
    };
    let path = match runtime.status(id.clone()).await {
        Ok(status) => PathBuf::from(status.log_path),
        Err(error) => {
            tracing::debug!(container = id, %error, "the status of a container whose log is asked for");
            return text(
                400,
                format!("unable to retrieve container logs for {}://{id}", host.runtime_name()),
            );
        }
    };
    match read::open(path.clone(), options, still_runs(runtime, id)).await {
        Ok(pieces) => reply::stream(pieces.take_until(host.shutdown().cancelled_owned())),
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "a log cannot be opened");
            let why = if error.kind() == std::io::ErrorKind::NotFound {
                "no such file or directory"
            } else {
                "cannot be read"
            };
            text(
                400,
                format!("failed to try resolving symlinks in path {path:?}: lstat {}: {why}", path.display()),
            )
        }
    }
}

/// A container may write as long as it runs, and counts as running while the runtime does not answer.
fn still_runs(runtime: Arc<dyn Runtime>, id: String) -> StillRuns {
    Arc::new(move || {
        let (runtime, id) = (runtime.clone(), id.clone());
        Box::pin(async move {
            match runtime.status(id).await {
                Ok(status) => status.state() == v1::ContainerState::ContainerRunning,
                Err(error) => !error.is_not_found(),
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(query: &str, want: Result<(Options, bool), BadQuery>) {
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let got = options(&Query::parse(query), now);
        assert_eq!(format!("{got:?}"), format!("{want:?}"), "{query}");
    }

    #[test]
    fn queries() {
        let plain = Options::default;
        let with = |format: Format| Options { format, ..Options::default() };
        check("", Ok((plain(), false)));
        check("follow=true&previous=true", Ok((Options { follow: true, ..plain() }, true)));
        check("follow=false&tailLines=5", Ok((Options { tail_lines: Some(5), ..plain() }, false)));
        check("tail=7&tailLines=5", Ok((Options { tail_lines: Some(7), ..plain() }, false)));
        check("tail=all&tailLines=5", Ok((plain(), false)));
        check(
            "timestamps=1&limitBytes=9",
            Ok((with(Format { timestamps: true, limit_bytes: Some(9), ..Format::default() }), false)),
        );
        check("stream=Stderr", Ok((with(Format { stream: Choice::Stderr, ..Format::default() }), false)));
        for query in
            ["sinceSeconds=60", "sinceTime=2026-01-01T00:00:00Z", "sinceTime=2026-01-01T01:00:00%2B01:00"]
        {
            let since = "2026-01-01T00:00:00Z".parse().ok();
            check(query, Ok((with(Format { since, ..Format::default() }), false)));
        }
        for query in ["tailLines=x", "sinceTime=yesterday", "limitBytes=1.5"] {
            check(query, Err(BadQuery::Undecodable));
        }
        for query in [
            "tailLines=-1",
            "limitBytes=0",
            "sinceSeconds=0",
            "stream=Both",
            "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z",
            "stream=Stdout&tailLines=1",
        ] {
            check(query, Err(BadQuery::Invalid));
        }
    }
}
