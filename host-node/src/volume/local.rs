//! Directories of this machine that are volumes: made when a pod first mounts one, removed when the volume is on its way out.
//!
//! The Node says which are here (`status.volumesInUse`), before a directory is made and after it is removed: a volume's object stays until its
//! machine does not name it any more. Invariant: only what lies directly below the machine's own directory, under the volume's name, is ever made
//! or removed, and only when nothing but this keeps the volume's object.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolume;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::atomic::check_relative;
use crate::error::{Error, Result, Step};
use crate::file;
use crate::follow::Followed;
use crate::link::{Kernel, Row};
use crate::node::Node;

/// The provisioner whose volumes these are.
const PROVISIONER: &str = "pintle.dev/local-path";
/// What keeps a volume's object until its machine is done with it.
const FINALIZER: &str = "pintle.dev/provisioned-volume";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Wait before a removal that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// The cluster's volumes, and the directories of those that are here.
pub struct Volumes {
    directory: PathBuf,
    /// Told of, though perhaps not made yet or being removed.
    held: RefCell<BTreeSet<String>>,
    /// Volumes of others that are in use here.
    others: RefCell<BTreeSet<String>>,
    known: RefCell<Followed<PersistentVolume>>,
}

impl Volumes {
    /// Those in a directory, as an earlier daemon left them.
    pub fn open(directory: PathBuf) -> Self {
        let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten();
        let held = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        Self { directory, held: RefCell::new(held), others: RefCell::default(), known: RefCell::default() }
    }

    /// A volume of the cluster, as last heard.
    pub fn get(&self, name: &str) -> Option<PersistentVolume> {
        self.known.borrow().get(&(String::new(), name.to_owned())).cloned()
    }

    /// What the Node says of them.
    pub fn status(&self) -> Value {
        let mut names: Vec<String> = self.held.borrow().iter().map(|name| format!("{PROVISIONER}/{name}")).collect();
        names.extend(self.others.borrow().iter().cloned());
        json!(names)
    }

    /// Says which volumes of others are in use, before they are and after they were.
    ///
    /// # Errors
    /// The kernel's words; it is told at the next heartbeat.
    pub async fn use_also(&self, names: BTreeSet<String>, kernel: &Kernel) -> Result<()> {
        if *self.others.borrow() == names {
            return Ok(());
        }
        *self.others.borrow_mut() = names;
        self.tell(kernel).await
    }

    async fn tell(&self, kernel: &Kernel) -> Result<()> {
        kernel.update_node_status(&json!({ "volumesInUse": self.status() })).await.map(drop)
    }

    /// Makes the directory of a volume, if it is one of these and not there yet.
    pub async fn hold(&self, volume: &PersistentVolume, kernel: &Kernel) -> Result<()> {
        let Some((name, path)) = self.own(volume) else { return Ok(()) };
        if path.is_dir() {
            return Ok(());
        }
        if volume.metadata.deletion_timestamp.is_some() {
            return Err(Error::ContainerConfig(format!("persistentvolume {name:?} is being deleted")));
        }
        self.held.borrow_mut().insert(name);
        self.tell(kernel).await?;
        file::make_dir(&path, 0o777)?;
        file::set_mode(&path, 0o777)
    }

    /// Name and directory of a volume that is one of these.
    fn own(&self, volume: &PersistentVolume) -> Option<(String, PathBuf)> {
        let name = volume.metadata.name.clone()?;
        let path = self.directory.join(&name);
        let local = volume.spec.as_ref()?.local.as_ref()?;
        let by = volume.metadata.annotations.as_ref()?.get(PROVISIONED_BY)?;
        let plain = check_relative(&name).is_ok() && !name.contains('/');
        (plain && by == PROVISIONER && path.as_path() == std::path::Path::new(&local.path)).then_some((name, path))
    }

    /// Those whose content is to go: nothing but this keeps their objects.
    fn doomed(&self) -> Vec<(String, PathBuf)> {
        let goes = |volume: &&PersistentVolume| {
            let deletes = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()) == Some("Delete");
            let alone = volume.metadata.finalizers.as_deref().is_some_and(|all| all == [FINALIZER]);
            volume.metadata.deletion_timestamp.is_some() && deletes && alone
        };
        let known = self.known.borrow();
        let doomed = known.iter().map(|(_, volume)| volume).filter(goes).filter_map(|volume| self.own(volume));
        doomed.filter(|(name, _)| self.held.borrow().contains(name)).collect()
    }

    async fn remove_doomed(&self, kernel: &Kernel) -> Result<()> {
        for (name, path) in self.doomed() {
            let removed = tokio::task::spawn_blocking(move || file::remove_tree(&path)).await;
            removed.map_err(std::io::Error::other).step(|| format!("removing volume {name}"))??;
            self.held.borrow_mut().remove(&name);
            tracing::info!(name, "a volume's directory is removed");
            self.tell(kernel).await?;
        }
        Ok(())
    }
}

/// Follows the cluster's volumes, and removes what is to go.
pub async fn hear(node: Rc<Node>, mut rows: mpsc::UnboundedReceiver<Row>) {
    let mut again = None;
    loop {
        let wait = async {
            match again {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            row = rows.recv() => match row {
                Some(row) => node.volumes.known.borrow_mut().take(row, |_, _| {}),
                None => return,
            },
            () = wait => {}
        }
        while let Ok(row) = rows.try_recv() {
            node.volumes.known.borrow_mut().take(row, |_, _| {});
        }
        again = match node.volumes.remove_doomed(&node.kernel).await {
            Ok(()) => None,
            Err(error) => {
                tracing::warn!(error = Error::chain(&error), "a volume's directory stays for now");
                Some(tokio::time::Instant::now() + RETRY)
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::TestDir;

    fn volume(dir: &std::path::Path, name: &str, change: impl FnOnce(&mut Value)) -> Row {
        let mut volume = json!({
            "metadata": { "name": name, "annotations": { PROVISIONED_BY: PROVISIONER }, "finalizers": [FINALIZER], "deletionTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "persistentVolumeReclaimPolicy": "Delete", "local": { "path": dir.join(name) } },
        });
        change(&mut volume);
        Row::Put(volume.to_string().into_bytes())
    }

    #[test]
    fn only_what_lies_here_and_is_let_go_by_all_others_is_removed() {
        let dir = TestDir::new("local-volumes");
        for name in ["gone", "kept", "guarded", "live", "foreign", "elsewhere"] {
            std::fs::create_dir(dir.0.join(name)).expect("made");
        }
        let volumes = Volumes::open(dir.0.clone());
        let take = |row| volumes.known.borrow_mut().take(row, |_, _| {});
        take(volume(&dir.0, "gone", |_| {}));
        take(volume(&dir.0, "kept", |v| v["spec"]["persistentVolumeReclaimPolicy"] = json!("Retain")));
        take(volume(&dir.0, "guarded", |v| v["metadata"]["finalizers"] = json!([FINALIZER, "kubernetes.io/pv-protection"])));
        take(volume(&dir.0, "live", |v| v["metadata"]["deletionTimestamp"] = Value::Null));
        take(volume(&dir.0, "foreign", |v| v["metadata"]["annotations"][PROVISIONED_BY] = json!("x.y/z")));
        take(volume(&dir.0, "elsewhere", |v| v["spec"]["local"]["path"] = json!("/etc")));
        take(volume(&dir.0, "never-made", |_| {}));
        let doomed: Vec<String> = volumes.doomed().into_iter().map(|(name, _)| name).collect();
        assert_eq!(doomed, ["gone"]);
        assert_eq!(volumes.status().as_array().map(Vec::len), Some(6));
    }
}
