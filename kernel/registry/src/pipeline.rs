//! The steps that every write takes, whoever asks: decode, admission, and the commit. `create`, `update` and `delete` put
//! them in order.
//!
//! Nothing here holds a lock while it encodes or waits. Writes to different objects meet only in the store, which
//! commits those that come together as one group.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pintle_api::apply::Writer;
use pintle_api::decode::{self, FieldIssue, FieldValidation, Format};
use pintle_api::patch::{self, PatchType};
use pintle_api::{ApiError, FieldError, defaults, proto, validate};
use pintle_store::{Revision, Txn};
use serde_json::Value;

use crate::admission::{Admission, AdmissionRequest, Edit, Failure, Operation, Phase};
use crate::audit;
use crate::cache::Shard;
use crate::caller::Caller;
use crate::catalog::Catalog;
use crate::encode;
use crate::key;
use crate::object::Object;
use crate::options::{Body, DryRun, WriteOptions};
use crate::registry::{Registry, Result};
use crate::target::{ResourceInfo, Target};

/// How long a stored write waits for the cache to show it, seconds. The follower lives in the same process: longer means
/// that it is broken.
const SHOW_SECONDS: u64 = 10;
/// How long a write that lost a race waits for the cache to show who won, milliseconds.
const RACE_MILLIS: u64 = 500;

/// One write under way.
pub(crate) struct Writing<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) shard: Arc<Shard>,
    pub(crate) caller: &'a Caller,
    /// With the name, once it is known.
    pub(crate) target: Target,
    pub(crate) operation: Operation,
    pub(crate) dry_run: DryRun,
    pub(crate) warnings: Vec<String>,
    admission: Option<Arc<dyn Admission>>,
}

/// How a commit went.
pub(crate) enum Commit {
    /// It is stored, and the cache shows it.
    Done(Arc<Object>),
    /// Somebody else was faster; the cache shows what they wrote.
    Lost,
}

impl Registry {
    pub(crate) fn writing<'a>(&'a self, caller: &'a Caller, target: &Target, operation: Operation, dry_run: DryRun) -> Result<Writing<'a>> {
        Ok(Writing {
            registry: self,
            catalog: Arc::clone(&self.catalog.read()),
            shard: self.shard(&target.resource)?,
            caller,
            target: target.clone(),
            operation,
            dry_run,
            warnings: Vec::new(),
            admission: self.admission.read().clone(),
        })
    }

    /// Ask who judges about a connection to an object (exec, attach, portforward, proxy); `options` is what the client wants of it.
    ///
    /// # Errors
    /// A refusal.
    pub async fn admit_connect(&self, caller: &Caller, target: &Target, options: &Value) -> Result<()> {
        self.writing(caller, target, Operation::Connect, DryRun::No)?.admit_posted(options).await
    }

    /// Wait until reads see a transaction that was committed.
    async fn seen(&self, revision: Revision) -> Result<()> {
        let reached = tokio::time::timeout(Duration::from_secs(SHOW_SECONDS), self.fed.cache.reached(revision)).await;
        reached.map_err(|_| ApiError::timeout("the change is stored, but is not shown yet"))
    }

    /// Wait until reads see what a write lost against.
    pub(crate) async fn after_race(&self, err: &pintle_store::Conflict) {
        let winner = err.current.as_ref().map_or_else(|| self.store.current(), |entry| entry.mod_revision);
        // If it does not show in time the next attempt loses again, and attempts are counted.
        let _ = tokio::time::timeout(Duration::from_millis(RACE_MILLIS), self.fed.cache.reached(winner)).await;
    }
}

impl Writing<'_> {
    pub(crate) fn resource(&self) -> &Arc<ResourceInfo> {
        &self.target.resource
    }

    /// Read a body as an object of the resource.
    pub(crate) fn decode(&mut self, body: &Body, options: &WriteOptions) -> Result<Value> {
        decode_body(&self.catalog, &self.target.resource, body, options, &mut self.warnings)
    }

    /// Hold a value that a patch made against the resource's type, and the patch's text to saying each thing once.
    pub(crate) fn conform(&mut self, value: &mut Value, patch: &Bytes, options: &WriteOptions) -> Result<()> {
        let issues = match options.field_validation {
            FieldValidation::Ignore => Vec::new(),
            _ => decode::parse(patch, Format::Json)?.1,
        };
        conform_after(&self.catalog, &self.target.resource, value, issues, options, &mut self.warnings)
    }

    pub(crate) fn default(&self, value: &mut Value) {
        defaults::apply(&self.catalog.schema, &self.target.resource, value);
    }

    /// Who owns the fields that the write sets, and since when.
    pub(crate) fn writer<'w>(&'w self, options: &'w WriteOptions, now: &'w str) -> Writer<'w> {
        let manager = if options.field_manager.is_empty() { self.caller.manager() } else { &options.field_manager };
        Writer { manager, subresource: &self.target.subresource, now }
    }

    pub(crate) fn encode(&self, value: &Value) -> Result<Bytes> {
        encode::encode(&self.target.resource, value).map_err(ApiError::internal)
    }

    pub(crate) fn invalid(&self, value: &Value, errors: &[FieldError]) -> ApiError {
        let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        ApiError::invalid(&self.target.resource, name, errors)
    }

    /// Mutating admission; edits are conformed and defaulted like anything else.
    pub(crate) async fn mutate(&mut self, value: &mut Value, old: Option<&Arc<Object>>) -> Result<()> {
        let Some(admission) = self.wanting(Phase::Mutating) else { return Ok(()) };
        let object = self.encode(value)?;
        let edits = self.judge(admission.as_ref(), Phase::Mutating, object, old).await?;
        if edits.is_empty() {
            return Ok(());
        }
        *value = patch::apply(&self.catalog.schema, &self.target.resource, PatchType::Json, &edits_text(&edits), value)?;
        decode::conform_resource(&self.catalog.schema, &self.target.resource, value)?;
        self.default(value);
        Ok(())
    }

    /// Validating admission of what will be stored.
    pub(crate) async fn validate(&mut self, stored: &Bytes, old: Option<&Arc<Object>>) -> Result<()> {
        let Some(admission) = self.wanting(Phase::Validating) else { return Ok(()) };
        self.judge(admission.as_ref(), Phase::Validating, stored.clone(), old).await.map(|_| ())
    }

    /// Both phases for a delete: nothing can be edited, so only refusals and warnings count.
    pub(crate) async fn admit_delete(&mut self, current: &Arc<Object>) -> Result<()> {
        for phase in [Phase::Mutating, Phase::Validating] {
            if let Some(admission) = self.wanting(phase) {
                self.judge(admission.as_ref(), phase, Bytes::new(), Some(current)).await?;
            }
        }
        Ok(())
    }

    /// Both phases for what is posted to a subresource and not stored itself: only refusals and warnings count.
    pub(crate) async fn admit_posted(&mut self, posted: &Value) -> Result<()> {
        for phase in [Phase::Mutating, Phase::Validating] {
            if let Some(admission) = self.wanting(phase) {
                self.judge(admission.as_ref(), phase, posted.to_string().into(), None).await?;
            }
        }
        Ok(())
    }

    /// The change of the object that follows from what was admitted: it is not judged again.
    pub(crate) fn admitted(self) -> Self {
        Self { operation: Operation::Update, admission: None, ..self }
    }

    /// Validation of a new object.
    pub(crate) fn check_create(&mut self, value: &Value) -> Result<()> {
        let failures = validate::create(&self.catalog.schema, &self.target.resource, value);
        self.warnings.extend(validate::warnings(&self.target.resource, value));
        validate::settle(&self.target.resource, value, &failures)
    }

    /// Validation of a changed object, immutable fields included. A write to a subresource was kept to its own fields.
    pub(crate) fn check_update(&mut self, new: &Value, old: &Value) -> Result<()> {
        if self.target.subresource.is_empty() {
            self.warnings.extend(validate::warnings(&self.target.resource, new));
        }
        let failures = match self.target.subresource.as_str() {
            "" | "scale" => validate::update(&self.catalog.schema, &self.target.resource, new, old),
            "binding" => Vec::new(),
            "status" => validate::update_status(&self.catalog.schema, &self.target.resource, new, old),
            part => validate::update_part(&self.catalog.schema, &self.target.resource, part, new, old),
        };
        validate::settle(&self.target.resource, new, &failures)
    }

    fn wanting(&self, phase: Phase) -> Option<Arc<dyn Admission>> {
        let admission = self.admission.as_ref()?;
        let wanted = admission.wants(&self.target.resource, &self.target.subresource, self.operation, phase);
        wanted.then(|| Arc::clone(admission))
    }

    async fn judge(&mut self, admission: &dyn Admission, phase: Phase, object: Bytes, old: Option<&Arc<Object>>) -> Result<Vec<Edit>> {
        let request = AdmissionRequest {
            operation: self.operation,
            target: &self.target,
            caller: self.caller,
            object,
            old: old.cloned(),
            dry_run: self.dry_run,
        };
        let verdict = match phase {
            Phase::Mutating => admission.mutate(&request).await,
            Phase::Validating => admission.validate(&request).await,
        };
        self.warnings.extend(verdict.warnings);
        match verdict.refused {
            Some(failure) => Err(refusal(&self.target, failure)),
            None => Ok(verdict.edits),
        }
    }

    /// Store an object that must not exist (`current` is `None`) or must still be as it was.
    pub(crate) async fn put(&self, suffix: &str, stored: Bytes, current: Option<&Arc<Object>>) -> Result<Commit> {
        let key = key::of(self.shard.resource.key(), suffix);
        let stored = self.registry.to_stored(self.resource(), &self.shard.resource, stored).await?;
        let txn = match current {
            None => Txn::create(key, stored.clone()),
            Some(current) => Txn::update(key, current.revision, stored.clone()),
        };
        let Some(revision) = self.commit(txn).await? else { return Ok(Commit::Lost) };
        let object = match self.shard.get(suffix).filter(|object| object.revision == revision) {
            Some(object) => object,
            // Overwritten since by somebody else: the answer is still what this write stored.
            None => self.published(&self.shard.resource, &stored, revision)?,
        };
        Ok(Commit::Done(self.registry.shown_one(self.resource(), object).await?))
    }

    /// Remove an object that must still be as it was. The answer is its last state: `last` if this write changed it.
    pub(crate) async fn remove(&self, suffix: &str, current: &Arc<Object>, last: Option<&Bytes>) -> Result<Commit> {
        let key = key::of(self.shard.resource.key(), suffix);
        match (self.commit(Txn::remove(key, current.revision)).await?, last) {
            (None, _) => Ok(Commit::Lost),
            (Some(revision), Some(stored)) => self.published(self.resource(), stored, revision).map(Commit::Done),
            (Some(revision), None) => Ok(Commit::Done(Arc::new(encode::restamp(current, revision)))),
        }
    }

    fn published(&self, resource: &Arc<ResourceInfo>, stored: &Bytes, revision: Revision) -> Result<Arc<Object>> {
        encode::publish(resource, stored, revision).map(Arc::new).map_err(ApiError::internal)
    }

    /// The transaction's revision once reads see it; `None` if somebody else was faster.
    async fn commit(&self, txn: Txn) -> Result<Option<Revision>> {
        match self.registry.store.txn(txn).await {
            Ok(revision) => {
                self.registry.seen(revision).await?;
                Ok(Some(revision))
            }
            Err(pintle_store::Error::Conflict(conflict)) => {
                self.registry.after_race(&conflict).await;
                Ok(None)
            }
            Err(err) => Err(self.registry.store_error(self.resource(), &self.target.name, &err)),
        }
    }

    /// What a dry run answers: the object as it would be, still at the revision that it has (none if it is new).
    pub(crate) fn pretend(&self, stored: &Bytes, old: Option<&Arc<Object>>) -> Result<Arc<Object>> {
        let made = match old {
            Some(old) => encode::publish(self.resource(), stored, old.revision),
            None => encode::unstored(self.resource(), stored),
        };
        made.map(Arc::new).map_err(ApiError::internal)
    }
}

/// Read a body as an object of a resource.
pub(crate) fn decode_body(
    catalog: &Catalog,
    resource: &ResourceInfo,
    body: &Body,
    options: &WriteOptions,
    warnings: &mut Vec<String>,
) -> Result<Value> {
    let (value, issues) = match body {
        Body::Json(bytes) => decode::decode(&catalog.schema, resource, bytes, Format::Json)?,
        Body::Yaml(bytes) => decode::decode(&catalog.schema, resource, bytes, Format::Yaml)?,
        Body::Value(value) => {
            let mut value = value.clone();
            audit::request(&value);
            conform_value(catalog, resource, &mut value, options, warnings)?;
            return Ok(value);
        }
        Body::Protobuf(bytes) => {
            let mut value = proto::decode_object(&catalog.schema, resource, bytes)?;
            audit::request(&value);
            conform_value(catalog, resource, &mut value, options, warnings)?;
            return Ok(value);
        }
    };
    audit::request(&value);
    warnings.extend(options.field_validation.settle(resource, &issues)?);
    Ok(value)
}

/// Hold a value against a resource's type.
pub(crate) fn conform_value(
    catalog: &Catalog,
    resource: &ResourceInfo,
    value: &mut Value,
    options: &WriteOptions,
    warnings: &mut Vec<String>,
) -> Result<()> {
    conform_after(catalog, resource, value, Vec::new(), options, warnings)
}

/// The same, beside what was found before.
fn conform_after(
    catalog: &Catalog,
    resource: &ResourceInfo,
    value: &mut Value,
    mut issues: Vec<FieldIssue>,
    options: &WriteOptions,
    warnings: &mut Vec<String>,
) -> Result<()> {
    decode::check_type_meta(resource, value)?;
    issues.extend(decode::conform_resource(&catalog.schema, resource, value)?);
    warnings.extend(options.field_validation.settle(resource, &issues)?);
    Ok(())
}

fn refusal(target: &Target, failure: Failure) -> ApiError {
    match (failure.code, failure.reason.as_str()) {
        (0, "" | "Forbidden") => ApiError::forbidden(&target.resource, &target.name, &failure.message),
        (0, reason) => ApiError::from_code(403, reason, failure.message),
        (code, reason) => ApiError::from_code(code, reason, failure.message),
    }
}

fn edits_text(edits: &[Edit]) -> Vec<u8> {
    Value::Array(edits.iter().map(Edit::operation).collect()).to_string().into_bytes()
}
