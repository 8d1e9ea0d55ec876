//! Which hosts answer for a registry: `HOST/hosts.toml` in a directory, as containerd has it, else the registry itself.

use std::path::Path;

use serde::Deserialize;

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostsError {
    /// The file cannot be read.
    #[error("reading {path}")]
    Read {
        /// Which.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is malformed.
    #[error("{path}: {why}")]
    Parse {
        /// Which.
        path: String,
        /// What is wrong.
        why: String,
    },
}

/// A host to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    /// Scheme, authority and the path that repositories are below.
    pub(crate) url: String,
    /// May be asked for what a tag means.
    pub(crate) resolve: bool,
    /// Its certificate is not checked.
    pub(crate) skip_verify: bool,
    /// A file with the authority that signed its certificate.
    pub(crate) ca: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct File {
    server: Option<String>,
    #[serde(default)]
    host: toml::Table,
    ca: Option<String>,
    #[serde(default)]
    skip_verify: bool,
}

#[derive(Debug, Default, Deserialize)]
struct Entry {
    capabilities: Option<Vec<String>>,
    ca: Option<toml::Value>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
}

/// The hosts of a registry, in the order to ask them.
pub(crate) fn of(directory: &Path, registry: &str) -> Result<Vec<Host>, HostsError> {
    for name in [registry, "_default"] {
        let path = directory.join(name).join("hosts.toml");
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                return read(&text, registry)
                    .map_err(|why| HostsError::Parse { path: path.display().to_string(), why });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(HostsError::Read { path: path.display().to_string(), source }),
        }
    }
    Ok(vec![server(registry)])
}

/// The registry itself. On loopback it speaks without TLS, as every runtime assumes.
fn server(registry: &str) -> Host {
    let name = registry.rsplit_once(':').map_or(registry, |(name, _)| name);
    let loopback = name == "localhost" || name.starts_with("127.") || name == "[::1]";
    let scheme = if loopback { "http" } else { "https" };
    let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
    Host { url: format!("{scheme}://{host}/v2"), resolve: true, skip_verify: false, ca: None }
}

fn base(url: &str, override_path: bool) -> Result<String, String> {
    let full = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
    if !full.starts_with("http://") && !full.starts_with("https://") {
        return Err(format!("{url:?} is neither http nor https"));
    }
    let full = full.trim_end_matches('/').to_owned();
    Ok(if override_path || full.ends_with("/v2") { full } else { format!("{full}/v2") })
}

fn read(text: &str, registry: &str) -> Result<Vec<Host>, String> {
    let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
    let mut hosts = Vec::new();
    // A table of this library keeps names in order, not as written: order is told by the text.
    let mut names: Vec<(&String, &toml::Value)> = file.host.iter().collect();
    names.sort_by_key(|(name, _)| text.find(&format!("[host.{name:?}]")).unwrap_or(usize::MAX));
    for (name, value) in names {
        let entry: Entry = value.clone().try_into().map_err(|error: toml::de::Error| error.to_string())?;
        let can =
            |what: &str| entry.capabilities.as_ref().is_none_or(|list| list.iter().any(|one| one == what));
        if !can("pull") {
            continue;
        }
        let ca = match &entry.ca {
            None => None,
            Some(toml::Value::String(path)) => Some(path.clone()),
            Some(other) => return Err(format!("ca {other:?} is not one file")),
        };
        hosts.push(Host {
            url: base(name, entry.override_path)?,
            resolve: can("resolve"),
            skip_verify: entry.skip_verify,
            ca,
        });
    }
    let last = match file.server.as_deref() {
        Some(url) => Host { url: base(url, false)?, ..server(registry) },
        None => server(registry),
    };
    hosts.push(Host { skip_verify: file.skip_verify, ca: file.ca, ..last });
    Ok(hosts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_by_itself() {
        let nowhere = Path::new("/no/such/directory");
        for (registry, url) in [
            ("docker.io", "https://registry-1.docker.io/v2"),
            ("quay.io", "https://quay.io/v2"),
            ("localhost:5000", "http://localhost:5000/v2"),
            ("127.0.0.1:5000", "http://127.0.0.1:5000/v2"),
        ] {
            assert_eq!(of(nowhere, registry).unwrap()[0].url, url);
        }
    }

    #[test]
    fn mirrors() {
        let text = r#"
            server = "https://registry.example.com"
            [host."http://mirror.local:5000"]
              capabilities = ["pull", "resolve"]
              skip_verify = true
            [host."https://a.cache/path"]
              capabilities = ["pull"]
              override_path = true
            [host."https://push.only"]
              capabilities = ["push"]
        "#;
        let hosts = read(text, "example.com").unwrap();
        let seen: Vec<(&str, bool)> = hosts.iter().map(|host| (host.url.as_str(), host.resolve)).collect();
        assert_eq!(
            seen,
            [
                ("http://mirror.local:5000/v2", true),
                ("https://a.cache/path", false),
                ("https://registry.example.com/v2", true)
            ]
        );
        assert!(hosts[0].skip_verify && !hosts[2].skip_verify);
        assert!(read("[host.\"ftp://x\"]", "e").is_err());
        assert!(read("host = 3", "e").is_err());
    }
}
