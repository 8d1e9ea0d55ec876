//! Content negotiation: which encoding a body is in, and which encoding and shape a client wants back.

use podium_api::accept::{self, Clause};
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
    Metadata(MetaVersion, Arity),
}

/// Whether metadata were asked for as those of one object or as a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arity {
    /// `PartialObjectMetadata`
    One,
    /// `PartialObjectMetadataList`
    List,
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

/// The media types of watches, in upstream's order: YAML has no frames.
const OFFERED_STREAMS: &str =
    "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";

/// Chooses the best acceptable answer to a request for a resource; no header is an empty one.
///
/// Source: upstream's `apiserver/pkg/endpoints/handlers/negotiation`, `RequestScope.AllowsMediaTypeTransform`.
///
/// Errors: 406 with the list of media types when nothing asked for can be served.
pub(crate) fn output(accept: &str) -> Result<Output, ApiError> {
    match common(accept) {
        Some(output) => Ok(output),
        None => choose(accept, |clause, encoding| {
            let known_version = matches!(clause.get("sv"), "" | "v1");
            let shape = known_version.then(|| shape(clause)).flatten()?;
            (!matches!(shape, Shape::Table(_)) || encoding != Encoding::Protobuf).then_some(shape)
        })
        .ok_or_else(not_acceptable),
    }
}

/// The same for what is never converted: refusals, discovery. `None` where nothing asked for can be served.
pub(crate) fn plain(accept: &str) -> Option<Output> {
    common(accept).or_else(|| {
        let plain = |clause: &Clause<'_>| !clause.converts() && clause.get("sv").is_empty();
        choose(accept, |clause, _| plain(clause).then_some(Shape::Native))
    })
}

/// What most clients ask for, without taking it apart.
fn common(accept: &str) -> Option<Output> {
    match accept {
        "" | "application/json" | "*/*" => Some(Output::JSON),
        "application/vnd.kubernetes.protobuf"
        | "application/vnd.kubernetes.protobuf,application/json"
        | "application/vnd.kubernetes.protobuf, application/json" => {
            Some(Output { encoding: Encoding::Protobuf, ..Output::JSON })
        }
        _ => None,
    }
}

/// The first media type that the best clauses take and `shape` allows.
fn choose(accept: &str, shape: impl Fn(&Clause<'_>, Encoding) -> Option<Shape>) -> Option<Output> {
    accept::clauses(accept).iter().find_map(|clause| {
        [Encoding::Json, Encoding::Yaml, Encoding::Protobuf].into_iter().find_map(|encoding| {
            let streams = match clause.get("stream") {
                "" => true,
                name => name == "watch" && encoding != Encoding::Yaml,
            };
            if !streams || !clause.takes(content_type(encoding)) {
                return None;
            }
            let shape = shape(clause, encoding)?;
            Some(Output { encoding, shape, pretty: clause.get("pretty") == "1" })
        })
    })
}

/// What upstream's router refuses before anything is negotiated: it knows the media types and `*/*`, but no
/// `application/*`, and no weights.
///
/// Errors: 406 with what the route produces.
pub(crate) fn routed(accept: &str, streams: bool) -> Result<(), ApiError> {
    let produced = [Encoding::Json, Encoding::Yaml, Encoding::Protobuf].map(content_type);
    if routes(accept, &produced) {
        return Ok(());
    }
    let more = if streams { format!(", {OFFERED_STREAMS}") } else { String::new() };
    Err(unroutable(&format!("{OFFERED}{more}")))
}

/// The same for a route that produces one media type only.
///
/// Errors: 406.
pub(crate) fn routed_one(accept: &str, produced: &str) -> Result<(), ApiError> {
    if routes(accept, &[produced]) { Ok(()) } else { Err(unroutable(produced)) }
}

fn routes(accept: &str, produced: &[&str]) -> bool {
    accept.is_empty()
        || accept.split(',').any(|clause| {
            let media = clause.split(';').next().unwrap_or_default().trim_matches(' ');
            media == "*/*" || produced.contains(&media)
        })
}

fn unroutable(produced: &str) -> ApiError {
    let message = format!("406: Not Acceptable\n\nAvailable representations: {produced}");
    let mut error = ApiError::new(406, "NotAcceptable", message);
    error.details = Some(serde_json::json!({}));
    error
}

/// The refusal of an encoding or a shape that the resource has not.
pub(crate) fn not_acceptable() -> ApiError {
    let message = format!("only the following media types are accepted: {OFFERED}");
    ApiError::new(406, "NotAcceptable", message)
}

/// The refusal of metadata of one object where there are many, or the other way about. `go_type` is upstream's type of what
/// there is.
pub(crate) fn not_of_this_arity(asked: Arity, go_type: &str) -> ApiError {
    let message = match asked {
        Arity::One => {
            format!(
                "you requested PartialObjectMetadata, but the requested object is a list (*{go_type}List)"
            )
        }
        Arity::List => {
            format!(
                "you requested PartialObjectMetadataList, but the requested object is not a list (*{go_type})"
            )
        }
    };
    ApiError::new(406, "NotAcceptable", message)
}

/// The refusal of a watch in an encoding without frames.
pub(crate) fn no_stream() -> ApiError {
    let message = format!("only the following media types are accepted: {OFFERED_STREAMS}");
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

/// The shape asked for; `None` if it is one we do not have.
fn shape(clause: &Clause<'_>) -> Option<Shape> {
    if !clause.converts() {
        return Some(Shape::Native);
    }
    let version = match (clause.get("g"), clause.get("v")) {
        ("meta.k8s.io", "v1") => MetaVersion::V1,
        ("meta.k8s.io", "v1beta1") => MetaVersion::V1Beta1,
        _ => return None,
    };
    match clause.get("as") {
        "Table" => Some(Shape::Table(version)),
        "PartialObjectMetadata" => Some(Shape::Metadata(version, Arity::One)),
        "PartialObjectMetadataList" => Some(Shape::Metadata(version, Arity::List)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accept: &str, encoding: Encoding, shape: Shape) {
        let found = output(accept).unwrap();
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
            Shape::Metadata(MetaVersion::V1, Arity::List),
        );
        check("application/yaml;q=0.4, application/json;q=0.5", Encoding::Json, Shape::Native);
    }

    #[test]
    fn nothing_acceptable() {
        for accept in [
            "text/csv",
            "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io",
            "application/json;as=Other;v=v1;g=meta.k8s.io",
            "application/json;v=v1",
            "application/json;sv=v2",
            "application/yaml;stream=watch",
            "application/json;stream=other",
        ] {
            let error = output(accept).unwrap_err();
            assert_eq!((error.code, error.reason), (406, "NotAcceptable"), "{accept}");
            assert!(
                error.message.starts_with("only the following media types are accepted: application/json, ")
            );
        }
        check("application/*;stream=watch", Encoding::Json, Shape::Native);
        check("text/csv, application/yaml", Encoding::Yaml, Shape::Native);
        assert!(output("application/json;pretty=1").unwrap().pretty);
    }

    #[test]
    fn refusals_are_never_tables() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        assert_eq!(plain(table), None);
        assert_eq!(plain(&format!("{table},application/json")), Some(Output::JSON));
        assert_eq!(plain("text/csv"), None);
        assert_eq!(plain("application/*"), Some(Output::JSON));
    }

    #[test]
    fn the_router_knows_whole_media_types() {
        for good in ["", "*/*", "text/csv, application/yaml;q=0.1", "application/json;as=Table"] {
            assert!(routed(good, false).is_ok(), "{good}");
        }
        for bad in ["application/*", "text/csv", "Application/JSON", " "] {
            let error = routed(bad, false).unwrap_err();
            assert_eq!((error.code, error.details), (406, Some(serde_json::json!({}))), "{bad}");
            assert_eq!(
                error.message,
                "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, application/vnd.kubernetes.protobuf"
            );
        }
        let error = routed("application/*", true).unwrap_err();
        assert!(
            error.message.ends_with("application/vnd.kubernetes.protobuf;stream=watch"),
            "{}",
            error.message
        );
        assert!(routed_one("application/yaml", "application/json").is_err());
    }

    #[test]
    fn bodies() {
        assert_eq!(input(None).unwrap(), Encoding::Json);
        assert_eq!(input(Some("application/json; charset=utf-8")).unwrap(), Encoding::Json);
        assert_eq!(input(Some("text/xml")).unwrap_err().code, 415);
    }
}
