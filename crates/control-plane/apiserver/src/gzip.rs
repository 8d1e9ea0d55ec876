//! Compresses large answers for clients that accept it, piece by piece while they are sent.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, VARY};
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::BodyExt;

use crate::body::{Body, BoxError};

/// Smaller answers are not worth the work. Source: upstream's `defaultGzipThresholdBytes`.
const THRESHOLD: u64 = 128 * 1024;

/// Whether the client takes gzip.
pub(crate) fn accepted(headers: &HeaderMap) -> bool {
    headers
        .get_all(ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|clause| {
            let mut pieces = clause.split(';').map(str::trim);
            pieces.next() == Some("gzip") && !pieces.any(|p| matches!(p, "q=0" | "q=0.0" | "q=0.00"))
        })
}

/// Compresses the answer if it is long enough and not encoded yet. Streams of unknown length (watches, logs) are left.
pub(crate) fn compress(response: Response<Body>) -> Response<Body> {
    let long = response.body().length().is_some_and(|length| length > THRESHOLD);
    if !long || response.headers().contains_key(CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    // Level 1, as upstream: the next levels cost far more time than they save bytes on JSON.
    let encoder = GzEncoder::new(Vec::new(), Compression::new(1));
    let pieces = stream::try_unfold(Some((body, encoder)), |state| async move {
        let Some((mut body, mut encoder)) = state else { return Ok::<_, BoxError>(None) };
        loop {
            match body.frame().await {
                Some(Err(error)) => return Err(error),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        encoder.write_all(&data)?;
                    }
                    if encoder.get_ref().len() >= 32 * 1024 {
                        let out = Bytes::from(std::mem::take(encoder.get_mut()));
                        return Ok(Some((out, Some((body, encoder)))));
                    }
                }
                None => {
                    let out = encoder.finish()?;
                    return Ok(Some((Bytes::from(out), None)));
                }
            }
        }
    });
    Response::from_parts(parts, Body::stream(pieces))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[tokio::test]
    async fn long_answers_are_compressed_and_short_ones_are_not() {
        let text = "pods and nodes ".repeat(20_000);
        let response = compress(Response::new(Body::full(text.clone())));
        assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert!(bytes.len() < text.len() / 10);
        let mut out = String::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut out).unwrap();
        assert_eq!(out, text);
        let short = compress(Response::new(Body::full("short")));
        assert!(!short.headers().contains_key(CONTENT_ENCODING));
    }

    #[test]
    fn acceptance() {
        let headers = |text: &'static str| {
            let mut map = HeaderMap::new();
            map.insert(ACCEPT_ENCODING, HeaderValue::from_static(text));
            map
        };
        assert!(accepted(&headers("deflate, gzip;q=0.5")));
        assert!(!accepted(&headers("gzip;q=0")));
        assert!(!accepted(&headers("br")));
    }
}
