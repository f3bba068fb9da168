//! What a driver was asked to do for a pod: a file beside the mount, with the kubelet's names, from before the first call until after the last.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Result, Step};
use crate::file;
use crate::volume::atomic::check_relative;

const FILE: &str = "vol_data.json";

/// A volume of a pod.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Record {
    /// Name of the PersistentVolume, or of the pod's own volume.
    #[serde(rename = "specVolID")]
    pub(super) name: String,
    pub(super) volume_handle: String,
    pub(super) driver_name: String,
    pub(super) node_name: String,
    /// Name of the VolumeAttachment; empty: nobody attaches this volume.
    #[serde(rename = "attachmentID")]
    pub(super) attachment: String,
    /// `Persistent` or `Ephemeral`.
    #[serde(rename = "volumeLifecycleMode")]
    pub(super) mode: String,
    /// Namespace and name of the claim.
    pub(super) claim: (String, String),
}

impl Record {
    pub(super) fn is_attached(&self) -> bool {
        !self.attachment.is_empty()
    }

    pub(super) fn is_persistent(&self) -> bool {
        self.mode == "Persistent"
    }

    /// As Nodes name it in `volumesInUse` and `volumesAttached`.
    pub(super) fn unique_name(&self) -> String {
        format!("kubernetes.io/csi/{}^{}", self.driver_name, self.volume_handle)
    }

    pub(super) fn is_of(&self, driver: &str, handle: &str) -> bool {
        self.driver_name == driver && self.volume_handle == handle
    }
}

/// The directory of a pod's volume.
pub(super) fn directory(dir: &Path, pod: &str, name: &str) -> Result<PathBuf> {
    for part in [pod, name] {
        check_relative(part)?;
        if part.contains('/') {
            return Err(crate::error::Error::UnsafePath(part.to_owned()));
        }
    }
    Ok(pods(dir).join(pod).join("volumes/kubernetes.io~csi").join(name))
}

fn pods(dir: &Path) -> PathBuf {
    dir.join("pods")
}

/// Where a volume is on the machine as a whole.
pub(super) fn staging(dir: &Path, driver: &str, handle: &str) -> Result<PathBuf> {
    check_relative(driver)?;
    Ok(dir.join("plugins/kubernetes.io/csi").join(driver).join(hash(&[handle])).join("globalmount"))
}

/// SHA-256 of some words, in hexadecimal digits.
pub(super) fn hash(words: &[&str]) -> String {
    Sha256::digest(words.concat()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a record.
pub(super) fn keep(directory: &Path, record: &Record) -> Result<()> {
    file::make_dir(directory, 0o750)?;
    file::replace_json(&directory.join(FILE), record)
}

/// Removes a record and its directory, whose mount has gone.
pub(super) fn forget(directory: &Path) -> Result<()> {
    for (path, is_dir) in [(directory.join("mount"), true), (directory.join(FILE), false), (directory.to_owned(), true)] {
        let removed = if is_dir { std::fs::remove_dir(&path) } else { std::fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).step(|| format!("removing {}", path.display()));
            }
            _ => {}
        }
    }
    // What is empty above goes, too.
    directory.ancestors().skip(1).take(3).try_for_each(std::fs::remove_dir).unwrap_or_default();
    Ok(())
}

/// Every record, by pod and name.
pub(super) fn all(dir: &Path) -> Result<BTreeMap<(String, String), Record>> {
    let mut found = BTreeMap::new();
    for pod in entries(&pods(dir)) {
        for name in entries(&pods(dir).join(&pod).join("volumes/kubernetes.io~csi")) {
            if let Some(record) = file::read_json(&directory(dir, &pod, &name)?.join(FILE))? {
                found.insert((pod.clone(), name), record);
            }
        }
    }
    Ok(found)
}

fn entries(dir: &Path) -> Vec<String> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::TestDir;

    #[test]
    fn a_record_is_found_again_and_takes_only_what_is_empty_with_it() {
        let dir = TestDir::new("csi-record");
        let at = directory(&dir.0, "uid", "pv").expect("a path");
        let record = Record {
            name: "pv".into(),
            driver_name: "d".into(),
            volume_handle: "h".into(),
            mode: "Persistent".into(),
            ..Record::default()
        };
        keep(&at, &record).expect("kept");
        assert_eq!(all(&dir.0).expect("read").into_keys().collect::<Vec<_>>(), [("uid".to_owned(), "pv".to_owned())]);
        std::fs::create_dir(at.join("mount")).expect("made");
        std::fs::write(at.join("mount/data"), "x").expect("written");
        assert!(forget(&at).is_err() && at.join("mount/data").exists());
        std::fs::remove_file(at.join("mount/data")).expect("removed");
        forget(&at).expect("forgotten");
        assert!(!dir.0.join("pods/uid").exists() && all(&dir.0).expect("read").is_empty());
    }

    #[test]
    fn names_do_not_leave_the_directory() {
        for (pod, name) in [("..", "x"), ("u", "../x"), ("u", "a/b")] {
            assert!(directory(Path::new("/k"), pod, name).is_err(), "{pod} {name}");
        }
        assert_eq!(hash(&["a", "b"]), hash(&["ab"]));
    }
}
