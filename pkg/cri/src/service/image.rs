//! The image service.

use std::sync::Arc;

use knarr_cri_api::v1::image_service_server::ImageService;
use knarr_cri_api::v1::*;
use knarr_images::Credentials;
use tonic::{Request, Response, Status};

use super::{Answers, chunks};
use crate::flight::blocking;
use crate::record::now;
use crate::{Cri, Error};

/// Serves `runtime.v1.ImageService`.
#[derive(Debug, Clone)]
pub struct Image(pub(crate) Arc<Cri>);

/// An image in CRI's words. `user` is its configured user.
fn describe(image: &knarr_images::Image, user: &str) -> knarr_cri_api::v1::Image {
    let name = user.split(':').next().unwrap_or_default();
    let uid = match name {
        "" => Some(0),
        text => text.parse::<i64>().ok(),
    };
    knarr_cri_api::v1::Image {
        id: image.id.clone(),
        repo_tags: image.tags.iter().cloned().collect(),
        repo_digests: image.digests.iter().cloned().collect(),
        size: image.size,
        uid: uid.map(|value| Int64Value { value }),
        username: if uid.is_none() { name.to_owned() } else { String::new() },
        spec: None,
        pinned: image.pinned,
    }
}

impl Image {
    fn describe(&self, image: &knarr_images::Image) -> knarr_cri_api::v1::Image {
        let config = self.0.images.config(image).unwrap_or_default();
        describe(image, &config.config.user)
    }

    fn list(&self, filter: Option<ImageFilter>) -> Result<Vec<knarr_cri_api::v1::Image>, Error> {
        let name = filter.and_then(|f| f.image).map(|i| i.image).unwrap_or_default();
        let images = match name.as_str() {
            "" => self.0.images.list()?,
            name => self.0.images.find(name)?.into_iter().collect(),
        };
        Ok(images.iter().map(|i| self.describe(i)).collect())
    }
}

fn credentials(auth: Option<AuthConfig>) -> Result<Option<Credentials>, Error> {
    let Some(auth) = auth else { return Ok(None) };
    if !auth.auth.is_empty() && auth.username.is_empty() {
        return match Credentials::from_encoded(&auth.auth) {
            Some(c) => Ok(Some(c)),
            None => Err(Error::Invalid("invalid auth config".to_owned())),
        };
    }
    let empty = [&auth.username, &auth.password, &auth.identity_token, &auth.registry_token]
        .iter()
        .all(|f| f.is_empty());
    Ok((!empty).then_some(Credentials {
        username: auth.username,
        password: auth.password,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
    }))
}

#[tonic::async_trait]
impl ImageService for Image {
    async fn list_images(
        &self,
        request: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        let images = self.list(request.into_inner().filter)?;
        Ok(Response::new(ListImagesResponse { images }))
    }

    type StreamImagesStream = Answers<StreamImagesResponse>;

    async fn stream_images(
        &self,
        request: Request<StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        let images = self.list(request.into_inner().filter)?;
        Ok(Response::new(chunks(images, |images| StreamImagesResponse { images })))
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Result<Response<ImageStatusResponse>, Status> {
        let request = request.into_inner();
        let name = request.image.map(|i| i.image).unwrap_or_default();
        let Some(image) = self.0.images.find(&name).map_err(Error::from)? else {
            return Ok(Response::new(ImageStatusResponse::default()));
        };
        let mut info = std::collections::HashMap::new();
        if request.verbose {
            let config = self.0.images.config(&image).map_err(Error::from)?;
            let text = serde_json::json!({ "chainID": image.chain.last(), "imageSpec": config });
            info.insert("info".to_owned(), text.to_string());
        }
        Ok(Response::new(ImageStatusResponse {
            image: Some(self.describe(&image)),
            info,
        }))
    }

    async fn pull_image(
        &self,
        request: Request<PullImageRequest>,
    ) -> Result<Response<PullImageResponse>, Status> {
        let request = request.into_inner();
        let name = request.image.map(|i| i.image).unwrap_or_default();
        let credentials = credentials(request.auth)?;
        let image = self.0.images.pull(&name, credentials).await.map_err(Error::from)?;
        Ok(Response::new(PullImageResponse { image_ref: image.id }))
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Result<Response<RemoveImageResponse>, Status> {
        let name = request.into_inner().image.map(|i| i.image).unwrap_or_default();
        let images = self.0.images.clone();
        blocking(move || Ok(images.remove(&name)?)).await?;
        Ok(Response::new(RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _: Request<ImageFsInfoRequest>,
    ) -> Result<Response<ImageFsInfoResponse>, Status> {
        let images = self.0.images.clone();
        let (bytes, inodes) = blocking(move || Ok(images.usage()?)).await?;
        let usage = FilesystemUsage {
            timestamp: now(),
            fs_id: Some(FilesystemIdentifier {
                mountpoint: self.0.images.root().display().to_string(),
            }),
            used_bytes: Some(UInt64Value { value: bytes }),
            inodes_used: Some(UInt64Value { value: inodes }),
        };
        Ok(Response::new(ImageFsInfoResponse {
            image_filesystems: vec![usage.clone()],
            container_filesystems: vec![usage],
        }))
    }
}
