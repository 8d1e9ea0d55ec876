//! The gate: every check, in the order that fails fastest.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::{packages, tidy};

type Step = (&'static str, fn() -> Result<()>);

const STEPS: [Step; 10] = [
    ("packages", packages::tests),
    ("fmt", || must(&mut cargo(&["fmt", "--all", "--check"]))),
    ("tidy", tidy::run),
    ("clippy", || {
        must(&mut cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))
    }),
    ("test", test),
    ("doc", doc),
    ("codegen", || crate::run(&["codegen".to_owned(), "--check".to_owned()])),
    ("build", || must(&mut cargo(&["build", "--release", "--package", "podium"]))),
    ("e2e", || e2e(&[])),
    ("containerd", e2e_on_containerd),
];

/// Runs all steps, or those named.
pub(crate) fn run(names: &[String]) -> Result<()> {
    for name in names {
        ensure!(STEPS.iter().any(|(step, _)| step == name), "no step {name:?}");
    }
    let mut report = Vec::new();
    for (name, step) in STEPS.iter().filter(|(name, _)| names.is_empty() || names.iter().any(|n| n == name)) {
        println!("=== {name}");
        let started = Instant::now();
        step().with_context(|| format!("step {name}"))?;
        let line = format!("{name:<10} {:>6.1} s", started.elapsed().as_secs_f64());
        println!("=== {line}");
        report.push(line);
    }
    println!("all checks passed\n{}", report.join("\n"));
    Ok(())
}

fn test() -> Result<()> {
    must(&mut cargo(&["test", "--workspace", "--exclude", "podium-e2e", "--no-fail-fast"]))
}

fn doc() -> Result<()> {
    let mut command = cargo(&["doc", "--workspace", "--no-deps", "--quiet"]);
    must(command.env("RUSTDOCFLAGS", "-D warnings"))
}

/// The end-to-end tests, with the release binary; arguments select tests by name.
pub(crate) fn e2e(filter: &[String]) -> Result<()> {
    e2e_with(filter, &[])
}

fn e2e_with(filter: &[String], environment: &[(&str, &str)]) -> Result<()> {
    packages::tests()?;
    must(&mut cargo(&["build", "--release", "--quiet", "--package", "podium"]))?;
    let binary = target_directory()?.join("release/podium");
    // `--package` would build the dependencies again, with fewer features than the tests before had.
    let mut command = cargo(&["test", "--workspace", "--test", "e2e", "--no-fail-fast", "--"]);
    command.args(filter).args(["--nocapture", "--test-threads", "1"]).env("PODIUM_BIN", binary);
    must(command.envs(environment.iter().copied()))
}

/// The end-to-end tests again, with the other container runtime.
fn e2e_on_containerd() -> Result<()> {
    e2e_with(&[], &[("PODIUM_CONTAINER_RUNTIME", "containerd")])
}

/// The figures: a whole node, then the store beside a bare log.
pub(crate) fn bench() -> Result<()> {
    packages::tests()?;
    must(&mut cargo(&["build", "--release", "--quiet", "--package", "podium"]))?;
    let binary = target_directory()?.join("release/podium");
    println!("{:<48} {:>9} {:>14} {:>10}", "", "podium", "upstream", "at most");
    let mut node = cargo(&["run", "--quiet", "--package", "podium-testkit", "--", "bench"]);
    must(node.env("PODIUM_BIN", binary))?;
    must(&mut cargo(&[
        "run",
        "--release",
        "--quiet",
        "--package",
        "podium-store",
        "--example",
        "store_bench",
    ]))
}

/// The figures of an API server: ours alone, in a process of its own, unless the arguments name another.
pub(crate) fn bench_api(arguments: &[String]) -> Result<()> {
    must(&mut cargo(&[
        "build",
        "--release",
        "--quiet",
        "--package",
        "podium-apiserver",
        "--example",
        "bare",
    ]))?;
    must(&mut cargo(&["build", "--release", "--quiet", "--package", "podium-testkit"]))?;
    let built = target_directory()?.join("release");
    let mut load = Command::new(built.join("podium-testkit"));
    must(load.arg("load").args(arguments).env("PODIUM_APISERVER", built.join("examples/bare")))
}

/// The figures of a kubelet and its runtime: ours, as the second node of a cluster of its own, unless the arguments name another.
pub(crate) fn bench_node(arguments: &[String]) -> Result<()> {
    packages::tests()?;
    must(&mut cargo(&["build", "--release", "--quiet", "--package", "podium"]))?;
    must(&mut cargo(&["build", "--release", "--quiet", "--package", "podium-testkit"]))?;
    let built = target_directory()?.join("release");
    let mut bench = Command::new(built.join("podium-testkit"));
    must(bench.arg("node").args(arguments).env("PODIUM_BIN", built.join("podium")))
}

/// Cargo, the same one that runs us.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(arguments);
    // What `cargo run` says of this crate is not for the next cargo: build scripts that watch such variables (ring's)
    // would run again, and everything above them compile again, whenever a person and xtask build in turns.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs a command; anything but success is an error that names it.
pub(crate) fn must(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{:?} {:?} failed ({status})", command.get_program(), command.get_args().collect::<Vec<_>>());
    }
    Ok(())
}

/// Where cargo builds.
pub(crate) fn target_directory() -> Result<PathBuf> {
    Ok(PathBuf::from(
        metadata()?["target_directory"].as_str().context("cargo metadata names no target directory")?,
    ))
}

/// What cargo knows of the workspace.
pub(crate) fn metadata() -> Result<serde_json::Value> {
    let output = cargo(&["metadata", "--format-version", "1"]).output().context("cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}
