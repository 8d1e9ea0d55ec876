//! The pod network, by the Container Network Interface: the first configuration in a directory, its plugins in order.
//! Source: the CNI specification 1.0.0; arguments are those that containerd gives.

mod bandwidth;

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use podium_cri::v1;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

pub(crate) use bandwidth::Bandwidth;

/// A plugin that takes longer is stuck.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pod's interface.
const INTERFACE: &str = "eth0";

/// The network of a pod could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CniError {
    /// There is no configuration.
    #[error("cni plugin not initialized: no network config found in {0}")]
    NotReady(PathBuf),
    /// The configuration is malformed.
    #[error("network config {path}: {why}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A plugin cannot be run.
    #[error("plugin type={plugin:?} cannot be run")]
    Run {
        /// Its name.
        plugin: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A plugin said no.
    #[error("plugin type={plugin:?} failed ({command}): {message}")]
    Plugin {
        /// Its name.
        plugin: String,
        /// What it was to do.
        command: &'static str,
        /// What it said.
        message: String,
    },
}

/// A pod's part in a call.
#[derive(Clone, Debug)]
pub(crate) struct Attachment<'a> {
    pub(crate) id: &'a str,
    pub(crate) namespace: String,
    pub(crate) metadata: v1::PodSandboxMetadata,
    pub(crate) ports: Vec<v1::PortMapping>,
    pub(crate) bandwidth: Bandwidth,
}

/// What a pod got, kept for its removal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Network {
    pub(crate) addresses: Vec<IpAddr>,
    /// The configuration it was made with, which may have changed since.
    pub(crate) config: Value,
    /// The last plugin's result.
    pub(crate) result: Value,
}

/// Where configurations and plugins are.
#[derive(Clone, Debug)]
pub(crate) struct Cni {
    pub(crate) configuration_directory: PathBuf,
    pub(crate) plugin_directory: PathBuf,
}

impl Cni {
    /// The configuration in force: of the names that may be one, the first.
    pub(crate) fn config(&self) -> Result<Value, CniError> {
        let directory = &self.configuration_directory;
        let mut names: Vec<PathBuf> = std::fs::read_dir(directory)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                path.extension().is_some_and(|ext| ext == "conflist" || ext == "conf" || ext == "json")
            })
            .collect();
        names.sort();
        let path = names.into_iter().next().ok_or_else(|| CniError::NotReady(directory.clone()))?;
        let bad = |why: String| CniError::Config { path: path.clone(), why };
        let text = std::fs::read(&path).map_err(|error| bad(error.to_string()))?;
        let config: Value = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        if config["plugins"].is_array() {
            return Ok(config);
        }
        if !config["type"].is_string() {
            return Err(bad("neither plugins nor a type".to_owned()));
        }
        Ok(json!({"cniVersion": config["cniVersion"], "name": config["name"], "plugins": [config]}))
    }

    /// Attaches a pod.
    pub(crate) async fn add(&self, pod: &Attachment<'_>) -> Result<Network, CniError> {
        let config = self.config()?;
        let mut result = Value::Null;
        for plugin in config["plugins"].as_array().into_iter().flatten() {
            match self.call("ADD", &config, plugin, &result, pod).await {
                Ok(answer) => result = answer,
                Err(error) => {
                    let failed = Network { addresses: Vec::new(), config, result: Value::Null };
                    if let Err(error) = self.delete(pod, &failed).await {
                        tracing::warn!(pod = pod.id, %error, "network not removed after a failed start");
                    }
                    return Err(error);
                }
            }
        }
        Ok(Network { addresses: addresses(&result), config, result })
    }

    /// Detaches a pod. Safe to repeat.
    pub(crate) async fn delete(&self, pod: &Attachment<'_>, network: &Network) -> Result<(), CniError> {
        let config = &network.config;
        let mut first = Ok(());
        for plugin in config["plugins"].as_array().into_iter().flatten().rev() {
            let outcome = self.call("DEL", config, plugin, &network.result, pod).await;
            // The others are asked all the same.
            first = first.and(outcome.map(drop));
        }
        first
    }

    async fn call(
        &self,
        command: &'static str,
        config: &Value,
        plugin: &Value,
        previous: &Value,
        pod: &Attachment<'_>,
    ) -> Result<Value, CniError> {
        let name = plugin["type"].as_str().unwrap_or_default().to_owned();
        if name.is_empty() || name.contains('/') {
            let why = format!("{name:?} is no plugin's name");
            return Err(CniError::Config { path: self.configuration_directory.clone(), why });
        }
        let input = request(config, plugin, previous, pod).to_string();
        let failed = |source| CniError::Run { plugin: name.clone(), source };
        let mut child = tokio::process::Command::new(self.plugin_directory.join(&name))
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", pod.id)
            .env("CNI_NETNS", &pod.namespace)
            .env("CNI_IFNAME", INTERFACE)
            .env("CNI_PATH", &self.plugin_directory)
            .env("CNI_ARGS", arguments(pod))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let work = async {
            if let Some(mut stdin) = child.stdin.take() {
                // A plugin that does not read its input says why in its output.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
            child.wait_with_output().await
        };
        let output = match tokio::time::timeout(PATIENCE, work).await {
            Ok(output) => output.map_err(failed)?,
            Err(_) => return Err(failed(std::io::ErrorKind::TimedOut.into())),
        };
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if output.status.success() {
            return Ok(answer);
        }
        let message = match answer["msg"].as_str() {
            Some(message) => match answer["details"].as_str() {
                Some(details) if !details.is_empty() => format!("{message}; {details}"),
                _ => message.to_owned(),
            },
            None => format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()),
        };
        Err(CniError::Plugin { plugin: name, command, message })
    }
}

/// A plugin's input: its own configuration, the network's name and version, what came before, and the capabilities it
/// declares.
fn request(config: &Value, plugin: &Value, previous: &Value, pod: &Attachment<'_>) -> Value {
    let mut input = plugin.clone();
    input["cniVersion"] = config["cniVersion"].clone();
    input["name"] = config["name"].clone();
    if !previous.is_null() {
        input["prevResult"] = previous.clone();
    }
    if plugin["capabilities"]["portMappings"] == true {
        input["runtimeConfig"] = json!({"portMappings": pod.ports.iter().filter(|port| port.host_port > 0).map(|port| {
            json!({
                "hostPort": port.host_port, "containerPort": port.container_port,
                "protocol": protocol(port.protocol), "hostIP": port.host_ip,
            })
        }).collect::<Vec<_>>()});
    }
    if plugin["capabilities"]["bandwidth"] == true
        && let Some(bandwidth) = pod.bandwidth.to_cni()
    {
        input["runtimeConfig"]["bandwidth"] = bandwidth;
    }
    if let Some(object) = input.as_object_mut() {
        object.remove("capabilities");
    }
    input
}

fn protocol(number: i32) -> &'static str {
    match v1::Protocol::try_from(number) {
        Ok(v1::Protocol::Udp) => "udp",
        Ok(v1::Protocol::Sctp) => "sctp",
        _ => "tcp",
    }
}

fn arguments(pod: &Attachment<'_>) -> String {
    let metadata = &pod.metadata;
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
        metadata.namespace, metadata.name, pod.id, metadata.uid
    )
}

/// The pod's addresses of a result: those of its own interface.
fn addresses(result: &Value) -> Vec<IpAddr> {
    let of = |ip: &Value| -> Option<IpAddr> {
        if let Some(index) = ip["interface"].as_u64() {
            let interface = &result["interfaces"][usize::try_from(index).ok()?];
            if interface["sandbox"].as_str().is_none_or(str::is_empty) {
                return None;
            }
        }
        ip["address"].as_str()?.split('/').next()?.parse().ok()
    };
    result["ips"].as_array().into_iter().flatten().filter_map(of).collect()
}

/// Whether there is a configuration, and if not, why.
pub(crate) fn readiness(cni: &Cni) -> Result<(), String> {
    cni.config().map(drop).map_err(|error| format!("Network plugin returns error: {error}"))
}

/// A directory for tests.
#[cfg(test)]
fn at(directory: &std::path::Path) -> Cni {
    Cni { configuration_directory: directory.to_owned(), plugin_directory: directory.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn inputs_and_addresses() {
        let config = json!({"cniVersion": "1.0.0", "name": "pods"});
        let plugin = json!({"type": "x", "capabilities": {"portMappings": true, "bandwidth": true}});
        let ports = [
            v1::PortMapping { host_port: 80, container_port: 8080, ..Default::default() },
            v1::PortMapping { container_port: 9, ..Default::default() },
        ];
        let pod = Attachment {
            id: "p",
            namespace: String::new(),
            metadata: Default::default(),
            ports: ports.to_vec(),
            bandwidth: Bandwidth { ingress: Some(1000), egress: None },
        };
        let input = request(&config, &plugin, &json!({"ips": []}), &pod);
        assert_eq!(input["runtimeConfig"]["bandwidth"]["ingressRate"], 1000);
        let unable = request(&config, &json!({"type": "x"}), &Value::Null, &pod);
        assert_eq!(unable["runtimeConfig"], Value::Null, "it says that it can do neither");
        assert_eq!(input["name"], "pods");
        assert_eq!(input["prevResult"], json!({"ips": []}));
        let mapped = input["runtimeConfig"]["portMappings"].as_array().unwrap();
        assert_eq!(
            (mapped.len(), &mapped[0]["hostPort"], &mapped[0]["protocol"]),
            (1, &json!(80), &json!("tcp"))
        );
        assert!(input.get("capabilities").is_none());
        let result = json!({
            "interfaces": [{"name": "host"}, {"name": "eth0", "sandbox": "/proc/1/fd/5"}],
            "ips": [{"address": "10.0.0.1/24", "interface": 0}, {"address": "10.1.0.2/32", "interface": 1},
                {"address": "fd00::2/128"}],
        });
        let found: Vec<String> = addresses(&result).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.1.0.2", "fd00::2"]);
    }

    #[tokio::test]
    async fn plugins_are_called_in_order_and_their_refusals_told() {
        let directory = tempfile::tempdir().unwrap();
        let cni = at(directory.path());
        assert!(matches!(cni.config(), Err(CniError::NotReady(_))));
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        };
        write(
            "10-x.conflist",
            r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"one"},{"type":"two"}]}"#,
        );
        let calls = directory.path().join("calls").display().to_string();
        let note = format!("#!/bin/sh\necho $CNI_COMMAND $0 >> {calls}\ncat > /dev/null\n");
        write("one", &format!("{note}echo '{{\"ips\":[{{\"address\":\"10.0.0.9/32\"}}]}}'\n"));
        write(
            "two",
            &format!("{note}[ $CNI_COMMAND = DEL ] || {{ echo '{{\"msg\":\"no room\"}}'; exit 1; }}\n"),
        );
        let pod = Attachment {
            id: "p",
            namespace: String::new(),
            metadata: Default::default(),
            ports: Vec::new(),
            bandwidth: Bandwidth::default(),
        };
        let refused = cni.add(&pod).await.unwrap_err().to_string();
        assert_eq!(refused, "plugin type=\"two\" failed (ADD): no room");
        let log = std::fs::read_to_string(&calls).unwrap();
        let order: Vec<String> =
            log.lines().map(|line| line.replace(&format!("{}/", directory.path().display()), "")).collect();
        assert_eq!(order, ["ADD one", "ADD two", "DEL two", "DEL one"]);
        write("two", &format!("{note}echo '{{\"ips\":[{{\"address\":\"10.0.0.9/32\"}}]}}'\n"));
        assert_eq!(cni.add(&pod).await.unwrap().addresses.len(), 1);
    }
}
