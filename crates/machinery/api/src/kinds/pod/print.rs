//! A row of `kubectl get pods`.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::Column;
use crate::kinds::print::{AGE, NAME, age, name, or, parse, since, string, wide};
use crate::kinds::tree::{flag, has, int, list, text, value};

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    string("Ready"),
    string("Status"),
    string("Restarts"),
    AGE,
    wide("IP"),
    wide("Node"),
    wide("Nominated Node"),
    wide("Readiness Gates"),
];

pub(super) fn row(pod: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (value(pod, "spec"), value(pod, "status"));
    let seen = summarize(pod);
    let restarts = match seen.last_restart {
        Some(last) if seen.restarts != 0 => {
            format!("{} ({} ago)", seen.restarts, since(&Value::String(last.to_string()), now))
        }
        _ => seen.restarts.to_string(),
    };
    let ip = list(status, "podIPs").first().map_or_else(|| text(status, "podIP"), |ip| text(ip, "ip"));
    vec![
        name(pod),
        format!("{}/{}", seen.ready, seen.total).into(),
        seen.reason.into(),
        restarts.into(),
        age(pod, now),
        or(ip, "<none>").into(),
        or(text(spec, "nodeName"), "<none>").into(),
        or(text(status, "nominatedNodeName"), "<none>").into(),
        readiness_gates(spec, status).into(),
    ]
}

/// What the cells say about the containers.
struct Summary {
    total: usize,
    ready: usize,
    reason: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Summary {
    fn count_restarts(&mut self, container: &Value) {
        self.restarts += int(container, "restartCount");
        let last = value(value(value(container, "lastState"), "terminated"), "finishedAt");
        self.last_restart = self.last_restart.max(parse(last));
    }
}

fn summarize(pod: &Value) -> Summary {
    let (meta, spec, status) = (value(pod, "metadata"), value(pod, "spec"), value(pod, "status"));
    let init_containers = list(spec, "initContainers");
    let restartable = |name: &str| {
        init_containers.iter().any(|c| text(c, "name") == name && text(c, "restartPolicy") == "Always")
    };
    let phase = text(status, "phase");
    let conditions = list(status, "conditions");
    let mut reason = or(text(status, "reason"), phase).to_owned();
    if conditions.iter().any(|c| text(c, "type") == "PodScheduled" && text(c, "reason") == "SchedulingGated")
    {
        reason = "SchedulingGated".to_owned();
    }
    let sidecars = init_containers.iter().filter(|c| text(c, "restartPolicy") == "Always").count();
    let mut seen = Summary {
        total: list(spec, "containers").len() + sidecars,
        ready: 0,
        reason: String::new(),
        restarts: 0,
        last_restart: None,
    };
    // Restarts of sidecars go on counting once the main containers run; those of other init containers do not.
    let mut of_sidecars =
        Summary { total: 0, ready: 0, reason: String::new(), restarts: 0, last_restart: None };
    let mut initializing = false;
    for (index, container) in list(status, "initContainerStatuses").iter().enumerate() {
        seen.count_restarts(container);
        let sidecar = restartable(text(container, "name"));
        if sidecar {
            of_sidecars.count_restarts(container);
        }
        let state = value(container, "state");
        let ended = value(state, "terminated");
        let waiting = text(value(state, "waiting"), "reason");
        if !ended.is_null() && int(ended, "exitCode") == 0 {
            continue;
        }
        if sidecar && flag(container, "started") {
            seen.ready += usize::from(flag(container, "ready"));
            continue;
        }
        reason = if !ended.is_null() {
            format!("Init:{}", end_reason(ended))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{index}/{}", init_containers.len())
        };
        initializing = true;
        break;
    }
    let initialized = conditions
        .iter()
        .find(|c| text(c, "type") == "Initialized")
        .is_some_and(|c| text(c, "status") == "True");
    if !initializing || initialized {
        seen.restarts = of_sidecars.restarts;
        seen.last_restart = of_sidecars.last_restart;
        reason = of_containers(&mut seen, list(status, "containerStatuses"), conditions, reason);
    }
    if has(meta, "deletionTimestamp") {
        if text(status, "reason") == "NodeLost" {
            reason = "Unknown".to_owned();
        } else if !matches!(phase, "Failed" | "Succeeded") {
            reason = "Terminating".to_owned();
        }
    }
    seen.reason = reason;
    seen
}

/// Counts the main containers, last first, so that the first one's state is what shows.
fn of_containers(seen: &mut Summary, statuses: &[Value], conditions: &[Value], mut reason: String) -> String {
    let mut running = false;
    let mut error = String::new();
    for container in statuses.iter().rev() {
        seen.count_restarts(container);
        let state = value(container, "state");
        let waiting = text(value(state, "waiting"), "reason");
        let ended = value(state, "terminated");
        if !waiting.is_empty() {
            reason = waiting.to_owned();
        } else if !ended.is_null() {
            reason = end_reason(ended);
            if int(ended, "exitCode") != 0 {
                error.clone_from(&reason);
            }
        } else if flag(container, "ready") && has(state, "running") {
            running = true;
            seen.ready += 1;
        }
    }
    if reason == "Completed" {
        let ready = conditions.iter().any(|c| text(c, "type") == "Ready" && text(c, "status") == "True");
        if running && ready {
            return "Running".to_owned();
        }
        if !error.is_empty() {
            return error;
        }
        if running {
            return "NotReady".to_owned();
        }
    }
    reason
}

fn end_reason(ended: &Value) -> String {
    match (text(ended, "reason"), int(ended, "signal")) {
        ("", 0) => format!("ExitCode:{}", int(ended, "exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn readiness_gates(spec: &Value, status: &Value) -> String {
    let gates = list(spec, "readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let met = |gate: &&Value| {
        let condition =
            list(status, "conditions").iter().find(|c| text(c, "type") == text(gate, "conditionType"));
        condition.is_some_and(|c| text(c, "status") == "True")
    };
    format!("{}/{}", gates.iter().filter(met).count(), gates.len())
}
