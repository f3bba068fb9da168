//! What a binding makes of a policy's outcome: a refusal, warnings, notes for the audit log.

use serde_json::{Value as Json, json};

use crate::validating::{Denial, Outcome};

/// Under what key failed validations are noted: one JSON object each here, all of a request's in a list in the log.
pub const VALIDATION_FAILURE: &str = "validation.policy.admission.k8s.io/validation_failure";

/// `validationActions` of a binding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Actions {
    /// Failed validations refuse the request.
    pub deny: bool,
    /// They are warnings for the client.
    pub warn: bool,
    /// They are annotations of the request's audit event.
    pub audit: bool,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub code: u16,
    /// `metav1.StatusReason`.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// The first refusal.
    pub refused: Option<Refusal>,
    /// For the client.
    pub warnings: Vec<String>,
    /// For the audit log: key and value.
    pub audit: Vec<(String, String)>,
}

impl Actions {
    /// As they are written.
    #[must_use]
    pub fn of(list: &Json) -> Self {
        let has = |word: &str| list.as_array().is_some_and(|list| list.iter().any(|action| action == word));
        Self { deny: has("Deny"), warn: has("Warn"), audit: has("Audit") }
    }

    /// What becomes of an outcome under this binding of that policy.
    #[must_use]
    pub fn settle(self, policy: &str, binding: &str, outcome: Outcome) -> Settled {
        let mut settled = Settled::default();
        for denial in outcome.denials {
            if settled.refused.is_none() && (self.deny || denial.always) {
                settled.refused = Some(Refusal::new(policy, Some(binding), &denial));
            }
            if self.warn && !denial.always {
                settled.warnings.push(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{binding}': {}",
                    denial.message
                ));
            }
            if self.audit && !denial.always {
                let actions = [("Deny", self.deny), ("Warn", self.warn), ("Audit", self.audit)];
                let actions: Vec<&str> = actions.iter().filter(|(_, said)| *said).map(|(word, _)| *word).collect();
                let failure = json!({
                    "message": denial.message, "policy": policy, "binding": binding, "expressionIndex": denial.index, "validationActions": actions,
                });
                settled.audit.push((VALIDATION_FAILURE.to_owned(), failure.to_string()));
            }
        }
        settled.audit.extend(outcome.annotations.into_iter().map(|(key, value)| (format!("{policy}/{key}"), value)));
        settled
    }
}

impl Refusal {
    /// By a validating policy; without a binding, the policy itself cannot be used.
    #[must_use]
    pub fn new(policy: &str, binding: Option<&str>, denial: &Denial) -> Self {
        let by = binding.map(|binding| format!(" with binding '{binding}'")).unwrap_or_default();
        let code = match denial.reason.as_str() {
            "Forbidden" => 403,
            "Unauthorized" => 401,
            "RequestEntityTooLarge" => 413,
            _ => 422,
        };
        let message = format!("ValidatingAdmissionPolicy '{policy}'{by} denied request: {}", denial.message);
        Self { code, reason: denial.reason.clone(), message }
    }
}
