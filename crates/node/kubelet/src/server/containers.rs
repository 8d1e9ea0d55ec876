//! From the names in a request to containers of the runtime.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use podium_cri::{Error, v1};
use serde_json::{Value, json};

use super::{
    host::{Host, Runtime},
    reply::{self, Reply, text},
};
use crate::{pod, record::label};

/// The name that the pod's spec has for a container.
pub(crate) fn name_of(container: &v1::Container) -> &str {
    container
        .labels
        .get(label::CONTAINER_NAME)
        .or_else(|| container.metadata.as_ref().map(|metadata| &metadata.name))
        .map(String::as_str)
        .unwrap_or_default()
}

/// The running container of that name, if there is one.
pub(crate) async fn running(runtime: &dyn Runtime, pod: &Pod, name: &str) -> Result<Option<String>, Error> {
    let mut found = runtime.containers(Some(pod::uid(pod).to_owned()), true).await?;
    found.retain(|one| name_of(one) == name);
    Ok(found.into_iter().max_by_key(|one| one.created_at).map(|one| one.id))
}

/// Chooses the container whose log is meant, from the pod's status and from what the runtime holds of that
/// container name. The error is what the client is told. Source: upstream's `validateContainerLogStatus`;
/// the runtime's word is newer than the status, so it goes first.
pub(crate) fn choose_log(
    pod: &Pod,
    name: &str,
    held: &[v1::Container],
    previous: bool,
    runtime_name: &str,
) -> Result<String, String> {
    let pod_name = pod::name(pod);
    let status = pod::all_statuses(pod).find(|status| status.name == name);
    // Newest first. One that has only been made has no log worth reading.
    let mut begun: Vec<&v1::Container> = held
        .iter()
        .filter(|one| name_of(one) == name && one.state() != v1::ContainerState::ContainerCreated)
        .collect();
    begun.sort_by_key(|one| std::cmp::Reverse(one.created_at));
    if previous {
        let second = || begun.get(1).map(|one| one.id.clone());
        let before = match begun.first() {
            Some(newest) if newest.state() == v1::ContainerState::ContainerRunning => second(),
            _ => last_terminated(status).or_else(second),
        };
        return before
            .ok_or_else(|| format!("previous terminated container {name:?} in pod {pod_name:?} not found"));
    }
    if let Some(newest) = begun.first() {
        return Ok(newest.id.clone());
    }
    let Some(status) = status else {
        return Err(format!("container {name:?} in pod {pod_name:?} is not available"));
    };
    Err(why_no_log(status, name, pod_name, runtime_name))
}

/// Why there is no log of a container that the runtime does not hold.
fn why_no_log(status: &ContainerStatus, name: &str, pod_name: &str, runtime_name: &str) -> String {
    let state = status.state.as_ref();
    let terminated = state.is_some_and(|state| state.terminated.is_some());
    if let Some(id) = status.container_id.as_deref().filter(|id| !id.is_empty())
        && (terminated || state.is_some_and(|state| state.running.is_some()))
    {
        // The runtime has it no more, and with it its log has gone.
        return format!("unable to retrieve container logs for {id}");
    }
    if let Some(id) = last_terminated(Some(status)) {
        return format!("unable to retrieve container logs for {runtime_name}://{id}");
    }
    if terminated {
        return format!("container {name:?} in pod {pod_name:?} is terminated");
    }
    let whose = format!("container {name:?} in pod {pod_name:?} is waiting to start");
    match state.and_then(|state| state.waiting.as_ref()) {
        Some(waiting) => match waiting.reason.as_deref().unwrap_or_default() {
            "ErrImagePull" => format!("{whose}: image can't be pulled"),
            "ImagePullBackOff" => format!("{whose}: trying and failing to pull image"),
            reason => format!("{whose}: {reason}"),
        },
        None => format!("{whose} - no logs yet"),
    }
}

/// The runtime's id of the container that ended last before the current one.
fn last_terminated(status: Option<&ContainerStatus>) -> Option<String> {
    let id = status?.last_state.as_ref()?.terminated.as_ref()?.container_id.as_deref()?;
    let id = id.split_once("://").map_or(id, |(_, id)| id);
    (!id.is_empty()).then(|| id.to_owned())
}

/// The pods that run, as the runtime sees them.
pub(crate) async fn running_pods(host: &dyn Host) -> Reply {
    match host.runtime().containers(None, true).await {
        Ok(containers) => reply::json(&running_list(&containers)),
        Err(error) => text(500, error.grpc_text()),
    }
}

fn running_list(containers: &[v1::Container]) -> Value {
    let mut pods: BTreeMap<[&str; 3], Vec<Value>> = BTreeMap::new();
    for one in containers {
        let label = |key: &str| one.labels.get(key).map(String::as_str).unwrap_or_default();
        let key = [label(label::POD_NAMESPACE), label(label::POD_NAME), label(label::POD_UID)];
        let image = one.image.as_ref().map(|image| image.image.as_str()).unwrap_or_default();
        pods.entry(key).or_default().push(json!({"name": name_of(one), "image": image, "resources": {}}));
    }
    let items: Vec<Value> = pods
        .into_iter()
        .map(|([namespace, name, uid], containers)| {
            json!({"metadata": {"name": name, "namespace": namespace, "uid": uid},
                "spec": {"containers": containers}, "status": {}})
        })
        .collect();
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn held(id: &str, created_at: i64, state: v1::ContainerState) -> v1::Container {
        v1::Container {
            id: id.to_owned(),
            created_at,
            state: state.into(),
            labels: HashMap::from([(label::CONTAINER_NAME.to_owned(), "c".to_owned())]),
            ..Default::default()
        }
    }

    fn pod(status: &Value) -> Pod {
        let statuses = if status.is_null() { json!([]) } else { json!([status]) };
        serde_json::from_value(json!({"metadata": {"name": "p"}, "status": {"containerStatuses": statuses}}))
            .unwrap()
    }

    #[allow(clippy::needless_pass_by_value)]
    fn status(state: Value, last: Value) -> Value {
        json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state, "lastState": last})
    }

    const RUNNING: v1::ContainerState = v1::ContainerState::ContainerRunning;
    const EXITED: v1::ContainerState = v1::ContainerState::ContainerExited;
    const CREATED: v1::ContainerState = v1::ContainerState::ContainerCreated;

    #[test]
    fn logs_come_from() {
        let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
        let ended = |id: &str| json!({"terminated": {"exitCode": 1, "containerID": id}});
        let cases: &[(&str, Value, Vec<v1::Container>, Result<&str, &str>)] = &[
            ("the running one", json!(null), vec![held("1", 1, EXITED), held("2", 2, RUNNING)], Ok("2")),
            ("the ended one", json!(null), vec![held("1", 1, EXITED)], Ok("1")),
            (
                "not one that has not begun",
                json!(null),
                vec![held("1", 1, EXITED), held("2", 2, CREATED)],
                Ok("1"),
            ),
            ("nothing known", json!(null), vec![], Err("container \"c\" in pod \"p\" is not available")),
            (
                "waiting",
                status(waiting("ContainerCreating"), json!({})),
                vec![held("1", 1, CREATED)],
                Err("container \"c\" in pod \"p\" is waiting to start: ContainerCreating"),
            ),
            (
                "pulling fails",
                status(waiting("ErrImagePull"), json!({})),
                vec![],
                Err("container \"c\" in pod \"p\" is waiting to start: image can't be pulled"),
            ),
            (
                "pulling keeps failing",
                status(waiting("ImagePullBackOff"), json!({})),
                vec![],
                Err("container \"c\" in pod \"p\" is waiting to start: trying and failing to pull image"),
            ),
            (
                "removed by the runtime",
                status(waiting("CrashLoopBackOff"), ended("containerd://9")),
                vec![],
                Err("unable to retrieve container logs for containerd://9"),
            ),
            (
                "no state",
                status(json!({}), json!({})),
                vec![],
                Err("container \"c\" in pod \"p\" is waiting to start - no logs yet"),
            ),
        ];
        for (what, status, held, want) in cases {
            let got = choose_log(&pod(status), "c", held, false, "containerd");
            assert_eq!(got.as_deref().map_err(String::as_str), *want, "{what}");
        }
    }

    #[test]
    fn previous_logs_come_from() {
        let last = |id: &str| status(json!({}), json!({"terminated": {"exitCode": 1, "containerID": id}}));
        let none = Err("previous terminated container \"c\" in pod \"p\" not found");
        let cases: &[(&str, Value, Vec<v1::Container>, Result<&str, &str>)] = &[
            (
                "before the running one",
                json!(null),
                vec![held("1", 1, EXITED), held("2", 2, RUNNING)],
                Ok("1"),
            ),
            ("nothing before", json!(null), vec![held("2", 2, RUNNING)], none),
            (
                "the status is older",
                last("containerd://1"),
                vec![held("2", 2, EXITED), held("3", 3, RUNNING)],
                Ok("2"),
            ),
            ("waiting to restart", last("containerd://1"), vec![held("1", 1, EXITED)], Ok("1")),
            ("ended for good", json!(null), vec![held("1", 1, EXITED)], none),
            ("ended twice", json!(null), vec![held("1", 1, EXITED), held("2", 2, EXITED)], Ok("1")),
            ("nothing", json!(null), vec![], none),
        ];
        for (what, status, held, want) in cases {
            let got = choose_log(&pod(status), "c", held, true, "containerd");
            assert_eq!(got.as_deref().map_err(String::as_str), *want, "{what}");
        }
    }

    #[test]
    fn running_pods_are_grouped() {
        let mut one = held("1", 1, RUNNING);
        one.labels.insert(label::POD_NAME.to_owned(), "p".to_owned());
        one.labels.insert(label::POD_NAMESPACE.to_owned(), "n".to_owned());
        let list = running_list(&[one.clone(), one]);
        assert_eq!(list["items"].as_array().unwrap().len(), 1);
        assert_eq!(list["items"][0]["metadata"]["namespace"], "n");
        assert_eq!(list["items"][0]["spec"]["containers"].as_array().unwrap().len(), 2);
    }
}
