//! A driver's plugin for dynamic resources that a test plays.

use std::{collections::HashMap, path::Path, sync::Arc};

use parking_lot::Mutex;
use podium_plugins::{
    PluginSocket,
    dra::{
        self,
        dra_plugin_server::{DraPlugin, DraPluginServer},
    },
};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status};

use super::plugin::FakePlugin;

/// What it was asked, and how it answers.
#[derive(Default)]
pub(crate) struct Asked {
    /// `prepare NAMES`, `unprepare NAMES`.
    pub(crate) calls: Vec<String>,
    /// It refuses for this reason, if any.
    pub(crate) error: String,
}

/// One driver. It stops serving when it is dropped.
pub(crate) struct FakeDriver {
    pub(crate) asked: Arc<Mutex<Asked>>,
    pub(crate) registration: FakePlugin,
    _serving: AbortOnDropHandle<()>,
}

#[derive(Clone)]
struct Service(Arc<Mutex<Asked>>);

impl FakeDriver {
    /// Serves in the kubelet's root directory, and registers.
    pub(crate) fn serve(root: &Path, name: &str) -> Self {
        let asked: Arc<Mutex<Asked>> = Arc::default();
        let socket = PluginSocket::bind(&root.join("dra.sock")).expect("a socket");
        let endpoint = socket.path().to_string_lossy().into_owned();
        let service = DraPluginServer::new(Service(asked.clone()));
        let serving = AbortOnDropHandle::new(tokio::spawn(socket.serve(service, std::future::pending())));
        let registration = FakePlugin::serve_for(
            &root.join("plugins_registry/dra.sock"),
            "DRAPlugin",
            name,
            &["v1beta1.DRAPlugin", "v1.DRAPlugin"],
            &endpoint,
        );
        Self { asked, registration, _serving: serving }
    }
}

fn names(claims: &[dra::Claim]) -> String {
    let mut names: Vec<&str> = claims.iter().map(|claim| claim.name.as_str()).collect();
    names.sort_unstable();
    names.join(",")
}

#[tonic::async_trait]
impl DraPlugin for Service {
    async fn node_prepare_resources(
        &self,
        request: Request<dra::NodePrepareResourcesRequest>,
    ) -> Result<Response<dra::NodePrepareResourcesResponse>, Status> {
        let claims = request.into_inner().claims;
        let mut asked = self.0.lock();
        asked.calls.push(format!("prepare {}", names(&claims)));
        let answer = |claim: dra::Claim| {
            let device = dra::Device {
                pool_name: "pool".to_owned(),
                device_name: claim.name.clone(),
                cdi_device_ids: vec![format!("vendor.com/dra={}", claim.name)],
                ..Default::default()
            };
            let error = asked.error.clone();
            (claim.uid, dra::NodePrepareResourceResponse { devices: vec![device], error })
        };
        let claims: HashMap<_, _> = claims.into_iter().map(answer).collect();
        Ok(Response::new(dra::NodePrepareResourcesResponse { claims }))
    }

    async fn node_unprepare_resources(
        &self,
        request: Request<dra::NodeUnprepareResourcesRequest>,
    ) -> Result<Response<dra::NodeUnprepareResourcesResponse>, Status> {
        let claims = request.into_inner().claims;
        let mut asked = self.0.lock();
        asked.calls.push(format!("unprepare {}", names(&claims)));
        let error = asked.error.clone();
        let answer =
            |claim: dra::Claim| (claim.uid, dra::NodeUnprepareResourceResponse { error: error.clone() });
        Ok(Response::new(dra::NodeUnprepareResourcesResponse {
            claims: claims.into_iter().map(answer).collect(),
        }))
    }
}
