//! Get: the stored bytes, at least as new as asked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use podium_store::Record;

use podium_api::status::ApiError;

use super::{Call, too_large};
use crate::negotiate::Arity;
use crate::options;
use crate::response::Reply;

/// How long a read waits for a revision that has not been seen yet. Source: upstream's `blockTimeout`.
const WAIT: Duration = Duration::from_secs(3);

impl Call {
    pub(super) async fn get(&self) -> Result<Reply, ApiError> {
        let version = self.query.first("resourceVersion").unwrap_or_default();
        if let Some(revision) = options::revision(version)? {
            self.wait_for(revision).await?;
        }
        let record = self.current()?;
        self.check_arity(Arity::One)?;
        self.reply_record(StatusCode::OK, &record)
    }

    /// The addressed object's newest record, or 404.
    pub(crate) fn current(&self) -> Result<Arc<Record>, ApiError> {
        self.core.store.get(&self.key()?).ok_or_else(|| self.not_found())
    }

    /// Waits a moment for a revision, then answers 504 as upstream does.
    pub(super) async fn wait_for(&self, revision: u64) -> Result<(), ApiError> {
        let store = &self.core.store;
        // Whoever takes what is there waits for nothing.
        if revision == 0 {
            return Ok(());
        }
        let counted = self.core.metrics.kind(&self.served);
        if store.revision() >= revision {
            counted.waited(Duration::ZERO);
            return Ok(());
        }
        let began = Instant::now();
        let reached = tokio::time::timeout(WAIT, store.wait_for(revision)).await;
        counted.waited(began.elapsed());
        reached.map_err(|_| too_large(revision, store.revision()))
    }
}
