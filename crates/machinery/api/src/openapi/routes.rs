//! The operations of the API's resources: what each takes and answers, before it is written as v2 or v3.
//!
//! Source: `k8s.io/apiserver/pkg/endpoints/installer.go`, whose order of things is kept: a path for a collection, for one
//! object, for the deprecated watches of both, and for each subresource.

use super::facts::Facts;
use super::parameters::Parameter;
use crate::resources::{Resource, Selection, Subresource};
use crate::schema::{TypeId, by_name, type_of};

/// One method of one path.
#[derive(Debug)]
pub(super) struct Route {
    /// In lower case.
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) description: String,
    /// `readCoreV1NamespacedPod`.
    pub(super) id: String,
    /// `core_v1`.
    pub(super) tag: String,
    /// `x-kubernetes-action`, and the group, version and kind of what is read or written.
    pub(super) action: Option<(&'static str, Gvk)>,
    pub(super) parameters: Vec<Parameter>,
    pub(super) body: Option<Body>,
    /// Media types; empty where nothing is said.
    pub(super) consumes: &'static [&'static str],
    pub(super) produces: &'static [&'static str],
    /// Statuses of success, all with the same model.
    pub(super) answers: &'static [(&'static str, &'static str)],
    pub(super) model: Model,
}

impl Route {
    /// What is read at a path that is no object's.
    pub(super) fn read(path: String, description: &str, id: String, tag: &str, model: Model) -> Route {
        Route {
            method: "get",
            path,
            description: description.to_owned(),
            id,
            tag: tag.to_owned(),
            action: None,
            parameters: Vec::new(),
            body: None,
            consumes: OBJECT_TYPES,
            produces: OBJECT_TYPES,
            answers: OK,
            model,
        }
    }
}

/// Group, version and kind.
pub(super) type Gvk = (&'static str, &'static str, &'static str);

/// What a request carries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Body {
    pub(super) ty: TypeId,
    pub(super) required: bool,
}

/// What an answer carries.
#[derive(Clone, Copy, Debug)]
pub(super) enum Model {
    Type(TypeId),
    Text,
}

impl Model {
    /// Text where the type is not known: there is none such.
    pub(super) fn named(name: &str) -> Self {
        by_name(name).map_or(Self::Text, Self::Type)
    }
}

pub(super) const OK: &[(&str, &str)] = &[("200", "OK")];
const CREATED: &[(&str, &str)] = &[("200", "OK"), ("201", "Created")];
const ACCEPTED: &[(&str, &str)] = &[("200", "OK"), ("201", "Created"), ("202", "Accepted")];
const DELETED: &[(&str, &str)] = &[("200", "OK"), ("202", "Accepted")];

pub(super) const OBJECT_TYPES: &[&str] =
    &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const LOG_TYPES: &[&str] =
    &["text/plain", "application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const LIST_TYPES: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];
const PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
const ANY_TYPE: &[&str] = &["*/*"];

/// `/api/v1` or `/apis/apps/v1`.
pub(super) fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

/// `core`, `RbacAuthorization`: a group as operation ids have it. Its tag begins with a small letter.
pub(super) fn camel(group: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.trim_end_matches(".k8s.io") };
    let mut parts = group.split('.');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |name, part| name + &capital(part))
}

pub(super) fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// The operations of a group version, those of a path one after another.
pub(super) fn of(facts: &Facts, served: &Selection, group: &str, version: &str) -> Vec<Route> {
    let maker = Maker {
        facts,
        root: root(group, version),
        id: format!("{}{}", capital(&camel(group)), capital(version)),
        tag: format!("{}_{version}", camel(group)),
    };
    let mut routes = vec![maker.api_resources()];
    for resource in served.of(group, version) {
        maker.resource(resource, &mut routes);
    }
    routes
}

struct Maker<'a> {
    facts: &'a Facts,
    root: String,
    /// `CoreV1`.
    id: String,
    tag: String,
}

/// One path of a resource.
struct Spot<'a> {
    path: String,
    /// What stands in the path.
    parameters: Vec<Parameter>,
    gvk: Gvk,
    /// What the operation id ends with: `NamespacedPodStatus`.
    tail: String,
    /// `Pod`, or `status of the specified Pod`, with the article wanted.
    noun: Noun<'a>,
}

/// What descriptions speak of.
#[derive(Clone, Copy)]
struct Noun<'a> {
    kind: &'a str,
    subresource: &'a str,
}

impl Noun<'_> {
    /// `the specified Pod`, `status of the specified Pod`.
    fn specified(self) -> String {
        self.with(" the specified ")
    }

    /// `a Pod`, `eviction of a Pod`. Kinds whose name looks like a plural have no article.
    fn any(self) -> String {
        let plural = self.kind.ends_with('s') && !self.kind.ends_with("ss");
        let vowel = self.kind.starts_with(['A', 'E', 'I', 'O', 'U']);
        self.with(match (plural, vowel) {
            (true, _) => " ",
            (false, true) => " an ",
            (false, false) => " a ",
        })
    }

    fn with(self, article: &str) -> String {
        let Self { kind, subresource } = self;
        if subresource.is_empty() {
            format!("{}{kind}", article.trim_start())
        } else {
            format!("{subresource} of{article}{kind}")
        }
    }
}

impl Spot<'_> {
    /// A path below this one's, or beside it.
    fn at(&self, path: String, parameters: Vec<Parameter>, tail: String) -> Self {
        Self { path, parameters, tail, ..*self }
    }
}

impl Maker<'_> {
    fn api_resources(&self) -> Route {
        let (path, id) = (format!("{}/", self.root), format!("get{}APIResources", self.id));
        let model = Model::named("meta.v1.APIResourceList");
        Route::read(path, "get available resources", id, &self.tag, model)
    }

    fn resource(&self, resource: &'static Resource, routes: &mut Vec<Route>) {
        let Resource { group, version, kind, plural, namespaced, .. } = *resource;
        let (base, scope) = if namespaced {
            (format!("namespaces/{{namespace}}/{plural}"), "Namespaced")
        } else {
            (plural.to_owned(), "")
        };
        let outer: Vec<Parameter> = namespaced.then(namespace).into_iter().collect();
        let inner: Vec<Parameter> = outer.iter().cloned().chain([name(kind)]).collect();
        let collection = Spot {
            path: format!("{}/{base}", self.root),
            parameters: outer.clone(),
            gvk: (group, version, kind),
            tail: format!("{scope}{kind}"),
            noun: Noun { kind, subresource: "" },
        };
        let single =
            collection.at(format!("{}/{base}/{{name}}", self.root), inner.clone(), format!("{scope}{kind}"));
        let everywhere =
            collection.at(format!("{}/{plural}", self.root), Vec::new(), format!("{kind}ForAllNamespaces"));
        let (object, list) = (model(group, version, kind), model(group, version, &format!("{kind}List")));
        let verb = |verb: &str| resource.allows(verb);
        let watch = verb("watch");
        if verb("list") {
            routes.push(self.list(&collection, list, watch));
        }
        if verb("create") {
            routes.push(self.create(&collection, object));
        }
        if verb("deletecollection") {
            routes.push(self.delete_collection(&collection));
        }
        if namespaced && verb("list") {
            routes.push(self.list(&everywhere, list, watch));
        }
        if verb("get") {
            routes.push(self.read(&single, "", OBJECT_TYPES, object));
        }
        if verb("update") {
            routes.push(self.replace(&single, object));
        }
        if verb("patch") {
            routes.push(self.patch(&single, object));
        }
        if verb("delete") {
            routes.push(self.delete(&single, deleted(kind, object)));
        }
        if watch {
            let watch = |path: &str| format!("{}/watch/{path}", self.root);
            routes.push(self.watch_list(&collection.at(
                watch(&base),
                outer.clone(),
                format!("{scope}{kind}List"),
            )));
            routes.push(self.watch(&single.at(
                watch(&format!("{base}/{{name}}")),
                inner,
                format!("{scope}{kind}"),
            )));
            if namespaced {
                let tail = format!("{kind}ListForAllNamespaces");
                routes.push(self.watch_list(&everywhere.at(watch(plural), Vec::new(), tail)));
            }
        }
        for subresource in resource.subresources {
            self.subresource(resource, subresource, &single, &outer, routes);
        }
    }

    fn subresource(
        &self,
        resource: &'static Resource,
        subresource: &'static Subresource,
        single: &Spot<'_>,
        outer: &[Parameter],
        routes: &mut Vec<Route>,
    ) {
        let (group, version) = subresource.group_version(resource);
        let kind = subresource.kind;
        let spot = Spot {
            path: format!("{}/{}", single.path, subresource.name),
            parameters: outer.iter().cloned().chain([name(kind)]).collect(),
            gvk: (group, version, kind),
            tail: format!("{}{}", single.tail, capital(subresource.name)),
            noun: Noun { kind: resource.kind, subresource: subresource.name },
        };
        if matches!(subresource.name, "attach" | "exec" | "portforward" | "proxy") {
            self.connect(&spot, subresource.name == "proxy", routes);
            return;
        }
        let object = model(group, version, kind);
        for verb in subresource.verbs {
            routes.push(match *verb {
                "get" if subresource.name == "log" => {
                    self.read(&spot, "core.v1.PodLogOptions", LOG_TYPES, Model::Text)
                }
                "get" => self.read(&spot, "", OBJECT_TYPES, object),
                "create" => self.create(&spot, object),
                "patch" => self.patch(&spot, object),
                _ => self.replace(&spot, object),
            });
        }
    }

    /// Everything that an operation on an object or a list has in common.
    fn route(
        &self,
        method: &'static str,
        (action, verb): (&'static str, &str),
        spot: &Spot<'_>,
        description: String,
    ) -> Route {
        Route {
            method,
            path: spot.path.clone(),
            description,
            id: format!("{verb}{}{}", self.id, spot.tail),
            tag: self.tag.clone(),
            action: Some((action, spot.gvk)),
            parameters: spot.parameters.iter().cloned().chain([Parameter::pretty()]).collect(),
            body: None,
            consumes: ANY_TYPE,
            produces: OBJECT_TYPES,
            answers: OK,
            model: Model::Text,
        }
    }

    fn with(&self, mut route: Route, options: &str) -> Route {
        route.parameters.extend_from_slice(self.facts.options(options));
        route
    }

    fn read(&self, spot: &Spot<'_>, options: &str, produces: &'static [&'static str], model: Model) -> Route {
        let description = format!("read {}", spot.noun.specified());
        let route = self.route("get", ("get", "read"), spot, description);
        Route { produces, model, ..self.with(route, options) }
    }

    fn list(&self, spot: &Spot<'_>, model: Model, watchable: bool) -> Route {
        let verb = if watchable { "list or watch" } else { "list" };
        let description = format!("{verb} objects of kind {}", spot.noun.kind);
        let route = self.with(self.route("get", ("list", "list"), spot, description), "meta.v1.ListOptions");
        Route { produces: LIST_TYPES, model, ..route }
    }

    fn create(&self, spot: &Spot<'_>, model: Model) -> Route {
        let description = format!("create {}", spot.noun.any());
        let route = self.route("post", ("post", "create"), spot, description);
        let route = self.with(route, "meta.v1.CreateOptions");
        Route { body: body(model, true), answers: ACCEPTED, model, ..route }
    }

    fn replace(&self, spot: &Spot<'_>, model: Model) -> Route {
        let description = format!("replace {}", spot.noun.specified());
        let route = self.route("put", ("put", "replace"), spot, description);
        let route = self.with(route, "meta.v1.UpdateOptions");
        Route { body: body(model, true), answers: CREATED, model, ..route }
    }

    fn patch(&self, spot: &Spot<'_>, model: Model) -> Route {
        let description = format!("partially update {}", spot.noun.specified());
        let route = self.route("patch", ("patch", "patch"), spot, description);
        let route = self.with(route, "meta.v1.PatchOptions");
        let patch = body(Model::named("meta.v1.Patch"), true);
        Route { body: patch, consumes: PATCH_TYPES, answers: CREATED, model, ..route }
    }

    fn delete(&self, spot: &Spot<'_>, model: Model) -> Route {
        let description = format!("delete {}", spot.noun.any());
        let route = self.route("delete", ("delete", "delete"), spot, description);
        let route = self.with(route, "meta.v1.DeleteOptions");
        Route { body: delete_options(), answers: DELETED, model, ..route }
    }

    fn delete_collection(&self, spot: &Spot<'_>) -> Route {
        let description = format!("delete collection of {}", spot.noun.kind);
        let tail = format!("Collection{}", spot.tail);
        let spot = spot.at(spot.path.clone(), spot.parameters.clone(), tail);
        let route = self.route("delete", ("deletecollection", "delete"), &spot, description);
        let mut route = self.with(route, "meta.v1.DeleteOptions");
        let lists = self.facts.options("meta.v1.ListOptions").iter();
        route
            .parameters
            .extend(lists.filter(|p| !matches!(p.name, "watch" | "allowWatchBookmarks")).cloned());
        Route { body: delete_options(), model: Model::named("meta.v1.Status"), ..route }
    }

    fn watch(&self, spot: &Spot<'_>) -> Route {
        let description = format!(
            "watch changes to an object of kind {}. deprecated: use the 'watch' parameter with a list operation instead, \
             filtered to a single item with the 'fieldSelector' parameter.",
            spot.noun.kind
        );
        self.watching("watch", spot, description)
    }

    fn watch_list(&self, spot: &Spot<'_>) -> Route {
        let description = format!(
            "watch individual changes to a list of {}. deprecated: use the 'watch' parameter with a list operation instead.",
            spot.noun.kind
        );
        self.watching("watchlist", spot, description)
    }

    fn watching(&self, action: &'static str, spot: &Spot<'_>, description: String) -> Route {
        let route = self.route("get", (action, "watch"), spot, description);
        let route = self.with(route, "meta.v1.ListOptions");
        Route { produces: LIST_TYPES, model: Model::named("meta.v1.WatchEvent"), ..route }
    }

    /// All methods of a stream or a proxy. What is behind a proxy has paths of its own.
    fn connect(&self, spot: &Spot<'_>, proxy: bool, routes: &mut Vec<Route>) {
        const METHODS: [&str; 7] = ["get", "post", "put", "patch", "delete", "head", "options"];
        let methods = if proxy { &METHODS[..] } else { &METHODS[..2] };
        let (_, version, kind) = spot.gvk;
        let options = format!("core.{version}.{kind}");
        let mut below = spot.parameters.clone();
        below.push(Parameter::path("path", "path to the resource"));
        let below = spot.at(format!("{}/{{path}}", spot.path), below, format!("{}WithPath", spot.tail));
        for spot in [Some(spot), proxy.then_some(&below)].into_iter().flatten() {
            for method in methods {
                let Noun { kind, subresource } = spot.noun;
                let upper = method.to_uppercase();
                let description = format!("connect {upper} requests to {subresource} of {kind}");
                let tail = format!("{}{}", capital(method), spot.tail);
                let named = spot.at(spot.path.clone(), spot.parameters.clone(), tail);
                let route = self.route(method, ("connect", "connect"), &named, description);
                // Nothing is written that could be indented.
                let parameters =
                    spot.parameters.iter().chain(self.facts.options(&options)).cloned().collect();
                routes.push(Route { parameters, produces: ANY_TYPE, ..route });
            }
        }
    }
}

fn namespace() -> Parameter {
    Parameter::path("namespace", "object name and auth scope, such as for teams and projects")
}

fn name(kind: &str) -> Parameter {
    Parameter::path("name", format!("name of the {kind}"))
}

fn model(group: &str, version: &str, kind: &str) -> Model {
    type_of(group, version, kind).map_or(Model::Text, Model::Type)
}

fn body(model: Model, required: bool) -> Option<Body> {
    match model {
        Model::Type(ty) => Some(Body { ty, required }),
        Model::Text => None,
    }
}

fn delete_options() -> Option<Body> {
    body(Model::named("meta.v1.DeleteOptions"), false)
}

/// What a delete answers: most kinds a status, those that upstream returns themselves the object.
fn deleted(kind: &str, object: Model) -> Model {
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
    if RETURNED.contains(&kind) { object } else { Model::named("meta.v1.Status") }
}
