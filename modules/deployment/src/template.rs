//! Which ReplicaSet is a template's, and what a new one is called.

use pintle_sdk::serde_json::Value;

use crate::model::{HASH_LABEL, ReplicaSet};

/// Letters and digits that stand for a decimal digit each, so that hashes make no words.
const DIGITS: &[u8; 10] = b"bcdfghjklm";

/// The oldest ReplicaSet with the template: taking the oldest gives every view the same answer.
pub fn find<'a>(sets: &'a [ReplicaSet], template: &Value) -> Option<&'a ReplicaSet> {
    let wanted = canonical(template);
    sets.iter().filter(|set| canonical(&set.spec.template) == wanted).min_by_key(|set| set.age())
}

/// The value of the `pod-template-hash` label. `collisions` makes another when the first is taken.
pub fn hash(template: &Value, collisions: Option<i64>) -> String {
    let mut state = fnv(0x811c_9dc5, canonical(template).as_bytes());
    if let Some(collisions) = collisions {
        state = fnv(state, &collisions.to_le_bytes());
    }
    state.to_string().bytes().map(|digit| char::from(DIGITS[usize::from(digit - b'0') % 10])).collect()
}

/// FNV-1a, 32 bits.
fn fnv(state: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(state, |state, byte| (state ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// One text for all templates that make the same pods: members in order, `null`s and the hash label left out.
fn canonical(template: &Value) -> String {
    let mut out = String::new();
    write(template, "", &mut out);
    out
}

fn write(value: &Value, parent: &str, out: &mut String) {
    match value {
        Value::Object(members) => {
            let mut names: Vec<&String> = members.keys().filter(|name| !members[*name].is_null()).collect();
            names.retain(|name| !(parent == "labels" && *name == HASH_LABEL));
            names.sort();
            out.push('{');
            for name in names {
                out.push_str(&format!("{name:?}:"));
                write(&members[name], name, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                write(item, "", out);
                out.push(',');
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_sdk::serde_json::json;

    #[test]
    fn the_hash_label_and_nulls_make_no_difference() {
        let plain = json!({"metadata": {"labels": {"app": "a"}}, "spec": {"x": 1, "y": null}});
        let labelled =
            json!({"spec": {"x": 1}, "metadata": {"labels": {"pod-template-hash": "abc", "app": "a"}, "creationTimestamp": null}});
        assert_eq!(canonical(&plain), canonical(&labelled));
        assert_eq!(hash(&plain, None), hash(&labelled, None));
    }

    #[test]
    fn a_change_or_a_collision_makes_another_hash() {
        let (a, b) = (json!({"spec": {"x": 1}}), json!({"spec": {"x": 2}}));
        assert_ne!(canonical(&a), canonical(&b));
        assert_ne!(hash(&a, None), hash(&b, None));
        assert_ne!(hash(&a, None), hash(&a, Some(1)));
    }
}
