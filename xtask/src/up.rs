//! From a checkout to a running cluster.

use std::process::Command;

use anyhow::Result;

use crate::ci::{cargo, must, target_directory};
use crate::packages;

/// Installs, builds, starts.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    packages::node()?;
    println!("building podium (some minutes the first time)");
    must(&mut cargo(&["build", "--release", "--quiet", "--package", "podium"]))?;
    let binary = target_directory()?.join("release/podium");
    println!("built {}", binary.display());
    let mut command = if packages::is_root() {
        Command::new(&binary)
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg(&binary);
        sudo
    };
    must(command.arg("up").args(arguments))
}
