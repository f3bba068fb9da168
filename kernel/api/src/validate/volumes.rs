//! Rules about what a pod mounts.

use super::pods::relative;
use super::{Failures, Object, Rule, amount, names, text};
use serde_json::Value;

use crate::path::Path;
use crate::status::FieldError;

#[rustfmt::skip]
const VOLUME_SOURCES: &[&str] = &[
    "awsElasticBlockStore", "azureDisk", "azureFile", "cephfs", "cinder", "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral",
    "fc", "flexVolume", "flocker", "gcePersistentDisk", "gitRepo", "glusterfs", "hostPath", "image", "iscsi", "nfs",
    "persistentVolumeClaim", "photonPersistentDisk", "portworxVolume", "projected", "quobyte", "rbd", "scaleIO", "secret", "storageos",
    "vsphereVolume",
];

#[rustfmt::skip]
pub(super) static RULES: &[(&str, &[Rule])] = &[
    ("api.core.v1.Volume", &[
        Rule::Required(&["name"]),
        Rule::Format("name", names::dns_label),
        Rule::ExactlyOne(VOLUME_SOURCES, "must specify a volume type"),
    ]),
    ("api.core.v1.HostPathVolumeSource", &[
        Rule::Required(&["path"]),
        Rule::OneOf("type", &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"]),
        Rule::Check(no_parent_steps),
    ]),
    ("api.core.v1.SecretVolumeSource", &[Rule::Required(&["secretName"]), Rule::Range("defaultMode", 0, 0o777)]),
    ("api.core.v1.ConfigMapVolumeSource", &[Rule::Required(&["name"]), Rule::Range("defaultMode", 0, 0o777)]),
    ("api.core.v1.DownwardAPIVolumeSource", &[Rule::Range("defaultMode", 0, 0o777)]),
    ("api.core.v1.ProjectedVolumeSource", &[Rule::Range("defaultMode", 0, 0o777)]),
    ("api.core.v1.KeyToPath", &[Rule::Required(&["key", "path"]), Rule::Range("mode", 0, 0o777), Rule::Check(no_parent_steps)]),
    ("api.core.v1.DownwardAPIVolumeFile", &[Rule::Required(&["path"]), Rule::Range("mode", 0, 0o777), Rule::Check(no_parent_steps), Rule::ExactlyOne(&["fieldRef", "resourceFieldRef"], "one of fieldRef and resourceFieldRef is required")]),
    ("api.core.v1.ServiceAccountTokenProjection", &[
        Rule::Required(&["path"]), Rule::Range("expirationSeconds", 600, 1 << 32), Rule::Check(no_parent_steps),
    ]),
    ("api.core.v1.PersistentVolumeClaimVolumeSource", &[Rule::Required(&["claimName"])]),
    ("api.core.v1.NFSVolumeSource", &[Rule::Required(&["server", "path"])]),
    ("api.core.v1.CSIVolumeSource", &[Rule::Required(&["driver"])]),
    ("api.core.v1.EmptyDirVolumeSource", &[Rule::Check(|dir, path, failures| {
        if let Some(limit) = dir.get("sizeLimit").filter(|limit| amount(limit).is_some_and(crate::quantity::Quantity::is_negative)) {
            failures.push(FieldError::forbidden(path.key("sizeLimit"), format!("SizeLimit field must be a valid resource quantity, not {limit}")));
        }
    })]),
    ("api.core.v1.VolumeProjection", &[Rule::ExactlyOne(
        &["clusterTrustBundle", "configMap", "downwardAPI", "podCertificate", "secret", "serviceAccountToken"], "must specify a projected source",
    )]),
    ("api.core.v1.SecretProjection", &[Rule::Required(&["name"])]),
    ("api.core.v1.ConfigMapProjection", &[Rule::Required(&["name"])]),
    ("api.core.v1.ClusterTrustBundleProjection", &[
        Rule::Required(&["path"]), Rule::Check(no_parent_steps),
        Rule::ExactlyOne(&["name", "signerName"], "either name or signerName must be specified"),
    ]),
    ("api.core.v1.PodCertificateProjection", &[
        Rule::Required(&["signerName", "keyType"]), Rule::Format("signerName", names::domain_prefixed_path), Rule::Check(lifetime),
        Rule::OneOf("keyType", &["ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519", "RSA3072", "RSA4096"]),
    ]),
    ("api.core.v1.EphemeralVolumeSource", &[Rule::Required(&["volumeClaimTemplate"])]),
    ("api.core.v1.GCEPersistentDiskVolumeSource", &[Rule::Required(&["pdName"]), Rule::Range("partition", 0, 255)]),
    ("api.core.v1.AWSElasticBlockStoreVolumeSource", &[Rule::Required(&["volumeID"]), Rule::Range("partition", 0, 255)]),
    ("api.core.v1.CinderVolumeSource", &[Rule::Required(&["volumeID"])]),
    ("api.core.v1.CephFSVolumeSource", &[Rule::Required(&["monitors"])]),
    ("api.core.v1.RBDVolumeSource", &[Rule::Required(&["monitors", "image"])]),
    ("api.core.v1.GlusterfsVolumeSource", &[Rule::Required(&["endpoints", "path"])]),
    ("api.core.v1.ISCSIVolumeSource", &[Rule::Required(&["targetPortal", "iqn"]), Rule::Range("lun", 0, 255)]),
    ("api.core.v1.FCVolumeSource", &[Rule::ExactlyOne(&["targetWWNs", "wwids"], "must specify either targetWWNs or wwids, but not both")]),
    ("api.core.v1.AzureFileVolumeSource", &[Rule::Required(&["secretName", "shareName"])]),
    ("api.core.v1.AzureDiskVolumeSource", &[Rule::Required(&["diskName", "diskURI"]), Rule::OneOf("cachingMode", &["None", "ReadOnly", "ReadWrite"])]),
    ("api.core.v1.VsphereVirtualDiskVolumeSource", &[Rule::Required(&["volumePath"])]),
    ("api.core.v1.FlexVolumeSource", &[Rule::Required(&["driver"])]),
    ("api.core.v1.GitRepoVolumeSource", &[Rule::Required(&["repository"])]),
    ("api.core.v1.ImageVolumeSource", &[Rule::Required(&["reference"]), Rule::OneOf("pullPolicy", &["Always", "IfNotPresent", "Never"])]),
];

/// How long a pod's certificate may be valid.
fn lifetime(map: &Object, path: &Path<'_>, failures: &mut Failures) {
    let Some(seconds) = map.get("maxExpirationSeconds").and_then(Value::as_i64) else { return };
    let bound = match seconds {
        ..3_600 => ">= 3600",
        7_862_401.. => "<= 7862400",
        _ => return,
    };
    let why = format!("if provided, maxExpirationSeconds must be {bound}");
    failures.push(FieldError::invalid(path.key("maxExpirationSeconds"), seconds, why));
}

fn no_parent_steps(map: &Object, path: &Path<'_>, failures: &mut Failures) {
    let value = text(map, "path");
    // A host path is absolute; a path inside a volume is not.
    if map.contains_key("type") {
        if value.split('/').any(|step| step == "..") {
            failures.push(FieldError::invalid(path.key("path"), value, "must not contain '..'"));
        }
    } else {
        relative(value, &path.key("path"), failures);
    }
}
