//! ImageService, and what the store offers beside CRI.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, stream};
use podium_cri::images::image_store_server::ImageStore;
use podium_cri::images::{
    LoadRequest, LoadResponse, PruneRequest, PruneResponse, PullsRequest, PullsResponse, SaveRequest,
    SaveResponse, TagRequest, TagResponse,
};
use podium_cri::v1::{self, image_service_server::ImageService};
use podium_shim::{Identity, identity};
use tonic::{Request, Response, Status};

use super::Calls;
use crate::core::{Runtime, failed, now};
use crate::images::records::Record;
use crate::images::store::ImageError;
use crate::images::unpack;
use crate::{registry, stats};

fn image(record: &Record) -> v1::Image {
    let user = record.user.split(':').next().unwrap_or_default();
    // A number that nobody has is shown as a name, which a kubelet takes for one that may be root.
    let (uid, username) = match identity(user) {
        Identity::Number(uid) => (Some(i64::from(uid)), ""),
        Identity::Name(_) | Identity::Impossible => (None, user),
    };
    v1::Image {
        id: record.id.clone(),
        repo_tags: record.tags.iter().cloned().collect(),
        repo_digests: record.digests.iter().cloned().collect(),
        size: record.size,
        uid: uid.map(|value| v1::Int64Value { value }),
        username: username.to_owned(),
        spec: None,
        pinned: record.is_kept(),
    }
}

fn refused(error: &ImageError) -> Status {
    let text = crate::core::chain(error);
    match error {
        ImageError::Platform => Status::not_found(text),
        _ => Status::unknown(text),
    }
}

impl Calls {
    fn images(&self, wanted: Option<v1::ImageFilter>) -> Vec<v1::Image> {
        let name =
            wanted.and_then(|filter| filter.image).map(|image| image.image).filter(|name| !name.is_empty());
        match name {
            Some(name) => self.0.store.find(&name).iter().map(image).collect(),
            None => self.0.store.list().iter().map(image).collect(),
        }
    }

    /// Runs blocking work to its end.
    async fn blocking<T: Send + 'static>(
        &self,
        call: &'static str,
        work: impl FnOnce(&Arc<Runtime>) -> Result<T, Status> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let runtime = Arc::clone(&self.0);
        self.finish(call, async move {
            let done = tokio::task::spawn_blocking(move || work(&runtime)).await;
            done.map_err(|error| failed(call, &error))?
        })
        .await
    }
}

#[tonic::async_trait]
impl ImageService for Calls {
    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Result<Response<v1::ListImagesResponse>, Status> {
        Ok(Response::new(v1::ListImagesResponse { images: self.images(request.into_inner().filter) }))
    }

    type StreamImagesStream = Pin<Box<dyn Stream<Item = Result<v1::StreamImagesResponse, Status>> + Send>>;

    async fn stream_images(
        &self,
        request: Request<v1::StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        let images = self.images(request.into_inner().filter);
        let answers: Vec<_> =
            images.chunks(500).map(|chunk| Ok(v1::StreamImagesResponse { images: chunk.to_vec() })).collect();
        Ok(Response::new(Box::pin(stream::iter(answers))))
    }

    async fn image_status(
        &self,
        request: Request<v1::ImageStatusRequest>,
    ) -> Result<Response<v1::ImageStatusResponse>, Status> {
        let request = request.into_inner();
        let name = request.image.unwrap_or_default().image;
        let found = self.0.store.find(&name);
        let mut info = std::collections::HashMap::new();
        if let Some(record) = found.as_ref().filter(|_| request.verbose) {
            let text = serde_json::json!({"manifest": record.manifest, "layers": record.layers}).to_string();
            info.insert("info".to_owned(), text);
        }
        Ok(Response::new(v1::ImageStatusResponse { image: found.as_ref().map(image), info }))
    }

    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Result<Response<v1::PullImageResponse>, Status> {
        let (runtime, request) = (Arc::clone(&self.0), request.into_inner());
        self.finish("PullImage", async move {
            let name = request.image.unwrap_or_default().image;
            let pulled = registry::pull(&runtime, &name, request.auth).await;
            let record = pulled.map_err(|error| error.status(&name))?;
            Ok(v1::PullImageResponse { image_ref: record.id })
        })
        .await
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Result<Response<v1::RemoveImageResponse>, Status> {
        let name = request.into_inner().image.unwrap_or_default().image;
        self.blocking("RemoveImage", move |runtime| {
            if runtime.store.remove(&name).map_err(|error| failed("failed to remove image", &error))? {
                runtime.collect();
            }
            Ok(v1::RemoveImageResponse {})
        })
        .await
    }

    async fn image_fs_info(
        &self,
        _: Request<v1::ImageFsInfoRequest>,
    ) -> Result<Response<v1::ImageFsInfoResponse>, Status> {
        self.blocking("ImageFsInfo", |runtime| {
            let usage = |name: &str, used: unpack::Usage| v1::FilesystemUsage {
                timestamp: now(),
                fs_id: Some(v1::FilesystemIdentifier {
                    mountpoint: runtime.config.root.join(name).display().to_string(),
                }),
                used_bytes: Some(v1::UInt64Value { value: used.bytes }),
                inodes_used: Some(v1::UInt64Value { value: used.inodes }),
            };
            let containers: Vec<_> = runtime.containers.lock().values().cloned().collect();
            let written = containers.iter().map(|one| stats::writable_layer(one, now()).1).fold(
                unpack::Usage::default(),
                |sum, one| unpack::Usage { bytes: sum.bytes + one.bytes, inodes: sum.inodes + one.inodes },
            );
            Ok(v1::ImageFsInfoResponse {
                image_filesystems: vec![usage("layers", runtime.store.usage())],
                container_filesystems: vec![usage("containers", written)],
            })
        })
        .await
    }
}

#[tonic::async_trait]
impl ImageStore for Calls {
    async fn load(&self, request: Request<LoadRequest>) -> Result<Response<LoadResponse>, Status> {
        let path = request.into_inner().path;
        self.blocking("Load", move |runtime| {
            let loaded = runtime.store.load(path.as_ref()).map_err(|error| refused(&error))?;
            // An image of several names comes once for each.
            let names: BTreeSet<String> = loaded.into_iter().flat_map(|record| record.tags).collect();
            Ok(LoadResponse { names: names.into_iter().collect() })
        })
        .await
    }

    async fn save(&self, request: Request<SaveRequest>) -> Result<Response<SaveResponse>, Status> {
        let request = request.into_inner();
        self.blocking("Save", move |runtime| {
            let record = runtime
                .store
                .find(&request.image)
                .ok_or_else(|| Status::not_found(format!("image {:?} not found", request.image)))?;
            runtime.store.save(&record, request.path.as_ref()).map_err(|error| refused(&error))?;
            Ok(SaveResponse {})
        })
        .await
    }

    async fn tag(&self, request: Request<TagRequest>) -> Result<Response<TagResponse>, Status> {
        let TagRequest { image, name } = request.into_inner();
        let name = podium_cri::normalize_image_name(&name)
            .map_err(|error| Status::invalid_argument(crate::core::chain(&error)))?;
        if name.contains('@') {
            return Err(Status::invalid_argument(format!(
                "{name:?} is a digest, which names one image only"
            )));
        }
        self.blocking("Tag", move |runtime| {
            let tagged = runtime.store.tag(&image, &name);
            if !tagged.map_err(|error| failed("failed to tag image", &error))? {
                return Err(Status::not_found(format!("image {image:?} not found")));
            }
            Ok(TagResponse { name })
        })
        .await
    }

    async fn pulls(&self, _: Request<PullsRequest>) -> Result<Response<PullsResponse>, Status> {
        Ok(Response::new(PullsResponse { pulls: self.0.pulls.list() }))
    }

    async fn prune(&self, _: Request<PruneRequest>) -> Result<Response<PruneResponse>, Status> {
        self.blocking("Prune", |runtime| {
            let in_use: Vec<String> = runtime
                .containers
                .lock()
                .values()
                .flat_map(|one| one.record.all_images().map(str::to_owned).collect::<Vec<_>>())
                .collect();
            let mut answer = PruneResponse::default();
            for record in runtime.store.list() {
                if record.pinned || in_use.contains(&record.id) {
                    continue;
                }
                if runtime
                    .store
                    .remove(&record.id)
                    .map_err(|error| failed("failed to remove image", &error))?
                {
                    answer.bytes += record.size;
                    answer.removed.push(record.tags.iter().next().cloned().unwrap_or(record.id));
                }
            }
            runtime.collect();
            Ok(answer)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_images() {
        for (user, uid, username) in [
            ("", None, ""),
            ("web", None, "web"),
            ("web:0", None, "web"),
            ("0", Some(0), ""),
            ("+0", Some(0), ""),
            ("1000:1000", Some(1000), ""),
            ("2147483647", Some(2_147_483_647), ""),
            ("2147483648", None, "2147483648"),
            ("4294967295", None, "4294967295"),
            ("4294967296:0", None, "4294967296"),
            ("-5", None, "-5"),
        ] {
            let shown = image(&Record { user: user.to_owned(), ..Record::default() });
            assert_eq!(shown.uid.map(|uid| uid.value), uid, "{user:?}");
            assert_eq!(shown.username, username, "{user:?}");
        }
    }
}
