//! Registry credentials: here from a pod's `imagePullSecrets`, below from plugins.

pub(crate) mod accounts;
pub(crate) mod provider;

use std::collections::BTreeMap;

use base64::Engine;
use k8s_openapi::api::core::v1::Secret;
use podium_cri::v1::AuthConfig;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::images::verification::PullSecret;

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize, Clone, Default)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
    #[serde(default, rename = "registrytoken")]
    registry_token: String,
}

/// The credentials for an image among some secrets, the most specific ones first, each with the secret that it is of.
/// Secrets of other types, and what does not parse, count as none.
pub(crate) fn for_image(image: &str, secrets: &[Secret]) -> Vec<(AuthConfig, PullSecret)> {
    let Ok(full) = podium_cri::normalize_image_name(image) else { return Vec::new() };
    let mut found: Vec<(usize, AuthConfig, PullSecret)> = secrets
        .iter()
        .flat_map(|secret| entries(secret).into_iter().map(move |entry| (secret, entry)))
        .filter(|(_, (registry, _))| matches(registry, &full))
        .map(|(secret, (registry, entry))| {
            let auth = auth(entry);
            let source = source(secret, &auth);
            (location(&registry).len(), auth, source)
        })
        .collect();
    found.sort_by_key(|(length, ..)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, auth, source)| (auth, source)).collect()
}

/// What a record says of the secret that credentials come from.
fn source(secret: &Secret, auth: &AuthConfig) -> PullSecret {
    let meta = &secret.metadata;
    PullSecret {
        uid: meta.uid.clone().unwrap_or_default(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        credential_hash: hash(auth),
    }
}

/// Upstream's hash of credentials: SHA-256 of their JSON as Go writes it. Source: `pkg/credentialprovider/keyring.go`.
fn hash(auth: &AuthConfig) -> String {
    #[derive(Serialize)]
    struct Hashed<'a> {
        #[serde(skip_serializing_if = "str::is_empty")]
        username: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        password: &'a str,
        #[serde(skip_serializing_if = "str::is_empty", rename = "identitytoken")]
        identity_token: &'a str,
        #[serde(skip_serializing_if = "str::is_empty", rename = "registrytoken")]
        registry_token: &'a str,
    }
    let hashed = Hashed {
        username: &auth.username,
        password: &auth.password,
        identity_token: &auth.identity_token,
        registry_token: &auth.registry_token,
    };
    let text = serde_json::to_string(&hashed).expect("texts can be written as JSON");
    // Go writes these so, lest a browser take them for markup.
    let text = ['<', '>', '&', '\u{2028}', '\u{2029}']
        .into_iter()
        .fold(text, |text, special| text.replace(special, &format!("\\u{:04x}", u32::from(special))));
    Sha256::digest(text).iter().fold(String::new(), |mut text, byte| {
        use std::fmt::Write as _;
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn entries(secret: &Secret) -> Vec<(String, Entry)> {
    let data =
        |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|value| value.0.as_slice());
    let parsed = match secret.type_.as_deref() {
        Some("kubernetes.io/dockerconfigjson") => data(".dockerconfigjson")
            .and_then(|text| serde_json::from_slice::<DockerConfig>(text).ok())
            .map(|config| config.auths),
        Some("kubernetes.io/dockercfg") => {
            data(".dockercfg").and_then(|text| serde_json::from_slice::<BTreeMap<String, Entry>>(text).ok())
        }
        _ => None,
    };
    parsed.unwrap_or_default().into_iter().collect()
}

/// An entry's key without scheme, version path and trailing slash.
fn location(registry: &str) -> String {
    let bare =
        registry.strip_prefix("https://").or_else(|| registry.strip_prefix("http://")).unwrap_or(registry);
    let bare = bare.trim_end_matches('/');
    let bare = bare.strip_suffix("/v1").or_else(|| bare.strip_suffix("/v2")).unwrap_or(bare);
    match bare.strip_prefix("index.docker.io") {
        Some(rest) => format!("docker.io{rest}"),
        None => bare.to_owned(),
    }
}

/// Whether credentials for `registry` serve `image`: same host (`*` stands for one label part), same
/// port, and a path that the image's path continues.
fn matches(registry: &str, image: &str) -> bool {
    let registry = location(registry);
    let (host, path) = registry.split_once('/').unwrap_or((&registry, ""));
    let (image_host, image_path) = image.split_once('/').unwrap_or((image, ""));
    let labels: Vec<&str> = host.split('.').collect();
    let image_labels: Vec<&str> = image_host.split('.').collect();
    let same_host = labels.len() == image_labels.len()
        && labels.iter().zip(&image_labels).all(|(pattern, label)| glob(pattern, label));
    let repository = image_path.split(['@', ':']).next().unwrap_or_default();
    same_host && (path.is_empty() || repository == path || repository.starts_with(&format!("{path}/")))
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).any(|at| rest.is_char_boundary(at) && glob(after, &rest[at..]))
        }),
    }
}

fn auth(entry: Entry) -> AuthConfig {
    let mut config = AuthConfig {
        username: entry.username,
        password: entry.password,
        identity_token: entry.identity_token,
        registry_token: entry.registry_token,
        ..Default::default()
    };
    let decoded = base64::engine::general_purpose::STANDARD.decode(entry.auth.trim()).ok();
    let pair = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    if let Some((user, password)) = pair.as_deref().and_then(|pair| pair.split_once(':')) {
        config.username = user.to_owned();
        config.password = password.to_owned();
    }
    config
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn secret(json: &str) -> Secret {
        Secret {
            type_: Some("kubernetes.io/dockerconfigjson".into()),
            data: Some([(".dockerconfigjson".to_owned(), ByteString(json.as_bytes().to_vec()))].into()),
            ..Default::default()
        }
    }

    #[test]
    fn the_most_specific_credentials_come_first() {
        let secrets = [
            secret(
                r#"{"auths":{"https://index.docker.io/v1/":{"auth":"am9lOnB3"},"*.example.io":{"username":"wild"}}}"#,
            ),
            secret(
                r#"{"auths":{"q.example.io/team":{"username":"team"},"q.example.io:5000":{"username":"port"}}}"#,
            ),
            secret("not json"),
        ];
        let users = |image: &str| -> Vec<String> {
            for_image(image, &secrets).into_iter().map(|(auth, _)| auth.username).collect()
        };
        assert_eq!(users("app:v1"), ["joe"]);
        assert_eq!(users("q.example.io/team/app"), ["team", "wild"]);
        assert_eq!(users("q.example.io/teams/app"), ["wild"]);
        assert_eq!(users("a.q.example.io/app"), [""; 0]);
        assert_eq!(users("q.example.io:5000/app"), ["port"]);
        assert_eq!(for_image("app", &secrets)[0].0.password, "pw");
    }

    #[test]
    fn credentials_say_which_secret_they_are_of() {
        let mut of = secret(r#"{"auths":{"r.io":{"username":"u","password":"a<b>&c"}}}"#);
        of.metadata.name = Some("pull".into());
        of.metadata.namespace = Some("team".into());
        of.metadata.uid = Some("1-2".into());
        let (_, source) = for_image("r.io/app", &[of]).remove(0);
        assert_eq!((&*source.uid, &*source.namespace, &*source.name), ("1-2", "team", "pull"));
        // printf '{"username":"u","password":"a\\u003cb\\u003e\\u0026c"}' | sha256sum
        assert_eq!(
            source.credential_hash,
            "680483cedf1a0baf1397bcbb75ad9bb41937aae2eb50c890978dfea7a7663793"
        );
    }
}
