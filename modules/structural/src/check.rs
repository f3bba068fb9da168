//! Validation of objects by their schema, in the words of upstream's OpenAPI validator, which clients match on.
//!
//! What an update leaves as it was is not held against it (ratcheting): a definition may become stricter than what is
//! stored.

use pintle_cel::Budget;
use serde_json::{Map, Value, json};

use crate::path::Path;
use crate::rules::Run;
use crate::{FAILURES_MAX, FieldError, FieldErrorKind, Structural, flag, formats, list, text};

impl Structural {
    /// What the schema says against an object: a new one, or the successor of `old`.
    pub fn check(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut check = Check { schema: self, failures: Vec::new() };
        check.value(&self.root, object, old, &Path::Root);
        if self.programs.is_empty() {
            return check.failures;
        }
        if !check.failures.is_empty() {
            let why =
                "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
            check.push(FieldError::invalid("<nil>", Value::Null, why));
            return check.failures;
        }
        let mut run = Run { programs: &self.programs, budget: Budget::default(), failures: Vec::new() };
        run.value(&self.root, object, old, &Path::Root);
        run.failures
    }

    /// What `node`, a part of the schema, says against a value at `path`: for defaults.
    pub(crate) fn alone(&self, node: &Value, value: &Value, path: &Path<'_>) -> Vec<FieldError> {
        let mut check = Check { schema: self, failures: Vec::new() };
        check.value(node, value, None, path);
        check.failures
    }
}

struct Check<'a> {
    schema: &'a Structural,
    failures: Vec<FieldError>,
}

impl Check<'_> {
    fn push(&mut self, failure: FieldError) {
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(failure);
        }
    }

    /// `path in body` and the rest of the sentence.
    fn say(&mut self, path: &Path<'_>, value: Value, why: &str) {
        let place = path.to_string();
        let place = if place.is_empty() { "\"\"".to_owned() } else { place };
        self.push(FieldError::invalid(path, value, format!("{place} in body {why}")));
    }

    fn value(&mut self, node: &Value, value: &Value, old: Option<&Value>, path: &Path<'_>) {
        if old == Some(value) || (value.is_null() && flag(node, "nullable")) {
            return;
        }
        if let Some(wanted) = wrong_type(node, value) {
            let found = type_of(value);
            return self.say(path, json!(found), &format!("must be of type {wanted}: {found:?}"));
        }
        match value {
            Value::Object(map) => self.object(node, map, old, path),
            Value::Array(items) => self.items(node, items, old, path),
            Value::String(text) => self.string(node, text, path),
            Value::Number(number) => self.number(node, number, path),
            Value::Null | Value::Bool(_) => {}
        }
        let allowed = list(node, "enum");
        if !allowed.is_empty() && !allowed.contains(value) {
            let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
            let why = format!("supported values: {}", allowed.join(", "));
            self.push(FieldError::new(path, FieldErrorKind::NotSupported, value.clone(), why));
        }
        self.junctors(node, value, old, path);
    }

    fn object(&mut self, node: &Value, map: &Map<String, Value>, old: Option<&Value>, path: &Path<'_>) {
        for name in list(node, "required").iter().filter_map(Value::as_str).filter(|name| !map.contains_key(*name)) {
            self.push(FieldError::required(path.key(name), ""));
        }
        if let Some(max) = bound(node, "maxProperties").filter(|max| map.len() > *max) {
            self.push(FieldError::too_many(path, map.len(), max));
        }
        if let Some(min) = bound(node, "minProperties").filter(|min| map.len() < *min) {
            self.say(path, json!(map.len()), &format!("should have at least {min} properties"));
        }
        let properties = node["properties"].as_object();
        for (key, value) in map {
            let old = old.and_then(|old| old.get(key));
            match properties.and_then(|properties| properties.get(key)) {
                // The server has looked at its own part already.
                Some(_) if key == "metadata" && matches!(path, Path::Root) => {}
                Some(child) => self.value(child, value, old, &path.key(key)),
                None if node["additionalProperties"].is_object() => self.value(&node["additionalProperties"], value, old, &path.key(key)),
                None => {}
            }
        }
        if flag(node, "x-kubernetes-embedded-resource") {
            for key in ["apiVersion", "kind"].iter().filter(|key| map.get(**key).and_then(Value::as_str).is_none_or(str::is_empty)) {
                self.push(FieldError::required(path.key(key), "must not be empty"));
            }
        }
    }

    fn items(&mut self, node: &Value, items: &[Value], old: Option<&Value>, path: &Path<'_>) {
        if let Some(max) = bound(node, "maxItems").filter(|max| items.len() > *max) {
            self.push(FieldError::too_many(path, items.len(), max));
        }
        if let Some(min) = bound(node, "minItems").filter(|min| items.len() < *min) {
            self.say(path, json!(items.len()), &format!("should have at least {min} items"));
        }
        let identity = identity(node);
        let mut seen = std::collections::HashSet::new();
        let before = old.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        for (index, item) in items.iter().enumerate() {
            let path = path.index(index);
            let own = identity.as_ref().map(|identity| identity(item));
            if let Some(own) = &own
                && !seen.insert(own.to_string())
            {
                self.push(FieldError::duplicate(path, own.clone()));
            }
            // Only a list that names its elements says which one an element was.
            let was =
                own.as_ref().and_then(|own| before.iter().find(|old| identity.as_ref().is_some_and(|identity| identity(old) == *own)));
            self.value(&node["items"], item, was, &path);
        }
    }

    fn string(&mut self, node: &Value, value: &str, path: &Path<'_>) {
        let length = value.chars().count();
        if let Some(max) = bound(node, "maxLength").filter(|max| length > *max) {
            self.push(FieldError::too_long(path, max));
        }
        if let Some(min) = bound(node, "minLength").filter(|min| length < *min) {
            self.say(path, json!(value), &format!("should be at least {min} chars long"));
        }
        let pattern = text(node, "pattern");
        if self.schema.patterns.get(pattern).is_some_and(|regex| !regex.is_match(value)) {
            self.say(path, json!(value), &format!("should match '{pattern}'"));
        }
        let format = text(node, "format");
        if !formats::is(format, value) {
            self.say(path, json!(value), &format!("must be of type {format}: {value:?}"));
        }
    }

    fn number(&mut self, node: &Value, number: &serde_json::Number, path: &Path<'_>) {
        let value = number.as_f64().unwrap_or_default();
        let shown = || Value::Number(number.clone());
        if let Some(max) = node["maximum"].as_f64() {
            let strict = flag(node, "exclusiveMaximum");
            if value > max || (strict && value >= max) {
                self.say(path, shown(), &format!("should be less than {}{}", if strict { "" } else { "or equal to " }, node["maximum"]));
            }
        }
        if let Some(min) = node["minimum"].as_f64() {
            let strict = flag(node, "exclusiveMinimum");
            if value < min || (strict && value <= min) {
                self.say(path, shown(), &format!("should be greater than {}{}", if strict { "" } else { "or equal to " }, node["minimum"]));
            }
        }
        let multiple = node["multipleOf"].as_f64().filter(|multiple| *multiple > 0.0 && (value / multiple).fract() != 0.0);
        if multiple.is_some() {
            self.say(path, shown(), &format!("should be a multiple of {}", node["multipleOf"]));
        }
    }

    fn junctors(&mut self, node: &Value, value: &Value, old: Option<&Value>, path: &Path<'_>) {
        let outcomes = |check: &Self, key: &str| -> Vec<Vec<FieldError>> {
            let try_one = |node: &Value| {
                let mut inner = Check { schema: check.schema, failures: Vec::new() };
                inner.value(node, value, old, path);
                inner.failures
            };
            list(node, key).iter().map(try_one).collect()
        };
        let refuse = |check: &mut Self, why: &str, details: Vec<FieldError>| {
            let place = path.to_string();
            check.push(FieldError::invalid(path, "", format!("{place:?} must {why}")));
            details.into_iter().for_each(|failure| check.push(failure));
        };
        let all = outcomes(self, "allOf").concat();
        if !all.is_empty() {
            refuse(self, "validate all the schemas (allOf)", all);
        }
        for (key, few, many) in [
            ("anyOf", "validate at least one schema (anyOf)", ""),
            ("oneOf", "validate one and only one schema (oneOf). Found none valid", "validate one and only one schema (oneOf). Found"),
        ] {
            let outcomes = outcomes(self, key);
            let valid = outcomes.iter().filter(|failures| failures.is_empty()).count();
            if valid == 0 && !outcomes.is_empty() {
                let best = outcomes.into_iter().min_by_key(Vec::len).unwrap_or_default();
                refuse(self, few, best);
            } else if valid > 1 && !many.is_empty() {
                refuse(self, &format!("{many} {valid} valid alternatives"), Vec::new());
            }
        }
        if node["not"].is_object() && self.schema.alone(&node["not"], value, path).is_empty() {
            refuse(self, "not validate the schema (not)", Vec::new());
        }
    }
}

/// How the elements of a list are told apart, if the schema says so.
pub(crate) fn identity(node: &Value) -> Option<Box<dyn Fn(&Value) -> Value + '_>> {
    match text(node, "x-kubernetes-list-type") {
        "set" => Some(Box::new(Value::clone)),
        "map" => {
            let keys: Vec<&str> = list(node, "x-kubernetes-list-map-keys").iter().filter_map(Value::as_str).collect();
            let pick =
                move |item: &Value| keys.iter().filter_map(|key| Some(((*key).to_owned(), item.get(key)?.clone()))).collect::<Map<_, _>>();
            Some(Box::new(move |item| Value::Object(pick(item))))
        }
        _ => None,
    }
}

fn bound(node: &Value, key: &str) -> Option<usize> {
    node[key].as_u64().and_then(|bound| usize::try_from(bound).ok())
}

/// The type that the schema wants, if the value has another.
fn wrong_type<'a>(node: &'a Value, value: &Value) -> Option<&'a str> {
    if flag(node, "x-kubernetes-int-or-string") {
        return (!value.is_string() && !is_integer(value)).then_some("integer,string");
    }
    let wanted = text(node, "type");
    let fits = match wanted {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => is_integer(value),
        "number" => value.is_number(),
        // A part of allOf and its kin has no type; a value that allows anything allows null only if it says so.
        _ => !value.is_null() || node["type"].is_null(),
    };
    (!fits).then_some(wanted)
}

fn is_integer(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0 && n.abs() < 9.0e15)
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) if is_integer(value) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
