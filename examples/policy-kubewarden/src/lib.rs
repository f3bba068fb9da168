//! A policy for Kubewarden: labels that are not allowed refuse a request, and a label that is wanted is added.

use kubewarden_policy_sdk::{
    accept_request, mutate_request, protocol_version_guest, reject_request, request::ValidationRequest, settings::Validatable,
    validate_settings,
};
use serde::Deserialize;
use wapc_guest::prelude::*;

/// The policy's settings.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    denied: Vec<String>,
    owner: Option<String>,
}

impl Validatable for Settings {
    fn validate(&self) -> Result<(), String> {
        if self.denied.is_empty() { Err("denied must name at least one label".into()) } else { Ok(()) }
    }
}

#[unsafe(no_mangle)]
extern "C" fn wapc_init() {
    register_function("validate", validate);
    register_function("validate_settings", validate_settings::<Settings>);
    register_function("protocol_version", protocol_version_guest);
}

fn validate(payload: &[u8]) -> CallResult {
    let ValidationRequest::<Settings> { settings, request } = ValidationRequest::new(payload)?;
    let labels = &request.object["metadata"]["labels"];
    if let Some(label) = settings.denied.iter().find(|label| labels.get(label.as_str()).is_some()) {
        return reject_request(Some(format!("label {label} is not allowed in {}", request.namespace)), Some(422), None, None);
    }
    match settings.owner {
        Some(owner) if labels.get("owner").is_none() => {
            let mut object = request.object.clone();
            object["metadata"]["labels"]["owner"] = owner.into();
            mutate_request(object)
        }
        _ => accept_request(),
    }
}
