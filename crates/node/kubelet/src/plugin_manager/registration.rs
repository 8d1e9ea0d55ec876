//! The conversation with one plugin: what it is, whether it is wanted, and that it is told so.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use podium_cri::bounded;
use podium_plugins::registration::{
    InfoRequest, RegistrationStatus, registration_client::RegistrationClient,
};
use tonic::transport::Channel;

use super::{Plugin, PluginHandler};

/// Upstream's limits: of the question, and of the answer that tells the outcome.
const INFO_LIMIT: Duration = Duration::from_secs(1);
const NOTIFY_LIMIT: Duration = Duration::from_secs(5);

/// Registers what is behind a socket with the handler of its type.
pub(crate) async fn register(
    handlers: &BTreeMap<&'static str, Arc<dyn PluginHandler>>,
    socket: &Path,
) -> Result<Plugin, String> {
    let shown = socket.display();
    let mut client = RegistrationClient::new(podium_plugins::channel(socket));
    let info = bounded("GetInfo", INFO_LIMIT, client.get_info(InfoRequest {})).await.map_err(|error| {
        format!(
            "RegisterPlugin error -- failed to get plugin info using RPC GetInfo at socket {shown}, err: {}",
            error.grpc_text()
        )
    })?;
    let endpoint = if info.endpoint.is_empty() { socket.to_owned() } else { PathBuf::from(&info.endpoint) };
    let (name, versions) = (info.name.as_str(), info.supported_versions.as_slice());
    let taken = match handlers.get(info.r#type.as_str()) {
        None => Err(format!(
            "RegisterPlugin error -- no handler registered for plugin type: {} at socket {shown}",
            info.r#type
        )),
        Some(handler) => match handler.validate(name, &endpoint, versions) {
            Err(error) => Err(format!("RegisterPlugin error -- plugin validation failed with err: {error}")),
            Ok(()) => {
                handler.register(name, &endpoint, versions).await.map(|()| handler.clone()).map_err(|error| {
                    format!("RegisterPlugin error -- plugin registration failed with err: {error}")
                })
            }
        },
    };
    match taken {
        Ok(handler) => {
            if let Err(error) = notify(&mut client, true, String::new()).await {
                handler.deregister(name, &endpoint);
                return Err(format!(
                    "RegisterPlugin error -- failed to send registration status at socket {shown}, err: {error}"
                ));
            }
            tracing::info!(name, r#type = info.r#type, socket = %shown, "a plugin is registered");
            Ok(Plugin { handler, name: info.name, endpoint })
        }
        Err(error) => match notify(&mut client, false, error.clone()).await {
            Ok(()) => Err(error),
            Err(also) => Err(format!(
                "{error}; RegisterPlugin error -- failed to send error at socket {shown}, err: {also}"
            )),
        },
    }
}

async fn notify(
    client: &mut RegistrationClient<Channel>,
    plugin_registered: bool,
    error: String,
) -> Result<(), String> {
    let status = RegistrationStatus { plugin_registered, error };
    bounded("NotifyRegistrationStatus", NOTIFY_LIMIT, client.notify_registration_status(status))
        .await
        .map(drop)
        .map_err(|error| error.grpc_text())
}
