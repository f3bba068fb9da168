//! Images: references, the content-addressed store, pulls and imports.
//!
//! Layout below `images/`:
//! ```text
//! layers/<24 hex of the diff id>/   one unpacked layer; shared by every image that has it
//! records/<64 hex of the id>.json   what is known of an image: config, layers, names
//! blobs/<64 hex>                    manifests and configs as they came
//! unpacking/                        layers on their way; emptied when the store is opened
//! ```
//! Invariants: nothing appears under `layers/` or `records/` before every digest on the way to it was verified; a record names
//! only layers that are there.

pub mod artifact;
mod reference;
mod source;
pub(crate) mod store;
pub(crate) mod unpack;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use reference::ImageRef;
pub(crate) use store::{Record, Store};

/// An image id: the digest of its config, `sha256:<64 hex>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ImageId(pub(crate) String);

impl ImageId {
    /// An id as another runtime gives it.
    pub fn of(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How to pull.
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// Credentials; anonymous without. Never sent to a mirror.
    pub credentials: Option<Credentials>,
    /// Tried in order before the reference's own registry.
    pub mirrors: Vec<Mirror>,
    /// Registries (`host:port`) spoken to in plain HTTP; loopback ones always are.
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
        /// Number of layers still to fetch.
        layers: usize,
        /// Compressed bytes of these.
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

/// A pointer to content, as manifests have it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: Option<String>,
    pub(crate) digest: String,
    #[serde(default)]
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
    #[serde(default)]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
}

/// A manifest, or an index of manifests: which one is told by what it has.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Document {
    #[serde(default)]
    pub(crate) config: Option<Descriptor>,
    #[serde(default)]
    pub(crate) layers: Vec<Descriptor>,
    #[serde(default)]
    pub(crate) manifests: Vec<Descriptor>,
}

/// The parts of an image's config that matter here.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct ConfigFile {
    #[serde(default)]
    pub(crate) config: Option<ProcessConfig>,
    #[serde(default)]
    pub(crate) rootfs: RootFs,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct RootFs {
    #[serde(default)]
    pub(crate) diff_ids: Vec<String>,
}

/// Every list may be absent or null.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ProcessConfig {
    pub(crate) user: Option<String>,
    pub(crate) exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    pub(crate) env: Option<Vec<String>>,
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) cmd: Option<Vec<String>>,
    pub(crate) working_dir: Option<String>,
    pub(crate) labels: Option<BTreeMap<String, String>>,
    pub(crate) stop_signal: Option<String>,
}
