//! The controller around a [`Provisioner`]: which claims ask it for a volume, and which of its volumes are to go.
//!
//! The manifest of such a module is a controller's, of claims and of volumes (see `modules/local-path`). Invariants: a volume's name follows
//! from its claim's uid, so there is never a second one; a volume's object goes only when the provisioner has removed what it stands for.

use std::cell::RefCell;
use std::rc::Rc;

use serde_json::{Value, json};

use crate::storage::{self, Claim, PROVISIONED_BY, PROVISIONER, SELECTED_NODE, StorageClass, Volume};
use crate::{
    Controller, Error, Failure, Metadata, Partial, Plan, Provisioner, Request, Result, Start, Time, Untyped, VolumeRemoval, VolumeRequest,
    Write,
};
use std::time::Duration;

/// On volumes whose content must go before they do.
pub const PROVISIONED_FINALIZER: &str = "pintle.dev/provisioned-volume";

const RETRY: Duration = Duration::from_secs(15);
/// How soon a removal that is not done yet is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// HTTP's "insufficient storage".
const NO_ROOM: u16 = 507;
const NOT_YET: u16 = 503;

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

    fn reconcile(&mut self, _: Time, request: &Request<'_>) -> Result<Plan> {
        let module = &mut *self.0.borrow_mut();
        match request.target.resource.as_str() {
            "persistentvolumeclaims" => of_claim(module, request),
            "persistentvolumes" => of_volume(module, request),
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
    let wanted = VolumeRequest {
        name,
        selected_node: selected,
        capacity_bytes: u64::try_from(claim.wanted()).unwrap_or(0),
        claim: request.bytes(),
        storage_class: class_bytes,
        node,
    };
    let refused = if claim.spec.data_source.is_some() {
        Err(unsupported("volumes of this class cannot begin with a copy"))
    } else if claim.spec.selector.is_some() {
        Err(unsupported("claim.spec.selector is not supported: volumes are made for one claim"))
    } else {
        Ok(())
    };
    match refused.and_then(|()| module.provision(&wanted)) {
        Ok(volume) => {
            let volume = Untyped::new(complete(volume, module.name(), claim, class, name))?;
            let made = format!("Successfully provisioned volume {name}");
            Ok(Plan::new().create(&volume).event("ProvisioningSucceeded", made))
        }
        Err(failure) => {
            let why = format!("failed to provision volume with StorageClass {:?}: {}", class.metadata.name, failure.message);
            let again = if failure.code == NO_ROOM && class.waits() { Plan::new().write(unselect(claim)) } else { Plan::new() };
            Ok(again.warning("ProvisioningFailed", why).requeue_after(RETRY))
        }
    }
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
    if meta.annotations.get(PROVISIONED_BY).is_none_or(|by| by != module.name()) {
        return Ok(Plan::new());
    }
    let deletes = volume.spec.persistent_volume_reclaim_policy == "Delete";
    if !meta.is_terminating() {
        let over = deletes && volume.status.phase == "Released";
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
fn node_bytes<'a>(request: &Request<'a>, mut meant: impl FnMut(&Metadata) -> bool) -> Result<&'a [u8]> {
    let nodes: Vec<Partial> = request.related("nodes")?;
    let at = nodes.iter().position(|node| meant(&node.metadata));
    Ok(at.and_then(|at| request.related_bytes("nodes").get(at)).copied().unwrap_or_default())
}
