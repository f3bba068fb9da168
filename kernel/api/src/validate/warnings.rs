//! What is accepted, and yet most likely not meant: for `Warning` headers.

use serde_json::Value;

use crate::pod;
use crate::resource::Resource;

/// Where kinds have their pods' spec.
const POD_SPECS: [&str; 4] = ["/spec/jobTemplate/spec/template/spec", "/spec/template/spec", "/template/spec", "/spec"];

/// Warnings about an object that passed validation.
pub fn warnings(resource: &Resource, object: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    let specs = POD_SPECS.iter().filter_map(|pointer| Some((pointer, object.pointer(pointer)?)));
    if let Some((pointer, spec)) = specs.into_iter().find(|(_, spec)| spec["containers"].is_array()) {
        pod_warnings(&pointer.trim_start_matches('/').replace('/', "."), spec, &mut warnings);
    }
    if resource.plural == "services" && object["spec"]["sessionAffinity"] == "ClientIP" && object["spec"]["clusterIP"] == "None" {
        warnings.push("spec.SessionAffinity is ignored for headless services".to_owned());
    }
    warnings
}

fn pod_warnings(at: &str, spec: &Value, warnings: &mut Vec<String>) {
    for (list, index, container) in pod::containers(spec) {
        let env = container["env"].as_array().map_or(&[][..], Vec::as_slice);
        for (place, variable) in env.iter().enumerate() {
            if env[..place].iter().any(|other| other["name"] == variable["name"]) {
                let name = &variable["name"];
                warnings.push(format!(
                    "{at}.{list}[{index}].env[{place}]: hides previous definition of {name}, which may be dropped when using apply"
                ));
            }
        }
        let ports = container["ports"].as_array().map_or(&[][..], Vec::as_slice);
        for (place, port) in ports.iter().enumerate() {
            let same = |other: &Value| ["containerPort", "protocol", "hostPort", "hostIP"].iter().all(|key| other[key] == port[key]);
            if let Some(first) = ports[..place].iter().position(same) {
                warnings.push(format!(
                    "{at}.{list}[{index}].ports[{place}]: duplicate port definition with {at}.{list}[{index}].ports[{first}]"
                ));
            }
        }
    }
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0) {
        warnings.push(format!("{at}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"));
    }
}
