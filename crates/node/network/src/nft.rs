//! Rule sets go to the kernel through `nft -f -`, the one program Podium runs: a set is one transaction, so
//! traffic never meets half of it.

use std::io::{self, Write};
use std::process::{Command, Stdio};

/// `nft` refused a rule set or could not be run.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program could not be started or fed.
    #[error("run nft (package nftables)")]
    Run(#[source] io::Error),
    /// The kernel or the parser refused the rules; nothing was changed.
    #[error("nft refused the rules: {message}")]
    Refused {
        /// What it printed first.
        message: String,
    },
}

/// Applies a script as one transaction. Blocks for some milliseconds: call it from a blocking thread.
pub fn apply(script: &str) -> Result<(), NftError> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(NftError::Run)?;
    let mut input = child.stdin.take().expect("stdin was asked for as a pipe");
    let written = input.write_all(script.as_bytes());
    drop(input);
    let output = child.wait_with_output().map_err(NftError::Run)?;
    if output.status.success() {
        return written.map_err(NftError::Run);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(NftError::Refused { message: text.lines().take(4).collect::<Vec<_>>().join(" ") })
}
