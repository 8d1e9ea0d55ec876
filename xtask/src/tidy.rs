//! What compilers do not check: who may depend on whom, that every crate takes the workspace's lints, that every file
//! says what it is for, that nothing unfinished is left, that no C crypto crept in.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::ci::metadata;

/// The floors of the house, lowest first: a crate depends only on floors below its own, or within machinery.
const FLOORS: [(&str, &[&str]); 5] = [
    ("crates/machinery/", &["podium-api", "podium-store", "podium-client", "podium-pki", "podium-streaming"]),
    (
        "crates/node/",
        &[
            "podium-cri",
            "podium-plugins",
            "podium-image",
            "podium-network",
            "podium-shim",
            "podium-systemd",
            "podium-runtime",
        ],
    ),
    ("crates/control-plane/", &["podium-apiserver", "podium-scheduler", "podium-controllers"]),
    ("crates/tools/", &["podium-testkit"]),
    ("crates/podium", &["podium"]),
];

/// Components on a node may use these of their own floor: interfaces and libraries, not components.
const NODE_LIBRARIES: [&str; 6] =
    ["podium-cri", "podium-plugins", "podium-image", "podium-network", "podium-shim", "podium-systemd"];

/// Crates whose presence would bring a C or assembly tool chain, or a second TLS.
const BANNED: [&str; 4] = ["aws-lc-sys", "openssl-sys", "libsqlite3-sys", "native-tls"];

/// A file longer than this holds two things.
const LONGEST: usize = 900;

/// Runs all checks and reports every fault.
pub(crate) fn run() -> Result<()> {
    let metadata = metadata()?;
    let mut faults = Vec::new();
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        if BANNED.contains(&name) && resolved(&metadata, package) {
            faults.push(format!("{name} is in the dependency graph: `cargo tree -i {name}` tells by whom"));
        }
    }
    let root = PathBuf::from(metadata["workspace_root"].as_str().context("no workspace root")?);
    for package in packages.iter().filter(|package| package["source"].is_null()) {
        check_package(&root, package, &mut faults)?;
    }
    let mut files = Vec::new();
    for directory in ["crates", "xtask", "tests"] {
        collect(&root.join(directory), &mut files)?;
    }
    for file in &files {
        check_file(&root, file, &mut faults)?;
    }
    if faults.is_empty() {
        println!("tidy: {} files", files.len());
        return Ok(());
    }
    bail!("{}", faults.join("\n"))
}

fn resolved(metadata: &Value, package: &Value) -> bool {
    let nodes = metadata["resolve"]["nodes"].as_array();
    nodes.is_some_and(|nodes| nodes.iter().any(|node| node["id"] == package["id"]))
}

fn check_package(root: &Path, package: &Value, faults: &mut Vec<String>) -> Result<()> {
    let name = package["name"].as_str().unwrap_or_default();
    let manifest = PathBuf::from(package["manifest_path"].as_str().context("a package without a manifest")?);
    let text = std::fs::read_to_string(&manifest)?;
    if !text.contains("[lints]\nworkspace = true") {
        faults.push(format!("{name}: the manifest does not take the workspace's lints"));
    }
    let place = manifest.strip_prefix(root).unwrap_or(&manifest).display().to_string();
    let Some(floor) = FLOORS.iter().position(|(prefix, _)| place.starts_with(prefix)) else { return Ok(()) };
    for dependency in package["dependencies"].as_array().into_iter().flatten() {
        if dependency["kind"] == "dev" {
            continue;
        }
        let other = dependency["name"].as_str().unwrap_or_default();
        let Some(theirs) = FLOORS.iter().position(|(_, crates)| crates.contains(&other)) else { continue };
        let allowed = theirs < floor || (theirs == floor && (floor == 0 || NODE_LIBRARIES.contains(&other)));
        let crosses = FLOORS[floor].0 == "crates/control-plane/" && FLOORS[theirs].0 == "crates/node/";
        if !allowed || crosses {
            faults.push(format!("{name} depends on {other}: components do not depend on each other"));
        }
    }
    Ok(())
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            // What generators wrote is their own.
            if path.file_name().is_some_and(|name| name != "target" && name != "generated") {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn check_file(root: &Path, path: &Path, faults: &mut Vec<String>) -> Result<()> {
    let text = std::fs::read_to_string(path)?;
    let place = path.strip_prefix(root).unwrap_or(path).display();
    if !text.starts_with("//!") {
        faults.push(format!("{place}: no header that says what the file is for"));
    }
    let lines = text.lines().count();
    if lines > LONGEST {
        faults.push(format!("{place}: {lines} lines; is there a second thing inside?"));
    }
    // Written in two halves, so that this file passes its own check.
    for promise in
        [concat!("todo", "!("), concat!("unimple", "mented!("), concat!("#[ig", "nore"), concat!("FIX", "ME")]
    {
        if text.contains(promise) {
            faults.push(format!("{place}: {promise} is left"));
        }
    }
    Ok(())
}
