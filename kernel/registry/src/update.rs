//! Updates and patches: one loop. A patch makes its new object out of whatever is stored, so when somebody else was
//! faster it is made again; an update that names a resourceVersion is not.

use std::sync::Arc;

use bytes::Bytes;
use pintle_api::apply::{self, Ownership};
use pintle_api::patch::{self, PatchType};
use pintle_api::{ApiError, FieldError, strategy};
use serde_json::Value;

use crate::admission::Operation;
use crate::allocate::Claims;
use crate::caller::Caller;
use crate::key;
use crate::kinds;
use crate::object::Object;
use crate::options::{Body, DryRun, Missing, Patch, WriteOptions};
use crate::pipeline::{Commit, Writing};
use crate::registry::{Registry, Result, Written};
use crate::target::Target;

/// Attempts of a write that may be made again, before the client is told 409.
pub(crate) const RACE_ATTEMPTS: usize = 30;

/// What a new object is made of.
pub(crate) enum Source<'a> {
    /// This, whatever is stored.
    Body(Value),
    /// A patch of what is stored.
    Patch(PatchType, &'a Bytes),
    /// What a manager wants of it.
    Apply(&'a Value),
    /// A change that the kernel itself makes (binding, scale).
    Edit(&'a Edit<'a>),
}

/// Turns the stored object's value into its successor.
pub(crate) type Edit<'a> = dyn Fn(&mut Value, &Object) -> Result<()> + Send + Sync + 'a;

impl Registry {
    pub(crate) async fn update_object(&self, caller: &Caller, target: &Target, body: Body, options: &WriteOptions) -> Result<Written> {
        let mut writing = self.writing(caller, target, Operation::Update, options.dry_run)?;
        let value = writing.decode(&body, options)?;
        let versioned = value.pointer("/metadata/resourceVersion").and_then(Value::as_str).is_some_and(|version| !version.is_empty());
        if !versioned && target.subresource.is_empty() {
            let exists = self.current(target).is_ok();
            if !exists && options.missing == Missing::Create && strategy::created_by_update(&target.resource) {
                strategy::check_name(&value, &target.name)?;
                return self.create_object(caller, &target.named(&target.namespace, ""), body, options).await;
            }
            if exists && strategy::needs_version(&target.resource) {
                return Err(
                    writing.invalid(&value, &[FieldError::invalid("metadata.resourceVersion", 0, "must be specified for an update")])
                );
            }
        }
        drop(body);
        self.revise(writing, Source::Body(value), options).await
    }

    pub(crate) async fn patch_object(&self, caller: &Caller, target: &Target, patch: &Patch, options: &WriteOptions) -> Result<Written> {
        let writing = self.writing(caller, target, Operation::Update, options.dry_run)?;
        let (language, text) = language_of(patch)?;
        self.revise(writing, Source::Patch(language, text), options).await
    }

    /// Make the stored object's successor until it is stored.
    pub(crate) async fn revise(&self, mut writing: Writing<'_>, source: Source<'_>, options: &WriteOptions) -> Result<Written> {
        let revised = self.revise_until_stored(&mut writing, source, options).await;
        revised.map_err(|refused| refused.beside(writing.warnings))
    }

    async fn revise_until_stored(&self, writing: &mut Writing<'_>, source: Source<'_>, options: &WriteOptions) -> Result<Written> {
        let warned = writing.warnings.len();
        for _ in 0..RACE_ATTEMPTS {
            let current = self.current_shown(&writing.target).await?;
            let old = current.value().map_err(ApiError::internal)?;
            let (new, ownership) = make(writing, &source, &current, &old, options)?;
            let asked = new.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default();
            if !asked.is_empty() && asked != "0" && asked != current.revision.to_string() {
                return Err(ApiError::stale(writing.resource(), &writing.target.name));
            }
            if let Some(written) = self.revise_attempt(writing, (new, ownership), (&current, &old), options).await? {
                return Ok(written);
            }
            writing.warnings.truncate(warned);
        }
        Err(ApiError::stale(writing.resource(), &writing.target.name))
    }

    /// `None`: somebody else was faster.
    async fn revise_attempt(
        &self,
        writing: &mut Writing<'_>,
        (mut new, ownership): (Value, Option<Ownership>),
        (current, old): (&Arc<Object>, &Value),
        options: &WriteOptions,
    ) -> Result<Option<Written>> {
        // Before the successor is made: what it keeps, and whether the generation grows, is seen on the whole object.
        writing.default(&mut new);
        let ownership = ownership.unwrap_or_else(|| {
            let now = kinds::now_text();
            apply::updated(&writing.catalog.schema, writing.resource(), writing.writer(options, &now), old, &new)
        });
        writing.mutate(&mut new, Some(current)).await?;
        let subresource = writing.target.subresource.clone();
        // A scale changes the object itself. A binding is the kernel's own edit, of spec and status alike, and changes no
        // wanted state: the generation stays.
        let rules = Some(subresource.as_str()).filter(|name| !matches!(*name, "" | "scale"));
        if subresource != "binding" {
            strategy::prepare_update(writing.resource(), rules, &mut new, old)?;
            kinds::prepare_update(writing.resource(), &subresource, &mut new, old);
        }
        let changes_owners = ownership.changed && subresource != "binding";
        if subresource != "binding" {
            ownership.put_into(&mut new);
        }
        let claims = match kinds::is_service(writing.resource()) && rules.is_none() {
            true => Some(self.fed.allocators.assign(&mut new, Some(old)).map_err(|err| writing.invalid(&new, &[*err]))?),
            false => None,
        };
        check_finalizers(writing, &new, old)?;
        writing.check_update(&new, old)?;
        if strategy::is_noop(&new, old) && !changes_owners && !current.stale && !is_finished(writing, &new) {
            return Ok(Some(self.written(writing, Arc::clone(current))));
        }
        let stored = writing.encode(&new)?;
        writing.validate(&stored, Some(current)).await?;
        if writing.dry_run == DryRun::All {
            let object = writing.pretend(&stored, Some(current))?;
            return Ok(Some(self.written(writing, object)));
        }
        let held = claims.map(Claims::hold).unwrap_or_default();
        let suffix = key::suffix(&current.meta.namespace, &current.meta.name);
        let commit = if is_finished(writing, &new) {
            writing.remove(&suffix, current, Some(&stored)).await?
        } else {
            writing.put(&suffix, stored, Some(current)).await?
        };
        match commit {
            Commit::Done(object) => Ok(Some(self.written(writing, object))),
            Commit::Lost => {
                self.fed.allocators.release(&held);
                Ok(None)
            }
        }
    }

    fn written(&self, writing: &mut Writing<'_>, object: Arc<Object>) -> Written {
        Written { object, created: false, warnings: std::mem::take(&mut writing.warnings) }
    }
}

/// The successor, and who owns what in it if that is known already.
fn make(
    writing: &mut Writing<'_>,
    source: &Source<'_>,
    current: &Object,
    old: &Value,
    options: &WriteOptions,
) -> Result<(Value, Option<Ownership>)> {
    match source {
        Source::Body(value) => Ok((value.clone(), None)),
        Source::Patch(language, text) => {
            let mut value = patch::apply(&writing.catalog.schema, writing.resource(), *language, text, old)?;
            writing.conform(&mut value, text, options)?;
            Ok((value, None))
        }
        Source::Apply(config) => writing.apply(config, old, options).map(|(value, ownership)| (value, Some(ownership))),
        Source::Edit(edit) => {
            let mut value = old.clone();
            edit(&mut value, current)?;
            Ok((value, None))
        }
    }
}

/// A patch's language and text.
pub(crate) fn language_of(patch: &Patch) -> Result<(PatchType, &Bytes)> {
    match patch {
        Patch::Json(text) => Ok((PatchType::Json, text)),
        Patch::Merge(text) => Ok((PatchType::Merge, text)),
        Patch::Strategic(text) => Ok((PatchType::Strategic, text)),
        Patch::Apply(_) => Err(ApiError::unsupported_media_type(&PatchType::MEDIA_TYPES[..3])),
    }
}

/// An object that is being deleted gets no new finalizers.
fn check_finalizers(writing: &Writing<'_>, new: &Value, old: &Value) -> Result<()> {
    if old.pointer("/metadata/deletionTimestamp").is_none() {
        return Ok(());
    }
    let list = |value: &Value| value.pointer("/metadata/finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
    let before = list(old);
    let added: Vec<String> = list(new).iter().filter(|finalizer| !before.contains(finalizer)).map(ToString::to_string).collect();
    if added.is_empty() {
        return Ok(());
    }
    let why = format!("no new finalizers can be added if the object is being deleted, found new finalizers [{}]", added.join(", "));
    Err(writing.invalid(new, &[FieldError::forbidden("metadata.finalizers", why)]))
}

/// Being deleted, with nothing left to wait for: this write is its last.
fn is_finished(writing: &Writing<'_>, value: &Value) -> bool {
    let Some(metadata) = value.get("metadata") else { return false };
    let stopped = metadata.get("deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or_default() == 0;
    let finalizers = metadata.get("finalizers").and_then(Value::as_array).map_or(0, Vec::len);
    metadata.get("deletionTimestamp").is_some() && stopped && finalizers == 0 && kinds::spec_finalizers(writing.resource(), value) == 0
}
