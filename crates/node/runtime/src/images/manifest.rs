//! Documents of images: manifests, indexes, configurations. Source: OCI image specification 1.1 and Docker's schema 2,
//! which agree in all that is read here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A pointer to content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// What an image runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Platform {
    pub(crate) os: String,
    pub(crate) architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) variant: String,
}

/// A manifest or an index: one has a configuration, the other manifests.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Document {
    pub(crate) schema_version: u32,
    pub(crate) media_type: String,
    pub(crate) config: Option<Descriptor>,
    pub(crate) layers: Vec<Descriptor>,
    pub(crate) manifests: Vec<Descriptor>,
}

/// An image's configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ImageConfig {
    pub(crate) architecture: String,
    pub(crate) os: String,
    pub(crate) config: Execution,
    pub(crate) rootfs: Rootfs,
}

/// What to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Execution {
    pub(crate) user: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) env: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) cmd: Vec<String>,
    pub(crate) working_dir: String,
    pub(crate) stop_signal: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) volumes: BTreeMap<String, serde_json::Value>,
}

/// The layers, unpacked.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Rootfs {
    #[serde(deserialize_with = "null_is_empty")]
    pub(crate) diff_ids: Vec<String>,
}

fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// This machine's architecture in the images' words.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The manifest of an index that runs here: the same system and processor, the plainest variant first.
pub(crate) fn choose(manifests: &[Descriptor]) -> Option<&Descriptor> {
    let fits = |descriptor: &&Descriptor| {
        let platform = descriptor.platform.as_ref();
        platform.is_some_and(|platform| platform.os == "linux" && platform.architecture == architecture())
    };
    let rank = |descriptor: &&Descriptor| match descriptor.platform.as_ref().map(|p| p.variant.as_str()) {
        Some("" | "v1" | "v8") => 0,
        _ => 1,
    };
    let unmarked = || manifests.iter().find(|descriptor| descriptor.platform.is_none());
    manifests.iter().filter(fits).min_by_key(rank).or_else(unmarked)
}

/// The name of each layer's unpacked form, which depends on those below it. Source: the image specification's ChainID.
pub(crate) fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::new();
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            None => diff_id.clone(),
            Some(below) => super::blobs::digest(format!("{below} {diff_id}").as_bytes()),
        });
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_of_this_machine_is_chosen() {
        let entry = |os: &str, architecture: &str, variant: &str| Descriptor {
            digest: format!("{os}/{architecture}/{variant}"),
            platform: Some(Platform {
                os: os.into(),
                architecture: architecture.into(),
                variant: variant.into(),
            }),
            ..Descriptor::default()
        };
        let here = architecture();
        let list = [
            entry("linux", "s390x", ""),
            entry("linux", here, "v3"),
            entry("linux", here, ""),
            entry("windows", here, ""),
        ];
        assert_eq!(choose(&list).unwrap().digest, format!("linux/{here}/"));
        assert_eq!(choose(&list[..2]).unwrap().digest, format!("linux/{here}/v3"));
        assert_eq!(choose(&list[..1]), None);
        assert!(choose(&[Descriptor::default()]).is_some());
    }

    #[test]
    fn configurations_with_nulls() {
        let text = r#"{"config": {"Env": null, "Cmd": ["x"], "User": "7"}, "rootfs": {"diff_ids": null}}"#;
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        assert_eq!((config.config.cmd.len(), config.config.user.as_str()), (1, "7"));
        assert!(config.rootfs.diff_ids.is_empty());
    }
}
