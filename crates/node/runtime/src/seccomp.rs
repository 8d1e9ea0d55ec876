//! Filters of system calls: profiles read or made, and compiled into the kernel's programs. A profile is never left out:
//! one that cannot be read or compiled refuses the container.

mod compile;
mod default;
mod profile;

use std::path::Path;

use podium_shim::protocol::Instruction;

/// Why a container's filter cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SeccompError {
    /// A local profile cannot be read.
    #[error("cannot load seccomp profile {path:?}: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not the JSON it should be.
    #[error("cannot load seccomp profile {path:?}: decoding seccomp profile failed: {source}")]
    Parse {
        /// The file.
        path: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// It asks for what cannot be done.
    #[error("seccomp profile: {0}")]
    Unsupported(String),
}

/// The default filter for a process with these capabilities.
pub(crate) fn runtime_default(capabilities: u64) -> Result<Vec<Instruction>, SeccompError> {
    compile::compile(&default::profile(capabilities))
}

/// The filter of a local profile. An empty name is no profile, and no profile is not what was asked for (CVE-2023-2431).
pub(crate) fn local(path: &Path) -> Result<Vec<Instruction>, SeccompError> {
    let name = path.display().to_string();
    if !path.is_absolute() {
        return Err(SeccompError::Unsupported(format!("{name:?} is no absolute path")));
    }
    let text = std::fs::read(path).map_err(|source| SeccompError::Read { path: name.clone(), source })?;
    let profile =
        serde_json::from_slice(&text).map_err(|source| SeccompError::Parse { path: name, source })?;
    compile::compile(&profile)
}

/// The default as a profile, for another runtime.
pub(crate) fn default_profile(capabilities: u64) -> Result<serde_json::Value, SeccompError> {
    let profile = serde_json::to_value(default::profile(capabilities));
    let mut profile = profile.map_err(|source| SeccompError::Parse { path: String::new(), source })?;
    let own = if cfg!(target_arch = "aarch64") { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" };
    profile["architectures"] = serde_json::json!([own]);
    Ok(profile)
}

/// A local one, as it is written: [`local`] has looked whether it is one.
pub(crate) fn local_profile(path: &Path) -> Result<serde_json::Value, SeccompError> {
    let name = path.display().to_string();
    let text = std::fs::read(path).map_err(|source| SeccompError::Read { path: name.clone(), source })?;
    serde_json::from_slice(&text).map_err(|source| SeccompError::Parse { path: name, source })
}

/// Names and numbers of this machine's system calls.
fn table() -> impl Iterator<Item = (&'static str, u32)> {
    let text = if cfg!(target_arch = "aarch64") {
        include_str!("seccomp/aarch64.txt")
    } else {
        include_str!("seccomp/x86_64.txt")
    };
    text.lines().filter_map(|line| {
        let (name, number) = line.split_once(' ')?;
        Some((name, number.parse().ok()?))
    })
}
