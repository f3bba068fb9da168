//! Server-side apply: a patch that says what a manager wants of an object. It makes the object if it is not there; else it is a
//! revision like any other, made again when somebody else was faster.

use pintle_api::apply::{self, Ownership};
use pintle_api::{ApiError, Reason, strategy};
use serde_json::{Value, json};

use crate::admission::Operation;
use crate::caller::Caller;
use crate::kinds;
use crate::options::{Missing, Patch, WriteOptions};
use crate::pipeline::Writing;
use crate::registry::{Registry, Result, Written};
use crate::target::{ResourceInfo, Target};
use crate::update::{RACE_ATTEMPTS, Source};

impl Registry {
    pub(crate) async fn apply_object(&self, caller: &Caller, target: &Target, patch: &Patch, options: &WriteOptions) -> Result<Written> {
        let Patch::Apply(text) = patch else { return Err(ApiError::internal("not an applied configuration")) };
        let (config, warnings) = self.read_config(&target.resource, &target.name, text, options)?;
        let written = self.apply_config(caller, target, &config, options).await?;
        Ok(Written { warnings: [warnings, written.warnings].concat(), ..written })
    }

    /// A configuration, and warnings about it.
    pub(crate) fn read_config(
        &self,
        resource: &ResourceInfo,
        name: &str,
        text: &[u8],
        options: &WriteOptions,
    ) -> Result<(Value, Vec<String>)> {
        let (config, issues) = apply::read_config(&self.schema(), resource, name, text)?;
        Ok((config, options.field_validation.settle(resource, &issues)?))
    }

    /// Apply a configuration that was read.
    pub(crate) async fn apply_config(&self, caller: &Caller, target: &Target, config: &Value, options: &WriteOptions) -> Result<Written> {
        for _ in 0..RACE_ATTEMPTS {
            if self.is_made(target, options)? {
                if let Some(written) = self.create_applied(caller, target, config, options).await? {
                    return Ok(written);
                }
                continue;
            }
            let writing = self.writing(caller, target, Operation::Update, options.dry_run)?;
            match self.revise(writing, Source::Apply(config), options).await {
                Err(err) if err.reason == Reason::NotFound && self.is_made(target, options)? => {}
                outcome => return outcome,
            }
        }
        Err(ApiError::stale(&target.resource, &target.name))
    }

    /// Whether the write has to make its object, and may.
    fn is_made(&self, target: &Target, options: &WriteOptions) -> Result<bool> {
        let absent = match self.current(target) {
            Ok(_) => false,
            Err(err) if err.reason == Reason::NotFound => true,
            Err(err) => return Err(err),
        };
        Ok(absent && target.subresource.is_empty() && options.missing == Missing::Create)
    }

    /// `None`: somebody else made it.
    async fn create_applied(&self, caller: &Caller, target: &Target, config: &Value, options: &WriteOptions) -> Result<Option<Written>> {
        let metadata = |key: &str| config["metadata"][key].as_str().unwrap_or_default();
        strategy::check_name(config, &target.name)?;
        if !metadata("uid").is_empty() || !matches!(metadata("resourceVersion"), "" | "0") {
            return Err(ApiError::stale(&target.resource, &target.name));
        }
        let mut writing = self.writing(caller, target, Operation::Create, options.dry_run)?;
        let (mut value, ownership) = writing.apply(config, &json!({}), options)?;
        writing.default(&mut value);
        self.create_attempt(&mut writing, value, ownership).await
    }
}

impl Writing<'_> {
    /// What a configuration makes of an object, and who owns what in it.
    pub(crate) fn apply(&self, config: &Value, live: &Value, options: &WriteOptions) -> Result<(Value, Ownership)> {
        let now = kinds::now_text();
        apply::applied(&self.catalog.schema, self.resource(), self.writer(options, &now), options.force, live, config)
    }
}
