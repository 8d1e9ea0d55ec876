//! The aggregated discovery document, whose types are not in the schema table: no object of them is ever read.
//!
//! Source: `k8s.io/api/apidiscovery/v2/generated.proto`.

use serde_json::Value;

use super::wire::Writer;
use super::write::write_message;
use crate::schema;
use crate::status::ApiError;

/// The kind.
pub(super) const KIND: (&str, &str) = ("apidiscovery.k8s.io/v2", "APIGroupDiscoveryList");

/// Writes an `APIGroupDiscoveryList`.
pub(super) fn list(writer: &mut Writer, document: &Value) -> Result<(), ApiError> {
    metadata(writer, "meta.v1.ListMeta", &document["metadata"])?;
    for item in items(document, "items") {
        let start = writer.begin(2);
        group(writer, item)?;
        writer.end(start);
    }
    Ok(())
}

fn group(writer: &mut Writer, group: &Value) -> Result<(), ApiError> {
    metadata(writer, "meta.v1.ObjectMeta", &group["metadata"])?;
    for version in items(group, "versions") {
        let start = writer.begin(2);
        text(writer, 1, version, "version");
        for item in items(version, "resources") {
            let start = writer.begin(2);
            resource(writer, item);
            writer.end(start);
        }
        text(writer, 3, version, "freshness");
        writer.end(start);
    }
    Ok(())
}

fn resource(writer: &mut Writer, item: &Value) {
    text(writer, 1, item, "resource");
    kind(writer, 2, &item["responseKind"]);
    text(writer, 3, item, "scope");
    text(writer, 4, item, "singularResource");
    texts(writer, 5, item, "verbs");
    texts(writer, 6, item, "shortNames");
    texts(writer, 7, item, "categories");
    for subresource in items(item, "subresources") {
        let start = writer.begin(8);
        text(writer, 1, subresource, "subresource");
        kind(writer, 2, &subresource["responseKind"]);
        for accepted in items(subresource, "acceptedTypes") {
            kind(writer, 3, accepted);
        }
        texts(writer, 4, subresource, "verbs");
        writer.end(start);
    }
}

fn kind(writer: &mut Writer, tag: u32, kind: &Value) {
    let start = writer.begin(tag);
    for (tag, name) in [(1, "group"), (2, "version"), (3, "kind")] {
        text(writer, tag, kind, name);
    }
    writer.end(start);
}

fn metadata(writer: &mut Writer, ty: &str, value: &Value) -> Result<(), ApiError> {
    let Some(ty) = schema::by_name(ty) else { return Ok(()) };
    let start = writer.begin(1);
    write_message(writer, ty, value)?;
    writer.end(start);
    Ok(())
}

/// A text, which is written when it is empty too, as upstream's are.
fn text(writer: &mut Writer, tag: u32, object: &Value, name: &str) {
    writer.text(tag, object[name].as_str().unwrap_or_default());
}

fn texts(writer: &mut Writer, tag: u32, object: &Value, name: &str) {
    for value in items(object, name) {
        writer.text(tag, value.as_str().unwrap_or_default());
    }
}

fn items<'v>(object: &'v Value, name: &str) -> &'v [Value] {
    object[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::protobuf::open;

    #[test]
    fn a_group_is_written_as_upstream_writes_it() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../../shared/data/api-testdata");
        let file =
            |ending| std::fs::read(format!("{directory}/apidiscovery.k8s.io.v2.APIGroupDiscovery.{ending}"));
        let (Ok(json), Ok(bytes)) = (file("json"), file("pb")) else {
            eprintln!("skipped: the published objects are not there");
            return;
        };
        let document: Value = serde_json::from_slice(&json).expect("JSON");
        let mut writer = Writer::with_capacity(1024);
        group(&mut writer, &document).expect("it can be written");
        assert_eq!(writer.into_bytes(), open(&bytes).expect("an envelope").raw);
    }

    #[test]
    fn the_list_is_enveloped() {
        let document =
            crate::discovery::aggregated(&crate::resources::Selection::default(), "/apis").expect("groups");
        let bytes = crate::codec::encode(&document, crate::codec::Encoding::Protobuf);
        let envelope = open(&bytes).expect("an envelope");
        assert_eq!((envelope.api_version, envelope.kind, envelope.content_type), (KIND.0, KIND.1, ""));
        let mut reader = super::super::wire::Reader::new(envelope.raw);
        let mut groups = 0;
        while let Some((tag, wire)) = reader.key().expect("a key") {
            reader.skip(wire).expect("a field");
            groups += usize::from(tag == 2);
        }
        assert_eq!(groups, document["items"].as_array().map_or(0, Vec::len));
    }
}
