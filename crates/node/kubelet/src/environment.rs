//! The environment of a container: literals, ConfigMaps, Secrets, fields, resources, files, Services, and
//! `$(VAR)` expansion. Pure: whatever has to be looked up is in [`Sources`].

mod fields;
mod files;
mod services;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
};

use k8s_openapi::{
    ByteString,
    api::core::v1::{Container, EnvVar, FileKeySelector, Pod, Service},
    apimachinery::pkg::api::resource::Quantity,
};

pub(crate) use fields::{field_value, resource_value};
pub(crate) use files::{EnvFile, FileError};
pub(crate) use services::variables as service_variables;

use crate::pod;

/// Everything an environment may refer to.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// Data of the ConfigMaps referred to; absent means that there is no such ConfigMap.
    pub(crate) config_maps: HashMap<String, BTreeMap<String, Vec<u8>>>,
    /// Data of the Secrets referred to.
    pub(crate) secrets: HashMap<String, BTreeMap<String, ByteString>>,
    /// Files of the pod's volumes, by volume and path; absent means that there is no such volume.
    pub(crate) files: HashMap<(String, String), EnvFile>,
    /// Services of the pod's namespace and the API's own.
    pub(crate) services: Vec<std::sync::Arc<Service>>,
    pub(crate) pod_ips: Vec<String>,
    pub(crate) host_ips: Vec<String>,
    /// What the node offers: the default of limits that are not set.
    pub(crate) allocatable: BTreeMap<String, Quantity>,
}

/// Why an environment cannot be made; the text is the waiting message of `CreateContainerConfigError`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EnvError {
    /// The ConfigMap or Secret is not there.
    #[error("{kind} {name:?} not found")]
    NotFound {
        /// `configmap` or `secret`.
        kind: &'static str,
        name: String,
    },
    /// It is there, without the key.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey { kind: &'static str, namespace: String, name: String, key: String },
    /// The field or resource does not exist.
    #[error("{0}")]
    Reference(String),
    /// No container mounts a volume of that name, or it is no emptyDir.
    #[error("cannot find the volume {0:?} referenced by FileKeyRef")]
    NoVolume(String),
    /// The file cannot be read, or is none of variables.
    #[error("couldn't parse env file")]
    File(#[from] FileError),
    /// The file is right and has no such variable.
    #[error("environment variable key {key:?} not found in file {file:?}")]
    NoFileKey { key: String, file: PathBuf },
}

/// One kind of object with data, and the name of one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DataRef {
    ConfigMap(String),
    Secret(String),
}

/// The ConfigMaps and Secrets a container's environment refers to.
pub(crate) fn references(container: &Container) -> Vec<DataRef> {
    let mut found = Vec::new();
    for from in container.env_from.iter().flatten() {
        found.extend(from.config_map_ref.as_ref().map(|source| DataRef::ConfigMap(source.name.clone())));
        found.extend(from.secret_ref.as_ref().map(|source| DataRef::Secret(source.name.clone())));
    }
    for source in container.env.iter().flatten().filter_map(|env| env.value_from.as_ref()) {
        found.extend(source.config_map_key_ref.as_ref().map(|key| DataRef::ConfigMap(key.name.clone())));
        found.extend(source.secret_key_ref.as_ref().map(|key| DataRef::Secret(key.name.clone())));
    }
    found.sort();
    found.dedup();
    found
}

/// The files a container's environment comes from, by volume and path.
pub(crate) fn files(container: &Container) -> BTreeSet<(String, String)> {
    let sources = container.env.iter().flatten().filter_map(|env| env.value_from.as_ref());
    let references = sources.filter_map(|source| source.file_key_ref.as_ref());
    references.map(|file| (file.volume_name.clone(), file.path.clone())).collect()
}

/// The variables in the order upstream gives them: `envFrom`, `env`, then Services not shadowed.
pub(crate) fn build(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
) -> Result<Vec<(String, String)>, EnvError> {
    let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let services = service_variables(&sources.services, pod::namespace(pod), links);
    let mut set = Ordered::default();
    from_sources(container, sources, &mut set)?;
    for env in container.env.iter().flatten() {
        let value = match (&env.value, &env.value_from) {
            (Some(value), _) if !value.is_empty() => {
                Some(expand(value, |name| set.get(name).or_else(|| services.get(name)).cloned()))
            }
            (_, Some(_)) => from_reference(pod, container, env, sources)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            set.put(env.name.clone(), value);
        }
    }
    for (name, value) in services {
        if set.get(&name).is_none() {
            set.put(name, value);
        }
    }
    Ok(set.into_list())
}

/// Variables in the order of their first mention; the last value wins.
#[derive(Default)]
struct Ordered {
    order: Vec<String>,
    values: HashMap<String, String>,
}

impl Ordered {
    fn get(&self, name: &str) -> Option<&String> {
        self.values.get(name)
    }

    fn put(&mut self, name: String, value: String) {
        if self.values.insert(name.clone(), value).is_none() {
            self.order.push(name);
        }
    }

    fn into_list(mut self) -> Vec<(String, String)> {
        self.order
            .into_iter()
            .filter_map(|name| self.values.remove(&name).map(|value| (name, value)))
            .collect()
    }
}

/// A variable's name may be any printable ASCII without `=`.
fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=')
}

fn from_sources(container: &Container, sources: &Sources, set: &mut Ordered) -> Result<(), EnvError> {
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let mut add = |key: &str, value: &[u8]| {
            let name = format!("{prefix}{key}");
            if is_variable_name(&name) {
                set.put(name, String::from_utf8_lossy(value).into_owned());
            }
        };
        if let Some(source) = &from.config_map_ref {
            match sources.config_maps.get(&source.name) {
                Some(data) => data.iter().for_each(|(key, value)| add(key, value)),
                None if source.optional == Some(true) => {}
                None => return Err(EnvError::NotFound { kind: "configmap", name: source.name.clone() }),
            }
        }
        if let Some(source) = &from.secret_ref {
            match sources.secrets.get(&source.name) {
                Some(data) => data.iter().for_each(|(key, value)| add(key, &value.0)),
                None if source.optional == Some(true) => {}
                None => return Err(EnvError::NotFound { kind: "secret", name: source.name.clone() }),
            }
        }
    }
    Ok(())
}

/// A value from elsewhere; None if it is optional and not there.
fn from_reference(
    pod: &Pod,
    container: &Container,
    env: &EnvVar,
    sources: &Sources,
) -> Result<Option<String>, EnvError> {
    let Some(from) = &env.value_from else { return Ok(Some(String::new())) };
    let namespace = pod::namespace(pod);
    if let Some(field) = &from.field_ref {
        return field_value(pod, &field.field_path, &sources.pod_ips, &sources.host_ips)
            .map(Some)
            .map_err(EnvError::Reference);
    }
    if let Some(resource) = &from.resource_field_ref {
        let named = resource.container_name.as_deref().filter(|name| !name.is_empty());
        let found = match named {
            Some(name) => pod::find_container(pod, name)
                .map(|(_, found)| found)
                .ok_or_else(|| EnvError::Reference(format!("container {name} not found")))?,
            None => container.clone(),
        };
        let divisor = resource.divisor.as_ref();
        return resource_value(&found, &resource.resource, divisor, &sources.allocatable)
            .map(Some)
            .map_err(EnvError::Reference);
    }
    if let Some(key) = &from.config_map_key_ref {
        let data = sources.config_maps.get(&key.name);
        let found = data.and_then(|data| data.get(&key.key)).map(|v| String::from_utf8_lossy(v).into_owned());
        return pick(
            "configmap",
            "ConfigMap",
            namespace,
            &key.name,
            &key.key,
            key.optional,
            data.is_some(),
            found,
        );
    }
    if let Some(key) = &from.secret_key_ref {
        let data = sources.secrets.get(&key.name);
        let found =
            data.and_then(|data| data.get(&key.key)).map(|v| String::from_utf8_lossy(&v.0).into_owned());
        return pick("secret", "Secret", namespace, &key.name, &key.key, key.optional, data.is_some(), found);
    }
    if let Some(key) = &from.file_key_ref {
        return from_file(key, sources);
    }
    Ok(Some(String::new()))
}

/// As the API's reference has it, a file that is not there is as good as a key that is not: no fault of an optional one.
/// Upstream's kubelet calls that a file that it cannot parse.
fn from_file(key: &FileKeySelector, sources: &Sources) -> Result<Option<String>, EnvError> {
    let place = (key.volume_name.clone(), key.path.clone());
    let file = sources.files.get(&place).ok_or_else(|| EnvError::NoVolume(key.volume_name.clone()))?;
    let optional = key.optional == Some(true);
    let Some(text) = file.text.clone()? else {
        return if optional { Ok(None) } else { Err(FileError::Missing.into()) };
    };
    match files::find(&text, &key.key)? {
        None if !optional => Err(EnvError::NoFileKey { key: key.key.clone(), file: file.at.clone() }),
        found => Ok(found),
    }
}

fn pick(
    lower: &'static str,
    kind: &'static str,
    namespace: &str,
    name: &str,
    key: &str,
    optional: Option<bool>,
    exists: bool,
    found: Option<String>,
) -> Result<Option<String>, EnvError> {
    match found {
        Some(value) => Ok(Some(value)),
        None if optional == Some(true) => Ok(None),
        None if !exists => Err(EnvError::NotFound { kind: lower, name: name.to_owned() }),
        None => Err(EnvError::NoKey {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
        }),
    }
}

/// Replaces `$(NAME)` by its value; `$$` is a dollar sign, and what is unknown stays as it is.
pub(crate) fn expand(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match value(name) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests;
