//! Services' addresses and ports, evictions, reviews, discovery, health.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::support::{Server, call, get_as, raw};

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, spec: &Value) -> Value {
    let mut full = json!({"ports": [{"port": 80}], "selector": {"a": "b"}});
    for (key, value) in spec.as_object().unwrap() {
        full[key] = value.clone();
    }
    json!({"metadata": {"name": name}, "spec": full})
}

#[tokio::test]
async fn addresses_are_unique_under_concurrency() {
    // A block so small that random choices collide: six addresses can be given.
    let server = Server::start_with(0, |config| config.service_cidr = "10.96.0.0/27".parse().unwrap()).await;
    let services: Api<Service> = Api::namespaced(server.admin(), "default");
    let creates = (0..29).map(|n| {
        let services = services.clone();
        async move {
            let new: Service =
                serde_json::from_value(service(&format!("s{n}"), &json!({"type": "NodePort"}))).unwrap();
            services.create(&PostParams::default(), &new).await
        }
    });
    let mut addresses = BTreeSet::new();
    let mut ports = BTreeSet::new();
    for made in futures::future::join_all(creates).await {
        let spec = made.unwrap().spec.unwrap();
        assert!(addresses.insert(spec.cluster_ip.unwrap()), "an address twice");
        assert!(ports.insert(spec.ports.unwrap()[0].node_port.unwrap()), "a port twice");
    }
    let full = call(&server, "POST", SERVICES, service("more", &json!({}))).await.json();
    assert_eq!(full["code"], 500, "{full}");
    let why = "failed to allocate a serviceIP for Service \"more\": range is full";
    assert!(full["message"].as_str().unwrap().ends_with(why), "{full}");
    call(&server, "DELETE", &format!("{SERVICES}/s3"), Value::Null).await;
    assert_eq!(call(&server, "POST", SERVICES, service("more", &json!({}))).await.status, 201);
    let known = call(&server, "GET", "/apis/networking.k8s.io/v1/ipaddresses", Value::Null).await.json();
    assert_eq!(known["items"].as_array().unwrap().len(), 30);
    server.stop().await;
}

#[tokio::test]
async fn chosen_addresses_and_ports() {
    let server = Server::start().await;
    let chosen = service(
        "a",
        &json!({"clusterIP": "10.96.0.10", "type": "NodePort", "ports": [
        {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP", "nodePort": 30053}]}),
    );
    let made = call(&server, "POST", SERVICES, chosen).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let made = made.json();
    assert_eq!(made["spec"]["clusterIPs"], json!(["10.96.0.10"]));
    assert_eq!(made["spec"]["ipFamilies"], json!(["IPv4"]));
    assert_eq!(made["spec"]["ipFamilyPolicy"], "SingleStack");
    let refused = |body: Value| {
        let server = &server;
        async move {
            call(server, "POST", SERVICES, body).await.json()["message"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        }
    };
    let text = refused(service("b", &json!({"clusterIP": "10.96.0.10"}))).await;
    assert!(text.contains("provided IP is already allocated"), "{text}");
    let text = refused(service("b", &json!({"clusterIP": "10.1.0.10"}))).await;
    assert!(text.contains("the provided network does not match the current range"), "{text}");
    let text =
        refused(service("b", &json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30053}]}))).await;
    assert!(
        text.contains("spec.ports[0].nodePort: Invalid value: 30053: provided port is already allocated"),
        "{text}"
    );
    let text =
        refused(service("b", &json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 80}]}))).await;
    assert!(text.contains("The range of valid ports is 30000-32767"), "{text}");
    let headless = call(&server, "POST", SERVICES, service("h", &json!({"clusterIP": "None"}))).await.json();
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    // Back to ClusterIP: the port is free again, the address stays.
    let patch = json!({"spec": {"type": "ClusterIP", "ports": [{"port": 53, "protocol": "UDP"}]}});
    let changed = call(&server, "PATCH", &format!("{SERVICES}/a"), patch).await;
    assert_eq!(changed.status, 200, "{}", changed.text());
    assert_eq!(changed.json()["spec"]["clusterIP"], "10.96.0.10");
    assert!(changed.json()["spec"]["ports"][0]["nodePort"].is_null());
    let again = service("c", &json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30053}]}));
    assert_eq!(call(&server, "POST", SERVICES, again).await.status, 201);
    server.stop().await;
}

#[tokio::test]
async fn the_kubernetes_service_is_kept() {
    let server = Server::start().await;
    let path = format!("{SERVICES}/kubernetes");
    let service = call(&server, "GET", &path, Value::Null).await.json();
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
    let slice = call(
        &server,
        "GET",
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes",
        Value::Null,
    )
    .await
    .json();
    assert_eq!(slice["endpoints"][0]["addresses"][0], "192.0.2.10");
    assert_eq!(slice["ports"][0]["port"], server.server.address().port());
    let uid = service["metadata"]["uid"].clone();
    assert_eq!(call(&server, "DELETE", &path, Value::Null).await.status, 200);
    let back = async {
        loop {
            let read = call(&server, "GET", &path, Value::Null).await;
            if read.status == 200 && read.json()["metadata"]["uid"] != uid {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), back).await.expect("the service comes back");
    for namespace in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        assert_eq!(
            call(&server, "GET", &format!("/api/v1/namespaces/{namespace}"), Value::Null).await.status,
            200
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn evictions_respect_budgets() {
    let server = Server::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    for name in ["a", "b"] {
        let pod = json!({"metadata": {"name": name, "labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}], "nodeName": "n1"}});
        assert_eq!(call(&server, "POST", pods, pod).await.status, 201);
        let status =
            json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        let answer = call(&server, "PATCH", &format!("{pods}/{name}/status"), status).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"metadata": {"name": "pdb"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}}});
    let answer = call(&server, "POST", budgets, budget).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2}});
    let answer = call(&server, "PATCH", &format!("{budgets}/pdb/status"), status).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let eviction = |name: &str, version: &str| json!({"apiVersion": format!("policy/{version}"), "kind": "Eviction", "metadata": {"name": name}});
    let unknown = call(&server, "POST", &format!("{pods}/a/eviction"), eviction("a", "v1beta2")).await;
    assert_eq!(unknown.status, 400, "{}", unknown.text());
    let first = call(&server, "POST", &format!("{pods}/a/eviction"), eviction("a", "v1beta1")).await;
    assert_eq!(first.status, 201, "{}", first.text());
    let pod = call(&server, "GET", &format!("{pods}/a"), Value::Null).await.json();
    assert!(pod["metadata"]["deletionTimestamp"].is_string(), "{pod}");
    assert!(pod["status"]["conditions"].as_array().unwrap().iter().any(|c| c["type"] == "DisruptionTarget"));
    let second = call(&server, "POST", &format!("{pods}/b/eviction"), eviction("b", "v1")).await;
    assert_eq!(second.status, 429, "{}", second.text());
    assert_eq!(second.json()["details"]["causes"][0]["reason"], "DisruptionBudget");
    server.stop().await;
}

#[tokio::test]
async fn an_eviction_of_another_pod_is_refused_at_once() {
    let server = Server::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    // Pending, so that no budget is asked.
    let pod = json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(call(&server, "POST", pods, pod).await.status, 201);
    for query in ["", "?dryRun=All"] {
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a"},
            "deleteOptions": {"preconditions": {"uid": "another"}}});
        let answer = call(&server, "POST", &format!("{pods}/a/eviction{query}"), eviction).await;
        assert_eq!(answer.status, 409, "{}", answer.text());
        assert!(
            answer.text().contains("the UID in the precondition (another) does not match"),
            "{}",
            answer.text()
        );
    }
    let asked = |metadata: Value, options: Value| {
        let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata, "deleteOptions": options});
        let (server, path) = (&server, format!("{pods}/nosuch/eviction"));
        async move { call(server, "POST", &path, body).await }
    };
    // What is wrong with the options of the deletion is told where there is something to delete.
    let missing = asked(json!({"name": "nosuch"}), json!({"propagationPolicy": "Odd"})).await;
    assert_eq!(missing.status, 404, "{}", missing.text());
    let unsafe_option = json!({"ignoreStoreReadErrorWithClusterBreakingPotential": true});
    let refused = asked(json!({"name": "nosuch"}), unsafe_option).await;
    assert_eq!(refused.status, 422, "{}", refused.text());
    let elsewhere = asked(json!({"name": "nosuch", "namespace": "other"}), json!({})).await;
    assert_eq!(elsewhere.status, 400, "{}", elsewhere.text());
    let nameless = call(&server, "POST", &format!("{pods}/a/eviction"), json!({})).await;
    assert_eq!(nameless.status, 400, "{}", nameless.text());
    server.stop().await;
}

#[tokio::test]
async fn components_are_asked_for_their_health() {
    let server = Server::start().await;
    let path = "/api/v1/componentstatuses";
    let all = call(&server, "GET", path, Value::Null).await.json();
    let names: Vec<&str> = all["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        (&all["kind"], names),
        (&json!("ComponentStatusList"), vec!["controller-manager", "scheduler", "etcd-0"])
    );
    let one = call(&server, "GET", &format!("{path}/etcd-0"), Value::Null).await.json();
    assert_eq!(one["kind"], "ComponentStatus");
    assert_eq!(one["conditions"], json!([{"type": "Healthy", "status": "True", "message": "ok"}]));
    let selected =
        call(&server, "GET", &format!("{path}?fieldSelector=metadata.name%3Detcd-0"), Value::Null).await;
    assert_eq!(selected.json()["items"].as_array().map(Vec::len), Some(1));
    let labelled = call(&server, "GET", &format!("{path}?labelSelector=a%3Db"), Value::Null).await;
    assert_eq!(labelled.json()["items"], json!([]));
    let missing = call(&server, "GET", &format!("{path}/nosuch"), Value::Null).await;
    assert_eq!(missing.status, 404);
    assert_eq!(missing.json()["message"], "componentstatus \"nosuch\" not found");
    server.stop().await;
}

#[tokio::test]
async fn discovery_documentation_and_health() {
    let server = Server::start().await;
    let api = call(&server, "GET", "/api", Value::Null).await.json();
    assert_eq!(api["versions"], json!(["v1"]));
    let groups = call(&server, "GET", "/apis", Value::Null).await.json();
    assert!(groups["groups"].as_array().unwrap().iter().any(|g| g["name"] == "apps"));
    let list = call(&server, "GET", "/apis/apps/v1", Value::Null).await.json();
    assert!(list["resources"].as_array().unwrap().iter().any(|r| r["name"] == "deployments/scale"));
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let aggregated = get_as(&server, "/apis", accept).await;
    assert_eq!(aggregated.json()["kind"], "APIGroupDiscoveryList");
    assert!(aggregated.headers.contains_key("etag"));
    let request = http::Request::builder()
        .uri("/apis")
        .header("accept", accept)
        .header("if-none-match", &aggregated.headers["etag"])
        .body(Vec::new())
        .unwrap();
    assert_eq!(raw(&server.server, "admin", &["system:masters"], request).await.status, 304);
    let index = call(&server, "GET", "/openapi/v3", Value::Null).await.json();
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let document = call(&server, "GET", &url, Value::Null).await.json();
    assert_eq!(document["openapi"], "3.0.0");
    let kept = call(&server, "GET", &url, Value::Null).await;
    assert_eq!(kept.headers["cache-control"], "public, immutable");
    assert!(kept.headers["expires"].to_str().unwrap().ends_with(" UTC"));
    let stale = call(&server, "GET", "/openapi/v3/apis/apps/v1?hash=0", Value::Null).await;
    assert_eq!((stale.status, stale.headers["location"].to_str().unwrap()), (301, url.as_str()));
    let off = "/apis/networking.k8s.io/v1beta1/ipaddresses";
    assert_eq!(call(&server, "GET", off, Value::Null).await.status, 404, "betas are off by default");
    let v2 = call(&server, "GET", "/openapi/v2", Value::Null).await.json();
    assert_eq!(v2["swagger"], "2.0");
    let version = call(&server, "GET", "/version", Value::Null).await.json();
    assert_eq!((&version["minor"], &version["platform"]), (&json!("36"), &json!("linux/amd64")));
    for path in ["/healthz", "/livez", "/readyz", "/readyz/ping"] {
        assert_eq!(call(&server, "GET", path, Value::Null).await.text(), "ok", "{path}");
    }
    let verbose = call(&server, "GET", "/readyz?verbose", Value::Null).await.text();
    assert!(verbose.contains("[+]etcd ok") && verbose.ends_with("readyz check passed\n"), "{verbose}");
    let without =
        call(&server, "GET", "/livez?verbose&exclude=etcd&exclude=b&exclude=a", Value::Null).await.text();
    assert!(without.starts_with("[+]ping ok\n[+]log ok\n[+]etcd excluded: ok\n"), "{without}");
    let unknown =
        "warn: some health checks cannot be excluded: no matches for \"a\",\"b\"\nlivez check passed\n";
    assert!(without.ends_with(unknown), "{without}");
    assert_eq!(call(&server, "GET", "/livez/nothing", Value::Null).await.status, 404);
    let slis = call(&server, "GET", "/metrics/slis", Value::Null).await.text();
    for row in [
        "kubernetes_healthcheck{name=\"etcd\",type=\"readyz\"} 1\n",
        // One that is asked for alone is not counted, nor one that is left out.
        "kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"readyz\"} 2\n",
        "kubernetes_healthchecks_total{name=\"etcd\",status=\"success\",type=\"livez\"} 1\n",
        "\nprocess_start_time_seconds ",
    ] {
        assert!(slis.contains(row), "{row} is not in {slis}");
    }
    let metrics = call(&server, "GET", "/metrics", Value::Null).await.text();
    assert!(metrics.contains("apiserver_request_total{code=\"200\""), "{metrics}");
    for name in [
        "apiserver_flowcontrol_nominal_limit_seats{priority_level=\"workload-low\"} 245",
        "process_start_time_seconds ",
    ] {
        assert!(metrics.contains(name), "{name} is not in {metrics}");
    }
    let keys = call(&server, "GET", "/openid/v1/jwks", Value::Null).await.json();
    assert_eq!(keys["keys"][0]["alg"], "ES256");
    server.stop().await;
}

#[tokio::test]
async fn tokens_are_issued_and_reviewed() {
    let server = Server::start().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let made = call(&server, "POST", accounts, json!({"metadata": {"name": "robot"}})).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}});
    let answer = call(&server, "POST", &format!("{accounts}/robot/token"), request).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let token = answer.json()["status"]["token"].as_str().unwrap().to_owned();
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let answer = call(&server, "POST", "/apis/authentication.k8s.io/v1/tokenreviews", review).await.json();
    assert_eq!(answer["status"]["user"]["username"], "system:serviceaccount:default:robot", "{answer}");
    let access =
        json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "default"}}});
    let answer =
        call(&server, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", access).await.json();
    assert_eq!(answer["status"]["allowed"], true, "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn a_signing_request_says_who_asked_whatever_it_claims() {
    let server = Server::start().await;
    let pem = "-----BEGIN CERTIFICATE REQUEST-----\nAA==\n-----END CERTIFICATE REQUEST-----\n";
    let spec = json!({
        "request": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pem),
        "signerName": "example.com/signer", "usages": ["client auth"],
        "username": "system:apiserver", "groups": ["system:masters"], "uid": "0", "extra": {"a": ["b"]},
    });
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let made = call(&server, "POST", path, json!({"metadata": {"name": "r"}, "spec": spec})).await.json();
    assert_eq!(made["spec"]["username"], "admin", "{made}");
    assert_eq!(made["spec"]["groups"], json!(["system:masters", "system:authenticated"]));
    assert_eq!((&made["spec"]["uid"], &made["spec"]["extra"]), (&Value::Null, &Value::Null));
    server.stop().await;
}

#[tokio::test]
async fn extension_servers_learn_whom_to_trust() {
    let server = Server::start().await;
    let path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let data = call(&server, "GET", path, Value::Null).await.json()["data"].clone();
    assert_eq!(data["requestheader-client-ca-file"], server.pki.proxy_authority().certificate());
    assert_eq!(data["client-ca-file"], server.pki.authority().certificate());
    assert_eq!(data["requestheader-username-headers"], r#"["X-Remote-User"]"#);
    assert_eq!(data["requestheader-extra-headers-prefix"], r#"["X-Remote-Extra-"]"#);
    server.stop().await;
}
