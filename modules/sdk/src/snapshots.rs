//! The part of a provisioner's controller that is about snapshots, as the published definitions of `snapshot.storage.k8s.io/v1` have them: which
//! VolumeSnapshots ask it, the VolumeSnapshotContents that it makes for them, and what both say of themselves.
//!
//! A provisioner may have a snapshot stand for by a PersistentVolume, its record: it is named as the content, its `claimRef` names the VolumeSnapshot, so
//! no claim can get it, and it goes when the content goes. Invariants: a content's name follows from its snapshot's uid, so there is never a second
//! one; a content names its snapshot before the snapshot names it; a content goes only when the provisioner has removed what it stands for.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::provisioning::{LOOK_AGAIN, NOT_YET, RETRY, node_bytes};
use crate::storage::{Claim, ClaimRef, PROVISIONED_BY, SNAPSHOT_KIND, SNAPSHOTS, Volume};
use crate::{
    Metadata, ObjectRef, PROVISIONED_FINALIZER, Plan, Provisioner, Query, Request, Result, SnapshotRemoval, SnapshotRequest, Time, Untyped,
    Write,
};

/// On snapshots and contents, until what they stand for is gone; upstream's names.
const SNAPSHOT_PROTECTION: &str = "snapshot.storage.kubernetes.io/volumesnapshot-bound-protection";
const CONTENT_PROTECTION: &str = "snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection";
/// On the volumes that stand for snapshots, until their contents go.
const RECORD_FINALIZER: &str = "pintle.dev/snapshot";
/// On a snapshot: who takes it.
const TAKEN_BY: &str = "pintle.dev/snapshot-driver";
const DEFAULT_CLASS: &str = "snapshot.storage.kubernetes.io/is-default-class";
const CONTENTS: &str = "volumesnapshotcontents";
/// How soon a snapshot that failed is tried again.
const RETRY_SNAPSHOT: Duration = Duration::from_secs(5);

/// A VolumeSnapshot.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Snapshot {
    pub(crate) metadata: Metadata,
    spec: SnapshotSpec,
    pub(crate) status: SnapshotStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SnapshotSpec {
    source: SnapshotSource,
    volume_snapshot_class_name: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SnapshotSource {
    persistent_volume_claim_name: String,
    volume_snapshot_content_name: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SnapshotStatus {
    pub(crate) bound_volume_snapshot_content_name: String,
    pub(crate) ready_to_use: bool,
    error: Fault,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Fault {
    message: String,
}

/// A VolumeSnapshotContent.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Content {
    pub(crate) metadata: Metadata,
    pub(crate) spec: ContentSpec,
    pub(crate) status: ContentStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContentSpec {
    deletion_policy: String,
    pub(crate) driver: String,
    source: ContentSource,
    volume_snapshot_ref: ClaimRef,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContentSource {
    volume_handle: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContentStatus {
    snapshot_handle: String,
    /// Nanoseconds since 1970.
    creation_time: i64,
    pub(crate) ready_to_use: bool,
    /// Bytes.
    pub(crate) restore_size: i64,
    error: Fault,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Class {
    metadata: Metadata,
    driver: String,
    deletion_policy: String,
}

impl Snapshot {
    fn target(&self) -> ObjectRef {
        ObjectRef::of(SNAPSHOTS, "volumesnapshots", &self.metadata)
    }

    /// The content that it has, or will have.
    fn content_name(&self) -> String {
        match self.spec.source.volume_snapshot_content_name.as_str() {
            "" => format!("snapcontent-{}", self.metadata.uid),
            given => given.to_owned(),
        }
    }

    fn shown(&self) -> String {
        format!("{}/{}", self.metadata.namespace, self.metadata.name)
    }
}

impl Content {
    fn target(&self) -> ObjectRef {
        ObjectRef::of(SNAPSHOTS, CONTENTS, &self.metadata)
    }

    fn is_of(&self, snapshot: &Metadata) -> bool {
        let to = &self.spec.volume_snapshot_ref;
        to.namespace == snapshot.namespace && to.name == snapshot.name && (to.uid.is_empty() || to.uid == snapshot.uid)
    }
}

/// Decides about one VolumeSnapshot.
pub(crate) fn of_snapshot(module: &impl Provisioner, now: Time, request: &Request<'_>) -> Result<Plan> {
    let Some(snapshot) = request.object::<Snapshot>()? else { return Ok(Plan::new()) };
    let is_taken = snapshot.metadata.annotations.get(TAKEN_BY).is_some_and(|by| by == module.name());
    let going = snapshot.metadata.is_terminating();
    if going && !is_taken {
        return Ok(Plan::new());
    }
    let content = request.read::<Content>(&Query::one(SNAPSHOTS, CONTENTS, "", &snapshot.content_name()))?.pop();
    if going {
        return Ok(let_go(&snapshot, content.as_ref()));
    }
    let given = !snapshot.spec.source.volume_snapshot_content_name.is_empty();
    let is_others = |content: &Content| content.spec.driver != module.name();
    if snapshot.status.ready_to_use || content.as_ref().map_or(given, is_others) {
        return Ok(Plan::new());
    }
    let wanted = match &content {
        Some(_) => Ok(Value::Null),
        None => match wanted(module, request, &snapshot)? {
            Some(wanted) => wanted,
            None => return Ok(Plan::new()),
        },
    };
    match (wanted, content) {
        (Err(why), _) => Ok(fail(&snapshot, now, &why)),
        (Ok(_), Some(content)) if !content.is_of(&snapshot.metadata) => {
            Ok(fail(&snapshot, now, &format!("VolumeSnapshotContent {:?} is bound to another VolumeSnapshot", content.metadata.name)))
        }
        (Ok(_), _) if !is_taken || !snapshot.metadata.finalizers.iter().any(|f| f == SNAPSHOT_PROTECTION) => {
            Ok(with(snapshot.target(), &snapshot.metadata, SNAPSHOT_PROTECTION, &json!({TAKEN_BY: module.name()})))
        }
        (Ok(wanted), None) => {
            let waiting = format!("Waiting for a snapshot {} to be created by {}.", snapshot.shown(), module.name());
            Ok(Plan::new().create(&Untyped::new(wanted)?).event("CreatingSnapshot", waiting))
        }
        (Ok(_), Some(content)) => Ok(mirror(&snapshot, &content)),
    }
}

/// The content that a snapshot is to have, or why it can have none; `None`: somebody else takes it.
fn wanted(module: &impl Provisioner, request: &Request<'_>, snapshot: &Snapshot) -> Result<Option<Result<Value, String>>> {
    let claim_name = &snapshot.spec.source.persistent_volume_claim_name;
    let claim = request.related::<Claim>("claim")?.pop();
    let volume_name = claim.as_ref().map_or("", |claim| claim.spec.volume_name.as_str());
    let volume = match volume_name {
        "" => None,
        name => request.read::<Volume>(&Query::one("", "persistentvolumes", "", name))?.pop(),
    };
    let is_ours = volume.as_ref().is_some_and(|volume| volume.is_made_by(module.name()));
    let classes: Vec<Class> = request.related("classes")?;
    let class = match &snapshot.spec.volume_snapshot_class_name {
        Some(name) => match classes.iter().find(|class| class.metadata.name == *name) {
            Some(class) if class.driver != module.name() => return Ok(None),
            None if !is_ours => return Ok(None),
            Some(class) => class,
            None => return Ok(Some(Err(format!("volumesnapshotclass.{SNAPSHOTS} {name:?} not found")))),
        },
        None if !is_ours => return Ok(None),
        None => {
            let is_default = |class: &&Class| class.metadata.annotations.get(DEFAULT_CLASS).is_some_and(|is| is == "true");
            let mut defaults = classes.iter().filter(|class| class.driver == module.name()).filter(is_default);
            match (defaults.next(), defaults.next()) {
                (Some(class), None) => class,
                (None, _) => return Ok(Some(Err(format!("cannot find default snapshot class for driver {}", module.name())))),
                _ => return Ok(Some(Err(format!("more than one default snapshot class was found for driver {}", module.name())))),
            }
        }
    };
    let Some(claim) = claim else { return Ok(Some(Err(format!("persistentvolumeclaim {claim_name:?} not found")))) };
    let Some(volume) = volume.filter(|volume| claim.is_bound() && volume.is_for(&claim)) else {
        return Ok(Some(Err(format!("the PVC {claim_name} is not yet bound to a PV, will not attempt to take a snapshot"))));
    };
    if !is_ours {
        return Ok(Some(Err(format!("persistentvolume {:?} was not made by {}", volume.metadata.name, module.name()))));
    }
    let meta = &snapshot.metadata;
    Ok(Some(Ok(json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent",
        "metadata": {"name": snapshot.content_name(), "finalizers": [CONTENT_PROTECTION]},
        "spec": {
            "driver": module.name(), "deletionPolicy": class.deletion_policy, "volumeSnapshotClassName": class.metadata.name,
            "source": {"volumeHandle": volume.metadata.name},
            "sourceVolumeMode": volume.spec.volume_mode.as_deref().unwrap_or("Filesystem"),
            "volumeSnapshotRef": {
                "apiVersion": "snapshot.storage.k8s.io/v1", "kind": SNAPSHOT_KIND, "namespace": meta.namespace, "name": meta.name,
                "uid": meta.uid, "resourceVersion": meta.resource_version,
            },
        },
    }))))
}

fn fail(snapshot: &Snapshot, now: Time, why: &str) -> Plan {
    let why = format!("Failed to create snapshot content with error {why}");
    say(snapshot.target(), &snapshot.metadata, &snapshot.status.error, now, "SnapshotContentCreationFailed", why).requeue_after(RETRY)
}

fn content_fails(content: &Content, now: Time, why: &str) -> Plan {
    let why = why.to_owned();
    say(content.target(), &content.metadata, &content.status.error, now, "SnapshotCreationFailed", why).requeue_after(RETRY_SNAPSHOT)
}

/// Says once, in the status of a snapshot or content and as an event, what could not be done.
fn say(target: ObjectRef, metadata: &Metadata, said: &Fault, now: Time, reason: &str, why: String) -> Plan {
    if said.message == why {
        return Plan::new();
    }
    let mut body = metadata.precondition();
    body["status"] = json!({"readyToUse": false, "error": {"message": why, "time": now}});
    Plan::new().write(Write::merge(target, body).to("status")).warning(reason, why)
}

/// A snapshot says what its content says; a content that was made before its snapshot is told the snapshot's uid first.
fn mirror(snapshot: &Snapshot, content: &Content) -> Plan {
    if content.spec.volume_snapshot_ref.uid.is_empty() {
        let mut body = content.metadata.precondition();
        body["spec"] = json!({"volumeSnapshotRef": {"uid": snapshot.metadata.uid}});
        return Plan::new().patch(content.target(), body);
    }
    let (said, status) = (&snapshot.status, &content.status);
    let same = said.bound_volume_snapshot_content_name == content.metadata.name && said.error.message == status.error.message;
    if same && !status.ready_to_use {
        return Plan::new();
    }
    let mut body = snapshot.metadata.precondition();
    body["status"] = json!({"boundVolumeSnapshotContentName": content.metadata.name, "readyToUse": status.ready_to_use, "error": null});
    if !status.error.message.is_empty() {
        body["status"]["error"] = json!({"message": status.error.message});
    }
    let mut plan = Plan::new();
    if status.ready_to_use {
        body["status"]["creationTime"] = json!(Time(status.creation_time / 1_000_000));
        body["status"]["restoreSize"] = json!(status.restore_size.to_string());
        plan = plan.event("SnapshotReady", format!("Snapshot {} is ready to use.", snapshot.shown()));
    } else if !status.error.message.is_empty() {
        plan = plan.warning("SnapshotCreationFailed", status.error.message.clone());
    }
    plan.write(Write::merge(snapshot.target(), body).to("status"))
}

/// A snapshot on its way out: its content goes with it, or stays.
fn let_go(snapshot: &Snapshot, content: Option<&Content>) -> Plan {
    if let Some(content) = content.filter(|content| content.is_of(&snapshot.metadata) && content.spec.deletion_policy != "Retain") {
        // Its end brings this one back here.
        return if content.metadata.is_terminating() { Plan::new() } else { Plan::new().delete(content.target()) };
    }
    without(snapshot.target(), &snapshot.metadata, SNAPSHOT_PROTECTION)
}

/// Puts a finalizer and annotations on.
fn with(target: ObjectRef, metadata: &Metadata, finalizer: &str, annotations: &Value) -> Plan {
    let mut body = metadata.precondition();
    let others = metadata.finalizers.iter().map(String::as_str).filter(|f| *f != finalizer);
    body["metadata"]["finalizers"] = others.chain([finalizer]).collect();
    body["metadata"]["annotations"] = annotations.clone();
    Plan::new().patch(target, body)
}

/// Takes a finalizer off, if it is there.
fn without(target: ObjectRef, metadata: &Metadata, finalizer: &str) -> Plan {
    if !metadata.finalizers.iter().any(|f| f == finalizer) {
        return Plan::new();
    }
    let mut body = metadata.precondition();
    body["metadata"]["finalizers"] = json!(metadata.finalizers.iter().filter(|f| *f != finalizer).collect::<Vec<_>>());
    Plan::new().patch(target, body)
}

/// Decides about one VolumeSnapshotContent.
pub(crate) fn of_content(module: &mut impl Provisioner, now: Time, request: &Request<'_>) -> Result<Plan> {
    let Some(content) = request.object::<Content>()? else { return Ok(Plan::new()) };
    if content.spec.driver != module.name() {
        return Ok(Plan::new());
    }
    let records: Vec<Volume> = request.related("record")?;
    let record = records.first().filter(|record| record.is_snapshot());
    let record_bytes = request.related_bytes("record").first().filter(|_| record.is_some()).copied().unwrap_or_default();
    if content.metadata.is_terminating() {
        return content_goes(module, request, &content, record, record_bytes);
    }
    // A content that a user made waits for its snapshot, and is protected as the others are.
    if content.status.ready_to_use || content.spec.volume_snapshot_ref.uid.is_empty() {
        return Ok(Plan::new());
    }
    if !content.metadata.finalizers.iter().any(|f| f == CONTENT_PROTECTION) {
        return Ok(with(content.target(), &content.metadata, CONTENT_PROTECTION, &json!({})));
    }
    if content.spec.source.volume_handle.is_empty() {
        return Ok(content_fails(&content, now, "contents that begin with a snapshotHandle are not supported: name a volumeHandle"));
    }
    let volumes: Vec<Volume> = request.related("volume")?;
    let volume = volumes.first().filter(|volume| volume.is_made_by(module.name()));
    let Some(place) = record.or(volume.filter(|volume| !volume.metadata.is_terminating())) else {
        return Ok(content_fails(&content, now, &format!("volume {:?} is gone", content.spec.source.volume_handle)));
    };
    let taken = module.snapshot(&SnapshotRequest {
        name: &content.metadata.name,
        volume: request.related_bytes("volume").first().filter(|_| volume.is_some()).copied().unwrap_or_default(),
        record: record_bytes,
        node: node_bytes(request, |node| place.spec.node_affinity.is_some() && place.is_reachable(&node.name, &node.labels))?,
    });
    let taken = match taken {
        Ok(taken) => taken,
        Err(failure) if failure.code == NOT_YET => return Ok(Plan::new().requeue_after(LOOK_AGAIN)),
        Err(failure) => return Ok(content_fails(&content, now, &failure.message)),
    };
    let mut plan = Plan::new();
    if let (Some(given), None, Some(volume)) = (taken.record, record, volume) {
        plan = plan.create(&Untyped::new(complete(given, module.name(), &content, volume))?);
    }
    let bytes = if taken.size_bytes == 0 { place.capacity() } else { i64::try_from(taken.size_bytes).unwrap_or(i64::MAX) };
    let status = &content.status;
    if status.snapshot_handle != taken.handle || status.ready_to_use != taken.is_ready || !status.error.message.is_empty() {
        let at = record.and_then(|record| record.metadata.creation_timestamp).unwrap_or(now);
        let mut body = content.metadata.precondition();
        body["status"] = json!({"snapshotHandle": taken.handle, "restoreSize": bytes, "readyToUse": taken.is_ready, "error": null});
        if status.creation_time == 0 {
            body["status"]["creationTime"] = json!(at.0.saturating_mul(1_000_000));
        }
        plan = plan.write(Write::merge(content.target(), body).to("status"));
    }
    Ok(if taken.is_ready { plan } else { plan.requeue_after(LOOK_AGAIN) })
}

/// What every record has, beside what the provisioner says: a volume that nobody can claim.
fn complete(mut record: Value, provisioner: &str, content: &Content, volume: &Volume) -> Value {
    record["apiVersion"] = json!("v1");
    record["kind"] = json!("PersistentVolume");
    let meta = &mut record["metadata"];
    meta["name"] = json!(content.metadata.name);
    meta["annotations"][PROVISIONED_BY] = json!(provisioner);
    meta["finalizers"] = json!([PROVISIONED_FINALIZER, RECORD_FINALIZER]);
    let (spec, of) = (&mut record["spec"], &content.spec.volume_snapshot_ref);
    spec["claimRef"] = json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": SNAPSHOT_KIND, "namespace": of.namespace, "name": of.name, "uid": of.uid,
    });
    spec["capacity"] = json!(volume.spec.capacity);
    spec["accessModes"] = json!(volume.spec.access_modes);
    spec["volumeMode"] = json!(volume.spec.volume_mode.as_deref().unwrap_or("Filesystem"));
    spec["persistentVolumeReclaimPolicy"] = json!("Delete");
    record
}

/// A content on its way out: the snapshot first, then its record, then the content itself.
fn content_goes(
    module: &mut impl Provisioner,
    request: &Request<'_>,
    content: &Content,
    record: Option<&Volume>,
    record_bytes: &[u8],
) -> Result<Plan> {
    if !content.metadata.finalizers.iter().any(|f| f == CONTENT_PROTECTION) {
        return Ok(Plan::new());
    }
    let bound = |snapshot: &Snapshot| content.is_of(&snapshot.metadata) && !snapshot.metadata.is_terminating();
    if request.related::<Snapshot>("snapshot")?.iter().any(bound) {
        return Ok(Plan::new());
    }
    let deletes = content.spec.deletion_policy != "Retain";
    if deletes && !content.status.snapshot_handle.is_empty() {
        let on = |node: &Metadata| {
            record.is_some_and(|record| record.spec.node_affinity.is_some() && record.is_reachable(&node.name, &node.labels))
        };
        let removal = SnapshotRemoval { content: request.bytes(), record: record_bytes, node: node_bytes(request, on)? };
        match module.delete_snapshot(&removal) {
            Ok(()) => {}
            Err(failure) if failure.code == NOT_YET => return Ok(Plan::new().requeue_after(LOOK_AGAIN)),
            Err(failure) => return Ok(Plan::new().warning("SnapshotDeleteError", failure.message).requeue_after(RETRY)),
        }
    }
    let Some(record) = record else { return Ok(without(content.target(), &content.metadata, CONTENT_PROTECTION)) };
    if !record.metadata.is_terminating() {
        return Ok(Plan::new().delete(record.target()).requeue_after(LOOK_AGAIN));
    }
    let mut plan = without(record.target(), &record.metadata, RECORD_FINALIZER);
    if let (false, Some(Write { action: crate::Action::Patch(_, body), .. })) = (deletes, plan.writes.first_mut()) {
        body["spec"] = json!({"persistentVolumeReclaimPolicy": "Retain"});
    }
    Ok(plan.requeue_after(LOOK_AGAIN))
}
