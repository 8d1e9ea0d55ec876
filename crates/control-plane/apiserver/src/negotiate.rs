//! Content negotiation: which encoding a body is in, and which encoding and shape a client wants back.

use podium_api::codec::Encoding;
use podium_api::status::ApiError;

/// The shape objects are returned in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// As they are.
    Native,
    /// `meta.k8s.io` Table.
    Table(MetaVersion),
    /// `PartialObjectMetadata` or its list.
    Metadata(MetaVersion),
}

/// A version of `meta.k8s.io`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetaVersion {
    /// `v1`
    V1,
    /// `v1beta1`
    V1Beta1,
}

impl MetaVersion {
    /// The `apiVersion` of objects in it.
    pub(crate) fn api_version(self) -> &'static str {
        match self {
            MetaVersion::V1 => "meta.k8s.io/v1",
            MetaVersion::V1Beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

/// What the client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    /// The bytes.
    pub(crate) encoding: Encoding,
    /// The shape.
    pub(crate) shape: Shape,
    /// Indented JSON, asked for by `pretty=true` or a browser-like client.
    pub(crate) pretty: bool,
}

impl Output {
    /// JSON as it is.
    pub(crate) const JSON: Output = Output { encoding: Encoding::Json, shape: Shape::Native, pretty: false };
}

/// The media types of an answer, in upstream's order.
const OFFERED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// `Content-Type` of an answer.
pub(crate) fn content_type(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Json => "application/json",
        Encoding::Yaml => "application/yaml",
        Encoding::Protobuf => "application/vnd.kubernetes.protobuf",
    }
}

/// Chooses the best acceptable answer for an `Accept` header.
///
/// Errors: 406 with the list of media types when nothing asked for can be served.
pub(crate) fn output(accept: Option<&str>) -> Result<Output, ApiError> {
    let Some(accept) = accept.map(str::trim).filter(|text| !text.is_empty()) else {
        return Ok(Output::JSON);
    };
    let mut clauses: Vec<Clause<'_>> = accept.split(',').filter_map(Clause::parse).collect();
    // Stable: equal weights keep the client's order.
    clauses.sort_by_key(|clause| std::cmp::Reverse(clause.weight));
    let mut table_in_protobuf = false;
    for clause in &clauses {
        let encoding = match clause.media {
            "application/json" | "*/*" | "application/*" => Encoding::Json,
            "application/yaml" => Encoding::Yaml,
            "application/vnd.kubernetes.protobuf" => Encoding::Protobuf,
            _ => continue,
        };
        let Some(shape) = clause.shape() else { continue };
        if matches!(shape, Shape::Table(_)) && encoding == Encoding::Protobuf {
            table_in_protobuf = true;
            continue;
        }
        return Ok(Output { encoding, shape, pretty: false });
    }
    if !table_in_protobuf {
        return Err(not_acceptable());
    }
    let message = "only the following media types are accepted when converting to Table: application/json, application/yaml";
    Err(ApiError::new(406, "NotAcceptable", message))
}

/// The refusal of an encoding or a shape that the resource has not.
pub(crate) fn not_acceptable() -> ApiError {
    let message = format!("only the following media types are accepted: {OFFERED}");
    ApiError::new(406, "NotAcceptable", message)
}

/// The encoding of a request body. An absent header means JSON.
///
/// Errors: 415 with the list of media types.
pub(crate) fn input(content_type: Option<&str>) -> Result<Encoding, ApiError> {
    let media = content_type.map(media_type).unwrap_or_default();
    match media.as_str() {
        "" | "application/json" => Ok(Encoding::Json),
        "application/yaml" => Ok(Encoding::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Encoding::Protobuf),
        _ => Err(unsupported_media_type(OFFERED)),
    }
}

/// 415 naming what is accepted.
pub(crate) fn unsupported_media_type(accepted: &str) -> ApiError {
    ApiError::new(
        415,
        "UnsupportedMediaType",
        format!(
            "the body of the request was in an unknown format - accepted media types include: {accepted}"
        ),
    )
}

/// A header's media type in lower case, without parameters.
pub(crate) fn media_type(header: &str) -> String {
    header.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

struct Clause<'a> {
    media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    /// `q` in thousandths.
    weight: u32,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Option<Clause<'a>> {
        let mut pieces = text.split(';').map(str::trim);
        let media = pieces.next().filter(|media| !media.is_empty())?;
        let mut weight = 1000;
        let mut parameters = Vec::new();
        for piece in pieces {
            let (key, value) = piece.split_once('=').unwrap_or((piece, ""));
            if key == "q" {
                let q: f64 = value.parse().unwrap_or(1.0);
                // Weights are 0..=1 by RFC 9110; clamped before the conversion.
                weight = (q.clamp(0.0, 1.0) * 1000.0) as u32;
            } else {
                parameters.push((key, value));
            }
        }
        (weight > 0).then_some(Clause { media, parameters, weight })
    }

    fn get(&self, key: &str) -> &'a str {
        self.parameters.iter().find(|(k, _)| *k == key).map(|(_, v)| *v).unwrap_or_default()
    }

    /// The shape asked for; `None` if it is one we do not have.
    fn shape(&self) -> Option<Shape> {
        let kind = self.get("as");
        if kind.is_empty() {
            return Some(Shape::Native);
        }
        if self.get("g") != "meta.k8s.io" {
            return None;
        }
        let version = match self.get("v") {
            "v1" => MetaVersion::V1,
            "v1beta1" => MetaVersion::V1Beta1,
            _ => return None,
        };
        match kind {
            "Table" => Some(Shape::Table(version)),
            "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(Shape::Metadata(version)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accept: &str, encoding: Encoding, shape: Shape) {
        let found = output(Some(accept)).unwrap();
        assert_eq!((found.encoding, found.shape), (encoding, shape), "{accept}");
    }

    #[test]
    fn accept_headers() {
        check("", Encoding::Json, Shape::Native);
        check("*/*", Encoding::Json, Shape::Native);
        check("application/json", Encoding::Json, Shape::Native);
        check("application/vnd.kubernetes.protobuf, application/json", Encoding::Protobuf, Shape::Native);
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
            Encoding::Json,
            Shape::Table(MetaVersion::V1),
        );
        check("application/json;as=Table;v=v2;g=meta.k8s.io,application/json", Encoding::Json, Shape::Native);
        check(
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
            Encoding::Protobuf,
            Shape::Metadata(MetaVersion::V1),
        );
        check("application/yaml;q=0.4, application/json;q=0.5", Encoding::Json, Shape::Native);
    }

    #[test]
    fn nothing_acceptable() {
        let error = output(Some("text/csv")).unwrap_err();
        assert_eq!((error.code, error.reason), (406, "NotAcceptable"));
        let error =
            output(Some("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io")).unwrap_err();
        assert!(error.message.contains("when converting to Table"), "{}", error.message);
    }

    #[test]
    fn bodies() {
        assert_eq!(input(None).unwrap(), Encoding::Json);
        assert_eq!(input(Some("application/json; charset=utf-8")).unwrap(), Encoding::Json);
        assert_eq!(input(Some("text/xml")).unwrap_err().code, 415);
    }
}
