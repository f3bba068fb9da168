//! A pod on this machine.
//!
//! - [`admit`]: whether a pod that was bound to this machine finds room on it;
//! - [`record`]: what is remembered across restarts of the daemon;
//! - [`plan`]: pure: the desired pod and the record in, actions and the next moment to look again out;
//! - [`status`]: pure: the same in, `.status` out, as a kubelet reports it;
//! - [`resize`]: what containers have against what they ask for;
//! - [`users`]: which ids of the machine its own users are, when it wants them;
//! - [`note`]: what a worker hears;
//! - [`worker`]: the one task that owns a pod: keeps the record, carries actions out; [`steps`] are those actions;
//! - [`roster`]: all workers, fed by the kernel's rows and the runtime's events; [`report`] sends statuses.
//!
//! Invariant: only a pod's own worker changes its record, and every record change that matters after a crash is on disk before the
//! thing it permits is done.

pub mod admit;
pub mod note;
pub mod plan;
pub mod record;
pub mod report;
pub mod resize;
pub mod roster;
pub mod status;
pub mod steps;
pub mod users;
pub mod worker;
