//! Rules about storage: volumes, claims, classes, drivers.

use serde_json::Value;

use super::{Failures, Object, Rule, list, names, text};
use crate::path::Path;
use crate::status::FieldError;

#[rustfmt::skip]
const VOLUME_SOURCES: &[&str] = &[
    "awsElasticBlockStore", "azureDisk", "azureFile", "cephfs", "cinder", "csi", "fc", "flexVolume", "flocker", "gcePersistentDisk",
    "glusterfs", "hostPath", "iscsi", "local", "nfs", "photonPersistentDisk", "portworxVolume", "quobyte", "rbd", "scaleIO", "storageos",
    "vsphereVolume",
];

#[rustfmt::skip]
pub(super) static RULES: &[(&str, &[Rule])] = &[
    ("api.core.v1.PersistentVolumeSpec", &[
        Rule::ExactlyOne(VOLUME_SOURCES, "must specify a volume type"), Rule::Amounts("capacity"), Rule::Check(capacity),
        Rule::Format("storageClassName", names::dns_subdomain), Rule::Check(alone),
    ]),
    ("api.core.v1.PersistentVolumeClaimSpec", &[
        Rule::Format("storageClassName", names::dns_subdomain), Rule::Format("volumeAttributesClassName", names::dns_subdomain), Rule::Check(alone),
    ]),
    ("api.core.v1.TypedLocalObjectReference", &[Rule::Required(&["kind", "name"])]),
    ("api.core.v1.CSIPersistentVolumeSource", &[Rule::Required(&["driver", "volumeHandle"])]),
    ("api.core.v1.LocalVolumeSource", &[Rule::Required(&["path"])]),
    ("api.core.v1.VolumeNodeAffinity", &[Rule::Required(&["required"])]),
    ("api.storage.v1.VolumeAttachmentSpec", &[Rule::Required(&["source"])]),
    ("api.storage.v1.VolumeAttachmentSource", &[
        Rule::ExactlyOne(&["inlineVolumeSpec", "persistentVolumeName"], "must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
    ]),
    ("api.storage.v1.VolumeAttributesClass", &[Rule::Check(parameters)]),
    ("api.storage.v1.CSIDriverSpec", &[
        Rule::OneOf("fsGroupPolicy", &["File", "None", "ReadWriteOnceWithFSType"]), Rule::Distinct("volumeLifecycleModes"), Rule::Unique("tokenRequests", "audience"),
        Rule::Check(lifecycle_modes),
    ]),
    ("api.storage.v1.TokenRequest", &[Rule::Range("expirationSeconds", 600, 1 << 32)]),
    ("api.storage.v1.CSINodeSpec", &[Rule::Unique("drivers", "name")]),
    ("api.storage.v1.CSINodeDriver", &[Rule::Distinct("topologyKeys"), Rule::Format("topologyKeys", names::qualified)]),
    ("api.storage.v1.VolumeNodeResources", &[Rule::NonNegative(&["count"])]),
    ("api.storage.v1.CSIStorageCapacity", &[Rule::Format("storageClassName", names::dns_subdomain)]),
];

/// A volume has a size, and nothing but a size.
fn capacity(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let Some(amounts) = spec.get("capacity").and_then(Value::as_object) else { return };
    let at = path.key("capacity");
    if !amounts.contains_key("storage") || amounts.len() > 1 {
        failures.push(FieldError::not_supported(at, Value::Object(amounts.clone()), &["storage"]));
    }
}

/// ReadWriteOncePod stands alone.
fn alone(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    let modes = list(spec, "accessModes");
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        failures.push(FieldError::forbidden(path.key("accessModes"), "may not use ReadWriteOncePod with other access modes"));
    }
}

fn parameters(class: &Object, path: &Path<'_>, failures: &mut Failures) {
    if class.get("parameters").and_then(Value::as_object).is_none_or(serde_json::Map::is_empty) {
        failures.push(FieldError::required(path.key("parameters"), "must contain at least one key/value pair"));
    }
}

fn lifecycle_modes(spec: &Object, path: &Path<'_>, failures: &mut Failures) {
    const MODES: &[&str] = &["Ephemeral", "Persistent"];
    for mode in list(spec, "volumeLifecycleModes").iter().filter_map(Value::as_str).filter(|mode| !MODES.contains(mode)) {
        failures.push(FieldError::not_supported(path.key("volumeLifecycleModes"), mode, MODES));
    }
    if text(spec, "fsGroupPolicy").is_empty() && spec.contains_key("fsGroupPolicy") {
        failures.push(FieldError::required(path.key("fsGroupPolicy"), ""));
    }
}
