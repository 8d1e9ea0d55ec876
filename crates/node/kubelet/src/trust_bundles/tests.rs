//! Which anchors a projection gets, in which form, and who hears of changes.

use std::hash::{BuildHasherDefault, DefaultHasher};

use k8s_openapi::{
    api::certificates::v1beta1::ClusterTrustBundleSpec,
    apimachinery::pkg::apis::meta::v1::{LabelSelector as WireSelector, ObjectMeta},
};
use podium_pki::certificate::to_pem;
use serde_json::{Value, json};

use super::*;
use crate::testing::{api::FakeApi, eventually};

const LIMIT: Duration = Duration::from_secs(20);

fn pem_of(content: &str) -> String {
    to_pem("CERTIFICATE", content.as_bytes())
}

fn bundle(name: &str, signer: &str, label: &str, content: &str) -> ClusterTrustBundle {
    ClusterTrustBundle {
        metadata: ObjectMeta {
            name: Some(name.into()),
            labels: (!label.is_empty()).then(|| [("l".to_owned(), label.to_owned())].into()),
            ..Default::default()
        },
        spec: ClusterTrustBundleSpec {
            signer_name: (!signer.is_empty()).then(|| signer.to_owned()),
            trust_bundle: content.to_owned(),
        },
    }
}

fn named(name: &str) -> ClusterTrustBundleProjection {
    ClusterTrustBundleProjection { name: Some(name.into()), path: "ca.pem".into(), ..Default::default() }
}

fn signed(signer: &str, labels: Option<&[(&str, &str)]>) -> ClusterTrustBundleProjection {
    ClusterTrustBundleProjection {
        signer_name: Some(signer.into()),
        label_selector: labels.map(|labels| WireSelector {
            match_labels: Some(labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()),
            ..Default::default()
        }),
        path: "ca.pem".into(),
        ..Default::default()
    }
}

#[test]
fn projections_choose() {
    let (known, feed) = Informer::by_hand();
    for one in [
        bundle("roots", "", "", "R"),
        bundle("a.b:c:one", "a.b/c", "live", "1"),
        bundle("a.b:c:two", "a.b/c", "canary", "2"),
        bundle("d.e:f:one", "d.e/f", "live", "3"),
    ] {
        feed.put(&one);
    }
    let names = |source: &ClusterTrustBundleProjection| {
        let found = chosen(source, &known).map_err(|error| error.to_string())?;
        Ok::<_, String>(found.iter().map(|one| one.spec.trust_bundle.clone()).collect::<String>())
    };
    let none = "combination of signerName and labelSelector matched zero ClusterTrustBundles";
    for (source, found) in [
        (named("roots"), Ok("R")),
        (named("a.b:c:one"), Ok("1")),
        (
            named("gone"),
            Err(
                "while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io \"gone\" not found",
            ),
        ),
        (signed("a.b/c", Some(&[])), Ok("12")),
        (signed("a.b/c", Some(&[("l", "canary")])), Ok("2")),
        (signed("a.b/c", Some(&[("l", "no")])), Err(none)),
        // Without a selector nothing is meant, not everything.
        (signed("a.b/c", None), Err(none)),
        (signed("a.b/x", Some(&[])), Err(none)),
        (
            ClusterTrustBundleProjection::default(),
            Err("ClusterTrustBundle projection requires either name or signerName to be set"),
        ),
    ] {
        assert_eq!(names(&source), found.map(str::to_owned).map_err(str::to_owned), "{source:?}");
    }
    let many: Vec<String> =
        (0..4000).map(|number| format!("a-label-with-a-name-of-its-own-{number}")).collect();
    let long: Vec<(&str, &str)> = many.iter().map(|label| (label.as_str(), "x")).collect();
    assert!(matches!(chosen(&signed("a.b/c", Some(&long)), &known), Err(TrustError::Long(_))));
}

#[test]
fn anchors_come_once_and_bare() {
    let order = BuildHasherDefault::<DefaultHasher>::default();
    let (one, two) = (pem_of("one"), pem_of("two"));
    let text = normalized(&[&format!("# comment\n{one}{two}"), &format!("{two}junk\n")], &order);
    let mut blocks: Vec<_> = pem::blocks(&text).into_iter().map(|block| block.bytes).collect();
    assert_eq!(text.len(), one.len() + two.len(), "nothing but the blocks");
    blocks.sort();
    assert_eq!(blocks, [b"one".to_vec(), b"two".to_vec()]);
    // The order is not the bundle's, and stays what it is.
    assert_eq!(normalized(&[&two, &one], &order), text);
    assert_eq!(normalized(&[""], &order), "");
}

fn stored(name: &str, signer: &str, content: &str) -> Value {
    json!({"apiVersion": "certificates.k8s.io/v1beta1", "kind": "ClusterTrustBundle",
        "metadata": {"name": name}, "spec": {"signerName": signer, "trustBundle": content}})
}

fn pod_with(source: &ClusterTrustBundleProjection) -> Pod {
    serde_json::from_value(json!({"spec": {"containers": [], "volumes": [
        {"name": "v", "projected": {"sources": [{"clusterTrustBundle": source}]}}]}}))
    .unwrap()
}

#[tokio::test]
async fn a_kubelet_without_the_feature_and_a_server_without_the_kind_have_none() {
    let api = FakeApi::new();
    let shutdown = Shutdown::new();
    let bundles = |on| TrustBundles::new(&api.client(), &shutdown, on, Arc::new(|_: &str| {}));
    let optional = ClusterTrustBundleProjection { optional: Some(true), ..named("roots") };
    api.put("clustertrustbundles", stored("roots", "", &pem_of("one")));
    assert_eq!(bundles(false).anchors(&optional).await, Err(TrustError::Unsupported));
    api.lack("clustertrustbundles");
    let on = bundles(true);
    assert_eq!(
        on.anchors(&optional).await,
        Err(TrustError::Unsupported),
        "absent is not the same as unknown"
    );
    // A server that has it later is believed.
    api.have("clustertrustbundles");
    assert_eq!(on.anchors(&optional).await, Ok(pem_of("one")));
    shutdown.cancel();
}

#[tokio::test]
async fn users_of_what_changes_are_told() {
    let api = FakeApi::new();
    let shutdown = Shutdown::new();
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = told.clone();
    let tell = Arc::new(move |uid: &str| heard.lock().push(uid.to_owned()));
    let bundles = TrustBundles::new(&api.client(), &shutdown, true, tell);
    api.put("clustertrustbundles", stored("other", "", &pem_of("other")));
    let by_name = ClusterTrustBundleProjection { optional: Some(true), ..named("roots") };
    bundles.set("named", &pod_with(&by_name));
    bundles.set("signed", &pod_with(&signed("a.b/c", Some(&[]))));
    bundles.set("gone", &pod_with(&by_name));
    bundles.forget("gone");
    assert_eq!(bundles.anchors(&by_name).await, Ok(String::new()), "optional and not there yet");
    assert!(told.lock().is_empty(), "{told:?}");
    let heard = async |what: &str, expected: &[&str]| {
        eventually(what, LIMIT, async || {
            let mut seen = told.lock();
            let enough = seen.len() >= expected.len();
            if enough { Ok(std::mem::take(&mut *seen)) } else { Err(format!("{seen:?}")) }
        })
        .await
    };
    api.put("clustertrustbundles", stored("roots", "", &pem_of("one")));
    assert_eq!(heard("appeared", &["named"]).await, ["named"]);
    assert_eq!(bundles.anchors(&by_name).await, Ok(pem_of("one")));
    api.put("clustertrustbundles", stored("a.b:c:x", "a.b/c", &pem_of("two")));
    assert_eq!(heard("signer's", &["signed"]).await, ["signed"]);
    api.put("clustertrustbundles", stored("roots", "", &pem_of("new")));
    assert_eq!(heard("changed", &["named"]).await, ["named"]);
    assert_eq!(bundles.anchors(&by_name).await, Ok(pem_of("new")));
    api.delete("clustertrustbundles", "", "roots", None);
    assert_eq!(heard("deleted", &["named"]).await, ["named"]);
    assert!(matches!(bundles.anchors(&named("roots")).await, Err(TrustError::NotFound(_))));
    shutdown.cancel();
}
