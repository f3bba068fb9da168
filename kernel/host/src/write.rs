//! A module's write: read from the wire, held against the grants, carried out through the registry as the module's own identity.

use crate::{
    grants::{Grants, Use},
    membrane::Gate,
};
use bytes::Bytes;
use pintle_api::ApiError;
use pintle_registry::{Body, Caller, DeleteOptions, Missing, Object, Patch, Propagation, Registry, ResourceKey, Target, WriteOptions};
use pintle_wit::{
    common_capnp::{failure, object_ref},
    objects_capnp as wire,
};
use std::{rc::Rc, sync::Arc};

/// Who writes, and what it may.
pub struct Writer {
    pub registry: Arc<Registry>,
    pub caller: Caller,
    pub grants: Grants,
    /// Told of what is not granted.
    pub gate: Rc<Gate>,
}

/// Names one object, as `ObjectRef` of the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ObjectName {
    pub group: String,
    pub resource: String,
    pub namespace: String,
    pub name: String,
    /// Empty: whichever bears the name.
    pub uid: String,
}

/// One write.
#[derive(Clone, Debug)]
pub struct Write {
    pub target: ObjectName,
    pub subresource: String,
    pub action: Action,
}

/// What is done.
#[derive(Clone, Debug)]
pub enum Action {
    Create(Bytes),
    Update(Bytes),
    Patch(Patch),
    Delete(DeleteOptions),
}

impl ObjectName {
    /// Reads one.
    ///
    /// # Errors
    /// Text that is not UTF-8, or a malformed message.
    pub fn read(reader: object_ref::Reader<'_>) -> capnp::Result<Self> {
        Ok(Self {
            group: reader.get_group()?.to_string()?,
            resource: reader.get_resource()?.to_string()?,
            namespace: reader.get_namespace()?.to_string()?,
            name: reader.get_name()?.to_string()?,
            uid: reader.get_uid()?.to_string()?,
        })
    }

    /// Writes one.
    pub fn write(&self, mut builder: object_ref::Builder<'_>) {
        builder.set_group(&self.group);
        builder.set_resource(&self.resource);
        builder.set_namespace(&self.namespace);
        builder.set_name(&self.name);
        builder.set_uid(&self.uid);
    }

    /// The cache's key of its resource.
    pub fn key(&self) -> ResourceKey {
        ResourceKey::new(self.group.as_str(), self.resource.as_str())
    }
}

impl Write {
    /// Reads one. `bound` is the resource of the capability it came through; empty fields of the target are filled from it.
    ///
    /// # Errors
    /// A malformed message, or a write that says nothing.
    pub fn read(reader: wire::write::Reader<'_>) -> capnp::Result<Self> {
        let target = ObjectName::read(reader.get_target()?)?;
        let data = |d: capnp::Result<capnp::data::Reader<'_>>| d.map(Bytes::copy_from_slice);
        let action = match reader.which()? {
            wire::write::Unspecified(()) => return Err(capnp::Error::failed("a write that does not say what to do".into())),
            wire::write::Create(body) => Action::Create(data(body)?),
            wire::write::Update(body) => Action::Update(data(body)?),
            wire::write::Patch(patch) => {
                let patch = patch?;
                let body = data(patch.get_body())?;
                Action::Patch(match patch.get_kind()? {
                    wire::patch::Kind::Json => Patch::Json(body),
                    wire::patch::Kind::Merge => Patch::Merge(body),
                    wire::patch::Kind::Strategic => Patch::Strategic(body),
                    wire::patch::Kind::Apply => Patch::Apply(body),
                    wire::patch::Kind::Unspecified => return Err(capnp::Error::failed("a patch without a kind".into())),
                })
            }
            wire::write::Delete(options) => Action::Delete(read_delete(options?, &target.uid)?),
        };
        Ok(Self { target, subresource: reader.get_subresource()?.to_string()?, action })
    }

    /// RBAC's word for it.
    pub fn verb(&self) -> &'static str {
        match self.action {
            Action::Create(_) => "create",
            Action::Update(_) => "update",
            Action::Patch(_) => "patch",
            Action::Delete(_) => "delete",
        }
    }
}

fn read_delete(options: wire::delete_options::Reader<'_>, uid: &str) -> capnp::Result<DeleteOptions> {
    use wire::delete_options::Propagation as Wire;
    let revision = options.get_resource_version()?.to_string()?;
    Ok(DeleteOptions {
        grace_period_seconds: Some(options.get_grace_period_seconds()).filter(|s| *s >= 0),
        precondition_uid: Some(uid.to_owned()).filter(|u| !u.is_empty()),
        precondition_resource_version: Some(revision).filter(|r| !r.is_empty()),
        propagation: match options.get_propagation()? {
            Wire::Unspecified => None,
            Wire::Background => Some(Propagation::Background),
            Wire::Foreground => Some(Propagation::Foreground),
            Wire::Orphan => Some(Propagation::Orphan),
        },
        ..DeleteOptions::default()
    })
}

/// Why a write did not happen.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The module was not granted this. It is not told whether the object exists.
    #[error("the module is not granted {verb} of {resource}{subresource} in namespace {namespace:?}")]
    NotGranted { verb: &'static str, resource: String, subresource: String, namespace: String },
    /// The registry refused, as it would have refused anybody.
    #[error(transparent)]
    Refused(#[from] ApiError),
}

impl WriteError {
    /// As a value of the wire.
    pub fn fill(&self, mut failure: failure::Builder<'_>) {
        let (code, reason) = match self {
            Self::NotGranted { .. } => (403, "Forbidden"),
            Self::Refused(error) => (error.code, error.reason.as_str()),
        };
        failure.set_code(code);
        failure.set_reason(reason);
        failure.set_message(self.to_string());
        if let Self::Refused(ApiError { details: Some(details), .. }) = self {
            failure.set_retry_after_millis(details.retry_after_seconds.saturating_mul(1000));
        }
    }
}

impl Writer {
    /// Carries one write out. Answers when the cache shows it; `None` for an object that is gone with it.
    ///
    /// # Errors
    /// `NotGranted`, or what the registry says.
    pub async fn carry_out(&self, write: Write) -> Result<Option<Arc<Object>>, WriteError> {
        let Write { target: name, subresource, .. } = &write;
        let asked = Use {
            verb: write.verb(),
            group: &name.group,
            resource: &name.resource,
            subresource,
            namespace: &name.namespace,
            name: &name.name,
        };
        if !self.grants.allow(&asked) {
            let error = WriteError::NotGranted {
                verb: write.verb(),
                resource: name.resource.clone(),
                subresource: if subresource.is_empty() { String::new() } else { format!("/{subresource}") },
                namespace: name.namespace.clone(),
            };
            self.gate.misuse(&error.to_string());
            return Err(error);
        }
        let makes_one = matches!(write.action, Action::Create(_)) && subresource.is_empty();
        let target_name = if makes_one { "" } else { &name.name };
        let target = self.registry.resolve(&name.group, "", &name.resource, subresource, &name.namespace, target_name)?;
        if matches!(write.action, Action::Update(_) | Action::Patch(_)) {
            self.same_object(&target, name)?;
        }
        let may_create = self.grants.allow(&Use { verb: "create", ..asked });
        let missing = if may_create { Missing::Create } else { Missing::Refuse };
        let options = WriteOptions { missing, ..WriteOptions::default() };
        Ok(match write.action {
            Action::Create(body) => Some(self.registry.create(&self.caller, &target, Body::Json(body), &options).await?.object),
            Action::Update(body) => Some(self.registry.update(&self.caller, &target, Body::Json(body), &options).await?.object),
            Action::Patch(patch) => Some(self.registry.patch(&self.caller, &target, patch, &options).await?.object),
            Action::Delete(options) => {
                let deleted = self.registry.delete(&self.caller, &target, &options).await?;
                (!deleted.gone).then_some(deleted.object)
            }
        })
    }

    /// Refuses a write to another object of the same name.
    fn same_object(&self, target: &Target, name: &ObjectName) -> Result<(), WriteError> {
        if name.uid.is_empty() {
            return Ok(());
        }
        match self.registry.get_cached(target.resource.key(), &name.namespace, &name.name) {
            Some(object) if *object.meta().uid == *name.uid => Ok(()),
            Some(_) => Err(ApiError::conflict(&target.resource, &name.name, "it is another object of the same name").into()),
            None => Err(ApiError::not_found(&target.resource, &name.name).into()),
        }
    }
}
