//! `ValidatingAdmissionPolicy`: expressions that must be true.

use pintle_cel::Value as Cel;
use pintle_structural::FieldError;
use serde_json::Value as Json;

use crate::conditions::Conditions;
use crate::expressions::{Evaluation, Expression, Scope, list, text};
use crate::{FailurePolicy, Question};

/// Longest message that an expression may make, bytes.
const MESSAGE_BYTES_MAX: usize = 5 * 1024;
/// Most audit annotations, and how long the expression of one and what is kept of its value may be, bytes.
const ANNOTATIONS_MAX: usize = 20;
const ANNOTATION_SOURCE_BYTES_MAX: usize = 5 * 1024;
const ANNOTATION_BYTES_MAX: usize = 10 * 1024;

/// One failed validation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// For people.
    pub message: String,
    /// `metav1.StatusReason`.
    pub reason: String,
    /// Refused whatever the binding's actions are: not a validation failed, but the policy.
    pub always: bool,
    /// Which of the policy's validations failed.
    pub index: usize,
}

impl Denial {
    pub(crate) fn of_error(message: impl Into<String>) -> Denial {
        Denial { message: message.into(), reason: "Invalid".to_owned(), always: false, index: 0 }
    }
}

/// What a policy says about a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Validations that failed, in their order.
    pub denials: Vec<Denial>,
    /// Audit annotations: key and value.
    pub annotations: Vec<(String, String)>,
}

/// A policy, compiled.
#[derive(Debug)]
pub struct ValidatingPolicy {
    failure: FailurePolicy,
    conditions: Conditions,
    scope: Scope,
    validations: Vec<Validation>,
    annotations: Vec<(String, Expression)>,
}

#[derive(Debug)]
struct Validation {
    expression: Expression,
    message: String,
    message_expression: Option<Expression>,
    reason: String,
}

impl ValidatingPolicy {
    /// From a policy's `spec`, as it is stored. What does not compile fails whenever it is asked.
    #[must_use]
    pub fn new(spec: &Json) -> Self {
        let scope = Scope::new(spec, false);
        let validations = list(spec, "validations").iter().map(|validation| {
            let message = text(validation, "messageExpression");
            let reason = text(validation, "reason");
            Validation {
                expression: scope.compile(text(validation, "expression"), "bool"),
                message: text(validation, "message").trim().to_owned(),
                message_expression: (!message.is_empty()).then(|| scope.compile_message(message)),
                reason: if reason.is_empty() { "Invalid" } else { reason }.to_owned(),
            }
        });
        let annotations = list(spec, "auditAnnotations").iter().map(|annotation| {
            let source = text(annotation, "valueExpression").trim();
            (text(annotation, "key").to_owned(), scope.compile(source, "string"))
        });
        Self {
            failure: FailurePolicy::of(spec),
            conditions: Conditions::new(&spec["matchConditions"]),
            validations: validations.collect(),
            annotations: annotations.collect(),
            scope,
        }
    }

    /// What is wrong with a policy's `spec`, beyond what its schema and its match conditions say. `at` is its place.
    #[must_use]
    pub fn failures(spec: &Json, at: &str) -> Vec<FieldError> {
        let policy = Self::new(spec);
        let mut failures = Vec::new();
        policy.scope.failures(at, &mut failures);
        for (index, (validation, source)) in policy.validations.iter().zip(list(spec, "validations")).enumerate() {
            let at = format!("{at}.validations[{index}]");
            validation.expression.failure(&format!("{at}.expression"), &mut failures);
            if let Some(message) = &validation.message_expression {
                message.failure(&format!("{at}.messageExpression"), &mut failures);
            }
            let message = text(source, "message");
            let why = match validation.message.is_empty() {
                true if !message.is_empty() => "must be non-empty if specified",
                _ if validation.message.contains(['\n', '\r']) => "must not contain line breaks",
                _ => continue,
            };
            failures.push(FieldError::invalid(format!("{at}.message"), message, why));
        }
        if policy.annotations.len() > ANNOTATIONS_MAX {
            let why = format!("must not have more than {ANNOTATIONS_MAX} auditAnnotations");
            failures.push(FieldError::invalid(format!("{at}.auditAnnotations"), spec["auditAnnotations"].clone(), why));
        }
        for (index, (_, expression)) in policy.annotations.iter().enumerate() {
            let at = format!("{at}.auditAnnotations[{index}].valueExpression");
            if expression.source.len() > ANNOTATION_SOURCE_BYTES_MAX {
                failures.push(FieldError::required(at, format!("must not exceed {ANNOTATION_SOURCE_BYTES_MAX} bytes in length")));
            } else {
                expression.failure(&at, &mut failures);
            }
        }
        failures
    }

    /// Judge one request.
    #[must_use]
    pub fn judge(&self, question: Question<'_>) -> Outcome {
        let mut outcome = Outcome::default();
        match self.conditions.hold_for(question) {
            Ok(true) => {}
            Ok(false) => return outcome,
            Err(why) => {
                outcome.denials.extend(self.failed(why));
                return outcome;
            }
        }
        let evaluation = Evaluation::new(&self.scope, question);
        for (index, validation) in self.validations.iter().enumerate() {
            match evaluation.value(&validation.expression) {
                Ok(Cel::Bool(true)) => {}
                Ok(_) => {
                    let message = validation.message(&evaluation);
                    outcome.denials.push(Denial { message, reason: validation.reason.clone(), always: false, index });
                }
                Err(why) => outcome.denials.extend(self.failed(why).map(|denial| Denial { index, ..denial })),
            }
        }
        // Audit annotations have a budget of their own.
        let evaluation = Evaluation::new(&self.scope, question);
        for (key, expression) in &self.annotations {
            match evaluation.value(expression) {
                Ok(Cel::String(value)) if !value.trim().is_empty() => {
                    let value = value.trim();
                    outcome.annotations.push((key.clone(), value[..value.floor_char_boundary(ANNOTATION_BYTES_MAX)].to_owned()));
                }
                Ok(Cel::String(_) | Cel::Null) => {}
                Ok(_) => {
                    let why = format!("valueExpression '{}' resulted in unsupported return type", expression.source);
                    outcome.denials.push(Denial { always: true, ..Denial::of_error(why) });
                }
                Err(why) => outcome.denials.extend(self.failed(why).map(|denial| Denial { always: true, ..denial })),
            }
        }
        outcome
    }

    /// What a request gets that the policy could not judge.
    #[must_use]
    pub fn failed(&self, why: String) -> Option<Denial> {
        (self.failure == FailurePolicy::Fail).then(|| Denial::of_error(why))
    }
}

impl Validation {
    /// What to say when it does not hold: what its expression says, or its text, or itself.
    fn message(&self, evaluation: &Evaluation<'_, '_>) -> String {
        if let Some(Ok(Cel::String(made))) = self.message_expression.as_ref().map(|expression| evaluation.value(expression)) {
            let made = made.trim();
            if !made.is_empty() && made.len() <= MESSAGE_BYTES_MAX && !made.contains('\n') {
                return made.to_owned();
            }
        }
        if self.message.is_empty() { format!("failed expression: {}", self.expression.source.trim()) } else { self.message.clone() }
    }
}
