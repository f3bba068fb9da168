//! Reads k8s-pb for protobuf tags and marker comments, and lays them over the model.
//!
//! The crate may be a release behind: where it lacks a stable type, the newest earlier version of the same type stands
//! in (upstream keeps tags when a type graduates), and what is still missing is named in `schema/overrides.rows`.

use crate::model::{FieldDef, Model};
use std::collections::BTreeMap;
use std::path::Path;

/// Messages by `module path::Name` (`api::core::v1::Pod`), names folded by [`fold`].
pub type Messages = BTreeMap<String, Message>;

#[derive(Clone, Default)]
pub struct PbField {
    folded: String,
    type_name: String,
    tag: u16,
    markers: Vec<(String, String)>,
}

/// A message: its fields, and the markers of the message itself.
#[derive(Default)]
pub struct Message {
    fields: Vec<PbField>,
    markers: Vec<(String, String)>,
}

/// Every message below `src`.
pub fn read(src: &Path) -> Messages {
    let mut messages = Messages::new();
    read_dir(src, "", &mut messages);
    assert!(messages.len() > 900, "k8s-pb's layout changed: {} messages", messages.len());
    messages
}

/// Sets tags, merge keys, list types and defaults on the model's fields.
pub fn annotate(model: &mut Model, messages: &Messages) {
    for (name, def) in &mut model.types {
        let Some((module, message)) = find_message(messages, name) else { continue };
        def.atomic = message.markers.iter().any(|(marker, value)| marker == "structType" && value == "atomic");
        for field in &mut def.fields {
            annotate_field(messages, &module, &message.fields, field, &mut Vec::new());
        }
    }
}

fn annotate_field(messages: &Messages, module: &str, message: &[PbField], field: &mut FieldDef, outer: &mut Vec<u16>) -> bool {
    let folded = fold(&field.json);
    if let Some(found) = message.iter().find(|pb| pb.folded == folded) {
        field.tag = found.tag;
        for (slot, tag) in field.outer.iter_mut().zip(outer.iter()) {
            *slot = u8::try_from(*tag).unwrap_or_else(|_| panic!("tag {tag} of an embedded message"));
        }
        apply_markers(field, &found.markers);
        return true;
    }
    // Go embeds some structs: one message more in protobuf, none in JSON.
    for pb in message.iter().filter(|pb| EMBEDDED.contains(&pb.folded.as_str())) {
        let Some(inner) = messages.get(&format!("{module}::{}", fold(&pb.type_name))) else { continue };
        outer.push(pb.tag);
        let found = outer.len() <= 2 && annotate_field(messages, module, &inner.fields, field, outer);
        outer.pop();
        if found {
            return true;
        }
    }
    false
}

/// Fields that JSON flattens into their parent (`json:",inline"` upstream).
const EMBEDDED: &[&str] = &[
    "volumesource",
    "persistentvolumesource",
    "ephemeralcontainercommon",
    "handler",
    "localobjectreference",
    "rulewithoperations",
    "rule",
    "resourcerequirements",
    "secretreference",
    "containerrestartrule",
    "ingressrulevalue",
    "deviceconfiguration",
];

fn apply_markers(field: &mut FieldDef, markers: &[(String, String)]) {
    let mut keys = Vec::new();
    field.merge_key.clear();
    field.strategy.clear();
    for (marker, value) in markers {
        let value = value.trim().trim_matches('`');
        match marker.as_str() {
            "patchMergeKey" => field.merge_key = value.to_owned(),
            "patchStrategy" => field.strategy = value.to_owned(),
            "listType" | "mapType" | "structType" => field.element = value.to_owned(),
            "listMapKey" => keys.push(value.to_owned()),
            "default" if !value.starts_with("ref(") => field.default = value.to_owned(),
            _ => {}
        }
    }
    if !keys.is_empty() {
        field.list_keys = Vec::new();
        for key in keys {
            if !field.list_keys.contains(&key) {
                field.list_keys.push(key);
            }
        }
    }
    if field.element == "atomic" {
        field.list_keys = Vec::new();
    }
}

/// The message for a definition name, or the newest earlier version of it.
fn find_message<'a>(messages: &'a Messages, definition: &str) -> Option<(String, &'a Message)> {
    let path = definition.strip_prefix("io.k8s.")?.replace('-', "_");
    let (module, name) = path.rsplit_once('.')?;
    let (base, version) = module.rsplit_once('.').unwrap_or((module, ""));
    let base = base.replace('.', "::");
    let candidates = [version, "v1beta2", "v1beta1", "v1alpha3", "v1alpha2", "v1alpha1"];
    candidates.iter().find_map(|version| {
        let module = format!("{base}::{version}");
        messages.get(&format!("{module}::{}", fold(name))).map(|message| (module, message))
    })
}

/// Case and underscores differ between the two crates (`cluster_i_ps`, `clusterIPs`); this form does not.
fn fold(name: &str) -> String {
    name.trim_start_matches("r#").chars().filter(|c| c.is_ascii_alphanumeric()).map(|c| c.to_ascii_lowercase()).collect()
}

fn read_dir(dir: &Path, module: &str, messages: &mut Messages) {
    let mut entries: Vec<_> =
        std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())).flatten().map(|e| e.path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if path.is_dir() {
            let inner = if module.is_empty() { name.to_owned() } else { format!("{module}::{name}") };
            read_dir(&path, &inner, messages);
        } else if name == "mod.rs" {
            let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            read_module(&text, module, messages);
        }
    }
}

fn read_module(text: &str, module: &str, messages: &mut Messages) {
    let mut lines = text.lines();
    let mut markers = Vec::new();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("pub struct ").and_then(|rest| rest.strip_suffix(" {")) {
            let fields = read_message(&mut lines);
            messages.insert(format!("{module}::{}", fold(name)), Message { fields, markers: std::mem::take(&mut markers) });
        } else if let Some(doc) = line.strip_prefix("///") {
            markers.extend(marker(doc));
        } else if !line.starts_with('#') {
            markers.clear();
        }
    }
}

fn read_message<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Vec<PbField> {
    let mut fields = Vec::new();
    let mut field = PbField::default();
    while let Some(line) = lines.next() {
        if line == "}" {
            break;
        }
        let line = line.trim();
        if let Some(doc) = line.strip_prefix("///") {
            field.markers.extend(marker(doc));
        } else if line.starts_with("#[prost(") {
            let tag = line.split("tag = \"").nth(1).and_then(|rest| rest.split('"').next()).and_then(|tag| tag.parse().ok());
            field.tag = tag.unwrap_or_else(|| panic!("no tag: {line}"));
        } else if let Some(declaration) = line.strip_prefix("pub ") {
            let (name, first) = declaration.split_once(':').unwrap_or_else(|| panic!("{line}"));
            let mut type_text = first.trim().to_owned();
            while !type_text.ends_with(',') || type_text.matches('<').count() != type_text.matches('>').count() {
                type_text.push_str(lines.next().unwrap_or_else(|| panic!("unfinished: {line}")).trim());
            }
            field.folded = fold(name);
            field.type_name = type_text.trim_end_matches(['>', ',']).rsplit(['<', ':', ' ']).next().unwrap_or_default().to_owned();
            fields.push(std::mem::take(&mut field));
        }
    }
    fields
}

/// `+listType=map` to ("listType", "map").
fn marker(doc: &str) -> Option<(String, String)> {
    let text = doc.trim().strip_prefix('+')?;
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    Some((name.strip_prefix("k8s:").unwrap_or(name).to_owned(), value.to_owned()))
}
