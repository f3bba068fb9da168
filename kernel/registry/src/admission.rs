//! The door that admission comes through. Who judges, and how, is the module host's business.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::caller::Caller;
use crate::object::Object;
use crate::options::DryRun;
use crate::target::{ResourceInfo, Target};

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A new object.
    Create,
    /// A change, by update or patch.
    Update,
    /// A delete.
    Delete,
    /// exec, attach, portforward, proxy.
    Connect,
}

/// When in the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Before validation: the object may be edited.
    Mutating,
    /// After it: the object can only be refused.
    Validating,
}

/// One request, as a judge sees it.
#[derive(Debug)]
pub struct AdmissionRequest<'a> {
    /// What is being done.
    pub operation: Operation,
    /// To what. The name may be empty on a create with generateName in dry runs only.
    pub target: &'a Target,
    /// By whom.
    pub caller: &'a Caller,
    /// The new object as JSON; empty on delete.
    pub object: Bytes,
    /// The object as it is stored; `None` on create.
    pub old: Option<Arc<Object>>,
    /// Nothing will be stored.
    pub dry_run: DryRun,
}

/// Why a request is refused: a `Status` in short.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failure {
    /// HTTP status; 0 means 403, with a message that says what is forbidden before it says why.
    pub code: u16,
    /// `metav1.StatusReason`; empty means Forbidden.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// One RFC 6902 operation.
#[derive(Debug, Clone, PartialEq)]
pub struct Edit {
    /// What to do.
    pub op: EditOp,
    /// JSON pointer.
    pub path: String,
    /// The new value; unused by `Remove`.
    pub value: serde_json::Value,
}

impl Edit {
    /// As it stands in a JSON patch.
    pub(crate) fn operation(&self) -> serde_json::Value {
        let (op, path) = (self.op, &self.path);
        match op {
            EditOp::Add => serde_json::json!({"op": "add", "path": path, "value": self.value}),
            EditOp::Replace => serde_json::json!({"op": "replace", "path": path, "value": self.value}),
            EditOp::Remove => serde_json::json!({"op": "remove", "path": path}),
        }
    }
}

/// An object's JSON after edits, as the next judge sees it.
///
/// # Errors
/// An edit that does not apply.
pub fn edited(object: &Bytes, edits: &[Edit]) -> Result<Bytes, String> {
    if edits.is_empty() {
        return Ok(object.clone());
    }
    let mut value: serde_json::Value = serde_json::from_slice(object).map_err(|e| e.to_string())?;
    let operations = edits.iter().map(Edit::operation).collect();
    let patch: json_patch::Patch = serde_json::from_value(serde_json::Value::Array(operations)).map_err(|e| e.to_string())?;
    json_patch::patch(&mut value, &patch).map_err(|e| format!("an edit does not apply: {e}"))?;
    Ok(value.to_string().into())
}

/// Operations that an edit may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EditOp {
    /// Add a member or an element.
    Add,
    /// Replace what is there.
    Replace,
    /// Remove what is there.
    Remove,
}

/// The answer to one request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Verdict {
    /// `None`: allowed.
    pub refused: Option<Failure>,
    /// Edits to the object; looked at in the mutating phase only.
    pub edits: Vec<Edit>,
    /// Sent to the client.
    pub warnings: Vec<String>,
}

impl Verdict {
    /// Allowed as it is.
    #[must_use]
    pub fn allowed() -> Self {
        Self::default()
    }

    /// Refused with 403 and this message.
    #[must_use]
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self { refused: Some(Failure { message: message.into(), ..Failure::default() }), ..Self::default() }
    }
}

/// Implemented by the module host, and by the server for webhooks. Called on every write, so `wants` must be cheap.
pub trait Admission: Send + Sync + 'static {
    /// Whether anybody judges these requests. Kinds nobody admits skip encoding for admission altogether.
    fn wants(&self, resource: &ResourceInfo, subresource: &str, operation: Operation, phase: Phase) -> bool;

    /// Judge and perhaps edit. A failure of the judge is a refusal with its own code.
    fn mutate<'a>(&'a self, request: &'a AdmissionRequest<'a>) -> BoxFuture<'a, Verdict>;

    /// Judge. Edits are ignored.
    fn validate<'a>(&'a self, request: &'a AdmissionRequest<'a>) -> BoxFuture<'a, Verdict>;
}
