//! Deletes. What a delete does is planned by a pure function of the object and the options; carrying the plan out is one
//! transaction, made again when somebody else was faster.

use std::sync::Arc;

use futures::stream::{self, StreamExt};
use jiff::{SignedDuration, Timestamp};
use pintle_api::ApiError;
use serde_json::{Value, json};

use crate::admission::Operation;
use crate::caller::Caller;
use crate::key;
use crate::kinds;
use crate::object::Object;
use crate::options::{DeleteOptions, DryRun, ListOptions, Propagation};
use crate::pipeline::{Commit, Writing};
use crate::registry::{Deleted, ListPage, Registry, Result};
use crate::selector::Selector;
use crate::target::{ResourceInfo, Target};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// Attempts before the client is told 409.
const RACE_ATTEMPTS: usize = 30;
/// Deletes of a collection that are under way at once.
const COLLECTION_PARALLEL: usize = 32;

/// What a delete does to an object.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// It goes now.
    Remove,
    /// It is marked, and waits.
    Mark(Mark),
    /// It waits already, and nothing changes.
    Wait,
}

/// What marking changes.
#[derive(Debug, PartialEq, Eq)]
struct Mark {
    deletion_timestamp: String,
    grace_seconds: i64,
    finalizers: Vec<String>,
    /// The wanted state changed: the generation grows.
    first: bool,
}

impl Registry {
    pub(crate) async fn delete_object(&self, caller: &Caller, target: &Target, options: &DeleteOptions) -> Result<Deleted> {
        if !target.subresource.is_empty() {
            return Err(ApiError::method_not_allowed(&target.resource, "delete of a subresource"));
        }
        let mut writing = self.writing(caller, target, Operation::Delete, options.dry_run)?;
        let deleted = self.delete_until_gone(&mut writing, target, options).await;
        deleted.map_err(|refused| refused.beside(writing.warnings))
    }

    async fn delete_until_gone(&self, writing: &mut Writing<'_>, target: &Target, options: &DeleteOptions) -> Result<Deleted> {
        let mut admitted = None;
        for _ in 0..RACE_ATTEMPTS {
            let current = self.current_shown(target).await?;
            check_preconditions(writing, &current, options)?;
            if admitted != Some(current.revision) {
                writing.warnings.clear();
                writing.admit_delete(&current).await?;
                admitted = Some(current.revision);
            }
            if let Some(deleted) = self.delete_attempt(writing, &current, options).await? {
                return Ok(deleted);
            }
        }
        Err(ApiError::stale(&target.resource, &target.name))
    }

    /// `None`: somebody else was faster.
    async fn delete_attempt(&self, writing: &mut Writing<'_>, current: &Arc<Object>, options: &DeleteOptions) -> Result<Option<Deleted>> {
        let value = current.value().map_err(ApiError::internal)?;
        let plan = plan(writing.resource(), current, &value, options, Timestamp::now())?;
        let suffix = key::suffix(&current.meta.namespace, &current.meta.name);
        let (commit, gone) = match plan {
            Plan::Wait => (Commit::Done(Arc::clone(current)), false),
            Plan::Remove if writing.dry_run == DryRun::All => (Commit::Done(Arc::clone(current)), true),
            Plan::Remove => (writing.remove(&suffix, current, None).await?, true),
            Plan::Mark(mark) => {
                let stored = writing.encode(&marked(writing.resource(), value, &mark))?;
                match writing.dry_run {
                    DryRun::All => (Commit::Done(writing.pretend(&stored, Some(current))?), false),
                    DryRun::No => (writing.put(&suffix, stored, Some(current)).await?, false),
                }
            }
        };
        match commit {
            Commit::Done(object) => Ok(Some(Deleted { object, gone, warnings: std::mem::take(&mut writing.warnings) })),
            Commit::Lost => Ok(None),
        }
    }

    pub(crate) async fn delete_selected(
        &self,
        caller: &Caller,
        target: &Target,
        options: &DeleteOptions,
        list: &ListOptions,
        selector: &Selector,
    ) -> Result<ListPage> {
        let mut page = self.read_list(target, list, selector).await?;
        let deletes = page.items.iter().map(|object| {
            let one = target.named(&object.meta.namespace, &object.meta.name);
            async move { self.delete_object(caller, &one, options).await }
        });
        // Collected first, so that the stream borrows nothing from the iterator's closures.
        let deletes: Vec<_> = deletes.collect();
        let mut outcomes = stream::iter(deletes).buffered(COLLECTION_PARALLEL);
        let mut items = Vec::new();
        while let Some(outcome) = outcomes.next().await {
            match outcome {
                Ok(deleted) => items.push(deleted.object),
                Err(err) if err.code == 404 => {}
                Err(err) => return Err(err),
            }
        }
        drop(outcomes);
        page.items = items;
        Ok(page)
    }
}

fn check_preconditions(writing: &Writing<'_>, current: &Object, options: &DeleteOptions) -> Result<()> {
    let name = &writing.target.name;
    if let Some(uid) = options.precondition_uid.as_deref().filter(|uid| *uid != &*current.meta.uid) {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", current.meta.uid);
        return Err(ApiError::conflict(writing.resource(), name, &why));
    }
    let revision = current.revision.to_string();
    if let Some(asked) = options.precondition_resource_version.as_deref().filter(|asked| *asked != revision) {
        let why = format!("Precondition failed: ResourceVersion in precondition: {asked}, ResourceVersion in object meta: {revision}");
        return Err(ApiError::conflict(writing.resource(), name, &why));
    }
    Ok(())
}

fn plan(resource: &ResourceInfo, current: &Object, value: &Value, options: &DeleteOptions, now: Timestamp) -> Result<Plan> {
    let meta = &current.meta;
    let mut finalizers = finalizers_after(&meta.finalizers, options.propagation);
    if let Some(own) =
        kinds::deletion_finalizer(resource).filter(|own| meta.deletion_timestamp.is_none() && !finalizers.iter().any(|f| f == own))
    {
        finalizers.push(own.to_owned());
    }
    let held = !finalizers.is_empty() || kinds::spec_finalizers(resource, value) > 0;
    let same = finalizers.iter().map(String::as_str).eq(meta.finalizers.iter().map(AsRef::as_ref));
    let asked = options.grace_period_seconds;
    let Some(deletion_timestamp) = meta.deletion_timestamp.as_deref() else {
        let grace = kinds::grace_seconds(resource, current, value, asked);
        if grace == 0 && !held {
            return Ok(Plan::Remove);
        }
        let deletion_timestamp = kinds::time_text(now.saturating_add(SignedDuration::from_secs(grace)).unwrap_or(now));
        return Ok(Plan::Mark(Mark { deletion_timestamp, grace_seconds: grace, finalizers, first: true }));
    };
    let pending = meta.deletion_grace_period_seconds.unwrap_or_default();
    // A grace period only shrinks; without a new one the old one stands.
    let grace = asked.map_or(pending, |asked| kinds::grace_seconds(resource, current, value, Some(asked))).min(pending);
    if grace == 0 && !held {
        return Ok(Plan::Remove);
    }
    if grace == pending && same {
        if kinds::is_namespace(resource) {
            return Err(ApiError::conflict(resource, &meta.name, NAMESPACE_BUSY));
        }
        return Ok(Plan::Wait);
    }
    let deadline = deletion_timestamp.parse::<Timestamp>().unwrap_or(now);
    let deadline = deadline.saturating_sub(SignedDuration::from_secs(pending - grace)).unwrap_or(now);
    Ok(Plan::Mark(Mark { deletion_timestamp: kinds::time_text(deadline), grace_seconds: grace, finalizers, first: false }))
}

const NAMESPACE_BUSY: &str = "The system is ensuring all content is removed from this namespace.  Upon completion, this namespace will automatically be purged by the system.";

/// The finalizers that an object has once it is being deleted with this propagation.
fn finalizers_after(have: &[Box<str>], propagation: Option<Propagation>) -> Vec<String> {
    let mut finalizers: Vec<String> = have.iter().map(|finalizer| finalizer.to_string()).collect();
    let wanted = match propagation {
        None => return finalizers,
        Some(Propagation::Background) => None,
        Some(Propagation::Foreground) => Some(FOREGROUND),
        Some(Propagation::Orphan) => Some(ORPHAN),
    };
    finalizers.retain(|finalizer| Some(finalizer.as_str()) == wanted || (finalizer != FOREGROUND && finalizer != ORPHAN));
    if let Some(wanted) = wanted
        && !finalizers.iter().any(|finalizer| finalizer == wanted)
    {
        finalizers.push(wanted.to_owned());
    }
    finalizers
}

fn marked(resource: &ResourceInfo, mut value: Value, mark: &Mark) -> Value {
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("deletionTimestamp".to_owned(), json!(mark.deletion_timestamp));
        metadata.insert("deletionGracePeriodSeconds".to_owned(), json!(mark.grace_seconds));
        if mark.finalizers.is_empty() {
            metadata.remove("finalizers");
        } else {
            metadata.insert("finalizers".to_owned(), json!(mark.finalizers));
        }
        if mark.first
            && let Some(generation) = metadata.get("generation").and_then(Value::as_i64)
        {
            metadata.insert("generation".to_owned(), json!(generation + 1));
        }
    }
    if kinds::is_namespace(resource) {
        if !value.get("status").is_some_and(Value::is_object) {
            value["status"] = json!({});
        }
        value["status"]["phase"] = json!("Terminating");
    }
    value
}

#[cfg(test)]
mod tests;
