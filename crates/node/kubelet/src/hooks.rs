//! Runs `postStart` and `preStop` handlers.

use std::{net::IpAddr, time::Duration};

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use podium_client::{EventType, reference_of};

use crate::{
    context::Shared,
    http_get::{HttpTarget, NOT_TLS},
    metrics::{self, Metrics},
    pod,
    probes::run,
};

/// What the other side sees as the client.
const HOOK_AGENT: &str = "kube-lifecycle/1.36";

/// A hook failed. The text may hold the container's output, so it goes to the log, not into events.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct HookError(String);

/// Runs a handler to its end, however long that takes: the grace period bounds preStop, and the pod's end postStart.
pub(crate) async fn run(
    shared: &Shared,
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
        let outcome = shared.cri.exec_sync(container_id, command, Duration::ZERO).await;
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
        if http(&target).await.map_err(&failed)? == Spoken::PlainInstead {
            let host = target.authority();
            let text = format!(
                "request to HTTPS lifecycle hook {host} got HTTP response, retry with HTTP succeeded"
            );
            shared.metrics.count(&metrics::HOOK_FALLBACKS, &[]);
            shared.recorder.event(&reference_of(pod), EventType::Warning, "LifecycleHTTPFallback", text);
        }
        return Ok(());
    }
    if let Some(sleep) = &handler.sleep {
        let early = Early(&shared.metrics);
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        std::mem::forget(early);
        return Ok(());
    }
    Err(HookError("Cannot run handler: invalid handler".to_owned()))
}

/// Counts a sleep that is broken off: by being dropped before it is forgotten.
struct Early<'a>(&'a Metrics);

impl Drop for Early<'_> {
    fn drop(&mut self) {
        self.0.count(&metrics::HOOK_SLEEPS, &[]);
    }
}

/// How a hook's server was talked to.
#[derive(Debug, PartialEq, Eq)]
enum Spoken {
    AsWanted,
    /// By HTTP: it does not speak TLS.
    PlainInstead,
}

/// Whatever the answer says, the hook has been told. Source: upstream's `runHTTPHandler`.
async fn http(target: &HttpTarget) -> Result<Spoken, String> {
    let Err(error) = run::get(target, HOOK_AGENT, None).await else { return Ok(Spoken::AsWanted) };
    if !error.ends_with(NOT_TLS) {
        return Err(error);
    }
    // Of two errors the first one says what is wrong with the hook.
    run::get(&target.plain(), HOOK_AGENT, None).await.map(|_| Spoken::PlainInstead).map_err(|_| error)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::core::v1::{HTTPGetAction, HTTPHeader},
        apimachinery::pkg::util::intstr::IntOrString,
    };
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// A server that gives each connection the next answer, a minute after it was asked.
    async fn server(answers: &'static [&'static str]) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = vec![0; 4096];
                let read = stream.read(&mut buffer).await.unwrap();
                asked.push(String::from_utf8_lossy(&buffer[..read]).into_owned());
                tokio::time::sleep(Duration::from_secs(60)).await;
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            asked
        });
        (port, task)
    }

    fn target(scheme: &str, port: u16) -> HttpTarget {
        let header = |name: &str| HTTPHeader { name: name.into(), value: "v".into() };
        let action = HTTPGetAction {
            scheme: Some(scheme.into()),
            port: IntOrString::Int(port.into()),
            path: Some("/bye".into()),
            http_headers: Some(vec![header("Authorization"), header("X-Other")]),
            ..Default::default()
        };
        HttpTarget::new(&action, &Container::default(), Some("127.0.0.1".parse().unwrap())).unwrap()
    }

    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    const BAD: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";

    #[tokio::test(start_paused = true)]
    async fn a_hook_may_take_its_time() {
        let (port, asked) = server(&[OK, BAD]).await;
        assert_eq!(http(&target("HTTP", port)).await, Ok(Spoken::AsWanted));
        assert_eq!(http(&target("HTTP", port)).await, Ok(Spoken::AsWanted), "whatever it answers");
        assert!(asked.await.unwrap()[0].contains("authorization: v"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_without_tls_is_asked_without() {
        let (port, asked) = server(&[BAD, OK]).await;
        assert_eq!(http(&target("HTTPS", port)).await, Ok(Spoken::PlainInstead));
        let asked = asked.await.unwrap();
        assert!(asked[1].starts_with("GET /bye HTTP/1.1\r\n"), "{asked:?}");
        assert!(asked[1].contains("x-other: v") && !asked[1].contains("authorization"), "{asked:?}");
        // Neither way: the first error is told.
        let (port, asked) = server(&[BAD]).await;
        let error = http(&target("HTTPS", port)).await.unwrap_err();
        assert_eq!(error, format!("Get \"https://127.0.0.1:{port}/bye\": {}", NOT_TLS));
        drop(asked);
    }
}
