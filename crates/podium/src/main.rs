//! The `podium` binary: every part of Kubernetes behind one name.
//!
//! The program's own name chooses what it is (the container runtime starts it as a CNI plugin); under its own name the
//! subcommand does.

mod addons;
mod certificates;
mod claims;
mod cli;
mod cluster;
mod commands;
mod component;
mod connection;
mod containerd;
mod daemon;
mod engine;
mod join;
mod layout;
mod memory;
mod node;
mod parts;
mod pause;
mod preflight;
mod pull;
mod runtime;
mod serving_approval;
mod settings;
mod steps;
mod store;

use std::process::ExitCode;

use clap::Parser;

/// Serving the API is allocating and freeing JSON trees; with libc's allocator that is a third of what a write costs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a program name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    Podium,
    CniPlugin,
}

/// Chooses by the last part of the path the program was started by.
fn program(argument: Option<&str>) -> Program {
    match argument.and_then(|path| path.rsplit('/').next()) {
        Some(podium_network::cni::PLUGIN | podium_network::cni::LOOPBACK) => Program::CniPlugin,
        _ => Program::Podium,
    }
}

fn main() -> ExitCode {
    let name = std::env::args().next();
    match program(name.as_deref()) {
        Program::CniPlugin => {
            let environment = std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect();
            let code = podium_network::cni_main(&environment, &mut std::io::stdin(), &mut std::io::stdout());
            ExitCode::from(u8::try_from(code).unwrap_or(1))
        }
        Program::Podium => match commands::run(cli::Cli::parse()) {
            Ok(code) => code,
            Err(error) => {
                eprintln!("podium: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_name_chooses() {
        assert_eq!(program(Some("/var/lib/podium/cni/bin/podium-cni")), Program::CniPlugin);
        assert_eq!(program(Some("loopback")), Program::CniPlugin);
        assert_eq!(program(Some("/usr/local/bin/podium")), Program::Podium);
        assert_eq!(program(None), Program::Podium);
    }
}
