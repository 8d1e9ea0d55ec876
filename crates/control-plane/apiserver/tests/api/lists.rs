//! Lists: pages, selectors, shapes, encodings.

use serde_json::{Value, json};

use crate::support::{Server, call, get_as, raw};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn fill(server: &Server, count: usize) {
    for n in 0..count {
        let body = json!({"metadata": {"name": format!("m{n:03}"), "labels": {"parity": if n % 2 == 0 { "even" } else { "odd" }}}, "data": {"n": n.to_string()}});
        let answer = call(server, "POST", MAPS, body).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
}

fn names(list: &Value) -> Vec<String> {
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn pages_are_of_one_moment() {
    let server = Server::start().await;
    fill(&server, 10).await;
    let mut all = Vec::new();
    let mut token = String::new();
    let mut revisions = Vec::new();
    loop {
        let uri = format!("{MAPS}?limit=4&continue={token}&labelSelector=parity");
        let page = call(&server, "GET", &uri, Value::Null).await.json();
        revisions.push(page["metadata"]["resourceVersion"].clone());
        all.extend(names(&page));
        // Changes between pages are not seen.
        call(&server, "DELETE", &format!("{MAPS}/m009"), Value::Null).await;
        match page["metadata"]["continue"].as_str() {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(all.len(), 10, "{all:?}");
    assert!(all.is_sorted());
    assert!(revisions.iter().all(|revision| *revision == revisions[0]));
    let page = call(&server, "GET", &format!("{MAPS}?limit=2"), Value::Null).await.json();
    assert!(page["metadata"]["remainingItemCount"].as_u64().unwrap() >= 7, "{}", page["metadata"]);
    let odd =
        call(&server, "GET", &format!("{MAPS}?limit=3&labelSelector=parity%3Dodd"), Value::Null).await.json();
    assert_eq!(names(&odd), ["m001", "m003", "m005"]);
    assert!(odd["metadata"]["remainingItemCount"].is_null());
    server.stop().await;
}

#[tokio::test]
async fn exact_and_newer_revisions() {
    let server = Server::start().await;
    fill(&server, 2).await;
    let list = call(&server, "GET", &format!("{MAPS}?labelSelector=parity"), Value::Null).await.json();
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    call(&server, "DELETE", &format!("{MAPS}/m000"), Value::Null).await;
    let exact = format!("{MAPS}?labelSelector=parity&resourceVersion={revision}&resourceVersionMatch=Exact");
    assert_eq!(call(&server, "GET", &exact, Value::Null).await.json()["items"], list["items"]);
    let newer =
        format!("{MAPS}?labelSelector=parity&resourceVersion={revision}&resourceVersionMatch=NotOlderThan");
    assert_eq!(names(&call(&server, "GET", &newer, Value::Null).await.json()), ["m001"]);
    let any = format!("{MAPS}?labelSelector=parity&resourceVersion=0");
    assert_eq!(names(&call(&server, "GET", &any, Value::Null).await.json()), ["m001"]);
    server.stop().await;
}

#[tokio::test]
async fn selectors_of_labels_and_fields() {
    let server = Server::start().await;
    fill(&server, 4).await;
    let select = |query: &str| {
        let uri = format!("{MAPS}?{query}");
        let server = &server;
        async move { names(&call(server, "GET", &uri, Value::Null).await.json()) }
    };
    assert_eq!(select("labelSelector=parity%20in%20(odd)").await, ["m001", "m003"]);
    assert_eq!(select("labelSelector=parity%21%3Dodd,parity").await, ["m000", "m002"]);
    assert_eq!(select("fieldSelector=metadata.name%3Dm002").await, ["m002"]);
    assert_eq!(select("fieldSelector=metadata.name%21%3Dm002&labelSelector=parity%3Deven").await, ["m000"]);
    let all = call(
        &server,
        "GET",
        "/api/v1/configmaps?fieldSelector=metadata.namespace%3Ddefault&labelSelector=parity",
        Value::Null,
    )
    .await;
    assert_eq!(names(&all.json()).len(), 4);
    let pods = "/api/v1/namespaces/default/pods";
    for name in ["a", "b"] {
        call(
            &server,
            "POST",
            pods,
            json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}}),
        )
        .await;
    }
    let binding = json!({"metadata": {"name": "b"}, "target": {"kind": "Node", "name": "n1"}});
    call(&server, "POST", &format!("{pods}/b/binding"), binding).await;
    let on_node = call(
        &server,
        "GET",
        &format!("{pods}?fieldSelector=spec.nodeName%3Dn1,status.phase%21%3DFailed"),
        Value::Null,
    )
    .await;
    assert_eq!(names(&on_node.json()), ["b"]);
    server.stop().await;
}

#[tokio::test]
async fn tables_and_partial_metadata() {
    let server = Server::start().await;
    fill(&server, 2).await;
    let uri = format!("{MAPS}?labelSelector=parity");
    let table =
        get_as(&server, &uri, "application/json;as=Table;v=v1;g=meta.k8s.io,application/json").await.json();
    assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    let columns: Vec<&str> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(columns, ["Name", "Data", "Age"]);
    assert_eq!(table["rows"][0]["cells"][0], "m000");
    assert_eq!(table["rows"][0]["cells"][1], 1);
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert!(table["rows"][0]["object"]["data"].is_null());
    let accept = "application/json;as=Table;v=v1beta1;g=meta.k8s.io";
    let full = get_as(&server, &format!("{uri}&includeObject=Object"), accept).await.json();
    assert_eq!(full["apiVersion"], "meta.k8s.io/v1beta1");
    assert_eq!(full["rows"][1]["object"]["data"]["n"], "1");
    let none = get_as(&server, &format!("{uri}&includeObject=None"), accept).await.json();
    assert!(none["rows"][0]["object"].is_null());
    assert_eq!(get_as(&server, &format!("{uri}&includeObject=Some"), accept).await.status, 400);
    let one = get_as(&server, &format!("{MAPS}/m000"), accept).await.json();
    assert_eq!((&one["kind"], &one["rows"][0]["cells"][0]), (&json!("Table"), &json!("m000")));
    let accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let partial = get_as(&server, &uri, accept).await.json();
    assert_eq!(partial["kind"], "PartialObjectMetadataList");
    assert_eq!(partial["items"][0]["metadata"]["name"], "m000");
    assert!(partial["items"][0]["data"].is_null());
    server.stop().await;
}

#[tokio::test]
async fn yaml_and_protobuf() {
    let server = Server::start().await;
    fill(&server, 1).await;
    let yaml = get_as(&server, &format!("{MAPS}/m000"), "application/yaml").await;
    assert_eq!(yaml.headers["content-type"], "application/yaml");
    assert!(yaml.text().contains("name: m000"), "{}", yaml.text());
    let protobuf = get_as(&server, MAPS, "application/vnd.kubernetes.protobuf").await;
    assert_eq!(protobuf.headers["content-type"], "application/vnd.kubernetes.protobuf");
    assert!(protobuf.body.starts_with(b"k8s\0"));
    let list = podium_api::codec::protobuf_to_json(&protobuf.body).unwrap();
    assert!(names(&list).contains(&"m000".to_owned()), "{list}");
    let one = get_as(&server, &format!("{MAPS}/m000"), "application/vnd.kubernetes.protobuf").await;
    let object = podium_api::codec::protobuf_to_json(&one.body).unwrap();
    assert_eq!(object["data"]["n"], "0");
    server.stop().await;
}

/// Every meaning that a version, a match, a limit and a token have together, and what has none.
#[tokio::test]
async fn versions_matches_limits_and_tokens() {
    let server = Server::start().await;
    fill(&server, 4).await;
    let whole = format!("{MAPS}?labelSelector=parity");
    let past = call(&server, "GET", &whole, Value::Null).await.json()["metadata"]["resourceVersion"].clone();
    let past = past.as_str().unwrap().to_owned();
    let page = call(&server, "GET", &format!("{MAPS}?limit=1"), Value::Null).await.json();
    let token = page["metadata"]["continue"].as_str().unwrap().to_owned();
    call(&server, "DELETE", &format!("{MAPS}/m000"), Value::Null).await;
    let read = |query: String| {
        let server = &server;
        let query = query.replace("PAST", &past).replace("TOKEN", &token);
        async move { call(server, "GET", &format!("{MAPS}?labelSelector=parity&{query}"), Value::Null).await }
    };
    for (query, first, count, more) in [
        ("", "m001", 3, false),
        ("limit=2", "m001", 2, true),
        ("resourceVersion=0", "m001", 3, false),
        ("resourceVersion=0&limit=2", "m001", 3, false),
        ("resourceVersion=0&resourceVersionMatch=NotOlderThan", "m001", 3, false),
        ("resourceVersion=PAST", "m001", 3, false),
        ("resourceVersion=PAST&resourceVersionMatch=NotOlderThan", "m001", 3, false),
        ("resourceVersion=PAST&resourceVersionMatch=NotOlderThan&limit=2", "m001", 2, true),
        ("resourceVersion=PAST&resourceVersionMatch=Exact", "m000", 4, false),
        ("resourceVersion=PAST&resourceVersionMatch=Exact&limit=2", "m000", 2, true),
        // A limit with a version and no match means exactly that version.
        ("resourceVersion=PAST&limit=2", "m000", 2, true),
        ("continue=TOKEN", "m001", 3, false),
        ("continue=TOKEN&resourceVersion=0", "m001", 3, false),
    ] {
        let list = read(query.to_owned()).await.json();
        let found = names(&list);
        assert_eq!((found[0].as_str(), found.len()), (first, count), "{query}");
        assert_eq!(list["metadata"]["continue"].is_string(), more, "{query}");
    }
    for (query, code, text) in [
        ("resourceVersion=x", 400, "invalid resource version"),
        (
            "resourceVersionMatch=Exact",
            422,
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        ("resourceVersion=0&resourceVersionMatch=Exact", 422, "is forbidden for resourceVersion"),
        ("resourceVersion=PAST&resourceVersionMatch=Newest", 422, "supported values: "),
        ("resourceVersion=999999999&resourceVersionMatch=Exact", 504, "Too large resource version"),
        (
            "continue=TOKEN&resourceVersion=PAST",
            400,
            "specifying resource version is not allowed when using continue",
        ),
        (
            "continue=TOKEN&resourceVersion=0&resourceVersionMatch=NotOlderThan",
            422,
            "resourceVersionMatch is forbidden when continue is provided",
        ),
        ("continue=nonsense", 400, "invalid continue token: continue key is not valid"),
        ("sendInitialEvents=true", 422, "sendInitialEvents is forbidden for list"),
        ("fieldSelector=spec.x%3D1", 400, "is not a known field selector: only \\\"metadata.name\\\""),
    ] {
        let answer = read(query.to_owned()).await;
        assert_eq!(answer.status, code, "{query}: {}", answer.text());
        assert!(answer.text().contains(text), "{query}: {}", answer.text());
    }
    server.stop().await;
}

#[tokio::test]
async fn partial_metadata_in_protobuf() {
    let server = Server::start().await;
    fill(&server, 2).await;
    for version in ["v1", "v1beta1"] {
        let accept =
            |kind: &str| format!("application/vnd.kubernetes.protobuf;as={kind};g=meta.k8s.io;v={version}");
        let one = get_as(&server, &format!("{MAPS}/m000"), &accept("PartialObjectMetadata")).await;
        assert_eq!(one.headers["content-type"], "application/vnd.kubernetes.protobuf");
        let object = podium_api::codec::protobuf_to_json(&one.body).unwrap();
        assert_eq!(object["kind"], "PartialObjectMetadata");
        assert_eq!(object["apiVersion"], format!("meta.k8s.io/{version}"));
        assert_eq!(object["metadata"]["labels"]["parity"], "even");
        let uri = format!("{MAPS}?labelSelector=parity");
        let list = get_as(&server, &uri, &accept("PartialObjectMetadataList")).await;
        let list = podium_api::codec::protobuf_to_json(&list.body).unwrap();
        assert_eq!((&list["kind"], names(&list).len()), (&json!("PartialObjectMetadataList"), 2));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_collection_is_deleted_page_by_page_if_asked() {
    let server = Server::start().await;
    fill(&server, 5).await;
    let uri = format!("{MAPS}?labelSelector=parity&limit=2");
    let first = call(&server, "DELETE", &uri, Value::Null).await.json();
    assert_eq!(names(&first), ["m000", "m001"]);
    let token = first["metadata"]["continue"].as_str().expect("a token").to_owned();
    let dry =
        call(&server, "DELETE", &format!("{uri}&continue={token}&dryRun=All"), Value::Null).await.json();
    assert_eq!(names(&dry), ["m002", "m003"]);
    let next = call(&server, "DELETE", &format!("{uri}&continue={token}"), Value::Null).await.json();
    assert_eq!(names(&next), ["m002", "m003"]);
    let left = call(&server, "GET", &format!("{MAPS}?labelSelector=parity"), Value::Null).await.json();
    assert_eq!(names(&left), ["m004"]);
    server.stop().await;
}

#[tokio::test]
async fn discovery_in_protobuf() {
    let server = Server::start().await;
    let answer = get_as(&server, "/api/v1", "application/vnd.kubernetes.protobuf").await;
    // Field 4 of a resource, its verbs, is a message that holds the list: `create` and its neighbours lie one level down.
    let (tag, inner) = (b"\x22", b"\x0a\x06create");
    let found = answer.body.windows(inner.len() + 2).any(|at| at[..1] == tag[..] && at[2..] == inner[..]);
    assert!(found, "{}", String::from_utf8_lossy(&answer.body));
    let list = podium_api::codec::protobuf_to_json(&answer.body).unwrap();
    assert_eq!(list["resources"][0]["verbs"], json!(["create"]));
    server.stop().await;
}

#[tokio::test]
async fn newer_events_are_selected_by_their_own_field_names() {
    let server = Server::start().await;
    let events = "/apis/events.k8s.io/v1/namespaces/default/events";
    for (name, controller) in [("a", "one"), ("b", "two")] {
        let event = json!({"metadata": {"name": name}, "eventTime": "2026-01-01T00:00:00.000000Z", "action": "x",
            "reason": "r", "type": "Normal", "reportingController": controller, "reportingInstance": "i",
            "regarding": {"namespace": "default", "name": name}});
        let made = call(&server, "POST", events, event).await;
        assert_eq!(made.status, 201, "{}", made.text());
    }
    let list =
        call(&server, "GET", &format!("{events}?fieldSelector=reportingController%3Dtwo"), Value::Null).await;
    assert_eq!(names(&list.json()), ["b"]);
    let refused =
        call(&server, "GET", &format!("{events}?fieldSelector=involvedObject.name%3Da"), Value::Null).await;
    assert_eq!(refused.status, 400, "{}", refused.text());
    server.stop().await;
}

#[tokio::test]
async fn reviews_have_no_tables() {
    let server = Server::start().await;
    let request = http::Request::builder()
        .method("POST")
        .uri("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
        .header("content-type", "application/json")
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(br#"{"spec":{"nonResourceAttributes":{"path":"/","verb":"get"}}}"#.to_vec())
        .unwrap();
    let answer = raw(&server.server, "admin", &["system:masters"], request).await;
    assert_eq!(answer.status, 406, "{}", answer.text());
    server.stop().await;
}
