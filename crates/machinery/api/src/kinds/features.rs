//! Features of upstream's that are off by default and can be turned on: what a server does with their fields and resources
//! while they are off.
//!
//! Source: `pkg/features/kube_features.go` and `DropDisabledPodFields` of `pkg/api/pod/util.go`, v1.36.

use serde_json::Value;

use super::tree::{child, has, items_mut, list, remove, value};

/// Which of them are on. By default none is, as upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// ClusterTrustBundles are served and nodes may read them.
    pub cluster_trust_bundle: bool,
    /// Pods may project them into volumes.
    pub cluster_trust_bundle_projection: bool,
}

impl Features {
    /// Whether a resource is there at all.
    pub(crate) fn serve(self, group: &str, plural: &str) -> bool {
        match (group, plural) {
            ("certificates.k8s.io", "clustertrustbundles") => self.cluster_trust_bundle,
            // Nothing here asks for or checks them, and upstream's server has them only with a gate that is off.
            ("certificates.k8s.io", "podcertificaterequests") => false,
            _ => true,
        }
    }

    /// Takes the fields of features that are off out of an object that is to be stored, unless the stored one has the field
    /// already. Pods and all that carry a template of them; others are left alone. To be called before the kind's own
    /// preparation, which compares templates.
    pub fn drop_disabled(self, group: &str, kind: &str, object: &mut Value, old: Option<&Value>) {
        let Some(path) = spec_path(group, kind) else { return };
        let before = old.map(|old| path.iter().fold(old, |at, name| value(at, name)));
        if let Some(spec) = path.iter().try_fold(&mut *object, |at, name| child(at, name)) {
            drop_of_spec(spec, before.unwrap_or(&Value::Null));
        }
        let off = [("clusterTrustBundle", self.cluster_trust_bundle_projection), ("podCertificate", false)];
        for (field, _) in off.into_iter().filter(|(_, on)| !on) {
            if before.is_some_and(|spec| projects(spec, field)) {
                continue;
            }
            let Some(spec) = path.iter().try_fold(&mut *object, |at, name| child(at, name)) else { return };
            for source in items_mut(spec, "volumes")
                .filter_map(|volume| child(volume, "projected"))
                .flat_map(|projected| items_mut(projected, "sources"))
            {
                remove(source, field);
            }
        }
    }
}

/// Fields of features that cannot be turned on here: `GenericWorkload` and `ContainerStopSignals`.
fn drop_of_spec(spec: &mut Value, before: &Value) {
    if !has(before, "schedulingGroup") {
        remove(spec, "schedulingGroup");
    }
    const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];
    let stops = |container: &Value| has(value(container, "lifecycle"), "stopSignal");
    if CONTAINERS.iter().any(|field| list(before, field).iter().any(stops)) {
        return;
    }
    for field in CONTAINERS {
        for lifecycle in items_mut(spec, field).filter_map(|container| child(container, "lifecycle")) {
            remove(lifecycle, "stopSignal");
        }
    }
}

/// Where a kind has the specification of a pod.
fn spec_path(group: &str, kind: &str) -> Option<&'static [&'static str]> {
    match (group, kind) {
        ("", "Pod") => Some(&["spec"]),
        ("", "PodTemplate") => Some(&["template", "spec"]),
        ("", "ReplicationController")
        | ("apps", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet")
        | ("batch", "Job") => Some(&["spec", "template", "spec"]),
        ("batch", "CronJob") => Some(&["spec", "jobTemplate", "spec", "template", "spec"]),
        _ => None,
    }
}

fn projects(spec: &Value, field: &str) -> bool {
    list(spec, "volumes")
        .iter()
        .flat_map(|volume| list(value(volume, "projected"), "sources"))
        .any(|source| has(source, field))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec() -> Value {
        json!({"volumes": [{"name": "e", "emptyDir": {}}, {"name": "v", "projected": {"sources": [
            {"configMap": {"name": "c"}},
            {"clusterTrustBundle": {"name": "roots", "path": "ca.pem"}},
            {"podCertificate": {"signerName": "a.b/c", "keyType": "ED25519", "keyPath": "k"}}]}}]})
    }

    /// What is left of the sources of the pod in an object.
    fn left(features: Features, group: &str, kind: &str, pointer: &str, old: bool) -> Value {
        let names: Vec<&str> = pointer.split('/').skip(1).collect();
        let object = names.iter().rev().fold(spec(), |inner, name| json!({*name: inner}));
        let mut new = object.clone();
        features.drop_disabled(group, kind, &mut new, old.then_some(&object));
        new.pointer(&format!("{pointer}/volumes/1/projected/sources")).unwrap().clone()
    }

    #[test]
    fn fields_of_features_that_are_off_go_wherever_pods_are_described() {
        let map = json!({"configMap": {"name": "c"}});
        for (group, kind, pointer) in [
            ("", "Pod", "/spec"),
            ("", "PodTemplate", "/template/spec"),
            ("", "ReplicationController", "/spec/template/spec"),
            ("apps", "Deployment", "/spec/template/spec"),
            ("apps", "ReplicaSet", "/spec/template/spec"),
            ("apps", "StatefulSet", "/spec/template/spec"),
            ("apps", "DaemonSet", "/spec/template/spec"),
            ("batch", "Job", "/spec/template/spec"),
            ("batch", "CronJob", "/spec/jobTemplate/spec/template/spec"),
        ] {
            assert_eq!(
                left(Features::default(), group, kind, pointer, false),
                json!([map, {}, {}]),
                "{kind}"
            );
        }
    }

    #[test]
    fn fields_stay_that_are_on_or_were_there() {
        let all = spec()["volumes"][1]["projected"]["sources"].clone();
        assert_eq!(left(Features::default(), "", "Pod", "/spec", true), all);
        let on = Features { cluster_trust_bundle: true, cluster_trust_bundle_projection: true };
        assert_eq!(left(on, "", "Pod", "/spec", false), json!([all[0], all[1], {}]));
        // The resource alone does not give the volume.
        let half = Features { cluster_trust_bundle: true, ..Features::default() };
        assert_eq!(left(half, "", "Pod", "/spec", false), json!([all[0], {}, {}]));
    }

    #[test]
    fn fields_that_cannot_be_turned_on_go_too() {
        let pod = json!({"spec": {"schedulingGroup": {}, "containers": [
            {"name": "c", "lifecycle": {"stopSignal": "SIGINT", "preStop": {}}}]}});
        let mut new = pod.clone();
        Features::default().drop_disabled("", "Pod", &mut new, None);
        assert_eq!(new, json!({"spec": {"containers": [{"name": "c", "lifecycle": {"preStop": {}}}]}}));
        let mut new = pod.clone();
        Features::default().drop_disabled("", "Pod", &mut new, Some(&pod));
        assert_eq!(new, pod);
    }

    #[test]
    fn what_else_an_object_is_does_not_matter() {
        for mut object in
            [json!(null), json!({"spec": 1}), json!({"spec": {"volumes": [1, {"projected": []}]}})]
        {
            let before = object.clone();
            Features::default().drop_disabled("", "Pod", &mut object, None);
            assert_eq!(object, before);
        }
    }
}
