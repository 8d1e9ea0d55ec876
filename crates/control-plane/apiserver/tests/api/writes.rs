//! What the server fills in on the way to the store, and what it answers.

use serde_json::{Value, json};

use crate::support::{Server, call};

const PODS: &str = "/api/v1/namespaces/default/pods";
const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

#[tokio::test]
async fn a_job_without_labels_shares_those_of_its_pods() {
    let server = Server::start().await;
    let job = |name: &str, own: Value, template: Value| {
        json!({"metadata": {"name": name, "labels": own}, "spec": {"template": {
            "metadata": {"labels": template},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]},
        }}})
    };
    let made = call(&server, "POST", JOBS, job("a", Value::Null, json!({"app": "x"}))).await.json();
    let uid = &made["metadata"]["uid"];
    let all = json!({
        "app": "x", "job-name": "a", "batch.kubernetes.io/job-name": "a",
        "controller-uid": uid, "batch.kubernetes.io/controller-uid": uid,
    });
    assert_eq!(made["metadata"]["labels"], all);
    assert_eq!(made["spec"]["template"]["metadata"]["labels"], all);
    // The client is said to have set no more than it did.
    let owned = &made["metadata"]["managedFields"][0]["fieldsV1"]["f:metadata"]["f:labels"];
    assert!(owned["f:app"].is_object() && owned["f:job-name"].is_null(), "{owned}");
    // The same labels by hand are the Job's own.
    let made = call(&server, "POST", JOBS, job("b", json!({"app": "x"}), json!({"app": "x"}))).await.json();
    assert_eq!(made["metadata"]["labels"], json!({"app": "x"}));
    let made = call(&server, "POST", JOBS, job("c", Value::Null, Value::Null)).await.json();
    // Those that the server gives to the pods count.
    assert_eq!(made["metadata"]["labels"]["job-name"], "c");
    assert_eq!(made["metadata"]["labels"], made["spec"]["template"]["metadata"]["labels"]);
    server.stop().await;
}

#[tokio::test]
async fn a_pod_that_goes_at_once_is_answered_as_being_deleted() {
    let server = Server::start().await;
    call(&server, "POST", PODS, pod("a")).await;
    let tried = call(&server, "DELETE", &format!("{PODS}/a?dryRun=All"), Value::Null).await.json();
    let gone = call(&server, "DELETE", &format!("{PODS}/a"), Value::Null).await.json();
    for answer in [&tried, &gone] {
        let metadata = &answer["metadata"];
        assert!(metadata["deletionTimestamp"].is_string(), "{answer}");
        assert_eq!(metadata["deletionGracePeriodSeconds"], 0);
        assert_eq!(metadata["generation"], 2);
    }
    assert_ne!(gone["metadata"]["resourceVersion"], tried["metadata"]["resourceVersion"]);
    // One that is deleted already is cut short: of its mark only the grace is new.
    let mut bound = pod("b");
    bound["spec"]["nodeName"] = json!("n");
    call(&server, "POST", PODS, bound).await;
    let path = format!("{PODS}/b");
    let marked = call(&server, "DELETE", &path, Value::Null).await.json();
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    let gone = call(&server, "DELETE", &format!("{path}?gracePeriodSeconds=0"), Value::Null).await.json();
    assert_eq!(gone["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(gone["metadata"]["generation"], marked["metadata"]["generation"]);
    assert!(
        gone["metadata"]["deletionTimestamp"].as_str() < marked["metadata"]["deletionTimestamp"].as_str()
    );
    // What knows no grace is as it was.
    let maps = "/api/v1/namespaces/default/serviceaccounts";
    call(&server, "POST", maps, json!({"metadata": {"name": "a"}})).await;
    let gone = call(&server, "DELETE", &format!("{maps}/a"), Value::Null).await.json();
    assert_eq!(gone["metadata"]["name"], "a");
    assert!(gone["metadata"]["deletionTimestamp"].is_null());
    server.stop().await;
}

#[tokio::test]
async fn a_deletion_is_neither_made_up_nor_changed_by_an_update() {
    let server = Server::start().await;
    let path = "/api/v1/namespaces/default/configmaps/a";
    let new = json!({"metadata": {"name": "a", "finalizers": ["example.com/f"]}});
    call(&server, "POST", "/api/v1/namespaces/default/configmaps", new).await;
    let change = |metadata: Value| {
        let server = &server;
        async move { call(server, "PATCH", path, json!({"metadata": metadata})).await }
    };
    let refused =
        change(json!({"deletionTimestamp": "2030-01-01T00:00:00Z", "deletionGracePeriodSeconds": 5})).await;
    assert_eq!(refused.status, 422, "{}", refused.text());
    let causes: Vec<(String, String)> = refused.json()["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cause| (cause["field"].to_string(), cause["message"].to_string()))
        .collect();
    let cause = |field: &str, shown: &str| {
        (json!(field).to_string(), json!(format!("Invalid value: {shown}: field is immutable")).to_string())
    };
    let each = [
        cause("metadata.deletionTimestamp", "\"2030-01-01T00:00:00Z\""),
        cause("metadata.deletionGracePeriodSeconds", "5"),
    ];
    // By the rules of every update and again by the kind's own, as upstream.
    assert_eq!(causes, [&each[..], &each[..]].concat());
    let marked = call(&server, "DELETE", path, Value::Null).await.json();
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
    // Without them, or with another time, they stay; another grace is refused.
    for metadata in [
        json!({"deletionTimestamp": null, "deletionGracePeriodSeconds": null, "labels": {"a": "1"}}),
        json!({"deletionTimestamp": "2030-01-01T00:00:00Z", "labels": {"a": "2"}}),
    ] {
        let kept = change(metadata).await;
        assert_eq!(kept.status, 200, "{}", kept.text());
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
            assert_eq!(kept.json()["metadata"][field], marked["metadata"][field]);
        }
    }
    assert_eq!(change(json!({"deletionGracePeriodSeconds": 5})).await.status, 422);
    server.stop().await;
}

#[tokio::test]
async fn reviews_say_who_asked() {
    let server = Server::start().await;
    let ask = |path: &'static str, spec: Value| {
        let server = &server;
        async move {
            let answer =
                call(server, "POST", &format!("{path}?fieldManager=me"), json!({"spec": spec})).await;
            assert_eq!(answer.status, 201, "{}", answer.text());
            answer.json()["metadata"]["managedFields"].clone()
        }
    };
    let own = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let fields = ask(own, json!({"resourceAttributes": {"verb": "get", "resource": "pods"}})).await;
    assert_eq!(fields[0]["manager"], "me");
    assert_eq!(fields[0]["operation"], "Update");
    assert_eq!(fields[0]["apiVersion"], "authorization.k8s.io/v1");
    assert!(fields[0]["subresource"].is_null());
    assert!(fields[0]["fieldsV1"]["f:spec"]["f:resourceAttributes"].is_object(), "{fields}");
    let fields = ask("/apis/authentication.k8s.io/v1/tokenreviews", json!({"token": "x"})).await;
    assert_eq!(fields[0]["fieldsV1"]["f:spec"], json!({"f:token": {}}));
    let fields =
        ask("/api/v1/namespaces/default/serviceaccounts/default/token", json!({"expirationSeconds": 600}))
            .await;
    assert_eq!(fields[0]["subresource"], "token");
    // Those that are made anew have none.
    let rules = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    assert!(ask(rules, json!({"namespace": "default"})).await.is_null());
    server.stop().await;
}

#[tokio::test]
async fn fields_of_coordinated_leader_election_are_dropped() {
    let server = Server::start().await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let lease = json!({"metadata": {"name": "a"}, "spec": {"holderIdentity": "h", "strategy": "OldestEmulationVersion"}});
    let made = call(&server, "POST", leases, lease).await.json();
    assert_eq!(made["spec"], json!({"holderIdentity": "h"}));
    let patch = json!({"spec": {"preferredHolder": "p", "leaseTransitions": 1}});
    let changed = call(&server, "PATCH", &format!("{leases}/a"), patch).await.json();
    assert_eq!(changed["spec"], json!({"holderIdentity": "h", "leaseTransitions": 1}));
    server.stop().await;
}

#[tokio::test]
async fn pods_are_resized_where_there_is_room() {
    let server = Server::start().await;
    let mut bound = pod("a");
    bound["spec"]["nodeName"] = json!("n");
    bound["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "100m"}});
    call(&server, "POST", PODS, bound).await;
    let resize = |cpu: &'static str| {
        let server = &server;
        async move {
            let mut pod = call(server, "GET", &format!("{PODS}/a"), Value::Null).await.json();
            pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!(cpu);
            call(server, "PUT", &format!("{PODS}/a/resize"), pod).await
        }
    };
    let refused = resize("200m").await;
    assert_eq!(refused.status, 403, "{}", refused.text());
    assert_eq!(refused.json()["message"], "pods \"a\" is forbidden: node \"n\" not found");
    // Nothing new is asked for.
    assert_eq!(resize("100m").await.status, 200);
    call(&server, "POST", "/api/v1/nodes", json!({"metadata": {"name": "n"}})).await;
    let room = json!({"status": {"allocatable": {"cpu": "1", "memory": "1Gi"}}});
    call(&server, "PATCH", "/api/v1/nodes/n/status", room).await;
    assert_eq!(resize("200m").await.status, 200);
    let refused = resize("1100m").await;
    assert_eq!(refused.status, 403, "{}", refused.text());
    let text = "node didn't have enough allocatable resources: cpu, requested: 1100, allocatable: 1000";
    assert!(refused.json()["message"].as_str().unwrap().ends_with(text), "{}", refused.text());
    assert_eq!(refused.json()["details"]["causes"], json!([{"reason": "NodeCapacity"}]));
    let other = json!({"metadata": {"labels": {"kubernetes.io/os": "windows"}}});
    call(&server, "PATCH", "/api/v1/nodes/n", other).await;
    let refused = resize("300m").await;
    assert_eq!(refused.json()["details"]["causes"], json!([{"reason": "UnsupportedPlatform"}]));
    server.stop().await;
}

#[tokio::test]
async fn certificates_of_pods_are_dropped_while_their_gate_is_off() {
    let server = Server::start().await;
    let mut asking = pod("a");
    let certificate =
        json!({"signerName": "example.com/s", "keyType": "ED25519", "credentialBundlePath": "bundle.pem"});
    let sources = json!([{"configMap": {"name": "c"}}, {"podCertificate": certificate}]);
    asking["spec"]["volumes"] = json!([{"name": "v", "projected": {"sources": sources}}]);
    let made = call(&server, "POST", PODS, asking).await;
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!(
        made.json()["spec"]["volumes"][0]["projected"]["sources"],
        json!([{"configMap": {"name": "c"}}, {}])
    );
    let requests = "/apis/certificates.k8s.io/v1beta1/namespaces/default/podcertificaterequests";
    assert_eq!(call(&server, "GET", requests, Value::Null).await.status, 404, "nobody could ask for one");
    server.stop().await;
}

#[tokio::test]
async fn pods_are_changed_only_as_their_node_can_follow() {
    let server = Server::start().await;
    let mut bound = pod("a");
    bound["spec"]["nodeName"] = json!("n");
    bound["spec"]["resources"] = json!({"requests": {"cpu": "100m"}});
    assert_eq!(call(&server, "POST", PODS, bound).await.status, 201);
    call(&server, "POST", "/api/v1/nodes", json!({"metadata": {"name": "n"}})).await;
    let room = json!({"status": {"allocatable": {"cpu": "1", "memory": "1Gi"}}});
    call(&server, "PATCH", "/api/v1/nodes/n/status", room).await;
    let resize = json!({"spec": {"resources": {"requests": {"cpu": "200m"}}}});
    let path = format!("{PODS}/a/resize");
    let refused = call(&server, "PATCH", &path, resize.clone()).await;
    assert_eq!(refused.status, 403, "{}", refused.text());
    let why = "pods \"a\" is forbidden: pod update requires features InPlacePodLevelResourcesVerticalScaling which are not available on node \"n\"";
    assert_eq!(refused.json()["message"], why);
    let declared = json!({"status": {"declaredFeatures": ["InPlacePodLevelResourcesVerticalScaling"]}});
    call(&server, "PATCH", "/api/v1/nodes/n/status", declared).await;
    let resized = call(&server, "PATCH", &path, resize).await;
    assert_eq!(resized.status, 200, "{}", resized.text());
    server.stop().await;
}

#[tokio::test]
async fn pods_of_a_namespace_that_ends_are_not_bound() {
    let server = Server::start().await;
    call(&server, "POST", "/api/v1/namespaces", json!({"metadata": {"name": "going"}})).await;
    let accounts = "/api/v1/namespaces/going/serviceaccounts";
    call(&server, "POST", accounts, json!({"metadata": {"name": "default"}})).await;
    let pods = "/api/v1/namespaces/going/pods";
    assert_eq!(call(&server, "POST", pods, pod("a")).await.status, 201);
    call(&server, "DELETE", "/api/v1/namespaces/going", Value::Null).await;
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n"}});
    let legacy = "/api/v1/namespaces/going/bindings".to_owned();
    for (path, resource) in [(format!("{pods}/a/binding"), "pods"), (legacy, "bindings")] {
        let refused = call(&server, "POST", &path, binding.clone()).await;
        assert_eq!(refused.status, 403, "{}", refused.text());
        let text = format!(
            "{resource} \"a\" is forbidden: unable to create new content in namespace going because it is being terminated"
        );
        assert_eq!(refused.json()["message"], text);
        assert_eq!(refused.json()["details"]["causes"][0]["reason"], "NamespaceTerminating");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_binding_is_admitted_once_by_the_resource_it_was_posted_to() {
    let server = Server::start().await;
    let zone = "topology.kubernetes.io/zone";
    let node = json!({"metadata": {"name": "n", "labels": {zone: "z"}}});
    assert_eq!(call(&server, "POST", "/api/v1/nodes", node).await.status, 201);
    let pods = "/api/v1/namespaces/default/pods";
    let posted = [
        (format!("{pods}/a/binding"), "a", json!("z")),
        ("/api/v1/namespaces/default/bindings".to_owned(), "b", Value::Null),
    ];
    for (path, name, wanted) in posted {
        assert_eq!(call(&server, "POST", pods, pod(name)).await.status, 201);
        let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": "n"}});
        let bound = call(&server, "POST", &path, binding).await;
        assert_eq!(bound.status, 201, "{}", bound.text());
        let bound = call(&server, "GET", &format!("{pods}/{name}"), Value::Null).await.json();
        assert_eq!(bound["spec"]["nodeName"], "n");
        // The labels of the node are for bindings of pods, as upstream.
        assert_eq!(bound["metadata"]["labels"][zone], wanted);
    }
    server.stop().await;
}

#[tokio::test]
async fn preconditions_hold_for_each_of_a_collection() {
    let server = Server::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let mut made = Value::Null;
    for name in ["b", "a"] {
        let new = json!({"metadata": {"name": name, "labels": {"x": "y"}}});
        made = call(&server, "POST", maps, new).await.json();
    }
    let path = format!("{maps}?labelSelector=x%3Dy");
    for preconditions in [json!({"uid": "other"}), json!({"resourceVersion": "1"})] {
        let refused = call(&server, "DELETE", &path, json!({"preconditions": preconditions})).await;
        assert_eq!(refused.status, 409, "{}", refused.text());
        assert_eq!(call(&server, "GET", &format!("{maps}/a"), Value::Null).await.status, 200);
    }
    // They go in the order of their names, up to the first that may not.
    let met = json!({"preconditions": {"uid": made["metadata"]["uid"]}});
    let refused = call(&server, "DELETE", &path, met).await;
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert_eq!(call(&server, "GET", &format!("{maps}/a"), Value::Null).await.status, 404);
    let last = call(&server, "GET", &format!("{maps}/b"), Value::Null).await.json();
    // Nothing after the first is tried, whatever it is.
    call(&server, "POST", maps, json!({"metadata": {"name": "a", "labels": {"x": "y"}}})).await;
    let met = json!({"preconditions": {"uid": last["metadata"]["uid"]}});
    assert_eq!(call(&server, "DELETE", &path, met).await.status, 409);
    assert_eq!(call(&server, "GET", &format!("{maps}/b"), Value::Null).await.status, 200);
    server.stop().await;
}
