//! Lays the model out: integers in `table.rs`, text in two blobs. Strings are stored once.

use crate::model::{Container, Element, Model, Scope};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;

/// Writes `table.rs`, `strings.txt` and `docs.txt` into `dir`.
pub fn write(model: &Model, dir: &Path) {
    let index: HashMap<&str, usize> = model.types.keys().enumerate().map(|(i, name)| (name.as_str(), i)).collect();
    let mut strings = Blob::default();
    let mut docs = Blob::default();
    let (mut types, mut fields, mut kinds) = (String::new(), String::new(), String::new());
    let mut count = 0;
    for (name, def) in &model.types {
        let _ = writeln!(
            types,
            "TypeRow {{ name: {}, doc: {}, start: {count}, len: {}, atomic: {} }},",
            strings.add(name),
            docs.add(&def.doc),
            def.fields.len(),
            def.atomic
        );
        count += def.fields.len();
        for field in &def.fields {
            let target = if field.shape.target.is_empty() { u16::MAX as usize } else { index[field.shape.target.as_str()] };
            let _ = writeln!(
                fields,
                "FieldRow {{ name: {}, doc: {}, container: {}, element: {}, target: {target}, required: {}, inline: {}, zero_is_absent: {}, relation: {}, keys: {}, merge_key: {}, strategy: {}, default: {}, tag: {}, outer: {:?} }},",
                strings.add(&field.json),
                docs.add(&field.doc),
                container(field.shape.container),
                element(field.shape.element),
                field.required,
                field.inline,
                field.zero_is_absent,
                strings.add(&field.element),
                strings.add(&field.list_keys.join(",")),
                strings.add(&field.merge_key),
                strings.add(&field.strategy),
                strings.add(&field.default),
                field.tag,
                field.outer,
            );
        }
    }
    for kind in &model.kinds {
        let scope = match kind.scope {
            Scope::Cluster => "Cluster",
            Scope::Namespaced => "Namespaced",
            Scope::Subresource => "Subresource",
        };
        let _ = writeln!(
            kinds,
            "KindRow {{ group: {}, version: {}, kind: {}, plural: {}, scope: Scope::{scope}, type_index: {} }},",
            strings.add(&kind.group),
            strings.add(&kind.version),
            strings.add(&kind.kind),
            strings.add(&kind.plural),
            index[kind.type_name.as_str()],
        );
    }
    assert!(model.types.len() < usize::from(u16::MAX), "type index is 16 bits");
    let table = format!(
        "pub(crate) static TYPES: [TypeRow; {}] = [\n{types}];\npub(crate) static FIELDS: [FieldRow; {count}] = [\n{fields}];\npub(crate) static KINDS: [KindRow; {}] = [\n{kinds}];\n",
        model.types.len(),
        model.kinds.len()
    );
    let table = format!("{table}pub(crate) static FINGERPRINT: &str = \"{}\";\n", fingerprint(&[&table, &strings.text, &docs.text]));
    for (file, text) in [("table.rs", &table), ("strings.txt", &strings.text), ("docs.txt", &docs.text)] {
        std::fs::write(dir.join(file), text).unwrap_or_else(|e| panic!("{file}: {e}"));
    }
}

#[derive(Default)]
struct Blob {
    text: String,
    seen: HashMap<String, String>,
}

impl Blob {
    fn add(&mut self, text: &str) -> String {
        if let Some(known) = self.seen.get(text) {
            return known.clone();
        }
        let row = format!("Text({}, {})", self.text.len(), text.len());
        self.text.push_str(text);
        self.seen.insert(text.to_owned(), row.clone());
        row
    }
}

fn container(container: Container) -> &'static str {
    match container {
        Container::Single => "Container::Single",
        Container::List => "Container::List",
        Container::Map => "Container::Map",
        Container::MapOfList => "Container::MapOfList",
    }
}

fn element(element: Element) -> String {
    format!("Element::{element:?}")
}

/// Identifies the table's content, so that documents made of it can be told apart without making them.
fn fingerprint(parts: &[&str]) -> String {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let half = |seed: u8| {
        let mut hasher = DefaultHasher::new();
        seed.hash(&mut hasher);
        parts.hash(&mut hasher);
        hasher.finish()
    };
    format!("{:016x}{:016x}", half(1), half(2))
}
