//! Controllers of storage: which claim gets which volume, what becomes of volumes whose claim is gone, claims that are made for a pod, and which
//! machine a storage driver's volume is attached to.
//!
//! Not here: making and removing volumes (provisioners), and which node a pod's volumes are reached from (the scheduler).
//! Invariant: a volume names its claim before the claim names it, each write with the other's uid or a precondition, so that two claims
//! never think that they have one volume. What is in use is protected by a finalizer that goes last.

mod attach;
mod claim;
mod ephemeral;
mod volume;

use pintle_sdk::prelude::*;

/// On claims, until no pod uses them.
pub(crate) const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
/// On volumes, until no claim is bound to them.
pub(crate) const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";
/// How often a claim that waits is looked at again, as upstream does it.
pub(crate) const RESYNC: Duration = Duration::from_secs(15);

/// The controllers; they remember nothing.
pub struct Volumes;

impl Controller for Volumes {
    fn start(_: &Start) -> Result<Self> {
        Ok(Volumes)
    }

    fn reconcile(&mut self, _: Time, request: &Request<'_>) -> Result<Plan> {
        match request.target.resource.as_str() {
            "persistentvolumeclaims" => claim::reconcile(request),
            "persistentvolumes" => volume::reconcile(request),
            "pods" => ephemeral::reconcile(request),
            "csinodes" => attach::reconcile(request),
            other => Err(Error::undecided(format!("this module does not reconcile {other}"))),
        }
    }
}

/// Takes a finalizer off, if it is there.
pub(crate) fn release(target: ObjectRef, metadata: &Metadata, finalizer: &str) -> Plan {
    if !metadata.finalizers.iter().any(|f| f == finalizer) {
        return Plan::new();
    }
    let mut body = metadata.precondition();
    body["metadata"]["finalizers"] = json!(metadata.finalizers.iter().filter(|f| *f != finalizer).collect::<Vec<_>>());
    Plan::new().patch(target, body)
}

pintle_sdk::controller!(Volumes);

#[cfg(test)]
mod tests;
