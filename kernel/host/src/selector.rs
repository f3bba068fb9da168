//! Label selectors, in both of their spellings: the query parameter's text, and the `spec.selector` of an object.
//! Facts: <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors>.

use crate::fault::HostError;
use pintle_registry::Meta;
use serde_json::Value;

/// Every requirement must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    In,
    NotIn,
    Exists,
    Absent,
}

impl Selector {
    /// From the query parameter's syntax; empty selects everything.
    ///
    /// # Errors
    /// `BadSpec` when it is none.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let bad = || HostError::BadSpec { field: "spec.controller.selector", problem: format!("{text:?} is not a label selector") };
        let mut requirements = Vec::new();
        for part in split_outside_parentheses(text) {
            requirements.push(requirement(part.trim()).ok_or_else(bad)?);
        }
        Ok(Self(requirements))
    }

    /// From an object's `spec.selector`: a LabelSelector, or a plain map as ReplicationControllers and Services have. `None`: it selects
    /// nothing.
    pub fn of_object(selector: &Value) -> Option<Self> {
        let selector = selector.as_object().filter(|s| !s.is_empty())?;
        let labels = match selector.get("matchLabels") {
            Some(labels) => labels.as_object(),
            None if selector.contains_key("matchExpressions") => None,
            None => Some(selector),
        };
        let mut requirements: Vec<Requirement> = Vec::new();
        for (key, value) in labels.into_iter().flatten() {
            requirements.push(Requirement { key: key.clone(), operator: Operator::In, values: vec![value.as_str()?.to_owned()] });
        }
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let operator = match expression["operator"].as_str()? {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::Absent,
                _ => return None,
            };
            let values = expression["values"].as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect();
            requirements.push(Requirement { key: expression["key"].as_str()?.to_owned(), operator, values });
        }
        Some(Self(requirements))
    }

    /// Whether it selects an object with these labels.
    pub fn matches(&self, meta: &Meta) -> bool {
        self.0.iter().all(|requirement| {
            let value = meta.label(&requirement.key);
            match requirement.operator {
                Operator::In => value.is_some_and(|v| requirement.values.iter().any(|x| x == v)),
                Operator::NotIn => value.is_none_or(|v| requirement.values.iter().all(|x| x != v)),
                Operator::Exists => value.is_some(),
                Operator::Absent => value.is_none(),
            }
        })
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0i32, 0);
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    if !text[start..].trim().is_empty() {
        parts.push(&text[start..]);
    }
    parts
}

fn requirement(text: &str) -> Option<Requirement> {
    let valid = |key: &str| !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
    let make =
        |key: &str, operator, values: Vec<String>| valid(key.trim()).then(|| Requirement { key: key.trim().to_owned(), operator, values });
    let one = |value: &str| vec![value.trim().to_owned()];
    if let Some(key) = text.strip_prefix('!') {
        return make(key, Operator::Absent, Vec::new());
    }
    if let Some((key, value)) = text.split_once("!=") {
        return make(key, Operator::NotIn, one(value));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return make(key, Operator::In, one(value));
    }
    if let Some((head, list)) = text.split_once('(') {
        let values = list.trim_end().strip_suffix(')')?.split(',').map(|v| v.trim().to_owned()).collect();
        let mut words = head.split_whitespace();
        let (key, operator) = (words.next()?, words.next()?);
        return match operator {
            "in" => make(key, Operator::In, values),
            "notin" => make(key, Operator::NotIn, values),
            _ => None,
        };
    }
    make(text, Operator::Exists, Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn meta() -> Meta {
        Meta { labels: [("app".into(), "web".into()), ("tier".into(), "front".into())].into(), ..Meta::default() }
    }

    #[test]
    fn both_spellings_select_alike() {
        for (text, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier!=back", true),
            ("app in (api, web),tier", true),
            ("app notin (web)", false),
            ("!app", false),
            ("missing", false),
            ("!missing,missing!=x", true),
        ] {
            assert_eq!(Selector::parse(text).map(|s| s.matches(&meta())).ok(), Some(expected), "{text}");
        }
        assert!(Selector::parse("app in web").is_err());
        let select = |v| Selector::of_object(&v).map(|s| s.matches(&meta()));
        assert_eq!(select(json!({"matchLabels": {"app": "web"}})), Some(true));
        assert_eq!(select(json!({"app": "web", "tier": "back"})), Some(false));
        assert_eq!(select(json!({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["front"]}]})), Some(true));
        assert_eq!(select(json!({})), None);
        assert_eq!(select(json!(null)), None);
    }
}
