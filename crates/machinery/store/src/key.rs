//! Keys and ranges of keys.
//!
//! Keys are plain bytes, ordered bytewise. By convention they are paths, `/registry/<group>/<resource>/...`; the first
//! three segments name a *collection*, which is only used to keep the events of unrelated kinds apart.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// A key: immutable bytes, cheap to clone, ordered bytewise.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<[u8]>);

impl Key {
    /// A key of these bytes.
    pub fn new(bytes: impl AsRef<[u8]>) -> Key {
        Key(Arc::from(bytes.as_ref()))
    }

    /// The bytes of the key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The collection this key belongs to: its bytes up to and including the fourth slash (`/registry/core/pods/`), or
    /// up to and including its last slash if it has fewer.
    pub fn collection(&self) -> &[u8] {
        collection_of(&self.0)
    }
}

/// See [`Key::collection`].
pub(crate) fn collection_of(key: &[u8]) -> &[u8] {
    let mut slashes = 0;
    let mut end = 0;
    for (index, byte) in key.iter().enumerate() {
        if *byte == b'/' {
            slashes += 1;
            end = index + 1;
            if slashes == 4 {
                break;
            }
        }
    }
    &key[..end]
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl std::ops::Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Key {
        Key::new(text)
    }
}

impl From<String> for Key {
    fn from(text: String) -> Key {
        Key(Arc::from(text.into_bytes()))
    }
}

impl From<&[u8]> for Key {
    fn from(bytes: &[u8]) -> Key {
        Key::new(bytes)
    }
}

impl From<Vec<u8>> for Key {
    fn from(bytes: Vec<u8>) -> Key {
        Key(Arc::from(bytes))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// A contiguous set of keys: everything from a first key on, up to and without an end (or without any end).
#[derive(Clone, PartialEq, Eq)]
pub struct KeyRange {
    start: Key,
    end: Option<Key>,
}

impl KeyRange {
    /// Every key.
    pub fn all() -> KeyRange {
        KeyRange { start: Key::new([]), end: None }
    }

    /// Every key that starts with these bytes.
    pub fn prefix(prefix: impl AsRef<[u8]>) -> KeyRange {
        let start = Key::new(prefix);
        let end = successor_of_prefix(&start);
        KeyRange { start, end }
    }

    /// This one key.
    pub fn single(key: impl AsRef<[u8]>) -> KeyRange {
        let start = Key::new(key);
        let end = Some(just_after(&start));
        KeyRange { start, end }
    }

    /// The keys from `from` (with it) to `to` (without it). Empty if `to` is not above `from`.
    pub fn from_to(from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> KeyRange {
        KeyRange { start: Key::new(from), end: Some(Key::new(to)) }
    }

    /// The part of this range that lies strictly behind `key`: how a list goes on after its last key.
    pub fn after(&self, key: &[u8]) -> KeyRange {
        let next = just_after(key);
        let start = if next > self.start { next } else { self.start.clone() };
        KeyRange { start, end: self.end.clone() }
    }

    /// The part of this range from `key` (with it) on.
    pub fn starting_at(&self, key: &[u8]) -> KeyRange {
        let start = if key > self.start.as_bytes() { Key::new(key) } else { self.start.clone() };
        KeyRange { start, end: self.end.clone() }
    }

    /// The first key that could be in the range.
    pub fn start(&self) -> &Key {
        &self.start
    }

    /// The first key behind the range; `None` if the range has no end.
    pub fn end(&self) -> Option<&Key> {
        self.end.as_ref()
    }

    /// Whether the key lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= self.start.as_bytes() && self.end.as_ref().is_none_or(|end| key < end.as_bytes())
    }

    /// Whether no key can lie in the range.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    /// The one collection that every key of this range belongs to, if there is one.
    pub(crate) fn collection(&self) -> Option<&[u8]> {
        let collection = collection_of(&self.start);
        // A collection with fewer than four slashes may have longer ones nested below it.
        if collection.iter().filter(|byte| **byte == b'/').count() < 4 {
            return None;
        }
        let end_of_collection = successor_of_prefix(collection);
        match (&self.end, &end_of_collection) {
            (Some(end), Some(limit)) if end <= limit => Some(collection),
            (_, None) => Some(collection),
            _ => None,
        }
    }
}

impl fmt::Debug for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}..", self.start)?;
        if let Some(end) = &self.end {
            write!(f, "{end}")?;
        }
        write!(f, ")")
    }
}

/// The smallest key above every key with this prefix; `None` if there is none (the prefix is empty or all 0xff).
fn successor_of_prefix(prefix: &[u8]) -> Option<Key> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(Key::from(end))
}

fn just_after(key: &[u8]) -> Key {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    Key::from(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_holds_what_starts_with_it() {
        let range = KeyRange::prefix("/a/");
        assert!(range.contains(b"/a/"));
        assert!(range.contains(b"/a/\xff\xff"));
        assert!(!range.contains(b"/a"));
        assert!(!range.contains(b"/b"));
        assert!(KeyRange::prefix(b"\xff\xff").contains(b"\xff\xff\x01"));
        assert!(!KeyRange::prefix(b"a\xff").contains(b"b"));
    }

    #[test]
    fn single_holds_only_its_key() {
        let range = KeyRange::single("k");
        assert!(range.contains(b"k") && !range.contains(b"k\0") && !range.contains(b"j"));
    }

    #[test]
    fn after_leaves_out_the_key_itself() {
        let range = KeyRange::prefix("a").after(b"ab");
        assert!(!range.contains(b"ab") && range.contains(b"ab\0") && range.contains(b"ac"));
        assert_eq!(KeyRange::prefix("b").after(b"a").start().as_bytes(), b"b");
        assert_eq!(KeyRange::prefix("b").starting_at(b"bc").start().as_bytes(), b"bc");
    }

    #[test]
    fn from_to_is_empty_when_backwards() {
        assert!(KeyRange::from_to("b", "a").is_empty());
        assert!(KeyRange::from_to("a", "a").is_empty());
        assert!(!KeyRange::from_to("a", "b").is_empty());
    }

    #[test]
    fn collections_are_the_first_three_segments() {
        for (key, collection) in [
            ("/registry/core/pods/ns/name", "/registry/core/pods/"),
            ("/registry/core/pods/", "/registry/core/pods/"),
            ("/registry/core", "/registry/"),
            ("plain", ""),
        ] {
            assert_eq!(Key::from(key).collection(), collection.as_bytes(), "{key}");
        }
    }

    #[test]
    fn only_ranges_inside_one_collection_have_one() {
        let collection =
            |range: &KeyRange| range.collection().map(|c| String::from_utf8_lossy(c).into_owned());
        assert_eq!(collection(&KeyRange::prefix("/r/g/pods/")).as_deref(), Some("/r/g/pods/"));
        assert_eq!(collection(&KeyRange::prefix("/r/g/pods/ns/")).as_deref(), Some("/r/g/pods/"));
        assert_eq!(collection(&KeyRange::single("/r/g/pods/ns/a")).as_deref(), Some("/r/g/pods/"));
        assert_eq!(collection(&KeyRange::prefix("/r/g/")), None);
        assert_eq!(collection(&KeyRange::single("/r/g")), None);
        assert_eq!(collection(&KeyRange::from_to("/r/g/pods/a", "/r/g/services/a")), None);
        assert_eq!(collection(&KeyRange::all()), None);
    }
}
