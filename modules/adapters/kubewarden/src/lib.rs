//! Policies of Kubewarden: an admission module like any other, that asks the policy joined to it in Kubewarden's words.
//!
//! The policy's settings are `spec.config`. Facts: the operations `validate_settings` and `validate`, and the fields of their JSON, are
//! Kubewarden's (<https://docs.kubewarden.io/reference/spec/intro-spec>). A changed object is taken apart into edits, so that what a policy leaves
//! alone stays as it is. Host capabilities other than the log are refused by `modules/adapt`.

mod guest;

use pintle_sdk::{
    Admission, Edit, Error, Failure, Operation, Phase, Result, Review, Start, Verdict,
    serde::Deserialize,
    serde_json::{self, Map, Value, json},
};
use std::collections::BTreeMap;

struct Policy {
    settings: Value,
}

/// The answer to `validate_settings`.
#[derive(Deserialize)]
#[serde(crate = "pintle_sdk::serde")]
struct Settings {
    valid: bool,
    message: Option<String>,
}

/// The answer to `validate`.
#[derive(Deserialize)]
#[serde(crate = "pintle_sdk::serde")]
struct Answer {
    accepted: bool,
    message: Option<String>,
    code: Option<u16>,
    mutated_object: Option<Value>,
    audit_annotations: Option<BTreeMap<String, String>>,
    warnings: Option<Vec<String>>,
}

impl Admission for Policy {
    fn start(start: &Start) -> Result<Self> {
        let settings: Map<String, Value> = start.config()?;
        let settings = Value::Object(settings);
        let answer: Settings = ask("validate_settings", &settings)?;
        if !answer.valid {
            return Err(Error::undecided(format!("spec.config is not valid: {}", answer.message.unwrap_or_default())));
        }
        Ok(Policy { settings })
    }

    fn review(&self, review: &Review<'_>) -> Result<Verdict> {
        let object: Value = review.object()?.unwrap_or(Value::Null);
        let answer = ask("validate", &json!({ "settings": self.settings, "request": request(review, &object)? }))?;
        Ok(verdict(review.phase, &object, answer))
    }
}

pintle_sdk::admission!(Policy);

/// One call of the policy.
fn ask<T: for<'a> Deserialize<'a>>(operation: &str, payload: &Value) -> Result<T> {
    let answer = guest::call(operation, payload.to_string().as_bytes());
    let answer = answer.map_err(|e| Error::undecided(format!("the policy failed in {operation}: {}", String::from_utf8_lossy(&e))))?;
    serde_json::from_slice(&answer).map_err(|source| Error::Shape { what: format!("the policy's answer to {operation}"), source })
}

/// The request as an AdmissionReview has it.
fn request(review: &Review<'_>, object: &Value) -> Result<Value> {
    let target = &review.target;
    let kind = json!({ "group": target.group, "version": review.version, "kind": review.kind });
    let resource = json!({ "group": target.group, "version": review.version, "resource": target.resource });
    Ok(json!({
        "uid": "",
        "kind": kind,
        "requestKind": kind,
        "resource": resource,
        "requestResource": resource,
        "subResource": review.subresource,
        "requestSubResource": review.subresource,
        "name": target.name,
        "namespace": target.namespace,
        "operation": match review.operation {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        },
        "userInfo": { "username": review.user_name, "groups": review.user_groups },
        "object": object,
        "oldObject": review.old_object::<Value>()?,
        "dryRun": review.dry_run,
        "options": {},
    }))
}

fn verdict(phase: Phase, object: &Value, answer: Answer) -> Verdict {
    let warnings = answer.warnings.unwrap_or_default();
    let audit_annotations = answer.audit_annotations.unwrap_or_default().into_iter().collect();
    let refused = |code, message| Verdict {
        failure: Some(Failure { code, reason: String::new(), message }),
        warnings: warnings.clone(),
        ..Verdict::default()
    };
    if !answer.accepted {
        return refused(answer.code.unwrap_or(0), answer.message.unwrap_or_default());
    }
    let mut edits = Vec::new();
    if let Some(changed) = &answer.mutated_object {
        difference(String::new(), object, changed, &mut edits);
    }
    match phase {
        Phase::Validating if !edits.is_empty() => refused(500, "the policy changes objects, and is not asked in the mutating phase".into()),
        _ => Verdict { edits, warnings, audit_annotations, ..Verdict::default() },
    }
}

/// The edits that make `now` of `was`: member by member of objects; anything else is replaced as a whole.
fn difference(path: String, was: &Value, now: &Value, edits: &mut Vec<Edit>) {
    let (Value::Object(before), Value::Object(after)) = (was, now) else {
        if was != now {
            edits.push(Edit::Replace(path, now.clone()));
        }
        return;
    };
    let at = |name: &str| format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"));
    edits.extend(before.keys().filter(|name| !after.contains_key(*name)).map(|name| Edit::Remove(at(name))));
    for (name, value) in after {
        match before.get(name) {
            Some(old) => difference(at(name), old, value, edits),
            None => edits.push(Edit::Add(at(name), value.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Answer {
        serde_json::from_str(text).expect("an answer")
    }

    #[test]
    fn a_changed_object_becomes_edits_of_what_changed() {
        let (was, now) = (json!({"a": {"x/y": 1, "gone": 2}, "l": [1]}), json!({"a": {"x/y": 3}, "l": [1, 2], "new": {}}));
        let mut edits = Vec::new();
        difference(String::new(), &was, &now, &mut edits);
        let wanted = [
            Edit::Remove("/a/gone".into()),
            Edit::Replace("/a/x~1y".into(), json!(3)),
            Edit::Replace("/l".into(), json!([1, 2])),
            Edit::Add("/new".into(), json!({})),
        ];
        assert_eq!(edits, wanted);
    }

    #[test]
    fn a_policy_that_changes_objects_is_refused_where_it_may_not() {
        let changes = || answer(r#"{"accepted": true, "mutated_object": {"a": 1}}"#);
        assert_eq!(verdict(Phase::Mutating, &json!({}), changes()).edits.len(), 1);
        assert!(!verdict(Phase::Validating, &json!({}), changes()).allowed());
        assert!(verdict(Phase::Validating, &json!({"a": 1}), changes()).allowed(), "it has been made");
    }

    #[test]
    fn a_refusal_keeps_its_code_and_words() {
        let failure = verdict(Phase::Validating, &json!({}), answer(r#"{"accepted": false, "message": "no", "code": 418}"#)).failure;
        assert_eq!(failure, Some(Failure { code: 418, reason: String::new(), message: "no".into() }));
    }
}
