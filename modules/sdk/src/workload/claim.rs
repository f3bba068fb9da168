//! Whose an object is: a controller takes in the orphans that its selector matches and lets go what stopped matching.

use crate::{Metadata, ObjectRef, OwnerReference, Selector, Write};
use serde_json::json;

/// An object that a controller may own.
pub trait Owned {
    /// Its metadata.
    fn metadata(&self) -> &Metadata;
    /// Which object it is.
    fn target(&self) -> ObjectRef;
}

/// Who claims.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// Of the owner.
    pub metadata: &'a Metadata,
    /// Of the owner.
    pub api_version: &'static str,
    /// Of the owner.
    pub kind: &'static str,
    /// What it owns.
    pub selector: &'a Selector,
    /// A finalizer that what it owns has.
    pub finalizer: Option<&'static str>,
}

/// The outcome: writes that settle whose the objects are, and those that are ours once these are done.
#[derive(Clone, Debug)]
pub struct Claimed<T> {
    /// Each holds only while the object is as it was seen: another controller may be claiming it too.
    pub writes: Vec<Write>,
    /// Owned, or about to be.
    pub ours: Vec<T>,
}

impl Owner<'_> {
    /// What owned objects carry in `metadata.ownerReferences`.
    pub fn reference(&self) -> OwnerReference {
        self.metadata.as_controller(self.api_version, self.kind)
    }
}

/// Sorts objects out. An owner on its way out neither takes in nor lets go, and what is on its way out is not taken in.
pub fn claim<T: Owned>(owner: &Owner<'_>, objects: Vec<T>) -> Claimed<T> {
    let (mut writes, mut ours) = (Vec::new(), Vec::new());
    let (uid, going) = (&owner.metadata.uid, owner.metadata.is_terminating());
    for object in objects {
        let meta = object.metadata();
        let matches = owner.selector.matches(&meta.labels);
        match meta.controller() {
            Some(by) if by.uid == *uid && matches => ours.push(object),
            Some(by) if by.uid == *uid && !going => {
                let kept = meta.owner_references.iter().filter(|by| by.uid != *uid).cloned().collect();
                let finalizers = owner.finalizer.map(|ours| meta.finalizers.iter().filter(|f| *f != ours).cloned().collect());
                writes.push(set_owners(&object, kept, finalizers));
            }
            None if matches && !going && !meta.is_terminating() && meta.namespace == owner.metadata.namespace => {
                let owners = meta.owner_references.iter().cloned().chain([owner.reference()]).collect();
                let missing = owner.finalizer.filter(|ours| !meta.finalizers.iter().any(|f| f == ours));
                let finalizers = missing.map(|ours| meta.finalizers.iter().cloned().chain([ours.to_owned()]).collect());
                writes.push(set_owners(&object, owners, finalizers));
                ours.push(object);
            }
            _ => {}
        }
    }
    Claimed { writes, ours }
}

fn set_owners(object: &impl Owned, owners: Vec<OwnerReference>, finalizers: Option<Vec<String>>) -> Write {
    let mut body = object.metadata().precondition();
    body["metadata"]["ownerReferences"] = json!(owners);
    if let Some(finalizers) = finalizers {
        body["metadata"]["finalizers"] = json!(finalizers);
    }
    Write::merge(object.target(), body)
}
