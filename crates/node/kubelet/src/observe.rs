//! Reads what the runtime holds of a pod. What cannot have changed since the last look is not asked
//! for again: an exited container stays as it is, a running one keeps its start.

use std::{
    collections::HashMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use podium_cri::{Cri, Error, v1};

use crate::{
    container::inside,
    logs,
    record::{ContainerRecord, PodRecord, RunState, Sandbox, label},
};

/// Upstream's limits of a termination message, from its file and from the log.
const MAX_MESSAGE_BYTES: u64 = 4096;
const MAX_LOG_MESSAGE_BYTES: usize = 2048;
const MAX_LOG_MESSAGE_LINES: usize = 80;

/// Looks at one pod again and again.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    sandboxes: HashMap<String, Sandbox>,
    containers: HashMap<String, ContainerRecord>,
}

impl Observer {
    /// The pod's sandboxes and containers as they are now.
    pub(crate) async fn look(&mut self, cri: &Cri, uid: &str) -> Result<PodRecord, Error> {
        let selector = HashMap::from([(label::POD_UID.to_owned(), uid.to_owned())]);
        let sandboxes = v1::ListPodSandboxRequest {
            filter: Some(v1::PodSandboxFilter { label_selector: selector.clone(), ..Default::default() }),
        };
        let containers = v1::ListContainersRequest {
            filter: Some(v1::ContainerFilter { label_selector: selector, ..Default::default() }),
        };
        let (sandboxes, containers) =
            tokio::try_join!(cri.list_pod_sandbox(sandboxes), cri.list_containers(containers))?;
        let mut record = PodRecord::default();
        for listed in &sandboxes.items {
            record.sandboxes.extend(self.sandbox(cri, listed).await?);
        }
        for listed in &containers.containers {
            record.containers.extend(self.container(cri, listed).await?);
        }
        self.sandboxes =
            record.sandboxes.iter().map(|sandbox| (sandbox.id.clone(), sandbox.clone())).collect();
        self.containers = record.containers.iter().map(|one| (one.id.clone(), one.clone())).collect();
        record.sort();
        Ok(record)
    }

    async fn sandbox(&self, cri: &Cri, listed: &v1::PodSandbox) -> Result<Option<Sandbox>, Error> {
        let ready = listed.state() == v1::PodSandboxState::SandboxReady;
        if let Some(known) = self.sandboxes.get(&listed.id)
            && known.ready == ready
        {
            return Ok(Some(known.clone()));
        }
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: listed.id.clone(), verbose: false };
        match cri.pod_sandbox_status(request).await {
            Ok(answer) => Ok(answer.status.as_ref().map(Sandbox::from_cri)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn container(&self, cri: &Cri, listed: &v1::Container) -> Result<Option<ContainerRecord>, Error> {
        let state = RunState::from_cri(listed.state);
        if let Some(known) = self.containers.get(&listed.id)
            && known.state == state
            && matches!(state, RunState::Exited | RunState::Running)
        {
            return Ok(Some(known.clone()));
        }
        let request = v1::ContainerStatusRequest { container_id: listed.id.clone(), verbose: false };
        let status = match cri.container_status(request).await {
            Ok(answer) => answer.status,
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        let Some(status) = status else { return Ok(None) };
        let mut record = ContainerRecord::from_cri(&status, &listed.pod_sandbox_id, String::new());
        if record.state == RunState::Exited {
            let seen = record.clone();
            let message = tokio::task::spawn_blocking(move || termination_message(&seen)).await;
            record.message = message.unwrap_or_default();
            if record.message.is_empty() {
                record.message.clone_from(&status.message);
            }
        }
        Ok(Some(record))
    }
}

/// What an ended container left to be said: its termination file, or if its policy says so and it
/// failed, the end of its log.
fn termination_message(record: &ContainerRecord) -> String {
    let annotation = |key: &str| record.annotations.get(key).map(String::as_str).unwrap_or_default();
    let path = Some(annotation(label::MESSAGE_PATH)).filter(|path| !path.is_empty()).map(inside);
    let file = record.mounts.iter().find(|(mounted, _)| path.as_ref() == Some(mounted)).map(|(_, host)| host);
    let message = match file {
        Some(file) => read_end(Path::new(file))
            .unwrap_or_else(|error| format!("Error on reading termination log {file}: {error}")),
        None => String::new(),
    };
    let from_log = annotation(label::MESSAGE_POLICY) == "FallbackToLogsOnError"
        && record.exit_code != 0
        && record.reason != "ContainerCannotRun";
    if !message.is_empty() || !from_log {
        return message;
    }
    logs::last_text(Path::new(&record.log_path), MAX_LOG_MESSAGE_LINES, MAX_LOG_MESSAGE_BYTES)
        .unwrap_or_else(|error| format!("Error on reading termination message from logs: {error}"))
}

/// The last bytes of a file, up to the limit; nothing if there is no file.
fn read_end(path: &Path) -> std::io::Result<String> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        other => other?,
    };
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(MAX_MESSAGE_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(MAX_MESSAGE_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The process of a container or sandbox, from the runtime's own details: containerd gives a JSON
/// document with `pid`. None if it does not say.
pub(crate) fn pid_of(info: &HashMap<String, String>) -> Option<i32> {
    let details: serde_json::Value = serde_json::from_str(info.get("info")?).ok()?;
    let pid = details.get("pid").or_else(|| details.get("Pid"))?.as_i64()?;
    i32::try_from(pid).ok().filter(|pid| *pid > 1)
}
