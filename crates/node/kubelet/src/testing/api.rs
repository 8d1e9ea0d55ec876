//! An API server in memory, as far as a kubelet needs one: objects by path, watches, and patches of the
//! few shapes a kubelet sends. No validation, no authorisation.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use kube::{Client, client::Body};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

#[derive(Debug, Clone)]
struct Event {
    version: u64,
    resource: String,
    type_: &'static str,
    object: Value,
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    objects: BTreeMap<(String, String, String), Value>,
    log: Vec<Event>,
    /// Tokens are all different and expire at once.
    short_tokens: bool,
    /// What tokens were asked for.
    token_requests: Vec<Value>,
    /// Resources that are not served.
    lacking: std::collections::BTreeSet<String>,
}

/// The server. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct FakeApi {
    state: Arc<Mutex<State>>,
    newest: watch::Sender<u64>,
}

/// A request path taken apart.
#[derive(Debug)]
struct Target {
    resource: String,
    namespace: String,
    name: String,
    sub: String,
}

impl Target {
    fn parse(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let rest = match parts.first()? {
            &"api" => parts.get(2..)?,
            _ => parts.get(3..)?,
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            rest => ("", rest),
        };
        let at = |index: usize| rest.get(index).map(|part| (*part).to_owned()).unwrap_or_default();
        Some(Self { resource: at(0), namespace: namespace.to_owned(), name: at(1), sub: at(2) })
    }
}

impl FakeApi {
    pub(crate) fn new() -> Self {
        Self { state: Arc::default(), newest: watch::Sender::new(0) }
    }

    pub(crate) fn client(&self) -> Client {
        podium_client::in_process(self.clone(), "default")
    }

    /// From now on tokens live for a second, and no two are alike.
    pub(crate) fn short_tokens(&self) {
        self.state.lock().short_tokens = true;
    }

    /// What tokens were asked for, in the order of the requests.
    pub(crate) fn token_requests(&self) -> Vec<Value> {
        self.state.lock().token_requests.clone()
    }

    /// From now on this resource is not served.
    pub(crate) fn lack(&self, resource: &str) {
        self.state.lock().lacking.insert(resource.to_owned());
    }

    /// From now on it is again.
    pub(crate) fn have(&self, resource: &str) {
        self.state.lock().lacking.remove(resource);
    }

    fn token(&self, account: &str) -> Value {
        let mut state = self.state.lock();
        if !state.short_tokens {
            return json!({"token": format!("token-of-{account}"), "expirationTimestamp": "2100-01-01T00:00:00Z"});
        }
        state.version += 1;
        let expires = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(1);
        json!({"token": format!("token-of-{account}-{}", state.version), "expirationTimestamp": expires.to_string()})
    }

    /// Puts an object there as if somebody had created or replaced it.
    pub(crate) fn put(&self, resource: &str, mut object: Value) -> Value {
        let mut state = self.state.lock();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let key =
            (resource.to_owned(), text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
        let known = state.objects.get(&key).cloned();
        let meta = object["metadata"].as_object_mut().expect("an object has metadata");
        let uid = known
            .as_ref()
            .map_or_else(|| json!(uuid::Uuid::new_v4().to_string()), |old| old["metadata"]["uid"].clone());
        meta.entry("uid").or_insert(uid);
        meta.entry("creationTimestamp")
            .or_insert(json!(jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()));
        let type_ = if known.is_some() { "MODIFIED" } else { "ADDED" };
        let object = state.note(key.0.clone(), type_, object);
        state.objects.insert(key, object.clone());
        self.newest.send_replace(state.version);
        object
    }

    pub(crate) fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.state.lock().objects.get(&(resource.to_owned(), namespace.to_owned(), name.to_owned())).cloned()
    }

    pub(crate) fn list(&self, resource: &str) -> Vec<Value> {
        let state = self.state.lock();
        state
            .objects
            .iter()
            .filter(|((of, _, _), _)| of == resource)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Asks for a deletion, with a grace period for pods.
    pub(crate) fn delete(&self, resource: &str, namespace: &str, name: &str, grace: Option<i64>) {
        let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        let mut state = self.state.lock();
        let Some(mut object) = state.objects.get(&key).cloned() else { return };
        let grace =
            grace.unwrap_or_else(|| object["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30));
        if resource == "pods" && grace > 0 {
            let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            object["metadata"]["deletionTimestamp"] = json!(now);
            object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
            let object = state.note(key.0.clone(), "MODIFIED", object);
            state.objects.insert(key, object);
        } else {
            state.objects.remove(&key);
            state.note(key.0.clone(), "DELETED", object);
        }
        self.newest.send_replace(state.version);
    }

    async fn answer(self, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let query: BTreeMap<String, String> = parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.replace("%3D", "=").replace("%2C", ",")))
            .collect();
        let Some(target) = Target::parse(parts.uri.path()) else { return not_found() };
        if self.state.lock().lacking.contains(&target.resource) {
            return not_found();
        }
        let key = (target.resource.clone(), target.namespace.clone(), target.name.clone());
        match (parts.method, target.name.is_empty()) {
            (Method::GET, true) if query.contains_key("watch") => self.watch(&target, &query),
            (Method::GET, true) => self.list_answer(&target, &query),
            (Method::GET, false) => {
                self.get(&key.0, &key.1, &key.2).map_or_else(not_found, |found| ok(&found))
            }
            (Method::POST, false) if target.sub == "token" => {
                let spec = body["spec"].clone();
                self.state.lock().token_requests.push(body);
                ok(&json!({
                    "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {},
                    "spec": spec,
                    "status": self.token(&target.name),
                }))
            }
            (Method::POST, _) => {
                let mut object = body;
                if !target.namespace.is_empty() {
                    object["metadata"]["namespace"] = json!(target.namespace);
                }
                let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                if self.get(&target.resource, &target.namespace, &name).is_some() {
                    return status(StatusCode::CONFLICT, "AlreadyExists");
                }
                ok(&self.put(&target.resource, object))
            }
            (Method::PUT, false) => ok(&self.put(&target.resource, body)),
            (Method::PATCH, false) => {
                let Some(mut object) = self.get(&key.0, &key.1, &key.2) else { return not_found() };
                let wanted = &body["metadata"]["uid"];
                if !wanted.is_null() && *wanted != object["metadata"]["uid"] {
                    return status(StatusCode::CONFLICT, "Conflict");
                }
                merge(&mut object, &body);
                ok(&self.put(&target.resource, object))
            }
            (Method::DELETE, false) => {
                self.delete(&key.0, &key.1, &key.2, body["gracePeriodSeconds"].as_i64());
                ok(&json!({"apiVersion": "v1", "kind": "Status", "status": "Success", "metadata": {}}))
            }
            (Method::DELETE, true) => {
                let all = self.list(&target.resource);
                for object in all.iter().filter(|object| selects(&query, object)) {
                    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
                    self.delete(&key.0, text("namespace"), text("name"), Some(0));
                }
                ok(&json!({"apiVersion": "v1", "kind": "Status", "status": "Success", "metadata": {}}))
            }
            _ => status(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        }
    }

    fn list_answer(&self, target: &Target, query: &BTreeMap<String, String>) -> Answer {
        let state = self.state.lock();
        let items: Vec<Value> = state
            .objects
            .iter()
            .filter(|((resource, namespace, _), object)| {
                *resource == target.resource
                    && (target.namespace.is_empty() || *namespace == target.namespace)
                    && selects(query, object)
            })
            .map(|(_, object)| object.clone())
            .collect();
        ok(
            &json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": state.version.to_string()}, "items": items}),
        )
    }

    fn watch(&self, target: &Target, query: &BTreeMap<String, String>) -> Answer {
        let from: u64 = query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
        let (state, resource, namespace) =
            (self.state.clone(), target.resource.clone(), target.namespace.clone());
        let (query, newest) = (query.clone(), self.newest.subscribe());
        let lines = futures::stream::unfold((from, newest), move |(from, mut newest)| {
            let (state, resource, namespace, query) =
                (state.clone(), resource.clone(), namespace.clone(), query.clone());
            async move {
                loop {
                    newest.borrow_and_update();
                    let (text, version) = {
                        let state = state.lock();
                        let text: String = state
                            .log
                            .iter()
                            .filter(|event| event.version > from && event.resource == resource)
                            .filter(|event| {
                                namespace.is_empty() || event.object["metadata"]["namespace"] == namespace
                            })
                            .filter(|event| selects(&query, &event.object))
                            .map(|event| {
                                format!("{}\n", json!({"type": event.type_, "object": event.object}))
                            })
                            .collect();
                        (text, state.version)
                    };
                    if !text.is_empty() {
                        return Some((Ok(Frame::data(Bytes::from(text))), (version, newest)));
                    }
                    newest.changed().await.ok()?;
                }
            }
        });
        Response::new(StreamBody::new(lines).boxed_unsync())
    }
}

impl State {
    fn note(&mut self, resource: String, type_: &'static str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.log.push(Event { version: self.version, resource, type_, object: object.clone() });
        object
    }
}

fn selects(query: &BTreeMap<String, String>, object: &Value) -> bool {
    let Some(fields) = query.get("fieldSelector") else { return true };
    fields.split(',').all(|field| {
        let Some((path, value)) = field.split_once('=') else { return true };
        let found = path.split('.').fold(object, |at, part| &at[part]);
        found.as_str() == Some(value.trim_start_matches('='))
    })
}

/// Merges as the API server would, for what a kubelet patches: objects by key, conditions by type,
/// other lists replaced.
fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else { return };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        match value {
            Value::Null => {
                target.as_object_mut().expect("made an object above").remove(key);
            }
            Value::Object(_) => merge(&mut target[key], value),
            Value::Array(items) if key == "conditions" => {
                let mut list = target[key].as_array().cloned().unwrap_or_default();
                for item in items {
                    if item["$patch"] == "delete" {
                        list.retain(|have| have["type"] != item["type"]);
                        continue;
                    }
                    match list.iter_mut().find(|have| have["type"] == item["type"]) {
                        Some(have) => merge(have, item),
                        None => list.push(item.clone()),
                    }
                }
                target[key] = Value::Array(list);
            }
            Value::Array(items) => {
                target[key] = items.iter().filter(|item| item.get("$patch").is_none()).cloned().collect();
            }
            other => target[key] = other.clone(),
        }
    }
}

fn ok(value: &Value) -> Answer {
    answer(StatusCode::OK, value)
}

fn answer(code: StatusCode, value: &Value) -> Answer {
    let body = http_body_util::Full::new(Bytes::from(value.to_string()));
    Response::builder().status(code).body(body.boxed_unsync()).expect("a static response")
}

fn status(code: StatusCode, reason: &str) -> Answer {
    answer(
        code,
        &json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "code": code.as_u16(), "reason": reason, "message": reason}),
    )
}

fn not_found() -> Answer {
    status(StatusCode::NOT_FOUND, "NotFound")
}

impl tower::Service<Request<Body>> for FakeApi {
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(this.answer(request).await) })
    }
}
