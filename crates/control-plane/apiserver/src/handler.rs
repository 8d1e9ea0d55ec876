//! The request path: identity, turn, authorisation, route, and what every answer carries.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::{ACCEPT, AUTHORIZATION, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request};
use parking_lot::Mutex;
use podium_api::accept;
use podium_api::codec::Encoding;
use podium_api::status::ApiError;

use crate::authentication::{Peer, User};
use crate::authorization::{Attributes, Authorizer, Decision};
use crate::body::{self, Body, RequestBody};
use crate::catalogue::Served;
use crate::core::Core;
use crate::flowcontrol::{Classified, Seats};
use crate::metrics::{self, Authentication, Authorization, Counted, Filter, Series};
use crate::negotiate::{self, Output};
use crate::registry::{self, Call};
use crate::request::{self, Query, RequestInfo};
use crate::response::{self, Reply};
use crate::{connect, gzip, routes};

mod held;
mod labels;

/// Who is on the other side.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// Someone on the network, with the certificates of the connection; `None` if the client showed none.
    Network(Option<Arc<Peer>>),
    /// A part of this process, whose identity was attached when its client was made.
    InProcess(Arc<User>),
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
    let headers = request.headers();
    let audit_id = audit_id(headers);
    let uri_query = request.uri().query().unwrap_or_default();
    let info = request::parse(request.method(), request.uri().path(), uri_query);
    let gzip_accepted = matches!(caller, Caller::Network(_)) && gzip::accepted(headers);
    // For refusals, which may come before anything else is known of the request.
    let accepted = headers.get(ACCEPT).cloned();
    let client = metrics::system_client(text(headers.get(USER_AGENT)));
    let query = Query::parse(uri_query);
    let pretty =
        accept::wants_pretty(query.first("pretty"), text(headers.get(USER_AGENT)).unwrap_or_default());
    let refusal = || refusal(accepted.as_ref(), pretty);
    let served = core.catalogue.find(&info.group, &info.version, &info.resource);
    let long = is_long_running(&info, &query);
    let media = text(headers.get(http::header::CONTENT_TYPE));
    let labels = labels::labels(&info, served.as_ref(), media, &query);
    let series = core.metrics.series(&labels);
    let counted = long.then(|| LongRunning::begin(Arc::clone(&series)));

    let mut told = Told::default();
    let allotted =
        if long { Ok(Duration::ZERO) } else { labels::allotted(&query, core.config.limits.request) };
    let mut reply = match allotted {
        Err(error) => response::error(&error, refusal()),
        Ok(allotted) => {
            let context =
                Context { core: &core, series: &series, info, query, pretty, caller, long, told: &mut told };
            let answered = AssertUnwindSafe(context.answer(request, served)).catch_unwind();
            let limited = async {
                if long { Ok(answered.await) } else { tokio::time::timeout(allotted, answered).await }
            };
            match limited.await {
                Ok(Ok(Ok(reply))) => reply,
                Ok(Ok(Err(error))) => response::error(&error, refusal()),
                Ok(Err(panic)) => {
                    core.metrics.panics.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(verb = labels.verb, resource = ?labels.resource.as_ref().map(|resource| &resource.0.plural), panic = panic_text(panic.as_ref()), "a handler panicked");
                    let text = "This request caused apiserver to panic. Look in the logs for details.";
                    response::error(&ApiError::internal(text), refusal())
                }
                Err(_) => {
                    series.terminated(504);
                    response::error(&response::timed_out(), refusal())
                }
            }
        }
    };
    let elapsed = (!long).then(|| started.elapsed());
    series.answered(reply.status().as_u16(), client, elapsed, told.waited, reply.body().length());
    reply.headers_mut().insert("audit-id", audit_id);
    if let Some(classified) = told.classified {
        classified.write(reply.headers_mut());
    }
    if gzip_accepted {
        reply = gzip::compress(reply);
    }
    match counted {
        Some(counted) => reply.map(|body| held::holding(body, counted)),
        None => reply,
    }
}

/// What is learnt on the way and belongs to the answer, whatever it is.
#[derive(Default)]
struct Told {
    classified: Option<Classified>,
    waited: Duration,
}

struct Context<'c> {
    core: &'c Arc<Core>,
    series: &'c Arc<Series>,
    info: RequestInfo,
    query: Query,
    /// Whether the client is one for people, or asks for indented JSON.
    pretty: bool,
    caller: Caller,
    long: bool,
    told: &'c mut Told,
}

impl<'c> Context<'c> {
    async fn answer(
        mut self,
        mut request: Request<RequestBody>,
        served: Option<Arc<Served>>,
    ) -> Result<Reply, ApiError> {
        let user = self.identify(request.headers_mut())?;
        let turn = self.turn(&user, served.as_deref()).await?;
        self.authorize(&user)?;
        if !self.info.is_resource {
            let (head, _) = request.into_parts();
            let asked = routes::Asked {
                path: &self.info.path,
                method: &head.method,
                headers: &head.headers,
                query: &self.query,
                pretty: self.pretty,
            };
            return routes::serve(self.core, asked).await;
        }
        let Some(served) = served else { return routes::not_found(self.core, &self.info.path) };
        if request.method() == Method::HEAD && !connect::handles(&self.info) {
            return Err(response::method_not_allowed());
        }
        let output = self.output(request.headers())?;
        let refusal = refusal(request.headers().get(ACCEPT), self.pretty);
        let reads = matches!(self.info.verb, "get" | "list" | "watch");
        let manager = if reads { String::new() } else { self.manager(request.headers(), &user) };
        let call = Call {
            core: Arc::clone(self.core),
            served,
            info: self.info,
            query: self.query,
            user,
            output,
            refusal,
            content_type: registry::content_type(request.headers()),
            manager,
            warnings: Mutex::default(),
            // A watch gives its seats back once it has begun, not when it ends.
            seats: Mutex::new(Some(turn.seats)),
        };
        call.see_what_others_wrote().await?;
        if connect::handles(&call.info) {
            return connect::serve(&call, request).await;
        }
        let bytes = if reads { bytes::Bytes::new() } else { body::read(request.into_body()).await? };
        if !reads {
            self.core.metrics.kind(&call.served).body(call.info.verb, bytes.len());
        }
        let reply = call.answer(bytes).await?;
        let limit = self.core.config.limits.request;
        let seats = call.seats.lock().take();
        Ok(match seats {
            Some(seats) if matches!(reply.body(), Body::Stream { .. }) => {
                reply.map(|body| held::with_seats(self.core, self.series, body, seats, limit))
            }
            _ => reply,
        })
    }

    /// Who asks: authentication, then impersonation. Credentials go no further than this.
    fn identify(&self, headers: &mut HeaderMap) -> Result<Arc<User>, ApiError> {
        let user = match &self.caller {
            Caller::InProcess(user) => Arc::clone(user),
            Caller::Network(peer) => self.authenticate(peer.as_deref(), headers)?,
        };
        headers.remove(AUTHORIZATION);
        let began = Instant::now();
        let other = self.core.authenticator.impersonate(&user, headers, &self.core.authorizer);
        self.core.metrics.access.passed(Filter::Impersonation, began.elapsed());
        Ok(other?.map_or(user, Arc::new))
    }

    /// Who the credentials of a request from the network say sent it. The parts of this process show none.
    fn authenticate(&self, peer: Option<&Peer>, headers: &HeaderMap) -> Result<Arc<User>, ApiError> {
        let began = Instant::now();
        let user = self.core.authenticator.authenticate_peer(peer, headers);
        let outcome = match &user {
            Ok(_) => Authentication::Success,
            Err(_) if peer.is_some() || headers.contains_key(AUTHORIZATION) => Authentication::Error,
            Err(_) => Authentication::Failure,
        };
        let name = user.as_ref().ok().map(|user| user.name.as_str());
        self.core.metrics.access.authenticated(outcome, name, began.elapsed());
        user
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

    /// Waits for the seats of this request; 429 when there are too many before it.
    async fn turn(&mut self, user: &User, served: Option<&Served>) -> Result<Turn<'c>, ApiError> {
        let none = || Turn { seats: Seats::none(), _under_way: None };
        // The process' own parts are not turned away: they are what brings the load down again. Streams other than
        // watches are not limited, as upstream's are not.
        let limited = !self.long || self.info.verb == "watch";
        if !limited || matches!(self.caller, Caller::InProcess(_)) {
            return Ok(none());
        }
        let core = self.core;
        let metrics = &core.metrics;
        let reads = matches!(self.info.verb, "get" | "list" | "watch" | "head" | "options");
        let (waiting, handling) = if reads {
            (&metrics.reading_waiting, &metrics.reading)
        } else {
            (&metrics.mutating_waiting, &metrics.mutating)
        };
        let arrived = Instant::now();
        let kind = served.map(|served| served.prefix.as_str());
        let (classified, admitted) =
            core.flow_control.admit(user, &self.info, &self.query, kind, waiting).await;
        self.told.classified = classified;
        self.told.waited = arrived.elapsed();
        metrics.access.passed(Filter::PriorityAndFairness, self.told.waited);
        match admitted {
            Ok(seats) => Ok(Turn { seats, _under_way: Some(Counted::of(handling)) }),
            Err(refusal) => {
                self.series.terminated(429);
                let text = "Too many requests, please try again later.";
                Err(response::too_many_requests(text, refusal.retry_after))
            }
        }
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
        let began = Instant::now();
        let decision = self.core.authorizer.authorize(&attributes);
        let outcome = match &decision {
            Decision::Allow { .. } => Authorization::Allowed,
            Decision::Deny { .. } => Authorization::Denied,
            Decision::NoOpinion { .. } => Authorization::NoOpinion,
        };
        self.core.metrics.access.authorized(outcome, began.elapsed());
        if decision.allowed() { Ok(()) } else { Err(Authorizer::forbidden(&attributes, decision.reason())) }
    }

    fn output(&self, headers: &HeaderMap) -> Result<Output, ApiError> {
        if connect::handles(&self.info) {
            return Ok(Output::JSON);
        }
        let accept = text(headers.get(ACCEPT)).unwrap_or_default();
        negotiate::routed(accept, matches!(self.info.verb, "list" | "watch"))?;
        let mut output = negotiate::output(accept)?;
        if self.info.verb != "watch" {
            output.pretty |= self.pretty;
            return Ok(output);
        }
        // Frames are never indented.
        output.pretty = false;
        if output.encoding == Encoding::Yaml { Err(negotiate::no_stream()) } else { Ok(output) }
    }
}

/// A turn among the requests under way.
struct Turn<'m> {
    seats: Seats,
    _under_way: Option<Counted<'m>>,
}

/// Counts a long-running request until its body is dropped.
struct LongRunning(Arc<Series>);

impl LongRunning {
    fn begin(series: Arc<Series>) -> LongRunning {
        series.long_running(1);
        LongRunning(series)
    }
}

impl Drop for LongRunning {
    fn drop(&mut self) {
        self.0.long_running(-1);
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

fn text(value: Option<&HeaderValue>) -> Option<&str> {
    value.and_then(|value| value.to_str().ok())
}

/// How a refusal is encoded; `None` where the client takes nothing we have.
fn refusal(accept: Option<&HeaderValue>, pretty: bool) -> Option<Output> {
    let output = negotiate::plain(text(accept).unwrap_or_default())?;
    Some(Output { pretty: output.pretty || pretty, ..output })
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// How long connections may take to finish when the server stops.
pub(crate) const DRAIN: Duration = Duration::from_secs(10);
