//! One policy rule: what it matches, what it covers, how it is shown. Pure.

use serde_json::Value;

use crate::authorization::{Attributes, go_quote};

/// A `PolicyRule`, parsed once.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Verbs; `*` is every verb.
    pub verbs: Vec<String>,
    /// API groups; `*` is every group, empty text is core.
    pub groups: Vec<String>,
    /// Resources: `pods`, `pods/log`, `*`, `*/scale`.
    pub resources: Vec<String>,
    /// Names; none means every name.
    pub names: Vec<String>,
    /// URL paths; a final `*` matches any rest.
    pub urls: Vec<String>,
}

impl Rule {
    /// Reads a rule.
    pub fn of(rule: &Value) -> Rule {
        let list = |field: &str| -> Vec<String> {
            rule[field]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect()
        };
        Rule {
            verbs: list("verbs"),
            groups: list("apiGroups"),
            resources: list("resources"),
            names: list("resourceNames"),
            urls: list("nonResourceURLs"),
        }
    }

    /// Reads the `rules` of a role.
    pub fn all_of(role: &Value) -> Vec<Rule> {
        role["rules"].as_array().into_iter().flatten().map(Rule::of).collect()
    }

    /// Whether it allows this request.
    pub fn allows(&self, attributes: &Attributes<'_>) -> bool {
        if !has(&self.verbs, attributes.verb) {
            return false;
        }
        if !attributes.resource_request {
            return self.matches_path(attributes.path);
        }
        has(&self.groups, attributes.group)
            && self.resources.iter().any(|r| resource_matches(r, attributes.resource, attributes.subresource))
            && (self.names.is_empty() || self.names.iter().any(|n| n == attributes.name))
    }

    fn matches_path(&self, path: &str) -> bool {
        self.urls.iter().any(|url| {
            url == "*" || url == path || (url.ends_with('*') && path.starts_with(url.trim_end_matches('*')))
        })
    }

    /// Splits into rules of one verb and one group, resource and name, or one verb and one URL.
    pub fn breakdown(&self) -> Vec<Rule> {
        let mut out = Vec::new();
        let names: Vec<Vec<String>> = if self.names.is_empty() {
            vec![Vec::new()]
        } else {
            self.names.iter().map(|n| vec![n.clone()]).collect()
        };
        for group in &self.groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    for name in &names {
                        out.push(Rule {
                            verbs: vec![verb.clone()],
                            groups: vec![group.clone()],
                            resources: vec![resource.clone()],
                            names: name.clone(),
                            urls: Vec::new(),
                        });
                    }
                }
            }
        }
        for url in &self.urls {
            for verb in &self.verbs {
                out.push(Rule { verbs: vec![verb.clone()], urls: vec![url.clone()], ..Rule::default() });
            }
        }
        out
    }

    /// Whether everything `other` (one verb, one target) allows is allowed by this rule.
    pub fn covers(&self, other: &Rule) -> bool {
        let all = |wanted: &[String], ours: &[String]| wanted.iter().all(|w| has(ours, w));
        let resources = other.resources.iter().all(|wanted| {
            let (resource, subresource) = wanted.split_once('/').unwrap_or((wanted, ""));
            self.resources.iter().any(|r| r == wanted || resource_matches(r, resource, subresource))
        });
        let names = if other.names.is_empty() {
            self.names.is_empty()
        } else {
            self.names.is_empty() || other.names.iter().all(|n| self.names.contains(n))
        };
        let urls = other.urls.iter().all(|wanted| {
            self.urls.iter().any(|ours| {
                ours == wanted || (ours.ends_with('*') && wanted.starts_with(ours.trim_end_matches('*')))
            })
        });
        all(&other.verbs, &self.verbs) && all(&other.groups, &self.groups) && resources && names && urls
    }

    /// As in upstream's messages: `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`.
    pub fn compact(&self) -> String {
        let parts: Vec<String> = [
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.urls),
            ("ResourceNames", &self.names),
            ("Verbs", &self.verbs),
        ]
        .into_iter()
        .filter(|(_, values)| !values.is_empty())
        .map(|(title, values)| format!("{title}:{}", quoted_list(values)))
        .collect();
        format!("{{{}}}", parts.join(", "))
    }

    /// As JSON, empty fields left out; `verbs` always there.
    pub fn to_value(&self) -> Value {
        let mut rule = serde_json::Map::new();
        for (field, values) in [
            ("apiGroups", &self.groups),
            ("nonResourceURLs", &self.urls),
            ("resourceNames", &self.names),
            ("resources", &self.resources),
        ] {
            if !values.is_empty() {
                rule.insert(field.to_owned(), Value::from(values.clone()));
            }
        }
        rule.insert("verbs".to_owned(), Value::from(self.verbs.clone()));
        Value::Object(rule)
    }
}

/// Go's `%q` of a list of strings: `["a" "b"]`.
pub(crate) fn quoted_list(values: &[String]) -> String {
    let quoted: Vec<String> = values.iter().map(|v| go_quote(v)).collect();
    format!("[{}]", quoted.join(" "))
}

fn has(set: &[String], wanted: &str) -> bool {
    set.iter().any(|s| s == "*" || s == wanted)
}

/// `*` matches everything, `*/sub` any resource's subresource, otherwise `resource` or `resource/sub` as a whole.
fn resource_matches(ours: &str, resource: &str, subresource: &str) -> bool {
    if ours == "*" {
        return true;
    }
    if subresource.is_empty() {
        return ours == resource;
    }
    match ours.strip_suffix(subresource).and_then(|rest| rest.strip_suffix('/')) {
        Some(rest) => rest == "*" || rest == resource,
        None => false,
    }
}
