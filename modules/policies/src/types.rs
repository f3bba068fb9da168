//! `status.typeChecking` of validating policies: what their expressions get wrong about the types of the objects that the policy names.
//! Unlike what does not compile, it refuses nothing: a policy may be about kinds that are not there yet.

use serde_json::{Map, Value as Json, json};

use crate::expressions::{Expression, Scope, list, text};

/// Most kinds that one policy is held against.
const KINDS_MAX: usize = 10;
/// How deep schemas are followed: they may hold themselves.
const DEPTH_MAX: usize = 16;

/// The resources that a policy's rules name in full, without `*`: group, version, plural.
pub fn types_named(spec: &Json) -> Vec<(&str, &str, &str)> {
    let words = |rule, key| list(rule, key).iter().filter_map(Json::as_str).filter(|word| !word.contains(['*', '/']));
    let mut named = Vec::new();
    for rule in list(&spec["matchConstraints"], "resourceRules") {
        for group in words(rule, "apiGroups") {
            for version in words(rule, "apiVersions") {
                named.extend(words(rule, "resources").map(|resource| (group, version, resource)));
            }
        }
    }
    named.truncate(KINDS_MAX);
    named
}

/// The schema of a kind in an OpenAPI v3 document, with what it refers to put in its place.
pub fn schema_of(document: &Json, group: &str, version: &str, kind: &str) -> Option<Json> {
    let schemas = document.pointer("/components/schemas")?.as_object()?;
    let wanted = json!({"group": group, "version": version, "kind": kind});
    let schema = schemas.values().find(|schema| list(schema, "x-kubernetes-group-version-kind").contains(&wanted))?;
    Some(resolved(schemas, schema, 0))
}

fn resolved(schemas: &Map<String, Json>, schema: &Json, depth: usize) -> Json {
    let reference = schema.get("$ref").or_else(|| schema.pointer("/allOf/0/$ref")).and_then(Json::as_str);
    if depth > DEPTH_MAX {
        return json!({});
    }
    if let Some(name) = reference.and_then(|reference| reference.rsplit('/').next()) {
        return schemas.get(name).map_or(json!({}), |schema| resolved(schemas, schema, depth + 1));
    }
    let mut out = Map::new();
    for (key, value) in schema.as_object().into_iter().flatten() {
        let value = match (key.as_str(), value) {
            ("properties", Json::Object(fields)) => {
                Json::Object(fields.iter().map(|(name, field)| (name.clone(), resolved(schemas, field, depth + 1))).collect())
            }
            ("items" | "additionalProperties", Json::Object(_)) => resolved(schemas, value, depth + 1),
            ("type" | "format" | "nullable" | "x-kubernetes-preserve-unknown-fields", _) => value.clone(),
            _ => continue,
        };
        out.insert(key.clone(), value);
    }
    Json::Object(out)
}

/// What `status.typeChecking` of a policy becomes, as a merge patch of it: each of its expressions held against each of the kinds, named with their schemas. `params` is the schema of
/// its parameters, null if it is not known.
#[must_use]
pub fn type_checking(spec: &Json, kinds: &[(String, Json)], params: &Json) -> Json {
    let mut found: Vec<(String, String)> = Vec::new();
    for (kind, schema) in kinds {
        let scope = Scope::typed(spec, schema, params);
        let mut note = |at: String, expression: Expression| {
            let Some(why) = expression.wrong() else { return };
            let why = format!("{kind}: {}\n", why.trim_start_matches("compilation failed: "));
            match found.iter_mut().find(|(known, _)| *known == at) {
                Some((_, all)) => all.push_str(&why),
                None => found.push((at, why)),
            }
        };
        for (index, validation) in list(spec, "validations").iter().enumerate() {
            note(format!("spec.validations[{index}].expression"), scope.compile(text(validation, "expression"), "bool"));
            let message = text(validation, "messageExpression");
            if !message.is_empty() {
                note(format!("spec.validations[{index}].messageExpression"), scope.compile_message(message));
            }
        }
    }
    let warnings: Vec<Json> = found.into_iter().map(|(at, why)| json!({"fieldRef": at, "warning": why})).collect();
    json!({"expressionWarnings": if warnings.is_empty() { Json::Null } else { Json::Array(warnings) }})
}
