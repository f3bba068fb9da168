//! Reads `schema/*.rows`: types of our own, and corrections to rows that the two crates cannot supply.
//!
//! A type is a line `struct NAME [group/version/plural/scope]: documentation`, then one line a field until an empty line:
//! `NAME SHAPE [key=value ...]: documentation`. A shape is a scalar's name, a type of the same file, or `list<..>`, `map<..>`.
//! A correction is `TYPE.FIELD key=value ...`; the field `*` is the type itself. `#` opens a comment line.

use crate::model::{Container, Element, FieldDef, KindDef, Model, Scope, Shape, TypeDef};
use crate::openapi::TYPE_META;
use std::path::Path;

/// Adds the types of `file` and, for a type line with `kind=plural`, its kind.
pub fn read_types(model: &mut Model, file: &Path) {
    let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let mut prefix = String::new();
    let mut current: Option<String> = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (head, doc) = line.split_once(": ").unwrap_or((line, ""));
        let words: Vec<&str> = head.split_whitespace().collect();
        match words.as_slice() {
            [] => current = None,
            ["prefix", value] => prefix = (*value).to_owned(),
            ["struct", name, rest @ ..] => {
                let full = format!("{prefix}{name}");
                let mut def = TypeDef { doc: doc.to_owned(), ..TypeDef::default() };
                if let Some(kind) = rest.first() {
                    add_kind(model, kind, name, &full);
                    for (json, doc) in TYPE_META {
                        let shape = Shape { element: Element::String, ..Shape::default() };
                        def.fields.push(FieldDef { json: json.into(), doc: doc.into(), shape, ..FieldDef::default() });
                    }
                }
                model.types.insert(full.clone(), def);
                current = Some(full);
            }
            [name, shape_text, rest @ ..] => {
                let owner = current.as_ref().unwrap_or_else(|| panic!("field outside a type: {line}"));
                let mut field =
                    FieldDef { json: (*name).to_owned(), doc: doc.to_owned(), shape: shape(&prefix, shape_text), ..FieldDef::default() };
                rest.iter().for_each(|word| set(&mut field, word));
                if let Some(def) = model.types.get_mut(owner) {
                    def.fields.push(field);
                    def.fields.sort_by(|a, b| a.json.cmp(&b.json));
                }
            }
            _ => panic!("{}: {line}", file.display()),
        }
    }
}

/// Applies the corrections of `file`. A correction that names nothing stops the build.
pub fn read_overrides(model: &mut Model, file: &Path) {
    let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let mut words = line.split_whitespace();
        let (type_name, field_name) = words.next().and_then(|w| w.rsplit_once('.')).unwrap_or_else(|| panic!("{line}"));
        let type_name = format!("io.k8s.{type_name}");
        let def = model.types.get_mut(&type_name).unwrap_or_else(|| panic!("no type for: {line}"));
        if field_name == "*" {
            def.atomic = words.next() == Some("element=atomic");
            continue;
        }
        let field = def.fields.iter_mut().find(|f| f.json == field_name).unwrap_or_else(|| panic!("no field for: {line}"));
        words.for_each(|word| set(field, word));
    }
}

/// Notes which zeros say nothing, by `WORD NAME...` of `file`: texts and numbers that are kept, flags that are dropped, types that have no pointers.
pub fn read_zeros(model: &mut Model, file: &Path) {
    let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let rows = || text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' '));
    let has = |list: &str, name: &str| rows().any(|(word, names)| word == list && names.split(' ').any(|known| known == name));
    let lists = ["kept-texts", "kept-numbers", "dropped-flags", "plain-types"];
    assert!(rows().all(|(word, _)| lists.contains(&word)), "{}: a row is one of {lists:?}", file.display());
    for (type_name, def) in &mut model.types {
        let plain = has("plain-types", type_name.rsplit('.').next().unwrap_or_default());
        for field in def.fields.iter_mut().filter(|field| field.shape.container == Container::Single && !field.required) {
            let name = &field.json;
            field.zero_is_absent = match field.shape.element {
                Element::Bool => has("dropped-flags", name),
                Element::Int32 | Element::Int64 | Element::Float => plain || !has("kept-numbers", name),
                Element::String | Element::Bytes | Element::Time | Element::MicroTime | Element::Duration | Element::Quantity => {
                    !has("kept-texts", name)
                }
                Element::IntOrString => !has("kept-texts", name) && !has("kept-numbers", name),
                _ => false,
            };
        }
    }
}

/// `Kind` words look like `group/version/plural/Cluster`.
fn add_kind(model: &mut Model, text: &str, kind: &str, type_name: &str) {
    let parts: Vec<&str> = text.split('/').collect();
    let [group, version, plural, scope] = parts.as_slice() else { panic!("kind {text}") };
    let scope = if *scope == "Cluster" { Scope::Cluster } else { Scope::Namespaced };
    model.kinds.push(KindDef {
        group: (*group).into(),
        version: (*version).into(),
        kind: kind.into(),
        plural: (*plural).into(),
        scope,
        type_name: type_name.into(),
    });
}

fn set(field: &mut FieldDef, word: &str) {
    let (key, value) = word.split_once('=').unwrap_or((word, ""));
    let list = || value.split(',').filter(|v| !v.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let tags = || list().iter().map(|v| v.parse::<u16>().unwrap_or_else(|_| panic!("{word}"))).collect::<Vec<_>>();
    match key {
        "required" => field.required = value != "no",
        "inline" => field.inline = true,
        "element" => field.element = value.to_owned(),
        "keys" => field.list_keys = list(),
        "merge" => field.merge_key = value.to_owned(),
        "strategy" => field.strategy = value.to_owned(),
        "default" => field.default = value.to_owned(),
        // `tag=2,5` is tag 5 inside the embedded message of tag 2.
        "tag" => {
            let mut tags = tags();
            field.tag = tags.pop().unwrap_or_else(|| panic!("{word}"));
            for (slot, tag) in field.outer.iter_mut().zip(tags) {
                *slot = u8::try_from(tag).unwrap_or_else(|_| panic!("{word}"));
            }
        }
        _ => panic!("unknown word {word}"),
    }
}

fn shape(prefix: &str, text: &str) -> Shape {
    for (open, container) in [("list<", Container::List), ("map<", Container::Map)] {
        if let Some(inner) = text.strip_prefix(open).and_then(|rest| rest.strip_suffix('>')) {
            return Shape { container, ..shape(prefix, inner) };
        }
    }
    let element = match text {
        "any" => Element::Any,
        "object" => Element::AnyObject,
        "bool" => Element::Bool,
        "int32" => Element::Int32,
        "int64" => Element::Int64,
        "string" => Element::String,
        "bytes" => Element::Bytes,
        "time" => Element::Time,
        _ => {
            let target = if text.starts_with("io.k8s.") { text.to_owned() } else { format!("{prefix}{text}") };
            return Shape { element: Element::Object, target, ..Shape::default() };
        }
    };
    Shape { element, ..Shape::default() }
}
