//! Telling two JSON values apart, for people.

use serde_json::Value;
use std::collections::BTreeSet;

/// Differences told at most; the rest is counted.
const TOLD_MAX: usize = 8;
/// How much of a value is shown, in bytes.
const SHOWN_BYTES_MAX: usize = 160;

/// What is different in `new`, a line each: `/path: old -> new`. Empty: they say the same.
pub fn differences(old: &Value, new: &Value) -> Vec<String> {
    let (mut lines, mut more) = (Vec::new(), 0);
    walk("", Some(old), Some(new), &mut lines, &mut more);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines
}

fn walk(path: &str, old: Option<&Value>, new: Option<&Value>, lines: &mut Vec<String>, more: &mut usize) {
    match (old, new) {
        (old, new) if old == new => {}
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            // In order of their names, whatever order the map keeps.
            let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for key in keys {
                walk(&format!("{path}/{}", key.replace('~', "~0").replace('/', "~1")), old.get(key), new.get(key), lines, more);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => {
            for i in 0..old.len().max(new.len()) {
                walk(&format!("{path}/{i}"), old.get(i), new.get(i), lines, more);
            }
        }
        _ if lines.len() >= TOLD_MAX => *more += 1,
        _ => lines.push(format!("{}: {} -> {}", if path.is_empty() { "/" } else { path }, shown(old), shown(new))),
    }
}

fn shown(value: Option<&Value>) -> String {
    let Some(value) = value else { return "nothing".into() };
    let mut text = value.to_string();
    if text.len() > SHOWN_BYTES_MAX {
        text.truncate(text.floor_char_boundary(SHOWN_BYTES_MAX));
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(old: Value, new: Value, expected: &[&str]) {
        assert_eq!(differences(&old, &new), expected);
    }

    #[test]
    fn each_place_that_differs_is_a_line_with_both_values() {
        check(json!({"a": [1, {"b": 2}]}), json!({"a": [1, {"b": 2}]}), &[]);
        check(json!({"a": [1, {"b": 2}]}), json!({"a": [1, {"b": 3}, 4]}), &["/a/1/b: 2 -> 3", "/a/2: nothing -> 4"]);
        check(
            json!({"x/y": 1, "gone": 2}),
            json!({"x/y": "1", "new": null}),
            &["/gone: 2 -> nothing", "/new: nothing -> null", "/x~1y: 1 -> \"1\""],
        );
        check(json!(1), json!(2), &["/: 1 -> 2"]);
    }

    #[test]
    fn many_differences_are_counted_and_long_values_cut() {
        let lines = differences(&json!(vec![1; 20]), &json!(vec![2; 20]));
        assert_eq!((lines.len(), lines.last().map(String::as_str)), (9, Some("and 12 more")));
        assert!(differences(&json!("a".repeat(1000)), &json!("é".repeat(1000)))[0].len() < 400);
    }
}
