//! A storage provisioner: makes volumes for the StorageClasses that name it.

use std::cell::RefCell;
use std::rc::Rc;

use pintle_wit::common_capnp::outcome;
use pintle_wit::provisioner_capnp::{provisioner, volume_request};
use serde::Deserialize;
use serde_json::Value;

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

    /// Takes a snapshot; the answer is its content object.
    fn snapshot(&mut self, _volume: &[u8], _name: &str) -> Result<Value, Failure> {
        Err(unsupported("volumes of this class cannot be copied"))
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
            claim: reader.get_claim()?,
            storage_class: reader.get_storage_class()?,
            node: reader.get_node()?,
        })
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
        let answer = self.0.borrow_mut().snapshot(params.get_volume()?, text(params.get_name())?);
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
