//! Health-check node ports: where a load balancer asks a node whether it has endpoints of a Service whose outside traffic
//! stays on the node that it reaches (`externalTrafficPolicy: Local`).
//!
//! Source: the Service API page (`healthCheckNodePort`) and upstream's `pkg/proxy/healthcheck`.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use podium_client::ObjectKey;
use podium_network::Cidr;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use crate::plan::is_ready;

/// How long after a port could not be had it is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long a connection may last: a check is one short request.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections to one port at once: load balancers are few.
const CONNECTIONS: usize = 64;

/// What a node says of one Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Health {
    /// The port it is asked at.
    pub(crate) port: u16,
    /// Ready endpoints on this node.
    pub(crate) endpoints: usize,
}

/// Whether and at which port a Service's health is asked for, and what this node has. Pure.
pub(crate) fn health(service: &Service, slices: &[&EndpointSlice], node: &str) -> Option<Health> {
    let labels = service.metadata.labels.as_ref();
    if labels.is_some_and(|l| l.contains_key("service.kubernetes.io/service-proxy-name")) {
        return None;
    }
    let spec = service.spec.as_ref()?;
    let asked = spec.type_.as_deref() == Some("LoadBalancer")
        && spec.external_traffic_policy.as_deref() == Some("Local");
    let port = u16::try_from(spec.health_check_node_port?).ok().filter(|port| asked && *port != 0)?;
    let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let here = endpoints.filter(|endpoint| endpoint.node_name.as_deref() == Some(node) && is_ready(endpoint));
    // An endpoint is one whatever the number of its ports, and of the slices that name it.
    let addresses: BTreeSet<&String> = here.filter_map(|endpoint| endpoint.addresses.first()).collect();
    Some(Health { port, endpoints: addresses.len() })
}

/// The ports that are served now.
#[derive(Debug)]
pub(crate) struct HealthPorts {
    within: Arc<[Cidr]>,
    /// Whether the rules stand as they should.
    healthy: Arc<AtomicBool>,
    served: BTreeMap<ObjectKey, Served>,
}

#[derive(Debug)]
struct Served {
    port: u16,
    endpoints: Arc<AtomicUsize>,
    /// Closes the port when it goes.
    _task: AbortOnDropHandle<()>,
}

impl HealthPorts {
    /// None yet. `within` are the addresses at which node ports answer; empty for all.
    pub(crate) fn new(within: &[Cidr]) -> Self {
        HealthPorts { within: within.into(), healthy: Arc::default(), served: BTreeMap::new() }
    }

    /// Says whether the kernel has the rules it should have: a node that has not is not to be sent traffic.
    pub(crate) fn set_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, Ordering::Relaxed);
    }

    /// Serves what a Service needs now, or nothing.
    pub(crate) fn update(&mut self, key: &ObjectKey, wanted: Option<Health>) {
        let Some(Health { port, endpoints }) = wanted else {
            self.served.remove(key);
            return;
        };
        if let Some(served) = self.served.get(key).filter(|served| served.port == port) {
            served.endpoints.store(endpoints, Ordering::Relaxed);
            return;
        }
        // The old port is closed first: another Service may want it.
        self.served.remove(key);
        let endpoints = Arc::new(AtomicUsize::new(endpoints));
        let answers =
            Answers { key: key.clone(), endpoints: endpoints.clone(), healthy: self.healthy.clone() };
        let task = tokio::spawn(serve(port, self.within.clone(), answers));
        let served = Served { port, endpoints, _task: AbortOnDropHandle::new(task) };
        self.served.insert(key.clone(), served);
    }
}

/// What one port answers with.
#[derive(Clone, Debug)]
struct Answers {
    key: ObjectKey,
    endpoints: Arc<AtomicUsize>,
    healthy: Arc<AtomicBool>,
}

impl Answers {
    /// Upstream's document; 503 where traffic would find nobody.
    fn answer(&self) -> Response<Full<Bytes>> {
        let endpoints = self.endpoints.load(Ordering::Relaxed);
        let healthy = self.healthy.load(Ordering::Relaxed);
        // Names of Services and namespaces hold nothing that JSON would escape.
        let ObjectKey { namespace, name } = &self.key;
        let text = format!(
            "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\t\"localEndpoints\": {endpoints},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
        );
        let status = if endpoints > 0 && healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        headers.insert("x-content-type-options", http::HeaderValue::from_static("nosniff"));
        headers.insert("x-load-balancing-endpoint-weight", http::HeaderValue::from(endpoints));
        response
    }
}

/// Serves one port until dropped. A port that is taken is tried again.
async fn serve(port: u16, within: Arc<[Cidr]>, answers: Answers) {
    let mut told = false;
    let listener = loop {
        match TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await {
            Ok(listener) => break listener,
            Err(error) if !told => {
                told = true;
                tracing::warn!(service = %answers.key, port, error = %error, "health-check node port is not to be had");
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY).await;
    };
    accept(listener, within, answers).await;
}

async fn accept(listener: TcpListener, within: Arc<[Cidr]>, answers: Answers) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(seat) = room.clone().acquire_owned().await else { return };
        // What fails is a connection that is gone already, or too many descriptors: both pass.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        if !answers_at(&stream, &within) {
            continue;
        }
        let answers = answers.clone();
        connections.spawn(async move {
            let _seat = seat;
            let service = service_fn(move |_: Request<Incoming>| {
                let answer = answers.answer();
                async move { Ok::<_, Infallible>(answer) }
            });
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(false);
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            // A client that goes away is no concern of ours.
            drop(tokio::time::timeout(PATIENCE, connection).await);
        });
    }
}

/// Whether node ports answer at the address that a connection came to.
fn answers_at(stream: &TcpStream, within: &[Cidr]) -> bool {
    within.is_empty()
        || stream.local_addr().is_ok_and(|address| match address.ip() {
            IpAddr::V4(v4) => within.iter().any(|cidr| cidr.contains(v4)),
            IpAddr::V6(_) => false,
        })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn service(change: impl Fn(&mut Value)) -> Service {
        let mut service = json!({"metadata": {"name": "web", "namespace": "n"}, "spec": {"type": "LoadBalancer",
            "externalTrafficPolicy": "Local", "healthCheckNodePort": 30_100, "clusterIP": "10.96.0.7"}});
        change(&mut service);
        serde_json::from_value(service).unwrap()
    }

    fn slice(endpoints: &Value) -> EndpointSlice {
        serde_json::from_value(
            json!({"metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": endpoints}),
        )
        .unwrap()
    }

    #[test]
    fn ready_endpoints_of_this_node_are_counted_once() {
        let one = slice(&json!([
            {"addresses": ["10.244.0.2"], "nodeName": "a"},
            {"addresses": ["10.244.0.3"], "nodeName": "a", "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["10.244.1.2"], "nodeName": "b"},
        ]));
        let again = slice(&json!([
            {"addresses": ["10.244.0.2"], "nodeName": "a"},
            {"addresses": ["10.244.0.4"], "nodeName": "a", "conditions": {"ready": true}},
        ]));
        let count = |node: &str| health(&service(|_| {}), &[&one, &again], node).unwrap();
        assert_eq!(count("a"), Health { port: 30_100, endpoints: 2 });
        assert_eq!(count("b").endpoints, 1);
        assert_eq!(count("c").endpoints, 0);
    }

    #[test]
    fn other_services_are_not_asked_about() {
        let none = |change: &dyn Fn(&mut Value)| assert_eq!(health(&service(change), &[], "a"), None);
        none(&|s| s["spec"]["externalTrafficPolicy"] = json!("Cluster"));
        none(&|s| s["spec"]["type"] = json!("NodePort"));
        none(&|s| s["spec"]["healthCheckNodePort"] = json!(0));
        none(&|s| s["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"}));
    }

    async fn ask(port: u16) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: n\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn a_port_answers_while_it_is_wanted() {
        let key = ObjectKey { namespace: "n".to_owned(), name: "web".to_owned() };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let mut ports = HealthPorts::new(&[]);
        ports.update(&key, Some(Health { port, endpoints: 0 }));
        // The task has to come to listen first.
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
            tokio::task::yield_now().await;
        }
        let answer = ask(port).await;
        assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
        ports.update(&key, Some(Health { port, endpoints: 2 }));
        assert!(ask(port).await.starts_with("HTTP/1.1 503 "), "the rules do not stand yet");
        ports.set_healthy(true);
        let answer = ask(port).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("x-load-balancing-endpoint-weight: 2\r\n"), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(body).unwrap(),
            json!({"service": {"namespace": "n", "name": "web"}, "localEndpoints": 2, "serviceProxyHealthy": true})
        );
        ports.update(&key, None);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn only_chosen_addresses_answer() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let key = ObjectKey { namespace: "n".to_owned(), name: "web".to_owned() };
        let answers = Answers {
            key,
            endpoints: Arc::new(AtomicUsize::new(1)),
            healthy: Arc::new(AtomicBool::new(true)),
        };
        let within: Arc<[Cidr]> = Arc::from(["192.0.2.0/24".parse::<Cidr>().unwrap()]);
        let task = AbortOnDropHandle::new(tokio::spawn(accept(listener, within, answers)));
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        drop(stream.write_all(b"GET / HTTP/1.1\r\nhost: n\r\n\r\n").await);
        let mut text = Vec::new();
        // Closed without an answer, whether politely or not.
        drop(stream.read_to_end(&mut text).await);
        assert_eq!(text, b"");
        drop(task);
    }
}
