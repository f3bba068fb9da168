//! One webhook of a configuration, compiled: whom it wants to judge, whom to call, and what happens when that fails.

use std::time::Duration;

use pintle_registry::{Conditions, Failure, Matching, Verdict};
use serde_json::Value;

use crate::outbound::https::Callee;

/// Default of `timeoutSeconds`.
const TIMEOUT_SECONDS: u64 = 10;

/// See the module.
pub(crate) struct Webhook {
    pub(crate) name: String,
    pub(crate) matching: Matching,
    pub(crate) conditions: Conditions,
    ignore_failures: bool,
    pub(crate) dry_run_safe: bool,
    pub(crate) reinvoke: bool,
    pub(crate) timeout: Duration,
    pub(crate) callee: Callee,
}

impl Webhook {
    /// From an entry of `webhooks` as it is stored: validated and defaulted.
    pub(crate) fn new(entry: &Value) -> Webhook {
        let text = |key: &str| entry[key].as_str().unwrap_or_default();
        Webhook {
            name: text("name").to_owned(),
            matching: Matching::new(entry, "rules"),
            conditions: Conditions::new(&entry["matchConditions"]),
            ignore_failures: text("failurePolicy") == "Ignore",
            dry_run_safe: matches!(text("sideEffects"), "None" | "NoneOnDryRun"),
            reinvoke: text("reinvocationPolicy") == "IfNeeded",
            timeout: Duration::from_secs(entry["timeoutSeconds"].as_u64().unwrap_or(TIMEOUT_SECONDS)),
            callee: Callee::new(&entry["clientConfig"]),
        }
    }

    /// What a request gets when it could not be judged.
    pub(crate) fn failed(&self, why: &str) -> Verdict {
        if self.ignore_failures {
            tracing::warn!(webhook = self.name, why, "a webhook failed and is ignored");
            return Verdict::allowed();
        }
        let message = format!("Internal error occurred: failed calling webhook {:?}: {why}", self.name);
        Verdict { refused: Some(Failure { code: 500, reason: "InternalError".into(), message }), ..Verdict::default() }
    }
}
