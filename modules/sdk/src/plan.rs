//! A plan: what a controller wants done, as data. The kernel carries it out.

use std::time::Duration;

use serde_json::Value;

use crate::{Error, Metadata, Object, ObjectRef, Result};

/// What a controller wants done about one object: writes in order, then perhaps another look later.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Carried out in order; the first failure stops the rest and the object is looked at again.
    pub writes: Vec<Write>,
    /// Look again after this long even if nothing changes.
    pub requeue_after: Option<Duration>,
    /// About the primary object, for people.
    pub events: Vec<Event>,
    /// The first value that could not be written as JSON; the plan is then not carried out at all.
    pub(crate) broken: Option<String>,
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// What is written to. A uid in it is a precondition.
    pub target: ObjectRef,
    /// Empty, or `status`, `scale`, `binding`, `finalize`, ...
    pub subresource: String,
    /// What is done to it.
    pub action: Action,
}

/// What a write does.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Creates the object.
    Create(Value),
    /// Replaces the object; a resourceVersion in it is a precondition.
    Update(Value),
    /// Changes a part of the object.
    Patch(PatchKind, Value),
    /// Asks for the object's deletion.
    Delete(DeleteOptions),
}

/// How a patch is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 6902.
    Json,
    /// RFC 7386. A `metadata.resourceVersion` in it is a precondition.
    Merge,
    /// Kubernetes' own, with merge keys.
    Strategic,
    /// Server-side apply.
    Apply,
}

/// How a deletion is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Seconds that the object may take to go; `None` is the kind's default.
    pub grace_period_seconds: Option<u32>,
    /// What becomes of the dependents.
    pub propagation: Propagation,
    /// Only if the object has not changed since.
    pub resource_version: String,
}

/// What becomes of a deleted object's dependents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// The kind's default.
    #[default]
    Default,
    /// They follow.
    Background,
    /// They go first.
    Foreground,
    /// They stay.
    Orphan,
}

/// A line of `kubectl describe`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Something is wrong.
    pub warning: bool,
    /// For programs, CamelCase.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl Write {
    /// Creates an object. A value that cannot be written as JSON is an error.
    pub fn create(object: &impl Object) -> Result<Self> {
        let target = ObjectRef { uid: String::new(), ..object.target() };
        Ok(Write { target, subresource: String::new(), action: Action::Create(object.to_json()?) })
    }

    /// Replaces an object.
    pub fn update(object: &impl Object) -> Result<Self> {
        Ok(Write { target: object.target(), subresource: String::new(), action: Action::Update(object.to_json()?) })
    }

    /// Changes a part of an object (RFC 7386).
    pub fn merge(target: ObjectRef, body: Value) -> Self {
        Write { target, subresource: String::new(), action: Action::Patch(PatchKind::Merge, body) }
    }

    /// Changes a part of an object (RFC 6902).
    pub fn json_patch(target: ObjectRef, operations: Value) -> Self {
        Write { target, subresource: String::new(), action: Action::Patch(PatchKind::Json, operations) }
    }

    /// Deletes an object.
    pub fn delete(target: ObjectRef) -> Self {
        Write { target, subresource: String::new(), action: Action::Delete(DeleteOptions::default()) }
    }

    /// Deletes an object with options.
    pub fn delete_with(target: ObjectRef, options: DeleteOptions) -> Self {
        Write { target, subresource: String::new(), action: Action::Delete(options) }
    }

    /// The same write, to a subresource.
    #[must_use]
    pub fn to(mut self, subresource: &str) -> Self {
        self.subresource = subresource.into();
        self
    }
}

impl Plan {
    /// Nothing to do.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing to write, to say or to wait for.
    pub fn is_empty(&self) -> bool {
        *self == Plan::default()
    }

    /// Adds a write.
    pub fn push(&mut self, write: Write) {
        self.writes.push(write);
    }

    fn add(mut self, write: Result<Write>) -> Self {
        match write {
            Ok(write) => self.writes.push(write),
            Err(error) => self.broken = self.broken.or(Some(error.to_string())),
        }
        self
    }

    /// Adds a write.
    #[must_use]
    pub fn write(self, write: Write) -> Self {
        self.add(Ok(write))
    }

    /// Creates an object.
    #[must_use]
    pub fn create(self, object: &impl Object) -> Self {
        self.add(Write::create(object))
    }

    /// Replaces an object.
    #[must_use]
    pub fn update(self, object: &impl Object) -> Self {
        self.add(Write::update(object))
    }

    /// Changes a part of an object (RFC 7386).
    #[must_use]
    pub fn patch(self, target: ObjectRef, body: Value) -> Self {
        self.write(Write::merge(target, body))
    }

    /// Changes `.status` (RFC 7386): `status` is what stands under it.
    #[must_use]
    pub fn patch_status(self, target: ObjectRef, status: Value) -> Self {
        self.write(Write::merge(target, serde_json::json!({ "status": status })).to("status"))
    }

    /// Deletes an object.
    #[must_use]
    pub fn delete(self, target: ObjectRef) -> Self {
        self.write(Write::delete(target))
    }

    /// Looks again after a while, at the earliest of all whiles asked for.
    #[must_use]
    pub fn requeue_after(mut self, duration: Duration) -> Self {
        self.wake_after(duration);
        self
    }

    /// The same for a plan in a variable.
    pub fn wake_after(&mut self, duration: Duration) {
        let duration = duration.max(Duration::from_millis(1));
        self.requeue_after = Some(self.requeue_after.map_or(duration, |earlier| earlier.min(duration)));
    }

    /// Tells people something about the primary object.
    #[must_use]
    pub fn event(mut self, reason: &str, message: impl Into<String>) -> Self {
        self.tell(false, reason, message);
        self
    }

    /// Tells people that something about the primary object is wrong.
    #[must_use]
    pub fn warning(mut self, reason: &str, message: impl Into<String>) -> Self {
        self.tell(true, reason, message);
        self
    }

    fn tell(&mut self, warning: bool, reason: &str, message: impl Into<String>) {
        self.events.push(Event { warning, reason: reason.into(), message: message.into() });
    }

    /// Puts another plan behind this one.
    #[must_use]
    pub fn then(mut self, other: Plan) -> Self {
        self.writes.extend(other.writes);
        self.events.extend(other.events);
        self.broken = self.broken.or(other.broken);
        if let Some(duration) = other.requeue_after {
            self.wake_after(duration);
        }
        self
    }

    pub(crate) fn checked(self) -> Result<Self> {
        match self.broken {
            Some(reason) => Err(Error::Undecided { reason }),
            None => Ok(self),
        }
    }
}

impl FromIterator<Write> for Plan {
    fn from_iter<I: IntoIterator<Item = Write>>(writes: I) -> Self {
        Plan { writes: writes.into_iter().collect(), ..Plan::default() }
    }
}

/// The body of a merge patch that holds only while the object is as it was read: with its uid and resourceVersion.
impl Metadata {
    /// `{"metadata": {"uid": ..., "resourceVersion": ...}}`, to be filled with the change.
    pub fn precondition(&self) -> Value {
        serde_json::json!({"metadata": {"uid": self.uid, "resourceVersion": self.resource_version}})
    }
}
