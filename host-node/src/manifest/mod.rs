//! Static pods: those of a directory of this machine (`--pod-manifest-path`), which run whether there is a kernel or not.
//!
//! A file is a pod ([`parse`]). The roster runs it like any other; what is different is who says that it exists (the directory) and where its status goes:
//! to a *mirror*, a pod object that the node makes in the API when the kernel is there. A mirror that somebody deletes is made again, one without its
//! pod is taken away.
//!
//! Invariants: a file that cannot be read as a pod touches no other one; of two pods of one name the older has left before the younger comes; what the
//! API says of a mirror changes nothing of its pod.

pub mod parse;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::sync::{Notify, mpsc};

use crate::error::{Error, Result, Step};
use crate::link::{Reference, Row};
use crate::machine::second;
use crate::node::Node;
use crate::pod::note::Note;
use crate::pod::record::{is_static, name, namespace, uid};

/// The directory is read this often even when nobody tells of a change.
const RESCAN: Duration = Duration::from_secs(20);
/// After the kernel refused something of a mirror.
const RETRY: Duration = Duration::from_secs(2);

/// A namespace and a name.
type Name = (String, String);

/// The static pods of a machine, and the API's pictures of them.
#[derive(Default)]
pub struct StaticPods {
    /// The last readable pod of each file.
    files: RefCell<BTreeMap<PathBuf, File>>,
    mirrors: RefCell<BTreeMap<Name, Mirror>>,
    /// Mirrors told since the last reset; `None`: all of them are known.
    told: RefCell<Option<BTreeSet<Name>>>,
    wake: Notify,
}

struct File {
    text: String,
    pod: Option<Rc<Pod>>,
}

/// A mirror as the kernel told it.
#[derive(Clone)]
struct Mirror {
    uid: String,
    /// The uid of the pod that it shows.
    of: String,
    /// Somebody deletes it.
    going: bool,
    /// The pod's worker knows where its status goes.
    informed: bool,
}

impl StaticPods {
    /// Before the kernel has told anything.
    pub fn new() -> Self {
        Self { told: RefCell::new(Some(BTreeSet::new())), ..Self::default() }
    }

    /// Takes a row about a mirror; says whether it was one.
    pub fn on_row(&self, row: &Row) -> bool {
        match row {
            Row::Put(bytes) | Row::Delete(bytes) => {
                // Rows of other pods are not parsed for this.
                if !bytes.windows(parse::MIRROR.len()).any(|part| part == parse::MIRROR.as_bytes()) {
                    return false;
                }
                let Ok(pod) = serde_json::from_slice::<Pod>(bytes) else { return false };
                let Some(of) = parse::mirrored(&pod) else { return false };
                let (key, mut mirrors) = (key(&pod), self.mirrors.borrow_mut());
                let known = mirrors.get(&key).filter(|mirror| mirror.uid == uid(&pod));
                if matches!(row, Row::Put(_)) {
                    let (going, informed) = (pod.metadata.deletion_timestamp.is_some(), known.is_some_and(|mirror| mirror.informed));
                    self.told.borrow_mut().as_mut().map(|told| told.insert(key.clone()));
                    mirrors.insert(key, Mirror { uid: uid(&pod).to_owned(), of: of.to_owned(), going, informed });
                } else if known.is_some() {
                    mirrors.remove(&key);
                }
                self.look();
                return true;
            }
            Row::Reset => *self.told.borrow_mut() = Some(BTreeSet::new()),
            Row::Synced => {
                if let Some(told) = self.told.borrow_mut().take() {
                    self.mirrors.borrow_mut().retain(|key, _| told.contains(key));
                }
                self.look();
            }
        }
        false
    }

    /// Something has changed: a pod has left, or the kernel is there again.
    pub fn look(&self) {
        self.wake.notify_one();
    }

    /// The object that a static pod's status goes to, once there is one.
    pub fn mirror_of(&self, pod: &Pod) -> Option<Reference> {
        let mirrors = self.mirrors.borrow();
        let mirror = mirrors.get(&key(pod)).filter(|mirror| mirror.of == uid(pod))?;
        Some(Reference::core("pods", namespace(pod), name(pod)).with_uid(&mirror.uid))
    }

    /// The uid of the pod behind a mirror's.
    pub fn behind(&self, mirror_uid: &str) -> Option<String> {
        self.mirrors.borrow().values().find(|mirror| mirror.uid == mirror_uid).map(|mirror| mirror.of.clone())
    }

    /// Reads what has changed.
    fn scan(&self, directory: &Path, node: &str) -> Result<()> {
        let mut there = BTreeSet::new();
        for entry in std::fs::read_dir(directory).step(|| format!("reading {}", directory.display()))?.flatten() {
            let path = entry.path();
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            if hidden || !path.is_file() {
                continue;
            }
            match read(&path) {
                Ok(text) => self.take(&path, text, node),
                Err(error) => tracing::warn!(path = %path.display(), error = Error::chain(&error), "a manifest cannot be read"),
            }
            there.insert(path);
        }
        self.files.borrow_mut().retain(|path, _| there.contains(path));
        Ok(())
    }

    fn take(&self, path: &Path, text: String, node: &str) {
        let mut files = self.files.borrow_mut();
        if files.get(path).is_some_and(|file| file.text == text) {
            return;
        }
        let before = files.get(path).and_then(|file| file.pod.clone());
        let pod = match parse::pod(&text, node, &second(Timestamp::now())) {
            Ok(pod) => Some(Rc::new(pod)),
            Err(error) => {
                // What ran before goes on: half a file is no wish to stop it.
                tracing::warn!(path = %path.display(), error = Error::chain(&error), "a manifest is not a pod");
                before
            }
        };
        files.insert(path.to_owned(), File { text, pod });
    }

    /// The pods that are to run: of two files with one name the first counts.
    fn wanted(&self) -> BTreeMap<Name, Rc<Pod>> {
        let mut wanted = BTreeMap::new();
        for pod in self.files.borrow().values().filter_map(|file| file.pod.as_ref()) {
            wanted.entry(key(pod)).or_insert_with(|| pod.clone());
        }
        wanted
    }
}

/// Has the roster run what the directory says, and the API show it, for ever.
pub async fn run(node: Rc<Node>) {
    let directory = node.options.pod_manifest_path.clone();
    let mut changes = directory.as_deref().and_then(|directory| match watch(directory) {
        Ok(changes) => Some(changes),
        Err(error) => {
            tracing::warn!(error = Error::chain(&error), "changes of manifests are seen by looking alone");
            None
        }
    });
    loop {
        let statics = &node.statics;
        let readable = match &directory {
            Some(directory) => statics.scan(directory, &node.options.name),
            None => Ok(()),
        };
        match readable {
            Ok(()) => employ(&node, &statics.wanted()),
            // A directory that cannot be read says nothing, least of all that all is to end.
            Err(error) => tracing::warn!(error = Error::chain(&error), "static pods stay as they are"),
        }
        let pause = match show(&node).await {
            Ok(()) => RESCAN,
            Err(Error::Away) => RESCAN,
            Err(error) => {
                tracing::warn!(error = Error::chain(&error), "a mirror pod is tried again");
                RETRY
            }
        };
        tokio::select! {
            () = statics.wake.notified() => {}
            () = changed(changes.as_mut()) => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Ends what is no longer wanted, begins what is new.
fn employ(node: &Node, wanted: &BTreeMap<Name, Rc<Pod>>) {
    let running: BTreeMap<Name, Rc<Pod>> =
        node.roster.views().iter().map(|view| view.pod.borrow().clone()).filter(|pod| is_static(pod)).map(|pod| (key(&pod), pod)).collect();
    for (key, pod) in &running {
        if wanted.get(key).is_none_or(|wanted| uid(wanted) != uid(pod)) {
            node.roster.tell(uid(pod), Note::Gone);
        }
    }
    for (_, pod) in wanted.iter().filter(|(key, _)| !running.contains_key(*key)) {
        node.roster.put_static((**pod).clone());
    }
}

/// Makes mirrors for pods without, takes away those without pods.
async fn show(node: &Node) -> Result<()> {
    let statics = &node.statics;
    if statics.told.borrow().is_some() {
        return Ok(());
    }
    let pods: Vec<Rc<Pod>> = node.roster.views().iter().map(|view| view.pod.borrow().clone()).filter(|pod| is_static(pod)).collect();
    let mirrors: Vec<(Name, Mirror)> = statics.mirrors.borrow().iter().map(|(key, mirror)| (key.clone(), mirror.clone())).collect();
    for (name, mirror) in mirrors {
        if mirror.going || !pods.iter().any(|pod| uid(pod) == mirror.of && key(pod) == name) {
            match node.kernel.remove_pod(&Reference::core("pods", &name.0, &name.1).with_uid(&mirror.uid)).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => statics.mirrors.borrow_mut().remove(&name),
            };
        }
    }
    let wanted = statics.wanted();
    for pod in pods.iter().filter(|pod| wanted.get(&key(pod)).is_some_and(|wanted| uid(wanted) == uid(pod))) {
        if statics.mirror_of(pod).is_some() {
            inform(node, pod);
            continue;
        }
        let made = node.kernel.create_mirror_pod(&parse::mirror(pod)).await?;
        let malformed = |source| Error::Malformed { what: "a mirror pod".into(), source };
        let made: Pod = serde_json::from_slice(&made).map_err(malformed)?;
        let mirror = Mirror { uid: uid(&made).to_owned(), of: uid(pod).to_owned(), going: false, informed: false };
        statics.mirrors.borrow_mut().insert(key(pod), mirror);
        inform(node, pod);
    }
    Ok(())
}

/// A pod's status goes to a mirror that was not there before.
fn inform(node: &Node, pod: &Pod) {
    let mut mirrors = node.statics.mirrors.borrow_mut();
    if let Some(mirror) = mirrors.get_mut(&key(pod)).filter(|mirror| !mirror.informed) {
        mirror.informed = true;
        node.roster.tell(uid(pod), Note::Resend);
    }
}

fn key(pod: &Pod) -> Name {
    (namespace(pod).to_owned(), name(pod).to_owned())
}

fn read(path: &Path) -> Result<String> {
    let shown = path.display();
    let mut text = String::new();
    let file = std::fs::File::open(path).step(|| format!("opening {shown}"))?;
    file.take(parse::FILE_BYTES_MAX + 1).read_to_string(&mut text).step(|| format!("reading {shown}"))?;
    match text.len() as u64 > parse::FILE_BYTES_MAX {
        true => Err(Error::invalid(shown.to_string(), format!("more than {} bytes", parse::FILE_BYTES_MAX))),
        false => Ok(text),
    }
}

/// Tells of changes in the directory. What they are is seen by looking.
fn watch(directory: &Path) -> Result<mpsc::UnboundedReceiver<()>> {
    let step = || format!("watching {}", directory.display());
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC).step(step)?;
    let events = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_ATTRIB;
    inotify.add_watch(directory, events).step(step)?;
    let (tell, changes) = mpsc::unbounded_channel();
    // A thread of its own, because it waits for ever.
    std::thread::spawn(move || while inotify.read_events().is_ok() && tell.send(()).is_ok() {});
    Ok(changes)
}

async fn changed(changes: Option<&mut mpsc::UnboundedReceiver<()>>) {
    let Some(changes) = changes else { return std::future::pending().await };
    if changes.recv().await.is_none() {
        return std::future::pending().await;
    }
    while changes.try_recv().is_ok() {}
}
