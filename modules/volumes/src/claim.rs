//! One claim: which volume it gets, what it says of itself, and that it stays while a pod uses it. Pure.

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;
use pintle_sdk::storage::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, Claim, PROVISIONER, PROVISIONER_BEFORE, SELECTED_NODE, StorageClass, Volume, best,
};
use serde::Deserialize;

use crate::{CLAIM_PROTECTION, RESYNC, release};

/// How soon a claim on its way out is looked at again while a pod uses it.
const IN_USE: Duration = Duration::from_secs(5);

/// A pod, as far as it uses claims.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Pod {
    pub(crate) metadata: Metadata,
    spec: PodSpec,
    status: PodStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: String,
    volumes: Vec<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    phase: String,
}

impl Pod {
    /// It has a machine, runs, and mounts the claim.
    pub(crate) fn uses(&self, claim: &str) -> bool {
        self.claims().iter().any(|name| name == claim)
    }

    /// The claims that it mounts, if it has a machine and runs.
    pub(crate) fn claims(&self) -> Vec<String> {
        let over = matches!(self.status.phase.as_str(), "Succeeded" | "Failed");
        let claim = |volume: &Value| {
            let own = || Some(format!("{}-{}", self.metadata.name, volume["name"].as_str()?)).filter(|_| !volume["ephemeral"].is_null());
            volume["persistentVolumeClaim"]["claimName"].as_str().map(str::to_owned).or_else(own)
        };
        if self.spec.node_name.is_empty() || over { Vec::new() } else { self.spec.volumes.iter().filter_map(claim).collect() }
    }
}

/// Decides about one PersistentVolumeClaim.
pub fn reconcile(request: &Request<'_>) -> Result<Plan> {
    let Some(claim) = request.object::<Claim>()? else { return Ok(Plan::new()) };
    if claim.metadata.is_terminating() {
        let used = request.related::<Pod>("pods")?.iter().any(|pod| pod.uses(&claim.metadata.name));
        // Pods that mount the claim wake it when they change; one whose own it is does not.
        return Ok(if used { Plan::new().requeue_after(IN_USE) } else { release(claim.target(), &claim.metadata, CLAIM_PROTECTION) });
    }
    let volumes: Vec<Volume> = request.related("volumes")?;
    if claim.spec.volume_name.is_empty() {
        return Ok(unbound(&claim, &volumes, &request.related::<StorageClass>("classes")?));
    }
    Ok(named(&claim, volumes.iter().find(|volume| volume.metadata.name == claim.spec.volume_name)))
}

/// A claim that names no volume: one is found for it, or asked for, or it is told why not.
fn unbound(claim: &Claim, volumes: &[Volume], classes: &[StorageClass]) -> Plan {
    let class_name = claim.spec.storage_class_name.as_str();
    let class = classes.iter().find(|class| class.metadata.name == class_name);
    let meant = volumes.iter().any(|volume| volume.is_for(claim));
    // The scheduler chooses for claims that wait, by naming the claim in a volume or the node in the claim.
    let waits = class.is_some_and(StorageClass::waits) && !meant;
    if waits && claim.annotation(SELECTED_NODE).is_empty() {
        return Plan::new()
            .event("WaitForFirstConsumer", "waiting for first consumer to be created before binding")
            .requeue_after(RESYNC)
            .then(ask_for(claim, class));
    }
    if let Some(volume) = best(claim, volumes).filter(|_| !waits) {
        return match volume.misfit(claim) {
            None => bind(claim, volume),
            // A user wrote the claim's name into a volume that does not do.
            Some(why) => mismatch(volume, why),
        };
    }
    let waiting = match class {
        Some(class) if class.provisions() => Plan::new().event(
            "ExternalProvisioning",
            format!(
                "Waiting for a volume to be created either by the external provisioner '{}' or manually by the system administrator. \
                 If volume creation is delayed, please verify that the provisioner is running and correctly registered.",
                class.provisioner
            ),
        ),
        Some(_) => Plan::new()
            .event("FailedBinding", "no persistent volumes available for this claim and nobody makes volumes of its storage class"),
        None if class_name.is_empty() => {
            Plan::new().event("FailedBinding", "no persistent volumes available for this claim and no storage class is set")
        }
        None => Plan::new().warning("ProvisioningFailed", format!("storageclass.storage.k8s.io {class_name:?} not found")),
    };
    waiting.requeue_after(RESYNC).then(ask_for(claim, class))
}

/// Names the provisioner on the claim.
fn ask_for(claim: &Claim, class: Option<&StorageClass>) -> Plan {
    let Some(class) = class.filter(|class| class.provisions() && claim.annotation(PROVISIONER) != class.provisioner) else {
        return Plan::new();
    };
    let mut body = claim.metadata.precondition();
    body["metadata"]["annotations"] = json!({PROVISIONER: class.provisioner, PROVISIONER_BEFORE: class.provisioner});
    Plan::new().patch(claim.target(), body)
}

/// A claim that names a volume: by a user's will, or because it was bound.
fn named(claim: &Claim, volume: Option<&Volume>) -> Plan {
    let name = &claim.spec.volume_name;
    let Some(volume) = volume else {
        return match claim.is_bound() {
            true => phase(claim, "Lost", "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!".into()),
            false => Plan::new().event("FailedBinding", format!("volume {name:?} not found")).requeue_after(RESYNC),
        };
    };
    match &volume.spec.claim_ref {
        Some(_) if volume.is_for(claim) => {}
        Some(_) if claim.is_bound() => {
            let why = "Two claims are bound to the same volume, this one is bound incorrectly".to_owned();
            return phase(claim, "Lost", "ClaimMisbound", why);
        }
        Some(_) => {
            return Plan::new()
                .event("FailedBinding", format!("volume {name:?} already bound to a different claim."))
                .requeue_after(RESYNC);
        }
        None => {}
    }
    match volume.misfit(claim).filter(|_| !claim.is_bound()) {
        Some(why) => mismatch(volume, why),
        None => bind(claim, volume),
    }
}

fn mismatch(volume: &Volume, why: &str) -> Plan {
    let why = format!("Cannot bind to requested volume {:?}: {why}", volume.metadata.name);
    Plan::new().warning("VolumeMismatch", why).requeue_after(RESYNC)
}

fn phase(claim: &Claim, phase: &str, reason: &str, why: String) -> Plan {
    if claim.status.phase == phase {
        return Plan::new();
    }
    let mut body = claim.metadata.precondition();
    body["status"] = json!({"phase": phase});
    Plan::new().write(Write::merge(claim.target(), body).to("status")).warning(reason, why)
}

/// What is still missing of the bond: the volume's side, the claim's side, the claim's status. Each step makes a new version of the claim or the
/// volume, so they are taken one at a time unless they are about different objects.
fn bind(claim: &Claim, volume: &Volume) -> Plan {
    let mut plan = Plan::new();
    let uid = volume.spec.claim_ref.as_ref().map_or("", |reference| reference.uid.as_str());
    if uid != claim.metadata.uid {
        let mut body = volume.metadata.precondition();
        if volume.spec.claim_ref.is_none() {
            body["metadata"]["annotations"] = json!({BOUND_BY_CONTROLLER: "yes"});
        }
        body["spec"] = json!({"claimRef": {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.metadata.namespace, "name": claim.metadata.name,
            "uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version,
        }});
        plan = plan.patch(volume.target(), body);
    }
    if !claim.is_bound() {
        let mut body = claim.metadata.precondition();
        body["metadata"]["annotations"] = json!({BIND_COMPLETED: "yes"});
        if claim.spec.volume_name.is_empty() {
            body["metadata"]["annotations"][BOUND_BY_CONTROLLER] = json!("yes");
            body["spec"] = json!({"volumeName": volume.metadata.name});
        }
        return plan.patch(claim.target(), body);
    }
    if claim.status.phase != "Bound" {
        let mut body = claim.metadata.precondition();
        body["status"] = json!({"phase": "Bound", "accessModes": volume.spec.access_modes, "capacity": volume.spec.capacity});
        plan = plan.write(Write::merge(claim.target(), body).to("status"));
    }
    plan
}
