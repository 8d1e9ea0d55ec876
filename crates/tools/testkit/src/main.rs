//! `podium-testkit images DIR` builds the images of the examples and tests as archives; `podium-testkit bench` measures a
//! whole node, `podium-testkit load` an API server, `podium-testkit node` kubelet and container runtime.

use std::path::Path;
use std::process::ExitCode;

use podium_testkit::{bench, images, load, node};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["images", directory] => build(Path::new(directory)),
        ["bench"] => bench::run(),
        ["load", rest @ ..] => load::run(rest),
        ["node", rest @ ..] => node::run(rest),
        _ => {
            eprintln!("usage: podium-testkit images DIR | bench | load [ARGS] | node [ARGS]");
            return ExitCode::FAILURE;
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("podium-testkit: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn build(directory: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory)?;
    for path in images::web(directory)?.into_iter().chain(images::busybox(directory)?) {
        println!("{}", path.display());
    }
    Ok(())
}
