//! Drivers of storage on this machine (CSI v1), with the ways and folders of a kubelet, so that drivers' published manifests do.
//!
//! Below the kubelet's directory: `plugins_registry` has a socket of every driver that wants to be known (`registry`); `plugins/kubernetes.io/csi/DRIVER/HASH/globalmount` is a
//! volume as it is on the machine, `pods/UID/volumes/kubernetes.io~csi/NAME/mount` as a pod has it (`volume`), and beside that a record of what to take back.
//!
//! Invariants: a record is written before the driver is first asked, and goes after it was last asked; what a driver left mounted is never removed
//! as files; one volume has one call under way. The kubelet's directory is a shared mount, so that what a driver mounts in its container is seen here.

mod message;
mod record;
mod registry;
mod resize;
mod volume;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use pintle_cri::client::Client;
use prost::Message;

use crate::error::{Error, Result, Step};
use crate::file;

pub use registry::run;
pub use resize::run as resize;

use record::Record;

/// Longest a driver may take, as the kubelet has it.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// The drivers and what they have mounted.
pub struct Csi {
    /// The kubelet's directory.
    dir: PathBuf,
    node: String,
    drivers: RefCell<BTreeMap<String, Rc<Driver>>>,
    /// By pod and name of the volume.
    records: RefCell<BTreeMap<(String, String), Record>>,
    /// By driver and handle.
    locks: RefCell<HashMap<(String, String), Rc<tokio::sync::Mutex<()>>>>,
}

/// A driver that has registered.
struct Driver {
    name: String,
    client: Client,
    info: message::NodeGetInfoResponse,
    /// What its node service can do.
    can: BTreeSet<i32>,
}

impl Driver {
    fn can(&self, what: i32) -> bool {
        self.can.contains(&what)
    }

    async fn call<A: Message + Default>(&self, method: &'static str, request: &impl Message) -> Result<A> {
        call(&self.client, &self.name, "csi.v1.Node", method, request).await
    }
}

/// One call, bounded in time.
async fn call<A: Message + Default>(
    client: &Client,
    driver: &str,
    service: &str,
    method: &'static str,
    request: &impl Message,
) -> Result<A> {
    let answer = tokio::time::timeout(CALL_TIMEOUT, client.call(service, method, request)).await;
    let answer = answer.map_err(|_| Error::TimedOut(format!("{method} of storage driver {driver:?}")))?;
    answer.map_err(|fault| Error::Driver { driver: driver.to_owned(), call: method, code: fault.code, message: fault.message })
}

impl Csi {
    /// Takes up what an earlier daemon left. The directory becomes a shared mount, if it is not in one.
    ///
    /// # Errors
    /// The directory cannot be made or mounted, or a record cannot be read.
    pub fn open(dir: PathBuf, node: &str) -> Result<Self> {
        for part in ["plugins_registry", "plugins", "pods"] {
            file::make_dir(&dir.join(part), 0o750)?;
        }
        share(&dir)?;
        let records = record::all(&dir)?;
        Ok(Self { dir, node: node.to_owned(), drivers: RefCell::default(), records: RefCell::new(records), locks: RefCell::default() })
    }

    /// What the Node says is in use of volumes that somebody attaches.
    pub fn in_use(&self) -> BTreeSet<String> {
        self.records.borrow().values().filter(|record| record.is_attached()).map(Record::unique_name).collect()
    }

    fn driver(&self, name: &str) -> Result<Rc<Driver>> {
        let found = self.drivers.borrow().get(name).cloned();
        found.ok_or_else(|| Error::ContainerConfig(format!("driver name {name} not found in the list of registered CSI drivers")))
    }

    /// To be held while a volume's driver is asked about it.
    fn lock(&self, driver: &str, handle: &str) -> Rc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.borrow_mut();
        locks.retain(|_, lock| Rc::strong_count(lock) > 1);
        locks.entry((driver.to_owned(), handle.to_owned())).or_default().clone()
    }
}

/// Makes a directory a shared mount of its own, unless the mount that it is in is shared.
fn share(dir: &Path) -> Result<()> {
    let dir = dir.canonicalize().step(|| format!("finding {}", dir.display()))?;
    let table = std::fs::read_to_string("/proc/self/mountinfo").step(|| "reading the mount table".into())?;
    if is_shared(&table, &dir) {
        return Ok(());
    }
    let none = None::<&str>;
    mount(Some(&dir), &dir, none, MsFlags::MS_BIND | MsFlags::MS_REC, none).step(|| format!("binding {}", dir.display()))?;
    mount(none, &dir, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none).step(|| format!("sharing {}", dir.display()))
}

/// Whether the mount that a directory is in propagates what is mounted in it.
fn is_shared(table: &str, dir: &Path) -> bool {
    let around = |line: &str| {
        let target = PathBuf::from(line.split(' ').nth(4)?);
        dir.starts_with(&target).then_some((target, line.split(" - ").next()?.contains(" shared:")))
    };
    // Of several at one place the last covers the others.
    let nearest = table.lines().filter_map(around).max_by_key(|(target, _)| target.components().count());
    nearest.is_some_and(|(_, shared)| shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_says_whether_a_directory_is_shared() {
        let table = "1 0 8:1 / / rw shared:1 - ext4 x rw\n2 1 8:1 /a /var/lib rw - ext4 x rw\n3 2 8:1 /b /var/lib/k rw master:1 shared:7 - ext4 x rw\n";
        for (dir, shared) in [("/usr", true), ("/var/lib/x", false), ("/var/lib/k/pods", true), ("/var/library", true)] {
            assert_eq!(is_shared(table, Path::new(dir)), shared, "{dir}");
        }
    }
}
