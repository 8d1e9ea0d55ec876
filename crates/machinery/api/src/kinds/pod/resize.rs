//! `/resize`: cpu and memory of containers, and of the pod as a whole, while it runs.
//! Source: `ValidatePodResize` and `podResizeStrategy`, with containers that initialise resizable, as since v1.36.

use serde_json::Value;

use super::qos_class;
use super::spec::validate_pod;
use super::update::reset;
use crate::field::{Errors, Path};
use crate::kinds::tree::{carry, entries, has, items_mut, list, same, text, value};

/// `/resize` changes nothing but resources and resize policies.
pub(super) fn keep_only_resize(new: &mut Value, old: &Value) {
    let wanted = value(new, "spec").clone();
    let before = value(old, "spec");
    let alike = |field: &str| {
        let (a, b) = (list(&wanted, field), list(before, field));
        a.len() == b.len() && a.iter().zip(b).all(|(x, y)| text(x, "name") == text(y, "name"))
    };
    // Anything else is left for validation to refuse.
    if !alike("containers") || !alike("initContainers") {
        return;
    }
    reset(new, old);
    let Some(spec) = new.get_mut("spec") else { return };
    carry(spec, &wanted, "resources");
    for field in ["containers", "initContainers"] {
        for (container, wanted) in items_mut(spec, field).zip(list(&wanted, field)) {
            carry(container, wanted, "resources");
            carry(container, wanted, "resizePolicy");
        }
    }
}

/// Validates a resize, within the pod's quality-of-service class.
pub(super) fn validate(new: &Value, old: &Value, errors: &mut Errors) {
    validate_pod(new, errors);
    let refuse = |errors: &mut Errors, why: &str| {
        errors.0.clear();
        errors.forbidden(&Path::new(""), why);
    };
    if has(value(value(old, "metadata"), "annotations"), "kubernetes.io/config.mirror") {
        return refuse(errors, "static pods cannot be resized");
    }
    let (spec, before) = (value(new, "spec"), value(old, "spec"));
    if text(value(before, "os"), "name") == "windows" {
        return refuse(errors, "windows pods cannot be resized");
    }
    let path = Path::new("spec");
    let class = text(value(old, "status"), "qosClass");
    if !class.is_empty() && class != qos_class(new) {
        errors.invalid(&path, class, "Pod QOS Class may not change as a result of resizing");
    }
    if !supported(value(old, "status")) {
        errors.forbidden(&path, "Pod running on node without support for resize");
    }
    pod_level(value(spec, "resources"), value(before, "resources"), &path, errors);
    if !ordered(spec, before, &path, errors) {
        return;
    }
    for field in ["initContainers", "containers"] {
        let at = path.child(field);
        for (index, (new, old)) in list(spec, field).iter().zip(list(before, field)).enumerate() {
            let at = at.index(index);
            removed(
                value(new, "resources"),
                value(old, "resources"),
                "resource",
                &at.child("resources"),
                errors,
            );
        }
    }
    for (new, old) in list(spec, "containers").iter().zip(list(before, "containers")) {
        if !only_cpu_and_memory(new, old) {
            errors.forbidden(&path, "only cpu and memory resources are mutable");
        }
    }
    let at = path.child("initContainers");
    for (index, (new, old)) in
        list(spec, "initContainers").iter().zip(list(before, "initContainers")).enumerate()
    {
        if !only_cpu_and_memory(new, old) {
            let why = "only cpu and memory resources for init or sidecar containers are mutable";
            errors.forbidden(&at.index(index), why);
        }
        let restarts = |policy: &Value| text(policy, "restartPolicy") == "RestartContainer";
        let resized = !same(value(new, "resources"), value(old, "resources"));
        if resized && text(new, "restartPolicy") != "Always" {
            for _ in list(new, "resizePolicy").iter().filter(|policy| restarts(policy)) {
                let why =
                    "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
                errors.forbidden(&at.index(index), why);
            }
        }
    }
}

/// Whether the node can: it tells the resources of what runs. Before anything runs it is taken to.
fn supported(status: &Value) -> bool {
    let mut statuses = list(status, "containerStatuses").iter();
    let running = statuses.find(|container| has(value(container, "state"), "running"));
    running.is_none_or(|container| has(container, "resources"))
}

fn pod_level(new: &Value, old: &Value, path: &Path<'_>, errors: &mut Errors) {
    let is_set = |resources: &Value| {
        ["requests", "limits"].iter().any(|kind| entries(resources, kind).next().is_some())
    };
    if !is_set(old) && !is_set(new) {
        return;
    }
    let at = path.child("resources");
    if !old.is_null() && new.is_null() {
        errors.forbidden(&at, "pod-level resources cannot be removed");
        return;
    }
    removed(new, old, "pod-level resource", &at, errors);
    if ["requests", "limits"].iter().any(|kind| others(new, kind) != others(old, kind)) {
        errors.forbidden(path, "only cpu and memory resources are mutable at pod-level");
    }
}

/// Whether the containers are those that were, in their order: the rest can then be compared one by one.
fn ordered(spec: &Value, before: &Value, path: &Path<'_>, errors: &mut Errors) -> bool {
    let mut good = true;
    for field in ["containers", "initContainers"] {
        let (news, olds) = (list(spec, field), list(before, field));
        let at = path.child(field);
        if news.len() != olds.len() {
            errors.forbidden(&at, &format!("{field} may not be added or removed on resize"));
            good = false;
            continue;
        }
        for (index, (new, old)) in news.iter().zip(olds).enumerate() {
            if text(new, "name") != text(old, "name") {
                let why = format!("{field} may not be renamed or reordered on resize");
                errors.forbidden(&at.index(index).child("name"), &why);
                good = false;
            }
        }
    }
    good
}

fn removed(new: &Value, old: &Value, what: &str, path: &Path<'_>, errors: &mut Errors) {
    for kind in ["requests", "limits"] {
        if entries(old, kind).any(|(name, _)| !has(value(new, kind), name)) {
            errors.forbidden(&path.child(kind), &format!("{what} {kind} cannot be removed"));
        }
    }
}

/// The amounts of a list that cannot be resized.
fn others<'a>(resources: &'a Value, kind: &str) -> Vec<(&'a str, &'a Value)> {
    entries(resources, kind).filter(|(name, _)| !matches!(*name, "cpu" | "memory")).collect()
}

fn only_cpu_and_memory(new: &Value, old: &Value) -> bool {
    let (news, olds) = (value(new, "resources"), value(old, "resources"));
    ["requests", "limits"].iter().all(|kind| others(news, kind) == others(olds, kind))
        && same(value(news, "claims"), value(olds, "claims"))
        && same(value(new, "resizePolicy"), value(old, "resizePolicy"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::pod::Pod;
    use crate::kinds::{Context, Part, Requester, Rules as _};

    fn pod() -> Value {
        let amounts = |cpu: &str| json!({"requests": {"cpu": cpu, "example.com/gpu": "1"}, "limits": {"example.com/gpu": "1"}});
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {
            "initContainers": [
                {"name": "first", "image": "i", "resources": amounts("1")},
                {"name": "side", "image": "i", "restartPolicy": "Always", "resources": amounts("1"),
                    "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]}],
            "containers": [{"name": "c", "image": "i", "resources": amounts("1")}]}});
        Pod.default(&mut pod);
        pod["status"] = json!({"qosClass": "Burstable"});
        pod
    }

    #[track_caller]
    fn check(old: &Value, change: impl Fn(&mut Value), expected: &[&str]) {
        let mut new = old.clone();
        change(&mut new);
        let part = Context { part: Part::Other("resize"), now: "", requester: Requester::NOBODY };
        Pod.prepare_update(&mut new, old, &part);
        let mut errors = Errors::new();
        Pod.validate_update(&new, old, &part, &mut errors);
        let texts: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        assert_eq!(texts, expected);
    }

    #[test]
    fn cpu_and_memory_of_every_container_may_change() {
        for place in ["/initContainers/0", "/initContainers/1", "/containers/0"] {
            let cpu = format!("/spec{place}/resources/requests/cpu");
            check(&pod(), |new| *new.pointer_mut(&cpu).unwrap() = json!("2"), &[]);
        }
        check(&pod(), |new| new["spec"]["containers"][0]["image"] = json!("kept"), &[]);
        let running = |resources: Value| {
            let mut old = pod();
            old["status"]["containerStatuses"] =
                json!([{"name": "c", "state": {"running": {}}, "resources": resources}]);
            old
        };
        check(
            &running(json!({})),
            |new| new["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("2"),
            &[],
        );
        check(
            &running(Value::Null),
            |new| new["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("2"),
            &["spec: Forbidden: Pod running on node without support for resize"],
        );
    }

    #[test]
    fn nothing_else_may() {
        let gpus = |new: &mut Value, place: &str| {
            for kind in ["requests", "limits"] {
                let at = format!("/spec{place}/resources/{kind}/example.com~1gpu");
                *new.pointer_mut(&at).unwrap() = json!("2");
            }
        };
        check(
            &pod(),
            |new| gpus(new, "/containers/0"),
            &["spec: Forbidden: only cpu and memory resources are mutable"],
        );
        check(
            &pod(),
            |new| gpus(new, "/initContainers/0"),
            &[
                "spec.initContainers[0]: Forbidden: only cpu and memory resources for init or sidecar containers are mutable",
            ],
        );
        check(
            &pod(),
            |new| {
                new["spec"]["containers"][0]["resizePolicy"] =
                    json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]);
            },
            &["spec: Forbidden: only cpu and memory resources are mutable"],
        );
        check(
            &pod(),
            |new| {
                new["spec"]["containers"][0]["resources"]["requests"].as_object_mut().unwrap().remove("cpu");
            },
            &["spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"],
        );
        check(
            &pod(),
            |new| new["spec"]["containers"][0]["name"] = json!("d"),
            &["spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize"],
        );
        let mut old = pod();
        old["spec"]["initContainers"][0]["resizePolicy"] =
            json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]);
        let mut errors = Errors::new();
        let mut new = old.clone();
        new["spec"]["initContainers"][0]["resources"]["requests"]["cpu"] = json!("2");
        validate(&new, &old, &mut errors);
        let texts: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        assert!(
            texts.contains(
                &"spec.initContainers[0]: Forbidden: non-sidecar init containers with a resize policy of RestartContainer cannot be resized"
                    .to_owned()
            ),
            "{texts:?}"
        );
        let mut old = pod();
        old["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        check(&old, |_| {}, &[": Forbidden: static pods cannot be resized"]);
    }

    #[test]
    fn a_pod_as_a_whole_is_resized() {
        let mut old = pod();
        old["spec"]["resources"] = json!({"requests": {"cpu": "4", "memory": "1Gi"}});
        check(&old, |new| new["spec"]["resources"]["requests"]["cpu"] = json!("5"), &[]);
        check(
            &old,
            |new| new["spec"]["resources"] = json!({"requests": {"cpu": "4"}}),
            &["spec.resources.requests: Forbidden: pod-level resource requests cannot be removed"],
        );
    }
}
