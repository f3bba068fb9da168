//! `MutatingAdmissionPolicy`: expressions that make parts of objects, laid over the object, or patches of it.

use pintle_cel::Value as Cel;
use pintle_structural::FieldError;
use serde_json::{Map, Value as Json};

use crate::conditions::Conditions;
use crate::expressions::{Evaluation, Expression, Scope, list, text};
use crate::{FailurePolicy, Question};

/// How large the JSON that an expression makes may be, bytes.
const MADE_BYTES_MAX: usize = 3 * 1024 * 1024;
/// How much a patch may copy or move in all, and how deep it may make an object: what a request's body may be.
const COPIED_BYTES_MAX: usize = 3 * 1024 * 1024;
const DEPTH_MAX: usize = 120;

/// Lays a configuration over an object, by the merge rules of the object's type. The error says what is wrong with the configuration.
pub type Merge<'m> = &'m dyn Fn(&Json, &Json) -> Result<Json, String>;

/// A policy, compiled.
#[derive(Debug)]
pub struct MutatingPolicy {
    failure: FailurePolicy,
    /// `reinvocationPolicy: IfNeeded`: it wants to be asked again when others changed the object after it.
    pub reinvoke: bool,
    conditions: Conditions,
    scope: Scope,
    mutations: Vec<(Patch, Expression)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patch {
    ApplyConfiguration,
    JsonPatch,
}

impl MutatingPolicy {
    /// From a policy's `spec`, as it is stored. What does not compile fails whenever it is asked.
    #[must_use]
    pub fn new(spec: &Json) -> Self {
        let scope = Scope::new(spec, true);
        let mutations = list(spec, "mutations").iter().map(|mutation| match text(mutation, "patchType") {
            "JSONPatch" => (Patch::JsonPatch, scope.compile(text(&mutation["jsonPatch"], "expression").trim(), "list")),
            _ => (Patch::ApplyConfiguration, scope.compile(text(&mutation["applyConfiguration"], "expression").trim(), "Object")),
        });
        Self {
            failure: FailurePolicy::of(spec),
            reinvoke: spec["reinvocationPolicy"] == "IfNeeded",
            conditions: Conditions::new(&spec["matchConditions"]),
            mutations: mutations.collect(),
            scope,
        }
    }

    /// What is wrong with a policy's `spec`, beyond what its schema and its match conditions say. `at` is its place.
    #[must_use]
    pub fn failures(spec: &Json, at: &str) -> Vec<FieldError> {
        const OPERATIONS: &[&str] = &["CREATE", "UPDATE"];
        let policy = Self::new(spec);
        let mut failures = Vec::new();
        for operation in list(&spec["matchConstraints"], "resourceRules").iter().flat_map(|rule| list(rule, "operations")) {
            let operation = operation.as_str().unwrap_or_default();
            if !OPERATIONS.contains(&operation) {
                let at = format!("{at}.matchConstraints.resourceRules.operations");
                failures.push(FieldError::not_supported(at, operation, OPERATIONS));
            }
        }
        policy.scope.failures(at, &mut failures);
        for (index, ((kind, expression), mutation)) in policy.mutations.iter().zip(list(spec, "mutations")).enumerate() {
            let field = if *kind == Patch::JsonPatch { "jsonPatch" } else { "applyConfiguration" };
            // Without the field, its type says so.
            if mutation[field].is_object() {
                expression.failure(&format!("{at}.mutations[{index}].{field}.expression"), &mut failures);
            }
        }
        failures
    }

    /// The object as the policy wants it; the question's own if it does not mean the request.
    ///
    /// # Errors
    /// Why the request is refused. `None`: the policy failed, and says that this is to be ignored.
    pub fn mutate(&self, question: Question<'_>, merge: Merge<'_>) -> Result<Json, Option<String>> {
        let refused = |why: String| (self.failure == FailurePolicy::Fail).then_some(why);
        let mut object = question.object.clone();
        if object.is_null() || !self.conditions.hold_for(question).map_err(refused)? {
            return Ok(object);
        }
        for (kind, expression) in &self.mutations {
            let changed = self.change(*kind, expression, question.about(&object), merge);
            object = match changed {
                Ok(changed) => changed,
                // What the others want still counts.
                Err(why) => match refused(why) {
                    Some(why) => return Err(Some(why)),
                    None => continue,
                },
            };
        }
        Ok(object)
    }

    /// What a request gets that the policy could not judge.
    #[must_use]
    pub fn failed(&self, why: String) -> Option<String> {
        (self.failure == FailurePolicy::Fail).then_some(why)
    }

    fn change(&self, kind: Patch, expression: &Expression, question: Question<'_>, merge: Merge<'_>) -> Result<Json, String> {
        let value = Evaluation::new(&self.scope, question).value(expression)?;
        let mut left = MADE_BYTES_MAX;
        if kind == Patch::ApplyConfiguration {
            named_by_place(&value, "Object").map_err(|why| format!("type mismatch: {why}"))?;
            let Cel::Message(..) = value else { return Err("unsupported return type from ApplyConfiguration expression".to_owned()) };
            let configuration = value.to_json(&mut left).map_err(|error| error.to_string())?;
            return merge(question.object, &configuration).map_err(|why| format!("error applying patch: {why}"));
        }
        let Cel::List(operations) = value else {
            return Err("type mismatch: JSONPatchType.expression should evaluate to array".to_owned());
        };
        let operations = operations.iter().map(|value| operation(value, &mut left)).collect::<Result<Vec<_>, _>>()?;
        patched(question.object, operations)
    }
}

/// One operation of a patch, as JSON.
fn operation(value: &Cel<'_>, left: &mut usize) -> Result<Json, String> {
    let Cel::Message(name, fields) = value else {
        return Err("type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch".to_owned());
    };
    if **name != *"JSONPatch" {
        return Err(format!("type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch, got element of {name}"));
    }
    for (field, value) in fields.iter() {
        if let (Cel::String(field), Cel::Message(name, _)) = (field, value)
            && **field == *"value"
        {
            // Where the value goes, the path says: it is named by its own type on.
            named_by_place(value, name).map_err(|why| format!("type mismatch: {why}"))?;
        }
    }
    let made = value
        .to_json(left)
        .map_err(|error| format!("JSONPath valueExpression evaluated to a type that could not marshal to JSON: {error}"))?;
    let mut operation = Map::new();
    for (key, value) in made.as_object().into_iter().flatten().filter(|(key, value)| *key != "from" || *value != "") {
        operation.insert(key.clone(), value.clone());
    }
    Ok(Json::Object(operation))
}

/// The object after the operations; itself if a `test` among them fails.
fn patched(object: &Json, operations: Vec<Json>) -> Result<Json, String> {
    let patch: json_patch::Patch = serde_json::from_value(Json::Array(operations)).map_err(|error| format!("JSON Patch: {error}"))?;
    let mut patched = object.clone();
    let mut copied = 0;
    for operation in &patch.0 {
        use json_patch::PatchOperation::{Copy, Move, Test};
        // Copies of copies grow without end, and what is too deep overruns the stack of whatever walks it.
        let source = match operation {
            Copy(copy) => Some((&copy.from, &copy.path)),
            Move(moved) => Some((&moved.from, &moved.path)),
            _ => None,
        };
        if let Some((source, path)) = source.and_then(|(from, path)| Some((patched.pointer(from.as_str())?, path))) {
            let (bytes, depth) = measure(source);
            copied += bytes;
            if copied > COPIED_BYTES_MAX || path.as_str().matches('/').count() + depth > DEPTH_MAX {
                return Err(format!("JSON Patch: it copies more than {COPIED_BYTES_MAX} bytes or nests deeper than {DEPTH_MAX} levels"));
            }
        }
        if let Err(error) = json_patch::patch(&mut patched, std::slice::from_ref(operation)) {
            return if matches!(operation, Test(_)) { Ok(object.clone()) } else { Err(format!("JSON Patch: {error}")) };
        }
    }
    if measure(&patched).1 > DEPTH_MAX {
        return Err(format!("JSON Patch: the object nests deeper than {DEPTH_MAX} levels"));
    }
    Ok(patched)
}

/// About how many bytes a value takes, and how deep it nests. Without recursion: it may be deeper than the stack.
fn measure(value: &Json) -> (usize, usize) {
    let (mut bytes, mut deepest, mut open) = (0, 0, vec![(value, 1)]);
    while let Some((value, depth)) = open.pop() {
        deepest = deepest.max(depth);
        bytes += match value {
            Json::String(text) => text.len() + 2,
            Json::Object(map) => {
                open.extend(map.values().map(|value| (value, depth + 1)));
                map.keys().map(|key| key.len() + 4).sum()
            }
            Json::Array(items) => {
                open.extend(items.iter().map(|item| (item, depth + 1)));
                items.len()
            }
            _ => 4,
        };
    }
    (bytes, deepest)
}

/// Whether the parts of an object are named by the place that they stand at: `Object.spec` under `spec` of `Object`.
fn named_by_place(value: &Cel<'_>, place: &str) -> Result<(), String> {
    match value {
        Cel::Message(name, fields) => {
            if **name != *place {
                return Err(format!(
                    "unexpected type name {name:?}, expected {place:?}, which matches field name path from root Object type"
                ));
            }
            fields.iter().try_for_each(|(field, value)| match field {
                Cel::String(field) => named_by_place(value, &format!("{place}.{field}")),
                _ => Ok(()),
            })
        }
        Cel::List(items) => items.iter().try_for_each(|item| named_by_place(item, place)),
        Cel::Map(entries) => entries.iter().try_for_each(|(_, value)| named_by_place(value, place)),
        _ => Ok(()),
    }
}
