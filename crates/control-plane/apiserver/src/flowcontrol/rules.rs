//! FlowSchemas and PriorityLevelConfigurations, compiled for matching. Pure.

use std::sync::Arc;

use http::HeaderValue;
use serde_json::Value;

use super::queues::Shape;
use crate::authentication::User;
use crate::objects::{items, text};
use crate::request::RequestInfo;

/// The level that is never limited.
pub(super) const EXEMPT: &str = "exempt";
/// The schema and level of what nothing else matches.
pub(super) const CATCH_ALL: &str = "catch-all";

/// What tells flows of one schema apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Distinguisher {
    None,
    ByUser,
    ByNamespace,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    User(String),
    Group(String),
    /// Namespace and name; the name may be `*`.
    Account(String, String),
}

impl Subject {
    fn of(value: &Value) -> Option<Subject> {
        let text = |pointer| text(value, pointer).to_owned();
        match value["kind"].as_str()? {
            "User" => Some(Subject::User(text("/user/name"))),
            "Group" => Some(Subject::Group(text("/group/name"))),
            "ServiceAccount" => {
                Some(Subject::Account(text("/serviceAccount/namespace"), text("/serviceAccount/name")))
            }
            _ => None,
        }
    }

    fn matches(&self, user: &User) -> bool {
        match self {
            Subject::User(name) => name == "*" || *name == user.name,
            Subject::Group(name) => name == "*" || user.in_group(name),
            Subject::Account(namespace, name) => {
                let account =
                    user.name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
                account.is_some_and(|(n, a)| n == namespace && (name == "*" || a == name))
            }
        }
    }
}

/// Texts of a rule: everything, or these.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Names {
    all: bool,
    names: Vec<String>,
}

impl Names {
    fn of(value: &Value, field: &str) -> Names {
        let names: Vec<String> =
            items(value, field).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        Names { all: names.iter().any(|name| name == "*"), names }
    }

    fn has(&self, name: &str) -> bool {
        self.all || self.names.iter().any(|known| known == name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ResourceRule {
    verbs: Names,
    groups: Names,
    resources: Names,
    namespaces: Names,
    cluster_scope: bool,
}

impl ResourceRule {
    fn of(value: &Value) -> ResourceRule {
        ResourceRule {
            verbs: Names::of(value, "/verbs"),
            groups: Names::of(value, "/apiGroups"),
            resources: Names::of(value, "/resources"),
            namespaces: Names::of(value, "/namespaces"),
            cluster_scope: value["clusterScope"] == true,
        }
    }

    fn matches(&self, info: &RequestInfo) -> bool {
        let resource = || {
            if info.subresource.is_empty() {
                self.resources.has(&info.resource)
            } else {
                self.resources.all || {
                    self.resources.names.iter().any(|known| {
                        known
                            .split_once('/')
                            .is_some_and(|(main, sub)| main == info.resource && sub == info.subresource)
                    })
                }
            }
        };
        let place =
            if info.namespace.is_empty() { self.cluster_scope } else { self.namespaces.has(&info.namespace) };
        place && self.verbs.has(info.verb) && self.groups.has(&info.group) && resource()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct UrlRule {
    verbs: Names,
    urls: Vec<String>,
}

impl UrlRule {
    fn of(value: &Value) -> UrlRule {
        UrlRule { verbs: Names::of(value, "/verbs"), urls: Names::of(value, "/nonResourceURLs").names }
    }

    fn matches(&self, info: &RequestInfo) -> bool {
        self.verbs.has(info.verb)
            && self.urls.iter().any(|url| match url.strip_suffix('*') {
                Some(start) => info.path.starts_with(start),
                None => *url == info.path,
            })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    urls: Vec<UrlRule>,
}

/// A FlowSchema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Schema {
    pub(super) name: Arc<str>,
    /// As a header of answers.
    pub(super) uid: HeaderValue,
    /// The name of its priority level.
    pub(super) level: String,
    precedence: i64,
    distinguisher: Distinguisher,
    rules: Vec<Rule>,
}

impl Schema {
    pub(super) fn of(object: &Value) -> Schema {
        let spec = &object["spec"];
        let rules = items(spec, "/rules").iter().map(|rule| Rule {
            subjects: items(rule, "/subjects").iter().filter_map(Subject::of).collect(),
            resources: items(rule, "/resourceRules").iter().map(ResourceRule::of).collect(),
            urls: items(rule, "/nonResourceRules").iter().map(UrlRule::of).collect(),
        });
        Schema {
            name: text(object, "/metadata/name").into(),
            uid: uid(object),
            level: text(spec, "/priorityLevelConfiguration/name").to_owned(),
            precedence: spec["matchingPrecedence"].as_i64().unwrap_or(1000),
            distinguisher: match text(spec, "/distinguisherMethod/type") {
                "ByUser" => Distinguisher::ByUser,
                "ByNamespace" => Distinguisher::ByNamespace,
                _ => Distinguisher::None,
            },
            rules: rules.collect(),
        }
    }

    pub(super) fn matches(&self, user: &User, info: &RequestInfo) -> bool {
        self.rules.iter().any(|rule| {
            let asked = if info.is_resource {
                rule.resources.iter().any(|rule| rule.matches(info))
            } else {
                rule.urls.iter().any(|rule| rule.matches(info))
            };
            asked && rule.subjects.iter().any(|subject| subject.matches(user))
        })
    }

    /// The flow of a request: the same for requests that must share their turns.
    pub(super) fn flow(&self, user: &User, info: &RequestInfo, random: &ahash::RandomState) -> u64 {
        let what = match self.distinguisher {
            Distinguisher::None => "",
            Distinguisher::ByUser => &user.name,
            Distinguisher::ByNamespace => &info.namespace,
        };
        // The key of the hash is this process' own, so that nobody can choose whom to share a hand with.
        random.hash_one((&*self.name, what))
    }
}

/// An object's uid, empty for one that is not stored.
fn uid(object: &Value) -> HeaderValue {
    HeaderValue::from_str(text(object, "/metadata/uid")).unwrap_or(HeaderValue::from_static(""))
}

/// Schemas in the order they are tried: lowest precedence number first, then by name.
pub(super) fn in_order(mut schemas: Vec<Schema>) -> Vec<Schema> {
    schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
    schemas
}

/// A PriorityLevelConfiguration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LevelSpec {
    pub(super) name: Arc<str>,
    /// As a header of answers.
    pub(super) uid: HeaderValue,
    pub(super) exempt: bool,
    /// Its part of all seats.
    pub(super) shares: u64,
    /// How much of its seats others may use, in percent.
    pub(super) lendable_percent: u64,
    /// How much it may use of others', in percent of its own; `None` is without limit.
    pub(super) borrowing_percent: Option<u64>,
    pub(super) shape: Shape,
}

impl LevelSpec {
    pub(super) fn of(object: &Value) -> LevelSpec {
        let spec = &object["spec"];
        let exempt = spec["type"] == "Exempt";
        let limits = if exempt { &spec["exempt"] } else { &spec["limited"] };
        let number = |value: &Value, name: &str, otherwise: u64| value[name].as_u64().unwrap_or(otherwise);
        let queuing = &limits["limitResponse"]["queuing"];
        let queues = limits["limitResponse"]["type"] == "Queue";
        LevelSpec {
            name: text(object, "/metadata/name").into(),
            uid: uid(object),
            exempt,
            shares: number(limits, "nominalConcurrencyShares", if exempt { 0 } else { 30 }),
            lendable_percent: number(limits, "lendablePercent", 0),
            borrowing_percent: limits["borrowingLimitPercent"].as_u64(),
            shape: if queues {
                let count = |name, otherwise| usize::try_from(number(queuing, name, otherwise)).unwrap_or(1);
                Shape {
                    queues: count("queues", 64).max(1),
                    hand: count("handSize", 8),
                    length: count("queueLengthLimit", 50),
                }
            } else {
                Shape { queues: 0, hand: 1, length: 0 }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::flowcontrol::defaults;
    use crate::request;

    /// Which default schema a request falls under.
    #[track_caller]
    fn check(user: &User, method: &Method, uri: &str, expected: &str) {
        let schemas = in_order(defaults::schemas().iter().map(Schema::of).collect());
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let info = request::parse(method, path, query);
        let found = schemas.iter().find(|schema| schema.matches(user, &info));
        assert_eq!(found.map(|schema| &*schema.name), Some(expected), "{method} {uri} by {}", user.name);
    }

    #[test]
    fn the_defaults_classify_as_upstreams() {
        let admin = User::new("admin", &["system:masters"]);
        let node = User::new("system:node:a", &["system:nodes"]);
        let manager = User::new("system:kube-controller-manager", &[]);
        let system = User::service_account("kube-system", "x", "");
        let other = User::service_account("default", "x", "");
        let person = User::new("jane", &["developers"]);
        let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/a";
        check(&admin, &Method::GET, "/api/v1/pods", "exempt");
        check(&admin, &Method::GET, "/healthz", "exempt");
        check(&User::anonymous(), &Method::GET, "/readyz", "probes");
        check(&User::anonymous(), &Method::GET, "/version", "global-default");
        check(&manager, &Method::PUT, lease, "system-leader-election");
        check(&system, &Method::PUT, lease, "system-leader-election");
        check(&system, &Method::DELETE, lease, "kube-system-service-accounts");
        check(&node, &Method::PUT, lease, "system-node-high");
        check(&node, &Method::PATCH, "/api/v1/nodes/a/status", "system-node-high");
        check(&node, &Method::GET, "/api/v1/nodes/a/proxy/x", "system-nodes");
        check(&node, &Method::GET, "/api/v1/pods", "system-nodes");
        check(&manager, &Method::GET, "/api/v1/pods", "kube-controller-manager");
        check(&User::new("system:kube-scheduler", &[]), &Method::GET, "/api/v1/pods", "kube-scheduler");
        check(&other, &Method::GET, "/api/v1/pods", "service-accounts");
        check(&person, &Method::GET, "/api/v1/pods", "global-default");
        // Neither authenticated nor not: only what stands at the end takes everybody.
        let schemas = in_order(defaults::schemas().iter().map(Schema::of).collect());
        assert_eq!(&*schemas.last().unwrap().name, CATCH_ALL);
    }

    #[test]
    fn flows_are_told_apart_as_the_schema_says() {
        let random = ahash::RandomState::with_seeds(1, 2, 3, 4);
        let all = defaults::schemas();
        let schema = |name: &str| Schema::of(all.iter().find(|o| o["metadata"]["name"] == name).unwrap());
        let info = |path| request::parse(&Method::GET, path, "");
        let (a, b) = (User::new("a", &[]), User::new("b", &[]));
        let (one, two) = (info("/api/v1/namespaces/one/pods"), info("/api/v1/namespaces/two/pods"));
        let by_user = schema("global-default");
        assert_ne!(by_user.flow(&a, &one, &random), by_user.flow(&b, &one, &random));
        assert_eq!(by_user.flow(&a, &one, &random), by_user.flow(&a, &two, &random));
        let by_namespace = schema("kube-scheduler");
        assert_eq!(by_namespace.flow(&a, &one, &random), by_namespace.flow(&b, &one, &random));
        assert_ne!(by_namespace.flow(&a, &one, &random), by_namespace.flow(&a, &two, &random));
        let together = schema("probes");
        assert_eq!(together.flow(&a, &one, &random), together.flow(&b, &two, &random));
    }

    #[test]
    fn levels_are_read() {
        let all = defaults::levels();
        let level = |name: &str| LevelSpec::of(all.iter().find(|o| o["metadata"]["name"] == name).unwrap());
        let low = level("workload-low");
        assert_eq!((low.shares, low.lendable_percent, low.borrowing_percent), (100, 90, None));
        assert_eq!(low.shape, Shape { queues: 128, hand: 6, length: 50 });
        assert_eq!(level(CATCH_ALL).shape.queues, 0);
        assert!(level(EXEMPT).exempt && level(EXEMPT).shares == 0);
    }
}
