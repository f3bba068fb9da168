//! Creates.

use pintle_api::apply::{self, Ownership};
use pintle_api::strategy::{self, Stamp};
use pintle_api::{ApiError, FieldError};
use serde_json::Value;

use crate::admission::Operation;
use crate::allocate::Claims;
use crate::caller::Caller;
use crate::key;
use crate::kinds;
use crate::options::{Body, DryRun, WriteOptions};
use crate::pipeline::{Commit, Writing};
use crate::registry::{Registry, Result, Written};
use crate::target::Target;

/// Names tried for a `generateName` before the client is told to try again.
const NAME_ATTEMPTS: usize = 8;

impl Registry {
    pub(crate) async fn create_object(&self, caller: &Caller, target: &Target, body: Body, options: &WriteOptions) -> Result<Written> {
        let mut writing = self.writing(caller, target, Operation::Create, options.dry_run)?;
        let created = self.create_decoded(&mut writing, target, body, options).await;
        created.map_err(|refused| refused.beside(writing.warnings))
    }

    async fn create_decoded(&self, writing: &mut Writing<'_>, target: &Target, body: Body, options: &WriteOptions) -> Result<Written> {
        let mut decoded = writing.decode(&body, options)?;
        drop(body);
        if target.resource.namespaced() && target.namespace.is_empty() {
            return Err(ApiError::bad_request("an empty namespace may not be set during creation"));
        }
        writing.default(&mut decoded);
        let ownership = apply::created(&writing.catalog.schema, writing.resource(), writing.writer(options, &kinds::now_text()), &decoded);
        let generated = name_of(&decoded).is_empty() && !text(&decoded, "generateName").is_empty();
        if !generated {
            let created = self.create_attempt(writing, decoded, ownership).await?;
            let name = writing.target.name.clone();
            return created.ok_or_else(|| ApiError::already_exists(&target.resource, &name));
        }
        for _ in 0..NAME_ATTEMPTS {
            let warned = writing.warnings.len();
            if let Some(written) = self.create_attempt(writing, decoded.clone(), ownership.clone()).await? {
                return Ok(written);
            }
            writing.warnings.truncate(warned);
        }
        Err(no_name(writing))
    }

    /// Of a defaulted object. `None`: the name is taken.
    pub(crate) async fn create_attempt(
        &self,
        writing: &mut Writing<'_>,
        mut value: Value,
        ownership: Ownership,
    ) -> Result<Option<Written>> {
        let uid = uuid::Uuid::new_v4().to_string();
        let now = kinds::now_text();
        let suffix = (self.config.name_suffix)();
        let stamp = Stamp { uid: &uid, now: &now, suffix: &suffix };
        strategy::prepare_create(writing.resource(), &mut value, &writing.target.namespace, stamp)?;
        kinds::prepare_create(writing.resource(), &mut value, writing.caller);
        let name = name_of(&value).to_owned();
        if !key::is_segment(&name) {
            return Err(writing.invalid(&value, &[bad_name(&name)]));
        }
        writing.target.name.clone_from(&name);
        let suffix = key::suffix(&writing.target.namespace, &name);
        if writing.shard.get(&suffix).is_some() {
            return Ok(None);
        }
        let claims = match kinds::is_service(writing.resource()) {
            true => Some(self.fed.allocators.assign(&mut value, None).map_err(|err| writing.invalid(&value, &[*err]))?),
            false => None,
        };
        writing.mutate(&mut value, None).await?;
        ownership.put_into(&mut value);
        writing.check_create(&value)?;
        let stored = writing.encode(&value)?;
        drop(value);
        writing.validate(&stored, None).await?;
        if writing.dry_run == DryRun::All {
            let object = writing.pretend(&stored, None)?;
            return Ok(Some(Written { object, created: true, warnings: std::mem::take(&mut writing.warnings) }));
        }
        let held = claims.map(Claims::hold).unwrap_or_default();
        let Commit::Done(object) = writing.put(&suffix, stored, None).await? else {
            self.fed.allocators.release(&held);
            return Ok(None);
        };
        Ok(Some(Written { object, created: true, warnings: std::mem::take(&mut writing.warnings) }))
    }
}

fn name_of(value: &Value) -> &str {
    text(value, "name")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get("metadata").and_then(|metadata| metadata.get(key)).and_then(Value::as_str).unwrap_or_default()
}

fn bad_name(name: &str) -> FieldError {
    if name.is_empty() {
        FieldError::required("metadata.name", "name or generateName is required")
    } else {
        FieldError::invalid("metadata.name", name, "it cannot be the name of an object")
    }
}

fn no_name(writing: &Writing<'_>) -> ApiError {
    let mut error = ApiError::already_exists(writing.resource(), &writing.target.name);
    error.message.push_str(", the server was not able to generate a unique name for the object");
    if let Some(details) = &mut error.details {
        details.retry_after_seconds = 1;
    }
    error
}
