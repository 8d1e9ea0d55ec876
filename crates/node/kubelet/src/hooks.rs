//! Runs `postStart` and `preStop` handlers.

use std::{net::IpAddr, time::Duration};

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use podium_cri::Cri;

use crate::{
    pod,
    probes::run::{self, HttpTarget},
};

/// What the other side sees as the client.
const HOOK_AGENT: &str = "kube-lifecycle/1.36";
/// How long an HTTP hook may take; the grace period bounds preStop below that.
const HTTP_LIMIT: Duration = Duration::from_secs(30);

/// A hook failed. The text may hold the container's output, so it goes to the log, not into events.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct HookError(String);

/// Runs a handler to its end.
pub(crate) async fn run(
    cri: &Cri,
    pod: &Pod,
    container: &Container,
    container_id: &str,
    address: Option<IpAddr>,
    handler: &LifecycleHandler,
) -> Result<(), HookError> {
    let whose = format!("for Container {:?} in Pod {:?}", container.name, pod::full_name(pod));
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let shown = command.join(" ");
        let outcome = cri.exec_sync(container_id, command, Duration::ZERO).await;
        return match outcome {
            Ok(output) if output.exit_code == 0 => Ok(()),
            Ok(output) => {
                let mut text = output.stdout;
                text.extend(output.stderr);
                Err(HookError(format!(
                    "Exec lifecycle hook ([{shown}]) {whose} failed - error: command '{shown}' exited with {}: , message: {:?}",
                    output.exit_code,
                    String::from_utf8_lossy(&text)
                )))
            }
            Err(error) => Err(HookError(format!(
                "Exec lifecycle hook ([{shown}]) {whose} failed - error: {}, message: \"\"",
                error.grpc_text()
            ))),
        };
    }
    if let Some(action) = &handler.http_get {
        let path = action.path.clone().unwrap_or_default();
        let failed =
            |text: String| HookError(format!("HTTP lifecycle hook ({path}) {whose} failed - error: {text}"));
        let target = HttpTarget::new(action, container, address).map_err(&failed)?;
        return run::get(&target, HOOK_AGENT, HTTP_LIMIT).await.map(drop).map_err(&failed);
    }
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err(HookError("Cannot run handler: invalid handler".to_owned()))
}
