//! Volumes that are directories of one machine, for StorageClasses whose provisioner is `pintle.dev/local-path`.
//!
//! A machine says in an annotation of its Node where such directories are. It makes one when a pod mounts the volume, tells so in its Node's
//! `status.volumesInUse` before that, and removes it when the volume is on its way out; a volume goes when its machine does not name it any
//! more, or is gone itself. Not here: anything about claims, which the SDK does for every provisioner. Sizes are not enforced: a directory
//! grows as its disk does.

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;
use pintle_sdk::{Failure, Provisioner, VolumeRemoval, VolumeRequest};
use serde::Deserialize;

/// What StorageClasses call this.
pub const NAME: &str = "pintle.dev/local-path";
/// On a Node: where its directories are.
pub const DIRECTORY: &str = "pintle.dev/local-volumes";

/// The provisioner; it remembers nothing.
pub struct LocalPath;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Node {
    metadata: Metadata,
    status: NodeStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeStatus {
    volumes_in_use: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Wanted {
    mount_options: Vec<String>,
    volume_mode: Option<String>,
    access_modes: Vec<String>,
}

impl Provisioner for LocalPath {
    fn start(_: &Start) -> Result<Self> {
        Ok(LocalPath)
    }

    fn name(&self) -> &str {
        NAME
    }

    fn provision(&mut self, request: &VolumeRequest<'_>) -> Result<Value, Failure> {
        let Some(node) = request.node::<Node>().map_err(unread)? else {
            return Err(invalid("a directory is on one machine: the class must have volumeBindingMode WaitForFirstConsumer"));
        };
        let (name, hostname) = (&node.metadata.name, node.metadata.labels.get("kubernetes.io/hostname"));
        let Some(directory) = node.metadata.annotations.get(DIRECTORY) else {
            return Err(invalid(format!("node {name} does not say where its volumes are (annotation {DIRECTORY})")));
        };
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Claim {
            spec: Wanted,
        }
        let (claim, class) = (request.claim::<Claim>().map_err(unread)?.spec, request.storage_class::<Wanted>().map_err(unread)?);
        if !class.mount_options.is_empty() {
            return Err(invalid("mountOptions are not supported: a directory is not mounted by itself"));
        }
        if claim.volume_mode.as_deref() == Some("Block") {
            return Err(invalid("volumeMode Block is not supported: a directory is no block device"));
        }
        if claim.access_modes.iter().any(|mode| mode.ends_with("Many")) {
            return Err(invalid("a directory is on one machine: accessModes must be ReadWriteOnce or ReadWriteOncePod"));
        }
        let place = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [hostname.unwrap_or(name)]});
        Ok(json!({"spec": {
            "local": {"path": format!("{directory}/{}", request.name)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [place]}]}},
        }}))
    }

    fn delete(&mut self, removal: &VolumeRemoval<'_>) -> Result<(), Failure> {
        let volume: Partial = removal.volume().map_err(unread)?;
        let node = removal.node::<Node>().map_err(unread)?;
        let held = format!("{NAME}/{}", volume.metadata.name);
        match node.is_some_and(|node| node.status.volumes_in_use.contains(&held)) {
            true => Err(Failure { code: 503, reason: "ServiceUnavailable".into(), message: "its machine has not removed it yet".into() }),
            false => Ok(()),
        }
    }

    fn expand(&mut self, _: &[u8], capacity_bytes: u64) -> Result<Value, Failure> {
        Ok(json!({"spec": {"capacity": {"storage": capacity_bytes.to_string()}}}))
    }
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure { code: 422, reason: "Invalid".into(), message: message.into() }
}

fn unread(error: Error) -> Failure {
    Failure { code: 500, reason: "InternalError".into(), message: error.to_string() }
}

pintle_sdk::provisioner!(LocalPath);

#[cfg(test)]
mod tests;
