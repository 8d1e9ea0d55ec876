//! Names and identities the server makes up: `generateName` suffixes and uids.

/// The longest base a generated name keeps: 63 less the suffix.
const MAX_BASE: usize = 63 - SUFFIX;

/// The length of a random suffix.
const SUFFIX: usize = 5;

/// Letters that cannot spell words and are not mistaken for each other.
/// Source: upstream `apimachinery/pkg/util/rand`.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// How often a create with `generateName` picks a new name when one is taken.
/// Source: upstream `maxNameGenerationCreateAttempts`.
pub(crate) const ATTEMPTS: usize = 8;

/// `base` cut to fit, and five random characters.
pub(crate) fn generate(base: &str) -> String {
    let mut end = base.len().min(MAX_BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = base[..end].to_owned();
    for _ in 0..SUFFIX {
        name.push(char::from(ALPHABET[fastrand::usize(..ALPHABET.len())]));
    }
    name
}

/// A new uid.
pub(crate) fn uid() -> String {
    uuid::Uuid::new_v4().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit_a_label() {
        assert_eq!(generate("web-").len(), 9);
        assert!(generate("web-").starts_with("web-"));
        assert_eq!(generate(&"x".repeat(300)).len(), 63);
        assert!(generate("").bytes().all(|b| ALPHABET.contains(&b)));
    }
}
