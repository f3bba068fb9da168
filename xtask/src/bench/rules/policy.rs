//! The check that the bench asks of every language, as a policy for Kubewarden: images say which version they are.

use kubewarden_policy_sdk::{accept_request, protocol_version_guest, reject_request, request::ValidationRequest, settings::Validatable, validate_settings};
use serde::Deserialize;
use wapc_guest::prelude::*;

#[derive(Default, Deserialize)]
struct Settings {}

impl Validatable for Settings {
    fn validate(&self) -> Result<(), String> {
        Ok(())
    }
}

#[unsafe(no_mangle)]
extern "C" fn wapc_init() {
    register_function("validate", validate);
    register_function("validate_settings", validate_settings::<Settings>);
    register_function("protocol_version", protocol_version_guest);
}

fn validate(payload: &[u8]) -> CallResult {
    let ValidationRequest::<Settings> { request, .. } = ValidationRequest::new(payload)?;
    let spec = &request.object["spec"];
    let containers = ["containers", "initContainers"].iter().filter_map(|field| spec[field].as_array()).flatten();
    let mut images = containers.map(|container| container["image"].as_str().unwrap_or_default());
    match images.find(|image| !is_pinned(image)) {
        Some(image) => reject_request(Some(format!("image {image} must have a tag other than latest, or a digest")), None, None, None),
        None => accept_request(),
    }
}

fn is_pinned(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or(image);
    image.contains('@') || name.split_once(':').is_some_and(|(_, tag)| !tag.is_empty() && tag != "latest")
}
