//! Which volumes of storage drivers are attached to a machine: VolumeAttachments for a driver's attacher, one a volume and machine, and what the Node
//! says of them. Pure.
//!
//! The centre is a CSINode: every machine with drivers has one. A volume is attached before its pod's machine may mount it, and stays attached until the machine does not
//! say any more that it is in use, or is gone, or out of service.

use pintle_sdk::prelude::*;
use pintle_sdk::storage::{CsiSource, Volume};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::RESYNC;
use crate::claim::Pod;

/// How soon a volume that somebody else has, or that is still in use, is looked at again.
const WAITS: Duration = Duration::from_secs(2);
const GROUP: &str = "storage.k8s.io";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

#[derive(Default, Deserialize)]
#[serde(default)]
struct Driver {
    metadata: Metadata,
    spec: DriverSpec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DriverSpec {
    attach_required: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Attachment {
    metadata: Metadata,
    spec: AttachmentSpec,
    status: AttachmentStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AttachmentSpec {
    node_name: String,
    source: AttachmentSource,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AttachmentSource {
    persistent_volume_name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AttachmentStatus {
    attached: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Node {
    metadata: Metadata,
    spec: NodeSpec,
    status: NodeStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    taints: Vec<Taint>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Taint {
    key: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeStatus {
    volumes_in_use: Vec<String>,
    volumes_attached: Vec<AttachedVolume>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AttachedVolume {
    name: String,
}

/// What a volume's attachment to a machine is called.
fn name_of(source: &CsiSource, node: &str) -> String {
    let digest = Sha256::digest([source.volume_handle.as_str(), &source.driver, node].concat());
    format!("csi-{}", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

fn is_used(volume: &Volume, pods: &[Pod]) -> bool {
    let claim = volume.spec.claim_ref.as_ref();
    claim.is_some_and(|claim| pods.iter().any(|pod| pod.metadata.namespace == claim.namespace && pod.uses(&claim.name)))
}

fn is_for_one_machine(volume: &Volume) -> bool {
    !volume.spec.access_modes.iter().any(|mode| mode.ends_with("Many"))
}

/// Decides about one machine.
pub fn reconcile(request: &Request<'_>) -> Result<Plan> {
    let name = request.target.name.as_str();
    let (pods, volumes) = (request.related::<Pod>("pods")?, request.related::<Volume>("volumes")?);
    let (drivers, attachments) = (request.related::<Driver>("drivers")?, request.related::<Attachment>("attachments")?);
    let nodes: Vec<Node> = request.related("node")?;
    // Without a CSINode the machine has no drivers (yet); nothing is detached for that.
    if request.bytes().is_empty() && !nodes.is_empty() {
        return Ok(Plan::new());
    }
    let here: Vec<&Attachment> = attachments.iter().filter(|attachment| attachment.spec.node_name == name).collect();
    let mut plan = Plan::new();
    let mut wanted = Vec::new();
    for volume in volumes.iter().filter(|volume| is_used(volume, &pods)) {
        let Some(source) = &volume.spec.csi else { continue };
        let driver = drivers.iter().find(|driver| driver.metadata.name == source.driver);
        if driver.is_some_and(|driver| driver.spec.attach_required == Some(false)) {
            continue;
        }
        let (called, of) = (name_of(source, name), volume.metadata.name.as_str());
        wanted.push(called.clone());
        if here.iter().any(|attachment| attachment.metadata.name == called) {
            continue;
        }
        let elsewhere = |it: &Attachment| it.spec.node_name != name && it.spec.source.persistent_volume_name == of;
        if is_for_one_machine(volume) && attachments.iter().any(elsewhere) {
            let why = format!(
                "Multi-Attach error for volume {of:?}: Volume is already exclusively attached to one node and can't be attached to another"
            );
            plan = plan.warning("FailedAttachVolume", why).requeue_after(WAITS);
            continue;
        }
        plan = plan.create(&attachment(&called, source, of, name)?);
    }
    // A claim that is bound only now does not wake its pod's machine.
    let claims = pods.iter().flat_map(|pod| pod.claims().into_iter().map(move |claim| (pod.metadata.namespace.clone(), claim)));
    let known = |claim: &(String, String)| {
        volumes.iter().filter_map(|volume| volume.spec.claim_ref.as_ref()).any(|to| (&to.namespace, &to.name) == (&claim.0, &claim.1))
    };
    if claims.into_iter().any(|claim| !known(&claim)) {
        plan = plan.requeue_after(RESYNC);
    }
    for attachment in here.iter().filter(|it| !it.metadata.is_terminating() && !wanted.contains(&it.metadata.name)) {
        let volume = volumes.iter().find(|volume| volume.metadata.name == attachment.spec.source.persistent_volume_name);
        let source = volume.and_then(|volume| volume.spec.csi.as_ref());
        plan = match nodes.first().is_some_and(|node| node.holds(source)) {
            true => plan.requeue_after(WAITS),
            false => plan.delete(ObjectRef::of(GROUP, "volumeattachments", &attachment.metadata)),
        };
    }
    Ok(match nodes.first() {
        Some(node) => plan.then(tell(node, &here, &volumes)),
        None => plan,
    })
}

impl Node {
    /// Whether the machine has it mounted, as far as anybody can know.
    fn holds(&self, source: Option<&CsiSource>) -> bool {
        let out = self.spec.taints.iter().any(|taint| taint.key == OUT_OF_SERVICE);
        !out && source.is_some_and(|source| self.status.volumes_in_use.contains(&source.unique_name()))
    }
}

fn attachment(name: &str, source: &CsiSource, volume: &str, node: &str) -> Result<Untyped> {
    Untyped::new(json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": name},
        "spec": {"attacher": source.driver, "nodeName": node, "source": {"persistentVolumeName": volume}},
    }))
}

/// What the Node says is attached.
fn tell(node: &Node, here: &[&Attachment], volumes: &[Volume]) -> Plan {
    let source = |it: &&Attachment| {
        let volume = volumes.iter().find(|volume| volume.metadata.name == it.spec.source.persistent_volume_name)?;
        Some(volume.spec.csi.as_ref()?.unique_name())
    };
    let attached = here.iter().filter(|it| it.status.attached && !it.metadata.is_terminating());
    let mut names: Vec<String> = attached.filter_map(|it| source(it)).collect();
    names.sort();
    if node.status.volumes_attached.iter().map(|volume| &volume.name).eq(&names) {
        return Plan::new();
    }
    let list: Vec<_> = names.into_iter().map(|name| json!({"name": name, "devicePath": ""})).collect();
    Plan::new().patch_status(ObjectRef::named("", "nodes", "", &node.metadata.name), json!({ "volumesAttached": list }))
}
