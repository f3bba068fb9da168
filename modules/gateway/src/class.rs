//! GatewayClasses of ours are accepted.

use pintle_sdk::prelude::*;

use crate::conditions::{Said, list};
use crate::model::Class;
use crate::{CONTROLLER, GROUP};

/// Says so, once.
pub fn reconcile(now: Time, request: &Request<'_>) -> Result<Plan> {
    let Some(class) = request.object::<Class>()? else { return Ok(Plan::new()) };
    if class.spec.controller_name != CONTROLLER || class.metadata.is_terminating() {
        return Ok(Plan::new());
    }
    let wanted = list(now, class.metadata.generation, &[Said::holds("Accepted")], &class.status["conditions"]);
    if class.status["conditions"] == wanted {
        return Ok(Plan::new());
    }
    Ok(Plan::new().patch_status(ObjectRef::of(GROUP, "gatewayclasses", &class.metadata), json!({"conditions": wanted})))
}
