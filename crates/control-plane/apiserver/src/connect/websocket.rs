//! Streams whose client speaks WebSocket while kubelets speak SPDY: translated here, as upstream's server does since
//! v1.30 (KEP-4006). Older WebSocket protocols are passed on, kubelets and runtimes know them.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use podium_api::status::ApiError;
use podium_streaming::exec::{self, Streams};
use podium_streaming::{tunnel, websocket};

use super::exchange;
use super::target::Target;
use super::upgrade_of;
use crate::body::{Body, BoxError, RequestBody};
use crate::registry::Call;
use crate::response::Reply;

/// What a WebSocket request is translated to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Translation {
    /// Channels to SPDY streams: exec and attach.
    Channels,
    /// SPDY carried in messages: port-forward.
    Tunnel,
}

impl Translation {
    /// The translation that a request asks for, if it is a WebSocket handshake that offers one.
    pub(super) fn of(headers: &HeaderMap) -> Option<Translation> {
        if upgrade_of(headers)? != "websocket" {
            return None;
        }
        headers
            .get_all(SEC_WEBSOCKET_PROTOCOL)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .find_map(|offered| match offered.trim() {
                exec::PROTOCOL => Some(Translation::Channels),
                tunnel::PROTOCOL => Some(Translation::Tunnel),
                _ => None,
            })
    }

    fn subprotocol(self) -> &'static str {
        match self {
            Translation::Channels => exec::PROTOCOL,
            Translation::Tunnel => tunnel::PROTOCOL,
        }
    }

    fn spdy_protocol(self) -> &'static str {
        match self {
            Translation::Channels => exec::SPDY_PROTOCOL,
            Translation::Tunnel => tunnel::SPDY_PROTOCOL,
        }
    }
}

/// Opens the stream at the kubelet, accepts the handshake, and translates until either side ends.
pub(super) async fn serve(
    call: &Call,
    mut request: Request<RequestBody>,
    target: &Target,
    path: &str,
    query: &str,
    translation: Translation,
) -> Result<Reply, ApiError> {
    let reply = accept(&request, translation.subprotocol())?;
    let kubelet = exchange::open_spdy(call, target, path, query, translation.spdy_protocol()).await?;
    let client = hyper::upgrade::on(&mut request);
    let streams = Streams {
        stdin: call.query.truthy("stdin"),
        stdout: call.query.truthy("stdout"),
        stderr: call.query.truthy("stderr"),
        tty: call.query.truthy("tty"),
    };
    let shutdown = call.core.shutdown.clone();
    call.core.tracker.spawn(async move {
        let carry = async {
            let client = TokioIo::new(client.await.map_err(std::io::Error::other)?);
            let kubelet = TokioIo::new(kubelet.await.map_err(std::io::Error::other)?);
            match translation {
                Translation::Channels => exec::translate(client, kubelet, streams).await,
                Translation::Tunnel => tunnel::tunnel(client, kubelet).await,
            }
        };
        tokio::select! {
            done = carry => if let Err(error) = done {
                tracing::debug!(%error, "a stream ended early");
            },
            () = shutdown.cancelled() => {}
        }
    });
    Ok(reply)
}

/// How a reply is put in messages. Source: upstream's `wsstream.NewDefaultReaderProtocols`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Binary(&'static str),
    Base64,
}

impl Framing {
    /// The first that the client offers; a client that offers none gets bytes.
    fn of(headers: &HeaderMap) -> Option<Framing> {
        let mut offered = headers
            .get_all(SEC_WEBSOCKET_PROTOCOL)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .peekable();
        if offered.peek().is_none() {
            return Some(Framing::Binary(""));
        }
        offered.find_map(|one| match one {
            "" => Some(Framing::Binary("")),
            "binary.k8s.io" => Some(Framing::Binary("binary.k8s.io")),
            "base64.binary.k8s.io" => Some(Framing::Base64),
            _ => None,
        })
    }

    fn subprotocol(self) -> &'static str {
        match self {
            Framing::Binary(name) => name,
            Framing::Base64 => "base64.binary.k8s.io",
        }
    }
}

/// Sends a reply's body in messages, to its end or the client's: logs.
pub(super) fn send(call: &Call, mut request: Request<RequestBody>, reply: Reply) -> Result<Reply, ApiError> {
    let framing = Framing::of(request.headers())
        .ok_or_else(|| ApiError::bad_request("none of the offered WebSocket protocols is supported"))?;
    let switched = accept(&request, framing.subprotocol())?;
    let client = hyper::upgrade::on(&mut request);
    let mut body = reply.into_body();
    let shutdown = call.core.shutdown.clone();
    call.core.tracker.spawn(async move {
        let carry = async {
            let (input, output) = tokio::io::split(TokioIo::new(client.await?));
            let mut writer = websocket::Writer::new(output);
            let mut reader = websocket::Reader::new(input);
            let write = async {
                while let Some(frame) = body.frame().await {
                    let Ok(data) = frame?.into_data() else { continue };
                    match framing {
                        Framing::Binary(_) => writer.binary(&[&data]).await?,
                        Framing::Base64 => writer.text(&BASE64_STANDARD.encode(&data)).await?,
                    }
                }
                writer.close(1000, "").await?;
                Ok::<_, BoxError>(())
            };
            // What a reader of logs says is of no interest but for its end.
            let gone = async {
                loop {
                    if matches!(reader.next().await, Err(_) | Ok(None | Some(websocket::Message::Close))) {
                        return;
                    }
                }
            };
            tokio::select! {
                done = write => done,
                () = gone => Ok(()),
            }
        };
        tokio::select! {
            done = carry => if let Err(error) = done {
                tracing::debug!(%error, "a stream ended early");
            },
            () = shutdown.cancelled() => {}
        }
    });
    Ok(switched)
}

/// Checks a handshake and makes the answer that accepts it.
fn accept(request: &Request<RequestBody>, subprotocol: &'static str) -> Result<Reply, ApiError> {
    let headers = request.headers();
    let key = headers
        .get(SEC_WEBSOCKET_KEY)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| ApiError::bad_request("Sec-WebSocket-Key is missing"))?;
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(ApiError::bad_request("Sec-WebSocket-Version must be 13"));
    }
    let accept = HeaderValue::from_str(&websocket::accept_key(key))
        .map_err(|error| ApiError::internal(error.to_string()))?;
    if request.extensions().get::<hyper::upgrade::OnUpgrade>().is_none() {
        return Err(ApiError::bad_request("this connection cannot be upgraded: HTTP/1.1 is needed"));
    }
    let mut reply = Response::new(Body::empty());
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = reply.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if !subprotocol.is_empty() {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    }
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_offered_translations_of_a_websocket_are_chosen() {
        let headers = |upgrade: &'static str, offered: &[&'static str]| {
            let mut headers = HeaderMap::new();
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static(upgrade));
            for protocol in offered {
                headers.append(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
            }
            headers
        };
        assert_eq!(
            Translation::of(&headers("websocket", &["v5.channel.k8s.io"])),
            Some(Translation::Channels)
        );
        assert_eq!(
            Translation::of(&headers("websocket", &["x, SPDY/3.1+portforward.k8s.io"])),
            Some(Translation::Tunnel)
        );
        assert_eq!(Translation::of(&headers("websocket", &["v4.channel.k8s.io"])), None);
        assert_eq!(Framing::of(&headers("websocket", &[])), Some(Framing::Binary("")));
        assert_eq!(
            Framing::of(&headers("websocket", &["x", "binary.k8s.io"])),
            Some(Framing::Binary("binary.k8s.io"))
        );
        assert_eq!(Framing::of(&headers("websocket", &["base64.binary.k8s.io"])), Some(Framing::Base64));
        assert_eq!(Framing::of(&headers("websocket", &["v4.channel.k8s.io"])), None);
        assert_eq!(Translation::of(&headers("SPDY/3.1", &["v5.channel.k8s.io"])), None);
    }
}
