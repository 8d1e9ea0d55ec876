//! Image names made whole, as Docker's reference grammar reads them: `app` is
//! `docker.io/library/app:latest`.

/// A name that is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text does not follow the grammar.
    #[error("invalid reference format: {name:?}")]
    Format {
        /// The text.
        name: String,
    },
    /// Docker's rule: repository names are lower case.
    #[error("invalid reference format: repository name ({name}) must be lowercase")]
    UpperCase {
        /// The text.
        name: String,
    },
}

/// The full name: registry, path, and a tag unless there is a digest.
///
/// # Errors
/// If the text is not an image reference.
pub fn normalize_image_name(name: &str) -> Result<String, NameError> {
    let invalid = || NameError::Format { name: name.to_owned() };
    let (rest, digest) = match name.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (name, None),
    };
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return Err(invalid());
    }
    // A colon after the last slash starts a tag; before it, it belongs to the registry's port.
    let split = rest.rfind(':').filter(|colon| !rest[*colon..].contains('/'));
    let (path, tag) = match split {
        Some(colon) => (&rest[..colon], Some(&rest[colon + 1..])),
        None => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(invalid());
    }
    let (registry, path) = match path.split_once('/') {
        Some((first, after)) if is_registry(first) => (first, after.to_owned()),
        _ => ("docker.io", path.to_owned()),
    };
    let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
    let path = if registry == "docker.io" && !path.contains('/') { format!("library/{path}") } else { path };
    if path.chars().any(|c| c.is_ascii_uppercase()) {
        return Err(NameError::UpperCase { name: name.to_owned() });
    }
    if !path.split('/').all(is_component) {
        return Err(invalid());
    }
    let mut full = format!("{registry}/{path}");
    match (tag, digest) {
        (Some(tag), _) => full = format!("{full}:{tag}"),
        (None, None) => full.push_str(":latest"),
        (None, Some(_)) => {}
    }
    if let Some(digest) = digest {
        full = format!("{full}@{digest}");
    }
    Ok(full)
}

/// The first part names a registry if it looks like a host: it has a dot or a port, or is `localhost`.
fn is_registry(part: &str) -> bool {
    let host = part.starts_with(|c: char| c.is_ascii_alphanumeric());
    (host && (part.contains('.') || part.contains(':')))
        || part == "localhost"
        || part.chars().any(|c| c.is_ascii_uppercase())
}

fn is_component(part: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    edge(part.chars().next())
        && edge(part.chars().next_back())
        && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
}

fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (1..=128).contains(&tag.len())
        && tag.starts_with(word)
        && tag.chars().all(|c| word(c) || c == '.' || c == '-')
}

fn is_digest(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(algorithm, hex)| {
        !algorithm.is_empty() && hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_whole() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (given, full) in [
            ("app", "docker.io/library/app:latest".to_owned()),
            ("app:v2.0.0", "docker.io/library/app:v2.0.0".to_owned()),
            ("joe/app", "docker.io/joe/app:latest".to_owned()),
            ("docker.io/app:1", "docker.io/library/app:1".to_owned()),
            ("index.docker.io/joe/app:1", "docker.io/joe/app:1".to_owned()),
            ("localhost/app", "localhost/app:latest".to_owned()),
            ("localhost:5000/app", "localhost:5000/app:latest".to_owned()),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10".to_owned()),
            (&format!("app@{digest}"), format!("docker.io/library/app@{digest}")),
            (&format!("q.io/a/b:1@{digest}"), format!("q.io/a/b:1@{digest}")),
        ] {
            assert_eq!(normalize_image_name(given).as_deref(), Ok(full.as_str()), "{given}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for given in ["", ":v1", "app:", "a b", "../etc", "joe//app", "app@sha256:12", "app:-x", "a/-b"] {
            assert!(normalize_image_name(given).is_err(), "{given}");
        }
        assert!(matches!(normalize_image_name("joe/App"), Err(NameError::UpperCase { .. })));
    }
}
