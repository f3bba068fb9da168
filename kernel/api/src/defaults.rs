//! Defaulting: what upstream fills in before it validates and stores.
//!
//! One walk over the object beside its type. Each type has rows: constants (`kernel/api/schema/defaults.rows`), the declared
//! `+default` of the schema table, and functions for defaults that look at other fields ([`rules::COMPUTED`]). Rows apply
//! wherever the type occurs, so a pod template in a Deployment and a pod itself get the same.
//!
//! Invariant: defaulting twice changes nothing more.

mod rules;

use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::resource::Resource;
use crate::table::{Container, Element, Field, Schema, TypeView};

/// Fills defaults into `object`, an object of `resource`.
pub fn apply(schema: &Schema, resource: &Resource, object: &mut Value) {
    if let Some(version) = &resource.custom {
        return version.default(object);
    }
    if let (Some(view), Value::Object(map)) = (resource.type_id.and_then(|id| schema.get(id)), object) {
        fill(view, map);
    }
}

type Compute = fn(&mut Map<String, Value>);

/// What is filled into one type.
#[derive(Default)]
struct TypeRules {
    constants: Vec<(&'static str, Value)>,
    computed: Vec<Compute>,
}

/// By type: built-in identities count from zero.
static RULES: LazyLock<Vec<TypeRules>> = LazyLock::new(|| {
    let schema = Schema::builtin();
    let mut rules: Vec<TypeRules> = schema.types().map(|_| TypeRules::default()).collect();
    for view in schema.types() {
        let declared = view.fields().filter(|field| !field.default.is_empty());
        let constants: Vec<_> =
            declared.filter_map(|field| Some((static_name(view, field.name)?, serde_json::from_str(field.default).ok()?))).collect();
        rules[view.id.index()].constants = constants;
    }
    let named = |name: &str| schema.type_named(&format!("io.k8s.{name}")).or_else(|| schema.type_named(name));
    let mut of = None;
    for line in include_str!("../schema/defaults.rows").lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_ascii_whitespace();
        if !line.starts_with(' ') {
            of = words.next().and_then(named);
        }
        let Some(view) = of else { continue };
        let filled =
            words.filter_map(|word| word.split_once('=')).filter_map(|(field, json)| Some((field, serde_json::from_str(json).ok()?)));
        rules[view.id.index()].constants.extend(filled);
    }
    for (name, compute) in rules::COMPUTED {
        let Some(view) = named(name) else { continue };
        rules[view.id.index()].computed.push(*compute);
    }
    rules
});

/// A built-in row's name lives as long as the program.
fn static_name(view: TypeView<'static>, name: &str) -> Option<&'static str> {
    view.field(name).map(|field| field.name)
}

fn fill(view: TypeView<'_>, map: &mut Map<String, Value>) {
    if let Some(rules) = RULES.get(view.id.index()) {
        for compute in &rules.computed {
            compute(map);
        }
        for (field, value) in &rules.constants {
            if says_nothing(map.get(*field), value) {
                map.insert((*field).to_owned(), value.clone());
            }
        }
    }
    if !view.id.is_builtin() {
        fill_declared(view, map);
    }
    for (key, value) in map.iter_mut() {
        if let Some(field) = view.field(key)
            && field.element == Element::Object
        {
            fill_below(view, &field, value);
        }
    }
}

/// Whether what is there counts as unset: nothing, or empty text where the default is text.
fn says_nothing(found: Option<&Value>, default: &Value) -> bool {
    match found {
        None => true,
        Some(Value::String(text)) => text.is_empty() && default.is_string(),
        Some(_) => false,
    }
}

/// Declared defaults of a type that was added at runtime.
fn fill_declared(view: TypeView<'_>, map: &mut Map<String, Value>) {
    for field in view.fields().filter(|field| !field.default.is_empty()) {
        if !map.contains_key(field.name)
            && let Ok(value) = serde_json::from_str(field.default)
        {
            map.insert(field.name.to_owned(), value);
        }
    }
}

fn fill_below(view: TypeView<'_>, field: &Field<'_>, value: &mut Value) {
    let Some(target) = view.target(field) else { return };
    let one = |item: &mut Value| {
        if let Value::Object(map) = item {
            fill(target, map);
        }
    };
    match (field.container, value) {
        (Container::Single, item) => one(item),
        (Container::List, Value::Array(list)) => list.iter_mut().for_each(one),
        (Container::Map, Value::Object(map)) => map.values_mut().for_each(one),
        _ => {}
    }
}
