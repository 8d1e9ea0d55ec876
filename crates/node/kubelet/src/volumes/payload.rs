//! What files a ConfigMap, Secret, downward API or projected volume holds. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Component, Path},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{
    ClusterTrustBundleProjection, ConfigMap, ConfigMapProjection, DownwardAPIVolumeFile, KeyToPath, Pod,
    ProjectedVolumeSource, Secret, SecretProjection, ServiceAccountTokenProjection, Volume,
};

use crate::{
    environment::{self, DataRef},
    pod,
};

/// Upstream's default of `defaultMode`.
const DEFAULT_MODE: i32 = 0o644;

/// One file of a volume.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) data: Vec<u8>,
    pub(crate) mode: u32,
    /// The owner, for tokens that only one user may read.
    pub(crate) uid: Option<u32>,
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("File")
            .field("bytes", &self.data.len())
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// Files by their path inside the volume: relative, without `..`.
pub(crate) type Payload = BTreeMap<String, File>;

/// A bound token that a volume wants.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TokenRef {
    /// Empty for the API server's own audience.
    pub(crate) audience: String,
    pub(crate) expiration_seconds: i64,
    /// The account must be this one; empty for any of its name.
    pub(crate) account_uid: String,
}

/// Everything a payload may be made from.
#[derive(Default)]
pub(crate) struct Lookup {
    /// What claims have been resolved to, by the volume's name in the pod; those that are mounted need none.
    pub(crate) claims: BTreeMap<String, super::claims::Claimed>,
    pub(crate) config_maps: HashMap<String, Arc<ConfigMap>>,
    pub(crate) secrets: HashMap<String, Arc<Secret>>,
    pub(crate) tokens: HashMap<TokenRef, String>,
    /// Trust anchors as PEM, by the volume's name in the pod and the source's place in the volume.
    pub(crate) anchors: HashMap<(String, usize), String>,
    pub(crate) pod_ips: Vec<String>,
    pub(crate) host_ips: Vec<String>,
    pub(crate) allocatable: BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>,
    /// What the runtime makes of images as volumes.
    pub(crate) image_mounts: super::image::Mounts,
}

impl std::fmt::Debug for Lookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lookup")
            .field("config_maps", &self.config_maps.keys())
            .field("secrets", &self.secrets.keys())
            .finish_non_exhaustive()
    }
}

/// Why a volume's files cannot be made, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PayloadError {
    #[error("{kind} {name:?} not found")]
    NotFound { kind: &'static str, name: String },
    /// `what` as upstream begins the sentence, which differs by kind.
    #[error("{what} key: {key}")]
    NoKey { what: &'static str, key: String },
    #[error("invalid path {0:?} in volume")]
    Path(String),
    #[error("{0}")]
    Field(String),
    #[error("no token for audience {0:?}")]
    NoToken(String),
    #[error("no trust anchors for source {0}")]
    NoAnchors(usize),
    #[error("projected source {0} is not supported by this kubelet")]
    Unsupported(&'static str),
}

/// The ConfigMaps, Secrets and tokens that a pod's volumes refer to.
pub(crate) fn references(pod: &Pod) -> (Vec<DataRef>, Vec<TokenRef>) {
    let (mut data, mut tokens) = (Vec::new(), Vec::new());
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        data.extend(volume.config_map.as_ref().map(|source| DataRef::ConfigMap(source.name.clone())));
        data.extend(
            volume.secret.as_ref().and_then(|source| source.secret_name.clone()).map(DataRef::Secret),
        );
        for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            data.extend(source.config_map.as_ref().map(|source| DataRef::ConfigMap(source.name.clone())));
            data.extend(source.secret.as_ref().map(|source| DataRef::Secret(source.name.clone())));
            tokens.extend(source.service_account_token.as_ref().map(token_ref));
        }
    }
    data.sort();
    data.dedup();
    tokens.dedup();
    (data, tokens)
}

/// The sources of a volume that are trust bundles, by their place in the volume.
pub(crate) fn trust_bundles(volume: &Volume) -> impl Iterator<Item = (usize, &ClusterTrustBundleProjection)> {
    let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
    sources.enumerate().filter_map(|(index, source)| Some((index, source.cluster_trust_bundle.as_ref()?)))
}

fn token_ref(source: &ServiceAccountTokenProjection) -> TokenRef {
    TokenRef {
        audience: source.audience.clone().unwrap_or_default(),
        expiration_seconds: source.expiration_seconds.unwrap_or(3600),
        account_uid: String::new(),
    }
}

/// The files of a volume; None if the volume is not made of files.
pub(crate) fn payload(pod: &Pod, volume: &Volume, lookup: &Lookup) -> Result<Option<Payload>, PayloadError> {
    let mut files = Payload::new();
    if let Some(source) = &volume.config_map {
        let projection = ConfigMapProjection {
            items: source.items.clone(),
            name: source.name.clone(),
            optional: source.optional,
        };
        config_map(&projection, source.default_mode, lookup, &mut files)?;
    } else if let Some(source) = &volume.secret {
        let projection = SecretProjection {
            items: source.items.clone(),
            name: source.secret_name.clone().unwrap_or_default(),
            optional: source.optional,
        };
        secret(&projection, source.default_mode, lookup, &mut files)?;
    } else if let Some(source) = &volume.downward_api {
        downward(pod, source.items.as_deref(), source.default_mode, lookup, &mut files)?;
    } else if let Some(source) = &volume.projected {
        projected(pod, &volume.name, source, lookup, &mut files)?;
    } else {
        return Ok(None);
    }
    Ok(Some(files))
}

fn projected(
    pod: &Pod,
    volume: &str,
    source: &ProjectedVolumeSource,
    lookup: &Lookup,
    files: &mut Payload,
) -> Result<(), PayloadError> {
    let mode = source.default_mode;
    // What identifies the pod or what it trusts is for its user alone, where that is known.
    let uid = common_user(pod);
    let private = if uid.is_some() || fs_group(pod).is_some() { 0o600 } else { mode.unwrap_or(DEFAULT_MODE) };
    for (index, part) in source.sources.iter().flatten().enumerate() {
        if let Some(source) = &part.config_map {
            config_map(source, mode, lookup, files)?;
        }
        if let Some(source) = &part.secret {
            secret(source, mode, lookup, files)?;
        }
        if let Some(source) = &part.downward_api {
            downward(pod, source.items.as_deref(), mode, lookup, files)?;
        }
        if let Some(source) = &part.service_account_token {
            let reference = token_ref(source);
            let token = lookup
                .tokens
                .get(&reference)
                .ok_or_else(|| PayloadError::NoToken(reference.audience.clone()))?;
            put(files, &source.path, token.clone().into_bytes(), private, uid)?;
        }
        if let Some(source) = &part.cluster_trust_bundle {
            let anchors = lookup.anchors.get(&(volume.to_owned(), index));
            let anchors = anchors.ok_or(PayloadError::NoAnchors(index))?;
            put(files, &source.path, anchors.clone().into_bytes(), private, uid)?;
        }
        if part.pod_certificate.is_some() {
            return Err(PayloadError::Unsupported("podCertificate"));
        }
    }
    Ok(())
}

/// The group that owns the pod's volumes.
pub(crate) fn fs_group(pod: &Pod) -> Option<i64> {
    pod.spec.as_ref()?.security_context.as_ref()?.fs_group
}

/// The user that all containers of the pod run as, if they agree.
fn common_user(pod: &Pod) -> Option<u32> {
    let pod_user =
        pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()).and_then(|sc| sc.run_as_user);
    let mut users = pod::containers(pod)
        .iter()
        .chain(pod::init_containers(pod))
        .map(|container| container.security_context.as_ref().and_then(|sc| sc.run_as_user).or(pod_user));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}

fn config_map(
    source: &ConfigMapProjection,
    default_mode: Option<i32>,
    lookup: &Lookup,
    files: &mut Payload,
) -> Result<(), PayloadError> {
    let optional = source.optional == Some(true);
    let Some(object) = lookup.config_maps.get(&source.name) else {
        let missing = PayloadError::NotFound { kind: "configmap", name: source.name.clone() };
        return if optional { Ok(()) } else { Err(missing) };
    };
    let text = object.data.iter().flatten().map(|(key, value)| (key.as_str(), value.as_bytes()));
    let binary = object.binary_data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice()));
    let data: BTreeMap<&str, &[u8]> = text.chain(binary).collect();
    select(
        &data,
        source.items.as_deref(),
        default_mode,
        optional,
        "configmap references non-existent config",
        files,
    )
}

fn secret(
    source: &SecretProjection,
    default_mode: Option<i32>,
    lookup: &Lookup,
    files: &mut Payload,
) -> Result<(), PayloadError> {
    let optional = source.optional == Some(true);
    let Some(object) = lookup.secrets.get(&source.name) else {
        let missing = PayloadError::NotFound { kind: "secret", name: source.name.clone() };
        return if optional { Ok(()) } else { Err(missing) };
    };
    let data: BTreeMap<&str, &[u8]> =
        object.data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice())).collect();
    select(&data, source.items.as_deref(), default_mode, optional, "references non-existent secret", files)
}

fn select(
    data: &BTreeMap<&str, &[u8]>,
    items: Option<&[KeyToPath]>,
    default_mode: Option<i32>,
    optional: bool,
    what: &'static str,
    files: &mut Payload,
) -> Result<(), PayloadError> {
    let mode = default_mode.unwrap_or(DEFAULT_MODE);
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        for (key, value) in data {
            put(files, key, value.to_vec(), mode, None)?;
        }
        return Ok(());
    };
    for item in items {
        match data.get(item.key.as_str()) {
            Some(value) => put(files, &item.path, value.to_vec(), item.mode.unwrap_or(mode), None)?,
            None if optional => {}
            None => return Err(PayloadError::NoKey { what, key: item.key.clone() }),
        }
    }
    Ok(())
}

fn downward(
    pod: &Pod,
    items: Option<&[DownwardAPIVolumeFile]>,
    default_mode: Option<i32>,
    lookup: &Lookup,
    files: &mut Payload,
) -> Result<(), PayloadError> {
    for item in items.unwrap_or_default() {
        let mut text = String::new();
        if let Some(field) = &item.field_ref {
            text = environment::field_value(pod, &field.field_path, &lookup.pod_ips, &lookup.host_ips)
                .map_err(PayloadError::Field)?;
        } else if let Some(resource) = &item.resource_field_ref {
            let name = resource.container_name.as_deref().unwrap_or_default();
            let (_, container) = pod::find_container(pod, name)
                .ok_or_else(|| PayloadError::Field(format!("container {name} not found")))?;
            text = environment::resource_value(
                &container,
                &resource.resource,
                resource.divisor.as_ref(),
                &lookup.allocatable,
            )
            .map_err(PayloadError::Field)?;
        }
        let mode = item.mode.or(default_mode).unwrap_or(DEFAULT_MODE);
        put(files, &item.path, text.into_bytes(), mode, None)?;
    }
    Ok(())
}

/// The API server checks paths too; here nothing else is believed.
fn put(
    files: &mut Payload,
    path: &str,
    data: Vec<u8>,
    mode: i32,
    uid: Option<u32>,
) -> Result<(), PayloadError> {
    let invalid = || PayloadError::Path(path.to_owned());
    let mut clean = Vec::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(part) => clean.push(part.to_str().ok_or_else(invalid)?),
            Component::CurDir => {}
            _ => return Err(invalid()),
        }
    }
    // Names that begin so are the writer's own.
    if clean.first().is_none_or(|first| first.starts_with("..")) {
        return Err(invalid());
    }
    let mode = u32::try_from(mode).unwrap_or(0o644) & 0o777;
    files.insert(clean.join("/"), File { data, mode, uid });
    Ok(())
}
