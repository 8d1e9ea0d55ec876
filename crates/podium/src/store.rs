//! `podium store export|import`: everything a cluster holds in a file, and from one engine to the other.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use podium_store::{Revision, Store};

use crate::cli::Data;
use crate::engine::{Engine, Etcd};
use crate::layout::Layout;
use crate::steps::say;

/// `podium store`.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Write everything that is stored to a new file; an embedded store must not be in use meanwhile
    Export(Flags),
    /// Put what was exported into a store that is empty
    ///
    /// The embedded store goes on with the resource versions of the export. An etcd counts its own, which may be lower: restart
    /// everything that watches.
    Import(Flags),
}

#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// The file. It holds Secrets in plain text
    file: PathBuf,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    etcd: Etcd,
}

/// Runs `podium store`.
pub(crate) fn run(command: &StoreCommand) -> Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    let (StoreCommand::Export(flags) | StoreCommand::Import(flags)) = command;
    let engine = Engine::choose(&flags.etcd, &Layout::new(&flags.data.data_dir)?);
    let file = flags.file.display();
    let line = match command {
        StoreCommand::Export(_) => {
            let revision = runtime.block_on(export(&engine, flags))?;
            format!("exported everything as of revision {revision} to {file}")
        }
        StoreCommand::Import(_) => match &engine {
            Engine::Log(directory) => {
                let revision = Store::restore(&flags.file, directory)?;
                format!("imported {file} as of revision {revision} into {}", directory.display())
            }
            Engine::Etcd(config) => {
                let keys = runtime.block_on(async {
                    let store = engine.open().await?;
                    let imported = store.import(&flags.file).await;
                    store.close().await;
                    imported.with_context(|| {
                        format!("import into {}{}", config.endpoints.join(","), config.prefix)
                    })
                })?;
                format!("imported {keys} keys of {file} into etcd")
            }
        },
    };
    say(&line);
    Ok(ExitCode::SUCCESS)
}

async fn export(engine: &Engine, flags: &Flags) -> Result<Revision> {
    if let Engine::Log(directory) = engine {
        // Opening it would make one.
        ensure!(directory.exists(), "there is no store in {}", directory.display());
    }
    let store = engine.open().await?;
    let written = store.snapshot(&flags.file).await;
    store.close().await;
    Ok(written?)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;
    use podium_store::{Change, Config, Expect, Key};

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        command: StoreCommand,
    }

    fn store(verb: &str, file: &Path, data: &Path) -> Result<ExitCode> {
        let arguments =
            ["store", verb, &file.display().to_string(), "--data-dir", &data.display().to_string()];
        run(&Line::try_parse_from(arguments).unwrap().command)
    }

    #[test]
    fn what_is_exported_can_be_imported_elsewhere() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (directory.path().join("one"), directory.path().join("other"));
        let file = directory.path().join("file");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let open = |data: &Path| {
            let config = Config::new(Layout::new(data).unwrap().store());
            runtime.block_on(Store::open(config)).unwrap()
        };
        let error = store("export", &file, &one).unwrap_err().to_string();
        assert!(error.contains("there is no store in"), "{error}");
        assert!(!one.exists(), "asking makes none");

        let before = open(&one);
        runtime.block_on(before.commit(Key::from("/k"), Expect::Absent, Change::put("v"))).unwrap();
        let revision = before.revision();
        let error = format!("{:#}", store("export", &file, &one).unwrap_err());
        assert!(error.contains("in use by another process"), "{error}");
        runtime.block_on(before.close());
        drop(before);
        store("export", &file, &one).unwrap();
        let error = store("export", &file, &one).unwrap_err().to_string();
        assert!(error.contains("exists already"), "{error}");

        store("import", &file, &other).unwrap();
        let after = open(&other);
        assert_eq!(after.revision(), revision);
        assert_eq!(&after.get(b"/k").unwrap().value[..], b"v");
        runtime.block_on(after.close());
        let error = store("import", &file, &other).unwrap_err().to_string();
        assert!(error.contains("exists already"), "{error}");
    }
}
