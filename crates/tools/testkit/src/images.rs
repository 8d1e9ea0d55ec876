//! The images of the tests: a static web server of our own in several versions, and Debian's static busybox.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use podium_image::{Image, ImageFile};

/// The repository of the web server's images.
pub const WEB: &str = "podium.test/web";
/// The image with a shell and the usual tools.
pub const BUSYBOX: &str = "podium.test/busybox:1";

/// Builds the web server once, as a static program.
fn web_program(directory: &Path) -> Result<Vec<u8>> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("images/web.rs");
    let program = directory.join("web");
    let status = Command::new("rustc")
        .args(["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-C", "strip=symbols", "-o"])
        .arg(&program)
        .arg(&source)
        .status()
        .context("run rustc")?;
    ensure!(status.success(), "{} did not compile", source.display());
    Ok(std::fs::read(&program)?)
}

/// Writes the archives `web-VERSION.tar` for the three versions into `directory`.
///
/// # Errors
/// The compiler is missing, or the directory cannot be written.
pub fn web(directory: &Path) -> Result<Vec<PathBuf>> {
    let program = web_program(directory)?;
    ["v2.0.0", "v2.1.0", "v2.2.0"]
        .into_iter()
        .map(|version| {
            let path = directory.join(format!("web-{version}.tar"));
            Image::new(&format!("{WEB}:{version}"))
                .file("/web", ImageFile::Regular(program.clone(), 0o755))
                .file("/tmp", ImageFile::Directory(0o1777))
                .entrypoint(&["/web"])
                .env("VERSION", version)
                .write(std::fs::File::create(&path)?)?;
            Ok(path)
        })
        .collect()
}

/// Writes `busybox.tar` into `directory`; `None`, saying so, when Debian's busybox-static is not installed.
///
/// # Errors
/// The directory cannot be written.
pub fn busybox(directory: &Path) -> Result<Option<PathBuf>> {
    let Ok(program) = std::fs::read("/bin/busybox") else {
        println!("skipped: no /bin/busybox (Debian package busybox-static)");
        return Ok(None);
    };
    let list = Command::new("/bin/busybox").arg("--list").output().context("run busybox")?;
    let mut image = Image::new(BUSYBOX)
        .file("/bin/busybox", ImageFile::Regular(program, 0o755))
        .file("/tmp", ImageFile::Directory(0o1777))
        .file("/etc/passwd", ImageFile::Regular(b"root:x:0:0:root:/root:/bin/sh\n".to_vec(), 0o644))
        .env("PATH", "/bin")
        .command(&["sh"]);
    for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|name| *name != "busybox") {
        image = image.file(&format!("/bin/{applet}"), ImageFile::Link("busybox".to_owned()));
    }
    let path = directory.join("busybox.tar");
    image.write(std::fs::File::create(&path)?)?;
    Ok(Some(path))
}
