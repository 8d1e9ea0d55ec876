"""A script of typical calls through the Python client; every answer is compared with what upstream's server answers.

Run as `python3 script.py KUBECONFIG SUFFIX`: what it makes has names that end in the suffix, so that it may run twice against
one server. Each part makes its own objects in its own namespace. No controllers are needed, and none may tidy up in between.
Prints a line per part and exits with 1 at the first answer that differs.
"""

import base64
import inspect
import json
import os
import sys
import tempfile
import time
import traceback

from kubernetes import client, config, dynamic, watch
from kubernetes.client import rest
from kubernetes.client.rest import ApiException
from kubernetes.dynamic import exceptions as dynamic_exceptions

MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"

KUBECONFIG, SUFFIX = sys.argv[1], sys.argv[2]
# Longer than any watch here takes; a server that keeps one open for ever fails instead of hanging.
PATIENCE_SECONDS = 30

checks = 0


def same(what, seen, wanted):
    global checks
    checks += 1
    if seen != wanted:
        raise AssertionError(f"{what}\n  seen:   {seen!r}\n  wanted: {wanted!r}")


def true(what, seen):
    same(what, bool(seen), True)


def refused(what, code, reason, call, *arguments, **options):
    """The Status of a call that must fail."""
    try:
        answer = call(*arguments, **options)
    except ApiException as error:
        status = json.loads(error.body)
        seen = (error.status, status.get("kind"), status.get("status"), status.get("code"), status.get("reason"))
        same(f"{what}: {status.get('message')}", seen, (code, "Status", "Failure", code, reason))
        return status
    raise AssertionError(f"{what}: expected {code} {reason}, got {answer}")


def sending(content_type, kind=client.CoreV1Api):
    """An API whose calls all have this content type, which is how the generated client chooses a kind of patch."""
    api_client = config.new_client_from_config(KUBECONFIG)
    api_client.set_default_header("Content-Type", content_type)
    return kind(api_client)


def apply_body(body):
    """The body of an apply: early versions of the client take it only as a text, later ones write the text themselves."""
    return body if "apply-patch" in inspect.getsource(rest.RESTClientObject.request) else json.dumps(body)


def namespace(word):
    name = f"python-{word}{SUFFIX}"
    made = client.CoreV1Api().create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=name)))
    same("a namespace's phase", made.status.phase, "Active")
    same("a namespace's finalizer", made.spec.finalizers, ["kubernetes"])
    same("a namespace's own label", made.metadata.labels, {"kubernetes.io/metadata.name": name})
    # Pods need it, and its controller does not run here.
    try:
        client.CoreV1Api().create_namespaced_service_account(
            name, client.V1ServiceAccount(metadata=client.V1ObjectMeta(name="default")))
    except ApiException as error:
        same("a default account already there", error.status, 409)
    return name


def template_of(labels):
    return client.ApiClient().sanitize_for_serialization(template(labels))


def config_map(name, data=None, labels=None):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name, labels=labels), data=data)


def template(labels):
    return client.V1PodTemplateSpec(
        metadata=client.V1ObjectMeta(labels=labels),
        spec=client.V1PodSpec(containers=[client.V1Container(name="main", image="registry.example/main:1")]),
    )


def managers(found):
    return {(entry.manager, entry.operation, entry.subresource) for entry in found.metadata.managed_fields}


def versions():
    code = client.VersionApi().get_code()
    same("the version", (code.major, code.minor.rstrip("+")), ("1", "36"))
    true("its long form", code.git_version.startswith("v1.36."))
    same("versions of the core group", client.CoreApi().get_api_versions().versions, ["v1"])
    groups = {group.name: group for group in client.ApisApi().get_api_versions().groups}
    for name in ["apps", "batch", "rbac.authorization.k8s.io", "apiextensions.k8s.io", "coordination.k8s.io"]:
        same(f"the version of {name}", groups[name].preferred_version.version, "v1")
    resources = {resource.name: resource for resource in client.CoreV1Api().get_api_resources().resources}
    pods = resources["pods"]
    same("pods in discovery", (pods.kind, pods.namespaced, pods.short_names), ("Pod", True, ["po"]))
    true("verbs of pods", {"create", "deletecollection", "get", "list", "patch", "update", "watch"} <= set(pods.verbs))
    same("a subresource in discovery", resources["serviceaccounts/token"].kind, "TokenRequest")
    same("the group of eviction", resources["pods/eviction"].group, "policy")


def objects():
    core = client.CoreV1Api()
    here = namespace("objects")
    made = core.create_namespaced_config_map(here, config_map("settings", {"a": "1"}), field_manager="script")
    true("a uid", made.metadata.uid)
    same("its manager", managers(made), {("script", "Update", None)})
    read = core.read_namespaced_config_map("settings", here)
    same("what is read", read.to_dict(), made.to_dict())

    made.data = {"a": "2"}
    replaced = core.replace_namespaced_config_map("settings", here, made)
    same("what was replaced", (replaced.data, replaced.metadata.uid), ({"a": "2"}, made.metadata.uid))
    true("another version", replaced.metadata.resource_version != made.metadata.resource_version)
    status = refused("a stale replace", 409, "Conflict", core.replace_namespaced_config_map, "settings", here, made)
    same("its message", status["message"], 'Operation cannot be fulfilled on configmaps "settings": the object has been '
         "modified; please apply your changes to the latest version and try again")
    same("its details", status["details"], {"name": "settings", "kind": "configmaps"})
    same_again = core.replace_namespaced_config_map("settings", here, replaced)
    same("a replace that changes nothing", same_again.metadata.resource_version, replaced.metadata.resource_version)

    status = refused("a second create", 409, "AlreadyExists", core.create_namespaced_config_map, here,
                     config_map("settings"))
    same("its message", status["message"], 'configmaps "settings" already exists')
    status = refused("a missing object", 404, "NotFound", core.read_namespaced_config_map, "none", here)
    same("its message", status["message"], 'configmaps "none" not found')
    same("its details", status["details"], {"name": "none", "kind": "configmaps"})
    status = refused("a missing namespace", 404, "NotFound", core.create_namespaced_config_map, "none" + SUFFIX,
                     config_map("settings"))
    same("its details", status["details"], {"name": "none" + SUFFIX, "kind": "namespaces"})
    status = refused("a bad name", 422, "Invalid", core.create_namespaced_config_map, here, config_map("Bad_Name"))
    same("its field", [(cause["reason"], cause["field"]) for cause in status["details"]["causes"]],
         [("FieldValueInvalid", "metadata.name")])
    status = refused("another name in the object", 400, "BadRequest", core.replace_namespaced_config_map, "other", here,
                     config_map("settings"))
    same("its message", status["message"],
         "the name of the object (settings) does not match the name on the URL (other)")
    same("a generated name", core.create_namespaced_config_map(
        here, client.V1ConfigMap(metadata=client.V1ObjectMeta(generate_name="some-"))).metadata.name[:5], "some-")

    secret = core.create_namespaced_secret(here, client.V1Secret(
        metadata=client.V1ObjectMeta(name="key"), string_data={"word": "open"}))
    same("a secret's type", secret.type, "Opaque")
    same("a secret's data", base64.b64decode(secret.data["word"]), b"open")
    same("what is only written", secret.string_data, None)

    service = core.create_namespaced_service(here, client.V1Service(
        metadata=client.V1ObjectMeta(name="web"),
        spec=client.V1ServiceSpec(selector={"app": "web"}, ports=[client.V1ServicePort(port=80)])))
    true("an address", service.spec.cluster_ip)
    same("the same address", service.spec.cluster_i_ps, [service.spec.cluster_ip])
    port = service.spec.ports[0]
    same("a port's defaults", (port.protocol, port.target_port), ("TCP", 80))
    same("defaults", (service.spec.type, service.spec.session_affinity, service.spec.ip_families),
         ("ClusterIP", "None", ["IPv4"]))

    gone = core.delete_namespaced_config_map("settings", here)
    same("a delete's answer", (gone.status, gone.details.name, gone.details.kind, gone.details.uid),
         ("Success", "settings", "configmaps", made.metadata.uid))
    refused("a second delete", 404, "NotFound", core.delete_namespaced_config_map, "settings", here)


def lists():
    core = client.CoreV1Api()
    here = namespace("lists")
    for index in range(5):
        core.create_namespaced_config_map(
            here, config_map(f"item-{index}", labels={"parity": "even" if index % 2 == 0 else "odd", "of": "script"}))

    def names(**options):
        return [item.metadata.name for item in core.list_namespaced_config_map(here, **options).items]

    same("by label", names(label_selector="parity=even"), ["item-0", "item-2", "item-4"])
    same("by set", names(label_selector="parity in (odd),of"), ["item-1", "item-3"])
    same("without a label", names(label_selector="!parity"), [])
    same("by field", names(field_selector="metadata.name=item-3"), ["item-3"])
    same("by the other fields", names(field_selector="metadata.name!=item-3"), ["item-0", "item-1", "item-2", "item-4"])
    refused("a bad label selector", 400, "BadRequest", core.list_namespaced_config_map, here, label_selector="a in b")
    refused("an unknown field", 400, "BadRequest", core.list_namespaced_config_map, here, field_selector="data.a=1")

    seen, versions_seen, rest, token = [], set(), [], None
    while True:
        page = core.list_namespaced_config_map(here, limit=2, _continue=token)
        seen.append([item.metadata.name for item in page.items])
        versions_seen.add(page.metadata.resource_version)
        rest.append(page.metadata.remaining_item_count)
        token = page.metadata._continue
        # What comes between pages is not in the list that the first one began.
        if len(seen) == 1:
            core.create_namespaced_config_map(here, config_map("item-9", labels={"parity": "odd"}))
        if not token:
            break
    same("pages", seen, [["item-0", "item-1"], ["item-2", "item-3"], ["item-4"]])
    same("what remains", rest, [3, 1, None])
    same("one version for all pages", len(versions_seen), 1)
    page = core.list_namespaced_config_map(here, limit=1, label_selector="parity=odd")
    same("no count with a selector", (len(page.items), page.metadata.remaining_item_count), (1, None))
    true("but a token", page.metadata._continue)
    refused("a bad token", 400, "BadRequest", core.list_namespaced_config_map, here, limit=1, _continue="none")
    everywhere = core.list_config_map_for_all_namespaces(
        label_selector="of=script", field_selector=f"metadata.namespace={here}")
    same("of all namespaces", len(everywhere.items), 5)
    at_least = core.list_namespaced_config_map(here, resource_version="0")
    true("a version of the list", at_least.metadata.resource_version)
    exact = core.list_namespaced_config_map(
        here, resource_version=versions_seen.pop(), resource_version_match="Exact")
    same("the list as it was", [item.metadata.name for item in exact.items], [f"item-{index}" for index in range(5)])

    answer = core.delete_collection_namespaced_config_map(here, label_selector="parity=odd")
    # Upstream answers with the list of what it deleted, whatever its OpenAPI says.
    same("what was deleted", answer.kind, "ConfigMapList")
    same("what is left", names(), ["item-0", "item-2", "item-4"])
    core.delete_collection_namespaced_config_map(here, dry_run="All")
    same("after a dry run", names(), ["item-0", "item-2", "item-4"])
    core.delete_collection_namespaced_config_map(here)
    same("nothing is left", names(), [])


def watches():
    core = client.CoreV1Api()
    here = namespace("watches")
    core.create_namespaced_config_map(here, config_map("first", labels={"keep": "yes"}))
    began = core.list_namespaced_config_map(here).metadata.resource_version
    core.create_namespaced_config_map(here, config_map("second", labels={"keep": "yes"}))
    core.patch_namespaced_config_map("first", here, {"data": {"a": "1"}})
    core.patch_namespaced_config_map("second", here, {"metadata": {"labels": {"keep": "no"}}})
    core.delete_namespaced_config_map("first", here)

    def events(count, **options):
        seen, stream = [], watch.Watch()
        options.setdefault("timeout_seconds", PATIENCE_SECONDS)
        for event in stream.stream(core.list_namespaced_config_map, here, **options):
            same("an event's object", type(event["object"]), client.V1ConfigMap)
            seen.append((event["type"], event["object"].metadata.name))
            if len(seen) == count:
                stream.stop()
        return seen

    same("since a version", events(4, resource_version=began), [
        ("ADDED", "second"), ("MODIFIED", "first"), ("MODIFIED", "second"), ("DELETED", "first")])
    # An object that no longer matches has gone for this watcher.
    same("through a selector", events(4, resource_version=began, label_selector="keep=yes"), [
        ("ADDED", "second"), ("MODIFIED", "first"), ("DELETED", "second"), ("DELETED", "first")])
    same("of one name", events(2, resource_version=began, field_selector="metadata.name=first"), [
        ("MODIFIED", "first"), ("DELETED", "first")])
    same("what is there, without a version", events(1), [("ADDED", "second")])

    started = time.monotonic()
    same("the server's end of a watch", events(9, timeout_seconds=1), [("ADDED", "second")])
    took = time.monotonic() - started
    true(f"after its second: {took}", 0.9 <= took < 10)

    # The client goes on by itself from the last version it saw when a watch without a timeout ends.
    seen, stream = [], watch.Watch()
    for event in stream.stream(core.list_namespaced_config_map, here, resource_version=began,
                               _request_timeout=PATIENCE_SECONDS):
        seen.append(event["type"])
        if len(seen) == 4:
            core.create_namespaced_config_map(here, config_map("third"))
        if len(seen) == 5:
            stream.stop()
    same("an event while it watches", seen[4], "ADDED")
    read = core.read_namespaced_config_map("third", here)
    same("the version it would go on from", stream.resource_version, read.metadata.resource_version)


def patches():
    here = namespace("patches")
    apps = client.AppsV1Api()
    labels = {"app": "web"}
    made = apps.create_namespaced_deployment(here, client.V1Deployment(
        metadata=client.V1ObjectMeta(name="web", labels=labels),
        spec=client.V1DeploymentSpec(selector=client.V1LabelSelector(match_labels=labels), template=template(labels))))
    same("generation", made.metadata.generation, 1)

    side = {"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "registry.example/side:1"}]}}}}
    strategic = apps.patch_namespaced_deployment("web", here, side, field_manager="patcher")
    same("containers merge by name", [container.name for container in strategic.spec.template.spec.containers],
         ["side", "main"])
    true("the manager of the patch", ("patcher", "Update", None) in managers(strategic))
    same("the next generation", strategic.metadata.generation, 2)
    merged = sending(MERGE, client.AppsV1Api).patch_namespaced_deployment("web", here, side)
    same("a list is replaced whole", [container.name for container in merged.spec.template.spec.containers], ["side"])

    operations = [
        {"op": "test", "path": "/spec/replicas", "value": 1},
        {"op": "replace", "path": "/spec/replicas", "value": 3},
        {"op": "add", "path": "/metadata/labels/tier", "value": "front"},
    ]
    changed = apps.patch_namespaced_deployment("web", here, operations)
    same("operations", (changed.spec.replicas, changed.metadata.labels), (3, {"app": "web", "tier": "front"}))
    refused("a test that fails", 422, "Invalid", apps.patch_namespaced_deployment, "web", here, operations)
    removed = sending(MERGE, client.AppsV1Api).patch_namespaced_deployment(
        "web", here, {"metadata": {"labels": {"tier": None}}})
    same("null removes", removed.metadata.labels, labels)
    # With another patch it is the version in the body that guards.
    refused("a stale patch", 409, "Conflict", apps.patch_namespaced_deployment, "web", here,
            {"metadata": {"resourceVersion": made.metadata.resource_version}, "spec": {"replicas": 9}})
    refused("a patch of nothing", 404, "NotFound", apps.patch_namespaced_deployment, "none", here, {"spec": {}})
    status = refused("a patch of what never changes", 422, "Invalid", apps.patch_namespaced_deployment, "web", here,
                     {"spec": {"selector": {"matchLabels": {"app": "other"}}}})
    true("the field that never changes", "spec.selector" in [cause["field"] for cause in status["details"]["causes"]])
    text = sending("text/json", client.AppsV1Api)
    refused("a patch of no kind", 415, "UnsupportedMediaType", text.patch_namespaced_deployment, "web", here, {})

    dry = apps.patch_namespaced_deployment("web", here, {"spec": {"replicas": 7}}, dry_run="All")
    same("the answer of a dry run", dry.spec.replicas, 7)
    same("after a dry run", apps.read_namespaced_deployment("web", here).spec.replicas, 3)
    core = client.CoreV1Api()
    dry = core.create_namespaced_config_map(here, config_map("dry"), dry_run="All")
    true("a dry run's uid", dry.metadata.uid)
    refused("what a dry run made", 404, "NotFound", core.read_namespaced_config_map, "dry", here)
    refused("another word than All", 422, "Invalid", core.create_namespaced_config_map, here, config_map("dry"),
            dry_run="Some")

    applier = sending(APPLY)
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"a": "1"}}
    applied = applier.patch_namespaced_config_map("applied", here, apply_body(body), field_manager="one")
    same("apply makes", (applied.data, managers(applied)), ({"a": "1"}, {("one", "Apply", None)}))
    body["data"]["a"] = "2"
    status = refused("a field of another", 409, "Conflict", applier.patch_namespaced_config_map, "applied", here,
                     apply_body(body), field_manager="two")
    same("the message", status["message"], 'Apply failed with 1 conflict: conflict with "one": .data.a')
    same("its cause", status["details"]["causes"], [
        {"reason": "FieldManagerConflict", "message": 'conflict with "one"', "field": ".data.a"}])
    forced = applier.patch_namespaced_config_map("applied", here, apply_body(body), field_manager="two", force=True)
    same("the field taken", forced.data, {"a": "2"})
    same("who has it", managers(forced), {("two", "Apply", None)})
    refused("an apply by nobody", 422, "Invalid", applier.patch_namespaced_config_map, "applied", here, apply_body(body))


def workloads():
    apps, core = client.AppsV1Api(), client.CoreV1Api()
    here = namespace("workloads")
    labels = {"app": "web"}
    selector = client.V1LabelSelector(match_labels=labels)
    made = apps.create_namespaced_deployment(here, client.V1Deployment(
        metadata=client.V1ObjectMeta(name="web", labels=labels),
        spec=client.V1DeploymentSpec(selector=selector, template=template(labels))))
    same("defaults", (made.spec.replicas, made.spec.revision_history_limit, made.spec.progress_deadline_seconds),
         (1, 10, 600))
    same("how it rolls", (made.spec.strategy.type, made.spec.strategy.rolling_update.max_surge,
                          made.spec.strategy.rolling_update.max_unavailable), ("RollingUpdate", "25%", "25%"))
    pod = made.spec.template.spec
    same("a pod's defaults", (pod.restart_policy, pod.dns_policy, pod.termination_grace_period_seconds,
                              pod.containers[0].image_pull_policy), ("Always", "ClusterFirst", 30, "IfNotPresent"))

    scale = apps.read_namespaced_deployment_scale("web", here)
    same("a scale", (scale.kind, scale.api_version, scale.spec.replicas, scale.status.selector),
         ("Scale", "autoscaling/v1", 1, "app=web"))
    same("patched", apps.patch_namespaced_deployment_scale("web", here, {"spec": {"replicas": 4}}).spec.replicas, 4)
    scale = apps.read_namespaced_deployment_scale("web", here)
    scale.spec.replicas = 2
    same("replaced", apps.replace_namespaced_deployment_scale("web", here, scale).spec.replicas, 2)
    same("the deployment", apps.read_namespaced_deployment("web", here).spec.replicas, 2)
    scale.spec.replicas = -1
    scale.metadata.resource_version = None
    refused("fewer than none", 422, "Invalid", apps.replace_namespaced_deployment_scale, "web", here, scale)

    observed = apps.patch_namespaced_deployment_status(
        "web", here, {"status": {"observedGeneration": 3, "replicas": 2}, "spec": {"replicas": 8}})
    same("a status leaves the spec", (observed.status.replicas, observed.spec.replicas), (2, 2))
    true("the status's manager", any(entry[2] == "status" for entry in managers(observed)))
    same("nor counts as a generation", observed.metadata.generation, 3)
    plain = apps.patch_namespaced_deployment("web", here, {"status": {"replicas": 7}})
    same("a spec leaves the status", plain.status.replicas, 2)
    same("read through its own path", apps.read_namespaced_deployment_status("web", here).status.replicas, 2)

    status = refused("a selector of others", 422, "Invalid", apps.create_namespaced_deployment, here, client.V1Deployment(
        metadata=client.V1ObjectMeta(name="wrong"),
        spec=client.V1DeploymentSpec(selector=selector, template=template({"app": "other"}))))
    same("its field", status["details"]["causes"][0]["field"], "spec.template.metadata.labels")
    same("its group", (status["details"]["group"], status["details"]["kind"]), ("apps", "Deployment"))

    wrong = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid="other"))
    refused("a delete of another", 409, "Conflict", apps.delete_namespaced_deployment, "web", here, body=wrong)
    answer = apps.delete_namespaced_deployment("web", here, propagation_policy="Foreground")
    # The client reads a Status, as OpenAPI says; what comes is the object that is still there.
    same("a delete that waits", answer.kind, "Deployment")
    waiting = apps.read_namespaced_deployment("web", here)
    same("what it waits for", waiting.metadata.finalizers, ["foregroundDeletion"])
    true("since when", waiting.metadata.deletion_timestamp)
    apps.patch_namespaced_deployment("web", here, [{"op": "remove", "path": "/metadata/finalizers"}])
    refused("the last finalizer gone", 404, "NotFound", apps.read_namespaced_deployment, "web", here)

    node = f"python{SUFFIX}"
    core.create_node(client.V1Node(metadata=client.V1ObjectMeta(name=node)))
    limited = client.V1Container(
        name="main", image="registry.example/main",
        resources=client.V1ResourceRequirements(limits={"cpu": "500m", "memory": "64Mi"}))
    pod = core.create_namespaced_pod(here, client.V1Pod(
        metadata=client.V1ObjectMeta(name="one", labels=labels),
        spec=client.V1PodSpec(node_name=node, containers=[limited])))
    same("a pod's state", (pod.status.phase, pod.status.qos_class), ("Pending", "Guaranteed"))
    same("requests from limits", pod.spec.containers[0].resources.requests, {"cpu": "500m", "memory": "64Mi"})
    same("pods of a node", [found.metadata.name for found in core.list_pod_for_all_namespaces(
        field_selector=f"spec.nodeName={node}").items], ["one"])
    ready = core.patch_namespaced_pod_status("one", here, {"status": {"phase": "Running", "conditions": [
        {"type": "Ready", "status": "True"}]}})
    same("a running pod", (ready.status.phase, ready.status.conditions[0].type), ("Running", "Ready"))
    gone = core.delete_namespaced_pod("one", here)
    same("a graceful delete", (gone.metadata.name, gone.metadata.deletion_grace_period_seconds), ("one", 30))
    same("still there", core.read_namespaced_pod("one", here).metadata.deletion_grace_period_seconds, 30)
    core.delete_namespaced_pod("one", here, grace_period_seconds=0)
    refused("gone at once", 404, "NotFound", core.read_namespaced_pod, "one", here)
    core.delete_node(node)


def jobs():
    batch = client.BatchV1Api()
    here = namespace("jobs")
    plain = template({"app": "work"})
    plain.spec.restart_policy = "Never"
    made = batch.create_namespaced_job(here, client.V1Job(
        metadata=client.V1ObjectMeta(name="once"), spec=client.V1JobSpec(template=plain)))
    same("defaults", (made.spec.parallelism, made.spec.completions, made.spec.backoff_limit, made.spec.completion_mode,
                      made.spec.suspend), (1, 1, 6, "NonIndexed", False))
    same("its selector", made.spec.selector.match_labels, {"batch.kubernetes.io/controller-uid": made.metadata.uid})
    same("its template's labels", made.spec.template.metadata.labels, {
        "app": "work",
        "batch.kubernetes.io/controller-uid": made.metadata.uid,
        "batch.kubernetes.io/job-name": "once",
        "controller-uid": made.metadata.uid,
        "job-name": "once",
    })
    status = refused("another template", 422, "Invalid", batch.patch_namespaced_job, "once", here, {
        "spec": {"template": {"spec": {"containers": [{"name": "main", "image": "registry.example/main:2"}]}}}})
    same("its field", status["details"]["causes"][0]["field"], "spec.template")
    same("suspended", batch.patch_namespaced_job("once", here, {"spec": {"suspend": True}}).spec.suspend, True)
    restarts = template({"app": "work"})
    status = refused("a job that always restarts", 422, "Invalid", batch.create_namespaced_job, here, client.V1Job(
        metadata=client.V1ObjectMeta(name="forever"), spec=client.V1JobSpec(template=restarts)))
    same("its field", (status["details"]["causes"][0]["field"], status["details"]["causes"][0]["reason"]),
         ("spec.template.spec.restartPolicy", "FieldValueRequired"))

    cron = batch.create_namespaced_cron_job(here, client.V1CronJob(
        metadata=client.V1ObjectMeta(name="nightly"),
        spec=client.V1CronJobSpec(schedule="0 3 * * *", job_template=client.V1JobTemplateSpec(
            spec=client.V1JobSpec(template=plain)))))
    same("defaults", (cron.spec.concurrency_policy, cron.spec.successful_jobs_history_limit,
                      cron.spec.failed_jobs_history_limit, cron.spec.suspend), ("Allow", 3, 1, False))
    cron.spec.schedule = "never"
    status = refused("no schedule", 422, "Invalid", batch.replace_namespaced_cron_job, "nightly", here, cron)
    same("its field", status["details"]["causes"][0]["field"], "spec.schedule")
    batch.delete_collection_namespaced_job(here, propagation_policy="Background")
    same("no jobs", batch.list_namespaced_job(here).items, [])


def access():
    core, rbac = client.CoreV1Api(), client.RbacAuthorizationV1Api()
    here = namespace("access")
    core.create_namespaced_service_account(here, client.V1ServiceAccount(metadata=client.V1ObjectMeta(name="robot")))
    user = f"system:serviceaccount:{here}:robot"
    rule = client.V1PolicyRule(api_groups=[""], resources=["configmaps"], verbs=["get", "list"])
    rbac.create_namespaced_role(here, client.V1Role(metadata=client.V1ObjectMeta(name="reader"), rules=[rule]))
    binding = {
        "metadata": {"name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": here}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
    }
    made = rbac.create_namespaced_role_binding(here, binding)
    same("a binding", (made.role_ref.kind, made.role_ref.name, made.subjects[0].name), ("Role", "reader", "robot"))
    binding["roleRef"]["name"] = "other"
    status = refused("another role", 422, "Invalid", rbac.replace_namespaced_role_binding, "reader", here, binding)
    same("its field", status["details"]["causes"][0]["field"], "roleRef")
    same("what was there before", rbac.read_cluster_role("view").metadata.labels["kubernetes.io/bootstrapping"],
         "rbac-defaults")

    request = client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=3600))
    answer = core.create_namespaced_service_account_token("robot", here, request)
    token = answer.status.token
    true("when it ends", answer.status.expiration_timestamp)
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    same("whose token", claims["sub"], user)
    same("how long", claims["exp"] - claims["iat"], 3600)
    status = refused("a token for too short", 422, "Invalid", core.create_namespaced_service_account_token, "robot", here,
                     client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(
                         audiences=[], expiration_seconds=60)))
    same("its field", status["details"]["causes"][0]["field"], "spec.expirationSeconds")

    def bearer(token):
        settings = client.Configuration.get_default_copy()
        settings.cert_file = settings.key_file = None
        settings.api_key = {"authorization": f"Bearer {token}"}
        return client.ApiClient(settings)

    robot = bearer(token)
    own = client.CoreV1Api(robot)
    eventually("the role in force", lambda: own.list_namespaced_config_map(here).items is not None)
    status = refused("what the role leaves out", 403, "Forbidden", own.delete_namespaced_config_map, "none", here)
    same("its message", status["message"], f'configmaps "none" is forbidden: User "{user}" cannot delete resource '
         f'"configmaps" in API group "" in the namespace "{here}"')
    refused("another namespace", 403, "Forbidden", own.list_namespaced_config_map, "kube-system")
    refused("what no role gives", 403, "Forbidden", client.RbacAuthorizationV1Api(robot).create_cluster_role_binding, {
        "metadata": {"name": f"grab{SUFFIX}"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}})
    status = refused("a bad token", 401, "Unauthorized", client.CoreV1Api(bearer("none")).list_namespaced_config_map, here)
    same("its message", status["message"], "Unauthorized")

    def may(api_client, verb, resource, namespace=here):
        review = client.V1SelfSubjectAccessReview(spec=client.V1SelfSubjectAccessReviewSpec(
            resource_attributes=client.V1ResourceAttributes(verb=verb, resource=resource, namespace=namespace)))
        return client.AuthorizationV1Api(api_client).create_self_subject_access_review(review).status

    same("what it may", may(robot, "list", "configmaps").allowed, True)
    same("what it may not", may(robot, "delete", "configmaps").allowed, False)
    same("nor elsewhere", may(robot, "list", "configmaps", "kube-system").allowed, False)
    same("what the administrator may", may(None, "delete", "nodes", None).allowed, True)
    same("by which role", may(robot, "get", "configmaps").reason,
         f'RBAC: allowed by RoleBinding "reader/{here}" of Role "reader" to ServiceAccount "robot/{here}"')
    review = client.AuthorizationV1Api().create_subject_access_review(client.V1SubjectAccessReview(
        spec=client.V1SubjectAccessReviewSpec(user=user, resource_attributes=client.V1ResourceAttributes(
            verb="get", resource="configmaps", namespace=here))))
    same("asked for another", review.status.allowed, True)
    review = client.AuthenticationV1Api().create_token_review(client.V1TokenReview(
        spec=client.V1TokenReviewSpec(token=token)))
    same("who is asking", (review.status.authenticated, review.status.user.username), (True, user))
    rules = client.AuthorizationV1Api(robot).create_self_subject_rules_review(client.V1SelfSubjectRulesReview(
        spec=client.V1SelfSubjectRulesReviewSpec(namespace=here))).status.resource_rules
    true("its rules", any(rule.resources == ["configmaps"] and rule.verbs == ["get", "list"] for rule in rules))


def eventually(what, look):
    """Looks again until it is true: what an authorizer learns takes a moment upstream, too."""
    ends, last = time.monotonic() + PATIENCE_SECONDS, None
    while time.monotonic() < ends:
        try:
            if look():
                return
        except ApiException as error:
            last = error
        time.sleep(0.05)
    raise AssertionError(f"waited for {what}; last seen: {last}")


def dynamically():
    here = namespace("dynamic")
    with tempfile.TemporaryDirectory() as directory:
        # Without a file of our own it would read what a client of another server left in /tmp.
        found = dynamic.DynamicClient(client.ApiClient(), cache_file=os.path.join(directory, "discovery.json"))
        same("the version", found.version["kubernetes"]["minor"].rstrip("+"), "36")
        maps = found.resources.get(api_version="v1", kind="ConfigMap")
        same("discovered", (maps.name, maps.namespaced, maps.singular_name), ("configmaps", True, "configmap"))
        same("by its short name", found.resources.get(short_names=["deploy"], group="apps").kind, "Deployment")
        same("with subresources", set(found.resources.get(api_version="apps/v1", kind="Deployment").subresources),
             {"scale", "status"})
        try:
            found.resources.get(api_version="v1", kind="Nothing")
            raise AssertionError("found Nothing")
        except dynamic_exceptions.ResourceNotFoundError:
            pass

        made = maps.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": {"a": "1"}},
                           namespace=here)
        same("made", (made.kind, made.data.a), ("ConfigMap", "1"))
        patched = maps.patch({"metadata": {"name": "one"}, "data": {"b": "2"}}, namespace=here, content_type=MERGE)
        same("patched", patched.to_dict()["data"], {"a": "1", "b": "2"})
        events = maps.watch(namespace=here, resource_version=made.metadata.resourceVersion, timeout=1)
        same("watched", [(event["type"], event["object"].data.b) for event in events], [("MODIFIED", "2")])
        same("listed", [(item.kind, item.metadata.name) for item in maps.get(namespace=here).items], [("ConfigMap", "one")])
        try:
            maps.get(name="none", namespace=here)
            raise AssertionError("found none")
        except dynamic_exceptions.NotFoundError as error:
            same("a missing object", error.summary().split("\n")[0], 'configmaps "none" not found')

        applied = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied", "namespace": here},
                   "data": {"a": "1"}}
        options = {"name": "applied", "namespace": here}
        answer = maps.server_side_apply(apply_body(applied), field_manager="one", **options)
        same("who applied", [(entry.manager, entry.operation) for entry in answer.metadata.managedFields],
             [("one", "Apply")])
        same("applied again", maps.server_side_apply(apply_body(applied), field_manager="one", **options)
             .metadata.resourceVersion, answer.metadata.resourceVersion)
        applied["data"] = {"a": "2"}
        try:
            maps.server_side_apply(apply_body(applied), field_manager="two", **options)
            raise AssertionError("took a field without force")
        except dynamic_exceptions.ConflictError as error:
            same("a conflict", json.loads(error.body)["details"]["causes"][0]["field"], ".data.a")
        forced = maps.server_side_apply(apply_body(applied), field_manager="two", force_conflicts=True, **options)
        same("forced", forced.data.a, "2")

        deployments = found.resources.get(api_version="apps/v1", kind="Deployment")
        deployments.create({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template_of({"app": "web"})},
        }, namespace=here)
        scaled = deployments.scale.patch({"metadata": {"name": "web"}, "spec": {"replicas": 3}}, namespace=here,
                                         content_type=MERGE)
        same("scaled", (scaled.kind, scaled.spec.replicas), ("Scale", 3))
        listed = deployments.get(namespace=here, label_selector="!app")
        same("one deployment", [item.spec.replicas for item in listed.items], [3])
        deployments.delete(name="web", namespace=here)
        same("none left", list(deployments.get(namespace=here).items), [])


def leases():
    """What leader election does: whoever replaces with the version it read is the one."""
    coordination = client.CoordinationV1Api()
    here = namespace("leases")
    now = "2026-01-02T03:04:05.678901Z"
    lease = coordination.create_namespaced_lease(here, {
        "metadata": {"name": "leader"}, "spec": {"holderIdentity": "one", "leaseDurationSeconds": 15, "renewTime": now}})
    same("microseconds", lease.spec.renew_time.isoformat(), "2026-01-02T03:04:05.678901+00:00")
    other = coordination.read_namespaced_lease("leader", here)
    lease.spec.holder_identity = "two"
    same("the first", coordination.replace_namespaced_lease("leader", here, lease).spec.holder_identity, "two")
    other.spec.holder_identity = "three"
    refused("the second", 409, "Conflict", coordination.replace_namespaced_lease, "leader", here, other)


def main():
    config.load_kube_config(KUBECONFIG)
    parts = [versions, objects, lists, watches, patches, workloads, jobs, access, leases, dynamically]
    for part in parts:
        before = checks
        try:
            part()
        except Exception:
            traceback.print_exc(file=sys.stdout)
            print(f"{part.__name__}: failed after {checks - before} checks")
            sys.exit(1)
        print(f"{part.__name__}: {checks - before} checks")
    print(f"all: {len(parts)} parts, {checks} checks")


main()
