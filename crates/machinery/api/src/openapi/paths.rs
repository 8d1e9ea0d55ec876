//! Paths and their operations.

use serde_json::{Map, Value, json};

use super::Flavor;
use super::schemas::reference;
use crate::resources::{Resource, Selection, Subresource};
use crate::schema::{TypeId, by_name, type_of};

/// `/api/v1` or `/apis/apps/v1`.
pub(super) fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

/// The paths of a group version.
pub(super) fn of(flavor: Flavor, served: &Selection, group: &str, version: &str) -> Vec<(String, Value)> {
    let root = root(group, version);
    let writer = Writer { flavor, root: &root, group, version };
    let mut paths = vec![(format!("{root}/"), writer.api_resources())];
    for resource in served.of(group, version) {
        writer.resource(resource, &mut paths);
    }
    paths
}

/// What an operation is, in the words of `x-kubernetes-action` and of operation ids.
struct Operation<'a> {
    method: &'static str,
    action: &'static str,
    verb: &'static str,
    description: &'a str,
    id_tail: String,
    parameters: &'static [Parameter],
    body: Body,
    answer: Answer,
    /// Group, version and kind of what is read or written.
    gvk: (&'a str, &'a str, &'a str),
}

enum Body {
    None,
    Object(Option<TypeId>),
    Patch,
    DeleteOptions,
}

enum Answer {
    /// The statuses and the type of their body.
    Object(&'static [(&'static str, &'static str)], Option<TypeId>),
    Text,
}

const OK: &[(&str, &str)] = &[("200", "OK")];
const CREATED: &[(&str, &str)] = &[("200", "OK"), ("201", "Created")];
const ACCEPTED: &[(&str, &str)] = &[("200", "OK"), ("201", "Created"), ("202", "Accepted")];
const DELETED: &[(&str, &str)] = &[("200", "OK"), ("202", "Accepted")];

type Parameter = (&'static str, &'static str, &'static str);

const PRETTY: Parameter = ("pretty", "string", "If 'true', the output is pretty printed.");
const DRY_RUN: Parameter = ("dryRun", "string", "Nothing is persisted. The only valid value is 'All'.");
const FIELD_MANAGER: Parameter = ("fieldManager", "string", "The name of the actor that makes the change.");
const FIELD_VALIDATION: Parameter = (
    "fieldValidation",
    "string",
    "What happens to unknown or duplicate fields: Ignore, Warn (the default) or Strict.",
);
const FORCE: Parameter = ("force", "boolean", "Apply takes over fields that others own.");
const GRACE: Parameter =
    ("gracePeriodSeconds", "integer", "Seconds before the object is deleted; 0 is at once.");
const UNSAFE_DELETE: Parameter = (
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "boolean",
    "Deletes an object that cannot be read from the store, without its finalizers.",
);
const ORPHAN: Parameter = ("orphanDependents", "boolean", "Deprecated: use propagationPolicy.");
const PROPAGATION: Parameter =
    ("propagationPolicy", "string", "What happens to dependents: Orphan, Background or Foreground.");

const WRITE: &[Parameter] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
const PATCH: &[Parameter] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE];
const DELETE: &[Parameter] = &[DRY_RUN, GRACE, UNSAFE_DELETE, ORPHAN, PROPAGATION];
const BOOKMARKS: Parameter =
    ("allowWatchBookmarks", "boolean", "The watch may hold events of type BOOKMARK.");
const CONTINUE: Parameter = ("continue", "string", "Where an earlier, limited list stopped.");
const FIELD_SELECTOR: Parameter = ("fieldSelector", "string", "Restricts the list by fields.");
const LABEL_SELECTOR: Parameter = ("labelSelector", "string", "Restricts the list by labels.");
const LIMIT: Parameter = ("limit", "integer", "The most objects to return at once.");
const RESOURCE_VERSION: Parameter =
    ("resourceVersion", "string", "The version the list or watch starts from.");
const VERSION_MATCH: Parameter =
    ("resourceVersionMatch", "string", "How resourceVersion is meant: Exact or NotOlderThan.");
const INITIAL_EVENTS: Parameter =
    ("sendInitialEvents", "boolean", "The watch begins with all existing objects.");
const SHARD_SELECTOR: Parameter = ("shardSelector", "string", "Restricts the list to a shard.");
const TIMEOUT: Parameter = ("timeoutSeconds", "integer", "Seconds after which the call ends.");
const WATCH: Parameter = ("watch", "boolean", "Changes follow as events.");

const LIST: &[Parameter] = &[
    BOOKMARKS,
    CONTINUE,
    FIELD_SELECTOR,
    LABEL_SELECTOR,
    LIMIT,
    RESOURCE_VERSION,
    VERSION_MATCH,
    INITIAL_EVENTS,
    SHARD_SELECTOR,
    TIMEOUT,
    WATCH,
];
const DELETE_COLLECTION: &[Parameter] = &[
    CONTINUE,
    DRY_RUN,
    FIELD_SELECTOR,
    GRACE,
    UNSAFE_DELETE,
    LABEL_SELECTOR,
    LIMIT,
    ORPHAN,
    PROPAGATION,
    RESOURCE_VERSION,
    VERSION_MATCH,
    INITIAL_EVENTS,
    SHARD_SELECTOR,
    TIMEOUT,
];
const LOG: &[Parameter] = &[
    ("container", "string", "The container; may be left out if the pod has one."),
    ("follow", "boolean", "The log goes on as it is written."),
    ("insecureSkipTLSVerifyBackend", "boolean", "The kubelet's certificate is not checked."),
    ("limitBytes", "integer", "The most bytes to return."),
    PRETTY,
    ("previous", "boolean", "The log of the container's previous run."),
    ("sinceSeconds", "integer", "Only what was written in these last seconds."),
    ("stream", "string", "All, Stdout or Stderr."),
    ("tailLines", "integer", "Only so many last lines."),
    ("timestamps", "boolean", "A time before every line."),
];
const STREAMS: &[Parameter] = &[
    ("command", "string", "The command, one parameter per word."),
    ("container", "string", "The container; may be left out if the pod has one."),
    ("stderr", "boolean", "Standard error is sent."),
    ("stdin", "boolean", "Standard input is read."),
    ("stdout", "boolean", "Standard output is sent."),
    ("tty", "boolean", "A terminal is made."),
];
const PORTS: &[Parameter] = &[("ports", "integer", "The ports to forward, for WebSockets.")];
const PROXY_PATH: &[Parameter] = &[("path", "string", "The path on the target.")];

const JSON_TYPES: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

struct Writer<'a> {
    flavor: Flavor,
    root: &'a str,
    group: &'a str,
    version: &'a str,
}

impl Writer<'_> {
    /// `coreV1`, `rbacAuthorizationV1`: the group and version as operation ids have them.
    fn camel(&self) -> String {
        let group = if self.group.is_empty() { "core" } else { self.group.trim_end_matches(".k8s.io") };
        let group: String = group.split('.').map(capital).collect();
        format!("{group}{}", capital(self.version))
    }

    /// `rbacAuthorization_v1`.
    fn tag(&self) -> String {
        let group = if self.group.is_empty() { "core" } else { self.group.trim_end_matches(".k8s.io") };
        let mut parts = group.split('.');
        let first = parts.next().unwrap_or_default().to_owned();
        format!("{}_{}", parts.fold(first, |name, part| name + &capital(part)), self.version)
    }

    fn api_resources(&self) -> Value {
        let mut operation = json!({
            "description": "get available resources",
            "operationId": format!("get{}APIResources", self.camel()),
            "tags": [self.tag()],
        });
        self.responses(&mut operation, &Answer::Object(OK, by_name("meta.v1.APIResourceList")));
        if self.flavor == Flavor::V2 {
            operation["schemes"] = json!(["https"]);
        }
        json!({"get": operation})
    }

    fn resource(&self, resource: &Resource, paths: &mut Vec<(String, Value)>) {
        let (base, scope) = if resource.namespaced {
            (format!("{}/namespaces/{{namespace}}/{}", self.root, resource.plural), "Namespaced")
        } else {
            (format!("{}/{}", self.root, resource.plural), "")
        };
        let gvk = (self.group, self.version, resource.kind);
        let object = type_of(self.group, self.version, resource.kind);
        let list = type_of(self.group, self.version, &format!("{}List", resource.kind));
        let status = by_name("meta.v1.Status");
        let kind = resource.kind;
        let operation = |method, action, verb, tail: &str, parameters, body, answer, description| Operation {
            method,
            action,
            verb,
            description,
            id_tail: format!("{tail}{scope}{kind}"),
            parameters,
            body,
            answer,
            gvk,
        };
        let list_operation = |tail: String| Operation {
            id_tail: tail,
            ..operation(
                "get",
                "list",
                "list",
                "",
                LIST,
                Body::None,
                Answer::Object(OK, list),
                "list or watch objects of kind",
            )
        };
        let mut collection = Vec::new();
        if resource.allows("list") {
            collection.push(list_operation(format!("{scope}{kind}")));
        }
        if resource.allows("create") {
            let answer = Answer::Object(ACCEPTED, object);
            collection.push(operation(
                "post",
                "post",
                "create",
                "",
                WRITE,
                Body::Object(object),
                answer,
                "create a",
            ));
        }
        if resource.allows("deletecollection") {
            let answer = Answer::Object(OK, status);
            let description = "delete collection of";
            collection.push(operation(
                "delete",
                "deletecollection",
                "delete",
                "Collection",
                DELETE_COLLECTION,
                Body::DeleteOptions,
                answer,
                description,
            ));
        }
        if !collection.is_empty() {
            paths.push((base.clone(), self.item(resource, false, &collection)));
        }
        if resource.namespaced && resource.allows("list") {
            let everywhere = list_operation(format!("{kind}ForAllNamespaces"));
            let item = self.path_item(&[], &[everywhere]);
            paths.push((format!("{}/{}", self.root, resource.plural), item));
        }
        let mut single = Vec::new();
        if resource.allows("get") {
            single.push(operation(
                "get",
                "get",
                "read",
                "",
                &[],
                Body::None,
                Answer::Object(OK, object),
                "read the specified",
            ));
        }
        if resource.allows("update") {
            let answer = Answer::Object(CREATED, object);
            single.push(operation(
                "put",
                "put",
                "replace",
                "",
                WRITE,
                Body::Object(object),
                answer,
                "replace the specified",
            ));
        }
        if resource.allows("patch") {
            let answer = Answer::Object(CREATED, object);
            single.push(operation(
                "patch",
                "patch",
                "patch",
                "",
                PATCH,
                Body::Patch,
                answer,
                "partially update the specified",
            ));
        }
        if resource.allows("delete") {
            let answer = Answer::Object(DELETED, deleted(resource, status, object));
            single.push(operation(
                "delete",
                "delete",
                "delete",
                "",
                DELETE,
                Body::DeleteOptions,
                answer,
                "delete a",
            ));
        }
        let name = format!("{base}/{{name}}");
        if !single.is_empty() {
            paths.push((name.clone(), self.item(resource, true, &single)));
        }
        for subresource in resource.subresources {
            self.subresource(resource, subresource, &name, scope, paths);
        }
    }

    fn subresource(
        &self,
        resource: &Resource,
        subresource: &'static Subresource,
        name: &str,
        scope: &str,
        paths: &mut Vec<(String, Value)>,
    ) {
        let (group, version) = subresource.group_version(resource);
        let gvk = (group, version, subresource.kind);
        let object = type_of(group, version, subresource.kind);
        let tail = format!("{scope}{}{}", resource.kind, capital(subresource.name));
        let path = format!("{name}/{}", subresource.name);
        let connect: Option<&'static [Parameter]> = match subresource.name {
            "attach" => Some(&STREAMS[1..]),
            "exec" => Some(STREAMS),
            "portforward" => Some(PORTS),
            "proxy" => Some(PROXY_PATH),
            _ => None,
        };
        let verbs = |verb: &'static str, connect: bool| match (verb, connect) {
            ("get", true) => ("get", "connect", "connect", "Get"),
            ("create", true) => ("post", "connect", "connect", "Post"),
            ("update", true) => ("put", "connect", "connect", "Put"),
            ("patch", true) => ("patch", "connect", "connect", "Patch"),
            (_, true) => ("delete", "connect", "connect", "Delete"),
            ("get", false) => ("get", "get", "read", ""),
            ("create", false) => ("post", "post", "create", ""),
            ("update", false) => ("put", "put", "replace", ""),
            ("patch", false) => ("patch", "patch", "patch", ""),
            (_, false) => ("delete", "delete", "delete", ""),
        };
        let operations: Vec<Operation<'_>> = subresource
            .verbs
            .iter()
            .map(|verb| {
                let (method, action, word, prefix) = verbs(verb, connect.is_some());
                let (parameters, body, answer) = match (connect, method) {
                    (Some(parameters), _) => (parameters, Body::None, Answer::Text),
                    (None, "get") if subresource.name == "log" => (LOG, Body::None, Answer::Text),
                    (None, "get") => (&[][..], Body::None, Answer::Object(OK, object)),
                    (None, "post") => (WRITE, Body::Object(object), Answer::Object(ACCEPTED, object)),
                    (None, "patch") => (PATCH, Body::Patch, Answer::Object(CREATED, object)),
                    (None, _) => (WRITE, Body::Object(object), Answer::Object(CREATED, object)),
                };
                let id_tail = format!("{prefix}{tail}");
                let description = "subresource of";
                Operation { method, action, verb: word, description, id_tail, parameters, body, answer, gvk }
            })
            .collect();
        paths.push((path, self.item(resource, true, &operations)));
    }

    fn item(&self, resource: &Resource, named: bool, operations: &[Operation<'_>]) -> Value {
        let mut shared: Vec<Parameter> = Vec::new();
        if named {
            shared.push(("name", "string", "The name of the object."));
        }
        if resource.namespaced {
            shared.push(("namespace", "string", "The namespace of the object."));
        }
        self.path_item(&shared, operations)
    }

    fn path_item(&self, in_path: &[Parameter], operations: &[Operation<'_>]) -> Value {
        let mut item = Map::new();
        let mut parameters: Vec<Value> = in_path.iter().map(|p| self.parameter(p, "path")).collect();
        if operations.iter().all(|o| o.action != "connect" && o.parameters != LOG) {
            parameters.push(self.parameter(&PRETTY, "query"));
        }
        item.insert("parameters".to_owned(), Value::Array(parameters));
        for operation in operations {
            item.insert(operation.method.to_owned(), self.operation(operation));
        }
        Value::Object(item)
    }

    fn operation(&self, operation: &Operation<'_>) -> Value {
        let (group, version, kind) = operation.gvk;
        let mut written = json!({
            "description": format!("{} {kind}", operation.description),
            "operationId": operation_id(operation, &self.camel()),
            "tags": [self.tag()],
            "x-kubernetes-action": operation.action,
            "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
        });
        let mut parameters: Vec<Value> =
            operation.parameters.iter().map(|p| self.parameter(p, "query")).collect();
        let body = match operation.body {
            Body::None => None,
            Body::Object(ty) => ty.map(|ty| (ty, true, &["*/*"][..])),
            Body::Patch => by_name("meta.v1.Patch").map(|ty| (ty, true, PATCH_TYPES)),
            Body::DeleteOptions => by_name("meta.v1.DeleteOptions").map(|ty| (ty, false, &["*/*"][..])),
        };
        if self.flavor == Flavor::V2 {
            written["schemes"] = json!(["https"]);
            written["produces"] = match operation.answer {
                Answer::Object(..) => json!(JSON_TYPES),
                Answer::Text => json!(["*/*"]),
            };
            written["consumes"] = json!(body.map_or(&["*/*"][..], |(_, _, types)| types));
        }
        if let Some((ty, required, types)) = body {
            let schema = reference(self.flavor, ty);
            if self.flavor == Flavor::V2 {
                let mut body = json!({"in": "body", "name": "body", "schema": schema});
                if required {
                    body["required"] = Value::Bool(true);
                }
                parameters.insert(0, body);
            } else {
                written["requestBody"] = json!({"content": content(types, &schema)});
                if required {
                    written["requestBody"]["required"] = Value::Bool(true);
                }
            }
        }
        if !parameters.is_empty() {
            written["parameters"] = Value::Array(parameters);
        }
        self.responses(&mut written, &operation.answer);
        written
    }

    fn responses(&self, operation: &mut Value, answer: &Answer) {
        let mut responses = json!({"401": {"description": "Unauthorized"}});
        match answer {
            Answer::Object(statuses, Some(ty)) => {
                let schema = reference(self.flavor, *ty);
                for (status, description) in *statuses {
                    responses[*status] = match self.flavor {
                        Flavor::V2 => json!({"description": description, "schema": schema}),
                        Flavor::V3 => {
                            json!({"description": description, "content": content(JSON_TYPES, &schema)})
                        }
                    };
                }
            }
            Answer::Object(..) | Answer::Text => {
                let schema = json!({"type": "string"});
                responses["200"] = match self.flavor {
                    Flavor::V2 => json!({"description": "OK", "schema": schema}),
                    Flavor::V3 => json!({"description": "OK", "content": content(&["*/*"], &schema)}),
                };
            }
        }
        operation["responses"] = responses;
    }

    fn parameter(&self, (name, ty, description): &Parameter, place: &str) -> Value {
        let mut parameter = json!({"name": name, "in": place, "description": description});
        if place == "path" {
            parameter["required"] = Value::Bool(true);
        }
        match self.flavor {
            Flavor::V2 => parameter["type"] = Value::from(*ty),
            Flavor::V3 => parameter["schema"] = json!({"type": ty}),
        }
        parameter["uniqueItems"] = Value::Bool(true);
        if self.flavor == Flavor::V3
            && let Some(parameter) = parameter.as_object_mut()
            && let Some(unique) = parameter.remove("uniqueItems")
        {
            parameter["schema"]["uniqueItems"] = unique;
        }
        parameter
    }
}

/// What a delete answers: most kinds a status, those that upstream returns themselves the object.
fn deleted(resource: &Resource, status: Option<TypeId>, object: Option<TypeId>) -> Option<TypeId> {
    const RETURNED: &[&str] = &[
        "CSIDriver",
        "CSINode",
        "DeviceClass",
        "DeviceTaintRule",
        "PersistentVolume",
        "PersistentVolumeClaim",
        "Pod",
        "PodTemplate",
        "ResourceClaim",
        "ResourceClaimTemplate",
        "ResourceQuota",
        "ResourceSlice",
        "Service",
        "ServiceAccount",
        "StorageClass",
        "VolumeAttachment",
        "VolumeAttributesClass",
    ];
    if RETURNED.contains(&resource.kind) { object } else { status }
}

/// `readCoreV1NamespacedPod`, `connectCoreV1GetNamespacedPodExec`.
fn operation_id(operation: &Operation<'_>, group_version: &str) -> String {
    format!("{}{group_version}{}", operation.verb, operation.id_tail)
}

fn content(types: &[&str], schema: &Value) -> Value {
    types.iter().map(|ty| ((*ty).to_owned(), json!({"schema": schema}))).collect::<Map<_, _>>().into()
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
