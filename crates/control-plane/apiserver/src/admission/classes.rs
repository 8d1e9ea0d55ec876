//! DefaultStorageClass and DefaultIngressClass: who names no class gets the default one; of several, the newest.

use std::cmp::Reverse;

use serde_json::Value;

use super::{Operation, Request};
use crate::objects::{Objects, text};

const STORAGE: &str = "storage.k8s.io";
const NETWORKING: &str = "networking.k8s.io";

pub(super) fn default_storage_class(request: &mut Request<'_>, objects: &Objects) {
    if request.operation != Operation::Create || !request.is("", "persistentvolumeclaims") {
        return;
    }
    let named = request.object["spec"].get("storageClassName").is_some_and(|v| !v.is_null());
    let annotated = annotation(request.object, "volume.beta.kubernetes.io/storage-class").is_some();
    if named || annotated {
        return;
    }
    let default = |class: &Value| {
        annotation(class, "storageclass.kubernetes.io/is-default-class") == Some("true")
            || annotation(class, "storageclass.beta.kubernetes.io/is-default-class") == Some("true")
    };
    if let Some(name) = newest(objects, STORAGE, "storageclasses", default) {
        request.object["spec"]["storageClassName"] = Value::from(name);
    }
}

pub(super) fn default_ingress_class(request: &mut Request<'_>, objects: &Objects) {
    if request.operation != Operation::Create || !request.is(NETWORKING, "ingresses") {
        return;
    }
    let named = request.object["spec"].get("ingressClassName").is_some_and(|v| !v.is_null());
    if named || annotation(request.object, "kubernetes.io/ingress.class").is_some() {
        return;
    }
    let default =
        |class: &Value| annotation(class, "ingressclass.kubernetes.io/is-default-class") == Some("true");
    if let Some(name) = newest(objects, NETWORKING, "ingressclasses", default) {
        request.object["spec"]["ingressClassName"] = Value::from(name);
    }
}

fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object["metadata"]["annotations"].get(key)?.as_str()
}

/// The name of the newest default; of the same age, the first by name.
fn newest(
    objects: &Objects,
    group: &str,
    resource: &str,
    default: impl Fn(&Value) -> bool,
) -> Option<String> {
    let all = objects.list(group, resource, None);
    let chosen = all.iter().filter(|class| default(class)).min_by_key(|class| {
        // Stored times are RFC 3339 in UTC with whole seconds: text order is time order.
        (Reverse(text(class, "/metadata/creationTimestamp")), text(class, "/metadata/name"))
    })?;
    Some(text(chosen, "/metadata/name").to_owned())
}
