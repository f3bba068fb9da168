//! An admission module: a verdict on one request, and in the mutating phase edits to its object.

use pintle_wit::admission_capnp::{self, admission::review_params, admission::review_results};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::controller::{RelatedLists, parse, read_ref, read_related, text};
use crate::{ObjectRef, Result, Start};

/// Judges requests before they are stored. Stateless between calls: any instance may get any request.
pub trait Admission: Sized + 'static {
    /// Makes the module. An error here keeps it from starting and is shown in its status.
    fn start(start: &Start) -> Result<Self>;

    /// Judges one request. An error is no verdict: the manifest's `failurePolicy` decides.
    fn review(&self, review: &Review<'_>) -> Result<Verdict>;
}

/// What a request does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words of the API")]
pub enum Operation {
    #[default]
    Create,
    Update,
    Delete,
    Connect,
}

/// When a module is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Edits are allowed.
    #[default]
    Mutating,
    /// All edits have been made; only the verdict counts.
    Validating,
}

/// One request to be judged.
#[derive(Clone, Debug, Default)]
pub struct Review<'a> {
    /// What it does.
    pub operation: Operation,
    /// To what.
    pub target: ObjectRef,
    /// The API version it was sent in.
    pub version: &'a str,
    /// The kind of the object.
    pub kind: &'a str,
    /// Empty, or the subresource.
    pub subresource: &'a str,
    /// Who asks.
    pub user_name: &'a str,
    /// The groups of who asks.
    pub user_groups: Vec<&'a str>,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// When.
    pub phase: Phase,
    object: &'a [u8],
    old_object: &'a [u8],
    related: RelatedLists<'a>,
}

impl<'a> Review<'a> {
    /// A review by hand, for tests.
    pub fn new(operation: Operation, target: ObjectRef, object: &'a [u8], old_object: &'a [u8]) -> Self {
        Review { operation, target, object, old_object, ..Review::default() }
    }

    /// The same with a related object list.
    #[must_use]
    pub fn with_related(mut self, name: &'a str, objects: Vec<&'a [u8]>) -> Self {
        self.related.push((name, objects));
        self
    }

    /// The object as it would be, read as `T`; `None` on delete. Let `T` borrow and name only what you need: the call takes microseconds then.
    pub fn object<T: Deserialize<'a>>(&self) -> Result<Option<T>> {
        optional(&self.target, self.object)
    }

    /// The object as it is, read as `T`; `None` on create.
    pub fn old_object<T: Deserialize<'a>>(&self) -> Result<Option<T>> {
        optional(&self.target, self.old_object)
    }

    /// The related objects that the manifest calls `name`, each read as `T`; `None` when the kernel sent no such list.
    pub fn related<T: Deserialize<'a>>(&self, name: &str) -> Result<Option<Vec<T>>> {
        match self.related.iter().find(|(key, _)| *key == name) {
            Some((_, objects)) => objects.iter().map(|bytes| parse(name, bytes)).collect::<Result<_>>().map(Some),
            None => Ok(None),
        }
    }

    /// The JSON of the object as it would be, as it came; empty on delete.
    pub fn bytes(&self) -> &'a [u8] {
        self.object
    }

    /// The JSON of the object as it is, as it came; empty on create.
    pub fn old_bytes(&self) -> &'a [u8] {
        self.old_object
    }

    /// All related objects as they came, by the manifest's names for them.
    pub fn related_lists(&self) -> &[(&'a str, Vec<&'a [u8]>)] {
        &self.related
    }

    pub(crate) fn read(reader: admission_capnp::review::Reader<'a>) -> Result<Self> {
        let groups = reader.get_user_groups()?;
        Ok(Review {
            operation: match reader.get_operation() {
                Ok(admission_capnp::Operation::Update) => Operation::Update,
                Ok(admission_capnp::Operation::Delete) => Operation::Delete,
                Ok(admission_capnp::Operation::Connect) => Operation::Connect,
                _ => Operation::Create,
            },
            target: read_ref(reader.get_target()?)?,
            version: text(reader.get_version())?,
            kind: text(reader.get_kind())?,
            subresource: text(reader.get_subresource())?,
            user_name: text(reader.get_user_name())?,
            user_groups: groups.iter().map(text).collect::<Result<_>>()?,
            dry_run: reader.get_dry_run(),
            phase: match reader.get_phase() {
                Ok(admission_capnp::Phase::Validating) => Phase::Validating,
                _ => Phase::Mutating,
            },
            object: reader.get_object()?,
            old_object: reader.get_old_object()?,
            related: read_related(reader.get_related()?)?,
        })
    }
}

fn optional<'a, T: Deserialize<'a>>(target: &ObjectRef, bytes: &'a [u8]) -> Result<Option<T>> {
    if bytes.is_empty() { Ok(None) } else { parse(&target.resource, bytes).map(Some) }
}

/// The answer to one request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// Why not; `None` lets the request pass.
    pub failure: Option<Failure>,
    /// Changes to the object; mutating phase only.
    pub edits: Vec<Edit>,
    /// Shown to the user by kubectl.
    pub warnings: Vec<String>,
    /// For the audit log.
    pub audit_annotations: Vec<(String, String)>,
}

/// A refusal, as the client will see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// HTTP status; 0 means 403.
    pub code: u16,
    /// `metav1.StatusReason`; empty goes by the code.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// One change to the object, as RFC 6902 has it.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// Adds a member, or an element before the index (`-`: at the end).
    Add(String, Value),
    /// Replaces what is there.
    Replace(String, Value),
    /// Removes what is there.
    Remove(String),
}

impl Edit {
    /// Adds a member or an element. A value that cannot be written as JSON becomes `null`.
    pub fn add(path: impl Into<String>, value: &impl Serialize) -> Self {
        Edit::Add(path.into(), serde_json::to_value(value).unwrap_or(Value::Null))
    }

    /// Replaces what is there.
    pub fn replace(path: impl Into<String>, value: &impl Serialize) -> Self {
        Edit::Replace(path.into(), serde_json::to_value(value).unwrap_or(Value::Null))
    }
}

impl Verdict {
    /// The request may pass.
    pub fn allow() -> Self {
        Verdict::default()
    }

    /// The request is refused with 403 Forbidden.
    pub fn deny(message: impl Into<String>) -> Self {
        Verdict::fail(0, "", message)
    }

    /// The request is refused with a status and reason of your own.
    pub fn fail(code: u16, reason: &str, message: impl Into<String>) -> Self {
        let failure = Failure { code, reason: reason.into(), message: message.into() };
        Verdict { failure: Some(failure), ..Verdict::default() }
    }

    /// Whether the request may pass.
    pub fn allowed(&self) -> bool {
        self.failure.is_none()
    }

    /// Changes the object on its way.
    #[must_use]
    pub fn edit(mut self, edit: Edit) -> Self {
        self.edits.push(edit);
        self
    }

    /// Warns the user.
    #[must_use]
    pub fn warn(mut self, message: impl Into<String>) -> Self {
        self.warnings.push(message.into());
        self
    }
}

/// The hot lane's `review`: one message in, one out.
pub(crate) fn serve_review(module: &impl Admission, params: &[u8]) -> Result<Vec<u8>> {
    crate::guest::one_message::<review_params::Owned, review_results::Owned, _>(
        params,
        |params: review_params::Reader<'_>| module.review(&Review::read(params.get_review()?)?),
        |mut results: review_results::Builder<'_>, verdict| write_verdict(results.reborrow().init_verdict(), &verdict),
    )
}

fn write_verdict(mut builder: admission_capnp::verdict::Builder<'_>, verdict: &Verdict) {
    builder.set_allowed(verdict.allowed());
    if let Some(failure) = &verdict.failure {
        let mut out = builder.reborrow().init_failure();
        out.set_code(failure.code);
        out.set_reason(&failure.reason);
        out.set_message(&failure.message);
    }
    let mut edits = builder.reborrow().init_edits(verdict.edits.len() as u32);
    for (i, edit) in verdict.edits.iter().enumerate() {
        let mut out = edits.reborrow().get(i as u32);
        let (op, path, value) = match edit {
            Edit::Add(path, value) => (admission_capnp::edit::Op::Add, path, Some(value)),
            Edit::Replace(path, value) => (admission_capnp::edit::Op::Replace, path, Some(value)),
            Edit::Remove(path) => (admission_capnp::edit::Op::Remove, path, None),
        };
        out.set_op(op);
        out.set_path(path);
        if let Some(value) = value {
            out.set_value(value.to_string().as_bytes());
        }
    }
    let mut warnings = builder.reborrow().init_warnings(verdict.warnings.len() as u32);
    for (i, warning) in verdict.warnings.iter().enumerate() {
        warnings.set(i as u32, warning);
    }
    let mut annotations = builder.init_audit_annotations(verdict.audit_annotations.len() as u32);
    for (i, (name, value)) in verdict.audit_annotations.iter().enumerate() {
        let mut out = annotations.reborrow().get(i as u32);
        out.set_name(name);
        out.set_value(value);
    }
}
