//! `x-kubernetes-validations`: rules in CEL, at any place of a schema, over the value there (`self`) and the one before
//! (`oldSelf`). Run once the schema has nothing against the object. All rules of one object share one budget.

use std::collections::HashMap;

use pintle_cel::{Budget, EXPRESSION_COST_MAX, Error, Program, SCHEMA_COST_MAX, Value as Cel, occurrences};
use serde_json::Value;

use crate::check::identity;
use crate::path::Path;
use crate::{FAILURES_MAX, FieldError, FieldErrorKind, flag, list, text};

const KEY: &str = "x-kubernetes-validations";
const REASONS: [&str; 4] = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// Compiled expressions, by their text.
pub(crate) type Programs = HashMap<String, Program>;

/// The expressions at a node, each with the type that it must give and its key in the rule.
fn expressions(rule: &Value) -> impl Iterator<Item = (&'static str, &str, &'static str)> {
    let both = [("rule", "bool"), ("messageExpression", "string")];
    both.into_iter().map(|(key, wanted)| (key, text(rule, key), wanted)).filter(|(_, source, _)| !source.is_empty())
}

fn compile(node: &Value, rule: &Value, source: &str, wanted: &str) -> Result<Program, Error> {
    let old = if flag(rule, "optionalOldSelf") { &Value::Null } else { node };
    Program::compile(source, &[("self", node), ("oldSelf", old)], wanted)
}

/// Compiles the expressions at a node; those that do not compile were refused with the definition.
pub(crate) fn gather(node: &Value, programs: &mut Programs) {
    for rule in list(node, KEY) {
        let made = expressions(rule).filter_map(|(_, source, wanted)| Some((source.to_owned(), compile(node, rule, source, wanted).ok()?)));
        programs.extend(made);
    }
}

/// What rules may cost, estimated when they are defined.
#[derive(Default)]
pub(crate) struct Costs {
    /// Of all rules so far.
    total: u64,
}

impl Costs {
    /// Counts an expression at a node that stands in an object `times` at most; what it says is why the expression is too dear.
    fn add(&mut self, node: &Value, program: &Program, key: &str, times: Option<u64>) -> Option<String> {
        let variables = [("self", node), ("oldSelf", node)];
        let cost = program.cost_estimate(&variables).saturating_mul(times.unwrap_or_else(|| occurrences(node)));
        self.total = self.total.saturating_add(cost);
        let hint =
            "try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared";
        (cost > EXPRESSION_COST_MAX)
            .then(|| format!("estimated {key} cost exceeds budget by {} ({hint})", factor(cost, EXPRESSION_COST_MAX)))
    }

    /// What is wrong with all rules of a schema together.
    pub(crate) fn total(&self, at: &str) -> Option<FieldError> {
        let why = || format!("estimated cost of all rules of the schema exceeds budget by {}", factor(self.total, SCHEMA_COST_MAX));
        (self.total > SCHEMA_COST_MAX).then(|| FieldError::forbidden(at, why()))
    }
}

fn factor(cost: u64, limit: u64) -> String {
    match cost / limit {
        100.. => "factor of more than 100x".to_owned(),
        _ => format!("factor of {:.1}x", cost as f64 / limit as f64),
    }
}

/// What is wrong with the rules at a node of a definition, which stands in an object `times` at most.
pub(crate) fn check(node: &Value, at: &str, times: Option<u64>, costs: &mut Costs, failures: &mut impl FnMut(FieldError)) {
    for (index, rule) in list(node, KEY).iter().enumerate() {
        let at = format!("{at}.{KEY}[{index}]");
        if text(rule, "rule").trim().is_empty() {
            failures(FieldError::required(format!("{at}.rule"), "rule is not specified"));
            continue;
        }
        for (key, source, wanted) in expressions(rule) {
            match compile(node, rule, source, wanted) {
                Err(err) => failures(FieldError::invalid(format!("{at}.{key}"), source, err.to_string())),
                Ok(program) if flag(rule, "optionalOldSelf") && key == "rule" && !program.reads("oldSelf") => {
                    let why = "may not be set when oldSelf is not used in rule";
                    failures(FieldError::invalid(format!("{at}.optionalOldSelf"), true, why));
                }
                Ok(program) => {
                    let dear = costs.add(node, &program, key, times);
                    dear.into_iter().for_each(|why| failures(FieldError::forbidden(format!("{at}.{key}"), why)));
                }
            }
        }
        let reason = text(rule, "reason");
        if !reason.is_empty() && !REASONS.contains(&reason) {
            failures(FieldError::not_supported(format!("{at}.reason"), reason, &REASONS));
        }
        if text(rule, "message").contains('\n') {
            failures(FieldError::invalid(format!("{at}.message"), text(rule, "message"), "message must not contain line breaks"));
        }
    }
}

/// One run of all rules over an object.
pub(crate) struct Run<'a> {
    pub(crate) programs: &'a Programs,
    pub(crate) budget: Budget,
    pub(crate) failures: Vec<FieldError>,
}

impl Run<'_> {
    /// The rules at `node` and below it. What is as it was is not judged again.
    pub(crate) fn value(&mut self, node: &Value, value: &Value, old: Option<&Value>, path: &Path<'_>) {
        if old == Some(value) {
            return;
        }
        for rule in list(node, KEY) {
            if !self.rule(node, rule, value, old, path) {
                return;
            }
        }
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    let old = old.and_then(|old| old.get(key));
                    match node["properties"].get(key) {
                        Some(child) => self.value(child, value, old, &path.key(key)),
                        None => self.value(&node["additionalProperties"], value, old, &path.map_key(key)),
                    }
                }
            }
            Value::Array(items) => {
                let identity = identity(node).filter(|_| text(node, "x-kubernetes-list-type") == "map");
                let before = old.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                for (index, item) in items.iter().enumerate() {
                    let was = identity.as_ref().and_then(|identity| before.iter().find(|old| identity(old) == identity(item)));
                    self.value(&node["items"], item, was, &path.index(index));
                }
            }
            _ => {}
        }
    }

    /// False: the budget is spent, nothing more is judged.
    fn rule(&mut self, node: &Value, rule: &Value, value: &Value, old: Option<&Value>, path: &Path<'_>) -> bool {
        let source = text(rule, "rule");
        let Some(program) = self.programs.get(source) else { return true };
        let optional = flag(rule, "optionalOldSelf");
        if program.reads("oldSelf") && old.is_none() && !optional {
            return true;
        }
        let mut variables = vec![("self", Cel::of(value, node))];
        match old.map(|old| Cel::of(old, node)) {
            Some(old) => variables.push(("oldSelf", if optional { Cel::Optional(Some(old.into())) } else { old })),
            None if optional => variables.push(("oldSelf", Cel::Optional(None))),
            None => {}
        }
        let shown = node["type"].clone();
        let failure = match program.run(&variables, &self.budget) {
            Ok(Cel::Bool(true)) => return true,
            Ok(_) => {
                let place = path.to_string() + text(rule, "fieldPath");
                let kind = match text(rule, "reason") {
                    "FieldValueDuplicate" => FieldErrorKind::Duplicate,
                    "FieldValueForbidden" => FieldErrorKind::Forbidden,
                    "FieldValueRequired" => FieldErrorKind::Required,
                    _ => FieldErrorKind::Invalid,
                };
                FieldError::new(place.trim_start_matches('.'), kind, shown, self.message(rule, &variables))
            }
            Err(Error::Cost) => {
                let why = "validation failed due to running out of cost budget, no further validation rules will be run";
                self.failures.push(FieldError::invalid(path, shown, why));
                return false;
            }
            Err(err) => FieldError::invalid(path, shown, format!("rule evaluation error: {err}; rule: {source}")),
        };
        self.failures.push(failure);
        self.failures.len() < FAILURES_MAX
    }

    fn message(&self, rule: &Value, variables: &[(&str, Cel<'_>)]) -> String {
        let made = self.programs.get(text(rule, "messageExpression")).and_then(|program| program.run(variables, &self.budget).ok());
        match made {
            Some(Cel::String(made)) if !made.trim().is_empty() && !made.contains('\n') => made.to_string(),
            _ if !text(rule, "message").is_empty() => text(rule, "message").to_owned(),
            _ => format!("failed rule: {}", text(rule, "rule").trim()),
        }
    }
}
