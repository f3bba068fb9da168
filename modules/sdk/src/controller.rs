//! A controller: a function from an object and those around it to a plan.

use pintle_wit::{common_capnp, controller_capnp, objects_capnp};
use serde::Deserialize;

use crate::reading::{Answer, Wanted};
use crate::{Action, Error, ObjectRef, Partial, PatchKind, Plan, Propagation, Query, Result, Start, Time, Write};

/// Brings the world nearer to what one object asks for, a step at a time.
///
/// Be level-triggered: decide from what is there, never from what happened. The kernel may call again with the same, with news, or with a
/// view that misses the newest writes; a plan must do no harm then (use names and preconditions that make a second try fail or change nothing).
pub trait Controller: Sized + 'static {
    /// Makes the controller. An error here keeps the module from starting and is shown in its status.
    fn start(start: &Start) -> Result<Self>;

    /// Decides about one object. `now` is the only clock there is.
    fn reconcile(&mut self, now: Time, request: &Request<'_>) -> Result<Plan>;
}

/// One object to be looked at, with the related objects that the manifest names.
#[derive(Clone, Debug, Default)]
pub struct Request<'a> {
    /// Which object.
    pub target: ObjectRef,
    /// 0 at first; grows while it keeps failing.
    pub attempt: u32,
    object: &'a [u8],
    related: RelatedLists<'a>,
    /// Beside each list that the kernel sent, the plurals of its objects.
    plurals: Vec<Vec<&'a str>>,
    /// What has to be read before this can be decided.
    wanted: Wanted,
}

impl<'a> Request<'a> {
    /// A request by hand, for tests. Empty `object`: it is gone.
    pub fn new(target: ObjectRef, object: &'a [u8], related: Vec<(&'a str, Vec<&'a [u8]>)>) -> Self {
        Request { target, object, related, ..Request::default() }
    }

    /// The object, read as `T`; `None` when it is gone.
    pub fn object<T: Deserialize<'a>>(&self) -> Result<Option<T>> {
        if self.object.is_empty() { Ok(None) } else { parse(&self.target.resource, self.object).map(Some) }
    }

    /// The object's JSON as it came; empty when it is gone.
    pub fn bytes(&self) -> &'a [u8] {
        self.object
    }

    /// The related objects that the manifest calls `name`, each read as `T`. Empty when the manifest names none so.
    pub fn related<T: Deserialize<'a>>(&self, name: &str) -> Result<Vec<T>> {
        self.related_bytes(name).iter().map(|bytes| parse(name, bytes)).collect()
    }

    /// The metadata of the related objects that the manifest calls `name`, of any kind, custom kinds included.
    pub fn related_partials(&self, name: &str) -> Result<Vec<Partial>> {
        let at = self.related.iter().position(|(key, _)| *key == name);
        let plurals = at.and_then(|at| self.plurals.get(at)).map_or(&[][..], Vec::as_slice);
        let mut found = self.related::<Partial>(name)?;
        for (partial, plural) in found.iter_mut().zip(plurals) {
            (*plural).clone_into(&mut partial.resource);
        }
        Ok(found)
    }

    /// Objects that the manifest does not relate, read as the module's permissions allow (`get` for one by its name, else `list`): what it may not see is not
    /// there. Nothing tells the controller when they change.
    ///
    /// The first time this is [`Error::Unread`], which belongs into the controller's result (`?` puts it there): the object is read, and the controller
    /// is asked again from the beginning. So read before deciding anything, and ask for what depends on nothing together.
    pub fn read<T: Deserialize<'a>>(&self, query: &Query) -> Result<Vec<T>> {
        let name = query.to_string();
        if self.has_related(&name) {
            return self.related(&name);
        }
        self.want(&name, query)?;
        Err(Error::Unread(name))
    }

    /// Has `query` read, to be among the related objects under `name` when the controller is asked again, which it then is whatever it answers now.
    ///
    /// # Errors
    /// There is a list of that name.
    pub fn want(&self, name: &str, query: &Query) -> Result<()> {
        if self.has_related(name) {
            return Err(Error::undecided(format!("{name} is wanted, and was given")));
        }
        self.wanted.note(name, query);
        Ok(())
    }

    /// What has to be read.
    pub(crate) fn take_wanted(&self) -> Vec<(String, Query)> {
        self.wanted.take()
    }

    /// The same with what was read.
    pub(crate) fn with<'b>(&'b self, known: &'b [Answer]) -> Request<'b> {
        let mut request: Request<'b> = Request { wanted: Wanted::default(), ..self.clone() };
        request.plurals.resize(request.related.len(), Vec::new());
        for Answer { name, resource, objects } in known {
            request.related.push((name, objects.iter().map(Vec::as_slice).collect()));
            request.plurals.push(vec![resource; objects.len()]);
        }
        request
    }

    /// All related objects as they came, by the manifest's names for them.
    pub fn related_lists(&self) -> &[(&'a str, Vec<&'a [u8]>)] {
        &self.related
    }

    /// Whether the kernel sent a list called `name` at all; a list with a `when` is not always sent, and none is not the same as empty.
    pub fn has_related(&self, name: &str) -> bool {
        self.related.iter().any(|(key, _)| *key == name)
    }

    /// The same, not parsed.
    pub fn related_bytes(&self, name: &str) -> &[&'a [u8]] {
        self.related.iter().find(|(key, _)| *key == name).map_or(&[], |(_, objects)| objects)
    }
}

pub(crate) fn parse<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|source| Error::Shape { what: what.into(), source })
}

pub(crate) fn text(text: capnp::Result<capnp::text::Reader<'_>>) -> Result<&str> {
    Ok(text?.to_str().map_err(capnp::Error::from)?)
}

pub(crate) fn read_ref(reader: common_capnp::object_ref::Reader<'_>) -> Result<ObjectRef> {
    Ok(ObjectRef {
        group: text(reader.get_group())?.into(),
        resource: text(reader.get_resource())?.into(),
        namespace: text(reader.get_namespace())?.into(),
        name: text(reader.get_name())?.into(),
        uid: text(reader.get_uid())?.into(),
    })
}

pub(crate) fn write_ref(mut builder: common_capnp::object_ref::Builder<'_>, target: &ObjectRef) {
    builder.set_group(&target.group);
    builder.set_resource(&target.resource);
    builder.set_namespace(&target.namespace);
    builder.set_name(&target.name);
    builder.set_uid(&target.uid);
}

type RelatedReader<'a> = capnp::struct_list::Reader<'a, controller_capnp::related::Owned>;

/// Lists of related objects by the manifest's names for them.
pub(crate) type RelatedLists<'a> = Vec<(&'a str, Vec<&'a [u8]>)>;

pub(crate) fn read_related(list: RelatedReader<'_>) -> Result<RelatedLists<'_>> {
    let mut related = Vec::with_capacity(list.len() as usize);
    for entry in list {
        let objects = entry.get_objects()?.iter().collect::<capnp::Result<Vec<_>>>()?;
        related.push((text(entry.get_name())?, objects));
    }
    Ok(related)
}

/// The plurals beside each list.
fn read_plurals(list: RelatedReader<'_>) -> Result<Vec<Vec<&str>>> {
    let mut plurals = Vec::with_capacity(list.len() as usize);
    for entry in list {
        plurals.push(entry.get_resources()?.iter().map(|plural| text(plural)).collect::<Result<Vec<_>>>()?);
    }
    Ok(plurals)
}

pub(crate) fn read_request(reader: controller_capnp::request::Reader<'_>) -> Result<Request<'_>> {
    Ok(Request {
        target: read_ref(reader.get_ref()?)?,
        attempt: reader.get_attempt(),
        object: reader.get_object()?,
        related: read_related(reader.get_related()?)?,
        plurals: read_plurals(reader.get_related()?)?,
        wanted: Wanted::default(),
    })
}

/// Writes a decision into the message, and what was read for it. A domain failure goes where the kernel looks for it; the plan beside it is then empty.
pub(crate) fn write_result(mut builder: controller_capnp::result::Builder<'_>, decision: Result<Plan>, read: &[Answer]) {
    let mut reads = builder.reborrow().init_reads(read.len() as u32);
    for (i, answer) in read.iter().enumerate() {
        answer.write(reads.reborrow().get(i as u32));
    }
    let plan = match decision.and_then(Plan::checked) {
        Ok(plan) => plan,
        Err(error) => return builder.set_failure(error.to_string().as_str()),
    };
    if let Some(after) = plan.requeue_after {
        builder.set_requeue_after_millis(u64::try_from(after.as_millis()).unwrap_or(u64::MAX).max(1));
    }
    let mut events = builder.reborrow().init_events(plan.events.len() as u32);
    for (i, event) in plan.events.iter().enumerate() {
        let mut entry = events.reborrow().get(i as u32);
        entry.set_warning(event.warning);
        entry.set_reason(&event.reason);
        entry.set_message(&event.message);
    }
    let mut writes = builder.init_writes(plan.writes.len() as u32);
    for (i, write) in plan.writes.iter().enumerate() {
        write_write(writes.reborrow().get(i as u32), write);
    }
}

pub(crate) fn write_write(mut builder: objects_capnp::write::Builder<'_>, write: &Write) {
    write_ref(builder.reborrow().init_target(), &write.target);
    builder.set_subresource(&write.subresource);
    match &write.action {
        Action::Create(object) => builder.set_create(object.to_string().as_bytes()),
        Action::Update(object) => builder.set_update(object.to_string().as_bytes()),
        Action::Patch(kind, body) => {
            let mut patch = builder.init_patch();
            patch.set_kind(match kind {
                PatchKind::Json => objects_capnp::patch::Kind::Json,
                PatchKind::Merge => objects_capnp::patch::Kind::Merge,
                PatchKind::Strategic => objects_capnp::patch::Kind::Strategic,
                PatchKind::Apply => objects_capnp::patch::Kind::Apply,
            });
            patch.set_body(body.to_string().as_bytes());
        }
        Action::Delete(options) => {
            use objects_capnp::delete_options::Propagation as Wire;
            let mut delete = builder.init_delete();
            delete.set_grace_period_seconds(options.grace_period_seconds.map_or(-1, i64::from));
            delete.set_resource_version(&options.resource_version);
            delete.set_propagation(match options.propagation {
                Propagation::Default => Wire::Unspecified,
                Propagation::Background => Wire::Background,
                Propagation::Foreground => Wire::Foreground,
                Propagation::Orphan => Wire::Orphan,
            });
        }
    }
}
