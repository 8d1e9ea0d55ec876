//! Logs of containers, commands run in them, and what runs.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use podium_cri::v1;
use serde_json::json;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

use super::{Body, Handlers, json_answer, query_pairs, respond, text};
use crate::{
    logs::read::{self, Options, Source},
    pod,
    record::{PodRecord, RunState, label},
};

/// Pieces of a log under way to a client: little, so that a slow client slows the reader.
const PIECES: usize = 16;

impl Handlers {
    pub(super) async fn logs(self, namespace: &str, name: &str, container: &str, query: &str) -> Response<Body> {
        let query = query_pairs(query);
        let (options, previous) = match options(&query, Timestamp::now()) {
            Ok(parsed) => parsed,
            Err((code, message)) => return text(code, message),
        };
        let Some(pod) = self.pods.find(namespace, name, None) else {
            return text(StatusCode::NOT_FOUND, &format!("pod {name:?} does not exist"));
        };
        if pod::find_container(&pod, container).is_none() {
            return text(StatusCode::NOT_FOUND, &format!("container {container:?} not found in pod {name:?}"));
        }
        let record = match self.look(&pod).await {
            Ok(record) => record,
            Err(refusal) => return refusal,
        };
        let (id, path) = match choose(&pod, &record, container, previous) {
            Ok(chosen) => chosen,
            Err(message) => return text(StatusCode::BAD_REQUEST, &message),
        };
        self.stream_log(id, path, options)
    }

    fn stream_log(self, id: String, path: PathBuf, options: Options) -> Response<Body> {
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(PIECES);
        let cri = self.shared.cri.clone();
        let runtime = tokio::runtime::Handle::current();
        let shutdown = self.shared.shutdown.clone();
        // The thread ends when the client goes, when the log ends, or with the kubelet.
        drop(tokio::task::spawn_blocking(move || {
            let mut sink = |piece: &[u8]| {
                if piece.is_empty() {
                    return !sender.is_closed();
                }
                sender.blocking_send(Ok(Bytes::copy_from_slice(piece))).is_ok()
            };
            let mut source = || {
                if shutdown.is_cancelled() {
                    return Source::Ended;
                }
                let request = v1::ContainerStatusRequest { container_id: id.clone(), verbose: false };
                let running = runtime.block_on(cri.container_status(request)).is_ok_and(|answer| {
                    answer.status.is_some_and(|status| RunState::from_cri(status.state) == RunState::Running)
                });
                if running { Source::Open } else { Source::Ended }
            };
            if let Err(error) = read::stream(&path, &options, &mut sink, &mut source)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::debug!(path = %path.display(), %error, "reading a log failed");
                sender.blocking_send(Err(error)).ok();
            }
        }));
        let body = StreamBody::new(ReceiverStream::new(receiver).map(|piece| piece.map(Frame::data)));
        let mut response = Response::new(body.boxed_unsync());
        let plain = header::HeaderValue::from_static("text/plain");
        response.headers_mut().insert(header::CONTENT_TYPE, plain);
        response
    }

    pub(super) async fn run_command(
        self,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
        container: &str,
        query: &str,
    ) -> Response<Body> {
        let Some(pod) = self.pods.find(namespace, name, uid) else {
            return text(StatusCode::NOT_FOUND, "pod does not exist");
        };
        let id = match self.running_container(&pod, container).await {
            Ok(id) => id,
            Err(refusal) => return refusal,
        };
        let query = query_pairs(query);
        let line = query.iter().find(|(key, _)| key == "cmd").map(|(_, value)| value.clone()).unwrap_or_default();
        let command = line.split(' ').map(str::to_owned).collect();
        match self.shared.cri.exec_sync(&id, command, Duration::ZERO).await {
            Ok(output) => {
                let mut bytes = output.stdout;
                bytes.extend(output.stderr);
                if output.exit_code == 0 {
                    respond(StatusCode::OK, "text/plain; charset=utf-8", bytes.into())
                } else {
                    let message = format!("command '{line}' exited with {}: {}", output.exit_code, String::from_utf8_lossy(&bytes));
                    text(StatusCode::INTERNAL_SERVER_ERROR, &message)
                }
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }

    pub(super) async fn running_pods(self) -> Response<Body> {
        let state = v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning.into() };
        let filter = v1::ContainerFilter { state: Some(state), ..Default::default() };
        let request = v1::ListContainersRequest { filter: Some(filter) };
        let containers = match self.shared.cri.list_containers(request).await {
            Ok(answer) => answer.containers,
            Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        };
        let mut pods: std::collections::BTreeMap<[String; 3], Vec<serde_json::Value>> = Default::default();
        for one in &containers {
            let of = |key: &str| one.labels.get(key).cloned().unwrap_or_default();
            let image = one.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
            pods.entry([of(label::POD_NAMESPACE), of(label::POD_NAME), of(label::POD_UID)])
                .or_default()
                .push(json!({"name": of(label::CONTAINER_NAME), "image": image, "resources": {}}));
        }
        let items: Vec<_> = pods
            .into_iter()
            .map(|([namespace, name, uid], containers)| {
                json!({"metadata": {"name": name, "namespace": namespace, "uid": uid}, "spec": {"containers": containers}, "status": {}})
            })
            .collect();
        json_answer(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
    }
}

/// Reads the query of a log request; the second part is whether the previous run is meant.
fn options(query: &[(String, String)], now: Timestamp) -> Result<(Options, bool), (StatusCode, &'static str)> {
    const UNDECODABLE: (StatusCode, &str) = (StatusCode::BAD_REQUEST, r#"{"message": "Unable to decode query."}"#);
    const INVALID: (StatusCode, &str) = (StatusCode::UNPROCESSABLE_ENTITY, r#"{"message": "Invalid request."}"#);
    let get = |wanted: &str| query.iter().find(|(key, _)| key == wanted).map(|(_, value)| value.as_str());
    let flag = |wanted: &str| match get(wanted) {
        None | Some("false" | "0") => Ok(false),
        Some("" | "true" | "1") => Ok(true),
        Some(_) => Err(UNDECODABLE),
    };
    let number = |wanted: &str| match get(wanted) {
        None => Ok(None),
        Some(text) => text.parse::<i64>().map(Some).map_err(|_| UNDECODABLE),
    };
    let tail = match get("tail") {
        Some("all") => None,
        Some(text) => Some(text.parse::<i64>().map_err(|_| UNDECODABLE)?),
        None => number("tailLines")?,
    };
    let limit = number("limitBytes")?;
    let seconds = number("sinceSeconds")?;
    let time = match get("sinceTime") {
        None => None,
        Some(text) => Some(text.parse::<Timestamp>().map_err(|_| UNDECODABLE)?),
    };
    if tail.is_some_and(|tail| tail < 0)
        || limit.is_some_and(|limit| limit < 1)
        || seconds.is_some_and(|seconds| seconds < 1)
        || (seconds.is_some() && time.is_some())
    {
        return Err(INVALID);
    }
    let ago = |seconds: i64| now.checked_sub(jiff::SignedDuration::from_secs(seconds)).ok();
    let (stdout, stderr) = match get("stream") {
        None | Some("" | "All") => (true, true),
        Some("Stdout") => (true, false),
        Some("Stderr") => (false, true),
        Some(_) => return Err(INVALID),
    };
    let options = Options {
        follow: flag("follow")?,
        timestamps: flag("timestamps")?,
        since: time.or_else(|| seconds.and_then(ago)),
        tail_lines: tail.and_then(|tail| u64::try_from(tail).ok()),
        limit_bytes: limit.and_then(|limit| u64::try_from(limit).ok()),
        stdout,
        stderr,
    };
    Ok((options, flag("previous")?))
}

/// Which run's log is meant: its container id and file, or why there is none, in upstream's words.
fn choose(pod: &Pod, record: &PodRecord, container: &str, previous: bool) -> Result<(String, PathBuf), String> {
    let name = pod::name(pod);
    let mut runs = record.containers.iter().filter(|one| one.name == container);
    let latest = runs.next();
    let wanted = match (previous, latest) {
        (true, latest) => {
            // While a container waits for its back-off, its last run is the previous one.
            let waiting = latest.is_some_and(|latest| latest.state == RunState::Exited)
                && status_of(pod, container).is_some_and(|status| {
                    status.state.as_ref().is_some_and(|state| state.waiting.is_some())
                });
            let chosen = if waiting { latest } else { runs.next() };
            chosen.ok_or_else(|| format!("previous terminated container {container:?} in pod {name:?} not found"))?
        }
        (false, Some(latest)) if latest.state != RunState::Created => latest,
        (false, _) => match runs.next() {
            Some(before) => before,
            None => return Err(waiting_text(pod, container)),
        },
    };
    Ok((wanted.id.clone(), PathBuf::from(&wanted.log_path)))
}

fn status_of<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    pod::all_statuses(pod).find(|status| status.name == container)
}

fn waiting_text(pod: &Pod, container: &str) -> String {
    let name = pod::name(pod);
    let reason = status_of(pod, container)
        .and_then(|status| status.state.as_ref()?.waiting.as_ref()?.reason.clone())
        .unwrap_or_else(|| "ContainerCreating".to_owned());
    let why = match reason.as_str() {
        "ErrImagePull" => "image can't be pulled",
        "ImagePullBackOff" => "trying and failing to pull image",
        other => other,
    };
    format!("container {container:?} in pod {name:?} is waiting to start: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ContainerRecord;

    fn query(text: &str) -> Result<(Options, bool), StatusCode> {
        options(&query_pairs(text), Timestamp::from_second(1000).unwrap()).map_err(|(code, _)| code)
    }

    #[test]
    fn queries() {
        let all = Options { stdout: true, stderr: true, ..Default::default() };
        assert_eq!(query(""), Ok((all.clone(), false)));
        assert_eq!(
            query("follow=true&tailLines=5&timestamps=true&previous=1&limitBytes=9"),
            Ok((
                Options {
                    follow: true,
                    timestamps: true,
                    tail_lines: Some(5),
                    limit_bytes: Some(9),
                    ..all.clone()
                },
                true
            ))
        );
        let since = Some(Timestamp::from_second(990).unwrap());
        assert_eq!(query("sinceSeconds=10"), Ok((Options { since, ..all.clone() }, false)));
        assert_eq!(query("sinceTime=1970-01-01T00%3A16%3A30Z"), Ok((Options { since, ..all.clone() }, false)));
        assert_eq!(query("stream=Stderr"), Ok((Options { stdout: false, ..all }, false)));
        for bad in ["tailLines=x", "follow=maybe", "sinceTime=yesterday"] {
            assert_eq!(query(bad), Err(StatusCode::BAD_REQUEST), "{bad}");
        }
        for bad in ["tailLines=-1", "limitBytes=0", "sinceSeconds=0", "sinceSeconds=1&sinceTime=1970-01-01T00:00:00Z", "stream=x"] {
            assert_eq!(query(bad), Err(StatusCode::UNPROCESSABLE_ENTITY), "{bad}");
        }
    }

    #[test]
    fn which_run() {
        let run = |id: &str, state: RunState| ContainerRecord {
            id: id.into(),
            name: "c".into(),
            state,
            log_path: format!("/{id}"),
            ..Default::default()
        };
        let pod = |status: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p"}, "status": {"containerStatuses": [status]}})).unwrap()
        };
        let none = pod(json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0}));
        let chosen = |pod: &Pod, runs: Vec<ContainerRecord>, previous: bool| {
            let record = PodRecord { containers: runs, ..Default::default() };
            choose(pod, &record, "c", previous).map(|(id, _)| id)
        };
        let two = || vec![run("new", RunState::Running), run("old", RunState::Exited)];
        assert_eq!(chosen(&none, two(), false), Ok("new".into()));
        assert_eq!(chosen(&none, two(), true), Ok("old".into()));
        assert_eq!(
            chosen(&none, vec![run("new", RunState::Running)], true),
            Err("previous terminated container \"c\" in pod \"p\" not found".into())
        );
        let held = pod(json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}}}));
        assert_eq!(chosen(&held, vec![run("last", RunState::Exited)], true), Ok("last".into()));
        let pulling = pod(json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ErrImagePull"}}}));
        assert_eq!(
            chosen(&pulling, vec![], false),
            Err("container \"c\" in pod \"p\" is waiting to start: image can't be pulled".into())
        );
    }
}
