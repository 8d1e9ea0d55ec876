//! Debian packages: what a node needs, what the tests need besides, and why.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A program, where it is found, the package that brings it and the reason for it.
struct Need {
    /// A name looked for on the PATH, or the whole path of a file that stands for a package without programs.
    program: &'static str,
    package: &'static str,
    why: &'static str,
}

/// What `podium up` runs.
const NODE: [Need; 1] =
    [Need { program: "nft", package: "nftables", why: "puts the rules of Services into the kernel" }];

/// What the tests use besides.
const TESTS: [Need; 8] = [
    Need {
        program: "containerd",
        package: "containerd",
        why: "the other container runtime, started by the tests",
    },
    Need { program: "runc", package: "runc", why: "starts containers for containerd" },
    Need { program: "busybox", package: "busybox-static", why: "a shell and tools inside test containers" },
    Need {
        program: "docker-registry",
        package: "docker-registry",
        why: "the registry that images are pulled from, started by the runtime's tests",
    },
    Need {
        program: "dbus-daemon",
        package: "dbus-daemon",
        why: "the bus that a login manager and a systemd of the tests are on",
    },
    Need { program: "ip", package: "iproute2", why: "network namespaces in tests" },
    Need { program: "etcd", package: "etcd-server", why: "the store's other engine, started by its tests" },
    Need {
        program: "/usr/lib/python3/dist-packages/kubernetes/__init__.py",
        package: "python3-kubernetes",
        why: "the Python client, which runs a script against the API server",
    },
];

/// Installs what is missing for a node.
pub(crate) fn node() -> Result<()> {
    install(&NODE)
}

/// Installs what is missing for the tests.
pub(crate) fn tests() -> Result<()> {
    install(&NODE)?;
    install(&TESTS)
}

fn install(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !found(need.program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|need| need.package).collect();
    for need in &missing {
        println!("missing {}: package {} ({})", need.program, need.package, need.why);
    }
    if !found("apt-get") {
        bail!("install these yourself, this machine has no apt-get: {}", names.join(" "));
    }
    let apt = |arguments: &[&str]| -> Result<()> {
        let mut command = if is_root() { Command::new("apt-get") } else { Command::new("sudo") };
        if !is_root() {
            command.args(["-n", "apt-get"]);
        }
        let status = command
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .status()
            .context("run apt-get")?;
        if !status.success() {
            bail!("apt-get {} failed; as root: apt-get install {}", arguments.join(" "), names.join(" "));
        }
        Ok(())
    };
    apt(&["update", "-q"])?;
    let mut arguments = vec!["install", "-q", "-y", "--no-install-recommends"];
    arguments.extend(&names);
    apt(&arguments)?;
    if Path::new("/run/systemd/system").exists() {
        // These packages start services; tests start servers of their own.
        for (package, service) in [("etcd-server", "etcd"), ("docker-registry", "docker-registry")] {
            if names.contains(&package) {
                stop(package, service)?;
            }
        }
    }
    Ok(())
}

fn stop(package: &str, service: &str) -> Result<()> {
    let stopped =
        Command::new("systemctl").args(["disable", "--now", &format!("{service}.service")]).status();
    if !stopped.context("run systemctl")?.success() {
        bail!(
            "the service {service} of package {package} runs and could not be stopped: systemctl disable --now {service}"
        );
    }
    Ok(())
}

fn found(program: &str) -> bool {
    if Path::new(program).is_absolute() {
        return Path::new(program).is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into(), "/bin".into()])
        .any(|directory| directory.join(program).is_file())
}

/// Whether we may do what needs root.
pub(crate) fn is_root() -> bool {
    // The owner of our own entry in /proc is who we are.
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(Path::new("/proc/self")).is_ok_and(|entry| entry.uid() == 0)
}
