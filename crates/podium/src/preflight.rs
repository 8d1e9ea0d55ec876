//! Looks before the start for what would stop it later, and says how to mend each thing in one line.

use std::net::TcpListener;
use std::path::Path;

/// What the start will need.
#[derive(Debug)]
pub(crate) struct Needs<'a> {
    pub(crate) data_dir: &'a Path,
    /// Of the API server, where one is started.
    pub(crate) port: Option<u16>,
    /// Whether we start containerd ourselves.
    pub(crate) containerd: bool,
}

/// What was found; gathered first, judged after, so that judging is tested without a machine.
#[derive(Clone, Debug)]
struct Facts {
    root: bool,
    /// Programs that are not on the PATH, with the Debian package of each.
    missing_programs: Vec<(&'static str, &'static str)>,
    overlayfs: bool,
    /// Controllers the kernel does not offer.
    missing_controllers: Vec<&'static str>,
    busy_port: Option<u16>,
    free_bytes: Option<u64>,
    data_dir: String,
}

/// A cluster writes little, but a full disk makes the store refuse writes: ask for room before.
const ROOM_BYTES: u64 = 512 << 20;

/// All reasons why a start would fail, each with its remedy; empty when there is none.
pub(crate) fn check(needs: &Needs<'_>) -> Vec<String> {
    judge(&gather(needs))
}

fn judge(facts: &Facts) -> Vec<String> {
    let mut faults = Vec::new();
    if !facts.root {
        faults.push("not root: containers need it; run `sudo podium up`".to_owned());
    }
    for (program, package) in &facts.missing_programs {
        faults.push(format!("{program} not found: apt-get install {package}"));
    }
    if !facts.overlayfs {
        faults.push(
            "no overlayfs: use a kernel with CONFIG_OVERLAY_FS, and `modprobe overlay` where it is a module"
                .to_owned(),
        );
    }
    for controller in &facts.missing_controllers {
        faults.push(format!(
            "no cgroup controller {controller}: enable it on the kernel command line (cgroup_enable={controller})"
        ));
    }
    if let Some(port) = facts.busy_port {
        faults.push(format!(
            "port {port} is taken: stop what listens there (`ss -ltnp sport = :{port}`), or choose another with --port"
        ));
    }
    if let Some(free) = facts.free_bytes.filter(|free| *free < ROOM_BYTES) {
        faults.push(format!(
            "disk full: {} MiB free at {}, {} MiB needed; make room, or give --data-dir on another disk",
            free >> 20,
            facts.data_dir,
            ROOM_BYTES >> 20
        ));
    }
    faults
}

fn gather(needs: &Needs<'_>) -> Facts {
    let mut programs = vec![("nft", "nftables")];
    if needs.containerd {
        programs.extend([
            ("containerd", "containerd"),
            ("containerd-shim-runc-v2", "containerd"),
            ("runc", "runc"),
        ]);
    }
    let busy_port = needs.port.filter(|port| TcpListener::bind(("0.0.0.0", *port)).is_err());
    Facts {
        root: nix::unistd::geteuid().is_root(),
        missing_programs: programs
            .into_iter()
            .filter(|(program, _)| find_program(program).is_none())
            .collect(),
        // Most kernels have it as a module that nobody has loaded after a boot.
        overlayfs: podium_shim::load_file_system(c"overlay").is_ok(),
        missing_controllers: missing_controllers(),
        busy_port,
        free_bytes: free_bytes(needs.data_dir),
        data_dir: needs.data_dir.display().to_string(),
    }
}

/// A program on the PATH, or where Debian keeps those for root.
pub(crate) fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into(), "/usr/bin".into()])
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

fn missing_controllers() -> Vec<&'static str> {
    let needed = ["cpu", "memory", "pids"];
    // Version 2 lists them in one file; version 1 mounts each by its name.
    let available: Vec<String> = match std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers") {
        Ok(text) => text.split_whitespace().map(str::to_owned).collect(),
        Err(_) => needed
            .iter()
            .filter(|name| Path::new("/sys/fs/cgroup").join(name).join("cgroup.procs").exists())
            .map(|name| (*name).to_owned())
            .collect(),
    };
    needed.into_iter().filter(|name| !available.iter().any(|a| a == name)).collect()
}

/// Room where the data directory is, or will be.
fn free_bytes(directory: &Path) -> Option<u64> {
    let existing = directory.ancestors().find(|path| path.exists())?;
    let stat = nix::sys::statvfs::statvfs(existing).ok()?;
    Some(stat.blocks_available() * stat.fragment_size())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            root: true,
            missing_programs: Vec::new(),
            overlayfs: true,
            missing_controllers: Vec::new(),
            busy_port: None,
            free_bytes: Some(u64::MAX),
            data_dir: "/d".to_owned(),
        }
    }

    #[test]
    fn each_fault_names_its_remedy() {
        assert!(judge(&good()).is_empty());
        for (facts, text) in [
            (Facts { root: false, ..good() }, "sudo"),
            (Facts { missing_programs: vec![("nft", "nftables")], ..good() }, "apt-get install nftables"),
            (Facts { overlayfs: false, ..good() }, "modprobe overlay"),
            (Facts { missing_controllers: vec!["memory"], ..good() }, "cgroup_enable=memory"),
            (Facts { busy_port: Some(6443), ..good() }, "--port"),
            (Facts { free_bytes: Some(1 << 20), ..good() }, "disk full: 1 MiB free at /d"),
        ] {
            let faults = judge(&facts);
            assert_eq!(faults.len(), 1);
            assert!(faults[0].contains(text) && !faults[0].contains('\n'), "{faults:?}");
        }
    }

    #[test]
    fn a_taken_port_is_seen() {
        let listener = TcpListener::bind(("0.0.0.0", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let facts = gather(&Needs { data_dir: Path::new("/"), port: Some(port), containerd: false });
        assert_eq!(facts.busy_port, Some(port));
    }
}
