//! Label selectors: parsed from a query parameter or an object, matched against objects or a bare set of labels.

use std::fmt;

use serde_json::Value;

use crate::names;

/// Requirements in one selector.
pub const REQUIREMENTS_MAX: usize = 1_000;

/// Why something is no selector, in a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Malformed {
    /// The sentence.
    pub message: String,
}

impl Malformed {
    fn new(message: impl Into<String>) -> Malformed {
        Malformed { message: message.into() }
    }
}

/// A conjunction of requirements on labels. The empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    /// Set for a selector that matches nothing, such as an absent one of a workload.
    nothing: bool,
}

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
    Greater,
    Less,
}

impl LabelSelector {
    /// Parses the `labelSelector` parameter: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`.
    pub fn parse(text: &str) -> Result<LabelSelector, Malformed> {
        let mut parser = Parser { rest: text.trim() };
        let mut requirements = Vec::new();
        while !parser.rest.is_empty() {
            requirements.push(parser.requirement().map_err(|why| Malformed::new(format!("unable to parse requirement: {why}")))?);
            if requirements.len() > REQUIREMENTS_MAX {
                return Err(Malformed::new(format!("a selector has at most {REQUIREMENTS_MAX} requirements")));
            }
            if !parser.rest.is_empty() && !parser.take(",") {
                return Err(Malformed::new(format!(
                    "unable to parse requirement: found '{}', expected: ',' or 'end of string'",
                    parser.rest
                )));
            }
        }
        Ok(LabelSelector { requirements, nothing: false })
    }

    /// Reads a meta/v1 LabelSelector (`matchLabels`, `matchExpressions`). Null or absent matches nothing.
    pub fn from_object(value: &Value) -> Result<LabelSelector, Malformed> {
        let Some(map) = value.as_object() else { return Ok(LabelSelector { requirements: Vec::new(), nothing: true }) };
        let mut selector = map.get("matchLabels").map_or_else(LabelSelector::default, LabelSelector::from_map);
        for expression in map.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let word = expression["operator"].as_str().unwrap_or_default();
            let operator = match word {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::Absent,
                _ => return Err(Malformed::new(format!("{word:?} is not a valid label selector operator"))),
            };
            let values = expression["values"].as_array().into_iter().flatten().filter_map(|v| Some(v.as_str()?.to_owned())).collect();
            selector.requirements.push(Requirement { key: expression["key"].as_str().unwrap_or_default().to_owned(), operator, values });
        }
        Ok(selector)
    }

    /// The selector for exactly these labels: a plain map, as services and replication controllers have.
    pub fn from_map(labels: &Value) -> LabelSelector {
        let pairs = labels.as_object().into_iter().flatten();
        let requirements = pairs
            .map(|(key, value)| Requirement {
                key: key.clone(),
                operator: Operator::In,
                values: vec![value.as_str().unwrap_or_default().to_owned()],
            })
            .collect();
        LabelSelector { requirements, nothing: false }
    }

    /// Whether the selector matches every object.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// Whether labels match; `label` looks one up.
    pub fn matches_with<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(label(&r.key)))
    }

    /// Whether the labels of `object` (its `metadata.labels`) match.
    pub fn matches(&self, object: &Value) -> bool {
        self.matches_labels(&object["metadata"]["labels"])
    }

    /// Whether a JSON map of labels matches; null is the empty map.
    pub fn matches_labels(&self, labels: &Value) -> bool {
        self.matches_with(|key| labels.get(key).and_then(Value::as_str))
    }
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|v| v == value);
        let number = |text: &str| text.parse::<i64>().ok();
        let compare = |value: Option<&str>| Some((number(value?)?, number(self.values.first()?)?));
        match self.operator {
            Operator::In => value.is_some_and(listed),
            Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::Absent => value.is_none(),
            Operator::Greater => compare(value).is_some_and(|(a, b)| a > b),
            Operator::Less => compare(value).is_some_and(|(a, b)| a < b),
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Requirement { key, operator, values }) in self.requirements.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { "," })?;
            let list = values.join(",");
            match operator {
                Operator::In if values.len() == 1 => write!(f, "{key}={list}")?,
                Operator::In => write!(f, "{key} in ({list})")?,
                Operator::NotIn => write!(f, "{key} notin ({list})")?,
                Operator::Exists => f.write_str(key)?,
                Operator::Absent => write!(f, "!{key}")?,
                Operator::Greater => write!(f, "{key}>{list}")?,
                Operator::Less => write!(f, "{key}<{list}")?,
            }
        }
        Ok(())
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn requirement(&mut self) -> Result<Requirement, String> {
        if self.take("!") {
            let key = self.key()?;
            return Ok(Requirement { key, operator: Operator::Absent, values: Vec::new() });
        }
        let key = self.key()?;
        for (sign, operator) in
            [("==", Operator::In), ("=", Operator::In), ("!=", Operator::NotIn), (">", Operator::Greater), ("<", Operator::Less)]
        {
            if self.take(sign) {
                let value = self.word().to_owned();
                if matches!(operator, Operator::Greater | Operator::Less) && value.parse::<i64>().is_err() {
                    return Err(format!(
                        "values[0][{key}]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"
                    ));
                }
                return Ok(Requirement { values: vec![check_value(&key, &value)?], key, operator });
            }
        }
        let rest = self.rest;
        let operator = match self.word() {
            "in" => Operator::In,
            "notin" => Operator::NotIn,
            _ => {
                self.rest = rest;
                return Ok(Requirement { key, operator: Operator::Exists, values: Vec::new() });
            }
        };
        let values = self.value_list(&key)?;
        Ok(Requirement { key, operator, values })
    }

    fn value_list(&mut self, key: &str) -> Result<Vec<String>, String> {
        if !self.take("(") {
            return Err(format!("found '{}', expected: '('", self.rest));
        }
        let mut values = Vec::new();
        loop {
            let value = self.word();
            values.push(check_value(key, value)?);
            if self.take(")") {
                return Ok(values);
            }
            if !self.take(",") {
                return Err(format!("found '{}', expected: ',' or ')'", self.rest));
            }
        }
    }

    fn key(&mut self) -> Result<String, String> {
        let key = self.word();
        match names::qualified_name(key).first() {
            None => Ok(key.to_owned()),
            Some(_) if key.is_empty() => Err(format!("found '{}', expected: identifier", self.rest)),
            Some(why) => Err(format!("key: Invalid value: {key:?}: {why}")),
        }
    }

    fn word(&mut self) -> &'a str {
        self.rest = self.rest.trim_start();
        let end = self.rest.find(|c: char| c.is_whitespace() || "=!(),<>".contains(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        word
    }

    fn take(&mut self, sign: &str) -> bool {
        let rest = self.rest.trim_start().strip_prefix(sign);
        if let Some(rest) = rest {
            self.rest = rest.trim_start();
        }
        rest.is_some()
    }
}

fn check_value(key: &str, value: &str) -> Result<String, String> {
    match names::label_value(value) {
        None => Ok(value.to_owned()),
        Some(why) => Err(format!("values[0][{key}]: Invalid value: {value:?}: {why}")),
    }
}
