//! What Kubernetes' own admission plugins do for every cluster: NamespaceLifecycle, ServiceAccount, DefaultTolerationSeconds, Priority,
//! TaintNodesByCondition, RuntimeClass, LimitRanger, DefaultStorageClass, StorageObjectInUseProtection,
//! PersistentVolumeClaimResize and, when all edits are made, ResourceQuota.
//!
//! Not here: defaults of fields (the schema's), and who may do what (authorization).
//! Invariant: it looks only at what came with the call, and parses of it only what it decides by.

mod lifecycle;
mod limits;
mod plan;
mod pod;
mod priority;
mod quota;
mod runtime_class;
mod service_account;
mod storage;

use pintle_sdk::prelude::*;
use pintle_sdk::{Operation, Phase};
use serde::Deserialize;

/// Seconds that pods stay on a machine in trouble, unless they say otherwise.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Config {
    not_ready_toleration_seconds: i64,
    unreachable_toleration_seconds: i64,
}

impl Default for Config {
    fn default() -> Self {
        Config { not_ready_toleration_seconds: 300, unreachable_toleration_seconds: 300 }
    }
}

/// The module.
pub struct Defaults {
    config: Config,
}

impl Admission for Defaults {
    fn start(start: &Start) -> Result<Self> {
        Ok(Defaults { config: start.config()? })
    }

    fn review(&self, review: &Review<'_>) -> Result<Verdict> {
        let target = (review.target.group.as_str(), review.target.resource.as_str());
        if review.operation == Operation::Delete {
            return Ok(if target == ("", "namespaces") { lifecycle::delete(&review.target.name) } else { Verdict::allow() });
        }
        let resize = target == ("", "pods") && review.subresource == "resize";
        if !review.subresource.is_empty() && !resize {
            return Ok(Verdict::allow());
        }
        let plain_change = review.operation == Operation::Update && target == ("", "pods") && !resize;
        if review.phase == Phase::Validating {
            if plain_change {
                return Ok(Verdict::allow());
            }
            if review.operation == Operation::Update && target == ("", "persistentvolumeclaims") {
                let grown = storage::resize(review)?;
                return if grown.allowed() { quota::review(review) } else { Ok(grown) };
            }
            let limited = if review.operation == Operation::Create || resize { limits::review(review)? } else { Verdict::allow() };
            return if limited.allowed() { quota::review(review) } else { Ok(limited) };
        }
        if review.operation == Operation::Update {
            return if plain_change { plan::changed_pod(&self.config, review) } else { Ok(Verdict::allow()) };
        }
        let verdict = lifecycle::create(review)?;
        match target {
            ("", "pods") if verdict.allowed() => plan::pod(&self.config, review),
            ("", "nodes") => plan::node(review),
            ("", "persistentvolumeclaims" | "persistentvolumes") if verdict.allowed() => storage::create(review),
            _ => Ok(verdict),
        }
    }
}

pintle_sdk::admission!(Defaults);
