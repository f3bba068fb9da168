//! Volumes that have grown: the node's part, for those that pods have mounted, and the claim that is told.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};

use super::message::{CapacityRange, NodeExpandVolumeRequest, NodeExpandVolumeResponse, can};
use super::record::{self, Record};
use super::volume::{capability, secret, secrets};
use crate::api::Patch;
use crate::error::{Error, Result};
use crate::link::Reference;
use crate::node::Node;
use crate::quantity;

/// How often the volumes are looked at, which costs nothing while none has changed.
const LOOK: Duration = Duration::from_secs(1);
/// Wait before a volume that could not grow is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Follows the sizes of mounted volumes, for ever.
pub async fn run(node: Rc<Node>) {
    // By pod and name: the size for which all is done.
    let mut done: BTreeMap<(String, String), Quantity> = BTreeMap::new();
    loop {
        let mut pause = LOOK;
        let records = node.csi.records.borrow().clone();
        done.retain(|key, _| records.contains_key(key));
        for (key, record) in records.into_iter().filter(|(_, record)| record.is_persistent()) {
            let Some(volume) = node.volumes.get(&record.name) else { continue };
            let Some(size) = capacity(&volume) else { continue };
            if done.get(&key) == Some(&size) {
                continue;
            }
            match grow(&node, &key.0, &record, &volume, &size).await {
                Ok(()) => {
                    done.insert(key, size);
                }
                Err(error) => {
                    tracing::warn!(volume = record.name, error = Error::chain(&error), "a volume has not grown on this node yet");
                    pause = RETRY;
                }
            }
        }
        tokio::time::sleep(pause).await;
    }
}

fn capacity(volume: &PersistentVolume) -> Option<Quantity> {
    volume.spec.as_ref()?.capacity.as_ref()?.get("storage").cloned()
}

/// Has the driver make a volume as large as it is said to be, if its claim does not know of that size yet.
async fn grow(node: &Node, pod: &str, record: &Record, volume: &PersistentVolume, size: &Quantity) -> Result<()> {
    let (namespace, name) = &record.claim;
    let bytes = node.kernel.get(&Reference::core("persistentvolumeclaims", namespace, name)).await?;
    let malformed = |source| Error::Malformed { what: format!("persistentvolumeclaim {name}"), source };
    let claim: PersistentVolumeClaim = serde_json::from_slice(&bytes).map_err(malformed)?;
    let raw: Value = serde_json::from_slice(&bytes).map_err(malformed)?;
    let known = claim.status.as_ref().and_then(|status| status.capacity.as_ref()?.get("storage").and_then(quantity::units));
    let wanted = quantity::units(size).unwrap_or_default();
    if known.is_none_or(|known| known >= wanted) {
        return Ok(());
    }
    let csi = &node.csi;
    let driver = csi.driver(&record.driver_name)?;
    if driver.can(can::EXPAND) {
        let lock = csi.lock(&record.driver_name, &record.volume_handle);
        let _held = lock.lock().await;
        let spec = volume.spec.clone().unwrap_or_default();
        let source = spec.csi.unwrap_or_default();
        let (fs_type, flags) = (source.fs_type.as_deref().unwrap_or_default(), spec.mount_options.unwrap_or_default());
        let staging = record::staging(&csi.dir, &record.driver_name, &record.volume_handle)?;
        let request = NodeExpandVolumeRequest {
            volume_id: record.volume_handle.clone(),
            volume_path: record::directory(&csi.dir, pod, &record.name)?.join("mount").display().to_string(),
            capacity_range: Some(CapacityRange { required_bytes: wanted }),
            staging_target_path: staging.display().to_string(),
            volume_capability: Some(capability(&driver, fs_type, &flags, &spec.access_modes.unwrap_or_default(), None)),
            secrets: secrets(&node.kernel, secret(&source, |source| &source.node_expand_secret_ref)).await?,
        };
        driver.call::<NodeExpandVolumeResponse>("NodeExpandVolume", &request).await?;
    }
    let path = format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}/status");
    node.api.patch(&path, Patch::Merge, &grown(&raw, size)).await?;
    tracing::info!(volume = record.name, size = size.0, "a volume has grown");
    Ok(())
}

/// What a claim's status becomes: the new size, and nothing of the growing any more.
fn grown(claim: &Value, size: &Quantity) -> Value {
    let over = |condition: &&Value| !matches!(condition["type"].as_str(), Some("Resizing" | "FileSystemResizePending"));
    let conditions: Vec<&Value> = claim["status"]["conditions"].as_array().into_iter().flatten().filter(over).collect();
    json!({
        "metadata": { "resourceVersion": claim["metadata"]["resourceVersion"] },
        "status": { "capacity": { "storage": size }, "conditions": conditions, "allocatedResourceStatuses": { "storage": null } },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_has_grown_says_so_and_keeps_what_else_is_said() {
        let claim = json!({
            "metadata": { "resourceVersion": "7" },
            "status": { "conditions": [{ "type": "FileSystemResizePending", "status": "True" }, { "type": "ModifyingVolume", "status": "True" }] },
        });
        let patch = grown(&claim, &Quantity("2Gi".into()));
        assert_eq!(patch["status"]["capacity"]["storage"], "2Gi");
        assert_eq!(
            patch["status"]["conditions"].as_array().map(|all| all.iter().map(|c| c["type"].clone()).collect::<Vec<_>>()),
            Some(vec![json!("ModifyingVolume")])
        );
        assert!(patch["status"]["allocatedResourceStatuses"]["storage"].is_null() && patch["metadata"]["resourceVersion"] == "7");
    }
}
