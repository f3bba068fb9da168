//! What becomes of one object. Pure.

use pintle_sdk::prelude::*;
use pintle_sdk::{DeleteOptions, Propagation};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// Writes in one plan, at most.
const WRITES_MAX: usize = 500;
/// Kinds of the built-in groups that belong to no namespace. An owner of another built-in kind belongs to one.
const CLUSTER_KINDS: [&str; 24] = [
    "Namespace",
    "Node",
    "PersistentVolume",
    "APIService",
    "CustomResourceDefinition",
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
    "ClusterRole",
    "ClusterRoleBinding",
    "StorageClass",
    "CSIDriver",
    "CSINode",
    "VolumeAttachment",
    "VolumeAttributesClass",
    "PriorityClass",
    "RuntimeClass",
    "IngressClass",
    "FlowSchema",
    "PriorityLevelConfiguration",
    "CertificateSigningRequest",
];

/// What an object's reference to an owner amounts to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bond {
    /// The owner is there.
    Holds,
    /// The owner is going and waits for its dependents to go first.
    Waits,
    /// There is no such owner.
    Broken,
    /// It cannot be known: a cluster-scoped object names an owner that has a namespace, and does not say which.
    Unknowable,
}

/// What to do about an object that is owned, or on its way out, or both.
pub fn plan(object: &Partial, target: &ObjectRef, owners: &[Partial], dependents: &[Partial]) -> Plan {
    let meta = &object.metadata;
    let has = |finalizer: &str| meta.finalizers.iter().any(|f| f == finalizer);
    if meta.is_terminating() {
        return match (has(ORPHAN), has(FOREGROUND)) {
            (true, _) => orphan(object, target, dependents),
            (_, true) => foreground(object, target, dependents),
            _ => Plan::new(),
        };
    }
    collect(object, target, owners, dependents)
}

/// What to do about the dependents of an object that is gone. Those with other owners lose this one and are looked at again.
pub fn gone(owner: &ObjectRef, dependents: &[Partial]) -> Plan {
    if owner.uid.is_empty() {
        return Plan::new();
    }
    let mut plan = Plan::new();
    for dependent in dependents.iter().filter(|d| !d.metadata.is_terminating()) {
        // A cluster-scoped object cannot have named an owner in a namespace.
        let unknowable = dependent.metadata.namespace.is_empty() && !owner.namespace.is_empty();
        if unknowable {
            continue;
        }
        if dependent.metadata.owner_references.len() == 1 {
            plan.push(delete(&dependent.target(), &dependent.metadata, policy_of(&dependent.metadata)));
        } else {
            plan.push(disown(dependent, |uid| uid == owner.uid));
        }
    }
    bounded(plan)
}

fn collect(object: &Partial, target: &ObjectRef, owners: &[Partial], dependents: &[Partial]) -> Plan {
    let meta = &object.metadata;
    let bonds: Vec<(Bond, &str)> = meta.owner_references.iter().map(|owner| (bond(owner, meta, owners), owner.uid.as_str())).collect();
    let any = |wanted: Bond| bonds.iter().any(|(bond, _)| *bond == wanted);
    if bonds.is_empty() {
        return Plan::new();
    }
    if any(Bond::Unknowable) {
        return Plan::new().warning("OwnerRefInvalidNamespace", "an ownerRef of a cluster-scoped object names a namespaced kind");
    }
    if any(Bond::Holds) {
        let loose = any(Bond::Broken) || any(Bond::Waits);
        let lose = |uid: &str| bonds.iter().any(|(bond, of)| *of == uid && *bond != Bond::Holds);
        return if loose { Plan::new().write(disown_at(target, object, lose)) } else { Plan::new() };
    }
    let propagation = if any(Bond::Waits) && !dependents.is_empty() { Propagation::Foreground } else { policy_of(meta) };
    Plan::new().write(delete(target, meta, propagation))
}

fn bond(owner: &OwnerReference, meta: &Metadata, owners: &[Partial]) -> Bond {
    let reachable = |candidate: &&Partial| {
        let namespace = &candidate.metadata.namespace;
        candidate.metadata.uid == owner.uid && (namespace.is_empty() || *namespace == meta.namespace)
    };
    match owners.iter().find(reachable) {
        Some(found) if found.metadata.is_terminating() && found.metadata.finalizers.iter().any(|f| f == FOREGROUND) => Bond::Waits,
        Some(_) => Bond::Holds,
        None if meta.namespace.is_empty() && may_have_namespace(owner) => Bond::Unknowable,
        None => Bond::Broken,
    }
}

/// Whether an absent owner may be of a kind that has namespaces; of a custom kind that cannot be told here. (When a cluster-scoped owner of a
/// custom kind goes while this module runs, [`gone`] sees it and collects.)
fn may_have_namespace(owner: &OwnerReference) -> bool {
    let built_in = !owner.group().contains('.') || owner.group().ends_with(".k8s.io");
    !(built_in && CLUSTER_KINDS.contains(&owner.kind.as_str()))
}

/// Deletes what blocks a foreground deletion, and ends it when nothing does.
fn foreground(object: &Partial, target: &ObjectRef, dependents: &[Partial]) -> Plan {
    let uid = &object.metadata.uid;
    let blocks = |d: &&Partial| d.metadata.owner_references.iter().any(|owner| owner.uid == *uid && owner.block_owner_deletion);
    let blocking: Vec<&Partial> = dependents.iter().filter(blocks).collect();
    if blocking.is_empty() {
        return Plan::new().write(drop_finalizer(target, &object.metadata, FOREGROUND));
    }
    let mut plan = Plan::new();
    for dependent in blocking.into_iter().filter(|d| !d.metadata.is_terminating()) {
        if dependent.metadata.owner_references.len() > 1 {
            plan.push(disown(dependent, |of| of == uid));
        } else {
            // Nothing blocks the end of a pod; whatever else may have dependents of its own, which go first.
            let leaf = dependent.kind == "Pod" && dependent.group().is_empty();
            let propagation = if leaf { Propagation::Background } else { Propagation::Foreground };
            plan.push(delete(&dependent.target(), &dependent.metadata, propagation));
        }
    }
    // The dependents' end does not touch this object; look again.
    bounded(plan).requeue_after(Duration::from_millis(500))
}

/// Lets the dependents go free, then the object.
fn orphan(object: &Partial, target: &ObjectRef, dependents: &[Partial]) -> Plan {
    let uid = &object.metadata.uid;
    let mut plan = Plan::new();
    for dependent in dependents {
        plan.push(disown(dependent, |of| of == uid));
    }
    if plan.writes.len() > WRITES_MAX {
        return bounded(plan);
    }
    plan.write(drop_finalizer(target, &object.metadata, ORPHAN))
}

fn bounded(mut plan: Plan) -> Plan {
    if plan.writes.len() > WRITES_MAX {
        plan.writes.truncate(WRITES_MAX);
        plan.wake_after(Duration::from_millis(1));
    }
    plan
}

/// How an object asks to be deleted by the finalizers it bears.
fn policy_of(meta: &Metadata) -> Propagation {
    let has = |finalizer: &str| meta.finalizers.iter().any(|f| f == finalizer);
    match (has(ORPHAN), has(FOREGROUND)) {
        (true, _) => Propagation::Orphan,
        (_, true) => Propagation::Foreground,
        _ => Propagation::Background,
    }
}

fn delete(target: &ObjectRef, meta: &Metadata, propagation: Propagation) -> Write {
    let options = DeleteOptions { propagation, resource_version: meta.resource_version.clone(), ..DeleteOptions::default() };
    Write::delete_with(target.clone().with_uid(&meta.uid), options)
}

fn disown(object: &Partial, lose: impl Fn(&str) -> bool) -> Write {
    disown_at(&object.target(), object, lose)
}

fn disown_at(target: &ObjectRef, object: &Partial, lose: impl Fn(&str) -> bool) -> Write {
    let kept: Vec<&OwnerReference> = object.metadata.owner_references.iter().filter(|owner| !lose(&owner.uid)).collect();
    let mut body = object.metadata.precondition();
    body["metadata"]["ownerReferences"] = json!(kept);
    Write::merge(target.clone().with_uid(&object.metadata.uid), body)
}

fn drop_finalizer(target: &ObjectRef, meta: &Metadata, finalizer: &str) -> Write {
    let kept: Vec<&String> = meta.finalizers.iter().filter(|f| *f != finalizer).collect();
    let mut body = meta.precondition();
    body["metadata"]["finalizers"] = json!(kept);
    Write::merge(target.clone().with_uid(&meta.uid), body)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
