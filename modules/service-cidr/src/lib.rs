//! Shows which Service has which address, as IPAddress objects, and keeps a ServiceCIDR until no address is out of it alone.
//!
//! Not here: who gives the addresses. The kernel does, when a Service is written, and sees to it that no two have the same; it reads ServiceCIDRs and
//! IPAddresses for that. Rules: <https://kubernetes.io/docs/tasks/network/extend-service-ip-ranges/>.
//!
//! Invariant: an IPAddress that this module did not make is never deleted.

mod address;
mod range;

use pintle_sdk::prelude::*;

/// The group of both kinds.
const GROUP: &str = "networking.k8s.io";

/// The controllers; they remember nothing.
pub struct ServiceCidrs;

impl Controller for ServiceCidrs {
    fn start(_: &Start) -> Result<Self> {
        Ok(ServiceCidrs)
    }

    fn reconcile(&mut self, now: Time, request: &Request<'_>) -> Result<Plan> {
        match request.target.resource.as_str() {
            "ipaddresses" => address::reconcile(request),
            "servicecidrs" => range::reconcile(now, request),
            other => Err(Error::undecided(format!("this module does not reconcile {other}"))),
        }
    }
}

pintle_sdk::controller!(ServiceCidrs);

#[cfg(test)]
mod tests;
