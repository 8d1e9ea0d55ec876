//! One-layer images from a handful of files.

use std::io::{self, Write};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What a path of the image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageFile {
    /// A regular file and its mode, such as 0o755.
    Regular(Vec<u8>, u32),
    /// A directory and its mode.
    Directory(u32),
    /// A symbolic link and its target.
    Link(String),
}

/// An image in the making. Paths are absolute; directories above a file are made as needed.
#[derive(Clone, Debug, Default)]
pub struct Image {
    names: Vec<String>,
    files: Vec<(String, ImageFile)>,
    entrypoint: Vec<String>,
    command: Vec<String>,
    environment: Vec<String>,
    user: String,
    working_directory: String,
}

impl Image {
    /// An empty image under a name with a tag, such as `example.com/web:v1`.
    pub fn new(name: &str) -> Self {
        Image { names: vec![name.to_owned()], ..Image::default() }
    }

    /// A further name.
    pub fn name(mut self, name: &str) -> Self {
        self.names.push(name.to_owned());
        self
    }

    /// Adds a path. A path added twice is the later one.
    pub fn file(mut self, path: &str, file: ImageFile) -> Self {
        self.files.push((path.to_owned(), file));
        self
    }

    /// The program that runs, and its fixed arguments.
    pub fn entrypoint(mut self, arguments: &[&str]) -> Self {
        self.entrypoint = arguments.iter().map(|a| (*a).to_owned()).collect();
        self
    }

    /// Arguments that a container may replace.
    pub fn command(mut self, arguments: &[&str]) -> Self {
        self.command = arguments.iter().map(|a| (*a).to_owned()).collect();
        self
    }

    /// Adds an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push(format!("{name}={value}"));
        self
    }

    /// The user, by number or `uid:gid`.
    pub fn user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.user);
        self
    }

    /// Where the program starts.
    pub fn working_directory(mut self, path: &str) -> Self {
        path.clone_into(&mut self.working_directory);
        self
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// What `output` says, or a path too long for a tar header.
    pub fn write(&self, output: impl Write) -> io::Result<()> {
        let layer = self.layer()?;
        let diff_id = format!("sha256:{}", hex(&layer));
        let configuration = self.configuration(&diff_id).to_string().into_bytes();
        let configuration_name = format!("{}.json", hex(&configuration));
        let layer_name = format!("{}/layer.tar", hex(&layer));
        let manifest =
            json!([{"Config": configuration_name, "RepoTags": self.names, "Layers": [layer_name]}])
                .to_string();
        let mut archive = tar::Builder::new(output);
        for (name, bytes) in [
            (configuration_name.as_str(), configuration.as_slice()),
            (layer_name.as_str(), layer.as_slice()),
            ("manifest.json", manifest.as_bytes()),
        ] {
            append(&mut archive, name, &ImageFile::Regular(bytes.to_vec(), 0o644))?;
        }
        archive.into_inner()?.flush()
    }

    fn configuration(&self, diff_id: &str) -> Value {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let mut config = json!({});
        for (key, list) in
            [("Entrypoint", &self.entrypoint), ("Cmd", &self.command), ("Env", &self.environment)]
        {
            if !list.is_empty() {
                config[key] = json!(list);
            }
        }
        for (key, text) in [("User", &self.user), ("WorkingDir", &self.working_directory)] {
            if !text.is_empty() {
                config[key] = json!(text);
            }
        }
        json!({
            "architecture": architecture, "os": "linux", "created": "1970-01-01T00:00:00Z", "config": config,
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "podium"}],
        })
    }

    fn layer(&self) -> io::Result<Vec<u8>> {
        let mut tree = std::collections::BTreeMap::new();
        for (path, file) in &self.files {
            let path = path.trim_matches('/');
            for (end, _) in path.match_indices('/') {
                tree.entry(path[..end].to_owned()).or_insert(ImageFile::Directory(0o755));
            }
            tree.insert(path.to_owned(), file.clone());
        }
        let mut layer = tar::Builder::new(Vec::new());
        for (path, file) in &tree {
            append(&mut layer, path, file)?;
        }
        layer.into_inner()
    }
}

fn append(archive: &mut tar::Builder<impl Write>, path: &str, file: &ImageFile) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    match file {
        ImageFile::Regular(bytes, mode) => {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(*mode);
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, path, bytes.as_slice())
        }
        ImageFile::Directory(mode) => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(*mode);
            header.set_size(0);
            archive.append_data(&mut header, format!("{path}/"), io::empty())
        }
        ImageFile::Link(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            archive.append_link(&mut header, path, target)
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_complete_and_reproducible() {
        let image = Image::new("example.com/web:v1")
            .file("/usr/bin/web", ImageFile::Regular(b"program".to_vec(), 0o755))
            .file("/bin", ImageFile::Link("usr/bin".to_owned()))
            .entrypoint(&["/usr/bin/web"])
            .env("A", "b");
        let write = || {
            let mut bytes = Vec::new();
            image.write(&mut bytes).unwrap();
            bytes
        };
        let bytes = write();
        assert_eq!(bytes, write());
        let mut contents = std::collections::BTreeMap::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            let mut body = Vec::new();
            io::Read::read_to_end(&mut entry, &mut body).unwrap();
            contents.insert(name, body);
        }
        let manifest: Value = serde_json::from_slice(&contents["manifest.json"]).unwrap();
        assert_eq!(manifest[0]["RepoTags"], json!(["example.com/web:v1"]));
        let config: Value =
            serde_json::from_slice(&contents[manifest[0]["Config"].as_str().unwrap()]).unwrap();
        assert_eq!(config["config"]["Entrypoint"], json!(["/usr/bin/web"]));
        let layer = &contents[manifest[0]["Layers"][0].as_str().unwrap()];
        assert_eq!(config["rootfs"]["diff_ids"][0], json!(format!("sha256:{}", hex(layer))));
        let names: Vec<String> = tar::Archive::new(layer.as_slice())
            .entries()
            .unwrap()
            .map(|e| e.unwrap().path().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["bin", "usr/", "usr/bin/", "usr/bin/web"]);
    }
}
