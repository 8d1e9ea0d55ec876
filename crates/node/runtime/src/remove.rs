//! Removal of what containers leave behind, see [`podium_shim::remove`]; also away from the async workers.

use std::io;
use std::path::Path;

pub(crate) use podium_shim::remove::{tree, tree_at};

/// [`tree`] away from the async workers: it takes as long as there is something.
pub(crate) async fn tree_aside(path: &Path) -> io::Result<()> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || tree(&path)).await.map_err(io::Error::other)?
}
