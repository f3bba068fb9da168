//! Volumes that are directories of one machine, for StorageClasses whose provisioner is `pintle.dev/local-path`.
//!
//! A machine says in an annotation of its Node where such directories are. It makes one when a pod mounts the volume, tells so in its Node's
//! `status.volumesInUse` before that, and removes it when the volume is on its way out; a volume goes when its machine does not name it any
//! more, or is gone itself. Not here: anything about claims and snapshots, which the SDK does for every provisioner. Sizes are not enforced: a
//! directory grows as its disk does.
//!
//! A snapshot is one more directory of the same machine, which copies it as soon as it hears of the volume that stands for it, and tells so in the same
//! place. A copy is made file by file while pods may write: it is not of one instant.

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;
use pintle_sdk::storage::Volume;
use pintle_sdk::{Failure, Provisioner, SnapshotRemoval, SnapshotRequest, TakenSnapshot, VolumeRemoval, VolumeRequest};
use serde::Deserialize;

/// What StorageClasses call this.
pub const NAME: &str = "pintle.dev/local-path";
/// On a Node: where its directories are.
pub const DIRECTORY: &str = "pintle.dev/local-volumes";

/// On a volume: the one whose content it begins with.
pub const COPY_OF: &str = "pintle.dev/copy-of";
/// Before the name of a snapshot, in what a Node says: it is whole.
pub const COPIED: &str = "pintle.dev/local-path-copied";
/// Before the name of a volume, in what a Node says: it cannot be copied; after a colon, why.
pub const NOT_COPIED: &str = "pintle.dev/local-path-not-copied";

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
        let source: Option<Volume> = request.source.map(|source| source.volume().map_err(unread)).transpose()?.flatten();
        if request.source.is_some() && source.is_none() {
            return Err(invalid("the directory of the snapshot is gone"));
        }
        if let Some(source) = source.as_ref().filter(|source| !source.is_reachable(name, &node.metadata.labels)) {
            let why = format!("volume {:?}, which it begins with, is on another machine than node {name}", source.metadata.name);
            return Err(Failure { code: 507, reason: "InsufficientStorage".into(), message: why });
        }
        let annotations = source.map_or_else(|| json!({}), |source| json!({COPY_OF: source.metadata.name}));
        let place = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [hostname.unwrap_or(name)]});
        Ok(json!({"metadata": {"annotations": annotations}, "spec": {
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

    fn can_copy(&self) -> bool {
        true
    }

    fn snapshot(&mut self, request: &SnapshotRequest<'_>) -> Result<TakenSnapshot, Failure> {
        let node = request.node::<Node>().map_err(unread)?.ok_or_else(|| invalid("the volume's machine is gone"))?;
        let (copied, failed) = (format!("{COPIED}/{}", request.name), format!("{NOT_COPIED}/{}: ", request.name));
        if let Some(why) = node.status.volumes_in_use.iter().find_map(|told| told.strip_prefix(&failed)) {
            return Err(Failure { code: 500, reason: "InternalError".into(), message: format!("node {}: {why}", node.metadata.name) });
        }
        let is_ready = node.status.volumes_in_use.contains(&copied);
        let record = match (request.record::<Value>().map_err(unread)?, request.volume::<Value>().map_err(unread)?) {
            (None, Some(volume)) => Some(record(request.name, &volume)?),
            _ => None,
        };
        Ok(TakenSnapshot { handle: request.name.to_owned(), is_ready, record, ..TakenSnapshot::default() })
    }

    fn delete_snapshot(&mut self, _: &SnapshotRemoval<'_>) -> Result<(), Failure> {
        Ok(())
    }

    fn expand(&mut self, _: &[u8], capacity_bytes: u64) -> Result<Value, Failure> {
        Ok(json!({"spec": {"capacity": {"storage": capacity_bytes.to_string()}}}))
    }
}

/// What stands for a snapshot of a volume: a directory beside it.
fn record(name: &str, volume: &Value) -> Result<Value, Failure> {
    let beside = volume["spec"]["local"]["path"].as_str().and_then(|path| path.rsplit_once('/'));
    let (directory, _) = beside.ok_or_else(|| invalid("the volume is no directory of a machine"))?;
    Ok(json!({
        "metadata": {"annotations": {COPY_OF: volume["metadata"]["name"]}},
        "spec": {"local": {"path": format!("{directory}/{name}")}, "nodeAffinity": volume["spec"]["nodeAffinity"]},
    }))
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
