//! Plugins that are found by their socket: whoever puts one into the node's `plugins_registry` is asked what it is, and handed
//! to the part of the kubelet that uses plugins of its type.
//!
//! - `decide`: which sockets are to be registered and which are gone. Pure.
//! - `registration`: the conversation with one plugin.
//!
//! The directory is looked at as a whole after every change in it; the kernel's notices say only that there is one.
//! Source of the behaviour and of the messages: upstream's `pluginmanager` at v1.36.

mod decide;
mod registration;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use futures::future::BoxFuture;

use crate::directory_watch::DirectoryWatch;
use decide::{Known, SocketId};

/// Uses plugins of one type.
pub(crate) trait PluginHandler: Send + Sync {
    /// Why a plugin of this name, at this socket and with these versions is none.
    fn validate(&self, name: &str, endpoint: &Path, versions: &[String]) -> Result<(), String>;
    /// Takes a plugin into use; it takes the place of one of the same name.
    fn register<'a>(
        &'a self,
        name: &'a str,
        endpoint: &'a Path,
        versions: &'a [String],
    ) -> BoxFuture<'a, Result<(), String>>;
    /// The plugin's socket is gone.
    fn deregister(&self, name: &str, endpoint: &Path);
}

/// A plugin in use.
#[derive(Clone)]
pub(crate) struct Plugin {
    handler: Arc<dyn PluginHandler>,
    name: String,
    endpoint: PathBuf,
}

/// See the module.
pub(crate) struct PluginManager {
    directory: PathBuf,
    handlers: BTreeMap<&'static str, Arc<dyn PluginHandler>>,
}

impl std::fmt::Debug for PluginManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginManager").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl PluginManager {
    /// For plugins below `directory`.
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory, handlers: BTreeMap::new() }
    }

    /// Whom plugins of a type are handed to.
    pub(crate) fn handle(mut self, type_: &'static str, handler: Arc<dyn PluginHandler>) -> Self {
        self.handlers.insert(type_, handler);
        self
    }

    /// Follows the directory until dropped.
    pub(crate) async fn run(&self) -> io::Result<()> {
        let watch = DirectoryWatch::new(&self.directory)?;
        let mut known = Known::default();
        loop {
            let sockets = sockets(&self.directory, &watch);
            let plan = decide::decide(&known, &sockets, Instant::now());
            for path in &plan.gone {
                if let Some(Plugin { handler, name, endpoint }) = known.forget(path) {
                    tracing::info!(name, socket = %path.display(), "a plugin is gone");
                    handler.deregister(&name, &endpoint);
                }
            }
            let conversations = plan.register.iter().map(|(path, id)| async move {
                (path, *id, registration::register(&self.handlers, path).await)
            });
            for (path, id, outcome) in futures::future::join_all(conversations).await {
                if let Err(error) = &outcome {
                    tracing::warn!(socket = %path.display(), error, "a plugin could not be registered");
                }
                known.note(path, id, outcome.ok(), Instant::now());
            }
            if !plan.register.is_empty() {
                // The directory may have changed meanwhile, and a failure has a time for its next try.
                continue;
            }
            tokio::select! {
                changed = watch.changed() => { changed?; }
                () = until(plan.next) => {}
            }
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// All sockets below the directory, each directory watched before it is read. Names that begin with a dot do not count.
fn sockets(directory: &Path, watch: &DirectoryWatch) -> BTreeMap<PathBuf, SocketId> {
    let mut found = BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries = watch.add(&directory).and_then(|()| std::fs::read_dir(&directory));
        let entries = match entries {
            Ok(entries) => entries,
            Err(error) => {
                tracing::debug!(%error, directory = %directory.display(), "a directory of plugins cannot be read");
                continue;
            }
        };
        for entry in entries.flatten().filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."))
        {
            // Not through links: a link to a directory above would have no end.
            let Ok(metadata) = entry.path().symlink_metadata() else { continue };
            if metadata.is_dir() {
                directories.push(entry.path());
            } else if metadata.file_type().is_socket() {
                let id = SocketId { inode: metadata.ino(), made: (metadata.ctime(), metadata.ctime_nsec()) };
                found.insert(entry.path(), id);
            }
        }
    }
    found
}
