//! Names for new objects, from an injected source, in the alphabet upstream uses.

use std::fmt;

/// The letters and digits of generated names: no vowels, so no words, and none that look alike.
/// Source: `k8s.io/apimachinery/pkg/util/rand`.
pub(crate) const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// How many characters a generated name's suffix has.
pub(crate) const SUFFIX_LENGTH: usize = 5;

/// The longest prefix kept before the suffix, so that a generated name fits in 63 characters.
const LONGEST_BASE: usize = 63 - SUFFIX_LENGTH;

/// Gives suffixes that have not been given before, with overwhelming likelihood.
pub trait NameSource: Send + Sync + fmt::Debug {
    /// Five characters of the safe alphabet.
    fn suffix(&self) -> String;
}

/// Suffixes from the thread's random generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct RandomNames;

impl NameSource for RandomNames {
    fn suffix(&self) -> String {
        (0..SUFFIX_LENGTH).map(|_| char::from(ALPHABET[fastrand::usize(..ALPHABET.len())])).collect()
    }
}

/// Suffixes that count up, for simulations that must replay.
#[derive(Debug, Default)]
pub struct CountedNames(std::sync::atomic::AtomicU64);

impl NameSource for CountedNames {
    fn suffix(&self) -> String {
        let mut count = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut suffix = [b'b'; SUFFIX_LENGTH];
        for place in suffix.iter_mut().rev() {
            *place = ALPHABET[(count % ALPHABET.len() as u64) as usize];
            count /= ALPHABET.len() as u64;
        }
        suffix.iter().copied().map(char::from).collect()
    }
}

/// Joins a `generateName` prefix and a suffix as the API server does.
pub(crate) fn generate(prefix: &str, names: &dyn NameSource) -> String {
    let mut base = prefix;
    if base.len() > LONGEST_BASE {
        let mut end = LONGEST_BASE;
        while !base.is_char_boundary(end) {
            end -= 1;
        }
        base = &base[..end];
    }
    format!("{base}{}", names.suffix())
}

/// The `generateName` prefix for the children of `parent`: with a dash unless that would make it too long.
pub(crate) fn prefix(parent: &str) -> String {
    // A prefix is checked as if the dash were part of the name, so only the length can be wrong.
    if parent.len() < 253 { format!("{parent}-") } else { parent.to_owned() }
}

/// Replaces each byte of `text` by one of the safe alphabet.
pub(crate) fn safe_encode(text: &str) -> String {
    text.bytes().map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()])).collect()
}
