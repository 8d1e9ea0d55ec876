//! The kubelet's registration socket: device plugins announce themselves here, each with a socket beside it.

use std::{io, sync::Arc};

use podium_plugins::{
    PluginSocket,
    device_plugin::{
        self as v1beta1,
        registration_server::{Registration, RegistrationServer},
    },
};
use tonic::{Request, Response, Status};

use super::manager::{DeviceManager, VERSION};

/// The socket's name; plugins watch for it to know that the kubelet is back.
const SOCKET: &str = "kubelet.sock";

/// Serves registrations until dropped. Sockets that lie here from before are removed: plugins make new ones when they see
/// ours come back.
pub(crate) async fn serve(manager: Arc<DeviceManager>) -> io::Result<()> {
    let directory = manager.directory().to_owned();
    let socket = tokio::task::spawn_blocking(move || {
        use std::os::unix::fs::FileTypeExt;
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_socket() {
                std::fs::remove_file(entry.path())?;
            }
        }
        PluginSocket::bind(&directory.join(SOCKET))
    });
    let socket = socket.await.map_err(io::Error::other)??;
    socket.serve(RegistrationServer::new(Service(manager)), std::future::pending()).await;
    Ok(())
}

struct Service(Arc<DeviceManager>);

#[tonic::async_trait]
impl Registration for Service {
    async fn register(
        &self,
        request: Request<v1beta1::RegisterRequest>,
    ) -> Result<Response<v1beta1::Empty>, Status> {
        let v1beta1::RegisterRequest { version, endpoint, resource_name, .. } = request.into_inner();
        tracing::info!(resource = resource_name, endpoint, "a device plugin registers");
        if version != VERSION {
            return Err(Status::unknown(format!(
                "requested API version {version:?} is not supported by kubelet. Supported version is [{VERSION:?}]"
            )));
        }
        if !podium_api::kinds::pod::is_extended_resource(&resource_name) {
            return Err(Status::unknown(format!("the ResourceName {resource_name:?} is invalid")));
        }
        // A name beside our own socket, and no way out of the directory.
        if endpoint.is_empty() || endpoint.contains('/') || endpoint == ".." {
            return Err(Status::unknown(format!("the endpoint {endpoint:?} is invalid")));
        }
        let socket = self.0.directory().join(&endpoint);
        self.0.connect(&resource_name, &socket).await.map_err(Status::unknown)?;
        Ok(Response::new(v1beta1::Empty {}))
    }
}
