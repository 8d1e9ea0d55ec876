//! Plugins through the chain, as a write meets them.

mod quotas;
mod trust_bundles;

use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::objects::ObjectSource as _;
use crate::objects::memory::Memory;

const RBAC: &str = "rbac.authorization.k8s.io";

struct World {
    memory: Arc<Memory>,
    admission: Admission,
}

impl World {
    fn new() -> Self {
        let memory = Memory::new();
        let namespace = |name: &str, labels: Value, phase: &str| {
            memory.put(
                "",
                "namespaces",
                json!({"metadata": {"name": name, "labels": labels}, "status": {"phase": phase}}),
            );
            memory.put(
                "",
                "serviceaccounts",
                json!({"metadata": {"namespace": name, "name": "default", "uid": "d"}}),
            );
        };
        namespace("ns", json!({}), "Active");
        namespace("safe", json!({"pod-security.kubernetes.io/enforce": "baseline"}), "Active");
        namespace("going", json!({}), "Terminating");
        namespace("kube-node-lease", json!({}), "Active");
        memory.put("", "nodes", json!({"metadata": {"name": "a", "uid": "na"}}));
        let objects = memory.objects();
        let authorizer = Arc::new(Authorizer::new(&objects));
        let admission = Admission::new(Config::default(), objects, authorizer);
        World { memory, admission }
    }
}

/// A write to be put together: `Write::create("", "pods").of(json!({...}))`.
#[derive(Clone)]
struct Write {
    user: User,
    operation: Operation,
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    namespace: &'static str,
    name: &'static str,
    object: Value,
    old: Option<Value>,
}

impl Write {
    fn create(group: &'static str, resource: &'static str) -> Self {
        Write {
            user: User::new("jane", &[]),
            operation: Operation::Create,
            group,
            resource,
            subresource: "",
            namespace: "ns",
            name: "",
            object: json!({}),
            old: None,
        }
    }

    fn of(self, object: Value) -> Self {
        Write { object, ..self }
    }

    fn update(
        group: &'static str,
        resource: &'static str,
        name: &'static str,
        old: Value,
        new: Value,
    ) -> Self {
        Write {
            operation: Operation::Update,
            name,
            old: Some(old),
            object: new,
            ..Write::create(group, resource)
        }
    }

    fn by_node(self, node: &str) -> Self {
        Write { user: User::new(&format!("system:node:{node}"), &["system:nodes"]), ..self }
    }

    /// Both phases; the object as it would be stored, and the warnings.
    fn run(self, world: &World) -> Result<(Value, Vec<String>), ApiError> {
        self.run_with(world, &Value::Null)
    }

    fn run_with(self, world: &World, options: &Value) -> Result<(Value, Vec<String>), ApiError> {
        let mut object = self.object;
        let mut request = Request {
            operation: self.operation,
            group: self.group,
            subresource: self.subresource,
            namespace: self.namespace,
            name: self.name,
            old: self.old.as_ref(),
            options,
            ..creation(&self.user, self.resource, &mut object)
        };
        world.admission.mutate(&mut request)?;
        world.admission.validate(&mut request)?;
        let warnings = request.warnings;
        Ok((object, warnings))
    }

    #[track_caller]
    fn refused(self, world: &World, code: u16, message: &str) {
        let error = self.run(world).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (code, message));
    }
}

/// Somebody creates an object of the core group in the namespace `ns`.
fn creation<'a>(user: &'a User, resource: &'a str, object: &'a mut Value) -> Request<'a> {
    Request {
        user,
        operation: Operation::Create,
        group: "",
        version: "v1",
        kind: "",
        resource,
        subresource: "",
        namespace: "ns",
        name: "",
        object,
        old: None,
        options: &Value::Null,
        dry_run: false,
        warnings: Vec::new(),
        annotations: Vec::new(),
    }
}

fn pod() -> Value {
    json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

#[test]
fn namespaces_gate_what_is_in_them() {
    let world = World::new();
    let write = Write::create("", "configmaps").of(json!({"metadata": {"name": "c"}}));
    assert!(write.clone().run(&world).is_ok());
    Write { namespace: "none", ..write.clone() }.refused(&world, 404, "namespaces \"none\" not found");
    let error = Write { namespace: "going", ..write.clone() }.run(&world).unwrap_err();
    assert_eq!(
        error.message,
        "configmaps \"c\" is forbidden: unable to create new content in namespace going because it is being terminated"
    );
    assert_eq!(error.details.unwrap()["causes"][0]["reason"], "NamespaceTerminating");
    let update = Write { operation: Operation::Update, old: Some(json!({})), namespace: "going", ..write };
    assert!(update.run(&world).is_ok(), "what is there may change, so that finalizers can go");
    let delete = Write {
        operation: Operation::Delete,
        namespace: "",
        name: "kube-system",
        object: Value::Null,
        ..Write::create("", "namespaces")
    };
    delete.refused(&world, 403, "namespaces \"kube-system\" is forbidden: this namespace may not be deleted");
}

#[test]
fn a_pod_gets_account_token_priority_and_tolerations() {
    let world = World::new();
    let (pod, _) = Write::create("", "pods").of(pod()).run(&world).unwrap();
    let spec = &pod["spec"];
    assert_eq!(
        (&spec["serviceAccountName"], &spec["serviceAccount"]),
        (&json!("default"), &json!("default"))
    );
    assert!(spec.get("initContainers").is_none(), "the pod has none: {spec}");
    let volume = &spec["volumes"][0];
    let name = volume["name"].as_str().unwrap();
    assert!(name.starts_with("kube-api-access-") && name.len() == "kube-api-access-".len() + 5, "{name}");
    assert_eq!(
        volume["projected"],
        json!({"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace",
                "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}}]})
    );
    assert_eq!(
        spec["containers"][0]["volumeMounts"],
        json!([{"name": name, "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}])
    );
    assert_eq!((&spec["priority"], &spec["preemptionPolicy"]), (&json!(0), &json!("PreemptLowerPriority")));
    let keys: Vec<&str> = items(&pod, "/spec/tolerations").iter().map(|t| text(t, "/key")).collect();
    assert_eq!(keys, ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]);
    // The same again changes nothing.
    assert_eq!(Write::create("", "pods").of(pod.clone()).run(&world).unwrap().0, pod);
}

#[test]
fn a_pods_account_decides_about_tokens_and_secrets() {
    let world = World::new();
    world.memory.put(
        "",
        "serviceaccounts",
        json!({"metadata": {"namespace": "ns", "name": "bot", "annotations": {
                   "kubernetes.io/enforce-mountable-secrets": "true"}},
               "automountServiceAccountToken": false, "imagePullSecrets": [{"name": "pull"}],
               "secrets": [{"name": "known"}]}),
    );
    let with = |change: fn(&mut Value)| {
        let mut pod = pod();
        pod["spec"]["serviceAccountName"] = json!("bot");
        change(&mut pod);
        Write::create("", "pods").of(pod)
    };
    let (stored, _) = with(|_| {}).run(&world).unwrap();
    assert_eq!(stored["spec"].get("volumes"), None);
    assert_eq!(stored["spec"]["imagePullSecrets"], json!([{"name": "pull"}]));
    with(|pod| pod["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "x"}}])).refused(
        &world,
        403,
        "pods \"p\" is forbidden: volume with secret.secretName=\"x\" is not allowed because service account bot does \
         not reference that secret",
    );
    with(|pod| pod["spec"]["serviceAccountName"] = json!("gone")).refused(
        &world,
        403,
        "pods \"p\" is forbidden: error looking up service account ns/gone: serviceaccount \"gone\" not found",
    );
}

/// SECURITY.md, "Admission bypass": ephemeral containers meet the same rules (CVE-2023-2728, CVE-2024-3177).
#[test]
fn admission_bypass_ephemeral_containers_and_env_from() {
    let world = World::new();
    world.memory.put(
        "",
        "serviceaccounts",
        json!({"metadata": {"namespace": "ns", "name": "bot", "annotations": {
                   "kubernetes.io/enforce-mountable-secrets": "true"}}}),
    );
    let mut old = pod();
    old["spec"]["serviceAccountName"] = json!("bot");
    let cases = [
        (
            json!({"name": "e", "envFrom": [{"secretRef": {"name": "x"}}]}),
            "pods \"p\" is forbidden: ephemeral container e with envFrom referencing secret.secretName=\"x\" is not \
             allowed because service account bot does not reference that secret",
        ),
        (
            json!({"name": "e", "env": [{"name": "V", "valueFrom": {"secretKeyRef": {"name": "x"}}}]}),
            "pods \"p\" is forbidden: ephemeral container e with envVar V referencing secret.secretName=\"x\" is not \
             allowed because service account bot does not reference that secret",
        ),
    ];
    for (container, message) in cases {
        let mut new = old.clone();
        new["spec"]["ephemeralContainers"] = json!([container]);
        let write = Write::update("", "pods", "p", old.clone(), new);
        Write { subresource: "ephemeralcontainers", ..write }.refused(&world, 403, message);
    }
    // Pod Security too.
    let mut new = pod();
    new["spec"]["serviceAccountName"] = json!("default");
    let old = new.clone();
    new["spec"]["ephemeralContainers"] = json!([{"name": "e", "securityContext": {"privileged": true}}]);
    let write = Write::update("", "pods", "p", old, new);
    Write { subresource: "ephemeralcontainers", namespace: "safe", ..write }.refused(
        &world,
        403,
        "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": privileged (container \"e\" must not set \
         securityContext.privileged=true)",
    );
}

#[test]
fn pod_security_refuses_pods_and_warns_about_workloads() {
    let world = World::new();
    let mut privileged = pod();
    privileged["spec"]["hostNetwork"] = json!(true);
    assert!(Write::create("", "pods").of(privileged.clone()).run(&world).is_ok());
    Write { namespace: "safe", ..Write::create("", "pods").of(privileged.clone()) }.refused(
        &world,
        403,
        "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)",
    );
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"template": privileged}});
    let write = Write { namespace: "safe", ..Write::create("apps", "deployments").of(deployment) };
    let (_, warnings) = write.run(&world).unwrap();
    assert_eq!(
        warnings,
        ["would violate PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"]
    );
    let namespace = |level: &str| json!({"metadata": {"name": "ns", "labels": {"pod-security.kubernetes.io/enforce": level}}});
    let plain = json!({"metadata": {"name": "ns"}});
    let mut stored = privileged;
    stored["metadata"]["namespace"] = json!("ns");
    world.memory.put("", "pods", stored);
    let write = Write::update("", "namespaces", "ns", plain.clone(), namespace("baseline"));
    let (_, warnings) = Write { namespace: "", ..write }.run(&world).unwrap();
    assert_eq!(
        warnings,
        [
            "existing pods in namespace \"ns\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "p: host namespaces",
        ]
    );
    let write = Write::update("", "namespaces", "ns", plain, namespace("strict"));
    Write { namespace: "", ..write }.refused(
        &world,
        422,
        "Namespace \"ns\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": \
         must be one of privileged, baseline, restricted",
    );
}

#[test]
fn priority_comes_from_the_class() {
    let world = World::new();
    for class in crate::bootstrap::priority_classes() {
        world.memory.put("scheduling.k8s.io", "priorityclasses", class);
    }
    let with = |class: &str, priority: Option<i64>| {
        let mut pod = pod();
        pod["spec"]["priorityClassName"] = json!(class);
        if let Some(priority) = priority {
            pod["spec"]["priority"] = json!(priority);
        }
        Write::create("", "pods").of(pod)
    };
    let (stored, _) = with("system-node-critical", None).run(&world).unwrap();
    assert_eq!(stored["spec"]["priority"], 2_000_001_000);
    with("none", None).refused(
        &world,
        403,
        "pods \"p\" is forbidden: no PriorityClass with name none was found",
    );
    with("system-node-critical", Some(5)).refused(
        &world,
        403,
        "pods \"p\" is forbidden: the integer value of priority (5) must not be provided in pod spec; priority \
         admission controller computed 2000001000 from the given PriorityClass name",
    );
    let class = |name: &str| json!({"metadata": {"name": name}, "value": 7, "globalDefault": true});
    world.memory.put("scheduling.k8s.io", "priorityclasses", class("first"));
    let (stored, _) = Write::create("", "pods").of(pod()).run(&world).unwrap();
    assert_eq!(
        (&stored["spec"]["priority"], &stored["spec"]["priorityClassName"]),
        (&json!(7), &json!("first"))
    );
    let write =
        Write { namespace: "", ..Write::create("scheduling.k8s.io", "priorityclasses").of(class("second")) };
    write.refused(
        &world,
        403,
        "priorityclasses.scheduling.k8s.io \"second\" is forbidden: PriorityClass first is already marked as default. \
         Only one default can exist",
    );
}

#[test]
fn limit_ranges_fill_in_and_bound() {
    let world = World::new();
    world.memory.put(
        "",
        "limitranges",
        json!({"metadata": {"namespace": "ns", "name": "l"}, "spec": {"limits": [
            {"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"},
             "max": {"cpu": "1"}, "min": {"cpu": "50m"}, "maxLimitRequestRatio": {"cpu": "6"}},
            {"type": "Pod", "max": {"memory": "1Gi"}},
            {"type": "PersistentVolumeClaim", "max": {"storage": "10Gi"}}]}}),
    );
    let with = |resources: Value| {
        let mut pod = pod();
        pod["spec"]["containers"][0]["resources"] = resources;
        Write::create("", "pods").of(pod)
    };
    let (stored, _) = with(json!({"limits": {"memory": "1Gi"}})).run(&world).unwrap();
    assert_eq!(
        stored["spec"]["containers"][0]["resources"],
        json!({"limits": {"memory": "1Gi", "cpu": "500m"}, "requests": {"cpu": "100m"}})
    );
    assert!(stored["spec"].get("initContainers").is_none(), "the pod has none: {stored}");
    assert_eq!(
        stored["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
    );
    with(json!({"limits": {"memory": "2Gi", "cpu": "2"}})).refused(
        &world,
        403,
        "pods \"p\" is forbidden: [maximum cpu usage per Container is 1, but limit is 2, cpu max limit to request ratio \
         per Container is 6, but provided ratio is 20.000000, maximum memory usage per Pod is 1Gi, but limit is 2Gi]",
    );
    with(json!({})).refused(
        &world,
        403,
        "pods \"p\" is forbidden: maximum memory usage per Pod is 1Gi.  No limit is specified",
    );
    let claim = json!({"metadata": {"name": "c"}, "spec": {"resources": {"requests": {"storage": "11Gi"}}}});
    Write::create("", "persistentvolumeclaims").of(claim).refused(
        &world,
        403,
        "persistentvolumeclaims \"c\" is forbidden: maximum storage usage per PersistentVolumeClaim is 10Gi, but \
         request is 11Gi",
    );
}

/// SECURITY.md, "Node escalation": a node changes only what is its own, on create as on update.
#[test]
fn node_escalation_a_node_changes_only_its_own() {
    let world = World::new();
    let on = |node: &str, name: &str| {
        let pod = json!({"metadata": {"namespace": "ns", "name": name, "uid": name}, "spec": {"nodeName": node,
            "volumes": [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"audience": "vault"}}]}}]}});
        world.memory.put("", "pods", pod.clone());
        pod
    };
    let (own, foreign) = (on("a", "own"), on("b", "foreign"));
    let node = |change: fn(&mut Value)| {
        let mut node = json!({"metadata": {"name": "a", "labels": {"kubernetes.io/hostname": "a", "mine": "1"}},
                              "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
        change(&mut node);
        node
    };
    let refused = [
        (
            Write::update("", "nodes", "b", json!({}), json!({"metadata": {"name": "b"}})),
            "nodes \"b\" is forbidden: node \"a\" is not allowed to modify node \"b\"",
        ),
        (
            Write::create("", "nodes").of(json!({"metadata": {"name": "b"}})),
            "nodes \"b\" is forbidden: node \"a\" is not allowed to modify node \"b\"",
        ),
        (
            Write::update("", "nodes", "a", node(|_| {}), node(|n| n["spec"]["taints"] = json!([]))),
            "nodes \"a\" is forbidden: node \"a\" is not allowed to modify taints",
        ),
        (
            Write::update(
                "",
                "nodes",
                "a",
                node(|_| {}),
                node(|n| n["metadata"]["ownerReferences"] = json!([{"uid": "x"}])),
            ),
            "nodes \"a\" is forbidden: node \"a\" is not allowed to modify ownerReferences",
        ),
        (
            Write::create("", "nodes").of(node(|n| n["metadata"]["ownerReferences"] = json!([{"uid": "x"}]))),
            "nodes \"a\" is forbidden: node \"a\" is not allowed to set ownerReferences",
        ),
        (
            Write::update(
                "",
                "nodes",
                "a",
                node(|_| {}),
                node(|n| {
                    n["metadata"]["labels"]["node-restriction.kubernetes.io/zone"] = json!("secure");
                }),
            ),
            "nodes \"a\" is forbidden: is not allowed to modify labels: node-restriction.kubernetes.io/zone",
        ),
        (
            Write::create("", "nodes").of(node(|n| {
                n["metadata"]["labels"]["node-role.kubernetes.io/control-plane"] = json!("");
            })),
            "nodes \"a\" is forbidden: node \"a\" is not allowed to set the following labels: \
             node-role.kubernetes.io/control-plane",
        ),
        (
            Write { subresource: "status", ..Write::update("", "pods", "foreign", foreign.clone(), foreign) },
            "pods \"foreign\" is forbidden: node \"a\" can only update pod status for pods with spec.nodeName set to \
             itself",
        ),
        (
            Write {
                operation: Operation::Delete,
                name: "foreign",
                object: Value::Null,
                ..Write::create("", "pods")
            },
            "pods \"foreign\" is forbidden: node \"a\" can only delete pods with spec.nodeName set to itself",
        ),
        (
            Write::create("", "pods").of(pod()),
            "pods \"p\" is forbidden: pod does not have \"kubernetes.io/config.mirror\" annotation, node \"a\" can only \
             create mirror pods",
        ),
        (
            Write { subresource: "exec", name: "own", ..Write::create("", "pods") },
            "pods \"own\" is forbidden: unexpected pod subresource \"exec\", only 'status' and 'eviction' are allowed",
        ),
        (
            Write {
                namespace: "kube-node-lease",
                ..Write::create("coordination.k8s.io", "leases").of(json!({"metadata": {"name": "b"}}))
            },
            "leases.coordination.k8s.io \"b\" is forbidden: can only access node lease with the same name as the \
             requesting node",
        ),
        (
            Write { subresource: "token", name: "default", ..Write::create("", "serviceaccounts") },
            "serviceaccounts \"default\" is forbidden: node requested token not bound to a pod",
        ),
    ];
    for (write, message) in refused {
        write.by_node("a").refused(&world, 403, message);
    }
    let token = |pod: &str, audience: &str| {
        let body = json!({"spec": {"audiences": [audience],
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": pod}}});
        Write { subresource: "token", name: "default", ..Write::create("", "serviceaccounts").of(body) }
            .by_node("a")
    };
    assert!(token("own", "vault").run(&world).is_ok());
    token("foreign", "vault").refused(
        &world,
        403,
        "serviceaccounts \"default\" is forbidden: node requested token bound to a pod scheduled on a different node",
    );
    token("own", "other").refused(
        &world,
        403,
        "serviceaccounts \"default\" is forbidden: audience \"other\" not found in pod spec volume, system:node:a is \
         not authorized to request tokens for this audience",
    );
    let mut relabelled = own.clone();
    relabelled["metadata"]["labels"] = json!({"app": "x"});
    let write = Write::update("", "pods", "own", own.clone(), relabelled);
    Write { subresource: "status", ..write }.by_node("a").refused(
        &world,
        403,
        "pods \"own\" is forbidden: node \"a\" cannot update labels through pod status",
    );
    let mut running = own.clone();
    running["status"] = json!({"phase": "Running"});
    assert!(
        Write { subresource: "status", ..Write::update("", "pods", "own", own, running) }
            .by_node("a")
            .run(&world)
            .is_ok()
    );
    assert!(Write::create("", "nodes").of(node(|_| {})).by_node("a").run(&world).is_ok());
    // The same writes by somebody else are not this plugin's business.
    assert!(
        Write::update("", "nodes", "b", json!({}), json!({"metadata": {"name": "b"}})).run(&world).is_ok()
    );
}

#[test]
fn mirror_pods_need_nothing_of_the_api() {
    let world = World::new();
    let mirror = |change: fn(&mut Value)| {
        let mut pod = json!({
            "metadata": {"name": "m", "annotations": {"kubernetes.io/config.mirror": "x"}, "ownerReferences": [
                {"apiVersion": "v1", "kind": "Node", "name": "a", "uid": "na", "controller": true}]},
            "spec": {"nodeName": "a", "containers": [{"name": "c"}],
                     "volumes": [{"name": "h", "hostPath": {"path": "/"}}]}});
        change(&mut pod);
        Write::create("", "pods").of(pod).by_node("a")
    };
    let (stored, _) = mirror(|_| {}).run(&world).unwrap();
    assert_eq!(stored["spec"].get("serviceAccountName"), None);
    let changes: [(fn(&mut Value), &str); 5] = [
        (
            |p| p["spec"]["nodeName"] = json!("b"),
            "node \"a\" can only create pods with spec.nodeName set to itself",
        ),
        (
            |p| p["metadata"]["ownerReferences"] = json!([]),
            "node \"a\" can only create pods with an owner reference set to itself",
        ),
        (
            |p| p["metadata"]["ownerReferences"][0]["uid"] = json!("other"),
            "node a UID mismatch: expected other got na",
        ),
        (
            |p| p["spec"]["volumes"][0] = json!({"name": "v", "configMap": {"name": "x"}}),
            "node \"a\" can not create pods that reference configmaps (via configmap volumes)",
        ),
        (
            |p| p["spec"]["serviceAccountName"] = json!("default"),
            "a mirror pod may not reference service accounts",
        ),
    ];
    for (change, why) in changes {
        mirror(change).refused(&world, 403, &format!("pods \"m\" is forbidden: {why}"));
    }
}

#[test]
fn small_plugins_do_their_part() {
    let world = World::new();
    let (node, _) =
        Write { namespace: "", ..Write::create("", "nodes").of(json!({"metadata": {"name": "n"}})) }
            .run(&world)
            .unwrap();
    assert_eq!(
        node["spec"]["taints"],
        json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}])
    );

    let class = |name: &str, at: &str| {
        json!({"metadata": {"name": name, "creationTimestamp": at,
               "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}, "allowVolumeExpansion": true})
    };
    world.memory.put("storage.k8s.io", "storageclasses", class("old", "2026-01-01T00:00:00Z"));
    world.memory.put("storage.k8s.io", "storageclasses", class("new", "2026-02-01T00:00:00Z"));
    let claim = |size: &str| json!({"metadata": {"name": "c"}, "spec": {"resources": {"requests": {"storage": size}}}});
    let (stored, _) = Write::create("", "persistentvolumeclaims").of(claim("1Gi")).run(&world).unwrap();
    assert_eq!(stored["spec"]["storageClassName"], "new");
    assert_eq!(stored["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));

    let mut bound = stored.clone();
    bound["status"] = json!({"phase": "Bound"});
    let mut bigger = bound.clone();
    bigger["spec"]["resources"]["requests"]["storage"] = json!("2Gi");
    assert!(
        Write::update("", "persistentvolumeclaims", "c", bound.clone(), bigger.clone()).run(&world).is_ok()
    );
    Write::update("", "persistentvolumeclaims", "c", stored, bigger).refused(
        &world,
        403,
        "persistentvolumeclaims \"c\" is forbidden: Only bound persistent volume claims can be expanded",
    );

    let mut with_class = pod();
    with_class["spec"]["runtimeClassName"] = json!("kata");
    Write::create("", "pods").of(with_class.clone()).refused(
        &world,
        403,
        "pods \"p\" is forbidden: pod rejected: RuntimeClass \"kata\" not found",
    );
    world.memory.put(
        "node.k8s.io",
        "runtimeclasses",
        json!({"metadata": {"name": "kata"}, "handler": "kata", "overhead": {"podFixed": {"cpu": "250m"}},
               "scheduling": {"nodeSelector": {"kata": "yes"}}}),
    );
    let (stored, _) = Write::create("", "pods").of(with_class).run(&world).unwrap();
    assert_eq!(stored["spec"]["overhead"], json!({"cpu": "250m"}));
    assert_eq!(stored["spec"]["nodeSelector"], json!({"kata": "yes"}));
    let mut overhead = pod();
    overhead["spec"]["overhead"] = json!({"cpu": "1"});
    Write::create("", "pods").of(overhead).refused(
        &world,
        403,
        "pods \"p\" is forbidden: pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
    );
}

/// SECURITY.md, "Data-plane trust": external addresses are denied unless allowed (CVE-2020-8554).
#[test]
fn data_plane_trust_external_ips_are_denied() {
    let world = World::new();
    let service = |ips: Value| json!({"metadata": {"name": "s"}, "spec": {"externalIPs": ips}});
    let message = "services \"s\" is forbidden: Use of external IPs is denied by admission control";
    Write::create("", "services").of(service(json!(["1.2.3.4"]))).refused(&world, 403, message);
    let (old, new) = (service(json!(["1.2.3.4"])), service(json!(["1.2.3.4", "5.6.7.8"])));
    assert!(Write::update("", "services", "s", old.clone(), old.clone()).run(&world).is_ok(), "kept");
    assert!(Write::update("", "services", "s", old.clone(), service(json!([]))).run(&world).is_ok());
    Write::update("", "services", "s", old, new).refused(&world, 403, message);
}

#[test]
fn devices_of_others_need_a_marked_namespace() {
    const GROUP: &str = "resource.k8s.io";
    let world = World::new();
    let claim = |access: bool| {
        let request = json!({"name": "a", "exactly": {"deviceClassName": "gpu", "adminAccess": access}});
        json!({"metadata": {"name": "c"}, "spec": {"devices": {"requests": [{"name": "b"}, request]}}})
    };
    let template = json!({"metadata": {"name": "t"}, "spec": claim(true)});
    assert!(Write::create(GROUP, "resourceclaims").of(claim(false)).run(&world).is_ok());
    for (resource, object) in [("resourceclaims", claim(true)), ("resourceclaimtemplates", template)] {
        let refused = Write::create(GROUP, resource).of(object.clone()).run(&world).unwrap_err();
        assert_eq!(refused.code, 422);
        assert!(
            refused.message.ends_with(
                "spec.devices.requests[1].adminAccess: Forbidden: admin access to devices requires the \
                 `resource.kubernetes.io/admin-access: true` label on the containing namespace"
            ),
            "{}",
            refused.message
        );
    }
    let mut namespace = (*world.memory.get("", "namespaces", "", "ns").unwrap()).clone();
    namespace["metadata"]["labels"]["resource.kubernetes.io/admin-access"] = json!("true");
    world.memory.put("", "namespaces", namespace);
    assert!(Write::create(GROUP, "resourceclaims").of(claim(true)).run(&world).is_ok());
}

#[test]
fn parts_of_a_claims_status_are_their_writers() {
    const GROUP: &str = "resource.k8s.io";
    let world = World::new();
    let role = |name: &str, verb: &str, resource: &str, names: Value| {
        json!({"metadata": {"name": name}, "rules": [
            {"apiGroups": [GROUP], "resources": [resource], "verbs": [verb], "resourceNames": names}]})
    };
    let bind = |name: &str, subject: &str| {
        json!({"metadata": {"name": name}, "subjects": [{"kind": "User", "name": subject}],
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": name}})
    };
    let driver = "system:serviceaccount:ns:driver";
    for (name, verb, resource, names, subject) in [
        ("binder", "update", "resourceclaims/binding", json!([]), "scheduler"),
        ("reporter", "arbitrary-node:patch", "resourceclaims/driver", json!(["gpu.example.com"]), "reporter"),
        ("driver", "associated-node:update", "resourceclaims/driver", json!(["gpu.example.com"]), driver),
    ] {
        world.memory.put(RBAC, "clusterroles", role(name, verb, resource, names));
        world.memory.put(RBAC, "clusterrolebindings", bind(name, subject));
    }
    let node = |name: &str| json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]});
    let claim = |status: Value| json!({"metadata": {"name": "c"}, "spec": {}, "status": status});
    let free = claim(json!({}));
    let bound =
        claim(json!({"allocation": {"nodeSelector": node("a")}, "reservedFor": [{"resource": "pods"}]}));
    let told = |driver: &str| {
        let mut told = bound.clone();
        told["status"]["devices"] = json!([{"driver": driver, "pool": "p", "device": "d", "data": {"a": 1}}]);
        told
    };
    let write = |user: &User, verb: &str, old: &Value, new: &Value| {
        let status = Write {
            subresource: "status",
            user: user.clone(),
            ..Write::update(GROUP, "resourceclaims", "c", old.clone(), new.clone())
        };
        let options = json!({"kind": if verb == "patch" { "PatchOptions" } else { "UpdateOptions" }});
        status.run_with(&world, &options).map_err(|error| error.message)
    };
    let user = |name: &str| User::new(name, &[]);
    let on = |node: &str| {
        let mut user = user(driver);
        user.extra.insert("authentication.kubernetes.io/node-name".to_owned(), vec![node.to_owned()]);
        user
    };
    assert!(write(&user("scheduler"), "update", &free, &bound).is_ok());
    let refused = write(&user("jane"), "update", &free, &bound).unwrap_err();
    assert!(
        refused.ends_with(
            "status.allocation: Forbidden: changing status.allocation or status.reservedFor requires \
             resource=\"resourceclaims/binding\", verb=\"update\" permission: resourceclaims.resource.k8s.io is \
             forbidden: User \"jane\" cannot update resource \"resourceclaims/binding\" in API group \
             \"resource.k8s.io\" at the cluster scope"
        ),
        "{refused}"
    );
    assert!(write(&user("scheduler"), "patch", &free, &bound).is_err(), "another verb");
    assert!(write(&user("jane"), "update", &bound, &bound).is_ok(), "nothing of it changed");
    assert!(write(&user("reporter"), "patch", &bound, &told("gpu.example.com")).is_ok());
    assert!(write(&user("reporter"), "patch", &bound, &told("net.example.com")).is_err(), "another driver");
    assert!(
        write(&user("reporter"), "patch", &told("net.example.com"), &bound).is_err(),
        "another's is removed"
    );
    assert!(write(&on("a"), "update", &bound, &told("gpu.example.com")).is_ok());
    let refused = write(&on("b"), "update", &bound, &told("gpu.example.com")).unwrap_err();
    assert!(
        refused.contains(
            "requires resource=\"resourceclaims/driver\", verb=\"[arbitrary-node:update]\" permission"
        ),
        "{refused}"
    );
}

#[test]
fn nobody_grants_what_they_do_not_have() {
    let world = World::new();
    let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]);
    world.memory.put(RBAC, "clusterroles", json!({"metadata": {"name": "secrets"}, "rules": rules}));
    let role = json!({"metadata": {"name": "r"}, "rules": rules});
    let binding = json!({"metadata": {"name": "b"}, "subjects": [{"kind": "User", "name": "jane"}],
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": "secrets"}});
    let why = "user \"jane\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently \
               held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}";
    Write { name: "r", ..Write::create(RBAC, "roles").of(role.clone()) }.refused(
        &world,
        403,
        &format!("roles.{RBAC} \"r\" is forbidden: {why}"),
    );
    let bind = Write { name: "b", ..Write::create(RBAC, "rolebindings").of(binding.clone()) };
    bind.clone().refused(&world, 403, &format!("rolebindings.{RBAC} \"b\" is forbidden: {why}"));
    let mut elsewhere = binding.clone();
    elsewhere["roleRef"]["name"] = json!("gone");
    let write = Write { name: "b", ..Write::create(RBAC, "rolebindings").of(elsewhere) };
    assert_eq!(write.run(&world).unwrap_err().code, 404);
    let masters = Write { user: User::new("admin", &["system:masters"]), ..bind.clone() };
    assert!(masters.run(&world).is_ok());

    // Once jane has the rules, she may pass them on.
    let mut stored = binding;
    stored["metadata"]["namespace"] = json!("ns");
    world.memory.put(RBAC, "rolebindings", stored);
    assert!(bind.run(&world).is_ok());
    assert!(Write { name: "r", ..Write::create(RBAC, "roles").of(role) }.run(&world).is_ok());
    let aggregate = json!({"metadata": {"name": "a"}, "aggregationRule": {"clusterRoleSelectors": [{}]}});
    Write { name: "a", namespace: "", ..Write::create(RBAC, "clusterroles").of(aggregate) }.refused(
        &world,
        403,
        &format!("clusterroles.{RBAC} \"a\" is forbidden: must have cluster-admin privileges to use the aggregationRule"),
    );
}

#[tokio::test(start_paused = true)]
async fn a_pod_waits_for_the_default_account_of_a_new_namespace() {
    let world = World::new();
    world.memory.put("", "namespaces", json!({"metadata": {"name": "fresh"}, "status": {"phase": "Active"}}));
    let user = User::new("jane", &[]);
    let mut object = pod();
    let request = Request { kind: "Pod", namespace: "fresh", ..creation(&user, "pods", &mut object) };
    let arrive = async {
        tokio::task::yield_now().await;
        world.memory.put(
            "",
            "serviceaccounts",
            json!({"metadata": {"namespace": "fresh", "name": "default"}}),
        );
    };
    let begin = tokio::time::Instant::now();
    tokio::join!(world.admission.settle(&request), arrive);
    assert_eq!(begin.elapsed(), std::time::Duration::ZERO, "no longer than it takes");
    world.memory.delete("", "serviceaccounts", "fresh", "default");
    world.admission.settle(&request).await;
    assert_eq!(begin.elapsed().as_secs(), 1, "patience ends");
}

/// SECURITY.md, "Resource exhaustion": a flood of events in one namespace ends in 429, others go on.
#[test]
fn resource_exhaustion_a_flood_of_events_is_stopped() {
    let world = World::new();
    let event =
        |namespace| Write { namespace, ..Write::create("", "events").of(json!({"metadata": {"name": "e"}})) };
    let refused = (0..60_000).find_map(|_| event("ns").run(&world).err()).unwrap();
    assert_eq!(
        (refused.code, refused.message.as_str()),
        (429, "limit reached on type Namespace for key \"ns\"")
    );
    assert!(event("safe").run(&world).is_ok());
}
