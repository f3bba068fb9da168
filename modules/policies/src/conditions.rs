//! `matchConditions`: which requests are meant, beyond what rules and selectors can say.

use std::sync::{Arc, LazyLock};

use pintle_cel::{Around, Authorize, Budget, Program, Value as Cel};
use serde_json::{Value as Json, json};

use crate::Question;
use crate::expressions::inputs;

/// What all match conditions of one judge may cost for one request.
const COST_MAX: u64 = 2_500_000;

/// Compile a match condition; the error says "compilation failed".
///
/// # Errors
/// It is not an expression of `object`, `oldObject`, `request`, `authorizer` (and, in policies, `params`) with a value of type bool.
pub fn match_condition(source: &str) -> Result<Program, String> {
    let variables = ["object", "oldObject", "request", "params", "namespaceObject", "authorizer"].map(|name| (name, &Json::Null));
    Program::compile(source, &variables, "bool").map_err(|error| error.to_string())
}

/// What one evaluation of a selector of devices may cost.
const SELECTOR_COST_MAX: u64 = 1_000_000;

/// Compile a selector of devices; whether it can never cost too much. The variable `device` has the members `driver`, `attributes` and `capacity` (by
/// domain, then by name) and `allowMultipleAllocations`.
///
/// # Errors
/// It is not an expression of `device` with a value of type bool.
pub fn device_selector(source: &str) -> Result<bool, String> {
    static DEVICE: LazyLock<Json> = LazyLock::new(|| {
        let by_domain = |of: Json| json!({ "type": "object", "maxProperties": 32, "additionalProperties": { "type": "object", "maxProperties": 32, "additionalProperties": of } });
        json!({ "type": "object", "properties": {
            "driver": { "type": "string", "maxLength": 63 },
            "allowMultipleAllocations": { "type": "boolean" },
            "attributes": by_domain(Json::Null),
            "capacity": by_domain(Json::Null),
        } })
    });
    let variables = [("device", &*DEVICE)];
    let program = Program::compile(source, &variables, "bool").map_err(|error| error.to_string())?;
    Ok(program.cost_estimate(&variables) <= SELECTOR_COST_MAX)
}

/// Compiled match conditions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conditions(Arc<[Condition]>);

#[derive(Debug)]
struct Condition {
    name: String,
    source: String,
    program: Result<Program, String>,
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.source) == (&other.name, &other.source)
    }
}

impl Conditions {
    /// From the list as it is written. One that does not compile fails whenever it is asked: it was refused when it was written.
    #[must_use]
    pub fn new(list: &Json) -> Self {
        let conditions = list.as_array().into_iter().flatten().map(|condition| {
            let source = condition["expression"].as_str().unwrap_or_default();
            let program = match_condition(source);
            Condition { name: condition["name"].as_str().unwrap_or_default().to_owned(), source: source.to_owned(), program }
        });
        Self(conditions.collect())
    }

    /// The first that does not compile, and why.
    #[must_use]
    pub fn broken(&self) -> Option<(&str, &str)> {
        self.0.iter().find_map(|condition| Some((condition.name.as_str(), condition.program.as_ref().err()?.as_str())))
    }

    /// Without any, every request is meant.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all hold for a request, given as an `AdmissionRequest` with its objects.
    ///
    /// # Errors
    /// One could not be evaluated, and no other one is false.
    pub fn hold(&self, review: &Json, authorize: Option<Authorize<'_>>) -> Result<bool, String> {
        if self.is_empty() {
            return Ok(true);
        }
        let view = crate::view_of(review.clone());
        let (object, old_object, request) = (&view.object, &view.old_object, &view.request);
        self.hold_for(Question { object, old_object, request, params: &Json::Null, namespace: &Json::Null, authorize })
    }

    /// The same for a request as policies see it.
    pub(crate) fn hold_for(&self, question: Question<'_>) -> Result<bool, String> {
        let variables = inputs(question);
        let budget = Budget::new(COST_MAX);
        let around = Around { late: None, authorize: question.authorize };
        let mut failure = None;
        for Condition { name, program, .. } in self.0.iter() {
            let value = match program {
                Ok(program) => program.run_with(&variables, around, &budget).map_err(|error| error.to_string()),
                Err(why) => Err(why.clone()),
            };
            match value {
                Ok(Cel::Bool(true)) => {}
                Ok(Cel::Bool(false)) => return Ok(false),
                Ok(_) => failure = Some(format!("match condition {name:?} is not a bool")),
                Err(why) => failure = Some(format!("match condition {name:?}: {why}")),
            }
        }
        failure.map_or(Ok(true), Err)
    }
}
