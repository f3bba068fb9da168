//! One volume: whether it is free, bound or left behind, and that it stays while it is bound. Pure.

use pintle_sdk::prelude::*;
use pintle_sdk::storage::{BOUND_BY_CONTROLLER, Claim, PROVISIONED_BY, Volume};

use crate::{RESYNC, VOLUME_PROTECTION, release};

/// Decides about one PersistentVolume.
pub fn reconcile(request: &Request<'_>) -> Result<Plan> {
    let Some(volume) = request.object::<Volume>()? else { return Ok(Plan::new()) };
    Ok(plan(&volume, request.related::<Claim>("claim")?.first()))
}

/// `claim`: the one of the name that the volume says, whether or not it is the same.
fn plan(volume: &Volume, claim: Option<&Claim>) -> Plan {
    let phase = volume.status.phase.as_str();
    let Some(reference) = volume.spec.claim_ref.as_ref().filter(|reference| !reference.uid.is_empty()) else {
        return status(volume, "Available", "").then(unprotect(volume, "Available"));
    };
    match claim.filter(|claim| claim.metadata.uid == reference.uid) {
        Some(claim) if claim.spec.volume_name == volume.metadata.name => status(volume, "Bound", ""),
        // Its claim will name it; should that not happen, its end is looked for.
        Some(claim) if claim.spec.volume_name.is_empty() => unprotect(volume, phase).requeue_after(RESYNC),
        Some(_) if made_for_claims(volume) => left_behind(volume),
        Some(_) => unbind(volume),
        None => left_behind(volume),
    }
}

fn made_for_claims(volume: &Volume) -> bool {
    volume.metadata.annotations.contains_key(PROVISIONED_BY)
}

/// Its claim is gone, or took another one.
fn left_behind(volume: &Volume) -> Plan {
    let policy = volume.spec.persistent_volume_reclaim_policy.as_str();
    let failed = |reason: &str, why: &str| {
        let told = if volume.status.message == why { Plan::new() } else { Plan::new().warning(reason, why) };
        status(volume, "Failed", why).then(told).then(unprotect(volume, "Failed"))
    };
    match policy {
        "Delete" if !made_for_claims(volume) => failed("VolumeFailedDelete", "nothing here deletes this volume: no provisioner made it"),
        "Recycle" => failed("VolumeFailedRecycle", "the reclaim policy Recycle is not supported; use Delete or Retain"),
        _ => status(volume, "Released", "").then(unprotect(volume, "Released")),
    }
}

/// Free again: a controller chose a claim that went elsewhere. What a user wrote stays, without the uid.
fn unbind(volume: &Volume) -> Plan {
    let mut body = volume.metadata.precondition();
    if volume.metadata.annotations.contains_key(BOUND_BY_CONTROLLER) {
        body["metadata"]["annotations"] = json!({BOUND_BY_CONTROLLER: null});
        body["spec"] = json!({"claimRef": null});
    } else {
        body["spec"] = json!({"claimRef": {"uid": null, "resourceVersion": null}});
    }
    Plan::new().patch(volume.target(), body)
}

fn status(volume: &Volume, phase: &str, message: &str) -> Plan {
    // What others say beside the phase stays.
    if volume.status.phase == phase && (message.is_empty() || volume.status.message == message) {
        return Plan::new();
    }
    let mut body = volume.metadata.precondition();
    let message = Some(message).filter(|message| !message.is_empty());
    body["status"] = json!({"phase": phase, "message": message});
    Plan::new().write(Write::merge(volume.target(), body).to("status"))
}

/// A volume on its way out is let go unless a claim has it. Not in the same breath as a change of its phase: that has made it another version.
fn unprotect(volume: &Volume, phase: &str) -> Plan {
    if volume.metadata.is_terminating() && volume.status.phase == phase && phase != "Bound" {
        release(volume.target(), &volume.metadata, VOLUME_PROTECTION)
    } else {
        Plan::new()
    }
}
