//! Images of real software, made of Debian packages: what `apt-get` would install into an empty root, unpacked.
//!
//! No package's script runs; an image's users, links and directories are named where it is declared. Downloaded packages
//! are kept in `/var/cache/podium-testkit`, outside of any clone, and fetched again where they are missing.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use podium_image::{Image, ImageFile};

/// Where downloaded packages are kept.
const CACHE: &str = "/var/cache/podium-testkit";
/// What every image has besides what its software depends on.
const BASE: [&str; 4] = ["bash", "coreutils", "dash", "sed"];
/// Directories of the root that are links into `/usr` on Debian.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];
/// Documentation is no part of an image.
const LEFT_OUT: [&str; 5] =
    ["usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian"];

/// An image of Debian packages.
#[derive(Clone, Copy, Debug)]
pub struct Software {
    /// The image's name and tag.
    pub name: &'static str,
    /// The packages that are asked for; what they depend on comes with them.
    pub packages: &'static [&'static str],
    /// Lines of `/etc/passwd` besides root's.
    pub users: &'static [&'static str],
    /// Directories that the packages' scripts would have made, with their modes.
    pub directories: &'static [(&'static str, u32)],
    /// The program and its arguments.
    pub entrypoint: &'static [&'static str],
}

/// nginx as its package ships it, in the foreground.
pub const NGINX: Software = Software {
    name: "podium.test/nginx:debian",
    packages: &["nginx-light"],
    users: &["www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin"],
    directories: &[("/var/lib/nginx", 0o755), ("/var/log/nginx", 0o755)],
    entrypoint: &["/usr/sbin/nginx", "-g", "daemon off;"],
};

/// PostgreSQL; the pod says which of its programs runs.
pub const POSTGRESQL: Software = Software {
    name: "podium.test/postgresql:debian",
    packages: &["postgresql-15"],
    users: &["postgres:x:999:999:postgres:/var/lib/postgresql:/bin/bash"],
    directories: &[("/var/lib/postgresql", 0o755)],
    entrypoint: &[],
};

/// Redis and its client.
pub const REDIS: Software = Software {
    name: "podium.test/redis:debian",
    packages: &["redis-server"],
    users: &["redis:x:998:998:redis:/var/lib/redis:/usr/sbin/nologin"],
    directories: &[],
    entrypoint: &["/usr/bin/redis-server"],
};

/// etcd and its client.
pub const ETCD: Software = Software {
    name: "podium.test/etcd:debian",
    packages: &["etcd-server", "etcd-client"],
    users: &[],
    directories: &[],
    entrypoint: &["/usr/bin/etcd"],
};

/// Writes the image's archive into `directory`; `None`, saying so, on a machine without Debian's tools.
///
/// # Errors
/// A package cannot be downloaded or unpacked, or the directory cannot be written.
pub fn image(software: &Software, directory: &Path) -> Result<Option<PathBuf>> {
    if !Path::new("/usr/bin/apt-get").exists() || !Path::new("/usr/bin/dpkg-deb").exists() {
        println!("skipped: no apt-get and dpkg-deb to make {} of packages", software.name);
        return Ok(None);
    }
    let root = tempfile::Builder::new().prefix("root-").tempdir_in(directory)?;
    for name in MERGED {
        std::fs::create_dir_all(root.path().join("usr").join(name))?;
        symlink(format!("usr/{name}"), root.path().join(name))?;
    }
    for package in packages(software)? {
        let status = Command::new("dpkg-deb").arg("--extract").arg(&package).arg(root.path()).status()?;
        ensure!(status.success(), "{} cannot be unpacked", package.display());
    }
    for path in LEFT_OUT {
        let path = root.path().join(path);
        if path.exists() {
            std::fs::remove_dir_all(path)?;
        }
    }
    let mut image = Image::new(software.name)
        .entrypoint(software.entrypoint)
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LANG", "C.UTF-8");
    image = add(image, root.path(), Path::new("/"))?;
    let users = ["root:x:0:0:root:/root:/bin/bash"]
        .iter()
        .chain(software.users)
        .fold(String::new(), |all, line| all + line + "\n");
    let groups = users.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, group) = (fields.next()?, fields.nth(2)?);
        Some(format!("{name}:x:{group}:\n"))
    });
    image = image
        .file("/etc/group", ImageFile::Regular(groups.collect::<String>().into_bytes(), 0o644))
        .file("/etc/passwd", ImageFile::Regular(users.into_bytes(), 0o644))
        .file("/tmp", ImageFile::Directory(0o1777));
    for (path, mode) in software.directories {
        image = image.file(path, ImageFile::Directory(*mode));
    }
    let path = directory.join(format!("{}.tar", software.name.replace(['/', ':'], "-")));
    image.write(std::fs::File::create(&path)?)?;
    Ok(Some(path))
}

/// The files of the packages and of all they depend on, downloaded if they are not there.
fn packages(software: &Software) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(Path::new(CACHE).join("partial"))?;
    let lines = match apt(software, "--print-uris") {
        Ok(lines) => lines,
        // A new machine has no lists of packages.
        Err(_) => {
            let status = Command::new("apt-get").args(["update", "-q"]).status()?;
            ensure!(status.success(), "apt-get update failed");
            apt(software, "--print-uris")?
        }
    };
    // 'ADDRESS' FILE SIZE HASH, for what is not in the cache yet.
    if lines.lines().any(|line| line.starts_with('\'')) {
        apt(software, "--download-only")?;
    }
    let plan = apt(software, "--simulate")?;
    // Inst NAME (VERSION SUITE [ARCHITECTURE]) ...
    plan.lines()
        .filter_map(|line| line.strip_prefix("Inst "))
        .map(|line| {
            let mut words = line.split([' ', '(', ')', '[', ']']).filter(|word| !word.is_empty());
            let (Some(name), Some(version)) = (words.next(), words.next()) else {
                bail!("apt-get plans {line:?}, which cannot be read");
            };
            find(name, version)
        })
        .collect()
}

/// The cached file of a package; its version's colon is escaped in the name.
fn find(name: &str, version: &str) -> Result<PathBuf> {
    let prefix = format!("{name}_{}_", version.replace(':', "%3a"));
    let entries = std::fs::read_dir(CACHE).with_context(|| format!("read {CACHE}"))?;
    for entry in entries {
        let path = entry?.path();
        if path.file_name().is_some_and(|file| file.as_encoded_bytes().starts_with(prefix.as_bytes())) {
            return Ok(path);
        }
    }
    bail!("{prefix}*.deb is not in {CACHE}")
}

/// What `apt-get install` says as if nothing were installed.
fn apt(software: &Software, mode: &str) -> Result<String> {
    let output = Command::new("apt-get")
        .args(["-qq", "-y", "--no-install-recommends", "-o", "Dir::State::status=/dev/null"])
        .args(["-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root", "-o"])
        .arg(format!("Dir::Cache::archives={CACHE}"))
        .args([mode, "install"])
        .args(BASE)
        .args(software.packages)
        .output()
        .context("run apt-get")?;
    ensure!(
        output.status.success(),
        "apt-get {mode} install {}: {}",
        software.packages.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Adds everything below a directory of the host at `at`.
fn add(mut image: Image, directory: &Path, at: &Path) -> Result<Image> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let path = at.join(entry.file_name());
        let name = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?.to_owned();
        let metadata = entry.metadata()?;
        let mode = metadata.permissions().mode() & 0o7777;
        if metadata.is_symlink() {
            let target = std::fs::read_link(entry.path())?;
            image = image.file(&name, ImageFile::Link(target.to_string_lossy().into_owned()));
        } else if metadata.is_dir() {
            image = add(image.file(&name, ImageFile::Directory(mode)), &entry.path(), &path)?;
        } else if metadata.is_file() {
            image = image.file(&name, ImageFile::Regular(std::fs::read(entry.path())?, mode));
        }
    }
    Ok(image)
}
