//! An API server in a few hundred lines: enough of storage, watches, deletion and conflicts to run whole controllers against.
//!
//! Objects are kept as they come: nothing is defaulted or validated. Watches can be held back, to see what controllers do on
//! stale caches. An object is written out once, when it changes: answers, lists and watches send that text.

mod control;
mod discovery;
mod roles;
mod state;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use k8s_openapi::serde::de::DeserializeOwned;
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use podium_client::{ClientSource, SharedInformers, Shutdown, in_process};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::clock::RuntimeClock;
use crate::manager::{Config, OWN_IDENTITY, Settings, run};
use crate::names::CountedNames;

/// Served resources: group, version, plural, kind, namespaced.
const RESOURCES: &[(&str, &str, &str, &str, bool)] = &[
    ("", "v1", "pods", "Pod", true),
    ("", "v1", "services", "Service", true),
    ("", "v1", "endpoints", "Endpoints", true),
    ("", "v1", "configmaps", "ConfigMap", true),
    ("", "v1", "serviceaccounts", "ServiceAccount", true),
    ("", "v1", "events", "Event", true),
    ("", "v1", "nodes", "Node", false),
    ("", "v1", "namespaces", "Namespace", false),
    ("", "v1", "replicationcontrollers", "ReplicationController", true),
    ("", "v1", "resourcequotas", "ResourceQuota", true),
    ("", "v1", "secrets", "Secret", true),
    ("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", true),
    ("apps", "v1", "deployments", "Deployment", true),
    ("apps", "v1", "replicasets", "ReplicaSet", true),
    ("apps", "v1", "daemonsets", "DaemonSet", true),
    ("apps", "v1", "statefulsets", "StatefulSet", true),
    ("apps", "v1", "controllerrevisions", "ControllerRevision", true),
    ("batch", "v1", "jobs", "Job", true),
    ("batch", "v1", "cronjobs", "CronJob", true),
    ("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", true),
    ("coordination.k8s.io", "v1", "leases", "Lease", true),
    ("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", true),
    ("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", false),
    ("", "v1", "persistentvolumes", "PersistentVolume", false),
    ("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", true),
    ("metrics.k8s.io", "v1beta1", "pods", "PodMetrics", true),
    ("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy", false),
    ("resource.k8s.io", "v1", "resourceclaims", "ResourceClaim", true),
    ("resource.k8s.io", "v1", "resourceslices", "ResourceSlice", false),
    ("resource.k8s.io", "v1", "resourceclaimtemplates", "ResourceClaimTemplate", true),
    ("storage.k8s.io", "v1", "csidrivers", "CSIDriver", false),
    ("storage.k8s.io", "v1", "volumeattachments", "VolumeAttachment", false),
    ("storage.k8s.io", "v1", "storageclasses", "StorageClass", false),
    ("storage.k8s.io", "v1", "volumeattributesclasses", "VolumeAttributesClass", false),
    ("networking.k8s.io", "v1", "servicecidrs", "ServiceCIDR", false),
    ("networking.k8s.io", "v1", "ipaddresses", "IPAddress", false),
    ("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", false),
    ("certificates.k8s.io", "v1", "certificatesigningrequests", "CertificateSigningRequest", false),
    // Only where it is asked for by [`FakeApi::serve`].
    (discovery::STORAGE_VERSIONS, "v1alpha1", "storageversions", "StorageVersion", false),
    // Custom resources, the first with a scale.
    ("example.com", "v1", "crews", "Crew", true),
    ("example.com", "v1", "loners", "Loner", true),
];

/// Resources whose objects have a scale.
const SCALABLE: &[&str] = &[
    "/replicationcontrollers",
    "apps/deployments",
    "apps/replicasets",
    "apps/statefulsets",
    "example.com/crews",
];

/// Resource (`group/plural`), namespace and name.
pub(crate) type Key = (String, String, String);
/// Everything there is.
pub(crate) type Objects = BTreeMap<Key, Arc<Value>>;
type Sender = futures::channel::mpsc::UnboundedSender<Result<Frame<Bytes>, Infallible>>;

/// One change, told to a [`Hook`] after it was made.
pub(crate) struct Commit<'a> {
    pub(crate) key: &'a Key,
    pub(crate) old: Option<&'a Value>,
    /// `None` when it is gone.
    pub(crate) new: Option<&'a Value>,
    /// Everything there is, after the change.
    pub(crate) objects: &'a Objects,
    /// Who wrote: the number of a client, see [`FakeApi::answer_to`].
    pub(crate) writer: Option<usize>,
}

/// Sees every change as it is made.
pub(crate) type Hook = Box<dyn FnMut(&Commit<'_>) + Send>;

/// One open watch.
struct Watcher {
    resource: String,
    name: Option<String>,
    /// The number of its client, see [`FakeApi::answer_to`].
    reader: usize,
    /// What it is not told yet.
    backlog: VecDeque<Bytes>,
    sender: Sender,
}

/// One change, as watches tell it.
struct Entry {
    version: u64,
    key: Key,
    type_: &'static str,
    /// The object.
    text: Bytes,
}

impl Entry {
    fn line(&self) -> Bytes {
        let (type_, text) = (self.type_, &self.text);
        Bytes::from([br#"{"type":""#, type_.as_bytes(), br#"","object":"#, text, b"}\n"].concat())
    }
}

#[derive(Default)]
struct State {
    version: u64,
    uids: u64,
    objects: Objects,
    /// The same objects as they are sent.
    texts: BTreeMap<Key, Bytes>,
    log: Vec<Entry>,
    watchers: Vec<Watcher>,
    /// Whether watches are told only by [`FakeApi::deliver`].
    lagging: bool,
    /// Watches of this reader and resource are told once that their version is too old.
    expired: Vec<(usize, String)>,
    /// Gives objects their times; without it every object is a second younger than the one before.
    clock: Option<RuntimeClock>,
    hook: Option<Hook>,
    trace: Option<Vec<String>>,
    /// Entries of the log that are about anything but leases.
    changes: usize,
    writer: Option<usize>,
    /// Resources whose watches are held back, from which place in the log.
    held: BTreeMap<String, usize>,
    /// Refuses creates of this resource with this message.
    refuse: Option<(String, String)>,
    /// See [`FakeApi::lose_answer`].
    lose: Option<(String, String)>,
    /// See [`FakeApi::forbidden`].
    forbidden: BTreeSet<String>,
    /// See [`FakeApi::allow_all_reviews`].
    allowed: bool,
    /// See [`FakeApi::serve`].
    versions: discovery::Versions,
}

/// The server. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct FakeApi {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

/// Controllers running against a [`FakeApi`].
pub(crate) struct Running {
    api: FakeApi,
    stop: Shutdown,
    task: JoinHandle<()>,
}

impl Running {
    /// Starts the named controllers. Call with the runtime's clock paused.
    pub(crate) fn start(api: &FakeApi, controllers: &[&str]) -> Self {
        let settings = Settings { root_ca_pem: "PEM".to_owned(), ..Settings::default() };
        Self::start_with(api, controllers, settings)
    }

    /// The same, as the operator chooses.
    pub(crate) fn start_with(api: &FakeApi, controllers: &[&str], settings: Settings) -> Self {
        let stop = Shutdown::new();
        let clients = Arc::new(api.clone());
        let informers = SharedInformers::new(api.acting_as(OWN_IDENTITY), stop.clone());
        let config = Config {
            controllers: controllers.iter().map(|name| (*name).to_owned()).collect(),
            clock: Arc::new(RuntimeClock::starting_at(super::at(1_000_000))),
            names: Arc::new(CountedNames::default()),
            ..Config::new(clients, informers.clone(), settings)
        };
        let shutdown = stop.clone();
        let task = tokio::spawn(async move {
            run(config, shutdown).await.expect("controllers run");
            informers.stopped().await;
        });
        Self { api: api.clone(), stop, task }
    }

    /// Stops, waits for the end, and sees that everybody kept to what they may do.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("controllers stop");
        assert_eq!(self.api.forbidden(), Vec::<String>::new());
    }
}

impl ClientSource for FakeApi {
    fn client(&self, component: &str) -> Client {
        self.acting_as(component)
    }
}

impl FakeApi {
    /// A client of the controller with that service account, who may do what its role says.
    fn acting_as(&self, account: &str) -> Client {
        let (api, account): (_, Arc<str>) = (self.clone(), Arc::from(account));
        let service = tower::service_fn(move |request: Request<Body>| {
            let (api, account) = (api.clone(), Arc::clone(&account));
            async move {
                let (parts, body) = request.into_parts();
                if let Some(refused) = api.refused(&account, &parts.method, &parts.uri) {
                    return Ok::<_, std::io::Error>(refused);
                }
                let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
                let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body)? };
                let strategic = parts
                    .headers
                    .get("content-type")
                    .is_some_and(|it| it == "application/strategic-merge-patch+json");
                Ok::<_, std::io::Error>(api.answer(&parts.method, &parts.uri, body, strategic, None))
            }
        });
        in_process(service, "default")
    }

    /// Creates an object as a user would.
    pub(crate) fn create(&self, resource: &str, object: &impl serde::Serialize) -> Value {
        let object = serde_json::to_value(object).unwrap();
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let created = self.state.lock().create(resource, &namespace, object).expect("created");
        self.changed.notify_waiters();
        Value::clone(&created)
    }

    /// Changes an object as a user would; its generation follows.
    pub(crate) fn edit(&self, resource: &str, namespace: &str, name: &str, edit: impl FnOnce(&mut Value)) {
        {
            let mut state = self.state.lock();
            let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
            let old = Arc::clone(state.objects.get(&key).expect("exists"));
            let mut object = Value::clone(&old);
            edit(&mut object);
            if object["spec"] != old["spec"] {
                object["metadata"]["generation"] =
                    json!(object["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
            }
            state.store(&key, object);
        }
        self.changed.notify_waiters();
    }

    /// Deletes an object as a user would.
    pub(crate) fn delete(&self, resource: &str, namespace: &str, name: &str, policy: &str) {
        let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        self.state.lock().delete(&key, &json!({"propagationPolicy": policy})).expect("deleted");
        self.changed.notify_waiters();
    }

    /// All objects of a resource, ordered by namespace and name.
    pub(crate) fn list<K: DeserializeOwned>(&self, resource: &str) -> Vec<K> {
        let state = self.state.lock();
        let of = state.objects.iter().filter(|((of, _, _), _)| of == resource);
        of.map(|(_, object)| K::deserialize(&**object).unwrap()).collect()
    }

    pub(crate) fn get<K: DeserializeOwned>(&self, resource: &str, namespace: &str, name: &str) -> Option<K> {
        let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        self.state.lock().objects.get(&key).map(|object| K::deserialize(&**object).unwrap())
    }

    /// Holds back what watches of the resource would be told.
    pub(crate) fn hold(&self, resource: &str) {
        let mut state = self.state.lock();
        let place = state.log.len();
        state.held.insert(resource.to_owned(), place);
    }

    /// Tells watches of the resource what was held back.
    pub(crate) fn release(&self, resource: &str) {
        let mut state = self.state.lock();
        let Some(place) = state.held.remove(resource) else { return };
        let State { log, watchers, lagging, .. } = &mut *state;
        for entry in log[place..].iter().filter(|entry| entry.key.0 == resource) {
            state::tell(watchers, *lagging, entry);
        }
    }

    /// Has creates of the resource refused.
    pub(crate) fn refuse(&self, resource: &str, message: &str) {
        self.state.lock().refuse = Some((resource.to_owned(), message.to_owned()));
    }

    /// Says of everybody whose access is reviewed that they may.
    pub(crate) fn allow_all_reviews(&self) {
        self.state.lock().allowed = true;
    }

    pub(crate) fn accept(&self) {
        self.state.lock().refuse = None;
    }

    /// Messages of the Events with that reason, in the order of their names.
    pub(crate) fn events(&self, reason: &str) -> Vec<String> {
        let events: Vec<Value> = self.list("/events");
        let of = events.iter().filter(|event| event["reason"] == reason);
        of.map(|event| event["message"].as_str().unwrap().to_owned()).collect()
    }

    /// How often the Event with that message was told.
    pub(crate) fn times_told(&self, message: &str) -> u64 {
        let events: Vec<Value> = self.list("/events");
        let of = events.iter().filter(|event| event["message"] == message);
        of.map(|event| event["count"].as_u64().unwrap_or(1)).sum()
    }

    /// Waits until `is` holds, letting `act` play the rest of the cluster after every change.
    #[track_caller]
    pub(crate) fn until<'a>(
        &'a self,
        what: &'a str,
        act: impl Fn(&Self) + 'a,
        is: impl Fn(&Self) -> bool + 'a,
    ) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let wait = async {
                loop {
                    let changed = self.changed.notified();
                    act(self);
                    if is(self) {
                        return;
                    }
                    changed.await;
                }
            };
            if tokio::time::timeout(Duration::from_secs(3600), wait).await.is_err() {
                let state = self.state.lock();
                let seen: Vec<_> =
                    state.objects.iter().filter(|(key, _)| key.0 != "/events").map(|(_, it)| &**it).collect();
                let (seen, forbidden) = (serde_json::to_string_pretty(&seen).unwrap(), &state.forbidden);
                panic!("never: {what} ({caller}), forbidden: {forbidden:?}\n{seen}");
            }
        }
    }

    /// Lets everything that is going to happen without outside help happen.
    pub(crate) async fn settle(&self) {
        // Paused time moves on only when nothing can run.
        loop {
            let before = self.state.lock().version;
            super::pass(3).await;
            if self.state.lock().version == before {
                return;
            }
        }
    }

    /// Plays scheduler and kubelet: pods start at once, and end at once when deleted.
    pub(crate) fn run_pods(&self) {
        let pods: Vec<Value> = self.list("/pods");
        for pod in pods {
            let name = pod["metadata"]["name"].as_str().unwrap();
            let namespace = pod["metadata"]["namespace"].as_str().unwrap();
            if pod["metadata"]["deletionTimestamp"].is_string() {
                self.end_pod(namespace, name);
            } else if pod["status"]["phase"] == "Pending" {
                self.edit("/pods", namespace, name, |pod| {
                    pod["spec"]["nodeName"] = json!("node");
                    pod["status"] = json!({"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}],
                        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "1970-01-12T13:46:40Z"}]});
                });
            }
        }
    }

    /// The kubelet's last word on a deleted pod.
    pub(crate) fn end_pod(&self, namespace: &str, name: &str) {
        self.state.lock().remove(&("/pods".to_owned(), namespace.to_owned(), name.to_owned()));
        self.changed.notify_waiters();
    }
}

pub(crate) type Answer = Response<BoxBody<Bytes, Infallible>>;

#[derive(Debug)]
struct Refusal(u16, &'static str, String);

/// A refusal in the API's words.
pub(crate) fn refusal(code: u16, reason: &'static str) -> Answer {
    respond(code, &failure(&Refusal(code, reason, "by chance".to_owned())))
}

fn respond(code: u16, body: &Value) -> Answer {
    send(code, Bytes::from(body.to_string()))
}

fn send(code: u16, body: Bytes) -> Answer {
    Response::builder().status(code).body(Full::new(body).boxed()).unwrap()
}

impl FakeApi {
    fn answer(
        &self,
        method: &Method,
        uri: &http::Uri,
        body: Value,
        strategic: bool,
        client: Option<usize>,
    ) -> Answer {
        let answer = self.answer_quietly(method, uri, body, strategic, client);
        if *method != Method::GET {
            self.changed.notify_waiters();
        }
        answer
    }

    fn answer_quietly(
        &self,
        method: &Method,
        uri: &http::Uri,
        body: Value,
        strategic: bool,
        client: Option<usize>,
    ) -> Answer {
        let no_such_path = || respond(404, &failure(&Refusal(404, "NotFound", "no such path".to_owned())));
        {
            let state = self.state.lock();
            if state.versions.lack(uri.path()) {
                return no_such_path();
            }
            if let Some(document) = discovery::document(uri.path(), &state.versions) {
                if state.versions.secret {
                    let refusal = Refusal(503, "ServiceUnavailable", "by arrangement".to_owned());
                    return respond(503, &failure(&refusal));
                }
                return respond(200, &document);
            }
        }
        let query: BTreeMap<&str, &str> =
            uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')).collect();
        if uri.path() == "/apis/authorization.k8s.io/v1/subjectaccessreviews" {
            let mut review = body;
            review["status"] = json!({"allowed": self.state.lock().allowed});
            return respond(201, &review);
        }
        let Some(target) = Target::parse(uri.path()) else { return no_such_path() };
        let selected = name_selector(uri.query().unwrap_or_default());
        let mut state = self.state.lock();
        // Nobody serves metrics in a cluster without any.
        let measured = target.resource != "metrics.k8s.io/pods"
            || state.objects.keys().any(|it| it.0 == target.resource);
        if !measured {
            return no_such_path();
        }
        if *method == Method::GET && query.get("watch") == Some(&"true") {
            let from = query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
            return state.watch(&target, from, selected, client.unwrap_or_default());
        }
        if target.subresource == "scale" && !SCALABLE.contains(&target.resource.as_str()) {
            return respond(404, &failure(&Refusal(404, "NotFound", "no such path".to_owned())));
        }
        let lost = state.loses_answer(method, &target);
        state.writer = client;
        let outcome = match (method.as_str(), target.name.is_empty()) {
            ("GET", false) if target.subresource == "scale" => {
                state.get(&target.key()).map(|of| Bytes::from(scale_of(&of).to_string()))
            }
            ("PUT", _) if target.subresource == "scale" => {
                state.rescale(&target, &body).map(|scale| Bytes::from(scale.to_string()))
            }
            ("GET", true) => Ok(state.list(&target, selected.as_deref())),
            ("GET", false) => state.get(&target.key()).map(|_| state.texts[&target.key()].clone()),
            ("POST", _) => {
                state.create(&target.resource, &target.namespace, body).map(|it| state.written(&it))
            }
            ("PUT", _) => state.replace(&target, body).map(|it| state.written(&it)),
            ("PATCH", _) => state.patch(&target, &body, strategic).map(|it| state.written(&it)),
            ("DELETE", false) => state.delete(&target.key(), &body).map(|it| state.written(&it)),
            ("DELETE", true) => state.delete_all(&target, &body),
            _ => Err(Refusal(405, "MethodNotAllowed", method.to_string())),
        };
        state.writer = None;
        match outcome {
            Ok(_) if lost => {
                respond(500, &failure(&Refusal(500, "InternalError", "by arrangement".to_owned())))
            }
            Ok(text) => send(if *method == Method::POST { 201 } else { 200 }, text),
            Err(refusal) => {
                let mut status = failure(&refusal);
                // By this a missing object is told from a missing path.
                if refusal.0 == 404 {
                    status["details"] = json!({"name": target.name});
                }
                respond(refusal.0, &status)
            }
        }
    }
}

fn name_selector(query: &str) -> Option<String> {
    let selector = query.split('&').find_map(|pair| pair.strip_prefix("fieldSelector="))?.replace("%3D", "=");
    selector.strip_prefix("metadata.name=").map(str::to_owned)
}

fn failure(refusal: &Refusal) -> Value {
    if refusal.1 == "NamespaceTerminating" {
        return json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": refusal.0,
            "reason": "Forbidden", "message": refusal.2, "details": {"causes": [{"reason": refusal.1}]}});
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": refusal.0, "reason": refusal.1, "message": refusal.2})
}

struct Target {
    resource: String,
    kind: &'static str,
    namespace: String,
    name: String,
    subresource: String,
}

impl Target {
    fn parse(path: &str) -> Option<Self> {
        let mut parts = path.trim_matches('/').split('/');
        let group = if parts.next()? == "api" { "" } else { parts.next()? };
        let _version = parts.next()?;
        let mut parts: Vec<&str> = parts.collect();
        let mut namespace = "";
        let about_itself = parts.len() < 3 || matches!(parts[2], "status" | "finalize");
        if *parts.first()? == "namespaces" && !about_itself {
            namespace = parts[1];
            parts.drain(..2);
        }
        let found = RESOURCES.iter().find(|it| it.0 == group && it.2 == parts[0])?;
        let part = |index: usize| parts.get(index).copied().unwrap_or_default().to_owned();
        Some(Self {
            resource: format!("{group}/{}", parts[0]),
            kind: found.3,
            namespace: namespace.to_owned(),
            name: part(1),
            subresource: part(2),
        })
    }

    fn key(&self) -> Key {
        (self.resource.clone(), self.namespace.clone(), self.name.clone())
    }
}

fn kind_of(resource: &str) -> (String, &'static str) {
    let found =
        RESOURCES.iter().find(|it| format!("{}/{}", it.0, it.2) == resource).expect("a served resource");
    let api_version =
        if found.0.is_empty() { found.1.to_owned() } else { format!("{}/{}", found.0, found.1) };
    (api_version, found.3)
}

/// The scale of an object with `spec.replicas` and a selector of labels.
fn scale_of(object: &Value) -> Value {
    let labels = object["spec"]["selector"]["matchLabels"].as_object().into_iter().flatten();
    let selector: Vec<_> =
        labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    let meta = &object["metadata"];
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {"name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"]},
        "spec": {"replicas": object["spec"]["replicas"]},
        "status": {"replicas": object["status"]["replicas"].as_i64().unwrap_or(0), "selector": selector.join(",")}})
}

impl Target {
    fn group_version(&self) -> (String, &'static str) {
        let group = self.resource.split('/').next().unwrap_or_default();
        (group.to_owned(), "v1")
    }

    fn of(other: &Self) -> Self {
        Self {
            resource: other.resource.clone(),
            kind: other.kind,
            namespace: other.namespace.clone(),
            name: other.name.clone(),
            subresource: other.subresource.clone(),
        }
    }
}
