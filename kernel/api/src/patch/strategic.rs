//! Strategic merge patch: a merge patch in which lists with a merge key merge element by element.
//!
//! Directives: `$patch` (replace, delete, merge) in an object; `$retainKeys` in an object; `$deleteFromPrimitiveList/x`
//! and `$setElementOrder/x` beside the list `x`. Elements of a merged list keep the patch's order among themselves and the
//! live order for what the patch does not mention. No directive ever reaches the result.

use serde_json::{Map, Value};

use crate::status::ApiError;
use crate::table::{Container, Element, Field, TypeView};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

type Object = Map<String, Value>;

/// The value that `patch` makes of `current`, which is of type `view`.
pub fn apply(view: TypeView<'_>, patch: Object, current: &Value) -> Result<Value, ApiError> {
    let original = current.as_object().cloned().unwrap_or_default();
    merge_map(Some(view), original, patch).map(Value::Object)
}

/// What the table says about the list or object under one key.
struct Rule<'a> {
    element: Option<TypeView<'a>>,
    merge_key: &'a str,
    merges: bool,
    replaces: bool,
}

fn rule<'a>(view: Option<TypeView<'a>>, key: &str) -> Rule<'a> {
    let found = view.and_then(|view| Some((view, view.field(key)?)));
    let Some((view, field)) = found else { return Rule { element: None, merge_key: "", merges: false, replaces: false } };
    Rule {
        element: element_type(view, &field),
        merge_key: field.merge_key,
        merges: field.merges(),
        replaces: field.strategy.split(',').any(|s| s == "replace"),
    }
}

fn element_type<'a>(view: TypeView<'a>, field: &Field<'a>) -> Option<TypeView<'a>> {
    // The values of a map are not fields of the map's own type.
    (field.element == Element::Object && matches!(field.container, Container::Single | Container::List))
        .then(|| view.target(field))
        .flatten()
}

fn merge_map(view: Option<TypeView<'_>>, mut original: Object, mut patch: Object) -> Result<Object, ApiError> {
    match patch.remove(PATCH) {
        None => {}
        Some(directive) => match directive.as_str() {
            Some("merge") => {}
            Some("replace") => return Ok(clean_map(patch)),
            Some("delete") => return Ok(Object::new()),
            _ => return Err(malformed(format!("invalid value for special key {PATCH}: {directive}"))),
        },
    }
    retain_keys(&mut original, &mut patch)?;
    ordered_lists(view, &mut original, &mut patch)?;
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(DELETE_FROM) {
            delete_primitives(&mut original, list, &value)?;
            continue;
        }
        let merged = match (original.remove(&key), value) {
            (_, Value::Null) => continue,
            (Some(Value::Object(old)), Value::Object(new)) => {
                let rule = rule(view, &key);
                Value::Object(if rule.replaces { clean_map(new) } else { merge_map(rule.element, old, new)? })
            }
            (Some(Value::Array(old)), Value::Array(new)) => {
                let rule = rule(view, &key);
                Value::Array(if rule.merges { merge_list(&rule, old, new)? } else { clean_list(new) })
            }
            (_, new) => clean(new),
        };
        original.insert(key, merged);
    }
    Ok(original)
}

fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), ApiError> {
    let Some(directive) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let kept = strings(&directive).ok_or_else(|| malformed(format!("{RETAIN_KEYS} must be a list of strings")))?;
    if let Some(stray) = patch.keys().find(|key| !key.starts_with('$') && !kept.contains(&key.as_str())) {
        return Err(malformed(format!("{stray} is not present in {RETAIN_KEYS}: {kept:?}")));
    }
    original.retain(|key, _| kept.contains(&key.as_str()));
    Ok(())
}

/// Merges the lists that the patch orders, and takes them out of the patch.
fn ordered_lists(view: Option<TypeView<'_>>, original: &mut Object, patch: &mut Object) -> Result<(), ApiError> {
    let directives: Vec<String> = patch.keys().filter(|key| key.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let Some(Value::Array(order)) = patch.remove(&directive) else { return Err(malformed(format!("{directive} must be a list"))) };
        let key = directive[SET_ORDER.len()..].to_owned();
        let rule = rule(view, &key);
        let live = original.get(&key).and_then(Value::as_array).cloned();
        let merged = match (live.clone(), patch.remove(&key)) {
            (None, None) => continue,
            (_, Some(Value::Null)) => {
                original.remove(&key);
                continue;
            }
            (Some(live), None) => live,
            (None, Some(Value::Array(new))) => clean_list(new),
            (Some(live), Some(Value::Array(new))) if rule.merges => merge_list(&rule, live, new)?,
            (_, Some(new)) => {
                original.insert(key, clean(new));
                continue;
            }
        };
        // A list that primitives are deleted from is ordered after the deletion.
        let merged = match patch.remove(&format!("{DELETE_FROM}{key}")) {
            Some(gone) => without(merged, &gone)?,
            None => merged,
        };
        let sorted = arrange(rule.merge_key, merged, &order, live.as_deref().unwrap_or_default());
        original.insert(key, Value::Array(sorted));
    }
    Ok(())
}

fn merge_list(rule: &Rule<'_>, original: Vec<Value>, patch: Vec<Value>) -> Result<Vec<Value>, ApiError> {
    if !original.iter().chain(&patch).any(Value::is_object) {
        return Ok(arrange("", union(original.clone(), patch.clone()), &patch, &original));
    }
    if rule.merge_key.is_empty() {
        return Err(malformed("cannot merge lists without merge key".to_owned()));
    }
    let live = original.clone();
    let (mut merged, patch) = special_elements(rule.merge_key, original, patch)?;
    let order = patch.clone();
    for element in patch {
        let Value::Object(new) = element else { return Err(malformed(format!("not an object: {element}"))) };
        let key = new.get(rule.merge_key).cloned();
        let key = key.ok_or_else(|| {
            malformed(format!("map: {} does not contain declared merge key: {}", Value::Object(new.clone()), rule.merge_key))
        })?;
        match merged.iter_mut().find(|old| old.get(rule.merge_key) == Some(&key)) {
            Some(slot) => {
                let old = slot.as_object().cloned().unwrap_or_default();
                *slot = Value::Object(merge_map(rule.element, old, new)?);
            }
            None => merged.push(Value::Object(clean_map(new))),
        }
    }
    Ok(arrange(rule.merge_key, merged, &order, &live))
}

/// Carries out elements that are directives. Returns what is left of the original and of the patch.
fn special_elements(merge_key: &str, mut original: Vec<Value>, patch: Vec<Value>) -> Result<(Vec<Value>, Vec<Value>), ApiError> {
    let mut plain = Vec::new();
    let mut replaces = false;
    for element in patch {
        match element.get(PATCH).map(|d| d.as_str().unwrap_or_default().to_owned()).as_deref() {
            None => plain.push(element),
            Some("delete") => {
                let key =
                    element.get(merge_key).ok_or_else(|| malformed(format!("delete patch type with no merge key defined: {element}")))?;
                original.retain(|old| old.get(merge_key) != Some(key));
            }
            Some("replace") => replaces = true,
            Some(other) => return Err(malformed(format!("invalid value for special key {PATCH}: {other}"))),
        }
    }
    Ok(if replaces { (clean_list(plain), Vec::new()) } else { (original, plain) })
}

fn delete_primitives(original: &mut Object, key: &str, gone: &Value) -> Result<(), ApiError> {
    if let Some(Value::Array(list)) = original.get(key) {
        let left = without(list.clone(), gone)?;
        original.insert(key.to_owned(), Value::Array(left));
    }
    Ok(())
}

fn without(mut list: Vec<Value>, gone: &Value) -> Result<Vec<Value>, ApiError> {
    let gone = gone.as_array().ok_or_else(|| malformed(format!("{DELETE_FROM} must be a list")))?;
    list.retain(|item| !gone.contains(item));
    Ok(list)
}

fn union(mut list: Vec<Value>, more: Vec<Value>) -> Vec<Value> {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
    list
}

/// Elements that `order` names take its order; the others keep the live order; the two interleave as the live list has them.
fn arrange(merge_key: &str, list: Vec<Value>, order: &[Value], live: &[Value]) -> Vec<Value> {
    let same = |a: &Value, b: &Value| if merge_key.is_empty() { a == b } else { a.get(merge_key) == b.get(merge_key) };
    let place = |within: &[Value], item: &Value| within.iter().position(|other| same(other, item));
    let (mut named, mut others): (Vec<Value>, Vec<Value>) = list.into_iter().partition(|item| place(order, item).is_some());
    named.sort_by_key(|item| place(order, item));
    others.sort_by_key(|item| place(live, item).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let first = match (others.peek(), named.peek()) {
            (None, None) => return out,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(a), Some(b)) => matches!((place(live, a), place(live, b)), (Some(i), Some(j)) if i < j),
        };
        out.extend(if first { others.next() } else { named.next() });
    }
}

/// The value without directives and without nulls: what a patch adds where nothing was.
fn clean(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(clean_map(map)),
        Value::Array(list) => Value::Array(clean_list(list)),
        other => other,
    }
}

fn clean_map(map: Object) -> Object {
    map.into_iter().filter(|(key, value)| !is_directive(key) && !value.is_null()).map(|(key, value)| (key, clean(value))).collect()
}

fn clean_list(list: Vec<Value>) -> Vec<Value> {
    list.into_iter().filter(|item| item.get(PATCH).and_then(Value::as_str) != Some("delete")).map(clean).collect()
}

fn is_directive(key: &str) -> bool {
    key == PATCH || key == RETAIN_KEYS || key.starts_with(DELETE_FROM) || key.starts_with(SET_ORDER)
}

fn strings(value: &Value) -> Option<Vec<&str>> {
    value.as_array()?.iter().map(Value::as_str).collect()
}

fn malformed(why: String) -> ApiError {
    ApiError::bad_request(why)
}
