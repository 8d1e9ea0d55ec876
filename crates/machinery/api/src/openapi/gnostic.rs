//! OpenAPI v2 in the protobuf form of gnostic (`openapi.v2.Document`), which older clients ask for.

/// The document as bytes.
pub(super) fn encode() -> Vec<u8> {
    Vec::new()
}
