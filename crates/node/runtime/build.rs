//! Builds the shim, which the crate carries: optimised for size whatever the profile is, and once for all of them.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let shim = manifest.join("../shim");
    for watched in ["build.rs", "../shim/src", "../shim/Cargo.toml"] {
        println!("cargo::rerun-if-changed={watched}");
    }
    let output = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    // target/PROFILE/build/NAME/out
    let target_dir =
        output.ancestors().nth(4).expect("the output lies below the target directory").join("shim");
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let mut command = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"));
    command
        .args([
            "build",
            "--quiet",
            "--locked",
            "--profile",
            "shim",
            "--bin",
            "podium-shim",
            "--target",
            &target,
        ])
        .arg("--manifest-path")
        .arg(shim.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target_dir);
    // What the outer build was told (lints, flags of its own) is not meant for this one.
    for name in ["RUSTC_WORKSPACE_WRAPPER", "CLIPPY_ARGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS", "RUSTC"] {
        command.env_remove(name);
    }
    let status = command.status().expect("cargo can be run");
    assert!(status.success(), "the shim did not build");
    let program = target_dir.join(&target).join("shim/podium-shim");
    std::fs::copy(&program, output.join("shim")).expect("the shim was built");
}
