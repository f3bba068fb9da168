//! JSONPath, as far as columns of tables use it.

use serde_json::{Value, json};

/// A JSONPath of the kind that columns use: members, indices, `[*]`, and `[?(@.a=="b")]`.
#[derive(Debug)]
pub struct JsonPath(Vec<Step>);

#[derive(Debug)]
enum Step {
    Member(String),
    Index(i64),
    All,
    /// The member at the path equals the value, or differs from it.
    Where(Vec<String>, bool, Value),
}

impl JsonPath {
    /// `None`: not of this kind.
    pub fn parse(text: &str) -> Option<JsonPath> {
        let mut rest = text.trim().trim_start_matches('{').trim_end_matches('}').trim_start_matches('$');
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(inside) = rest.strip_prefix('[') {
                let end = closing(inside)?;
                steps.push(bracket(&inside[..end])?);
                rest = &inside[end + 1..];
                continue;
            }
            rest = rest.strip_prefix('.').filter(|rest| !rest.starts_with('.'))?;
            let (name, length) = member(rest);
            rest = &rest[length..];
            match name.as_str() {
                "" => {}
                "*" => steps.push(Step::All),
                _ => steps.push(Step::Member(name)),
            }
        }
        Some(JsonPath(steps))
    }

    /// What is there.
    pub fn find<'a>(&self, object: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![object];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| step.from(value)).collect();
        }
        found.retain(|value| !value.is_null());
        found
    }
}

/// The name that `rest` begins with, and its length with escapes.
fn member(rest: &str) -> (String, usize) {
    let (mut name, mut chars) = (String::new(), rest.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            '.' | '[' => return (name, at),
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            c => name.push(c),
        }
    }
    (name, rest.len())
}

/// Where the bracket that is open ends; quotes may hold brackets.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    text.char_indices().find_map(|(at, c)| {
        match quote {
            Some(open) if c == open => quote = None,
            None if matches!(c, '"' | '\'') => quote = Some(c),
            None if c == ']' => return Some(at),
            _ => {}
        }
        None
    })
}

fn bracket(text: &str) -> Option<Step> {
    let text = text.trim();
    if text == "*" {
        return Some(Step::All);
    }
    if let Some(condition) = text.strip_prefix("?(").and_then(|text| text.strip_suffix(')')) {
        let (left, equal, right) = match condition.split_once("==") {
            Some((left, right)) => (left, true, right),
            None => condition.split_once("!=").map(|(left, right)| (left, false, right))?,
        };
        let members = left.trim().strip_prefix("@.")?.split('.').map(str::to_owned).collect();
        return Some(Step::Where(members, equal, literal(right.trim())?));
    }
    match literal(text)? {
        Value::String(name) => Some(Step::Member(name)),
        number => number.as_i64().map(Step::Index),
    }
}

fn literal(text: &str) -> Option<Value> {
    let quoted = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\''));
    quoted.map_or_else(|| serde_json::from_str(text).ok(), |text| Some(json!(text)))
}

impl Step {
    fn from<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let elements = || -> Vec<&'a Value> {
            match value {
                Value::Array(items) => items.iter().collect(),
                Value::Object(map) => map.values().collect(),
                _ => Vec::new(),
            }
        };
        match self {
            Step::Member(name) => value.get(name).into_iter().collect(),
            Step::Index(index) => {
                let items = value.as_array().map_or(&[][..], Vec::as_slice);
                let index = if *index < 0 { index + items.len() as i64 } else { *index };
                usize::try_from(index).ok().and_then(|index| items.get(index)).into_iter().collect()
            }
            Step::All => elements(),
            Step::Where(members, equal, wanted) => {
                let at = |item: &'a Value| members.iter().try_fold(item, |value, name| value.get(name));
                elements().into_iter().filter(|item| at(item).is_some_and(|value| (value == wanted) == *equal)).collect()
            }
        }
    }
}
