//! Structural schemas over JSON: what a value must be, in the words in which upstream says it.
//!
//! A [`Structural`] is a schema as its author wrote it, with its patterns and rules compiled. It prunes, fills in and
//! checks values; [`structure`] says whether a schema is structural at all. Failures are [`FieldError`]s at a [`Path`];
//! rules are CEL. [`JsonPath`] is what columns of tables are written in.
//!
//! Not here: which objects there are, and what happens to those that fail. Knows CEL and nothing else of ours, so modules
//! may use it too.

mod check;
mod field_error;
mod formats;
mod json_path;
pub mod path;
mod rules;
mod structure;
mod walk;

use std::collections::HashMap;

use regex::Regex;
use serde_json::Value;

pub use field_error::{FieldError, FieldErrorKind};
pub use json_path::JsonPath;
pub use path::Path;
pub use structure::structure;

/// Failures that are collected before a check stops adding more.
pub const FAILURES_MAX: usize = 200;

/// A schema, ready for use.
#[derive(Debug)]
pub struct Structural {
    root: Value,
    patterns: HashMap<String, Regex>,
    programs: rules::Programs,
    defaults: bool,
}

impl Structural {
    /// Compiles what is in a schema. What does not compile is left out: [`structure`] tells of it.
    pub fn new(root: &Value) -> Structural {
        let mut schema = Structural { root: root.clone(), patterns: HashMap::new(), programs: HashMap::new(), defaults: false };
        schema.gather(root);
        schema
    }

    /// The schema as it was written.
    pub fn root(&self) -> &Value {
        &self.root
    }

    /// Whether values may lack what the schema gives by default.
    pub fn has_defaults(&self) -> bool {
        self.defaults
    }

    fn gather(&mut self, node: &Value) {
        self.defaults |= node.get("default").is_some();
        if let Some(pattern) = node["pattern"].as_str()
            && let Ok(regex) = Regex::new(pattern)
        {
            self.patterns.insert(pattern.to_owned(), regex);
        }
        rules::gather(node, &mut self.programs);
        children(node, |_, child| self.gather(child));
    }
}

/// Shows each schema directly below `node`, with its place relative to it, to `visit`.
fn children<'a>(node: &'a Value, mut visit: impl FnMut(String, &'a Value)) {
    for (name, child) in node["properties"].as_object().into_iter().flatten() {
        visit(format!("properties[{name}]"), child);
    }
    for key in ["items", "additionalProperties", "not"] {
        if let Some(child) = node.get(key).filter(|child| child.is_object()) {
            visit(key.to_owned(), child);
        }
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        for (index, child) in list(node, key).iter().enumerate() {
            visit(format!("{key}[{index}]"), child);
        }
    }
}

fn list<'a>(node: &'a Value, key: &str) -> &'a [Value] {
    node[key].as_array().map_or(&[], Vec::as_slice)
}

fn flag(node: &Value, key: &str) -> bool {
    node[key] == Value::Bool(true)
}

fn text<'a>(node: &'a Value, key: &str) -> &'a str {
    node[key].as_str().unwrap_or_default()
}
