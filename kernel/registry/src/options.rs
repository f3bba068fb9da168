//! What a request may ask beside its object: the query parameters and option bodies of the API, as values.
//!
//! Times are seconds, revisions decimal strings as clients send them (parsed and refused in one place, `revision.rs`).

use bytes::Bytes;
use pintle_api::apply::Force;
use pintle_api::decode::FieldValidation;

/// Whether the write is stored (`?dryRun=All`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DryRun {
    /// It is stored.
    #[default]
    No,
    /// Everything but the store: the answer is what would have been.
    All,
}

/// Options of create, update and patch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Whether the write is stored.
    pub dry_run: DryRun,
    /// How unknown fields are met.
    pub field_validation: FieldValidation,
    /// `?fieldManager=`: under whose name the write owns fields; empty for the caller's own.
    pub field_manager: String,
    /// `?force=`: what an apply does about fields that others own.
    pub force: Force,
    /// What an apply, and an update of some kinds, does about an object that is not there.
    pub missing: Missing,
}

/// Whether a write may make the object that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Missing {
    /// 404.
    #[default]
    Refuse,
    /// The caller may create it.
    Create,
}

/// An object as a client sent it.
#[derive(Debug, Clone)]
pub enum Body {
    /// JSON text.
    Json(Bytes),
    /// YAML text.
    Yaml(Bytes),
    /// Kubernetes' protobuf envelope (`k8s\0`).
    Protobuf(Bytes),
    /// Already a value: from the kernel itself.
    Value(serde_json::Value),
}

/// A patch as a client sent it, by its content type.
#[derive(Debug, Clone)]
pub enum Patch {
    /// RFC 6902 (`application/json-patch+json`).
    Json(Bytes),
    /// RFC 7386 (`application/merge-patch+json`).
    Merge(Bytes),
    /// Kubernetes' own (`application/strategic-merge-patch+json`); built-in kinds only.
    Strategic(Bytes),
    /// Server-side apply (`application/apply-patch+yaml`): YAML or JSON.
    Apply(Bytes),
}

/// What happens to dependents of a deleted object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// The object goes now, its dependents afterwards (the default).
    Background,
    /// The object waits (finalizer `foregroundDeletion`) until its dependents are gone.
    Foreground,
    /// Dependents stay and lose the owner reference (finalizer `orphan`).
    Orphan,
}

/// Options of delete and delete-collection (`metav1.DeleteOptions`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Seconds to stop in; `None` is the kind's default. Negative values are refused.
    pub grace_period_seconds: Option<i64>,
    /// Only if the object has this uid.
    pub precondition_uid: Option<String>,
    /// Only if the object stands at this resourceVersion.
    pub precondition_resource_version: Option<String>,
    /// What happens to dependents.
    pub propagation: Option<Propagation>,
    /// Whether it is carried out.
    pub dry_run: DryRun,
}

/// Options of get.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GetOptions {
    /// Empty: most recent. `0`: any. Else: not older than this.
    pub resource_version: String,
}

/// How `resourceVersion` of a list is meant (`?resourceVersionMatch=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionMatch {
    /// That one.
    Exact,
    /// That one or later.
    NotOlderThan,
}

/// Options of list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// `?labelSelector=`; empty selects everything.
    pub label_selector: String,
    /// `?fieldSelector=`; empty selects everything.
    pub field_selector: String,
    /// Most objects in one answer; 0 means no limit.
    pub limit: usize,
    /// Token of the previous page; empty at first.
    pub continue_token: String,
    /// Empty: most recent. `0`: any. Else as `version_match` says.
    pub resource_version: String,
    /// How `resource_version` is meant.
    pub version_match: Option<VersionMatch>,
}

/// Options of watch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchOptions {
    /// `?labelSelector=`.
    pub label_selector: String,
    /// `?fieldSelector=`.
    pub field_selector: String,
    /// Empty: now (after the initial objects). `0`: any (the same here). Else: every change after this.
    pub resource_version: String,
    /// How `resource_version` is meant; required with `initial_events`.
    pub version_match: Option<VersionMatch>,
    /// `?allowWatchBookmarks=`.
    pub bookmarks: Bookmarks,
    /// `?sendInitialEvents=`: `None` when the client did not say.
    pub initial_events: Option<InitialEvents>,
}

/// Whether a watch gets bookmarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bookmarks {
    /// None.
    #[default]
    No,
    /// About one a minute.
    Yes,
}

/// Whether a watch begins with the objects that exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitialEvents {
    /// ADDED for each, then a bookmark annotated `k8s.io/initial-events-end`.
    Send,
    /// Only changes.
    Skip,
}
