//! The request path: identity, overload, authorisation, route, and what every answer carries.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use http::header::{ACCEPT, AUTHORIZATION, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::BodyExt;
use podium_api::codec::Encoding;
use podium_api::status::ApiError;
use rustls_pki_types::CertificateDer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::authentication::User;
use crate::authorization::Attributes;
use crate::body::{self, Body, RequestBody};
use crate::catalogue::Served;
use crate::core::Core;
use crate::metrics::{Labels, Resource};
use crate::negotiate::{self, Output};
use crate::registry::{self, Call};
use crate::request::{self, Query, RequestInfo};
use crate::response::{self, Reply};
use crate::{connect, gzip, routes};

/// Who is on the other side.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// Someone on the network, with the certificates of the connection.
    Network {
        /// Leaf first; `None` if the client showed none.
        certificates: Option<Arc<Vec<CertificateDer<'static>>>>,
    },
    /// A part of this process, whose identity was attached when its client was made.
    InProcess(User),
}

/// Answers one request, whatever happens.
pub(crate) fn serve(
    core: Arc<Core>,
    request: Request<RequestBody>,
    caller: Caller,
) -> BoxFuture<'static, Reply> {
    Box::pin(serve_any(core, request, caller))
}

async fn serve_any(core: Arc<Core>, request: Request<RequestBody>, caller: Caller) -> Reply {
    let started = Instant::now();
    let audit_id = audit_id(request.headers());
    let info =
        request::parse(request.method(), request.uri().path(), request.uri().query().unwrap_or_default());
    let gzip_accepted = matches!(caller, Caller::Network { .. }) && gzip::accepted(request.headers());
    let encoding = error_encoding(request.headers());
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let served = core.catalogue.find(&info.group, &info.version, &info.resource);
    let long = is_long_running(&info, &query);
    let labels = labels(&info, served.as_ref(), long, &query);
    let counted = long.then(|| LongRunning::begin(Arc::clone(&core), labels.clone()));

    let context = Context { core: Arc::clone(&core), info, query, caller, long };
    let answered = AssertUnwindSafe(context.answer(request, served)).catch_unwind();
    let limited = async {
        if long {
            Ok(answered.await)
        } else {
            tokio::time::timeout(core.config.limits.request, answered).await
        }
    };
    let mut reply = match limited.await {
        Ok(Ok(Ok(reply))) => reply,
        Ok(Ok(Err(error))) => response::error(&error, encoding),
        Ok(Err(panic)) => {
            core.metrics.panics.fetch_add(1, Ordering::Relaxed);
            tracing::error!(verb = labels.verb, resource = ?labels.resource.as_ref().map(|resource| &resource.0.plural), panic = panic_text(panic.as_ref()), "a handler panicked");
            let text = "This request caused apiserver to panic. Look in the logs for details.";
            response::error(&ApiError::internal(text), encoding)
        }
        Err(_) => {
            let text = "Timeout: request did not complete within the allotted timeout";
            response::error(&response::timeout(text, 1), encoding)
        }
    };
    let elapsed = (!long).then(|| started.elapsed());
    core.metrics.answered(&labels, reply.status().as_u16(), elapsed);
    reply.headers_mut().insert("audit-id", audit_id);
    if gzip_accepted {
        reply = gzip::compress(reply);
    }
    match counted {
        Some(counted) => reply.map(|body| counted.hold(body)),
        None => reply,
    }
}

struct Context {
    core: Arc<Core>,
    info: RequestInfo,
    query: Query,
    caller: Caller,
    long: bool,
}

impl Context {
    async fn answer(
        self,
        mut request: Request<RequestBody>,
        served: Option<Arc<Served>>,
    ) -> Result<Reply, ApiError> {
        let user = self.identify(request.headers_mut())?;
        let _turn = self.turn().await?;
        self.authorize(&user)?;
        if !self.info.is_resource {
            let (head, _) = request.into_parts();
            return routes::serve(&self.core, &self.info, &head.method, &head.headers, &self.query).await;
        }
        let served = served.ok_or_else(response::unknown_path)?;
        let output = self.output(request.headers())?;
        let manager = self.manager(request.headers(), &user);
        let call = Call {
            core: Arc::clone(&self.core),
            served,
            info: self.info,
            query: self.query,
            user,
            output,
            content_type: registry::content_type(request.headers()),
            manager,
            warnings: parking_lot::Mutex::default(),
        };
        if connect::handles(&call.info) {
            return connect::serve(&call, request).await;
        }
        let has_body = !matches!(call.info.verb, "get" | "list" | "watch");
        let bytes = if has_body { body::read(request.into_body()).await? } else { bytes::Bytes::new() };
        call.answer(bytes).await
    }

    /// Who asks: authentication, then impersonation. Credentials go no further than this.
    fn identify(&self, headers: &mut HeaderMap) -> Result<User, ApiError> {
        let user = match &self.caller {
            Caller::InProcess(user) => user.clone(),
            Caller::Network { certificates } => {
                let certificates = certificates.as_ref().map(|chain| chain.as_slice());
                self.core.authenticator.authenticate(certificates, headers)?
            }
        };
        headers.remove(AUTHORIZATION);
        match self.core.authenticator.impersonate(&user, headers, &self.core.authorizer)? {
            Some(other) => Ok(other),
            None => Ok(user),
        }
    }

    /// Who writes, where the query does not say.
    fn manager(&self, headers: &HeaderMap, user: &User) -> String {
        let agent = headers.get(USER_AGENT).and_then(|value| value.to_str().ok());
        match (agent, &self.caller) {
            (Some(agent), _) if !agent.is_empty() => registry::from_user_agent(agent),
            (_, Caller::InProcess(_)) => registry::from_identity(user),
            _ => String::new(),
        }
    }

    /// Waits for a turn among the requests under way; 429 when there are too many before it.
    async fn turn(&self) -> Result<Option<Turn>, ApiError> {
        // The process' own parts are not turned away: they are what brings the load down again.
        if self.long || matches!(self.caller, Caller::InProcess(_)) {
            return Ok(None);
        }
        let metrics = &self.core.metrics;
        let reads = matches!(self.info.verb, "get" | "list" | "watch" | "head" | "options");
        let queue: &Arc<Semaphore> = if reads { &self.core.reading } else { &self.core.mutating };
        let permit = match Arc::clone(queue).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                match tokio::time::timeout(self.core.config.limits.queue, Arc::clone(queue).acquire_owned())
                    .await
                {
                    Ok(Ok(permit)) => permit,
                    Ok(Err(_)) => return Err(response::unavailable("the server is shutting down")),
                    Err(_) => {
                        metrics.rejected.fetch_add(1, Ordering::Relaxed);
                        return Err(response::too_many_requests(
                            "Too many requests, please try again later.",
                            1,
                        ));
                    }
                }
            }
        };
        let turn = Turn { core: Arc::clone(&self.core), reads, _permit: permit };
        turn.gauge().fetch_add(1, Ordering::Relaxed);
        Ok(Some(turn))
    }

    fn authorize(&self, user: &User) -> Result<(), ApiError> {
        self.authorize_verb(user, self.info.verb)?;
        connect::also_needs(&self.info).map_or(Ok(()), |verb| self.authorize_verb(user, verb))
    }

    fn authorize_verb(&self, user: &User, verb: &str) -> Result<(), ApiError> {
        let info = &self.info;
        let attributes = Attributes {
            user,
            verb,
            group: &info.group,
            version: &info.version,
            resource: &info.resource,
            subresource: &info.subresource,
            namespace: &info.namespace,
            name: &info.name,
            resource_request: info.is_resource,
            path: &info.path,
            field_selector: self.query.first("fieldSelector").unwrap_or_default(),
            label_selector: self.query.first("labelSelector").unwrap_or_default(),
        };
        self.core.authorizer.check(&attributes)
    }

    fn output(&self, headers: &HeaderMap) -> Result<Output, ApiError> {
        if connect::handles(&self.info) {
            return Ok(Output::JSON);
        }
        let accept: Vec<&str> =
            headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
        let mut output = negotiate::output(Some(accept.join(",").as_str()))?;
        output.pretty = self.query.truthy("pretty");
        Ok(output)
    }
}

/// A turn among the requests under way.
struct Turn {
    core: Arc<Core>,
    reads: bool,
    _permit: OwnedSemaphorePermit,
}

impl Turn {
    fn gauge(&self) -> &AtomicI64 {
        let metrics = &self.core.metrics;
        if self.reads { &metrics.inflight_reading } else { &metrics.inflight_mutating }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.gauge().fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a long-running request until its body is dropped.
struct LongRunning {
    core: Arc<Core>,
    labels: Labels,
}

impl LongRunning {
    fn begin(core: Arc<Core>, labels: Labels) -> LongRunning {
        core.metrics.long_running(&labels, 1);
        LongRunning { core, labels }
    }

    fn hold(self, body: Body) -> Body {
        let (pieces, length) = match body {
            Body::Stream { pieces, length } => (pieces.boxed(), length),
            Body::Foreign(body) => (body.into_data_stream().boxed(), None),
            ready @ Body::Ready(_) => return ready,
        };
        // The closure owns the counter for as long as the stream lives.
        let pieces = pieces.inspect(move |_| {
            let _ = &self;
        });
        Body::Stream { pieces: Box::pin(pieces), length }
    }
}

impl Drop for LongRunning {
    fn drop(&mut self) {
        self.core.metrics.long_running(&self.labels, -1);
    }
}

fn is_long_running(info: &RequestInfo, query: &Query) -> bool {
    if !info.is_resource {
        return false;
    }
    let follows = info.subresource != "log" || query.truthy("follow");
    info.verb == "watch" || (connect::handles(info) && follows)
}

/// The client's own audit id if it is harmless, else a new one.
fn audit_id(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get("audit-id").filter(|value| {
        (1..=64).contains(&value.len())
            && value.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
    });
    given.cloned().unwrap_or_else(|| {
        let mut text = [0; 36];
        let text = uuid::Uuid::new_v4().hyphenated().encode_lower(&mut text);
        HeaderValue::from_str(text).expect("a uuid is a header value")
    })
}

/// How a refusal is encoded, before anything else is known about the request.
fn error_encoding(headers: &HeaderMap) -> Encoding {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    negotiate::output(accept).map_or(Encoding::Json, |output| output.encoding)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// Only what is served becomes a label, so clients cannot make new ones.
fn labels(info: &RequestInfo, served: Option<&Arc<Served>>, long: bool, query: &Query) -> Labels {
    let verb = match info.verb {
        _ if connect::handles(info) && info.subresource != "log" => "CONNECT",
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        _ => "other",
    };
    let Some(served) = served else {
        return Labels { verb, resource: None, subresource: String::new(), scope: "", dry_run: "" };
    };
    let known = served.subresource(&info.subresource).is_some();
    let scope = if !info.name.is_empty() || verb == "POST" {
        "resource"
    } else if info.namespace.is_empty() {
        "cluster"
    } else {
        "namespace"
    };
    Labels {
        verb,
        resource: Some(Resource(Arc::clone(served))),
        subresource: if known { info.subresource.clone() } else { String::new() },
        scope,
        dry_run: if !long && query.has("dryRun") { "All" } else { "" },
    }
}

/// How long connections may take to finish when the server stops.
pub(crate) const DRAIN: Duration = Duration::from_secs(10);
