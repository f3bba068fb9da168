//! The walks over objects: what is in one, how two differ, what a merge makes of two, and one without some of its parts.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::set::{FieldSet, spell_part};
use super::shape::Shape;

static NO_MEMBERS: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));
static NO_ELEMENTS: Value = Value::Array(Vec::new());
static NOTHING: Value = Value::Null;

fn empty_like(value: &Value) -> &'static Value {
    match value {
        Value::Object(_) => &NO_MEMBERS,
        Value::Array(_) => &NO_ELEMENTS,
        _ => &NOTHING,
    }
}

/// How two objects differ.
#[derive(Default)]
pub(super) struct Diff {
    /// What was added, with everything in it, and the values that changed.
    pub(super) changed: FieldSet,
    /// What went, with everything in it.
    pub(super) removed: FieldSet,
}

/// Every path of `value`, itself included: what is owned by who adds it.
fn whole(shape: Shape<'_>, value: &Value) -> FieldSet {
    let mut set = FieldSet::leaf();
    match value {
        Value::Object(map) if shape.opens_objects() => {
            for (key, item) in map {
                set.below.insert(format!("f:{key}"), whole(shape.member(key).shape, item));
            }
        }
        Value::Array(list) if shape.opens_lists() => {
            for (part, item) in shape.by_part(list).into_iter().flatten() {
                set.below.insert(part, whole(shape.element(), item));
            }
        }
        _ => {}
    }
    set
}

/// How `new` differs from `old`.
pub(super) fn compare(shape: Shape<'_>, old: &Value, new: &Value) -> Diff {
    let mut diff = Diff::default();
    match (old, new) {
        (Value::Object(a), Value::Object(b)) if shape.opens_objects() => compare_objects(shape, a, b, &mut diff),
        (Value::Array(a), Value::Array(b)) if shape.opens_lists() => compare_lists(shape, a, b, &mut diff),
        _ => diff.changed.member = old != new,
    }
    diff
}

fn compare_objects(shape: Shape<'_>, old: &Map<String, Value>, new: &Map<String, Value>, diff: &mut Diff) {
    let gone = old.iter().filter(|(key, _)| !new.contains_key(*key)).map(|(key, value)| (key, Some(value), None));
    for (key, before, after) in new.iter().map(|(key, value)| (key, old.get(key), Some(value))).chain(gone) {
        if before == after && !before.is_some_and(|value| value.is_object() || value.is_array()) {
            continue;
        }
        let member = shape.member(key);
        put(&format_args!("f:{key}"), &member.shape, member.inline, before, after, diff);
    }
}

fn compare_lists(shape: Shape<'_>, old: &[Value], new: &[Value], diff: &mut Diff) {
    if old == new {
        return;
    }
    let (Some(a), Some(b)) = (shape.by_part(old), shape.by_part(new)) else {
        diff.changed.member = true;
        return;
    };
    let gone = a.iter().filter(|(part, _)| !b.contains_key(*part)).map(|(part, item)| (part, Some(*item), None));
    for (part, before, after) in b.iter().map(|(part, item)| (part, a.get(part).copied(), Some(*item))).chain(gone) {
        put(part, &shape.element(), false, before, after, diff);
    }
}

/// Adds the difference of one member or element to that of the whole.
fn put(part: &dyn std::fmt::Display, shape: &Shape<'_>, inline: bool, old: Option<&Value>, new: Option<&Value>, diff: &mut Diff) {
    let found = match (old, new) {
        (Some(old), Some(new)) => compare(*shape, old, new),
        // Upstream has an empty value here: emptied or filled, it neither came nor went.
        (None, Some(new)) if inline => compare(*shape, empty_like(new), new),
        (Some(old), None) if inline => compare(*shape, old, empty_like(old)),
        (None, Some(new)) => Diff { changed: whole(*shape, new), removed: FieldSet::default() },
        (Some(old), None) => Diff { changed: FieldSet::default(), removed: whole(*shape, old) },
        (None, None) => return,
    };
    for (set, found) in [(&mut diff.changed, found.changed), (&mut diff.removed, found.removed)] {
        if !found.is_empty() {
            set.put(part.to_string(), found);
        }
    }
}

/// The paths that a configuration asks for: its values, the elements of its lists and the keys of its maps, but not the structs that
/// merely lead to them. The error says, after its path, what cannot be told apart.
pub(super) fn asked(shape: Shape<'_>, value: &Value) -> Result<FieldSet, String> {
    let mut set = FieldSet::default();
    match value {
        Value::Object(map) if shape.opens_objects() => {
            for (key, item) in map {
                let member = shape.member(key);
                let mut below = asked(member.shape, item).map_err(|why| format!(".{key}{why}"))?;
                below.member |= !member.declared || item.is_null() || item.as_object().is_some_and(Map::is_empty);
                set.put(format!("f:{key}"), below);
            }
        }
        Value::Array(list) if shape.opens_lists() => {
            for item in list {
                let part = shape.part(item).map_err(|key| {
                    format!(": element 0: associative list with keys has an element that omits key field {key:?} (and doesn't have default value)")
                })?;
                let spelled = spell_part(&part);
                let mut below = asked(shape.element(), item).map_err(|why| format!("{spelled}{why}"))?;
                below.member = true;
                if set.below.insert(part, below).is_some() {
                    return Err(format!(": duplicate entries for key {spelled}"));
                }
            }
        }
        _ => set.member = true,
    }
    Ok(set)
}

/// `live` with the values of `config` over it.
pub(super) fn merge(shape: Shape<'_>, live: Value, config: &Value) -> Value {
    match (live, config) {
        (Value::Object(mut map), Value::Object(wanted)) if shape.opens_objects() => {
            for (key, value) in wanted {
                let merged = match map.remove(key) {
                    Some(old) => merge(shape.member(key).shape, old, value),
                    None => value.clone(),
                };
                map.insert(key.clone(), merged);
            }
            Value::Object(map)
        }
        (Value::Array(list), Value::Array(wanted)) if shape.opens_lists() => Value::Array(merge_lists(shape, list, wanted)),
        (_, config) => config.clone(),
    }
}

/// The lists, maps and structs of a configuration that a merge would replace as a whole.
pub(super) fn replaced(shape: Shape<'_>, config: &Value) -> Vec<String> {
    let below = |name: String, shape, value| replaced(shape, value).into_iter().map(move |path| format!("{name}{path}"));
    match config {
        Value::Object(map) if shape.opens_objects() => {
            map.iter().flat_map(|(key, value)| below(format!(".{key}"), shape.member(key).shape, value)).collect()
        }
        Value::Array(list) if shape.opens_lists() => {
            list.iter().enumerate().flat_map(|(index, value)| below(format!("[{index}]"), shape.element(), value)).collect()
        }
        Value::Object(_) | Value::Array(_) => vec![String::new()],
        _ => Vec::new(),
    }
}

/// The configuration's elements keep its order among themselves. Elements that only the live list has keep their places before the
/// next element that both have.
fn merge_lists(shape: Shape<'_>, live: Vec<Value>, wanted: &[Value]) -> Vec<Value> {
    let part = |item: &Value| shape.part(item).unwrap_or_default();
    let parts: Vec<String> = live.iter().map(part).collect();
    let wanted: Vec<(String, &Value)> = wanted.iter().map(|item| (part(item), item)).collect();
    let shared = |at: usize| wanted.iter().any(|(other, _)| *other == parts[at]);
    let mut out = Vec::with_capacity(live.len() + wanted.len());
    let mut next = 0;
    for (at, (name, item)) in wanted.iter().enumerate() {
        let ahead = wanted[at..].iter().find_map(|(other, _)| parts.iter().position(|mine| mine == other));
        while next < live.len() && Some(next) != ahead {
            if !shared(next) {
                out.push(live[next].clone());
            }
            next += 1;
        }
        match parts.iter().position(|mine| mine == name) {
            Some(found) => {
                out.push(merge(shape.element(), live[found].clone(), item));
                next += usize::from(found == next);
            }
            None => out.push((*item).clone()),
        }
    }
    out.extend((next..live.len()).filter(|at| !shared(*at)).map(|at| live[at].clone()));
    out
}

/// Takes the paths of `gone` out, with everything below them, and whatever is empty afterwards.
pub(super) fn remove(shape: Shape<'_>, value: &mut Value, gone: &FieldSet) {
    match value {
        Value::Object(map) if shape.opens_objects() => map.retain(|key, item| match gone.below.get(&format!("f:{key}")) {
            Some(below) => keeps(shape.member(key).shape, item, below),
            None => true,
        }),
        Value::Array(list) if shape.opens_lists() => {
            list.retain_mut(|item| match shape.part(item).ok().and_then(|part| gone.below.get(&part)) {
                Some(below) => keeps(shape.element(), item, below),
                None => true,
            });
        }
        _ => {}
    }
}

fn keeps(shape: Shape<'_>, item: &mut Value, gone: &FieldSet) -> bool {
    let was_empty = is_empty(item);
    if !gone.member {
        remove(shape, item, gone);
    }
    !gone.member && (was_empty || !is_empty(item))
}

/// Makes a set own the structs that lead to its paths, too.
pub(super) fn with_structs(shape: Shape<'_>, set: &mut FieldSet) {
    for (part, below) in &mut set.below {
        match part.strip_prefix("f:") {
            Some(name) => {
                let member = shape.member(name);
                below.member |= member.declared;
                with_structs(member.shape, below);
            }
            None => with_structs(shape.element(), below),
        }
    }
}

fn is_empty(value: &Value) -> bool {
    value == empty_like(value)
}
