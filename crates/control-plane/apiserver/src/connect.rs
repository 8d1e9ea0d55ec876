//! Requests that are passed on: logs and streams to kubelets, and the proxy subresources.
//!
//! Rules against smuggling and forged targets: a target's address is resolved once from the API's own objects, checked,
//! and connected to; redirects are never followed; credentials of the client are never passed on; bytes are copied
//! without looking only after the target has answered 101 to the protocol that was asked for.

use std::net::IpAddr;

use http::header::{CONNECTION, LOCATION, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use podium_api::field::{Errors, Path};
use podium_api::status::ApiError;
use serde_json::Value;

use crate::admission::Operation;
use crate::body::RequestBody;
use crate::registry::Call;
use crate::request::{Query, RequestInfo};
use crate::response::{self, Reply};
use crate::storage;

mod exchange;
mod html;
mod target;
mod websocket;

pub(crate) use exchange::{client_config, health_at};
use target::Target;

/// Protocols that a connection may be turned into.
const PROTOCOLS: &[&str] = &["spdy/3.1", "websocket"];

/// Whether a request is passed on.
pub(crate) fn handles(info: &RequestInfo) -> bool {
    let resource = info.resource.as_str();
    info.is_resource
        && info.group.is_empty()
        && match info.subresource.as_str() {
            "log" | "exec" | "attach" | "portforward" => resource == "pods",
            "proxy" => matches!(resource, "pods" | "services" | "nodes"),
            _ => false,
        }
}

/// Verbs that must be allowed besides the request's own: whoever opens a stream into a pod needs `create`, however the
/// stream is opened (a WebSocket begins with GET).
pub(crate) fn also_needs(info: &RequestInfo) -> Option<&'static str> {
    let streams = matches!(info.subresource.as_str(), "exec" | "attach" | "portforward");
    (handles(info) && streams && info.verb == "get").then_some("create")
}

/// Passes a request on.
pub(crate) async fn serve(call: &Call, request: Request<RequestBody>) -> Result<Reply, ApiError> {
    let info = &call.info;
    let sub = call.served.subresource(&info.subresource).ok_or_else(response::unknown_path)?;
    let asks_a_proxied_service = info.subresource == "proxy" && request.method() == Method::OPTIONS;
    if !asks_a_proxied_service && !sub.verbs.iter().any(|verb| verb == info.verb) {
        return Err(response::method_not_allowed());
    }
    if call.query.has("dryRun") && info.subresource != "proxy" {
        return Err(ApiError::bad_request("dryRun is not supported"));
    }
    let mut nothing = Value::Null;
    {
        let options = Value::Null;
        let kind = sub.kind.clone();
        let mut admission = call.admission(Operation::Connect, &kind, &mut nothing, None, &options, false);
        call.core.admission.mutate(&mut admission)?;
        call.core.admission.validate(&mut admission)?;
    }
    match info.subresource.as_str() {
        "log" => {
            let reply = logs(call).await?;
            if upgrade_of(request.headers()).as_deref() == Some("websocket") {
                return websocket::send(call, request, reply);
            }
            Ok(reply)
        }
        "exec" | "attach" => {
            let pod = pod(call)?;
            let container = container(&pod, call.query.first("container").unwrap_or_default(), false)?;
            let namespace = &info.namespace;
            let path = format!("/{}/{namespace}/{}/{container}", info.subresource, info.name);
            let query = stream_query(&call.query)?;
            stream(call, request, &pod, &path, &query).await
        }
        "portforward" => {
            let pod = pod(call)?;
            let path = format!("/portForward/{}/{}", info.namespace, info.name);
            let ports: Vec<(&str, &str)> =
                call.query.all("ports").flat_map(|list| list.split(',')).map(|port| ("port", port)).collect();
            stream(call, request, &pod, &path, &encode_query(&ports)).await
        }
        _ => proxy(call, request).await,
    }
}

/// The addressed pod, once it has a node.
fn pod(call: &Call) -> Result<Value, ApiError> {
    let pod = storage::parse(&*call.current()?)?;
    if pod["spec"]["nodeName"].as_str().is_none_or(str::is_empty) {
        return Err(ApiError::bad_request(format!("pod {} does not have a host assigned", call.info.name)));
    }
    Ok(pod)
}

async fn logs(call: &Call) -> Result<Reply, ApiError> {
    let query = log_query(&call.query)?;
    let pod = storage::parse(&*call.current()?)?;
    let container = container(&pod, call.query.first("container").unwrap_or_default(), true)?;
    if pod["spec"]["nodeName"].as_str().is_none_or(str::is_empty) {
        // Nothing has run yet: upstream answers with an empty log.
        return Ok(response::bytes(StatusCode::OK, "text/plain", Vec::new()));
    }
    let target = Target::kubelet_of(call, &pod)?;
    let path = format!("/containerLogs/{}/{}/{container}", call.info.namespace, call.info.name);
    let reply = exchange::get(call, &target, &path, &query).await?;
    Ok(reply)
}

/// Opens a stream into a pod through its kubelet.
async fn stream(
    call: &Call,
    request: Request<RequestBody>,
    pod: &Value,
    path: &str,
    query: &str,
) -> Result<Reply, ApiError> {
    if upgrade_of(request.headers()).is_none() {
        return Err(ApiError::bad_request("Upgrade request required"));
    }
    let target = Target::kubelet_of(call, pod)?;
    if let Some(translation) = websocket::Translation::of(request.headers()) {
        return websocket::serve(call, request, &target, path, query, translation).await;
    }
    exchange::upgrade(call, request, &target, Method::POST, path, query).await
}

async fn proxy(call: &Call, request: Request<RequestBody>) -> Result<Reply, ApiError> {
    let target = Target::of_proxy(call)?;
    let path = if call.info.rest.is_empty() { "/" } else { call.info.rest.as_str() };
    let query = request.uri().query().unwrap_or_default().to_owned();
    let method = request.method().clone();
    if upgrade_of(request.headers()).is_some() {
        return exchange::upgrade(call, request, &target, method, path, &query).await;
    }
    if call.info.rest.is_empty() && matches!(method, Method::GET | Method::HEAD) {
        return slash_added(&request);
    }
    exchange::forward(call, request, &target, path, &query).await
}

/// A page at a path without a slash would have its relative links one directory too high: the browser is to ask for the other.
fn slash_added(request: &Request<RequestBody>) -> Result<Reply, ApiError> {
    let uri = request.uri();
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let location = HeaderValue::from_str(&format!("{}/{query}", uri.path()))
        .map_err(|error| ApiError::bad_request(error.to_string()))?;
    let mut reply = response::bytes(StatusCode::MOVED_PERMANENTLY, "text/plain; charset=utf-8", Vec::new());
    reply.headers_mut().insert(LOCATION, location);
    Ok(reply)
}

/// The protocol a request wants to turn into, if it is one we know and says so in both headers.
fn upgrade_of(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let asks = text(CONNECTION).split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    let protocol = text(UPGRADE).trim().to_ascii_lowercase();
    (asks && PROTOCOLS.contains(&protocol.as_str())).then_some(protocol)
}

/// The container meant, or upstream's answer to a choice that was not made.
fn container(pod: &Value, asked: &str, logs: bool) -> Result<String, ApiError> {
    let names = |list: &str| -> Vec<String> {
        let items = pod["spec"][list].as_array().into_iter().flatten();
        items.filter_map(|item| item["name"].as_str()).map(str::to_owned).collect()
    };
    let (main, init, ephemeral) =
        (names("containers"), names("initContainers"), names("ephemeralContainers"));
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    if !asked.is_empty() {
        let known = main.iter().chain(&init).chain(&ephemeral).any(|name| name == asked);
        return if known {
            Ok(asked.to_owned())
        } else {
            Err(ApiError::bad_request(format!("container {asked} is not valid for pod {pod_name}")))
        };
    }
    match main.as_slice() {
        [one] if !logs || init.is_empty() || !one.is_empty() => Ok(one.clone()),
        _ => {
            let mut text = format!(
                "a container name must be specified for pod {pod_name}, choose one of: [{}]",
                main.join(" ")
            );
            if !init.is_empty() {
                text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            if !ephemeral.is_empty() {
                text.push_str(&format!(" or one of the ephemeral containers: [{}]", ephemeral.join(" ")));
            }
            Err(ApiError::bad_request(text))
        }
    }
}

/// The query of a kubelet's exec and attach, from the API's names to the kubelet's.
fn stream_query(query: &Query) -> Result<String, ApiError> {
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    let mut streams = 0;
    for (ours, theirs) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if query.truthy(ours) {
            pairs.push((theirs, "1"));
            streams += usize::from(ours != "tty");
        }
    }
    if streams == 0 {
        return Err(ApiError::bad_request("you must specify at least one of stdin, stdout, stderr"));
    }
    pairs.extend(query.all("command").map(|word| ("command", word)));
    Ok(encode_query(&pairs))
}

/// Checks `PodLogOptions` and writes them as the kubelet reads them.
fn log_query(query: &Query) -> Result<String, ApiError> {
    let mut errors = Errors::new();
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    for (name, least, why) in [
        ("tailLines", 0, "must be greater than or equal to 0"),
        ("limitBytes", 1, "must be greater than 0"),
        ("sinceSeconds", 1, "must be greater than 0"),
    ] {
        let Some(text) = query.first(name) else { continue };
        let number: i64 = text.parse().map_err(|_| {
            ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
        })?;
        if number < least {
            errors.invalid(&Path::new(name), number, why);
        }
        pairs.push((name, text));
    }
    if query.has("sinceSeconds") && query.has("sinceTime") {
        errors.forbidden(&Path::new(""), "at most one of `sinceTime` or `sinceSeconds` may be specified");
    }
    if let Some(text) = query.first("sinceTime") {
        if text.parse::<jiff::Timestamp>().is_err() {
            return Err(ApiError::bad_request(format!("parsing time {text:?} as RFC 3339 failed")));
        }
        pairs.push(("sinceTime", text));
    }
    for name in ["follow", "previous", "timestamps"] {
        if query.truthy(name) {
            pairs.push((name, "true"));
        }
    }
    if let Some(stream) = query.first("stream") {
        if !matches!(stream, "All" | "Stdout" | "Stderr") {
            errors.not_supported(&Path::new("stream"), stream, &["All", "Stdout", "Stderr"]);
        }
        pairs.push(("stream", stream));
    }
    if errors.is_empty() {
        Ok(encode_query(&pairs))
    } else {
        Err(ApiError::invalid("", "PodLogOptions", "", &errors))
    }
}

/// Encodes a query string.
fn encode_query(pairs: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        if !out.is_empty() {
            out.push('&');
        }
        out.push_str(name);
        out.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                out.push(char::from(byte));
            } else {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    out
}

/// Whether an address may never be reached through the API server: it would be this machine's own services.
fn is_forbidden(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_multicast()
                || v4.is_broadcast()
        }
        IpAddr::V6(v6) => {
            v6.to_ipv4_mapped().is_some_and(|v4| is_forbidden(IpAddr::V4(v4)))
                || v6.is_loopback()
                || v6.is_unicast_link_local()
                || v6.is_unspecified()
                || v6.is_multicast()
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_is_chosen_or_asked_for() {
        let one = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}});
        assert_eq!(container(&one, "", false).unwrap(), "a");
        assert_eq!(container(&one, "b", false).unwrap_err().message, "container b is not valid for pod p");
        let two = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(
            container(&two, "", false).unwrap_err().message,
            "a container name must be specified for pod p, choose one of: [a b]"
        );
    }

    #[test]
    fn kubelet_queries() {
        let query = Query::parse("stdin=true&stdout=1&tty=false&command=sh&command=-c&command=a%20b%26c");
        assert_eq!(stream_query(&query).unwrap(), "input=1&output=1&command=sh&command=-c&command=a%20b%26c");
        assert!(stream_query(&Query::parse("tty=1")).is_err());
        assert_eq!(log_query(&Query::parse("tailLines=5&follow=true")).unwrap(), "tailLines=5&follow=true");
        assert_eq!(log_query(&Query::parse("tailLines=-5")).unwrap_err().code, 422);
    }

    #[test]
    fn upgrade_smuggling_only_known_protocols_upgrade() {
        let headers = |connection: &'static str, upgrade: &'static str| {
            let mut map = HeaderMap::new();
            map.insert(CONNECTION, HeaderValue::from_static(connection));
            map.insert(UPGRADE, HeaderValue::from_static(upgrade));
            map
        };
        assert!(upgrade_of(&headers("Upgrade", "SPDY/3.1")).is_some());
        assert!(upgrade_of(&headers("keep-alive, Upgrade", "websocket")).is_some());
        assert!(upgrade_of(&headers("Upgrade", "h2c")).is_none());
        assert!(upgrade_of(&headers("close", "websocket")).is_none());
    }

    #[test]
    fn ssrf_own_addresses_are_never_targets() {
        for address in
            ["127.0.0.1", "169.254.169.254", "0.0.0.0", "::1", "fe80::1", "::ffff:127.0.0.1", "224.0.0.1"]
        {
            assert!(is_forbidden(address.parse().unwrap()), "{address}");
        }
        assert!(!is_forbidden("10.244.0.7".parse().unwrap()));
    }
}
