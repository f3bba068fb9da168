//! Images, which are the runtime's: it pulls, unpacks and keeps them, by its own configuration of registries.

use std::path::Path;

use pintle_runtime_bridge::{Error, ImageError, ImageId, ImageInfo, ImageRef, PullOptions};

use crate::client::{Fault, code};
use crate::{Cri, Result, lenient, message as m};

impl Cri {
    /// Has the runtime fetch an image. Mirrors are its own affair.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`Error::Remote`] with the runtime's reason.
    pub async fn pull(&self, image: &ImageRef, options: PullOptions) -> Result<ImageId> {
        let auth = options.credentials.map(|given| m::AuthConfig { username: given.username, password: given.password });
        let request = m::PullImageRequest { image: Some(m::ImageSpec { image: image.to_string() }), auth };
        let pulled: Result<m::PullImageResponse, Fault> = self.client().image("PullImage", &request).await;
        match pulled {
            Ok(pulled) => Ok(ImageId::of(pulled.image_ref)),
            Err(fault) if fault.code == code::NOT_FOUND => Err(ImageError::NotFound(image.to_string()).into()),
            Err(fault) => Err(fault.into()),
        }
    }

    pub(crate) async fn image_status(&self, name: &str) -> Result<Option<m::Image>> {
        let request = m::ImageStatusRequest { image: Some(m::ImageSpec { image: name.to_owned() }) };
        let answer: m::ImageStatusResponse = self.client().image("ImageStatus", &request).await?;
        Ok(answer.image)
    }

    /// Looks an image up by reference or id, locally.
    pub async fn image(&self, name: &str) -> Option<ImageInfo> {
        match self.image_status(name).await {
            Ok(found) => found.map(info),
            Err(error) => {
                tracing::warn!(%error, name, "an image cannot be looked up");
                None
            }
        }
    }

    /// All images but those that the runtime itself needs.
    ///
    /// # Errors
    /// [`Error::Remote`].
    pub async fn images(&self) -> Result<Vec<ImageInfo>> {
        let listed: m::ListImagesResponse = self.client().image("ListImages", &m::Empty {}).await?;
        let pause = self.image_status(&self.about().sandbox_image).await?.map(|image| image.id);
        Ok(listed.images.into_iter().filter(|image| !image.pinned && Some(&image.id) != pause.as_ref()).map(info).collect())
    }

    /// Removes an image; a missing one is not an error.
    ///
    /// # Errors
    /// [`Error::Remote`].
    pub async fn remove_image(&self, name: &str) -> Result<()> {
        let request = m::ImageStatusRequest { image: Some(m::ImageSpec { image: name.to_owned() }) };
        lenient(self.client().image("RemoveImage", &request).await)
    }

    /// CRI v1 shows no image's files at a directory of the node.
    ///
    /// # Errors
    /// Always [`Error::Remote`].
    pub async fn mount_image(&self, name: &str, _target: &Path) -> Result<()> {
        Err(Error::remote("ImageStatus", format!("image {name} cannot be a volume on this runtime")))
    }
}

/// What CRI tells of an image; entrypoint and environment it keeps to itself.
fn info(image: m::Image) -> ImageInfo {
    ImageInfo {
        id: ImageId::of(image.id),
        tags: image.repo_tags,
        digests: image.repo_digests,
        size_bytes: image.size,
        entrypoint: Vec::new(),
        cmd: Vec::new(),
        env: Vec::new(),
        user: image.uid.map_or(image.username, |uid| uid.value.to_string()),
        working_dir: String::new(),
        exposed_ports: Vec::new(),
        stop_signal: None,
        labels: std::collections::BTreeMap::new(),
    }
}
