//! What a pod's worker hears, and what others may read of a pod.
//!
//! Data only.

use std::cell::RefCell;
use std::rc::Rc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use pintle_runtime_bridge::{Exit, ImageInfo};

use super::record::{Attempt, Record, SandboxRecord, Verdict};
use super::steps::StartEnd;
use crate::error::Result;
use crate::image::Missing;
use crate::probe;

/// What a worker hears.
pub enum Note {
    /// The kernel's newest word about the pod.
    Desired(Rc<Pod>),
    /// The pod's object is gone.
    Gone,
    /// Something around the pod has changed: look again.
    Look,
    /// Report the status again, whatever was reported before.
    Resend,
    /// A container ended.
    Exited {
        /// The runtime's id.
        id: String,
        /// How.
        exit: Exit,
    },
    /// The node ends the pod.
    Evict(Verdict),
    /// A probe changed its word.
    Probe(probe::Verdict),
    /// A step ended.
    Done(Box<Done>),
}

/// The outcome of a step.
pub enum Done {
    /// Of [`Action::SetUp`].
    SetUp(Result<SandboxRecord>),
    /// Of [`Action::Pull`].
    Pulled(String, Result<ImageInfo, Missing>),
    /// Time to say ImagePullBackOff instead of ErrImagePull.
    PullBackOff(String),
    /// The first half of [`Action::Start`].
    Created(String, Result<Attempt>),
    /// The program runs.
    Started(String, Timestamp),
    /// The second half of [`Action::Start`].
    StartEnd(String, StartEnd),
    /// Of [`Action::Stop`]; a success comes as an exit.
    StopFailed(String),
    /// Of [`Action::Resize`]: the containers, with what they were to be given, and what the pod as a whole was.
    Resized(Vec<(String, ResourceRequirements)>, Option<ResourceRequirements>, Result<()>),
    /// Of [`Action::TearDown`].
    TornDown(Result<()>),
    /// Of [`Action::Remove`].
    Removed(Result<()>),
}

/// What others may read of a pod.
pub struct View {
    /// As the kernel has it.
    pub pod: RefCell<Rc<Pod>>,
    /// As the node knows it.
    pub record: RefCell<Record>,
}
