//! Label selectors.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::object::null_is_empty;

/// `metav1.LabelSelector`. An empty one matches everything; one that is absent is the caller's business.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Selector {
    /// Labels that must have these values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements, all of which must hold.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub match_expressions: Vec<Requirement>,
}

/// One requirement on one label (or, for nodes, one field).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`; for nodes also `Gt` and `Lt`.
    pub operator: String,
    /// What the operator compares with.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub values: Vec<String>,
}

impl Selector {
    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| requirement.holds(labels.get(&requirement.key).map(String::as_str)))
    }
}

impl Requirement {
    /// Whether it holds for the label's value. An operator that does not exist holds for nothing.
    pub fn holds(&self, value: Option<&str>) -> bool {
        let listed = || value.is_some_and(|value| self.values.iter().any(|v| v == value));
        match self.operator.as_str() {
            "In" => listed(),
            "NotIn" => !listed(),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            "Gt" => self.compare(value).is_some_and(|(have, bound)| have > bound),
            "Lt" => self.compare(value).is_some_and(|(have, bound)| have < bound),
            _ => false,
        }
    }

    fn compare(&self, value: Option<&str>) -> Option<(i64, i64)> {
        Some((value?.parse().ok()?, self.values.first()?.parse().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(operator: &str, values: &[&str], value: Option<&str>, expected: bool) {
        let values = values.iter().map(|v| v.to_string()).collect();
        let requirement = Requirement { key: "k".into(), operator: operator.into(), values };
        assert_eq!(requirement.holds(value), expected, "{operator} {value:?}");
    }

    #[test]
    fn every_operator_holds_as_documented() {
        check("In", &["a", "b"], Some("b"), true);
        check("In", &["a", "b"], None, false);
        check("NotIn", &["a"], None, true);
        check("NotIn", &["a"], Some("a"), false);
        check("Exists", &[], Some(""), true);
        check("DoesNotExist", &[], Some(""), false);
        check("Gt", &["5"], Some("6"), true);
        check("Lt", &["5"], Some("x"), false);
        check("Nonsense", &[], Some("x"), false);
    }
}
