//! ServiceAccount: every pod has an account that exists, its image pull secrets, and its token mounted; mirror pods have none.

use std::sync::Arc;
use std::time::Duration;

use podium_api::status::ApiError;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{Operation, Request, containers, list_mut};
use crate::authorization::go_quote;
use crate::objects::{Objects, items, text};

const DEFAULT: &str = "default";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
const ENFORCE_MOUNTABLE: &str = "/metadata/annotations/kubernetes.io~1enforce-mountable-secrets";
/// Marks the token as one that old clients may keep using; see the token request's extension.
const TOKEN_SECONDS: i64 = 3607;
/// How long a pod's creation waits for the default account of a new namespace; upstream tries for one to two seconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// Wakes who waits for a service account to appear.
pub(super) struct Arrivals(Arc<Notify>);

impl Arrivals {
    pub(super) fn follow(objects: &Objects) -> Self {
        let notify = Arc::new(Notify::new());
        let told = Arc::clone(&notify);
        objects.subscribe("", "serviceaccounts", Box::new(move |_, _| told.notify_waiters()));
        Arrivals(notify)
    }

    pub(super) async fn settle(&self, request: &Request<'_>, objects: &Objects) {
        if !(request.operation == Operation::Create && request.is("", "pods")) {
            return;
        }
        let wanted = text(request.object, "/spec/serviceAccountName");
        let needed = (wanted.is_empty() || wanted == DEFAULT)
            && !is_mirror(request.object)
            && objects.get("", "namespaces", "", request.namespace).is_some();
        if !needed {
            return;
        }
        let arrived = async {
            loop {
                let next = self.0.notified();
                tokio::pin!(next);
                // Registered before looking, so that an arrival in between is not missed.
                next.as_mut().enable();
                if objects.get("", "serviceaccounts", request.namespace, DEFAULT).is_some() {
                    return;
                }
                next.await;
            }
        };
        // Running out of patience is not an error here: admission will say what is missing.
        let _ = tokio::time::timeout(PATIENCE, arrived).await;
    }
}

fn is_mirror(pod: &Value) -> bool {
    pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some()
}

pub(super) fn mutate(request: &mut Request<'_>, objects: &Objects) -> Result<(), ApiError> {
    if !(request.operation == Operation::Create && request.is("", "pods")) || is_mirror(request.object) {
        return validate(request, objects);
    }
    if text(request.object, "/spec/serviceAccountName").is_empty() {
        // `serviceAccount` is the old name of the field; the two are kept equal.
        let old = text(request.object, "/spec/serviceAccount");
        let name = if old.is_empty() { DEFAULT } else { old }.to_owned();
        request.object["spec"]["serviceAccountName"] = Value::from(name);
    }
    let name = text(request.object, "/spec/serviceAccountName").to_owned();
    request.object["spec"]["serviceAccount"] = Value::from(name.clone());
    let account = lookup(request, objects, &name)?;
    let flag = |value: &Value| value.get("automountServiceAccountToken").and_then(Value::as_bool);
    if flag(&request.object["spec"]).or_else(|| flag(&account)).unwrap_or(true) {
        mount_token(request.object, || {
            // The alphabet of generated names, which cannot spell words.
            const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
            (0..5).map(|_| char::from(ALPHABET[fastrand::usize(..ALPHABET.len())])).collect()
        });
    }
    if items(request.object, "/spec/imagePullSecrets").is_empty() {
        let secrets: Vec<Value> =
            items(&account, "/imagePullSecrets").iter().map(|s| json!({"name": s["name"]})).collect();
        if !secrets.is_empty() {
            request.object["spec"]["imagePullSecrets"] = Value::Array(secrets);
        }
    }
    validate(request, objects)
}

pub(super) fn validate(request: &Request<'_>, objects: &Objects) -> Result<(), ApiError> {
    if !request.group.is_empty() || request.resource != "pods" {
        return Ok(());
    }
    let ephemeral = request.operation == Operation::Update && request.subresource == "ephemeralcontainers";
    let create = request.operation == Operation::Create && request.subresource.is_empty();
    if !ephemeral && !create {
        return Ok(());
    }
    if create && is_mirror(request.object) {
        return validate_mirror(request);
    }
    let name = text(request.object, "/spec/serviceAccountName");
    if name.is_empty() {
        let pod = text(request.object, "/metadata/name");
        return Err(
            request.forbidden(&format!("no service account specified for pod {}/{pod}", request.namespace))
        );
    }
    let account = lookup(request, objects, name)?;
    let enforced = matches!(text(&account, ENFORCE_MOUNTABLE), "1" | "t" | "T" | "TRUE" | "true" | "True");
    if enforced && let Some(why) = unlisted_secret(request.object, &account, ephemeral) {
        return Err(request.forbidden(&why));
    }
    Ok(())
}

fn validate_mirror(request: &Request<'_>) -> Result<(), ApiError> {
    let pod = &*request.object;
    if !text(pod, "/spec/serviceAccountName").is_empty() {
        return Err(request.forbidden("a mirror pod may not reference service accounts"));
    }
    let in_containers = containers(pod).any(|(_, container)| {
        items(container, "/env").iter().any(|env| !text(env, "/valueFrom/secretKeyRef/name").is_empty())
            || items(container, "/envFrom").iter().any(|from| !text(from, "/secretRef/name").is_empty())
    });
    let projected = |volume: &Value, source: &str| {
        items(volume, "/projected/sources").iter().any(|s| s.get(source).is_some_and(|v| !v.is_null()))
    };
    let in_volumes = items(pod, "/spec/volumes")
        .iter()
        .any(|volume| volume.get("secret").is_some_and(|s| !s.is_null()) || projected(volume, "secret"));
    if in_containers || in_volumes || !items(pod, "/spec/imagePullSecrets").is_empty() {
        return Err(request.forbidden("a mirror pod may not reference secrets"));
    }
    if items(pod, "/spec/volumes").iter().any(|volume| projected(volume, "serviceAccountToken")) {
        return Err(request.forbidden("a mirror pod may not use ServiceAccountToken volume projections"));
    }
    Ok(())
}

fn lookup(request: &Request<'_>, objects: &Objects, name: &str) -> Result<Arc<Value>, ApiError> {
    objects.get("", "serviceaccounts", request.namespace, name).ok_or_else(|| {
        request.forbidden(&format!(
            "error looking up service account {}/{name}: serviceaccount {} not found",
            request.namespace,
            go_quote(name)
        ))
    })
}

/// Adds the token volume and its mounts. Pure but for the name, which `suffix` gives.
fn mount_token(pod: &mut Value, suffix: impl FnOnce() -> String) {
    let known = items(pod, "/spec/volumes")
        .iter()
        .map(|volume| text(volume, "/name"))
        .find(|name| name.starts_with(VOLUME_PREFIX))
        .map(str::to_owned);
    let new = known.is_none();
    let volume = known.unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", suffix()));
    let mut needed = false;
    // By pointer: to index a list that is not there would put a null in its place.
    for list in ["/spec/initContainers", "/spec/containers"] {
        for container in pod.pointer_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            // Something else mounted there keeps the token out.
            if items(container, "/volumeMounts").iter().any(|m| text(m, "/mountPath") == MOUNT_PATH) {
                continue;
            }
            list_mut(container, "volumeMounts")
                .push(json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}));
            needed = true;
        }
    }
    if new && needed {
        list_mut(&mut pod["spec"], "volumes").push(json!({
            "name": volume,
            "projected": {
                "defaultMode": 420,
                "sources": [
                    {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                    {"downwardAPI": {"items": [{
                        "path": "namespace",
                        "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                    }]}},
                ],
            },
        }));
    }
}

/// Why a pod's secrets are not all among those its account lists.
fn unlisted_secret(pod: &Value, account: &Value, ephemeral_only: bool) -> Option<String> {
    let account_name = text(account, "/metadata/name");
    let listed = |pointer: &str, name: &str| items(account, pointer).iter().any(|s| text(s, "/name") == name);
    let unlisted = |name: &str| !listed("/secrets", name);
    if !ephemeral_only {
        for volume in items(pod, "/spec/volumes") {
            let name = text(volume, "/secret/secretName");
            if volume.get("secret").is_some_and(|s| !s.is_null()) && unlisted(name) {
                return Some(format!(
                    "volume with secret.secretName=\"{name}\" is not allowed because service account {account_name} \
                     does not reference that secret"
                ));
            }
        }
    }
    for (list, container) in containers(pod) {
        let what = match list {
            "/spec/ephemeralContainers" => "ephemeral container",
            _ if ephemeral_only => continue,
            "/spec/initContainers" => "init container",
            _ => "container",
        };
        let container_name = text(container, "/name");
        for env in items(container, "/env") {
            let name = text(env, "/valueFrom/secretKeyRef/name");
            if !name.is_empty() && unlisted(name) {
                return Some(format!(
                    "{what} {container_name} with envVar {} referencing secret.secretName=\"{name}\" is not allowed \
                     because service account {account_name} does not reference that secret",
                    text(env, "/name")
                ));
            }
        }
        for from in items(container, "/envFrom") {
            let name = text(from, "/secretRef/name");
            if !name.is_empty() && unlisted(name) {
                return Some(format!(
                    "{what} {container_name} with envFrom referencing secret.secretName=\"{name}\" is not allowed \
                     because service account {account_name} does not reference that secret"
                ));
            }
        }
    }
    if ephemeral_only {
        return None;
    }
    items(pod, "/spec/imagePullSecrets").iter().enumerate().find_map(|(i, secret)| {
        let name = text(secret, "/name");
        (!listed("/imagePullSecrets", name)).then(|| {
            format!(
                "imagePullSecrets[{i}].name=\"{name}\" is not allowed because service account {account_name} does \
                 not reference that imagePullSecret"
            )
        })
    })
}
