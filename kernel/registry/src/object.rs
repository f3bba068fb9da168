//! An object as everybody shares it: its JSON text once, and the few facts that the kernel itself looks at.
//!
//! The problem: a resourceVersion is inside the JSON that clients read, yet it is the revision of the transaction that
//! stores the object, and known only when that is durable. Encoding again for every reader would cost more than
//! everything else together. So:
//! - what is stored is the object's JSON without a resourceVersion, and always begins
//!   `{"kind":K,"apiVersion":V,"metadata":{`;
//! - when its revision is known, one copy is made with `"resourceVersion":"N",` put in right there. Every get, list
//!   and watch shares these bytes.
//!
//! Invariant: `body` is a complete JSON object that says its kind, apiVersion and resourceVersion; an `Object` never
//! changes.

use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use pintle_api::{ApiError, Schema, proto};
use pintle_store::Revision;

use crate::target::ResourceInfo;

/// An immutable object at one revision.
pub struct Object {
    pub(crate) resource: Arc<ResourceInfo>,
    pub(crate) body: Bytes,
    pub(crate) metadata_at: usize,
    pub(crate) revision: Revision,
    pub(crate) meta: Meta,
    /// It is stored in other words than it would be today: a write that changes nothing else is a change.
    pub(crate) stale: bool,
    /// Its protobuf message, once somebody asked for it.
    pub(crate) protobuf: OnceLock<Bytes>,
}

/// The few facts of an object that are kept parsed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// Empty for cluster-scoped objects.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
    /// Its uid.
    pub uid: Box<str>,
    /// Labels, sorted by key.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// Owner references, in the object's order.
    pub owners: Box<[Owner]>,
    /// Finalizers, in the object's order.
    pub finalizers: Box<[Box<str>]>,
    /// `metadata.generation`; 0 when the object has none.
    pub generation: i64,
    /// `metadata.creationTimestamp` (RFC 3339); empty when there is none.
    pub creation_timestamp: Box<str>,
    /// `metadata.deletionTimestamp` (RFC 3339).
    pub deletion_timestamp: Option<Box<str>>,
    /// `metadata.deletionGracePeriodSeconds`.
    pub deletion_grace_period_seconds: Option<i64>,
    /// Values of the resource's selectable fields, in the order of `ResourceInfo::selectable`; absent ones are empty.
    pub fields: Box<[Box<str>]>,
}

/// What an owner reference says, as far as the kernel looks at it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// uid of the owner.
    pub uid: Box<str>,
    /// `apiVersion` of the owner.
    pub api_version: Box<str>,
    /// Kind of the owner.
    pub kind: Box<str>,
    /// Name of the owner.
    pub name: Box<str>,
    /// The owner manages this object.
    pub controller: bool,
    /// The owner's foreground deletion waits for this object.
    pub block_owner_deletion: bool,
}

impl Object {
    /// The resource it belongs to.
    #[must_use]
    pub fn resource(&self) -> &Arc<ResourceInfo> {
        &self.resource
    }

    /// The whole object as JSON, shared: cloning the handle copies nothing.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The JSON from `"metadata":{` on, to the end: `{` and this is the object without kind and apiVersion.
    #[must_use]
    pub fn body_without_type(&self) -> Bytes {
        self.body.slice(self.metadata_at..)
    }

    /// Whether it is stored in another form than it would be now: in an older version, or without defaults that came since.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.stale
    }

    /// The transaction that wrote it: its resourceVersion.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The parsed facts.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The whole object as a value; parses.
    ///
    /// # Errors
    /// If the text is not JSON, which is impossible for an object of the cache.
    pub fn value(&self) -> Result<serde_json::Value, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }

    /// The object's protobuf message, without the envelope: made once, shared by everybody who reads it.
    ///
    /// # Errors
    /// 406 for kinds without a protobuf form; 500 when the body is not JSON (it was, when it was stored).
    pub fn protobuf(&self) -> Result<Bytes, ApiError> {
        if let Some(made) = self.protobuf.get() {
            return Ok(made.clone());
        }
        let value = self.value().map_err(|error| ApiError::internal(format_args!("stored text: {error}")))?;
        let made = Bytes::from(proto::encode_message(Schema::builtin(), &self.resource, &value)?);
        Ok(self.protobuf.get_or_init(|| made).clone())
    }

    /// The value of a selectable field by its label, `metadata.name` and `metadata.namespace` included.
    #[must_use]
    pub fn field(&self, label: &str) -> Option<&str> {
        match label {
            "metadata.name" => return Some(&self.meta.name),
            "metadata.namespace" => return Some(&self.meta.namespace),
            _ => {}
        }
        let at = self.resource.selectable.iter().position(|field| field.label == label)?;
        self.meta.fields.get(at).map(AsRef::as_ref)
    }
}

impl Meta {
    /// The value of a label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        let at = self.labels.binary_search_by(|(have, _)| have.as_ref().cmp(key)).ok()?;
        Some(&self.labels[at].1)
    }

    /// The owner that manages this object.
    #[must_use]
    pub fn controller(&self) -> Option<&Owner> {
        self.owners.iter().find(|owner| owner.controller)
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{} at {}", self.resource.key, self.meta.namespace, self.meta.name, self.revision)
    }
}
