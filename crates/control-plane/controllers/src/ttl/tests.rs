//! The steps and the annotation.

use k8s_openapi::api::core::v1::Node;

use super::decide::{ANNOTATION, decide, step};
use crate::testing::api::{FakeApi, Running};
use crate::testing::{labels, namespace};

#[test]
fn steps_overlap() {
    for (current, nodes, expected) in
        [(0, 0, 0), (0, 100, 0), (0, 101, 1), (1, 95, 1), (1, 89, 0), (0, 5000, 4), (4, 1, 0)]
    {
        assert_eq!(step(current, nodes), expected, "{current} {nodes}");
    }
    let mut node = Node { metadata: namespace("n").metadata, ..Node::default() };
    assert_eq!(decide(&node, 1).as_deref(), Some("15"));
    node.metadata.annotations = Some(labels(&[(ANNOTATION, "15")]));
    assert_eq!(decide(&node, 1), None);
}

#[tokio::test(start_paused = true)]
async fn nodes_are_annotated() {
    let api = FakeApi::default();
    let running = Running::start(&api, &["ttl-controller"]);
    api.create("/nodes", &Node { metadata: namespace("n").metadata, ..Node::default() });
    api.until(
        "the annotation",
        |_| {},
        |api| {
            let node: Node = api.get("/nodes", "", "n").unwrap();
            node.metadata.annotations.is_some_and(|it| it[ANNOTATION] == "0")
        },
    )
    .await;
    running.stop().await;
}
