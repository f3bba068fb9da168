//! A pod's volumes on this machine.
//!
//! Every volume becomes a path of the node: a directory below `pods/<uid>/volumes` (for claims and drivers' volumes a link there), or a path that hostPath names. Kinds that nobody here
//! knows are refused with a clear error. Invariants: what users name (keys, paths, subPaths) never leads outside its volume; everything
//! mounted here lies below the pod's directory, so that one sweep of the mount table cleans it up.

pub mod atomic;
pub mod certificate;
pub mod claim;
mod copy;
pub mod local;
pub mod mounts;
pub mod project;

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource, ImageVolumeSource, Pod, Volume};

use crate::container::downward::Facts;
use crate::csi::Csi;
use crate::error::{Error, Result, Step};
use crate::file;
use crate::link::Kernel;
use crate::quantity;
use crate::trust::Bundles;

/// What volumes are made from.
pub struct Workshop<'a> {
    /// Where objects and tokens come from.
    pub kernel: &'a Kernel,
    /// The pod's directory.
    pub pod_dir: &'a Path,
    /// For the downward API.
    pub facts: &'a Facts,
    /// The cluster's trust bundles.
    pub trust: &'a RefCell<Bundles>,
    /// The cluster's volumes.
    pub volumes: &'a local::Volumes,
    /// Who mounts volumes that drivers have.
    pub csi: &'a Csi,
}

/// Makes all volumes of a pod. Repeating it is harmless.
pub async fn prepare(pod: &Pod, workshop: &Workshop<'_>) -> Result<()> {
    for volume in pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or(&[]) {
        prepare_one(pod, volume, workshop).await?;
    }
    Ok(())
}

/// Brings projected volumes up to date, and those that drivers want to publish again; whether anything changed.
pub async fn refresh(pod: &Pod, workshop: &Workshop<'_>) -> Result<bool> {
    let mut changed = false;
    for volume in pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or(&[]) {
        if let Some(files) = project::files(pod, volume, workshop).await? {
            let ownership = atomic::Ownership { uid: None, gid: fs_group(pod) };
            changed |= atomic::project(&directory(workshop.pod_dir, &volume.name)?, &files, ownership)?;
        }
    }
    workshop.csi.refresh(pod, workshop).await?;
    Ok(changed)
}

/// Whether a volume is made for the pod alone, by this node: its files may get the pod's SELinux label.
pub fn is_the_pods_own(pod: &Pod, name: &str) -> bool {
    let volume = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).find(|volume| volume.name == name);
    volume.is_some_and(|v| {
        v.empty_dir.is_some() || v.config_map.is_some() || v.secret.is_some() || v.downward_api.is_some() || v.projected.is_some()
    })
}

/// Volumes that show an image: the name, what to pull, and by which policy.
pub fn images(pod: &Pod) -> impl Iterator<Item = (&str, &ImageVolumeSource)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| Some((volume.name.as_str(), volume.image.as_ref()?)))
}

/// Makes the empty directory at which an image is shown.
pub fn image_directory(pod_dir: &Path, name: &str) -> Result<PathBuf> {
    let path = directory(pod_dir, name)?;
    mounts::unmount(&path);
    file::make_dir(&path, 0o755)?;
    Ok(path)
}

pub(crate) fn fs_group(pod: &Pod) -> Option<u32> {
    let context = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    context.and_then(|c| c.fs_group).and_then(|group| u32::try_from(group).ok())
}

async fn prepare_one(pod: &Pod, volume: &Volume, workshop: &Workshop<'_>) -> Result<()> {
    let path = directory(workshop.pod_dir, &volume.name)?;
    if let Some(source) = &volume.empty_dir {
        return empty_dir(&path, source, fs_group(pod));
    }
    if let Some(source) = &volume.host_path {
        return host_path(source);
    }
    if volume.image.is_some() {
        return Ok(()); // see `images`
    }
    if let Some(name) = claim::name_of(pod, volume) {
        return claim::prepare(pod, volume, &name, &path, workshop).await;
    }
    if volume.csi.is_some() {
        return claim::point(&path, &workshop.csi.mount_own(pod, volume, workshop).await?);
    }
    match project::files(pod, volume, workshop).await? {
        Some(files) => {
            let ownership = atomic::Ownership { uid: None, gid: fs_group(pod) };
            atomic::project(&path, &files, ownership).map(|_| ())
        }
        None => Err(Error::Unsupported(format!("the kind of volume {:?}", volume.name))),
    }
}

/// Where a volume's content is on the node.
pub fn source(pod: &Pod, pod_dir: &Path, name: &str) -> Result<PathBuf> {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or(&[]);
    let volume = volumes.iter().find(|v| v.name == name);
    let volume = volume.ok_or_else(|| Error::ContainerConfig(format!("the pod has no volume {name:?}")))?;
    if let Some(host) = &volume.host_path {
        return Ok(PathBuf::from(&host.path));
    }
    let path = directory(pod_dir, name)?;
    match volume.csi.is_some() || claim::name_of(pod, volume).is_some() {
        true => std::fs::read_link(&path).step(|| format!("finding volume {name:?}")),
        false => Ok(path),
    }
}

fn directory(pod_dir: &Path, name: &str) -> Result<PathBuf> {
    atomic::check_relative(name)?;
    if name.contains('/') {
        return Err(Error::UnsafePath(name.to_owned()));
    }
    Ok(pod_dir.join("volumes").join(name))
}

fn empty_dir(path: &Path, source: &EmptyDirVolumeSource, fs_group: Option<u32>) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    file::make_dir(path, 0o777)?;
    match source.medium.as_deref().unwrap_or_default() {
        "" => {}
        "Memory" => {
            let limit = source.size_limit.as_ref().and_then(quantity::units).filter(|bytes| *bytes > 0);
            let options = limit.map_or("mode=0777".to_owned(), |bytes| format!("mode=0777,size={bytes}"));
            mounts::tmpfs(path, &options)?;
        }
        other => match other.strip_prefix("HugePages").map(|size| size.trim_start_matches('-')) {
            Some(size) => mounts::huge_pages(path, size)?,
            None => return Err(Error::Unsupported(format!("emptyDir medium {other:?}"))),
        },
    }
    file::set_mode(path, if fs_group.is_some() { 0o2777 } else { 0o777 })?;
    if let Some(group) = fs_group {
        std::os::unix::fs::chown(path, None, Some(group)).step(|| format!("owning {}", path.display()))?;
    }
    Ok(())
}

/// Checks, and for the `OrCreate` types makes, what a hostPath names.
fn host_path(source: &HostPathVolumeSource) -> Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let path = Path::new(&source.path);
    if !path.is_absolute() || path.components().any(|c| c == std::path::Component::ParentDir) {
        return Err(Error::UnsafePath(source.path.clone()));
    }
    let found = std::fs::metadata(path).ok();
    let kind = found.as_ref().map(std::fs::Metadata::file_type);
    let wrong = |what: &str| Err(Error::ContainerConfig(format!("hostPath type check failed: {} is not {what}", source.path)));
    match source.type_.as_deref().unwrap_or_default() {
        "" => Ok(()),
        "DirectoryOrCreate" if found.is_none() => file::make_dir(path, 0o755),
        "FileOrCreate" if found.is_none() => std::fs::File::create(path).map(|_| ()).step(|| format!("making {}", source.path)),
        "DirectoryOrCreate" | "Directory" => {
            if kind.is_some_and(|k| k.is_dir()) {
                Ok(())
            } else {
                wrong("a directory")
            }
        }
        "FileOrCreate" | "File" => {
            if kind.is_some_and(|k| k.is_file()) {
                Ok(())
            } else {
                wrong("a file")
            }
        }
        "Socket" => {
            if kind.is_some_and(|k| k.is_socket()) {
                Ok(())
            } else {
                wrong("a socket file")
            }
        }
        "CharDevice" => {
            if kind.is_some_and(|k| k.is_char_device()) {
                Ok(())
            } else {
                wrong("a character device")
            }
        }
        "BlockDevice" => {
            if kind.is_some_and(|k| k.is_block_device()) {
                Ok(())
            } else {
                wrong("a block device")
            }
        }
        other => Err(Error::ContainerConfig(format!("hostPath type {other:?} is unknown"))),
    }
}
