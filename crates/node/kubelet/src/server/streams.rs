//! Exec, attach, port-forward: the runtime says where its streaming server waits for this one stream, and the
//! client is connected to it.

use http::Request;
use hyper::body::Incoming;
use k8s_openapi::api::core::v1::Pod;
use podium_cri::{Error, v1};
use podium_streaming::exec::Streams;

use super::{
    Handler, containers,
    host::Host,
    query::Query,
    reply::{self, Reply, text},
    route::Target,
    upgrade,
};
use crate::{metrics, pod};

const NO_STREAMS: &str = "you must specify at least 1 of stdin, stdout, stderr";

/// The streams a client asks for; none is an error. A terminal has no error stream of its own.
fn streams(query: &Query) -> Option<Streams> {
    let tty = query.is_one("tty");
    let streams = Streams {
        stdin: query.is_one("input"),
        stdout: query.is_one("output"),
        stderr: query.is_one("error") && !tty,
        tty,
    };
    (streams.stdin || streams.stdout || streams.stderr).then_some(streams)
}

/// The runtime's refusal, with the status that upstream gives it.
fn refused(error: &Error) -> Reply {
    text(if error.is_not_found() { 404 } else { 500 }, error.grpc_text())
}

/// The running container that is meant.
async fn find(host: &dyn Host, pod: &Pod, target: &Target<'_>) -> Result<Option<String>, Error> {
    if target.uid.is_some_and(|uid| uid != pod::uid(pod)) {
        return Ok(None);
    }
    containers::running(&*host.runtime(), pod, target.container).await
}

/// Runs a command and streams.
pub(crate) async fn exec(handler: &Handler, target: &Target<'_>, request: Request<Incoming>) -> Reply {
    let (host, query) = (&*handler.host, Query::of(request.uri()));
    let Some(streams) = streams(&query) else { return text(400, NO_STREAMS) };
    let Some(pod) = host.pod(target.namespace, target.pod) else { return text(404, "pod does not exist") };
    let Some(asked) = upgrade::Asked::of(&request) else { return text(400, upgrade::REQUIRED) };
    let id = match find(host, &pod, target).await {
        Ok(Some(id)) => id,
        Ok(None) => return text(500, format!("container not found ({:?})", target.container)),
        Err(error) => return refused(&error),
    };
    let wanted = v1::ExecRequest {
        container_id: id,
        cmd: query.all("command").map(str::to_owned).collect(),
        tty: streams.tty,
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
    };
    match host.runtime().exec(wanted).await {
        Ok(url) => {
            count(host, asked, "exec");
            upgrade::connect(handler, request, asked, &url, Some(streams)).await
        }
        Err(error) => refused(&error),
    }
}

/// Streams to and from what a container runs already.
pub(crate) async fn attach(handler: &Handler, target: &Target<'_>, request: Request<Incoming>) -> Reply {
    let (host, query) = (&*handler.host, Query::of(request.uri()));
    let Some(streams) = streams(&query) else { return text(400, NO_STREAMS) };
    let Some(pod) = host.pod(target.namespace, target.pod) else { return text(404, "pod does not exist") };
    let Some(asked) = upgrade::Asked::of(&request) else { return text(400, upgrade::REQUIRED) };
    let missing = || {
        let full_name = format!("{}_{}", pod::name(&pod), pod::namespace(&pod));
        text(500, format!("container {} not found in pod {full_name}", target.container))
    };
    let id = match find(host, &pod, target).await {
        Ok(Some(id)) => id,
        Ok(None) => return missing(),
        Err(error) => return refused(&error),
    };
    // Whether there is a terminal was settled when the container was made.
    let Some((_, container)) = pod::find_container(&pod, target.container) else { return missing() };
    let tty = container.tty.unwrap_or(false);
    let streams = Streams { tty, stderr: streams.stderr && !tty, ..streams };
    let wanted = v1::AttachRequest {
        container_id: id,
        stdin: streams.stdin,
        tty: streams.tty,
        stdout: streams.stdout,
        stderr: streams.stderr,
    };
    match host.runtime().attach(wanted).await {
        Ok(url) => {
            count(host, asked, "attach");
            upgrade::connect(handler, request, asked, &url, Some(streams)).await
        }
        Err(error) => refused(&error),
    }
}

/// Connects to ports within a pod.
pub(crate) async fn port_forward(
    handler: &Handler,
    namespace: &str,
    name: &str,
    uid: Option<&str>,
    request: Request<Incoming>,
) -> Reply {
    let host = &*handler.host;
    let Some(asked) = upgrade::Asked::of(&request) else { return text(400, upgrade::REQUIRED) };
    let ports = match ports(&Query::of(request.uri()), asked.needs_ports()) {
        Ok(ports) => ports,
        Err(reason) => return text(400, reason),
    };
    let Some(pod) = host.pod(namespace, name) else { return text(404, "pod does not exist") };
    if uid.is_some_and(|uid| uid != pod::uid(&pod)) {
        return text(404, "pod not found");
    }
    let sandbox = match host.runtime().sandboxes(Some(pod::uid(&pod).to_owned())).await {
        Ok(sandboxes) => sandboxes.into_iter().max_by_key(|one| one.created_at).map(|one| one.id),
        Err(error) => return refused(&error),
    };
    let Some(sandbox) = sandbox else {
        return text(500, format!("pod not found ({:?})", format!("{name}_{namespace}")));
    };
    match host.runtime().port_forward(v1::PortForwardRequest { pod_sandbox_id: sandbox, port: ports }).await {
        Ok(url) => {
            count(host, asked, "portforward");
            upgrade::connect(handler, request, asked, &url, None).await
        }
        Err(error) => refused(&error),
    }
}

/// Counts a stream that comes as a WebSocket.
fn count(host: &dyn Host, asked: upgrade::Asked, subresource: &str) {
    if asked != upgrade::Asked::Spdy {
        host.metrics().count(&metrics::WEBSOCKETS, &[("subresource", subresource)]);
    }
}

/// The ports in a query, which old WebSocket clients must name there; with SPDY they come with each stream.
fn ports(query: &Query, needed: bool) -> Result<Vec<i32>, String> {
    if !needed {
        return Ok(Vec::new());
    }
    let texts: Vec<&str> = query.all("port").flat_map(|list| list.split(',')).collect();
    if texts.is_empty() {
        return Err("query parameter \"port\" is required".to_owned());
    }
    let port = |text: &str| {
        let port: u16 = text.parse().map_err(|_| format!("unable to parse {text:?} as a port"))?;
        if port == 0 { Err(format!("port {text:?} must be > 0")) } else { Ok(i32::from(port)) }
    };
    texts.into_iter().map(port).collect()
}

/// Runs a command to its end and answers with what it wrote.
pub(crate) async fn run(host: &dyn Host, target: &Target<'_>, query: &Query) -> Reply {
    let Some(pod) = host.pod(target.namespace, target.pod) else { return text(404, "pod does not exist") };
    let id = match find(host, &pod, target).await {
        Ok(Some(id)) => id,
        Ok(None) => return text(500, format!("container not found ({:?})", target.container)),
        Err(error) => return text(500, error.grpc_text()),
    };
    let command = query.first("cmd").unwrap_or_default().split(' ').map(str::to_owned).collect();
    match host.runtime().exec_sync(id, command).await {
        Ok(output) => {
            let mut out = output.stdout;
            out.extend_from_slice(&output.stderr);
            if output.exit_code == 0 {
                return reply::raw_json(out);
            }
            let said = String::from_utf8_lossy(&out);
            text(500, format!("command terminated with exit code {}: {said}", output.exit_code))
        }
        Err(error) => text(500, error.grpc_text()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_choices() {
        let of = |text: &str| streams(&Query::parse(text));
        assert_eq!(of("command=sh"), None);
        assert_eq!(of("tty=1"), None);
        assert_eq!(of("input=true"), None);
        let all = Streams { stdin: true, stdout: true, stderr: true, tty: false };
        assert_eq!(of("input=1&output=1&error=1"), Some(all));
        let terminal = Streams { stdin: false, stdout: true, stderr: false, tty: true };
        assert_eq!(of("output=1&error=1&tty=1"), Some(terminal));
    }

    #[test]
    fn port_lists() {
        let of = |text: &str| ports(&Query::parse(text), true);
        assert_eq!(of("port=80&port=81,82"), Ok(vec![80, 81, 82]));
        for text in ["", "port=x", "port=0", "port=65536"] {
            assert!(of(text).is_err(), "{text}");
        }
        assert_eq!(ports(&Query::parse("port=x"), false), Ok(vec![]));
    }
}
