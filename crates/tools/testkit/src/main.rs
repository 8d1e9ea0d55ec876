//! `podium-testkit images DIR`: builds the images of the examples and tests as archives.

use std::path::Path;
use std::process::ExitCode;

use podium_testkit::images;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [task, directory] = arguments.as_slice() else {
        eprintln!("usage: podium-testkit images DIR");
        return ExitCode::FAILURE;
    };
    if task != "images" {
        eprintln!("unknown task {task:?}; usage: podium-testkit images DIR");
        return ExitCode::FAILURE;
    }
    match build(Path::new(directory)) {
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
