//! OpenAPI documents, made of the schema table when somebody asks for them.
//!
//! Version 3 is one document a group version and an index with a hash of each; version 2 is one document for everything,
//! as JSON and in gnostic's protobuf. What a document says follows from the table alone, so its hash is known without
//! making it. Nothing is kept here: whoever serves a document keeps its bytes, or makes it again.

mod gnostic;
mod paths;
mod schemas;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::discovery;
use crate::resource::Resource;
use crate::table::{FINGERPRINT, Schema};

/// Grows when what is made of the table changes.
const LAYOUT: u32 = 1;
const TITLE: &str = "Kubernetes";
const VERSION: &str = "v1.37.0";

/// What the protobuf form of version 2 is called in answers. Clients also ask for it under an older name with an `@` in
/// it, which no client can parse: answers never carry that one.
pub const V2_PROTOBUF_MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Which of the two document formats.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dialect {
    V2,
    V3,
}

/// `GET /openapi/v3`: the documents there are, each with its hash in its address.
pub fn v3_index(schema: &Schema) -> Value {
    let mut paths = Map::new();
    for (group, versions) in discovery::group_versions(schema) {
        for version in versions {
            let path = v3_path(group, version);
            let address = format!("/openapi/v3/{path}?hash={}", v3_hash(schema, group, version));
            paths.insert(path, json!({"serverRelativeURL": address}));
        }
    }
    json!({"paths": paths})
}

/// The hash that [`v3_index`] shows for a group version.
pub fn v3_hash(schema: &Schema, group: &str, version: &str) -> String {
    hash(schema, &v3_path(group, version), &|resource| resource.group == group && resource.version == version)
}

/// The hash of the version 2 document: its ETag.
pub fn v2_hash(schema: &Schema) -> String {
    hash(schema, "v2", &|_| true)
}

/// `GET /openapi/v3/{path}` as JSON; `None` where there is no such group version.
pub fn v3(schema: &Schema, group: &str, version: &str) -> Option<Vec<u8>> {
    let resources: Vec<_> = discovery::members(schema, group, version).collect();
    if resources.is_empty() {
        return None;
    }
    let kinds = schemas::Kinds::new(schema);
    let components: Map<String, Value> = schemas::for_resources(&kinds, &resources, Dialect::V3).into_iter().collect();
    let paths: Map<String, Value> = paths::for_resources(schema, &resources, Dialect::V3).into_iter().collect();
    let document =
        json!({"openapi": "3.0.0", "info": {"title": TITLE, "version": VERSION}, "paths": paths, "components": {"schemas": components}});
    serde_json::to_vec(&document).ok()
}

/// `GET /openapi/v2` as JSON.
pub fn v2_json(schema: &Schema) -> Vec<u8> {
    let mut text = format!("{{\"swagger\":\"2.0\",\"info\":{{\"title\":{TITLE:?},\"version\":{VERSION:?}}},\"paths\":{{");
    let mut separator = "";
    each_path(schema, |path, item| {
        text.push_str(&format!("{separator}{}:{item}", Value::from(path)));
        separator = ",";
    });
    text.push_str("},\"definitions\":{");
    separator = "";
    each_definition(schema, |name, definition| {
        text.push_str(&format!("{separator}{}:{definition}", Value::from(name)));
        separator = ",";
    });
    text.push_str("}}");
    text.into_bytes()
}

/// `GET /openapi/v2` as [`V2_PROTOBUF_MEDIA_TYPE`].
pub fn v2_protobuf(schema: &Schema) -> Vec<u8> {
    let mut document = gnostic::Document::new(TITLE, VERSION);
    each_path(schema, |path, item| document.path(path, item));
    each_definition(schema, |name, definition| document.definition(name, definition));
    document.finish()
}

/// One path at a time: the whole document at once would be many times its text.
fn each_path(schema: &Schema, mut visit: impl FnMut(&str, &Value)) {
    for (group, versions) in discovery::group_versions(schema) {
        for version in versions {
            let resources: Vec<_> = discovery::members(schema, group, version).collect();
            paths::for_resources(schema, &resources, Dialect::V2).iter().for_each(|(path, item)| visit(path, item));
        }
    }
}

fn each_definition(schema: &Schema, visit: impl FnMut(&str, &Value)) {
    let kinds = schemas::Kinds::new(schema);
    let resources: Vec<_> = schema.resources().collect();
    schemas::visit(&kinds, &resources, Dialect::V2, visit);
}

fn v3_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn hash(schema: &Schema, what: &str, shown: &dyn Fn(&Resource) -> bool) -> String {
    let mut hasher = Sha256::new();
    hasher.update(format!("{LAYOUT} {FINGERPRINT} {what} "));
    // A document shows a custom resource as its row says it, whatever else is served.
    for row in schema.resources().filter(|row| row.type_id.is_none_or(|id| !id.is_builtin()) && shown(row)) {
        hasher.update(format!("{:?}", Resource { type_id: None, ..row.clone() }));
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02X}")).collect()
}
