//! Which hosts answer for a registry: `HOST/hosts.toml` in a directory, as containerd has it, else the registry itself.

use std::path::{Path, PathBuf};

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Host {
    /// Scheme, authority and the path that repositories are below.
    pub(crate) url: String,
    /// The registry that it is asked for, where it is another: one mirror may have several.
    pub(crate) namespace: Option<String>,
    /// May be asked for what a tag means.
    pub(crate) resolve: bool,
    /// Its certificate is not checked.
    pub(crate) skip_verify: bool,
    /// Files with the authorities that sign its certificate, beside those of the machine.
    pub(crate) ca: Vec<PathBuf>,
    /// Files with certificates to show it, and with their keys.
    pub(crate) client: Vec<(PathBuf, PathBuf)>,
    /// What it is told with every request.
    pub(crate) headers: Vec<(String, String)>,
}

impl Host {
    /// The address of something below repositories. Mirrors are told the registry that is meant, as containerd tells them.
    pub(crate) fn address(&self, path: &str) -> String {
        match &self.namespace {
            Some(registry) => format!("{}/{path}?ns={registry}", self.url),
            None => format!("{}/{path}", self.url),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
struct File {
    server: Option<String>,
    #[serde(default)]
    host: toml::Table,
    #[serde(flatten)]
    own: Entry,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Entry {
    capabilities: Option<Vec<String>>,
    ca: Option<toml::Value>,
    client: Option<toml::Value>,
    #[serde(default)]
    header: toml::Table,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
}

impl Entry {
    fn can(&self, what: &str) -> bool {
        self.capabilities.as_ref().is_none_or(|list| list.iter().any(|one| one == what))
    }

    /// The host that it is about. Relative files are in `directory`.
    fn host(&self, url: &str, directory: &Path) -> Result<Host, String> {
        Ok(Host {
            url: base(url, self.override_path)?,
            namespace: None,
            resolve: self.can("resolve"),
            skip_verify: self.skip_verify,
            ca: match &self.ca {
                None => Vec::new(),
                Some(value) => strings("ca", value)?.iter().map(|path| directory.join(path)).collect(),
            },
            client: match &self.client {
                None => Vec::new(),
                Some(value) => pairs(value)?
                    .into_iter()
                    .map(|(certificate, key)| (directory.join(certificate), directory.join(key)))
                    .collect(),
            },
            headers: self
                .header
                .iter()
                .map(|(name, value)| {
                    Ok(strings("header", value)?.into_iter().map(move |value| (name.clone(), value)))
                })
                .collect::<Result<Vec<_>, String>>()?
                .into_iter()
                .flatten()
                .collect(),
        })
    }
}

/// One string or several.
fn strings(what: &str, value: &toml::Value) -> Result<Vec<String>, String> {
    let one = |value: &toml::Value| match value {
        toml::Value::String(text) => Ok(text.clone()),
        other => Err(format!("{what} {other:?} is no text")),
    };
    match value {
        toml::Value::Array(all) => all.iter().map(one).collect(),
        other => Ok(vec![one(other)?]),
    }
}

/// Certificates and keys: one file with both, several of that kind, or a list of pairs, whose key may be empty: then it is
/// in the certificate's file.
fn pairs(value: &toml::Value) -> Result<Vec<(String, String)>, String> {
    let whole = |file: &str| (file.to_owned(), file.to_owned());
    let one = |value: &toml::Value| match strings("client", value)?.as_slice() {
        [file] => Ok(whole(file)),
        [file, key] if key.is_empty() => Ok(whole(file)),
        [certificate, key] => Ok((certificate.clone(), key.clone())),
        other => Err(format!("client {other:?} is no certificate and key")),
    };
    match value {
        toml::Value::Array(all) => all.iter().map(one).collect(),
        other => Ok(vec![one(other)?]),
    }
}

/// The hosts of a registry, in the order to ask them.
pub(crate) fn of(directory: &Path, registry: &str) -> Result<Vec<Host>, HostsError> {
    for name in [registry, "_default"] {
        let path = directory.join(name).join("hosts.toml");
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                return read(&text, registry, path.parent().unwrap_or(directory))
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
    Host { url: format!("{scheme}://{host}/v2"), resolve: true, ..Host::default() }
}

fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

fn base(url: &str, override_path: bool) -> Result<String, String> {
    let full = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
    if !full.starts_with("http://") && !full.starts_with("https://") {
        return Err(format!("{url:?} is neither http nor https"));
    }
    let full = full.trim_end_matches('/').to_owned();
    Ok(if override_path || full.ends_with("/v2") { full } else { format!("{full}/v2") })
}

fn read(text: &str, registry: &str, directory: &Path) -> Result<Vec<Host>, String> {
    let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
    let mut hosts = Vec::new();
    // A table of this library keeps names in order, not as written: order is told by the text.
    let mut names: Vec<(&String, &toml::Value)> = file.host.iter().collect();
    names.sort_by_key(|(name, _)| text.find(&format!("[host.{name:?}")).unwrap_or(usize::MAX));
    for (name, value) in names {
        let entry: Entry = value.clone().try_into().map_err(|error: toml::de::Error| error.to_string())?;
        if entry.can("pull") {
            let mut host = entry.host(name, directory)?;
            host.namespace =
                (authority(&host.url) != authority(&server(registry).url)).then(|| registry.to_owned());
            hosts.push(host);
        }
    }
    if file.own.can("pull") {
        let url = file.server.unwrap_or_else(|| server(registry).url);
        hosts.push(file.own.host(&url, directory)?);
    }
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
        let hosts = read(text, "example.com", Path::new("/certs")).unwrap();
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
        assert_eq!(
            hosts[0].address("a/manifests/v1"),
            "http://mirror.local:5000/v2/a/manifests/v1?ns=example.com"
        );
        assert_eq!(hosts[2].address("a/manifests/v1"), "https://registry.example.com/v2/a/manifests/v1");
        let own = read("[host.\"https://registry-1.docker.io\"]", "docker.io", Path::new("/certs")).unwrap();
        assert_eq!(own[0].address("a"), "https://registry-1.docker.io/v2/a");
        for broken in ["[host.\"ftp://x\"]", "host = 3", "ca = 3", "client = [[\"a\", \"b\", \"c\"]]"] {
            assert!(read(broken, "e", Path::new("/")).is_err(), "{broken}");
        }
    }

    #[test]
    fn what_hosts_are_shown_and_told() {
        let text = r#"
            server = "https://own.example/deep"
            capabilities = ["pull"]
            override_path = true
            ca = ["/etc/ca.pem", "other.pem"]
            client = [["c.pem", "c.key"], ["both.pem", ""]]
            [header]
              x-one = "1"
              x-many = ["2", "3"]
            [host."https://mirror.example".header]
              x-mirror = "4"
            [host."https://mirror.example"]
              client = "one.pem"
              ca = "ca.pem"
        "#;
        let hosts = read(text, "example.com", Path::new("/certs")).unwrap();
        let [mirror, own] = hosts.as_slice() else { panic!("{hosts:?}") };
        let path = |text: &str| PathBuf::from(text);
        assert_eq!((own.url.as_str(), own.resolve), ("https://own.example/deep", false));
        assert_eq!(own.ca, [path("/etc/ca.pem"), path("/certs/other.pem")]);
        assert_eq!(own.client[0], (path("/certs/c.pem"), path("/certs/c.key")));
        assert_eq!(own.client[1], (path("/certs/both.pem"), path("/certs/both.pem")));
        let mut headers = own.headers.clone();
        headers.sort();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(headers, [pair("x-many", "2"), pair("x-many", "3"), pair("x-one", "1")]);
        assert_eq!(mirror.headers, [pair("x-mirror", "4")]);
        assert_eq!(mirror.client, [(path("/certs/one.pem"), path("/certs/one.pem"))]);
        assert_eq!(mirror.ca, [path("/certs/ca.pem")]);
        // Only mirrors are asked.
        let alone = read("capabilities = []\n[host.\"https://m\"]", "example.com", Path::new("/")).unwrap();
        assert_eq!(alone.len(), 1);
    }
}
