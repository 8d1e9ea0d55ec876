//! What is on disk after each step, and what a kubelet that starts then makes of it.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use super::*;
use crate::images::verification::{Policy, PullSecret, Verdict, judge};

const WHOLE: &str = "docker.io/library/app:v1";

struct Node {
    root: tempfile::TempDir,
    records: Arc<PullRecords>,
}

impl Node {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let records = Arc::new(PullRecords::open(root.path()).unwrap());
        Self { root, records }
    }

    /// As after a crash: what is in memory is lost.
    fn restart(&mut self) {
        self.records = Arc::new(PullRecords::open(self.root.path()).unwrap());
    }

    fn files(&self, directory: &str) -> Vec<Value> {
        let directory = self.root.path().join("image_manager").join(directory);
        let mut names: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names.iter().map(|path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap()).collect()
    }

    fn put(&self, directory: &str, named_for: &str, text: &str) {
        let directory = self.root.path().join("image_manager").join(directory);
        fs::write(directory.join(file_name(named_for)), text).unwrap();
    }

    /// What a pod with these secrets gets of the image, where the images that nobody pulled are anybody's.
    fn verdict(&self, name: &str, secrets: &[PullSecret]) -> Verdict {
        let policy = Policy::NeverVerifyPreloadedImages;
        self.records
            .look(name, "id1", &image(), |trace| judge(&policy, name, trace, || secrets.to_vec(), None))
    }
}

fn image() -> v1::Image {
    v1::Image { id: "id1".into(), repo_tags: vec![WHOLE.into()], ..Default::default() }
}

fn secret(name: &str) -> PullSecret {
    PullSecret {
        uid: format!("uid-of-{name}"),
        namespace: "default".into(),
        name: name.into(),
        credential_hash: format!("hash-of-{name}"),
    }
}

fn with(name: &str) -> PullCredentials {
    PullCredentials::of(Some(secret(name).into()))
}

#[test]
fn a_pull_is_written_down_before_and_after() {
    let mut node = Node::new();
    assert_eq!(node.verdict("app:v1", &[]), Verdict::Given, "preloaded");
    let begun = node.records.begin("app:v1").unwrap();
    let intent =
        json!({"kind": "ImagePullIntent", "apiVersion": "kubelet.config.k8s.io/v1beta1", "image": "app:v1"});
    assert_eq!(node.files("pulling"), [intent]);
    for name in ["app:v1", WHOLE, "app@sha256:0"] {
        assert_eq!(node.verdict(name, &[secret("a")]), Verdict::MustPull, "{name} is being pulled");
    }
    begun.succeeded("id1", with("a"));
    assert_eq!(node.files("pulling"), [json!(null); 0]);
    let mut record = node.files("pulled").remove(0);
    let updated: Timestamp = record["lastUpdatedTime"].as_str().unwrap().parse().unwrap();
    assert_eq!(updated.subsec_nanosecond(), 0);
    record.as_object_mut().unwrap().remove("lastUpdatedTime");
    let secrets =
        json!([{"uid": "uid-of-a", "namespace": "default", "name": "a", "credentialHash": "hash-of-a"}]);
    assert_eq!(
        record,
        json!({"kind": "ImagePulledRecord", "apiVersion": "kubelet.config.k8s.io/v1beta1", "imageRef": "id1",
            "credentialMapping": {"app": {"kubernetesSecrets": secrets}}})
    );
    for _ in ["before", "after"] {
        assert_eq!(node.verdict("app:v1", &[secret("a")]), Verdict::Given);
        assert_eq!(node.verdict("app:v1", &[secret("b")]), Verdict::MustPull);
        assert_eq!(node.verdict("app:v1", &[]), Verdict::MustPull);
        assert_eq!(node.verdict("r.io/app:v1", &[secret("a")]), Verdict::MustPull, "of another registry");
        node.restart();
    }
    node.records.begin("app:v1").unwrap().succeeded("id1", PullCredentials::of(None));
    node.restart();
    assert_eq!(node.verdict("app:v2", &[]), Verdict::Given, "anybody may pull it");
    let directory = node.root.path().join("image_manager/pulled");
    assert_eq!(fs::metadata(directory).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn pulls_that_fail_leave_nothing() {
    let mut node = Node::new();
    let (one, other) = (node.records.begin("app:v1").unwrap(), node.records.begin("app:v1").unwrap());
    one.failed();
    assert_eq!(node.verdict("app:v1", &[]), Verdict::MustPull, "another pull is under way");
    other.failed();
    assert_eq!((node.files("pulling").len(), node.files("pulled").len()), (0, 0));
    assert_eq!(node.verdict("app:v1", &[]), Verdict::Given);
    node.restart();
    assert_eq!(node.verdict("app:v1", &[]), Verdict::Given);
}

#[test]
fn pulls_that_break_off_are_nobodys_until_one_succeeds() {
    let mut node = Node::new();
    // The pod ended while its image was pulled.
    drop(node.records.begin("app:v1").unwrap());
    assert_eq!(node.verdict(WHOLE, &[]), Verdict::MustPull);
    node.records.begin("app:v1").unwrap().failed();
    assert_eq!(node.verdict("app:v1", &[]), Verdict::MustPull, "the first may have brought it");
    node.restart();
    assert_eq!(node.verdict("app:v1", &[]), Verdict::MustPull);
    // The image is not here: the intent stays.
    node.records.recover(&[]);
    assert_eq!(node.files("pulling").len(), 1);
    node.records.recover(&[image()]);
    assert_eq!(node.files("pulling").len(), 0);
    assert_eq!(node.files("pulled")[0]["credentialMapping"], json!(null));
    for _ in ["before", "after"] {
        assert_eq!(node.verdict("app:v1", &[secret("a")]), Verdict::MustPull);
        node.restart();
    }
    drop(node.records.begin("app:v1").unwrap());
    node.records.begin("app:v1").unwrap().succeeded("id1", with("a"));
    assert_eq!(node.files("pulling").len(), 0);
    assert_eq!(node.verdict("app:v1", &[secret("a")]), Verdict::Given);
}

#[test]
fn a_record_that_cannot_be_written_leaves_the_intent() {
    let node = Node::new();
    let begun = node.records.begin("app:v1").unwrap();
    // A directory is in its way: even root cannot write there.
    fs::create_dir(node.root.path().join("image_manager/pulled").join(file_name("id1"))).unwrap();
    begun.succeeded("id1", PullCredentials::of(None));
    assert_eq!(node.files("pulling").len(), 1);
    assert_eq!(node.verdict("app:v1", &[]), Verdict::MustPull);
}

#[test]
fn records_go_with_their_images() {
    let mut node = Node::new();
    node.records.begin("app:v1").unwrap().succeeded("id1", with("a"));
    let pulled = Timestamp::now();
    node.records.prune(pulled, |_| false);
    assert_eq!(node.verdict("app:v1", &[]), Verdict::MustPull, "it is here");
    // Pulled again, with nothing new to write, since somebody looked and did not see it.
    node.records.begin("app:v1").unwrap().succeeded("id1", with("a"));
    node.records.prune(pulled, |reference| reference == "id1");
    assert_eq!(node.verdict("app:v1", &[]), Verdict::MustPull);
    node.restart();
    node.records.prune(Timestamp::now(), |reference| reference == "id1");
    assert_eq!(node.files("pulled").len(), 0);
    assert_eq!(node.verdict("app:v1", &[]), Verdict::Given, "what is loaded now is preloaded");
}

#[test]
fn files_that_cannot_be_read_are_verified() {
    let mut node = Node::new();
    let good = json!({"kind": "ImagePulledRecord", "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "lastUpdatedTime": "2026-01-01T00:00:00Z", "imageRef": "id1",
        "credentialMapping": {"app": {"nodePodsAccessible": true}}})
    .to_string();
    node.put("pulled", "id1", &good);
    node.restart();
    assert_eq!(node.verdict("app:v1", &[]), Verdict::Given);
    for broken in [
        String::new(),
        good[..good.len() / 2].to_owned(),
        good.replace("v1beta1", "v9"),
        good.replace("ImagePulledRecord", "ImagePullIntent"),
        good.replace("id1", "id2"),
        good.replace("nodePodsAccessible", "everybody"),
    ] {
        node.put("pulled", "id1", &broken);
        node.restart();
        assert_eq!(node.verdict("app:v1", &[]), Verdict::MustPull, "{broken}");
    }
    node.records.begin("app:v1").unwrap().succeeded("id1", PullCredentials::of(None));
    assert_eq!(node.verdict("app:v1", &[]), Verdict::Given, "a pull writes it anew");
    // Of the version before: read and written as of this one.
    node.put("pulled", "id1", &good.replace("v1beta1", "v1alpha1"));
    node.restart();
    assert_eq!(node.verdict("app:v1", &[]), Verdict::Given);
    assert_eq!(node.files("pulled")[0]["apiVersion"], "kubelet.config.k8s.io/v1beta1");
    // An intent of an image that came without a record.
    node.records.prune(Timestamp::MAX, |_| true);
    node.put("pulling", "app:v1", "{");
    node.restart();
    assert_eq!(node.verdict("app:v1", &[]), Verdict::MustPull);
}

#[test]
fn service_accounts_of_upstreams_records_are_kept() {
    let mut node = Node::new();
    let accounts = json!([{"uid": "1", "namespace": "team", "name": "builder"}]);
    let record = json!({"kind": "ImagePulledRecord", "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "lastUpdatedTime": "2026-01-01T00:00:00Z", "imageRef": "id1",
        "credentialMapping": {"app": {"kubernetesServiceAccounts": accounts}}});
    node.put("pulled", "id1", &record.to_string());
    node.restart();
    assert_eq!(node.verdict("app:v1", &[secret("a")]), Verdict::MustPull);
    node.records.pulled("app:v1", "id1", Some(with("a"))).unwrap();
    let known = &node.files("pulled")[0]["credentialMapping"]["app"];
    assert_eq!(known["kubernetesServiceAccounts"], accounts);
    assert_eq!(known["kubernetesSecrets"][0]["name"], "a");
}
