//! Gives every namespace a ConfigMap `kube-root-ca.crt` with the certificate authority that clients of the API trust; pods find it beside
//! their token.
//!
//! Not here: how pods mount it (admission adds that), and the authority itself (the kernel makes it and says it at the start).
//! Invariant: `data["ca.crt"]` is the kernel's; other entries of the map are left alone.

mod plan;

use pintle_sdk::prelude::*;

/// The publisher and what it publishes.
pub struct RootCaPublisher {
    pem: String,
}

impl Controller for RootCaPublisher {
    fn start(start: &Start) -> Result<Self> {
        if start.cluster.root_ca_pem.is_empty() {
            return Err(Error::undecided("the kernel has not said which certificate authority to publish"));
        }
        Ok(RootCaPublisher { pem: start.cluster.root_ca_pem.clone() })
    }

    fn reconcile(&mut self, _now: Time, request: &Request<'_>) -> Result<Plan> {
        let Some(namespace) = request.object::<Partial>()? else { return Ok(Plan::new()) };
        plan::plan(&self.pem, &namespace.metadata, &request.related("configmaps")?)
    }
}

pintle_sdk::controller!(RootCaPublisher);
