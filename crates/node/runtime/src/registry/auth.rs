//! Who we are to a registry: credentials from CRI, and the tokens they are exchanged for.

use std::collections::HashMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use podium_cri::v1;

/// What a pull was given. Its debug form tells nothing.
#[derive(Clone, Default)]
pub(super) struct Credentials {
    user: Option<(String, String)>,
    identity_token: Option<String>,
    registry_token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl Credentials {
    /// What CRI gave, if it is for this registry.
    pub(super) fn of(auth: Option<&v1::AuthConfig>, registry: &str) -> Self {
        let Some(auth) = auth else { return Self::default() };
        if !auth.server_address.is_empty() && !is_for(&auth.server_address, registry) {
            return Self::default();
        }
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let encoded = || {
            let plain = String::from_utf8(STANDARD.decode(auth.auth.trim_end_matches('\0')).ok()?).ok()?;
            let (user, password) = plain.split_once(':')?;
            Some((user.to_owned(), password.trim_end_matches('\0').to_owned()))
        };
        let user = if auth.username.is_empty() {
            encoded()
        } else {
            Some((auth.username.clone(), auth.password.clone()))
        };
        Self { user, identity_token: some(&auth.identity_token), registry_token: some(&auth.registry_token) }
    }

    pub(super) fn basic(&self) -> Option<String> {
        let (user, password) = self.user.as_ref()?;
        Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
    }

    pub(super) fn registry_token(&self) -> Option<String> {
        self.registry_token.as_ref().map(|token| format!("Bearer {token}"))
    }

    /// A token that is exchanged for others.
    pub(super) fn identity_token(&self) -> Option<&str> {
        self.identity_token.as_deref()
    }
}

/// Whether an address, which may be an URL, is this registry's.
fn is_for(address: &str, registry: &str) -> bool {
    let host = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or_default();
    let docker = ["docker.io", "index.docker.io", "registry-1.docker.io"];
    host == registry || docker.contains(&host) && docker.contains(&registry)
}

/// What a registry asks for in `WWW-Authenticate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: String, scope: String },
}

/// Reads a challenge. Source: RFC 7235 and the distribution specification's token authentication.
pub(super) fn challenge(header: &str) -> Option<Challenge> {
    let (scheme, rest) = header.split_once(' ').unwrap_or((header, ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut fields = parameters(rest);
    Some(Challenge::Bearer {
        realm: fields.remove("realm")?,
        service: fields.remove("service").unwrap_or_default(),
        scope: fields.remove("scope").unwrap_or_default(),
    })
}

/// `name="value", name=value`; values in quotes may hold commas.
fn parameters(mut text: &str) -> HashMap<String, String> {
    let mut fields = HashMap::new();
    while let Some((name, rest)) = text.split_once('=') {
        let name = name.trim_matches([' ', ',']).to_ascii_lowercase();
        let (value, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_once(',').unwrap_or((rest, "")),
        };
        fields.insert(name, value.trim().to_owned());
        text = after;
    }
    fields
}

/// Tokens of one pull, by host.
#[derive(Default)]
pub(super) struct Tokens(Mutex<HashMap<String, String>>);

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens(..)")
    }
}

impl Tokens {
    pub(super) fn get(&self, host: &str) -> Option<String> {
        self.0.lock().get(host).cloned()
    }

    pub(super) fn set(&self, host: &str, header: String) {
        self.0.lock().insert(host.to_owned(), header);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let bearer =
            challenge(r#"Bearer realm="https://a.io/token",service="a.io",scope="repository:x/y:pull,push""#);
        assert_eq!(
            bearer,
            Some(Challenge::Bearer {
                realm: "https://a.io/token".into(),
                service: "a.io".into(),
                scope: "repository:x/y:pull,push".into()
            })
        );
        assert_eq!(challenge("Basic realm=x"), Some(Challenge::Basic));
        assert_eq!(challenge("Negotiate"), None);
        assert_eq!(challenge("Bearer service=x"), None);
    }

    #[test]
    fn credentials_go_to_their_registry_only() {
        let auth = v1::AuthConfig {
            username: "u".into(),
            password: "p".into(),
            server_address: "https://index.docker.io/v1/".into(),
            ..Default::default()
        };
        assert!(Credentials::of(Some(&auth), "docker.io").basic().is_some());
        assert!(Credentials::of(Some(&auth), "evil.io").basic().is_none());
        let encoded = v1::AuthConfig { auth: STANDARD.encode("u:p:q"), ..Default::default() };
        let basic = Credentials::of(Some(&encoded), "x.io").basic().unwrap();
        assert_eq!(basic, format!("Basic {}", STANDARD.encode("u:p:q")));
        assert_eq!(format!("{:?}", Credentials::of(Some(&auth), "docker.io")), "Credentials(..)");
    }
}
