//! `additionalPrinterColumns`: tables of custom resources.

use jiff::Timestamp;
use pintle_structural::JsonPath;
use serde_json::{Value, json};

use super::{Version, list, text};
use crate::printer;

const AGE: &str = ".metadata.creationTimestamp";

/// The entries of `additionalPrinterColumns`, or the age where there are none.
fn entries(version: &Version) -> Vec<Value> {
    match list(&version.source, "additionalPrinterColumns") {
        [] => vec![json!({"name": "Age", "type": "date", "jsonPath": AGE})],
        columns => columns.to_vec(),
    }
}

/// The column definitions of a table.
pub(crate) fn definitions(version: &Version) -> Value {
    let name = json!({"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0});
    let column = |column: Value| {
        let text = |key: &str| text(&column, key).to_owned();
        let priority = column["priority"].as_i64().unwrap_or_default();
        json!({"name": text("name"), "type": text("type"), "format": text("format"), "description": text("description"), "priority": priority})
    };
    std::iter::once(name).chain(entries(version).into_iter().map(column)).collect()
}

/// The cells of an object.
pub(crate) fn cells(version: &Version, object: &Value, now: Timestamp) -> Vec<Value> {
    let cell = |column: Value| {
        let found = JsonPath::parse(text(&column, "jsonPath")).map(|path| path.find(object)).unwrap_or_default();
        let Some(first) = found.first() else { return Value::Null };
        match text(&column, "type") {
            "integer" => first.as_i64().map_or(Value::Null, |n| json!(n)),
            "number" => first.as_f64().map_or(Value::Null, |n| json!(n)),
            "boolean" => first.as_bool().map_or(Value::Null, |b| json!(b)),
            "date" => json!(printer::since(first, now)),
            _ => {
                let plain = |value: &&Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                json!(found.iter().map(plain).collect::<Vec<_>>().join(" "))
            }
        }
    };
    let name = object["metadata"]["name"].clone();
    std::iter::once(name).chain(entries(version).into_iter().map(cell)).collect()
}
