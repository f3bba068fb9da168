//! Pruning and defaulting: what an object gains and loses by its schema before it is validated.

use serde_json::{Map, Value};

use crate::path::Path;
use crate::{Structural, flag};

impl Structural {
    /// Removes what the schema does not know from an object, whose type and metadata are its own. Returns the places.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut removed = Vec::new();
        prune(&self.root, object, true, &Path::Root, &mut removed);
        removed
    }

    /// Fills the schema's defaults in. A null counts as absent where the schema has a default and does not allow null.
    pub fn default(&self, object: &mut Value) {
        if self.defaults {
            fill(&self.root, object);
        }
    }
}

/// The members that every object has, whatever its schema says.
fn is_object_member(key: &str) -> bool {
    matches!(key, "apiVersion" | "kind" | "metadata")
}

/// Removes what `node` does not know.
pub(crate) fn prune_below(node: &Value, value: &mut Value) {
    prune(node, value, flag(node, "x-kubernetes-embedded-resource"), &Path::Root, &mut Vec::new());
}

fn prune(node: &Value, value: &mut Value, embedded: bool, path: &Path<'_>, removed: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let keep = node.is_null() || flag(node, "x-kubernetes-preserve-unknown-fields");
            let properties = node["properties"].as_object();
            let additional = &node["additionalProperties"];
            map.retain(|key, value| {
                let path = path.key(key);
                if embedded && is_object_member(key) {
                    return true;
                }
                if let Some(child) = properties.and_then(|properties| properties.get(key)) {
                    prune(child, value, flag(child, "x-kubernetes-embedded-resource"), &path, removed);
                } else if additional.is_object() {
                    prune(additional, value, flag(additional, "x-kubernetes-embedded-resource"), &path, removed);
                } else if !keep && *additional != Value::Bool(true) {
                    removed.push(path.to_string());
                    return false;
                }
                true
            });
        }
        Value::Array(items) => {
            let child = &node["items"];
            for (index, item) in items.iter_mut().enumerate().filter(|_| child.is_object()) {
                prune(child, item, flag(child, "x-kubernetes-embedded-resource"), &path.index(index), removed);
            }
        }
        _ => {}
    }
}

fn fill(node: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, child) in node["properties"].as_object().into_iter().flatten() {
                fill_one(child, key, map);
            }
            let properties = node["properties"].as_object();
            for (key, value) in map.iter_mut() {
                match properties.and_then(|properties| properties.get(key)) {
                    Some(child) => fill(child, value),
                    None if node["additionalProperties"].is_object() => fill(&node["additionalProperties"], value),
                    None => {}
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| fill(&node["items"], item)),
        _ => {}
    }
}

fn fill_one(child: &Value, key: &str, map: &mut Map<String, Value>) {
    let Some(default) = child.get("default") else { return };
    let lacks = map.get(key).is_none_or(|value| value.is_null() && !flag(child, "nullable"));
    if lacks {
        map.insert(key.to_owned(), default.clone());
    }
}
