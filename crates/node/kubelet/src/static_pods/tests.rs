//! Manifests on disk and what becomes of them.

use serde_json::json;

use super::{mirror::Step, *};

const TEXT: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - {name: c, image: 'app:v1'}\n";

fn parsed(text: &str) -> Result<Pod, String> {
    parse(text, Origin::File(Path::new("/etc/manifests/web.yaml")), "n1").map_err(|error| error.to_string())
}

#[test]
fn a_file_becomes_a_pod_of_this_node() {
    let pod = parsed(TEXT).unwrap();
    assert_eq!((pod::name(&pod), pod::namespace(&pod)), ("web-n1", "default"));
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!((spec.node_name.as_deref(), spec.restart_policy.as_deref()), (Some("n1"), Some("Always")));
    assert_eq!(spec.tolerations.as_ref().unwrap()[0].effect.as_deref(), Some("NoExecute"));
    let annotations = pod.metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations["kubernetes.io/config.hash"], pod::uid(&pod));
    assert_eq!(annotations["kubernetes.io/config.source"], "file");
    assert!(pod::is_static(&pod) && !pod::is_mirror(&pod) && pod::uid(&pod).len() == 32);
    assert_eq!(parsed(TEXT).unwrap(), pod);
    let mut from_api = pod.clone();
    from_api.metadata.resource_version = Some("1".to_owned());
    assert!(!pod::is_static(&from_api));
    assert!(pod::is_static(
        &parsed(&TEXT.replace("{name: web}", "{name: web, resourceVersion: '1'}")).unwrap()
    ));
    let other = parsed(&TEXT.replace("v1'", "v2'")).unwrap();
    assert_ne!(pod::uid(&other), pod::uid(&pod));
    let elsewhere = parse(TEXT, Origin::File(Path::new("/etc/manifests/b.yaml")), "n1").unwrap();
    assert_ne!(pod::uid(&elsewhere), pod::uid(&pod));
}

#[test]
fn what_is_no_static_pod() {
    let with = |spec: Value| {
        let mut object: Value = serde_norway::from_str(TEXT).unwrap();
        object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        object.to_string()
    };
    for (text, why) in [
        ("{".to_owned(), "couldn't parse as pod"),
        (TEXT.replace("Pod", "Service"), "couldn't parse as pod: not a Pod of v1"),
        ("{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: x}".to_owned(), "spec is not an object"),
        ("{apiVersion: v1, kind: Pod, metadata: web}".to_owned(), "name is needed for the pod"),
        (TEXT.replace("{name: web}", "{}"), "invalid pod: name is needed for the pod"),
        (TEXT.replace("{name: web}", "{name: web, uid: ../../x}"), "metadata.uid"),
        (TEXT.replace("{name: web}", "{name: Web_}"), "invalid pod: metadata.name"),
        (TEXT.replace("name: c,", "name: C_,"), "invalid pod: spec.containers[0].name"),
        (with(json!({"serviceAccountName": "x"})), "static pods may not reference serviceaccounts"),
        (
            with(json!({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]})),
            "may not reference secrets",
        ),
        (
            with(json!({"volumes": [{"name": "v", "configMap": {"name": "s"}}]})),
            "may not reference configmaps",
        ),
        (
            with(json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "s"}}]})),
            "may not reference persistentvolumeclaims",
        ),
    ] {
        let error = parsed(&text).unwrap_err();
        assert!(error.contains(why), "{error} lacks {why}");
    }
}

#[test]
fn files_come_change_and_go() {
    let directory = tempfile::tempdir().unwrap();
    let mut source = Source::new(&directory.path().join("manifests"), "n1");
    assert!(source.read().is_empty());
    let manifests = directory.path().join("manifests");
    fs::create_dir(&manifests).unwrap();
    let file = manifests.join("web.yaml");
    fs::write(&file, TEXT).unwrap();
    fs::write(manifests.join(".hidden.yaml"), TEXT).unwrap();
    let first = source.read();
    assert_eq!(first.len(), 1);
    // Half a file keeps the pod it had.
    fs::write(&file, "apiVersion: v1\nkind: [").unwrap();
    assert_eq!(source.read(), first);
    fs::write(&file, TEXT.replace("v1'", "v2'")).unwrap();
    assert_ne!(source.read()[0].metadata.uid, first[0].metadata.uid);
    fs::remove_file(&file).unwrap();
    assert!(source.read().is_empty());
}

#[test]
fn mirrors_follow_their_pods() {
    let one = Arc::new(parsed(TEXT).unwrap());
    let changed = Arc::new(parsed(&TEXT.replace("v1'", "v2'")).unwrap());
    let shown = Arc::new(mirror::of(&one, "n1", "node-uid"));
    assert!(pod::is_mirror(&shown) && shown.metadata.uid.is_none() && shown.status.is_none());
    let owner = &shown.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!((owner.kind.as_str(), owner.uid.as_str(), owner.controller), ("Node", "node-uid", Some(true)));
    let plan = |statics: &[&Arc<Pod>], mirrors: &[&Arc<Pod>]| {
        let own = |list: &[&Arc<Pod>]| list.iter().map(|one| Arc::clone(one)).collect::<Vec<_>>();
        mirror::plan(&own(statics), &own(mirrors), true)
    };
    assert_eq!(plan(&[&one], &[]), [Step::Create(one.clone())]);
    assert_eq!(plan(&[&one], &[&shown]), []);
    assert_eq!(plan(&[], &[&shown]), [Step::Delete(shown.clone())]);
    assert_eq!(plan(&[&changed], &[&shown]), [Step::Delete(shown.clone())]);
    let mut deleting = (*shown).clone();
    deleting.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
    let deleting = Arc::new(deleting);
    assert_eq!(plan(&[&one], &[&deleting]), [Step::Delete(deleting)]);
    // While a source has said nothing yet, a mirror of a pod that is not known may be one of its.
    let early = |statics: &[Arc<Pod>]| mirror::plan(statics, std::slice::from_ref(&shown), false);
    assert_eq!(early(&[]), []);
    assert_eq!(early(std::slice::from_ref(&changed)), [Step::Delete(shown.clone())]);
}
