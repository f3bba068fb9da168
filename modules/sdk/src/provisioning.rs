//! The controller around a [`Provisioner`]: which claims ask it for a volume, and which of its volumes are to go.
//!
//! The manifest of such a module is a controller's, of claims and of volumes, and of snapshots and their contents if it takes any (see
//! `modules/local-path`). Invariants: a volume's name follows
//! from its claim's uid, so there is never a second one; a volume's object goes only when the provisioner has removed what it stands for.

use std::cell::RefCell;
use std::rc::Rc;

use serde_json::{Value, json};

use crate::snapshots::{Content, Snapshot, of_content, of_snapshot};
use crate::storage::{self, Claim, PROVISIONED_BY, PROVISIONER, SELECTED_NODE, SNAPSHOT_KIND, SNAPSHOTS, StorageClass, Volume};
use crate::{
    Controller, Error, Failure, Metadata, Partial, Plan, Provisioner, Query, Request, Result, Start, Time, Untyped, VolumeRemoval,
    VolumeRequest, VolumeSource, Write,
};
use std::time::Duration;

/// On volumes whose content must go before they do.
pub const PROVISIONED_FINALIZER: &str = "pintle.dev/provisioned-volume";

pub(crate) const RETRY: Duration = Duration::from_secs(15);
/// How soon a claim whose source is not there yet is looked at again.
const AWAIT_SOURCE: Duration = Duration::from_secs(3);
/// How soon what is not done yet is looked at again.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// HTTP's "insufficient storage".
const NO_ROOM: u16 = 507;
pub(crate) const NOT_YET: u16 = 503;

/// A provisioner as a controller of claims and volumes.
pub struct Provisioned<T>(Rc<RefCell<T>>);

impl<T> Clone for Provisioned<T> {
    fn clone(&self) -> Self {
        Provisioned(self.0.clone())
    }
}

impl<T> Provisioned<T> {
    pub(crate) fn shared(&self) -> Rc<RefCell<T>> {
        self.0.clone()
    }
}

impl<T: Provisioner> Controller for Provisioned<T> {
    fn start(start: &Start) -> Result<Self> {
        Ok(Provisioned(Rc::new(RefCell::new(T::start(start)?))))
    }

    fn reconcile(&mut self, now: Time, request: &Request<'_>) -> Result<Plan> {
        let module = &mut *self.0.borrow_mut();
        match request.target.resource.as_str() {
            "persistentvolumeclaims" => of_claim(module, request),
            "persistentvolumes" => of_volume(module, request),
            "volumesnapshots" => of_snapshot(module, now, request),
            "volumesnapshotcontents" => of_content(module, now, request),
            other => Err(Error::undecided(format!("a provisioner does not reconcile {other}"))),
        }
    }
}

fn of_claim(module: &mut impl Provisioner, request: &Request<'_>) -> Result<Plan> {
    let Some(claim) = request.object::<Claim>()? else { return Ok(Plan::new()) };
    if claim.metadata.is_terminating() || claim.annotation(PROVISIONER) != module.name() {
        return Ok(Plan::new());
    }
    let classes: Vec<StorageClass> = request.related("classes")?;
    let of_claim = |class: &StorageClass| class.metadata.name == claim.spec.storage_class_name && class.provisioner == module.name();
    let Some(at) = classes.iter().position(of_claim) else { return Ok(Plan::new()) };
    if !claim.spec.volume_name.is_empty() {
        return expand(module, request, &claim);
    }
    let name = format!("pvc-{}", claim.metadata.uid);
    let exists = request.related_partials("volumes")?.iter().any(|volume| volume.metadata.name == name);
    if exists || (classes[at].waits() && claim.annotation(SELECTED_NODE).is_empty()) {
        return Ok(Plan::new());
    }
    provision(module, request, &claim, (&classes[at], request.related_bytes("classes")[at]), &name)
}

fn provision(
    module: &mut impl Provisioner,
    request: &Request<'_>,
    claim: &Claim,
    (class, class_bytes): (&StorageClass, &[u8]),
    name: &str,
) -> Result<Plan> {
    let selected = claim.annotation(SELECTED_NODE);
    let node = node_bytes(request, |node| node.name == selected)?;
    if !selected.is_empty() && node.is_empty() {
        return Ok(Plan::new().write(unselect(claim)).warning("ProvisioningFailed", format!("node {selected:?} is gone")));
    }
    let source = match claim.source() {
        None => Ok(None),
        Some(_) if !module.can_copy() => Err(unsupported("volumes of this class cannot begin with a copy")),
        Some(_) => source(module, request, claim)?.map(Some),
    };
    let wanted = |source| VolumeRequest {
        name,
        selected_node: selected,
        capacity_bytes: u64::try_from(claim.wanted()).unwrap_or(0),
        source,
        claim: request.bytes(),
        storage_class: class_bytes,
        node,
    };
    let refused = match claim.spec.selector {
        Some(_) => Err(unsupported("claim.spec.selector is not supported: volumes are made for one claim")),
        None => source,
    };
    match refused.and_then(|source| module.provision(&wanted(source))) {
        Ok(volume) => {
            let volume = Untyped::new(complete(volume, module.name(), claim, class, name))?;
            let made = format!("Successfully provisioned volume {name}");
            Ok(Plan::new().create(&volume).event("ProvisioningSucceeded", made))
        }
        Err(failure) => {
            let why = format!("failed to provision volume with StorageClass {:?}: {}", class.metadata.name, failure.message);
            let again = if failure.code == NO_ROOM && class.waits() { Plan::new().write(unselect(claim)) } else { Plan::new() };
            let pause = if failure.code == NOT_YET { AWAIT_SOURCE } else { RETRY };
            Ok(again.warning("ProvisioningFailed", why).requeue_after(pause))
        }
    }
}

/// What a claim's volume is to begin with, or why it cannot. The inner failure's code is 503 where that may change by itself.
fn source<'a>(module: &impl Provisioner, request: &Request<'a>, claim: &Claim) -> Result<Result<VolumeSource<'a>, Failure>> {
    let Some(named) = claim.source() else { return Ok(Err(unsupported("no source is named"))) };
    let not_yet = |message: String| Ok(Err(Failure { code: NOT_YET, reason: "ServiceUnavailable".into(), message }));
    let refuse = |message: String| Ok(Err(Failure { code: 422, reason: "Invalid".into(), message }));
    let (namespace, name) = (claim.metadata.namespace.as_str(), named.name.as_str());
    if named.namespace.as_deref().is_some_and(|other| !other.is_empty() && other != namespace) {
        return refuse("a source in another namespace is not supported".into());
    }
    let mode = |mode: &Option<String>| mode.as_deref().unwrap_or("Filesystem").to_owned();
    if named.is("", "PersistentVolumeClaim") {
        let found = request.read::<Claim>(&Query::one("", "persistentvolumeclaims", namespace, name))?.pop();
        let Some(found) = found.filter(|found| !found.metadata.is_terminating()) else {
            return not_yet(format!("persistentvolumeclaim {name:?} is not found"));
        };
        if !found.is_bound() {
            return not_yet(format!("persistentvolumeclaim {name:?} is not bound to a volume yet"));
        }
        let query = Query::one("", "persistentvolumes", "", &found.spec.volume_name);
        let volume = request.read::<Volume>(&query)?.pop().filter(|volume| volume.is_for(&found) && !volume.metadata.is_terminating());
        let (Some(volume), Some(bytes)) = (volume, request.related_bytes(&query.to_string()).first()) else {
            return not_yet(format!("the volume of persistentvolumeclaim {name:?} is not found"));
        };
        if !volume.is_made_by(module.name()) {
            return refuse(format!("the volume of persistentvolumeclaim {name:?} was not made by {}", module.name()));
        }
        if mode(&volume.spec.volume_mode) != mode(&claim.spec.volume_mode) {
            return refuse(format!("volumeMode is not that of persistentvolumeclaim {name:?}"));
        }
        if claim.wanted() < volume.capacity() {
            return refuse(format!(
                "requested volume size {} is less than the size {} of the source claim",
                claim.wanted(),
                volume.capacity()
            ));
        }
        return Ok(Ok(VolumeSource::Volume(bytes)));
    }
    if !named.is(SNAPSHOTS, SNAPSHOT_KIND) {
        return refuse(format!("a source of kind {:?} is not supported: VolumeSnapshot and PersistentVolumeClaim are", named.kind));
    }
    let found = request.read::<Snapshot>(&Query::one(SNAPSHOTS, "volumesnapshots", namespace, name))?.pop();
    let Some(found) = found.filter(|found| !found.metadata.is_terminating()) else {
        return not_yet(format!("volumesnapshot {name:?} is not found"));
    };
    let content_name = &found.status.bound_volume_snapshot_content_name;
    if !found.status.ready_to_use || content_name.is_empty() {
        return not_yet(format!("volumesnapshot {name:?} is not ready to use"));
    }
    let query = Query::one(SNAPSHOTS, "volumesnapshotcontents", "", content_name);
    let content =
        request.read::<Content>(&query)?.pop().filter(|content| !content.metadata.is_terminating() && content.status.ready_to_use);
    let (Some(content), Some(bytes)) = (content, request.related_bytes(&query.to_string()).first()) else {
        return not_yet(format!("volumesnapshotcontent {content_name:?} is not ready to use"));
    };
    if content.spec.driver != module.name() {
        return refuse(format!("volumesnapshot {name:?} was taken by {}, not by {}", content.spec.driver, module.name()));
    }
    if claim.wanted() < content.status.restore_size {
        let (wanted, least) = (claim.wanted(), content.status.restore_size);
        return refuse(format!("requested volume size {wanted} is less than the size {least} for the source snapshot"));
    }
    let query = Query::one("", "persistentvolumes", "", content_name);
    let record = request.read::<Volume>(&query)?.pop().filter(|record| record.is_snapshot() && record.is_made_by(module.name()));
    let record = record.and_then(|_| request.related_bytes(&query.to_string()).first()).copied().unwrap_or_default();
    Ok(Ok(VolumeSource::Snapshot { content: bytes, record }))
}

fn unsupported(message: &str) -> Failure {
    Failure { code: 501, reason: "NotImplemented".into(), message: message.into() }
}

/// Lets the scheduler choose again.
fn unselect(claim: &Claim) -> Write {
    let mut body = claim.metadata.precondition();
    body["metadata"]["annotations"] = json!({SELECTED_NODE: null});
    Write::merge(claim.target(), body)
}

/// What every volume has that was made for a claim, beside what the provisioner says.
fn complete(mut volume: Value, provisioner: &str, claim: &Claim, class: &StorageClass, name: &str) -> Value {
    volume["apiVersion"] = json!("v1");
    volume["kind"] = json!("PersistentVolume");
    let meta = &mut volume["metadata"];
    meta["name"] = json!(name);
    meta["annotations"][PROVISIONED_BY] = json!(provisioner);
    meta["finalizers"] = json!([PROVISIONED_FINALIZER]);
    let spec = &mut volume["spec"];
    spec["claimRef"] = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.metadata.namespace, "name": claim.metadata.name,
        "uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version,
    });
    spec["storageClassName"] = json!(class.metadata.name);
    let mut usual = |key: &str, value: Value| {
        if spec[key].is_null() {
            spec[key] = value;
        }
    };
    usual("capacity", json!({"storage": claim.spec.resources.requests.get("storage")}));
    usual("accessModes", json!(claim.spec.access_modes));
    usual("persistentVolumeReclaimPolicy", json!(class.reclaim_policy.as_deref().unwrap_or("Delete")));
    usual("volumeMode", json!(claim.spec.volume_mode.as_deref().unwrap_or("Filesystem")));
    if !class.mount_options.is_empty() {
        usual("mountOptions", json!(class.mount_options));
    }
    volume
}

/// A bound claim that asks for more: the volume grows first, then the claim says so.
fn expand(module: &mut impl Provisioner, request: &Request<'_>, claim: &Claim) -> Result<Plan> {
    let wanted = claim.wanted();
    let has = storage::storage(&claim.status.capacity);
    if !claim.is_bound() || claim.status.phase != "Bound" || has == 0 || wanted <= has {
        return Ok(Plan::new());
    }
    let Some(bytes) = request.related_bytes("volume").first() else { return Ok(Plan::new()) };
    let Some(volume) = request.related::<Volume>("volume")?.pop() else { return Ok(Plan::new()) };
    if !volume.is_for(claim) {
        return Ok(Plan::new());
    }
    let mut plan = Plan::new();
    let mut capacity = json!(volume.spec.capacity);
    if volume.capacity() < wanted {
        match module.expand(bytes, u64::try_from(wanted).unwrap_or(0)) {
            Ok(grown) => capacity = grown["spec"]["capacity"].clone(),
            Err(failure) => return Ok(Plan::new().warning("VolumeResizeFailed", failure.message).requeue_after(RETRY)),
        }
        let mut body = volume.metadata.precondition();
        body["spec"] = json!({"capacity": capacity});
        plan = plan.write(Write::merge(volume.target(), body));
    }
    let mut body = claim.metadata.precondition();
    body["status"] = json!({"capacity": capacity});
    let grown = format!("volume {} has grown", volume.metadata.name);
    Ok(plan.write(Write::merge(claim.target(), body).to("status")).event("VolumeResizeSuccessful", grown))
}

fn of_volume(module: &mut impl Provisioner, request: &Request<'_>) -> Result<Plan> {
    let Some(volume) = request.object::<Volume>()? else { return Ok(Plan::new()) };
    let meta = &volume.metadata;
    if !volume.is_made_by(module.name()) {
        return Ok(Plan::new());
    }
    let deletes = volume.spec.persistent_volume_reclaim_policy == "Delete";
    if !meta.is_terminating() {
        let over = deletes && volume.status.phase == "Released" && !volume.is_snapshot();
        return Ok(if over { Plan::new().delete(volume.target()) } else { Plan::new() });
    }
    // Whoever protects the volume goes first.
    if meta.finalizers != [PROVISIONED_FINALIZER] {
        return Ok(Plan::new());
    }
    let done = if deletes {
        let on = |node: &Metadata| volume.spec.node_affinity.is_some() && volume.is_reachable(&node.name, &node.labels);
        module.delete(&VolumeRemoval { volume: request.bytes(), node: node_bytes(request, on)? })
    } else {
        Ok(())
    };
    match done {
        Ok(()) => {
            let mut body = meta.precondition();
            body["metadata"]["finalizers"] = json!([]);
            Ok(Plan::new().patch(volume.target(), body))
        }
        Err(failure) if failure.code == NOT_YET => Ok(Plan::new().requeue_after(LOOK_AGAIN)),
        Err(failure) => Ok(Plan::new().warning("VolumeFailedDelete", failure.message).requeue_after(RETRY)),
    }
}

/// The JSON of the first node that is meant; empty when there is none.
pub(crate) fn node_bytes<'a>(request: &Request<'a>, mut meant: impl FnMut(&Metadata) -> bool) -> Result<&'a [u8]> {
    let nodes: Vec<Partial> = request.related("nodes")?;
    let at = nodes.iter().position(|node| meant(&node.metadata));
    Ok(at.and_then(|at| request.related_bytes("nodes").get(at)).copied().unwrap_or_default())
}
