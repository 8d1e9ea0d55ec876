//! `cargo xtask`: the project's own tasks.

mod ci;
#[cfg(feature = "codegen")]
mod codegen;
mod packages;
#[cfg(feature = "codegen")]
mod protos;
mod tidy;
mod up;

use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "cargo xtask TASK

  up [ARGS]          install what is missing, build, and start a cluster: the arguments are those of `podium up`
  ci [STEP...]       every check: packages fmt tidy clippy test doc codegen build e2e containerd
  e2e [FILTER]       only the end-to-end tests
  bench              measures a node and the store, beside upstream's figures
  bench api [ARGS]   measures an API server, ours alone or the one of --kubeconfig, beside upstream's figures
  bench node [ARGS]  measures kubelet and container runtime, ours or those of --node, beside upstream's figures
  codegen [--check]  write the generated files again, or compare them
  tidy               layering, headers, lints";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let (task, rest) = arguments.split_first().map_or(("", arguments), |(task, rest)| (task.as_str(), rest));
    match task {
        "up" => up::run(rest),
        "ci" => ci::run(rest),
        "e2e" => ci::e2e(rest),
        "bench" => match rest.split_first() {
            Some((what, rest)) if what == "api" => ci::bench_api(rest),
            Some((what, rest)) if what == "node" => ci::bench_node(rest),
            Some((what, _)) => bail!("unknown bench {what:?}\n\n{HELP}"),
            None => ci::bench(),
        },
        "tidy" => tidy::run(),
        "codegen" => codegen_task(rest),
        "" | "help" | "--help" | "-h" => {
            println!("{HELP}");
            Ok(())
        }
        other => bail!("unknown task {other:?}\n\n{HELP}"),
    }
}

#[cfg(feature = "codegen")]
fn codegen_task(arguments: &[String]) -> Result<()> {
    let check = arguments.iter().any(|argument| argument == "--check");
    codegen::run(check)?;
    protos::run(check)
}

/// Builds ourselves again, with the generators.
#[cfg(not(feature = "codegen"))]
fn codegen_task(arguments: &[String]) -> Result<()> {
    let mut command =
        ci::cargo(&["run", "--quiet", "--package", "xtask", "--features", "codegen", "--", "codegen"]);
    command.args(arguments);
    ci::must(&mut command)
}
