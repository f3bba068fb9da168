//! Images: references, the content-addressed store, pulls and imports.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Result;

/// An image id: the digest of its config, `sha256:<64 hex>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ImageId(pub(crate) String);

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A parsed and normalised reference: `registry/repository:tag` or `...@sha256:...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRef {
    pub(crate) registry: String,
    pub(crate) repository: String,
    pub(crate) tag: Option<String>,
    pub(crate) digest: Option<String>,
}

impl ImageRef {
    /// Parses a reference as Kubernetes users write it (`busybox`, `ghcr.io/a/b:1`, `127.0.0.1:5000/x@sha256:...`).
    ///
    /// # Errors
    /// [`crate::ImageError::InvalidName`] (kubelet's InvalidImageName).
    pub fn parse(text: &str) -> Result<Self> {
        let _ = text;
        Err(crate::Error::Unsupported("references"))
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// How to pull.
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// Credentials; anonymous without.
    pub credentials: Option<Credentials>,
    /// Tried in order before the reference's own registry.
    pub mirrors: Vec<Mirror>,
    /// Registries (`host:port`) spoken to in plain HTTP; loopback ones always may be.
    pub plain_http: Vec<String>,
}

/// A user name and a password or token. Debug shows the name only.
#[derive(Clone)]
pub struct Credentials {
    /// User.
    pub username: String,
    /// Secret.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Serves the images of one registry from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The registry as references name it, as `docker.io`.
    pub registry: String,
    /// Where to ask instead, `host[:port]`.
    pub endpoint: String,
}

/// Limits on what a pull or an import may bring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageLimits {
    /// Bytes of one unpacked layer.
    pub layer_bytes_max: u64,
    /// Files of one layer.
    pub layer_files_max: u64,
    /// Layers of one image.
    pub layers_max: usize,
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self { layer_bytes_max: 32 << 30, layer_files_max: 2_000_000, layers_max: 127 }
    }
}

/// Told while pulling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PullProgress {
    /// The manifest is here.
    Resolved {
        /// Number of layers, and compressed bytes, still to fetch.
        layers: usize,
        /// Compressed bytes.
        bytes: u64,
    },
    /// A layer is unpacked.
    LayerDone {
        /// Its digest.
        digest: String,
        /// Compressed bytes.
        bytes: u64,
    },
    /// The image is in the store.
    Done,
}

/// A local image.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageInfo {
    /// Digest of the config.
    pub id: ImageId,
    /// Normalised references with a tag.
    pub tags: Vec<String>,
    /// Normalised references with a digest.
    pub digests: Vec<String>,
    /// Bytes on disk, unpacked.
    pub size_bytes: u64,
    /// Entrypoint.
    pub entrypoint: Vec<String>,
    /// Cmd.
    pub cmd: Vec<String>,
    /// Environment as `K=V`.
    pub env: Vec<String>,
    /// User as `user[:group]`; empty means root.
    pub user: String,
    /// Working directory; empty means `/`.
    pub working_dir: String,
    /// As `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// As `SIGTERM`.
    pub stop_signal: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}
