//! What a claim of a pod is on this machine: the directory of its volume, behind a link of the pod's own.
//!
//! Kinds of volumes: `local`, `hostPath`, and `csi`, which a driver mounts. Invariant: a pod gets a volume only while the volume names the claim, by uid. What lies in the pod's
//! directory is a link, so that tidying up after a pod never reaches the volume's content.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, Pod, Volume};

use super::Workshop;
use crate::error::{Error, Result, Step};
use crate::link::Reference;
use crate::pod::record::{name, namespace, uid};

/// The claim that a volume of a pod stands for.
pub fn name_of(pod: &Pod, volume: &Volume) -> Option<String> {
    let own = || volume.ephemeral.as_ref().map(|_| format!("{}-{}", name(pod), volume.name));
    volume.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.clone()).or_else(own)
}

/// Whether the pod may only read it.
pub fn is_read_only(pod: &Pod, volume: &str) -> bool {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let claim = volumes.iter().find(|v| v.name == volume).and_then(|v| v.persistent_volume_claim.as_ref());
    claim.is_some_and(|claim| claim.read_only == Some(true))
}

/// Puts a link to the volume's content in the pod's directory. Repeating it is harmless.
pub async fn prepare(pod: &Pod, volume: &Volume, claim: &str, link: &Path, workshop: &Workshop<'_>) -> Result<()> {
    let (of_pod, volume) = (volume, bound(pod, volume, claim, workshop).await?);
    if volume.spec.as_ref().is_some_and(|spec| spec.csi.is_some()) {
        return point(link, &workshop.csi.mount_claimed(pod, of_pod, &volume, workshop).await?);
    }
    let path = content(&volume)?;
    workshop.volumes.hold(&volume, workshop.kernel).await?;
    let spec = volume.spec.as_ref();
    if let Some(host) = spec.and_then(|spec| spec.host_path.as_ref()) {
        super::host_path(&k8s_openapi::api::core::v1::HostPathVolumeSource { path: host.path.clone(), type_: host.type_.clone() })?;
    }
    if !path.is_dir() {
        return Err(Error::ContainerConfig(format!("the path {} of persistentvolume {:?} does not exist", path.display(), shown(&volume))));
    }
    if let (Some(group), true) = (super::fs_group(pod), spec.is_some_and(|spec| spec.local.is_some())) {
        own_unless_owned(pod, &path, group).await?;
    }
    point(link, &path)
}

/// Makes a link of the pod's directory lead to the volume's content.
pub(super) fn point(link: &Path, path: &Path) -> Result<()> {
    if std::fs::read_link(link).is_ok_and(|there| there == path) {
        return Ok(());
    }
    crate::file::make_dir(link.parent().unwrap_or(link), 0o755)?;
    let _ = std::fs::remove_file(link);
    std::os::unix::fs::symlink(path, link).step(|| format!("linking {}", link.display()))
}

/// Gives a volume's files to the pod's group, by the pod's policy.
pub(crate) async fn own_unless_owned(pod: &Pod, path: &Path, group: u32) -> Result<()> {
    let only_root =
        pod.spec.as_ref().and_then(|s| s.security_context.as_ref()?.fs_group_change_policy.as_deref()) == Some("OnRootMismatch");
    let tree = path.to_owned();
    let owned = tokio::task::spawn_blocking(move || if only_root && is_owned(&tree, group) { Ok(()) } else { own(&tree, group) }).await;
    owned.map_err(std::io::Error::other).step(|| format!("owning {}", path.display()))?
}

/// Whether a volume is bound to the claim that a volume of the pod stands for.
pub(crate) fn is_of(pod: &Pod, volume: &Volume, found: &PersistentVolume) -> bool {
    let claim = found.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    claim.is_some_and(|claim| claim.namespace.as_deref() == Some(namespace(pod)) && claim.name == name_of(pod, volume))
}

fn shown(volume: &PersistentVolume) -> &str {
    volume.metadata.name.as_deref().unwrap_or_default()
}

/// The volume of a claim that is bound, both sides agreeing.
async fn bound(pod: &Pod, volume: &Volume, claim_name: &str, workshop: &Workshop<'_>) -> Result<PersistentVolume> {
    let bytes = workshop.kernel.get(&Reference::core("persistentvolumeclaims", namespace(pod), claim_name)).await?;
    let malformed = |source| Error::Malformed { what: format!("persistentvolumeclaim {claim_name}"), source };
    let claim: PersistentVolumeClaim = serde_json::from_slice(&bytes).map_err(malformed)?;
    let refuse = |why: &str| Error::ContainerConfig(format!("persistentvolumeclaim {claim_name:?} {why}"));
    let is_own = || claim.metadata.owner_references.iter().flatten().any(|owner| owner.controller == Some(true) && owner.uid == uid(pod));
    if volume.ephemeral.is_some() && !is_own() {
        return Err(refuse("was not made for this pod"));
    }
    let spec = claim.spec.unwrap_or_default();
    let phase = claim.status.and_then(|status| status.phase).unwrap_or_default();
    let Some(name) = spec.volume_name.filter(|name| !name.is_empty() && phase == "Bound") else {
        return Err(refuse(&format!("is not bound (phase {phase:?})")));
    };
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err(Error::Unsupported(format!("volumeMode Block (persistentvolumeclaim {claim_name:?})")));
    }
    let found = workshop
        .volumes
        .get(&name)
        .ok_or_else(|| refuse(&format!("is bound to persistentvolume {name:?}, which is not known here yet")))?;
    let owner = found.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()?.uid.as_deref());
    if owner.is_none() || owner != claim.metadata.uid.as_deref() {
        return Err(refuse(&format!("is bound to persistentvolume {name:?}, which does not say so")));
    }
    Ok(found)
}

/// Where the content is.
fn content(volume: &PersistentVolume) -> Result<PathBuf> {
    let spec = volume.spec.clone().unwrap_or_default();
    if spec.mount_options.as_ref().is_some_and(|options| !options.is_empty()) {
        return Err(Error::Unsupported(format!("mountOptions of a directory (persistentvolume {:?})", shown(volume))));
    }
    let path = match (&spec.local, &spec.host_path) {
        (Some(local), _) if local.fs_type.is_some() => {
            return Err(Error::Unsupported(format!("a block device as a local volume (persistentvolume {:?})", shown(volume))));
        }
        (Some(local), _) => &local.path,
        (None, Some(host)) => &host.path,
        (None, None) => return Err(Error::Unsupported(format!("the kind {} of persistentvolume {:?}", kind(&spec), shown(volume)))),
    };
    let path = PathBuf::from(path);
    if !path.is_absolute() || path.components().any(|c| c == std::path::Component::ParentDir) {
        return Err(Error::UnsafePath(path.display().to_string()));
    }
    Ok(path)
}

/// What a volume calls its source.
fn kind(spec: &PersistentVolumeSpec) -> String {
    const OTHERS: [&str; 7] =
        ["accessModes", "capacity", "claimRef", "nodeAffinity", "persistentVolumeReclaimPolicy", "storageClassName", "volumeMode"];
    let spec = serde_json::to_value(spec).unwrap_or_default();
    let source = spec.as_object().into_iter().flatten().find(|(key, value)| value.is_object() && !OTHERS.contains(&key.as_str()));
    let driver = source.and_then(|(_, value)| value["driver"].as_str()).map(|driver| format!(" (driver {driver})")).unwrap_or_default();
    source.map(|(key, _)| format!("{key}{driver}")).unwrap_or_default()
}

/// Whether a tree's root is as [`own`] leaves it.
fn is_owned(root: &Path, group: u32) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(root).is_ok_and(|meta| meta.gid() == group && meta.mode() & 0o2060 == 0o2060)
}

/// Gives a tree to a group, which may then read and write all of it, and what is made in it later. Links are not followed.
fn own(path: &Path, group: u32) -> Result<()> {
    use std::os::unix::fs::{MetadataExt, lchown};
    let meta = std::fs::symlink_metadata(path).step(|| format!("looking at {}", path.display()))?;
    lchown(path, None, Some(group)).step(|| format!("owning {}", path.display()))?;
    if meta.is_symlink() {
        return Ok(());
    }
    let more = if meta.is_dir() { 0o2070 } else { 0o060 };
    crate::file::set_mode(path, meta.mode() & 0o7777 | more)?;
    if meta.is_dir() {
        for entry in std::fs::read_dir(path).step(|| format!("reading {}", path.display()))?.flatten() {
            own(&entry.path(), group)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(spec: Value, expected: Result<&str, &str>) {
        let volume: PersistentVolume =
            serde_json::from_value(json!({ "metadata": { "name": "v" }, "spec": spec.clone() })).expect("a volume");
        match (content(&volume), expected) {
            (Ok(path), Ok(expected)) => assert_eq!(path, Path::new(expected), "{spec}"),
            (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{spec}: {error}"),
            (other, _) => panic!("{spec}: {other:?}"),
        }
    }

    #[test]
    fn a_directory_is_mounted_and_anything_else_is_named() {
        check(json!({ "local": { "path": "/data/a" } }), Ok("/data/a"));
        check(json!({ "hostPath": { "path": "/srv", "type": "Directory" } }), Ok("/srv"));
        check(json!({ "local": { "path": "/data/../etc" } }), Err("not allowed"));
        check(json!({ "local": { "path": "/dev/sdb", "fsType": "ext4" } }), Err("a block device"));
        check(json!({ "local": { "path": "/a" }, "mountOptions": ["noatime"] }), Err("mountOptions"));
        check(json!({ "nfs": { "server": "s", "path": "/" }, "claimRef": { "name": "c" } }), Err("the kind nfs of persistentvolume \"v\""));
        check(json!({ "csi": { "driver": "d.x", "volumeHandle": "h" } }), Err("csi (driver d.x)"));
    }

    #[test]
    fn a_tree_is_given_to_a_group_without_following_links() {
        use std::os::unix::fs::MetadataExt;
        if !nix::unistd::geteuid().is_root() {
            return println!("skipped: needs root to change owners");
        }
        let dir = crate::file::TestDir::new("own");
        std::fs::create_dir(dir.0.join("d")).expect("made");
        std::fs::write(dir.0.join("d/f"), "x").expect("written");
        std::os::unix::fs::symlink("/etc/hostname", dir.0.join("link")).expect("linked");
        assert!(!is_owned(&dir.0, 2000));
        own(&dir.0, 2000).expect("owned");
        let meta = |name: &str| std::fs::metadata(dir.0.join(name)).expect("there");
        assert!(is_owned(&dir.0, 2000) && is_owned(&dir.0.join("d"), 2000));
        assert_eq!((meta("d/f").gid(), meta("d/f").mode() & 0o060, meta("link").gid()), (2000, 0o060, 0));
    }
}
