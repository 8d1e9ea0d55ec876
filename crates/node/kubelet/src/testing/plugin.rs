//! A plugin that a test plays, as far as its registration goes.

use std::{path::Path, time::Duration};

use podium_plugins::{
    PluginSocket,
    registration::{
        InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
        registration_server::{Registration, RegistrationServer},
    },
};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status};

/// One plugin. It stops serving when it is dropped; its socket's file stays.
pub(crate) struct FakePlugin {
    outcome: watch::Receiver<Option<RegistrationStatus>>,
    _serving: AbortOnDropHandle<()>,
}

#[derive(Clone)]
struct Service {
    info: PluginInfo,
    outcome: watch::Sender<Option<RegistrationStatus>>,
}

impl FakePlugin {
    /// Serves at `path`. What it is used for is at the same socket.
    pub(crate) fn serve(path: &Path, type_: &str, name: &str, versions: &[&str]) -> Self {
        Self::serve_for(path, type_, name, versions, "")
    }

    /// As [`FakePlugin::serve`]; what it is used for is at another socket.
    pub(crate) fn serve_for(path: &Path, type_: &str, name: &str, versions: &[&str], endpoint: &str) -> Self {
        let (sender, outcome) = watch::channel(None);
        let info = PluginInfo {
            r#type: type_.to_owned(),
            name: name.to_owned(),
            endpoint: endpoint.to_owned(),
            supported_versions: versions.iter().map(|version| (*version).to_owned()).collect(),
        };
        let service = RegistrationServer::new(Service { info, outcome: sender });
        let socket = PluginSocket::bind(path).expect("a socket");
        let serving = tokio::spawn(socket.serve(service, std::future::pending()));
        Self { outcome, _serving: AbortOnDropHandle::new(serving) }
    }

    /// Waits until it is told what came of its registration.
    pub(crate) async fn registered(&self, limit: Duration) -> Result<(), String> {
        let mut outcome = self.outcome.clone();
        let told =
            tokio::time::timeout(limit, outcome.wait_for(Option::is_some)).await.expect("told in time");
        match told.expect("the plugin serves").clone().unwrap_or_default() {
            RegistrationStatus { plugin_registered: true, .. } => Ok(()),
            RegistrationStatus { error, .. } => Err(error),
        }
    }
}

#[tonic::async_trait]
impl Registration for Service {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(self.info.clone()))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        self.outcome.send_replace(Some(request.into_inner()));
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
