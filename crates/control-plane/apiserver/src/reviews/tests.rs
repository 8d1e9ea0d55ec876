//! Reviews and tokens end to end, without a server.

use podium_pki::token::{Keys, generate_key};
use serde_json::json;

use super::*;
use crate::authentication::Config;
use crate::objects::memory::Memory;

const NOW: &str = "2026-03-01T12:00:00Z";

struct World {
    memory: Arc<Memory>,
    reviews: Reviews,
    keys: Arc<Keys>,
}

fn world() -> World {
    let memory = Memory::new();
    let group = "rbac.authorization.k8s.io";
    memory.put(
        group,
        "clusterroles",
        json!({"metadata": {"name": "reader"}, "rules": [
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
            {"nonResourceURLs": ["/x"], "verbs": ["get"]}]}),
    );
    memory.put(
        group,
        "clusterrolebindings",
        json!({"metadata": {"name": "reader"}, "roleRef": {"kind": "ClusterRole", "name": "reader"},
               "subjects": [{"kind": "User", "name": "jane"}, {"kind": "Group", "name": "devs"}]}),
    );
    memory.put("", "serviceaccounts", json!({"metadata": {"namespace": "ns", "name": "bot", "uid": "u1"}}));
    memory.put(
        "",
        "pods",
        json!({"metadata": {"namespace": "ns", "name": "p", "uid": "u2"},
               "spec": {"serviceAccountName": "bot", "nodeName": "n"}}),
    );
    memory.put("", "nodes", json!({"metadata": {"name": "n", "uid": "u3"}}));
    let keys = Arc::new(Keys::new(&generate_key().unwrap(), &[]).unwrap());
    let config = Config {
        token_keys: Some(Arc::clone(&keys)),
        issuers: vec!["https://issuer".to_owned()],
        audiences: vec!["https://issuer".to_owned()],
        ..Config::default()
    };
    let objects = memory.objects();
    let issuer = Issuer {
        keys: Arc::clone(&keys),
        issuer: "https://issuer".to_owned(),
        audiences: vec!["https://issuer".to_owned()],
    };
    let reviews = Reviews::new(
        Arc::new(Authenticator::new(config, objects.clone())),
        Arc::new(Authorizer::new(&objects)),
        objects,
        Some(issuer),
    );
    World { memory, reviews, keys }
}

impl World {
    fn ask(
        &self,
        user: &User,
        target: (&str, &str, &str),
        scope: (&str, &str),
        body: Value,
    ) -> Result<Value, ApiError> {
        assert!(Reviews::handles(target.0, target.1, target.2));
        let create = Create {
            user,
            group: target.0,
            resource: target.1,
            subresource: target.2,
            namespace: scope.0,
            name: scope.1,
            body,
        };
        self.reviews.create_at(create, NOW.parse().unwrap(), "the-id")
    }

    fn access(&self, resource: &str, namespace: &str, body: Value) -> Result<Value, ApiError> {
        let jane = User::new("jane", &[]);
        self.ask(&jane, ("authorization.k8s.io", resource, ""), (namespace, ""), body)
    }

    fn token(&self, body: Value) -> Result<Value, ApiError> {
        let admin = User::new("admin", &[]);
        self.ask(&admin, ("", "serviceaccounts", "token"), ("ns", "bot"), body)
    }
}

#[test]
fn access_reviews_answer() {
    let world = world();
    let own = |attributes: Value| {
        world
            .access("selfsubjectaccessreviews", "", json!({"spec": {"resourceAttributes": attributes}}))
            .unwrap()
    };
    let answer = own(json!({"verb": "get", "resource": "pods", "namespace": "ns"}));
    assert_eq!(answer["status"]["allowed"], true);
    assert_eq!(
        answer["status"]["reason"],
        "RBAC: allowed by ClusterRoleBinding \"reader\" of ClusterRole \"reader\" to User \"jane\""
    );
    assert_eq!(own(json!({"verb": "list", "resource": "pods"}))["status"], json!({"allowed": false}));

    let body = json!({"spec": {"groups": ["devs"], "nonResourceAttributes": {"verb": "get", "path": "/x"}}});
    assert_eq!(world.access("subjectaccessreviews", "", body).unwrap()["status"]["allowed"], true);
    let body = json!({"metadata": {"namespace": "ns"}, "spec": {"user": "bob",
        "resourceAttributes": {"namespace": "ns", "verb": "get", "resource": "pods"}}});
    assert_eq!(world.access("localsubjectaccessreviews", "ns", body).unwrap()["status"]["allowed"], false);

    let rules = world.access("selfsubjectrulesreviews", "", json!({"spec": {"namespace": "ns"}})).unwrap();
    assert_eq!(
        rules["status"],
        json!({
            "incomplete": false,
            "resourceRules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}],
            "nonResourceRules": [{"nonResourceURLs": ["/x"], "verbs": ["get"]}],
        })
    );
}

#[test]
fn bad_access_reviews_are_refused() {
    let world = world();
    let cases = [
        ("selfsubjectaccessreviews", json!({"spec": {}}), 422, "exactly one of nonResourceAttributes or"),
        (
            "subjectaccessreviews",
            json!({"spec": {"resourceAttributes": {}}}),
            422,
            "at least one of user or group",
        ),
        (
            "selfsubjectaccessreviews",
            json!({"spec": {"resourceAttributes": {}, "nonResourceAttributes": {}}}),
            422,
            "cannot be specified in combination with resourceAttributes",
        ),
        (
            "selfsubjectaccessreviews",
            json!({"metadata": {"name": "x"}, "spec": {"resourceAttributes": {}}}),
            422,
            "must be empty",
        ),
        (
            "selfsubjectaccessreviews",
            json!({"spec": {"resourceAttributes": {"fieldSelector": {"requirements": [{"operator": "New"}]}}}}),
            422,
            "is invalid: spec.resourceAttributes.fieldSelector.requirements[0].key: Required value: must be specified",
        ),
        (
            "selfsubjectaccessreviews",
            json!({"spec": {"resourceAttributes": {"labelSelector": {"requirements": [{"operator": "New"}]}}}}),
            422,
            "[spec.resourceAttributes.labelSelector.requirements[0].key: Invalid value: \"\": name part must be",
        ),
        ("selfsubjectrulesreviews", json!({"spec": {}}), 400, "no namespace on request"),
    ];
    for (resource, body, code, part) in cases {
        let error = world.access(resource, "", body).unwrap_err();
        assert_eq!(error.code, code, "{}", error.message);
        assert!(error.message.contains(part), "{}", error.message);
    }
    // What only the server says, and a namespace of what is in none, is forgotten as at every create.
    let body = json!({"metadata": {"namespace": "ns", "uid": "1"}, "spec": {"resourceAttributes": {}}});
    assert!(world.access("selfsubjectaccessreviews", "", body).is_ok());
    let body = json!({"metadata": {"namespace": "ns"}, "spec": {"user": "bob", "resourceAttributes": {}}});
    assert_eq!(world.access("localsubjectaccessreviews", "ns", body).unwrap_err().code, 422);
}

#[test]
fn tokens_are_issued_and_reviewed() {
    let world = world();
    let body =
        json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u2"}}});
    let issued = world.token(body).unwrap();
    assert_eq!(issued["kind"], "TokenRequest");
    assert_eq!(issued["spec"]["expirationSeconds"], 3600);
    assert_eq!(issued["spec"]["audiences"], json!(["https://issuer"]));
    assert_eq!(issued["status"]["expirationTimestamp"], "2026-03-01T13:00:00Z");
    let token = issued["status"]["token"].as_str().unwrap();
    let claims = world.keys.verify(token).unwrap();
    assert_eq!(
        claims["kubernetes.io"],
        json!({
            "namespace": "ns",
            "serviceaccount": {"name": "bot", "uid": "u1"},
            "pod": {"name": "p", "uid": "u2"},
            "node": {"name": "n", "uid": "u3"},
        })
    );
    assert_eq!((&claims["jti"], &claims["sub"]), (&json!("the-id"), &json!("system:serviceaccount:ns:bot")));

    let review = |token: &str, audiences: Value| {
        let admin = User::new("admin", &[]);
        let body = json!({"spec": {"token": token, "audiences": audiences}});
        world.ask(&admin, ("authentication.k8s.io", "tokenreviews", ""), ("", ""), body).unwrap()["status"]
            .clone()
    };
    let status = review(token, json!([]));
    assert_eq!(status["authenticated"], true);
    assert_eq!(status["user"]["username"], "system:serviceaccount:ns:bot");
    assert_eq!(status["audiences"], json!(["https://issuer"]));
    assert_eq!(review(token, json!(["vault"])).get("authenticated"), None);
    world.memory.delete("", "pods", "ns", "p");
    let status = review(token, json!([]));
    assert_eq!(status["error"], "[invalid bearer token, service account token has been invalidated]");
}

/// SECURITY.md, "Node escalation": a node gets tokens only for pods that run on it.
#[test]
fn node_escalation_tokens_are_for_own_pods() {
    let world = world();
    let ask = |node: &str, spec: Value| {
        let user = User::new(&format!("system:node:{node}"), &["system:nodes"]);
        world.ask(&user, ("", "serviceaccounts", "token"), ("ns", "bot"), json!({ "spec": spec }))
    };
    let bound = json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u2"}});
    let cases = [
        ("n", json!({}), "node requested token not bound to a pod"),
        ("m", bound.clone(), "node requested token bound to a pod scheduled on a different node"),
        (
            "n",
            bound,
            "audience \"\" not found in pod spec volume, system:node:n is not authorized to request tokens",
        ),
    ];
    for (node, spec, part) in cases {
        let error = ask(node, spec).unwrap_err();
        assert_eq!(error.code, 403);
        assert!(error.message.contains(part), "{}", error.message);
    }
}

#[test]
fn the_marker_expiry_of_pods_gives_a_year() {
    let world = world();
    let reference = json!({"apiVersion": "v1", "kind": "Pod", "name": "p"});
    let body = json!({"spec": {"expirationSeconds": 3607, "boundObjectRef": reference}});
    let issued = world.token(body).unwrap();
    let claims = world.keys.verify(issued["status"]["token"].as_str().unwrap()).unwrap();
    let begin = claims["iat"].as_i64().unwrap();
    assert_eq!(claims["exp"], begin + 365 * 24 * 3600);
    assert_eq!(claims["kubernetes.io"]["warnafter"], begin + 3607);
    assert_eq!(issued["status"]["expirationTimestamp"], "2026-03-01T13:00:07Z");
    let issued = world.token(json!({"spec": {"expirationSeconds": 3607}})).unwrap();
    let claims = world.keys.verify(issued["status"]["token"].as_str().unwrap()).unwrap();
    assert_eq!(claims["exp"], begin + 3607, "only when bound to a pod");
}

#[test]
fn bad_token_requests_are_refused() {
    let world = world();
    let bound = |reference: Value| json!({"spec": {"boundObjectRef": reference}});
    let cases = [
        (json!({"spec": {"expirationSeconds": 599}}), 422, "may not specify a duration less than 10 minutes"),
        (json!({"spec": {"expirationSeconds": 5_000_000_000_i64}}), 422, "larger than 2^32 seconds"),
        (json!({"metadata": {"name": "other"}}), 422, "must match the service account name if specified"),
        (json!({"metadata": {"uid": "other"}}), 409, "does not match the UID of the service account (u1)"),
        (bound(json!({"apiVersion": "v1", "kind": "Pod", "name": "q"})), 404, "pods \"q\" not found"),
        (bound(json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "x"})), 409, "in record"),
        (
            bound(json!({"apiVersion": "v1", "kind": "Service", "name": "p"})),
            400,
            "cannot bind token to object of type",
        ),
    ];
    for (body, code, part) in cases {
        let error = world.token(body).unwrap_err();
        assert_eq!(error.code, code, "{}", error.message);
        assert!(error.message.contains(part), "{}", error.message);
    }
    let admin = User::new("admin", &[]);
    let error = world.ask(&admin, ("", "serviceaccounts", "token"), ("ns", "gone"), json!({})).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (404, "serviceaccounts \"gone\" not found"));
}

#[test]
fn self_review_tells_who_one_is() {
    let world = world();
    let jane = User::new("jane", &["devs"]);
    let answer =
        world.ask(&jane, ("authentication.k8s.io", "selfsubjectreviews", ""), ("", ""), json!({})).unwrap();
    assert_eq!(
        answer["status"]["userInfo"],
        json!({"username": "jane", "groups": ["devs", "system:authenticated"]})
    );
}
