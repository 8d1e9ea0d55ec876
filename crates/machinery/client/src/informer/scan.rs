//! Finds the parts of list bodies and watch lines without parsing the objects inside them.
//!
//! An informer keeps each object as its own JSON bytes and parses it when somebody asks. So all that
//! must be known on arrival is where an object begins and ends, and its name, uid and
//! resourceVersion. The scanner checks only that brackets and strings close; whether an object makes
//! sense is found out when it is parsed, which also means that one bad object spoils only itself.

use std::borrow::Cow;
use std::ops::Range;

use serde::Deserialize;

use crate::ObjectKey;

/// Why bytes could not be taken apart.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScanError {
    #[error("not a JSON object at byte {0}")]
    NotAnObject(usize),
    #[error("JSON ends or breaks at byte {0}")]
    Broken(usize),
    #[error("no {0} in it")]
    Missing(&'static str),
    #[error("unknown watch event type {0:?}")]
    UnknownEvent(String),
    #[error("metadata")]
    Metadata(#[source] serde_json::Error),
}

/// One page of a list.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ListPage {
    pub(super) resource_version: String,
    /// Empty on the last page.
    pub(super) continue_token: String,
    /// Where the items are in the body.
    pub(super) items: Vec<Range<usize>>,
}

/// The kinds of line a watch sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventKind {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

/// Name and version of an object, read from its bytes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Head {
    pub(super) key: ObjectKey,
    pub(super) uid: Box<str>,
    pub(super) resource_version: Box<str>,
}

/// An object's bytes, and what is known of them without parsing.
#[derive(Debug)]
pub(super) struct Scanned<'a> {
    pub(super) head: Head,
    bytes: &'a [u8],
    /// `metadata.managedFields` with its name and a comma, if it is there.
    managed_fields: Option<Range<usize>>,
}

impl Scanned<'_> {
    /// The object without `metadata.managedFields`: no part of a cluster reads them, and they can be half of it. Who
    /// writes the object back without them changes nothing about them.
    pub(super) fn without_managed_fields(&self) -> Cow<'_, [u8]> {
        match &self.managed_fields {
            None => self.bytes.into(),
            Some(cut) => [&self.bytes[..cut.start], &self.bytes[cut.end..]].concat().into(),
        }
    }
}

/// What is looked for in an object's metadata.
#[derive(Default)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    /// See [`Scanned`].
    managed_fields: Option<Range<usize>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMeta<'a> {
    #[serde(borrow, default)]
    resource_version: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "continue")]
    continue_token: Option<Cow<'a, str>>,
}

/// Takes a list body apart. `items: null` is an empty list.
pub(super) fn list_page(body: &[u8]) -> Result<ListPage, ScanError> {
    let mut page = ListPage::default();
    let mut seen_meta = false;
    let mut scanner = Scanner { bytes: body, at: 0 };
    scanner.members(|scanner, name| {
        match name {
            b"metadata" => {
                let range = scanner.value()?;
                let meta: ListMeta<'_> = serde_json::from_slice(&body[range]).map_err(ScanError::Metadata)?;
                page.resource_version = meta.resource_version.unwrap_or_default().into_owned();
                page.continue_token = meta.continue_token.unwrap_or_default().into_owned();
                seen_meta = true;
            }
            b"items" if scanner.peek() == Some(b'[') => page.items = scanner.elements()?,
            _ => {
                scanner.value()?;
            }
        }
        Ok(true)
    })?;
    if seen_meta { Ok(page) } else { Err(ScanError::Missing("list metadata")) }
}

/// Takes a watch line apart: what happened, and where the object is.
pub(super) fn watch_line(line: &[u8]) -> Result<(EventKind, Range<usize>), ScanError> {
    let (mut kind, mut object) = (None, None);
    let mut scanner = Scanner { bytes: line, at: 0 };
    scanner.members(|scanner, name| {
        let range = scanner.value()?;
        match name {
            b"type" => {
                kind = Some(match &line[range] {
                    b"\"ADDED\"" => EventKind::Added,
                    b"\"MODIFIED\"" => EventKind::Modified,
                    b"\"DELETED\"" => EventKind::Deleted,
                    b"\"BOOKMARK\"" => EventKind::Bookmark,
                    b"\"ERROR\"" => EventKind::Error,
                    other => {
                        return Err(ScanError::UnknownEvent(String::from_utf8_lossy(other).into_owned()));
                    }
                });
            }
            b"object" => object = Some(range),
            _ => {}
        }
        Ok(true)
    })?;
    Ok((kind.ok_or(ScanError::Missing("type"))?, object.ok_or(ScanError::Missing("object"))?))
}

/// Reads an object's name and versions from its metadata. Copies nothing else, so that a state that is known already
/// costs no more.
pub(super) fn object(bytes: &[u8]) -> Result<Scanned<'_>, ScanError> {
    let Metadata { name, namespace, uid, resource_version, managed_fields } = metadata(bytes)?;
    let name = name.filter(|name| !name.is_empty()).ok_or(ScanError::Missing("metadata.name"))?;
    let head = Head {
        key: ObjectKey::new(namespace.unwrap_or_default(), name),
        uid: uid.unwrap_or_default().into(),
        resource_version: resource_version.unwrap_or_default().into(),
    };
    Ok(Scanned { head, bytes, managed_fields })
}

/// Reads only the resourceVersion, which is all a bookmark has.
pub(super) fn resource_version(object: &[u8]) -> Result<String, ScanError> {
    metadata(object)?
        .resource_version
        .filter(|version| !version.is_empty())
        .ok_or(ScanError::Missing("metadata.resourceVersion"))
}

/// The object reduced to its type and metadata.
pub(super) fn only_metadata(object: &[u8]) -> Result<Vec<u8>, ScanError> {
    let mut out = Vec::with_capacity(256);
    out.push(b'{');
    Scanner { bytes: object, at: 0 }.members(|scanner, name| {
        let range = scanner.value()?;
        if matches!(name, b"apiVersion" | b"kind" | b"metadata") {
            if out.len() > 1 {
                out.push(b',');
            }
            out.push(b'"');
            out.extend_from_slice(name);
            out.extend_from_slice(b"\":");
            out.extend_from_slice(&object[range]);
        }
        Ok(true)
    })?;
    out.push(b'}');
    Ok(out)
}

/// Goes through an object's metadata once.
fn metadata(object: &[u8]) -> Result<Metadata, ScanError> {
    let mut found = None;
    Scanner { bytes: object, at: 0 }.members(|scanner, name| {
        if name == b"metadata" {
            found = Some(scanner.metadata()?);
        } else {
            scanner.value()?;
        }
        Ok(found.is_none())
    })?;
    found.ok_or(ScanError::Missing("metadata"))
}

/// A string, or nothing.
fn text(value: &[u8]) -> Result<Option<String>, ScanError> {
    serde_json::from_slice(value).map_err(ScanError::Metadata)
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    fn peek(&mut self) -> Option<u8> {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
        self.bytes.get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Result<(), ScanError> {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(ScanError::Broken(self.at))
        }
    }

    /// Visits the members of an object; the visitor must consume the value, and says whether to go on.
    fn members(
        &mut self,
        mut visit: impl FnMut(&mut Self, &'a [u8]) -> Result<bool, ScanError>,
    ) -> Result<(), ScanError> {
        if self.peek() != Some(b'{') {
            return Err(ScanError::NotAnObject(self.at));
        }
        self.at += 1;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(ScanError::Broken(self.at));
            }
            let bytes = self.bytes;
            let name = self.string()?;
            self.expect(b':')?;
            if !visit(self, &bytes[name])? {
                return Ok(());
            }
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(ScanError::Broken(self.at)),
            }
        }
    }

    fn metadata(&mut self) -> Result<Metadata, ScanError> {
        let mut metadata = Metadata::default();
        self.peek();
        // Where the last member ends, or the first may begin.
        let (mut end, mut is_first) = (self.at + 1, true);
        self.members(|scanner, name| {
            let value = scanner.value()?;
            let bytes = &scanner.bytes[value.clone()];
            match name {
                b"name" => metadata.name = text(bytes)?,
                b"namespace" => metadata.namespace = text(bytes)?,
                b"uid" => metadata.uid = text(bytes)?,
                b"resourceVersion" => metadata.resource_version = text(bytes)?,
                // With the comma before it or, where there is none, the one behind it.
                b"managedFields" if is_first && scanner.peek() == Some(b',') => {
                    metadata.managed_fields = Some(end..scanner.at + 1);
                }
                b"managedFields" => metadata.managed_fields = Some(end..value.end),
                _ => {}
            }
            (end, is_first) = (value.end, false);
            Ok(true)
        })?;
        Ok(metadata)
    }

    fn elements(&mut self) -> Result<Vec<Range<usize>>, ScanError> {
        self.expect(b'[')?;
        let mut ranges = Vec::new();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(ranges);
        }
        loop {
            ranges.push(self.value()?);
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(ranges);
                }
                _ => return Err(ScanError::Broken(self.at)),
            }
        }
    }

    /// Steps over a string and returns where its content is.
    fn string(&mut self) -> Result<Range<usize>, ScanError> {
        let start = self.at + 1;
        let mut at = start;
        loop {
            match self.bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') => at += 2,
                Some(_) => at += 1,
                None => return Err(ScanError::Broken(self.bytes.len())),
            }
        }
        self.at = at + 1;
        Ok(start..at)
    }

    /// Steps over any value and returns where it is.
    fn value(&mut self) -> Result<Range<usize>, ScanError> {
        let first = self.peek();
        let start = self.at;
        match first {
            Some(b'"') => {
                self.string()?;
            }
            Some(b'{' | b'[') => {
                let mut depth = 0usize;
                loop {
                    match self.bytes.get(self.at) {
                        Some(b'"') => {
                            self.string()?;
                            continue;
                        }
                        Some(b'{' | b'[') => depth += 1,
                        Some(b'}' | b']') => depth -= 1,
                        Some(_) => {}
                        None => return Err(ScanError::Broken(self.at)),
                    }
                    self.at += 1;
                    if depth == 0 {
                        break;
                    }
                }
            }
            Some(b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => {
                while let Some(byte) = self.bytes.get(self.at) {
                    if matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n') {
                        break;
                    }
                    self.at += 1;
                }
            }
            _ => return Err(ScanError::Broken(self.at)),
        }
        Ok(start..self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managed_fields_are_left_out() {
        for (text, expected) in [
            (
                r#"{"metadata":{"labels":{"managedFields":"x"},"managedFields":[{"a":"}]"}],"name":"n"},"spec":{}}"#,
                r#"{"metadata":{"labels":{"managedFields":"x"},"name":"n"},"spec":{}}"#,
            ),
            (r#"{"metadata": {"name": "n", "managedFields": [] }}"#, r#"{"metadata": {"name": "n" }}"#),
            (r#"{"metadata": { "managedFields": [] , "name": "n"}}"#, r#"{"metadata": { "name": "n"}}"#),
            (
                r#"{"metadata":{"managedFields":null,"name":"n","uid":"u"}}"#,
                r#"{"metadata":{"name":"n","uid":"u"}}"#,
            ),
            (
                r#"{"managedFields":[],"metadata":{"name":"n"}}"#,
                r#"{"managedFields":[],"metadata":{"name":"n"}}"#,
            ),
            (r#"{"metadata":{"name":"n"}}"#, r#"{"metadata":{"name":"n"}}"#),
        ] {
            let scanned = object(text.as_bytes()).unwrap();
            assert_eq!(&*scanned.head.key.name, "n", "{text}");
            assert_eq!(std::str::from_utf8(&scanned.without_managed_fields()).unwrap(), expected);
        }
        let alone = br#"{"metadata":{"managedFields":[{}]}}"#;
        assert_eq!(metadata(alone).unwrap().managed_fields, Some(13..33));
    }

    #[test]
    fn a_list_is_cut_into_its_items() {
        let body = br#"{ "kind":"PodList", "metadata":{"resourceVersion":"7","continue":"abc"},
            "items":[ {"a":"}]\"\\"}, {"b":[1,{"c":2}]} ] }"#;
        let page = list_page(body).unwrap();
        assert_eq!((page.resource_version.as_str(), page.continue_token.as_str()), ("7", "abc"));
        let items: Vec<&[u8]> = page.items.iter().map(|range| &body[range.clone()]).collect();
        assert_eq!(items, [&br#"{"a":"}]\"\\"}"#[..], &br#"{"b":[1,{"c":2}]}"#[..]]);
    }

    #[test]
    fn empty_and_null_items_are_empty_lists() {
        for body in [r#"{"metadata":{"resourceVersion":"1"},"items":[]}"#, r#"{"items":null,"metadata":{}}"#]
        {
            assert!(list_page(body.as_bytes()).unwrap().items.is_empty(), "{body}");
        }
    }

    #[test]
    fn broken_bodies_are_errors_not_panics() {
        for body in
            ["", "[]", "{", r#"{"items":[{]"#, r#"{"a"}"#, r#"{"items":[}"#, r#"{"a":"\"#, r#"{"a":}"#, "{}"]
        {
            assert!(list_page(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn watch_lines_name_their_event() {
        let line = br#"{"object":{"metadata":{"name":"a"}},"type":"MODIFIED"}"#;
        let (kind, range) = watch_line(line).unwrap();
        assert_eq!(kind, EventKind::Modified);
        assert_eq!(&line[range], br#"{"metadata":{"name":"a"}}"#);
        assert!(matches!(
            watch_line(br#"{"type":"MOVED","object":{}}"#),
            Err(ScanError::UnknownEvent(event)) if event == "\"MOVED\""
        ));
    }

    #[test]
    fn heads_are_read_wherever_metadata_stands() {
        let text = br#"{"spec":{"metadata":{"name":"not this"}},"metadata":{"name":"a\u0062","namespace":"n","uid":"u","resourceVersion":"5","labels":{"x":"y"}},"status":{}}"#;
        let head = object(text).unwrap().head;
        assert_eq!(head.key, ObjectKey::new("n", "ab"));
        assert_eq!((&*head.uid, &*head.resource_version), ("u", "5"));
    }

    #[test]
    fn heads_that_cannot_be_read_are_errors() {
        for text in [
            r#"{"spec":{}}"#,
            r#"{"metadata":null}"#,
            r#"{"metadata":{}}"#,
            r#"{"metadata":{"name":null}}"#,
            r#"{"metadata":{"name":""}}"#,
            r#"{"metadata":{"name":1}}"#,
            r#"{"metadata":{"name":"n","uid":{}}}"#,
            r#"{"metadata":{"name":"n""#,
        ] {
            assert!(object(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn an_object_can_be_reduced_to_its_metadata() {
        let object = br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"x":[1]}}"#;
        let reduced = only_metadata(object).unwrap();
        assert_eq!(reduced, br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}"#);
    }
}
