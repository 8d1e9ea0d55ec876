//! The sandbox image: our pause program, carried in the binary.

use podium_image::{Image, ImageFile};

/// The name the runtime is configured with.
pub(crate) const NAME: &str = "registry.k8s.io/pause:3.10.2";

const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));

/// The image as an archive.
pub(crate) fn archive() -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Image::new(NAME)
        .file("/pause", ImageFile::Regular(PROGRAM.to_vec(), 0o755))
        .entrypoint(&["/pause"])
        .user("65535:65535")
        .working_directory("/")
        .write(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;

    #[test]
    fn the_carried_program_waits_and_ends_when_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pause");
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(&path).unwrap();
        file.write_all(PROGRAM).unwrap();
        drop(file);
        let mut child = std::process::Command::new(&path).spawn().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        // Before it blocks signals, TERM ends it by default: either way it is gone.
        let status = child.wait().unwrap();
        assert!(status.code().is_none_or(|code| code == 0), "{status}");
        assert!(archive().unwrap().len() < 64 * 1024);
    }
}
