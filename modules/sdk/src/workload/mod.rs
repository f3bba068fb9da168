//! What controllers of pods have in common: whose a pod is, what a pod is made from, names, revisions, and amounts in numbers or percent.
//!
//! Pure, like everything a controller does: functions from what was seen to writes.

mod amount;
mod claim;
mod names;
mod placement;
mod pod;
mod quantity;
pub mod quota;
mod revision;
mod strategy;
mod template;

pub use amount::{Rounding, amount};
pub use claim::{Claimed, Owned, Owner, claim};
pub use names::{Names, hash};
pub use placement::{NodeTerm, Taint, Toleration};
pub use pod::{Cheapness, ContainerState, ContainerStatus, Pod, PodSpec, PodStatus, Terminated, cheapest_first};
pub use quantity::{milli, units};
pub use revision::{Current, Revision, Revisions};
pub use strategy::{RollingUpdate, Strategy};
pub use template::{Template, TemplateMetadata};
