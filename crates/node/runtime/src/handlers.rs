//! Runtime handlers: names that pods ask for by their RuntimeClass, and what runs their containers. Our own has three names,
//! the empty one among them; others are programs of other OCI runtimes, named in a file:
//!
//! ```toml
//! [handlers.runc]
//! binary = "/usr/sbin/runc"
//! ```

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use podium_cri::v1;
use serde::Deserialize;

/// Names of our own runtime. `runc`, because classes that were made for other runtimes call their ordinary one so.
const OWN: [&str; 3] = ["", "podium", "runc"];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    handlers: BTreeMap<String, Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    binary: PathBuf,
}

/// What runs the containers of a handler's pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Handler {
    /// The program of another runtime; ours if none.
    pub(crate) binary: Option<PathBuf>,
    /// Whether it makes mounts read-only with all below them.
    recursive_read_only: bool,
}

/// All of them by name.
#[derive(Debug)]
pub(crate) struct Handlers(BTreeMap<String, Handler>);

impl Handlers {
    /// Reads the file, which need not be there.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            other => other?,
        };
        parse(&text, features)
            .map_err(|why| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", path.display())))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Handler> {
        self.0.get(name)
    }

    /// As CRI lists them. `users`: whether our own runtime has user namespaces here.
    pub(crate) fn list(&self, users: bool) -> Vec<v1::RuntimeHandler> {
        let one = |(name, handler): (&String, &Handler)| v1::RuntimeHandler {
            name: name.clone(),
            features: Some(v1::RuntimeHandlerFeatures {
                recursive_read_only_mounts: handler.recursive_read_only,
                user_namespaces: users && handler.binary.is_none(),
            }),
        };
        self.0.iter().map(one).collect()
    }
}

/// `ask` gives what a program says of itself.
fn parse(text: &str, ask: impl Fn(&Path) -> serde_json::Value) -> Result<Handlers, String> {
    let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
    let own = Handler { binary: None, recursive_read_only: true };
    let mut all: BTreeMap<String, Handler> = OWN.map(|name| (name.to_owned(), own.clone())).into();
    for (name, entry) in file.handlers {
        if matches!(name.as_str(), "" | "podium") {
            return Err(format!("handler {name:?} is podium's own"));
        }
        if !entry.binary.is_absolute() {
            return Err(format!("binary {:?} of handler {name:?} is no absolute path", entry.binary));
        }
        let said = ask(&entry.binary);
        let options = said["mountOptions"].as_array().cloned().unwrap_or_default();
        let recursive_read_only = options.iter().any(|option| option == "rro");
        all.insert(name, Handler { binary: Some(entry.binary), recursive_read_only });
    }
    Ok(Handlers(all))
}

/// What a program can, by its own word; nothing if it does not know the question. Source: `features.md` of the OCI.
fn features(binary: &Path) -> serde_json::Value {
    let said = Command::new(binary).arg("features").stdin(Stdio::null()).output();
    said.ok().and_then(|said| serde_json::from_slice(&said.stdout).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_programs() {
        let ask = |binary: &Path| match binary.to_str() {
            Some("/usr/bin/crun") => serde_json::json!({"mountOptions": ["ro", "rro"]}),
            _ => serde_json::Value::Null,
        };
        let text = "[handlers.crun]\nbinary = \"/usr/bin/crun\"\n[handlers.runc]\nbinary = \"/old/runc\"\n";
        let found = parse(text, ask).unwrap();
        let seen: Vec<(String, bool, bool)> = found
            .list(true)
            .into_iter()
            .map(|one| (one.name, one.features.unwrap()))
            .map(|(name, features)| (name, features.recursive_read_only_mounts, features.user_namespaces))
            .collect();
        let expected =
            [("", true, true), ("crun", true, false), ("podium", true, true), ("runc", false, false)];
        assert_eq!(seen, expected.map(|(name, one, two)| (name.to_owned(), one, two)));
        assert_eq!(found.get("crun").unwrap().binary.as_deref(), Some(Path::new("/usr/bin/crun")));
        assert!(found.get("kata").is_none());
        assert!(parse("", ask).unwrap().get("runc").unwrap().binary.is_none());
        for broken in [
            "[handlers.podium]\nbinary = \"/x\"",
            "[handlers.x]\nbinary = \"x\"",
            "[handlers.x]\n",
            "[handlers.x]\nbinary = \"/x\"\nroot = \"/y\"",
            "[other]",
        ] {
            assert!(parse(broken, ask).is_err(), "{broken}");
        }
    }
}
