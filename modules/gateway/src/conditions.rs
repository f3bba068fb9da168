//! Conditions: what is said of an object, since when, and of which generation of it.

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;

/// A condition before it has a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    pub kind: &'static str,
    pub holds: bool,
    pub reason: &'static str,
    pub message: String,
}

impl Said {
    /// It holds, and that is all.
    pub fn holds(kind: &'static str) -> Self {
        Self { kind, holds: true, reason: kind, message: String::new() }
    }

    /// It does not hold, and why.
    pub fn fails(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, holds: false, reason, message: message.into() }
    }
}

/// The list with its times: a condition that says the same as before keeps its time.
pub fn list(now: Time, generation: i64, said: &[Said], before: &Value) -> Value {
    let one = |said: &Said| {
        let status = if said.holds { "True" } else { "False" };
        let old = before.as_array().into_iter().flatten().find(|old| old["type"] == said.kind);
        let since = old.filter(|old| old["status"] == status).map_or_else(|| json!(now), |old| old["lastTransitionTime"].clone());
        json!({
            "type": said.kind, "status": status, "reason": said.reason, "message": said.message,
            "observedGeneration": generation, "lastTransitionTime": since,
        })
    };
    said.iter().map(one).collect()
}
