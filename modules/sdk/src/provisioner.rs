//! A storage provisioner: makes volumes for the StorageClasses that name it.

use std::cell::RefCell;
use std::rc::Rc;

use pintle_wit::common_capnp::outcome;
use pintle_wit::provisioner_capnp::{provisioner, volume_request};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::controller::{parse, text};
use crate::{Failure, Result, Start};

/// Makes, grows and removes volumes. Every method may be called again with the same name and must then give the same answer.
pub trait Provisioner: Sized + 'static {
    /// Makes the provisioner. An error here keeps the module from starting and is shown in its status.
    fn start(start: &Start) -> Result<Self>;

    /// What StorageClasses call it by.
    fn name(&self) -> &str;

    /// Makes a volume; the answer is a PersistentVolume. What it does not say of name, claim, class, size, modes and reclaim policy follows
    /// from the request. A failure with code 507 (no room there) lets the scheduler choose another node.
    fn provision(&mut self, request: &VolumeRequest<'_>) -> Result<Value, Failure>;

    /// Removes a volume that nobody uses any more. A failure with code 503 (not done yet) is tried again without a word.
    fn delete(&mut self, removal: &VolumeRemoval<'_>) -> Result<(), Failure>;

    /// Grows a volume; the answer is the PersistentVolume as it then is.
    fn expand(&mut self, _volume: &[u8], _capacity_bytes: u64) -> Result<Value, Failure> {
        Err(unsupported("volumes of this class cannot grow"))
    }

    /// Whether [`Self::provision`] heeds [`VolumeRequest::source`]; where it does not, claims that name one are refused.
    fn can_copy(&self) -> bool {
        false
    }

    /// Takes a snapshot, and is asked again until it is ready. A failure with code 503 (not done yet) is tried again without a word.
    fn snapshot(&mut self, _request: &SnapshotRequest<'_>) -> Result<TakenSnapshot, Failure> {
        Err(unsupported("snapshots are not supported by this provisioner"))
    }

    /// Removes a snapshot. Its record goes afterwards, as volumes go, and needs nothing here. A failure with code 503 (not done yet) is tried again
    /// without a word.
    fn delete_snapshot(&mut self, _removal: &SnapshotRemoval<'_>) -> Result<(), Failure> {
        Err(unsupported("snapshots are not supported by this provisioner"))
    }
}

fn unsupported(message: &str) -> Failure {
    Failure { code: 501, reason: "NotImplemented".into(), message: message.into() }
}

/// What volume is asked for.
#[derive(Clone, Debug)]
pub struct VolumeRequest<'a> {
    /// `pvc-<uid>`: the same name is the same volume.
    pub name: &'a str,
    /// The node that must reach it; empty when any will do.
    pub selected_node: &'a str,
    /// At least this large.
    pub capacity_bytes: u64,
    /// What it begins with; `None`: nothing. Only where the provisioner can copy.
    pub source: Option<VolumeSource<'a>>,
    pub(crate) claim: &'a [u8],
    pub(crate) storage_class: &'a [u8],
    pub(crate) node: &'a [u8],
}

impl<'a> VolumeRequest<'a> {
    /// The PersistentVolumeClaim, read as `T`.
    pub fn claim<T: Deserialize<'a>>(&self) -> Result<T> {
        parse("persistentvolumeclaims", self.claim)
    }

    /// The StorageClass, read as `T`.
    pub fn storage_class<T: Deserialize<'a>>(&self) -> Result<T> {
        parse("storageclasses", self.storage_class)
    }

    /// The selected node, read as `T`; `None` when any will do.
    pub fn node<T: Deserialize<'a>>(&self) -> Result<Option<T>> {
        if self.node.is_empty() { Ok(None) } else { parse("nodes", self.node).map(Some) }
    }

    fn read(reader: volume_request::Reader<'a>) -> Result<Self> {
        Ok(VolumeRequest {
            name: text(reader.get_name())?,
            selected_node: text(reader.get_selected_node())?,
            capacity_bytes: reader.get_capacity_bytes(),
            source: None,
            claim: reader.get_claim()?,
            storage_class: reader.get_storage_class()?,
            node: reader.get_node()?,
        })
    }
}

/// What a new volume begins with.
#[derive(Clone, Copy, Debug)]
pub enum VolumeSource<'a> {
    /// What another volume holds now: a PersistentVolume, JSON.
    Volume(&'a [u8]),
    /// What a snapshot holds.
    Snapshot {
        /// The VolumeSnapshotContent, JSON.
        content: &'a [u8],
        /// The PersistentVolume that stands for it, JSON; empty when there is none.
        record: &'a [u8],
    },
}

impl<'a> VolumeSource<'a> {
    /// The PersistentVolume that is copied, or that stands for the snapshot, read as `T`; `None` when there is none.
    pub fn volume<T: Deserialize<'a>>(&self) -> Result<Option<T>> {
        let (Self::Volume(volume) | Self::Snapshot { record: volume, .. }) = self;
        if volume.is_empty() { Ok(None) } else { parse("persistentvolumes", volume).map(Some) }
    }
}

/// What snapshot is asked for.
#[derive(Clone, Debug)]
pub struct SnapshotRequest<'a> {
    /// `snapcontent-<uid>`: the same name is the same snapshot.
    pub name: &'a str,
    pub(crate) volume: &'a [u8],
    pub(crate) record: &'a [u8],
    pub(crate) node: &'a [u8],
}

impl<'a> SnapshotRequest<'a> {
    /// The PersistentVolume, read as `T`; `None` when it is gone, which it may be once there is a record.
    pub fn volume<T: Deserialize<'a>>(&self) -> Result<Option<T>> {
        if self.volume.is_empty() { Ok(None) } else { parse("persistentvolumes", self.volume).map(Some) }
    }

    /// The record that an earlier answer gave, as it is now, read as `T`; `None` when there is none.
    pub fn record<T: Deserialize<'a>>(&self) -> Result<Option<T>> {
        if self.record.is_empty() { Ok(None) } else { parse("persistentvolumes", self.record).map(Some) }
    }

    /// The node that the volume is on, read as `T`; `None` when it is on none, or that one is gone.
    pub fn node<T: Deserialize<'a>>(&self) -> Result<Option<T>> {
        if self.node.is_empty() { Ok(None) } else { parse("nodes", self.node).map(Some) }
    }
}

/// What was taken, or is being taken.
#[derive(Clone, Debug, Default)]
pub struct TakenSnapshot {
    /// What the provisioner calls it.
    pub handle: String,
    /// How large a volume must be to begin with it, in bytes; 0: as large as the one it is of.
    pub size_bytes: u64,
    /// Whether volumes can begin with it.
    pub is_ready: bool,
    /// A PersistentVolume that stands for it as long as it is there, and that no claim can get; what it does not say of name, claim, size, modes and
    /// reclaim policy follows from the request.
    pub record: Option<Value>,
}

/// What snapshot is to go.
#[derive(Clone, Debug)]
pub struct SnapshotRemoval<'a> {
    pub(crate) content: &'a [u8],
    pub(crate) record: &'a [u8],
    pub(crate) node: &'a [u8],
}

impl<'a> SnapshotRemoval<'a> {
    /// The VolumeSnapshotContent, read as `T`.
    pub fn content<T: Deserialize<'a>>(&self) -> Result<T> {
        parse("volumesnapshotcontents", self.content)
    }

    /// The record, read as `T`; `None` when there is none.
    pub fn record<T: Deserialize<'a>>(&self) -> Result<Option<T>> {
        if self.record.is_empty() { Ok(None) } else { parse("persistentvolumes", self.record).map(Some) }
    }

    /// The node that it is on, read as `T`; `None` when it is on none, or that one is gone.
    pub fn node<T: Deserialize<'a>>(&self) -> Result<Option<T>> {
        if self.node.is_empty() { Ok(None) } else { parse("nodes", self.node).map(Some) }
    }
}

/// What volume is to go.
#[derive(Clone, Debug)]
pub struct VolumeRemoval<'a> {
    pub(crate) volume: &'a [u8],
    pub(crate) node: &'a [u8],
}

impl<'a> VolumeRemoval<'a> {
    /// The PersistentVolume, read as `T`.
    pub fn volume<T: Deserialize<'a>>(&self) -> Result<T> {
        parse("persistentvolumes", self.volume)
    }

    /// The node that it is on, read as `T`; `None` when it is on none, or that one is gone.
    pub fn node<T: Deserialize<'a>>(&self) -> Result<Option<T>> {
        if self.node.is_empty() { Ok(None) } else { parse("nodes", self.node).map(Some) }
    }
}

/// The RPC lane's face of a provisioner.
pub(crate) struct Server<T>(pub(crate) Rc<RefCell<T>>);

impl<T: Provisioner> provisioner::Server for Server<T> {
    async fn provision(
        self: Rc<Self>,
        params: provisioner::ProvisionParams,
        mut results: provisioner::ProvisionResults,
    ) -> Result<(), capnp::Error> {
        let request = VolumeRequest::read(params.get()?.get_request()?)?;
        write_outcome(results.get().init_volume(), self.0.borrow_mut().provision(&request));
        Ok(())
    }

    async fn delete(
        self: Rc<Self>,
        params: provisioner::DeleteParams,
        mut results: provisioner::DeleteResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let removal = VolumeRemoval { volume: params.get_volume()?, node: params.get_node()? };
        if let Err(failure) = self.0.borrow_mut().delete(&removal) {
            write_failure(results.get().init_failure(), &failure);
        }
        Ok(())
    }

    async fn expand(
        self: Rc<Self>,
        params: provisioner::ExpandParams,
        mut results: provisioner::ExpandResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let answer = self.0.borrow_mut().expand(params.get_volume()?, params.get_capacity_bytes());
        write_outcome(results.get().init_volume(), answer);
        Ok(())
    }

    async fn snapshot(
        self: Rc<Self>,
        params: provisioner::SnapshotParams,
        mut results: provisioner::SnapshotResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let request = SnapshotRequest { name: text(params.get_name())?, volume: params.get_volume()?, record: &[], node: &[] };
        let answer = self.0.borrow_mut().snapshot(&request).map(|taken| {
            let status = json!({"snapshotHandle": taken.handle, "readyToUse": taken.is_ready, "restoreSize": taken.size_bytes});
            json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent", "metadata": {"name": request.name}, "status": status})
        });
        write_outcome(results.get().init_snapshot(), answer);
        Ok(())
    }
}

fn write_outcome(mut builder: outcome::Builder<'_>, answer: Result<Value, Failure>) {
    match answer {
        Ok(object) => builder.set_object(object.to_string().as_bytes()),
        Err(failure) => write_failure(builder.init_failure(), &failure),
    }
}

fn write_failure(mut builder: pintle_wit::common_capnp::failure::Builder<'_>, failure: &Failure) {
    builder.set_code(failure.code);
    builder.set_reason(&failure.reason);
    builder.set_message(&failure.message);
}
