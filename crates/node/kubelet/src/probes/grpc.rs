//! The gRPC probe: `grpc.health.v1.Health/Check` over plain HTTP/2, without a gRPC client because it is one message each way.

use std::{net::IpAddr, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::GRPCAction;
use prost::Message as _;
use tokio::net::TcpStream;

use super::Answer;

/// `SERVING` in `HealthCheckResponse.ServingStatus`.
const SERVING: i32 = 1;

/// Asks once.
pub(crate) async fn check(address: IpAddr, action: &GRPCAction, limit: Duration) -> Answer {
    let Ok(port) = u16::try_from(action.port) else { return Answer::Error("invalid port".to_owned()) };
    let service = action.service.clone().unwrap_or_default();
    let shown = std::net::SocketAddr::new(address, port);
    match tokio::time::timeout(limit, ask(address, port, &service)).await {
        Err(_) => Answer::Failure(format!(
            "timeout: failed to connect service {shown:?} within {}: context deadline exceeded",
            crate::backoff::go_duration(limit)
        )),
        Ok(Err(text)) => Answer::Failure(format!("error: health rpc probe failed: {text}")),
        Ok(Ok(SERVING)) => Answer::Success,
        Ok(Ok(status)) => {
            let status = match status {
                0 => "UNKNOWN",
                2 => "NOT_SERVING",
                _ => "SERVICE_UNKNOWN",
            };
            Answer::Failure(format!("service unhealthy (responded with {status:?})"))
        }
    }
}

async fn ask(address: IpAddr, port: u16, service: &str) -> Result<i32, String> {
    let stream = TcpStream::connect((address, port)).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
    let authority = std::net::SocketAddr::new(address, port);
    let request = Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36")
        .body(Full::new(message(service)))
        .map_err(|error| error.to_string())?;
    let talk = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let early = response.headers().get("grpc-status").cloned();
        let collected = response.into_body().collect().await.map_err(|error| error.to_string())?;
        let code = collected.trailers().and_then(|trailers| trailers.get("grpc-status").cloned()).or(early);
        match code.as_ref().and_then(|code| code.to_str().ok()) {
            Some("0") | None => status(&collected.to_bytes()),
            Some(code) => Err(format!("rpc error: code = {code}")),
        }
    };
    tokio::pin!(talk);
    tokio::select! {
        biased;
        answer = &mut talk => answer,
        ended = connection => {
            ended.map_err(|error| error.to_string())?;
            talk.await
        }
    }
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// The request in gRPC's frame: no compression, length, message.
fn message(service: &str) -> Bytes {
    let request = HealthCheckRequest { service: service.to_owned() };
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(request.encoded_len()).unwrap_or(u32::MAX));
    framed.extend_from_slice(&request.encode_to_vec());
    framed.freeze()
}

/// The status in a framed answer.
fn status(framed: &[u8]) -> Result<i32, String> {
    let message = framed.get(5..).ok_or("the answer has no message")?;
    HealthCheckResponse::decode(message).map(|answer| answer.status).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames() {
        assert_eq!(message("").as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(message("ab").as_ref(), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1]), Ok(SERVING));
        assert_eq!(status(&[0, 0, 0, 0, 0]), Ok(0));
        // A field of a later version before the one that is wanted.
        assert_eq!(status(&[0, 0, 0, 0, 4, 0x10, 5, 8, 2]), Ok(2));
        assert!(status(&[0, 0, 0]).is_err() && status(&[0, 0, 0, 0, 1, 8]).is_err());
    }
}
