//! List: a gather of stored bytes at one revision, page by page if asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::StatusCode;
use podium_store::{RangeOptions, ReadError, Record};
use serde_json::{Map, Value, json};

use podium_api::codec::Encoding;
use podium_api::status::ApiError;

use super::assemble::{JsonList, gathered, protobuf as protobuf_list};
use super::{Call, is_plain, too_large};
use crate::continue_token::ContinueToken;
use crate::hot::Hot;
use crate::negotiate::{self, Arity, Shape};
use crate::options::{self, Freshness, ListOptions};
use crate::response::{self, Reply};
use crate::storage::{TypePrefix, Untyped};
use crate::{storage, table};

/// One page of a list.
pub(super) struct Page {
    pub(super) records: Vec<Arc<Record>>,
    pub(super) revision: u64,
    next: Option<String>,
    remaining: Option<u64>,
}

impl Page {
    pub(super) fn metadata(&self) -> Value {
        let mut metadata = Map::new();
        metadata.insert("resourceVersion".to_owned(), json!(self.revision.to_string()));
        if let Some(next) = &self.next {
            metadata.insert("continue".to_owned(), json!(next));
        }
        if let Some(remaining) = self.remaining {
            metadata.insert("remainingItemCount".to_owned(), json!(remaining));
        }
        Value::Object(metadata)
    }
}

impl Call {
    pub(super) async fn list(&self) -> Result<Reply, ApiError> {
        let options = options::list(&self.query, &self.info, &self.served, false)?;
        if let Freshness::NotOlderThan(revision) = options.freshness {
            self.wait_for(revision).await?;
        }
        self.check_arity(Arity::List)?;
        match self.read_page(&options).await? {
            Ok(page) => self.reply_page(page).await,
            Err(expired) => Ok(response::object(StatusCode::GONE, &expired, self.output_of_status())),
        }
    }

    fn output_of_status(&self) -> crate::negotiate::Output {
        crate::negotiate::Output { shape: Shape::Native, ..self.output }
    }

    /// Reads one page; a continue token that is too old is an error here.
    pub(super) async fn read_selected(&self, options: &ListOptions) -> Result<Page, ApiError> {
        self.read_page(options)
            .await?
            .map_err(|status| ApiError::expired(status["message"].as_str().unwrap_or_default().to_owned()))
    }

    /// Reads one page. The inner error is the whole `Status` of an expired continue token, which carries a new token.
    async fn read_page(&self, options: &ListOptions) -> Result<Result<Page, Value>, ApiError> {
        let whole = storage::range(&self.served, self.namespace())?;
        let mut range = whole.clone();
        let mut revision = match options.freshness {
            Freshness::Exact(revision) => Some(revision),
            _ => None,
        };
        let mut start_text = None;
        if let Some(text) = &options.continue_token {
            let token = ContinueToken::decode(text)?;
            let start = format!("{}{}", self.served.prefix, token.start);
            if !whole.contains(start.as_bytes()) {
                return Err(ApiError::bad_request(format!(
                    "invalid continue token: continue key is not valid: {}",
                    token.start
                )));
            }
            range = whole.starting_at(start.as_bytes());
            revision = u64::try_from(token.revision).ok();
            start_text = Some(token.start);
        }
        // One name: one look-up.
        let name = options.selection.fields.exact_requirement("metadata.name");
        if let (Some(name), true) = (name, !self.served.namespaced || !self.namespace().is_empty())
            && let Ok(key) = storage::key(&self.served, self.namespace(), name)
            && range.contains(&key)
        {
            range = podium_store::KeyRange::single(&key);
        }
        match self.scan(&range, revision, options).await {
            Ok(page) => Ok(Ok(page)),
            Err(ReadError::Future { current }) => Err(too_large(revision.unwrap_or(0), current)),
            Err(ReadError::Compacted { .. }) => match &start_text {
                Some(start) => Ok(Err(expired_token(start))),
                None => Err(ApiError::expired("The resourceVersion for the provided list is too old.")),
            },
            // As upstream when etcd does not answer in time.
            Err(ReadError::Remote(fault)) => Err(response::timeout(fault.message, 1)),
        }
    }

    async fn scan(
        &self,
        range: &podium_store::KeyRange,
        revision: Option<u64>,
        options: &ListOptions,
    ) -> Result<Page, ReadError> {
        let store = &self.core.store;
        let selection = &options.selection;
        let all = selection.is_everything();
        let counted = self.core.metrics.kind(&self.served);
        let looked_at = AtomicU64::new(0);
        let matches = |record: &Record| {
            all || {
                looked_at.fetch_add(1, Ordering::Relaxed);
                selection.matches(&self.served, record)
            }
        };
        let limit = options.limit;
        let asked = RangeOptions { revision, limit };
        let found = match store.range_where(range, asked, selection.bits(), matches) {
            // What only an engine's past has is chosen from here.
            Err(ReadError::Compacted { .. }) => {
                let limit = if all { limit } else { 0 };
                let mut found = store.range_at(range, RangeOptions { revision, limit }).await?;
                let fetched = found.records.len();
                found.records.retain(|record| matches(record));
                if !all && options.limit > 0 && found.records.len() > options.limit {
                    found.records.truncate(options.limit);
                    found.more = true;
                }
                counted.listed_past(fetched, found.records.len());
                found
            }
            found => {
                let found = found?;
                let returned = found.records.len();
                let fetched = if all { returned as u64 } else { looked_at.load(Ordering::Relaxed) };
                counted.listed(fetched, returned);
                found
            }
        };
        let next = found.more.then(|| self.next_token(&found.records, found.revision)).flatten();
        let remaining = (all && found.more).then_some(found.remaining);
        Ok(Page { records: found.records, revision: found.revision, next, remaining })
    }

    /// The token that goes on behind the last record.
    fn next_token(&self, records: &[Arc<Record>], revision: u64) -> Option<String> {
        let key = &records.last()?.key;
        let tail = std::str::from_utf8(key.get(self.served.prefix.len()..)?).ok()?;
        let revision = i64::try_from(revision).ok()?;
        Some(ContinueToken { revision, start: format!("{tail}\0") }.encode())
    }

    async fn reply_page(&self, page: Page) -> Result<Reply, ApiError> {
        let metadata = page.metadata();
        if is_plain(self.output) && self.served.as_stored() {
            return self.gather(page, &metadata);
        }
        let kind = format!("{}List", self.served.kind);
        let protobuf = (self.output.shape, self.output.encoding) == (Shape::Native, Encoding::Protobuf);
        if protobuf && Hot::covers(&self.served) {
            let body = protobuf_list(&self.core, &self.served, page.records, &metadata, &kind).await?;
            return Ok(response::with_body(
                StatusCode::OK,
                negotiate::content_type(Encoding::Protobuf),
                body,
            ));
        }
        match (self.output.shape, self.output.encoding) {
            (shape, Encoding::Json) if !self.output.pretty => {
                let include = self.include_object()?;
                let (head, items) = match shape {
                    Shape::Native => {
                        let version = self.served.api_version();
                        (json!({"kind": kind, "apiVersion": version, "metadata": metadata}), "items")
                    }
                    Shape::Metadata(version, _) => (table::partial_list_head(version, &metadata), "items"),
                    Shape::Table(version) => (table::head(&self.served, version, &metadata), "rows"),
                };
                let mut list = JsonList::new(&head, items);
                let now = jiff::Timestamp::now();
                self.each(&page, |object| {
                    list.push(&match shape {
                        Shape::Native => {
                            let mut object = self.to_served(object)?;
                            storage::forget_type(&mut object);
                            object
                        }
                        Shape::Metadata(version, _) => table::partial(&object, version),
                        Shape::Table(version) => table::row(&self.served, version, include, object, now),
                    });
                    Ok(())
                });
                Ok(response::bytes(StatusCode::OK, "application/json", list.finish()))
            }
            // What is left is for people to read: YAML, indented JSON, metadata in protobuf.
            (shape, _) => {
                let mut items = Vec::with_capacity(page.records.len());
                self.each(&page, |object| {
                    items.push(if shape == Shape::Native { self.to_served(object)? } else { object });
                    Ok(())
                });
                Ok(response::object(StatusCode::OK, &self.list_of(items, &metadata)?, self.output))
            }
        }
    }

    /// Hands each object of a page to `take`, as it is stored. One damaged object must not hide the others.
    fn each(&self, page: &Page, mut take: impl FnMut(Value) -> Result<(), ApiError>) {
        for record in &page.records {
            if let Err(error) = storage::parse(record).and_then(&mut take) {
                tracing::error!(key = %record.key, %error, "left out of a list");
            }
        }
    }

    /// A list of objects as one tree: in the served version for the native shape, as stored for the others.
    pub(super) fn list_of(&self, mut items: Vec<Value>, metadata: &Value) -> Result<Value, ApiError> {
        Ok(match self.output.shape {
            Shape::Native => {
                items.iter_mut().for_each(storage::forget_type);
                json!({
                    "apiVersion": self.served.api_version(),
                    "kind": format!("{}List", self.served.kind),
                    "metadata": metadata,
                    "items": items,
                })
            }
            Shape::Metadata(version, _) => table::partial_list(&items, version, metadata),
            Shape::Table(version) => {
                table::of_many(&self.served, version, self.include_object()?, items, metadata)
            }
        })
    }

    /// The list as stored bytes between brackets, less each one's kind and version: nothing is parsed, and only one
    /// piece at a time is copied.
    fn gather(&self, page: Page, metadata: &Value) -> Result<Reply, ApiError> {
        let head = format!(
            "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
            self.served.kind,
            self.served.api_version()
        );
        const TAIL: &[u8] = b"]}\n";
        let commas = page.records.len().saturating_sub(1);
        let prefix = TypePrefix::of(&self.served);
        let untyped: Vec<Untyped> = page.records.iter().map(|record| prefix.off(record)).collect();
        let items: usize =
            untyped.iter().zip(&page.records).map(|(untyped, record)| untyped.len(record)).sum();
        let length = head.len() + items + commas + TAIL.len();
        let body = gathered(page.records, head.into_bytes(), TAIL, length, move |out, index, record| {
            if index > 0 {
                out.extend_from_slice(b",");
            }
            untyped[index].append_to(out, record);
            Ok(())
        })?;
        Ok(response::with_body(StatusCode::OK, "application/json", body))
    }
}

/// 410 for a token whose revision is gone, with a token that goes on at the newest one.
fn expired_token(start: &str) -> Value {
    let mut status = ApiError::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    )
    .to_status();
    let token = ContinueToken { revision: -1, start: start.to_owned() };
    status["metadata"]["continue"] = json!(token.encode());
    status
}
