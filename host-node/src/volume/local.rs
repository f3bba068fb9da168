//! Directories of this machine that are volumes: made when a pod first mounts one, removed when the volume is on its way out.
//!
//! The Node says which are here (`status.volumesInUse`), before a directory is made and after it is removed: a volume's object stays until its
//! machine does not name it any more. Invariant: only what lies directly below the machine's own directory, under the volume's name, is ever made
//! or removed, and only when nothing but this keeps the volume's object.
//!
//! A volume that is a copy of another one (a snapshot, or made from one) says so in an annotation, and is copied as soon as the machine hears of it,
//! one after the other. The Node says of snapshots also that they are whole, and of copies why they cannot be. What is to be copied is not removed before.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolume;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::atomic::check_relative;
use super::copy::{self, Progress};
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
/// On a volume: the one whose content it begins with.
const COPY_OF: &str = "pintle.dev/copy-of";
/// Before the name of a snapshot, in what the Node says: it is whole.
const COPIED: &str = "pintle.dev/local-path-copied";
/// Before the name of a volume, in what the Node says: it cannot be copied; after a colon, why.
const NOT_COPIED: &str = "pintle.dev/local-path-not-copied";
/// What snapshots are recorded for, in their volumes' `claimRef`.
const SNAPSHOT: &str = "VolumeSnapshot";
const HOSTNAME: &str = "kubernetes.io/hostname";
/// Wait before a copy or a removal that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How often a long copy is told of in the log.
const REPORT: Duration = Duration::from_secs(10);

/// The cluster's volumes, and the directories of those that are here.
pub struct Volumes {
    directory: PathBuf,
    /// What this machine's Node has as its hostname label.
    hostname: String,
    /// Told of, though perhaps not made yet or being removed.
    held: RefCell<BTreeSet<String>>,
    /// Volumes of others that are in use here.
    others: RefCell<BTreeSet<String>>,
    known: RefCell<Followed<PersistentVolume>>,
    /// The copy that is being made.
    copying: RefCell<Option<(String, Arc<Progress>)>>,
    /// Copies that failed: why, and when they are tried again.
    failed: RefCell<BTreeMap<String, (String, Instant)>>,
}

/// A volume of this machine that is a copy, and is not there yet.
struct Pending {
    name: String,
    path: PathBuf,
    /// The volume that it is a copy of.
    of: String,
}

impl Volumes {
    /// Those in a directory, as an earlier daemon left them.
    pub fn open(directory: PathBuf, hostname: String) -> Self {
        let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let held = names.filter(|name| !name.starts_with(copy::UNFINISHED)).collect();
        Self {
            directory,
            hostname,
            held: RefCell::new(held),
            others: RefCell::default(),
            known: RefCell::default(),
            copying: RefCell::default(),
            failed: RefCell::default(),
        }
    }

    /// A volume of the cluster, as last heard.
    pub fn get(&self, name: &str) -> Option<PersistentVolume> {
        self.known.borrow().get(&(String::new(), name.to_owned())).cloned()
    }

    /// What the Node says of them.
    pub fn status(&self) -> Value {
        let held = self.held.borrow();
        let mut names: Vec<String> = held.iter().map(|name| format!("{PROVISIONER}/{name}")).collect();
        let known = self.known.borrow();
        let own = known.iter().map(|(_, volume)| volume).filter(|volume| is_snapshot(volume)).filter_map(|volume| self.own(volume));
        names.extend(own.filter(|(name, path)| held.contains(name) && path.is_dir()).map(|(name, _)| format!("{COPIED}/{name}")));
        names.extend(self.failed.borrow().iter().map(|(name, (why, _))| format!("{NOT_COPIED}/{name}: {why}")));
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
        if let Some(of) = copy_of(volume) {
            let failed = self.failed.borrow().get(&name).map(|(why, _)| why.clone());
            let why = failed.map_or_else(|| "is being copied".to_owned(), |why| format!("cannot be copied: {why}"));
            return Err(Error::ContainerConfig(format!("the content of persistentvolume {name:?} {why} (it begins as {of:?})")));
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
        // Copies that are not heard of yet must find what they are copies of.
        if !known.is_synced() {
            return Vec::new();
        }
        let (held, copying) = (self.held.borrow(), self.copying.borrow());
        let awaited: BTreeSet<String> = self.pending().into_iter().map(|pending| pending.of).collect();
        let doomed = known.iter().map(|(_, volume)| volume).filter(goes).filter_map(|volume| self.own(volume));
        let free = |name: &String| !awaited.contains(name) && copying.as_ref().is_none_or(|(copying, _)| copying != name);
        doomed.filter(|(name, _)| held.contains(name) && free(name)).collect()
    }

    /// Copies that are wanted here and are not there.
    fn pending(&self) -> Vec<Pending> {
        let known = self.known.borrow();
        let live = known.iter().map(|(_, volume)| volume).filter(|volume| volume.metadata.deletion_timestamp.is_none());
        let wanted = live.filter(|volume| self.is_here(volume)).filter_map(|volume| {
            let ((name, path), of) = (self.own(volume)?, copy_of(volume)?);
            (!path.is_dir()).then(|| Pending { name, path, of: of.to_owned() })
        });
        wanted.collect()
    }

    /// Whether the volume says that it is on this machine.
    fn is_here(&self, volume: &PersistentVolume) -> bool {
        let required = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref()?.required.as_ref());
        let expressions = required.into_iter().flat_map(|required| &required.node_selector_terms).flat_map(|term| &term.match_expressions);
        let mut places = expressions.flatten().filter(|place| place.key == HOSTNAME && place.operator == "In");
        places.any(|place| place.values.iter().flatten().any(|value| *value == self.hostname))
    }

    /// Begins the next copy, if there is one and none is being made.
    async fn copy_next(&self, kernel: &Kernel) -> Result<Option<JoinHandle<Result<()>>>> {
        if self.copying.borrow().is_some() {
            return Ok(None);
        }
        let all = self.pending();
        let waits = |name: &str| self.failed.borrow().get(name).is_some_and(|(_, until)| *until > Instant::now());
        let is_pending = |name: &str| all.iter().any(|pending| pending.name == name);
        let Some(next) = all.iter().find(|pending| !waits(&pending.name) && !is_pending(&pending.of)) else { return Ok(None) };
        let (name, path, of) = (next.name.clone(), next.path.clone(), next.of.clone());
        self.held.borrow_mut().insert(name.clone());
        self.tell(kernel).await?;
        // A live volume that nobody has mounted yet has no directory, and is empty.
        let is_live = self.get(&of).is_some_and(|source| source.metadata.deletion_timestamp.is_none() && self.own(&source).is_some());
        let from = self.directory.join(&of);
        let progress = Arc::new(Progress::default());
        *self.copying.borrow_mut() = Some((name.clone(), progress.clone()));
        tracing::info!(name, of, "a volume's directory is copied");
        Ok(Some(tokio::task::spawn_blocking(move || match from.is_dir() {
            true => copy::copy_tree(&from, &path, &progress),
            false if is_live => file::make_dir(&path, 0o777).and_then(|()| file::set_mode(&path, 0o777)),
            false => Err(Error::ContainerConfig(format!("volume {of:?} is not on this machine any more"))),
        })))
    }

    /// A copy has ended.
    async fn copy_ended(&self, ended: Result<()>, kernel: &Kernel) -> Result<()> {
        let Some((name, progress)) = self.copying.take() else { return Ok(()) };
        match ended {
            Ok(()) => {
                let (entries, bytes) = (progress.entries.load(Relaxed), progress.bytes.load(Relaxed));
                tracing::info!(name, entries, bytes, "a volume's directory is copied to the end");
                self.failed.borrow_mut().remove(&name);
            }
            Err(error) if progress.stop.load(Relaxed) => {
                tracing::info!(name, error = Error::chain(&error), "a copy is given up");
                self.held.borrow_mut().remove(&name);
            }
            Err(error) => {
                let why = Error::chain(&error);
                tracing::warn!(name, error = why, "a volume's directory could not be copied");
                self.failed.borrow_mut().insert(name, (why, Instant::now() + RETRY));
            }
        }
        self.tell(kernel).await
    }

    /// Ends the copy that nobody wants any more, and forgets failures of such.
    async fn stop_unwanted(&self, kernel: &Kernel) -> Result<()> {
        if let Some((name, progress)) = &*self.copying.borrow()
            && self.get(name).is_none_or(|volume| volume.metadata.deletion_timestamp.is_some())
        {
            progress.stop.store(true, Relaxed);
        }
        let wanted: BTreeSet<String> = self.pending().into_iter().map(|pending| pending.name).collect();
        let forgotten: Vec<String> = self.failed.borrow().keys().filter(|name| !wanted.contains(*name)).cloned().collect();
        for name in &forgotten {
            self.failed.borrow_mut().remove(name);
            self.held.borrow_mut().remove(name);
        }
        if forgotten.is_empty() { Ok(()) } else { self.tell(kernel).await }
    }

    /// When a copy that failed is to be tried again.
    fn next_try(&self) -> Option<Instant> {
        self.failed.borrow().values().map(|(_, until)| *until).min()
    }

    fn report(&self) {
        if let Some((name, progress)) = &*self.copying.borrow() {
            tracing::info!(name, entries = progress.entries.load(Relaxed), bytes = progress.bytes.load(Relaxed), "still copying");
        }
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

fn copy_of(volume: &PersistentVolume) -> Option<&str> {
    let of = volume.metadata.annotations.as_ref()?.get(COPY_OF)?;
    (check_relative(of).is_ok() && !of.contains('/')).then_some(of.as_str())
}

fn is_snapshot(volume: &PersistentVolume) -> bool {
    volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()?.kind.as_deref()) == Some(SNAPSHOT)
}

/// Follows the cluster's volumes, copies what is to be copied, and removes what is to go.
pub async fn hear(node: Rc<Node>, mut rows: mpsc::UnboundedReceiver<Row>) {
    let (volumes, kernel) = (&node.volumes, &node.kernel);
    forget_unfinished(&volumes.directory).await;
    let mut again = None;
    let mut copy: Option<JoinHandle<Result<()>>> = None;
    let mut report = tokio::time::interval(REPORT);
    loop {
        let wait = async {
            match again {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let mut ended = None;
        tokio::select! {
            row = rows.recv() => match row {
                Some(row) => volumes.known.borrow_mut().take(row, |_, _| {}),
                None => return,
            },
            end = end_of(&mut copy), if copy.is_some() => ended = Some(end),
            _ = report.tick(), if copy.is_some() => volumes.report(),
            () = wait => {}
        }
        while let Ok(row) = rows.try_recv() {
            volumes.known.borrow_mut().take(row, |_, _| {});
        }
        let mut failed = None;
        if let Some(end) = ended {
            copy = None;
            failed = volumes.copy_ended(end, kernel).await.err();
        }
        failed = volumes.stop_unwanted(kernel).await.err().or(failed);
        failed = volumes.remove_doomed(kernel).await.err().or(failed);
        match volumes.copy_next(kernel).await {
            Ok(next) => copy = next.or(copy),
            Err(error) => failed = Some(error),
        }
        again = failed.map(|error| {
            tracing::warn!(error = Error::chain(&error), "a volume's directory stays as it is for now");
            Instant::now() + RETRY
        });
        again = again.into_iter().chain(volumes.next_try()).min();
    }
}

async fn end_of(copy: &mut Option<JoinHandle<Result<()>>>) -> Result<()> {
    match copy {
        Some(copy) => copy.await.map_err(std::io::Error::other).step(|| "copying a volume".into())?,
        None => std::future::pending().await,
    }
}

/// Removes what a daemon that was killed has left of a copy.
async fn forget_unfinished(directory: &Path) {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let unfinished: Vec<PathBuf> =
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(copy::UNFINISHED)).map(|entry| entry.path()).collect();
    let removed = tokio::task::spawn_blocking(move || unfinished.iter().try_for_each(|path| file::remove_tree(path))).await;
    if let Ok(Err(error)) = removed {
        tracing::warn!(error = Error::chain(&error), "half a copy stays");
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
        let volumes = Volumes::open(dir.0.clone(), "here".into());
        let take = |row| volumes.known.borrow_mut().take(row, |_, _| {});
        take(volume(&dir.0, "gone", |_| {}));
        take(volume(&dir.0, "kept", |v| v["spec"]["persistentVolumeReclaimPolicy"] = json!("Retain")));
        take(volume(&dir.0, "guarded", |v| v["metadata"]["finalizers"] = json!([FINALIZER, "kubernetes.io/pv-protection"])));
        take(volume(&dir.0, "live", |v| v["metadata"]["deletionTimestamp"] = Value::Null));
        take(volume(&dir.0, "foreign", |v| v["metadata"]["annotations"][PROVISIONED_BY] = json!("x.y/z")));
        take(volume(&dir.0, "elsewhere", |v| v["spec"]["local"]["path"] = json!("/etc")));
        take(volume(&dir.0, "never-made", |_| {}));
        assert!(volumes.doomed().is_empty(), "not before everything is heard of");
        take(Row::Synced);
        let doomed: Vec<String> = volumes.doomed().into_iter().map(|(name, _)| name).collect();
        assert_eq!(doomed, ["gone"]);
        assert_eq!(volumes.status().as_array().map(Vec::len), Some(6));
    }

    #[test]
    fn what_is_to_be_copied_here_is_not_removed_before() {
        let dir = TestDir::new("local-copies");
        for name in ["source", "whole", "other"] {
            std::fs::create_dir(dir.0.join(name)).expect("made");
        }
        std::fs::create_dir(dir.0.join(format!("{}late", copy::UNFINISHED))).expect("made");
        let volumes = Volumes::open(dir.0.clone(), "here".into());
        let take = |row| volumes.known.borrow_mut().take(row, |_, _| {});
        let copy = |of: &'static str, host: &'static str| {
            move |v: &mut Value| {
                v["metadata"]["deletionTimestamp"] = Value::Null;
                v["metadata"]["annotations"][COPY_OF] = json!(of);
                v["spec"]["claimRef"] = json!({"kind": SNAPSHOT});
                let place = json!({"key": HOSTNAME, "operator": "In", "values": [host]});
                v["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [place]}]}});
            }
        };
        take(volume(&dir.0, "source", |_| {}));
        take(volume(&dir.0, "other", |_| {}));
        take(volume(&dir.0, "whole", copy("gone", "here")));
        take(volume(&dir.0, "late", copy("source", "here")));
        take(volume(&dir.0, "later", copy("late", "here")));
        take(volume(&dir.0, "elsewhere", copy("other", "there")));
        take(volume(&dir.0, "sly", copy("../etc", "here")));
        take(Row::Synced);
        let pending: Vec<String> = volumes.pending().into_iter().map(|p| format!("{} of {}", p.name, p.of)).collect();
        assert_eq!(pending, ["late of source", "later of late"]);
        let doomed: Vec<String> = volumes.doomed().into_iter().map(|(name, _)| name).collect();
        assert_eq!(doomed, ["other"]);
        let told = volumes.status().to_string();
        assert!(told.contains("local-path-copied/whole") && !told.contains("late"), "{told}");
        let refused = |name: &str| volumes.get(name).map(|volume| copy_of(&volume).map(str::to_owned));
        assert_eq!(refused("sly"), Some(None));
    }
}
