//! `cargo xtask codegen`: writes the API schema table and the field descriptions into podium-api.
//!
//! Sources: k8s-openapi (JSON names, types, required fields, descriptions; 1.36), k8s-pb (protobuf tags and the
//! markers for list types, merge keys, defaults; 1.35) and `codegen/overlay.txt` (what neither says). The result is
//! checked in; with `check` nothing is written and a difference is an error.

mod documents;
mod godoc;
mod openapi;
mod overlay;
mod pb;
mod table;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cargo_metadata::MetadataCommand;

/// Regenerates the schema table, or with `check` only compares.
pub(crate) fn run(check: bool) -> Result<()> {
    let metadata = MetadataCommand::new().exec().context("cargo metadata")?;
    let sources = |name: &str| -> Result<PathBuf> {
        let package = metadata
            .packages
            .iter()
            .find(|p| p.name.as_str() == name)
            .with_context(|| format!("{name} is not in the dependency graph"))?;
        let manifest = package.manifest_path.as_std_path();
        Ok(manifest.parent().context("manifest has no directory")?.join("src"))
    };
    let root = metadata.workspace_root.as_std_path();
    let overlay = overlay::parse(include_str!("codegen/overlay.txt"))?;
    let mut messages = pb::read(&sources("k8s-pb")?)?;
    overlay.add_fields(&mut messages);
    let definitions = openapi::read(&sources("k8s-openapi")?.join("v1_36"))?;
    let output = table::emit(&definitions, &messages, &overlay)?;

    let generated = root.join("crates/machinery/api/generated");
    place(&generated.join("schema.txt"), &output.table, check)?;
    place(&generated.join("descriptions.txt"), &output.descriptions, check)?;
    let documents = documents::emit(&definitions, &messages, &overlay)?;
    place(&generated.join("openapi.txt"), &documents, check)
}

/// Writes a file, or in a check compares it.
fn place(path: &Path, content: &str, check: bool) -> Result<()> {
    let current = std::fs::read_to_string(path).unwrap_or_default();
    if current == content {
        return Ok(());
    }
    if check {
        bail!("{} is not up to date: run `cargo xtask codegen`", path.display());
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(path, content).with_context(|| path.display().to_string())?;
    println!("wrote {} ({} bytes)", path.display(), content.len());
    Ok(())
}

/// The Rust sources below a directory, in a stable order.
fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// How names are compared across sources that differ in case and underscores.
fn normal(name: &str) -> String {
    name.chars().filter(|c| c.is_ascii_alphanumeric()).map(|c| c.to_ascii_lowercase()).collect()
}
